"""Restarts that an unfinished run of the same command has done already, and those that only look like it."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from kops_py.app import nodes as commands
from kops_py.app.restarted import RESUMED_WITHIN_S
from kops_py.app.session import Session, Settings
from kops_py.app.upgrade import RolloutSettings
from kops_py.engine.journal import Journal
from kops_py.model.actions import RebootNode
from kops_py.model.event import PlanMade, RunFinished, RunStarted
from kops_py.model.patches import PatchFacts, RebootPolicy, Selection, Update
from kops_py.model.plan import Plan, Step
from kops_py.report.jsonl import JsonFile
from tests.unit.runbooks.rollout_cases import World, a_rollout, rollout_spec

UPDATE = (Update("linux-image-amd64", "6.1.1", "6.1.2"),)
HOUR_S = 3600.0


@dataclass
class Desk:
    """Commands of one operator, with the runs they leave and a cluster that does what is planned."""

    folder: Path
    world: World
    asking: set[str] = field(default_factory=set)
    """Nodes that ask for a restart."""
    limit: frozenset[str] | None = None
    runs: int = 0
    session: Session | None = None

    _common: Sequence[Any] = (Settings(), lambda _: None, lambda *_: True)

    def reboot(self, *names: str) -> Plan:
        """Plan ``node reboot``."""
        return self._planned(lambda: commands.run_reboot(*self._common, nodes=names, rollout=RolloutSettings()))

    def patch(self, reboot: RebootPolicy = RebootPolicy.ALWAYS, *packages: str) -> Plan:
        """Plan ``patch``."""
        selection = Selection.NAMED if packages else Selection.ALL
        return self._planned(
            lambda: commands.run_patch(
                *self._common, selection=selection, packages=packages, reboot=reboot, rollout=RolloutSettings()
            )
        )

    def _planned(self, run: Callable[[], object]) -> Plan:
        self.runs += 1
        work = self.folder / "runs" / f"20260101T0000{self.runs:02}Z-OPERATION-aaaa"
        spec = dataclasses.replace(self.world.spec, limit=self.limit)
        made = SimpleNamespace(
            settings=SimpleNamespace(run_dir=self.folder), work_dir=work, spec=spec, emit=lambda _: None
        )
        self.session = cast(Session, made)
        return cast(Plan, run())

    def cut_off(self, plan: Plan, before: str = "", *, code: int | None = 10, age_s: float = 0.0) -> str:
        """Carry a plan out until the step whose id is ``before``, or to its end; return the name of the run."""
        name = f"20260101T0000{self.runs:02}Z-{plan.operation}-aaaa"
        folder = self.folder / "runs" / name
        folder.mkdir(parents=True)
        (folder / "plan.json").write_text(json.dumps(plan.to_json()))
        journal = Journal(folder / "journal.jsonl", clock=lambda: time.time() - age_s)
        journal.write("run-start", run=name, operation=plan.operation, cluster=plan.cluster, digest=plan.digest)
        for step in plan.steps:
            if step.id == before:
                break
            journal.write("step-start", step=step.id, node=step.node)
            self.world.perform(step)
            journal.write("step-end", step=step.id, node=step.node, result="done")
        if code is not None:
            journal.write("run-end", exit_code=code)
        journal.close()
        return name

    def end_with_nothing_to_do(self, plan: Plan) -> None:
        """Leave what a run leaves that has nothing to carry out: events only."""
        name = f"20260101T0000{self.runs:02}Z-{plan.operation}-aaaa"
        folder = self.folder / "runs" / name
        folder.mkdir(parents=True)
        events = JsonFile(folder / "events.jsonl")
        events(RunStarted(run_id=name, operation=plan.operation, cluster=plan.cluster, run_dir="there"))
        events(PlanMade(plan=plan))
        events(RunFinished(exit_code=0, duration_s=1.0, steps_done=0, steps_skipped=0, steps_failed=0, steps_left=0))
        events.close()


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    made = Desk(tmp_path, World(rollout_spec(1, 3, hooks=False, gates=False), a_rollout()))

    def run_operation(*given: Any, **_: Any) -> Plan:
        return cast(Plan, given[-1](made.session))

    def updates(*_: Any) -> dict[str, PatchFacts]:
        return {n: PatchFacts(u, n in made.asking) for n, u in made.world.updates.items()}

    monkeypatch.setattr(commands, "run_operation", run_operation)
    monkeypatch.setattr(commands, "_look", lambda *_: made.world.facts())
    monkeypatch.setattr(commands, "_updates", updates)
    monkeypatch.setattr(commands, "begin_with_backup", lambda _, plan: plan)
    monkeypatch.setattr(commands, "drain_findings", lambda *_: ())
    monkeypatch.setattr(commands, "_finished", lambda _, __, plan, *___: plan)
    made.world.updates = dict.fromkeys(made.world.updates, ())
    return made


def restarts(plan: Plan) -> list[str]:
    return [step.node for step in plan.steps if isinstance(step.action, RebootNode)]


def nodes_of(steps: Sequence[Step]) -> set[str]:
    return {step.node for step in steps}


def test_the_same_command_goes_on_behind_what_was_restarted_and_says_so(desk: Desk) -> None:
    run = desk.cut_off(desk.reboot("n2", "n3"), "drain/n3")
    plan = desk.reboot("n3", "n2")
    assert restarts(plan) == ["n3"]
    assert plan.notes == (f"not restarted again: n2; the unfinished run {run} of the same command did it",)


def test_a_run_that_was_killed_goes_on_over_several_more(desk: Desk) -> None:
    first = desk.cut_off(desk.patch(), "cordon/n3", code=None)
    plan = desk.patch()
    assert restarts(plan) == ["n3", "n4"]
    second = desk.cut_off(plan, "cordon/n4", code=None)
    plan = desk.patch()
    assert restarts(plan) == ["n4"]
    assert plan.notes == (
        f"not restarted again: n1, n2; the unfinished run {first} of the same command did it",
        f"not restarted again: n3; the unfinished run {second} of the same command did it",
    )


@pytest.mark.parametrize("age_h", [23, 25])
def test_only_for_so_long(desk: Desk, age_h: int) -> None:
    assert RESUMED_WITHIN_S == 24 * HOUR_S
    desk.cut_off(desk.reboot("n2", "n3"), "cordon/n3", age_s=age_h * HOUR_S)
    assert restarts(desk.reboot("n2", "n3")) == (["n3"] if age_h < 24 else ["n2", "n3"])


@pytest.mark.parametrize("other", ["nodes", "operation", "limit", "updates", "cluster", "no folder"])
def test_another_command_leaves_nothing_out(desk: Desk, other: str) -> None:
    run = desk.cut_off(desk.patch(), "cordon/n3")
    if other == "nodes":
        desk.cut_off(desk.reboot("n2", "n3"), "cordon/n3")
        plan = desk.reboot("n2")
    elif other == "operation":
        plan = desk.reboot("n1", "n2", "n3", "n4")
    else:
        desk.limit = frozenset({"n2", "n3"}) if other == "limit" else None
        if other == "cluster":
            desk.world.spec = dataclasses.replace(desk.world.spec, name="another")
        if other == "no folder":
            (desk.folder / "runs" / run / "plan.json").unlink()
        plan = desk.patch(RebootPolicy.ALWAYS, *(("bash",) if other == "updates" else ()))
    assert "n2" in restarts(plan)
    assert not [note for note in plan.notes if "not restarted again" in note]


def test_how_nodes_are_drained_does_not_make_it_another_command(desk: Desk) -> None:
    desk.cut_off(desk.reboot("n2", "n3"), "drain/n3")
    forced = RolloutSettings(disable_eviction=True)
    plan = desk._planned(lambda: commands.run_reboot(*desk._common, nodes=("n2", "n3"), rollout=forced))
    assert restarts(plan) == ["n3"]


def test_a_command_that_came_to_its_end_is_a_new_wish_the_next_time(desk: Desk) -> None:
    desk.cut_off(desk.reboot("n2", "n3"), "cordon/n3")
    desk.cut_off(desk.reboot("n2", "n3"), code=0)
    assert restarts(desk.reboot("n2", "n3")) == ["n2", "n3"]


def test_nothing_to_do_says_why_and_the_next_time_is_a_new_wish(desk: Desk) -> None:
    run = desk.cut_off(desk.reboot("n2"))
    plan = desk.reboot("n2")
    assert not plan.has_changes
    assert plan.notes == (f"not restarted again: n2; the unfinished run {run} of the same command did it",)
    desk.end_with_nothing_to_do(plan)
    assert restarts(desk.reboot("n2")) == ["n2"]


def test_another_command_in_between_does_not_end_it(desk: Desk) -> None:
    desk.cut_off(desk.reboot("n2", "n3"), "cordon/n3")
    desk.cut_off(desk.reboot("n4"), code=0)
    assert restarts(desk.reboot("n2", "n3")) == ["n3"]


def test_a_node_that_somebody_else_restarted_before_its_turn_is_restarted(desk: Desk) -> None:
    desk.cut_off(desk.reboot("n2", "n3"), "cordon/n3")
    desk.world._host("n3", boot_id="by-hand")
    assert restarts(desk.reboot("n2", "n3")) == ["n3"]


def test_a_restart_that_was_begun_and_has_not_happened_is_done(desk: Desk) -> None:
    plan = desk.reboot("n2", "n3")
    name = desk.cut_off(plan, "reboot/n2")
    journal = Journal(desk.folder / "runs" / name / "journal.jsonl")
    journal.write("step-start", step="reboot/n2", node="n2")
    journal.close()
    assert restarts(desk.reboot("n2", "n3")) == ["n2", "n3"]


@pytest.mark.parametrize("pending", ["updates", "asking"])
def test_a_node_with_something_pending_is_never_held_for_restarted(desk: Desk, pending: str) -> None:
    run = desk.cut_off(desk.patch(), "cordon/n3")
    if pending == "updates":
        desk.world.updates["n2"] = UPDATE
    else:
        desk.asking = {"n2"}
    plan = desk.patch()
    assert restarts(plan) == ["n2", "n3", "n4"]
    assert plan.notes == (f"not restarted again: n1; the unfinished run {run} of the same command did it",)


def test_updates_installed_after_a_restart_of_an_earlier_run_get_theirs(desk: Desk) -> None:
    """The run between was cut off with the updates in and the restart to come."""
    desk.cut_off(desk.patch(), "cordon/n3")
    desk.world.updates["n2"] = UPDATE
    desk.cut_off(desk.patch(), "reboot/n2")
    assert desk.world.updates["n2"] == ()
    assert restarts(desk.patch())[0] == "n2"
    assert nodes_of(desk.patch().steps) == {"n2", "n3", "n4"}


def test_what_was_asked_for_is_in_the_plan(desk: Desk) -> None:
    assert dict(desk.reboot("n3", "n2").arguments) == {"reboot": "always", "nodes": "n2 n3"}
    assert dict(desk.patch().arguments) == {"reboot": "always", "updates": "all"}
    desk.limit = frozenset({"n3", "n2"})
    found = dict(desk.patch(RebootPolicy.AUTO, "vim", "bash").arguments)
    assert found == {"reboot": "auto", "updates": "bash vim", "limit": "n2 n3"}
