"""Hosts over SSH: one connection per host and run, opened when first used."""

from __future__ import annotations

import shlex
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NoReturn

from kops_py.connect.base import Cancel, CommandResult, Host
from kops_py.connect.ssh_channel import (
    ChannelCommand,
    LostError,
    NoSessionError,
    NotStartedError,
    RefusedError,
    TimedOutError,
    Watchdog,
)
from kops_py.connect.ssh_config import Resolver, Target
from kops_py.connect.ssh_connect import Aborter, open_transport, within
from kops_py.connect.ssh_errors import connecting_failed, lost, short_command, tail, unexpected
from kops_py.connect.ssh_known_hosts import KnownHosts
from kops_py.connect.ssh_sudo import SudoStream
from kops_py.model.errors import (
    CancelledError,
    CommandFailedError,
    DeadlineError,
    HostError,
    KopsError,
    SudoError,
)
from kops_py.model.spec import HostSpec, SshSpec

if TYPE_CHECKING:
    from paramiko import Transport

_SESSIONS = 8
"""Commands side by side on one connection; sshd's MaxSessions is 10."""

# Parents are made by mkdir -p under the umask, so 0700. The size is compared because a lost connection looks like
# the end of the data to cat: without it a cut file would be put in place.
_WRITE_FILE = """\
set -eu
umask 077
path=$1 mode=$2 size=$3
folder=$(dirname -- "$path")
mkdir -p -- "$folder"
new=$(mktemp -- "$folder/.kops-py.XXXXXXXX")
trap 'rm -f -- "$new"' EXIT
trap 'exit 1' HUP INT TERM PIPE
cat > "$new"
got=$(wc -c < "$new")
if [ "$got" -ne "$size" ]; then echo "got $got of $size bytes" >&2; exit 1; fi
if [ "$(id -u)" -eq 0 ]; then chown 0:0 -- "$new"; fi
chmod -- "$mode" "$new"
sync -- "$new"
mv -fT -- "$new" "$path"
sync -- "$folder"
"""


class _Link:
    """One SSH server and the connection to it, shared by everything that needs it (a jump host by many)."""

    def __init__(self, target: Target, jump: _Link | None) -> None:
        self.target = target
        self.jump = jump
        self._lock = threading.Lock()
        self._transport: Transport | None = None
        self._aborter = Aborter()

    def transport(self, known_hosts: KnownHosts, timeout_s: float, cancel: Cancel | None) -> Transport:
        """Return the open connection; opened when there is none or the last one is dead."""
        until = time.monotonic() + timeout_s
        self._acquire(until, timeout_s, cancel)
        try:
            if self._transport is not None and self._transport.is_active():
                return self._transport
            self._aborter.abort()
            self._transport = None
            jump = self.jump.transport(known_hosts, timeout_s, cancel) if self.jump else None
            aborter = self._aborter = Aborter()
            remaining = max(0.1, until - time.monotonic())
            try:
                self._transport = within(
                    lambda: open_transport(self.target, known_hosts, aborter, timeout_s=remaining, jump=jump),
                    what=f"connect to {self.target.address}",
                    timeout_s=remaining,
                    cancel=cancel,
                    abort=aborter.abort,
                )
            except Exception as e:
                raise connecting_failed(e, self.target, timeout_s) from e
            return self._transport
        finally:
            self._lock.release()

    def _acquire(self, until: float, timeout_s: float, cancel: Cancel | None) -> None:
        """Wait for whoever opens this connection at the moment."""
        while not self._lock.acquire(timeout=0.1):
            if cancel is not None:
                cancel.check()
            if time.monotonic() >= until:
                raise connecting_failed(TimeoutError(), self.target, timeout_s)

    def drop(self, transport: Transport | None) -> None:
        """Close this connection, unless a newer one took its place."""
        with self._lock:
            if transport is None or transport is self._transport:
                self._transport = None
                self._aborter.abort()

    def close(self) -> None:
        """End the connection; an attempt that is under way in another thread ends with an error."""
        self._aborter.abort()
        self.drop(None)


class SshHost:
    """One host over SSH; implements ``Host``. Made by SshFleet."""

    def __init__(self, spec: HostSpec, link: Callable[[], _Link], fleet: SshFleet) -> None:
        self._spec = spec
        self._find_link = link
        self._fleet = fleet
        self._sessions = threading.BoundedSemaphore(_SESSIONS)
        self._lock = threading.Lock()
        self._running = 0
        self._sudo_refused: SudoError | None = None

    @property
    def name(self) -> str:
        """Return the inventory name."""
        return self._spec.name

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
        """Run a command and wait for its end; see ``Host.run``.

        ``timeout_s`` counts from the moment the connection is open; opening it has its own limit
        (``SshSpec.connect_timeout_s``). An exception of ``stdout_to`` or of reading ``stdin`` ends the command and
        is raised as it is.
        """
        begun = time.monotonic()
        if cancel is not None:
            cancel.check()
        label = short_command(argv)
        self._enter(label, timeout_s, cancel)
        try:
            command, sudo_stream = self._start(argv, sudo, stdin, timeout_s, cancel, stdout_to, label)
        finally:
            self._leave()
        if sudo_stream is not None and not sudo_stream.started:
            failure = sudo_stream.failure(self.name, self._find_link().target.user)
            if sudo_stream.refused_password:
                self._sudo_refused = failure  # asked once: more wrong passwords would lock the account
            raise failure
        result = CommandResult(self.name, command.exit_status, command.stdout, command.stderr, time.monotonic() - begun)
        if check and not result.ok:
            raise _failed(result, label)
        return result

    def write_file(self, path: str, data: bytes, *, mode: int = 0o600, timeout_s: float = 60.0) -> None:
        """Write a root-owned file in one move: beside it, flushed, then renamed; parent folders are made 0700."""
        argv = ("sh", "-c", _WRITE_FILE, "sh", path, f"{mode:04o}", str(len(data)))
        try:
            self.run(argv, sudo=True, stdin=data, timeout_s=timeout_s)
        except CommandFailedError as e:
            raise CommandFailedError(
                f"{path} could not be written", where=self.name, why=e.why, hint=e.hint, exit_status=e.exit_status
            ) from e

    def read_file(self, path: str, *, timeout_s: float = 60.0) -> bytes:
        """Return the content of a file, read as root; raises CommandFailedError when there is none."""
        return self.run(("cat", "--", path), sudo=True, timeout_s=timeout_s).stdout

    def close(self) -> None:
        """End the connection; safe to call twice."""
        self._fleet.close_host(self.name)

    def _enter(self, label: str, timeout_s: float, cancel: Cancel | None) -> None:
        until = time.monotonic() + timeout_s
        while not self._sessions.acquire(timeout=0.1):
            if cancel is not None:
                cancel.check()
            if time.monotonic() >= until:
                raise DeadlineError(
                    f"{label} could not begin within {timeout_s:g} s",
                    where=self.name,
                    why=f"{_SESSIONS} other commands run on this connection",
                )

        with self._lock:
            self._running += 1

    def _leave(self) -> None:
        with self._lock:
            self._running -= 1
        self._sessions.release()

    def _start(
        self,
        argv: Sequence[str],
        sudo: bool,
        stdin: bytes | BinaryIO | None,
        timeout_s: float,
        cancel: Cancel | None,
        sink: Callable[[bytes], None] | None,
        label: str,
    ) -> tuple[ChannelCommand, SudoStream | None]:
        """Run on the connection; once more on a new one when the first turns out to be dead before it began."""
        link = self._find_link()
        for is_last in (False, True):
            transport = link.transport(self._fleet.known_hosts, self._fleet.connect_timeout_s, cancel)
            stream = self._sudo(argv, link.target.user) if sudo else None
            # messages in English; an assignment, not env: one exec less is a quarter of a command's time
            line = f"LC_ALL=C {shlex.join(stream.argv if stream else argv)}"
            command = ChannelCommand(
                transport, line, stdin=stdin, sink=sink, sudo=stream, timeout_s=timeout_s, cancel=cancel
            )
            try:
                command.run(self._fleet.watchdog)
            except NotStartedError as e:
                link.drop(transport)
                if is_last:
                    raise connecting_failed(e.__cause__ or e, link.target, self._fleet.connect_timeout_s) from e
                continue
            except NoSessionError as e:
                # Commands that ran into their limit keep their session until they end on the host, which may be
                # never; a new connection has free ones. Not while another command of ours needs this connection.
                if is_last or self._running > 1:
                    self._explain(e, command, label, timeout_s, link, transport)
                link.drop(transport)
                continue
            except Exception as e:  # noqa: BLE001 - explained and raised again, whatever it is
                self._explain(e, command, label, timeout_s, link, transport)
            return command, stream
        raise AssertionError  # the loop returns or raises

    def _explain(
        self,
        error: Exception,
        command: ChannelCommand,
        label: str,
        timeout_s: float,
        link: _Link,
        transport: Transport,
    ) -> NoReturn:
        # EOFError is paramiko's word for a connection that ended, where it meets it first: sending a window, for one
        if isinstance(error, LostError) or (isinstance(error, EOFError) and error is not command.callers_failure):
            link.drop(transport)
            raise lost(self.name, label, error) from error
        if isinstance(error, RefusedError):
            raise HostError(
                f"sshd does not run {label}",
                where=self.name,
                why=str(error),
                hint="is there a ForceCommand, or is MaxSessions below 8 in its sshd_config?",
            ) from error
        if isinstance(error, TimedOutError):
            raise _too_late(self.name, command, label, timeout_s) from error
        if error is command.callers_failure:
            raise error
        raise unexpected(self.name, label, error) from error

    def _sudo(self, argv: Sequence[str], user: str) -> SudoStream | None:
        if user == "root":
            return None
        if not self._spec.become:
            raise SudoError(
                "this needs root, but the inventory forbids to become root",
                where=self.name,
                hint="set ansible_become: true in the inventory, or log in as root",
            )
        if self._sudo_refused is not None:
            raise self._sudo_refused
        return SudoStream(argv, self._fleet.become_password())


class SshFleet:
    """All hosts of a run over SSH; implements ``Fleet``.

    ``known_hosts`` replaces the user's known_hosts files, ``ssh_config`` the user's and the system's configuration
    (an empty file: none).
    ``become_password`` is asked once, when sudo is first used.
    """

    def __init__(
        self,
        hosts: Sequence[HostSpec],
        *,
        settings: SshSpec,
        become_password: Callable[[], str | None] = lambda: None,
        accept_new_host_keys: bool = False,
        known_hosts: Path | None = None,
        ssh_config: Path | None = None,
        log: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.known_hosts = KnownHosts(accept_new=accept_new_host_keys, log=log)
        self.watchdog = Watchdog()
        self.connect_timeout_s = settings.connect_timeout_s
        self._max_parallel = max(1, settings.max_parallel)
        self._specs = {spec.name: spec for spec in hosts}
        self._resolver = Resolver(ssh_config, known_hosts, log)
        self._ask_password = become_password
        self._password: list[str | None] = []
        self._lock = threading.Lock()
        self._hosts: dict[str, SshHost] = {}
        self._links: dict[str, _Link] = {}
        self._jumps: dict[Target, _Link] = {}

    def host(self, name: str) -> Host:
        """Return the host of this inventory name; raises KeyError."""
        with self._lock:
            if name not in self._hosts:
                self._hosts[name] = SshHost(self._specs[name], lambda: self._link(name), self)
            return self._hosts[name]

    def map(self, names: Sequence[str], work: Callable[[Host], Any], *, cancel: Cancel | None = None) -> dict[str, Any]:
        """Do ``work`` on every named host side by side, at most ``max_parallel``; its value or its KopsError each.

        After a cancel nothing new is started. Anything but a KopsError is a mistake in the program and is raised
        once all have ended. Raises KeyError before anything is started.
        """
        hosts = {name: self.host(name) for name in names}

        def one(host: Host) -> Any:
            if cancel is not None and cancel.is_set:
                return CancelledError("not started: the run was interrupted", where=host.name, why=cancel.reason)
            try:
                return work(host)
            except KopsError as e:
                return e

        side_by_side = max(1, min(self._max_parallel, len(hosts)))
        with ThreadPoolExecutor(side_by_side, thread_name_prefix="kops-py host") as pool:
            futures = {name: pool.submit(one, host) for name, host in hosts.items()}
        return {name: future.result() for name, future in futures.items()}

    def close(self) -> None:
        """End all connections."""
        with self._lock:
            links = [*self._links.values(), *self._jumps.values()]
        for link in links:
            link.close()
        self.watchdog.close()

    def close_host(self, name: str) -> None:
        """End one host's connection; its jump host stays connected for the others."""
        with self._lock:
            link = self._links.get(name)
        if link is not None:
            link.close()

    def become_password(self) -> str | None:
        """Return the password for sudo, or None; asked for once."""
        with self._lock:
            if not self._password:
                password = self._ask_password()
                if password is not None and "\n" in password.rstrip("\n"):
                    raise SudoError("the password for sudo has more than one line", hint="see ssh.become_password")
                self._password.append(password.rstrip("\n") if password is not None else None)
            return self._password[0]

    def _link(self, name: str) -> _Link:
        with self._lock:
            if name not in self._links:
                target = self._resolver.resolve(self._specs[name])
                self._links[name] = _Link(target, self._jump(target.via))
            return self._links[name]

    def _jump(self, via: Target | str | None) -> _Link | None:
        """Return the connection to a jump host, one for all hosts behind it."""
        if not isinstance(via, Target):
            return None
        from dataclasses import replace

        key = replace(via, label="", via=via.via if isinstance(via.via, str) else None)
        if key not in self._jumps:
            self._jumps[key] = _Link(replace(via, label=f"jump host {via.host}"), self._jump(via.via))
        return self._jumps[key]


def _failed(result: CommandResult, label: str) -> CommandFailedError:
    status = result.exit_status
    ended = "was ended by a signal" if status is None else f"ended with exit status {status}"
    return CommandFailedError(
        f"{label} {ended}",
        where=result.host,
        why=tail(result.stderr) or tail(result.stdout),
        exit_status=result.exit_status,
    )


def _too_late(name: str, command: ChannelCommand, label: str, timeout_s: float) -> DeadlineError:
    if command.ended_but_held_open:
        why = "it ended, but something it started still holds its output open"
    else:
        why = "it may still be running on the host"
    last = tail(command.stderr + command.stdout)
    return DeadlineError(
        f"{label} did not end within {timeout_s:g} s",
        where=name,
        why=f"{why}; its last output: {last}" if last else f"{why}; it printed nothing",
        hint="look on the host what holds it up, then run the same command again",
    )
