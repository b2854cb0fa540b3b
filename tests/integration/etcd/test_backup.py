"""A backup of real members over a real sshd into a folder, proven in a real scratch etcd, here and on the member."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from kops_py.actions import etcd_backup
from kops_py.actions.etcd_backup import Work, take
from kops_py.actions.etcd_proof import REMOTE_FOLDER, fetched_binaries, running_binaries
from kops_py.actions.etcd_proving import prove_restore, prove_taken
from kops_py.backup.catalogue import Catalogue, State
from kops_py.backup.directory import DirectoryStore
from kops_py.backup.new import is_alive, me
from kops_py.connect.base import Cancel, Host
from kops_py.connect.ssh import SshFleet
from kops_py.model.backup import BackupSpec, DirectoryStoreSpec, EncryptionSpec, Verify
from kops_py.model.errors import BackupError, DamagedError, EtcdError
from kops_py.observe.etcd import observe_etcd
from kops_py.runbooks.etcd import choose_member
from kops_py.tools import etcd_bundle
from tests.integration.etcd.members import Members

Make = Callable[..., Work]


def _keys() -> tuple[str, str]:
    import pyrage

    identity = pyrage.x25519.Identity.generate()
    return str(identity.to_public()), str(identity)


@pytest.fixture
def make(fleet: SshFleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """Put a backup's surroundings together; the bundle holds a small folder of the test's own."""
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "sa.key").write_text("a key")
    monkeypatch.setattr(etcd_bundle, "PATHS", (str(tmp_path / "files"),))
    monkeypatch.setattr(etcd_backup, "ROOTS", ())
    public, private = _keys()

    def work(*, stores: int = 1, can_read: bool = True) -> Work:
        specs = [DirectoryStoreSpec(f"s{n}", tmp_path / f"store{n}") for n in range(1, stores + 1)]
        for spec in specs:
            spec.path.mkdir(mode=0o700, exist_ok=True)
        who = me("0")
        catalogues = [
            Catalogue(DirectoryStore(s), "prod", me=who, clock=lambda: datetime.now(UTC), is_alive=is_alive)
            for s in specs
        ]
        return Work(
            cluster="prod",
            fleet=fleet,
            spec=BackupSpec(tuple(specs), EncryptionSpec((public,))),
            catalogues=catalogues,
            recipients=(public,),
            identities=(private,) if can_read else (),
            me=who,
            clock=lambda: datetime.now(UTC),
            scratch=tmp_path / "scratch",
            cancel=Cancel(),
        )

    return work


def _take(work: Work, members: Members, **options: Any) -> Any:
    facts = observe_etcd(work.fleet, members.targets(), alarms_and_quota=False)
    member = choose_member(facts)
    keep_plain = not work.identities
    return take(work, facts, member, ("n1",), keep_plain=keep_plain, timeout_s=60, **options)


def _states(work: Work) -> list[list[State]]:
    entries = [c.entries() for c in work.catalogues]
    print([[(e.id, e.state, e.why) for e in own] for own in entries])
    return [[e.state for e in own] for own in entries]


@pytest.mark.parametrize("can_read", [True, False], ids=["with-a-key", "public-key-only"])
def test_taken_proven_and_nothing_left(make: Make, one: Members, tmp_path: Path, can_read: bool) -> None:
    one.fill(10)
    work = make(stores=2, can_read=can_read)
    before = _files(one.folder)
    taken = _take(work, one)
    assert _states(work) == [[State.STORED], [State.STORED]]
    prove_taken(work, taken, Verify.RESTORE, None, ())
    taken.close()
    assert _states(work) == [[State.GOOD], [State.GOOD]]
    (entry,) = work.catalogues[0].entries()
    proof = max(entry.proofs, key=lambda p: p.at)
    assert proof.restored is not None
    assert proof.restored.revision == one.revision()
    assert proof.restored.key_count == 13
    assert [s.key for s in proof.restored.samples] == [
        "/registry/namespaces/kube-system",
        "/registry/configmaps/kube-system/kubeadm-config",
    ]
    assert entry.manifest is not None
    assert entry.manifest.source.member_id == proof.restored.member_id
    assert entry.manifest.snapshot.plain_size_bytes > 5_000_000
    assert _files(one.folder) == before, "something was written beside the member"
    assert list((tmp_path / "scratch" / "proof").iterdir()) == []
    for path in [*(tmp_path / "store1").rglob("*"), *(tmp_path / "scratch").rglob("*")]:
        assert not path.stat().st_mode & (stat.S_IRWXO | stat.S_IRWXG), path
        if path.is_file():
            assert b"kubeadm-config" not in path.read_bytes() or path.suffix == ".json", path


def test_a_follower_gives_the_snapshot_and_a_member_proves_it(make: Make, three: Members) -> None:
    work = make()
    facts = observe_etcd(work.fleet, three.targets())
    taken = _take(work, three)
    assert facts.leader is not None
    assert taken.manifest.source.member != facts.leader.name
    if os.geteuid() != 0:
        pytest.skip("the proof on a member is made as root")
    prove_taken(work, taken, Verify.RESTORE, work.fleet.host("n1"), ())
    assert _states(work) == [[State.GOOD]]
    assert list(Path(REMOTE_FOLDER).glob("proof.*")) == []


def test_the_members_programs_are_fetched_and_run_here(fleet: SshFleet, one: Members, tmp_path: Path) -> None:
    del one
    hosts: tuple[Host, ...] = (fleet.host("n1"),)
    found = fetched_binaries(hosts, "3.4.23", tmp_path / "etcd")
    assert found.version == "3.4.23"
    assert Path(found.etcd).parent == tmp_path / "etcd" / "3.4.23"
    assert stat.S_IMODE(Path(found.etcd).stat().st_mode) == 0o700
    assert fetched_binaries((), "3.4.23", tmp_path / "etcd") == found
    assert running_binaries(hosts[0]).etcd.startswith("/proc/")
    with pytest.raises(BackupError, match="on this machine to restore"):
        fetched_binaries(hosts, "3.5.1", tmp_path / "etcd")


def test_another_clusters_snapshot_is_refuted(make: Make, one: Members, tmp_path: Path) -> None:
    work = make()
    taken = _take(work, one)
    other = [s.__class__(s.key, s.mod_revision, "0" * 64) for s in taken.live]
    assert other
    with pytest.raises(DamagedError, match="not of this cluster"):
        prove_restore(work, work.catalogues, taken.manifest, on=None, hosts=(), live=other)
    assert _states(work) == [[State.DAMAGED]]


def test_a_member_that_is_gone_leaves_a_failed_entry_and_no_part(make: Make, one: Members, tmp_path: Path) -> None:
    work = make()
    facts = observe_etcd(work.fleet, one.targets())
    one.stop()
    with pytest.raises(EtcdError, match="sends no snapshot"):
        take(work, facts, facts.members[0], (), keep_plain=False, timeout_s=30)
    assert _states(work) == [[State.FAILED]]
    (entry,) = work.catalogues[0].entries()
    assert "snapshot from m1" in entry.why
    assert not list((tmp_path / "store1").rglob("snapshot*"))


def test_what_is_stored_is_read_back(make: Make, one: Members, tmp_path: Path) -> None:
    work = make(stores=2)
    taken = _take(work, one)
    stored = next((tmp_path / "store2").rglob("snapshot.db*"))
    data = bytearray(stored.read_bytes())
    data[len(data) // 2] ^= 1
    stored.chmod(0o600)
    stored.write_bytes(data)
    prove_taken(work, taken, Verify.RESTORE, None, ())
    assert _states(work) == [[State.GOOD], [State.DAMAGED]]
    assert [type(e) for e in taken.failed.values()] == [DamagedError]


def test_a_damaged_copy_in_the_first_store_leaves_the_others_good(make: Make, one: Members, tmp_path: Path) -> None:
    work = make(stores=2)
    taken = _take(work, one)
    prove_taken(work, taken, Verify.RESTORE, None, ())
    stored = next((tmp_path / "store1").rglob("snapshot.db*"))
    data = bytearray(stored.read_bytes())
    data[len(data) // 2] ^= 1
    stored.chmod(0o600)
    stored.write_bytes(data)
    with pytest.raises(DamagedError):
        prove_restore(work, work.catalogues, taken.manifest, on=None, hosts=())
    assert _states(work) == [[State.DAMAGED], [State.GOOD]]


def _files(folder: Path) -> set[str]:
    found = {str(p) for p in folder.rglob("*") if "/member/" not in str(p)}
    return found | {p.name for p in Path(tempfile.gettempdir()).iterdir() if p.suffix in (".db", ".part")}
