"""Image archives without a container engine: one tar that is an OCI layout and a docker-archive at once.

The same specification gives the same bytes: sorted entries, root as owner, one date.
"""

from __future__ import annotations

import hashlib
import io
import json
import stat
import tarfile
import tempfile
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from tests.bundle.recipe import BUILD_DATE, SOURCE_DATE_EPOCH

_GZIP_HEADER_BITS = 16 + zlib.MAX_WBITS
_LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar+gzip"
_CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
_MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
_INDEX_TYPE = "application/vnd.oci.image.index.v1+json"


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing in a layer: a file (bytes or a path to copy from), a link (`link`), or a folder (neither)."""

    path: str
    content: bytes | Path | None = None
    link: str | None = None
    mode: int = 0o755


@dataclass(frozen=True, slots=True)
class ImageSpec:
    """An image: its full name and what its configuration says."""

    ref: str
    layers: tuple[tuple[Entry, ...], ...]
    architecture: str
    entrypoint: tuple[str, ...] = ()
    env: tuple[str, ...] = ("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",)
    user: str = ""
    ports: tuple[str, ...] = ()
    labels: dict[str, str] = field(default_factory=dict)


class _LayerWriter(io.RawIOBase):
    """Takes a tar stream; writes it gzipped and keeps the digest of both."""

    def __init__(self, sink: IO[bytes]) -> None:
        super().__init__()
        self._sink = sink
        self._squeeze = zlib.compressobj(1, zlib.DEFLATED, _GZIP_HEADER_BITS)  # its header has no date, no name
        self._plain, self._packed = hashlib.sha256(), hashlib.sha256()
        self.size_bytes = 0

    def writable(self) -> bool:
        return True

    def _put(self, data: bytes) -> None:
        self._packed.update(data)
        self.size_bytes += len(data)
        self._sink.write(data)

    def write(self, data: Any, /) -> int:
        self._plain.update(data)
        self._put(self._squeeze.compress(data))
        return len(data)

    def finish(self) -> tuple[str, str]:
        """Digests of the plain tar and of what was written, in hex."""
        self._put(self._squeeze.flush())
        return self._plain.hexdigest(), self._packed.hexdigest()


def _header(name: str, kind: bytes, mode: int) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.mode, info.mtime = kind, mode, SOURCE_DATE_EPOCH
    info.uid = info.gid = 0
    return info


def with_parents(entries: Iterable[Entry]) -> list[Entry]:
    """The entries sorted by path, with a folder for every parent that is not among them."""
    known = {entry.path.strip("/"): entry for entry in entries}
    for path in list(known):
        for parent in Path(path).parents:
            name = parent.as_posix()
            if name != "." and name not in known:
                known[name] = Entry(name)
    return [known[path] for path in sorted(known)]


def _add(tar: tarfile.TarFile, entry: Entry) -> None:
    name = entry.path.strip("/")
    if entry.link is not None:
        info = _header(name, tarfile.SYMTYPE, 0o777)
        info.linkname = entry.link
        tar.addfile(info)
    elif entry.content is None:
        tar.addfile(_header(f"{name}/", tarfile.DIRTYPE, entry.mode))
    else:
        info = _header(name, tarfile.REGTYPE, entry.mode)
        if isinstance(entry.content, bytes):
            info.size = len(entry.content)
            tar.addfile(info, io.BytesIO(entry.content))
        else:
            info.size = entry.content.stat().st_size
            with entry.content.open("rb") as content:
                tar.addfile(info, content)


@dataclass(frozen=True, slots=True)
class _Blob:
    digest: str
    size_bytes: int
    content: Path | bytes

    def descriptor(self, media_type: str, **more: Any) -> dict[str, Any]:
        return {"mediaType": media_type, "digest": f"sha256:{self.digest}", "size": self.size_bytes, **more}


def _write_layer(entries: Iterable[Entry], place: Path) -> tuple[str, _Blob]:
    """Write one layer; gives the digest of its plain tar, and its blob."""
    with place.open("wb") as sink:
        writer = _LayerWriter(sink)
        with tarfile.open(fileobj=writer, mode="w|", format=tarfile.GNU_FORMAT, bufsize=1 << 20) as tar:
            for entry in with_parents(entries):
                _add(tar, entry)
        plain, packed = writer.finish()
    return plain, _Blob(packed, writer.size_bytes, place)


def _json_blob(value: Any) -> _Blob:
    data = json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
    return _Blob(hashlib.sha256(data).hexdigest(), len(data), data)


def _config(spec: ImageSpec, diff_ids: list[str]) -> dict[str, Any]:
    # The name goes into the labels so that two tags of equal content do not share an image id:
    # a runtime lists one of the two names only then, and kubeadm or kubelet miss the other.
    runtime: dict[str, Any] = {
        "Env": list(spec.env),
        "Labels": {**spec.labels, "org.opencontainers.image.ref.name": spec.ref},
    }
    if spec.entrypoint:
        runtime["Entrypoint"] = list(spec.entrypoint)
    if spec.user:
        runtime["User"] = spec.user
    if spec.ports:
        runtime["ExposedPorts"] = {port: {} for port in spec.ports}
    return {
        "architecture": spec.architecture,
        "os": "linux",
        "created": BUILD_DATE,
        "config": runtime,
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{one}" for one in diff_ids]},
        "history": [{"created": BUILD_DATE, "created_by": "kops-py test bundle"} for _ in diff_ids],
    }


def write_archive(spec: ImageSpec, place: Path) -> None:
    """Write the image as one archive for `ctr images import` and `docker load`; it appears whole or not at all."""
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place.parent, prefix=".image-") as scratch:
        layers = [_write_layer(one, Path(scratch) / str(number)) for number, one in enumerate(spec.layers)]
        config = _json_blob(_config(spec, [plain for plain, _ in layers]))
        manifest = _json_blob(
            {
                "schemaVersion": 2,
                "mediaType": _MANIFEST_TYPE,
                "config": config.descriptor(_CONFIG_TYPE),
                "layers": [blob.descriptor(_LAYER_TYPE) for _, blob in layers],
            }
        )
        names = {
            "io.containerd.image.name": spec.ref,
            "org.opencontainers.image.ref.name": spec.ref.rpartition(":")[2],
        }
        index = {
            "schemaVersion": 2,
            "mediaType": _INDEX_TYPE,
            "manifests": [manifest.descriptor(_MANIFEST_TYPE, annotations=names)],
        }
        docker = [
            {
                "Config": f"blobs/sha256/{config.digest}",
                "RepoTags": [spec.ref],
                "Layers": [f"blobs/sha256/{blob.digest}" for _, blob in layers],
            }
        ]
        texts = {"oci-layout": {"imageLayoutVersion": "1.0.0"}, "index.json": index, "manifest.json": docker}
        partial = Path(scratch) / "archive"
        with tarfile.open(partial, "w", format=tarfile.GNU_FORMAT) as tar:
            for name, value in texts.items():
                _add(tar, Entry(name, json.dumps(value, sort_keys=True).encode(), mode=0o644))
            blobs = {blob.digest: blob for blob in (config, manifest, *(blob for _, blob in layers))}
            for folder in ("blobs", "blobs/sha256"):
                _add(tar, Entry(folder))
            for digest in sorted(blobs):
                _add(tar, Entry(f"blobs/sha256/{digest}", blobs[digest].content, mode=0o644))
        partial.rename(place)


def entries_of_folder(root: Path, skip: tuple[str, ...] = ()) -> list[Entry]:
    """What lies below a folder, as entries; paths that begin with one of `skip` are left out."""
    found = []
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        if name.startswith(skip):
            continue
        if path.is_symlink():
            found.append(Entry(name, link=str(path.readlink())))
        elif path.is_dir():
            continue  # parents come by themselves; empty folders are of no use in an image
        else:
            found.append(Entry(name, path, mode=stat.S_IMODE(path.stat().st_mode)))
    return found
