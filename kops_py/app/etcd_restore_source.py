"""Where a restore gets its snapshot from: a file, looked at before anything else."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from kops_py.model.errors import BackupError, ConfigError
from kops_py.model.etcd_restore import SnapshotFacts

_PIECE = 1 << 20


class _FileBytes:
    """A file as bytes that are read where they are asked for."""

    def __init__(self, file: BinaryIO) -> None:
        self._descriptor = file.fileno()
        self._size = os.fstat(self._descriptor).st_size

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, part: slice, /) -> bytes:
        start, stop, _ = part.indices(self._size)
        return os.pread(self._descriptor, max(0, stop - start), start)


def read_snapshot(path: Path) -> SnapshotFacts:
    """Look at a snapshot file; raises BackupError when it is damaged or no snapshot. Memory does not grow with it."""
    from kops_py.tools.bolt import NotADatabaseError, has_trailing_hash, read_database

    hint = "choose another backup; this one restores nothing"
    try:
        with path.open("rb") as file:
            data = _FileBytes(file)
            if not has_trailing_hash(data):
                raise BackupError(
                    "the snapshot is damaged or cut off",
                    where=str(path),
                    why="its SHA-256 is not that of it",
                    hint=hint,
                )
            found = read_database(data)
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            return SnapshotFacts(path.name, digest, len(data), found.revision, found.minor)
    except NotADatabaseError as error:
        raise BackupError("this is no snapshot of etcd", where=str(path), why=str(error), hint=hint) from error
    except OSError as error:
        raise ConfigError(
            "the snapshot cannot be read", where=str(path), why=str(error), hint="look at the path"
        ) from error


def holds_any(path: Path, words: Sequence[bytes]) -> bool:
    """Whether a file holds one of these byte strings anywhere; raises OSError."""
    overlap = max(map(len, words)) - 1
    with path.open("rb") as file:
        kept = b""
        while piece := file.read(_PIECE):
            seen = kept + piece
            if any(word in seen for word in words):
                return True
            kept = seen[-overlap:] if overlap else b""
    return False
