"""The lab's own processes: how they are started, recognised and ended.

A process is only ever signalled when its start time is the recorded one, or when its command line is ours word by
word, so a pid that the kernel gave to somebody else is never touched.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from .config import LabConfig, LabError

_CHILD = Path(__file__).resolve().parent / "_child.py"


class Child(NamedTuple):
    pid: int
    kind: str
    args: tuple[str, ...]


def _stat_fields(pid: int) -> list[str] | None:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except (OSError, IndexError):
        return None


def is_alive(pid: int) -> bool:
    fields = _stat_fields(pid)
    return fields is not None and fields[0] not in "ZX"


def write_pid(path: Path, pid: int) -> None:
    """Record a process together with its start time."""
    fields = _stat_fields(pid)
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(f"{pid} {fields[19] if fields else 0}\n")
    temporary.replace(path)


def read_pid(path: Path) -> int | None:
    """The recorded process, only if it still runs and is the same one."""
    try:
        pid, started = path.read_text().split()
    except (OSError, ValueError):
        return None
    fields = _stat_fields(int(pid))
    return int(pid) if fields and fields[19] == started and fields[0] not in "ZX" else None


def find_children(config: LabConfig) -> list[Child]:
    """Every running supervisor, swarm parent and file server of this lab, whoever started it."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            words = (entry / "cmdline").read_text().split("\0")[:-1]
        except (OSError, UnicodeDecodeError):
            continue
        # argv: python -S -E .../tests/lab/_child.py KIND LAB_DIR ARGS...
        ours = len(words) >= 6 and words[3].endswith("/tests/lab/_child.py") and words[5] == str(config.dir)
        if ours and is_alive(int(entry.name)):
            found.append(Child(int(entry.name), words[4], tuple(words[6:])))
    return found


def spawn(config: LabConfig, starts: Sequence[tuple[str, Sequence[str], Path, Path]]) -> None:
    """Start detached processes, each as (kind, args, pid file, log file).

    Returns when every pid file is written. They are no children of ours afterwards: nobody has to reap them, and
    they outlive this process. Raises LabError when one cannot start.
    """
    running = []
    for kind, args, pid_file, log_file in starts:
        with log_file.open("ab") as log:
            argv = [sys.executable, "-S", "-E", str(_CHILD), kind, str(config.dir), *args]
            env = {**os.environ, "KOPS_LAB_PID_FILE": str(pid_file)}
            process = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=env, cwd="/", start_new_session=True
            )
        running.append((kind, process, log_file))
    for kind, process, log_file in running:
        if process.wait(30) != 0:
            raise LabError(f"the lab's {kind} process did not start: see {log_file}")


def detach() -> None:
    """Leave the process that `spawn` waits for; the pid file is there before it sees us end."""
    pid_file = Path(os.environ.pop("KOPS_LAB_PID_FILE"))
    pid = os.fork()
    if pid:
        write_pid(pid_file, pid)
        os._exit(0)


def end_process(pid: int, timeout_s: float, number: int = signal.SIGKILL) -> None:
    """Signal a process and wait until it is gone; SIGKILL when it does not go by itself."""
    for sent in (number, signal.SIGKILL):
        try:
            os.kill(pid, sent)
        except ProcessLookupError:
            return
        if wait_until(lambda: not is_alive(pid), timeout_s):
            return
    raise LabError(f"process {pid} does not end {timeout_s:.0f} s after SIGKILL")


def wait_until(condition: Callable[[], bool], timeout_s: float, poll_s: float = 0.02) -> bool:
    """True as soon as the condition holds, False when it does not within `timeout_s`."""
    end = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(poll_s)
    return True


def run(*argv: str, check: bool = True, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run a tool of the machine. Raises LabError with the tool's own words when it fails and `check` is set."""
    done = subprocess.run(
        argv,
        input=stdin if stdin is not None else "",
        capture_output=True,
        text=True,
        check=False,
    )
    if check and done.returncode != 0:
        raise LabError(f"{' '.join(argv)}: exit {done.returncode}: {(done.stderr or done.stdout).strip()}")
    return done
