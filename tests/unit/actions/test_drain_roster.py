"""Which pods may be tried when: budgets that refuse are asked a little, and more as they give way."""

from __future__ import annotations

import dataclasses

import pytest

from kops_py.actions.drain_roster import FIRST_PAUSE_S, LONGEST_PAUSE_S, Roster, Tracked
from kops_py.actions.evict import Answer, Attempt
from kops_py.model.drain import DrainPolicy
from kops_py.model.workloads import Owner, PodFacts, PodPhase

HELD = Attempt(Answer.BUDGET, "needs 2 healthy, has 2", "shop/web")
TAKEN = Attempt(Answer.ACCEPTED)


def pods(count: int) -> list[PodFacts]:
    owner = Owner("ReplicaSet", "web")
    return [PodFacts("shop", f"web-{n}", f"u{n}", phase=PodPhase.RUNNING, owner=owner) for n in range(count)]


@pytest.fixture
def roster() -> Roster:
    made = Roster("w1", DrainPolicy())
    made.observe(reversed(pods(8)))
    return made


def names(tracked: list[Tracked]) -> list[str]:
    return [t.pod.name for t in tracked]


def hold_all(roster: Roster, now: float, attempt: Attempt = HELD) -> None:
    for tracked in roster.due(now):
        roster.answered(tracked, attempt, now)


def test_at_first_all_are_tried_in_a_stable_order(roster: Roster) -> None:
    due = roster.due(0)
    assert names(due) == [f"web-{n}" for n in range(8)]
    due[0].in_flight = True
    assert names(roster.due(0)) == [f"web-{n}" for n in range(1, 8)]


def test_a_budget_that_refused_is_asked_for_one_pod_at_a_time_in_turn(roster: Roster) -> None:
    hold_all(roster, 0)
    assert roster.due(FIRST_PAUSE_S - 0.01) == []
    now, asked = FIRST_PAUSE_S, []
    for _ in range(8):
        due = roster.due(now)
        assert len(due) == 1
        asked += names(due)
        roster.answered(due[0], HELD, now)
        assert roster.due(now) == []
        now += LONGEST_PAUSE_S
    assert asked == [f"web-{n}" for n in range(8)]


def test_the_pause_grows_to_its_limit(roster: Roster) -> None:
    hold_all(roster, 0)
    now, pauses = 0.0, []
    for _ in range(8):
        begun = now
        while not (due := roster.due(now)):
            now += 0.125
        pauses.append(now - begun)
        roster.answered(due[0], HELD, now)
    assert pauses == sorted(pauses)
    assert pauses[0] == FIRST_PAUSE_S
    assert pauses[-1] == LONGEST_PAUSE_S


def test_a_budget_that_gives_way_is_asked_for_more(roster: Roster) -> None:
    hold_all(roster, 0)
    now, widths = FIRST_PAUSE_S, []
    while due := roster.due(now):
        widths.append(len(due))
        for tracked in due:
            roster.answered(tracked, TAKEN, now)
    assert widths == [1, 2, 4, 1]
    assert roster.all_accepted


def test_a_refusal_makes_it_one_again(roster: Roster) -> None:
    hold_all(roster, 0)
    roster.answered(roster.due(FIRST_PAUSE_S)[0], TAKEN, FIRST_PAUSE_S)
    hold_all(roster, FIRST_PAUSE_S)
    assert roster.due(FIRST_PAUSE_S) == []
    assert len(roster.due(FIRST_PAUSE_S + LONGEST_PAUSE_S)) == 1


def test_the_servers_own_time_to_ask_again_is_kept(roster: Roster) -> None:
    hold_all(roster, 0, Attempt(Answer.BUDGET, "unseen", "shop/web", retry_after_s=10))
    assert roster.due(9.9) == []
    assert len(roster.due(10)) == 1


def test_budgets_do_not_hold_each_other(roster: Roster) -> None:
    for tracked in roster.due(0):
        own = tracked.pod.name in {"web-0", "web-1"}
        roster.answered(tracked, HELD if own else Attempt(Answer.BUDGET, "x", "shop/other", 100.0), 0)
    assert names(roster.due(FIRST_PAUSE_S)) == ["web-0"]
    assert {name: len(waiting) for name, waiting in roster.held().items()} == {"shop/web": 2, "shop/other": 6}


def test_a_list_decides_who_is_gone_and_what_it_was(roster: Roster) -> None:
    due = roster.due(0)
    roster.answered(due[0], TAKEN, 0)
    roster.answered(due[1], Attempt(Answer.GONE), 0)
    assert len(roster.going) == 8
    roster.observe(pods(8)[2:])
    report = roster.report()
    assert (report.evicted, report.went, roster.total) == (("shop/web-0",), ("shop/web-1",), 8)
    roster.observe(pods(8)[1:])
    assert "u1" in roster.going, "a stale list shows it again: it is looked after until a list is without it"
    assert roster.latecomers == 0
    roster.observe([])
    assert roster.report().went == tuple(f"shop/web-{n}" for n in range(1, 8))


def test_an_answer_after_the_pod_is_gone_still_counts(roster: Roster) -> None:
    first, second = roster.due(0)[:2]
    roster.observe([])
    assert roster.report().went[:2] == ("shop/web-0", "shop/web-1")
    roster.answered(first, TAKEN, 0)
    roster.answered(second, Attempt(Answer.GONE), 0)
    report = roster.report()
    assert (report.evicted, len(report.went)) == (("shop/web-0",), 7)


def test_an_evicted_pod_that_shows_as_finished_before_it_is_gone_was_evicted() -> None:
    """Kubelets write Succeeded or Failed when the containers have ended, and delete the pod after that."""
    alone = dataclasses.replace(pods(1)[0], owner=None, empty_dir=True)
    roster = Roster("w1", DrainPolicy(force=True, delete_empty_dir_data=True))
    roster.observe([alone])
    roster.answered(roster.due(0)[0], TAKEN, 0)
    roster.observe([dataclasses.replace(alone, phase=PodPhase.SUCCEEDED, deleting_since="2026-01-01T00:00:00Z")])
    roster.observe([])
    report = roster.report()
    assert (report.evicted, report.deleted) == (("shop/web-0",), ())
    assert (report.without_controller, report.lost_empty_dirs) == (("shop/web-0",), ("shop/web-0",))
