"""Takes a backup of etcd: the member's stream and the hosts' files into the stores.

The stores' side (compression, encryption, catalogue, retention) is ``backup/``; here it meets the hosts.
"""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import IO, Any

from kops_py.backup.bundle import AUTHORITY, ROOTS, Repacked, repack
from kops_py.backup.catalogue import Catalogue
from kops_py.backup.manifest import Maker, Manifest, PartKind, Source
from kops_py.backup.new import NewBackup
from kops_py.backup.pipe import Pipe, pumped
from kops_py.connect.base import Cancel, Fleet, Host
from kops_py.model.backup import BackupSpec
from kops_py.model.errors import (
    BackupError,
    CancelledError,
    CommandFailedError,
    DamagedError,
    EtcdError,
    HostError,
    KopsError,
    NoFilesError,
    RunDeadlineError,
)
from kops_py.model.etcd import EtcdAccess, EtcdFacts, KeySample
from kops_py.model.status import EtcdMember
from kops_py.observe.etcd import access_for, ask
from kops_py.tools.etcd_bundle import API_SERVER_MANIFEST, NOTHING_STATUS, api_server_files, bundle_argv
from kops_py.tools.etcd_proof import NAMESPACE, first_json, parse_samples
from kops_py.tools.etcd_snapshot import EMPTY_REQUEST, SnapshotStream, refusal, snapshot_argv

LOOKING = "looking at etcd"
"""The step before the first: a member is chosen."""
_TELL_S = 5.0
_BUNDLE_S = 120.0


@dataclass(slots=True)
class Work:
    """Everything a backup needs, put together once for a run; ``tell`` says what is being done."""

    cluster: str
    fleet: Fleet
    spec: BackupSpec
    catalogues: Sequence[Catalogue]
    recipients: Sequence[str]
    identities: Sequence[str]
    me: Maker
    clock: Callable[[], datetime]
    scratch: Path
    """Folder (0700) for scratch etcds and programs of etcd."""
    cancel: Cancel
    signing_key: str | None = None
    tell: Callable[[str], None] = lambda _: None
    note: Callable[[str], None] = lambda _: None
    """Says what a person should read afterwards as well."""


@dataclass(slots=True)
class Taken:
    """A backup that is stored and not yet proven."""

    manifest: Manifest
    live: tuple[KeySample, ...]
    """Samples as the member had them just before."""
    plain: IO[bytes] | None = None
    """The snapshot's plain bytes in a file without a name; only where what is stored cannot be read here."""
    stores: tuple[str, ...] = ()
    failed: Mapping[str, KopsError] = field(default_factory=dict)

    def close(self) -> None:
        """Give the space of the plain bytes back."""
        if self.plain is not None:
            self.plain.close()
            self.plain = None


def take(
    work: Work,
    facts: EtcdFacts,
    member: EtcdMember,
    bundles: Sequence[str],
    *,
    keep_plain: bool,
    timeout_s: float,
) -> Taken:
    """Store a backup; ``keep_plain`` keeps the plain snapshot for a proof. Raises KopsError, with the entry failed.

    ``member`` is as it was seen just before: its own revision then is the least that the snapshot must have.
    """
    new = _new_backup(work, work.cancel)
    step = "begin"
    plain = _unnamed_file(work.scratch) if keep_plain else None
    try:
        new.begin()
        for note in new.notes:
            work.note(note)
        work.tell(f"backup {new.id}: snapshot from {member.name}")
        step = f"snapshot from {member.name}"
        access = access_for(facts, member)
        if access is None:
            raise EtcdError("no host reaches this member", where=member.name, hint="kops-py etcd status says why")
        host = work.fleet.host(access.host)
        live = _live_samples(host, access, work.cancel)
        with pumped_pipe(
            lambda write: _snapshot(host, access, write, timeout_s, work), work, f"snapshot of {member.name}"
        ) as pipe:
            new.add(PartKind.SNAPSHOT, _part_host(member.name), pipe, tee=plain.write if plain else None)
        added: list[_Added | None] = []
        for name in bundles:
            step = f"files of {name}"
            added.append(_add_bundle(work, new, name, stacked_etcd=name == member.host))
        _check_bundles(bundles, added)
        step = "manifest"
        manifest = new.finish(
            Source(
                cluster_id=facts.cluster_id,
                member=member.name,
                member_id=f"{member.member_id:x}",
                revision=member.revision,
                etcd_version=member.version,
                kubernetes_version=next((a.version for a in added if a is not None and a.version), ""),
            )
        )
    except BaseException as error:
        if plain is not None:
            plain.close()
        failure = error if isinstance(error, KopsError) else BackupError("it was ended", why=type(error).__name__)
        new.fail(step, failure)
        raise
    return Taken(manifest, live, plain, new.stores, dict(new.failed))


def record_failure(work: Work, step: str, error: KopsError) -> None:
    """Leave the entry of a backup that failed before it began, in the stores that answer; raises no KopsError.

    An interruption is no failure, the end of the time for the whole run is one.
    """
    if isinstance(error, CancelledError) and not isinstance(error, RunDeadlineError):
        return
    with contextlib.suppress(KopsError):
        new = _new_backup(work, None)
        new.begin()
        new.fail(step, error)


def _new_backup(work: Work, cancel: Cancel | None) -> NewBackup:
    return NewBackup(
        work.catalogues,
        work.spec,
        recipients=work.recipients,
        me=work.me,
        clock=work.clock,
        signing_key=work.signing_key,
        cancel=cancel,
    )


@contextmanager
def pumped_pipe(
    produce: Callable[[Callable[[bytes | memoryview], None]], None], work: Work, what: str
) -> Iterator[Pipe]:
    """Give a pipe that ``produce`` fills in a thread; nobody waits for the other when one of them fails."""
    pipe = Pipe(what, timeout_s=work.spec.store_timeout_s, cancel=work.cancel)
    thread = pumped(produce, pipe)
    try:
        yield pipe
    finally:
        pipe.abandon()
        thread.join(work.spec.store_timeout_s)


def _snapshot(
    host: Host, access: EtcdAccess, write: Callable[[memoryview], None], timeout_s: float, work: Work
) -> None:
    """Stream a member's snapshot; raises EtcdError when the member refuses, HostError, DamagedError."""
    told = time.monotonic()

    def take(data: bytes) -> None:
        nonlocal told
        stream.feed(data)
        if time.monotonic() - told > _TELL_S:
            told = time.monotonic()
            work.tell(f"{stream.size_bytes / 2**20:.0f} of {stream.total_bytes / 2**20:.0f} MiB")

    stream = SnapshotStream(write)
    argv = snapshot_argv(access.endpoint, access.credentials, timeout_s=timeout_s)
    try:
        answer = host.run(
            argv,
            sudo=True,
            stdin=EMPTY_REQUEST,
            timeout_s=timeout_s + 30,
            check=False,
            cancel=work.cancel,
            stdout_to=take,
        )
        refused = refusal(answer.err)
        if refused or not answer.ok:
            raise EtcdError(
                "the member sends no snapshot",
                where=host.name,
                why=refused or answer.err.strip()[-400:],
                hint="curl with HTTP/2 is needed there" if answer.exit_status in (1, 2, 4, 127) else "",
            )
        stream.finish()
    except ValueError as error:
        raise DamagedError("the snapshot did not arrive whole", where=host.name, why=str(error)) from error


@dataclass(frozen=True, slots=True)
class _Added:
    """What a host's bundle was found to be: its API server's version, and whether the cluster's authority is in it."""

    version: str
    has_authority: bool


def _add_bundle(work: Work, new: NewBackup, name: str, *, stacked_etcd: bool) -> _Added | None:
    """Store the files of one host; None, with a note, when it has none: a machine that is new or was reinstalled."""
    work.tell(f"reading the files of {name}")
    version, files = _api_server(work.fleet.host(name), work.cancel)
    seen = Repacked(_part_host(name))
    try:
        with pumped_pipe(_bundle(work, name, files), work, f"files of {name}") as pipe:
            new.add(PartKind.BUNDLE, _part_host(name), repack(pipe, seen))
    except NoFilesError:
        work.note(f"{name} holds no files of a cluster and is left out of the backup")
        return None
    missing = seen.missing(stacked_etcd=stacked_etcd)
    for path, what in missing.items() if version else ():
        work.tell(f"{name} has no {path} ({what}): what is not on the host is not in its bundle")
    return _Added(version, AUTHORITY not in missing)


def _check_bundles(names: Sequence[str], added: Sequence[_Added | None]) -> None:
    """Raise BackupError when hosts were left out and no other one gave the files of a control plane."""
    left_out = [name for name, one in zip(names, added, strict=True) if one is None]
    if left_out and not any(one is not None and one.has_authority for one in added):
        raise BackupError(
            "no control plane has the cluster's files",
            where=", ".join(left_out),
            why="without its keys the data of etcd is of no use elsewhere",
            hint="bring a control plane back; kops-py bootstrap sets new ones up",
        )


def _bundle(work: Work, name: str, files: Sequence[str]) -> Callable[[Callable[[bytes], None]], None]:
    def produce(write: Callable[[bytes], None]) -> None:
        argv = bundle_argv((*ROOTS, *files))
        try:
            work.fleet.host(name).run(argv, sudo=True, timeout_s=_BUNDLE_S, cancel=work.cancel, stdout_to=write)
        except CommandFailedError as error:
            if error.exit_status == NOTHING_STATUS:
                raise NoFilesError("there was no file to bundle", where=name) from None
            raise

    return produce


def _api_server(host: Host, cancel: Cancel) -> tuple[str, tuple[str, ...]]:
    """Return the version of a control plane's API server and the files its flags name; nothing without one."""
    import yaml

    cancel.check()
    try:
        manifest: Any = yaml.safe_load(host.read_file(API_SERVER_MANIFEST))
    except CommandFailedError:
        return "", ()
    except yaml.YAMLError:
        return "", ()
    if not isinstance(manifest, dict):
        return "", ()
    containers = (manifest.get("spec") or {}).get("containers") or [{}]
    image = str(containers[0].get("image") or "").partition("@")[0]
    return image.rpartition(":")[2] if ":" in image else "", api_server_files(manifest)


def _live_samples(host: Host, access: EtcdAccess, cancel: Cancel) -> tuple[KeySample, ...]:
    """Return what the member itself says of a key that tells clusters apart; nothing when it cannot be asked."""
    try:
        return parse_samples(first_json(ask(host, access, "get", NAMESPACE, cancel=cancel)))
    except (HostError, ValueError):
        return ()


def _part_host(name: str) -> str:
    """Return a host's name as a part may be called: lower case letters, digits, dots and dashes."""
    return "".join(c if c.isascii() and (c.isalnum() or c in ".-") else "-" for c in name.lower()).strip(".-") or "host"


def _unnamed_file(folder: Path) -> IO[bytes]:
    """Return a file without a name, so that nothing is left of it however this ends."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return tempfile.TemporaryFile(dir=folder)
