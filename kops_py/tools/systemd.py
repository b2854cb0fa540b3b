"""Long commands as transient systemd units: they outlive the connection that started them.

A job lives in ``/var/lib/kops-py/jobs/<job>/`` (0700): ``run`` is what the unit executes, ``log`` its output
(0600), ``lock`` is locked while it runs, and ``rc``, written last, flushed and renamed, holds its exit status.
No ``rc`` and no unit means that it was interrupted: killed, or the power went. Jobs must be safe to start again.

Everything here is text and parsing; the scripts are POSIX sh with util-linux' flock, and run as root.
"""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from kops_py.model.facts import JobState

BOOT_ID = "/proc/sys/kernel/random/boot_id"
JOBS_DIR = "/var/lib/kops-py/jobs"
JOB_RUNNING_STATUS = 75
"""Exit status of start_job_script and clear_job_script when the job is running (EX_TEMPFAIL of sysexits.h)."""

_JOB = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_ENDED = re.compile(r"ended (\d{1,3})")
_STOP_TIMEOUT_S = 30

_STATE_FUNCTIONS = """\
unit_lives() {
  case "$(systemctl is-active "kops-py-$1.service" 2>/dev/null)" in
    active | activating | reloading | deactivating) return 0 ;;
    *) return 1 ;;
  esac
}
"""

_START = """\
set -eu
umask 077
job={job}
jobs={jobs}
dir="$jobs/$job"
mkdir -p "$jobs"
chmod 0700 "$jobs"
exec 8>"$jobs/.$job.start"
if ! flock -n 8 || unit_lives "$job"; then
  echo "job $job is running already" >&2
  exit {running}
fi
rm -rf "$dir"
mkdir -m 0700 "$dir"
printf '%s' {runner} >"$dir/run"
# not exec: the lock is held until the unit lives, or another start could pass between the two
systemd-run --quiet --collect --unit="kops-py-$job.service" --description="kops-py job $job" \\
  --property=KillMode=mixed --property=TimeoutStopSec={stop_s}{limit} /bin/sh "$dir/run" 8>&-
"""

# The command does not inherit the lock: whatever it leaves running must not look like the job itself.
_RUNNER = """\
umask 077
dir={directory}
exec 9>"$dir/lock"
flock -x 9
cd /
HOME="${{HOME:-/root}}"
export HOME
{command} </dev/null >"$dir/log" 2>&1 9>&-
rc=$?
printf '%s\\n' "$rc" >"$dir/rc.new" && sync "$dir/rc.new" && mv "$dir/rc.new" "$dir/rc" && sync "$dir"
exit "$rc"
"""

# The lock is free for a moment before the job has taken it and after it has given it back; only then the loop
# turns without blocking, and the unit's state ends it.
_WAIT = """\
set -u
job={job}
dir={jobs}/"$job"
seconds() {{ read -r up rest </proc/uptime; echo "${{up%%.*}}"; }}
end=$(($(seconds) + {wait_s}))
while :; do
  if [ -f "$dir/rc" ]; then echo "ended $(cat "$dir/rc")"; exit 0; fi
  if [ ! -d "$dir" ]; then echo absent; exit 0; fi
  left=$((end - $(seconds)))
  if flock -s -w "$((left > 0 ? left : 0))" "$dir/lock" true; then
    if unit_lives "$job"; then
      if [ "$left" -le 0 ]; then echo running; exit 0; fi
      sleep 0.1
    elif [ ! -f "$dir/rc" ]; then
      echo interrupted
      exit 0
    fi
  elif [ ! -f "$dir/rc" ]; then
    echo running
    exit 0
  fi
done
"""

_CLEAR = """\
set -eu
job={job}
jobs={jobs}
if unit_lives "$job"; then
  echo "job $job is running" >&2
  exit {running}
fi
rm -rf "$jobs/$job" "$jobs/.$job.start"
"""


@dataclass(frozen=True, slots=True)
class JobStatus:
    """How a job stands; ``exit_status`` is set once it has ended."""

    state: JobState
    exit_status: int | None = None


def job_dir(job: str) -> str:
    """Return the folder of a job on its host; raises ValueError for a name that cannot be one."""
    if _JOB.fullmatch(job) is None:
        raise ValueError(f"{job!r} is not a job name: lower-case letters, digits and dashes, at most 63")
    return f"{JOBS_DIR}/{job}"


def job_unit(job: str) -> str:
    """Return the name of a job's unit."""
    job_dir(job)
    return f"kops-py-{job}.service"


def start_job_script(job: str, argv: Sequence[str], *, time_limit_s: float | None = None) -> str:
    """Return a script that starts a job and ends at once; what was left of an earlier run of the job is replaced.

    It ends with JOB_RUNNING_STATUS and touches nothing when the job is running. ``time_limit_s`` ends the job from
    outside (it then counts as interrupted). No secret may be in ``argv``. Raises ValueError.
    """
    if not argv:
        raise ValueError("a job needs a command")
    runner = _RUNNER.format(directory=job_dir(job), command=shlex.join(argv))
    limit = f" --property=RuntimeMaxSec={max(1, math.ceil(time_limit_s))}" if time_limit_s is not None else ""
    return _STATE_FUNCTIONS + _START.format(
        job=job,
        jobs=JOBS_DIR,
        running=JOB_RUNNING_STATUS,
        runner=shlex.quote(runner),
        stop_s=_STOP_TIMEOUT_S,
        limit=limit,
    )


def wait_job_script(job: str, timeout_s: float) -> str:
    """Return a script that blocks until the job has ended or ``timeout_s`` is over, and prints its state.

    The output is for parse_job_status. With 0 it does not block. The script's own exit status is 0 in every state.
    """
    job_dir(job)
    return _STATE_FUNCTIONS + _WAIT.format(job=job, jobs=JOBS_DIR, wait_s=max(0, math.ceil(timeout_s)))


def clear_job_script(job: str) -> str:
    """Return a script that removes what an ended job left; JOB_RUNNING_STATUS when it is running."""
    job_dir(job)
    return _STATE_FUNCTIONS + _CLEAR.format(job=job, jobs=JOBS_DIR, running=JOB_RUNNING_STATUS)


def stop_job_argv(job: str) -> tuple[str, ...]:
    """Return the argv that ends a running job and waits for its end; the job then counts as interrupted."""
    return ("systemctl", "stop", job_unit(job))


def tail_job_argv(job: str, lines: int = 200) -> tuple[str, ...]:
    """Return the argv that prints the last lines of a job's output; it may hold secrets until redacted."""
    return ("tail", "-n", str(lines), "--", f"{job_dir(job)}/log")


def parse_job_status(text: str) -> JobStatus | None:
    """Read the output of wait_job_script; None when the host knows no such job. Raises ValueError."""
    words = text.strip()
    if words == "absent":
        return None
    ended = _ENDED.fullmatch(words)
    if ended is not None:
        status = int(ended[1])
        return JobStatus(JobState.SUCCEEDED if status == 0 else JobState.FAILED, status)
    if words in {JobState.RUNNING, JobState.INTERRUPTED}:
        return JobStatus(JobState(words))
    raise ValueError(f"{text!r} is not the state of a job")
