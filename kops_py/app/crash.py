"""What a failure that nobody foresaw leaves for whoever mends the program."""

from __future__ import annotations

import os
import tempfile
import traceback
from pathlib import Path


def write_crash_report(error: BaseException) -> Path:
    """Write the traceback to a new file, 0600, without the secrets it can tell; raises OSError."""
    from kops_py.tools.redact import redact

    text = redact("".join(traceback.format_exception(error)))
    descriptor, path = tempfile.mkstemp(prefix="kops-py-crash-", suffix=".txt")
    with os.fdopen(descriptor, "w", encoding="utf-8", errors="backslashreplace") as file:
        file.write(text)
    return Path(path)
