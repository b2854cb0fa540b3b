"""Plans grow with the number of nodes and no faster: what is looked at is counted, not timed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kops_py.model.actions import ConfigureBridge
from kops_py.model.facts import Facts
from kops_py.model.patches import PatchFacts, RebootPolicy
from kops_py.model.plan import Step, unexpected_steps
from kops_py.runbooks.patch import PatchArguments, patch
from kops_py.runbooks.rollout import WorkerGroup
from kops_py.runbooks.upgrade import UpgradeArguments, begun_nodes, upgrade
from tests.unit.runbooks.rollout_cases import HOPS, World, a_rollout, rollout_spec


class Looks:
    """How often anything counted was looked at."""

    count = 0


class CountedMap(Mapping[str, Any]):
    def __init__(self, looks: Looks, inner: Mapping[str, Any]) -> None:
        self._looks, self._inner = looks, inner

    def __getitem__(self, name: str) -> Any:
        self._looks.count += 1
        return self._inner[name]

    def __iter__(self) -> Iterator[str]:
        for name in self._inner:
            self._looks.count += 1
            yield name

    def __len__(self) -> int:
        return len(self._inner)


class CountedNames(Sequence[Any]):
    def __init__(self, looks: Looks, inner: tuple[Any, ...]) -> None:
        self._looks, self._inner = looks, inner

    def __getitem__(self, index: Any) -> Any:
        self._looks.count += 1
        return self._inner[index]

    def __iter__(self) -> Iterator[Any]:
        for item in self._inner:
            self._looks.count += 1
            yield item

    def __len__(self) -> int:
        return len(self._inner)


def counted(looks: Looks, inner: tuple[Any, ...]) -> Any:
    """Return what stands in for a tuple."""
    return CountedNames(looks, inner)


def looks_of(plan: Callable[[World, Facts, Looks], int], workers: int) -> int:
    """Return how much is looked at for a plan of a cluster with two groups of workers, half of them canaries."""
    looks, spec = Looks(), rollout_spec(3, workers)
    names = tuple(h.name for h in spec.workers)
    groups = (WorkerGroup("a", frozenset(names[::3]), 2), WorkerGroup("b", frozenset(names[1::3]), 2))
    spec = dataclasses.replace(spec, hosts=counted(looks, spec.hosts))
    world = World(spec, a_rollout(groups=groups, canary=1, canaries=counted(looks, names[: workers // 2])))
    facts = world.facts()
    assert facts.kube is not None
    kube = dataclasses.replace(facts.kube, nodes=CountedMap(looks, facts.kube.nodes))
    facts = dataclasses.replace(facts, hosts=CountedMap(looks, facts.hosts), kube=kube)
    looks.count = 0
    assert plan(world, facts, looks) > workers
    return looks.count


def plan_upgrade(world: World, facts: Facts, _: Looks) -> int:
    begun_nodes(world.spec, facts, HOPS[0])
    return len(upgrade(world.spec, facts, UpgradeArguments(HOPS, world.rollout)).plan.steps)


def plan_patch(world: World, facts: Facts, looks: Looks) -> int:
    names = counted(looks, tuple(h.name for h in world.spec.nodes))
    arguments = PatchArguments(world.rollout, RebootPolicy.ALWAYS, nodes=names)
    updates = {name: PatchFacts(found) for name, found in world.updates.items()}
    return len(patch(world.spec, facts, updates, arguments).plan.steps)


@pytest.mark.parametrize("plan", [plan_upgrade, plan_patch])
def test_twice_the_nodes_are_looked_at_twice_as_often(plan: Callable[[World, Facts, Looks], int]) -> None:
    assert looks_of(plan, 200) < 2.2 * looks_of(plan, 100)


def step(name: str, title: str) -> Step:
    return Step(f"work/{name}", name, title, ConfigureBridge(name), 5.0)


def test_a_step_of_a_new_plan_is_compared_with_its_namesake_only() -> None:
    looks = Looks()

    class Counted(Step):
        def __eq__(self, other: object) -> bool:
            looks.count += 1
            return isinstance(other, Step) and (self.id, self.title) == (other.id, other.title)

        __hash__ = Step.__hash__

    def steps(title: str) -> tuple[Step, ...]:
        return tuple(Counted(f"work/n{i}", f"n{i}", title, ConfigureBridge(f"n{i}"), 5.0) for i in range(100))

    assert len(unexpected_steps(steps("as announced"), steps("another"))) == 100
    assert looks.count <= 100


STEPS = st.lists(st.builds(step, st.sampled_from("abc"), st.sampled_from("xy")), max_size=8).map(tuple)


@given(STEPS, STEPS)
def test_steps_are_expected_in_the_announced_order_and_once(remaining: tuple[Step, ...], now: tuple[Step, ...]) -> None:
    left, unexpected = list(remaining), []
    for one in now:
        if one in left:
            del left[: left.index(one) + 1]
        else:
            unexpected.append(one)
    assert unexpected_steps(remaining, now) == tuple(unexpected)
