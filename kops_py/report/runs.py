"""Runs as text for a terminal: the list of them, and one in full."""

from __future__ import annotations

from collections.abc import Sequence

from kops_py.model.event import StepResult
from kops_py.report.history import NodeHistory, RunHistory, StepHistory
from kops_py.report.status import table
from kops_py.report.text import findings_text
from kops_py.report.words import (
    CLUSTER,
    drain_lines,
    duration_text,
    failure_lines,
    outcome_text,
    result_text,
    steps_text,
    time_text,
    version_text,
)

_LONG_WAIT_S = 1.0


def runs_text(runs: Sequence[RunHistory], *, older: int = 0) -> str:
    """Return a table of runs as they are given, the newest first; ``older`` is how many are not shown."""
    if not runs:
        return "no runs yet"
    rows = [
        (
            run.id,
            run.operation or "?",
            run.cluster or "?",
            time_text(run.began_s),
            run.by or "?",
            outcome_text(run),
            steps_text(run),
            duration_text(run.duration_s),
        )
        for run in runs
    ]
    text = table(("RUN", "OPERATION", "CLUSTER", "BEGAN", "BY", "RESULT", "STEPS", "TOOK"), rows)
    return text + (f"\n{older} older: --last {len(runs) + older}" if older else "")


def run_text(run: RunHistory) -> str:
    """Return one run in full: what it was, each node's steps, failures, and the command that goes on."""
    lines = [
        f"run {run.id}: {run.operation or '?'} of cluster {run.cluster or '?'}: {outcome_text(run)}",
        f"  began {time_text(run.began_s)} by {run.by or '?'}, {_took(run)}",
        f"  steps {steps_text(run)}; plan {run.digest or '?'}",
        *([f"  asked for {run.asked}"] if run.asked else []),
        *(f"  {note}" for note in (*run.plan_notes, *map(str, run.notes))),
    ]
    for node in run.nodes:
        lines += ["", *_node(node)]
    if run.findings:
        lines += ["", findings_text(run.findings)]
    if run.failures:
        lines.append("")
    for failure in run.failures:
        lines += failure_lines(failure)
    if run.resume:
        lines += ["", f"continue with: {run.resume}"]
    return "\n".join(lines)


def _took(run: RunHistory) -> str:
    if run.ended_s is not None:
        return f"took {duration_text(run.duration_s)}"
    return f"no end is recorded: it was killed, or goes on (last heard of {time_text(run.last_s)})"


def _node(node: NodeHistory) -> list[str]:
    version = version_text(node)
    lines = [f"{node.name or CLUSTER}{f' ({version})' if version else ''}"]
    width = max((len(s.title) for s in node.steps), default=0)
    for step in node.steps:
        lines.append(f"  {step.title:<{width}}  {_step(step)}")
        lines += [f"    {line}" for line in drain_lines(step)]
        lines += [
            f"    waited {duration_text(w.duration_s)}: {w.message}"
            for w in step.waits[:3]
            if w.duration_s >= _LONG_WAIT_S
        ]
    return lines


def _step(step: StepHistory) -> str:
    if step.result is StepResult.NOT_STARTED:
        return result_text(step)
    why = f": {step.message}" if step.result is StepResult.ALREADY_TRUE and step.message else ""
    return f"{result_text(step)} ({duration_text(step.duration_s)}){why}"
