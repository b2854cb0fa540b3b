"""The plan of a restore onto new machines: bootstrap's with a middle of its own, continued exactly, refused by name."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kops_py.model.actions import PrepareHost
from kops_py.model.errors import CommandFailedError, UnreachableError
from kops_py.model.etcd_restore import (
    STATIC_PODS,
    CheckRestored,
    FinishRestore,
    Mark,
    RestoreFacts,
    RestoreHost,
    RestoreKind,
    RestoreRun,
    SnapshotFacts,
    StageData,
    StartEtcd,
    StopControlPlanes,
    SwitchData,
    UploadSnapshot,
)
from kops_py.model.facts import NodeFacts
from kops_py.model.finding import Severity, blocking
from kops_py.model.new_machines import ForgetMachines, InitRestored, MakeData, OldCluster, PlaceFiles
from kops_py.model.plan import Plan, Step, unexpected_steps
from kops_py.model.spec import ClusterSpec
from kops_py.runbooks.bootstrap import bootstrap
from kops_py.runbooks.etcd_restore_choice import choose_run, keeps_data
from kops_py.runbooks.new_machines import (
    NewMachinesArguments,
    choose_first,
    new_machines,
    new_machines_findings,
    seen_facts,
)
from kops_py.runbooks.new_machines_etcd import external_members
from tests.fakes.cluster import SimulatedCluster, arguments_for, make_spec

SNAPSHOT = SnapshotFacts("backup b", "abcdef0123456789", 1000, 100, "3.5")
PKI = ("/etc/kubernetes/pki/ca.crt", "/etc/kubernetes/pki/ca.key", "/etc/kubernetes/pki/sa.key")
ENCRYPTION = "/etc/kubernetes/enc/config.yaml"
OLD = OldCluster(
    host="old1",
    digest="d" * 64,
    pki=PKI,
    files=(ENCRYPTION,),
    nodes=("old1", "old2", "n2"),
    endpoint="10.8.0.1:6443",
    kubernetes_version="v1.31.0",
    service_subnets="10.96.0.0/12",
    pod_subnets="10.244.0.0/16",
    dns_domain="cluster.local",
    flags=(("encryption-provider-config", ENCRYPTION),),
)


@dataclass
class World:
    """Empty machines, what a restore makes of them, and the old cluster that comes up with the first API server."""

    spec: ClusterSpec
    marks: dict[str, set[Mark]] = field(default_factory=dict)
    words: dict[str, str] = field(default_factory=dict)
    shows_old: bool = False
    """Whether the API of an init that has not ended answers."""

    def __post_init__(self) -> None:
        self.cluster = SimulatedCluster(self.spec)

    def restore_facts(self) -> RestoreFacts:
        run = "r1-abcdef012345"
        hosts = {}
        for name in dict.fromkeys(h.name for h in (*self.spec.nodes, *self.spec.etcd_hosts)):
            facts = self.cluster.hosts[name]
            hosts[name] = RestoreHost(
                name,
                problem=facts.problem,
                unit="etcd.service" if facts.has_etcd_data and self.spec.external_etcd else "",
                has_data=facts.has_etcd_data,
                healthy=facts.has_etcd_data,
                manifests=frozenset(STATIC_PODS) if facts.manifests else frozenset(),
                restores={run: frozenset(self.marks[name])} if name in self.marks else {},
                begun={run: self.words[name]} if name in self.words else {},
            )
        return RestoreFacts(hosts)

    def arguments(self) -> NewMachinesArguments:
        facts = self.restore_facts()
        run = choose_run(self.spec, facts, None, SNAPSHOT)
        assert run == RestoreRun("r1-abcdef012345", RestoreKind.NEW_MACHINES, SNAPSHOT.digest)
        return self.arguments_of(facts, run)

    def arguments_of(self, facts: RestoreFacts, run: RestoreRun) -> NewMachinesArguments:
        return NewMachinesArguments(
            run=run,
            first=choose_first(self.spec, facts, run),
            snapshot=SNAPSHOT,
            old=OLD,
            bootstrap=arguments_for(self.spec),
            etcd_version="" if self.spec.external_etcd else "3.5.15",
            data_dir="/var/lib/etcd",
            members=external_members(self.spec, facts),
            bump=10**9,
            configured=frozenset({"encryption-provider-config"}),
        )

    def plan(self, arguments: NewMachinesArguments | None = None) -> Plan:
        facts = self.cluster.facts()
        return new_machines(self.spec, facts, self.restore_facts(), arguments or self.arguments())

    def mark(self, name: str, *marks: Mark, words: str = "") -> None:
        self.marks.setdefault(name, set()).update(marks)
        if words:
            self.words[name] = words

    def require(self, name: str, *marks: Mark) -> None:
        if not set(marks) <= self.marks.get(name, set()):
            raise CommandFailedError(f"the simulated host lacks {marks}", where=name)

    def perform(self, step: Step) -> None:
        match step.action:
            case PlaceFiles(node=node, words=words):
                self.mark(node, Mark.PLACED, words=words)
            case UploadSnapshot(nodes=nodes, words=words):
                for node in nodes:
                    if self.spec.external_etcd:
                        assert self.cluster.hosts[node].has_etcd_data, "etcd is not even formed"
                    self.mark(node, Mark.UPLOADED, words=words)
            case StageData(members=members, bump=0):
                for member in members:
                    self.require(member.node, Mark.UPLOADED)
                    self.mark(member.node, Mark.STAGED)
            case StopControlPlanes(nodes=(), units=units):
                for node in units:
                    self.mark(node, Mark.STOPPED)
            case SwitchData(members=members):
                for member in members:
                    self.require(member.node, Mark.STAGED, Mark.STOPPED)
                    self.mark(member.node, Mark.SWITCHED)
            case StartEtcd(members=members):
                for member in members:
                    self.require(member.node, Mark.SWITCHED)
                    self.mark(member.node, Mark.STARTED, Mark.SERVING)
            case MakeData(member=member):
                self.require(member.node, Mark.UPLOADED)
                assert self.cluster.hosts[member.node].prepared_digest, "there is no image yet"
                self.mark(member.node, Mark.STAGED, Mark.SWITCHED)
            case InitRestored(init=init):
                self.require(init.node, Mark.PLACED)
                for holder in [h.name for h in self.spec.etcd_hosts] or [init.node]:
                    self.require(holder, Mark.SWITCHED)
                self.cluster.perform(dataclasses.replace(step, action=init))
                self.show_old()
                self.mark(init.node, Mark.INITIALISED)
            case ForgetMachines(node=node):
                self.require(node, Mark.INITIALISED)
                for name in [n for n in self.cluster.nodes if not self._is_real(n)]:
                    del self.cluster.nodes[name]
                self.mark(node, Mark.FORGOTTEN)
            case CheckRestored():
                pass
            case FinishRestore(nodes=nodes):
                for name in nodes:
                    self.mark(name, Mark.FINISHED)
            case _:
                if not isinstance(step.action, PrepareHost) and step.id.startswith("join/"):
                    assert Mark.FORGOTTEN in set().union(*self.marks.values()), "kubeadm would ask lost members"
                self.cluster.perform(step)

    def show_old(self) -> None:
        for name in OLD.nodes:
            label = {"node-role.kubernetes.io/control-plane": ""}
            node = NodeFacts(name, True, "", "v1.31.0", "10.8.0.1", pod_cidr=f"10.244.9{name[-1]}.0/24", labels=label)
            self.cluster.nodes.setdefault(name, node)

    def _is_real(self, name: str) -> bool:
        return name in self.cluster.hosts and self.cluster.hosts[name].has_kubelet_conf


def ids(plan: Plan) -> list[str]:
    return [s.id for s in plan.steps]


def test_whole_plan_in_order() -> None:
    world = World(make_spec(2, 1, 1))
    plan = world.plan()
    assert ids(plan) == [
        "load-balancer/n4",
        "prepare/n1",
        "prepare/n2",
        "prepare/n3",
        "place/n1",
        "upload/n1",
        "data/n1",
        "place/n2",
        "init/n1",
        "forget",
        "join/n2",
        "join/n3",
        "network/n1",
        "network/n2",
        "network/n3",
        "healthy",
        "revoke",
        "check",
        "finish",
    ]
    assert plan.arguments == {"kind": "new-machines", "source": SNAPSHOT.digest}


def test_the_plan_says_what_goes_where_and_what_is_deleted() -> None:
    steps = {s.id: s for s in World(make_spec(2, 1)).plan().steps}
    first, second = steps["place/n1"].action, steps["place/n2"].action
    assert isinstance(first, PlaceFiles)
    assert isinstance(second, PlaceFiles)
    assert first.paths == (*PKI, ENCRYPTION)
    assert second.paths == (ENCRYPTION,), "the authorities come to it by kubeadm join"
    assert set(first.paths) <= set(steps["place/n1"].details)
    data = steps["data/n1"].action
    assert isinstance(data, MakeData)
    assert (data.member.name, data.member.peer_url, data.bump) == ("n1", "https://10.9.0.1:2380", 10**9)
    told = "\n".join(steps["forget"].details)
    assert "not in the inventory: old1, old2:" in told
    assert "to join anew under their names: n2:" in told


def test_without_files_for_them_other_control_planes_get_none() -> None:
    world = World(make_spec(2))
    arguments = dataclasses.replace(world.arguments(), old=dataclasses.replace(OLD, files=()))
    assert "place/n2" not in ids(world.plan(arguments))


def test_an_external_etcd_is_formed_and_given_the_snapshot_before_kubeadm() -> None:
    world = World(make_spec(2, 1, etcd=3))
    plan = world.plan()
    assert ids(plan)[: ids(plan).index("init/n1") + 2] == [
        *("place/n1", "place/n2"),
        *(f"etcd-certificates/n{n}" for n in (4, 5, 6)),
        *(f"etcd/n{n}" for n in (4, 5, 6)),
        *("etcd-healthy", "upload", "stage", "stop", "switch", "start"),
        *("prepare/n1", "prepare/n2", "prepare/n3", "etcd-client/n1", "etcd-client/n2"),
        *("init/n1", "forget"),
    ]
    steps = {s.id: s for s in plan.steps}
    init, stage, finish = (steps[i].action for i in ("init/n1", "stage", "finish"))
    assert isinstance(init, InitRestored)
    assert init.data is None
    assert isinstance(stage, StageData)
    assert next((m.name, m.peer_url, m.unit) for m in stage.members) == ("n4", "https://10.9.0.4:2380", "etcd.service")
    assert isinstance(finish, FinishRestore)
    assert finish.nodes == ("n1", "n2", "n4", "n5", "n6")


def test_an_etcd_that_is_being_given_the_snapshot_is_not_started_by_anything_else() -> None:
    world = World(make_spec(1, 1, etcd=3))
    arguments = world.arguments()
    for step in world.plan().steps:
        world.perform(step)
        if step.id == "stop":
            break
    for name in ("n3", "n4", "n5"):
        world.cluster.hosts[name] = dataclasses.replace(world.cluster.hosts[name], services=frozenset())
    assert ids(world.plan(arguments))[:2] == ["switch", "start"]
    # What fails before the start is put back, with the marks of these hosts: it begins with the snapshot again.
    for name in ("n3", "n4", "n5"):
        del world.marks[name], world.words[name]
        world.cluster.hosts[name] = dataclasses.replace(world.cluster.hosts[name], services=frozenset({"etcd.service"}))
    assert world.arguments().run == arguments.run
    assert ids(world.plan(arguments))[:2] == ["upload", "stage"]


def test_control_planes_lost_while_an_external_etcd_serves() -> None:
    """Only keys are brought back: the members, and workers that live, go on as they are."""
    spec = make_spec(2, 2, etcd=1)
    world = World(spec)
    for step in bootstrap(spec, world.cluster.facts(), arguments_for(spec)).plan.steps:
        world.cluster.perform(step)
    lost = World(spec)
    lost.cluster.external_members = world.cluster.external_members
    for name in ("n3", "n5"):  # a worker that lives, and the member
        lost.cluster.hosts[name] = world.cluster.hosts[name]
    hosts = dict(lost.restore_facts().hosts)
    facts = RestoreFacts({**hosts, "n5": dataclasses.replace(hosts["n5"], holds_cluster=True)})
    assert keeps_data(spec, facts)
    run = choose_run(spec, facts, None, SNAPSHOT)
    assert run.kind is RestoreKind.CONTROL_PLANES
    arguments = lost.arguments_of(facts, run)
    plan = new_machines(spec, lost.cluster.facts(), facts, arguments)
    assert ids(plan) == [
        *("place/n1", "place/n2", "prepare/n1", "prepare/n2", "prepare/n4", "etcd-client/n1", "etcd-client/n2"),
        *("init/n1", "forget", "join/n2", "join/n4"),
        *("network/n1", "network/n2", "network/n3", "network/n4", "healthy", "revoke", "check", "finish"),
    ]
    assert "etcd serves and keeps its data" in plan.notes[0]
    assert not blocking(new_machines_findings(spec, facts, arguments))
    # Half-way through its init the first is no new machine; the restore stays what it is, and touches no data.
    begun = {run.id: frozenset({Mark.PLACED})}
    half = dataclasses.replace(
        hosts["n1"], manifests=frozenset({"kube-apiserver"}), restores=begun, begun={run.id: run.words}
    )
    later = RestoreFacts({**facts.hosts, "n1": half})
    assert not keeps_data(spec, later)
    assert choose_run(spec, later, None, SNAPSHOT) == run
    assert not {"upload", "stage", "stop", "switch", "start"} & {
        *ids(new_machines(spec, lost.cluster.facts(), later, arguments))
    }
    assert not blocking(new_machines_findings(spec, later, arguments))
    foreign = dataclasses.replace(arguments, snapshot=dataclasses.replace(SNAPSHOT, has_our_ca=False))
    (found,) = blocking(new_machines_findings(spec, facts, foreign))
    assert "is not that of the etcd that serves" in found.message


@pytest.mark.parametrize("changes", [{"healthy": False}, {"holds_cluster": False}])
def test_an_etcd_that_does_not_serve_keeps_nothing(changes: dict[str, Any]) -> None:
    spec = make_spec(1, etcd=1)
    serving = RestoreHost("n2", unit="etcd.service", has_data=True, healthy=True, holds_cluster=True)
    assert keeps_data(spec, RestoreFacts({"n1": RestoreHost("n1"), "n2": serving}))
    other = dataclasses.replace(serving, **changes)
    assert not keeps_data(spec, RestoreFacts({"n1": RestoreHost("n1"), "n2": other}))
    running = RestoreHost("n1", manifests=frozenset({"kube-apiserver"}))
    assert not keeps_data(spec, RestoreFacts({"n1": running, "n2": serving}))
    down = RestoreHost("n1", problem=UnreachableError("gone", where="n1"))
    assert not keeps_data(spec, RestoreFacts({"n1": down, "n2": serving})), "it may be there"


def test_once_the_api_serves_no_member_is_given_the_snapshot_again() -> None:
    """Not even one whose host lost its marks, with its disk: the others hold what was written since."""
    world = World(make_spec(1, 1, etcd=3))
    arguments = world.arguments()
    for step in world.plan().steps:
        world.perform(step)
        if step.id == "init/n1":
            break
    del world.marks["n4"], world.words["n4"]
    assert not {"upload", "stage", "stop", "switch", "start"} & {*ids(world.plan(arguments))}


def test_a_kind_that_does_not_fit_is_refused() -> None:
    spec = make_spec(1, etcd=1)
    world = World(spec)
    run = choose_run(spec, world.restore_facts(), RestoreKind.CONTROL_PLANES, SNAPSHOT)
    arguments = world.arguments_of(world.restore_facts(), run)
    assert [f.id for f in blocking(new_machines_findings(spec, world.restore_facts(), arguments))] == [
        "etcd-does-not-serve"
    ]


def test_an_etcd_host_with_data_of_something_else_is_no_new_machine() -> None:
    spec = make_spec(1, etcd=1)
    world = World(spec)
    arguments = world.arguments()
    hosts = dict(world.restore_facts().hosts)
    empty = RestoreHost("n2", unit="etcd.service", has_data=True, healthy=True)
    assert choose_run(spec, RestoreFacts({**hosts, "n2": empty}), None, SNAPSHOT).kind is RestoreKind.NEW_MACHINES
    facts = RestoreFacts({**hosts, "n2": dataclasses.replace(empty, healthy=False)})
    assert choose_run(spec, facts, None, SNAPSHOT).kind is not RestoreKind.NEW_MACHINES
    found = blocking(new_machines_findings(spec, facts, arguments))
    assert [(f.id, f.node) for f in found] == [("host-has-cluster", "n2")]


def test_the_minor_of_an_external_etcd_that_is_there_already() -> None:
    world = World(make_spec(1, etcd=1))
    arguments = world.arguments()
    assert not blocking(new_machines_findings(world.spec, world.restore_facts(), arguments))
    other = dataclasses.replace(arguments, etcd_version="3.4.23")
    (found,) = blocking(new_machines_findings(world.spec, world.restore_facts(), other))
    assert found.id == "snapshot-other-minor"
    assert "group etcd" in found.message


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 3), st.integers(0, 3), st.integers(0, 1), st.booleans(), st.sampled_from([0, 0, 1, 3]))
def test_every_prefix_of_every_plan_is_continued_exactly(
    planes: int, workers: int, balancers: int, old: bool, etcd: int
) -> None:
    spec = make_spec(planes, workers, balancers, labels=True, etcd=etcd)
    whole = World(spec).plan().steps
    for length in range(len(whole) + 1):
        world = World(spec)
        first = world.arguments()
        for step in whole[:length]:
            world.perform(step)
        done = {s.id for s in whole[:length]}
        if old and done & {"data/n1", "start"} and "init/n1" not in done:
            # kubeadm init is half-way: its API answers and shows the old cluster, which must not be believed
            world.cluster.initialised = True
            world.show_old()
        rest = whole[length:]
        within = world.plan(first).steps
        assert not unexpected_steps(rest, tuple(s for s in within if s.id != "check" or s in rest)), (length, within)
        # Another process decides anew from what the hosts show, and comes to the same end.
        if length < len(whole):
            assert world.plan().steps == within
        if old and world.cluster.initialised and "init/n1" not in done:
            world.cluster.initialised = False
            world.cluster.nodes.clear()
        for step in within:
            world.perform(step)
        assert world.plan(first).steps == ()
        assert sorted(world.cluster.nodes) == sorted(h.name for h in spec.nodes)
        assert not bootstrap(spec, world.cluster.facts(), arguments_for(spec)).plan.has_changes


def test_the_first_control_plane_stays_the_first() -> None:
    spec = make_spec(2)
    world = World(spec)
    run = world.arguments().run
    lost = UnreachableError("gone", where="n1")
    world.cluster.hosts["n1"] = dataclasses.replace(world.cluster.hosts["n1"], problem=lost)
    assert choose_first(spec, world.restore_facts(), run) == "n2"
    world.mark("n2", Mark.UPLOADED, words=run.words)
    world.cluster.hosts["n1"] = dataclasses.replace(world.cluster.hosts["n1"], problem=None)
    arguments = world.arguments()
    assert arguments.first == "n2"
    assert "init/n2" in ids(world.plan(arguments))


def test_the_api_of_an_init_that_has_not_ended_is_not_believed() -> None:
    world = World(make_spec(1, 1))
    arguments = world.arguments()
    for step in world.plan().steps[:5]:
        world.perform(step)
    world.cluster.initialised = True
    world.show_old()
    assert seen_facts(world.cluster.facts(), world.restore_facts(), arguments).kube is None
    world.mark("n1", Mark.INITIALISED)
    up = frozenset({"kube-apiserver.yaml"})
    world.cluster.hosts["n1"] = dataclasses.replace(world.cluster.hosts["n1"], manifests=up)
    seen = seen_facts(world.cluster.facts(), world.restore_facts(), arguments).kube
    assert seen is not None
    assert seen.nodes == {}, "none of these machines is here"


def test_marks_of_a_cluster_that_was_reset_since_are_not_believed() -> None:
    world = World(make_spec(1, 1))
    arguments = world.arguments()
    for step in world.plan().steps:
        if step.id == "join/n2":
            break
        world.perform(step)
    assert "forget" not in ids(world.plan(arguments))
    again = World(world.spec, marks=world.marks, words=world.words)  # kubeadm reset by hand: the marks stay
    left = ids(again.plan(arguments))
    assert left.index("init/n1") < left.index("forget") < left.index("join/n2")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"kubernetes_version": "v1.30.9"}, "backup-other-kubernetes"),
        ({"service_subnets": "10.112.0.0/12"}, "backup-other-networks"),
        ({"pod_subnets": "10.245.0.0/16"}, "backup-other-networks"),
        ({"dns_domain": "example.org"}, "backup-other-networks"),
        ({"flags": (*OLD.flags, ("encryption-provider-config-x", "/x"))}, ""),
        ({"absent": ("/srv/oidc.crt",)}, "bundle-lacks-files"),
        ({"kubernetes_version": ""}, ""),
        ({"service_subnets": ""}, ""),
    ],
)
def test_another_cluster_than_cluster_yaml_says_is_refused(changes: dict[str, object], expected: str) -> None:
    world = World(make_spec(1))
    old = dataclasses.replace(OLD, **changes)  # type: ignore[arg-type]
    found = new_machines_findings(world.spec, world.restore_facts(), dataclasses.replace(world.arguments(), old=old))
    assert {f.id for f in blocking(found)} == ({expected} if expected else set())


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, set()),
        ({"configured": frozenset()}, {"api-server-flags-missing"}),
        ({"etcd_version": "3.6.4"}, {"snapshot-other-minor"}),
        ({"old_answers": True}, {"old-cluster-answers"}),
        ({"snapshot": dataclasses.replace(SNAPSHOT, has_our_ca=False)}, {"foreign-snapshot"}),
    ],
)
def test_what_else_is_refused(changes: dict[str, object], expected: set[str]) -> None:
    world = World(make_spec(1))
    arguments = dataclasses.replace(world.arguments(), **changes)  # type: ignore[arg-type]
    found = new_machines_findings(world.spec, world.restore_facts(), arguments)
    assert {f.id for f in blocking(found)} == expected


def test_another_flag_than_that_of_the_encryption_is_only_told() -> None:
    world = World(make_spec(1))
    old = dataclasses.replace(OLD, flags=(("audit-policy-file", "/etc/kubernetes/audit.yaml"),))
    [found] = new_machines_findings(world.spec, world.restore_facts(), dataclasses.replace(world.arguments(), old=old))
    assert (found.id, found.severity) == ("api-server-flags-missing", Severity.WARNING)


def test_webhooks_are_told_of_until_the_first_control_plane_is_up() -> None:
    world = World(make_spec(1))
    arguments = dataclasses.replace(world.arguments(), old=dataclasses.replace(OLD, webhooks=("gate", "inject")))
    [found] = new_machines_findings(world.spec, world.restore_facts(), arguments)
    assert (found.id, found.severity, found.message) == ("webhooks-without-pods", Severity.WARNING, "gate, inject")
    for step in world.plan(arguments).steps[:6]:
        world.perform(step)
    assert new_machines_findings(world.spec, world.restore_facts(), arguments) == ()


def test_a_host_with_a_control_plane_is_no_new_machine() -> None:
    spec = make_spec(2)
    world = World(spec)
    arguments = world.arguments()
    world.cluster.hosts["n2"] = dataclasses.replace(
        world.cluster.hosts["n2"], manifests=frozenset({"kube-apiserver.yaml"})
    )
    assert choose_run(spec, world.restore_facts(), None, SNAPSHOT).kind is not RestoreKind.NEW_MACHINES
    found = blocking(new_machines_findings(spec, world.restore_facts(), arguments))
    assert [(f.id, f.node) for f in found] == [("host-has-cluster", "n2")]
    world.mark("n1", Mark.PLACED, words=arguments.run.words)
    assert not blocking(new_machines_findings(spec, world.restore_facts(), arguments)), "it is this restore's own"


def test_another_restore_that_was_begun_is_told() -> None:
    world = World(make_spec(1))
    arguments = world.arguments()
    world.mark("n1", Mark.PLACED, words=arguments.run.words)
    other = dataclasses.replace(arguments, run=RestoreRun("r2-fff", RestoreKind.NEW_MACHINES, "fff"))
    found = blocking(new_machines_findings(world.spec, world.restore_facts(), other))
    assert [f.id for f in found] == ["restore-unfinished"]


def test_new_machines_are_chosen_only_where_nothing_was_ever_set_up() -> None:
    spec = make_spec(2)
    bare = {n: RestoreHost(n) for n in ("n1", "n2")}
    assert choose_run(spec, RestoreFacts(bare), None, SNAPSHOT).kind is RestoreKind.NEW_MACHINES
    for changes in ({"manifests": frozenset({"etcd"})}, {"aside": frozenset({"etcd"})}, {"unit": "etcd.service"}):
        hosts = {**bare, "n2": dataclasses.replace(RestoreHost("n2"), **changes)}
        assert choose_run(spec, RestoreFacts(hosts), None, SNAPSHOT).kind is RestoreKind.ALL
    down = {n: RestoreHost(n, problem=UnreachableError("gone", where=n)) for n in ("n1", "n2")}
    assert choose_run(spec, RestoreFacts(down), None, SNAPSHOT).kind is RestoreKind.ALL
    half = {**bare, "n1": down["n1"]}
    assert choose_run(spec, RestoreFacts(half), None, SNAPSHOT).kind is RestoreKind.NEW_MACHINES
