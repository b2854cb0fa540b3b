"""A bounded pipe between a thread that pushes bytes (an SSH channel) and one that pulls them (the pipeline)."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator

from kops_py.connect.base import Cancel
from kops_py.model.errors import DeadlineError

BLOCK_BYTES = 1024 * 1024
_DEPTH = 4
_LOOK_S = 0.2


class BrokenPipe(Exception):  # noqa: N818  the name the world gives it
    """The reading side is gone; the writer has nothing more to do."""


class Blocks:
    """Pieces of any size put together to blocks of a megabyte, each byte copied once."""

    def __init__(self) -> None:
        self._pieces: list[bytes | memoryview] = []
        self._size_bytes = 0

    def add(self, data: bytes | memoryview) -> bytes | None:
        """Take a piece, which is not to change afterwards; returns a block when there is enough for one."""
        self._pieces.append(data)
        self._size_bytes += len(data)
        return self.rest() if self._size_bytes >= BLOCK_BYTES else None

    def rest(self) -> bytes:
        """Return what came since the last block, and forget it."""
        block = b"".join(self._pieces)
        self._pieces.clear()
        self._size_bytes = 0
        return block


class Pipe:
    """At most four blocks of about a megabyte are under way, so the faster side waits for the slower one.

    The producer calls ``write`` and at its end ``close`` (with what went wrong, if anything). The consumer iterates
    and gets the producer's exception at its place; it calls ``abandon`` when it stops early. ``timeout_s`` is how
    long either may wait for the other: then DeadlineError, naming ``what`` is waited for.
    """

    def __init__(self, what: str, *, timeout_s: float, cancel: Cancel | None = None) -> None:
        self._what = what
        self._timeout_s = timeout_s
        self._cancel = cancel
        self._queue: queue.Queue[bytes | None] = queue.Queue(_DEPTH)
        self._blocks = Blocks()
        self._error: BaseException | None = None
        self._abandoned = threading.Event()

    def write(self, data: bytes | memoryview) -> None:
        """Take a piece; waits while the consumer is behind. Raises BrokenPipe when it is gone."""
        if (block := self._blocks.add(data)) is not None:
            self._put(block)

    def close(self, error: BaseException | None = None) -> None:
        """End the stream; with ``error`` the consumer gets that instead of the end."""
        self._error = error
        try:
            if error is None and (rest := self._blocks.rest()):
                self._put(rest)
            self._put(None)
        except BrokenPipe:
            pass

    def abandon(self) -> None:
        """Say that nothing more is read; whoever writes gets BrokenPipe."""
        self._abandoned.set()

    def __iter__(self) -> Iterator[bytes]:
        while True:
            block = self._wait(lambda: self._queue.get(timeout=_LOOK_S), queue.Empty)
            if block is None:
                if self._error is not None:
                    raise self._error
                return
            yield block

    def _put(self, block: bytes | None) -> None:
        def put() -> None:
            if self._abandoned.is_set():
                raise BrokenPipe
            self._queue.put(block, timeout=_LOOK_S)

        self._wait(put, queue.Full)

    def _wait(self, attempt: Callable[[], bytes | None] | Callable[[], None], not_yet: type[Exception]) -> bytes | None:
        left_s = self._timeout_s
        while left_s > 0:
            if self._cancel is not None:
                self._cancel.check()
            try:
                return attempt()
            except not_yet:
                left_s -= _LOOK_S
        raise DeadlineError(
            f"nothing moved for {self._timeout_s:g} s",
            where=self._what,
            hint="look at the network and the load on both ends",
        )


def pumped(produce: Callable[[Callable[[bytes | memoryview], None]], None], pipe: Pipe) -> threading.Thread:
    """Start a thread in which ``produce`` writes into the pipe, and close the pipe when it ends, however it ends."""

    def work() -> None:
        try:
            produce(pipe.write)
        except BrokenPipe:
            return
        except BaseException as error:  # noqa: BLE001  it is raised again where the bytes are read
            pipe.close(error)
        else:
            pipe.close()

    thread = threading.Thread(target=work, name=f"pipe {pipe}", daemon=True)
    thread.start()
    return thread
