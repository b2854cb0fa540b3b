"""How long a plan can take at most, and what its digest is of."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kops_py.model.actions import ConfigureBridge
from kops_py.model.plan import Plan, Step, Wave, longest_s


def steps(node: str, *limits_s: float) -> tuple[Step, ...]:
    return tuple(
        Step(f"{number}/{node}", node, "work", ConfigureBridge(node), limit_s)
        for number, limit_s in enumerate(limits_s)
    )


def of_nodes(*limits_s: float) -> tuple[Step, ...]:
    return tuple(step for number, limit_s in enumerate(limits_s) for step in steps(f"n{number}", limit_s))


@pytest.mark.parametrize(
    ("wave", "expected_s"),
    [
        (Wave("the steps of a node come one after the other", steps("n1", 10, 20, 0.5), 4), 30.5),
        (Wave("so do nodes one at a time", of_nodes(10, 20, 30)), 60),
        (Wave("and the longest counts side by side", of_nodes(10, 20, 30), 3), 30),
        (Wave("of a play it is the longest step", (*steps("n1", 10, 20), *steps("n2", 5)), together=True), 20),
        (Wave("the next node begins when the first ends", of_nodes(30, 10, 10, 30), 2), 50),
        (Wave("interleaved steps are chains too", (*steps("n1", 5), *steps("n2", 5), *steps("n1", 5)), 2), 10),
        (Wave("nothing takes no time", (), 3), 0),
    ],
    ids=lambda value: value.name if isinstance(value, Wave) else "",
)
def test_a_wave_takes_at_most(wave: Wave, expected_s: float) -> None:
    assert longest_s(wave) == expected_s


@given(st.lists(st.integers(1, 50), min_size=1, max_size=20), st.integers(1, 8))
def test_a_window_is_neither_idle_nor_wider_than_it_is(limits_s: list[int], window: int) -> None:
    found_s = longest_s(Wave("workers", of_nodes(*limits_s), window))
    assert max(max(limits_s), sum(limits_s) / window) <= found_s
    assert found_s <= math.ceil(len(limits_s) / window) * max(limits_s)


def test_a_plan_takes_the_sum_of_its_waves_and_its_digest_does_not_count_that() -> None:
    plan = Plan("upgrade", "c", (Wave("one", steps("n1", 10)), Wave("two", of_nodes(20, 5))), notes=("a note",))
    body = plan.to_json()
    assert plan.longest_s == body["longest_s"] == 35
    counted = {k: v for k, v in body.items() if k not in ("notes", "longest_s", "digest")}
    text = json.dumps(counted, sort_keys=True, separators=(",", ":"))
    assert plan.digest == body["digest"] == hashlib.sha256(text.encode()).hexdigest()
    assert dataclasses.replace(plan, notes=()).digest == plan.digest
    assert dataclasses.replace(plan, waves=plan.waves[:1]).digest != plan.digest
