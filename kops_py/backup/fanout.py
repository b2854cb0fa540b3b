"""One stream of bytes to several stores at once; a store that fails, fails alone."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator, Sequence

from kops_py.backup.pipe import Blocks
from kops_py.backup.store import Store
from kops_py.connect.base import Cancel
from kops_py.model.errors import KopsError, StoreError

_DEPTH = 4
_LOOK_S = 0.2


class _GivenUpError(Exception):
    """Raised into a store's upload, so that it removes what it wrote."""


class _Lane:
    """One store's upload in a thread of its own, fed through a short queue."""

    def __init__(self, store: Store, path: str) -> None:
        self.store = store
        self.error: StoreError | None = None
        self._path = path
        self._queue: queue.Queue[bytes | None] = queue.Queue(_DEPTH)
        self._given_up = threading.Event()
        self._took_all = False
        self._thread = threading.Thread(target=self._work, name=f"store {store.name}", daemon=True)
        self._thread.start()

    @property
    def ended(self) -> bool:
        """Whether the upload ended, well or not."""
        return not self._thread.is_alive()

    def offer(self, block: bytes | None) -> bool:
        """Give a block (None: the end), waiting a moment; False when the store is still busy with others."""
        try:
            self._queue.put(block, timeout=_LOOK_S)
        except queue.Full:
            return self.ended
        return True

    def give_up(self, error: StoreError | None) -> None:
        """End the upload without a result."""
        self.error = self.error or error
        self._given_up.set()

    def join(self, timeout_s: float) -> bool:
        """Wait for the end; False when it did not come."""
        self._thread.join(timeout_s)
        return self.ended

    def _blocks(self) -> Iterator[bytes]:
        while True:
            try:
                block = self._queue.get(timeout=_LOOK_S)
            except queue.Empty:
                block = b""
            if self._given_up.is_set():
                raise _GivenUpError
            if block is None:
                self._took_all = True
                return
            if block:
                yield block

    def _work(self) -> None:
        try:
            self.store.put(self._path, self._blocks())
            why = "" if self._took_all else "it ended before the stream did"
        except StoreError as error:
            self.error = self.error or error
            return
        except _GivenUpError:
            why = "it was given up"
        except BaseException as error:  # noqa: BLE001  whatever it is (a panic of the library too): nothing is stored
            why = repr(error)
        if why:
            what = "the store failed in a way nobody foresaw"
            self.error = self.error or StoreError(what, where=self.store.where, why=why)


class FanOut:
    """Creates one object in several stores.

    ``write`` takes bytes, ``commit`` ends them, ``abort`` takes back what was written. A store that takes nothing for
    ``stall_s`` seconds is given up; the others go on. ``failed`` says who failed and why.
    """

    def __init__(self, stores: Sequence[Store], path: str, *, stall_s: float, cancel: Cancel | None = None) -> None:
        self.failed: dict[str, StoreError] = {}
        self._lanes = [_Lane(store, path) for store in stores]
        self._stall_s = stall_s
        self._cancel = cancel
        self._blocks = Blocks()

    def write(self, data: bytes) -> None:
        """Take a piece; waits for the slowest store. Raises StoreError when no store is left, CancelledError."""
        if (block := self._blocks.add(data)) is not None:
            self._give(block)

    def commit(self) -> tuple[Store, ...]:
        """End the stream and return the stores that have the object; raises StoreError when none has."""
        if rest := self._blocks.rest():
            self._give(rest)
        self._give(None)
        for lane in self._lanes:
            self._await_end(lane)
        self._drop_failed()
        return tuple(lane.store for lane in self._lanes)

    def abort(self) -> None:
        """Take back what was written, and wait (at most ``stall_s``) until the stores have done so."""
        for lane in self._lanes:
            lane.give_up(None)
        for lane in self._lanes:
            lane.join(self._stall_s)

    def _give(self, block: bytes | None) -> None:
        for lane in self._lanes:
            until = time.monotonic() + self._stall_s
            while not lane.ended and not lane.offer(block):
                self._check_cancel()
                if time.monotonic() > until:
                    lane.give_up(self._too_slow(lane))
                    break
        self._drop_failed()

    def _await_end(self, lane: _Lane) -> None:
        # What is still under way are a few blocks; each of its requests has its own time limit besides.
        until = time.monotonic() + 2 * self._stall_s
        while not lane.join(_LOOK_S):
            self._check_cancel()
            if time.monotonic() > until:
                lane.give_up(self._too_slow(lane))
                return

    def _drop_failed(self) -> None:
        self.failed |= {lane.store.name: lane.error for lane in self._lanes if lane.error is not None}
        self._lanes = [lane for lane in self._lanes if lane.error is None]
        if not self._lanes:
            raise all_failed(self.failed)

    def _too_slow(self, lane: _Lane) -> StoreError:
        return StoreError(
            f"the store took nothing for {self._stall_s:g} s and was given up",
            where=lane.store.where,
            hint="look at the server or the mount; backup.storeTimeoutSeconds is the limit",
        )

    def _check_cancel(self) -> None:
        if self._cancel is not None:
            self._cancel.check()


def all_failed(failed: dict[str, StoreError]) -> KopsError:
    """Return the error that stands for the failure of every store."""
    errors = list(failed.values())
    if len(errors) == 1:
        return errors[0]
    return StoreError(
        "every store failed",
        where=", ".join(failed),
        why="; ".join(str(error) for error in errors),
        hint=next((error.hint for error in errors if error.hint), ""),
    )
