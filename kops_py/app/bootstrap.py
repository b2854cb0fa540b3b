"""The bootstrap command: observe, check, plan, and carry the plan out."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kops_py.app.session import (
    Confirm,
    Emit,
    Session,
    Settings,
    check_hosts,
    load_spec,
    looking_at,
    resume_command,
    session,
)
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
from kops_py.model.event import Event, FindingsMade, Note, PlanMade, RunFinished, RunStarted, StepResult
from kops_py.model.facts import Facts
from kops_py.model.finding import Finding, blocking
from kops_py.model.plan import Plan
from kops_py.model.spec import ClusterSpec, CniType

if TYPE_CHECKING:
    from kops_py.actions.deps import Deps
    from kops_py.connect.lease import ClusterLease
    from kops_py.runbooks.bootstrap import BootstrapArguments, Decision


_LEASE_TTL_S = 90.0


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


def run_bootstrap(settings: Settings, emit: Emit, confirm: Confirm) -> RunResult:
    """Build the cluster, or bring a running one to what the inventory names; raises KopsError before it starts."""
    spec = load_spec(settings)
    if settings.plan_only:
        with session(settings, spec, emit) as opened:
            return _decide(opened)[0]
    from kops_py.engine.lock import FileLock

    run_id = _new_run_id("bootstrap")
    lock = FileLock(settings.run_dir / "locks", spec.name)
    lock.acquire(run_id=run_id, command=settings.command)
    try:
        folder = _make_run_dir(settings, run_id)
        with _recorded(emit, folder) as record, session(settings, spec, record, work_dir=folder) as opened:
            record(RunStarted(run_id=run_id, operation="bootstrap", cluster=spec.name, run_dir=str(folder)))
            return _run_and_tell(opened, run_id, folder, confirm)
    finally:
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


def _run_and_tell(opened: Session, run_id: str, folder: Path, confirm: Confirm) -> RunResult:
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
                resume="" if code is ExitCode.DONE else resume_command(opened.settings.command),
            )
        )

    try:
        result = _run(opened, run_id, folder, confirm)
    except KopsError as error:
        tell(error.code, (error,))
        raise
    if not result.executed:
        tell(result.exit_code, result.errors, len(result.plan.steps))
    return result


def _decide(opened: Session) -> tuple[RunResult, Facts, BootstrapArguments]:
    """Observe, check and plan; the exit code says whether there is something to do."""
    from kops_py.runbooks.preflight import mark_ignored

    spec, emit = opened.spec, opened.emit
    emit(Note(message=looking_at(spec)))
    arguments = bootstrap_arguments(spec)
    facts = opened.observe()
    decision = _plan(opened, facts, arguments)
    joining = any(s.id.startswith(("prepare/", "init/", "join/", "load-balancer/")) for s in decision.plan.steps)
    probes = None
    if joining:
        emit(Note(message="probing ports between hosts, repositories, registries and disks"))
        probes = opened.probe(facts)
    findings = check_hosts(opened, facts, probes) + mark_ignored(decision.findings, opened.ignored)
    emit(FindingsMade(findings=findings))
    emit(PlanMade(plan=decision.plan))
    code = ExitCode.PENDING_CHANGES if decision.plan.has_changes else ExitCode.DONE
    stops = blocking(findings)
    errors: tuple[KopsError, ...] = ()
    if stops:
        code = ExitCode.PREFLIGHT
        errors = (_preflight_error(stops),)
    return RunResult(code, decision.plan, findings, errors), facts, arguments


def _preflight_error(stops: tuple[Finding, ...]) -> PreflightError:
    names = ", ".join(sorted({f.id for f in stops}))
    return PreflightError(
        f"{len(stops)} finding{'s' if len(stops) > 1 else ''} must be mended before anything is touched",
        why=names,
        hint="mend them, or accept one by name with --ignore NAME, then run the same command again",
    )


def _run(opened: Session, run_id: str, folder: Path, confirm: Confirm) -> RunResult:
    decided, facts, arguments = _decide(opened)
    plan, settings = decided.plan, opened.settings
    if settings.plan_digest and plan.digest != settings.plan_digest:
        raise PlanChangedError(
            "the plan is not the one that was approved",
            why=f"approved {settings.plan_digest}, found {plan.digest}",
            hint="look at it with --plan and approve it anew",
        )
    if decided.errors:
        return decided
    if not plan.has_changes:
        return RunResult(ExitCode.DONE, plan, decided.findings, run_dir=folder)
    with signals_end():
        agreed = confirm(plan, decided.findings)
    if not agreed:
        return RunResult(ExitCode.INTERRUPTED, plan, decided.findings, run_dir=folder)
    return _execute(opened, run_id, folder, decided, facts, arguments)


def _execute(
    opened: Session, run_id: str, folder: Path, decided: RunResult, facts: Facts, arguments: BootstrapArguments
) -> RunResult:
    from kops_py.actions.perform import ClusterPerformer
    from kops_py.engine.journal import Journal
    from kops_py.engine.run import Engine
    from kops_py.tools.kubeconfig import write_private

    started, plan = time.monotonic(), decided.plan
    write_private(folder / "plan.json", json.dumps(plan.to_json(), indent=2).encode())
    journal = Journal(folder / "journal.jsonl")
    journal.write(
        "run-start", run=run_id, operation=plan.operation, cluster=plan.cluster, digest=plan.digest, by=_who()
    )
    lease = _LeaseKeeper(opened, run_id)
    try:
        lease.take_if_possible()
        engine = Engine(ClusterPerformer(_deps(opened, folder, facts, arguments)), journal, opened.emit, opened.cancel)

        def replan() -> Plan:
            now = opened.observe()
            _raise_for_lost_hosts(plan, now)
            lease.take_if_possible()
            return _plan(opened, now, arguments).plan

        outcome = engine.run(plan, replan)
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
        resume="" if outcome.ok else resume_command(opened.settings.command),
    )
    journal.write("run-end", exit_code=int(code), duration_s=round(finished.duration_s, 3))
    journal.close()
    opened.emit(finished)
    return RunResult(code, plan, decided.findings, tuple(outcome.errors), folder, executed=True)


def _raise_for_lost_hosts(plan: Plan, facts: Facts) -> None:
    """Stop when a host of the plan went away since: the difference in plans would not say so plainly."""
    for step in plan.steps:
        problem = facts.hosts[step.node].problem if step.node else None
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
            holder=f"{_who()} {os.getpid()} {self._run_id}",
            detail={"command": self._opened.settings.command},
            # etcd has no quorum for a while when it grows from one member to two: that is no reason to stop
            ttl_s=_LEASE_TTL_S,
            cancel=self._opened.cancel,
            on_wait=lambda why: self._opened.emit(Note(message=why)),
            on_lost=lambda why: self._opened.cancel.set(f"the lock in the cluster was lost: {why}"),
        )
        lease.acquire()
        self._lease = lease

    def release(self) -> None:
        """Give the Lease back."""
        if self._lease is not None:
            self._lease.release()


def bootstrap_arguments(spec: ClusterSpec) -> BootstrapArguments:
    """Return the digests the bootstrap runbook compares with what the hosts say; taken once for a whole run.

    Reads files, and the network manifest when that is a URL; contacts no host. Raises ConfigError.
    """
    from kops_py.connect.ansible import playbooks_fingerprint
    from kops_py.runbooks.bootstrap import BootstrapArguments
    from kops_py.tools.preparation import load_balancer_digest, prepare_digest

    fingerprint = playbooks_fingerprint()
    manifest = read_manifest(spec) if spec.network.cni is CniType.MANIFEST else ""
    return BootstrapArguments(
        prepare_digests={h.name: prepare_digest(spec, h, fingerprint) for h in spec.nodes},
        load_balancer_digests={h.name: load_balancer_digest(spec, h, fingerprint) for h in spec.load_balancers},
        network_digest=hashlib.sha256(manifest.encode()).hexdigest() if manifest else "",
        limit=spec.limit or frozenset(),
    )


def read_manifest(spec: ClusterSpec) -> str:
    """Return the text of the network manifest, from a file or a URL; raises ConfigError."""
    import urllib.request

    source = spec.network.cni_manifest or ""
    try:
        if source.startswith(("http://", "https://")):
            with urllib.request.urlopen(source, timeout=30) as answer:  # noqa: S310 - scheme checked above
                return str(answer.read().decode())
        return Path(source).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise ConfigError(
            "the network manifest cannot be read",
            where=source,
            why=str(error),
            hint="set network.cni.file to a downloaded copy, or check the address",
        ) from error


def _unchanged_manifest(spec: ClusterSpec, digest: str) -> str:
    """Return the text of the network manifest that the plan announced; raises ConfigError when it is another now."""
    text = read_manifest(spec)
    if hashlib.sha256(text.encode()).hexdigest() != digest:
        raise ConfigError(
            "the network manifest is not the one the plan announced",
            where=spec.network.cni_manifest or "",
            why="it changed while the run went on",
            hint="look at the plan again with --plan, then run the same command",
        )
    return text


def _plan(opened: Session, facts: Facts, arguments: BootstrapArguments) -> Decision:
    from kops_py.runbooks.bootstrap import bootstrap

    return bootstrap(opened.spec, facts, arguments)


def _deps(opened: Session, folder: Path, facts: Facts, arguments: BootstrapArguments) -> Deps:
    from kops_py.actions.deps import Deps
    from kops_py.connect.ansible import AnsibleRunner
    from kops_py.runbooks.preflight import kubeadm_ignores
    from kops_py.tools.preparation import load_balancer_variables, prepare_host_variables, prepare_variables

    spec = opened.spec

    def prepare_host(name: str) -> Mapping[str, Any]:
        own = prepare_host_variables(spec, spec.host(name))
        return {**own, "kops_prepare_digest": arguments.prepare_digests[name]}

    def balancer_host(name: str) -> Mapping[str, Any]:
        return {"kops_load_balancer_digest": arguments.load_balancer_digests[name]}

    return Deps(
        spec=spec,
        fleet=opened.fleet,
        ansible=AnsibleRunner(
            folder / "ansible",
            become_password=opened.become_password,
            accept_new_host_keys=opened.settings.accept_new_host_keys,
        ),
        kube=opened.kube,
        cancel=opened.cancel,
        prepare_variables=prepare_variables(spec),
        prepare_host_variables=prepare_host,
        load_balancer_variables=load_balancer_variables(spec),
        load_balancer_host_variables=balancer_host,
        read_manifest=lambda: _unchanged_manifest(spec, arguments.network_digest),
        kubeadm_ignores=kubeadm_ignores(opened.ignored),
        cgroup_v1={name: host.cgroup_version == 1 for name, host in facts.hosts.items()},
    )


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


def _who() -> str:
    import socket

    from kops_py.engine.lock import user_name

    return f"{user_name()}@{socket.gethostname()}"
