"""The bundle: files of a control plane that are not in etcd, as one tar archive.

What a host's ``tar`` streams is not stored as it comes: every member is read, checked and written anew, so that
an archive of ours holds only regular files with plain names below ``/``, and at its end ``bundle.json``, which lists
each with its SHA-256. ``tar -x`` unpacks it without us.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO, cast

from kops_py.backup.documents import FORMAT
from kops_py.model.errors import BackupError, DamagedError, NoFilesError

LISTING = "bundle.json"
MOST_FILE_BYTES = 16 * 1024 * 1024
MOST_FILES = 5000
MOST_TOTAL_BYTES = 256 * 1024 * 1024
_MOST_LINKED_BYTES = 32 * 1024 * 1024
_PIECE_BYTES = 256 * 1024

ROOTS = (
    "/etc/kubernetes",
    "/var/lib/kubelet/config.yaml",
    "/var/lib/kubelet/kubeadm-flags.env",
    "/var/lib/kubelet/instance-config.yaml",
    "/var/lib/kubelet/pki",
    "/etc/containerd",
    "/etc/cni/net.d",
    "/etc/haproxy/haproxy.cfg",
    "/etc/keepalived/keepalived.conf",
    "/etc/etcd",
    "/etc/kops-py",
)
"""What is read on every control plane where it is there, besides what its static pods name."""

AUTHORITY = "/etc/kubernetes/pki/ca.crt"
VITAL = {
    AUTHORITY: "the cluster's authority",
    "/etc/kubernetes/pki/ca.key": "the key of the cluster's authority",
    "/etc/kubernetes/pki/sa.key": "the key that signs service account tokens",
    "/etc/kubernetes/pki/sa.pub": "its public half",
    "/etc/kubernetes/pki/front-proxy-ca.crt": "the authority of the front proxy",
    "/etc/kubernetes/pki/front-proxy-ca.key": "its key",
}
"""Without these a cluster on new machines is not the old one."""

VITAL_STACKED = {
    "/etc/kubernetes/pki/etcd/ca.crt": "etcd's authority",
    "/etc/kubernetes/pki/etcd/ca.key": "its key",
}


@dataclass(frozen=True, slots=True, order=True)
class BundledFile:
    """One file of a bundle; ``path`` is absolute, ``mode`` its permissions."""

    path: str
    size_bytes: int
    sha256: str
    mode: int
    owner: int
    group: int


@dataclass(slots=True)
class Repacked:
    """What ``repack`` has seen so far; whole when its iterator is used up."""

    host: str
    files: list[BundledFile] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    """Sockets, devices and the like, with the reason."""

    def missing(self, *, stacked_etcd: bool) -> dict[str, str]:
        """Return vital files that are not there, and what each is (an external authority has no keys here)."""
        there = {f.path for f in self.files}
        wanted = VITAL | VITAL_STACKED if stacked_etcd else VITAL
        return {path: what for path, what in wanted.items() if path not in there}


def repack(source: Iterable[bytes], seen: Repacked) -> Iterator[bytes]:
    """Read a host's tar stream and yield our archive of it; ``seen`` says in the end what is in it.

    Raises NoFilesError for one without a file, BackupError for one that is cut, no tar, or larger than can be.
    """
    out, links = _Outgoing(), _Links()
    total = 0
    try:
        with (
            tarfile.open(fileobj=cast("IO[bytes]", _Incoming(source)), mode="r|") as arriving,
            tarfile.open(fileobj=cast("IO[bytes]", out), mode="w|", format=tarfile.PAX_FORMAT) as leaving,
        ):
            for member in arriving:
                name = _plain_name(member)
                if name is None:
                    continue
                if not (member.isreg() or member.islnk()):
                    seen.skipped.append(f"{name}: not a regular file")
                    continue
                _check_size(name, member.size, total + member.size, len(seen.files), seen.host)
                data = links.content(member, seen.host) if member.islnk() else _content(arriving, member, seen.host)
                links.add(name, data)
                total += len(data)
                seen.files.append(_add(leaving, name, member, data))
                yield from out.take()
            _add_listing(leaving, seen)
    except tarfile.TarError as error:
        raise BackupError("the files of the host cannot be read", where=seen.host, why=str(error)) from None
    yield from out.take()
    if not seen.files:
        raise NoFilesError("there was no file to bundle", where=seen.host)


def read_bundle(source: Iterable[bytes], *, where: str) -> Iterator[tuple[BundledFile, bytes]]:
    """Yield every file of a bundle with its content, then check all against its listing; raises DamagedError.

    Use the files only when the iterator is used up without an error.
    """
    found: list[BundledFile] = []
    listing: bytes | None = None
    try:
        with tarfile.open(fileobj=cast("IO[bytes]", _Incoming(source)), mode="r|") as archive:
            for member in archive:
                stream = archive.extractfile(member) if member.isreg() else None
                if stream is None or member.size > MOST_FILE_BYTES or listing is not None:
                    raise DamagedError("the bundle holds what kops-py does not put there", where=where, why=member.name)
                data = stream.read()
                if member.name == LISTING:
                    listing = data
                    continue
                file = _described(member, data)
                if any(file.path == one.path for one in found):
                    raise DamagedError("the bundle holds a file twice", where=where, why=file.path)
                found.append(file)
                yield file, data
    except tarfile.TarError as error:
        raise DamagedError("the bundle cannot be read", where=where, why=str(error)) from None
    if listing is None or listing != _listing(found, host=_host_of(listing)):
        raise DamagedError("the bundle is not what its listing says", where=where)


def extract(source: Iterable[bytes], folder: Path, *, where: str) -> tuple[BundledFile, ...]:
    """Write a bundle's files below a new folder (0700), each with 0600, and return what they were; raises DamagedError.

    ``folder`` must not exist; after an error what is in it is not to be used. Owners and modes are in what is
    returned: putting them in place is the restore's.
    """
    folder.mkdir(mode=0o700)
    files = []
    for file, data in read_bundle(source, where=where):
        target = folder / file.path.lstrip("/")
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(data)
        files.append(file)
    return tuple(files)


class _Links:
    """The files read so far, for hard links to them: tar sends a file it meets a second time as a link to the first.

    That is so for /var/lib/kubelet/pki/kubelet-client-current.pem, say, when symbolic links are followed.
    """

    def __init__(self) -> None:
        self._files: dict[str, bytes] = {}
        self._size_bytes = 0

    def add(self, name: str, data: bytes) -> None:
        if self._size_bytes + len(data) <= _MOST_LINKED_BYTES:
            self._files[name] = data
            self._size_bytes += len(data)

    def content(self, member: tarfile.TarInfo, host: str) -> bytes:
        target = str(PurePosixPath("/", member.linkname))
        if target not in self._files:
            why = f"it is a link to {member.linkname}, which did not come before it"
            raise BackupError("a file of the host cannot be bundled", where=f"{host}:{member.name}", why=why)
        return self._files[target]


def _content(arriving: tarfile.TarFile, member: tarfile.TarInfo, host: str) -> bytes:
    stream = arriving.extractfile(member)
    data = stream.read() if stream is not None else b""
    if len(data) != member.size:
        raise BackupError("the files of the host end too early", where=f"{host}:{member.name}")
    return data


class _Incoming:
    """A readable file over an iterator of pieces."""

    def __init__(self, source: Iterable[bytes]) -> None:
        self._source = iter(source)
        self._rest = bytearray()

    def read(self, size: int = -1) -> bytes:
        while size < 0 or len(self._rest) < size:
            piece = next(self._source, None)
            if piece is None:
                break
            self._rest += piece
        cut = len(self._rest) if size < 0 else size
        data = bytes(self._rest[:cut])
        del self._rest[:cut]
        return data


class _Outgoing:
    """A writable file whose content is taken away again and again."""

    def __init__(self) -> None:
        self._data = bytearray()

    def write(self, data: bytes) -> int:
        self._data += data
        return len(data)

    def take(self) -> Iterator[bytes]:
        data, self._data = bytes(self._data), bytearray()
        for start in range(0, len(data), _PIECE_BYTES):
            yield data[start : start + _PIECE_BYTES]


def _plain_name(member: tarfile.TarInfo) -> str | None:
    """Return a member's absolute path; None for a folder. Raises BackupError for a name that leads elsewhere."""
    if member.isdir():
        return None
    path = PurePosixPath("/", member.name)
    if ".." in path.parts or not member.name.isprintable() or len(member.name) > 1024:
        raise BackupError("the host sent a file name that is not allowed", why=repr(member.name)[:200])
    return str(path)


def _check_size(name: str, size: int, total: int, files: int, host: str) -> None:
    if size > MOST_FILE_BYTES or total > MOST_TOTAL_BYTES or files >= MOST_FILES:
        raise BackupError(
            "the files that belong to the control plane are larger than they can be",
            where=f"{host}:{name}",
            why=f"{size} bytes in the file, {total} in {files + 1} files",
            hint="move what does not belong there out of /etc/kubernetes",
        )


def _add(leaving: tarfile.TarFile, name: str, member: tarfile.TarInfo, data: bytes) -> BundledFile:
    info = tarfile.TarInfo(name.lstrip("/"))
    info.size, info.mode, info.mtime = len(data), member.mode & 0o777, int(member.mtime)
    info.uid, info.gid = member.uid, member.gid
    leaving.addfile(info, io.BytesIO(data))
    return _described(info, data)


def _described(info: tarfile.TarInfo, data: bytes) -> BundledFile:
    path = PurePosixPath("/", info.name)
    if ".." in path.parts or str(path) == "/":
        raise DamagedError("the bundle holds a name that leads elsewhere", why=repr(info.name)[:200])
    return BundledFile(str(path), len(data), hashlib.sha256(data).hexdigest(), info.mode & 0o777, info.uid, info.gid)


def _add_listing(leaving: tarfile.TarFile, seen: Repacked) -> None:
    data = _listing(seen.files, host=seen.host)
    info = tarfile.TarInfo(LISTING)
    info.size, info.mode = len(data), 0o600
    leaving.addfile(info, io.BytesIO(data))


def _listing(files: Iterable[BundledFile], *, host: str) -> bytes:
    import msgspec

    body = {"format": FORMAT, "host": host, "files": [msgspec.to_builtins(f) for f in files]}
    return json.dumps(body, indent=1, sort_keys=True).encode() + b"\n"


def _host_of(listing: bytes) -> str:
    try:
        return str(json.loads(listing)["host"])
    except (ValueError, KeyError, TypeError):
        return ""
