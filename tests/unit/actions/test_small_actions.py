"""Labels, networks, health, revocation, preparation: what each does, in which order, and what it says when it fails."""

from __future__ import annotations

import base64
import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from kops_py.actions import health, labels, network, prepare
from kops_py.actions.join_secrets import mark_uploaded_certificates, revoke
from kops_py.actions.perform import ClusterPerformer
from kops_py.connect.base import AnsibleHostResult, AnsibleResult, AnsibleStatus, Cancel, OnTask
from kops_py.model.actions import (
    ApplyNetwork,
    ConfigureBridge,
    ConfigureLoadBalancer,
    LabelNode,
    PrepareHost,
    RevokeJoinSecrets,
    WaitHealthy,
)
from kops_py.model.errors import (
    AnsibleError,
    CancelledError,
    ConfigError,
    DeadlineError,
    KopsError,
    KubeError,
    UnreachableError,
)
from kops_py.model.plan import Action
from kops_py.model.spec import HostSpec
from kops_py.tools import bridge
from tests.fakes.kube import node, pod
from tests.fakes.ssh import Call, Reply
from tests.unit.actions.stage import Stage, stage

NODE = "/api/v1/nodes/n1"
SECRETS = "/api/v1/namespaces/kube-system/secrets"
CONFLICT = KubeError("the Kubernetes API answered 409 Conflict", where=NODE, status=409, reason="Conflict")


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(labels, "_ATTEMPTS_S", 0.01)
    monkeypatch.setattr(network, "_POLL_S", 0.01)
    monkeypatch.setattr(health, "_POLL_S", 0.01)


# labels

LABEL = LabelNode("n1", MappingProxyType({"disk": "ssd"}), ("gpu=yes:NoSchedule", "old:NoExecute"))


def labelled() -> Stage:
    made = stage(kube=[node("n1")])
    made.kube.change(NODE, lambda n: n["metadata"]["labels"].update({"theirs": "stays"}))
    others = [{"key": "gpu", "value": "no", "effect": "NoSchedule"}, {"key": "theirs", "effect": "NoSchedule"}]
    made.kube.change(NODE, lambda n: n["spec"].update({"taints": others}))
    return made


def test_labels_and_taints_are_merged_with_what_others_set() -> None:
    made = labelled()
    labels.label_node(made.deps, LABEL, made.ctx(LABEL))
    found = made.kube.object(NODE)
    assert found is not None
    assert found["metadata"]["labels"] == {"theirs": "stays", "disk": "ssd"}
    assert found["spec"]["taints"] == [
        {"key": "gpu", "value": "yes", "effect": "NoSchedule"},
        {"key": "theirs", "effect": "NoSchedule"},
        {"key": "old", "effect": "NoExecute"},
    ]
    made.kube.assert_clean()


def test_a_change_by_somebody_else_in_between_is_not_overwritten() -> None:
    made = labelled()
    theirs = {"key": "late", "effect": "NoSchedule"}
    made.kube.before("patch", "/nodes/n1", lambda: made.kube.change(NODE, lambda n: n["spec"]["taints"].append(theirs)))
    labels.label_node(made.deps, LABEL, made.ctx(LABEL))
    found = made.kube.object(NODE)
    assert found is not None
    assert theirs in found["spec"]["taints"]
    assert {"key": "old", "effect": "NoExecute"} in found["spec"]["taints"]
    assert made.waits == ["somebody else changed the node at the same time"]


def test_other_answers_are_errors_and_endless_conflicts_end() -> None:
    made = labelled()
    made.kube.fail("patch", "/nodes/n1", KubeError("forbidden", status=403))
    with pytest.raises(KubeError, match="forbidden"):
        labels.label_node(made.deps, LABEL, made.ctx(LABEL))
    made.kube.fail("patch", "/nodes/n1", CONFLICT, times=1000)
    with pytest.raises(DeadlineError) as caught:
        labels.label_node(made.deps, LABEL, made.ctx(LABEL, timeout_s=0.05))
    assert "another change" in caught.value.why


# network

MANIFEST = """\
apiVersion: v1
kind: ServiceAccount
metadata: {name: cni, namespace: kube-system}
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: cni, namespace: kube-system}
"""


def test_every_object_is_applied_and_the_record_comes_last() -> None:
    made = stage()
    made.manifest = MANIFEST
    action = ApplyNetwork("cni.yaml", "digest-1")
    network.apply_network(made.deps, action, made.ctx(action, ""))
    assert [path.rpartition("kube-system/")[2] for _, path in made.kube.writes()] == [
        "serviceaccounts/cni",
        "daemonsets/cni",
        "configmaps/kops-py",
    ]
    record = made.kube.object("/api/v1/namespaces/kube-system/configmaps/kops-py")
    assert record is not None
    assert record["metadata"]["annotations"] == {"kops-py/network-digest": "digest-1"}
    assert made.progress == ["applied ServiceAccount kube-system/cni", "applied DaemonSet kube-system/cni"]


def test_without_success_there_is_no_record() -> None:
    made = stage()
    made.manifest = MANIFEST
    made.kube.fail("apply", "daemonsets", KubeError("refused", status=422))
    action = ApplyNetwork("cni.yaml", "digest-1")
    with pytest.raises(KubeError, match="refused"):
        network.apply_network(made.deps, action, made.ctx(action, ""))
    assert made.kube.object("/api/v1/namespaces/kube-system/configmaps/kops-py") is None


def test_a_manifest_that_is_none_names_its_source() -> None:
    made = stage()
    made.manifest = "a: [\n"
    action = ApplyNetwork("cni.yaml", "digest-1")
    with pytest.raises(ConfigError) as caught:
        network.apply_network(made.deps, action, made.ctx(action, ""))
    assert caught.value.where.startswith("cni.yaml: document 1")


def bridged() -> Stage:
    made = stage(1, 1, [node("n1", ip="10.9.0.1", pod_cidr="10.244.0.0/24"), node("n2", ip="10.9.0.2")])
    made.hosts["n1"].on(bridge.uplink_argv("10.9.0.1"), json.dumps([{"mtu": 1450}]))
    return made


def test_the_bridge_is_written_in_order_and_the_list_of_peers_gets_its_name_last() -> None:
    made = bridged()
    host, action = made.hosts["n1"], ConfigureBridge("n1")
    cidr = {"podCIDR": "10.244.1.0/24"}
    made.kube.before("items", "/nodes", lambda: None)  # at the first look the second node has no pod network yet
    made.kube.before("items", "/nodes", lambda: made.kube.change("/api/v1/nodes/n2", lambda n: n["spec"].update(cidr)))
    scripts: list[str] = []

    def apply(call: Call) -> Reply:
        assert call.sudo
        assert bridge.PEERS_PATH not in host.files, "its name says that the node is done"
        scripts.append(call.argv[2])
        return Reply()

    host.on(lambda argv: argv[:2] == ("sh", "-c"), apply)
    network.configure_bridge(made.deps, action, made.ctx(action))
    assert list(host.files) == [bridge.SCRIPT_PATH, bridge.UNIT_PATH, bridge.CNI_PATH, f"{bridge.PEERS_PATH}.next"]
    assert host.files[f"{bridge.PEERS_PATH}.next"].decode().splitlines() == [
        "n1=10.244.0.0/24@10.9.0.1",
        "n2=10.244.1.0/24@10.9.0.2",
    ]
    assert scripts == [f"mv -f {bridge.PEERS_PATH}.next {bridge.PEERS_PATH}\n{bridge.apply_script()}"]
    assert "1450" in host.files[bridge.CNI_PATH].decode()
    assert host.modes[bridge.SCRIPT_PATH] == 0o700
    assert made.waits == ["the pod network of n2 is not assigned yet"]


def test_a_pod_network_that_never_comes_is_named() -> None:
    made, action = bridged(), ConfigureBridge("n1")
    with pytest.raises(DeadlineError) as caught:
        network.configure_bridge(made.deps, action, made.ctx(action, timeout_s=0.05))
    assert caught.value.why == "the pod network of n2 is not assigned yet"
    assert made.hosts["n1"].files == {}


def test_a_host_that_is_no_node_is_an_error() -> None:
    made = stage(1, 1, [node("n2", ip="10.9.0.2", pod_cidr="10.244.1.0/24")])
    action = ConfigureBridge("n1")
    with pytest.raises(KubeError) as caught:
        network.configure_bridge(made.deps, action, made.ctx(action))
    assert (caught.value.where, caught.value.what) == ("n1", "is not a node of the cluster")


# health


def healthy_cluster(made: Stage) -> None:
    api = made.kube
    config = {"ClusterConfiguration": "etcd: {external: {endpoints: [https://e:2379]}}\n"}
    meta = {"namespace": "kube-system"}
    api.add({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "kubeadm-config", **meta}, "data": config})
    api.add({"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": "kube-proxy", **meta}})
    dns = {"spec": {"replicas": 1}, "status": {"availableReplicas": 1}}
    api.add({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "coredns", **meta}, **dns})
    for component in ("kube-apiserver", "kube-controller-manager", "kube-scheduler"):
        api.add(pod(f"{component}-n1", node="n1", mirror=True))
    for name in ("n1", "n2"):
        api.add(node(name, control_plane=name == "n1"))
        api.add(pod(f"kube-proxy-{name}", node=name, labels={"k8s-app": "kube-proxy"}))


def test_health_is_waited_for_and_what_for_is_told() -> None:
    made, action = stage(1, 1), WaitHealthy(("n1", "n2"))
    healthy_cluster(made)
    made.kube.add(node("n2", ready=False))
    made.kube.remove("/api/v1/namespaces/kube-system/pods/kube-proxy-n2")

    def mend() -> None:
        made.kube.add(node("n2"))
        made.kube.add(pod("kube-proxy-n2", node="n2", labels={"k8s-app": "kube-proxy"}))

    made.kube.before("get", "/version", lambda: None)
    made.kube.before("get", "/version", mend)
    health.wait_healthy(made.deps, action, made.ctx(action, ""))
    assert made.waits == ["node n2 is not Ready: KubeletNotReady: PLEG is not healthy (and 1 more)"]
    made.kube.assert_clean()


def test_an_absent_member_is_not_waited_for() -> None:
    made = stage(1, 1)
    healthy_cluster(made)
    made.kube.add(node("n2", ready=False))
    action = WaitHealthy(("n1",), absent=("n2",))
    health.wait_healthy(made.deps, action, made.ctx(action, ""))
    assert made.waits == []


def test_the_deadline_names_everything_that_is_missing() -> None:
    made, action = stage(1, 1), WaitHealthy(("n1", "n2"))
    healthy_cluster(made)
    made.kube.add(node("n2", ready=False))
    made.kube.remove("/api/v1/namespaces/kube-system/pods/kube-scheduler-n1")
    with pytest.raises(KubeError) as caught:
        health.wait_healthy(made.deps, action, made.ctx(action, "", timeout_s=0.05))
    assert "node n2 is not Ready" in caught.value.why
    assert "kube-scheduler on n1" in caught.value.why
    assert "kops-py status" in caught.value.hint


def test_an_api_that_is_away_is_waited_for_too() -> None:
    made, action = stage(1, 0), WaitHealthy(("n1",))
    made.access.problem = KubeError("no answer from 10.9.0.1:6443")
    with pytest.raises(KubeError) as caught:
        health.wait_healthy(made.deps, action, made.ctx(action, "", timeout_s=0.05))
    assert caught.value.why == "no answer from 10.9.0.1:6443"
    made.cancel.set("SIGINT")
    with pytest.raises(CancelledError):
        health.wait_healthy(made.deps, action, made.ctx(action, ""))


# revocation


def token(name: str, description: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "bootstrap.kubernetes.io/token",
        "metadata": {"name": f"bootstrap-token-{name}", "namespace": "kube-system"},
        "data": {"description": base64.b64encode(description.encode()).decode()},
    }


def with_secrets() -> Stage:
    made = stage()
    made.kube.add(token("ours00", "kops-py join token"))
    made.kube.add(token("theirs", "of an operator"))
    made.kube.add(token("owner0", "Proxy for managing TTL for the kubeadm-certs secret"))
    certificates = token("", "")
    certificates["type"] = "Opaque"
    certificates["metadata"] = {
        "name": "kubeadm-certs",
        "namespace": "kube-system",
        "labels": {"app.kubernetes.io/managed-by": "kops-py"},
        "ownerReferences": [{"kind": "Secret", "name": "bootstrap-token-owner0"}],
    }
    made.kube.add(certificates)
    return made


def test_our_secrets_go_with_the_token_that_owns_the_certificates_and_others_stay() -> None:
    made = with_secrets()
    made.deps.join_secrets.remember(token="abcdef.0123456789abcdef", certificate_key="k" * 64)
    performer, ctx = ClusterPerformer(made.deps), made.ctx(RevokeJoinSecrets(), "")
    assert performer.check(ctx) is None
    performer.apply(ctx)
    performer.verify(ctx)
    assert [s["metadata"]["name"] for s in made.kube.items(SECRETS)] == ["bootstrap-token-theirs"]
    assert made.deps.join_secrets.certificate_key() == ""
    assert performer.check(ctx) == "none is left"
    made.kube.assert_clean()


def test_secrets_that_stay_fail_the_proof_by_name() -> None:
    made = with_secrets()
    with pytest.raises(KubeError) as caught:
        ClusterPerformer(made.deps).verify(made.ctx(RevokeJoinSecrets(), ""))
    assert caught.value.why == "bootstrap-token-ours00, kubeadm-certs"


def test_nothing_is_marked_where_no_certificates_were_uploaded() -> None:
    made = stage()
    mark_uploaded_certificates(made.kube)
    assert made.kube.writes() == []


def test_what_is_gone_already_is_no_error_and_what_is_refused_is() -> None:
    made = stage()
    revoke(made.kube, ("bootstrap-token-gone00", "kubeadm-certs"))
    made.kube.fail("delete", "gone00", KubeError("forbidden", status=403))
    with pytest.raises(KubeError, match="forbidden"):
        revoke(made.kube, ("bootstrap-token-gone00",))


# preparation


class Play:
    """An Ansible that answers with prepared results and keeps what it was asked."""

    def __init__(self, results: Mapping[str, AnsibleHostResult], problem: KopsError | None = None) -> None:
        self.results, self.problem = results, problem
        self.asked: dict[str, Any] = {}

    def run(
        self,
        playbook: str,
        hosts: Sequence[HostSpec],
        variables: Mapping[str, Any],
        *,
        timeout_s: float,
        host_variables: Mapping[str, Mapping[str, Any]] | None = None,
        on_task: OnTask | None = None,
        cancel: Cancel | None = None,
        check_mode: bool = False,
    ) -> AnsibleResult:
        self.asked = {"playbook": playbook, "hosts": [h.name for h in hosts], "variables": variables}
        self.asked |= {"host_variables": host_variables, "cancel": cancel, "timeout_s": timeout_s}
        assert on_task is not None
        on_task("n2", "install containerd")
        on_task("stranger", "install containerd")
        return AnsibleResult(self.results, Path("/runs/1/ansible.log"), 1.0, self.problem)


def prepared(made: Stage, play: Play, action: type[Action] = PrepareHost) -> Mapping[str, KopsError | None]:
    deps = dataclasses.replace(made.deps, ansible=play)
    steps: list[Action] = [
        PrepareHost(n, "v1.31.2", "d") if action is PrepareHost else ConfigureLoadBalancer(n, "d") for n in made.hosts
    ]
    return prepare.prepare_hosts(deps, [made.ctx(a, n, 50) for a, n in zip(steps, made.hosts, strict=True)])


def test_one_play_prepares_all_hosts_and_each_gets_its_own_error() -> None:
    made = stage(1, 3)
    play = Play(
        {
            "n1": AnsibleHostResult("n1", AnsibleStatus.OK),
            "n2": AnsibleHostResult("n2", AnsibleStatus.FAILED, task="install containerd", message="no package"),
            "n3": AnsibleHostResult("n3", AnsibleStatus.UNREACHABLE, message="Connection reset"),
        }
    )
    errors = prepared(made, play)
    assert play.asked["playbook"] == "prepare"
    assert play.asked["hosts"] == ["n1", "n2", "n3", "n4"]
    assert play.asked["variables"] == {"shared": 1}
    assert play.asked["host_variables"] == {n: {"own": n} for n in made.hosts}
    assert play.asked["cancel"] is made.cancel
    assert 0 < play.asked["timeout_s"] <= 50
    assert made.progress == ["install containerd"]
    assert errors["test/n1"] is None
    failed, lost, missing = (errors[f"test/n{n}"] for n in (2, 3, 4))
    assert isinstance(failed, AnsibleError)
    assert (failed.where, failed.what, failed.why) == ("n2", "task 'install containerd' failed", "no package")
    assert isinstance(lost, UnreachableError)
    assert (lost.where, lost.why) == ("n3", "Connection reset")
    assert isinstance(missing, AnsibleError)
    assert missing.where == "n4"
    assert all("/runs/1/ansible.log" in e.hint and "same command" in e.hint for e in (failed, lost, missing))


def test_a_play_that_could_not_run_is_the_error_of_every_host() -> None:
    made, problem = stage(1, 1), AnsibleError("no such playbook")
    assert set(prepared(made, Play({}, problem)).values()) == {problem}


def test_load_balancers_have_their_own_play_and_variables() -> None:
    made = stage(1, 1)
    play = Play({n: AnsibleHostResult(n, AnsibleStatus.OK) for n in made.hosts})
    assert set(prepared(made, play, ConfigureLoadBalancer).values()) == {None}
    assert play.asked["playbook"] == "load_balancer"
    assert play.asked["variables"] == {"balancer": 1}
    assert play.asked["host_variables"]["n2"] == {"balancer_own": "n2"}


# the table


def test_a_single_preparation_raises_its_error() -> None:
    made = stage()
    deps = dataclasses.replace(made.deps, ansible=Play({}, AnsibleError("no Ansible here")))
    with pytest.raises(AnsibleError, match="no Ansible here"):
        ClusterPerformer(deps).apply(made.ctx(PrepareHost("n1", "v1.31.2", "d")))


def test_an_action_without_performer_is_a_bug() -> None:
    made = stage()
    with pytest.raises(TypeError, match="Action"):
        ClusterPerformer(made.deps).apply(made.ctx(Action()))
