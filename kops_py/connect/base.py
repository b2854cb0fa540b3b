"""What the rest of the program may ask of a host, of Ansible and of the Kubernetes API.

One real implementation each stands beside this file; tests bring strict fakes.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, BinaryIO, Protocol, TypeVar

from kops_py.model.errors import CancelledError, KopsError
from kops_py.model.spec import HostSpec

JsonObject = dict[str, Any]
T = TypeVar("T")


class Cancel:
    """Says whether the run is to end; given to everything that waits."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._why: tuple[str, type[CancelledError]] | None = None  # one value: signal handlers set it, without a lock
        self._unheard = threading.local()

    def set(self, reason: str, kind: type[CancelledError] = CancelledError) -> None:
        """Ask everything that waits to end; ``check`` raises ``kind``. The first of several reasons counts."""
        self._why = self._why or (reason, kind)
        self._event.set()

    @property
    def reason(self) -> str:
        """Return why the run is to end; empty while it is not."""
        return self._why[0] if self._why else ""

    @property
    def is_set(self) -> bool:
        """Whether the run is to end."""
        return self._event.is_set() and not self._is_unheard

    @contextmanager
    def unheard(self) -> Iterator[None]:
        """Let this thread put in order what it holds, as if nobody had asked: a lock is given back through the API."""
        before, self._unheard.on = self._is_unheard, True
        try:
            yield
        finally:
            self._unheard.on = before

    @property
    def _is_unheard(self) -> bool:
        return bool(getattr(self._unheard, "on", False))

    def wait(self, timeout_s: float) -> bool:
        """Wait up to ``timeout_s`` for the request to end; True when it came."""
        return (threading.Event() if self._is_unheard else self._event).wait(timeout_s)

    def check(self) -> None:
        """Raise CancelledError, or the kind of it that was asked for, when the run is to end."""
        if self._why is not None and not self._is_unheard:
            reason, kind = self._why
            raise kind(f"interrupted ({reason})")


@dataclass(frozen=True, slots=True)
class CommandResult:
    """What a command on a host left; ``exit_status`` is None when it ended without one (a signal)."""

    host: str
    exit_status: int | None
    stdout: bytes
    stderr: bytes
    duration_s: float

    @property
    def ok(self) -> bool:
        """Whether the command ended with 0."""
        return self.exit_status == 0

    @property
    def out(self) -> str:
        """Return standard output as text; bytes that are not UTF-8 are replaced."""
        return self.stdout.decode("utf-8", "replace")

    @property
    def err(self) -> str:
        """Return standard error as text; bytes that are not UTF-8 are replaced."""
        return self.stderr.decode("utf-8", "replace")


class Host(Protocol):
    """One host that commands can be run on."""

    @property
    def name(self) -> str:
        """Return the inventory name."""

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
        """Run a command and wait for its end.

        ``argv`` is quoted for the remote shell, never interpreted by it; use ``("sh", "-c", text)`` for a script.
        ``sudo`` runs it as root. ``stdin`` is sent whole, then closed. ``stdout_to`` receives standard output in
        pieces instead of the result. Output of any size on both streams is safe.

        Raises UnreachableError, HostKeyError, AuthenticationError, SudoError, DeadlineError after ``timeout_s``,
        CommandFailedError when ``check`` and the exit status is not 0, CancelledError.
        """

    def write_file(self, path: str, data: bytes, *, mode: int = 0o600, timeout_s: float = 60.0) -> None:
        """Write a root-owned file in one move: beside it, flushed, then renamed; parent folders are made 0700."""

    def read_file(self, path: str, *, timeout_s: float = 60.0) -> bytes:
        """Return a file's content, read as root; raises CommandFailedError when there is none."""

    def close(self) -> None:
        """End the connection; safe to call twice."""


class Fleet(Protocol):
    """All hosts of a run; one connection each, opened when first used."""

    def host(self, name: str) -> Host:
        """Return the host of this inventory name; raises KeyError."""

    def map(
        self,
        names: Sequence[str],
        work: Callable[[Host], Any],
        *,
        cancel: Cancel | None = None,
    ) -> dict[str, Any]:
        """Do ``work`` on every named host side by side, bounded; the result is its value or its KopsError."""

    def close(self) -> None:
        """End all connections."""


class KubeApi(Protocol):
    """The Kubernetes API as raw JSON over paths; every call has a deadline.

    Reads and idempotent writes ride out a restarting API server until their deadline; others are tried once.
    All raise KubeError with the HTTP status and the reason of the Status object.
    """

    def is_ready(self, timeout_s: float = 5.0) -> bool:
        """Whether /readyz answers ok; never raises KubeError."""

    def get(self, path: str, *, params: Mapping[str, str] | None = None, timeout_s: float | None = None) -> JsonObject:
        """Return one object."""

    def get_or_none(self, path: str, *, timeout_s: float | None = None) -> JsonObject | None:
        """Return one object, or None when there is none (404)."""

    def items(
        self, path: str, *, params: Mapping[str, str] | None = None, timeout_s: float | None = None
    ) -> Iterator[JsonObject]:
        """Return the items of a list, read in pages."""

    def fold(
        self,
        path: str,
        begin: Callable[[], T],
        take: Callable[[T, JsonObject], None],
        *,
        shape: type[Any] | None = None,
        page_size: int = 500,
        timeout_s: float | None = None,
    ) -> T:
        """Give each item of a list to ``take`` as its page arrives, and return what ``begin`` made.

        For lists too long to keep. When the server forgets the list half-way (410), ``begin`` is called anew.
        ``shape`` is a TypedDict of what is needed of an item: the rest need not be in it, which is several times
        faster.
        """

    def text(self, path: str, *, timeout_s: float | None = None) -> str:
        """Return an answer that is not JSON, such as /metrics."""

    def create(self, path: str, body: JsonObject, *, timeout_s: float | None = None) -> JsonObject:
        """Create an object (POST); tried once; status 409 when it exists."""

    def replace(self, path: str, body: JsonObject, *, timeout_s: float | None = None) -> JsonObject:
        """Replace an object (PUT); with a resourceVersion in it, 409 when somebody else was faster."""

    def patch(
        self,
        path: str,
        body: JsonObject | list[JsonObject],
        *,
        content_type: str = "application/strategic-merge-patch+json",
        params: Mapping[str, str] | None = None,
        timeout_s: float | None = None,
    ) -> JsonObject:
        """Patch an object."""

    def delete(self, path: str, *, body: JsonObject | None = None, timeout_s: float | None = None) -> bool:
        """Delete an object; False when there was none."""

    def apply(self, manifest: JsonObject, *, field_manager: str = "kops-py") -> str:
        """Apply an object server-side with force; returns ``Kind namespace/name``; kinds are found by discovery."""

    def close(self) -> None:
        """Close connections and remove anything written to disk for them."""


class AnsibleStatus(StrEnum):
    """How a play ended for one host."""

    OK = "ok"
    FAILED = "failed"
    UNREACHABLE = "unreachable"
    NOT_RUN = "not-run"


@dataclass(frozen=True, slots=True)
class AnsibleHostResult:
    """What a play did on one host; ``message`` is what the failing module said."""

    host: str
    status: AnsibleStatus
    changed: int = 0
    ok: int = 0
    task: str = ""
    message: str = ""
    changed_tasks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class AnsibleResult:
    """What a play did; ``log_path`` is its full output."""

    hosts: Mapping[str, AnsibleHostResult]
    log_path: Path
    duration_s: float
    problem: KopsError | None = None
    """Set when the play as a whole could not run (a syntax error, no Ansible)."""


OnTask = Callable[[str, str], None]
"""Called with host and task name when a task begins on a host."""


class Ansible(Protocol):
    """Runs the shipped playbooks."""

    def run(
        self,
        playbook: str,
        hosts: Sequence[HostSpec],
        variables: Mapping[str, Any],
        *,
        timeout_s: float,
        host_variables: Mapping[str, Mapping[str, Any]] | None = None,
        on_task: OnTask | None = None,
        cancel: Cancel | None = None,
        check_mode: bool = False,
    ) -> AnsibleResult:
        """Run one playbook on these hosts; raises AnsibleError only when nothing could run at all."""
