"""How reports say times, lengths of time and results."""

from __future__ import annotations

from datetime import UTC, datetime

from kops_py.model.event import StepResult
from kops_py.report.history import Failure, NodeHistory, RunHistory, StepHistory

CLUSTER = "cluster"
_RESULTS = {
    StepResult.DONE: "done",
    StepResult.ALREADY_TRUE: "already so",
    StepResult.FAILED: "failed",
    StepResult.INTERRUPTED: "interrupted",
    StepResult.NOT_STARTED: "not started",
}


def time_text(at_s: float | None) -> str:
    """Return a moment in UTC, to the second; "?" when it is not known."""
    return "?" if at_s is None else f"{datetime.fromtimestamp(at_s, UTC):%Y-%m-%d %H:%M:%S} UTC"


def duration_text(duration_s: float) -> str:
    """Return a length of time in its two largest units."""
    if duration_s < 59.95:
        return f"{duration_s:.1f} s"
    minutes, seconds = divmod(round(duration_s), 60)
    if minutes < 60:
        return f"{minutes} min {seconds} s" if seconds else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if minutes else f"{hours} h"


def result_text(step: StepHistory) -> str:
    """Return in a word or two how a step ended."""
    return "not ended" if step.not_ended else _RESULTS[step.result]


def node_text(node: NodeHistory) -> str:
    """Return how a node ended, with the step that did not go well."""
    if not node.steps:
        return "nothing to do"
    text = _RESULTS[node.result]
    if node.result is StepResult.NOT_STARTED and any(s.began_s is not None for s in node.steps):
        text = "begun"
    for step in node.steps:
        if step.result is node.result and step.result in (StepResult.FAILED, StepResult.INTERRUPTED):
            return f"{result_text(step)}: {step.title}"
    return text


def outcome_text(run: RunHistory) -> str:
    """Return how the run ended, with its exit code where that says more."""
    return run.outcome if run.exit_code in (None, 0) else f"{run.outcome} (exit code {run.exit_code})"


def steps_text(run: RunHistory) -> str:
    """Return how many steps ended in which way."""
    if run.planned_only:
        return f"{len(run.steps)} to do"
    counted = {r: run.count(r) for r in StepResult}
    left = run.steps_left
    parts = [f"{counted[r]} {_RESULTS[r]}" for r in StepResult if counted[r] and r is not StepResult.NOT_STARTED]
    return ", ".join([*parts, *([f"{left} left"] if left else [])]) or "none"


def failure_lines(failure: Failure) -> list[str]:
    """Return a failure as what, why and what to do next, as the terminal shows it."""
    lines = []
    head = f"{failure.where}: {failure.what}" if failure.where else failure.what
    for label, text in (("error: ", head), ("  why:  ", failure.why), ("  next: ", failure.hint)):
        first, *more = text.split("\n")
        if text:
            lines += [label + first, *(" " * len(label) + line for line in more)]
    return lines


def drain_lines(step: StepHistory) -> list[str]:
    """Return what a drain took: the pods in numbers, the time each disruption budget held, volumes left."""
    if step.drained is None:
        return []
    held = sorted(step.drained.budgets_s.items(), key=lambda item: -item[1])
    lines = [step.drained.summary()]
    lines += [f"disruption budget {name} held pods for {duration_text(held_s)}" for name, held_s in held]
    if step.drained.volumes_left:
        lines.append(f"volumes still attached: {', '.join(step.drained.volumes_left)}")
    return lines


def version_text(node: NodeHistory) -> str:
    """Return the versions of a node before and after, as far as they were seen."""
    if node.version_before and node.version_after and node.version_before != node.version_after:
        return f"{node.version_before} → {node.version_after}"
    return node.version_after or node.version_before


def plan_order(wave_side_by_side: bool, steps: int) -> str:
    """Return how the steps of a wave follow each other; empty for one."""
    if steps < 2:
        return ""
    return "side by side" if wave_side_by_side else "one at a time"
