"""A control plane whose machine was installed anew: its old member of etcd goes, then it joins."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import pytest

from kops_py.model.actions import JOIN_JOB, ForgetEtcdMember
from kops_py.model.errors import CommandFailedError
from kops_py.model.facts import HostFacts, JobState
from kops_py.model.finding import Severity
from kops_py.model.plan import Plan, unexpected_steps
from kops_py.model.spec import CniType
from kops_py.runbooks.bootstrap import bootstrap
from kops_py.runbooks.node_add import add_nodes
from tests.fakes.cluster import arguments_for, make_spec
from tests.fakes.membership import MembershipCluster


def built(control_planes: int) -> MembershipCluster:
    return MembershipCluster.built(make_spec(control_planes, 1, cni=CniType.MANIFEST))


def reinstall(cluster: MembershipCluster, name: str) -> None:
    """Put an empty machine in a control plane's place, of the same name and address."""
    cluster.hosts[name] = HostFacts(name=name, sudo=True)
    cluster.nodes[name] = dataclasses.replace(cluster.nodes[name], ready=False, reason="silent")
    cluster.etcd[name] = False


def plan_of(cluster: MembershipCluster, names: Sequence[str] = ()) -> Plan:
    facts, arguments = cluster.facts(), arguments_for(cluster.spec)
    if names:
        return add_nodes(cluster.spec, facts, names, arguments).plan
    return bootstrap(cluster.spec, facts, arguments).plan


def errors_of(cluster: MembershipCluster) -> list[tuple[str, str]]:
    found = bootstrap(cluster.spec, cluster.facts(), arguments_for(cluster.spec)).findings
    return [(f.id, f.node) for f in found if f.severity is Severity.ERROR]


def ids(plan: Plan) -> list[str]:
    return [s.id for s in plan.steps]


REJOIN = ["prepare/n2", "etcd/n2", "join/n2", "healthy", "revoke"]


@pytest.mark.parametrize("name", ["n1", "n2"])
def test_a_reinstalled_control_plane_joins_when_its_old_member_is_out(name: str) -> None:
    cluster = built(3)
    reinstall(cluster, name)
    assert errors_of(cluster) == []
    assert ids(plan_of(cluster)) == [step.replace("n2", name) for step in REJOIN]
    for step in plan_of(cluster).steps:
        cluster.perform(step)
    assert cluster.etcd == dict.fromkeys(("n1", "n2", "n3"), True)
    assert not plan_of(cluster).has_changes


def test_node_add_takes_the_old_member_out_as_well() -> None:
    cluster = built(3)
    reinstall(cluster, "n2")
    reinstall(cluster, "n4")
    cluster.etcd.pop("n4")
    assert ids(plan_of(cluster, ["n2"])) == REJOIN
    assert ids(plan_of(cluster, ["n4"])) == ["prepare/n4", "join/n4", "healthy", "revoke"]


@pytest.mark.parametrize("lost", [["n2"], ["n2", "n5"]])
def test_killed_after_any_step_the_rest_is_planned(lost: list[str]) -> None:
    cluster = built(5)
    for name in lost:
        reinstall(cluster, name)
    full = plan_of(cluster).steps
    for done, step in enumerate(full):
        cluster.perform(step)
        left = plan_of(cluster).steps
        assert unexpected_steps(full[done + 1 :], left) == ()
        assert left == full[done + 1 :]


def test_all_old_members_go_before_the_first_join() -> None:
    cluster = built(5)
    reinstall(cluster, "n2")
    reinstall(cluster, "n5")
    assert [s for s in ids(plan_of(cluster)) if "prepare" not in s][:4] == ["etcd/n2", "etcd/n5", "join/n2", "join/n5"]


def test_the_simulation_refuses_a_join_beside_a_dead_member() -> None:
    """The fake is as strict as kubeadm."""
    cluster = built(3)
    reinstall(cluster, "n2")
    for step in plan_of(cluster).steps:
        if step.id == "join/n2":
            with pytest.raises(CommandFailedError, match="n2'] do not answer"):
                cluster.perform(step)
        elif step.id == "prepare/n2":
            cluster.perform(step)


def test_a_member_under_another_name_at_the_address_goes_too() -> None:
    cluster = built(3)
    reinstall(cluster, "n2")
    cluster.etcd = {"n1": True, "old2": False, "n3": True}
    cluster.peer_urls["old2"] = "https://10.9.0.2:2380"
    assert ids(plan_of(cluster)) == REJOIN
    cluster.peer_urls["old2"] = "https://10.9.0.22:2380"
    assert "etcd/n2" not in ids(plan_of(cluster))


def test_a_member_of_another_host_at_the_address_stays() -> None:
    cluster = built(4)
    reinstall(cluster, "n2")
    cluster.etcd.pop("n2")
    cluster.etcd["n3"] = False
    cluster.peer_urls["n3"] = "https://10.9.0.2:2380"
    assert "etcd/n2" not in ids(plan_of(cluster))


def test_a_member_that_answers_stays() -> None:
    cluster = built(3)
    reinstall(cluster, "n2")
    cluster.etcd["n2"] = True
    assert "etcd/n2" not in ids(plan_of(cluster))


@pytest.mark.parametrize(
    "change",
    [
        {"jobs": {JOIN_JOB: JobState.RUNNING}},
        {"has_kubelet_conf": True, "jobs": {JOIN_JOB: JobState.INTERRUPTED}},
        {"has_etcd_data": True},
        {"manifests": frozenset({"etcd.yaml"})},
    ],
)
def test_where_something_of_a_cluster_is_left_no_member_is_taken_out(change: dict[str, object]) -> None:
    cluster = built(3)
    reinstall(cluster, "n2")
    cluster._host("n2", **change)
    assert "etcd/n2" not in ids(plan_of(cluster))


def test_etcd_keeps_its_quorum() -> None:
    cluster = built(3)
    reinstall(cluster, "n2")
    assert errors_of(cluster) == []
    cluster.etcd["n3"] = False
    assert errors_of(cluster) == [("etcd-quorum", "n2")]


def test_only_hosts_that_the_command_joins_lose_a_member() -> None:
    cluster = built(5)
    reinstall(cluster, "n2")
    reinstall(cluster, "n5")
    steps = plan_of(cluster, ["n5"]).steps
    assert [s.node for s in steps if isinstance(s.action, ForgetEtcdMember)] == ["n5"]
