"""The journal of a run: one JSON object a line, on the disk before the next thing happens.

It records what was tried and how it ended. What is true is always observed anew; the journal is for people and
for reports, so a torn last line (power loss here) costs nothing.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

Clock = Callable[[], float]


class Journal:
    """Appends records to ``journal.jsonl``; thread-safe; every record is fsynced before ``write`` returns."""

    def __init__(self, path: Path, *, clock: Clock = time.time) -> None:
        self.path = path
        self._clock = clock
        self._lock = threading.Lock()
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._file = os.fdopen(descriptor, "ab", buffering=0)
        _fsync_folder(path.parent)

    def write(self, kind: str, **fields: Any) -> None:
        """Append one record; raises OSError when the disk refuses it."""
        line = json.dumps({"at_s": round(self._clock(), 3), "kind": kind, **fields}, separators=(",", ":"))
        with self._lock:
            self._file.write(line.encode() + b"\n")
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read_journal(path: Path) -> list[dict[str, Any]]:
    """Return the records of a journal; a torn last line is left out. Raises OSError."""
    records: list[dict[str, Any]] = []
    for line in path.read_bytes().split(b"\n"):
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict):
            records.append(record)
    return records


def _fsync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
