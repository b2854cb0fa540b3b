"""Ends a process that we started together with all its descendants, whatever session they are in."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

_GRACE_S = 3.0
_LOOK_EVERY_S = 0.05


def end_children(argument: str) -> None:
    """End every process that this one started with this argument, with all it started."""
    for pid in _descendants(os.getpid()):
        if argument in _arguments(pid) and argument not in _arguments(_parent(pid)):
            _end_tree(pid)


def _end_tree(root: int) -> None:
    """Ask the process to end (SIGTERM), and after three seconds end it and every descendant for good (SIGKILL).

    Descendants are listed before anything is ended, because after that they belong to init.
    """
    tree = _descendants(root)
    _signal(root, signal.SIGTERM)
    deadline = time.monotonic() + _GRACE_S
    while _alive(root) and time.monotonic() < deadline:
        time.sleep(_LOOK_EVERY_S)
    for pid, started in {**_descendants(root), **tree}.items():
        if _start_time(pid) == started:  # the number may belong to another process by now
            _signal(pid, signal.SIGKILL)
    _signal(root, signal.SIGKILL)


def _descendants(root: int) -> dict[int, str]:
    """Return every descendant with its start time; empty where there is no /proc."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        fields = _stat(int(entry.name))
        if fields:
            parents.setdefault(int(fields[1]), []).append(int(entry.name))
    found: dict[int, str] = {}
    waiting = [root]
    while waiting:
        for pid in parents.get(waiting.pop(), []):
            if pid not in found:
                found[pid] = _start_time(pid)
                waiting.append(pid)
    return found


def _stat(pid: int) -> list[str]:
    """Return the fields of /proc/PID/stat after the name: state, parent, ...; empty when it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return []


def _parent(pid: int) -> int:
    fields = _stat(pid)
    return int(fields[1]) if fields else 0


def _arguments(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8", errors="replace").split("\0")
    except OSError:
        return []


def _start_time(pid: int) -> str:
    fields = _stat(pid)
    return fields[19] if fields else ""


def _alive(pid: int) -> bool:
    fields = _stat(pid)
    return bool(fields) and fields[0] != "Z"


def _signal(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return
