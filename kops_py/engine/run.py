"""Run a plan: waves one after the other, the chains of a wave side by side, every step checked, applied, verified.

The rules that hold whatever the steps are:
- a chain ends at its first failure, and that node is left alone for the rest of the run;
- when more chains failed than the wave's budget allows, nothing new is started; what runs is finished. A failure of an
  earlier wave counts in the budgets of later ones;
- after each wave the world is observed again, and the new plan may hold nothing that was not announced.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from kops_py.connect.base import Cancel
from kops_py.engine.journal import Journal
from kops_py.model.errors import CancelledError, DeadlineError, KopsError, PlanChangedError
from kops_py.model.event import Emit, StepFinished, StepProgress, StepResult, StepStarted, WaveStarted
from kops_py.model.plan import Plan, Step, Wave, unexpected_steps


def _no_journal(_kind: str, **_values: object) -> None:
    """Take a record and keep it nowhere."""


@dataclass(slots=True)
class StepContext:
    """What a step may use while it runs: its deadline, the request to end, and a way to say what it does."""

    step: Step
    cancel: Cancel
    emit: Emit
    deadline_at: float
    journal: Callable[..., None] = _no_journal
    """Writes a record of this step's own kind into the journal; no value may hold a secret."""

    def remaining_s(self) -> float:
        """Return the seconds left; raises CancelledError and DeadlineError."""
        self.cancel.check()
        left = self.deadline_at - time.monotonic()
        if left <= 0:
            raise DeadlineError(f"{self.step.title}: not done within {self.step.timeout_s:.0f} s", where=self.step.node)
        return left

    def progress(self, message: str, *, waiting: bool = False) -> None:
        """Tell what the step is doing or waiting for."""
        self.emit(StepProgress(step=self.step.id, node=self.step.node, message=message, waiting=waiting))


class Performer(Protocol):
    """Knows how to carry out the steps of a plan."""

    def check(self, ctx: StepContext) -> str | None:
        """Return why the step is true already, or None when it has to be applied."""

    def apply(self, ctx: StepContext) -> None:
        """Make the step true; raises KopsError."""

    def apply_together(self, contexts: Sequence[StepContext]) -> Mapping[str, KopsError | None]:
        """Make all these steps true in one call; returns the error of each step id, None when it went well."""

    def verify(self, ctx: StepContext) -> None:
        """Prove that the step is true now; raises KopsError."""


@dataclass(slots=True)
class Outcome:
    """How a run ended: the result of each step that was reached, and the errors in the order they came."""

    results: dict[str, StepResult] = field(default_factory=dict)
    errors: list[KopsError] = field(default_factory=list)

    def count(self, result: StepResult) -> int:
        """Return how many steps ended this way."""
        return sum(1 for r in self.results.values() if r is result)

    @property
    def ok(self) -> bool:
        """Whether nothing failed and nothing was interrupted."""
        return not self.errors


class Engine:
    """Runs one plan; made anew for each run."""

    def __init__(self, performer: Performer, journal: Journal, emit: Emit, cancel: Cancel) -> None:
        self._performer = performer
        self._journal = journal
        self._emit = emit
        self._cancel = cancel
        self._lock = threading.Lock()
        self._outcome = Outcome()
        self._failed_nodes: set[str] = set()

    @property
    def failed_nodes(self) -> frozenset[str]:
        """Return the nodes whose chain has failed."""
        return frozenset(self._failed_nodes)

    def run(self, plan: Plan, replan: Callable[[], Plan]) -> Outcome:
        """Carry out ``plan``; ``replan`` observes again and plans anew after each wave.

        Never raises KopsError: every failure is in the outcome.
        """
        waves = [w for w in plan.waves if w.steps]
        try:
            for number, wave in enumerate(waves):
                self._cancel.check()
                if not self._run_wave(wave):
                    break
                remaining = [s for later in waves[number + 1 :] for s in later.steps]
                if remaining:
                    self._compare(remaining, replan())
        except KopsError as error:
            self._outcome.errors.append(error)
            self._journal.write("stopped", error=error.to_json())
        return self._outcome

    def _compare(self, remaining: list[Step], plan: Plan) -> None:
        failed = self._failed_nodes
        extra = [s for s in unexpected_steps(tuple(remaining), plan.steps) if s.node not in failed]
        if not extra:
            return
        raise PlanChangedError(
            "after this wave the plan is no longer the one that was announced",
            why="unannounced: " + ", ".join(f"{s.id} ({s.title})" for s in extra),
            hint="look at what changed with --plan, then run the same command again",
        )

    def _run_wave(self, wave: Wave) -> bool:
        """Run one wave; False when the run must not go on."""
        steps = [s for s in wave.steps if s.node == "" or s.node not in self._failed_nodes]
        self._emit(WaveStarted(wave=wave.name, steps=len(steps)))
        self._journal.write("wave", wave=wave.name)
        before = len(self._failed_nodes)
        allowed = max(0, wave.failures_allowed - before)
        cluster_failed = self._run_together(steps) if wave.together else self._run_chains(wave, steps, allowed)
        self._cancel.check()
        return not cluster_failed and len(self._failed_nodes) - before <= allowed

    def _run_chains(self, wave: Wave, steps: Sequence[Step], allowed: int) -> bool:
        chains: dict[str, list[Step]] = {}
        for step in steps:
            chains.setdefault(step.node, []).append(step)
        failures = 0
        stopped = threading.Event()

        def run_chain(chain: list[Step]) -> bool:
            if stopped.is_set() or self._cancel.is_set:
                return True
            return all(self._run_step(step) for step in chain)

        def on_end(future: Future[bool]) -> None:
            nonlocal failures
            with self._lock:
                failures += 0 if not future.exception() and future.result() else 1
                if failures > allowed:
                    stopped.set()

        with ThreadPoolExecutor(max(1, min(wave.max_parallel, len(chains) or 1)), "kops-chain") as pool:
            futures = []
            for chain in chains.values():
                future = pool.submit(run_chain, chain)
                future.add_done_callback(on_end)
                futures.append(future)
            for future in futures:
                future.result()
        return any(self._outcome.results.get(s.id) is StepResult.FAILED for s in steps if s.node == "")

    def _context(self, step: Step) -> StepContext:
        write = partial(self._journal.write, step=step.id)
        return StepContext(step, self._cancel, self._emit, time.monotonic() + step.timeout_s, write)

    def _run_step(self, step: Step) -> bool:
        """Check, apply and verify one step; False when the chain must end."""
        started = time.monotonic()
        self._emit(StepStarted(step=step.id, node=step.node, title=step.title))
        ctx = self._context(step)
        try:
            reason = self._performer.check(ctx)
            if reason is not None:
                self._end(step, StepResult.ALREADY_TRUE, started, message=reason)
                return True
            self._journal.write("step-start", step=step.id, node=step.node)
            self._performer.apply(ctx)
            self._performer.verify(ctx)
        except KopsError as error:
            return self._fail(step, error, started)
        self._end(step, StepResult.DONE, started)
        return True

    def _run_together(self, steps: Sequence[Step]) -> bool:
        """Apply all steps of a wave in one call; True when a step of the cluster as a whole failed."""
        started = time.monotonic()
        pending: list[StepContext] = []
        for step in steps:
            ctx = self._context(step)
            self._emit(StepStarted(step=step.id, node=step.node, title=step.title))
            try:
                reason = self._performer.check(ctx)
            except KopsError as error:
                self._fail(step, error, started)
                continue
            if reason is None:
                self._journal.write("step-start", step=step.id, node=step.node)
                pending.append(ctx)
            else:
                self._end(step, StepResult.ALREADY_TRUE, started, message=reason)
        errors: Mapping[str, KopsError | None] = {}
        if pending:
            try:
                errors = self._performer.apply_together(pending)
            except KopsError as error:
                errors = {ctx.step.id: error for ctx in pending}
        for ctx in pending:
            self._end_together(ctx, errors.get(ctx.step.id), started)
        return any(self._outcome.results.get(s.id) is StepResult.FAILED for s in steps if s.node == "")

    def _end_together(self, ctx: StepContext, error: KopsError | None, started: float) -> None:
        if error is None:
            try:
                self._performer.verify(ctx)
            except KopsError as problem:
                error = problem
        if error is None:
            self._end(ctx.step, StepResult.DONE, started)
        else:
            self._fail(ctx.step, error, started)

    def _fail(self, step: Step, error: KopsError, started: float) -> bool:
        interrupted = isinstance(error, CancelledError)
        with self._lock:
            if not interrupted:
                self._outcome.errors.append(error)
                if step.node:
                    self._failed_nodes.add(step.node)
        result = StepResult.INTERRUPTED if interrupted else StepResult.FAILED
        self._end(step, result, started, message=str(error), error=error)
        return False

    def _end(
        self, step: Step, result: StepResult, started: float, *, message: str = "", error: KopsError | None = None
    ) -> None:
        duration_s = time.monotonic() - started
        with self._lock:
            self._outcome.results[step.id] = result
        self._journal.write(
            "step-end",
            step=step.id,
            node=step.node,
            result=str(result),
            duration_s=round(duration_s, 3),
            **({"error": error.to_json()} if error else {}),
        )
        self._emit(
            StepFinished(
                step=step.id,
                node=step.node,
                title=step.title,
                result=result,
                duration_s=duration_s,
                message=message,
            )
        )
