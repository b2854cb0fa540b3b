"""Snapshots of a real etcd through the room and back, into an etcd that starts from what came back."""

from __future__ import annotations

import os
import random
import subprocess
import time
from pathlib import Path

import pyrage
import pytest

from kops_py.backup.directory import DirectoryStore
from kops_py.backup.manifest import PartKind
from kops_py.backup.new import NewBackup, file_chunks
from kops_py.backup.proving import check_stored, read_part
from kops_py.model.backup import DirectoryStoreSpec
from kops_py.model.errors import BackupError, DamagedError
from tests.bundle import cached
from tests.fakes.stores import ME, SOURCE, Clock, catalogue_of, spec_of
from tests.integration.kube.binaries import find_binary
from tests.ports import free_port

IDENTITY = pyrage.x25519.Identity.generate()
KEY, SECRET = str(IDENTITY.to_public()), str(IDENTITY)


class Etcd:
    """One etcd process on the loopback address."""

    def __init__(self, folder: Path, data: Path, log: Path) -> None:
        self.etcdctl_path, self._etcd = folder / "etcdctl", folder / "etcd"
        self.client, peer = f"http://127.0.0.1:{free_port()}", f"http://127.0.0.1:{free_port()}"
        arguments = [
            f"--data-dir={data}", f"--listen-client-urls={self.client}", f"--advertise-client-urls={self.client}",
            f"--listen-peer-urls={peer}", "--unsafe-no-fsync",
        ]  # fmt: skip
        with log.open("wb") as out:
            self._process = subprocess.Popen([str(self._etcd), *arguments], stdout=out, stderr=out)
        until = time.monotonic() + 60
        while self.etcdctl("endpoint", "health", check=False).returncode:
            assert self._process.poll() is None, log.read_text()[-500:]
            assert time.monotonic() < until, log.read_text()[-500:]
            time.sleep(0.1)

    def etcdctl(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "ETCDCTL_API": "3", "ETCDCTL_ENDPOINTS": self.client}
        command = [str(self.etcdctl_path), *words]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=check, timeout=60)

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(20)


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    bundle = cached(())
    if bundle is None or not bundle.kubernetes_versions:
        pytest.skip("no Kubernetes bundle here: python -m tests.bundle makes one")
    work = tmp_path_factory.mktemp("etcd")
    return find_binary(bundle, bundle.kubernetes_versions[0], "etcd", "etcd", work).parent


@pytest.fixture(scope="module")
def saved(programs: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A snapshot of an etcd with 200 keys, and its database file as a plain copy."""
    work = tmp_path_factory.mktemp("saved")
    etcd = Etcd(programs, work / "data", work / "log")
    try:
        for number in range(200):
            etcd.etcdctl("put", f"/registry/canary/{number}", "x" * 500 + str(number))
        etcd.etcdctl("snapshot", "save", str(work / "snapshot.db"))
    finally:
        etcd.close()
    return work / "snapshot.db", work / "data" / "member" / "snap" / "db"


def test_a_snapshot_comes_back_and_etcd_starts_from_it(
    saved: tuple[Path, Path], programs: Path, tmp_path: Path
) -> None:
    clock = Clock()
    catalogue = catalogue_of(DirectoryStore(DirectoryStoreSpec("nas", tmp_path / "store")), clock)
    new = NewBackup([catalogue], spec_of(KEY, stall_s=20), recipients=[KEY], me=ME, clock=clock)
    new.begin()
    part = new.add(PartKind.SNAPSHOT, "cp1", file_chunks(saved[0]))
    manifest = new.finish(SOURCE)
    assert part.trailer
    check_stored(catalogue, manifest)
    with (tmp_path / "back.db").open("wb") as out:
        read_part(catalogue, manifest, manifest.snapshot, out.write, identities=[SECRET])
    restore = [str(programs / "etcdctl"), "snapshot", "restore", str(tmp_path / "back.db"), "--data-dir"]
    environment = {**os.environ, "ETCDCTL_API": "3"}
    subprocess.run([*restore, str(tmp_path / "data")], env=environment, check=True, capture_output=True, timeout=60)
    etcd = Etcd(programs, tmp_path / "data", tmp_path / "log")
    try:
        assert len(etcd.etcdctl("get", "--prefix", "/registry/canary/", "--keys-only").stdout.split()) == 200
        assert etcd.etcdctl("get", "/registry/canary/199", "--print-value-only").stdout.strip().endswith("x199")
    finally:
        etcd.close()


def test_a_copied_database_is_no_snapshot(saved: tuple[Path, Path], tmp_path: Path) -> None:
    clock = Clock()
    catalogue = catalogue_of(DirectoryStore(DirectoryStoreSpec("nas", tmp_path / "store")), clock)
    new = NewBackup([catalogue], spec_of(KEY, stall_s=20), recipients=[KEY], me=ME, clock=clock)
    new.begin()
    with pytest.raises(DamagedError, match="not whole"):
        new.add(PartKind.SNAPSHOT, "cp1", file_chunks(saved[1]))


def test_a_damaged_snapshot_is_never_stored(saved: tuple[Path, Path], tmp_path: Path) -> None:
    """What etcdctl would take without looking (snapshot status reads no hash) does not become a part."""
    clock, draw, whole = Clock(), random.Random(3), saved[0].read_bytes()
    catalogue = catalogue_of(DirectoryStore(DirectoryStoreSpec("nas", tmp_path / "store")), clock)
    for number in range(20):
        at = draw.randrange(len(whole))
        broken = whole[:at] if number % 2 else whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]
        new = NewBackup([catalogue], spec_of(KEY, stall_s=20), recipients=[KEY], me=ME, clock=clock)
        new.begin()
        with pytest.raises(BackupError):
            new.add(PartKind.SNAPSHOT, "cp1", [broken] if broken else [])
    assert not any("snapshot" in o.path for o in catalogue.store.objects("prod"))
