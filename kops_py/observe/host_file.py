"""A file on a host as bytes that are fetched where they are asked for: a few blocks of one of any size."""

from __future__ import annotations

from kops_py.connect.base import Host

_BLOCK = 16_384


class HostFile:
    """Implements the ``Buffer`` of tools/bolt.py; each block is read once. Slicing raises HostError."""

    def __init__(self, host: Host, path: str, size: int, *, timeout_s: float) -> None:
        self._host = host
        self._path = path
        self._size = size
        self._timeout_s = timeout_s
        self._blocks: dict[int, bytes] = {}

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, part: slice, /) -> bytes:
        start, stop, _ = part.indices(self._size)
        if stop <= start:
            return b""
        first, last = start // _BLOCK, (stop - 1) // _BLOCK
        data = b"".join(self._block(number) for number in range(first, last + 1))
        return data[start - first * _BLOCK : stop - first * _BLOCK]

    def _block(self, number: int) -> bytes:
        if number not in self._blocks:
            argv = ("dd", f"if={self._path}", f"bs={_BLOCK}", f"skip={number}", "count=1")
            self._blocks[number] = self._host.run(argv, sudo=True, timeout_s=self._timeout_s).stdout
        return self._blocks[number]
