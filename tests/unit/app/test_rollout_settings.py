"""From the command line, cluster.yaml and earlier runs to how nodes are taken out of service."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import click
import pytest
from click.testing import CliRunner

from kops_py.app.canaries import settle_canaries, with_passed
from kops_py.app.nodes import _with_movable_pods
from kops_py.app.session import Session
from kops_py.app.upgrade import RolloutSettings, make_rollout
from kops_py.cli.upgrade import rollout_options, rollout_settings
from kops_py.engine.journal import Journal
from kops_py.model.errors import ConfigError
from kops_py.model.hooks import CanarySpec, Gate, GroupSpec, OperatorCommand
from kops_py.model.plan import Plan
from kops_py.runbooks.rollout import WorkerGroup
from tests.fakes.kube import FakeKubeApi
from tests.fakes.workloads import Cluster
from tests.unit.runbooks.rollout_cases import GATE, HOPS, World, a_rollout, rollout_spec

WATCH = f"canary@{HOPS[0]}"
ROLLOUT = a_rollout(canary=1, canary_pause_s=60.0)


def test_the_canary_of_cluster_yaml_and_the_command_line_over_it() -> None:
    spec = rollout_spec(1, 3)
    own = dataclasses.replace(spec.maintenance, canary=CanarySpec(2, 60.0, GATE))
    spec = dataclasses.replace(spec, maintenance=own)
    found = make_rollout(spec, RolloutSettings())
    assert (found.canary, found.canary_pause_s, found.canary_gate) == (2, 60.0, GATE)
    found = make_rollout(spec, RolloutSettings(canary=1, canary_pause_s=0.0, canary_gate=("./check", "it")))
    gate = Gate("of the canary", OperatorCommand(("./check", "it")))
    assert (found.canary, found.canary_pause_s, found.canary_gate) == (1, 0.0, gate)
    assert make_rollout(spec, RolloutSettings(canary=0)).canary == 0
    with pytest.raises(ConfigError, match="need a canary"):
        make_rollout(spec, RolloutSettings(canary=0, canary_pause_s=60.0))


def test_groups_and_what_puts_them_aside() -> None:
    spec = rollout_spec(1, 6)
    groups = (GroupSpec("storage", "50%", inventory_group="s", hosts=frozenset({"n2", "n3"})),)
    own = dataclasses.replace(spec.maintenance, max_unavailable="50%", groups=groups)
    spec = dataclasses.replace(spec, maintenance=own)
    facts = World(spec, a_rollout()).facts()
    found = make_rollout(spec, RolloutSettings(), facts)
    assert found.groups == (WorkerGroup("storage", frozenset({"n2", "n3"}), 1),)
    assert found.window == 2  # half of the four that are in no group
    found = make_rollout(spec, RolloutSettings(max_unavailable="100%"), facts)
    assert (found.groups, found.window) == ((), 6)
    assert make_rollout(spec, RolloutSettings(all_at_once=True), facts).groups == ()


def test_the_pod_selector_of_cluster_yaml_and_the_command_line_over_it() -> None:
    spec = rollout_spec(1, 1)
    drain = dataclasses.replace(spec.maintenance.drain, pod_selector="app!=db")
    spec = dataclasses.replace(spec, maintenance=dataclasses.replace(spec.maintenance, drain=drain))
    assert make_rollout(spec, RolloutSettings()).drain.pod_selector == "app!=db"
    assert make_rollout(spec, RolloutSettings(pod_selector="app=web")).drain.pod_selector == "app=web"


def test_a_node_whose_pods_the_selector_leaves_out_is_not_drained() -> None:
    """Else node drain would plan the same drain again and again."""
    api = FakeKubeApi()
    shop = Cluster.make(api, "shop")
    shop.pod("db-0", labels={"app": "db"})
    there = cast(Session, SimpleNamespace(kube=SimpleNamespace(api=lambda: api)))
    plain = a_rollout()
    chosen = dataclasses.replace(plain, drain=dataclasses.replace(plain.drain, pod_selector="app!=db"))
    assert _with_movable_pods(there, [shop.node], plain) == {shop.node}
    assert _with_movable_pods(there, [shop.node], chosen) == frozenset()


def test_workers_that_an_earlier_run_has_begun_are_known() -> None:
    world = World(rollout_spec(1, 3), a_rollout(), hops=HOPS[:1])
    for step in world.upgrade_plan().steps:
        world.perform(step)
        if step.id.startswith("after-1/n2"):
            break
    assert make_rollout(world.spec, RolloutSettings(), world.facts()).begun == {"n2"}


@click.command()
@rollout_options
def _probe(**given: Any) -> None:
    shown = rollout_settings(given)
    click.echo(f"{shown.canary} {shown.canary_pause_s} {shown.canary_gate}")
    click.echo(f"pods {shown.pod_selector!r}")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("", "None None ()"),
        ("--canary 2 --canary-pause 1h30m --canary-gate './check --all'", "2 5400.0 ('./check', '--all')"),
        ("--canary-pause 0", "None 0.0 ()"),
        ("--canary-pause ten", "'ten' is not a length of time"),
        ("--canary-gate ''", "this is no command"),
        ('--canary-gate "a \'b"', "is no command: No closing quotation"),
        ("--canary -1", "--canary"),
        ("", "pods None"),
        ("--pod-selector ' app notin (db,queue),!keep '", "pods 'app notin (db,queue),!keep'"),
        ("--pod-selector 'app in db'", "'app in db' is not understood at 'app in db'"),
        ("--pod-selector 'app in (a b)'", "'a b' is not a label's value"),
        ("--pod-selector ''", "it is empty"),
    ],
)
def test_options(arguments: str, said: str) -> None:
    assert said in CliRunner().invoke(_probe, arguments).output


def opened(folder: Path, run: str, world: World) -> Session:
    work = folder / "runs" / run
    work.mkdir(parents=True, exist_ok=True)
    settings = SimpleNamespace(run_dir=folder)
    return cast(Session, SimpleNamespace(settings=settings, work_dir=work, spec=world.spec))


def run_until(folder: Path, run: str, world: World, end: str = "", *, exit_code: int | None = None) -> Plan:
    """Settle, plan and carry out a run as the engine would; cut off before the step whose id begins with ``end``."""
    session = opened(folder, run, world)
    plain = dataclasses.replace(ROLLOUT, begun=world.rollout.begun)
    world.rollout, world.passed = plain, set()
    world.rollout = settle_canaries(session, plain, world.upgrade_plan())
    plan = world.upgrade_plan()
    (session.work_dir / "plan.json").write_text(json.dumps(plan.to_json()))
    journal = Journal(session.work_dir / "journal.jsonl")
    for wave in plan.waves:
        for step in wave.steps:
            if end and step.id.startswith(end):
                journal.close()
                return plan
            world.perform(step)
            journal.write("step-end", step=step.id, node=step.node, result="done")
        world.rollout, world.passed = with_passed(session, world.rollout), set()
    if exit_code is not None:
        journal.write("run-end", exit_code=exit_code)
    journal.close()
    return plan


def ids(plan: Plan) -> list[str]:
    return [s.id for s in plan.steps]


def a_world() -> World:
    return World(rollout_spec(1, 3, hooks=False, gates=False), a_rollout(), hops=HOPS[:1])


def test_a_pause_that_has_ended_is_not_done_again_and_no_new_canary_is_chosen(tmp_path: Path) -> None:
    world = a_world()
    first = run_until(tmp_path, "20260101T000001Z-upgrade-aaaa", world, "cordon/n3")
    assert WATCH in ids(first)
    assert world.rollout.canaries == ("n2",)
    second = run_until(tmp_path, "20260101T000002Z-upgrade-aaaa", world, "cordon/n4")
    assert WATCH not in ids(second)
    assert [w.name for w in second.waves] == [f"workers, {HOPS[0]}"]
    third = run_until(tmp_path, "20260101T000003Z-upgrade-aaaa", world, exit_code=0)
    assert [w.name for w in third.waves] == [f"workers, {HOPS[0]}"]


def test_a_pause_that_was_cut_off_is_done_again_before_any_other_worker(tmp_path: Path) -> None:
    world = a_world()
    run_until(tmp_path, "20260101T000001Z-upgrade-aaaa", world, WATCH)
    second = run_until(tmp_path, "20260101T000002Z-upgrade-aaaa", world)
    assert ids(second)[0] == WATCH
    assert world.rollout.canaries == ("n2",)


@pytest.mark.parametrize("why", ["ended", "another target", "another operation", "no folder", "canary pending"])
def test_what_an_earlier_run_passed_counts_only_while_it_is_the_same_job(tmp_path: Path, why: str) -> None:
    world = a_world()
    code = 0 if why == "ended" else 10
    end = "" if why == "ended" else "cordon/n3"
    name = "20260101T000001Z-patch-aaaa" if why == "another operation" else "20260101T000001Z-upgrade-aaaa"
    run_until(tmp_path, name, world, end, exit_code=code)
    fresh = a_world()
    if why != "canary pending":
        for step in fresh.upgrade_plan().steps:
            if step.node in ("n1", "n2"):
                fresh.perform(step)
    plan = tmp_path / "runs" / name / "plan.json"
    if why == "another target":
        plan.write_text(plan.read_text().replace('"to": "v1.31.2"', '"to": "v1.31.1"'))
    if why == "no folder":
        plan.unlink()
    second = run_until(tmp_path, "20260101T000002Z-upgrade-bbbb", fresh)
    assert WATCH in ids(second)
    assert fresh.rollout.canaries == (("n2",) if why == "canary pending" else ("n3",))


def test_without_a_canary_nothing_is_looked_up(tmp_path: Path) -> None:
    world = a_world()
    plain = a_rollout()
    assert settle_canaries(opened(tmp_path, "r", world), plain, world.upgrade_plan()) is plain
    assert with_passed(opened(tmp_path, "r", world), plain) is plain
