"""The machine kops-py runs on, as a ``Host``: what is proven here is run by the same code as on a host over SSH."""

from __future__ import annotations

import os
import stat
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from kops_py.connect.base import Cancel, CommandResult
from kops_py.model.errors import CommandFailedError, DeadlineError, HostError

_PIECE_BYTES = 1024 * 1024
_LOOK_S = 0.1
_MOST_ERROR_BYTES = 64 * 1024
_GRACE_S = 15.0
"""From the polite end of a command to the other one: it takes its children along and removes what it made."""


class LocalHost:
    """Runs commands as this user; ``sudo`` is not for here and raises HostError."""

    def __init__(self, name: str = "here") -> None:
        self._name = name

    @property
    def name(self) -> str:
        """Return what messages call this machine."""
        return self._name

    def run(
        self,
        argv: Sequence[str],
        *,
        sudo: bool = False,
        stdin: bytes | BinaryIO | None = None,
        timeout_s: float = 60.0,
        check: bool = True,
        cancel: Cancel | None = None,
        stdout_to: Callable[[bytes], None] | None = None,
    ) -> CommandResult:
        """Run a command and wait for its end; see ``Host.run``. What reading ``stdin`` raises is raised as it is.

        A regular file the command gets as it is, at its beginning, and may open again by ``/proc/self/fd/0``.
        """
        if sudo:
            raise HostError("nothing is run as another user on this machine", where=self._name)
        begun = time.monotonic()
        given = _regular_file(stdin)
        try:
            process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE if given is None else given,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
        except OSError as error:
            raise HostError(f"{argv[0]} cannot be run", where=self._name, why=error.strerror or str(error)) from error
        streams = _Streams(process, stdin if given is None else None, stdout_to)
        try:
            streams.wait(begun + timeout_s, cancel)
        except TimeoutError:
            raise DeadlineError(f"{argv[0]} did not end within {timeout_s:g} s", where=self._name) from None
        finally:
            streams.end()
        if streams.failure is not None:
            raise streams.failure
        result = CommandResult(
            self._name,
            process.returncode if process.returncode >= 0 else None,
            bytes(streams.out),
            bytes(streams.err),
            time.monotonic() - begun,
        )
        if check and not result.ok:
            raise CommandFailedError(
                f"{argv[0]} ended with exit status {result.exit_status}",
                where=self._name,
                why=result.err.strip()[-500:],
                exit_status=result.exit_status,
            )
        return result

    def write_file(self, path: str, data: bytes, *, mode: int = 0o600, timeout_s: float = 60.0) -> None:
        """Write a file in one move: beside it, then renamed."""
        import tempfile

        del timeout_s
        target = Path(path)
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle, new = tempfile.mkstemp(prefix=".kops-py.", dir=target.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                os.fchmod(file.fileno(), mode)
                file.flush()
                os.fsync(file.fileno())
            Path(new).replace(target)
        except BaseException:
            Path(new).unlink(missing_ok=True)
            raise

    def read_file(self, path: str, *, timeout_s: float = 60.0) -> bytes:
        """Return the content of a file; raises CommandFailedError when there is none."""
        del timeout_s
        try:
            return Path(path).read_bytes()
        except OSError as error:
            raise CommandFailedError(
                f"{path} cannot be read", where=self._name, why=str(error), exit_status=1
            ) from None

    def close(self) -> None:
        """There is no connection to end."""


def _regular_file(stdin: bytes | BinaryIO | None) -> int | None:
    """Return the descriptor of a regular file, wound back to its beginning; None for anything else."""
    if stdin is None or isinstance(stdin, bytes):
        return None
    try:
        descriptor = stdin.fileno()
    except (AttributeError, OSError):  # a pipe of ours, or bytes in memory
        return None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        return None
    stdin.seek(0)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


class _Streams:
    """The three streams of a process, each with a thread of its own."""

    def __init__(
        self, process: subprocess.Popen[bytes], stdin: bytes | BinaryIO | None, sink: Callable[[bytes], None] | None
    ) -> None:
        self._process = process
        self.out, self.err = bytearray(), bytearray()
        self.failure: BaseException | None = None
        assert process.stdout is not None  # noqa: S101 - asked for above
        assert process.stderr is not None  # noqa: S101
        work = [
            threading.Thread(target=self._read, args=(process.stdout, sink or self.out.extend), daemon=True),
            threading.Thread(target=self._read, args=(process.stderr, self._keep_error), daemon=True),
        ]
        if stdin is not None:
            work.append(threading.Thread(target=self._write, args=(stdin,), daemon=True))
        self._threads = work
        for thread in work:
            thread.start()

    def wait(self, until: float, cancel: Cancel | None) -> None:
        """Wait for the end of the process; raises TimeoutError and CancelledError."""
        while self._process.poll() is None:
            if cancel is not None:
                cancel.check()
            if self.failure is not None:
                return
            left = until - time.monotonic()
            if left <= 0:
                raise TimeoutError
            try:
                self._process.wait(min(_LOOK_S, left))
            except subprocess.TimeoutExpired:
                continue

    def end(self) -> None:
        """Make sure that the process has ended, with what it started, and that its streams are read."""
        import signal

        for number in (signal.SIGTERM, signal.SIGKILL):
            if self._process.poll() is not None:
                break
            try:
                os.killpg(self._process.pid, number)
            except ProcessLookupError:
                break
            try:
                self._process.wait(_GRACE_S)
            except subprocess.TimeoutExpired:
                continue
        for thread in self._threads:
            thread.join(_GRACE_S)

    def _read(self, stream: BinaryIO, take: Callable[[bytes], object]) -> None:
        try:
            while data := stream.read1(_PIECE_BYTES):  # type: ignore[attr-defined]
                take(data)
        except BaseException as error:  # noqa: BLE001 - raised by run, in the caller's thread
            self.failure = self.failure or error
        finally:
            stream.close()

    def _keep_error(self, data: bytes) -> None:
        self.err += data
        del self.err[:-_MOST_ERROR_BYTES]

    def _write(self, source: bytes | BinaryIO) -> None:
        target = self._process.stdin
        assert target is not None  # noqa: S101 - there is one when there is a source
        try:
            if isinstance(source, bytes):
                target.write(source)
            else:
                while data := source.read(_PIECE_BYTES):
                    target.write(data)
        except BrokenPipeError:
            return  # the command has ended; its exit status says more
        except BaseException as error:  # noqa: BLE001 - raised by run, in the caller's thread
            self.failure = self.failure or error
        finally:
            with suppress(BrokenPipeError):
                target.close()
