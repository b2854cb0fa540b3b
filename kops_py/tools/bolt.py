"""Reads what a restore must know from an etcd database file: revision, members, cluster version; no I/O.

etcd keeps its store in one bbolt file, and a snapshot is that file with the SHA-256 of all of it behind. Only the
few pages that answer these questions are read, so a file of any size costs no memory.
Layout: bbolt's page.go, node.go, bucket.go (unchanged since 2013); buckets: etcd's mvcc and membership stores.
"""

from __future__ import annotations

import hashlib
import json
import re
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol


class Buffer(Protocol):
    """Bytes of which a piece can be taken: bytes, or a file that is read where it is asked."""

    def __len__(self) -> int:
        """Return how many bytes there are."""

    def __getitem__(self, part: slice, /) -> bytes:
        """Return a piece; what is beyond the end is left out."""


HASH_BYTES = 32
_MAGIC = 0xED0CDAED
_PAGE = struct.Struct("<QHHI")  # id, flags, count, overflow
_META = struct.Struct("<IIIIQQQQQ")  # magic, version, page size, flags, root, sequence, freelist, high water, txid
_LEAF = struct.Struct("<IIII")  # flags, position, key size, value size
_BRANCH = struct.Struct("<IIQ")  # position, key size, page
_BRANCH_FLAG, _LEAF_FLAG, _META_FLAG = 0x01, 0x02, 0x04
_CHECKSUM = struct.Struct("<Q")
_SECTOR = 512
_PIECE = 1 << 20
_DEPTH = 64
_CLUSTER_VERSION = re.compile(rb"\d+\.\d+(?:\.\d+)?")


class NotADatabaseError(ValueError):
    """The file is no etcd database, or it is damaged."""


@dataclass(frozen=True, slots=True)
class StoredMember:
    """One member as the store of its time knew it."""

    name: str
    peer_urls: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Database:
    """What an etcd database file tells; ``minor`` is etcd's ``3.5``, empty when the file does not say."""

    revision: int
    minor: str
    members: tuple[StoredMember, ...]


def has_trailing_hash(data: Buffer) -> bool:
    """Whether the last 32 bytes are the SHA-256 of the rest, as ``snapshot save`` writes it."""
    size = len(data)
    if size % _SECTOR != HASH_BYTES:
        return False
    digest = hashlib.sha256()
    end = size - HASH_BYTES
    for start in range(0, end, _PIECE):
        digest.update(data[start : min(start + _PIECE, end)])
    return digest.digest() == data[end:size]


def read_database(data: Buffer) -> Database:
    """Read a database or snapshot file; raises NotADatabaseError."""
    try:
        pages = _Pages(data)
        buckets = dict(pages.root_items())
        if b"key" not in buckets:
            raise NotADatabaseError("it holds no keys of etcd")
        last = pages.last_key(buckets[b"key"])
        return Database(
            revision=int.from_bytes(last[:8], "big") if len(last) >= 17 else 0,
            minor=_minor(dict(pages.items(buckets[b"cluster"])) if b"cluster" in buckets else {}),
            members=tuple(_members(pages, buckets.get(b"members"))),
        )
    except (struct.error, IndexError, RecursionError) as error:
        raise NotADatabaseError(f"its pages cannot be read ({error})") from error


def names_below(data: Buffer, prefixes: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Return by each prefix what is behind it in the names of the keys that are there; raises NotADatabaseError.

    Reads the whole store, page by page: every change is an entry of its own, the later ones after the earlier.
    """
    there = sorted(revisions_below(data, prefixes))
    return {prefix: tuple(key[len(prefix) :] for key in there if key.startswith(prefix)) for prefix in prefixes}


def revisions_below(data: Buffer, prefixes: Sequence[str]) -> dict[str, int]:
    """Return the keys below these prefixes that are there, with the revision of each one's last change; see above."""
    wanted = tuple(prefix.encode() for prefix in prefixes)
    found: dict[bytes, int] = {}
    try:
        pages = _Pages(data)
        bucket = dict(pages.root_items()).get(b"key")
        for revision, value in pages.items(bucket) if bucket is not None else ():
            key = _key_of(value)
            if not key.startswith(wanted):
                continue
            if revision.endswith(b"t"):  # a deletion is marked so behind its revision
                found.pop(key, None)
            else:
                found[key] = int.from_bytes(revision[:8], "big")
    except (struct.error, IndexError, RecursionError) as error:
        raise NotADatabaseError(f"its pages cannot be read ({error})") from error
    return {key.decode("utf-8", "replace"): revision for key, revision in found.items()}


def _key_of(value: bytes) -> bytes:
    """Return the key of a stored mvccpb.KeyValue: its first field, behind tag 0x0a and a length; empty when not so."""
    if not value.startswith(b"\x0a"):
        return b""
    size, shift, at = 0, 0, 1
    while at < min(len(value), 6):
        size |= (value[at] & 0x7F) << shift
        at, shift, more = at + 1, shift + 7, value[at] & 0x80
        if not more:
            return value[at : at + size]
    return b""


def _minor(cluster: dict[bytes, bytes]) -> str:
    value = cluster.get(b"clusterVersion", b"")
    return ".".join(value.decode().split(".")[:2]) if _CLUSTER_VERSION.fullmatch(value) else ""


def _members(pages: _Pages, bucket: bytes | None) -> Iterator[StoredMember]:
    for _, value in pages.items(bucket) if bucket is not None else ():
        try:
            body = json.loads(value)
            yield StoredMember(str(body.get("name") or ""), tuple(str(u) for u in body.get("peerURLs") or ()))
        except (ValueError, AttributeError):
            continue


class _Pages:
    """The pages of a bbolt file, from the newer of its two valid meta pages on."""

    def __init__(self, data: Buffer) -> None:
        self._data = data
        metas = [m for m in (self._meta(0), self._meta(1)) if m is not None]
        if not metas:
            raise NotADatabaseError("it does not begin like a database of etcd")
        _, self._size, self._root = max(metas)

    def _meta(self, number: int) -> tuple[int, int, int] | None:
        """Return transaction, page size and root page of a meta page, None when it is not valid."""
        data = self._data
        for size in (4096, 16384, 65536, 8192, 32768) if number else (0,):
            start = size * number
            if len(data) < start + _PAGE.size + _META.size + 8:
                return None
            body = data[start + _PAGE.size : start + _PAGE.size + _META.size]
            magic, version, page_size, _, root, _, _, _, txid = _META.unpack(body)
            (checksum,) = self._read(_CHECKSUM, start + _PAGE.size + _META.size)
            if magic == _MAGIC and version == 2 and checksum == _fnv64a(body) and (not number or page_size == size):
                return txid, page_size, root
        return None

    def root_items(self) -> Iterator[tuple[bytes, bytes]]:
        """Return the buckets of the file, by name."""
        yield from self._walk(self._root, 0)

    def items(self, bucket: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Return keys and values of a bucket."""
        root, _ = struct.unpack_from("<QQ", bucket)
        if root:
            yield from self._walk(root, 0)
        else:
            yield from _leaf_items(bucket, 16)

    def last_key(self, bucket: bytes) -> bytes:
        """Return the greatest key of a bucket, empty when it has none."""
        root, _ = struct.unpack_from("<QQ", bucket)
        if not root:
            return max((k for k, _ in _leaf_items(bucket, 16)), default=b"")
        for _ in range(_DEPTH):
            start = self._start(root)
            _, flags, count, _ = self._read(_PAGE, start)
            if not count:
                return b""
            if flags & _LEAF_FLAG:
                at = start + _PAGE.size + (count - 1) * _LEAF.size
                _, position, key_size, _ = self._read(_LEAF, at)
                return self._data[at + position : at + position + key_size]
            if not flags & _BRANCH_FLAG:
                break
            _, _, root = self._read(_BRANCH, start + _PAGE.size + (count - 1) * _BRANCH.size)
        raise NotADatabaseError("its pages lead nowhere")

    def _read(self, layout: struct.Struct, start: int) -> tuple[int, ...]:
        return layout.unpack(self._data[start : start + layout.size])

    def _start(self, page: int) -> int:
        start = page * self._size
        if start + _PAGE.size > len(self._data):
            raise NotADatabaseError("it is cut off")
        return start

    def _walk(self, page: int, depth: int) -> Iterator[tuple[bytes, bytes]]:
        if depth > _DEPTH:
            raise NotADatabaseError("its pages lead nowhere")
        start = self._start(page)
        _, flags, count, overflow = self._read(_PAGE, start)
        if flags & _LEAF_FLAG:
            yield from _leaf_items(self._data[start : start + (overflow + 1) * self._size], 0)
        elif flags & _BRANCH_FLAG:
            for number in range(count):
                _, _, below = self._read(_BRANCH, start + _PAGE.size + number * _BRANCH.size)
                yield from self._walk(below, depth + 1)
        else:
            raise NotADatabaseError("its pages lead nowhere")


def _leaf_items(data: bytes, start: int) -> Iterator[tuple[bytes, bytes]]:
    _, _, count, _ = _PAGE.unpack_from(data, start)
    for number in range(count):
        at = start + _PAGE.size + number * _LEAF.size
        _, position, key_size, value_size = _LEAF.unpack_from(data, at)
        key = at + position
        if key + key_size + value_size > len(data):
            raise NotADatabaseError("it is cut off")
        yield data[key : key + key_size], data[key + key_size : key + key_size + value_size]


def _fnv64a(body: bytes) -> int:
    value = 0xCBF29CE484222325
    for byte in body:
        value = ((value ^ byte) * 0x100000001B3) & 0xFFFFFFFFFFFFFFFF
    return value
