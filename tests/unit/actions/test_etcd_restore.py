"""Restores run by the real engine on hosts made of folders: to the end, undone, killed and begun again."""

from __future__ import annotations

import errno
import hashlib
import io
import os
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import pytest

from kops_py.actions.etcd_restore_perform import RestorePerformer
from kops_py.connect.base import Cancel
from kops_py.engine.journal import Journal
from kops_py.engine.run import Engine, Outcome, StepContext
from kops_py.model.actions import WaitHealthy
from kops_py.model.errors import KopsError, UnexpectedError, UnreachableError
from kops_py.model.etcd_restore import (
    STATIC_PODS,
    WRITERS,
    CheckRestored,
    Mark,
    RestoreFacts,
    RestoreKind,
    RestoreRun,
    SnapshotFacts,
    StartEtcd,
)
from kops_py.model.event import Event, Note
from kops_py.model.plan import Plan
from kops_py.model.spec import ClusterSpec, Group
from kops_py.observe.etcd_restore import observe_restore
from kops_py.runbooks.etcd_restore import RestoreArguments, etcd_restore
from kops_py.runbooks.etcd_restore_choice import choose_run, new_members
from tests.fakes.cluster import make_spec
from tests.fakes.restore_hosts import FolderCluster
from tests.unit.actions.stage import Access, NoAnsible, stage

SNAPSHOT = b"what the snapshot holds"
DIGEST = hashlib.sha256(SNAPSHOT).hexdigest()


class Performer(RestorePerformer):
    """The real one, without the two steps that ask the Kubernetes API; ``after`` is told each step that ended."""

    after: Callable[[str], None] = staticmethod(lambda _: None)

    def apply(self, ctx: StepContext) -> None:
        if not isinstance(ctx.step.action, WaitHealthy | CheckRestored):
            super().apply(ctx)
        self.after(ctx.step.id)


class Killed(BaseException):
    """The process ended here; no KopsError, so nothing is put back."""


class World:
    """A cluster of folders with the program's view of it."""

    def __init__(self, folder: Path, control_planes: int, snapshot: bytes = SNAPSHOT, external: int = 0) -> None:
        self.folder = folder
        self.snapshot = snapshot
        self.spec = _with_external(make_spec(control_planes, 0), external)
        names = [h.name for h in self.spec.control_planes]
        self.cluster = FolderCluster(folder / "hosts", names, [f"n{len(names) + 1 + i}" for i in range(external)])
        self.cancel = Cancel()
        self.events: list[Event] = []
        self.runs = 0
        base = stage(control_planes)
        self.deps = replace(base.deps, spec=self.spec, fleet=self.cluster, ansible=NoAnsible(), kube=Access(base.kube))

    def facts(self) -> RestoreFacts:
        return observe_restore(self.cluster, self.spec, cancel=self.cancel, closely=True)

    def arguments(self, kind: RestoreKind | None = RestoreKind.ALL, member: str = "") -> RestoreArguments:
        facts = self.facts()
        source = SnapshotFacts("s", member or DIGEST, 10, member=member)
        run = choose_run(self.spec, facts, kind, None if kind is RestoreKind.MEMBER else source)
        members = new_members(self.spec, facts, run)
        holders = tuple(m.node for m in members)
        nodes = tuple(m.node for m in members if not m.unit)
        if self.spec.external_etcd and run.kind is not RestoreKind.MEMBER:
            nodes = tuple(h.name for h in self.spec.control_planes)
        via = tuple(n for n in facts.serving if n not in holders)
        return RestoreArguments(run, nodes, members=members, snapshot=source, via=via, namespaces=("kube-system",))

    def run(self, arguments: RestoreArguments | None = None, after: Callable[[str], None] = lambda _: None) -> Outcome:
        """Run the command as a person does: look, decide, carry out."""
        chosen = arguments or self.arguments()

        def plan() -> Plan:
            return etcd_restore(self.spec, self.facts(), chosen)

        self.runs += 1
        performer = Performer(self.deps, lambda: io.BytesIO(self.snapshot), self.folder)
        performer.after = after
        journal = Journal(self.folder / f"journal-{self.runs}.jsonl")
        return Engine(performer, journal, self.events.append, self.cancel).run(plan(), plan)

    def assert_untouched(self) -> None:
        """Everything is as it was before the restore, and nothing of it is left."""
        for name, host in self.cluster.hosts.items():
            assert host.store == f"old data of {name}"
            assert host.running == set(STATIC_PODS)
            assert (host.root / "kubelet").exists()
            left = {p.name for p in host.root.rglob("*") if "restore" in p.name}
            assert left <= {"restore"}, left

    def assert_restored(self, names: Iterable[str] = ()) -> None:
        for name in names or self.cluster.hosts:
            host = self.cluster.hosts[name]
            assert host.store == SNAPSHOT.decode()
            assert host.kept == [f"old data of {name}"]
            assert host.running == set(STATIC_PODS)
            assert not list(host.root.rglob("snapshot*")), "the snapshot holds every secret, and is left"
            assert not list(host.root.rglob(".kops-py-restore"))
            assert not list(host.root.rglob("restore/manifests/*"))


def _with_external(spec: ClusterSpec, count: int) -> ClusterSpec:
    """Return a spec whose etcd is on hosts of its own, behind the control planes in the inventory."""
    if not count:
        return spec
    planes = [replace(h, groups=h.groups - {Group.ETCD}) for h in spec.control_planes]
    hosts = [replace(h, groups=frozenset({Group.ETCD})) for h in make_spec(len(planes) + count).hosts[len(planes) :]]
    return replace(spec, hosts=(*planes, *hosts), external_etcd=True)


def ids(plan: Plan) -> list[str]:
    return [s.id for s in plan.steps]


@pytest.mark.parametrize("control_planes", [1, 3])
def test_all_members_get_the_snapshot_and_keep_their_old_data(tmp_path: Path, control_planes: int) -> None:
    world = World(tmp_path, control_planes)
    outcome = world.run()
    assert outcome.ok, outcome.errors
    world.assert_restored()
    assert choose_run(world.spec, world.facts(), RestoreKind.ALL, SnapshotFacts("s", DIGEST)).id.startswith("r2-")
    for host in world.cluster.hosts.values():
        assert (host.root / "var/lib/kops-py/restore").stat().st_mode & 0o777 == 0o700


def test_a_full_database_that_comes_with_the_snapshot_is_up_and_its_alarm_taken_back(tmp_path: Path) -> None:
    world = World(tmp_path, 1)
    arguments = world.arguments()
    world.cluster.alarms = [(99, 1)]
    outcome = world.run(arguments)
    assert outcome.ok, outcome.errors
    assert world.cluster.log == ["alarm disarm"]
    assert any("NOSPACE came with the data and was taken back" in e.message for e in world.events if type(e) is Note)
    world.assert_restored()


def test_corruption_that_comes_with_the_snapshot_is_told_and_never_taken_back(tmp_path: Path) -> None:
    world = World(tmp_path, 1)
    arguments = world.arguments()
    world.cluster.alarms = [(98, 1), (99, 2)]
    outcome = world.run(arguments)
    assert "n1: the restored etcd has the alarm CORRUPT, and takes no writes" in str(outcome.errors[0])
    assert world.cluster.log == []
    world.cluster.alarms = []
    again = world.run()
    assert again.ok, again.errors
    world.assert_restored()


def test_nothing_was_there_before(tmp_path: Path) -> None:
    world = World(tmp_path, 1)
    host = world.cluster.hosts["n1"]
    (host.data / "snap/db").unlink()
    (host.data / "snap").rmdir()
    host.data.rmdir()
    assert world.run().ok
    assert host.store == SNAPSHOT.decode()
    assert host.kept == []


def test_the_data_of_a_survivor_goes_to_all(tmp_path: Path) -> None:
    world = World(tmp_path, 3)
    outcome = world.run(world.arguments(RestoreKind.QUORUM, member="n2"))
    assert outcome.ok, outcome.errors
    for host in world.cluster.hosts.values():
        assert host.store == "old data of n2"
        assert host.kept == [f"old data of {host.name}"]
    assert not (tmp_path / "member.db").exists()


def test_a_snapshot_that_etcd_refuses_stops_before_anything_is_stopped(tmp_path: Path) -> None:
    world = World(tmp_path, 3, b"bad")
    chosen = world.arguments()
    digest = hashlib.sha256(b"bad").hexdigest()
    outcome = world.run(
        replace(chosen, snapshot=SnapshotFacts("s", digest), run=RestoreRun("r1-bad", RestoreKind.ALL, digest))
    )
    assert [str(e) for e in outcome.errors] == ["n1: etcd cannot restore this snapshot: Error: expected sha256\n"]
    assert "the old state was put back on every host" in outcome.errors[0].hint
    world.assert_untouched()
    assert all((h.root / "kubelet-log").read_text() == "start\n" for h in world.cluster.hosts.values())


def test_a_snapshot_that_arrives_as_another_is_refused(tmp_path: Path) -> None:
    world = World(tmp_path, 2, b"another")
    outcome = world.run()
    assert "did not arrive as it was sent" in str(outcome.errors[0])
    world.assert_untouched()


@pytest.mark.parametrize("lost_in", ["upload", "stage", "stop"])
def test_a_host_lost_before_the_point_of_no_return_puts_the_others_back(tmp_path: Path, lost_in: str) -> None:
    world = World(tmp_path, 3)

    def lose(step: str) -> None:
        if step == lost_in:
            world.cluster.unreachable = "n3"

    before = world.arguments()
    outcome = world.run(before, lose)
    world.cluster.unreachable = ""
    assert not outcome.ok
    if lost_in in ("stage", "upload"):  # seen when looking again, before anything is stopped
        assert isinstance(outcome.errors[0], KopsError)
        assert all(h.running == set(STATIC_PODS) for h in world.cluster.hosts.values())
    else:
        assert isinstance(outcome.errors[0], UnreachableError)
        assert "n3" in outcome.errors[0].hint
        for name in ("n1", "n2"):
            host = world.cluster.hosts[name]
            assert (host.store, host.running) == (f"old data of {name}", set(STATIC_PODS))
    again = world.run(world.arguments())
    assert again.ok, again.errors
    world.assert_restored()


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine of the program has no room for the database of a member."""

    really = os.open

    def refuse(path: str | Path, *rest: int, **more: int) -> int:
        if Path(path).name == "member.db":
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return really(path, *rest, **more)

    monkeypatch.setattr("kops_py.actions.etcd_restore.os.open", refuse)


@pytest.mark.usefixtures("full_disk")
def test_a_full_disk_of_ours_puts_the_old_state_back(tmp_path: Path) -> None:
    world = World(tmp_path, 3)
    outcome = world.run(world.arguments(RestoreKind.QUORUM, member="n2"))
    (error,) = outcome.errors
    assert isinstance(error, UnexpectedError)
    assert "No space left on device" in str(error)
    assert "the old state was put back on every host; make room" in error.hint
    world.assert_untouched()


@pytest.mark.usefixtures("full_disk")
def test_what_fails_while_it_is_put_back_hides_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> str:
        raise ValueError("no sense in this")

    monkeypatch.setattr("kops_py.actions.etcd_restore._undo", fail)
    world = World(tmp_path, 3)
    outcome = world.run(world.arguments(RestoreKind.QUORUM, member="n2"))
    assert "No space left on device" in str(outcome.errors[0])
    assert "could not be put back (no sense in this): the same command goes on" in outcome.errors[0].hint


def test_a_mistake_of_ours_puts_the_old_state_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> str:
        raise ValueError("no sense in this")

    world = World(tmp_path, 2)
    monkeypatch.setattr("kops_py.actions.etcd_restore.tool.switch_script", fail)
    with pytest.raises(ValueError, match="no sense in this") as caught:
        world.run()
    assert caught.value.__notes__ == ["the old state was put back on every host"]
    world.assert_untouched()


def test_interrupted_before_the_point_of_no_return_the_old_state_is_put_back(tmp_path: Path) -> None:
    world = World(tmp_path, 3)
    outcome = world.run(after=lambda step: world.cancel.set("SIGINT") if step == "stop" else None)
    assert outcome.errors == [] or all(isinstance(e, KopsError) for e in outcome.errors)
    world.assert_untouched()


def test_a_failure_after_the_point_of_no_return_puts_nothing_back(tmp_path: Path) -> None:
    world = World(tmp_path, 3)

    def lose(step: str) -> None:
        if step == "switch":
            world.cluster.unreachable = "n3"

    outcome = world.run(after=lose)
    world.cluster.unreachable = ""
    assert not outcome.ok
    assert world.cluster.hosts["n1"].store == SNAPSHOT.decode()
    assert Mark.STARTED in world.facts().hosts["n1"].restores[world.arguments().run.id]
    plan = etcd_restore(world.spec, world.facts(), world.arguments())
    assert ids(plan)[0] == "start"
    assert isinstance(plan.steps[0].action, StartEtcd)
    assert world.run().ok
    world.assert_restored()


def test_a_host_that_is_gone_for_good_after_the_point_of_no_return_is_left_out(tmp_path: Path) -> None:
    world = World(tmp_path, 3)
    outcome = world.run(after=lambda step: setattr(world.cluster, "unreachable", "n3" if step == "switch" else ""))
    assert "run the same command again" in outcome.errors[0].hint
    world.cluster.unreachable = "n3"
    without = world.arguments()  # what --ignore restore-host-unreachable makes of it
    assert without.nodes == ("n1", "n2")
    again = world.run(without)
    assert again.ok, again.errors
    world.cluster.unreachable = ""
    world.assert_restored(("n1", "n2"))


def test_what_the_kubelet_does_not_start_again_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kops_py.actions.etcd_restore._PUT_BACK_S", 0.6)
    world = World(tmp_path, 2)
    world.cluster.hosts["n1"].refuses_until_restart = True
    before = world.arguments()
    outcome = world.run(before, lambda step: setattr(world.cluster, "unreachable", "n2" if step == "stop" else ""))
    assert "could not be put back on n1 (n1: the kubelet has not started kube-apiserver, " in outcome.errors[0].hint


def test_a_kubelet_that_refuses_what_is_put_back_is_restarted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kops_py.actions.etcd_restore._REVIVE_S", 0.2)
    world = World(tmp_path, 2)
    world.cluster.hosts["n1"].refuses_until_restart = True
    world.run(world.arguments(), lambda step: setattr(world.cluster, "unreachable", "n2" if step == "stop" else ""))
    assert world.cluster.hosts["n1"].running == set(STATIC_PODS)


STEPS = ("upload", "stage", "stop", "switch", "start", "api/n1", "controllers/n2", "addons/n1", "finish")


@pytest.mark.parametrize("point", STEPS)
def test_killed_after_any_step_the_same_command_finishes(tmp_path: Path, point: str) -> None:
    world = World(tmp_path, 2)

    def kill(step: str) -> None:
        if step == point:
            raise Killed

    with pytest.raises(Killed):
        world.run(after=kill)
    if point != "finish":
        again = world.run()
        assert again.ok, again.errors
    world.assert_restored()


def test_a_lost_member_is_replaced_while_the_others_serve(tmp_path: Path) -> None:
    world = World(tmp_path, 3)
    _lose_one(world)
    arguments = world.arguments(None)
    assert (arguments.run.kind, arguments.nodes, arguments.via) == (RestoreKind.MEMBER, ("n3",), ("n1", "n2"))
    outcome = world.run(arguments)
    assert outcome.ok, outcome.errors
    assert world.cluster.log == ["member remove", "member add", "member promote"]
    assert {h.store for h in world.cluster.hosts.values()} == {"the cluster"}
    assert all(h.running == set(STATIC_PODS) for h in world.cluster.hosts.values())
    assert not any(m.get("isLearner") for m in world.cluster.members.values())
    assert world.cluster.hosts["n3"].kept == ["empty"]
    for name in ("n1", "n2"):
        assert not (world.cluster.hosts[name].root / "kubelet-log").exists(), "a healthy host was touched"


@pytest.mark.parametrize("point", ["stop/n3", "remove/n3", "add/n3", "promote/n3", "api/n3"])
def test_killed_while_a_member_is_replaced(tmp_path: Path, point: str) -> None:
    world = World(tmp_path, 3)
    _lose_one(world)

    def kill(step: str) -> None:
        if step == point:
            raise Killed

    with pytest.raises(Killed):
        world.run(world.arguments(None), kill)
    outcome = world.run(world.arguments(None))
    assert outcome.ok, outcome.errors
    assert world.cluster.log == ["member remove", "member add", "member promote"]
    assert {h.store for h in world.cluster.hosts.values()} == {"the cluster"}


def _lose_one(world: World) -> None:
    for name, host in world.cluster.hosts.items():
        (host.data / "snap/db").write_text("empty" if name == "n3" else "the cluster")


def test_an_external_etcd_is_restored_with_the_writers_stopped(tmp_path: Path) -> None:
    world = World(tmp_path, 2, external=3)
    arguments = world.arguments()
    assert (arguments.nodes, [m.unit for m in arguments.members]) == (("n1", "n2"), ["etcd.service"] * 3)
    outcome = world.run(arguments)
    assert outcome.ok, outcome.errors
    for name in ("n3", "n4", "n5"):
        host = world.cluster.hosts[name]
        assert (host.store, host.kept) == (SNAPSHOT.decode(), [f"old data of {name}"])
        assert (host.running, list(host.root.rglob("snapshot*"))) == ({"etcd"}, [])
    for name in ("n1", "n2"):
        host = world.cluster.hosts[name]
        assert (host.running, host.store) == (set(WRITERS), "")


@pytest.mark.parametrize("point", ["stop", "start"])
def test_an_external_etcd_killed_after_any_step(tmp_path: Path, point: str) -> None:
    world = World(tmp_path, 1, external=3)

    def kill(step: str) -> None:
        if step == point:
            raise Killed

    with pytest.raises(Killed):
        world.run(after=kill)
    outcome = world.run()
    assert outcome.ok, outcome.errors
    assert [world.cluster.hosts[n].kept for n in ("n2", "n3", "n4")] == [[f"old data of n{i}"] for i in (2, 3, 4)]
    assert world.cluster.hosts["n1"].running == set(WRITERS)


def test_an_external_etcd_is_put_back_when_a_host_is_lost(tmp_path: Path) -> None:
    world = World(tmp_path, 1, external=3)
    before = world.arguments()
    outcome = world.run(before, lambda step: setattr(world.cluster, "unreachable", "n4" if step == "stop" else ""))
    assert not outcome.ok
    for name in ("n2", "n3"):
        assert (world.cluster.hosts[name].store, world.cluster.hosts[name].running) == (f"old data of {name}", {"etcd"})
    assert world.cluster.hosts["n1"].running == set(WRITERS)


def test_a_lost_external_member_is_replaced(tmp_path: Path) -> None:
    world = World(tmp_path, 1, external=3)
    for name in ("n2", "n3", "n4"):
        (world.cluster.hosts[name].data / "snap/db").write_text("empty" if name == "n4" else "the cluster")
    arguments = world.arguments(None)
    assert (arguments.run.kind, arguments.nodes, [m.node for m in arguments.members]) == (
        RestoreKind.MEMBER,
        (),
        ["n4"],
    )
    outcome = world.run(arguments)
    assert outcome.ok, outcome.errors
    assert world.cluster.log == ["member remove", "member add", "member promote"]
    assert world.cluster.hosts["n4"].store == "the cluster"
    assert world.cluster.hosts["n1"].running == set(WRITERS)


def test_a_kubelet_that_starts_no_etcd_is_restarted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seen for real: a kubelet refuses a static pod for good when it looks before it knows the node's resources."""
    monkeypatch.setattr("kops_py.actions.etcd_restore._REVIVE_S", 0.2)
    world = World(tmp_path, 1)
    host = world.cluster.hosts["n1"]
    host.refuses_until_restart = True
    outcome = world.run()
    assert outcome.ok, outcome.errors
    assert (host.root / "kubelet-log").read_text().split() == ["start", "restart", "start"]
    world.assert_restored()
