"""The bootstrap command as a whole, on a simulated cluster: what is asked, refused, locked, told and left behind."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest

from kops_py.app import bootstrap as app
from kops_py.app import run as run_app
from kops_py.app.session import Emit, Session, Settings, resume_command
from kops_py.connect.base import Cancel, KubeApi
from kops_py.connect.kube_access import KubeAccess
from kops_py.engine.cancel import signals_cancel
from kops_py.engine.journal import read_journal
from kops_py.engine.lock import FileLock
from kops_py.model.errors import (
    CommandFailedError,
    ConfigError,
    ExitCode,
    KopsError,
    KubeError,
    LockedError,
    PlanChangedError,
    UnreachableError,
)
from kops_py.model.event import Event, FindingsMade, PlanMade, RunFinished, RunStarted
from kops_py.model.facts import Facts, HostFacts
from kops_py.model.finding import Finding, Severity
from kops_py.model.plan import Plan
from kops_py.model.preflight import ProbeResults
from kops_py.model.spec import ClusterSpec
from kops_py.model.status import EtcdMember
from tests.fakes.cluster import SimulatedCluster, arguments_for, make_spec
from tests.fakes.kube import FakeKubeApi
from tests.fakes.ssh import FakeFleet, FakeHost

LEASE = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/kops-py"


@dataclass(slots=True)
class SimSession(Session):
    """A session whose eyes are the simulated cluster's."""

    world: World | None = None

    def observe(self) -> Facts:
        assert self.world is not None
        self.world.looks += 1
        self.world.before_look(self.world.looks)
        return self.world.cluster.facts()

    def observe_etcd(self, facts: Facts) -> tuple[EtcdMember, ...]:
        return facts.etcd

    def probe(self, facts: Facts) -> ProbeResults:
        return ProbeResults()


class SimAccess:
    """KubeAccess once the simulated cluster is initialised."""

    def __init__(self, world: World) -> None:
        self.world = world

    def api(self) -> KubeApi:
        if not self.world.cluster.initialised:
            raise KubeError("there is no cluster yet")
        return self.world.kube

    def close(self) -> None:
        self.world.closed = True


@dataclass
class World:
    """One simulated cluster, the folder runs go to, and what happened."""

    folder: Path
    spec: ClusterSpec = field(default_factory=lambda: make_spec(2, 2))
    findings: tuple[Finding, ...] = ()
    events: list[Event] = field(default_factory=list)
    asked: list[Plan] = field(default_factory=list)
    answer: bool = True
    looks: int = 0
    cancel: Cancel = field(default_factory=Cancel)
    before_look: Callable[[int], None] = lambda _: None
    closed: bool = False

    def __post_init__(self) -> None:
        self.cluster = SimulatedCluster(self.spec)
        self.kube = FakeKubeApi()
        self.fleet = FakeFleet([FakeHost(h.name) for h in self.spec.hosts])

    def settings(self, **changes: Any) -> Settings:
        return Settings(run_dir=self.folder / ".kops-py", command="kops-py bootstrap -i 'my hosts' -y", **changes)

    def run(self, **changes: Any) -> run_app.RunResult:
        return app.run_bootstrap(self.settings(**changes), self.events.append, self.confirm)

    def confirm(self, plan: Plan, _findings: tuple[Finding, ...]) -> bool:
        self.asked.append(plan)
        return self.answer

    def plan(self) -> Plan:
        """Return the plan as --plan shows it now."""
        return app.run_bootstrap(self.settings(plan_only=True), lambda _: None, self.confirm).plan

    @property
    def finished(self) -> RunFinished:
        [event] = [e for e in self.events if isinstance(e, RunFinished)]
        return event

    def lose(self, name: str, *, at_look: int) -> None:
        def before(look: int) -> None:
            if look == at_look:
                problem = UnreachableError("cannot be reached", where=name, why="timed out", hint="is it up?")
                self.cluster.hosts[name] = HostFacts(name=name, problem=problem)

        self.before_look = before


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    made = World(tmp_path)

    @contextmanager
    def session(
        settings: Settings, spec: ClusterSpec, emit: Emit, *, work_dir: Path | None = None
    ) -> Iterator[SimSession]:
        kube = cast(KubeAccess, SimAccess(made))
        made.cancel = Cancel()
        opened = SimSession(settings, spec, made.cancel, emit, work_dir or tmp_path, made.fleet, kube, world=made)
        try:
            with signals_cancel(opened.cancel):
                yield opened
        finally:
            kube.close()
            made.fleet.close()

    monkeypatch.setattr(run_app, "session", session)
    monkeypatch.setattr(run_app, "load_spec", lambda _: made.spec)
    monkeypatch.setattr(app, "check_hosts", lambda *_: made.findings)
    monkeypatch.setattr(app, "bootstrap_arguments", arguments_for)
    monkeypatch.setattr(app, "make_deps", lambda *_: None)
    monkeypatch.setattr("kops_py.actions.perform.ClusterPerformer", lambda _deps: made.cluster)
    return made


def test_a_plan_is_shown_and_nothing_is_done_or_written(world: World) -> None:
    result = world.run(plan_only=True)
    assert result.exit_code is ExitCode.PENDING_CHANGES
    assert result.run_dir is None
    assert world.cluster.applied == []
    assert not (world.folder / ".kops-py").exists()
    assert [type(e) for e in world.events][-2:] == [FindingsMade, PlanMade]
    assert world.plan().digest == result.plan.digest


def test_a_run_does_what_the_plan_says_and_the_next_has_nothing_to_do(world: World) -> None:
    plan = world.plan()
    result = world.run()
    assert (result.exit_code, result.executed, result.errors) == (ExitCode.DONE, True, ())
    assert world.asked == [plan]
    assert sorted(world.cluster.applied) == sorted(s.id for s in plan.steps)
    assert world.finished.exit_code == 0
    assert world.finished.steps_done == len(plan.steps)
    assert world.finished.resume == ""
    assert world.plan().has_changes is False
    world.events.clear()
    again = world.run(plan_only=True)
    assert again.exit_code is ExitCode.DONE
    world.events.clear()
    assert world.run().exit_code is ExitCode.DONE
    assert len(world.asked) == 1, "nothing to do is nothing to ask"
    assert world.closed
    assert world.fleet.closed


def test_what_a_run_leaves_is_private_and_says_what_happened(world: World) -> None:
    result = world.run()
    assert result.run_dir is not None
    assert result.run_dir.parent == world.folder / ".kops-py" / "runs"
    for path in (world.folder / ".kops-py").rglob("*"):
        assert path.stat().st_mode & 0o777 == (0o700 if path.is_dir() else 0o600), path
    records = read_journal(result.run_dir / "journal.jsonl")
    assert (records[0]["kind"], records[-1]["kind"]) == ("run-start", "run-end")
    assert records[0]["digest"] == result.plan.digest
    assert json.loads((result.run_dir / "plan.json").read_text())["digest"] == result.plan.digest
    events = [json.loads(line) for line in (result.run_dir / "events.jsonl").read_text().splitlines()]
    assert (events[0]["event"], events[-1]["event"]) == ("run-started", "run-finished")
    assert isinstance(world.events[0], RunStarted)


def test_a_blocking_finding_stops_before_anything_is_touched(world: World) -> None:
    world.findings = (
        Finding(Severity.ERROR, "swap-on", "n1", "swap is on"),
        Finding(Severity.ERROR, "swap-on", "n2", "swap is on"),
        Finding(Severity.WARNING, "few-cpus", "n1", "one CPU"),
    )
    for plan_only in (True, False):
        world.events.clear()
        result = world.run(plan_only=plan_only)
        assert result.exit_code is ExitCode.PREFLIGHT
        [error] = result.errors
        assert (error.code, error.why) == (ExitCode.PREFLIGHT, "swap-on")
        assert "2 findings" in error.what
        assert "--ignore" in error.hint
    assert world.finished.exit_code == 3
    assert world.cluster.applied == []
    assert world.asked == []


def test_an_accepted_finding_does_not_stop(world: World) -> None:
    world.findings = (Finding(Severity.ERROR, "swap-on", "n1", "swap is on", ignored=True),)
    assert world.run().exit_code is ExitCode.DONE


def test_another_digest_is_refused_and_the_right_one_runs(world: World) -> None:
    digest = world.plan().digest
    with pytest.raises(PlanChangedError) as caught:
        world.run(plan_digest="0" * 64)
    assert caught.value.code == ExitCode.PREFLIGHT
    assert digest in caught.value.why
    assert world.cluster.applied == []
    assert world.asked == []
    assert world.finished.exit_code == 3
    world.events.clear()
    assert world.run(plan_digest=digest).exit_code is ExitCode.DONE


def test_no_means_no(world: World) -> None:
    world.answer = False
    result = world.run()
    assert (result.exit_code, result.executed) == (ExitCode.INTERRUPTED, False)
    assert world.cluster.applied == []


def test_ctrl_c_at_the_question_ends_at_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def confirm(plan: Plan, _: tuple[Finding, ...]) -> bool:
        os.kill(os.getpid(), signal.SIGINT)
        return True

    monkeypatch.setattr(world, "confirm", confirm)
    with pytest.raises(KeyboardInterrupt):
        world.run()
    assert world.cluster.applied == []
    assert world.closed
    lock = FileLock(world.folder / ".kops-py" / "locks", "sim")
    lock.acquire(run_id="x", command="x")
    lock.release()


def test_ctrl_c_in_the_middle_ends_after_the_step_and_the_same_command_goes_on(world: World) -> None:
    whole = world.plan()
    perform, steps = world.cluster.perform, []

    def interrupted(step: Any) -> None:
        steps.append(step.id)
        perform(step)
        if step.id == "init/n1":
            os.kill(os.getpid(), signal.SIGINT)

    world.cluster.perform = interrupted  # type: ignore[method-assign]
    result = world.run()
    assert result.exit_code is ExitCode.INTERRUPTED
    assert world.finished.resume == "kops-py bootstrap -i 'my hosts' -y"
    assert steps[-1] == "init/n1"
    world.events.clear()
    assert world.run().exit_code is ExitCode.DONE
    assert set(world.cluster.applied) == {s.id for s in whole.steps}


def test_a_host_lost_between_waves_ends_the_run_naming_it(world: World) -> None:
    world.lose("n3", at_look=2)
    result = world.run()
    assert result.exit_code is ExitCode.HOST
    [error] = result.errors
    assert (error.where, error.what, error.hint) == ("n3", "was lost while the run went on", "is it up?")
    assert "timed out" in error.why
    assert world.finished.exit_code == 10
    assert world.finished.steps_left > 0
    assert world.finished.failures == (str(error),)
    assert world.finished.resume.startswith("kops-py bootstrap")
    assert all(s.startswith(("prepare/", "load-balancer/")) for s in world.cluster.applied)


def test_a_host_that_failed_is_not_asked_about_by_mistake() -> None:
    cluster = SimulatedCluster(make_spec(1, 1))
    plan = Plan("bootstrap", "sim", ())
    cluster.hosts["n2"] = dataclasses.replace(cluster.hosts["n2"], problem=UnreachableError("gone", where="n2"))
    run_app._raise_for_lost_hosts(plan, cluster.facts())  # a host the plan has no step for


def test_a_failing_step_gives_its_exit_code_and_all_errors(world: World) -> None:
    perform = world.cluster.perform

    def failing(step: Any) -> None:
        if step.id.startswith("prepare/"):
            raise CommandFailedError("no package", where=step.node, why="404", hint="mend the repository")
        perform(step)

    world.cluster.perform = failing  # type: ignore[method-assign]
    result = world.run()
    assert result.exit_code is ExitCode.HOST
    assert sorted(e.where for e in result.errors) == ["n1", "n2", "n3", "n4"]
    assert world.finished.steps_failed == 4
    assert read_journal(result.run_dir / "journal.jsonl")[-1]["exit_code"] == 10 if result.run_dir else False


def test_the_lease_is_taken_once_there_is_an_api_and_given_back(world: World) -> None:
    held: dict[str, bool] = {}
    perform = world.cluster.perform

    def noting(step: Any) -> None:
        held[step.id] = world.kube.object(LEASE) is not None
        perform(step)

    world.cluster.perform = noting  # type: ignore[method-assign]
    assert world.run().exit_code is ExitCode.DONE
    assert not held["init/n1"]
    assert held["join/n2"]
    assert held["healthy"]
    assert world.kube.object(LEASE) is None
    world.kube.assert_clean()


def test_a_cluster_somebody_else_works_on_is_left_alone(world: World) -> None:
    world.cluster.initialised = True  # there, with nodes still to be joined
    from kops_py.connect.lease import ClusterLease

    other = ClusterLease(world.kube, "ann@elsewhere 1 run-9", {"command": "kops-py upgrade"})
    other.acquire()
    try:
        # a process of another machine: nothing here can say that it is gone
        world.kube.change(LEASE, lambda o: o["metadata"]["annotations"].update({"kops-py/process": "other:1:1:1"}))
        with pytest.raises(LockedError) as caught:
            world.run()
    finally:
        other.release()
    assert "ann@elsewhere" in caught.value.what
    assert caught.value.code == ExitCode.LOCKED
    assert world.finished.exit_code == 4
    assert world.cluster.applied == []


def test_a_second_run_on_this_machine_is_refused_naming_the_first(world: World) -> None:
    first = FileLock(world.folder / ".kops-py" / "locks", "sim")
    first.acquire(run_id="run-1", command="kops-py bootstrap -y")
    try:
        with pytest.raises(LockedError) as caught:
            world.run()
    finally:
        first.release()
    assert caught.value.code == ExitCode.LOCKED
    assert f"process {os.getpid()}" in caught.value.why
    assert "run run-1: kops-py bootstrap -y" in caught.value.why
    assert world.looks == 0
    assert world.run().exit_code is ExitCode.DONE


def test_a_folder_for_runs_that_cannot_be_made_is_a_configuration_error(world: World) -> None:
    (world.folder / ".kops-py").write_text("a file")
    with pytest.raises(ConfigError) as caught:
        world.run()
    assert "--run-dir" in caught.value.hint
    assert world.looks == 0


def test_a_plan_that_grows_on_the_way_stops_the_run(world: World) -> None:
    def before(look: int) -> None:
        if look == 2:  # somebody undid what was found to be right
            name = "n1"
            world.cluster.hosts[name] = dataclasses.replace(world.cluster.hosts[name], prepared_digest="")

    world.before_look = before
    result = world.run()
    assert [type(e) for e in result.errors] == [PlanChangedError]
    assert "prepare/n1" in result.errors[0].why
    assert result.exit_code is ExitCode.PREFLIGHT


@pytest.mark.parametrize(
    ("given", "resumed"),
    [
        ("kops-py bootstrap -y", "kops-py bootstrap -y"),
        ("kops-py bootstrap --plan-digest abc -i x", "kops-py bootstrap -i x"),
        ("kops-py bootstrap --plan-digest=abc -i 'a b'", "kops-py bootstrap -i 'a b'"),
    ],
)
def test_the_command_that_goes_on_has_no_digest_of_the_first_plan(given: str, resumed: str) -> None:
    assert resume_command(given) == resumed


@pytest.mark.parametrize("source", ["missing.yaml", "http://127.0.0.1:9/cni.yaml", "binary.yaml"])
def test_a_network_manifest_that_cannot_be_read_is_named(source: str, tmp_path: Path) -> None:
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00\x80")
    place = source if source.startswith("http") else str(tmp_path / source)
    spec = make_spec(1)
    spec = dataclasses.replace(spec, network=dataclasses.replace(spec.network, cni_manifest=place))
    with pytest.raises(ConfigError) as caught:
        app.read_manifest(spec)
    assert caught.value.where == place
    assert caught.value.why
    assert "urlopen" not in caught.value.why
    assert "Errno" not in caught.value.why
    assert caught.value.hint


def test_errors_of_a_run_are_kops_errors(world: World) -> None:
    """What is not one is a bug and must come out as it is, with the lock given back."""

    def broken(step: Any) -> None:
        raise ZeroDivisionError("a bug")

    world.cluster.perform = broken  # type: ignore[method-assign]
    with pytest.raises(ZeroDivisionError):
        world.run()
    assert not issubclass(ZeroDivisionError, KopsError)
    lock = FileLock(world.folder / ".kops-py" / "locks", "sim")
    lock.acquire(run_id="x", command="x")
    lock.release()
