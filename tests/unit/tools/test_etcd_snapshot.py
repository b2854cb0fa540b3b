"""The stream of Maintenance.Snapshot, in pieces of any size, whole and otherwise."""

from __future__ import annotations

import hashlib
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kops_py.backup.stream import TrailerHash
from kops_py.model.etcd import EtcdCredentials
from kops_py.tools.etcd_snapshot import SnapshotStream, metrics_argv, refusal, snapshot_argv

DATABASE = random.Random(1).randbytes(512 * 200)
KEYS = EtcdCredentials("/ca", "/cert", "/key")


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*out, value))


def message(remaining: int, blob: bytes) -> bytes:
    """A SnapshotResponse with a header, in its gRPC frame."""
    header = b"\x0a\x04\x08\x07\x10\x09"
    body = header + (b"\x10" + varint(remaining) if remaining else b"") + b"\x1a" + varint(len(blob)) + blob
    return b"\0" + len(body).to_bytes(4, "big") + body


def stream_of(database: bytes, *, trailer: bytes | None = None, blob: int = 32768) -> bytes:
    out = b""
    for at in range(0, len(database), blob):
        part = database[at : at + blob]
        out += message(len(database) - at - len(part), part)
    return out + message(0, hashlib.sha256(database).digest() if trailer is None else trailer)


@given(st.lists(st.integers(1, 50_000), min_size=1, max_size=30))
def test_any_pieces_give_the_database_and_its_checksum(sizes: list[int]) -> None:
    sent, got, at = stream_of(DATABASE), bytearray(), 0
    stream = SnapshotStream(got.extend)
    for size in sizes:
        stream.feed(sent[at : at + size])
        at += size
    stream.feed(sent[at:])
    stream.finish()
    assert bytes(got) == DATABASE + hashlib.sha256(DATABASE).digest()
    assert stream.size_bytes == len(got) == stream.total_bytes


def test_a_stream_that_ends_anywhere_else_is_refused() -> None:
    sent = stream_of(DATABASE)
    for cut in [*range(0, len(sent), 997), *range(len(sent) - 80, len(sent))]:
        stream = SnapshotStream(lambda _: None)
        stream.feed(sent[:cut])
        with pytest.raises(ValueError, match=r"not complete|no checksum"):
            stream.finish()


def test_what_arrives_changed_is_refused_by_the_stream_or_by_its_checksum() -> None:
    sent = bytearray(stream_of(DATABASE))
    for at in range(30, len(sent), 4999):
        changed = bytearray(sent)
        changed[at] ^= 4
        hashed = TrailerHash()
        stream = SnapshotStream(hashed.update)
        try:
            stream.feed(bytes(changed))
            stream.finish()
        except ValueError:
            continue
        assert not hashed.is_whole, at


def test_what_is_no_stream_of_etcd_is_refused_at_once() -> None:
    for data in (b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\0\xff\xff\xff\xff", message(0, b"x")[:5] + b"\x1b" * 20):
        stream = SnapshotStream(lambda _: None)
        with pytest.raises(ValueError, match=r"no snapshot|not one of etcd's"):
            stream.feed(data)


@pytest.mark.parametrize(
    ("headers", "why"),
    [
        ("HTTP/2 200 \r\ncontent-type: application/grpc\r\n\r\ngrpc-status: 0\r\n", ""),
        ("HTTP/2 200 \r\ngrpc-status: 7\r\ngrpc-message: permission denied\r\n", "permission denied"),
        ("HTTP/2 200 \r\nGrpc-Status: 14\r\n", "gRPC status 14"),
        ("HTTP/1.1 404 Not Found\r\n", "HTTP/1.1 404 Not Found"),
        ("", ""),
    ],
)
def test_a_refusal_is_in_the_headers(headers: str, why: str) -> None:
    assert refusal(headers) == why


def test_no_key_is_in_the_command_and_every_limit_is() -> None:
    argv = snapshot_argv("https://127.0.0.1:2379", KEYS, timeout_s=90.9, stall_s=7)
    assert argv[argv.index("--max-time") + 1] == "90"
    assert argv[argv.index("--speed-time") + 1] == "7"
    assert argv[-1] == "https://127.0.0.1:2379/etcdserverpb.Maintenance/Snapshot"
    assert "--http2" in argv
    plain = snapshot_argv("http://127.0.0.1:2379", KEYS, timeout_s=1)
    assert "--http2-prior-knowledge" in plain
    assert "--cert" not in plain
    assert metrics_argv("https://h:2379", KEYS)[-1] == "https://h:2379/metrics"
