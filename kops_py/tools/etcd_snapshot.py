"""A snapshot as the member itself sends it: the command that asks for it, and its stream taken apart as it comes.

The call is Maintenance.Snapshot, the one that ``etcdctl snapshot save`` makes; curl speaks it, since gRPC is a POST
over HTTP/2. etcdctl can only write a file: beside its target, flushed and renamed, which neither a pipe nor a
deleted file survives. It would need the size of the database on the member's disk, wear it while etcd needs it,
and leave the file behind when killed. This way nothing is ever written there, and the first byte comes at once.
"""

from __future__ import annotations

from collections.abc import Callable

from kops_py.model.etcd import EtcdCredentials

EMPTY_REQUEST = b"\0\0\0\0\0"
"""A gRPC message of no bytes: SnapshotRequest has no fields. It goes to the command's standard input."""
_METHOD = "etcdserverpb.Maintenance/Snapshot"
_HEADER = 5
_LARGEST_MESSAGE = 64 * 2**20
"""etcd sends 32 KiB a message (snapshotSendBufferSize); far above that the stream is not one."""
TRAILER = 32
"""Bytes of the SHA-256 that etcd appends to what it sends."""


def snapshot_argv(
    endpoint: str, credentials: EtcdCredentials, *, timeout_s: float, stall_s: int = 60
) -> tuple[str, ...]:
    """Return the command that writes the stream to standard output and the answer's headers to standard error.

    It ends with an error after ``timeout_s``, or when fewer than 1 KiB a second came for ``stall_s``.
    """
    secure = endpoint.startswith("https://")
    return (
        "curl",
        "-q",
        "--silent",
        "--show-error",
        "--noproxy",
        "*",
        "--http2" if secure else "--http2-prior-knowledge",
        "--connect-timeout",
        "10",
        "--max-time",
        str(max(1, int(timeout_s))),
        "--speed-limit",
        "1024",
        "--speed-time",
        str(stall_s),
        "--dump-header",
        "/dev/stderr",
        *(("--cacert", credentials.ca, "--cert", credentials.cert, "--key", credentials.key) if secure else ()),
        "--header",
        "content-type: application/grpc",
        "--header",
        "te: trailers",
        "--data-binary",
        "@-",
        f"{endpoint}/{_METHOD}",
    )


def metrics_argv(endpoint: str, credentials: EtcdCredentials, *, timeout_s: int = 5) -> tuple[str, ...]:
    """Return the command that prints a member's metrics."""
    secure = endpoint.startswith("https://")
    return (
        "curl",
        "-q",
        "--silent",
        "--show-error",
        "--fail",
        "--noproxy",
        "*",
        "--max-time",
        str(timeout_s),
        *(("--cacert", credentials.ca, "--cert", credentials.cert, "--key", credentials.key) if secure else ()),
        f"{endpoint}/metrics",
    )


def refusal(headers: str) -> str:
    """Return why etcd refused, from the headers curl printed; empty when it did not."""
    status, message = "0", ""
    for line in headers.splitlines():
        name, _, value = line.partition(":")
        if name.strip().lower() == "grpc-status":
            status = value.strip()
        elif name.strip().lower() == "grpc-message":
            message = value.strip()
        elif line.startswith("HTTP/") and " 200" not in line:
            status, message = line.strip(), line.strip()
    return "" if status == "0" else message or f"gRPC status {status}"


class SnapshotStream:
    """Takes the stream in pieces of any size and gives the bytes of the snapshot, checksum included, to ``sink``.

    Memory is bounded by one message; the sink gets views of what came and may keep them. ``finish`` proves that as
    many bytes came as etcd announced: raises ValueError when something lacks, or bytes follow the end. Whether they
    are right is what the checksum says (``backup.stream.TrailerHash``).
    """

    def __init__(self, sink: Callable[[memoryview], object]) -> None:
        self._sink = sink
        self._pending = b""
        self._remaining: int | None = None
        self.size_bytes = 0
        """Bytes of the snapshot so far, checksum included."""

    @property
    def total_bytes(self) -> int:
        """Return the size of the database as etcd announced it, 0 before its first message."""
        return self.size_bytes + (self._remaining or 0) if self._remaining is not None else 0

    def feed(self, data: bytes) -> None:
        """Take the next piece; raises ValueError when this is no stream of snapshot messages."""
        pending = memoryview(self._pending + data if self._pending else data)
        at = 0
        while len(pending) - at >= _HEADER:
            length = int.from_bytes(pending[at + 1 : at + _HEADER], "big")
            if pending[at] != 0 or length > _LARGEST_MESSAGE:
                raise ValueError("what the member sends is no snapshot")
            if len(pending) - at - _HEADER < length:
                break
            self._message(pending[at + _HEADER : at + _HEADER + length])
            at += _HEADER + length
        self._pending = bytes(pending[at:])

    def finish(self) -> None:
        """Raise ValueError unless all of it came, to the end of its checksum."""
        if self._pending or self._remaining is None or self._remaining != 0:
            lacking = f"{self._remaining} bytes lack" if self._remaining else "it was cut off"
            raise ValueError(f"the snapshot is not complete: {lacking}")
        if self.size_bytes % 512 != TRAILER:
            raise ValueError("the snapshot carries no checksum")

    def _message(self, message: memoryview) -> None:
        """Read a SnapshotResponse: remaining_bytes is field 2, blob field 3 of it (etcd's rpc.proto)."""
        at, remaining = 0, 0
        blob = message[:0]
        try:
            while at < len(message):
                tag, at = _varint(message, at)
                if tag & 7 == 0:
                    value, at = _varint(message, at)
                    remaining = value if tag >> 3 == 2 else remaining
                elif tag & 7 == 2:
                    length, at = _varint(message, at)
                    if at + length > len(message):
                        raise IndexError
                    blob = message[at : at + length] if tag >> 3 == 3 else blob
                    at += length
                else:
                    raise IndexError
        except IndexError as error:
            raise ValueError("a message of the snapshot is not one of etcd's") from error
        self._remaining = remaining
        if blob:
            self.size_bytes += len(blob)
            self._sink(blob)


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise IndexError
