"""Upgrades that replace workers: who goes, who comes, in which order, and that any prefix is found again."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from kops_py.model.drain import DrainPolicy
from kops_py.model.errors import UnreachableError
from kops_py.model.facts import HostFacts
from kops_py.model.finding import Severity
from kops_py.model.plan import Plan, unexpected_steps
from kops_py.model.spec import ClusterSpec, CniType
from kops_py.model.version import Version
from kops_py.runbooks.node_add import at_version
from kops_py.runbooks.node_remove import removal_arguments
from kops_py.runbooks.replace import ReplaceArguments, new_workers, old_workers, replace
from kops_py.runbooks.rollout import Rollout
from kops_py.runbooks.upgrade import UpgradeArguments, plan_order
from tests.fakes.cluster import arguments_for, make_spec
from tests.fakes.membership import MembershipCluster, stage_digests

OLD, NEW = Version(1, 20, 2), Version(1, 21, 0)


def with_newcomers(spec: ClusterSpec, count: int) -> ClusterSpec:
    last = spec.nodes[-1]
    added = [
        dataclasses.replace(
            last, name=f"x{i}", node_ip=f"10.9.1.{i}", address=f"10.9.1.{i}", groups=frozenset({"kube_node"})
        )
        for i in range(1, count + 1)
    ]
    return dataclasses.replace(spec, hosts=(*spec.hosts, *added))


def bed(control_planes: int, workers: int, newcomers: int, cni: CniType = CniType.BRIDGE) -> MembershipCluster:
    cluster = MembershipCluster.built(make_spec(control_planes, workers, cni=cni, version=OLD))
    spec = with_newcomers(cluster.spec, newcomers)
    bigger = cluster.at(spec)
    bigger.hosts |= {h.name: HostFacts(name=h.name, sudo=True) for h in spec.hosts if h.name not in bigger.hosts}
    return bigger


def arguments_of(cluster: MembershipCluster, named: Sequence[str] = (), window: int = 1) -> ReplaceArguments:
    spec, facts = at_version(cluster.spec, NEW), cluster.facts()
    rollout = Rollout(DrainPolicy(), window=window, order=plan_order(spec, facts, NEW))
    old = old_workers(spec, facts, NEW, named)
    return ReplaceArguments(
        upgrade=UpgradeArguments((NEW,), rollout, stage_digests(spec, (NEW,))),
        join=arguments_for(spec),
        remove=removal_arguments(spec, facts, old, rollout, reason=f"replaced by the upgrade to {NEW}"),
        newcomers=tuple(n for n in new_workers(spec, facts, NEW) if n not in old),
    )


def plan_of(cluster: MembershipCluster, arguments: ReplaceArguments) -> Plan:
    return replace(at_version(cluster.spec, NEW), cluster.facts(), arguments).plan


def ids(plan: Plan) -> list[str]:
    return [s.id for s in plan.steps]


def findings_of(cluster: MembershipCluster, named: Sequence[str] = ()) -> list[tuple[str, str, Severity]]:
    found = replace(at_version(cluster.spec, NEW), cluster.facts(), arguments_of(cluster, named)).findings
    return [(f.id, f.node, f.severity) for f in found]


def test_whole_plan_in_order() -> None:
    cluster = bed(1, 2, 2)
    found = ids(plan_of(cluster, arguments_of(cluster)))
    assert found == [
        *[f"stage/{n}@v1.21.0" for n in ("n1", "n2", "n3")],  # kube-proxy of the new version runs on the old ones too
        *[f"{s}/n1@v1.21.0" for s in ("kubeadm", "upgrade", "cordon", "drain", "kubelet", "healthy", "uncordon")],
        "settled/n1@v1.21.0",
        "done/n1@v1.21.0",
        "prepare/x1",
        "prepare/x2",
        "join/x1",
        "join/x2",
        *[f"network/{n}" for n in ("n1", "n2", "n3", "x1", "x2")],
        "healthy",
        "revoke",
        *[f"{s}/n2" for s in ("cordon", "drain", "settled", "reset", "delete")],
        *[f"{s}/n3" for s in ("cordon", "drain", "settled", "reset", "delete")],
        *[f"routes/{n}" for n in ("n1", "x1", "x2")],
    ]
    assert not [f for f in findings_of(cluster) if f[2] is Severity.ERROR]


def test_named_ones_are_replaced_and_the_others_upgraded_in_place() -> None:
    cluster = bed(1, 2, 1)
    arguments = arguments_of(cluster, ["n2"])
    found = ids(plan_of(cluster, arguments))
    assert "kubelet/n3@v1.21.0" in found
    assert "kubelet/n2@v1.21.0" not in found
    assert found.index("settled/n3@v1.21.0") < found.index("join/x1") < found.index("drain/n2")
    assert not [f for f in findings_of(cluster, ["n2"]) if f[2] is Severity.ERROR]


def test_fewer_new_hosts_than_old_ones_is_an_error() -> None:
    assert ("too-few-replacements", "", Severity.ERROR) in findings_of(bed(1, 2, 1))
    unreachable = bed(1, 2, 2)
    unreachable.hosts["x2"] = HostFacts(name="x2", problem=UnreachableError("no connection", where="x2"))
    found = findings_of(unreachable)
    assert ("too-few-replacements", "", Severity.ERROR) in found
    assert ("replacement-unreachable", "x2", Severity.ERROR) in found


def test_hosts_taken_out_earlier_are_not_new() -> None:
    cluster = bed(1, 2, 2)
    for step in plan_of(cluster, arguments_of(cluster)).steps:
        cluster.perform(step)
    assert sorted(cluster.nodes) == ["n1", "x1", "x2"]
    assert not plan_of(cluster, arguments_of(cluster)).has_changes
    assert findings_of(cluster) == [
        ("removed-earlier", "n2", Severity.INFO),
        ("removed-earlier", "n3", Severity.INFO),
    ]


def test_a_worker_upgraded_in_place_is_no_replacement() -> None:
    cluster = bed(1, 2, 1)
    for step in plan_of(cluster, arguments_of(cluster, ["n2"])).steps:
        cluster.perform(step)
    assert new_workers(cluster.spec, cluster.facts(), NEW) == ("x1",)


@settings(max_examples=100, deadline=None)
@given(
    st.integers(1, 3),
    st.integers(1, 3),
    st.integers(0, 2),
    st.integers(1, 3),
    st.sampled_from([CniType.BRIDGE, CniType.MANIFEST]),
    st.data(),
)
def test_every_prefix_of_every_replacement_is_continued(
    control_planes: int, workers: int, spare: int, window: int, cni: CniType, data: st.DataObject
) -> None:
    """Kill after any step, in a reset too: neither the same run nor one begun anew holds anything unannounced."""
    cluster = bed(control_planes, workers, workers + spare, cni)
    old = [h.name for h in cluster.spec.workers if h.name in cluster.nodes]
    named = data.draw(st.lists(st.sampled_from(old), unique=True))
    cluster.interrupted_resets = set(data.draw(st.lists(st.sampled_from(old), unique=True)))
    arguments = arguments_of(cluster, named, window)
    whole = plan_of(cluster, arguments)
    announced = {s.id for s in whole.steps}
    for number, wave in enumerate(whole.waves):
        for step in wave.steps:
            if step.id.startswith("reset/") and step.node in cluster.interrupted_resets:
                cluster.perform(step)
                assert f"reset/{step.node}" in ids(plan_of(cluster, arguments_of(cluster, named, window)))
            cluster.perform(step)
            anew = plan_of(cluster, arguments_of(cluster, named, window))
            assert {s.id for s in anew.steps} <= announced, (step.id, ids(anew))
        left = tuple(s for later in whole.waves[number + 1 :] for s in later.steps)
        plan = plan_of(cluster, arguments)  # the engine looks again after each wave
        assert unexpected_steps(left, plan.steps) == (), (wave.name, ids(plan))
    assert not plan_of(cluster, arguments_of(cluster, named, window)).has_changes
    assert {n.version for n in cluster.nodes.values()} == {str(NEW)}
    assert set(cluster.nodes) & set(old) == (set(old) - set(named) if named else set())


def test_a_run_cut_off_anywhere_ends_at_the_target() -> None:
    cluster = bed(3, 2, 2)
    total = len(plan_of(cluster, arguments_of(cluster)).steps)
    for cut in range(total):
        again = bed(3, 2, 2)
        for step in plan_of(again, arguments_of(again)).steps[:cut]:
            again.perform(step)
        assert not [f for f in findings_of(again) if f[2] is Severity.ERROR], cut
        for step in plan_of(again, arguments_of(again)).steps:
            again.perform(step)
        assert not plan_of(again, arguments_of(again)).has_changes
        assert sorted(again.nodes) == ["n1", "n2", "n3", "x1", "x2"]
