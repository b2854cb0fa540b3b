"""Events: what a run tells the console, the JSON stream and the reports while it goes on."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from kops_py.model.errors import KopsError
from kops_py.model.finding import Finding
from kops_py.model.plan import Plan


class StepResult(StrEnum):
    """How a step ended."""

    DONE = "done"
    ALREADY_TRUE = "already-true"
    FAILED = "failed"
    INTERRUPTED = "interrupted"
    NOT_STARTED = "not-started"


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Base of all events; ``at_s`` is seconds since the epoch, filled in by the emitter."""

    at_s: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """Return the event as a JSON object with its kebab-case name under ``event``."""
        name = "".join(f"-{c.lower()}" if c.isupper() else c for c in type(self).__name__).lstrip("-")
        body: dict[str, Any] = {"event": name}
        for item in dataclasses.fields(self):
            value = getattr(self, item.name)
            if hasattr(value, "to_json"):
                value = value.to_json()
            elif isinstance(value, tuple):
                value = [v.to_json() if hasattr(v, "to_json") else v for v in value]
            elif isinstance(value, Mapping):
                value = dict(value)
            body[item.name] = value
        return body


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStarted(Event):
    """A run begins, started ``by`` user@host; ``command`` goes on with it should it be killed.

    ``run_dir`` holds its journal and logs.
    """

    run_id: str
    operation: str
    cluster: str
    run_dir: str
    by: str = ""
    command: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanMade(Event):
    """The plan this run will carry out."""

    plan: Plan


@dataclass(frozen=True, slots=True, kw_only=True)
class FindingsMade(Event):
    """What the checks before the run found."""

    findings: tuple[Finding, ...]


class SeenWhen(StrEnum):
    """Which look at the cluster it was."""

    BEFORE = "before"
    AFTER = "after"


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionsSeen(Event):
    """The kubelet version of each node, before the run or after it; of several with one ``when`` the last counts."""

    when: SeenWhen
    nodes: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class WaveStarted(Event):
    """A wave begins."""

    wave: str
    steps: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StepStarted(Event):
    """A step begins."""

    step: str
    node: str
    title: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StepProgress(Event):
    """What a step is doing or waiting for; ``waiting`` tells a wait from work."""

    step: str
    node: str
    message: str
    waiting: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class StepFinished(Event):
    """A step ended."""

    step: str
    node: str
    title: str
    result: StepResult
    duration_s: float
    message: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Note(Event):
    """Something a person should read, for the run as a whole or one node."""

    message: str
    node: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFinished(Event):
    """A run ended; ``failures`` are sentences, ``resume`` the command that continues (empty when done).

    ``errors`` are the failures in full: what, where, why, and what to do.
    """

    exit_code: int
    duration_s: float
    steps_done: int
    steps_skipped: int
    steps_failed: int
    steps_left: int
    failures: tuple[str, ...] = field(default=())
    errors: tuple[KopsError, ...] = field(default=())
    resume: str = ""


Emit = Callable[[Event], None]
