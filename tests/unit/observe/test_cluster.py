"""What the API's objects mean: every check over plain JSON, and the whole over the fake."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from kops_py.connect.base import JsonObject
from kops_py.model.cordon import CORDONED, cordon_owner
from kops_py.model.errors import KubeError
from kops_py.observe import cluster
from kops_py.observe.cluster import node_facts, observe_cluster
from kops_py.observe.status import observe_status
from tests.fakes.kube import FakeKubeApi, node, pod

STATIC = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler")


def config_map(name: str, data: dict[str, str], annotations: dict[str, str] | None = None) -> JsonObject:
    metadata = {"name": name, "namespace": "kube-system", "annotations": annotations or {}}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}


def token(identity: str, description: str) -> JsonObject:
    texts = {"token-id": identity, "token-secret": "verysecret", "description": description}
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "bootstrap.kubernetes.io/token",
        "metadata": {"name": f"bootstrap-token-{identity}", "namespace": "kube-system"},
        "data": {k: base64.b64encode(v.encode()).decode() for k, v in texts.items()},
    }


def certificates(labels: dict[str, str] | None = None) -> JsonObject:
    metadata = {"name": "kubeadm-certs", "namespace": "kube-system", "labels": labels or {}}
    return {"apiVersion": "v1", "kind": "Secret", "type": "Opaque", "metadata": metadata, "data": {}}


def deployment(desired: int | None = 2, available: int = 2, **status: Any) -> JsonObject:
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "coredns", "namespace": "kube-system", "generation": 1},
        "spec": {} if desired is None else {"replicas": desired},
        "status": {"availableReplicas": available, "observedGeneration": 1, **status},
    }


def healthy_cluster() -> list[JsonObject]:
    configuration = "clusterName: prod\ncontrolPlaneEndpoint: api:6443\netcd:\n  local:\n    dataDir: /var/lib/etcd\n"
    proxy = {
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": {"name": "kube-proxy", "namespace": "kube-system"},
    }
    return [
        node("cp1", control_plane=True, ip="10.0.0.1", pod_cidr="10.244.0.0/24"),
        node("w1", ip="10.0.0.2"),
        config_map("kubeadm-config", {"ClusterConfiguration": configuration}),
        config_map("kops-py", {}, {"kops-py/network-digest": "abc"}),
        proxy,
        deployment(),
        *(pod(f"{name}-cp1", node="cp1", mirror=True) for name in STATIC),
        *(pod(f"kube-proxy-{n}", node=n, labels={"k8s-app": "kube-proxy"}) for n in ("cp1", "w1")),
        pod("coredns-1", node="w1", labels={"k8s-app": "kube-dns"}),
    ]


def test_a_healthy_cluster() -> None:
    api = FakeKubeApi(healthy_cluster(), version="v1.31.2+vendor.1")
    facts = observe_cluster(api, expected_nodes=["cp1", "w1"])
    assert facts.unhealthy == ()
    assert str(facts.server_version) == "v1.31.2"
    assert (facts.has_kubeadm_config, facts.has_kube_proxy, facts.has_dns) == (True, True, True)
    assert (facts.cluster_name, facts.control_plane_endpoint, facts.network_digest) == ("prod", "api:6443", "abc")
    assert facts.join_secrets == ()
    first = facts.nodes["cp1"]
    assert (first.internal_ip, first.pod_cidr, first.ready, first.reason) == (
        "10.0.0.1",
        "10.244.0.0/24",
        True,
        "",
    )
    assert first.taints == {"node-role.kubernetes.io/control-plane:NoSchedule"}
    assert api.writes() == []
    api.assert_clean()


def test_an_empty_cluster_has_nothing_of_kubeadm() -> None:
    facts = observe_cluster(FakeKubeApi(), expected_nodes=["cp1"])
    assert (facts.has_kubeadm_config, facts.has_kube_proxy, facts.has_dns) == (False, False, False)
    assert facts.unhealthy == (
        "node cp1 has not joined the cluster",
        "DNS: there is no Deployment kube-system/coredns",
    )


@pytest.mark.parametrize("name", STATIC)
def test_every_static_pod_must_have_appeared_and_be_ready(name: str) -> None:
    api = FakeKubeApi(healthy_cluster())
    path = f"/api/v1/namespaces/kube-system/pods/{name}-cp1"
    api.add(pod(f"{name}-cp1", node="cp1", mirror=True, ready=False))
    expected = (f"{name} on cp1: its pod is Running, not Ready",)
    assert observe_cluster(api, expected_nodes=[]).unhealthy == expected
    api.remove(path)
    expected = (f"{name} on cp1: its mirror pod has not appeared in the API",)
    assert observe_cluster(api, expected_nodes=[]).unhealthy == expected
    api.add(pod(f"{name}-cp1", node="cp1"))
    assert observe_cluster(api, expected_nodes=[]).unhealthy == expected, "a plain pod of that name is no mirror"


def test_a_control_plane_with_external_etcd_needs_no_etcd_pod() -> None:
    api = FakeKubeApi(healthy_cluster())
    api.remove("/api/v1/namespaces/kube-system/pods/etcd-cp1")
    text = "etcd: {external: {endpoints: ['https://10.0.0.9:2379']}}"
    api.add(config_map("kubeadm-config", {"ClusterConfiguration": text}))
    assert observe_cluster(api, expected_nodes=[]).unhealthy == ()
    status = observe_status(api)
    assert (status.external_etcd, status.etcd_pods) == (True, ())


def test_a_passed_startup_probe_is_readiness_before_the_kubelet_has_worked_it_out() -> None:
    """The kubelet of 1.20 sets started at once and Ready up to 90 s later."""
    lagging = pod("etcd-cp1", node="cp1", mirror=True, ready=False)
    lagging["spec"]["containers"] = [{"name": "main", "startupProbe": {}}]
    state = lagging["status"]["containerStatuses"][0]
    state["started"] = True
    assert cluster.mirror_pod_problem(lagging) == ""
    state["started"] = False
    assert cluster.mirror_pod_problem(lagging) == "its pod is Running, not Ready"
    state["started"] = True
    lagging["spec"]["containers"][0]["readinessProbe"] = {}
    assert cluster.mirror_pod_problem(lagging) == "its pod is Running, not Ready"
    del lagging["spec"]["containers"][0]["readinessProbe"]
    state["state"] = {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off"}}
    assert cluster.mirror_pod_problem(lagging) != ""
    state["state"] = {"running": {}}
    lagging["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    assert cluster.mirror_pod_problem(lagging) == "its pod is being deleted"


def test_one_dns_replica_is_enough_while_a_node_is_down() -> None:
    api = FakeKubeApi(healthy_cluster())
    api.add(deployment(desired=2, available=1))
    assert observe_cluster(api, expected_nodes=[]).unhealthy == ("DNS: 1 of 2 replicas available",)
    assert observe_cluster(api, expected_nodes=[], absent=["gone"]).unhealthy == ()
    api.add(deployment(desired=2, available=0))
    assert observe_cluster(api, expected_nodes=[], absent=["gone"]).unhealthy == ("DNS: 0 of 2 replicas available",)


def test_unready_nodes_say_why() -> None:
    api = FakeKubeApi(healthy_cluster())
    api.add(node("w1", ready=False, ip="10.0.0.2"))
    unregistered = node("w9")
    unregistered["status"] = {}
    api.add(unregistered)
    api.add(pod("kube-proxy-w9", node="w9", labels={"k8s-app": "kube-proxy"}))
    assert observe_cluster(api, expected_nodes=[]).unhealthy == (
        "node w1 is not Ready: KubeletNotReady: PLEG is not healthy",
        "node w9 is not Ready: kubelet has not reported yet",
    )


@pytest.mark.parametrize(
    "message",
    [
        "runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady message:docker: cni config",
        "container runtime network not ready: NetworkReady=false message:Network plugin returns error: cni plugin",
    ],
)
def test_without_a_network_of_ours_only_the_network_may_be_missing(message: str) -> None:
    bare = node("w1", ready=False)
    bare["status"]["conditions"][0]["message"] = message
    dead = node("w2", ready=False)
    api = FakeKubeApi([*healthy_cluster(), bare, dead, deployment(available=0)])
    api.add(pod("kube-proxy-w2", node="w2", labels={"k8s-app": "kube-proxy"}))
    assert observe_cluster(api, expected_nodes=[], network_expected=False).unhealthy == (
        "node w2 is not Ready: KubeletNotReady: PLEG is not healthy",
    )
    assert len(observe_cluster(api, expected_nodes=[]).unhealthy) == 3


def test_nothing_is_said_of_nodes_known_to_be_down() -> None:
    api = FakeKubeApi(healthy_cluster())
    api.add(node("cp1", control_plane=True, ready=False))
    for name in STATIC:
        api.remove(f"/api/v1/namespaces/kube-system/pods/{name}-cp1")
    api.add(pod("agent-1", node="cp1", waiting=("CrashLoopBackOff", "back-off")))
    assert len(observe_cluster(api, expected_nodes=["cp1", "w1"]).unhealthy) == 6
    assert observe_cluster(api, expected_nodes=["cp1", "w1", "w7"], absent=["cp1", "w7"]).unhealthy == ()


def test_kube_proxy_on_every_node_unless_there_is_none() -> None:
    api = FakeKubeApi(healthy_cluster())
    api.remove("/api/v1/namespaces/kube-system/pods/kube-proxy-w1")
    api.add(
        pod(
            "kube-proxy-cp1",
            node="cp1",
            labels={"k8s-app": "kube-proxy"},
            waiting=("CrashLoopBackOff", "back-off 10s restarting failed container"),
        )
    )
    facts = observe_cluster(api, expected_nodes=[])
    assert facts.unhealthy == (
        "kube-proxy on cp1: container main is in CrashLoopBackOff: back-off 10s restarting failed container",
        "kube-proxy on w1: it has no pod yet",
    )
    api.remove("/apis/apps/v1/namespaces/kube-system/daemonsets/kube-proxy")
    facts = observe_cluster(api, expected_nodes=[])
    assert (facts.has_kube_proxy, facts.unhealthy) == (False, ())


def test_an_old_kube_proxy_pod_beside_a_ready_one_does_no_harm() -> None:
    old = pod("kube-proxy-old", node="w1", labels={"k8s-app": "kube-proxy"})
    old["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    assert observe_cluster(FakeKubeApi([*healthy_cluster(), old]), expected_nodes=[]).unhealthy == ()


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        (deployment(2, 2), ()),
        (deployment(None, 1), ()),
        (deployment(2, 1), ("DNS: 1 of 2 replicas available",)),
        (deployment(None, 0), ("DNS: 0 of 1 replicas available",)),
        (deployment(0, 0), ("DNS: Deployment kube-system/coredns is scaled to 0",)),
        (
            deployment(2, 2, observedGeneration=0),
            ("DNS: Deployment kube-system/coredns has changed and is not rolled out yet",),
        ),
        (None, ("DNS: there is no Deployment kube-system/coredns",)),
    ],
)
def test_dns_needs_all_replicas(item: JsonObject | None, expected: tuple[str, ...]) -> None:
    assert cluster.dns_problems(item) == expected


def test_dns_that_no_controller_has_looked_at_may_be_enough() -> None:
    item = deployment(2, 1, observedGeneration=0)
    assert cluster.dns_problems(item, one_is_enough=True, may_be_unseen=True) == ()
    item = deployment(2, 0, observedGeneration=0)
    assert cluster.dns_problems(item, one_is_enough=True, may_be_unseen=True) == ("DNS: 0 of 2 replicas available",)


def test_dns_names_its_cause() -> None:
    waiting = pod("coredns-2", labels={"k8s-app": "kube-dns"}, waiting=("ImagePullBackOff", "no such image"))
    found = cluster.dns_problems(deployment(2, 1), [waiting])
    assert found == ("DNS: 1 of 2 replicas available: container main is in ImagePullBackOff: no such image",)
    unscheduled = pod("coredns-2", labels={"k8s-app": "kube-dns"}, ready=False)
    unscheduled["status"]["conditions"] = [
        {
            "type": "PodScheduled",
            "status": "False",
            "reason": "Unschedulable",
            "message": "0/1 nodes are available",
        }
    ]
    assert cluster.dns_problems(deployment(2, 1), [unscheduled])[0].endswith(
        "its pod is not scheduled: Unschedulable: 0/1 nodes are available"
    )


def test_stuck_system_pods_are_named_with_their_message() -> None:
    init = pod("cni-1")
    init["status"]["initContainerStatuses"] = [
        {"name": "install", "state": {"waiting": {"reason": "ErrImagePull", "message": "not found"}}}
    ]
    starting = pod("x", waiting=("ContainerCreating", ""))
    found = cluster.stuck_pods([init, starting, pod("ok")])
    assert found == ("pod kube-system/cni-1: container install is in ErrImagePull: not found",)


def test_only_join_secrets_of_ours_count_and_their_values_are_not_kept() -> None:
    foreign = token("foreig", "created by hand")
    api = FakeKubeApi([foreign, certificates()])
    assert observe_cluster(api, expected_nodes=[]).join_secrets == ()
    api.add(token("abcdef", "kops-py join token"))
    facts = observe_cluster(api, expected_nodes=[])
    assert facts.join_secrets == ("bootstrap-token-abcdef", "kubeadm-certs")
    assert "verysecret" not in repr(facts)
    assert base64.b64encode(b"verysecret").decode() not in repr(facts)
    api.remove("/api/v1/namespaces/kube-system/secrets/bootstrap-token-abcdef")
    api.add(certificates({"app.kubernetes.io/managed-by": "kops-py"}))
    assert observe_cluster(api, expected_nodes=[]).join_secrets == ("kubeadm-certs",)
    assert observe_status(api).bootstrap_tokens == 1


@pytest.mark.parametrize("text", ["", "garbage", "1.31"])
def test_a_server_without_a_version_is_an_error(text: str) -> None:
    with pytest.raises(KubeError, match="names no version"):
        cluster.server_version({"gitVersion": text})


def test_a_broken_stored_configuration_is_an_error_with_a_way_out() -> None:
    api = FakeKubeApi([config_map("kubeadm-config", {"ClusterConfiguration": "a: ["})])
    with pytest.raises(KubeError) as caught:
        observe_cluster(api, expected_nodes=[])
    assert "kubectl -n kube-system edit configmap kubeadm-config" in caught.value.hint


def test_status_tells_roles_cordons_and_etcd() -> None:
    api = FakeKubeApi(healthy_cluster())
    ours = node("w1", ip="10.0.0.2")
    ours["spec"]["unschedulable"] = True
    ours["metadata"]["annotations"] = {CORDONED: '{"by": "ann@desk", "run": "run-1"}'}
    foreign = node("w2", ip="10.0.0.3")
    foreign["spec"]["unschedulable"] = True
    legacy = node("cp2")
    legacy["metadata"]["labels"] = {"node-role.kubernetes.io/master": ""}
    for item in (ours, foreign, legacy):
        api.add(item)
    api.add(pod("etcd-cp1", node="cp1", mirror=True, ready=False))
    status = observe_status(api)
    assert [(n.name, n.roles, n.cordoned, n.cordoned_by) for n in status.nodes] == [
        ("cp1", ("control-plane",), False, ""),
        ("cp2", ("master",), False, ""),
        ("w1", ("worker",), True, "kops-py (ann@desk, run run-1)"),
        ("w2", ("worker",), True, "somebody else"),
    ]
    assert [(e.node, e.healthy, e.problem) for e in status.etcd_pods] == [
        ("cp1", False, "its pod is Running, not Ready"),
        ("cp2", False, "its mirror pod has not appeared in the API"),
    ]
    shown = json.loads(json.dumps(status.to_json()))
    assert shown["nodes"][2]["cordoned_by"] == "kops-py (ann@desk, run run-1)"
    assert shown["cluster_name"] == "prod"
    api.assert_clean()


def test_a_leftover_annotation_is_no_cordon() -> None:
    item = node("w1")
    item["metadata"]["annotations"] = {CORDONED: '{"by": "ann@desk", "run": "run-1"}'}
    assert cordon_owner(node_facts(item)) == ""


def test_a_ready_node_that_is_still_tainted_takes_no_pods_yet() -> None:
    tainted = node("w1", ip="10.0.0.2")
    tainted["spec"] = {"taints": [{"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"}]}
    expected = ("node w1 is Ready, but its taint node.kubernetes.io/not-ready is not yet gone",)
    assert cluster.unready_nodes([node_facts(tainted)]) == expected
    tainted["spec"] = {"taints": [{"key": "gpu", "effect": "NoSchedule"}]}
    assert cluster.unready_nodes([node_facts(tainted)]) == ()
