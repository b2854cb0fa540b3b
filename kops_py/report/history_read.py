"""Read a run's files back: plan.json, journal.jsonl, events.jsonl.

A run that was killed has no end in them and maybe half a last line; the events, unlike the journal, are not forced to
the disk, so either may know more than the other. Whatever cannot be read is passed over: a report with a gap is better
than none. All text is made clean here, once, so that no report can carry an escape sequence or what XML does not allow.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from kops_py.model.drain_report import DrainReport
from kops_py.model.event import SeenWhen, StepResult
from kops_py.model.finding import Finding, Severity
from kops_py.report.history import Activity, Failure, NoteHistory, RunHistory, StepHistory, WaveHistory
from kops_py.report.plain import clean, clean_line

_NOT_IN_XML = str.maketrans({"\ufffe": "", "\uffff": ""})
_OTHER = "outside the plan"
_LATEST_S = 253402300799.0  # the last second of the year 9999


def history_of(run_id: str, *, plan: str = "", journal: Iterable[str] = (), events: Iterable[str] = ()) -> RunHistory:
    """Return the run that left these texts: plan.json whole, and the lines of the other two. Raises nothing."""
    reader = _Reader(run_id)
    for record in _objects([plan]):
        reader.take_plan(record)
    for record in _objects(events):
        reader.take_event(record)
    for record in _objects(journal):
        reader.take_record(record)
    return reader.history()


def _objects(lines: Iterable[str]) -> Iterator[dict[str, Any]]:
    for line in lines:
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict):
            yield value


@dataclass(slots=True)
class _Said:
    at_s: float
    message: str
    waiting: bool


@dataclass(slots=True)
class _Step:
    known: StepHistory
    said: list[_Said] = field(default_factory=list)

    def change(self, **changes: Any) -> None:
        self.known = dataclasses.replace(self.known, **changes)

    def closed(self, last_s: float | None) -> StepHistory:
        """Return the step with its activities, each of which lasts until the next one."""
        step = self.known
        end_s = step.ended_s if step.ended_s is not None else last_s
        activities: list[Activity] = []
        for number, one in enumerate(self.said, 1):
            until_s = self.said[number].at_s if number < len(self.said) else end_s
            duration_s = max(0.0, until_s - one.at_s) if until_s is not None else 0.0
            before = activities[-1] if activities else None
            if before and (before.message, before.waiting) == (one.message, one.waiting):
                activities[-1] = dataclasses.replace(before, duration_s=before.duration_s + duration_s)
            else:
                activities.append(Activity(one.message, one.waiting, one.at_s, duration_s))
        duration_s = step.duration_s
        if step.not_ended and step.began_s is not None and last_s is not None:
            duration_s = max(0.0, last_s - step.began_s)
        return dataclasses.replace(step, activities=tuple(activities), duration_s=duration_s)


class _Reader:
    """Gathers what the records say; the first word on a step's start and end counts."""

    def __init__(self, run_id: str) -> None:
        self._run = RunHistory(_plain(run_id), planned_only=True)
        self._waves: dict[str, WaveHistory] = {}
        self._steps: dict[str, _Step] = {}
        self._wave = ""
        self._has_plan = False
        self._run_failures: list[Failure] = []
        self._sentences: list[str] = []

    def history(self) -> RunHistory:
        """Return what was gathered."""
        last_s = self._run.last_s
        steps = [step.closed(last_s) for step in self._steps.values()]
        of_wave: dict[str, list[StepHistory]] = {name: [] for name in self._waves}
        for step in steps:
            of_wave.setdefault(step.wave, []).append(step)
        waves = [
            dataclasses.replace(self._waves.get(name, WaveHistory(name)), steps=tuple(own))
            for name, own in of_wave.items()
        ]
        failures = list(dict.fromkeys([s.failure for s in steps if s.failure] + self._run_failures))
        told = {str(f) for f in failures}
        failures += [Failure(sentence) for sentence in dict.fromkeys(self._sentences) if sentence not in told]
        return dataclasses.replace(self._run, waves=tuple(waves), failures=tuple(failures))

    def take_plan(self, body: Mapping[str, Any]) -> None:
        """Take the plan; a later one is only taken when there was none."""
        if self._has_plan:
            return
        self._has_plan = True
        self._set(operation=_line(body, "operation"), cluster=_line(body, "cluster"), digest=_line(body, "digest"))
        given = {_plain(name): _plain(v) for name, v in _dict(body, "arguments").items() if isinstance(v, str)}
        arguments = MappingProxyType(given)
        self._run = dataclasses.replace(self._run, plan_notes=_lines(body, "notes"), arguments=arguments)
        for wave in _dicts(body, "waves"):
            name = _line(wave, "name") or _OTHER
            self._waves[name] = WaveHistory(name, int(_number(wave, "max_parallel") or 1), wave.get("together") is True)
            for step in _dicts(wave, "steps"):
                step_id = _line(step, "id")
                node, title = _line(step, "node"), _line(step, "title")
                self._steps[step_id] = _Step(StepHistory(step_id, node, title, name, _lines(step, "details")))

    def take_event(self, body: Mapping[str, Any]) -> None:
        """Take one line of events.jsonl."""
        at_s = self._at(body)
        match body.get("event"):
            case "run-started":
                self._run = dataclasses.replace(self._run, planned_only=False)
                names = ("operation", "cluster", "by", "command")
                self._set(id=_line(body, "run_id"), began_s=at_s, **{name: _line(body, name) for name in names})
            case "plan-made":
                self.take_plan(_dict(body, "plan"))
            case "findings-made":
                self._run = dataclasses.replace(self._run, findings=tuple(map(_finding, _dicts(body, "findings"))))
            case "versions-seen":
                self._take_versions(body)
            case "wave-started":
                self._wave = _line(body, "wave")
            case "step-started":
                self._begin(body, at_s)
            case "step-progress":
                step = self._begin(body, at_s)
                if at_s is not None:
                    step.said.append(_Said(at_s, _line(body, "message"), body.get("waiting") is True))
            case "step-finished":
                self._end(body, at_s)
            case "note":
                node, message = _line(body, "node"), _line(body, "message")
                note = NoteHistory(message, node, at_s)
                self._run = dataclasses.replace(self._run, notes=(*self._run.notes, note))
            case "run-finished":
                self._finish(body, at_s)

    def take_record(self, body: Mapping[str, Any]) -> None:
        """Take one line of journal.jsonl."""
        at_s = self._at(body)
        self._run = dataclasses.replace(self._run, planned_only=False)
        match body.get("kind"):
            case "run-start":
                names = ("operation", "cluster", "digest", "by")
                self._set(id=_line(body, "run"), began_s=at_s, **{name: _line(body, name) for name in names})
            case "wave":
                self._wave = _line(body, "wave")
            case "step-start":
                self._begin(body, at_s)
            case "step-end":
                self._end(body, at_s)
            case "drained":
                self._begin(body, at_s).change(drained=_drained(body))
            case "stopped":
                self._run_failures.append(_failure(_dict(body, "error")))
            case "run-end":
                self._finish(body, at_s)

    def _set(self, **values: Any) -> None:
        """Set what is not known yet; what a record does not say stays unknown."""
        run = self._run
        new = {k: v for k, v in values.items() if v not in (None, "") and getattr(run, k) in (None, "")}
        self._run = dataclasses.replace(run, **new)

    def _at(self, body: Mapping[str, Any]) -> float | None:
        at_s = _number(body, "at_s")
        if not at_s or not 0 < at_s < _LATEST_S:
            return None
        if self._run.last_s is None or at_s > self._run.last_s:
            self._run = dataclasses.replace(self._run, last_s=at_s)
        return at_s

    def _begin(self, body: Mapping[str, Any], at_s: float | None) -> _Step:
        step_id = _line(body, "step")
        if step_id not in self._steps:
            node, title = _line(body, "node"), _line(body, "title")
            self._steps[step_id] = _Step(StepHistory(step_id, node, title or step_id, self._wave or _OTHER))
        step = self._steps[step_id]
        if step.known.began_s is None and at_s is not None:
            step.change(began_s=at_s, result=StepResult.INTERRUPTED)
        return step

    def _end(self, body: Mapping[str, Any], at_s: float | None) -> None:
        duration_s = max(0.0, _number(body, "duration_s") or 0.0)
        step = self._begin(body, None if at_s is None else max(0.001, at_s - duration_s))
        if step.known.ended_s is None and at_s is not None:
            step.change(ended_s=at_s, duration_s=duration_s, result=_result(_line(body, "result")))
        if step.known.failure is None and _dict(body, "error"):
            step.change(failure=_failure(_dict(body, "error")))
        if _line(body, "message"):
            step.change(message=_text(body, "message"))

    def _finish(self, body: Mapping[str, Any], at_s: float | None) -> None:
        code = _number(body, "exit_code")
        self._set(ended_s=at_s, exit_code=None if code is None else int(code), command=_line(body, "resume"))
        self._run_failures += [_failure(error) for error in _dicts(body, "errors")]
        self._sentences += [clean(s).translate(_NOT_IN_XML) for s in _list(body, "failures") if isinstance(s, str)]

    def _take_versions(self, body: Mapping[str, Any]) -> None:
        versions = {_plain(name): _plain(v) for name, v in _dict(body, "nodes").items() if isinstance(v, str)}
        if body.get("when") == SeenWhen.BEFORE:
            known = MappingProxyType({**self._run.versions_before, **versions})
            self._run = dataclasses.replace(self._run, versions_before=known)
        else:
            known = MappingProxyType({**self._run.versions_after, **versions})
            self._run = dataclasses.replace(self._run, versions_after=known)


def _failure(error: Mapping[str, Any]) -> Failure:
    texts = {name: _text(error, name) for name in ("where", "why", "hint")}
    return Failure(_text(error, "what") or "it failed without a word", kind=_line(error, "error"), **texts)


def _drained(body: Mapping[str, Any]) -> DrainReport:
    names = ("evicted", "deleted", "went", "without_controller", "lost_empty_dirs", "left", "volumes_left")
    times = ("duration_s", "waited_for_budgets_s", "waited_for_termination_s", "waited_for_volumes_s")
    pods: dict[str, Any] = {name: _lines(body, name) for name in names}
    seconds: dict[str, Any] = {name: _number(body, name) or 0.0 for name in times}
    budgets = _dict(body, "budgets_s")
    return DrainReport(
        _line(body, "node"),
        stayed=tuple((_line(pod, "pod"), _line(pod, "why")) for pod in _dicts(body, "stayed")),
        bypassed_budgets=body.get("bypassed_budgets") is True,
        budgets_s=MappingProxyType({_plain(name): _number(budgets, name) or 0.0 for name in budgets}),
        **pods,
        **seconds,
    )


def _finding(body: Mapping[str, Any]) -> Finding:
    severity = _line(body, "severity")
    known = Severity(severity) if severity in set(Severity) else Severity.ERROR
    texts = {name: _line(body, name) for name in ("id", "node", "message", "hint")}
    return Finding(known, ignored=body.get("ignored") is True, **texts)


def _result(text: str) -> StepResult:
    return StepResult(text) if text in set(StepResult) else StepResult.INTERRUPTED


def _plain(text: str) -> str:
    return clean_line(text).translate(_NOT_IN_XML)


def _line(body: Mapping[str, Any], key: str) -> str:
    value = body.get(key)
    return _plain(value) if isinstance(value, str) else ""


def _text(body: Mapping[str, Any], key: str) -> str:
    value = body.get(key)
    return clean(value).translate(_NOT_IN_XML).strip() if isinstance(value, str) else ""


def _number(body: Mapping[str, Any], key: str) -> float | None:
    value = body.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) and abs(number) < _LATEST_S else None


def _list(body: Mapping[str, Any], key: str) -> list[Any]:
    value = body.get(key)
    return value if isinstance(value, list) else []


def _lines(body: Mapping[str, Any], key: str) -> tuple[str, ...]:
    return tuple(_plain(v) for v in _list(body, key) if isinstance(v, str))


def _dicts(body: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    return [v for v in _list(body, key) if isinstance(v, dict)]


def _dict(body: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = body.get(key)
    return value if isinstance(value, dict) else {}
