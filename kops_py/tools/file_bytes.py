"""A file as bytes that are read where they are asked for, for what is larger than memory should hold."""

from __future__ import annotations

import os
from typing import BinaryIO


class FileBytes:
    """The bytes of an open file; not a mapping, with which a disk that fails would end the program. Raises OSError."""

    def __init__(self, file: BinaryIO) -> None:
        self._descriptor = file.fileno()
        self._size = os.fstat(self._descriptor).st_size

    def __len__(self) -> int:
        """Return the size of the file when it was opened."""
        return self._size

    def __getitem__(self, part: slice, /) -> bytes:
        """Return a piece."""
        start, stop, _ = part.indices(self._size)
        return os.pread(self._descriptor, max(0, stop - start), start)
