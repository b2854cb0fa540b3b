"""One command on an open connection: everything in and out without a deadlock, and an end that is always reached.

The caller's thread opens the channel and reads both streams as they come; a second one sends standard input when
there is much of it. paramiko's file objects are not used: reading them one after the other blocks for ever once
the other stream's 2 MiB window is full, and collecting the stdin file can block the transport.

Limits and cancel are looked at between reads. Inside paramiko a call may hang on a stalled network without a limit
(the answer to "exec", a window update into a full socket): one watchdog of the fleet then closes the connection.
"""

from __future__ import annotations

import contextlib
import select
import threading
import time
from collections.abc import Callable, Iterator
from enum import Enum
from typing import TYPE_CHECKING, BinaryIO

from kops_py.connect.base import Cancel
from kops_py.connect.ssh_sudo import SUDO_LIMIT_S, SudoStream

if TYPE_CHECKING:
    from paramiko import Channel, Transport

_POLL_S = 0.1
_PIECE_BYTES = 256 * 1024
_SEND_BYTES = 128 * 1024
_SEND_AT_ONCE_BYTES = 64 * 1024  # far below the first window of any sshd: never waits for the command to read
_GRACE_S = 1.0
_WATCHDOG_S = 0.25
_SESSION_WAIT_S = 3.0
"""How long a session that has just ended may still count against sshd's MaxSessions."""


class NotStartedError(Exception):
    """The connection turned out to be dead before the command was sent; sending it on another one is safe."""


class LostError(Exception):
    """The connection broke after the command was sent; how the command ended is unknown."""


class RefusedError(Exception):
    """sshd takes no command on this connection."""


class NoSessionError(RefusedError):
    """sshd opens no further session (MaxSessions); the command was not sent."""


class TimedOutError(Exception):
    """The command did not end in time; its output so far is in the object that ran it."""


class _Stop(Enum):
    LATE = "late"
    CANCELLED = "cancelled"
    SUDO = "sudo did not start the command"
    INPUT = "the input cannot be read"


class Watchdog:
    """Closes the connection of commands whose thread is stuck beyond their limit; one per fleet."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._commands: dict[int, ChannelCommand] = {}
        self._stop: threading.Event | None = None

    @contextlib.contextmanager
    def watching(self, command: ChannelCommand) -> Iterator[None]:
        """Watch over a command while the block runs."""
        with self._lock:
            self._commands[id(command)] = command
            if self._stop is None:
                self._stop = threading.Event()
                threading.Thread(target=self._watch, args=(self._stop,), name="kops-py watchdog", daemon=True).start()
        try:
            yield
        finally:
            with self._lock:
                del self._commands[id(command)]

    def close(self) -> None:
        """End the thread; it starts again with the next command."""
        with self._lock:
            if self._stop is not None:
                self._stop.set()
                self._stop = None

    def _watch(self, stop: threading.Event) -> None:
        while not stop.wait(_WATCHDOG_S):
            with self._lock:
                commands = list(self._commands.values())
            for command in commands:
                command.end_if_stuck()


class ChannelCommand:
    """Runs one command; used once."""

    def __init__(
        self,
        transport: Transport,
        command: str,
        *,
        stdin: bytes | BinaryIO | None,
        sink: Callable[[bytes], None] | None,
        sudo: SudoStream | None,
        timeout_s: float,
        cancel: Cancel | None,
    ) -> None:
        self._transport = transport
        self._command = command
        self._stdin = stdin
        self._sink = sink
        self._sudo = sudo
        self._until = time.monotonic() + timeout_s
        self._cancel = cancel
        self._cancel_seen: float | None = None
        self._out: list[bytes] = []
        self._err: list[bytes] = []
        self._stop: _Stop | None = None
        self._over = False
        self._may_send = threading.Event()
        self.callers_failure: BaseException | None = None
        """What the caller's sink or input stream raised."""
        self.exit_status: int | None = None
        self.ended_but_held_open = False
        """The command ended, but something it left behind keeps its output open."""

    @property
    def stdout(self) -> bytes:
        """Return standard output so far, unless a sink takes it."""
        return b"".join(self._out)

    @property
    def stderr(self) -> bytes:
        """Return standard error so far, without sudo's own."""
        return b"".join(self._err)

    def run(self, watchdog: Watchdog) -> None:
        """Run the command to its end; raises the errors of this file, CancelledError, or the caller's own."""
        failure: Exception | None = None
        with watchdog.watching(self):
            try:
                self._drive()
            except Exception as e:  # noqa: BLE001 - raised below, unless it is only what stopping it led to
                failure = e
        if self.callers_failure is not None:
            raise self.callers_failure
        if self._stop is _Stop.CANCELLED and self._cancel is not None:
            self._cancel.check()
        if self._stop is _Stop.LATE:
            raise TimedOutError
        if failure is not None:
            raise failure

    def end_if_stuck(self) -> None:
        """Close the connection when the limit or a cancel has been passed over for a while."""
        now = time.monotonic()
        if self._cancel is not None and self._cancel.is_set and self._cancel_seen is None:
            self._cancel_seen = now
        if self._cancel_seen is not None and now > self._cancel_seen + _GRACE_S:
            self._stop = self._stop or _Stop.CANCELLED
        elif now > self._until + _GRACE_S:
            self._stop = self._stop or _Stop.LATE
        else:
            return
        # this lets go of a send that has stalled; the transport's own thread then ends and wakes all who wait
        self._transport.packetizer.close()

    def _must_stop(self) -> bool:
        if self._stop is None:
            if self._cancel is not None and self._cancel.is_set:
                self._stop = _Stop.CANCELLED
            elif time.monotonic() >= self._until:
                self._stop = _Stop.LATE
        return self._stop is not None

    def _drive(self) -> None:
        channel = self._open()
        try:
            self._execute(channel)
            if self._pump(channel):
                self.exit_status = self._status(channel)
        finally:
            self._over = True  # before the next line: a sudo that refused must not get the command's input
            self._may_send.set()
            channel.close()

    def _open(self) -> Channel:
        give_up = time.monotonic() + _SESSION_WAIT_S
        while True:
            try:
                return self._transport.open_session(timeout=max(0.1, self._until - time.monotonic()))
            except Exception as e:
                if not self._transport.is_active():
                    raise NotStartedError(str(e)) from e
                # Refused. paramiko keeps one error per connection, so a ChannelException may have gone to another
                # thread and leave this one with a bare SSHException
                if self._must_stop() or time.monotonic() >= give_up:
                    raise NoSessionError(f"sshd opens no session: {e}") from e
                time.sleep(_POLL_S)  # between two tries, with a limit

    def _execute(self, channel: Channel) -> None:
        try:
            channel.exec_command(self._command)
        except Exception as e:
            if not self._transport.is_active():
                raise LostError(str(e)) from e
            raise RefusedError(str(e) or "sshd refuses to run commands") from e
        if self._sudo is None:
            self._may_send.set()
            at_once = b"" if self._stdin is None else self._stdin
            if isinstance(at_once, bytes) and len(at_once) <= _SEND_AT_ONCE_BYTES:
                with contextlib.suppress(OSError):  # closed: the command has ended already
                    channel.sendall(at_once)
                self._end_input(channel)
                return
        threading.Thread(target=self._feed, args=(channel,), name="kops-py stdin", daemon=True).start()

    def _feed(self, channel: Channel) -> None:
        """Send standard input once the command has started, then say that it is over."""
        self._may_send.wait()
        pieces = self._pieces()
        while not (self._over or self._stop or channel.closed):
            try:
                piece = next(pieces, b"")
            except Exception as e:  # noqa: BLE001 - reading the caller's stream may raise anything
                self.callers_failure = e
                self._stop = _Stop.INPUT
                return
            try:
                if not piece:
                    self._end_input(channel)
                    return
                channel.sendall(piece)
            except (OSError, EOFError):
                return  # the channel was closed: the command no longer reads

    def _end_input(self, channel: Channel) -> None:
        """Say that standard input is over, but never after the channel was closed.

        paramiko's shutdown_write makes the message under the channel's lock and sends it afterwards. When its own
        thread answers the host's close in between, the message comes for a channel that sshd no longer has: it ends
        the connection ("ieof packet referred to nonexistent channel"), and all commands on it are lost.
        """
        transport = self._transport
        while transport.is_active():
            with channel.lock, transport.clear_to_send_lock:
                if channel.closed or channel.eof_sent:
                    return
                if transport.clear_to_send.is_set():
                    message = channel._send_eof()  # type: ignore[attr-defined]
                    if message is not None:
                        with contextlib.suppress(OSError, EOFError):  # the connection is gone, which others tell
                            transport._send_message(message)  # type: ignore[attr-defined]
                    return
            transport.clear_to_send.wait(_POLL_S)  # keys are being exchanged

    def _pieces(self) -> Iterator[bytes]:
        if isinstance(self._stdin, bytes):
            for start in range(0, len(self._stdin), _SEND_BYTES):
                yield self._stdin[start : start + _SEND_BYTES]
        elif self._stdin is not None:
            while piece := self._stdin.read(_SEND_BYTES):
                yield piece

    def _pump(self, channel: Channel) -> bool:
        """Read both streams; True when the host said that there is no more, False when we stopped."""
        poller = select.poll()
        poller.register(channel.fileno(), select.POLLIN)
        sudo_until = time.monotonic() + SUDO_LIMIT_S
        while True:
            # asked before reading: what came in before the end is then surely read
            finished = channel.eof_received or channel.closed
            self._read(channel)
            if finished and self._stop is None:
                return True
            if self._must_stop():
                self.ended_but_held_open = channel.exit_status != -1 and not finished
                return False
            if (
                self._sudo is not None
                and not self._sudo.started
                and (self._sudo.refused_password or time.monotonic() > sudo_until)
            ):
                self._stop = _Stop.SUDO
                return False
            poller.poll(min(_POLL_S, max(0.001, self._until - time.monotonic())) * 1000)

    def _read(self, channel: Channel) -> None:
        """Take what has arrived; a command that never stops writing is still stopped in time."""
        while channel.recv_stderr_ready():
            data = channel.recv_stderr(_PIECE_BYTES)
            if self._sudo is not None and not self._sudo.started:
                data = self._sudo.feed(data, channel.sendall)
                if self._sudo.started:
                    self._may_send.set()
            if data:
                self._err.append(data)
            if self._must_stop():
                return
        while channel.recv_ready():
            self._give(channel.recv(_PIECE_BYTES))
            if self._must_stop():
                return

    def _give(self, data: bytes) -> None:
        if self._sink is None:
            self._out.append(data)
            return
        try:
            self._sink(data)
        except Exception as e:
            self.callers_failure = e
            raise

    def _status(self, channel: Channel) -> int | None:
        """Return the exit status; None when the channel was properly closed without one (a signal)."""
        while not channel.status_event.wait(_POLL_S):
            if self._must_stop():
                return None
        if channel.eof_received and channel.exit_status != -1:
            return channel.exit_status
        # A broken connection closes its channels a moment before it calls itself inactive; its thread then ends
        self._transport.join(_POLL_S)
        if not self._transport.is_active():
            raise LostError(str(self._transport.get_exception() or ""))
        return None if channel.exit_status == -1 else channel.exit_status
