"""Long commands on a host: begun once, waited for across lost connections, told about while they run."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from kops_py.connect.base import Host
from kops_py.engine.run import StepContext
from kops_py.model.errors import CommandFailedError, UnreachableError
from kops_py.model.facts import JobState
from kops_py.tools import systemd
from kops_py.tools.redact import redact

_WAIT_S = 2.0
_GRACE_S = 20.0
_RECONNECT_S = 60.0
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


def run_job(host: Host, job: str, argv: Sequence[str] | None, ctx: StepContext) -> JobOutcome:
    """Start a job (with ``argv`` None: only wait for a running one) and wait for its end.

    A lost connection is made anew and the wait goes on; the job does not notice. Raises DeadlineError,
    CancelledError (the job goes on; the next run waits for it), UnreachableError.
    """
    if argv is not None:
        answer = host.run(("sh", "-c", systemd.start_job_script(job, argv)), sudo=True, check=False)
        if answer.exit_status not in (0, systemd.JOB_RUNNING_STATUS):
            raise CommandFailedError(
                f"the job {job} could not be started",
                where=host.name,
                why=redact(answer.err).strip(),
                hint="is systemd the init system of this host, and is there space in /var/lib?",
                exit_status=answer.exit_status,
            )
    status = _wait(host, job, ctx)
    log = _log(host, job)
    return JobOutcome(status.exit_status if status else None, log, f"{systemd.job_dir(job)}/log")


def _wait(host: Host, job: str, ctx: StepContext) -> systemd.JobStatus | None:
    lost_for_s = 0.0
    while True:
        left_s = ctx.remaining_s()
        try:
            status = _status(host, job, min(_WAIT_S, left_s))
            lost_for_s = 0.0
        except UnreachableError:
            lost_for_s += _WAIT_S
            if lost_for_s > _RECONNECT_S:
                raise
            ctx.progress("connection lost; the job goes on, connecting again", waiting=True)
            ctx.cancel.wait(_WAIT_S)
            continue
        if status is None or status.state is not JobState.RUNNING:
            return status
        phase = _last_phase(_log(host, job, lines=20))
        if phase:
            ctx.progress(phase)


def _status(host: Host, job: str, wait_s: float) -> systemd.JobStatus | None:
    answer = host.run(("sh", "-c", systemd.wait_job_script(job, wait_s)), sudo=True, timeout_s=wait_s + _GRACE_S)
    return systemd.parse_job_status(answer.out)


def _log(host: Host, job: str, lines: int = 400) -> str:
    answer = host.run(systemd.tail_job_argv(job, lines), sudo=True, check=False)
    return redact(answer.out)


def _last_phase(log: str) -> str:
    """Return kubeadm's last ``[phase] text`` line."""
    matches = list(_PHASE.finditer(log))
    return f"{matches[-1]['phase']}: {matches[-1]['text'][:100]}" if matches else ""
