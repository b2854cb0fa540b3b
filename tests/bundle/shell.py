"""Running programs for the bundle: a deadline on each, its output in a log, a line of progress while it runs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path

HEARTBEAT_S = 10.0
TAIL_LINES = 15


class BundleError(Exception):
    """A bundle cannot be had; the text says what happened, where, and what to type next."""


class Progress:
    """Lines on standard error with the seconds since the start, so that a long build is never silent."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._start = time.monotonic()
        self._quiet = quiet

    @property
    def elapsed_s(self) -> float:
        """Seconds since this progress was made."""
        return time.monotonic() - self._start

    def say(self, text: str) -> None:
        """Print one line."""
        if not self._quiet:
            print(f"[bundle {self.elapsed_s:5.0f}s] {text}", file=sys.stderr, flush=True)


def _tail(log: Path) -> str:
    with log.open(encoding="utf-8", errors="replace") as lines:
        return "".join(deque(lines, maxlen=TAIL_LINES)).rstrip()


def _end(process: subprocess.Popen[bytes]) -> None:
    os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(timeout=5)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def run(
    argv: Sequence[str],
    *,
    what: str,
    log: Path,
    progress: Progress,
    deadline_s: float = 300.0,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> None:
    """Run a program to its end with its output appended to `log`; `env` is added to the environment.

    Raises BundleError when the program is missing, fails or outlives `deadline_s` (it is ended then).
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    progress.say(what)
    start = time.monotonic()
    with log.open("ab") as sink:
        sink.write(f"\n== {what}\n".encode())
        sink.flush()
        try:
            process = subprocess.Popen(
                list(argv),
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(env or {})},
                cwd=cwd,
                start_new_session=True,
            )
        except FileNotFoundError as exc:
            raise BundleError(f"{what}: the program {argv[0]!r} is not on this machine") from exc
        try:
            while True:
                left_s = start + deadline_s - time.monotonic()
                if left_s <= 0:
                    raise BundleError(f"{what}: not done after {deadline_s:.0f} s, ended; output in {log}")
                try:
                    code = process.wait(timeout=min(HEARTBEAT_S, left_s))
                    break
                except subprocess.TimeoutExpired:
                    progress.say(f"{what} … {time.monotonic() - start:.0f} s")
        finally:
            if process.poll() is None:
                _end(process)
    if code != 0:
        raise BundleError(f"{what}: exit code {code}; output in {log}, its end:\n{_tail(log)}")


def output(
    argv: Sequence[str],
    *,
    what: str,
    deadline_s: float = 60.0,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> str:
    """What a short program prints; BundleError with its standard error when it fails."""
    try:
        done = subprocess.run(
            list(argv),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=deadline_s,
            env={**os.environ, **(env or {})},
            cwd=cwd,
            check=False,
        )
    except FileNotFoundError as exc:
        raise BundleError(f"{what}: the program {argv[0]!r} is not on this machine") from exc
    except subprocess.TimeoutExpired as exc:
        raise BundleError(f"{what}: no answer within {deadline_s:.0f} s") from exc
    if done.returncode != 0:
        raise BundleError(f"{what}: exit code {done.returncode}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout
