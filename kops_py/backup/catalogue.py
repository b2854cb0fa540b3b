"""The backups in one store: what is there, in which state, and the few changes that are allowed.

Every state is decided from what lies in the store at this moment, never from a list kept somewhere: a backup is good
only when its manifest, every part in its full size, and a passed restore proof of exactly this manifest are there.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import TypeVar

from kops_py.backup import manifest as layout
from kops_py.backup.documents import digest_of, is_id, seal, time_of_id, unseal
from kops_py.backup.manifest import (
    Begun,
    Deletion,
    Failure,
    KeepMark,
    Maker,
    Manifest,
    Proof,
    ProofKind,
    check_manifest,
)
from kops_py.backup.signing import signer
from kops_py.backup.store import Store, StoredObject
from kops_py.model.errors import BackupError, DamagedError, ObjectExistsError, ObjectMissingError, StoreError

_READERS = 8
T = TypeVar("T")


class State(StrEnum):
    """How far a backup is."""

    BEGUN = "begun"
    """Being made now."""
    BROKEN_OFF = "broken-off"
    """Begun and never ended."""
    FAILED = "failed"
    """It stopped at a step that is on record."""
    STORED = "stored"
    """Whole, but not proven by a restore."""
    GOOD = "good"
    """Whole, and restored once."""
    DAMAGED = "damaged"
    """Something is missing, changed, or was found wrong when it was to be proven."""
    UNSIGNED = "unsigned"
    """Whole, but not signed by a key that is trusted here; nobody knows whose it is."""
    DELETING = "deleting"
    """Its deletion was begun."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One backup in one store; ``size_bytes`` is everything it takes up there, ``why`` the reason for its state.

    ``foreign`` are objects in its folder that kops-py does not make.
    """

    store: str
    cluster: str
    id: str
    at: datetime
    state: State
    why: str
    size_bytes: int
    begun: Begun | None = None
    manifest: Manifest | None = None
    proofs: tuple[Proof, ...] = ()
    failure: Failure | None = None
    keep: KeepMark | None = None
    foreign: tuple[str, ...] = ()

    @property
    def is_good(self) -> bool:
        """Whether it may be restored from, and counts for the retention."""
        return self.state is State.GOOD

    def proof(self, kind: ProofKind) -> Proof | None:
        """Return the newest passed proof of a kind of this manifest."""
        digest = self.manifest.digest if self.manifest else ""
        passed = [p for p in self.proofs if p.kind is kind and p.passed and p.manifest == digest]
        return max(passed, key=lambda p: p.at, default=None)

    @property
    def cluster_uid(self) -> str:
        """Return which cluster of Kubernetes it was proven to be of; empty where no proof of it says so."""
        proof = self.proof(ProofKind.RESTORE)
        return proof.restored.cluster_uid if proof and proof.restored else ""


@dataclass(frozen=True, slots=True)
class Documents:
    """What lies in one backup's folder, read; ``problems`` are documents that cannot be believed.

    ``unsigned`` says why the manifest's signature is not one that is trusted; empty when it is, or none is wanted.
    """

    sizes: dict[str, int]
    begun: Begun | None
    manifest: Manifest | None
    proofs: tuple[Proof, ...]
    failure: Failure | None
    keep: KeepMark | None
    problems: tuple[str, ...]
    unsigned: str = ""


IsAlive = Callable[[Begun], bool | None]
"""Whether the process that makes a backup lives; None: cannot be told here (another host)."""


def judge(found: Documents, *, now: datetime, is_alive: IsAlive) -> tuple[State, str]:
    """Return the state of a backup and the reason: pure."""
    if any(layout.is_deletion(n) for n in found.sizes):
        return State.DELETING, "its deletion was begun and not ended; prune ends it"
    if found.problems:
        return State.DAMAGED, found.problems[0]
    if found.manifest is None:
        return _unfinished(found, now, is_alive)
    for part in found.manifest.parts:
        size = found.sizes.get(part.file)
        if size != part.stored_size_bytes:
            there = "missing" if size is None else f"{size} bytes long"
            return State.DAMAGED, f"{part.file} is {there}, it had {part.stored_size_bytes} bytes"
    if found.unsigned:
        return State.UNSIGNED, found.unsigned
    return _proven(found.manifest, found.proofs)


def _unfinished(found: Documents, now: datetime, is_alive: IsAlive) -> tuple[State, str]:
    if found.failure is not None:
        failure = found.failure
        return State.FAILED, f"stopped at {failure.step}: {failure.what}"
    begun = found.begun
    if begun is None:
        return State.DAMAGED, "it has neither a beginning nor a manifest"
    alive = is_alive(begun)
    if alive is False:
        return State.BROKEN_OFF, f"its process on {begun.by.host} (pid {begun.pid}) is gone"
    if now > begun.at + timedelta(seconds=begun.expires_s):
        return State.BROKEN_OFF, f"begun by {begun.by} and not ended within {begun.expires_s} s"
    return State.BEGUN, f"being made by {begun.by} (pid {begun.pid})"


def _proven(manifest: Manifest, proofs: tuple[Proof, ...]) -> tuple[State, str]:
    digest, hashes = manifest.digest, {p.file: p.stored_sha256 for p in manifest.parts}
    restored = [p for p in proofs if p.passed and p.kind is ProofKind.RESTORE and p.manifest == digest]
    restored = [p for p in restored if p.restored is not None and _covers(p, hashes, manifest)]
    refuted = max((p for p in proofs if not p.passed), key=lambda p: p.at, default=None)
    best = max(restored, key=lambda p: p.at, default=None)
    if refuted is not None and (best is None or best.at <= refuted.at):
        return State.DAMAGED, f"{refuted.kind} proof of {refuted.at:%Y-%m-%d %H:%M}: {refuted.why}"
    if best is not None:
        return State.GOOD, f"restored by {best.by} on {best.at:%Y-%m-%d %H:%M}"
    if any(p.passed and p.manifest == digest for p in proofs):
        return State.STORED, "its checksum was proven, a restore was not"
    return State.STORED, "not proven"


def _covers(proof: Proof, hashes: dict[str, str], manifest: Manifest) -> bool:
    """Whether a proof read back the snapshot of this manifest, and nothing that is another."""
    return proof.stored.get(manifest.snapshot.file) == manifest.snapshot.stored_sha256 and all(
        hashes.get(file) == digest for file, digest in proof.stored.items()
    )


class Catalogue:
    """The backups of one cluster in one store; ``me`` is who changes something, ``clock`` tells the time (UTC).

    ``trusted`` are the public keys of who may make backups; none: a backup needs no signature.
    """

    def __init__(
        self,
        store: Store,
        cluster: str,
        *,
        me: Maker,
        clock: Callable[[], datetime],
        is_alive: IsAlive,
        trusted: Sequence[str] = (),
    ) -> None:
        self.store = store
        self.cluster = cluster
        self._me = me
        self._clock = clock
        self._is_alive = is_alive
        self._trusted = tuple(trusted)

    def entries(self) -> tuple[Entry, ...]:
        """Return all backups, the newest first; raises StoreError."""
        with ThreadPoolExecutor(_READERS, thread_name_prefix="catalogue") as pool:
            entries = pool.map(lambda item: self._entry(*item), self._folders().items())
            return tuple(sorted(entries, key=lambda e: e.id, reverse=True))

    def before(self, backup_id: str) -> Iterator[Entry]:
        """Yield the backups begun before this one, the newest first, each read when it is asked for."""
        for other, objects in sorted(self._folders().items(), reverse=True):
            if other < backup_id:
                yield self._entry(other, objects)

    def entry(self, backup_id: str) -> Entry:
        """Return one backup; raises BackupError when there is none of this id."""
        objects = self.store.objects(self.folder(backup_id)) if is_id(backup_id) else []
        if not objects:
            raise BackupError(
                f"there is no backup {backup_id} of {self.cluster}",
                where=self.store.where,
                hint="kops-py etcd list shows what there is",
            )
        return self._entry(backup_id, objects)

    def folder(self, backup_id: str) -> str:
        """Return the path of a backup's folder in the store."""
        return f"{self.cluster}/{backup_id}"

    def path(self, backup_id: str, name: str) -> str:
        """Return the path of an object of a backup."""
        return f"{self.folder(backup_id)}/{name}"

    def begin(self, begun: Begun) -> None:
        """Write the first document of a new backup; raises ObjectExistsError when the id is taken."""
        self._write(begun.id, layout.BEGUN, begun)

    def store_manifest(self, manifest: Manifest, signature: bytes | None = None) -> None:
        """Write the manifest of a backup whose parts are all stored; its signature comes first."""
        check_manifest(manifest, backup_id=manifest.id, cluster=self.cluster, where=self.store.where)
        if signature is not None:
            self.store.put_document(self.path(manifest.id, layout.SIGNATURE), signature)
        self._write(manifest.id, layout.MANIFEST, manifest)

    def check_manifest(self, manifest: Manifest) -> None:
        """Raise DamagedError unless the store has this manifest, word by word."""
        path = self.path(manifest.id, layout.MANIFEST)
        try:
            same = self.store.get_document(path) == seal(manifest)
        except ObjectMissingError:
            same = False
        if not same:
            raise DamagedError("the manifest is not the one that was written", where=f"{self.store.where}: {path}")

    def fail(self, failure: Failure) -> None:
        """Write where a backup stopped; the first such document counts."""
        self._write(failure.id, layout.FAILED, failure, existing_is_fine=True)

    def add_proof(self, proof: Proof) -> None:
        """Write what came of proving a backup; raises BackupError when the backup is gone or going meanwhile."""
        name = f"proof-{proof.kind}-{digest_of(proof)[:8]}.json"
        self._write(proof.id, name, proof)
        names = self._names(proof.id)
        if layout.MANIFEST not in names or any(layout.is_deletion(n) for n in names):
            self.store.delete(self.path(proof.id, name))
            raise BackupError(f"backup {proof.id} was deleted while it was being proven", where=self.store.where)

    def keep(self, backup_id: str, why: str) -> None:
        """Set a keep mark; one that is there stays. Raises BackupError when the backup is being deleted."""
        mark = KeepMark(id=backup_id, at=self._clock(), by=self._me, why=why)
        self.entry(backup_id)
        self._write(backup_id, layout.KEEP, mark, existing_is_fine=True)
        if any(layout.is_deletion(n) for n in self._names(backup_id)):
            self.unkeep(backup_id)
            raise BackupError(f"backup {backup_id} is being deleted", where=self.store.where)

    def unkeep(self, backup_id: str) -> None:
        """Take the keep mark away; none is no error."""
        self.store.delete(self.path(backup_id, layout.KEEP))

    def clean(self, *, older_than_s: float) -> tuple[str, ...]:
        """Remove what killed uploads left, and return what it was; raises StoreError.

        At once where the process that began the backup is known to be gone; else what is older than so many seconds.
        """
        known: dict[str, bool] = {}

        def is_over(path: str) -> bool:
            _, backup_id, name = path.split("/") if path.count("/") == 2 else ("", "", "")
            # documents are written by others as well: proofs, keep marks
            if not is_id(backup_id) or not layout.is_part(name):
                return False
            if backup_id not in known:
                known[backup_id] = self._is_gone(backup_id)
            return known[backup_id]

        return self.store.clean(self.cluster, older_than_s=older_than_s, is_over=is_over)

    def delete(self, backup_id: str, why: str) -> None:
        """Delete a backup; safe to repeat after a kill at any point, and beside another that does the same.

        A mark of our own comes first and goes last: from the first moment to the last nobody takes for a backup what
        is not whole any more. A keep mark that is there by then stops it, and nothing is deleted. What kops-py did
        not make stays. Raises StoreError, and BackupError when there is a keep mark.
        """
        own = f"deleting-{secrets.token_hex(4)}.json"
        self._write(backup_id, own, Deletion(id=backup_id, at=self._clock(), by=self._me, why=why))
        names = self._names(backup_id)
        # Either we see the keep mark here, or who sets it sees our mark: both write first and look then.
        if layout.KEEP in names:
            self.store.delete(self.path(backup_id, own))
            raise BackupError(f"backup {backup_id} has a keep mark and is not deleted", where=self.store.where)
        ours = sorted(filter(layout.is_ours, names), key=_deletion_order)
        for name in ours:
            self.store.delete(self.path(backup_id, name))

    def _is_gone(self, backup_id: str) -> bool:
        """Whether the process that began a backup is known to be gone."""
        path = self.path(backup_id, layout.BEGUN)
        try:
            begun = unseal(self.store.get_document(path), Begun, where=f"{self.store.where}: {path}")
        except (ObjectMissingError, DamagedError):
            return False
        return begun.id == backup_id and self._is_alive(begun) is False

    def _folders(self) -> dict[str, list[StoredObject]]:
        folders: dict[str, list[StoredObject]] = {}
        for found in self.store.objects(self.cluster):
            parts = found.path.split("/")
            if len(parts) == 3 and is_id(parts[1]):
                folders.setdefault(parts[1], []).append(found)
        return folders

    def _names(self, backup_id: str) -> set[str]:
        return {o.path.rpartition("/")[2] for o in self.store.objects(self.folder(backup_id))}

    def _write(self, backup_id: str, name: str, document: object, *, existing_is_fine: bool = False) -> None:
        try:
            self.store.put_document(self.path(backup_id, name), seal(document))
        except ObjectExistsError:
            if not existing_is_fine:
                raise

    def _entry(self, backup_id: str, objects: Iterable[StoredObject]) -> Entry:
        sizes = {o.path.rpartition("/")[2]: o.size_bytes for o in objects}
        found = self._read(backup_id, sizes)
        state, why = judge(found, now=self._clock(), is_alive=self._is_alive)
        return Entry(
            store=self.store.name,
            cluster=self.cluster,
            id=backup_id,
            at=time_of_id(backup_id),
            state=state,
            why=why,
            size_bytes=sum(sizes.values()),
            begun=found.begun,
            manifest=found.manifest,
            proofs=found.proofs,
            failure=found.failure,
            keep=found.keep,
            foreign=tuple(sorted(n for n in sizes if not layout.is_ours(n))),
        )

    def _read(self, backup_id: str, sizes: dict[str, int]) -> Documents:
        problems: list[str] = []
        going = any(layout.is_deletion(n) for n in sizes)

        def read(name: str, kind: type[T]) -> T | None:
            if name not in sizes or going:
                return None
            where = f"{self.store.where}: {self.path(backup_id, name)}"
            try:
                document = unseal(self.store.get_document(self.path(backup_id, name)), kind, where=where)
                if getattr(document, "id", "") != backup_id:
                    raise DamagedError("the document is that of another backup", where=where)
                if isinstance(document, Manifest):
                    check_manifest(document, backup_id=backup_id, cluster=self.cluster, where=where)
            except ObjectMissingError:
                return None  # deleted since the listing
            except DamagedError as error:
                problems.append(f"{name}: {error.what}" + (f" ({error.why})" if error.why else ""))
                return None
            return document

        proofs = tuple(p for n in sorted(sizes) if layout.is_proof(n) and (p := read(n, Proof)) is not None)
        manifest, unsigned = read(layout.MANIFEST, Manifest), ""
        if manifest is not None:
            try:
                # Neither is ever written anew: one of the two is not what kops-py wrote.
                if any(p.manifest != manifest.digest for p in proofs):
                    raise DamagedError("a proof is there of another manifest")
                unsigned = self._why_unsigned(manifest, sizes)
            except DamagedError as error:
                problems.append(f"{layout.MANIFEST}: {error.what}" + (f" ({error.why})" if error.why else ""))
                manifest = None
        return Documents(
            sizes=sizes,
            begun=read(layout.BEGUN, Begun),
            manifest=manifest,
            proofs=proofs,
            failure=read(layout.FAILED, Failure),
            keep=read(layout.KEEP, KeepMark),
            problems=tuple(problems),
            unsigned=unsigned,
        )

    def _why_unsigned(self, manifest: Manifest, sizes: dict[str, int]) -> str:
        """Return why a manifest's signature is not one that is trusted; raises DamagedError when it is false."""
        if not self._trusted:
            return ""
        if layout.SIGNATURE not in sizes:
            return "it is not signed, and backup.signing wants it"
        path = self.path(manifest.id, layout.SIGNATURE)
        key = signer(seal(manifest), self.store.get_document(path), where=f"{self.store.where}: {path}")
        return "" if key in self._trusted else f"it is signed by {key}, which backup.signing does not trust"


def _deletion_order(name: str) -> tuple[int, str]:
    """The manifest first, so that the rest is no backup even without our mark; marks of deletions last."""
    return (2 if layout.is_deletion(name) else 0 if name == layout.MANIFEST else 1, name)


def find(catalogues: Iterable[Catalogue], backup_id: str) -> tuple[Entry, ...]:
    """Return a backup as it is in each store that has it; raises StoreError when no store could be asked."""
    found: list[Entry] = []
    failures: list[StoreError] = []
    for catalogue in catalogues:
        try:
            found.append(catalogue.entry(backup_id))
        except StoreError as error:
            failures.append(error)
        except BackupError:
            continue
    if not found and failures:
        raise failures[0]
    return tuple(found)
