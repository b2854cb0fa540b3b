"""A run as Markdown, for the summary of a CI job or a comment on a merge request.

At most 60,000 characters, as GitHub takes 65,536 for a comment; what does not fit is counted, and stands in the HTML.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from kops_py.model.event import StepResult
from kops_py.model.finding import Finding, Severity
from kops_py.report.history import Failure, NodeHistory, NoteHistory, RunHistory, WaveHistory
from kops_py.report.words import (
    CLUSTER,
    duration_text,
    failure_lines,
    node_text,
    outcome_text,
    plan_order,
    steps_text,
    time_text,
    version_text,
)

_MOST_CHARS = 60_000
_CELL_CHARS = 300
_FAILURE_CHARS = 2_000
_MOST_FAILURES, _MOST_FINDINGS, _MOST_NODES, _MOST_NOTES = 8, 40, 120, 60
_SPECIAL = re.compile(r"[\\`*_\[\]#|~$!]")
_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "@": "&#64;"}
_SEVERITIES = {Severity.ERROR: 0, Severity.WARNING: 1, Severity.INFO: 2}
_RESULTS = {StepResult.FAILED: 0, StepResult.INTERRUPTED: 1, StepResult.NOT_STARTED: 2}


def markdown(run: RunHistory) -> str:
    """Return the report; text from elsewhere is escaped, so that it cannot make links, HTML or mentions."""
    page = _Page(_MOST_CHARS)
    of = f" of {code(run.cluster)}" if run.cluster else ""
    page.add(f"## kops-py {escaped(run.operation or 'run')}{of}: {escaped(run.outcome)}", "")
    page.rows(("", ""), _facts(run), "lines", 20)
    if run.failures:
        page.add("### Failures", "")
        page.blocks(list(map(_failure, run.failures)), "failures", _MOST_FAILURES)
    if run.resume:
        page.add("Continue with:", "", *fenced(run.resume), "")
    if run.bypasses:
        page.add("### Safeguards put aside", "")
        told = [(code(node or CLUSTER), escaped(sentence)) for node, sentence in run.bypasses]
        page.rows(("On", "What"), told, "safeguards", _MOST_FINDINGS)
    if run.findings:
        page.add("### Findings", "")
        findings = sorted(run.findings, key=lambda f: (f.ignored, _SEVERITIES[f.severity], f.id, f.node))
        page.rows(
            ("Severity", "Where", "Finding", "What helps"), list(map(_finding, findings)), "findings", _MOST_FINDINGS
        )
    nodes = sorted(run.nodes, key=lambda n: _RESULTS.get(n.result, 3) if n.steps else 4)
    if nodes and not run.planned_only:
        page.add("### Nodes", "")
        head = ("Node", "Result", "Steps", "Took", "Of it waiting", "Version")
        page.rows(head, list(map(_node, nodes)), "nodes", _MOST_NODES)
    if run.notes:
        page.add("### Notes", "")
        page.rows(("When", "Where", "Note"), list(map(_note, run.notes)), "notes", _MOST_NOTES)
    if run.steps:
        page.add("### Plan" if run.planned_only else "<details><summary>Plan</summary>", "")
        page.blocks([block for wave in run.waves for block in _wave(wave)], "lines of the plan", len(run.steps) * 2)
        page.add("", reserved=True)
        page.add(*([] if run.planned_only else ["</details>", ""]), reserved=True)
    if run.planned_only and run.steps and not run.blocking:
        page.add(f"To run exactly this plan: the same command with `--plan-digest {run.digest}` for `--plan`.", "")
    return page.text()


class _Page:
    """Lines up to a number of characters; whatever would be too much is counted instead."""

    def __init__(self, most: int) -> None:
        self._lines: list[str] = []
        self._left = most - 1_000  # for the lines that say what was left out

    def add(self, *lines: str, reserved: bool = False) -> bool:
        """Add lines if all of them fit; ``reserved`` ones always do."""
        size = sum(len(line) + 1 for line in lines)
        if size > self._left and not reserved:
            return False
        self._left -= size
        self._lines += lines
        return True

    def rows(self, head: Sequence[str], rows: Sequence[Sequence[str]], what: str, most: int) -> None:
        """Add a table with as many of its rows as fit."""
        if self.add(_row(head), _row(["---"] * len(head))):
            self.blocks([[_row(row)] for row in rows], what, most)
            self.add("", reserved=True)

    def blocks(self, blocks: Sequence[Sequence[str]], what: str, most: int) -> None:
        """Add at most so many blocks of lines, each whole or not at all."""
        added = 0
        for block in blocks[:most]:
            if not self.add(*block):
                break
            added += 1
        self._tell(len(blocks) - added, what)

    def _tell(self, left_out: int, what: str) -> None:
        if left_out:
            self.add("", f"… and {left_out} more {what}: the HTML report has all of them.", "", reserved=True)

    def text(self) -> str:
        """Return the page."""
        return "\n".join(self._lines).rstrip("\n") + "\n"


def escaped(text: str) -> str:
    """Return text that Markdown and HTML show as it is, on one line and cut where it gets long."""
    line = " ".join(text.split())
    line = line if len(line) <= _CELL_CHARS else line[: _CELL_CHARS - 1] + "…"
    line = _SPECIAL.sub(lambda match: "\\" + match.group(), line)
    return "".join(_ENTITIES.get(character, character) for character in line)


def code(text: str) -> str:
    """Return a name as a code span that holds in a table too."""
    if re.fullmatch(r"[\w./:@ +=,-]{1,200}", text) and text == text.strip():
        return f"`{text}`"
    return escaped(text)  # backticks and bars: what they do in a code span in a table differs between renderers


def fenced(text: str) -> list[str]:
    """Return lines of text as a code block with a fence longer than any in it."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return [f"{fence}text", *text.split("\n"), fence]


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _facts(run: RunHistory) -> list[tuple[str, str]]:
    took = f"{time_text(run.began_s)}, {duration_text(run.duration_s)}"
    rows = [
        ("Outcome", f"**{escaped(outcome_text(run))}**"),
        ("Asked for", escaped(run.asked)),
        ("Plan", code(run.digest) if run.digest else ""),
        ("Steps", steps_text(run)),
        ("Run", code(run.id) if not run.planned_only else ""),
        ("By", code(run.by) if run.by else ""),
        ("Began, took", took if run.began_s is not None else ""),
        ("Versions", _versions(run)),
        *(("Note", escaped(note)) for note in run.plan_notes),
    ]
    return [row for row in rows if row[1]]


def _versions(run: RunHistory) -> str:
    def told(versions: Iterable[str]) -> str:
        counted: dict[str, int] = {}
        for version in versions:
            counted[version] = counted.get(version, 0) + 1
        return ", ".join(f"{code(v)} on {n}" for v, n in sorted(counted.items()))

    parts = [("before", told(run.versions_before.values())), ("after", told(run.versions_after.values()))]
    return "; ".join(f"{when}: {text}" for when, text in parts if text)


def _failure(failure: Failure) -> list[str]:
    text = "\n".join(failure_lines(failure))
    return [*fenced(text if len(text) <= _FAILURE_CHARS else text[:_FAILURE_CHARS] + " …"), ""]


def _finding(finding: Finding) -> tuple[str, ...]:
    severity = "ignored" if finding.ignored else str(finding.severity)
    where = code(finding.node or CLUSTER)
    return severity, where, f"{escaped(finding.message)} ({code(finding.id)})", escaped(finding.hint)


def _note(note: NoteHistory) -> tuple[str, ...]:
    return time_text(note.at_s), code(note.node or CLUSTER), escaped(note.message)


def _node(node: NodeHistory) -> tuple[str, ...]:
    reached = sum(1 for s in node.steps if s.result in (StepResult.DONE, StepResult.ALREADY_TRUE))
    waits = [wait for step in node.steps for wait in step.waits]
    longest = max(waits, key=lambda wait: wait.duration_s, default=None)
    waited = f"{duration_text(node.waited_s)}: {escaped(longest.message)}" if longest else ""
    return (
        code(node.name or CLUSTER),
        escaped(node_text(node)),
        f"{reached} of {len(node.steps)}",
        duration_text(node.worked_s),
        waited,
        escaped(version_text(node)),
    )


def _wave(wave: WaveHistory) -> list[list[str]]:
    how = plan_order(wave.side_by_side, len(wave.steps))
    head = ["", f"**{escaped(wave.name)}**{f' ({how})' if how else ''}", ""]
    return [head, *([f"- {code(s.node or CLUSTER)}: {escaped(s.title)}"] for s in wave.steps)]
