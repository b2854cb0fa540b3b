"""Backups of real etcds in a store, each damaged again and again: what ``etcd verify`` and ``etcd restore`` say."""

from __future__ import annotations

import os
import random
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest

from kops_py.actions import etcd_backup
from kops_py.actions.etcd_backup import Work, take
from kops_py.actions.etcd_proof import local_binaries, prove_here
from kops_py.actions.etcd_proving import prove_restore, prove_taken
from kops_py.app.etcd_restore_source import read_snapshot
from kops_py.backup.catalogue import Catalogue
from kops_py.backup.directory import DirectoryStore
from kops_py.backup.manifest import Manifest
from kops_py.backup.new import is_alive, me
from kops_py.backup.proving import provable, read_part, restorable
from kops_py.backup.stream import TrailerHash
from kops_py.connect.base import Cancel
from kops_py.connect.ssh import SshFleet
from kops_py.model.backup import BackupSpec, DirectoryStoreSpec, EncryptionSpec, SigningSpec, Verify
from kops_py.model.errors import BackupError, KopsError
from kops_py.observe.etcd import observe_etcd
from kops_py.runbooks.etcd import choose_member
from tests.fakes.etcd_load import Loader, objects_of_a_cluster
from tests.integration.etcd import damage
from tests.integration.etcd.damage import Damage, Files, Given
from tests.integration.etcd.members import Members
from tests.unit.backup.test_signing import key_pair

NONE_REFUSED = "nothing"


def _age_keys() -> tuple[str, str]:
    import pyrage

    identity = pyrage.x25519.Identity.generate()
    return str(identity.to_public()), str(identity)


AGE_PUBLIC, AGE_PRIVATE = _age_keys()
SIGN_PRIVATE, SIGN_PUBLIC = key_pair()


@dataclass
class Kept:
    """A store with backups of one kind (encrypted or not, signed or not), and what is done to one of them."""

    work: Work
    given: Given
    manifest: Manifest
    plain: bytes
    signed: bool

    @property
    def catalogue(self) -> Catalogue:
        return self.work.catalogues[0]

    @property
    def folder(self) -> Path:
        spec = self.work.spec.stores[0]
        assert isinstance(spec, DirectoryStoreSpec)
        return spec.path / self.catalogue.folder(self.manifest.id)

    def lay(self, files: Files) -> None:
        """Make the folder hold exactly these objects."""
        shutil.rmtree(self.folder)
        self.folder.mkdir(mode=0o700)
        for name, data in files.items():
            (self.folder / name).write_bytes(data)

    def verify(self) -> str:
        """Do what ``etcd verify`` does; returns who refused it."""
        entries = self.catalogue.entries()
        own = [e for e in entries if e.id == self.manifest.id]
        try:
            manifest, _ = provable(self.manifest.id, own)
            prove_restore(self.work, [self.catalogue], manifest, on=None, hosts=(), new_cluster=True)
        except KopsError as error:
            return who(error)
        return NONE_REFUSED if self.catalogue.entry(self.manifest.id).is_good else "its documents"

    def read_back(self) -> str:
        """Do what ``etcd restore`` does before it touches anything; returns who refused it."""
        with tempfile.TemporaryDirectory(dir=self.folder.parents[2]) as folder:
            place = Path(folder) / "snapshot.db"
            try:
                manifest = restorable(self.catalogue.entry(self.manifest.id))
                with place.open("wb") as file:
                    read_part(self.catalogue, manifest, manifest.snapshot, file.write, identities=self.work.identities)
                read_snapshot(place)
            except KopsError as error:
                return who(error)
            return NONE_REFUSED


WHO = {
    "there is no such object": "it is not there",
    "there is no backup": "it is not there",
    "cannot be proven": "its documents",
    "is not restored": "its state",
    "stored bytes": "the hash of what is stored",
    "plain bytes": "the hash of the plain bytes",
    "not the one that was written": "the manifest read back",
    "cannot be decrypted": "age",
    "private keys": "age",
    "not what its name says": "the label inside",
    "not made by kops-py": "the label inside",
    "decompressed": "zstd",
    "ends too early": "zstd",
    "not whole": "etcd's own hash",
    "damaged or cut off": "etcd's own hash",
    "no snapshot of etcd": "our reader of the database",
    "cannot be restored": "etcd's restore",
    "cannot be read": "etcd's snapshot status",
    "does not start": "the scratch etcd",
    "did not answer": "the scratch etcd",
    "proof was ended": "the scratch etcd",
    "restored etcd is empty": "the questions to the scratch etcd",
    "not understood": "the questions to the scratch etcd",
    "not what the manifest says": "the questions to the scratch etcd",
    "on this machine to restore": "no programs of that version",
    "holds more": "the size in the manifest",
}


def who(error: KopsError) -> str:
    assert isinstance(error, BackupError), repr(error)
    found = next((name for words, name in WHO.items() if words in error.what), None)
    assert found is not None, f"who is this? {error.what} ({error.why})"
    return found


@contextmanager
def two_clusters(folder: Path, programs: Path | None = None) -> Iterator[tuple[Members, Members]]:
    """Two real etcds with what kubeadm clusters hold: history, deletions, a compaction; not the same objects."""
    made = []
    for seed in (1, 2):
        members = Members(folder / f"etcd{seed}", programs=programs)
        members.start()
        members.cluster_keys(f"{seed}f9a2c1d-0d0a-4f7b-9c55-1c8a4b0f6f0e")
        own = members.credentials
        loader = Loader(members.endpoint(), own.ca, own.cert, own.key)
        objects = list(objects_of_a_cluster(seed, 600))
        for key, value in objects:
            loader.put(key, value)
        loader.compact(400)
        for key, value in objects[::3]:
            loader.put(key, value[::-1])
        for key, _ in objects[::7]:
            loader.delete(key)
        loader.close()
        made.append(members)
    yield made[0], made[1]
    for members in made:
        members.stop()


Make = Callable[..., Kept]


def maker(clusters: tuple[Members, Members], fleet: SshFleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """Return what makes a store with three proven backups: an older one, another cluster's, and the one to damage."""
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "sa.key").write_text("a key" * 400)
    monkeypatch.setattr(etcd_backup, "ROOTS", (str(tmp_path / "files"),))

    def back_up(work: Work, members: Members) -> tuple[Manifest, Files, bytes]:
        facts = observe_etcd(work.fleet, members.targets(), alarms_and_quota=False)
        taken = take(work, facts, choose_member(facts), ("n1",), keep_plain=False, timeout_s=120)
        prove_taken(work, taken, Verify.RESTORE, None, (), new_cluster=True)  # two clusters in one store
        catalogue, manifest, plain = work.catalogues[0], taken.manifest, bytearray()
        assert catalogue.entry(manifest.id).is_good
        read_part(catalogue, manifest, manifest.snapshot, plain.extend, identities=work.identities)
        prefix = catalogue.folder(manifest.id)
        files = {o.path.rpartition("/")[2]: b"".join(catalogue.store.chunks(o.path))
                 for o in catalogue.store.objects(prefix)}  # fmt: skip
        return manifest, files, bytes(plain)

    def kept(*, encrypted: bool, signed: bool) -> Kept:
        store = DirectoryStoreSpec("s", tmp_path / f"store-{encrypted}-{signed}")
        recipients = (AGE_PUBLIC,) if encrypted else ()
        trusted = (SIGN_PUBLIC,) if signed else ()
        spec = BackupSpec((store,), EncryptionSpec(recipients, required=encrypted), SigningSpec(trusted))
        who = me("0")
        catalogue = Catalogue(
            DirectoryStore(store), "prod", me=who, clock=lambda: datetime.now(UTC), is_alive=is_alive,
            trusted=trusted,
        )  # fmt: skip
        work = Work(
            cluster="prod", fleet=fleet, spec=spec, catalogues=[catalogue], recipients=recipients,
            identities=(AGE_PRIVATE,) if encrypted else (), me=who, clock=lambda: datetime.now(UTC),
            scratch=tmp_path / "scratch", cancel=Cancel(), signing_key=SIGN_PRIVATE if signed else None,
        )  # fmt: skip
        _, older, _ = back_up(work, clusters[0])
        clusters[0].put("/registry/configmaps/kube-system/newer", os.urandom(500))
        _, foreign, foreign_plain = back_up(work, clusters[1])
        manifest, own, plain = back_up(work, clusters[0])
        given = Given(own, older, foreign, foreign_plain, None if encrypted else plain, recipients)
        return Kept(work, given, manifest, plain, signed)

    return kept


def tally(table: Counter[tuple[str, str]], title: str) -> None:
    print(f"\n{title}")
    for (kind, refused), count in sorted(table.items()):
        print(f"  {kind:28} {count:4}  refused by {refused}")


def run(kept: Kept, kinds: tuple[Damage, ...], rounds: int, draw: random.Random) -> Counter[tuple[str, str]]:
    """Damage the backup again and again; returns kind and who refused it, or that nothing did."""
    table: Counter[tuple[str, str]] = Counter()
    for number in range(rounds):
        kind = kinds[number % len(kinds)]
        files = kind(draw, kept.given)
        assert files != kept.given.own, kind
        kept.lay(files)
        by = kept.verify()
        if kept.read_back() == NONE_REFUSED or kept.catalogue.entry(kept.manifest.id).is_good:
            by = NONE_REFUSED  # whatever was said before: in the end it is named good, or can be restored
        table[kind.__name__.replace("_", " "), by] += 1
    kept.lay(kept.given.own)
    assert kept.read_back() == kept.verify() == NONE_REFUSED, "and what is not damaged is good as before"
    return table


def refused_all(table: Counter[tuple[str, str]]) -> bool:
    return all(refused != NONE_REFUSED for _, refused in table)


def run_raw(
    plain: bytes, folder: Path, rounds: int, draw: random.Random, version: str = "3.4.23"
) -> Counter[tuple[str, str]]:
    """Give damaged snapshot files straight to the scratch etcd; what that takes must be refused by etcd's hash.

    The hash is read while a snapshot streams (``TrailerHash``), so the scratch etcd does not reckon it once more.
    """
    binaries = local_binaries(version)
    assert binaries is not None
    table: Counter[tuple[str, str]] = Counter()
    for number in range(rounds):
        kind = damage.RAW[number % len(damage.RAW)]
        data = kind(draw, plain)
        assert data != plain
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(data)
            file.seek(0)
            try:
                prove_here(file, binaries, folder / "proof", size_bytes=len(data))
            except BackupError as error:
                table[kind.__name__.replace("_", " "), who(error)] += 1
            else:
                hashed = TrailerHash()
                hashed.update(data)
                by = NONE_REFUSED if hashed.is_whole else "etcd's hash at its end"
                table[kind.__name__.replace("_", " "), by] += 1
    return table
