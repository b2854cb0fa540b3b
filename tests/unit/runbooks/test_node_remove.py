"""Nodes taken out and in: what the plans hold, what is refused, and that any prefix of them is found again."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kops_py.model.drain import DrainPolicy
from kops_py.model.errors import CommandFailedError, UnreachableError
from kops_py.model.facts import HostFacts
from kops_py.model.finding import Severity
from kops_py.model.membership import RemovalMark
from kops_py.model.plan import Plan, unexpected_steps
from kops_py.model.spec import CniType, Endpoint
from kops_py.model.version import Version
from kops_py.runbooks.bootstrap import bootstrap
from kops_py.runbooks.node_add import add_nodes, joining_version
from kops_py.runbooks.node_remove import RemoveArguments, removal_arguments, remove_nodes
from kops_py.runbooks.rollout import Rollout
from tests.fakes.cluster import arguments_for, make_spec
from tests.fakes.membership import MembershipCluster


def arguments_of(
    cluster: MembershipCluster, names: Sequence[str], *, lost: bool = False, window: int = 1
) -> RemoveArguments:
    return removal_arguments(
        cluster.spec,
        cluster.facts(),
        names,
        Rollout(DrainPolicy(), window=window),
        lost=lost,
        load_balancer_digests=arguments_for(cluster.spec).load_balancer_digests,
    )


def plan_of(cluster: MembershipCluster, names: Sequence[str], *, lost: bool = False) -> Plan:
    return remove_nodes(cluster.spec, cluster.facts(), arguments_of(cluster, names, lost=lost)).plan


def ids(plan: Plan) -> list[str]:
    return [s.id for s in plan.steps]


def errors_of(cluster: MembershipCluster, names: Sequence[str], *, lost: bool = False) -> list[tuple[str, str]]:
    found = remove_nodes(cluster.spec, cluster.facts(), arguments_of(cluster, names, lost=lost)).findings
    return [(f.id, f.node) for f in found if f.severity is Severity.ERROR]


def lose(cluster: MembershipCluster, name: str, *, ready: bool = False) -> None:
    cluster.hosts[name] = HostFacts(name=name, problem=UnreachableError("no connection", where=name))
    cluster.nodes[name] = dataclasses.replace(cluster.nodes[name], ready=ready)
    if name in cluster.etcd:
        cluster.etcd[name] = False


def test_a_worker_is_drained_reset_and_forgotten() -> None:
    cluster = MembershipCluster.built(make_spec(1, 2))
    assert ids(plan_of(cluster, ["n3"])) == [
        "cordon/n3",
        "drain/n3",
        "settled/n3",
        "reset/n3",
        "delete/n3",
        "routes/n1",
        "routes/n2",
    ]
    assert errors_of(cluster, ["n3"]) == []


def test_a_control_plane_leaves_etcd_before_it_is_reset() -> None:
    cluster = MembershipCluster.built(make_spec(3, 1, cni=CniType.MANIFEST))
    assert ids(plan_of(cluster, ["n1"])) == [
        "cordon/n1",
        "drain/n1",
        "settled/n1",
        "etcd/n1",
        "reset/n1",
        "delete/n1",
    ]
    found = remove_nodes(cluster.spec, cluster.facts(), arguments_of(cluster, ["n1"])).findings
    assert {(f.id, f.severity) for f in found} == {
        ("still-in-inventory", Severity.INFO),
        ("etcd-less-tolerance", Severity.WARNING),
    }


def test_control_planes_leave_one_at_a_time_and_workers_in_their_window() -> None:
    cluster = MembershipCluster.built(make_spec(3, 3))
    arguments = arguments_of(cluster, ["n4", "n2", "n5", "n3"], window=2)
    waves = remove_nodes(cluster.spec, cluster.facts(), arguments).plan.waves
    assert [(w.name, w.max_parallel) for w in waves[:3]] == [
        ("control plane n2 out", 1),
        ("control plane n3 out", 1),
        ("workers out", 2),
    ]


@settings(max_examples=120, deadline=None)
@given(st.integers(1, 3), st.integers(0, 3), st.sampled_from([CniType.BRIDGE, CniType.MANIFEST]), st.data())
def test_every_prefix_of_every_removal_is_continued(
    control_planes: int, workers: int, cni: CniType, data: st.DataObject
) -> None:
    """Kill after any step, in the middle of a reset too: the same command announces only what was left, and ends."""
    cluster = MembershipCluster.built(make_spec(control_planes, workers, cni=cni))
    names = [h.name for h in cluster.spec.nodes[1:]]
    chosen = data.draw(st.lists(st.sampled_from(names), unique=True)) if names else []
    cluster.interrupted_resets = set(data.draw(st.lists(st.sampled_from(chosen), unique=True)) if chosen else [])
    arguments = arguments_of(cluster, chosen)
    whole = remove_nodes(cluster.spec, cluster.facts(), arguments).plan
    announced = set(ids(whole))
    for number, wave in enumerate(whole.waves):
        for step in wave.steps:
            if step.id.startswith("reset/") and step.node in cluster.interrupted_resets:
                cluster.perform(step)
                assert step.id in ids(plan_of(cluster, chosen))
            cluster.perform(step)
            assert set(ids(plan_of(cluster, chosen))) <= announced, step.id
        left = tuple(s for later in whole.waves[number + 1 :] for s in later.steps)
        plan = remove_nodes(cluster.spec, cluster.facts(), arguments).plan  # the engine looks again after each wave
        assert unexpected_steps(left, plan.steps) == (), (wave.name, ids(plan))
    assert not plan_of(cluster, chosen).has_changes
    assert sorted(cluster.nodes) == sorted({h.name for h in cluster.spec.nodes} - set(chosen))
    assert set(cluster.etcd) == {h.name for h in cluster.spec.control_planes} - set(chosen)


def test_the_last_control_plane_is_never_removed() -> None:
    assert errors_of(MembershipCluster.built(make_spec(1, 1)), ["n1"]) == [("last-control-plane", "")]
    three = MembershipCluster.built(make_spec(3))
    assert ("last-control-plane", "") in errors_of(three, ["n1", "n2", "n3"])
    lose(three, "n3")
    lose(three, "n2")
    assert ("last-control-plane", "") in errors_of(three, ["n1"])


def test_etcd_keeps_its_quorum() -> None:
    cluster = MembershipCluster.built(make_spec(3))
    cluster.etcd["n2"] = False
    assert errors_of(cluster, ["n1"]) == [("etcd-quorum", "n1")]  # one healthy member of the two that stay
    assert errors_of(cluster, ["n2"]) == []
    cluster.etcd.clear()
    assert errors_of(cluster, ["n2"]) == [("etcd-quorum", "")]


def test_the_node_that_is_the_endpoint_stays() -> None:
    spec = dataclasses.replace(make_spec(3), endpoint=Endpoint("10.9.0.2", 6443))
    assert errors_of(MembershipCluster.built(spec), ["n2"]) == [("endpoint-on-node", "n2")]
    assert errors_of(MembershipCluster.built(spec), ["n3"]) == []


def test_a_lost_node_is_only_forgotten_by_the_cluster() -> None:
    cluster = MembershipCluster.built(make_spec(3, 1))
    lose(cluster, "n3")
    assert ("node-unreachable", "n3") in errors_of(cluster, ["n3"])
    assert errors_of(cluster, ["n3"], lost=True) == []
    assert ids(plan_of(cluster, ["n3"], lost=True))[:3] == ["cordon/n3", "etcd/n3", "delete/n3"]
    found = remove_nodes(cluster.spec, cluster.facts(), arguments_of(cluster, ["n3"], lost=True)).findings
    assert "machine-left" in {f.id for f in found}
    for step in plan_of(cluster, ["n3"], lost=True).steps:
        cluster.perform(step)
    assert "n3" not in cluster.nodes
    assert not plan_of(cluster, ["n3"], lost=True).has_changes


def test_a_node_that_answers_is_not_lost() -> None:
    cluster = MembershipCluster.built(make_spec(1, 2))
    assert errors_of(cluster, ["n2"], lost=True) == [("node-not-lost", "n2")]
    lose(cluster, "n2", ready=True)  # its ssh is gone, its pods run
    assert errors_of(cluster, ["n2"], lost=True) == [("node-not-lost", "n2")]


def test_a_node_outside_the_inventory_is_drained_and_deleted() -> None:
    cluster = MembershipCluster.built(make_spec(1, 2)).at(make_spec(1, 1))
    assert ids(plan_of(cluster, ["n3"])) == [
        "cordon/n3",
        "drain/n3",
        "settled/n3",
        "delete/n3",
        "routes/n1",
        "routes/n2",
    ]
    assert errors_of(cluster, ["n3"]) == []
    for step in plan_of(cluster, ["n3"]).steps:
        cluster.perform(step)
    decision = remove_nodes(cluster.spec, cluster.facts(), arguments_of(cluster, ["n3"]))
    assert not decision.plan.has_changes
    assert [(f.id, f.severity) for f in decision.findings] == [("unknown-node", Severity.WARNING)]


def test_load_balancers_let_a_control_plane_go_that_the_inventory_lacks() -> None:
    spec = make_spec(3, 0, 1)
    cluster = MembershipCluster.built(spec).at(dataclasses.replace(spec, hosts=(*spec.hosts[:2], spec.hosts[3])))
    cluster.hosts["n4"] = dataclasses.replace(cluster.hosts["n4"], load_balancer_digest="with n3")
    assert ids(plan_of(cluster, ["n3"]))[:2] == ["load-balancer/n4", "cordon/n3"]


def test_a_host_of_another_cluster_is_not_reset() -> None:
    cluster = MembershipCluster.built(make_spec(1, 2))
    cluster.hosts["n3"] = dataclasses.replace(cluster.hosts["n3"], ca_digest="another")
    assert errors_of(cluster, ["n3"]) == [("host-of-other-cluster", "n3")]


def test_pods_of_a_node_that_is_not_ready_cannot_be_moved() -> None:
    cluster = MembershipCluster.built(make_spec(1, 2))
    cluster.nodes["n3"] = dataclasses.replace(cluster.nodes["n3"], ready=False, reason="no network")
    assert errors_of(cluster, ["n3"]) == [("node-not-ready", "n3")]
    assert ids(plan_of(cluster, ["n3"]))[:3] == ["cordon/n3", "reset/n3", "delete/n3"]


def test_a_node_deleted_by_hand_is_still_reset() -> None:
    cluster = MembershipCluster.built(make_spec(1, 2))
    del cluster.nodes["n3"]
    assert ids(plan_of(cluster, ["n3"])) == ["reset/n3", "routes/n1", "routes/n2"]


def test_a_mark_of_another_cluster_says_nothing() -> None:
    cluster = MembershipCluster.built(make_spec(1, 2))
    mark = RemovalMark("another", "run", "", "", done=True)
    cluster.hosts["n3"] = dataclasses.replace(cluster.hosts["n3"], removal=mark)
    assert "drain/n3" in ids(plan_of(cluster, ["n3"]))


@pytest.mark.parametrize("done", [True, False])
def test_a_node_in_use_again_is_drained_whatever_an_old_mark_says(done: bool) -> None:
    """Joined by hand since, or uncordoned after a reset that never ran."""
    cluster = MembershipCluster.built(make_spec(1, 2))
    mark = RemovalMark(cluster.spec.name, "run", "", "", done=done)
    cluster.hosts["n3"] = dataclasses.replace(cluster.hosts["n3"], removal=mark)
    assert ids(plan_of(cluster, ["n3"]))[:4] == ["cordon/n3", "drain/n3", "settled/n3", "reset/n3"]


def test_a_member_of_etcd_is_not_reset_by_the_simulation() -> None:
    """The fake is strict where it matters."""
    cluster = MembershipCluster.built(make_spec(3))
    reset = next(s for s in plan_of(cluster, ["n3"]).steps if s.id == "reset/n3")
    with pytest.raises(CommandFailedError, match="member of etcd"):
        cluster.perform(reset)


# joining


def test_a_removed_host_joins_again_and_says_so() -> None:
    cluster = MembershipCluster.built(make_spec(1, 2))
    for step in plan_of(cluster, ["n3"]).steps:
        cluster.perform(step)
    plan = bootstrap(cluster.spec, cluster.facts(), arguments_for(cluster.spec)).plan
    assert "join/n3" in ids(plan)
    assert any("n3 was taken out of the cluster earlier and joins again: node remove" in n for n in plan.notes)


def test_only_the_named_host_is_added_with_the_balancers_of_a_control_plane() -> None:
    small = MembershipCluster.built(make_spec(2, 0, 1, cni=CniType.MANIFEST))
    spec = dataclasses.replace(
        small.spec,
        hosts=(
            *small.spec.hosts,
            dataclasses.replace(small.spec.hosts[0], name="n8", node_ip="10.9.0.8"),
            dataclasses.replace(small.spec.hosts[0], name="n9", node_ip="10.9.0.9"),
        ),
    )
    bigger = small.at(spec)
    bigger.hosts |= {n: HostFacts(name=n, sudo=True) for n in ("n8", "n9")}
    bigger.hosts["n3"] = dataclasses.replace(bigger.hosts["n3"], load_balancer_digest="old")
    decision = add_nodes(spec, bigger.facts(), ["n8"], arguments_for(spec))
    assert ids(decision.plan) == ["load-balancer/n3", "prepare/n8", "join/n8", "healthy", "revoke"]
    assert decision.plan.operation == "node-add"


def test_a_node_joins_at_the_oldest_version_of_the_api_servers() -> None:
    cluster = MembershipCluster.built(make_spec(3, 1, version=Version(1, 20, 2)))
    cluster._images("n1", Version(1, 21, 0))
    assert joining_version(cluster.spec, cluster.facts()) == Version(1, 20, 2)
    for name in ("n2", "n3"):
        cluster._images(name, Version(1, 21, 0))
    assert joining_version(cluster.spec, cluster.facts()) == Version(1, 21, 0)


def test_no_control_plane_joins_in_the_middle_of_an_upgrade() -> None:
    cluster = MembershipCluster.built(make_spec(2, 1, version=Version(1, 20, 2)))
    cluster._images("n1", Version(1, 21, 0))
    spec = dataclasses.replace(
        cluster.spec, hosts=(*cluster.spec.hosts, dataclasses.replace(cluster.spec.hosts[0], name="n9"))
    )
    facts = dataclasses.replace(cluster.facts(), hosts={**cluster.hosts, "n9": HostFacts(name="n9", sudo=True)})
    found = add_nodes(spec, facts, ["n9"], arguments_for(spec)).findings
    assert ("upgrade-not-finished", Severity.ERROR) in {(f.id, f.severity) for f in found}
