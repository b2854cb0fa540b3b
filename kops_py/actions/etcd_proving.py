"""Proves a backup: a copy restored into a scratch etcd, every stored byte read back, and what came of it recorded.

Each store is judged by what it has itself: one bad copy condemns no other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import IO, BinaryIO, cast

from kops_py.actions.etcd_backup import Taken, Work, pumped_pipe
from kops_py.actions.etcd_proof import fetched_binaries, local_binaries, prove_here, prove_on
from kops_py.backup.catalogue import Catalogue
from kops_py.backup.manifest import Manifest, ProofKind, Restored, Sample
from kops_py.backup.pipe import Pipe
from kops_py.backup.proving import (
    check_restored,
    check_stored,
    proof_of,
    prove_checksum,
    read_part,
    why_another_cluster,
)
from kops_py.connect.base import Host
from kops_py.model.backup import Verify
from kops_py.model.errors import BackupError, DamagedError, HostError, KopsError, StoreError
from kops_py.model.etcd import KeySample, SnapshotContents
from kops_py.tools.etcd_proof import SAMPLE_KEYS

_ReadBack = Sequence[tuple[Catalogue, Future[dict[str, str]]]]
"""Stores, and the hashes of what is read back from each."""


def prove_taken(
    work: Work,
    taken: Taken,
    verify: Verify,
    on: Host | None,
    hosts: Sequence[Host],
    *,
    new_cluster: bool = False,
) -> None:
    """Prove a backup just taken in every store that has it; where it is not proven goes into ``taken.failed``.

    Raises KopsError when it is proven in none of them.
    """
    own = [c for c in work.catalogues if c.store.name in taken.stores]
    if verify is Verify.CHECKSUM:
        failed = prove_checksums(work, own, taken.manifest)
    else:
        _, failed = prove_each(
            work,
            own,
            taken.manifest,
            on=on,
            hosts=hosts,
            plain=taken.plain,
            live=taken.live,
            new_cluster=new_cluster,
        )
    taken.failed = {**taken.failed, **failed}


def prove_checksums(work: Work, catalogues: Sequence[Catalogue], manifest: Manifest) -> dict[str, KopsError]:
    """Prove by their hashes what these stores have; returns where that failed. Raises when it did in all of them."""
    failed: dict[str, KopsError] = {}
    for catalogue in catalogues:
        try:
            prove_checksum(catalogue, manifest, me=work.me, clock=work.clock, cancel=work.cancel)
        except BackupError as error:
            failed[catalogue.store.name] = error
    _raise_when_all(failed, catalogues)
    return failed


def prove_restore(
    work: Work,
    catalogues: Sequence[Catalogue],
    manifest: Manifest,
    *,
    on: Host | None,
    hosts: Sequence[Host],
    live: Sequence[KeySample] = (),
    new_cluster: bool = False,
) -> SnapshotContents:
    """Prove a stored backup as ``prove_each`` does; raises the first error when any store has it not proven."""
    contents, failed = prove_each(work, catalogues, manifest, on=on, hosts=hosts, live=live, new_cluster=new_cluster)
    for error in failed.values():
        raise error
    return contents


def prove_each(
    work: Work,
    catalogues: Sequence[Catalogue],
    manifest: Manifest,
    *,
    on: Host | None,
    hosts: Sequence[Host],
    plain: IO[bytes] | None = None,
    live: Sequence[KeySample] = (),
    new_cluster: bool = False,
) -> tuple[SnapshotContents, dict[str, KopsError]]:
    """Restore a backup into a scratch etcd and record in each of these stores what came of it there.

    ``on`` is the host to do it on (None: here), ``hosts`` are those whose programs may be fetched. Without ``plain``
    what is restored is the first store's copy that can be read. In every store all stored bytes are read and compared,
    meanwhile. What proves a copy wrong is recorded where that copy is; what proves the backup wrong, in every store
    whose bytes are those of the manifest. One of another cluster than the good ones before it in a store is not good
    there, unless ``new_cluster`` says that it is meant. Returns what it holds, and why it is not proven in which
    stores. Raises DamagedError when it is wrong, BackupError when it could be proven in no store.
    """
    failed: dict[str, KopsError] = {}
    with _reading_back(work, catalogues, manifest) as read_back:
        contents = _first_readable(work, read_back, manifest, on, hosts, plain, failed)
        try:
            restored = _restored(manifest, contents)
            check_restored(manifest, restored)
            _check_kubeadm(manifest, contents)
            _compare_samples(manifest, contents, live)
        except DamagedError as error:
            _refute_all(work, manifest, error, read_back, failed)
            raise
        for catalogue, reading in read_back:
            if catalogue.store.name not in failed:
                work.tell(f"reading back what {catalogue.store.name} stored")
                try:
                    _record(work, catalogue, manifest, restored, reading, new_cluster)
                except BackupError as error:
                    failed[catalogue.store.name] = error
    _raise_when_all(failed, catalogues)
    return contents, failed


@contextmanager
def _reading_back(work: Work, catalogues: Sequence[Catalogue], manifest: Manifest) -> Iterator[_ReadBack]:
    """Read what the stores have in a thread, one store after the other; what has not begun at the end is left out."""
    pool = ThreadPoolExecutor(1, thread_name_prefix="kops-py read back")
    try:
        yield [(c, pool.submit(check_stored, c, manifest, cancel=work.cancel)) for c in catalogues]
    finally:
        pool.shutdown(cancel_futures=True)


def _first_readable(
    work: Work,
    read_back: _ReadBack,
    manifest: Manifest,
    on: Host | None,
    hosts: Sequence[Host],
    plain: IO[bytes] | None,
    failed: dict[str, KopsError],
) -> SnapshotContents:
    """Return what the first copy that can be read holds; one that cannot goes into ``failed`` and is refuted alone.

    Raises the first copy's error when none can be read.
    """
    for catalogue, reading in read_back:
        unread: list[BackupError] = []
        try:
            return _restore(work, catalogue, manifest, on, hosts, plain, unread)
        except (BackupError, HostError):
            fault = _copy_fault(unread[0], reading) if unread else None
            if fault is None:
                raise
        failed[catalogue.store.name] = fault
        work.tell(f"{catalogue.store.name}: its copy cannot be read: {fault}")
        if isinstance(fault, DamagedError):
            _refute(work, catalogue, manifest, fault)
    raise next(iter(failed.values()))


def _copy_fault(error: BackupError, reading: Future[dict[str, str]]) -> BackupError | None:
    """Return what is wrong with a copy that could not be read; None when another copy would fare no better."""
    if isinstance(error, DamagedError | StoreError):
        return error
    try:  # no key fits: so it looks as well when the stored bytes were changed just where they name the keys
        reading.result()
    except BackupError as changed:
        return changed
    return None


def _record(
    work: Work,
    catalogue: Catalogue,
    manifest: Manifest,
    restored: Restored,
    reading: Future[dict[str, str]],
    new_cluster: bool,
) -> None:
    """Record in a store what was proven of its copy; raises BackupError after recording why it is not good there."""
    try:
        stored = reading.result()
    except DamagedError as error:
        _refute(work, catalogue, manifest, error)
        raise
    why = "" if new_cluster else why_another_cluster(catalogue, manifest, restored.cluster_uid)
    if why:
        refused = BackupError(
            "the backup is of another cluster, or of one that began anew",
            where=catalogue.store.where,
            why=why,
            hint="look at the cluster: did etcd lose its data (docs/etcd-restore.md)? If it was made anew on purpose: "
            f"kops-py etcd verify {manifest.id} --new-cluster",
        )
        _refute(work, catalogue, manifest, refused)
        raise refused
    proof = proof_of(manifest, ProofKind.RESTORE, stored, me=work.me, at=work.clock(), restored=restored)
    catalogue.add_proof(proof)


def _refute_all(
    work: Work, manifest: Manifest, error: DamagedError, read_back: _ReadBack, failed: Mapping[str, KopsError]
) -> None:
    """Record what is wrong with a backup in every store whose bytes are those that were restored, by their hash."""
    for catalogue, reading in read_back:
        if catalogue.store.name in failed:
            continue
        why = error
        try:
            reading.result()
        except DamagedError as changed:
            why = changed
        except BackupError:
            continue  # nobody knows what that store has
        _refute(work, catalogue, manifest, why)


def _refute(work: Work, catalogue: Catalogue, manifest: Manifest, error: BackupError) -> None:
    """Record in a store what is wrong with a backup; a store that does not take it is told, and stops nothing."""
    refuted = f"{error.what}: {error.why}" if error.why else error.what
    try:
        catalogue.add_proof(proof_of(manifest, ProofKind.RESTORE, {}, me=work.me, at=work.clock(), refuted=refuted))
    except BackupError as problem:
        work.tell(f"{catalogue.store.name}: what is wrong with its copy cannot be recorded: {problem}")


def _raise_when_all(failed: Mapping[str, KopsError], catalogues: Sequence[Catalogue]) -> None:
    """Raise the first error when no store is left without one."""
    for catalogue in catalogues:
        if catalogue.store.name not in failed:
            return
    for error in failed.values():
        raise error


def _restore(
    work: Work,
    catalogue: Catalogue,
    manifest: Manifest,
    on: Host | None,
    hosts: Sequence[Host],
    plain: IO[bytes] | None,
    unread: list[BackupError],
) -> SnapshotContents:
    """Restore a copy and return what it holds; what made it unreadable, if anything did, goes into ``unread``."""
    size, version = manifest.snapshot.plain_size_bytes, manifest.source.etcd_version
    binaries = None
    if on is None:
        binaries = local_binaries(version)
        if binaries is None:
            work.tell(f"fetching the programs of etcd {version} from a member")
            binaries = fetched_binaries(tuple(hosts), version, work.scratch / "etcd", cancel=work.cancel)

    def prove(source: BinaryIO) -> SnapshotContents:
        work.tell(f"restoring {size / 2**20:.1f} MiB into a scratch etcd {f'on {on.name}' if on else 'here'}")
        if binaries is not None:
            return prove_here(source, binaries, work.scratch / "proof", size_bytes=size, cancel=work.cancel)
        assert on is not None  # noqa: S101 - one of the two
        return prove_on(on, source, size_bytes=size, cancel=work.cancel)

    if plain is not None:
        plain.seek(0)
        return prove(cast("BinaryIO", plain))

    def read(write: Callable[[bytes], None]) -> None:
        try:
            read_part(catalogue, manifest, manifest.snapshot, write, identities=work.identities, cancel=work.cancel)
        except BackupError as error:
            unread.append(error)
            raise

    # What was read is whole and right only once reading it has ended well: that error comes before the proof's.
    with pumped_pipe(read, work, f"snapshot in {catalogue.store.name}") as pipe:
        return prove(cast("BinaryIO", _Reader(pipe)))


class _Reader:
    """A readable file over a pipe; what filling it raises is raised here."""

    def __init__(self, pipe: Pipe) -> None:
        self._pieces: Iterator[bytes] = iter(pipe)

    def read(self, size: int = -1) -> bytes:
        """Return the next piece, whatever ``size`` says; empty at the end."""
        del size
        return next(self._pieces, b"")


def _restored(manifest: Manifest, contents: SnapshotContents) -> Restored:
    """Return the proof's record. The member it came from is in its own list; a snapshot holds no id of its cluster."""
    ids, wanted = contents.member_ids, manifest.source.member_id
    return Restored(
        revision=contents.revision,
        key_count=contents.live_keys,
        cluster_id="",
        member_id=wanted if wanted in ids else (ids[0] if ids else ""),
        etcd_version=contents.etcd_version,
        samples=tuple(
            Sample(key=s.key, mod_revision=s.mod_revision, value_sha256=s.value_sha256) for s in contents.samples
        ),
        cluster_uid=contents.cluster_uid,
    )


def _check_kubeadm(manifest: Manifest, contents: SnapshotContents) -> None:
    """Raise DamagedError unless what kubeadm puts into every cluster is there: an emptied etcd lacks some of it."""
    missing = sorted({*SAMPLE_KEYS} - {s.key for s in contents.samples})
    if missing:
        raise DamagedError(
            "the restored snapshot holds no cluster of kubeadm",
            where=manifest.id,
            why=f"there is no {' and no '.join(missing)}",
            hint="look at the cluster: did etcd lose its data?",
        )


def _compare_samples(manifest: Manifest, contents: SnapshotContents, live: Sequence[KeySample]) -> None:
    """Raise DamagedError when a key the member had before is not in the snapshot as it was, or changed since."""
    found = {s.key: s for s in contents.samples}
    for sample in live:
        other = found.get(sample.key)
        if other is None or (other != sample and other.mod_revision <= sample.mod_revision):
            raise DamagedError(
                "the restored snapshot is not of this cluster",
                where=manifest.id,
                why=f"{sample.key} is not as the member had it",
            )
