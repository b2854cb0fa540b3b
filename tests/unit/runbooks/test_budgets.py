"""Budgets that never let a pod go, that make a drain wait, and that do neither."""

from __future__ import annotations

from fractions import Fraction
from math import ceil
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kops_py.model.drain import DrainPolicy
from kops_py.model.finding import SHOWN, Severity
from kops_py.model.quantity import number_of
from kops_py.model.workloads import PodPhase
from kops_py.runbooks.budgets import BudgetIndex, desired_healthy
from tests.unit.runbooks.disruption_cases import a_budget, a_pod, cluster, find, ids


def two() -> list[Any]:
    return [a_pod("w1"), a_pod("w2")]


def test_a_budget_with_room_says_nothing() -> None:
    assert find(cluster(two(), [a_budget()])) == []


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"min_available": 2, "desired_healthy": 2, "disruptions_allowed": 0}, "2 must stay of 2 replicas"),
        ({"min_available": 3, "desired_healthy": 3, "disruptions_allowed": 0}, "3 must stay of 2 replicas"),
        ({"min_available": "100%", "desired_healthy": 2, "disruptions_allowed": 0}, "2 must stay of 2 replicas"),
        ({"min_available": "51%", "desired_healthy": 2, "disruptions_allowed": 0}, "2 must stay of 2 replicas"),
        (
            {"min_available": None, "max_unavailable": 0, "desired_healthy": 2, "disruptions_allowed": 0},
            "it allows no pod to be away",
        ),
        (
            {"min_available": None, "max_unavailable": "0%", "desired_healthy": 2, "disruptions_allowed": 0},
            "it allows no pod to be away",
        ),
        (
            {"min_available": None, "max_unavailable": 1, "desired_healthy": 0, "expected_pods": 0},
            "none of them has a controller",
        ),
        ({"min_available": None, "desired_healthy": 0, "expected_pods": 0}, "it allows nothing"),
    ],
)
def test_what_never_lets_go_is_an_error_with_pod_node_and_reason(changes: dict[str, Any], why: str) -> None:
    (found,) = find(cluster(two(), [a_budget(**changes)]))
    assert (found.id, found.severity, found.node) == ("budget-impossible", Severity.ERROR, "w1")
    assert "shop/web" in found.message
    assert "shop/web-" in found.message
    assert why in found.message


def test_one_replica() -> None:
    pods = [a_pod("w1")]
    budget = a_budget(current_healthy=1, expected_pods=1, disruptions_allowed=0)
    (found,) = find(cluster(pods, [budget]))
    assert "there is one replica" in found.message


def test_a_failed_pod_does_not_count_as_a_replica() -> None:
    # the controller counts all pods for a number in minAvailable, finished ones too
    pods = [*two(), a_pod("w2", phase=PodPhase.FAILED, ready=False)]
    budget = a_budget(min_available=2, desired_healthy=2, expected_pods=3, disruptions_allowed=0)
    assert ids(find(cluster(pods, [budget]))) == ["budget-impossible"]
    more = [*two(), a_pod("w2")]
    allowed = a_budget(min_available=2, desired_healthy=2, expected_pods=3, current_healthy=3)
    assert find(cluster(more, [allowed])) == []


def test_budgets_of_pods_that_stay_where_they_are_are_not_told() -> None:
    pods = [a_pod("w2"), a_pod("w3")]
    assert find(cluster(pods, [a_budget(max_unavailable=0, desired_healthy=2, disruptions_allowed=0)])) == []


@pytest.mark.parametrize(
    "changes", [{"phase": PodPhase.PENDING, "ready": False}, {"deleting_since": "2026-01-01T00:00:00Z"}]
)
def test_pods_that_the_eviction_api_takes_without_asking_a_budget(changes: dict[str, Any]) -> None:
    pods = [a_pod("w1", **changes), a_pod("w2")]
    assert find(cluster(pods, [a_budget(min_available=2, desired_healthy=2, disruptions_allowed=0)])) == []


def test_several_budgets_on_a_pod() -> None:
    (found,) = find(cluster(two(), [a_budget("a"), a_budget("b", "app")]))
    assert (found.id, found.severity) == ("budget-overlap", Severity.ERROR)
    assert "shop/a and shop/b" in found.message
    other = a_budget("b", "app=other")
    assert find(cluster(two(), [a_budget("a"), other])) == []


def test_the_empty_selector_fits_all_and_none_fits_nothing() -> None:
    never: dict[str, Any] = {"min_available": 2, "desired_healthy": 2, "disruptions_allowed": 0}
    assert ids(find(cluster(two(), [a_budget(selector="", **never)]))) == ["budget-impossible"]
    assert find(cluster(two(), [a_budget(selector=None, **never)])) == []


def test_pods_not_ready_hold_their_own_budget() -> None:
    pods = [a_pod("w1", ready=False), a_pod("w2"), a_pod("w3", ready=False)]
    budget: dict[str, Any] = {"min_available": 2, "desired_healthy": 2, "expected_pods": 3, "current_healthy": 1}
    (found,) = find(cluster(pods, [a_budget(**budget, disruptions_allowed=0)]))
    assert (found.id, found.severity) == ("budget-unhealthy", Severity.WARNING)
    assert "1 of 3 are healthy, 2 must stay" in found.message
    assert "not ready themselves" in found.message
    always = a_budget(**budget, disruptions_allowed=0, always_allow_unhealthy=True)
    assert find(cluster(pods, [always])) == []


def test_a_pod_not_ready_may_go_while_enough_others_are() -> None:
    pods = [a_pod("w1", ready=False), a_pod("w2"), a_pod("w3")]
    budget = a_budget(min_available=2, desired_healthy=2, expected_pods=3, current_healthy=2, disruptions_allowed=0)
    assert find(cluster(pods, [budget])) == []
    (found,) = find(cluster(pods, [budget]), "w2")
    assert found.id == "budget-unhealthy"
    assert "not ready themselves" not in found.message


def test_a_budget_whose_status_is_old() -> None:
    (found,) = find(cluster(two(), [a_budget(observed=False, desired_healthy=0, expected_pods=0)]))
    assert (found.id, found.severity) == ("budget-unobserved", Severity.WARNING)
    never = a_budget(observed=False, min_available="60%", expected_pods=0, desired_healthy=0)
    assert ids(find(cluster(two(), [never]))) == ["budget-impossible"]


def test_the_controller_that_fails() -> None:
    (found,) = find(cluster(two(), [a_budget(sync_failure="found no controllers for pod", disruptions_allowed=0)]))
    assert (found.id, found.severity) == ("budget-sync-failed", Severity.ERROR)
    assert "found no controllers" in found.message


def test_more_pods_on_a_node_than_may_go_at_once() -> None:
    pods = [a_pod("w1"), a_pod("w1"), a_pod("w2")]
    budget = a_budget(expected_pods=3, current_healthy=3, desired_healthy=2, min_available=2)
    (found,) = find(cluster(pods, [budget]))
    assert (found.id, found.severity) == ("budget-slow", Severity.INFO)


def test_bypassing_is_told_instead() -> None:
    never = a_budget(min_available=2, desired_healthy=2, disruptions_allowed=0)
    (found,) = find(cluster(two(), [never]), policy=DrainPolicy(disable_eviction=True))
    assert (found.id, found.severity) == ("budgets-bypassed", Severity.WARNING)


def test_many_budgets_share_a_line() -> None:
    pods, budgets = [], []
    for number in range(SHOWN + 40):
        pods += [a_pod("w1", labels={"app": f"a{number}"}), a_pod("w2", labels={"app": f"a{number}"})]
        never: dict[str, Any] = {"min_available": 2, "desired_healthy": 2, "disruptions_allowed": 0}
        budgets.append(a_budget(f"b{number}", f"app=a{number}", **never))
    found = [f for f in find(cluster(pods, budgets)) if f.id == "budget-impossible"]
    assert len(found) == SHOWN + 1
    assert all(f.severity is Severity.ERROR for f in found)
    assert "the same holds for 40 more: shop/b" in found[-1].message


@given(percent=st.integers(0, 1000), total=st.integers(0, 10_000))
def test_percentages_round_up_as_the_controller_does(percent: int, total: int) -> None:
    assert number_of(f"{percent}%", total) == ceil(Fraction(percent * total, 100))


@given(
    rule=st.one_of(st.integers(0, 20), st.integers(0, 120).map(lambda n: f"{n}%")),
    is_max=st.booleans(),
    replicas=st.integers(1, 20),
)
def test_impossible_means_that_no_pod_may_ever_go(rule: int | str, is_max: bool, replicas: int) -> None:
    amount = rule if isinstance(rule, int) else ceil(Fraction(int(rule[:-1]) * replicas, 100))
    desired = max(0, replicas - amount) if is_max else amount
    budget = a_budget(
        min_available=None if is_max else rule,
        max_unavailable=rule if is_max else None,
        desired_healthy=desired,
        expected_pods=replicas,
        current_healthy=replicas,
        disruptions_allowed=max(0, replicas - desired),
    )
    assert desired_healthy(budget, replicas) == desired
    pods = [a_pod("w1")] + [a_pod("w2") for _ in range(replicas - 1)]
    found = ids(find(cluster(pods, [budget])))
    assert ("budget-impossible" in found) == (replicas - desired < 1)
    assert "budget-unhealthy" not in found


@pytest.mark.parametrize("text", ["", "%", "5", "-5%", "5.5%", "a%"])
def test_text_that_is_no_percentage(text: str) -> None:
    with pytest.raises(ValueError, match="neither a number nor a percentage"):
        number_of(text, 10)


LABELS = st.dictionaries(st.sampled_from("abc"), st.sampled_from("xyz"), max_size=3)
TERMS = st.sampled_from(["a=x", "b in (x,y)", "c", "!a", "a!=x", "b notin (x)", "a=x,c", "!b,c=z", ""])


@given(labels=LABELS, selectors=st.lists(TERMS, max_size=6))
def test_the_index_finds_what_trying_all_finds(labels: dict[str, str], selectors: list[str]) -> None:
    budgets = [a_budget(f"b{i}", text) for i, text in enumerate(selectors)]
    pod = a_pod(labels=labels)
    naive = [b.id for b in budgets if b.selector is not None and all(r.fits(labels) for r in b.selector)]
    assert sorted(b.id for b in BudgetIndex(budgets).of(pod)) == sorted(naive)
    assert BudgetIndex(budgets).of(a_pod(namespace="other", labels=labels)) == ()
