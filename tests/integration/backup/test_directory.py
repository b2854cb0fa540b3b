"""The folder store on real file systems: full, read-only, and killed in the middle."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from kops_py.backup.catalogue import State
from kops_py.backup.directory import DirectoryStore
from kops_py.backup.manifest import PartKind
from kops_py.backup.new import NewBackup
from kops_py.model.backup import DirectoryStoreSpec
from kops_py.model.errors import ExitCode, StoreError
from tests.fakes.stores import ME, SOURCE, Clock, catalogue_of, make_backup, pieces, snapshot, spec_of
from tests.integration.disks import small_file_system

ID = "prod/20261125T120000Z-00000000"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MB."""
    with small_file_system(tmp_path / "disk", 4) as disk:
        yield disk


def noise(size_mb: int) -> Iterator[bytes]:
    for _ in range(size_mb):
        yield os.urandom(1 << 20)


def test_a_full_disk_is_said_and_older_backups_stay(small_disk: Path, tmp_path: Path) -> None:
    clock = Clock()
    full = catalogue_of(DirectoryStore(DirectoryStoreSpec("full", small_disk / "store")), clock)
    roomy = catalogue_of(DirectoryStore(DirectoryStoreSpec("roomy", tmp_path / "roomy")), clock)
    older = make_backup([full], clock)
    new = NewBackup([full, roomy], spec_of(stall_s=20), recipients=(), me=ME, clock=clock)
    new.begin()
    new.add(PartKind.BUNDLE, "cp1", noise(8))
    error = new.failed["full"]
    assert (error.code, error.why) == (ExitCode.BACKUP, "No space left on device")
    assert "df -h" in error.hint
    assert str(small_disk) in error.where
    new.add(PartKind.SNAPSHOT, "cp1", pieces(snapshot()))
    new.finish(SOURCE)
    states = {e.id: e.state for e in full.entries()}
    assert states == {older.id: State.GOOD, new.id: State.FAILED}
    assert "store bundle-cp1.tar.zst" in full.entry(new.id).why
    left = [p.name for p in (small_disk / "store" / "prod" / new.id).iterdir()]
    assert sorted(left) == ["begun.json", "failed.json"]
    assert roomy.entry(new.id).state is State.STORED


def test_alone_on_a_full_disk_the_backup_fails(small_disk: Path) -> None:
    clock = Clock()
    catalogue = catalogue_of(DirectoryStore(DirectoryStoreSpec("full", small_disk / "store")), clock)
    new = NewBackup([catalogue], spec_of(stall_s=20), recipients=(), me=ME, clock=clock)
    new.begin()
    with pytest.raises(StoreError, match="No space left"):
        new.add(PartKind.BUNDLE, "cp1", noise(8))
    assert catalogue.entry(new.id).state is State.FAILED


def test_a_mount_that_is_missing_is_not_written_beside(small_disk: Path, tmp_path: Path) -> None:
    mounted = DirectoryStore(DirectoryStoreSpec("nas", small_disk / "store", small_disk))
    mounted.prepare()
    assert mounted.objects("prod") == []
    (tmp_path / "mnt").mkdir()
    missing = DirectoryStore(DirectoryStoreSpec("nas", tmp_path / "mnt" / "store", tmp_path / "mnt"))
    for attempt in (missing.prepare, lambda: missing.objects("prod")):
        with pytest.raises(StoreError, match="nothing is mounted on"):
            attempt()
    assert list((tmp_path / "mnt").iterdir()) == []


def test_a_disk_that_is_read_only(small_disk: Path) -> None:
    clock = Clock()
    store = DirectoryStore(DirectoryStoreSpec("ro", small_disk / "store"))
    catalogue = catalogue_of(store, clock)
    older = make_backup([catalogue], clock)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(StoreError, match="Read-only file system") as caught:
        store.prepare()
    assert "must be able to write" in caught.value.hint
    assert catalogue.entry(older.id).is_good
    with pytest.raises(StoreError, match="Read-only"):
        catalogue.delete(older.id, "test")
    assert catalogue.entry(older.id).is_good


WRITER = """
import sys
from pathlib import Path
from kops_py.backup.manifest import PartKind
from kops_py.backup.directory import DirectoryStore
from kops_py.backup.new import NewBackup, is_alive, me
from kops_py.backup.catalogue import Catalogue
from kops_py.model.backup import DirectoryStoreSpec
from tests.fakes.stores import Clock, spec_of
who, clock = me("0"), Clock()
store = DirectoryStore(DirectoryStoreSpec("d", Path(sys.argv[1])))
catalogue = Catalogue(store, "prod", me=who, clock=clock, is_alive=is_alive)
new = NewBackup([catalogue], spec_of(stall_s=60), recipients=(), me=who, clock=clock)
new.begin()
def source():
    for number in range(1000):
        if number == 20:
            print(new.id, flush=True)
            sys.stdin.read()
        yield bytes(1 << 20)
new.add(PartKind.SNAPSHOT, "cp1", source())
"""


def test_a_writer_that_is_killed_shows_as_broken_off_at_once(tmp_path: Path) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(WRITER), str(tmp_path / "store")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).resolve().parents[3],
    )
    assert child.stdout is not None
    assert child.stdin is not None
    backup_id = child.stdout.readline().decode().strip()
    clock = Clock()
    store = DirectoryStore(DirectoryStoreSpec("d", tmp_path / "store"))
    catalogue = catalogue_of(store, clock)
    assert catalogue.entry(backup_id).state is State.BEGUN
    child.send_signal(signal.SIGKILL)
    child.wait(10)
    child.stdin.close()
    child.stdout.close()
    entry = catalogue.entry(backup_id)
    assert entry.state is State.BROKEN_OFF
    assert "is gone" in entry.why
    assert [o.path for o in store.objects("prod")] == [f"prod/{backup_id}/begun.json"]
    assert len(catalogue.clean(older_than_s=10**9)) == 1, "its process is known to be gone"
    catalogue.delete(backup_id, "test")
    assert catalogue.entries() == ()
    assert list((tmp_path / "store" / "prod").iterdir()) == []
