"""Somebody who uses the workload all the time, on every node's address in turn, and notices each failure."""

from __future__ import annotations

import itertools
import threading
import time
import urllib.request
from collections.abc import Sequence
from types import TracebackType

from tests.e2e.bed import Bed
from tests.e2e.workload import NODE_PORT

_EVERY_S = 0.1
_TIMEOUT_S = 3.0


class Traffic:
    """Asks from entering to leaving the block; ``failures`` are (time as in journals, address, error).

    ``elsewhere``: where an address does not answer the next one is asked before that is a failure, as a load balancer
    does; for what makes nodes go away.
    """

    def __init__(self, bed: Bed, names: Sequence[str], *, elsewhere: bool = False) -> None:
        self._addresses = [bed.node(name).ip for name in names]
        self._elsewhere = elsewhere
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._ask, name="traffic", daemon=True)
        self.asked = 0
        self.failures: list[tuple[float, str, str]] = []

    def __enter__(self) -> Traffic:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def __str__(self) -> str:
        return f"{len(self.failures)} of {self.asked} requests failed"

    def assert_unnoticed(self) -> None:
        """One in a thousand may fail, and two at least: pods linger, so that a request fails only on a busy machine."""
        assert len(self.failures) <= max(2, self.asked // 1000), f"{self}: {self.failures[:20]}"

    def _ask(self) -> None:
        addresses = itertools.cycle(self._addresses)
        while not self._stop.wait(_EVERY_S):
            self.asked += 1
            failed = _failure(next(addresses))
            if failed is not None and self._elsewhere:
                failed = _failure(next(addresses))
            if failed is not None:
                self.failures.append(failed)


def _failure(address: str) -> tuple[float, str, str] | None:
    """Ask once; returns when and how it failed."""
    try:
        with urllib.request.urlopen(f"http://{address}:{NODE_PORT}/", timeout=_TIMEOUT_S) as answer:
            answer.read()
    except OSError as error:
        return round(time.time(), 1), address, str(error)
    return None
