"""A run as one HTML page: a line of time per node, findings, the plan, versions before and after.

The page holds no script and asks for nothing; the lines of time are SVG whose colours also stand in attributes, so that
they show where a CI server forbids styles.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kops_py.model.event import StepResult
from kops_py.model.finding import Finding, Severity
from kops_py.report.history import Activity, NodeHistory, RunHistory, StepHistory
from kops_py.report.words import (
    CLUSTER,
    drain_lines,
    duration_text,
    node_text,
    outcome_text,
    plan_order,
    result_text,
    steps_text,
    time_text,
    version_text,
)

if TYPE_CHECKING:
    import jinja2

_PACKAGE = Path(__file__).resolve().parent.parent
_BAD = frozenset({StepResult.FAILED, StepResult.INTERRUPTED})
_ORDER = {Severity.ERROR: 0, Severity.WARNING: 1, Severity.INFO: 2}
_FILLS = {
    StepResult.DONE: "#2e7d4f",
    StepResult.ALREADY_TRUE: "#8a949e",
    StepResult.FAILED: "#c62828",
    StepResult.INTERRUPTED: "#b26a00",
}
_WAITING_FILL = "#9ec5e8"
_MOST_LINES = 12
"""How many things a step waited for, or did, are told; the longest ones."""
_FEW_NODES = 12
"""Up to so many nodes that went well are shown at once; more are folded away."""


@dataclass(frozen=True, slots=True)
class Bar:
    """One piece of a line of time; place and width in percent of it."""

    left: str
    width: str
    kind: str
    fill: str
    label: str


@dataclass(frozen=True, slots=True)
class Row:
    """One step in a node's table."""

    step: StepHistory
    result: str
    took: str
    began: str
    lines: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Node:
    """One node with all that is shown of it."""

    name: str
    kind: str
    state: str
    took: str
    version: str
    bars: tuple[Bar, ...]
    rows: tuple[Row, ...]


def html(run: RunHistory) -> str:
    """Return the page; every text from elsewhere is escaped."""
    nodes = [_node(run, node) for node in run.nodes] if not run.planned_only else []
    bad = [node for node in nodes if node.kind in _BAD]
    well = [node for node in nodes if node.kind not in _BAD]
    return _environment().get_template("run.html.j2").render(
        run=run,
        outcome=outcome_text(run),
        tone="good" if run.ok or (run.planned_only and not run.failures) else "bad",
        facts=_facts(run),
        findings=sorted(run.findings, key=lambda f: (f.ignored, _ORDER[f.severity], f.id, f.node)),
        finding_kind=_finding_kind,
        bad=bad,
        well=well,
        fold=len(well) > _FEW_NODES,
        ticks=_ticks(run),
        order=plan_order,
        time=time_text,
        cluster=CLUSTER,
        versions=[n for n in run.nodes if n.version_before or n.version_after],
    )  # fmt: skip


@cache
def _environment() -> jinja2.Environment:
    import jinja2

    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(_templates()),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=True,
    )


def _templates() -> Sequence[str]:
    """Return templates/report: inside the wheel, or beside the package in a checkout."""
    return [str(place / "templates" / "report") for place in (_PACKAGE / "_data", _PACKAGE.parent)]


def _facts(run: RunHistory) -> list[tuple[str, str]]:
    facts = [
        ("Cluster", run.cluster),
        ("Asked for", run.asked),
        ("Run", run.id),
        ("By", run.by),
        ("Began", time_text(run.began_s)),
        ("Ended" if run.ended_s is not None else "Last heard of", time_text(run.ended_s or run.last_s)),
        ("Took", duration_text(run.duration_s)),
        ("Steps", steps_text(run)),
        ("Plan", run.digest),
    ]
    return [fact for fact in facts if fact[1] and fact[1] != "?"]


def _finding_kind(finding: Finding) -> str:
    return "ignored" if finding.ignored else str(finding.severity)


def _node(run: RunHistory, node: NodeHistory) -> Node:
    return Node(
        name=node.name or CLUSTER,
        kind=str(node.result),
        state=node_text(node),
        took=duration_text(node.worked_s) if node.steps else "",
        version=version_text(node),
        bars=tuple(_bars(run, node.steps)),
        rows=tuple(_row(run, step) for step in node.steps),
    )


def _row(run: RunHistory, step: StepHistory) -> Row:
    lines = [step.message] if step.message and not step.failure else []
    lines += drain_lines(step)
    lines += _told(step.waits, "waited")
    work = [a for a in step.activities if not a.waiting]
    lines += _told(sorted(work, key=lambda a: -a.duration_s), "spent") if work else []
    began = "" if step.began_s is None or run.began_s is None else f"+{duration_text(step.began_s - run.began_s)}"
    return Row(
        step=step,
        result=result_text(step),
        took=duration_text(step.duration_s) if step.began_s is not None else "",
        began=began,
        lines=tuple(lines),
    )


def _told(activities: Sequence[Activity], how: str) -> list[str]:
    lines = [f"{how} {duration_text(a.duration_s)}: {a.message}" for a in activities[:_MOST_LINES]]
    more = activities[_MOST_LINES:]
    return lines + ([f"and {len(more)} more, {duration_text(sum(a.duration_s for a in more))}"] if more else [])


def _bars(run: RunHistory, steps: Iterable[StepHistory]) -> Iterable[Bar]:
    """Yield a bar for each step, and over it one for each time it waited without a break."""
    for step in steps:
        if step.began_s is None:
            continue
        label = f"{step.title}: {result_text(step)}, {duration_text(step.duration_s)}"
        fill = _FILLS.get(step.result, _FILLS[StepResult.INTERRUPTED])
        yield _bar(run, step.began_s, step.duration_s, str(step.result), fill, label)
        for began_s, duration_s, messages in _waits(step):
            label = f"{step.title}: waited {duration_text(duration_s)}: {'; '.join(messages)}"
            yield _bar(run, began_s, duration_s, "waiting", _WAITING_FILL, label)


def _waits(step: StepHistory) -> list[tuple[float, float, tuple[str, ...]]]:
    found: list[tuple[float, float, tuple[str, ...]]] = []
    joins = False
    for one in step.activities:
        if one.waiting and joins:
            began_s, duration_s, messages = found[-1]
            known = messages if one.message in messages or len(messages) >= _MOST_LINES else (*messages, one.message)
            found[-1] = (began_s, duration_s + one.duration_s, known)
        elif one.waiting:
            found.append((one.began_s, one.duration_s, (one.message,)))
        joins = one.waiting
    return found


def _bar(run: RunHistory, began_s: float, duration_s: float, kind: str, fill: str, label: str) -> Bar:
    whole_s = max(run.duration_s, 0.001)
    start_s = run.began_s if run.began_s is not None else began_s
    left = min(max((began_s - start_s) / whole_s, 0.0), 1.0)
    width = min(max(duration_s / whole_s, 0.002), 1.0 - left) if left < 1 else 0.0
    return Bar(f"{left * 100:.2f}%", f"{width * 100:.2f}%", kind, fill, label)


def _ticks(run: RunHistory) -> list[dict[str, Any]]:
    if run.duration_s <= 0:
        return []
    anchors = ("start", "middle", "middle", "middle", "end")
    return [
        {"at": f"{quarter * 25}%", "anchor": anchor, "text": duration_text(run.duration_s * quarter / 4)}
        for quarter, anchor in enumerate(anchors)
    ]
