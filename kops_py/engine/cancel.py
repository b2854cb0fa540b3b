"""Ctrl-C, SIGTERM and the deadline of a run: the first asks the run to end cleanly, a second signal ends the program.

Where the program only waits for a person's answer there is nothing to end cleanly: the first ends it.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from types import FrameType

from kops_py.connect.base import Cancel
from kops_py.model.duration import Duration
from kops_py.model.errors import ExitCode, RunDeadlineError


def signals_cancel(cancel: Cancel) -> AbstractContextManager[None]:
    """Turn SIGINT and SIGTERM into ``cancel`` while the block runs; outside the main thread it does nothing."""

    def on_signal(number: int, _frame: FrameType | None) -> None:
        if cancel.is_set:
            _show_cursor()
            os._exit(int(ExitCode.INTERRUPTED))
        cancel.set(signal.Signals(number).name)

    return _handling(on_signal)


def signals_end() -> AbstractContextManager[None]:
    """Let SIGINT and SIGTERM end the block with KeyboardInterrupt; outside the main thread it does nothing."""

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    return _handling(on_signal)


@contextmanager
def deadline_cancels(cancel: Cancel, deadline: Duration | None) -> Iterator[None]:
    """Set ``cancel`` when the block runs longer than ``deadline``; None: it may run as long as it likes.

    The run then ends as with SIGTERM: nothing new is begun, and RunDeadlineError says why.
    """
    if deadline is None:
        yield
        return
    timer = threading.Timer(deadline.seconds, cancel.set, (f"deadline of {deadline}", RunDeadlineError))
    timer.name, timer.daemon = "kops-py deadline", True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


@contextmanager
def _handling(on_signal: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Give SIGINT and SIGTERM this handler while the block runs; only the main thread may."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = {s: signal.signal(s, on_signal) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _show_cursor() -> None:
    """Give the terminal its cursor back, which a live display hides and can no longer show itself."""
    try:
        if os.isatty(2):
            os.write(2, b"\x1b[?25h\n")
    except OSError:
        return
