"""The external etcd in the bootstrap plan: its order, hosts that come later, and what is left alone."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from kops_py.model.actions import INIT_JOB
from kops_py.model.drain import DrainPolicy
from kops_py.model.errors import UnreachableError
from kops_py.model.facts import HostFacts, JobState
from kops_py.model.finding import Severity
from kops_py.model.patches import PatchFacts, RebootPolicy, Update
from kops_py.model.plan import Plan, unexpected_steps
from kops_py.model.spec import ClusterSpec, EtcdSpec, GivenEtcd
from kops_py.runbooks.bootstrap import bootstrap
from kops_py.runbooks.patch import PatchArguments, patch
from kops_py.runbooks.rollout import Rollout
from tests.fakes.cluster import SimulatedCluster, arguments_for, make_spec


def plan_of(cluster: SimulatedCluster) -> Plan:
    return bootstrap(cluster.spec, cluster.facts(), arguments_for(cluster.spec)).plan


def ids(plan: Plan) -> list[str]:
    return [s.id for s in plan.steps]


def etcd_ids(plan: Plan) -> list[str]:
    return [i for i in ids(plan) if i.startswith("etcd")]


def built(spec: ClusterSpec) -> SimulatedCluster:
    cluster = SimulatedCluster(spec)
    for step in plan_of(cluster).steps:
        cluster.perform(step)
    assert not plan_of(cluster).has_changes
    return cluster


def with_more_etcd(cluster: SimulatedCluster, spec: ClusterSpec) -> SimulatedCluster:
    return dataclasses.replace(
        cluster, spec=spec, hosts=dict(cluster.hosts), external_members=dict(cluster.external_members), applied=[]
    )


def errors(cluster: SimulatedCluster) -> list[tuple[str, str]]:
    found = bootstrap(cluster.spec, cluster.facts(), arguments_for(cluster.spec)).findings
    return [(f.id, f.node) for f in found if f.severity is Severity.ERROR]


def test_members_come_before_everything_and_clients_before_init() -> None:
    plan = plan_of(SimulatedCluster(make_spec(2, 1, etcd=3)))
    assert ids(plan)[:11] == [
        *[f"etcd-certificates/n{i}" for i in (4, 5, 6)],
        *[f"etcd/n{i}" for i in (4, 5, 6)],
        "etcd-healthy",
        *[f"prepare/n{i}" for i in (1, 2, 3)],
        "etcd-client/n1",
    ]
    waves = {w.name: w for w in plan.waves}
    assert waves["etcd certificates"].max_parallel == 1
    assert waves["etcd"].together
    assert ids(plan).index("etcd-client/n2") < ids(plan).index("init/n1")


def test_no_api_server_is_restarted_for_an_etcd_that_does_not_grow_with_the_control_planes() -> None:
    assert "restart-api/n1" not in ids(plan_of(SimulatedCluster(make_spec(2, 1, etcd=3))))


def test_a_host_that_comes_later_is_added_and_the_members_there_are_not_touched() -> None:
    cluster = built(make_spec(1, 1, etcd=3))
    bigger = with_more_etcd(cluster, make_spec(1, 1, etcd=4))
    bigger.__post_init__()
    plan = plan_of(bigger)
    assert etcd_ids(plan) == ["etcd-certificates/n6", "etcd-member/n6", "etcd-healthy"]
    for step in plan.steps:
        bigger.perform(step)
    assert not plan_of(bigger).has_changes


def test_a_member_whose_machine_is_new_replaces_the_lost_one() -> None:
    cluster = built(make_spec(1, 1, etcd=3))
    cluster.hosts["n4"] = HostFacts(name="n4", sudo=True)
    cluster.external_members["n4"] = dataclasses.replace(cluster.external_members["n4"], healthy=False)
    assert etcd_ids(plan_of(cluster)) == ["etcd-certificates/n4", "etcd-member/n4", "etcd-healthy"]


def test_a_stopped_member_is_started_one_at_a_time_while_the_others_serve() -> None:
    cluster = built(make_spec(1, 1, etcd=3))
    cluster.hosts["n5"] = dataclasses.replace(cluster.hosts["n5"], services=frozenset())
    cluster.external_members["n5"] = dataclasses.replace(cluster.external_members["n5"], healthy=False)
    plan = plan_of(cluster)
    assert etcd_ids(plan) == ["etcd/n5", "etcd-healthy"]
    assert not plan.waves[0].together


def test_members_start_together_when_none_serves() -> None:
    cluster = built(make_spec(1, 1, etcd=3))
    for name in ("n4", "n5"):
        cluster.hosts[name] = dataclasses.replace(cluster.hosts[name], services=frozenset())
    cluster.external_members.clear()
    plan = plan_of(cluster)
    assert etcd_ids(plan)[:2] == ["etcd/n4", "etcd/n5"]
    assert plan.waves[0].together
    assert errors(cluster) == []


def test_a_lost_majority_is_no_reason_to_form_a_new_cluster() -> None:
    cluster = built(make_spec(1, 1, etcd=3))
    for name in ("n3", "n4"):
        cluster.hosts[name] = HostFacts(name=name, sudo=True)
    cluster.external_members.clear()
    assert ("etcd-no-majority", "") in errors(cluster)


def test_a_limit_that_leaves_no_majority_is_refused() -> None:
    spec = make_spec(1, 1, etcd=3)
    arguments = dataclasses.replace(arguments_for(spec), limit=frozenset({"n1", "n3"}))
    found = bootstrap(spec, SimulatedCluster(spec).facts(), arguments).findings
    assert [f.id for f in found if f.severity is Severity.ERROR] == ["etcd-no-majority"]


def test_an_etcd_of_others_under_a_running_cluster_is_left_alone() -> None:
    cluster = built(make_spec(1, 1, etcd=3))
    for name in ("n3", "n4", "n5"):
        changes = {"etcd_ca": "", "etcd_pki_digest": "", "etcd_digest": ""}
        cluster.hosts[name] = dataclasses.replace(cluster.hosts[name], **changes)  # type: ignore[arg-type]
    cluster.external_members.clear()
    plan = plan_of(cluster)
    assert not plan.has_changes
    assert "etcd was not built by kops-py: it is left as it is" in plan.notes


def test_data_of_others_stops_a_new_cluster() -> None:
    cluster = SimulatedCluster(make_spec(1, 1, etcd=3))
    cluster.hosts["n4"] = HostFacts(name="n4", sudo=True, has_etcd_data=True)
    assert errors(cluster) == [("etcd-data-exists", "n4")]
    assert etcd_ids(plan_of(cluster)) == []


def test_two_authorities_are_refused() -> None:
    cluster = built(make_spec(1, 1, etcd=3))
    cluster.hosts["n4"] = dataclasses.replace(cluster.hosts["n4"], etcd_ca="another")
    assert ("etcd-authorities", "") in errors(cluster)


def test_files_that_say_external_over_a_stacked_cluster_are_refused() -> None:
    stacked = built(make_spec(1, 1))
    spec = make_spec(1, 1, etcd=3)
    mixed = dataclasses.replace(stacked, spec=spec, hosts=dict(stacked.hosts), applied=[])
    mixed.__post_init__()
    assert errors(mixed) == [("etcd-topology", "")]
    assert etcd_ids(plan_of(mixed)) == []


def test_certificates_that_run_out_are_made_anew_and_nothing_else() -> None:
    cluster = built(make_spec(1, 1, etcd=3))
    cluster.hosts["n4"] = dataclasses.replace(cluster.hosts["n4"], etcd_pki_digest="")
    cluster.hosts["n1"] = dataclasses.replace(cluster.hosts["n1"], etcd_client_runs_out=True)
    assert etcd_ids(plan_of(cluster)) == ["etcd-certificates/n4", "etcd-client/n1"]


def test_a_member_that_cannot_be_reached_is_not_waited_for_and_its_etcd_is_told() -> None:
    cluster = built(make_spec(1, 1, etcd=3))
    cluster.hosts["n4"] = HostFacts(name="n4", problem=UnreachableError("no connection", where="n4"))
    cluster.external_members["n4"] = dataclasses.replace(cluster.external_members["n4"], healthy=False)
    assert not plan_of(cluster).has_changes


def test_a_given_etcd_means_only_the_certificates_of_the_control_planes() -> None:
    given = GivenEtcd(("https://192.0.2.1:2379",), Path("ca"), Path("cert"), Path("key"))
    spec = dataclasses.replace(make_spec(2, 1), external_etcd=True, etcd=EtcdSpec(given))
    arguments = arguments_for(spec)
    arguments = dataclasses.replace(
        arguments, etcd=dataclasses.replace(arguments.etcd, given_ca="ca", given_cert="client")
    )
    cluster = SimulatedCluster(spec)
    assert etcd_ids(bootstrap(spec, cluster.facts(), arguments).plan) == ["etcd-client/n1", "etcd-client/n2"]
    for name in ("n1", "n2"):
        cluster.hosts[name] = dataclasses.replace(
            cluster.hosts[name], etcd_client_ca="ca", etcd_client_cert="client", etcd_client_runs_out=True
        )
    assert etcd_ids(bootstrap(spec, cluster.facts(), arguments).plan) == []


def test_updates_reach_etcd_hosts_one_at_a_time_with_a_gate_between() -> None:
    cluster = built(make_spec(1, 1, etcd=3))
    updates = PatchFacts((Update("libc6", "1", "2"),), False)
    arguments = PatchArguments(Rollout(DrainPolicy()), RebootPolicy.NEVER, etcd=("n4", "n5", "n3"))
    patches = dict.fromkeys(("n3", "n4", "n5"), updates)
    plan = patch(cluster.spec, cluster.facts(), patches, arguments).plan
    assert [(w.name, w.max_parallel, [s.id for s in w.steps]) for w in plan.waves] == [
        (f"etcd {n}", 1, [f"updates/{n}", f"etcd-healthy/{n}"]) for n in ("n4", "n5", "n3")
    ]
    left = patch(cluster.spec, cluster.facts(), {**patches, "n4": PatchFacts()}, arguments).plan
    assert unexpected_steps(plan.steps[2:], left.steps) == ()


def test_no_new_cluster_is_built_over_the_data_of_one_that_lost_its_control_planes() -> None:
    cluster = built(make_spec(1, etcd=1))
    lost = SimulatedCluster(cluster.spec, external_members=cluster.external_members)
    lost.hosts["n2"] = cluster.hosts["n2"]
    facts = dataclasses.replace(lost.facts(), etcd_holds_cluster=True)
    (found,) = [
        f for f in bootstrap(lost.spec, facts, arguments_for(lost.spec)).findings if f.severity is Severity.ERROR
    ]
    assert found.id == "etcd-holds-cluster"
    assert "kops-py etcd restore" in found.hint
    # What an init of ours began goes on.
    begun = dataclasses.replace(facts.hosts["n1"], jobs={INIT_JOB: JobState.FAILED})
    facts = dataclasses.replace(facts, hosts={**facts.hosts, "n1": begun})
    assert not [f for f in bootstrap(lost.spec, facts, arguments_for(lost.spec)).findings if f.id == found.id]
