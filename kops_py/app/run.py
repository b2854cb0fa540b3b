"""What every command that plans does: observe, check, plan, ask, carry the plan out, and record all of it."""

from __future__ import annotations

import json
import os
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kops_py.app.reports import emit_versions, reporting, versions_seen
from kops_py.app.session import Confirm, Emit, Session, Settings, load_spec, resume_command, session
from kops_py.engine.cancel import signals_end
from kops_py.model.errors import (
    ConfigError,
    ExitCode,
    KopsError,
    KubeError,
    PlanChangedError,
    PreflightError,
    UnreachableError,
)
from kops_py.model.event import Event, FindingsMade, Note, PlanMade, RunFinished, RunStarted, SeenWhen, StepResult
from kops_py.model.facts import Facts
from kops_py.model.finding import Finding, blocking
from kops_py.model.plan import Plan

if TYPE_CHECKING:
    from kops_py.connect.lease import ClusterLease
    from kops_py.engine.run import Performer
    from kops_py.model.spec import ClusterSpec


_LEASE_TTL_S = 90.0
_ETCD_IS_FULL = "database space exceeded"
"""What etcd says through the API while the alarm NOSPACE is raised."""


@dataclass(frozen=True, slots=True)
class RunResult:
    """How a command that plans ended."""

    exit_code: ExitCode
    plan: Plan
    findings: tuple[Finding, ...] = ()
    errors: tuple[KopsError, ...] = ()
    run_dir: Path | None = None
    executed: bool = False
    """Whether the plan was begun."""
    hint: str = ""
    """What to do next, when there is something."""


@dataclass(frozen=True, slots=True)
class RunPlace:
    """Where and under which name a run happens; its folder is 0700."""

    run_id: str
    folder: Path
    exclusive: bool = True
    """Whether nobody else may work on the cluster meanwhile."""


@dataclass(frozen=True, slots=True)
class Decided:
    """What an operation decided, and how it goes on: plan again after each wave, and carry out its steps."""

    plan: Plan
    findings: tuple[Finding, ...]
    replan: Callable[[], tuple[Plan, Facts]]
    performer: Callable[[RunPlace], Performer]
    unwatched: frozenset[str] = frozenset()
    """Nodes of the plan whose hosts cannot be reached, or are not known, from the start."""
    keeps_lease: bool = True
    """Whether the lock in the cluster is held to the end; not by what takes the cluster down."""


Decide = Callable[[Session], Decided]
"""Observes, checks and plans; raises KopsError."""


def run_operation(
    settings: Settings,
    emit: Emit,
    confirm: Confirm,
    name: str,
    decide: Decide,
    *,
    exclusive: bool = True,
    spec: ClusterSpec | None = None,
) -> RunResult:
    """Plan an operation and, unless only the plan is wanted, carry it out; raises KopsError before it starts.

    ``spec`` is what the operator's files say, when the caller has read them.
    ``exclusive`` False is for what changes nothing in the cluster (backups): it takes no Lease there, and a lock of
    its own here, so that it runs beside an upgrade, but not twice at once. The reports that ``settings`` ask for are
    written at the end, however it ends.
    """
    with reporting(settings, emit, name) as told:
        return _run_operation(settings, spec or load_spec(settings), told, confirm, name, decide, exclusive)


def _run_operation(
    settings: Settings, spec: ClusterSpec, emit: Emit, confirm: Confirm, name: str, decide: Decide, exclusive: bool
) -> RunResult:
    if settings.plan_only:
        with session(settings, spec, emit) as opened:
            return _tell(opened, decide(opened))
    from kops_py.engine.lock import FileLock, RunMark

    run_id = _new_run_id(name)
    lock = FileLock(settings.run_dir / "locks", spec.name if exclusive else f"{spec.name}.etcd-backup")
    lock.acquire(run_id=run_id, command=settings.command)
    mark = None
    try:
        folder = _make_run_dir(settings, run_id)
        mark = RunMark(folder)
        mark.hold()
        with _recorded(emit, folder) as record, session(settings, spec, record, work_dir=folder) as opened:
            record(
                RunStarted(
                    run_id=run_id,
                    operation=name,
                    cluster=spec.name,
                    run_dir=str(folder),
                    by=who(),
                    command=resume_command(settings.command),
                )
            )
            return _run_and_tell(opened, decide, RunPlace(run_id, folder, exclusive), confirm)
    finally:
        if mark is not None:
            mark.release()
        lock.release()


@contextmanager
def _recorded(emit: Emit, folder: Path) -> Iterator[Emit]:
    """Write every event of a run to its folder as well."""
    from kops_py.report.bus import EventBus
    from kops_py.report.jsonl import JsonFile

    events = EventBus([JsonFile(folder / "events.jsonl")])

    def record(event: Event) -> None:
        events(event)
        emit(event)

    try:
        yield record
    finally:
        events.close()


def _run_and_tell(opened: Session, decide: Decide, place: RunPlace, confirm: Confirm) -> RunResult:
    """Run, and let the events end with RunFinished however it ends."""
    started = time.monotonic()

    def tell(code: ExitCode, errors: tuple[KopsError, ...], left: int = 0) -> None:
        opened.emit(
            RunFinished(
                exit_code=int(code),
                duration_s=round(time.monotonic() - started, 3),
                steps_done=0,
                steps_skipped=0,
                steps_failed=0,
                steps_left=left,
                failures=tuple(str(e) for e in errors),
                errors=errors,
                resume="" if code is ExitCode.DONE else resume_command(opened.settings.command),
            )
        )

    try:
        result = _run(opened, decide, place, confirm)
    except KopsError as error:
        tell(error.code, (error,))
        raise
    if not result.executed:
        tell(result.exit_code, result.errors, len(result.plan.steps))
    return result


def _tell(opened: Session, decided: Decided) -> RunResult:
    """Tell what was decided; the exit code says whether there is something to do."""
    plan, findings = decided.plan, decided.findings
    opened.emit(FindingsMade(findings=findings))
    opened.emit(PlanMade(plan=plan))
    stops = blocking(findings)
    if stops:
        return RunResult(ExitCode.PREFLIGHT, plan, findings, (_preflight_error(stops),))
    return RunResult(ExitCode.PENDING_CHANGES if plan.has_changes else ExitCode.DONE, plan, findings)


def _preflight_error(stops: tuple[Finding, ...]) -> PreflightError:
    names = ", ".join(sorted({f.id for f in stops}))
    return PreflightError(
        f"{len(stops)} finding{'s' if len(stops) > 1 else ''} must be mended before anything is touched",
        why=names,
        hint="mend them, or accept one by name with --ignore NAME, then run the same command again",
    )


def _run(opened: Session, decide: Decide, place: RunPlace, confirm: Confirm) -> RunResult:
    decided = decide(opened)
    told, plan, settings = _tell(opened, decided), decided.plan, opened.settings
    if settings.plan_digest and plan.digest != settings.plan_digest:
        raise PlanChangedError(
            "the plan is not the one that was approved",
            why=f"approved {settings.plan_digest}, found {plan.digest}",
            hint="look at it with --plan and approve it anew",
        )
    if told.errors:
        return told
    if not plan.has_changes:
        return RunResult(ExitCode.DONE, plan, decided.findings, run_dir=place.folder)
    with signals_end():
        agreed = confirm(plan, decided.findings)
    if not agreed:
        return RunResult(ExitCode.INTERRUPTED, plan, decided.findings, run_dir=place.folder)
    return _execute(opened, place, decided)


def _execute(opened: Session, place: RunPlace, decided: Decided) -> RunResult:
    from kops_py.engine.journal import Journal
    from kops_py.engine.run import Engine
    from kops_py.tools.kubeconfig import write_private

    started, plan, folder = time.monotonic(), decided.plan, place.folder
    write_private(folder / "plan.json", json.dumps(plan.to_json(), indent=2).encode())
    journal = Journal(folder / "journal.jsonl")
    journal.write(
        "run-start", run=place.run_id, operation=plan.operation, cluster=plan.cluster, digest=plan.digest, by=who()
    )
    lease = _LeaseKeeper(opened, place.run_id)
    try:
        if place.exclusive:
            lease.take_if_possible()
        if lease.is_held:
            emit_versions(opened.kube, SeenWhen.BEFORE, opened.emit)
        if not decided.keeps_lease:
            lease.release()
        engine = Engine(decided.performer(place), journal, opened.emit, opened.cancel)

        def replan() -> Plan:
            new, facts = decided.replan()
            if not place.exclusive:
                return new
            opened.emit(versions_seen(SeenWhen.AFTER, facts))
            _raise_for_lost_hosts(plan, facts, decided.unwatched | engine.failed_nodes)
            if decided.keeps_lease:
                lease.take_if_possible()
            return new

        outcome = engine.run(plan, replan)
        if lease.is_held:
            emit_versions(opened.kube, SeenWhen.AFTER, opened.emit)
    except BaseException:
        journal.close()
        raise
    finally:
        lease.release()
    code = ExitCode.DONE if outcome.ok else outcome.errors[0].code
    reached = {s for s, r in outcome.results.items() if r in (StepResult.DONE, StepResult.ALREADY_TRUE)}
    finished = RunFinished(
        exit_code=int(code),
        duration_s=time.monotonic() - started,
        steps_done=outcome.count(StepResult.DONE),
        steps_skipped=outcome.count(StepResult.ALREADY_TRUE),
        steps_failed=outcome.count(StepResult.FAILED),
        steps_left=len(plan.steps) - len(reached),
        failures=tuple(str(e) for e in outcome.errors),
        errors=tuple(outcome.errors),
        resume="" if outcome.ok else resume_command(opened.settings.command),
    )
    journal.write("run-end", exit_code=int(code), duration_s=round(finished.duration_s, 3))
    journal.close()
    opened.emit(finished)
    return RunResult(code, plan, decided.findings, tuple(outcome.errors), folder, executed=True)


def _raise_for_lost_hosts(plan: Plan, facts: Facts, unwatched: frozenset[str] = frozenset()) -> None:
    """Stop when a host of the plan went away since: the difference in plans would not say so plainly.

    Not for those whose chain has failed: the budget of failures has judged them.
    """
    for step in plan.steps:
        problem = facts.hosts[step.node].problem if step.node and step.node not in unwatched else None
        if problem is not None:
            raise UnreachableError(
                "was lost while the run went on", where=step.node, why=str(problem), hint=problem.hint
            )


class _LeaseKeeper:
    """Holds the Lease in the cluster from the moment there is one."""

    def __init__(self, opened: Session, run_id: str) -> None:
        self._opened = opened
        self._run_id = run_id
        self._lease: ClusterLease | None = None

    @property
    def is_held(self) -> bool:
        """Whether there is a cluster to hold it in, and it was taken."""
        return self._lease is not None

    def take_if_possible(self) -> None:
        """Take the Lease when the API answers; raises LockedError."""
        from kops_py.connect.lease import ClusterLease

        if self._lease is not None:
            return
        try:
            self._opened.kube.api()
        except KubeError:
            return
        lease = ClusterLease(
            self._opened.kube.api,
            holder=f"{who()} {os.getpid()} {self._run_id}",
            detail={"command": self._opened.settings.command},
            # etcd has no quorum for a while when it grows from one member to two: that is no reason to stop
            ttl_s=_LEASE_TTL_S,
            cancel=self._opened.cancel,
            on_wait=lambda why: self._opened.emit(Note(message=why)),
            on_lost=lambda why: self._opened.cancel.set(f"the lock in the cluster was lost: {why}"),
        )
        try:
            lease.acquire()
        except KubeError as error:
            if _ETCD_IS_FULL not in str(error):
                raise
            # With NOSPACE nobody can write a lock, and what gives space back must run all the same.
            self._opened.emit(Note(message="etcd is full: this run goes on without the lock in the cluster"))
            return
        self._lease = lease

    def release(self) -> None:
        """Give the Lease back."""
        if self._lease is not None:
            self._lease.release()
            self._lease = None


def _new_run_id(operation: str) -> str:
    return f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{operation}-{secrets.token_hex(2)}"


def _make_run_dir(settings: Settings, run_id: str) -> Path:
    folder = settings.run_dir / "runs" / run_id
    try:
        for part in (settings.run_dir, settings.run_dir / "runs", folder):
            part.mkdir(mode=0o700, exist_ok=True, parents=True)
    except OSError as error:
        raise ConfigError(
            "the folder for runs cannot be made",
            where=str(folder),
            why=error.strerror or str(error),
            hint="choose another with --run-dir",
        ) from error
    return folder.resolve()


def who() -> str:
    """Return ``user@host`` of whoever runs this, for locks, journals and cordons."""
    import socket

    from kops_py.engine.lock import user_name

    return f"{user_name()}@{socket.gethostname()}"
