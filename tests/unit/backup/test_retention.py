"""What the retention keeps: single cases, and what holds for any policy and any store."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kops_py.backup.catalogue import Entry, State
from kops_py.backup.documents import new_id
from kops_py.backup.manifest import KeepMark
from kops_py.backup.retention import Decision, decide
from kops_py.model.backup import RetentionPolicy
from tests.fakes.stores import ME

NOW = datetime(2026, 11, 25, 12, 0, tzinfo=UTC)
ONE = RetentionPolicy(keep_last=1, hourly=0, daily=0, weekly=0, monthly=0, minimum_age_s=1)


def entry(
    age_h: float, state: State = State.GOOD, *, number: int = 0, kept: bool = False, foreign: bool = False
) -> Entry:
    at = (NOW - timedelta(hours=age_h)).replace(microsecond=0)
    backup_id = new_id(at, number.to_bytes(4, "big"))
    keep = KeepMark(id=backup_id, at=at, by=ME, why="why") if kept else None
    extra = ("README",) if foreign else ()
    return Entry("s", "prod", backup_id, at, state, "", 10, keep=keep, foreign=extra)


def kept(entries: list[Entry], policy: RetentionPolicy) -> list[float]:
    decisions = decide(entries, policy, NOW)
    return [(NOW - d.entry.at).total_seconds() / 3600 for d in decisions if d.keep]


def test_the_newest_of_each_period() -> None:
    hours = [entry(h) for h in range(100)]
    assert kept(hours, replace(ONE, keep_last=3)) == [0, 1, 2]
    assert kept(hours, replace(ONE, hourly=5)) == [0, 1, 2, 3, 4]
    # noon: today's newest is 0 h old, yesterday's 13 h (23:00)
    assert kept(hours, replace(ONE, daily=3)) == [0, 13, 37]
    weeks = [entry(24 * d) for d in range(60)]
    assert kept(weeks, replace(ONE, weekly=3)) == [0, 24 * 3, 24 * 10]  # a Wednesday; Sundays before
    assert kept(weeks, replace(ONE, monthly=2)) == [0, 24 * 25]  # October 31
    assert kept(hours, replace(ONE, minimum_age_s=3 * 3600 + 1)) == [0, 1, 2, 3]


def test_a_gap_does_not_use_up_a_period() -> None:
    assert kept([entry(1), entry(500), entry(501), entry(1000)], replace(ONE, daily=3)) == [1, 500, 1000]


def test_every_decision_has_its_reason() -> None:
    reasons = {
        (d.entry.state, d.keep): d.reason
        for d in decide(
            [
                entry(0, State.BEGUN),
                entry(1),
                entry(2, State.STORED),
                entry(3, State.DAMAGED),
                entry(400, State.FAILED),
                entry(401, State.DELETING),
                entry(402),
            ],
            ONE,
            NOW,
        )
    }
    assert reasons == {
        (State.BEGUN, True): "being made",
        (State.GOOD, True): "the newest good backup",
        (State.STORED, True): "not proven; it counts for nothing until it is: kops-py etcd verify",
        (State.DAMAGED, True): "damaged; for a person to look at, and to delete by its id",
        (State.FAILED, False): "leftovers of a failed backup",
        (State.DELETING, False): "its deletion was begun",
        (State.GOOD, False): "older than what is to be kept",
    }


@pytest.mark.parametrize("state", [State.FAILED, State.BROKEN_OFF])
def test_leftovers_go_only_after_a_while_and_with_a_good_one_after_them(state: State) -> None:
    assert kept([entry(400, state)], ONE) == [400]
    assert kept([entry(401), entry(400, state)], ONE) == [400, 401]
    assert kept([entry(1), entry(400, state)], ONE) == [1]
    assert kept([entry(1), entry(100, state)], ONE) == [1, 100]


ENTRIES = st.lists(
    st.builds(
        entry,
        st.floats(0, 24 * 400),
        st.sampled_from(list(State)),
        number=st.integers(0, 2**31),
        kept=st.booleans(),
        foreign=st.booleans(),
    ),
    max_size=40,
    unique_by=lambda e: e.id,
)
SMALL = st.integers(0, 5)
POLICIES = st.builds(RetentionPolicy, st.integers(1, 5), SMALL, SMALL, SMALL, SMALL, st.integers(1, 10**7))


@given(ENTRIES, POLICIES)
def test_what_holds_for_any_store_and_policy(entries: list[Entry], policy: RetentionPolicy) -> None:
    decisions = decide(entries, policy, NOW)
    assert sorted(d.entry.id for d in decisions) == sorted(e.id for e in entries)
    good = sorted((e for e in entries if e.is_good), key=lambda e: e.id, reverse=True)
    gone = [d.entry for d in decisions if not d.keep]
    assert all(d.reason for d in decisions)
    for one in gone:
        assert not one.foreign
        assert one.state in (State.GOOD, State.FAILED, State.BROKEN_OFF, State.DELETING)
        if one.state is State.DELETING:
            continue
        assert one.keep is None
        assert NOW - one.at >= timedelta(seconds=policy.minimum_age_s)
        # There is always a newer good one that stays.
        assert any(d.keep and d.entry.is_good and d.entry.id > one.id for d in decisions)
    assert not good or good[0] not in gone
    assert not set(map(id, good[: policy.keep_last])) & set(map(id, gone))


@given(ENTRIES, POLICIES)
def test_unproven_ones_change_nothing_for_the_good_ones(entries: list[Entry], policy: RetentionPolicy) -> None:
    def of_good(decisions: tuple[Decision, ...]) -> dict[str, bool]:
        return {d.entry.id: d.keep for d in decisions if d.entry.is_good}

    only_good = [e for e in entries if e.is_good]
    assert of_good(decide(entries, policy, NOW)) == of_good(decide(only_good, policy, NOW))


@given(ENTRIES, POLICIES)
def test_doing_it_twice_deletes_no_more(entries: list[Entry], policy: RetentionPolicy) -> None:
    rest = [d.entry for d in decide(entries, policy, NOW) if d.keep]
    assert all(d.keep for d in decide(rest, policy, NOW) if d.entry.is_good)


@given(ENTRIES, POLICIES, POLICIES, st.integers(0, 40))
def test_two_at_once_with_different_policies_leave_the_newest(
    entries: list[Entry], one: RetentionPolicy, other: RetentionPolicy, seen: int
) -> None:
    """The second has not yet seen the newest backups; whatever both delete, each one's newest good stays."""
    older = sorted(entries, key=lambda e: e.id)[:seen]
    gone = {d.entry.id for d in decide(entries, one, NOW) if not d.keep}
    gone |= {d.entry.id for d in decide(older, other, NOW) if not d.keep}
    good = [e.id for e in entries if e.is_good]
    assert not good or max(good) not in gone
