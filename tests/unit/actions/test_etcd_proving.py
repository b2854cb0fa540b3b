"""Proving a backup in several stores: what speaks against one copy, and what against all of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from kops_py.actions import etcd_proving
from kops_py.actions.etcd_backup import Taken, Work
from kops_py.actions.etcd_proving import prove_checksums, prove_each, prove_restore, prove_taken
from kops_py.backup.catalogue import Catalogue, State
from kops_py.backup.manifest import Manifest
from kops_py.connect.base import Cancel
from kops_py.model.backup import Verify
from kops_py.model.errors import BackupError, DamagedError, StoreError
from kops_py.model.etcd import KeySample, SnapshotContents
from kops_py.tools.etcd_proof import KUBEADM_CONFIG, NAMESPACE, EtcdBinaries
from tests.fakes.ssh import FakeFleet
from tests.fakes.stores import ME, SOURCE, Clock, MemoryStore, catalogue_of, make_backup, refuse, snapshot, spec_of

UID, OTHER_UID = "3f9a2c1d-0d0a-4f7b-9c55-1c8a4b0f6f0e", "77777777-0d0a-4f7b-9c55-1c8a4b0f6f0e"
SAMPLES = (KeySample(NAMESPACE, 5, "0" * 64), KeySample(KUBEADM_CONFIG, 7, "1" * 64))
CONTENTS = SnapshotContents(
    revision=120, total_keys=1000, live_keys=900, size_bytes=4096, hash=1, etcd_version="3.5.24",
    member_ids=(SOURCE.member_id,), namespaces=("default", "kube-system"), cluster_uid=UID, samples=SAMPLES,
)  # fmt: skip


class Scratch:
    """Stands for the scratch etcd: takes the whole of a snapshot, and says what is asked of it."""

    def __init__(self) -> None:
        self.contents = CONTENTS
        self.error: Exception | None = None
        self.taken: list[bytes] = []

    def __call__(self, source: BinaryIO, binaries: EtcdBinaries, folder: Path, **_: Any) -> SnapshotContents:
        if self.error is not None:
            raise self.error
        data = b"".join(iter(lambda: source.read(1 << 20), b""))
        self.taken.append(data)
        return self.contents


@pytest.fixture
def scratch(monkeypatch: pytest.MonkeyPatch) -> Scratch:
    made = Scratch()
    monkeypatch.setattr(etcd_proving, "local_binaries", lambda version: EtcdBinaries("e", "c", "t", version))
    monkeypatch.setattr(etcd_proving, "prove_here", made)
    return made


@dataclasses.dataclass
class Bed:
    """Stores, their catalogues and the work with them; ``told`` is what was said."""

    stores: list[MemoryStore]
    catalogues: list[Catalogue]
    clock: Clock
    work: Work
    told: list[str]

    def states(self, manifest: Manifest) -> list[State]:
        return [c.entry(manifest.id).state for c in self.catalogues]

    def why(self, manifest: Manifest) -> list[str]:
        return [c.entry(manifest.id).why for c in self.catalogues]

    def prove(self, manifest: Manifest, live: Sequence[KeySample] = (), **options: Any) -> SnapshotContents:
        return prove_restore(self.work, self.catalogues, manifest, on=None, hosts=(), live=live, **options)

    def rot(self, number: int, manifest: Manifest) -> None:
        """Change a bit in the snapshot in one store."""
        path = self.catalogues[number].path(manifest.id, manifest.snapshot.file)
        data = bytearray(self.stores[number].content[path])
        data[len(data) // 2] ^= 1
        self.stores[number].content[path] = bytes(data)


@pytest.fixture
def bed(tmp_path: Path, scratch: Scratch) -> Bed:
    clock, told = Clock(), list[str]()
    stores = [MemoryStore("a"), MemoryStore("b")]
    catalogues = [catalogue_of(store, clock) for store in stores]
    work = Work(
        cluster="prod", fleet=FakeFleet({}), spec=spec_of(), catalogues=catalogues, recipients=(), identities=(), me=ME,
        clock=clock, scratch=tmp_path, cancel=Cancel(), tell=told.append,
    )  # fmt: skip
    return Bed(stores, catalogues, clock, work, told)


def test_a_good_backup_is_good_in_every_store(bed: Bed, scratch: Scratch) -> None:
    manifest = make_backup(bed.catalogues, bed.clock, good=False)
    assert bed.prove(manifest) == CONTENTS
    assert bed.states(manifest) == [State.GOOD, State.GOOD]
    assert scratch.taken == [snapshot()]


@pytest.mark.parametrize("before", [True, False], ids=["it was good", "just stored"])
def test_bit_rot_in_the_first_store_condemns_that_copy_only(bed: Bed, scratch: Scratch, before: bool) -> None:
    manifest = make_backup(bed.catalogues, bed.clock, good=before)
    bed.rot(0, manifest)
    with pytest.raises(DamagedError):
        bed.prove(manifest)
    assert bed.states(manifest) == [State.DAMAGED, State.GOOD]
    assert scratch.taken == [snapshot()], "what was restored is the second store's"


def test_bit_rot_in_the_second_store_is_found_by_reading_it_back(bed: Bed) -> None:
    manifest = make_backup(bed.catalogues, bed.clock, good=False)
    bed.rot(1, manifest)
    with pytest.raises(DamagedError, match="stored bytes"):
        bed.prove(manifest)
    assert bed.states(manifest) == [State.GOOD, State.DAMAGED]


def test_rot_in_every_store_is_told_of_each(bed: Bed, scratch: Scratch) -> None:
    manifest = make_backup(bed.catalogues, bed.clock)
    bed.rot(0, manifest)
    bed.rot(1, manifest)
    with pytest.raises(DamagedError):
        bed.prove(manifest)
    assert bed.states(manifest) == [State.DAMAGED, State.DAMAGED]
    assert scratch.taken == []


def test_rot_where_the_keys_are_named_is_no_missing_key(bed: Bed) -> None:
    import pyrage

    identity = pyrage.x25519.Identity.generate()
    bed.work.identities = (str(identity),)
    manifest = make_backup(bed.catalogues, bed.clock, str(identity.to_public()), good=False)
    path = bed.catalogues[0].path(manifest.id, manifest.snapshot.file)
    head, arrow, rest = bed.stores[0].content[path].partition(b"-> X25519 ")
    assert arrow
    bed.stores[0].content[path] = head + arrow + (b"A" if rest[:1] != b"A" else b"B") + rest[1:]
    with pytest.raises(BackupError):
        bed.prove(manifest)
    assert bed.states(manifest) == [State.DAMAGED, State.GOOD]
    bed.work.identities = (str(pyrage.x25519.Identity.generate()),)
    other = make_backup(bed.catalogues, bed.clock, str(identity.to_public()), good=False)
    with pytest.raises(BackupError, match="private keys"):
        bed.prove(other)
    assert bed.states(other) == [State.STORED, State.STORED], "a key that does not fit says nothing about the copies"


def test_a_store_that_gives_nothing_back_leaves_the_others_proven(bed: Bed) -> None:
    manifest = make_backup(bed.catalogues, bed.clock, good=False)
    bed.stores[0].before = refuse("get_document", manifest.snapshot.file)
    with pytest.raises(StoreError):
        bed.prove(manifest)
    assert bed.states(manifest) == [State.STORED, State.GOOD]


def test_what_is_wrong_inside_condemns_every_copy_of_these_bytes(bed: Bed, scratch: Scratch) -> None:
    manifest = make_backup(bed.catalogues, bed.clock)
    scratch.contents = dataclasses.replace(CONTENTS, revision=99)
    bed.rot(1, manifest)
    with pytest.raises(DamagedError, match="not what the manifest says"):
        bed.prove(manifest)
    assert bed.states(manifest) == [State.DAMAGED, State.DAMAGED]
    first, second = bed.why(manifest)
    assert "revision 99 is below 100" in first
    assert "stored bytes were changed" in second, "of other bytes nobody knows what is inside"


def test_a_store_that_cannot_be_read_is_not_condemned_for_what_is_inside_another(bed: Bed, scratch: Scratch) -> None:
    manifest = make_backup(bed.catalogues, bed.clock)
    scratch.contents = dataclasses.replace(CONTENTS, revision=99)
    bed.stores[1].before = refuse("get_document", manifest.snapshot.file)
    with pytest.raises(DamagedError):
        bed.prove(manifest)
    assert bed.states(manifest) == [State.DAMAGED, State.GOOD]


def test_a_scratch_etcd_that_does_not_start_says_nothing_about_the_copies(bed: Bed, scratch: Scratch) -> None:
    manifest = make_backup(bed.catalogues, bed.clock)
    scratch.error = BackupError("the restored etcd does not start")
    with pytest.raises(BackupError, match="does not start"):
        bed.prove(manifest)
    assert bed.states(manifest) == [State.GOOD, State.GOOD]


def test_a_store_that_takes_no_refutation_stops_nothing(bed: Bed) -> None:
    manifest = make_backup(bed.catalogues, bed.clock)
    bed.rot(0, manifest)
    bed.stores[0].before = refuse("put_document")
    with pytest.raises(DamagedError):
        bed.prove(manifest)
    assert any("cannot be recorded" in line for line in bed.told)
    proofs = bed.catalogues[1].entry(manifest.id).proofs
    assert [p.passed for p in proofs] == [True, True]


def test_where_a_backup_just_taken_is_not_proven_is_kept_for_the_end(bed: Bed) -> None:
    manifest = make_backup(bed.catalogues, bed.clock, good=False)
    bed.rot(1, manifest)
    down = StoreError("the server went away")
    taken = Taken(manifest, SAMPLES, stores=("a", "b"), failed={"c": down})
    prove_taken(bed.work, taken, Verify.RESTORE, None, ())
    assert [(name, type(e)) for name, e in taken.failed.items()] == [("c", StoreError), ("b", DamagedError)]
    bed.rot(0, manifest)
    with pytest.raises(DamagedError):
        prove_taken(bed.work, Taken(manifest, (), stores=("a", "b")), Verify.RESTORE, None, ())


def test_a_checksum_of_one_store_does_not_keep_the_others_from_theirs(bed: Bed) -> None:
    manifest = make_backup(bed.catalogues, bed.clock, good=False)
    bed.rot(0, manifest)
    assert list(prove_checksums(bed.work, bed.catalogues, manifest)) == ["a"]
    assert bed.why(manifest)[1] == "its checksum was proven, a restore was not"


def test_a_snapshot_of_another_cluster_is_no_copy_of_this_one(bed: Bed) -> None:
    manifest = make_backup(bed.catalogues, bed.clock, good=False)
    other = dataclasses.replace(SAMPLES[0], value_sha256="9" * 64)
    with pytest.raises(DamagedError, match="not of this cluster"):
        prove_each(bed.work, bed.catalogues, manifest, on=None, hosts=(), live=(other,))
    assert bed.states(manifest) == [State.DAMAGED, State.DAMAGED]


def another(scratch: Scratch, uid: str = OTHER_UID) -> None:
    scratch.contents = dataclasses.replace(CONTENTS, cluster_uid=uid)


def test_a_backup_of_a_cluster_that_began_anew_is_not_good(bed: Bed, scratch: Scratch) -> None:
    first = make_backup(bed.catalogues, bed.clock, good=False)
    bed.prove(first)
    second = make_backup(bed.catalogues, bed.clock, good=False)
    another(scratch)
    with pytest.raises(BackupError, match="began anew") as caught:
        bed.prove(second)
    assert OTHER_UID in caught.value.why
    assert first.id in caught.value.why
    assert f"verify {second.id} --new-cluster" in caught.value.hint
    assert bed.states(second) == [State.DAMAGED, State.DAMAGED]
    assert "began anew" in bed.why(second)[0]
    another(scratch, UID)
    third = make_backup(bed.catalogues, bed.clock, good=False)
    bed.prove(third)
    assert bed.states(third) == bed.states(first) == [State.GOOD, State.GOOD]


def test_each_store_is_asked_for_its_own_cluster(bed: Bed, scratch: Scratch) -> None:
    first = make_backup(bed.catalogues[:1], bed.clock, good=False)
    prove_restore(bed.work, bed.catalogues[:1], first, on=None, hosts=())
    another(scratch)
    second = make_backup(bed.catalogues, bed.clock, good=False)
    _, failed = prove_each(bed.work, bed.catalogues, second, on=None, hosts=())
    assert list(failed) == ["a"]
    assert bed.states(second) == [State.DAMAGED, State.GOOD]


def test_a_new_cluster_that_is_meant_is_good_from_then_on(bed: Bed, scratch: Scratch) -> None:
    first = make_backup(bed.catalogues, bed.clock, good=False)
    bed.prove(first)
    another(scratch)
    second, third = (make_backup(bed.catalogues, bed.clock, good=False) for _ in range(2))
    with pytest.raises(BackupError):
        bed.prove(second)
    bed.prove(second, new_cluster=True)
    bed.prove(second)  # a drill, which knows of no such option
    bed.prove(third)
    another(scratch, UID)
    bed.prove(first)
    assert [bed.states(m) for m in (first, second, third)] == [[State.GOOD, State.GOOD]] * 3


def test_proofs_that_name_no_cluster_refuse_none(bed: Bed, scratch: Scratch) -> None:
    make_backup(bed.catalogues, bed.clock)  # proven before the cluster was recorded
    second = make_backup(bed.catalogues, bed.clock, good=False)
    bed.prove(second)
    another(scratch, "")  # encrypted at rest: nobody can tell
    third = make_backup(bed.catalogues, bed.clock, good=False)
    bed.prove(third)
    another(scratch)
    fourth = make_backup(bed.catalogues, bed.clock, good=False)
    with pytest.raises(BackupError, match="began anew") as caught:
        bed.prove(fourth)
    assert second.id in caught.value.why, "the newest that says which cluster it is of"


@pytest.mark.parametrize("key", [NAMESPACE, KUBEADM_CONFIG])
def test_an_etcd_without_what_kubeadm_made_is_never_good(bed: Bed, scratch: Scratch, key: str) -> None:
    manifest = make_backup(bed.catalogues, bed.clock, good=False)
    scratch.contents = dataclasses.replace(CONTENTS, samples=tuple(s for s in SAMPLES if s.key != key))
    for new_cluster in (False, True):
        with pytest.raises(DamagedError, match="no cluster of kubeadm") as caught:
            bed.prove(manifest, new_cluster=new_cluster)
        assert key in caught.value.why
    assert bed.states(manifest) == [State.DAMAGED, State.DAMAGED]
