"""One pass from plain bytes to stored bytes and back, in constant memory.

    plain -> SHA-256, etcd's own hash at the end -> zstd -> age -> SHA-256 of what is stored

In front of the compressed data stands a zstd skippable frame with a JSON object that says what this is (``Label``):
``zstd -d`` skips it, and as it lies inside the encryption a stored object says itself which part of which backup
it is, whatever name somebody gave it.
"""

from __future__ import annotations

import hashlib
import importlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from kops_py.backup.age import decrypt, encrypt
from kops_py.backup.documents import FORMAT
from kops_py.connect.base import Cancel
from kops_py.model.errors import BackupError, DamagedError

_SKIPPABLE = (0x184D2A50).to_bytes(4, "little")
_MOST_LABEL_BYTES = 4096
_TRAILER_BYTES = 32
_PAGE_BYTES = 512
_PIECE_BYTES = 1024 * 1024
_LEVEL = 3
_WINDOW_LOG = 27
"""What ``zstd -d`` allows without being asked: 128 MiB. Level 3 uses 2 MiB."""

Write = Callable[[bytes], object]


@dataclass(frozen=True, slots=True)
class Label:
    """What an object is, written inside it."""

    id: str
    cluster: str
    kind: str
    host: str
    format: int = FORMAT


@dataclass(frozen=True, slots=True)
class Measured:
    """What went through: sizes in bytes and hashes; ``trailer`` whether etcd's own hash was there and right."""

    plain_size_bytes: int
    plain_sha256: str
    stored_size_bytes: int
    stored_sha256: str
    trailer: bool


class TrailerHash:
    """SHA-256 of a stream, and whether its last 32 bytes are the SHA-256 of all before them.

    That is how a snapshot by etcd's API ends (etcd, server/etcdserver/api/v3rpc/maintenance.go); its length is a
    multiple of 512 besides (client/v3/snapshot). A copied database file has no such end.
    """

    def __init__(self) -> None:
        self._before = hashlib.sha256()
        self._last = b""
        self.size_bytes = 0

    def update(self, data: bytes | memoryview) -> None:
        """Take the next piece."""
        self.size_bytes += len(data)
        if len(data) >= _TRAILER_BYTES:
            self._before.update(self._last)
            self._before.update(memoryview(data)[:-_TRAILER_BYTES])
            self._last = bytes(data[-_TRAILER_BYTES:])
            return
        both = self._last + data
        cut = max(0, len(both) - _TRAILER_BYTES)
        self._before.update(both[:cut])
        self._last = both[cut:]

    def hexdigest(self) -> str:
        """Return the SHA-256 of everything."""
        whole = self._before.copy()
        whole.update(self._last)
        return whole.hexdigest()

    @property
    def is_whole(self) -> bool:
        """Whether this is a whole snapshot by etcd's own hash."""
        return (
            self.size_bytes > _TRAILER_BYTES
            and self.size_bytes % _PAGE_BYTES == _TRAILER_BYTES
            and self._before.digest() == self._last
        )


class _Counted:
    """Hashes and counts what is written on to somewhere."""

    def __init__(self, write: Write) -> None:
        self._write = write
        self._hash = hashlib.sha256()
        self.size_bytes = 0

    def write(self, data: bytes) -> int:
        self._hash.update(data)
        self.size_bytes += len(data)
        self._write(data)
        return len(data)

    def hexdigest(self) -> str:
        return self._hash.hexdigest()


def pack(
    source: Iterable[bytes],
    write: Write,
    label: Label,
    *,
    recipients: Sequence[str],
    is_snapshot: bool,
    tee: Write | None = None,
    cancel: Cancel | None = None,
) -> Measured:
    """Compress and encrypt ``source`` and give the stored bytes to ``write``.

    ``tee`` gets the plain bytes. No recipients: not encrypted. Raises DamagedError when ``is_snapshot`` and etcd's
    own hash is missing or wrong (all bytes were written by then: do not commit them), and what source, write and
    tee raise.
    """
    plain, stored = TrailerHash(), _Counted(write)

    def watched() -> Iterator[bytes]:
        for data in source:
            if cancel is not None:
                cancel.check()
            plain.update(data)
            if tee is not None:
                tee(data)
            yield data

    encrypt(_compressed(watched(), label), stored.write, recipients)
    if is_snapshot and not plain.is_whole:
        raise DamagedError(
            "the snapshot is not whole",
            why=f"etcd's hash at its end is missing or wrong after {plain.size_bytes} bytes",
            hint="look at the member it came from and its disk; then make the backup again",
        )
    if not plain.size_bytes:
        raise BackupError("there was nothing to back up", why="the stream ended before its first byte")
    return Measured(plain.size_bytes, plain.hexdigest(), stored.size_bytes, stored.hexdigest(), plain.is_whole)


def unpack(
    source: Iterable[bytes],
    write: Write,
    label: Label,
    *,
    identities: Sequence[str],
    encrypted: bool,
    most_bytes: int,
    where: str,
) -> Measured:
    """Decrypt and decompress stored bytes, give the plain ones to ``write``, and return what was measured.

    Raises DamagedError when they cannot be what ``pack`` made for this label, or give more than ``most_bytes``;
    BackupError when no identity fits. The caller compares sizes and hashes with the manifest's and uses nothing
    of the plain bytes before that.
    """
    stored, plain = _Counted(lambda _: None), TrailerHash()

    def counted() -> Iterator[bytes]:
        for data in source:
            stored.write(data)
            yield data

    def checked(data: bytes) -> None:
        plain.update(data)
        if plain.size_bytes > most_bytes:
            raise DamagedError("it holds more than its manifest says", where=where)
        write(data)

    opened = _Unpacking(checked, label, where)
    if encrypted:
        decrypt(counted(), opened.write, identities, where=where)
    else:
        for data in counted():
            opened.write(data)
    opened.finish()
    return Measured(plain.size_bytes, plain.hexdigest(), stored.size_bytes, stored.hexdigest(), plain.is_whole)


def _zstd() -> Any:
    """Return the standard library's zstd (Python 3.14), or the same for older ones."""
    try:
        return importlib.import_module("compression.zstd")
    except ImportError:
        return importlib.import_module("backports.zstd")


def _compressed(source: Iterator[bytes], label: Label) -> Iterator[bytes]:
    zstd = _zstd()
    body = json.dumps({"kops-py": asdict(label)}, sort_keys=True).encode()
    yield _SKIPPABLE + len(body).to_bytes(4, "little") + body
    options = {zstd.CompressionParameter.compression_level: _LEVEL, zstd.CompressionParameter.checksum_flag: 1}
    compressor = zstd.ZstdCompressor(options=options)
    for data in source:
        if piece := compressor.compress(data):
            yield piece
    yield compressor.flush()


class _Unpacking:
    """The label, then one zstd frame, then nothing."""

    def __init__(self, write: Write, label: Label, where: str) -> None:
        zstd = _zstd()
        self._write = write
        self._label = label
        self._where = where
        self._head: bytearray | None = bytearray()
        self._error: type[Exception] = zstd.ZstdError
        self._frame = zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: _WINDOW_LOG})

    def write(self, data: bytes) -> int:
        """Take the next compressed piece."""
        rest = data if self._head is None else self._read_label(data)
        if rest:
            self._decompress(rest)
        return len(data)

    def finish(self) -> None:
        """Raise DamagedError unless everything came."""
        if self._head is not None or not self._frame.eof:
            raise DamagedError("it ends too early", where=self._where)

    def _read_label(self, data: bytes) -> bytes:
        head = self._head = self._head if self._head is not None else bytearray()
        head += data
        if not _SKIPPABLE.startswith(bytes(head[:4])):
            raise DamagedError("it was not made by kops-py", where=self._where, why="it has no label inside")
        length = int.from_bytes(head[4:8], "little")
        if len(head) >= 8 and length > _MOST_LABEL_BYTES:
            raise DamagedError("it was not made by kops-py", where=self._where, why="its label is too long")
        if len(head) < 8 or len(head) < 8 + length:
            return b""
        try:
            found = json.loads(head[8 : 8 + length])
        except ValueError:
            found = None
        if found != {"kops-py": asdict(self._label)}:
            raise DamagedError(
                "it is not what its name says",
                where=self._where,
                why=f"its label is {json.dumps(found)[:300]}, not that of {self._label.kind} of {self._label.id}",
            )
        self._head = None
        return bytes(head[8 + length :])

    def _decompress(self, data: bytes) -> None:
        while data or not (self._frame.needs_input or self._frame.eof):
            if self._frame.eof:
                raise DamagedError("something follows behind its end", where=self._where)
            try:
                plain = self._frame.decompress(data, max_length=_PIECE_BYTES)
            except self._error as error:
                raise DamagedError("it cannot be decompressed", where=self._where, why=str(error)) from None
            data = self._frame.unused_data if self._frame.eof else b""
            if plain:
                self._write(plain)
