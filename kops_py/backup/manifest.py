"""The documents of one backup as frozen data.

In a store a backup is the folder ``<cluster>/<id>/`` with

    begun.json                  written first: who makes it, where, since when
    snapshot.db.zst.age         the parts: etcd's snapshot,
    bundle-<host>.tar.zst.age   and what is not in etcd, per control plane
    manifest.json.sig           before the manifest, where there is a key to sign with: by whom it is (signing.py)
    manifest.json               written when all parts are stored: what they are, with their hashes
    proof-<kind>-<random>.json  what was proven of exactly this manifest, by whom and when; several may be there
    failed.json                 the step it stopped at
    keep.json                   a keep mark
    deleting-<random>.json      it is being deleted; whatever else is there is no backup any more
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from kops_py.backup.documents import FORMAT, digest_of, is_digest, is_id
from kops_py.model.errors import DamagedError

BEGUN, MANIFEST, FAILED, KEEP = "begun.json", "manifest.json", "failed.json", "keep.json"
SIGNATURE = "manifest.json.sig"
_PART = re.compile(r"snapshot\.db\.zst(\.age)?|bundle-[a-z0-9]([a-z0-9.-]{0,80}[a-z0-9])?\.tar\.zst(\.age)?", re.ASCII)
_DELETION = re.compile(r"deleting-[0-9a-f]{8}\.json", re.ASCII)
_PROOF = re.compile(r"proof-(checksum|restore)-[0-9a-f]{8}\.json", re.ASCII)


class PartKind(StrEnum):
    """What a part holds."""

    SNAPSHOT = "snapshot"
    BUNDLE = "bundle"


class ProofKind(StrEnum):
    """How something was proven."""

    CHECKSUM = "checksum"
    """The stored bytes were read back and are those that were written."""
    RESTORE = "restore"
    """They were restored into a scratch etcd, which was started and asked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Maker:
    """Who did something: ``user`` at ``host``, with this version of kops-py."""

    user: str
    host: str
    version: str

    def __str__(self) -> str:
        return f"{self.user}@{self.host}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Begun:
    """A backup is being made; without a manifest or a failure after ``expires_s`` seconds it was broken off.

    ``boot_id``, ``pid`` and ``pid_started`` (clock ticks after boot) tell on the same host whether its process lives.
    """

    format: int = FORMAT
    id: str
    cluster: str
    at: datetime
    by: Maker
    boot_id: str
    pid: int
    pid_started: int
    expires_s: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One stored object: sizes in bytes, SHA-256 of the plain and of the stored bytes.

    ``host`` is the member or control plane it came from; ``trailer`` whether etcd's own hash at the end of the
    plain bytes was there and right.
    """

    file: str
    kind: PartKind
    host: str
    encrypted: bool
    plain_size_bytes: int
    plain_sha256: str
    stored_size_bytes: int
    stored_sha256: str
    trailer: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """What was backed up: the cluster and the member, as they were asked just before.

    Ids of etcd are hexadecimal without ``0x``. ``revision`` is the member's then; the snapshot has it or a newer one.
    """

    cluster_id: str
    member: str
    member_id: str
    revision: int
    etcd_version: str
    kubernetes_version: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What a whole backup consists of."""

    format: int = FORMAT
    id: str
    cluster: str
    source: Source
    begun_at: datetime
    stored_at: datetime
    by: Maker
    recipients: tuple[str, ...]
    parts: tuple[Part, ...]

    @property
    def snapshot(self) -> Part:
        """Return the part with etcd's snapshot."""
        return next(p for p in self.parts if p.kind is PartKind.SNAPSHOT)

    @property
    def bundles(self) -> tuple[Part, ...]:
        """Return the parts with what is not in etcd."""
        return tuple(p for p in self.parts if p.kind is PartKind.BUNDLE)

    @property
    def digest(self) -> str:
        """Return the digest that proofs name."""
        return digest_of(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """A key that was read in the scratch etcd: the revision it was changed at and the SHA-256 of its value."""

    key: str
    mod_revision: int
    value_sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Restored:
    """What a scratch etcd with the restored snapshot answered; ids are those stored in the snapshot.

    ``cluster_uid`` is the UID of the namespace kube-system, which tells clusters of Kubernetes apart; empty where it
    could not be read, and in proofs from before it was recorded.
    """

    revision: int
    key_count: int
    cluster_id: str
    member_id: str
    etcd_version: str
    samples: tuple[Sample, ...]
    cluster_uid: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """What came of proving a backup; ``why`` says what was wrong when it did not pass.

    ``stored`` names the SHA-256 of the stored bytes of each part that were read back for it, by file.
    """

    format: int = FORMAT
    id: str
    manifest: str
    kind: ProofKind
    passed: bool
    why: str
    at: datetime
    by: Maker
    stored: dict[str, str]
    restored: Restored | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Where a backup stopped, and what was the matter."""

    format: int = FORMAT
    id: str
    at: datetime
    by: Maker
    step: str
    what: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class KeepMark:
    """Somebody wants a backup kept whatever the retention says."""

    format: int = FORMAT
    id: str
    at: datetime
    by: Maker
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Deletion:
    """A backup is being deleted."""

    format: int = FORMAT
    id: str
    at: datetime
    by: Maker
    why: str


def part_file(kind: PartKind, host: str, *, encrypted: bool) -> str:
    """Return the name of a part's object."""
    stem = "snapshot.db.zst" if kind is PartKind.SNAPSHOT else f"bundle-{host}.tar.zst"
    return f"{stem}.age" if encrypted else stem


def is_part(name: str) -> bool:
    """Whether a part may have this name."""
    return _PART.fullmatch(name) is not None


def is_proof(name: str) -> bool:
    """Whether a proof may have this name."""
    return _PROOF.fullmatch(name) is not None


def is_deletion(name: str) -> bool:
    """Whether a mark of a deletion may have this name."""
    return _DELETION.fullmatch(name) is not None


def is_ours(name: str) -> bool:
    """Whether kops-py writes objects of this name into a backup's folder."""
    return name in (BEGUN, MANIFEST, SIGNATURE, FAILED, KEEP) or is_part(name) or is_proof(name) or is_deletion(name)


def check_manifest(manifest: Manifest, *, backup_id: str, cluster: str, where: str) -> None:
    """Raise DamagedError unless a manifest belongs to this folder and can be true."""
    snapshots = [p for p in manifest.parts if p.kind is PartKind.SNAPSHOT]
    files = [p.file for p in manifest.parts]
    wrong = ""
    if manifest.id != backup_id or not is_id(manifest.id):
        wrong = f"it is that of backup {manifest.id}"
    elif manifest.cluster != cluster:
        wrong = f"it is that of cluster {manifest.cluster}"
    elif len(snapshots) != 1 or len(set(files)) != len(files):
        wrong = "it does not name exactly one snapshot, and each file once"
    elif not snapshots[0].trailer:
        wrong = "its snapshot lacks etcd's own hash"
    else:
        wrong = next(filter(None, (_wrong_part(p) for p in manifest.parts)), "")
    if wrong:
        raise DamagedError("the manifest does not fit", where=where, why=wrong)


def _wrong_part(part: Part) -> str:
    if part.file != part_file(part.kind, part.host, encrypted=part.encrypted) or not is_part(part.file):
        return f"{part.file} is not the name of such a part"
    if not (is_digest(part.plain_sha256) and is_digest(part.stored_sha256)):
        return f"the hashes of {part.file} are none"
    if part.plain_size_bytes <= 0 or part.stored_size_bytes <= 0:
        return f"{part.file} is empty"
    return ""
