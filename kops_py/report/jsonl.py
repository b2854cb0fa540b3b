"""Events as JSON lines: into the run's folder always, to standard output with ``-o json``."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TextIO

from kops_py.model.event import Event


class JsonLines:
    """Writes one JSON object a line."""

    def __init__(self, out: TextIO) -> None:
        self._out = out

    def __call__(self, event: Event) -> None:
        """Write the event."""
        self._out.write(json.dumps(event.to_json(), separators=(",", ":")) + "\n")
        self._out.flush()

    def close(self) -> None:
        """Flush; the stream belongs to the caller."""
        self._out.flush()


class JsonFile(JsonLines):
    """Writes events to a file of its own, 0600."""

    def __init__(self, path: Path) -> None:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        super().__init__(os.fdopen(descriptor, "a", encoding="utf-8"))

    def close(self) -> None:
        """Close the file."""
        self._out.close()
