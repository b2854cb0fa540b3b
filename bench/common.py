"""What the benches share: saying why one cannot run, timing a program, one line about the machine."""

from __future__ import annotations

import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from tests.lab import unavailable_reason

CANNOT_RUN = 3
"""Exit status of a bench for which something is missing on this machine."""


def cannot_run(reason: str) -> NoReturn:
    """End the bench, saying what it lacks here."""
    print(reason, file=sys.stderr)
    raise SystemExit(CANNOT_RUN)


def need_lab() -> None:
    """End the bench when this machine boots no systems; from here on SIGTERM takes the lab down as Ctrl-C does."""
    reason = unavailable_reason()
    if reason:
        cannot_run(f"the lab cannot run here: {reason}")
    signal.signal(signal.SIGTERM, _end)


def _end(number: int, _: object) -> None:
    sys.exit(128 + number)


def script(name: str) -> Path:
    """Return a program of the environment this runs in; ends the bench when it is not there."""
    path = Path(sys.executable).with_name(name)
    if not path.is_file():
        cannot_run(f"{name} is not installed beside {Path(sys.executable).name}")
    return path


def timed(
    argv: Sequence[str], *, limit_s: float, cwd: Path | None = None, env: Mapping[str, str] | None = None
) -> tuple[float, subprocess.CompletedProcess[str]]:
    """Run a program to its end; returns the seconds it took. Raises CalledProcessError, TimeoutExpired."""
    begun = time.perf_counter()
    done = subprocess.run(
        argv, cwd=cwd, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True, timeout=limit_s
    )
    return time.perf_counter() - begun, done


def machine() -> str:
    """Describe the machine without naming it."""
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{os.cpu_count()} cores ({model}), {memory_gib:.0f} GiB, Linux {platform.release()}, "
        f"Python {platform.python_version()}"
    )
