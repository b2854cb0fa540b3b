"""A new backup, from its first second to its manifest, in several stores at once."""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from pathlib import Path

from kops_py.backup.catalogue import Catalogue
from kops_py.backup.documents import new_id, seal
from kops_py.backup.fanout import FanOut, all_failed
from kops_py.backup.manifest import Begun, Failure, Maker, Manifest, Part, PartKind, Source, part_file
from kops_py.backup.signing import sign
from kops_py.backup.stream import Label, Write, pack
from kops_py.connect.base import Cancel
from kops_py.model.backup import BackupSpec
from kops_py.model.errors import BackupError, KopsError, StoreError

EXPIRES_S = 6 * 3600
"""A backup that did not end within so many seconds was broken off, if nothing else tells."""


class NewBackup:
    """One backup that is being made.

    ``begin``, then ``add`` for the snapshot and each bundle, then ``finish``; ``fail`` instead when something goes
    wrong between. A store that fails is left out from then on (``failed``), and told so if it can still be; only
    when none is left is StoreError raised. What is in a store without a manifest is no backup.
    """

    def __init__(
        self,
        catalogues: Sequence[Catalogue],
        spec: BackupSpec,
        *,
        recipients: Sequence[str],
        me: Maker,
        clock: Callable[[], datetime],
        signing_key: str | None = None,
        cancel: Cancel | None = None,
    ) -> None:
        self.failed: dict[str, StoreError] = {}
        self.notes: list[str] = []
        """What a person should read though it stops nothing."""
        self._catalogues = list(catalogues)
        self._spec = spec
        self._recipients = tuple(recipients)
        self._me = me
        self._clock = clock
        self._signing_key = signing_key
        self._cancel = cancel
        self._parts: list[Part] = []
        self._at = clock()
        self.id = new_id(self._at, secrets.token_bytes(4))
        if spec.encryption.required and not recipients:
            raise BackupError(
                "there is no key to encrypt the backup to, and it would hold every secret of the cluster",
                where="backup.encryption.recipients",
                hint="age-keygen -o KEYFILE on another machine, and put the public key it prints into cluster.yaml",
            )
        if spec.signing.trusted and signing_key is None:
            raise ValueError("a backup that nobody would trust")

    @property
    def stores(self) -> tuple[str, ...]:
        """Return the names of the stores that still take part."""
        return tuple(c.store.name for c in self._catalogues)

    @property
    def parts(self) -> tuple[Part, ...]:
        """Return the parts stored so far."""
        return tuple(self._parts)

    def begin(self) -> None:
        """Write the entry that says who makes this backup, in every store; clean up after killed ones before."""
        begun = Begun(
            id=self.id,
            cluster=self._catalogues[0].cluster,
            at=self._at,
            by=self._me,
            boot_id=boot_id(),
            pid=os.getpid(),
            pid_started=process_started(os.getpid()) or 0,
            expires_s=EXPIRES_S,
        )

        def write(catalogue: Catalogue) -> None:
            catalogue.store.prepare()
            self._clean(catalogue)
            catalogue.begin(begun)

        self._each("begin", write)

    def add(self, kind: PartKind, host: str, source: Iterable[bytes], *, tee: Write | None = None) -> Part:
        """Compress, encrypt and store one part in every store; ``tee`` gets the plain bytes.

        ``host`` is the member or control plane it comes from. Nothing is left of a part that does not end well.
        Raises what ``source`` raises, DamagedError for a snapshot without etcd's own hash, StoreError, CancelledError.
        """
        file = part_file(kind, host, encrypted=bool(self._recipients))
        catalogue = self._catalogues[0]
        fan = FanOut(
            [c.store for c in self._catalogues],
            catalogue.path(self.id, file),
            stall_s=self._spec.store_timeout_s,
            cancel=self._cancel,
        )
        label = Label(self.id, catalogue.cluster, str(kind), host)
        try:
            measured = pack(
                source,
                fan.write,
                label,
                recipients=self._recipients,
                is_snapshot=kind is PartKind.SNAPSHOT,
                tee=tee,
                cancel=self._cancel,
            )
            stored_in = {store.name for store in fan.commit()}
        except BaseException:
            fan.abort()
            raise
        finally:
            self._leave_out(fan.failed, f"store {file}")
        self._catalogues = [c for c in self._catalogues if c.store.name in stored_in]
        part = Part(
            file=file,
            kind=kind,
            host=host,
            encrypted=bool(self._recipients),
            plain_size_bytes=measured.plain_size_bytes,
            plain_sha256=measured.plain_sha256,
            stored_size_bytes=measured.stored_size_bytes,
            stored_sha256=measured.stored_sha256,
            trailer=measured.trailer,
        )
        self._parts.append(part)
        return part

    def finish(self, source: Source) -> Manifest:
        """Write the manifest in every store that has all parts; the backup is stored then, and not yet good."""
        manifest = Manifest(
            id=self.id,
            cluster=self._catalogues[0].cluster,
            source=source,
            begun_at=self._at,
            stored_at=self._clock(),
            by=self._me,
            recipients=self._recipients,
            parts=tuple(self._parts),
        )
        signature = None if self._signing_key is None else sign(seal(manifest), self._signing_key)
        self._each("write the manifest", lambda catalogue: catalogue.store_manifest(manifest, signature))
        return manifest

    def fail(self, step: str, error: KopsError) -> None:
        """Write in every store where the backup stopped, as far as the stores still answer; raises nothing."""
        for catalogue in self._catalogues:
            self._tell(catalogue, step, error)

    def _clean(self, catalogue: Catalogue) -> None:
        store = catalogue.store
        try:
            removed = catalogue.clean(older_than_s=EXPIRES_S)
        except StoreError as error:
            self.notes.append(f"{error}; {error.hint}")
        else:
            self.notes += [f"{store.where}: removed {path}, which a killed upload left" for path in removed]

    def _each(self, step: str, work: Callable[[Catalogue], None]) -> None:
        failed: dict[str, StoreError] = {}
        for catalogue in self._catalogues:
            if self._cancel is not None:
                self._cancel.check()
            try:
                work(catalogue)
            except StoreError as error:
                failed[catalogue.store.name] = error
        self._leave_out(failed, step)
        if not self._catalogues:
            raise all_failed(self.failed)

    def _leave_out(self, failed: dict[str, StoreError], step: str) -> None:
        for catalogue in [c for c in self._catalogues if c.store.name in failed]:
            self._catalogues.remove(catalogue)
            self._tell(catalogue, step, failed[catalogue.store.name])
        self.failed |= failed

    def _tell(self, catalogue: Catalogue, step: str, error: KopsError) -> None:
        failure = Failure(id=self.id, at=self._clock(), by=self._me, step=step, what=error.what, why=error.why)
        try:
            catalogue.fail(failure)
        except StoreError:
            return  # then the entry shows as broken off


def me(version: str) -> Maker:
    """Return who runs this program."""
    import getpass

    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = str(os.getuid())
    return Maker(user=user, host=socket.gethostname(), version=version)


def boot_id() -> str:
    """Return what tells this boot of this machine from all others; empty where there is no such thing."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def process_started(pid: int) -> int | None:
    """Return when a process began, in clock ticks after boot; None when there is none."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    # The name stands in parentheses and may hold anything; the start is field 22 (proc(5)).
    return int(text.rpartition(")")[2].split()[19])


def is_alive(begun: Begun) -> bool | None:
    """Whether the process that makes a backup lives; None on another machine, where nobody can tell."""
    if begun.by.host != socket.gethostname():
        return None
    if begun.boot_id != boot_id():
        return False
    started = process_started(begun.pid)
    if started is None and _is_hidden(begun.pid):
        return None
    return started is not None and started == begun.pid_started


def _is_hidden(pid: int) -> bool:
    """Whether there is a process of somebody else that /proc does not show (hidepid, systemd's ProtectProc)."""
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except OSError:
        return False
    return False


def file_chunks(path: Path, piece_bytes: int = 1024 * 1024) -> Iterator[bytes]:
    """Yield a file in pieces."""
    with path.open("rb", buffering=0) as stream:
        while data := stream.read(piece_bytes):
            yield data
