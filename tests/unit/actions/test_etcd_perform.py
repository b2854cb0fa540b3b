"""What a backup's steps do when etcd or a store is no longer as it was when they were planned."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from kops_py.actions import etcd_perform
from kops_py.actions.etcd_backup import Taken, Work
from kops_py.actions.etcd_perform import BackupPerformer, prune
from kops_py.backup.catalogue import Catalogue
from kops_py.connect.base import Cancel
from kops_py.engine.journal import Journal
from kops_py.engine.run import Engine, Outcome, StepContext
from kops_py.model.actions import ProveBackup, PruneBackups, TakeBackup
from kops_py.model.backup import RetentionPolicy
from kops_py.model.errors import DamagedError, EtcdError, ExitCode, StoreError
from kops_py.model.etcd import EtcdFacts
from kops_py.model.event import StepProgress
from kops_py.model.plan import Action, Plan, Step, Wave
from kops_py.model.status import EtcdMember
from tests.fakes.ssh import FakeFleet
from tests.fakes.stores import ME, Clock, MemoryStore, catalogue_of, make_backup, refuse, spec_of

TAKE = TakeBackup("n2", (), ("a", "b"), False)


def context(action: Action, told: list[str] | None = None) -> StepContext:
    def emit(event: object) -> None:
        if told is not None and isinstance(event, StepProgress):
            told.append(event.message)

    return StepContext(Step("s", "", "a step", action, 60.0), Cancel(), emit, time.monotonic() + 60)


def member(number: int, revision: int = 1000, **changes: Any) -> EtcdMember:
    values: dict[str, Any] = {
        "name": f"n{number}", "member_id": number, "endpoint": f"https://10.0.0.{number}:2379", "healthy": True,
        "version": "3.5.24", "revision": revision, "is_leader": number == 1, "host": f"n{number}",
    }  # fmt: skip
    return EtcdMember(**{**values, **changes})


class Bed:
    """Two stores with a performer; ``looks`` is what each look at etcd finds, one after the other."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.clock, self.looks, self.sources = Clock(), list[EtcdFacts](), list[EtcdMember]()
        self.stores = [MemoryStore("a"), MemoryStore("b")]
        self.catalogues: list[Catalogue] = [catalogue_of(s, self.clock) for s in self.stores]
        self.work = Work(
            cluster="prod", fleet=FakeFleet({}), spec=spec_of(), catalogues=self.catalogues, recipients=(),
            identities=(), me=ME, clock=self.clock, scratch=folder, cancel=Cancel(),
        )  # fmt: skip
        monkeypatch.setattr(etcd_perform, "take", self._take)

    def _take(self, work: Work, facts: EtcdFacts, source: EtcdMember, *_: object, **__: object) -> Taken:
        assert source in facts.members, "it is as the last look has it"
        self.sources.append(source)
        own = [c for c in self.catalogues if c.store.name in self.taking]
        manifest = make_backup(own, self.clock, good=False)
        return Taken(manifest, (), stores=tuple(self.taking), failed=self.failing)

    taking: tuple[str, ...] = ("a", "b")
    failing: dict[str, Any] = {}  # noqa: RUF012 - replaced, never changed

    def performer(self, *looks: EtcdFacts, **options: Any) -> BackupPerformer:
        self.looks = list(looks)
        return BackupPerformer(self.work, lambda: self.looks.pop(0), **options)


@pytest.fixture
def bed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bed:
    return Bed(tmp_path, monkeypatch)


def facts(*members: EtcdMember) -> EtcdFacts:
    return EtcdFacts(members=members)


def source_of(bed: Bed, *looks: EtcdFacts) -> tuple[str, int]:
    """Return which member gave the snapshot, and the revision it is held to; all looks are used up."""
    bed.performer(*looks).apply(context(TAKE))
    assert bed.looks == []
    (found,) = bed.sources
    return found.name, found.revision


def test_a_member_with_the_newest_revision_is_asked_at_once(bed: Bed) -> None:
    assert source_of(bed, facts(member(1), member(2), member(3, revision=990))) == ("n2", 1000)


def test_one_that_was_asked_earlier_than_others_has_caught_up_at_the_second_look(bed: Bed) -> None:
    first = facts(member(1, 1003), member(2), member(3))
    assert source_of(bed, first, facts(member(1, 1010), member(2, 1005), member(3, 1009))) == ("n2", 1005)


def test_one_that_still_lags_is_passed_over_for_a_follower_that_does_not(bed: Bed) -> None:
    first = facts(member(1, 1003), member(2), member(3))
    assert source_of(bed, first, facts(member(1, 1010), member(2, 1002), member(3, 1004))) == ("n3", 1004)


def test_the_leader_gives_the_snapshot_when_every_follower_still_lags(bed: Bed) -> None:
    first = facts(member(1, 1003), member(2), member(3))
    assert source_of(bed, first, facts(member(1, 1010), member(2, 1002), member(3, 1002))) == ("n1", 1010)


def test_what_an_unfit_member_has_is_waited_for_by_nobody(bed: Bed) -> None:
    corrupt = member(3, 5000, alarms=("CORRUPT",))
    assert source_of(bed, facts(member(1), member(2), corrupt)) == ("n2", 1000)


def test_without_a_leader_nothing_is_taken_from_one_that_lags(bed: Bed) -> None:
    first, second = facts(member(1, 1003), member(2)), facts(member(1, 1003, is_leader=False, healthy=False), member(2))
    with pytest.raises(EtcdError, match="is behind") as caught:
        bed.performer(first, second).apply(context(TAKE))
    assert "1003" in caught.value.why
    assert bed.sources == []


@pytest.mark.parametrize(
    ("changes", "why"),
    [({"alarms": ("CORRUPT",)}, "CORRUPT"), ({"healthy": False}, "does not answer"), ({"is_learner": True}, "learner")],
)
def test_one_that_is_not_fit_any_more_gives_none(bed: Bed, changes: dict[str, Any], why: str) -> None:
    ill = facts(member(1), member(2, **changes), member(3))
    for looks in ((ill,), (facts(member(1, 1001), member(2), member(3)), ill)):
        with pytest.raises(EtcdError, match="not fit any more") as caught:
            bed.performer(*looks).apply(context(TAKE))
        assert why in caught.value.why
    with pytest.raises(EtcdError, match="not fit any more"):
        bed.performer(facts(member(1), member(3))).apply(context(TAKE))


def old_backups(bed: Bed, count: int = 3) -> list[str]:
    """Make good backups of different days, old enough to go but the newest; returns their ids, the oldest first."""
    made = []
    for _ in range(count):
        made.append(make_backup(bed.catalogues, bed.clock).id)
        bed.clock.now += timedelta(days=2)
    bed.work.spec = dataclasses.replace(
        bed.work.spec, retention=RetentionPolicy(keep_last=1, hourly=0, daily=0, weekly=0, monthly=0, minimum_age_s=1)
    )
    return made


def ids(catalogue: Catalogue) -> list[str]:
    return [e.id for e in reversed(catalogue.entries())]


def test_what_the_retention_lets_go_goes_from_every_store(bed: Bed) -> None:
    *older, newest = old_backups(bed)
    assert prune(bed.work) == tuple(reversed(older))
    assert [ids(c) for c in bed.catalogues] == [[newest], [newest]]


def test_a_backup_is_looked_at_again_before_it_is_deleted(bed: Bed) -> None:
    first, second, third = old_backups(bed)
    told: list[str] = []
    bed.work.tell = told.append

    def rot(verb: str, path: str) -> None:
        """While the second is deleted, the newest is found wrong: the first is the newest good one now."""
        if verb == "delete" and second in path and bed.catalogues[0].entry(third).is_good:
            bed.stores[0].content.pop(bed.catalogues[0].path(third, "snapshot.db.zst"))

    bed.stores[0].before = rot
    prune(bed.work)
    assert ids(bed.catalogues[0]) == [first, third]
    assert f"a: {first}: it is kept: the newest good backup" in told
    assert ids(bed.catalogues[1]) == [third]


def test_a_store_that_refuses_keeps_no_other_from_being_pruned(bed: Bed) -> None:
    old_backups(bed)
    bed.stores[0].before = refuse("objects")
    with pytest.raises(StoreError):
        prune(bed.work)
    assert len(ids(bed.catalogues[1])) == 1


def test_a_keep_mark_set_at_the_last_moment_keeps_one_and_stops_nothing(bed: Bed) -> None:
    first, second, third = old_backups(bed)

    def mark(verb: str, path: str) -> None:
        if verb == "put_document" and second in path and "deleting-" in path:
            bed.stores[0].before = lambda verb, path: None
            bed.catalogues[0].keep(second, "wait")

    bed.stores[0].before = mark
    assert prune(bed.work) == (first, second), "the second from the other store only"
    assert [ids(c) for c in bed.catalogues] == [[second, third], [third]]


def run(bed: Bed, *actions: Action, prunes: bool) -> Outcome:
    """Run these steps as a run does: a step that fails ends it."""
    waves = tuple(Wave(f"w{n}", (Step(f"s{n}", "", "a step", a, 60.0),)) for n, a in enumerate(actions))
    plan = Plan("etcd-backup", "prod", waves)
    journal = Journal(bed.work.scratch / "journal.jsonl")
    try:
        performer = bed.performer(facts(member(1), member(2)), prunes=prunes)
        return Engine(performer, journal, lambda event: None, Cancel()).run(plan, lambda: Plan("x", "prod", ()))
    finally:
        journal.close()


def prove_fails_in(*stores: str) -> Callable[..., None]:
    """Return a proof that says of these stores that they have no good copy; raises when there is no other."""

    def prove(work: Work, taken: Taken, *_: object, **__: object) -> None:
        failed = {name: DamagedError("the stored bytes were changed", where=name) for name in stores}
        if set(taken.stores) <= set(failed):
            raise failed[taken.stores[0]]
        taken.failed = {**taken.failed, **failed}

    return prove


PROVE, PRUNE = ProveBackup("restore"), PruneBackups()


@pytest.mark.parametrize("steps", [(PROVE, PRUNE), (PRUNE,)], ids=["proven", "not proven"])
def test_a_store_that_is_down_keeps_no_other_from_its_retention(
    bed: Bed, monkeypatch: pytest.MonkeyPatch, steps: tuple[Action, ...]
) -> None:
    *_, newest = old_backups(bed)
    bed.taking, bed.failing = ("a",), {"b": StoreError("the server went away", where="b (memory)")}
    monkeypatch.setattr(etcd_perform, "prove_taken", prove_fails_in())
    bed.stores[1].before = refuse_all
    take = dataclasses.replace(TAKE, verify="restore" if PROVE in steps else "none")
    outcome = run(bed, take, *steps, prunes=True)
    assert [str(r) for r in outcome.results.values()] == ["done"] * len(steps) + ["failed"]
    (error,) = outcome.errors
    assert (error.what, error.where, error.code) == ("not every store has the backup", "b", ExitCode.BACKUP)
    assert "the server went away" in error.why
    good = [e.id for e in bed.catalogues[0].entries() if e.is_good]
    assert good == [newest], "what was to go went from the store that is well"


def test_a_store_without_a_good_copy_has_no_retention(bed: Bed, monkeypatch: pytest.MonkeyPatch) -> None:
    made = old_backups(bed)
    monkeypatch.setattr(etcd_perform, "prove_taken", prove_fails_in("b"))
    outcome = run(bed, TAKE, PROVE, PRUNE, prunes=True)
    assert [e.where for e in outcome.errors] == ["b"]
    good = [[e.id for e in c.entries() if e.is_good] for c in bed.catalogues]
    assert good == [[made[2]], list(reversed(made))]


def test_a_backup_that_is_proven_nowhere_makes_none_go(bed: Bed, monkeypatch: pytest.MonkeyPatch) -> None:
    made = old_backups(bed)
    monkeypatch.setattr(etcd_perform, "prove_taken", prove_fails_in("a", "b"))
    outcome = run(bed, TAKE, PROVE, PRUNE, prunes=True)
    assert [type(e) for e in outcome.errors] == [DamagedError]
    assert [ids(c)[:3] for c in bed.catalogues] == [made, made]


def test_what_failed_first_is_told_when_the_retention_fails_as_well(bed: Bed, monkeypatch: pytest.MonkeyPatch) -> None:
    bed.taking, bed.failing = ("a",), {"b": StoreError("the server went away")}
    monkeypatch.setattr(etcd_perform, "prove_taken", prove_fails_in())
    monkeypatch.setattr(bed.stores[0], "clean", refuse_all)
    outcome = run(bed, TAKE, PROVE, PRUNE, prunes=True)
    assert [e.what for e in outcome.errors] == ["not every store has the backup"]


def test_without_a_retention_the_proof_ends_with_the_stores_error(bed: Bed, monkeypatch: pytest.MonkeyPatch) -> None:
    bed.taking, bed.failing = ("a",), {"b": StoreError("the server went away")}
    monkeypatch.setattr(etcd_perform, "prove_taken", prove_fails_in())
    outcome = run(bed, TAKE, PROVE, prunes=False)
    assert [e.what for e in outcome.errors] == ["not every store has the backup"]


def refuse_all(*_: object, **__: object) -> None:
    raise StoreError("nothing answers", where="memory")
