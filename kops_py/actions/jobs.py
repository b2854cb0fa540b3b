"""Long commands on a host: begun once, waited for across lost connections, told about while they run."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from kops_py.actions.waiting import remaining_s
from kops_py.connect.base import Host
from kops_py.engine.run import StepContext
from kops_py.model.errors import CommandFailedError, DeadlineError, UnreachableError
from kops_py.model.facts import JobState
from kops_py.tools import systemd
from kops_py.tools.redact import redact

_WAIT_S = 2.0
_GRACE_S = 20.0
_RECONNECT_S = 60.0
_PHASE_LINES = 20
_LOG_LINES = 400
_PHASE = re.compile(r"^\[(?P<phase>[a-z0-9-]+)\] (?P<text>.+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class JobOutcome:
    """How a job ended; ``exit_status`` is None when it was interrupted. ``log`` is redacted."""

    exit_status: int | None
    log: str
    log_path: str


def read_job(host: Host, job: str) -> JobState | None:
    """Return the state of a job, None when the host knows none of this name."""
    status = _status(host, job, 0)
    return status.state if status else None


def forget_job(host: Host, job: str) -> None:
    """Remove what an ended job left; raises CommandFailedError when it is running."""
    host.run(("sh", "-c", systemd.clear_job_script(job)), sudo=True)


def run_job(host: Host, job: str, argv: Sequence[str], ctx: StepContext) -> JobOutcome:
    """Start a job and wait for its end; one of this name that is running already is waited for instead."""
    start_job(host, job, argv)
    return wait_job(host, job, ctx)


def start_job(host: Host, job: str, argv: Sequence[str]) -> None:
    """Start a job unless it is running; raises CommandFailedError, UnreachableError (it may have been started)."""
    answer = host.run(("sh", "-c", systemd.start_job_script(job, argv)), sudo=True, check=False)
    if answer.exit_status not in (0, systemd.JOB_RUNNING_STATUS):
        raise CommandFailedError(
            f"the job {job} could not be started",
            where=host.name,
            why=redact(answer.err).strip(),
            hint="is systemd the init system of this host, and is there space in /var/lib?",
            exit_status=answer.exit_status,
        )


def wait_job(host: Host, job: str, ctx: StepContext, *, meanwhile: Callable[[], None] | None = None) -> JobOutcome:
    """Wait for the end of a job, telling kubeadm's phases; ``meanwhile`` is called while it runs.

    A lost connection is made anew and the wait goes on; the job does not notice. Raises DeadlineError and
    CancelledError (the job goes on; the next run waits for it), UnreachableError when the host stays away.
    """
    log_path, phase = f"{systemd.job_dir(job)}/log", ""
    lost_at: float | None = None
    while True:
        left_s = remaining_s(
            ctx,
            f"{job} still runs" + (f" ({phase})" if phase else ""),
            hint=f"it goes on on the host, and the same command waits for it again; its log there: {log_path}",
        )
        try:
            status = _status(host, job, min(_WAIT_S, left_s))
            running = status is not None and status.state is JobState.RUNNING
            log = _log(host, job, _PHASE_LINES if running else _LOG_LINES)
            if running and meanwhile is not None:
                meanwhile()
        except (UnreachableError, DeadlineError):
            lost_at = lost_at or time.monotonic()
            if time.monotonic() - lost_at >= _RECONNECT_S:
                raise
            ctx.progress("connection lost; the job goes on, connecting again", waiting=True)
            ctx.cancel.wait(_WAIT_S)
            continue
        lost_at = None
        if not running:
            return JobOutcome(status.exit_status if status else None, log, log_path)
        phase = _last_phase(log)
        if phase:
            ctx.progress(phase)


def _status(host: Host, job: str, wait_s: float) -> systemd.JobStatus | None:
    answer = host.run(("sh", "-c", systemd.wait_job_script(job, wait_s)), sudo=True, timeout_s=wait_s + _GRACE_S)
    try:
        return systemd.parse_job_status(answer.out)
    except ValueError as error:
        raise CommandFailedError(
            f"the state of the job {job} cannot be read",
            where=host.name,
            why=redact(str(error))[:300],
            hint="does something print into every shell there (a profile, a banner)? Only to standard error, please",
        ) from error


def _log(host: Host, job: str, lines: int) -> str:
    answer = host.run(systemd.tail_job_argv(job, lines), sudo=True, check=False)
    return redact(answer.out)


def _last_phase(log: str) -> str:
    """Return kubeadm's last ``[phase] text`` line."""
    matches = list(_PHASE.finditer(log))
    return f"{matches[-1]['phase']}: {matches[-1]['text'][:100]}" if matches else ""
