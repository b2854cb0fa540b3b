"""Where a restore gets its snapshot from: a file, or a backup that is good, read back from a store that has it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from kops_py.app.session import Session
from kops_py.connect.base import Cancel
from kops_py.model.errors import BackupError, ConfigError, KopsError
from kops_py.model.etcd_restore import SnapshotFacts
from kops_py.model.event import Note
from kops_py.tools.file_bytes import FileBytes

if TYPE_CHECKING:
    from kops_py.backup.catalogue import Catalogue
    from kops_py.backup.manifest import Manifest, Part

CA_KEY = "/etc/kubernetes/pki/ca.key"
_PIECE = 1 << 20
NEWEST = "newest"
"""Stands for the newest good backup."""


def read_snapshot(path: Path) -> SnapshotFacts:
    """Look at a snapshot file; raises BackupError when it is damaged or no snapshot. Memory does not grow with it."""
    from kops_py.tools.bolt import NotADatabaseError, has_trailing_hash, read_database

    hint = "choose another backup; this one restores nothing"
    try:
        with path.open("rb") as file:
            data = FileBytes(file)
            if not has_trailing_hash(data):
                raise BackupError(
                    "the snapshot is damaged or cut off",
                    where=str(path),
                    why="its SHA-256 is not that of it",
                    hint=hint,
                )
            found = read_database(data)
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            return SnapshotFacts(path.name, digest, len(data), found.revision, found.minor)
    except NotADatabaseError as error:
        raise BackupError("this is no snapshot of etcd", where=str(path), why=str(error), hint=hint) from error
    except OSError as error:
        raise ConfigError(
            "the snapshot cannot be read", where=str(path), why=str(error), hint="look at the path"
        ) from error


def object_names(path: Path, kinds: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Return the names of the cluster-wide objects of these kinds in a snapshot; raises OSError, BackupError.

    A kind is named as the API server stores it: ``minions`` for nodes.
    """
    from kops_py.tools.bolt import NotADatabaseError, names_below

    try:
        with path.open("rb") as file:
            found = names_below(FileBytes(file), [f"/registry/{kind}/" for kind in kinds])
    except NotADatabaseError as error:
        raise BackupError("the snapshot cannot be read", where=str(path), why=str(error)) from error
    return {kind: found[f"/registry/{kind}/"] for kind in kinds}


def holds_any(path: Path, words: Sequence[bytes]) -> bool:
    """Whether a file holds one of these byte strings anywhere; raises OSError."""
    overlap = max(map(len, words)) - 1
    with path.open("rb") as file:
        kept = b""
        while piece := file.read(_PIECE):
            seen = kept + piece
            if any(word in seen for word in words):
                return True
            kept = seen[-overlap:] if overlap else b""
    return False


@dataclass(frozen=True, slots=True)
class Fetched:
    """A backup that was read back: its snapshot in ``file``, and what the rest of it is read with."""

    file: Path
    catalogue: Catalogue
    manifest: Manifest
    identities: tuple[str, ...]

    def read_files(self, cancel: Cancel) -> tuple[str, str, dict[str, bytes]]:
        """Return the files of one control plane, its name and the bundle's digest; only in memory.

        That of the member the snapshot is of, when it was backed up and has the cluster's authority: hosts of an
        external etcd have not. Raises BackupError when there is no bundle in the backup, DamagedError, StoreError.
        """
        bundles = sorted(self.manifest.bundles, key=lambda p: (p.host != self.manifest.source.member, p.host))
        if not bundles:
            raise BackupError(
                f"backup {self.manifest.id} holds no files of a control plane",
                why="none could be asked when it was made; without the cluster's keys its data is of no use elsewhere",
                hint="choose another (kops-py etcd list), or bring /etc/kubernetes/pki of the old control plane by "
                "hand: docs/etcd-restore.md",
            )
        for part in bundles:
            files = self._read_bundle(part, cancel)
            if CA_KEY in files:
                return part.host, part.plain_sha256, files
        # None makes a cluster; the first will do to say what is missing.
        return bundles[0].host, bundles[0].plain_sha256, self._read_bundle(bundles[0], cancel)

    def _read_bundle(self, part: Part, cancel: Cancel) -> dict[str, bytes]:
        from kops_py.backup.bundle import read_bundle
        from kops_py.backup.proving import read_part

        taken = bytearray()
        read_part(self.catalogue, self.manifest, part, taken.extend, identities=self.identities, cancel=cancel)
        where = f"{self.catalogue.store.where}: {part.file}"
        return {file.path: data for file, data in read_bundle([bytes(taken)], where=where)}


@contextmanager
def fetched_backup(opened: Session, backup_id: str, identity: Path | None) -> Iterator[Fetched]:
    """Read a good backup back into a file of ours (0600 in a 0700 folder), which is removed at the end.

    Every hash is compared on the way. Stores are tried one after the other. Raises BackupError for one that is not
    proven, DamagedError, StoreError, ConfigError without a key.
    """
    from kops_py.app.etcd_backup import backup_spec, catalogues, read_identities

    identities = read_identities(backup_spec(opened.spec), identity)
    folder = opened.settings.run_dir.absolute() / "snapshots"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    place = folder / f"{opened.spec.name}.db"  # one name: what a run that was killed left is overwritten and removed
    try:
        catalogue, manifest = _fetch(opened, catalogues(opened.spec), backup_id, identities, place)
        yield Fetched(place, catalogue, manifest, identities)
    finally:
        place.unlink(missing_ok=True)


def _fetch(
    opened: Session, own: list[Catalogue], backup_id: str, identities: tuple[str, ...], place: Path
) -> tuple[Catalogue, Manifest]:
    """Write the snapshot to its place; returns where it came from."""
    from kops_py.backup.proving import read_part

    last: KopsError | None = None
    if backup_id == NEWEST:
        backup_id = _newest(opened, own)
    for catalogue, manifest in _candidates(own, backup_id):
        part = manifest.snapshot
        if part.encrypted and not identities:
            raise ConfigError(
                "this backup is encrypted, and there is no private key here to read it",
                where="backup.encryption.identity",
                hint="give it with --identity FILE",
            )
        opened.emit(Note(message=f"reading backup {manifest.id} from {catalogue.store.where}"))
        try:
            with os.fdopen(os.open(place, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
                write = _writer(file)
                read_part(catalogue, manifest, part, write, identities=identities, cancel=opened.cancel)
        except BackupError as error:
            last = error
            opened.emit(Note(message=str(error)))
        except OSError as error:
            raise ConfigError(
                "the backup cannot be kept here", where=str(place), why=str(error), hint="make room; see --run-dir"
            ) from error
        else:
            return catalogue, manifest
    raise last or BackupError(f"there is no backup {backup_id}", hint="kops-py etcd list shows what there is")


def _writer(file: BinaryIO) -> Callable[[bytes], None]:
    def write(data: bytes) -> None:
        file.write(data)

    return write


def _newest(opened: Session, own: list[Catalogue]) -> str:
    """Return the newest backup that is good in any store, and tell which stores did not say; raises BackupError.

    Not the first store's newest: one that was full for days has only old ones.
    """
    good: list[str] = []
    failed: KopsError | None = None
    for catalogue in own:
        try:
            good += [e.id for e in catalogue.entries() if e.is_good]
        except BackupError as error:
            failed = error
            opened.emit(Note(message=f"{catalogue.store.where} may have a newer backup, and cannot be read: {error}"))
    if not good:
        raise failed or BackupError("there is no backup that is good", hint="kops-py etcd list shows what there is")
    return max(good)


def _candidates(own: list[Catalogue], backup_id: str) -> Iterator[tuple[Catalogue, Manifest]]:
    """Return the stores that have the backup in a good state; raises BackupError when it is in none."""
    from kops_py.backup.proving import restorable

    refused: KopsError | None = None
    good = False
    for catalogue in own:
        try:  # a store that does not answer is no reason not to read the next
            entry = next((e for e in catalogue.entries() if e.id == backup_id), None)
            if entry is None:
                continue
            manifest = restorable(entry)
        except BackupError as error:
            refused = error
            continue
        good = True
        yield catalogue, manifest
    if not good and refused is not None:
        raise refused
