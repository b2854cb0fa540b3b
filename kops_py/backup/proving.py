"""Reading back what was stored: by its hash without any key, or down to the plain bytes with one."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime

from kops_py.backup.catalogue import Catalogue, Entry, State
from kops_py.backup.manifest import Maker, Manifest, Part, PartKind, Proof, ProofKind, Restored
from kops_py.backup.stream import Label, Write, unpack
from kops_py.connect.base import Cancel
from kops_py.model.errors import BackupError, DamagedError


def provable(backup_id: str, entries: Sequence[Entry]) -> tuple[Manifest, tuple[str, ...]]:
    """Return the manifest to prove and the stores that have it; raises BackupError when there is none to believe."""
    hint = "kops-py etcd list shows what there is"
    found = {e.store: e.manifest for e in entries if e.manifest is not None and e.state is not State.UNSIGNED}
    if not found:
        why = "; ".join(f"{e.store}: {e.why}" for e in entries) or "no store has it"
        raise BackupError(f"backup {backup_id} cannot be proven", why=why, hint=hint)
    if len({m.digest for m in found.values()}) > 1:
        raise DamagedError(
            f"the stores have different manifests of backup {backup_id}",
            where=", ".join(found),
            why="they were the same when it was made: one was changed",
            hint="look at who may write there; with backup.signing it is seen which",
        )
    return next(iter(found.values())), tuple(found)


def check_stored(catalogue: Catalogue, manifest: Manifest, *, cancel: Cancel | None = None) -> dict[str, str]:
    """Read back the manifest and the stored bytes of every part and compare them; returns the hash of each file.

    Needs no key: what was encrypted here is exactly what a key will decrypt. Raises DamagedError, StoreError.
    """
    catalogue.check_manifest(manifest)
    found: dict[str, str] = {}
    for part in manifest.parts:
        where = _where(catalogue, manifest, part)
        digest, size = hashlib.sha256(), 0
        for data in _watched(catalogue.store.chunks(catalogue.path(manifest.id, part.file)), cancel):
            size += len(data)
            digest.update(data)
        _compare("stored bytes", (size, digest.hexdigest()), (part.stored_size_bytes, part.stored_sha256), where)
        found[part.file] = digest.hexdigest()
    return found


def read_part(
    catalogue: Catalogue,
    manifest: Manifest,
    part: Part,
    write: Write,
    *,
    identities: Sequence[str],
    cancel: Cancel | None = None,
) -> None:
    """Read one part down to its plain bytes; use what ``write`` got only when this returns.

    Checks the label inside, sizes, both hashes and, for a snapshot, etcd's own. Raises DamagedError, StoreError,
    and BackupError when no identity fits.
    """
    where = _where(catalogue, manifest, part)
    measured = unpack(
        _watched(catalogue.store.chunks(catalogue.path(manifest.id, part.file)), cancel),
        write,
        Label(manifest.id, manifest.cluster, str(part.kind), part.host),
        identities=identities,
        encrypted=part.encrypted,
        most_bytes=part.plain_size_bytes,
        where=where,
    )
    stored, plain = (part.stored_size_bytes, part.stored_sha256), (part.plain_size_bytes, part.plain_sha256)
    _compare("stored bytes", (measured.stored_size_bytes, measured.stored_sha256), stored, where)
    _compare("plain bytes", (measured.plain_size_bytes, measured.plain_sha256), plain, where)
    if part.kind is PartKind.SNAPSHOT and not measured.trailer:
        raise DamagedError("the snapshot is not whole", where=where, why="etcd's hash at its end is wrong")


def proof_of(
    manifest: Manifest,
    kind: ProofKind,
    stored: dict[str, str],
    *,
    me: Maker,
    at: datetime,
    restored: Restored | None = None,
    refuted: str = "",
) -> Proof:
    """Return the document of a proof; ``refuted`` says what was wrong when it failed."""
    if kind is ProofKind.RESTORE and not refuted and restored is None:
        raise ValueError("a restore proof says what the scratch etcd answered")
    return Proof(
        id=manifest.id,
        manifest=manifest.digest,
        kind=kind,
        passed=not refuted,
        why=refuted,
        at=at,
        by=me,
        stored=stored,
        restored=restored,
    )


def prove_checksum(
    catalogue: Catalogue, manifest: Manifest, *, me: Maker, clock: Callable[[], datetime], cancel: Cancel | None = None
) -> Proof:
    """Read back a backup, record what came of it, and return the proof; raises DamagedError after recording it."""
    try:
        stored = check_stored(catalogue, manifest, cancel=cancel)
    except DamagedError as error:
        refuted = f"{error.what}: {error.why}" if error.why else error.what
        catalogue.add_proof(proof_of(manifest, ProofKind.CHECKSUM, {}, me=me, at=clock(), refuted=refuted))
        raise
    proof = proof_of(manifest, ProofKind.CHECKSUM, stored, me=me, at=clock())
    catalogue.add_proof(proof)
    return proof


def check_restored(manifest: Manifest, restored: Restored) -> None:
    """Raise DamagedError unless what a scratch etcd answered fits the manifest.

    A revision below the member's at the beginning, or no keys at all, is an older or another database.
    """
    source, wrong = manifest.source, ""
    if restored.revision < source.revision:
        wrong = f"revision {restored.revision} is below {source.revision}, which the member had before"
    elif restored.key_count <= 0:
        wrong = "there are no keys in it"
    elif restored.cluster_id and source.cluster_id and restored.cluster_id != source.cluster_id:
        wrong = f"it is of the etcd cluster {restored.cluster_id}, not of {source.cluster_id}"
    elif restored.member_id and source.member_id and restored.member_id != source.member_id:
        wrong = f"it is of the member {restored.member_id}, not of {source.member_id}"
    if wrong:
        raise DamagedError("the restored snapshot is not what the manifest says", where=manifest.id, why=wrong)


def why_another_cluster(catalogue: Catalogue, manifest: Manifest, cluster_uid: str) -> str:
    """Return why a backup is of another cluster than those in this store before it; empty when it is not.

    It is compared with the newest good one before it that says which cluster it is of. One that was proven to be of
    this cluster before was taken for good then, and is again. Raises StoreError.
    """
    if not cluster_uid or catalogue.entry(manifest.id).cluster_uid == cluster_uid:
        return ""
    known = next((e for e in catalogue.before(manifest.id) if e.is_good and e.cluster_uid), None)
    if known is None or known.cluster_uid == cluster_uid:
        return ""
    return f"the UID of kube-system is {cluster_uid}, in the good backup {known.id} it is {known.cluster_uid}"


def restorable(entry: Entry, *, cluster_id: str | None = None) -> Manifest:
    """Return the manifest of a backup that may be restored; raises BackupError for any that is not good.

    ``cluster_id`` is that of the etcd cluster it is to replace, where that is known.
    """
    if entry.state is not State.GOOD or entry.manifest is None:
        unproven = entry.state is State.STORED
        raise (BackupError if unproven else DamagedError)(
            f"backup {entry.id} is {entry.state} and is not restored",
            where=entry.store,
            why=entry.why,
            hint=f"kops-py etcd verify {entry.id}" if unproven else "kops-py etcd list shows which are good",
        )
    if cluster_id is not None and entry.manifest.source.cluster_id != cluster_id:
        raise BackupError(
            f"backup {entry.id} is of another etcd cluster",
            where=entry.store,
            why=f"it is of {entry.manifest.source.cluster_id}, this one is {cluster_id}",
        )
    return entry.manifest


def _watched(chunks: Iterable[bytes], cancel: Cancel | None) -> Iterable[bytes]:
    for data in chunks:
        if cancel is not None:
            cancel.check()
        yield data


def _compare(what: str, found: tuple[int, str], wanted: tuple[int, str], where: str) -> None:
    if found != wanted:
        sizes = f"{found[0]} bytes, its manifest says {wanted[0]}"
        raise DamagedError(f"the {what} were changed", where=where, why=sizes if found[0] != wanted[0] else "hash")


def _where(catalogue: Catalogue, manifest: Manifest, part: Part) -> str:
    return f"{catalogue.store.where}: {catalogue.path(manifest.id, part.file)}"
