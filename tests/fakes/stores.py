"""A strict store in memory, and what a backup in it needs."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from kops_py.backup.catalogue import Catalogue
from kops_py.backup.manifest import Maker, Manifest, PartKind, ProofKind, Restored, Sample, Source
from kops_py.backup.new import NewBackup, is_alive
from kops_py.backup.proving import check_stored, proof_of
from kops_py.backup.store import IsOver, StoredObject, check_path, never
from kops_py.model.backup import BackupSpec, DirectoryStoreSpec, EncryptionSpec
from kops_py.model.errors import ObjectExistsError, ObjectMissingError, StoreError

ME = Maker(user="root", host="backup1", version="0.1.0")
START = datetime(2026, 11, 25, 12, 0, tzinfo=UTC)
SOURCE = Source(
    cluster_id="cdf818194e3a8c32",
    member="cp1",
    member_id="8e9e05c52164694d",
    revision=100,
    etcd_version="3.5.24",
    kubernetes_version="v1.33.1",
)
RESTORED = Restored(
    revision=120,
    key_count=900,
    cluster_id=SOURCE.cluster_id,
    member_id=SOURCE.member_id,
    etcd_version="3.5.24",
    samples=(Sample(key="/registry/namespaces/default", mod_revision=4, value_sha256="0" * 64),),
)


class MemoryStore:
    """Keeps objects in a dict; ``before`` is called with verb and path before anything is done, and may raise."""

    def __init__(self, name: str = "memory") -> None:
        self._name = name
        self.content: dict[str, bytes] = {}
        self.before: Callable[[str, str], None] = lambda verb, path: None
        self.lock = threading.Lock()
        self.left: dict[str, float] = {}
        """Objects whose upload was killed, and how many seconds ago it was begun."""

    @property
    def name(self) -> str:
        return self._name

    @property
    def where(self) -> str:
        return f"{self._name} (memory)"

    def prepare(self) -> None:
        self.before("prepare", "")

    def put(self, path: str, chunks: Iterable[bytes]) -> int:
        self.before("put", check_path(path))
        data = b"".join(chunks)
        self.before("commit", path)
        with self.lock:
            if path in self.content:
                raise ObjectExistsError("the object is there already", where=path)
            self.content[path] = data
        return len(data)

    def put_document(self, path: str, data: bytes) -> None:
        self.before("put_document", check_path(path))
        with self.lock:
            if self.content.get(path, data) != data:
                raise ObjectExistsError("the object is there already", where=path)
            self.content[path] = data

    def get_document(self, path: str) -> bytes:
        self.before("get_document", check_path(path))
        with self.lock:
            if path not in self.content:
                raise ObjectMissingError("there is no such object", where=path)
            return self.content[path]

    def chunks(self, path: str) -> Iterator[bytes]:
        data = self.get_document(path)
        for start in range(0, len(data), 1000):
            yield data[start : start + 1000]

    def objects(self, prefix: str) -> list[StoredObject]:
        self.before("objects", check_path(prefix))
        with self.lock:
            found = [p for p in sorted(self.content) if p.startswith(f"{prefix}/")]
            return [StoredObject(p, len(self.content[p]), 0.0) for p in found]

    def delete(self, path: str) -> None:
        self.before("delete", check_path(path))
        with self.lock:
            self.content.pop(path, None)

    def clean(self, prefix: str, *, older_than_s: float, is_over: IsOver = never) -> tuple[str, ...]:
        self.before("clean", check_path(prefix))
        own = [path for path in self.left if path.startswith(f"{prefix}/")]
        gone = tuple(path for path in own if self.left[path] > older_than_s or is_over(path))
        for path in gone:
            del self.left[path]
        return gone


class Clock:
    """A clock that moves a second with every look."""

    def __init__(self, at: datetime = START) -> None:
        self.now = at

    def __call__(self) -> datetime:
        self.now += timedelta(seconds=1)
        return self.now


def snapshot(size_pages: int = 8, seed: int = 0) -> bytes:
    """Return bytes that end as etcd's snapshots do."""
    block = hashlib.sha256(str(seed).encode()).digest() * 16
    body = b"".join(block if page % 2 else bytes(512) for page in range(size_pages))
    return body + hashlib.sha256(body).digest()


def pieces(data: bytes, size: int = 700) -> Iterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


def spec_of(*recipients: str, stall_s: float = 2.0) -> BackupSpec:
    store = DirectoryStoreSpec("x", Path("/x"))
    encryption = EncryptionSpec(recipients, required=bool(recipients))
    return BackupSpec((store,), encryption, store_timeout_s=stall_s)


def catalogue_of(store: object, clock: Clock, cluster: str = "prod") -> Catalogue:
    return Catalogue(store, cluster, me=ME, clock=clock, is_alive=is_alive)  # type: ignore[arg-type]


def make_backup(
    catalogues: list[Catalogue], clock: Clock, *recipients: str, data: bytes | None = None, good: bool = True
) -> Manifest:
    """Make a whole backup in these catalogues, with a restore proof when ``good``."""
    new = NewBackup(catalogues, spec_of(*recipients), recipients=recipients, me=ME, clock=clock)
    new.begin()
    new.add(PartKind.SNAPSHOT, "cp1", pieces(data or snapshot()))
    manifest = new.finish(SOURCE)
    assert not new.failed
    for catalogue in catalogues if good else ():
        stored = check_stored(catalogue, manifest)
        proof = proof_of(manifest, ProofKind.RESTORE, stored, me=ME, at=clock(), restored=RESTORED)
        catalogue.add_proof(proof)
    return manifest


def refuse(verb: str, ending: str = "", error: Exception | None = None) -> Callable[[str, str], None]:
    """Return a ``before`` that fails for one verb and the paths with this ending."""

    def before(called: str, path: str) -> None:
        if called == verb and path.endswith(ending):
            raise error or StoreError("the store refuses", where="memory", why=f"{verb} {path}")

    return before
