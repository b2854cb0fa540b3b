"""Which state a backup is in, at every moment of its life and whatever was done to its folder."""

import contextlib
import os
from dataclasses import replace
from datetime import timedelta

import pytest

from kops_py.backup import manifest as layout
from kops_py.backup.catalogue import Catalogue, Entry, State, find
from kops_py.backup.documents import seal, unseal
from kops_py.backup.manifest import Begun, Failure, Manifest, PartKind, ProofKind
from kops_py.backup.new import EXPIRES_S, NewBackup, boot_id, is_alive, process_started
from kops_py.backup.proving import check_restored, check_stored, proof_of, prove_checksum, restorable
from kops_py.backup.store import IsOver
from kops_py.model.errors import BackupError, DamagedError, ExitCode, StoreError
from tests.fakes.stores import (
    ME,
    RESTORED,
    SOURCE,
    Clock,
    MemoryStore,
    catalogue_of,
    make_backup,
    pieces,
    refuse,
    snapshot,
    spec_of,
)


class Killed(BaseException):
    """The process ends here."""


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def catalogue(store: MemoryStore, clock: Clock) -> Catalogue:
    return catalogue_of(store, clock)


def only(catalogue: Catalogue) -> Entry:
    (entry,) = catalogue.entries()
    return entry


def new_backup(catalogue: Catalogue, clock: Clock) -> NewBackup:
    me = replace(ME, host=os.uname().nodename)
    return NewBackup([catalogue], spec_of(), recipients=(), me=me, clock=clock)


def test_an_entry_from_the_first_second_to_good(catalogue: Catalogue, clock: Clock) -> None:
    new = new_backup(catalogue, clock)
    new.begin()
    entry = only(catalogue)
    assert (entry.state, entry.id) == (State.BEGUN, new.id)
    assert f"(pid {os.getpid()})" in entry.why
    new.add(PartKind.SNAPSHOT, "cp1", pieces(snapshot()))
    assert only(catalogue).state is State.BEGUN
    manifest = new.finish(SOURCE)
    assert (only(catalogue).state, only(catalogue).why) == (State.STORED, "not proven")
    prove_checksum(catalogue, manifest, me=ME, clock=clock)
    assert only(catalogue).state is State.STORED
    assert not only(catalogue).is_good
    stored = check_stored(catalogue, manifest)
    catalogue.add_proof(proof_of(manifest, ProofKind.RESTORE, stored, me=ME, at=clock(), restored=RESTORED))
    entry = only(catalogue)
    assert (entry.state, entry.is_good) == (State.GOOD, True)
    assert entry.manifest == manifest
    assert (proof := entry.proof(ProofKind.RESTORE)) is not None
    assert proof.restored == RESTORED
    assert restorable(entry, cluster_id=SOURCE.cluster_id) == manifest
    with pytest.raises(BackupError, match="of another etcd cluster"):
        restorable(entry, cluster_id="0")


def test_killed_before_every_single_write_it_is_never_good(clock: Clock) -> None:
    count = 0
    for stop in range(100):
        store, seen = MemoryStore(), 0
        catalogue = catalogue_of(store, clock)

        def before(verb: str, path: str, stop: int = stop) -> None:
            nonlocal seen
            if verb in ("put", "commit", "put_document"):
                seen += 1
                if seen > stop:
                    raise Killed

        store.before = before
        try:
            make_backup([catalogue], clock)
        except (Killed, StoreError):
            count += 1
        else:
            break
        store.before = lambda verb, path: None
        for entry in catalogue.entries():
            assert entry.state in (State.BEGUN, State.STORED, State.BROKEN_OFF, State.FAILED), entry
            with pytest.raises(BackupError):
                restorable(entry)
    assert count == 5  # begun, the part (before and after its bytes), the manifest, the proof


def test_a_process_that_is_gone_shows_at_once_and_one_elsewhere_after_a_while(
    catalogue: Catalogue, clock: Clock
) -> None:
    new = new_backup(catalogue, clock)
    new.begin()
    begun = only(catalogue).begun
    assert begun is not None
    here = replace(begun, pid=os.getpid(), pid_started=process_started(os.getpid()) or 0, boot_id=boot_id())
    assert is_alive(here) is True
    assert is_alive(replace(here, pid_started=1)) is False
    assert is_alive(replace(here, pid=2**22 + 1)) is False
    assert is_alive(replace(here, boot_id="another boot")) is False
    elsewhere = replace(here, by=ME)
    assert is_alive(elsewhere) is None
    catalogue.store.content[catalogue.path(new.id, layout.BEGUN)] = seal(elsewhere)  # type: ignore[attr-defined]
    assert only(catalogue).state is State.BEGUN
    clock.now += timedelta(seconds=EXPIRES_S)
    assert only(catalogue).state is State.BROKEN_OFF
    assert "not ended within" in only(catalogue).why


def test_a_failure_says_the_step(catalogue: Catalogue, clock: Clock) -> None:
    new = new_backup(catalogue, clock)
    new.begin()
    new.fail("save the snapshot", StoreError("the member went away", where="cp1", why="reset"))
    new.fail("again", StoreError("other", where="cp1"))
    entry = only(catalogue)
    assert (entry.state, entry.why) == (State.FAILED, "stopped at save the snapshot: the member went away")


def damaged(catalogue: Catalogue, store: MemoryStore, name: str, data: bytes | None) -> Entry:
    path = catalogue.path(only(catalogue).id, name)
    if data is None:
        del store.content[path]
    else:
        store.content[path] = data
    return only(catalogue)


def test_a_part_that_is_gone_or_cut(catalogue: Catalogue, store: MemoryStore, clock: Clock) -> None:
    manifest = make_backup([catalogue], clock)
    assert only(catalogue).is_good
    name = manifest.snapshot.file
    whole = store.content[catalogue.path(manifest.id, name)]
    assert damaged(catalogue, store, name, whole[:-1]).state is State.DAMAGED
    assert damaged(catalogue, store, name, None).state is State.DAMAGED
    store.content[catalogue.path(manifest.id, name)] = whole
    assert only(catalogue).is_good


def test_a_manifest_that_was_edited_or_is_another_ones(catalogue: Catalogue, store: MemoryStore, clock: Clock) -> None:
    one = make_backup([catalogue], clock)
    path = catalogue.path(one.id, layout.MANIFEST)
    whole = store.content[path]
    store.content[path] = whole.replace(b'"3.5.24"', b'"3.5.25"', 1)
    assert (only(catalogue).state, only(catalogue).is_good) == (State.DAMAGED, False)
    # With a digest of its own the edit is not the manifest that was proven.
    edited = replace(one, source=replace(SOURCE, etcd_version="3.5.25"))
    store.content[path] = seal(edited)
    assert only(catalogue).state is State.DAMAGED
    assert "a proof is there of another manifest" in only(catalogue).why
    assert only(catalogue).manifest is None, "nobody proves or restores it by that manifest"
    # That of another backup, or of another cluster.
    for other in (replace(one, id="20261125T120000Z-ffffffff"), replace(one, cluster="stage")):
        store.content[path] = seal(other)
        assert only(catalogue).state is State.DAMAGED
    store.content[path] = whole
    assert only(catalogue).is_good


@pytest.mark.parametrize(
    "change",
    [
        {"parts": ()},
        {"parts": "twice"},
        {"parts": "untrailed"},
        {"parts": "renamed"},
        {"parts": "hashless"},
        {"parts": "empty"},
    ],
)
def test_a_manifest_that_cannot_be_true(
    catalogue: Catalogue, store: MemoryStore, clock: Clock, change: dict[str, object]
) -> None:
    one = make_backup([catalogue], clock)
    part = one.snapshot
    parts = {
        (): (),
        "twice": (part, part),
        "untrailed": (replace(part, trailer=False),),
        "renamed": (replace(part, file="snapshot.db.zst.age"),),
        "hashless": (replace(part, stored_sha256="x"),),
        "empty": (replace(part, stored_size_bytes=0),),
    }[change["parts"]]  # type: ignore[index]
    store.content[catalogue.path(one.id, layout.MANIFEST)] = seal(replace(one, parts=parts))
    assert only(catalogue).state is State.DAMAGED


def test_a_proof_of_another_manifest_or_other_bytes_proves_nothing(
    catalogue: Catalogue, store: MemoryStore, clock: Clock
) -> None:
    one = make_backup([catalogue], clock, good=False)
    other = replace(one, stored_at=clock())
    right = {p.file: p.stored_sha256 for p in one.parts}
    for manifest, stored in (
        (one, {}),
        (one, {one.snapshot.file: "0" * 64}),
        (one, {**right, "x": ""}),
    ):
        proof = proof_of(manifest, ProofKind.RESTORE, stored, me=ME, at=clock(), restored=RESTORED)
        catalogue.add_proof(proof)
        assert only(catalogue).state is State.STORED
    with pytest.raises(ValueError, match="says what the scratch etcd answered"):
        proof_of(one, ProofKind.RESTORE, right, me=ME, at=clock())
    catalogue.add_proof(proof_of(other, ProofKind.RESTORE, right, me=ME, at=clock(), restored=RESTORED))
    assert only(catalogue).state is State.DAMAGED


def test_a_proof_that_failed_takes_good_away_until_a_newer_one_passes(
    catalogue: Catalogue, store: MemoryStore, clock: Clock
) -> None:
    one = make_backup([catalogue], clock)
    path = catalogue.path(one.id, one.snapshot.file)
    whole = store.content[path]
    store.content[path] = whole[:-1] + bytes([whole[-1] ^ 1])
    with pytest.raises(DamagedError, match="were changed") as caught:
        prove_checksum(catalogue, one, me=ME, clock=clock)
    assert caught.value.code is ExitCode.BACKUP
    assert only(catalogue).state is State.DAMAGED
    assert "checksum proof of" in only(catalogue).why
    with pytest.raises(DamagedError):
        restorable(only(catalogue))
    store.content[path] = whole
    assert only(catalogue).state is State.DAMAGED
    stored = check_stored(catalogue, one)
    catalogue.add_proof(proof_of(one, ProofKind.RESTORE, stored, me=ME, at=clock(), restored=RESTORED))
    assert only(catalogue).is_good


@pytest.mark.parametrize(
    "change",
    [{"revision": 99}, {"key_count": 0}, {"cluster_id": "1"}, {"member_id": "1"}],
)
def test_what_a_scratch_etcd_says_must_fit(catalogue: Catalogue, clock: Clock, change: dict[str, object]) -> None:
    one = make_backup([catalogue], clock, good=False)
    check_restored(one, RESTORED)
    with pytest.raises(DamagedError):
        check_restored(one, replace(RESTORED, **change))  # type: ignore[arg-type]


def test_what_others_put_into_the_store_is_not_ours(catalogue: Catalogue, store: MemoryStore, clock: Clock) -> None:
    store.content |= {"prod/notes.txt": b"x", "prod/old/manifest.json": b"x", "stage/x/manifest.json": b"x"}
    one = make_backup([catalogue], clock)
    assert [e.id for e in catalogue.entries()] == [one.id]
    store.content[catalogue.path(one.id, "README")] = b"mine"
    assert only(catalogue).foreign == ("README",)
    catalogue.delete(one.id, "test")
    assert catalogue.path(one.id, "README") in store.content


def killed_deletion(catalogue: Catalogue, store: MemoryStore, backup_id: str, stop: int) -> bool:
    """Delete, and end in front of change number ``stop``; False when it had fewer."""
    seen = 0

    def before(verb: str, path: str) -> None:
        nonlocal seen
        if verb in ("delete", "put_document"):
            seen += 1
            if seen > stop:
                raise Killed

    store.before = before
    try:
        catalogue.delete(backup_id, "test")
    except Killed:
        return True
    finally:
        store.before = lambda verb, path: None
    return False


def test_a_deletion_killed_anywhere_leaves_nothing_good_that_is_not_whole(clock: Clock) -> None:
    stop = 0
    while True:
        store = MemoryStore()
        catalogue = catalogue_of(store, clock)
        one = make_backup([catalogue], clock)
        whole = dict(store.content)
        if not killed_deletion(catalogue, store, one.id, stop):
            break
        for entry in catalogue.entries():
            assert entry.state is State.DELETING or (entry.is_good and store.content == whole)
        # Even if the marks were lost it would not be good: the manifest goes first.
        for path in [p for p in store.content if layout.is_deletion(p.rpartition("/")[2])]:
            del store.content[path]
        for entry in catalogue.entries():
            assert not entry.is_good or store.content == whole
        catalogue.delete(one.id, "again")
        assert not store.content
        stop += 1
    assert stop == 6
    assert not store.content


def test_a_keep_mark_set_at_any_moment_of_a_deletion_stops_it_or_is_refused(clock: Clock) -> None:
    """Another process keeps the backup between any two requests of a deletion: never kept and deleted both."""
    outcomes = {kept_at(moment, clock) for moment in range(20)}
    assert outcomes == {True, False}


def kept_at(moment: int, clock: Clock) -> bool:
    """Delete, and let another process set a keep mark before request number ``moment``; returns what it was told."""
    store, seen, kept = MemoryStore(), 0, False
    catalogue, other = catalogue_of(store, clock), catalogue_of(store, clock)
    one = make_backup([catalogue], clock)
    whole = len(store.content)

    def before(verb: str, path: str) -> None:
        nonlocal seen, kept
        seen += 1
        if seen == moment + 1:
            store.before = lambda verb, path: None
            with contextlib.suppress(BackupError):
                other.keep(one.id, "mine")
                kept = True

    store.before = before
    with contextlib.suppress(BackupError):
        catalogue.delete(one.id, "test")
    assert not kept or len(store.content) == whole + 1, moment
    return kept


def test_keep_and_unkeep(catalogue: Catalogue, clock: Clock) -> None:
    one = make_backup([catalogue], clock)
    catalogue.keep(one.id, "before the upgrade")
    catalogue.keep(one.id, "again")
    entry = only(catalogue)
    assert entry.keep is not None
    assert entry.keep.why == "before the upgrade"
    with pytest.raises(BackupError, match="has a keep mark"):
        catalogue.delete(one.id, "test")
    assert only(catalogue).is_good
    catalogue.unkeep(one.id)
    catalogue.unkeep(one.id)
    catalogue.delete(one.id, "test")
    assert catalogue.entries() == ()
    with pytest.raises(BackupError, match="there is no backup"):
        catalogue.keep(one.id, "late")


def test_a_proof_that_comes_too_late_leaves_nothing(catalogue: Catalogue, store: MemoryStore, clock: Clock) -> None:
    one = make_backup([catalogue], clock, good=False)
    stored = check_stored(catalogue, one)
    catalogue.delete(one.id, "test")
    with pytest.raises(BackupError, match="deleted while"):
        catalogue.add_proof(proof_of(one, ProofKind.RESTORE, stored, me=ME, at=clock(), restored=RESTORED))
    assert not store.content


def test_no_key_no_backup(catalogue: Catalogue, store: MemoryStore, clock: Clock) -> None:
    spec = spec_of("age1whatever")
    with pytest.raises(BackupError, match="no key to encrypt"):
        NewBackup([catalogue], spec, recipients=(), me=ME, clock=clock)
    assert not store.content


def test_a_store_that_fails_fails_alone(clock: Clock) -> None:
    for verb, ending in (
        ("prepare", ""),
        ("put_document", "begun.json"),
        ("commit", "zst"),
        ("put_document", "t.json"),
    ):
        good, bad = MemoryStore("good"), MemoryStore("bad")
        bad.before = refuse(verb, ending)
        catalogues = [catalogue_of(bad, clock), catalogue_of(good, clock)]
        new = NewBackup(catalogues, spec_of(), recipients=(), me=ME, clock=clock)
        new.begin()
        new.add(PartKind.SNAPSHOT, "cp1", pieces(snapshot()))
        manifest = new.finish(SOURCE)
        assert set(new.failed) == {"bad"}
        assert new.failed["bad"].code is ExitCode.BACKUP
        assert new.stores == ("good",)
        assert [e.state for e in catalogues[1].entries()] == [State.STORED]
        assert all(e.state is State.FAILED for e in catalogues[0].entries())
        bad.before = lambda verb, path: None
        assert [e.store for e in find(catalogues, manifest.id) if e.state is State.STORED] == ["good"]


def test_when_every_store_fails_the_backup_does(catalogue: Catalogue, store: MemoryStore, clock: Clock) -> None:
    store.before = refuse("commit", "zst")
    new = new_backup(catalogue, clock)
    new.begin()
    with pytest.raises(StoreError, match="refuses"):
        new.add(PartKind.SNAPSHOT, "cp1", pieces(snapshot()))
    assert only(catalogue).state is State.FAILED
    assert "store snapshot.db.zst" in only(catalogue).why


def test_a_snapshot_without_its_end_is_not_stored(catalogue: Catalogue, store: MemoryStore, clock: Clock) -> None:
    new = new_backup(catalogue, clock)
    new.begin()
    with pytest.raises(DamagedError, match="not whole"):
        new.add(PartKind.SNAPSHOT, "cp1", pieces(snapshot()[:-600]))
    assert [p for p in store.content if "snapshot" in p] == []
    assert isinstance(only(catalogue).manifest, Manifest | None)


def test_unreadable_documents_of_a_failure_do_not_hide_the_rest(
    catalogue: Catalogue, store: MemoryStore, clock: Clock
) -> None:
    one = make_backup([catalogue], clock)
    two = make_backup([catalogue], clock)
    failure = Failure(id=two.id, at=clock(), by=ME, step="x", what="y", why="")
    store.content[catalogue.path(two.id, layout.FAILED)] = seal(failure)[:-5]
    states = {e.id: e.state for e in catalogue.entries()}
    assert states == {one.id: State.GOOD, two.id: State.DAMAGED}


def test_a_backup_cleans_up_after_killed_ones_and_goes_on_when_it_cannot(
    catalogue: Catalogue, store: MemoryStore, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def clean(prefix: str, *, older_than_s: float, is_over: IsOver) -> tuple[str, ...]:
        asked.append((prefix, older_than_s))
        if len(asked) > 1:
            raise StoreError("cleaning up failed", where="memory", hint="a lifecycle rule does the same")
        return ("prod/x/.part.partial",)

    monkeypatch.setattr(store, "clean", clean)
    for words in ("memory (memory): removed prod/x/.part.partial, which", "memory: cleaning up failed; a lifecycle"):
        new = new_backup(catalogue, clock)
        new.begin()
        assert [note[: len(words)] for note in new.notes] == [words]
        assert not new.failed
    assert asked == [("prod", EXPIRES_S)] * 2


def test_what_a_dead_process_left_goes_at_once_and_what_may_live_after_its_time(
    catalogue: Catalogue, store: MemoryStore, clock: Clock
) -> None:
    gone, living, elsewhere = (new_backup(catalogue, clock) for _ in range(3))
    for new in (gone, living, elsewhere):
        new.begin()
        store.left[catalogue.path(new.id, "snapshot.db.zst")] = 60
    store.left[catalogue.path(gone.id, "proof-restore-00000000.json")] = 60  # of a process that proves it
    rewrite(catalogue, store, gone.id, pid_started=1)
    rewrite(catalogue, store, elsewhere.id, by=replace(ME, host="another"))
    store.left["prod/20260101T000000Z-00000000/snapshot.db.zst"] = 60  # nobody knows whose
    mine = new_backup(catalogue, clock)
    mine.begin()
    path = catalogue.path(gone.id, "snapshot.db.zst")
    assert mine.notes == [f"memory (memory): removed {path}, which a killed upload left"]
    assert len(store.left) == 4
    for left in store.left:
        store.left[left] = EXPIRES_S + 1
    new_backup(catalogue, clock).begin()
    assert store.left == {}


def rewrite(catalogue: Catalogue, store: MemoryStore, backup_id: str, **changes: object) -> None:
    """Change who is said to have begun a backup."""
    path = catalogue.path(backup_id, layout.BEGUN)
    store.content[path] = seal(replace(unseal(store.content[path], Begun, where=path), **changes))  # type: ignore[arg-type]
