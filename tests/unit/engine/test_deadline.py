"""The deadline of a whole run: it ends as with SIGTERM, with a code of its own."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from kops_py.app.session import Settings, session
from kops_py.connect.base import Cancel
from kops_py.engine.cancel import deadline_cancels
from kops_py.engine.journal import Journal
from kops_py.engine.run import Engine, Outcome, StepContext
from kops_py.model.duration import Duration
from kops_py.model.errors import CancelledError, ExitCode, KopsError, RunDeadlineError
from kops_py.model.event import Event, StepResult
from kops_py.model.plan import Plan
from tests.fakes.cluster import make_spec
from tests.fakes.runs import make_plan

SHORT = Duration(0, "0s")  # parse_duration refuses it; a timer takes it at once
LONG = Duration(3600, "1h")


class Waiting:
    """Does steps; ``waits_in`` is the one in which it waits until it is asked to end."""

    def __init__(self, waits_in: str, *, ends_well: bool = False) -> None:
        self.waits_in, self.ends_well = waits_in, ends_well
        self.applied: list[str] = []

    def check(self, ctx: StepContext) -> str | None:
        return None

    def apply(self, ctx: StepContext) -> None:
        self.applied.append(ctx.step.id)
        if ctx.step.id == self.waits_in:
            assert ctx.cancel.wait(30)
            if not self.ends_well:
                ctx.cancel.check()

    def apply_together(self, contexts: Sequence[StepContext]) -> Mapping[str, KopsError | None]:
        raise AssertionError("no wave of this plan is done together")

    def verify(self, ctx: StepContext) -> None:
        pass


def run_until(plan: Plan, performer: Waiting, deadline: Duration, folder: Path) -> tuple[Outcome, list[Event]]:
    events: list[Event] = []
    cancel = Cancel()
    with deadline_cancels(cancel, deadline):
        outcome = Engine(performer, Journal(folder / "j"), events.append, cancel).run(plan, lambda: plan)
    return outcome, events


def test_what_waits_is_interrupted_and_nothing_new_is_begun(tmp_path: Path) -> None:
    performer = Waiting("s1/n1")
    outcome, _ = run_until(make_plan(1, 2), performer, Duration(1, "1s"), tmp_path)
    assert performer.applied == ["s1/n1"]
    assert outcome.results == {"s1/n1": StepResult.INTERRUPTED}
    [error] = outcome.errors
    assert isinstance(error, RunDeadlineError)
    assert (error.code, str(error)) == (ExitCode.DEADLINE, "interrupted (deadline of 1s)")


def test_a_step_that_is_under_way_may_end_well(tmp_path: Path) -> None:
    outcome, _ = run_until(make_plan(1, 2), Waiting("s1/n1", ends_well=True), Duration(1, "1s"), tmp_path)
    assert outcome.results == {"s1/n1": StepResult.DONE}
    assert [e.code for e in outcome.errors] == [ExitCode.DEADLINE]


def test_a_run_that_is_done_in_time_hears_nothing_of_it(tmp_path: Path) -> None:
    began, threads = time.monotonic(), threading.active_count()
    outcome, _ = run_until(make_plan(2, 1), Waiting(""), LONG, tmp_path)
    assert outcome.ok
    assert time.monotonic() - began < 30
    assert threading.active_count() <= threads + 1  # the timer may still be on its way out


def test_without_a_deadline_there_is_no_timer() -> None:
    threads = threading.active_count()
    with deadline_cancels(Cancel(), None):
        assert threading.active_count() == threads


@pytest.mark.parametrize("first_is_deadline", [True, False])
def test_the_first_reason_counts(first_is_deadline: bool) -> None:
    cancel = Cancel()
    for deadline in (first_is_deadline, not first_is_deadline):
        if deadline:
            cancel.set("deadline of 90m", RunDeadlineError)
        else:
            cancel.set("SIGTERM")
    with pytest.raises(CancelledError) as caught:
        cancel.check()
    assert caught.value.code == (ExitCode.DEADLINE if first_is_deadline else ExitCode.INTERRUPTED)
    assert cancel.reason == ("deadline of 90m" if first_is_deadline else "SIGTERM")


def test_a_session_has_the_deadline_of_its_command() -> None:
    with session(Settings(deadline=SHORT), make_spec(1), lambda _: None) as opened:
        assert opened.cancel.wait(30)
        with pytest.raises(RunDeadlineError, match="deadline of 0s"):
            opened.cancel.check()
    with session(Settings(), make_spec(1), lambda _: None) as opened:
        assert not opened.cancel.wait(0.05)
