"""Commands of the operator on the machine kops-py runs on."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from kops_py.connect.base import Cancel, CommandResult
from kops_py.model.errors import CommandFailedError, DeadlineError

CONTROLLER = "controller"
_MOST_BYTES = 16 * 1024
_GRACE_S = 3.0
_LOOK_EVERY_S = 0.1


def run_local(
    argv: Sequence[str], *, environment: Mapping[str, str], folder: Path, timeout_s: float, cancel: Cancel
) -> CommandResult:
    """Run a command without a shell and wait for its end; of its output the last 16 KiB of both streams are kept.

    ``environment`` comes on top of our own; ``folder`` is where it runs, and what a relative program is relative to.
    At ``timeout_s`` or when ``cancel`` is set, it and all it started in its session are ended. Raises
    CommandFailedError when it cannot be started, DeadlineError, CancelledError; its exit status is the caller's.
    """
    started = time.monotonic()
    try:
        process = subprocess.Popen(
            list(argv),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env={**os.environ, **environment},
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        why = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise CommandFailedError(f"{argv[0]} cannot be started", where=CONTROLLER, why=why) from None
    tail = _Tail(process.stdout)
    try:
        while process.poll() is None:
            cancel.check()
            left_s = started + timeout_s - time.monotonic()
            if left_s <= 0:
                raise DeadlineError(f"{argv[0]} did not end within {timeout_s:g} s", where=CONTROLLER, why=tail.text())
            _wait(process, min(left_s, _LOOK_EVERY_S))
    finally:
        _end(process)
    output = tail.text().encode()
    status = process.returncode if process.returncode >= 0 else None
    return CommandResult(CONTROLLER, status, output, b"", time.monotonic() - started)


class _Tail:
    """Reads a stream to its end, so that its writer never waits, and keeps the last of it."""

    def __init__(self, stream: IO[bytes] | None) -> None:
        self._stream = stream
        self._kept = bytearray()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._read, name="kops-output", daemon=True)
        self._thread.start()

    def _read(self) -> None:
        if self._stream is None:
            return
        with self._stream:
            while piece := os.read(self._stream.fileno(), 8192):
                with self._lock:
                    self._kept = (self._kept + piece)[-_MOST_BYTES:]

    def text(self) -> str:
        """Return what was said so far; whoever else holds the stream open is not waited for."""
        self._thread.join(0.5)
        with self._lock:
            return bytes(self._kept).decode("utf-8", "replace")


def _wait(process: subprocess.Popen[bytes], timeout_s: float) -> None:
    try:
        process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        return


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a command that still runs, with all of its session's first group: asked first, then for good."""
    for signal_ in (signal.SIGTERM, signal.SIGKILL):
        if process.poll() is not None:
            return
        try:
            os.killpg(process.pid, signal_)
        except ProcessLookupError:
            return
        _wait(process, _GRACE_S)
