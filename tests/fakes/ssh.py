"""Strict stand-ins for Host and Fleet: replies are scripted, an unknown command fails the test."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from kops_py.connect.base import Cancel, CommandResult, Host
from kops_py.model.errors import CancelledError, CommandFailedError, KopsError

Argv = tuple[str, ...]
Matcher = Callable[[Argv], bool]


class UnknownCommandError(AssertionError):
    """The code under test ran something the test did not expect; not a KopsError, so nothing handles it."""


@dataclass(frozen=True)
class Call:
    """One command that was run."""

    argv: Argv
    sudo: bool
    stdin: bytes | None
    timeout_s: float


@dataclass
class Reply:
    """What a command answers; ``error`` is raised instead, ``times`` limits how often it may be used."""

    stdout: bytes | str = b""
    stderr: bytes | str = b""
    exit_status: int | None = 0
    error: KopsError | None = None
    sudo: bool | None = None
    """Whether the command must be run as root (None: either)."""
    times: int | None = None
    effect: Callable[[Call], None] | None = None
    used: int = 0


Answer = Reply | Callable[[Call], Reply]


def _bytes(data: bytes | str) -> bytes:
    return data.encode() if isinstance(data, str) else data


@dataclass
class FakeHost:
    """Implements ``Host``. Later ``on`` lines win over earlier ones that match the same command."""

    name: str
    calls: list[Call] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
    modes: dict[str, int] = field(default_factory=dict)
    allow_writes: bool = True
    closed: bool = False

    def __post_init__(self) -> None:
        self._script: list[tuple[Argv | Matcher, Answer]] = []
        self._lock = threading.Lock()

    def on(self, command: Sequence[str] | Matcher, answer: Answer | str | bytes = b"") -> FakeHost:
        """Script one command: an exact argv or a predicate, and a Reply, a function, or just its output."""
        matcher = command if callable(command) else tuple(command)
        self._script.append((matcher, Reply(answer) if isinstance(answer, (str, bytes)) else answer))
        return self

    @property
    def argvs(self) -> list[Argv]:
        """Return what was run, in order."""
        return [call.argv for call in self.calls]

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
        """Answer as scripted; see ``Host.run``."""
        if cancel is not None:
            cancel.check()
        data = stdin if stdin is None or isinstance(stdin, bytes) else stdin.read()
        call = Call(tuple(argv), sudo, data, timeout_s)
        with self._lock:
            self.calls.append(call)
            reply = self._reply(call)
        if reply.effect is not None:
            reply.effect(call)
        if reply.error is not None:
            raise reply.error
        stdout = _bytes(reply.stdout)
        if stdout_to is not None:
            stdout_to(stdout)
            stdout = b""
        result = CommandResult(self.name, reply.exit_status, stdout, _bytes(reply.stderr), 0.0)
        if check and not result.ok:
            raise CommandFailedError(
                f"{' '.join(argv)} ended with exit status {reply.exit_status}",
                where=self.name,
                why=result.err.strip(),
                exit_status=reply.exit_status,
            )
        return result

    def _reply(self, call: Call) -> Reply:
        for matcher, answer in reversed(self._script):
            if not (matcher(call.argv) if callable(matcher) else matcher == call.argv):
                continue
            if isinstance(answer, Reply) and answer.times is not None and answer.used >= answer.times:
                continue
            reply = answer if isinstance(answer, Reply) else answer(call)
            if reply.sudo is not None and reply.sudo != call.sudo:
                raise UnknownCommandError(f"{self.name}: {call.argv} was run with sudo={call.sudo}")
            reply.used += 1
            return reply
        raise UnknownCommandError(f"{self.name}: the test has no reply for {call.argv} (sudo={call.sudo})")

    def write_file(self, path: str, data: bytes, *, mode: int = 0o600, timeout_s: float = 60.0) -> None:
        """Keep the file in ``files`` and ``modes``."""
        if not self.allow_writes:
            raise UnknownCommandError(f"{self.name}: the test expects no file to be written, but {path} was")
        with self._lock:
            self.files[path] = data
            self.modes[path] = mode

    def read_file(self, path: str, *, timeout_s: float = 60.0) -> bytes:
        """Return a file of ``files``."""
        if path not in self.files:
            raise CommandFailedError(
                f"cat -- {path} ended with exit status 1", where=self.name, why="No such file", exit_status=1
            )
        return self.files[path]

    def close(self) -> None:
        """Note it."""
        self.closed = True


class FakeFleet:
    """Implements ``Fleet`` over FakeHosts; ``map`` works one after the other, in the order asked for."""

    def __init__(self, hosts: Sequence[FakeHost] | Mapping[str, FakeHost]) -> None:
        items = hosts.values() if isinstance(hosts, Mapping) else hosts
        self.hosts: dict[str, FakeHost] = {host.name: host for host in items}
        self.closed = False

    def host(self, name: str) -> FakeHost:
        """Return the host; raises KeyError."""
        return self.hosts[name]

    def map(self, names: Sequence[str], work: Callable[[Host], Any], *, cancel: Cancel | None = None) -> dict[str, Any]:
        """Do ``work`` on each; its value or its KopsError."""
        results: dict[str, Any] = {}
        for host in [self.host(name) for name in names]:
            if cancel is not None and cancel.is_set:
                results[host.name] = CancelledError("not started", where=host.name, why=cancel.reason)
                continue
            try:
                results[host.name] = work(host)
            except KopsError as e:
                results[host.name] = e
        return results

    def close(self) -> None:
        """Note it."""
        self.closed = True
        for host in self.hosts.values():
            host.close()
