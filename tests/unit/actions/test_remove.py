"""What takes a node out: the order on the host, what is refused, and every step again after a kill."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Sequence

import pytest

from kops_py.actions import remove
from kops_py.actions.kubeadm import RESET_JOB
from kops_py.actions.upgrade import PACKAGES_JOB
from kops_py.model.actions import INIT_JOB, JOIN_JOB, UPGRADE_JOB, DeleteNode, ForgetEtcdMember, ResetNode
from kops_py.model.errors import CommandFailedError, EtcdError, KubeError
from kops_py.model.facts import HostFacts
from kops_py.model.membership import REMOVED_PATH, RemovalMark, quorum_problem, read_removal_mark
from kops_py.model.status import EtcdMember
from kops_py.tools import etcdctl, leaving
from tests.fakes.kube import node
from tests.fakes.ssh import Call, FakeHost, Reply
from tests.unit.actions.stage import Stage, stage

CONFIG = "/api/v1/namespaces/kube-system/configmaps/kubeadm-config"


def on_host(found: Stage, name: str, *, left: str = "", outcome: str = "ended 0") -> None:
    found.jobs[name].outcomes[RESET_JOB] = [outcome]
    host = found.hosts[name]
    host.on(("sh", "-c", leaving.clear_script()), Reply(sudo=True))
    host.on(("sh", "-c", leaving.left_script()), Reply(left, sudo=True))


def mark_of(host: FakeHost) -> RemovalMark:
    mark = read_removal_mark(host.files[REMOVED_PATH].decode())
    assert mark is not None
    return mark


def reset(found: Stage, name: str) -> None:
    action = ResetNode(name, "node remove")
    remove.reset_node(found.deps, action, found.ctx(action, name))


def test_a_reset_marks_cleans_and_is_proven() -> None:
    found = stage(1, 1)
    on_host(found, "n2")
    reset(found, "n2")
    ((job, command),) = found.jobs["n2"].started
    assert (job, command.startswith("kubeadm reset --force ")) == (RESET_JOB, True)
    assert set(found.jobs["n2"].cleared) == {INIT_JOB, JOIN_JOB, UPGRADE_JOB, RESET_JOB, PACKAGES_JOB}
    mark = mark_of(found.hosts["n2"])
    assert (mark.cluster, mark.reason, mark.done) == ("sim", "node remove", True)
    assert found.hosts["n2"].modes[REMOVED_PATH] == 0o600


def test_a_host_that_is_not_clean_is_told_and_not_marked_as_done() -> None:
    found = stage(1, 1)
    on_host(found, "n2", left="the kubelet runs\n/etc/kubernetes/pki\n")
    with pytest.raises(CommandFailedError, match="not clean") as caught:
        reset(found, "n2")
    assert caught.value.why == "the kubelet runs; /etc/kubernetes/pki"
    assert mark_of(found.hosts["n2"]).done is False
    on_host(found, "n2")
    reset(found, "n2")  # the same again
    assert mark_of(found.hosts["n2"]).done is True


@pytest.mark.parametrize("outcome", ["ended 1", "interrupted"])
def test_a_reset_that_fails_names_its_log(outcome: str) -> None:
    found = stage(1, 1)
    on_host(found, "n2", outcome=outcome)
    with pytest.raises(CommandFailedError, match="kubeadm reset failed") as caught:
        reset(found, "n2")
    assert "kubeadm-reset/log" in caught.value.hint
    assert mark_of(found.hosts["n2"]).done is False


def test_a_reset_that_runs_still_is_waited_for() -> None:
    found = stage(1, 1)
    on_host(found, "n2")
    found.jobs["n2"].states[RESET_JOB] = ["running", "running", "ended 0"]
    reset(found, "n2")
    assert found.jobs["n2"].started == []


def test_a_mark_goes_when_the_host_joins_again() -> None:
    found = stage(1, 1)
    remove.forget_mark(found.deps, "n2")
    assert found.hosts["n2"].argvs == []
    found.deps.hosts = {"n2": HostFacts("n2", removal=RemovalMark("sim", "", "", ""))}
    found.hosts["n2"].on(("rm", "-f", REMOVED_PATH), Reply(sudo=True))
    remove.forget_mark(found.deps, "n2")
    assert found.hosts["n2"].argvs == [("rm", "-f", REMOVED_PATH)]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"cluster": 5}', "null"])
def test_a_damaged_mark_is_none(text: str) -> None:
    assert read_removal_mark(text) is None


# etcd


class Etcd:
    """A scripted etcd that every control plane of the stage answers for."""

    def __init__(self, found: Stage, names: Sequence[str], sick: Sequence[str] = ()) -> None:
        self.names = dict(enumerate(names, 1))
        self.sick = set(sick)
        self.removed: list[str] = []
        self.moved: list[str] = []
        for host in found.spec.control_planes:
            fake = found.hosts[host.name]
            fake.on(etcdctl.find_container_argv(), "c1\n")
            fake.on(lambda argv: argv[:3] == ("crictl", "exec", "c1"), self.answer)

    def answer(self, call: Call) -> Reply:
        words = [w for w in call.argv[4:] if not w.startswith("--")]
        match words:
            case ["member", "list"]:
                members = [
                    {"ID": i, "name": n if n != "new" else "", "clientURLs": [f"https://{n}:2379"], "peerURLs": []}
                    for i, n in self.names.items()
                ]
                for member in members:
                    if not member["name"]:
                        member["clientURLs"] = ["https://10.9.0.3:2379"]
                return Reply(json.dumps({"members": members}))
            case ["endpoint", "status"]:
                alive = [(i, n) for i, n in self.names.items() if n not in self.sick and n != "new"]
                header = [
                    {"Endpoint": f"https://{n}:2379", "Status": {"header": {"member_id": i}, "leader": 3}}
                    for i, n in alive
                ]
                return Reply(json.dumps(header))
            case ["endpoint", "health"]:
                return Reply("[]")
            case ["member", "remove", number]:
                self.removed.append(self.names.pop(int(number, 16)))
                return Reply("{}")
            case ["move-leader", number]:
                self.moved.append(self.names[int(number, 16)])
                return Reply("{}")
        raise AssertionError(call.argv)


def forget(found: Stage, action: ForgetEtcdMember) -> None:
    ctx = found.ctx(action, action.node, timeout_s=2)
    if remove.why_no_member(found.deps, action) is None:
        remove.forget_etcd_member(found.deps, action, ctx)
        remove.verify_no_member(found.deps, action, ctx)


def test_leadership_is_handed_over_and_the_member_taken_out_through_another() -> None:
    found = stage(3)
    etcd = Etcd(found, ["n1", "n2", "n3"])
    action = ForgetEtcdMember("n3", "10.9.0.3", handover=True)
    forget(found, action)
    assert (etcd.removed, etcd.moved) == (["n3"], ["n1"])
    forget(found, action)  # again: nothing is left to do
    assert etcd.removed == ["n3"]
    assert remove.why_no_member(found.deps, action) == "etcd knows no such member any more"


def test_a_member_that_never_started_is_found_by_its_address() -> None:
    found = stage(3)
    etcd = Etcd(found, ["n1", "n2", "new"])
    forget(found, ForgetEtcdMember("n3", "10.9.0.3"))
    assert etcd.removed == ["new"]


def test_a_stale_member_goes_by_its_id_whatever_its_name_is() -> None:
    found = stage(3)
    etcd = Etcd(found, ["n1", "n2", "old"], sick=["old"])
    forget(found, ForgetEtcdMember("n3", "10.9.0.3", stale="3"))
    assert etcd.removed == ["old"]
    assert remove.why_no_member(found.deps, ForgetEtcdMember("n3", stale="3")) is not None


def test_a_stale_member_that_answers_again_stays() -> None:
    found = stage(3)
    etcd = Etcd(found, ["n1", "n2", "n3"])
    with pytest.raises(EtcdError, match="its old member answers"):
        forget(found, ForgetEtcdMember("n3", "10.9.0.3", stale="3"))
    assert etcd.removed == []


def test_one_stale_member_goes_beside_another() -> None:
    found = stage(5)
    etcd = Etcd(found, ["n1", "n2", "n3", "n4", "n5"], sick=["n2", "n5"])
    forget(found, ForgetEtcdMember("n2", stale="2"))
    forget(found, ForgetEtcdMember("n5", stale="5"))
    assert etcd.removed == ["n2", "n5"]


def test_a_stale_member_stays_where_etcd_has_no_quorum() -> None:
    found = stage(3)
    etcd = Etcd(found, ["n1", "n2", "n3"], sick=["n2", "n3"])
    with pytest.raises(EtcdError, match="must not be taken out"):
        forget(found, ForgetEtcdMember("n2", stale="2"))
    assert etcd.removed == []


def test_etcd_that_would_lose_its_quorum_keeps_the_member() -> None:
    found = stage(3)
    etcd = Etcd(found, ["n1", "n2", "n3"], sick=["n2"])
    with pytest.raises(EtcdError, match="must not be taken out") as caught:
        forget(found, ForgetEtcdMember("n3"))
    assert "no quorum (n2)" in caught.value.why
    assert etcd.removed == []
    forget(found, ForgetEtcdMember("n2"))  # the sick one may go
    assert etcd.removed == ["n2"]


def test_an_etcd_that_does_not_answer_is_no_etcd_without_the_member() -> None:
    found = stage(2)
    Etcd(found, ["n1", "n2"])
    found.hosts["n1"].on(etcdctl.find_container_argv(), Reply("", exit_status=1))
    found.hosts["n1"].on(("test", "-e", "/etc/kubernetes/manifests/etcd.yaml"), Reply(exit_status=1))
    with pytest.raises(EtcdError, match="etcd does not answer"):
        remove.why_no_member(found.deps, ForgetEtcdMember("n2"))


@pytest.mark.parametrize(
    ("healthy", "leaving_name", "allowed"),
    [
        ("+", "a", False),
        ("++", "a", True),
        ("+-", "b", False),  # one of two has no quorum: nothing can be agreed on
        ("+++", "a", True),
        ("++-", "c", True),
        ("++-", "a", False),
        ("+++-", "d", True),
        ("++--", "d", False),
        ("+++--", "e", True),
        ("+++--", "a", False),
        ("+++", "x", True),
    ],
)
def test_quorum(healthy: str, leaving_name: str, allowed: bool) -> None:
    members = [EtcdMember("abcde"[i], i + 1, "", sign == "+") for i, sign in enumerate(healthy)]
    assert (quorum_problem(members, leaving_name) == "") is allowed


# the Node object


def delete(found: Stage, action: DeleteNode) -> None:
    ctx = found.ctx(action, action.node, timeout_s=2)
    remove.delete_node(found.deps, action, ctx)
    remove.verify_deleted(found.deps, action.node, ctx)


def test_the_node_object_goes_and_once_more_does_no_harm() -> None:
    found = stage(1, 1, kube=[node("n1"), node("n2")])
    for _ in range(2):
        delete(found, DeleteNode("n2", control_plane=False))
    assert found.kube.object("/api/v1/nodes/n2") is None
    assert found.kube.object("/api/v1/nodes/n1") is not None


def test_a_lost_node_that_reports_again_stays() -> None:
    found = stage(1, 1, kube=[node("n2")])
    with pytest.raises(KubeError, match="not lost"):
        delete(found, DeleteNode("n2", control_plane=False, lost=True))
    assert found.kube.object("/api/v1/nodes/n2") is not None


def test_kubeadm_forgets_a_control_plane_too() -> None:
    status = "apiEndpoints:\n  n1:\n    advertiseAddress: 10.9.0.1\n  n2:\n    advertiseAddress: 10.9.0.2\n"
    record = {
        "kind": "ConfigMap",
        "apiVersion": "v1",
        "metadata": {"name": "kubeadm-config", "namespace": "kube-system"},
        "data": {"ClusterStatus": status, "ClusterConfiguration": "kept"},
    }
    found = stage(2, kube=[node("n2"), record])
    delete(found, DeleteNode("n2", control_plane=True))
    data = (found.kube.object(CONFIG) or {})["data"]
    assert "n2" not in data["ClusterStatus"]
    assert "10.9.0.1" in data["ClusterStatus"]
    assert data["ClusterConfiguration"] == "kept"


# the scripts


@pytest.mark.parametrize("shell", ["dash", "bash", "busybox"])
def test_the_scripts_are_read_by_every_shell(shell: str) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not there")
    for text in (leaving.clear_script(), leaving.left_script()):
        argv = [shell, *(["sh"] if shell == "busybox" else []), "-n"]
        done = subprocess.run(argv, input=text, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


RULES = """\
*nat
:PREROUTING ACCEPT [0:0]
:KUBE-SERVICES - [0:0]
:CNI-DN-0123456789abcdef01234 - [0:0]
:OPERATORS - [0:0]
-A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A PREROUTING -j OPERATORS
-A POSTROUTING -s 10.244.0.0/16 ! -d 10.244.0.0/16 -m comment --comment kops-py -j MASQUERADE
-A KUBE-SERVICES -d 10.96.0.1/32 -j KUBE-SVC-X
-A OPERATORS -p tcp --dport 80 -j ACCEPT
COMMIT
"""


def test_rules_of_others_stay() -> None:
    kept = subprocess.run(["grep", "-vE", leaving.OURS], input=RULES, capture_output=True, text=True, check=True).stdout
    assert kept.splitlines() == [
        "*nat",
        ":PREROUTING ACCEPT [0:0]",
        ":OPERATORS - [0:0]",
        "-A PREROUTING -j OPERATORS",
        "-A OPERATORS -p tcp --dport 80 -j ACCEPT",
        "COMMIT",
    ]
