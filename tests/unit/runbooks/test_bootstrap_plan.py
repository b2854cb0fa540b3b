"""The bootstrap plan: what is in it, and that any prefix of it can be lost and found again."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kops_py.model.actions import INIT_JOB, JOIN_JOB
from kops_py.model.errors import UnreachableError
from kops_py.model.facts import HostFacts, JobState
from kops_py.model.finding import Severity
from kops_py.model.plan import Plan, unexpected_steps
from kops_py.model.spec import ClusterSpec, CniType, Group
from kops_py.model.version import Version
from kops_py.runbooks.bootstrap import bootstrap
from tests.fakes.cluster import SimulatedCluster, arguments_for, make_spec


def plan_of(cluster: SimulatedCluster) -> Plan:
    return bootstrap(cluster.spec, cluster.facts(), arguments_for(cluster.spec)).plan


def ids(plan: Plan) -> list[str]:
    return [s.id for s in plan.steps]


def test_whole_plan_of_a_stacked_cluster_in_order() -> None:
    cluster = SimulatedCluster(make_spec(3, 2, 1, labels=True))
    assert ids(plan_of(cluster)) == [
        "load-balancer/n6",
        *[f"prepare/n{i}" for i in range(1, 6)],
        "init/n1",
        "join/n2",
        "join/n3",
        "join/n4",
        "join/n5",
        *[f"network/n{i}" for i in range(1, 6)],
        "labels/n4",
        "labels/n5",
        "healthy",
        "revoke",
    ]


def test_balancers_are_prepared_beside_the_nodes_but_not_on_a_host_that_is_both() -> None:
    cluster = SimulatedCluster(make_spec(3, 2, 1))
    first = plan_of(cluster).waves[0]
    assert (first.name, first.together, len(first.steps)) == ("preparation", True, 6)

    hosts = tuple(
        dataclasses.replace(h, groups=h.groups | {Group.LOAD_BALANCER}) if h.is_control_plane else h
        for h in cluster.spec.hosts
        if not h.is_load_balancer
    )
    both = SimulatedCluster(dataclasses.replace(cluster.spec, hosts=hosts))
    assert [(w.name, len(w.steps)) for w in plan_of(both).waves[:2]] == [("load balancers", 3), ("preparation", 5)]


def test_control_planes_join_one_at_a_time_and_workers_side_by_side() -> None:
    waves = {w.name: w for w in plan_of(SimulatedCluster(make_spec(3, 5))).waves}
    assert waves["control planes"].max_parallel == 1
    assert waves["workers"].max_parallel >= 5


def test_nothing_to_do_once_done() -> None:
    cluster = SimulatedCluster(make_spec(3, 2, 1, labels=True))
    for step in plan_of(cluster).steps:
        cluster.perform(step)
    plan = plan_of(cluster)
    assert not plan.has_changes
    assert any("members already" in note for note in plan.notes)


specs = st.builds(
    make_spec,
    st.integers(1, 4),
    st.integers(0, 4),
    st.integers(0, 2),
    cni=st.sampled_from(list(CniType)),
    labels=st.booleans(),
    version=st.sampled_from([Version(1, 20, 2), Version(1, 31, 2)]),
    etcd=st.sampled_from([0, 0, 1, 3]),
)


@settings(max_examples=150, deadline=None)
@given(specs)
def test_every_prefix_of_every_plan_is_continued_exactly(spec: ClusterSpec) -> None:
    """Kill after any step and run again: the new plan is what was left, no more and in the same order."""
    full = plan_of(SimulatedCluster(spec)).steps
    cluster = SimulatedCluster(spec)
    for done, step in enumerate(full):
        cluster.perform(step)
        left = plan_of(cluster).steps
        assert unexpected_steps(full[done + 1 :], left) == ()
        assert left == full[done + 1 :], [s.id for s in left]


@settings(max_examples=60, deadline=None)
@given(specs, st.integers(0, 40))
def test_a_run_begun_anew_at_any_point_ends_with_nothing_to_do(spec: ClusterSpec, cut: int) -> None:
    cluster = SimulatedCluster(spec)
    for step in plan_of(cluster).steps[:cut]:
        cluster.perform(step)
    for step in plan_of(cluster).steps:
        cluster.perform(step)
    assert not plan_of(cluster).has_changes


def test_a_new_worker_touches_no_member_but_its_routes() -> None:
    cluster = SimulatedCluster(make_spec(1, 2))
    for step in plan_of(cluster).steps:
        cluster.perform(step)
    bigger = SimulatedCluster(
        make_spec(1, 3),
        hosts=cluster.hosts,
        nodes=cluster.nodes,
        initialised=True,
        healthy=True,
    )
    plan = plan_of(bigger)
    assert ids(plan) == [
        "prepare/n4",
        "join/n4",
        *[f"network/n{i}" for i in range(1, 5)],
        "healthy",
        "revoke",
    ]


def test_a_lost_control_plane_does_not_stop_a_new_worker() -> None:
    cluster = SimulatedCluster(make_spec(3, 1, cni=CniType.MANIFEST))
    for step in plan_of(cluster).steps:
        cluster.perform(step)
    spec = make_spec(3, 2, cni=CniType.MANIFEST)
    bigger = SimulatedCluster(
        spec,
        hosts=dict(cluster.hosts),
        nodes=cluster.nodes,
        initialised=True,
        healthy=True,
        network_digest="net-1",
    )
    bigger.hosts["n2"] = HostFacts(name="n2", problem=UnreachableError("no connection", where="n2"))
    decision = bootstrap(spec, bigger.facts(), arguments_for(spec))
    assert ids(decision.plan) == ["prepare/n5", "join/n5", "healthy", "revoke"]
    assert [(f.id, f.node, f.severity) for f in decision.findings] == [("member-unreachable", "n2", Severity.WARNING)]


def test_the_first_api_server_is_restarted_where_etcd_grows_without_a_learner() -> None:
    old = make_spec(3, 1, version=Version(1, 20, 2))
    steps = ids(plan_of(SimulatedCluster(old)))
    assert steps.index("join/n3") < steps.index("restart-api/n1") < steps.index("join/n4")
    assert "restart-api/n1" not in ids(plan_of(SimulatedCluster(make_spec(1, 2, version=Version(1, 20, 2)))))
    assert "restart-api/n1" not in ids(plan_of(SimulatedCluster(make_spec(3, 1))))


def test_api_servers_of_a_cluster_that_others_built_are_left_alone() -> None:
    cluster = SimulatedCluster(make_spec(3, version=Version(1, 20, 2)))
    for step in plan_of(cluster).steps:
        cluster.perform(step)
    cluster.silent_watches = ("n1",)
    assert ids(plan_of(cluster))[0] == "restart-api/n1"
    for name, host in cluster.hosts.items():
        cluster.hosts[name] = dataclasses.replace(host, jobs={})
    assert "restart-api/n1" not in ids(plan_of(cluster))


def test_init_goes_on_where_it_was_begun() -> None:
    cluster = SimulatedCluster(make_spec(3))
    cluster.hosts["n2"] = dataclasses.replace(cluster.hosts["n2"], jobs={INIT_JOB: JobState.INTERRUPTED})
    assert "init/n2" in ids(plan_of(cluster))


@pytest.mark.parametrize(
    ("minor", "state", "annotated", "again"),
    [
        (20, JobState.INTERRUPTED, False, True),
        (20, JobState.INTERRUPTED, True, False),
        (20, JobState.SUCCEEDED, False, False),
        (20, None, False, False),
        (34, JobState.INTERRUPTED, False, False),
    ],
)
def test_a_worker_whose_join_was_cut_off_after_it_registered_joins_again(
    minor: int, state: JobState | None, annotated: bool, again: bool
) -> None:
    cluster = SimulatedCluster(make_spec(1, 2, version=Version(1, minor, 2)))
    for step in plan_of(cluster).steps:
        cluster.perform(step)
    assert ids(plan_of(cluster)) == []
    jobs = {} if state is None else {JOIN_JOB: state}
    cluster.hosts["n2"] = dataclasses.replace(cluster.hosts["n2"], jobs=jobs)
    annotations = {"kubeadm.alpha.kubernetes.io/cri-socket": "unix:///run/containerd.sock"} if annotated else {}
    cluster.nodes["n2"] = dataclasses.replace(cluster.nodes["n2"], annotations=annotations)
    assert ("join/n2" in ids(plan_of(cluster))) is again


def test_never_init_beside_a_cluster_whose_api_is_down() -> None:
    cluster = SimulatedCluster(make_spec(3))
    for step in plan_of(cluster).steps:
        cluster.perform(step)
    facts = dataclasses.replace(cluster.facts(), kube=None)
    decision = bootstrap(cluster.spec, facts, arguments_for(cluster.spec))
    down = [f for f in decision.findings if f.id == "api-down"]
    assert {f.node for f in down} == {"n1", "n2", "n3"}
    assert all(f.severity is Severity.ERROR for f in down)


def test_another_minor_is_refused() -> None:
    cluster = SimulatedCluster(make_spec(1))
    for step in plan_of(cluster).steps:
        cluster.perform(step)
    spec = dataclasses.replace(
        cluster.spec, kubernetes=dataclasses.replace(cluster.spec.kubernetes, version=Version(1, 32, 0))
    )
    findings = bootstrap(spec, cluster.facts(), arguments_for(spec)).findings
    assert [f.id for f in findings if f.severity is Severity.ERROR] == ["version-differs"]


def test_digest_changes_with_what_runs_and_only_with_that() -> None:
    one, two = plan_of(SimulatedCluster(make_spec(1, 1))), plan_of(SimulatedCluster(make_spec(1, 2)))
    assert one.digest == plan_of(SimulatedCluster(make_spec(1, 1))).digest
    assert one.digest != two.digest
    assert dataclasses.replace(one, notes=("said otherwise",)).digest == one.digest
    assert one.to_json()["digest"] == one.digest


@pytest.mark.parametrize("cni", [CniType.NONE])
def test_without_a_network_ready_nodes_are_not_waited_for(cni: CniType) -> None:
    step = plan_of(SimulatedCluster(make_spec(1, 1, cni=cni))).steps[-2]
    assert step.id == "healthy"
    assert step.action.to_json()["network"] is False
