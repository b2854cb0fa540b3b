"""Fans events out to subscribers, one at a time, stamped with the time they happened."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Sequence
from contextlib import suppress

from kops_py.model.event import Event
from kops_py.report.console import Subscriber


class EventBus:
    """The ``emit`` of a run; thread-safe."""

    def __init__(self, subscribers: Sequence[Subscriber]) -> None:
        self._subscribers = list(subscribers)
        self._lock = threading.Lock()

    def __call__(self, event: Event) -> None:
        """Hand the event to every subscriber; one whose reader went away (a closed pipe) is told nothing more.

        That is no reason to stop a run half-way: the work goes on, and the journal keeps what happened.
        """
        stamped = dataclasses.replace(event, at_s=round(time.time(), 3))
        with self._lock:
            for subscriber in tuple(self._subscribers):
                try:
                    subscriber(stamped)
                except (OSError, ValueError):
                    self._subscribers.remove(subscriber)

    def close(self) -> None:
        """Close every subscriber."""
        with self._lock:
            for subscriber in self._subscribers:
                with suppress(OSError, ValueError):
                    subscriber.close()
