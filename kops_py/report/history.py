"""What a run did, read back from what it left: the one value that all reports and ``kops-py runs`` are made from."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from kops_py.model.drain_report import DrainReport
from kops_py.model.errors import ExitCode
from kops_py.model.event import StepResult
from kops_py.model.finding import Finding, blocking

_REACHED = frozenset({StepResult.DONE, StepResult.ALREADY_TRUE})


@dataclass(frozen=True, slots=True)
class Failure:
    """An error as it was told: what, where, why, and what to do next; ``kind`` is the name of its class."""

    what: str
    where: str = ""
    why: str = ""
    hint: str = ""
    kind: str = ""

    def __str__(self) -> str:
        head = f"{self.where}: {self.what}" if self.where else self.what
        return f"{head}: {self.why}" if self.why else head


@dataclass(frozen=True, slots=True)
class Activity:
    """What a step said it did, or waited for, and for how long."""

    message: str
    waiting: bool
    began_s: float
    duration_s: float


@dataclass(frozen=True, slots=True)
class StepHistory:
    """One step: when it began and ended (None: it did not), how, and what it did and waited for meanwhile.

    Times are seconds since the epoch. A step that began and has no end is INTERRUPTED and has no ``ended_s``.
    """

    id: str
    node: str
    title: str
    wave: str = ""
    details: tuple[str, ...] = ()
    result: StepResult = StepResult.NOT_STARTED
    began_s: float | None = None
    ended_s: float | None = None
    duration_s: float = 0.0
    message: str = ""
    failure: Failure | None = None
    activities: tuple[Activity, ...] = ()
    drained: DrainReport | None = None
    """What it took to drain the node, when that was the step."""

    @property
    def not_ended(self) -> bool:
        """Whether it began and no end is recorded: kops-py was killed, or is still at it."""
        return self.began_s is not None and self.ended_s is None

    @property
    def waits(self) -> tuple[Activity, ...]:
        """Return what it waited for, the longest first, each thing once with its whole time."""
        total: dict[str, Activity] = {}
        for one in self.activities:
            if one.waiting:
                known = total.get(one.message)
                so_far_s = known.duration_s if known else 0.0
                total[one.message] = dataclasses.replace(known or one, duration_s=so_far_s + one.duration_s)
        return tuple(sorted(total.values(), key=lambda wait: -wait.duration_s))

    @property
    def waited_s(self) -> float:
        """Return how long it waited in all."""
        return sum(a.duration_s for a in self.activities if a.waiting)


@dataclass(frozen=True, slots=True)
class WaveHistory:
    """One wave of the plan."""

    name: str
    max_parallel: int = 1
    together: bool = False
    steps: tuple[StepHistory, ...] = ()

    @property
    def side_by_side(self) -> bool:
        """Whether its chains run at the same time."""
        return self.together or self.max_parallel > 1


@dataclass(frozen=True, slots=True)
class NodeHistory:
    """All steps of one node, in the order of the plan; ``name`` is "" for the cluster as a whole."""

    name: str
    steps: tuple[StepHistory, ...]
    version_before: str = ""
    version_after: str = ""

    @property
    def worked_s(self) -> float:
        """Return how long its steps took in all."""
        return sum(s.duration_s for s in self.steps)

    @property
    def waited_s(self) -> float:
        """Return how long its steps waited in all."""
        return sum(s.waited_s for s in self.steps)

    @property
    def result(self) -> StepResult:
        """Return how the node ended: the worst of its steps."""
        results = {s.result for s in self.steps}
        order = (StepResult.FAILED, StepResult.INTERRUPTED, StepResult.NOT_STARTED, StepResult.DONE)
        return next((r for r in order if r in results), StepResult.ALREADY_TRUE)


@dataclass(frozen=True, slots=True)
class NoteHistory:
    """Something a person should read, as it was told; ``node`` is "" for the run as a whole."""

    message: str
    node: str = ""
    at_s: float | None = None

    def __str__(self) -> str:
        return f"{self.node}: {self.message}" if self.node else self.message


def _no_texts() -> Mapping[str, str]:
    return MappingProxyType({})


@dataclass(frozen=True, slots=True)
class RunHistory:
    """One run, or one look at a plan (``planned_only``). Times are seconds since the epoch, None when not recorded."""

    id: str
    operation: str = ""
    cluster: str = ""
    by: str = ""
    command: str = ""
    """What goes on with the run; as typed when it was only a plan."""
    digest: str = ""
    began_s: float | None = None
    ended_s: float | None = None
    last_s: float | None = None
    """When the last thing was recorded; for a run without an end that is all there is."""
    exit_code: int | None = None
    planned_only: bool = False
    waves: tuple[WaveHistory, ...] = ()
    arguments: Mapping[str, str] = field(default_factory=_no_texts)
    """What was asked for, as the plan says it."""
    plan_notes: tuple[str, ...] = ()
    notes: tuple[NoteHistory, ...] = ()
    findings: tuple[Finding, ...] = ()
    failures: tuple[Failure, ...] = ()
    """All failures, those of steps first, each once."""
    versions_before: Mapping[str, str] = field(default_factory=_no_texts)
    versions_after: Mapping[str, str] = field(default_factory=_no_texts)

    @property
    def steps(self) -> tuple[StepHistory, ...]:
        """Return all steps in the order of the plan."""
        return tuple(s for wave in self.waves for s in wave.steps)

    @property
    def nodes(self) -> tuple[NodeHistory, ...]:
        """Return the nodes in the order in which the plan comes to them, then those only seen."""
        chains: dict[str, list[StepHistory]] = {}
        for step in self.steps:
            chains.setdefault(step.node, []).append(step)
        for name in (*self.versions_before, *self.versions_after):
            chains.setdefault(name, [])
        before, after = self.versions_before, self.versions_after
        return tuple(NodeHistory(n, tuple(c), before.get(n, ""), after.get(n, "")) for n, c in chains.items())

    @property
    def bypasses(self) -> tuple[tuple[str, str], ...]:
        """Return, with their nodes, the safeguards that were put aside and that mattered."""
        return tuple((s.node, sentence) for s in self.steps if s.drained for sentence in s.drained.bypasses)

    @property
    def duration_s(self) -> float:
        """Return how long the run took, or is known to have gone on."""
        end_s = self.ended_s if self.ended_s is not None else self.last_s
        return max(0.0, end_s - self.began_s) if self.began_s is not None and end_s is not None else 0.0

    def count(self, result: StepResult) -> int:
        """Return how many steps ended this way."""
        return sum(1 for s in self.steps if s.result is result)

    @property
    def steps_left(self) -> int:
        """Return how many steps of the plan are not done."""
        return sum(1 for s in self.steps if s.result not in _REACHED)

    @property
    def blocking(self) -> tuple[Finding, ...]:
        """Return the findings that stood in the way."""
        return blocking(self.findings)

    @property
    def asked(self) -> str:
        """Return the arguments of the plan on one line."""
        return ", ".join(f"{name} {value}".strip() for name, value in self.arguments.items())

    @property
    def ok(self) -> bool:
        """Whether it ended as it should."""
        return self.exit_code in (ExitCode.DONE, ExitCode.PENDING_CHANGES)

    @property
    def resume(self) -> str:
        """Return the command that goes on with this run; empty when nothing is left to do."""
        return "" if self.planned_only or self.exit_code == ExitCode.DONE else self.command

    @property
    def outcome(self) -> str:
        """Return in a few words how it ended."""
        code = self.exit_code
        if self.planned_only and code in (None, ExitCode.DONE, ExitCode.PENDING_CHANGES):
            return "plan only" if self.steps else "plan only: nothing to do"
        if code is None:
            return "not ended"
        if code == ExitCode.DONE:
            return "done" if self.steps else "nothing to do"
        if code == ExitCode.PREFLIGHT:
            return "stopped by a finding" if self.blocking else "stopped by a check"
        words = {ExitCode.LOCKED: "locked", ExitCode.DEADLINE: "ended at its deadline"}
        if code == ExitCode.INTERRUPTED:
            return "interrupted" if any(s.began_s is not None for s in self.steps) else "not begun"
        return words.get(ExitCode(code), "failed") if code in set(ExitCode) else "failed"

    def to_json(self) -> dict[str, Any]:
        """Return the run in one line's worth of facts, as ``kops-py runs list -o json`` shows it."""
        return {
            "id": self.id,
            "operation": self.operation,
            "cluster": self.cluster,
            "by": self.by,
            "digest": self.digest,
            "began_s": self.began_s,
            "ended_s": self.ended_s,
            "duration_s": round(self.duration_s, 3),
            "outcome": self.outcome,
            "exit_code": self.exit_code,
            "steps_done": self.count(StepResult.DONE),
            "steps_skipped": self.count(StepResult.ALREADY_TRUE),
            "steps_failed": self.count(StepResult.FAILED),
            "steps_left": self.steps_left,
            "resume": self.resume,
        }

    def to_json_in_full(self) -> dict[str, Any]:
        """Return everything, as ``kops-py runs show -o json`` shows it."""
        return self.to_json() | {
            "steps": [_step_json(step) for step in self.steps],
            "failures": [dataclasses.asdict(f) for f in self.failures],
            "findings": [f.to_json() for f in self.findings],
            "notes": [str(note) for note in self.notes],
            "arguments": dict(self.arguments),
            "plan_notes": list(self.plan_notes),
            "versions_before": dict(self.versions_before),
            "versions_after": dict(self.versions_after),
        }


def _step_json(step: StepHistory) -> dict[str, Any]:
    body = dataclasses.asdict(dataclasses.replace(step, drained=None))
    return {**body, "drained": step.drained.to_json() if step.drained else None, "waited_s": round(step.waited_s, 3)}
