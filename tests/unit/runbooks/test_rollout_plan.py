"""Plans with hooks, gates, canaries and groups: their order, and that they go on from anywhere."""

from __future__ import annotations

import dataclasses
from types import MappingProxyType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kops_py.model.actions import RunHook, WatchCanary
from kops_py.model.hooks import GroupSpec
from kops_py.model.plan import Plan, unexpected_steps
from kops_py.runbooks.rollout import Rollout, WorkerGroup, choose_canaries, worker_groups
from tests.unit.runbooks.rollout_cases import GATE, HOPS, World, a_rollout, rollout_spec


def ids(plan: Plan, node: str) -> list[str]:
    return [s.id.partition("/")[0] for s in plan.steps if s.node == node]


def test_the_chain_of_a_worker_from_hook_to_gate() -> None:
    world = World(rollout_spec(1, 1), a_rollout(), hops=HOPS[:1])
    assert ids(world.upgrade_plan(), "n2") == [
        "stage", "before-1", "kubeadm", "upgrade", "cordon", "drain", "kubelet", "healthy", "uncordon", "settled",
        "after-1", "gate-1", "done",
    ]  # fmt: skip
    assert ids(world.patch_plan(), "n2") == [
        "before-1", "cordon", "drain", "updates", "reboot", "healthy", "uncordon", "settled", "after-1", "gate-1",
        "done",
    ]  # fmt: skip
    hook = next(s for s in world.upgrade_plan().steps if s.id.startswith("before-1/"))
    assert "run again" in hook.details[0]
    assert isinstance(hook.action, RunHook)
    assert (hook.action.operation, hook.action.version) == ("upgrade", str(HOPS[0]))


def test_a_drain_says_which_pods_it_leaves_and_the_approved_digest_knows() -> None:
    plans = []
    for selector in ("", "app!=db"):
        rollout = a_rollout()
        rollout = dataclasses.replace(rollout, drain=dataclasses.replace(rollout.drain, pod_selector=selector))
        plans.append(World(rollout_spec(1, 1), rollout, hops=HOPS[:1]).upgrade_plan())
    shown = [next(s for s in plan.steps if s.id.startswith("drain/n2")).details for plan in plans]
    assert set(shown[1]) - set(shown[0]) == {"only pods that fit app!=db; all others stay"}
    assert plans[0].digest != plans[1].digest


def test_a_node_that_a_person_cordoned_stays_so_and_is_marked_for_its_hooks_only() -> None:
    world = World(rollout_spec(1, 1), a_rollout(), hops=HOPS[:1], persons=frozenset({"n2"}))
    steps = ids(world.upgrade_plan(), "n2")
    assert steps[:3] == ["stage", "mark", "before-1"]
    assert steps[-5:] == ["healthy", "settled", "after-1", "gate-1", "done"]
    assert not {"cordon", "uncordon"} & set(steps)
    plain = World(rollout_spec(1, 1, hooks=False, gates=False), a_rollout(), persons=frozenset({"n2"}))
    assert not {"mark", "done"} & set(ids(plain.upgrade_plan(), "n2"))


def test_a_gate_that_failed_is_asked_again_before_any_other_node() -> None:
    world = World(rollout_spec(1, 2), a_rollout(), hops=HOPS[:1])
    for step in world.upgrade_plan().steps:
        if step.id.startswith("gate-1/n2"):
            break
        world.perform(step)
    world.rollout = a_rollout(begun=frozenset({"n2"}))
    assert ids(world.upgrade_plan(), "n2") == ["healthy", "settled", "after-1", "gate-1", "done"]
    assert [w.name for w in world.upgrade_plan().waves] == [f"workers, {HOPS[0]}"]
    nodes = list(dict.fromkeys(s.node for s in world.upgrade_plan().steps))
    assert nodes == ["n2", "n3"]


def test_our_cordon_means_that_the_hooks_before_it_are_done() -> None:
    world = World(rollout_spec(1, 1), a_rollout(), hops=HOPS[:1])
    for step in world.upgrade_plan().steps:
        world.perform(step)
        if step.id.startswith("cordon/n2"):
            break
    assert ids(world.upgrade_plan(), "n2")[:3] == ["cordon", "drain", "kubelet"]


def test_the_pause_stands_between_canaries_and_all_others_and_goes_when_passed() -> None:
    rollout = a_rollout(window=2, canaries=("n2",), canary_pause_s=600.0, canary_gate=GATE)
    world = World(rollout_spec(1, 4), rollout, hops=HOPS[:1])
    names = [w.name for w in world.upgrade_plan().waves]
    v = HOPS[0]
    assert names == [
        f"staging {v}", f"control plane n1, {v}", f"canary n2, {v}", f"after the canaries, {v}", f"workers, {v}",
    ]  # fmt: skip
    watch, gate = world.upgrade_plan().waves[3].steps
    assert isinstance(watch.action, WatchCanary)
    assert (watch.title, watch.action.gates) == ("wait until the canary has been watched for 10m", (GATE,))
    assert (watch.node, gate.node) == ("", "")
    world.passed = {watch.id}
    assert [s.id for s in world.upgrade_plan().waves[3].steps] == [gate.id]
    only = World(rollout_spec(1, 1), rollout, hops=HOPS[:1])
    assert "after the canaries" not in str([w.name for w in only.upgrade_plan().waves])


def test_every_group_has_a_wave_and_a_window_of_its_own() -> None:
    groups = (WorkerGroup("storage", frozenset({"n3", "n4"}), 1), WorkerGroup("web", frozenset({"n5", "n6"}), 2))
    rollout = a_rollout(window=3, groups=groups, canaries=("n3",), max_failures=1)
    waves = World(rollout_spec(1, 6), rollout).patch_plan().waves
    assert [(w.name, w.max_parallel, list(dict.fromkeys(s.node for s in w.steps))) for w in waves[1:]] == [
        ("canary n3", 1, ["n3"]),
        ("workers of storage, at most 1 at once", 1, ["n4"]),
        ("workers of web, at most 2 at once", 2, ["n5", "n6"]),
        ("workers", 3, ["n2", "n7"]),
    ]
    assert rollout.widest == 3


def test_a_worker_belongs_to_the_first_group_that_fits_and_shares_are_of_the_group() -> None:
    spec = rollout_spec(1, 5)
    hosts = tuple(
        dataclasses.replace(h, labels=MappingProxyType({"disk": "ssd"})) if h.name in ("n2", "n3") else h
        for h in spec.hosts
    )
    spec = dataclasses.replace(spec, hosts=hosts)
    nodes = World(spec, a_rollout()).nodes
    nodes["n4"] = dataclasses.replace(nodes["n4"], labels=MappingProxyType({"disk": "ssd"}))
    given = (
        GroupSpec("ssd", "67%", selector="disk=ssd"),
        GroupSpec("row", "2", inventory_group="row", hosts=frozenset({"n4", "n5"})),
        GroupSpec("none", "50%", selector="gpu"),
    )
    assert worker_groups(spec, given, nodes) == (
        WorkerGroup("ssd", frozenset({"n2", "n3", "n4"}), 2),
        WorkerGroup("row", frozenset({"n5"}), 1),
        WorkerGroup("none", frozenset(), 1),
    )


def test_canaries_are_the_first_workers_that_are_worked_on() -> None:
    world = World(rollout_spec(1, 3), a_rollout(begun=frozenset({"n4"})))
    assert choose_canaries(world.upgrade_plan(), world.spec, 2) == ("n4", "n2")
    world.updates["n2"] = ()
    boots = dataclasses.replace(world.hosts["n2"], boot_id="another")
    world.hosts["n2"] = boots
    assert choose_canaries(world.patch_plan(), world.spec, 2) == ("n4", "n3")


@st.composite
def worlds(draw: st.DrawFn) -> World:
    workers = draw(st.integers(1, 4))
    spec = rollout_spec(draw(st.integers(1, 2)), workers, hooks=draw(st.booleans()), gates=draw(st.booleans()))
    names = [h.name for h in spec.workers]
    canaries = tuple(names[: draw(st.integers(0, 2))])
    grouped = frozenset(draw(st.lists(st.sampled_from(names), max_size=2)))
    rollout = a_rollout(
        window=draw(st.integers(1, 3)),
        groups=(WorkerGroup("g", grouped, 1),) if grouped else (),
        canaries=canaries,
        canary_pause_s=draw(st.sampled_from([0.0, 60.0])),
        canary_gate=draw(st.sampled_from([None, GATE])),
        order=tuple(h.name for h in spec.control_planes),
    )
    persons = frozenset(draw(st.lists(st.sampled_from([h.name for h in spec.nodes]), max_size=1)))
    return World(spec, rollout, hops=HOPS[: draw(st.integers(1, 2))], persons=persons)


@pytest.mark.parametrize("operation", ["upgrade", "patch"])
@settings(max_examples=60, deadline=None)
@given(world=worlds())
def test_after_every_wave_the_new_plan_is_what_remains(operation: str, world: World) -> None:
    def plan() -> Plan:
        return world.upgrade_plan() if operation == "upgrade" else world.patch_plan()

    first = plan()
    for number, wave in enumerate(first.waves):
        for step in wave.steps:
            world.perform(step)
        remaining = tuple(s for later in first.waves[number + 1 :] for s in later.steps)
        assert unexpected_steps(remaining, plan().steps) == ()
        assert [s.id for s in plan().steps] == [s.id for s in remaining]
    assert not plan().has_changes
    assert all("kops-py/" not in str(dict(node.annotations)) for node in world.nodes.values())


@pytest.mark.parametrize("operation", ["upgrade", "patch"])
@settings(max_examples=100, deadline=None)
@given(world=worlds(), data=st.data())
def test_cut_off_anywhere_the_next_run_ends_it_and_forgets_no_hook_and_no_gate(
    operation: str, world: World, data: st.DataObject
) -> None:
    def plan() -> Plan:
        return world.upgrade_plan() if operation == "upgrade" else world.patch_plan()

    steps = plan().steps
    worked_on = {s.node for s in steps if isinstance(s.action, RunHook)}
    gated = {s.node for s in steps if s.id.startswith("gate-")}
    for step in steps[: data.draw(st.integers(0, len(steps)))]:
        world.perform(step)
    begun = frozenset(n for n, node in world.nodes.items() if "kops-py/" in str(dict(node.annotations)))
    world.rollout = dataclasses.replace(world.rollout, begun=begun)
    again = plan()
    for number, wave in enumerate(again.waves):
        for step in wave.steps:
            world.perform(step)
        remaining = tuple(s for later in again.waves[number + 1 :] for s in later.steps)
        assert unexpected_steps(remaining, plan().steps) == ()
    assert not plan().has_changes
    for node in worked_on:
        assert {"before", "after"} <= {what for name, what in world.ran if name == node}
        last_after = max(i for i, e in enumerate(world.ran) if e == (node, "after"))
        assert last_after > max(i for i, e in enumerate(world.ran) if e == (node, "before"))
    assert gated <= {name for name, what in world.ran if what == "gate"}
    assert {n for n, node in world.nodes.items() if node.unschedulable} == world.persons


def test_the_rollout_is_the_widest_of_its_windows() -> None:
    assert Rollout(a_rollout().drain, window=2, groups=(WorkerGroup("g", frozenset({"n1"}), 5),)).widest == 5


@pytest.mark.parametrize("cut", ["cordon", "settled"])
def test_what_an_earlier_run_left_matters_to_the_first_hop_only(cut: str) -> None:
    world = World(rollout_spec(1, 1), a_rollout())
    for step in world.upgrade_plan().steps:
        world.perform(step)
        if step.id.startswith(f"{cut}/n2"):
            break
    chains = {
        version: [s.id.partition("/")[0] for s in world.upgrade_plan().steps if s.node == "n2" and version in s.id]
        for version in map(str, HOPS)
    }
    first, second = chains.values()
    assert first[-3:] == ["after-1", "gate-1", "done"]
    assert "before-1" not in first
    assert second == [
        "stage", "before-1", "kubeadm", "upgrade", "cordon", "drain", "kubelet", "healthy", "uncordon", "settled",
        "after-1", "gate-1", "done",
    ]  # fmt: skip
    assert ("drain" in first) is (cut == "cordon")
