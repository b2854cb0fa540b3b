"""Backups of etcd: make one, prove one, list, prune, keep, check."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from kops_py.app.etcd import observe
from kops_py.app.run import Decided, RunResult, run_operation
from kops_py.app.session import Confirm, Emit, Session, Settings, load_spec, looking_at, session
from kops_py.model.backup import BackupSpec, Verify
from kops_py.model.backup_list import BackupCheck, BackupLine, StoreCheck, check_store
from kops_py.model.errors import BackupError, ConfigError, EtcdError, KopsError, StoreError
from kops_py.model.etcd import EtcdFacts, SnapshotContents
from kops_py.model.event import Note
from kops_py.model.facts import Facts
from kops_py.model.plan import Plan
from kops_py.model.secret import SecretRef
from kops_py.model.spec import ClusterSpec

if TYPE_CHECKING:
    from kops_py.actions.etcd_backup import Work
    from kops_py.actions.etcd_perform import BackupPerformer
    from kops_py.backup.catalogue import Catalogue, Entry


_FRESH_S = 10.0
"""A member that was healthy so long ago is asked for its snapshot without another look."""


@dataclasses.dataclass(frozen=True, slots=True)
class BackupSettings:
    """What the command line says about a backup; None: what cluster.yaml says."""

    verify: Verify | None = None
    verify_on: str = "here"
    prune: bool = False
    identity: Path | None = None
    new_cluster: bool = False


def backup_spec(spec: ClusterSpec) -> BackupSpec:
    """Return what cluster.yaml says about backups; raises ConfigError when it says nothing."""
    if spec.backup is None:
        raise ConfigError(
            "no backups are configured",
            where=str(spec.cluster_path),
            hint="add the section backup with at least one store and a public key; see docs/etcd-backup.md",
        )
    return spec.backup


def run_backup(settings: Settings, emit: Emit, confirm: Confirm, *, given: BackupSettings) -> RunResult:
    """Take a backup and prove it; raises KopsError before it starts. Takes no Lease: it works without an API server."""
    from kops_py.app.notify import on_failure

    spec = load_spec(settings)
    with on_failure(spec, "etcd backup", emit) as outcome:
        result = run_operation(
            settings, emit, confirm, "etcd-backup", lambda s: _decide(s, given), exclusive=False, spec=spec
        )
        if result.errors:
            outcome.failed(result.errors[0])
        return result


def _decide(opened: Session, given: BackupSettings) -> Decided:
    from kops_py.runbooks.etcd_backup import BackupArguments, plan_backup
    from kops_py.runbooks.preflight import mark_ignored

    spec, backup = opened.spec, backup_spec(opened.spec)
    opened.emit(Note(message=looking_at(spec)))
    work = make_work(opened, given.identity, makes_one=True)
    can_read = bool(work.identities) or not work.recipients
    arguments = BackupArguments(
        given.verify or backup.verify, given.verify_on, given.prune, can_read, given.new_cluster
    )
    with on_record(opened, work):
        seen, at_s = observe(opened), time.monotonic()
        decision = plan_backup(spec, backup, seen, arguments)
    fresh = [seen]

    def look() -> EtcdFacts:
        """Give the plan's look once while it is fresh: who looks again wants to see what changed."""
        first = fresh.pop() if fresh else None
        return first if first is not None and time.monotonic() - at_s < _FRESH_S else observe(opened)

    performer = make_performer(opened, work, look, prunes=given.prune)

    def replan() -> tuple[Plan, Facts]:
        return Plan("etcd-backup", spec.name, ()), Facts(hosts={})  # what comes next depends on nothing outside

    return Decided(decision.plan, mark_ignored(decision.findings, opened.ignored), replan, lambda _: performer)


@contextmanager
def on_record(opened: Session, work: Work) -> Iterator[None]:
    """Leave a failed entry in the stores when looking at etcd fails, unless only a plan is wanted."""
    from kops_py.actions.etcd_backup import LOOKING, record_failure

    try:
        yield
    except KopsError as error:
        if not opened.settings.plan_only:
            record_failure(work, LOOKING, error)
        raise


def run_prune(settings: Settings, emit: Emit, confirm: Confirm) -> RunResult:
    """Delete the backups that the retention lets go, in every store; raises KopsError before it starts."""

    def decide(opened: Session) -> Decided:
        from kops_py.backup.retention import decide as decide_retention
        from kops_py.runbooks.etcd_backup import plan_prune

        spec = opened.spec
        work = make_work(opened, None)
        goes: list[tuple[str, str, str]] = []
        stays: list[tuple[str, str, str]] = []
        for catalogue in work.catalogues:
            for decision in decide_retention(catalogue.entries(), work.spec.retention, work.clock()):
                found = (catalogue.store.name, decision.entry.id, decision.reason)
                (stays if decision.keep else goes).append(found)
        plan = plan_prune(spec, goes, stays)
        performer = make_performer(opened, work)

        def replan() -> tuple[Plan, Facts]:
            return Plan("etcd-prune", spec.name, ()), Facts(hosts={})

        return Decided(plan, (), replan, lambda _: performer)

    return run_operation(settings, emit, confirm, "etcd-prune", decide, exclusive=False)


def list_backups(settings: Settings) -> tuple[tuple[BackupLine, ...], tuple[str, ...]]:
    """Return the backups in all stores, the newest first, and what could not be read; contacts no host."""
    spec = load_spec(settings)
    lines: list[BackupLine] = []
    problems: list[str] = []
    for catalogue in catalogues(spec):
        try:
            lines += [line_of(entry) for entry in catalogue.entries()]
        except StoreError as error:
            problems.append(str(error))
    return tuple(sorted(lines, key=lambda line: (line.id, line.store), reverse=True)), tuple(problems)


@dataclasses.dataclass(frozen=True, slots=True)
class Verified:
    """How a proof went: what the backup holds (None after a checksum alone), and how long it took."""

    line: BackupLine
    contents: SnapshotContents | None
    duration_s: float


def verify_backup(
    settings: Settings, emit: Emit, backup_id: str | None, *, given: BackupSettings, checksum_only: bool = False
) -> Verified:
    """Prove a stored backup in full again (None: the newest good one), from every store that has it.

    Raises BackupError, DamagedError after recording it.
    """
    from kops_py.actions.etcd_perform import proof_hosts
    from kops_py.actions.etcd_proving import prove_checksums, prove_restore
    from kops_py.backup.catalogue import find
    from kops_py.backup.proving import provable

    spec = load_spec(settings)
    begun = time.monotonic()
    with _one_at_a_time(settings, spec), session(settings, spec, emit) as opened:
        work = make_work(opened, given.identity)
        work.tell = lambda message: emit(Note(message=message))
        chosen = backup_id or _newest_good(work.catalogues)
        entries = find(work.catalogues, chosen)
        manifest, stores = provable(chosen, entries)
        for entry in entries:
            if entry.store not in stores:
                emit(Note(message=f"left out: backup {chosen} in {entry.store} is {entry.state}: {entry.why}"))
        own = [c for c in work.catalogues if c.store.name in stores]
        contents = None
        if checksum_only:
            for error in prove_checksums(work, own, manifest).values():
                raise error
        else:
            if manifest.snapshot.encrypted and not work.identities:
                raise _no_identity()
            on, hosts = proof_hosts(work, _facts_or_none(opened), manifest.source.member, given.verify_on)
            contents = prove_restore(work, own, manifest, on=on, hosts=hosts, new_cluster=given.new_cluster)
        return Verified(line_of(own[0].entry(chosen)), contents, time.monotonic() - begun)


def mark_backup(settings: Settings, backup_id: str, *, keep: bool, why: str = "") -> tuple[str, ...]:
    """Set or take away the keep mark of a backup in every store that has it; returns these stores."""
    from kops_py.backup.catalogue import find

    spec = load_spec(settings)
    own = catalogues(spec)
    entries = find(own, backup_id)
    if not entries:
        raise BackupError(f"there is no backup {backup_id}", hint="kops-py etcd list shows what there is")
    for catalogue in own:
        if any(e.store == catalogue.store.name for e in entries):
            catalogue.keep(backup_id, why) if keep else catalogue.unkeep(backup_id)
    return tuple(e.store for e in entries)


def check_backups(settings: Settings, *, max_age_s: float) -> BackupCheck:
    """Judge the newest backups in every store; contacts no host. Raises ConfigError only."""
    spec = load_spec(settings)
    backup_spec(spec)
    return check_spec(spec, max_age_s=max_age_s)


def check_spec(spec: ClusterSpec, *, max_age_s: float) -> BackupCheck:
    """Judge the newest backups in every store of a cluster."""
    now = datetime.now(UTC)
    found = []
    for catalogue in catalogues(spec):
        name = catalogue.store.name
        try:
            lines = tuple(line_of(e) for e in catalogue.entries())
        except StoreError as error:
            found.append(
                StoreCheck(name, f"it cannot be read: {error.what}" + (f" ({error.why})" if error.why else ""))
            )
            continue
        found.append(check_store(name, lines, now=now, max_age_s=max_age_s))
    return BackupCheck(spec.name, now, max_age_s, tuple(found))


def catalogues(spec: ClusterSpec) -> list[Catalogue]:
    """Return the catalogue of every store; contacts nothing. Raises ConfigError, StoreError."""
    from kops_py.backup.catalogue import Catalogue
    from kops_py.backup.new import is_alive, me
    from kops_py.backup.store import open_store
    from kops_py.config.secrets import resolve

    backup, who = backup_spec(spec), me(_version())
    return [
        Catalogue(
            open_store(store, resolve, timeout_s=backup.store_timeout_s),
            spec.name,
            me=who,
            clock=_now,
            is_alive=is_alive,
            trusted=backup.signing.trusted,
        )
        for store in backup.stores
    ]


def make_work(opened: Session, identity: Path | None, *, makes_one: bool = False) -> Work:
    """Return what a backup works with, with the key to sign it when one is made; raises ConfigError, StoreError."""
    from kops_py.actions.etcd_backup import Work
    from kops_py.backup.new import me

    spec, backup = opened.spec, backup_spec(opened.spec)
    return Work(
        cluster=spec.name,
        fleet=opened.fleet,
        spec=backup,
        catalogues=catalogues(spec),
        recipients=backup.encryption.recipients,
        identities=read_identities(backup, identity),
        me=me(_version()),
        clock=_now,
        scratch=opened.settings.run_dir.absolute() / "scratch",
        cancel=opened.cancel,
        signing_key=_signing_key(backup) if makes_one else None,
    )


def _signing_key(backup: BackupSpec) -> str | None:
    """Return the private key that signs backups, None when none is wanted; raises ConfigError."""
    from kops_py.backup.signing import check_trusted
    from kops_py.config.secrets import resolve

    signing = backup.signing
    if not signing.trusted:
        return None
    if signing.private_key is None:
        raise ConfigError(
            "there is no key to sign the backup with, and none is good here without a signature",
            where="backup.signing.privateKey",
            hint="name it in cluster.yaml on the machine that makes backups, or make them where it is",
        )
    key = resolve(signing.private_key, lines=True)
    check_trusted(key, signing.trusted)
    return key


def make_performer(
    opened: Session, work: Work, look: Callable[[], EtcdFacts] | None = None, *, prunes: bool = False
) -> BackupPerformer:
    """Return what carries out the steps of a backup; ``look`` is how it sees etcd just before.

    ``prunes`` says whether the retention is the last step.
    """
    from kops_py.actions.etcd_perform import BackupPerformer

    return BackupPerformer(work, look or (lambda: observe(opened)), prunes=prunes)


def read_identities(backup: BackupSpec, given: Path | None) -> tuple[str, ...]:
    """Return the private keys of a file, or those cluster.yaml refers to; none is no error. Raises ConfigError."""
    from kops_py.backup.age import split_identities
    from kops_py.config.secrets import resolve

    reference = SecretRef("file", str(given.absolute())) if given else backup.encryption.identity
    return split_identities(resolve(reference, lines=True)) if reference is not None else ()


def line_of(entry: Entry) -> BackupLine:
    """Return a backup as it is shown."""
    from kops_py.backup.manifest import ProofKind

    manifest, proof = entry.manifest, entry.proof(ProofKind.RESTORE)
    restored = proof.restored if proof else None
    return BackupLine(
        id=entry.id,
        store=entry.store,
        at=entry.at,
        state=str(entry.state),
        why=entry.why,
        size_bytes=entry.size_bytes,
        revision=restored.revision if restored else manifest.source.revision if manifest else 0,
        keys=restored.key_count if restored else 0,
        etcd_version=manifest.source.etcd_version if manifest else "",
        kubernetes_version=manifest.source.kubernetes_version if manifest else "",
        member=manifest.source.member if manifest else "",
        encrypted=manifest.snapshot.encrypted if manifest else True,
        kept=entry.keep is not None,
        proven_at=proof.at if proof else None,
        proven_by=str(proof.by) if proof else "",
        cluster_uid=entry.cluster_uid,
    )


def _no_identity() -> ConfigError:
    return ConfigError(
        "this backup is encrypted, and there is no private key here to read it",
        where="backup.encryption.identity",
        hint="give it with --identity FILE, on a machine that may have it",
    )


def _newest_good(own: Sequence[Catalogue]) -> str:
    found: list[str] = []
    failed: list[StoreError] = []
    for catalogue in own:
        try:
            found += [e.id for e in catalogue.entries() if e.is_good]
        except StoreError as error:  # the other stores may have it
            failed.append(error)
    if not found:
        raise failed[0] if failed else BackupError("there is no good backup", hint="kops-py etcd backup")
    return max(found)


def _facts_or_none(opened: Session) -> EtcdFacts:
    """Return what etcd says; nothing when it is gone: a backup can be proven all the same, with programs on PATH."""
    try:
        return observe(opened)
    except EtcdError as error:
        opened.emit(Note(message=f"etcd does not answer: {error}"))
        return EtcdFacts()


@contextmanager
def _one_at_a_time(settings: Settings, spec: ClusterSpec) -> Iterator[None]:
    """Hold the lock of this cluster's backups on this machine; raises LockedError."""
    from kops_py.engine.lock import FileLock

    lock = FileLock(settings.run_dir / "locks", f"{spec.name}.etcd-backup")
    lock.acquire(run_id="verify", command=settings.command)
    try:
        yield
    finally:
        lock.release()


def _version() -> str:
    from importlib.metadata import version

    return version("kops-py")


def _now() -> datetime:
    return datetime.now(UTC)
