"""Reading etcd's database file: what it tells, and that no damage is taken for a database."""

from __future__ import annotations

import hashlib
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kops_py.tools.bolt import NotADatabaseError, StoredMember, _fnv64a, has_trailing_hash, names_below, read_database

PAGE = 4096
LEAF, BRANCH, META, FREELIST = 0x02, 0x01, 0x04, 0x10
BUCKET = 1


def leaf(number: int, items: dict[bytes, bytes], *, flags: int = 0, inline: bool = False) -> bytes:
    head = struct.pack("<QHHI", number, LEAF, len(items), 0)
    elements, body, offset = b"", b"", len(items) * 16
    for index, (key, value) in enumerate(sorted(items.items())):
        position = offset - index * 16 + len(body)
        elements += struct.pack("<IIII", flags, position, len(key), len(value))
        body += key + value
    page = head + elements + body
    return page if inline else page.ljust(PAGE, b"\0")


def branch(number: int, below: list[tuple[bytes, int]]) -> bytes:
    head = struct.pack("<QHHI", number, BRANCH, len(below), 0)
    elements, body, offset = b"", b"", len(below) * 16
    for index, (key, page) in enumerate(below):
        elements += struct.pack("<IIQ", offset - index * 16 + len(body), len(key), page)
        body += key
    return (head + elements + body).ljust(PAGE, b"\0")


def meta(number: int, root: int, txid: int) -> bytes:
    body = struct.pack("<IIIIQQQQQ", 0xED0CDAED, 2, PAGE, 0, root, 0, 2, 9, txid)
    return (struct.pack("<QHHI", number, META, 0, 0) + body + struct.pack("<Q", _fnv64a(body))).ljust(PAGE, b"\0")


def revision_key(main: int, sub: int = 0) -> bytes:
    return main.to_bytes(8, "big") + b"_" + sub.to_bytes(8, "big")


def database() -> bytes:
    member = b'{"id":1,"peerURLs":["https://10.0.0.1:2380"],"name":"n1","clientURLs":[]}'
    buckets = {
        b"key": struct.pack("<QQ", 4, 0),
        b"cluster": struct.pack("<QQ", 0, 0) + leaf(0, {b"clusterVersion": b"3.5.0"}, inline=True),
        b"members": struct.pack("<QQ", 7, 0),
    }
    return b"".join(
        (
            meta(0, 9, 10),  # older, and of a root that is not there
            meta(1, 3, 11),
            struct.pack("<QHHI", 2, FREELIST, 0, 0).ljust(PAGE, b"\0"),
            leaf(3, buckets, flags=BUCKET),
            branch(4, [(revision_key(1), 5), (revision_key(900), 6)]),
            leaf(5, {revision_key(1): b"x"}),
            leaf(6, {revision_key(900): b"y", revision_key(1234, 2): b"z"}),
            leaf(7, {b"1": member}),
        )
    )


def snapshot() -> bytes:
    body = database()
    return body + hashlib.sha256(body).digest()


def test_what_a_database_tells() -> None:
    found = read_database(snapshot())
    assert (found.revision, found.minor) == (1234, "3.5")
    assert found.members == (StoredMember("n1", ("https://10.0.0.1:2380",)),)


def stored(key: bytes, value: bytes = b"x" * 300) -> bytes:
    """Return a key and its value as etcd stores them: fields 1 and 5 of mvccpb.KeyValue."""
    size = bytes((len(key),)) if len(key) < 128 else bytes((len(key) & 0x7F | 0x80, len(key) >> 7))
    return b"\x0a" + size + key + b"\x10\x05\x18\x05\x20\x01\x2a\xac\x02" + value


def store_of(*entries: tuple[int, bytes, bool]) -> bytes:
    """Return a database with these changes: revision, key, and whether it is a deletion."""
    items = {
        revision_key(r) + (b"t" if gone else b""): stored(k, b"" if gone else b"x" * 300) for r, k, gone in entries
    }
    half = sorted(items)[: len(items) // 2]
    return b"".join(
        (
            meta(0, 3, 10),
            meta(1, 3, 11),
            struct.pack("<QHHI", 2, FREELIST, 0, 0).ljust(PAGE, b"\0"),
            leaf(3, {b"key": struct.pack("<QQ", 4, 0)}, flags=BUCKET),
            branch(4, [(revision_key(1), 5), (revision_key(900), 6)]),
            leaf(5, {k: v for k, v in items.items() if k in half}),
            leaf(6, {k: v for k, v in items.items() if k not in half}),
        )
    )


def test_names_of_the_keys_that_are_there() -> None:
    nodes = b"/registry/minions/"
    long = nodes + b"a" * 180
    data = store_of(
        (2, nodes + b"gone", False),
        (3, nodes + b"n2", False),
        (4, b"/registry/minionsx/other", False),
        (5, nodes + b"n1", False),
        (6, nodes + b"gone", True),
        (7, nodes + b"back", True),
        (8, long, False),
        (9, nodes + b"back", False),
        (10, nodes + b"n1", False),
    )
    node, none = "/registry/minions/", "/registry/none/"
    assert names_below(data, [node, none]) == {node: ("a" * 180, "back", "n1", "n2"), none: ()}
    assert names_below(snapshot(), [node]) == {node: ()}, "entries that are no keys of etcd are passed over"
    with pytest.raises(NotADatabaseError):
        names_below(data[: 5 * PAGE], [node])


def test_the_hash_behind_a_snapshot() -> None:
    assert has_trailing_hash(snapshot())
    assert not has_trailing_hash(database())
    assert not has_trailing_hash(b"")


@settings(max_examples=200, deadline=None)
@given(st.integers(0, len(snapshot()) * 8 - 1))
def test_every_flipped_bit_is_seen(bit: int) -> None:
    data = bytearray(snapshot())
    data[bit // 8] ^= 1 << bit % 8
    assert not has_trailing_hash(bytes(data))


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_damage_is_told_and_never_crashes(data: st.DataObject) -> None:
    body = bytearray(database())
    for _ in range(data.draw(st.integers(1, 8))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(body)))
    for damaged in (bytes(body), bytes(body[:cut])):
        try:
            read_database(damaged)
        except NotADatabaseError:
            continue


@pytest.mark.parametrize("data", [b"", b"no database", b"\0" * 100_000])
def test_what_is_no_database(data: bytes) -> None:
    with pytest.raises(NotADatabaseError):
        read_database(data)
