"""The engine's rules: chains, budgets, interruption, announcements."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kops_py.connect.base import Cancel
from kops_py.engine.journal import Journal, read_journal
from kops_py.engine.run import Engine, Outcome, StepContext
from kops_py.model.actions import ConfigureBridge
from kops_py.model.errors import CommandFailedError, KopsError, PlanChangedError
from kops_py.model.event import Event, StepResult
from kops_py.model.plan import Plan, Step, Wave
from kops_py.runbooks.bootstrap import bootstrap
from tests.fakes.cluster import SimulatedCluster, arguments_for, make_spec


def step(node: str, number: int = 1) -> Step:
    return Step(f"{node}/{number}", node, f"step {number}", ConfigureBridge(node), 5.0)


def plan(*waves: Wave) -> Plan:
    return Plan("test", "c", waves)


@dataclass
class Scripted:
    """Applies steps by a table of what each does; a step that is not in the table simply works."""

    does: Mapping[str, Callable[[StepContext], None]] = field(default_factory=dict)
    applied: list[str] = field(default_factory=list)
    true_already: frozenset[str] = frozenset()
    unproven: frozenset[str] = frozenset()
    lock: threading.Lock = field(default_factory=threading.Lock)

    def check(self, ctx: StepContext) -> str | None:
        return "found so" if ctx.step.id in self.true_already else None

    def apply(self, ctx: StepContext) -> None:
        with self.lock:
            self.applied.append(ctx.step.id)
        if ctx.step.id in self.does:
            self.does[ctx.step.id](ctx)

    def apply_together(self, contexts: Sequence[StepContext]) -> Mapping[str, KopsError | None]:
        results: dict[str, KopsError | None] = {}
        for ctx in contexts:
            try:
                self.apply(ctx)
                results[ctx.step.id] = None
            except KopsError as error:
                results[ctx.step.id] = error
        return results

    def verify(self, ctx: StepContext) -> None:
        if ctx.step.id in self.unproven:
            raise CommandFailedError("not so", where=ctx.step.node)


def fail(ctx: StepContext) -> None:
    raise CommandFailedError("it broke", where=ctx.step.node)


def run(performer: Scripted, the_plan: Plan, folder: Path, cancel: Cancel | None = None) -> tuple[Outcome, list[Event]]:
    events: list[Event] = []
    journal = Journal(folder / "journal.jsonl")
    engine = Engine(performer, journal, events.append, cancel or Cancel())
    outcome = engine.run(the_plan, lambda: plan())
    journal.close()
    return outcome, events


def test_a_failed_chain_stops_at_its_failure_and_nothing_new_starts(tmp_path: Path) -> None:
    performer = Scripted({"a/1": fail})
    outcome, _ = run(
        performer,
        plan(
            Wave("w1", (step("a"), step("a", 2), step("b"), step("b", 2)), max_parallel=1),
            Wave("w2", (step("c"),)),
        ),
        tmp_path,
    )
    assert performer.applied == ["a/1"]
    assert outcome.results == {"a/1": StepResult.FAILED}


def test_chains_that_run_are_finished_when_another_fails(tmp_path: Path) -> None:
    both = threading.Barrier(2, timeout=5)

    def fail_beside(ctx: StepContext) -> None:
        both.wait()
        fail(ctx)

    def wait_beside(_ctx: StepContext) -> None:
        both.wait()

    performer = Scripted({"a/1": fail_beside, "b/1": wait_beside})
    outcome, _ = run(
        performer,
        plan(Wave("w1", (step("a"), step("a", 2), step("b"), step("b", 2), step("c")), max_parallel=2)),
        tmp_path,
    )
    assert set(performer.applied) >= {"a/1", "b/1", "b/2"}
    assert "a/2" not in performer.applied
    assert outcome.results["b/2"] is StepResult.DONE


def test_a_budget_lets_the_run_go_on_without_the_failed_node(tmp_path: Path) -> None:
    performer = Scripted({"a/1": fail})
    outcome, _ = run(
        performer,
        plan(
            Wave("w1", (step("a"), step("b")), max_parallel=2, failures_allowed=1),
            Wave("w2", (step("a", 2), step("b", 2))),
        ),
        tmp_path,
    )
    assert set(performer.applied) == {"a/1", "b/1", "b/2"}
    assert not outcome.ok


def test_who_plans_anew_knows_which_nodes_have_failed(tmp_path: Path) -> None:
    journal, seen = Journal(tmp_path / "journal.jsonl"), []
    engine = Engine(Scripted({"a/1": fail}), journal, lambda _: None, Cancel())

    def replan() -> Plan:
        seen.append(engine.failed_nodes)
        return plan()

    first = Wave("w1", (step("a"), step("b")), max_parallel=2, failures_allowed=1)
    engine.run(plan(first, Wave("w2", (step("b", 2),))), replan)
    journal.close()
    assert seen == [{"a"}]


def test_the_failures_of_earlier_waves_count_in_the_budgets_of_later_ones(tmp_path: Path) -> None:
    """Groups of workers have a wave each; the budget is that of the run."""
    performer = Scripted({"a/1": fail, "c/1": fail})
    waves = [
        Wave("w1", (step("a"), step("b")), failures_allowed=1),
        Wave("w2", (step("c"), step("d")), failures_allowed=1),
        Wave("w3", (step("e"),), failures_allowed=1),
    ]
    run(performer, plan(*waves), tmp_path)
    assert performer.applied == ["a/1", "b/1", "c/1"]


def test_what_is_true_already_is_not_applied_and_what_is_not_proven_fails(tmp_path: Path) -> None:
    performer = Scripted(true_already=frozenset({"a/1"}), unproven=frozenset({"b/1"}))
    outcome, _ = run(performer, plan(Wave("w", (step("a"), step("b")), max_parallel=1)), tmp_path)
    assert performer.applied == ["b/1"]
    assert outcome.results == {"a/1": StepResult.ALREADY_TRUE, "b/1": StepResult.FAILED}


@pytest.mark.parametrize("together", [True, False])
def test_cancel_ends_after_the_running_step(tmp_path: Path, together: bool) -> None:
    cancel = Cancel()

    def interrupt(ctx: StepContext) -> None:
        cancel.set("SIGTERM")
        ctx.remaining_s()

    performer = Scripted({"a/1": interrupt})
    wave = Wave("w1", (step("a"),), together=together)
    outcome, _ = run(performer, plan(wave, Wave("w2", (step("b"),))), tmp_path, cancel)
    assert performer.applied == ["a/1"]
    assert outcome.results == {"a/1": StepResult.INTERRUPTED}
    assert [int(e.code) for e in outcome.errors] == [130]


def test_an_unannounced_step_stops_the_run(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    engine = Engine(Scripted(), journal, lambda _e: None, Cancel())
    outcome = engine.run(
        plan(Wave("w1", (step("a"),)), Wave("w2", (step("b"),))),
        lambda: plan(Wave("w2", (step("b"), step("x")))),
    )
    assert [type(e) for e in outcome.errors] == [PlanChangedError]
    assert "x/1" in str(outcome.errors[0])
    assert "b/1" not in outcome.results


def test_the_journal_has_start_and_end_of_each_step_and_survives_a_torn_line(tmp_path: Path) -> None:
    run(Scripted({"b/1": fail}), plan(Wave("w", (step("a"), step("b")), max_parallel=1)), tmp_path)
    path = tmp_path / "journal.jsonl"
    assert path.stat().st_mode & 0o777 == 0o600
    with path.open("ab") as file:
        file.write(b'{"kind":"step-st')
    kinds = [(r["kind"], r.get("step"), r.get("result")) for r in read_journal(path) if r["kind"].startswith("step")]
    assert kinds == [
        ("step-start", "a/1", None),
        ("step-end", "a/1", "done"),
        ("step-start", "b/1", None),
        ("step-end", "b/1", "failed"),
    ]


class KilledError(BaseException):
    """Stands for kill -9: nothing of the program runs after it."""


@dataclass
class Killed:
    """A performer that dies at the n-th step, before or after it took effect."""

    cluster: SimulatedCluster
    at: int
    after: bool
    count: int = 0

    def check(self, ctx: StepContext) -> str | None:
        return None

    def apply(self, ctx: StepContext) -> None:
        dies = self.count == self.at
        self.count += 1
        if dies and not self.after:
            raise KilledError
        self.cluster.perform(ctx.step)
        if dies:
            raise KilledError

    def apply_together(self, contexts: Sequence[StepContext]) -> Mapping[str, KopsError | None]:
        for ctx in contexts:
            self.apply(ctx)
        return {ctx.step.id: None for ctx in contexts}

    def verify(self, ctx: StepContext) -> None:
        return None


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(1, 3), st.integers(0, 3), st.integers(0, 1), st.integers(0, 25), st.booleans())
def test_killed_at_any_step_the_same_run_again_finishes(
    tmp_path: Path, control_planes: int, workers: int, balancers: int, at: int, after: bool
) -> None:
    """No step is applied twice with effect: the simulated cluster refuses a second join, init or preparation."""
    spec = make_spec(control_planes, workers, balancers, labels=True)
    cluster = SimulatedCluster(spec)

    def plan_now() -> Plan:
        return bootstrap(spec, cluster.facts(), arguments_for(spec)).plan

    def run_with(performer: Killed | SimulatedCluster) -> Outcome:
        journal = Journal(tmp_path / "journal.jsonl")
        try:
            return Engine(performer, journal, lambda _e: None, Cancel()).run(plan_now(), plan_now)
        finally:
            journal.close()

    with contextlib.suppress(KilledError):
        run_with(Killed(cluster, at, after))
    outcome = run_with(cluster)
    assert outcome.ok, [str(e) for e in outcome.errors]
    assert not plan_now().has_changes
    assert _only_repeatable(cluster.applied)
    for line in (tmp_path / "journal.jsonl").read_text().splitlines():
        json.loads(line)


def _only_repeatable(applied: list[str]) -> bool:
    """Steps that come twice may only be those that are safe to repeat."""
    twice = {a for a in applied if applied.count(a) > 1}
    return all(a.split("/")[0] in {"network", "healthy", "revoke", "labels"} for a in twice)
