"""What a failure that nobody foresaw leaves for whoever mends the program."""

from __future__ import annotations

import os
import tempfile
import traceback
from dataclasses import dataclass

_MAX_CHARS = 300


@dataclass(frozen=True, slots=True)
class Crash:
    """One such failure, without the secrets it can tell; ``report`` is where its traceback was put, or why nowhere."""

    summary: str
    report: str


def record_crash(error: BaseException) -> Crash:
    """Write the traceback to a new file, 0600, and return what to show; raises nothing."""
    from kops_py.tools.redact import redact

    first = (str(error).strip().splitlines() or [""])[0]
    summary = f"{type(error).__name__}: {redact(first)[:_MAX_CHARS]}" if first else type(error).__name__
    try:
        descriptor, path = tempfile.mkstemp(prefix="kops-py-crash-", suffix=".txt")
        with os.fdopen(descriptor, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(redact("".join(traceback.format_exception(error))))
    except OSError as problem:
        return Crash(summary, f"could not be written: {problem.strerror}")
    return Crash(summary, path)
