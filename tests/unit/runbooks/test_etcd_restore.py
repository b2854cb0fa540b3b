"""The plan of a restore: what is in it, every prefix continued exactly, and what is chosen and refused."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kops_py.model import etcd_restore as model
from kops_py.model.actions import WaitHealthy
from kops_py.model.errors import CommandFailedError, UnreachableError
from kops_py.model.etcd_restore import (
    STATIC_PODS,
    WRITERS,
    Mark,
    RestoreFacts,
    RestoreHost,
    RestoreKind,
    RestoreRun,
    SnapshotFacts,
)
from kops_py.model.finding import blocking
from kops_py.model.plan import Plan, Step
from kops_py.model.spec import ClusterSpec
from kops_py.runbooks.etcd_restore import RestoreArguments, etcd_restore
from kops_py.runbooks.etcd_restore_choice import choose_run, new_members, restore_findings
from tests.fakes.cluster import make_spec

SNAPSHOT = SnapshotFacts("s.db", "abcdef0123456789", 1000, 100, "3.5")


@dataclass
class SimulatedHosts:
    """Facts out, steps in; refuses a step whose ground is missing, as hosts would."""

    spec: ClusterSpec
    hosts: dict[str, RestoreHost] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for host in self.spec.nodes:
            plane = RestoreHost(
                host.name,
                manifests=frozenset(STATIC_PODS),
                running=frozenset(STATIC_PODS),
                image="etcd:3.5.9",
                member_name=host.name,
                peer_url=f"https://{host.node_ip}:2380",
                data_dir="/var/lib/etcd",
                version="3.5.9",
                revision=50,
                has_data=True,
            )
            self.hosts[host.name] = plane if host.is_control_plane else RestoreHost(host.name)

    def facts(self) -> RestoreFacts:
        return RestoreFacts(dict(self.hosts))

    def change(self, name: str, **changes: object) -> None:
        self.hosts[name] = dataclasses.replace(self.hosts[name], **changes)  # type: ignore[arg-type]

    def mark(self, names: Iterable[str], restore: str, *marks: Mark, words: str = "") -> None:
        for name in names:
            host = self.hosts[name]
            has = host.restores.get(restore, frozenset()) | set(marks)
            begun = {**host.begun, **({restore: words} if words else {})}
            self.change(name, restores={**host.restores, restore: has}, begun=begun)

    def require(self, names: Iterable[str], restore: str, *marks: Mark) -> None:
        for name in names:
            if not set(marks) <= self.hosts[name].restores.get(restore, frozenset()):
                raise CommandFailedError(f"the simulated host lacks {marks}", where=name)

    def stop(self, names: Iterable[str]) -> None:
        for name in names:
            self.change(name, manifests=frozenset(), running=frozenset(), aside=frozenset(STATIC_PODS), healthy=False)

    def start(self, names: Iterable[str], pods: Iterable[str]) -> None:
        for name in names:
            host, up = self.hosts[name], frozenset(pods)
            self.change(name, manifests=host.manifests | up, running=host.running | up, aside=host.aside - up)

    def perform(self, step: Step) -> None:
        match step.action:
            case model.UploadSnapshot(restore=r, words=w, nodes=n) | model.FetchData(restore=r, words=w, nodes=n):
                self.mark(n, r, Mark.BEGUN, Mark.UPLOADED, words=w)
            case model.StageData(restore=r, members=m):
                nodes = [x.node for x in m]
                self.require(nodes, r, Mark.UPLOADED)
                self.mark(nodes, r, Mark.STAGED)
            case model.StopControlPlanes(restore=r, words=w, nodes=n):
                self.stop(n)
                self.mark(n, r, Mark.BEGUN, Mark.STOPPED, words=w)
            case model.SwitchData(restore=r, members=m):
                nodes = [x.node for x in m]
                self.require(nodes, r, Mark.STAGED, Mark.STOPPED)
                assert all(not self.hosts[n].running for n in nodes)
                self.mark(nodes, r, Mark.SWITCHED)
            case model.StartEtcd(restore=r, members=m):
                nodes = [x.node for x in m]
                self.require(nodes, r, Mark.SWITCHED)
                self.start(nodes, ["etcd"])
                self.mark(nodes, r, Mark.STARTED, Mark.SERVING)
            case model.StartApiServer(restore=r, node=node):
                self.require([node], r, Mark.SERVING)
                self.start([node], WRITERS[:1])
                self.mark([node], r, Mark.API)
            case model.StartControllers(restore=r, node=node):
                self.require([node], r, Mark.API)
                self.start([node], WRITERS[1:])
                self.mark([node], r, Mark.CONTROLLERS)
            case model.RestartKubelet(restore=r, node=node):
                self.mark([node], r, Mark.KUBELET)
            case model.RestartAddons(restore=r, node=node):
                self.mark([node], r, Mark.ADDONS)
            case model.FinishRestore(restore=r, nodes=n):
                self.mark(n, r, Mark.FINISHED)
            case model.StopMember(restore=r, words=w, node=node):
                self.stop([node])
                self.mark([node], r, Mark.BEGUN, Mark.STOPPED, words=w)
            case model.RemoveMember(restore=r, node=node):
                self.require([node], r, Mark.STOPPED)
                self.mark([node], r, Mark.REMOVED)
            case model.AddMember(restore=r, member=one):
                self.require([one.node], r, Mark.REMOVED)
                self.mark([one.node], r, Mark.ADDED)
            case model.PromoteMember(restore=r, member=one):
                self.require([one.node], r, Mark.ADDED)
                self.start([one.node], ["etcd"])
                self.change(one.node, healthy=True, holds_cluster=True)
                self.mark([one.node], r, Mark.STARTED, Mark.SERVING)
            case WaitHealthy() | model.CheckRestored():
                pass
            case _:
                raise TypeError(f"not known: {step.action!r}")


def decide(hosts: SimulatedHosts, kind: RestoreKind | None, snapshot: SnapshotFacts | None) -> RestoreArguments:
    """As the composition root does."""
    facts = hosts.facts()
    run = choose_run(hosts.spec, facts, kind, snapshot)
    members = new_members(hosts.spec, facts, run)
    nodes = tuple(m.node for m in members)
    replaced = run.kind is RestoreKind.MEMBER
    return RestoreArguments(
        run,
        nodes,
        workers=() if replaced else tuple(h.name for h in hosts.spec.workers),
        members=members,
        snapshot=snapshot,
        via=tuple(n for n in facts.serving if n not in nodes),
        namespaces=() if replaced else ("kube-system",),
    )


def ids(plan: Plan) -> list[str]:
    return [s.id for s in plan.steps]


def test_whole_plan_in_order() -> None:
    hosts = SimulatedHosts(make_spec(2, 1))
    plan = etcd_restore(hosts.spec, hosts.facts(), decide(hosts, None, SNAPSHOT))
    assert [(w.name, [s.id for s in w.steps]) for w in plan.waves] == [
        ("snapshot", ["upload", "stage"]),
        ("switch over", ["stop", "switch", "start"]),
        ("API servers", ["api/n1", "api/n2"]),
        ("controllers", ["controllers/n1", "controllers/n2"]),
        ("kubelets and caches", ["addons/n1", "addons/n2", "kubelet/n3", "addons/n3"]),
        ("checks", ["healthy", "check", "finish"]),
    ]
    survivor = dataclasses.replace(SNAPSHOT, digest="n2", member="n2")
    plan = etcd_restore(hosts.spec, hosts.facts(), decide(hosts, None, survivor))
    assert ids(plan)[:5] == ["stop", "fetch", "stage", "switch", "start"]


@pytest.mark.parametrize(
    ("kind", "member", "holders"),
    [(None, "", ("n1", "n2", "n3")), (None, "n2", ()), (RestoreKind.MEMBER, "", ())],
)
def test_old_data_is_compared_where_a_snapshot_took_its_place(
    kind: RestoreKind | None, member: str, holders: tuple[str, ...]
) -> None:
    hosts = SimulatedHosts(make_spec(3, 1))
    source = dataclasses.replace(SNAPSHOT, digest=member or SNAPSHOT.digest, member=member)
    plan = etcd_restore(hosts.spec, hosts.facts(), decide(hosts, kind, None if kind else source))
    (check,) = [s.action for s in plan.steps if isinstance(s.action, model.CheckRestored)]
    assert check.holders == holders


def test_a_version_that_lets_revisions_jump_restarts_no_add_ons() -> None:
    hosts = SimulatedHosts(make_spec(1, 1))
    arguments = dataclasses.replace(decide(hosts, None, SNAPSHOT), bump=10**9, namespaces=())
    plan = etcd_restore(hosts.spec, hosts.facts(), arguments)
    assert not [i for i in ids(plan) if i.startswith("addons/")]
    assert "kubelet/n2" in ids(plan)
    (stage,) = [s for s in plan.steps if s.id == "stage"]
    assert "revisions jump by 1000000000" in stage.details


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 5), st.integers(0, 3), st.sampled_from(["snapshot", "survivor", "member"]))
def test_every_prefix_of_every_plan_is_continued_exactly(planes: int, workers: int, what: str) -> None:
    spec = make_spec(max(planes, 3) if what == "member" else planes, workers)
    probe = _hosts(spec, what)
    source = {"snapshot": SNAPSHOT, "survivor": dataclasses.replace(SNAPSHOT, digest="n1", member="n1"), "member": None}
    whole = etcd_restore(spec, probe.facts(), decide(probe, None, source[what])).steps
    for length in range(len(whole) + 1):
        hosts = _hosts(spec, what)
        first = decide(hosts, None, source[what])
        for step in whole[:length]:
            hosts.perform(step)
        rest = whole[length:]
        within = etcd_restore(spec, hosts.facts(), first).steps
        if not rest:
            assert within == ()
            continue
        # What only looks is looked at again; nothing else is, and nothing is left out.
        looks = tuple(s for s in whole[:length] if s.id in ("healthy", "check"))
        assert within == looks + rest
        # Another process decides anew from what the hosts show, and must come to the same end.
        assert etcd_restore(spec, hosts.facts(), decide(hosts, None, source[what])).steps == within
        for step in within:
            hosts.perform(step)
        for host in spec.control_planes:
            assert hosts.hosts[host.name].manifests == frozenset(STATIC_PODS)


def _hosts(spec: ClusterSpec, what: str) -> SimulatedHosts:
    hosts = SimulatedHosts(spec)
    if what == "member":
        for host in spec.control_planes[:-1]:
            hosts.change(host.name, healthy=True, holds_cluster=True)
    return hosts


def findings(hosts: SimulatedHosts, kind: RestoreKind | None = None, *, force: bool = False, size: int = 0) -> set[str]:
    snapshot = SNAPSHOT
    run = choose_run(hosts.spec, hosts.facts(), kind, snapshot)
    found = restore_findings(hosts.spec, hosts.facts(), run, snapshot, force=force, size_bytes=size)
    return {f.id for f in blocking(found)}


def _serving(hosts: SimulatedHosts, *names: str) -> None:
    for name in names:
        hosts.change(name, healthy=True, holds_cluster=True)


def test_a_serving_quorum_is_not_set_back_without_force() -> None:
    hosts = SimulatedHosts(make_spec(3))
    _serving(hosts, "n1", "n2", "n3")
    assert findings(hosts) == {"quorum-serves"}
    assert findings(hosts, force=True) == set()
    _serving(hosts, "n1")
    hosts.change("n2", healthy=False)
    assert findings(hosts, RestoreKind.ALL) == {"quorum-serves"}
    hosts.change("n3", healthy=False)
    assert findings(hosts, RestoreKind.ALL) == set()


def test_an_alarm_of_a_serving_quorum_is_named_and_what_cures_it() -> None:
    hosts = SimulatedHosts(make_spec(3))
    _serving(hosts, "n1", "n2", "n3")
    hosts.change("n1", alarms=("NOSPACE",))
    hosts.change("n3", alarms=("NOSPACE",))
    assert findings(hosts) == {"quorum-serves"}
    run = choose_run(hosts.spec, hosts.facts(), None, SNAPSHOT)
    found = {f.id: f for f in restore_findings(hosts.spec, hosts.facts(), run, SNAPSHOT, force=False)}
    alarm = found["etcd-serves-with-alarm"]
    assert alarm.message == "NOSPACE, as told by n1, n3"
    assert "kops-py etcd defrag" in alarm.hint


def test_an_empty_store_that_serves_is_no_cluster() -> None:
    hosts = SimulatedHosts(make_spec(1))
    hosts.change("n1", healthy=True, holds_cluster=False, revision=400)
    run = choose_run(hosts.spec, hosts.facts(), None, SNAPSHOT)
    found = restore_findings(hosts.spec, hosts.facts(), run, SNAPSHOT, force=False)
    assert [f.id for f in found] == ["etcd-store-empty", "restore-loses"]


@pytest.mark.parametrize(
    ("serving", "expected"),
    [(3, RestoreKind.ALL), (2, RestoreKind.MEMBER), (1, RestoreKind.QUORUM), (0, RestoreKind.QUORUM)],
)
def test_the_kind_is_chosen_from_what_is_found(serving: int, expected: RestoreKind) -> None:
    hosts = SimulatedHosts(make_spec(3))
    _serving(hosts, *(f"n{i + 1}" for i in range(serving)))
    assert choose_run(hosts.spec, hosts.facts(), None, SNAPSHOT).kind is expected
    if not serving:
        for name in hosts.hosts:
            hosts.change(name, revision=0, has_data=False)
        assert choose_run(hosts.spec, hosts.facts(), None, SNAPSHOT).kind is RestoreKind.ALL


def test_a_member_cannot_be_replaced_without_a_quorum() -> None:
    hosts = SimulatedHosts(make_spec(3))
    _serving(hosts, "n1")
    assert findings(hosts, RestoreKind.MEMBER) == {"quorum-serves"}


def test_newer_data_of_a_survivor_is_offered() -> None:
    hosts = SimulatedHosts(make_spec(3))
    hosts.change("n2", revision=150)
    run = choose_run(hosts.spec, hosts.facts(), None, SNAPSHOT)
    found = restore_findings(hosts.spec, hosts.facts(), run, SNAPSHOT, force=False)
    (newer,) = blocking(found)
    assert (newer.id, "--from-member n2" in newer.hint) == ("newer-data-survives", True)
    assert "50 revisions are lost" in "".join(f.message for f in found)


def test_what_is_lost_is_told_when_nothing_is_left_to_compare_with() -> None:
    hosts = SimulatedHosts(make_spec(1))
    hosts.change("n1", revision=0, has_data=False)
    backup = dataclasses.replace(SNAPSHOT, label="backup b", taken_at=datetime(2026, 11, 25, 12, 0, 1, tzinfo=UTC))
    run = choose_run(hosts.spec, hosts.facts(), None, backup)
    (loses,) = restore_findings(hosts.spec, hosts.facts(), run, backup, force=False)
    assert loses.id == "restore-loses"
    assert "backup b: writes after 2026-11-25 12:00:01 UTC are lost" in loses.message


@pytest.mark.parametrize(
    ("change", "source", "takes"),
    [
        ({}, "s.db: etcd 3.5, revision 100; writes after it was taken are lost", "takes about 160 s: 60 s, and 2000.0"),
        (
            {"label": "the data of n2", "member": "n2"},
            "the data of n2: etcd 3.5, revision 100; writes that are not in the database of n2 are lost",
            "takes about 260 s: 60 s, and 2000.0 MB twice at 20 MB/s",
        ),
    ],
)
def test_a_plan_says_what_is_restored_and_how_long_it_takes(change: dict[str, str], source: str, takes: str) -> None:
    hosts = SimulatedHosts(make_spec(3))
    snapshot = dataclasses.replace(SNAPSHOT, size_bytes=2_000_000_000, **change)  # type: ignore[arg-type]
    run = choose_run(hosts.spec, hosts.facts(), RestoreKind.ALL, snapshot)
    members = new_members(hosts.spec, hosts.facts(), run)
    nodes = tuple(m.node for m in members)
    notes = etcd_restore(hosts.spec, hosts.facts(), RestoreArguments(run, nodes, (), members, snapshot)).notes
    assert notes[0] == source
    assert notes[1].startswith(takes)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"problem": UnreachableError("does not answer")}, "restore-host-unreachable"),
        ({"wal_dir": "/wal"}, "etcd-wal-dir"),
        ({"manifests": frozenset(WRITERS)}, "no-etcd-manifest"),
        ({"version": "3.4.9"}, "snapshot-other-minor"),
        ({"free_bytes": 2000}, "restore-space"),
    ],
)
def test_what_else_stops_a_restore(change: dict[str, object], expected: str) -> None:
    hosts = SimulatedHosts(make_spec(3))
    hosts.change("n3", **change)
    assert findings(hosts, size=1000) == {expected}


def test_a_snapshot_of_another_cluster_is_refused() -> None:
    hosts = SimulatedHosts(make_spec(1))
    foreign = dataclasses.replace(SNAPSHOT, has_our_ca=False)
    run = choose_run(hosts.spec, hosts.facts(), None, foreign)
    assert {f.id for f in restore_findings(hosts.spec, hosts.facts(), run, foreign, force=True)} == {"foreign-snapshot"}


def test_an_unreachable_worker_is_only_told() -> None:
    hosts = SimulatedHosts(make_spec(1, 1))
    hosts.change("n2", problem=UnreachableError("does not answer"))
    assert findings(hosts) == set()


def test_another_unfinished_restore_and_a_repeated_one_are_refused() -> None:
    hosts = SimulatedHosts(make_spec(1))
    hosts.mark(["n1"], "r1-other", Mark.BEGUN, words="all other")
    assert findings(hosts) == {"restore-unfinished"}
    hosts.mark(["n1"], "r1-other", Mark.FINISHED)
    assert findings(hosts) == set()
    assert choose_run(hosts.spec, hosts.facts(), None, SNAPSHOT).id == "r2-abcdef012345"
    hosts.mark(["n1"], "r2-abcdef012345", Mark.BEGUN, Mark.FINISHED, words=f"quorum {SNAPSHOT.digest}")
    assert findings(hosts) == {"restore-repeated"}


def test_a_begun_restore_goes_on_by_the_same_id() -> None:
    hosts = SimulatedHosts(make_spec(3))
    hosts.mark(["n2"], "r4-x", Mark.BEGUN, Mark.STOPPED, words=f"quorum {SNAPSHOT.digest}")
    _serving(hosts, "n1", "n2", "n3")
    assert choose_run(hosts.spec, hosts.facts(), None, SNAPSHOT) == RestoreRun(
        "r4-x", RestoreKind.QUORUM, SNAPSHOT.digest
    )
    assert findings(hosts) == set()  # its interlocks were passed when it began
