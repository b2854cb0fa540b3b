"""A plan: what will run, as data.

A plan is a list of waves. Steps of one wave that name the same node form that node's chain and run in order; the
chains of a wave run side by side, at most ``max_parallel`` of them. The next wave starts when all chains ended.
"""

from __future__ import annotations

import dataclasses
import hashlib
import heapq
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any


@dataclass(frozen=True, slots=True)
class Action:
    """What a step does, as typed data; every subclass has its performer in ``actions/``."""

    def to_json(self) -> dict[str, Any]:
        """Return the action's kind and parameters as JSON; no parameter may hold a secret."""
        body: dict[str, Any] = {"kind": type(self).__name__}
        for item in dataclasses.fields(self):
            value = getattr(self, item.name)
            body[item.name] = _plain(value)
        return body


def _plain(value: object) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in sorted(value.items())}
    if isinstance(value, frozenset | set):
        return sorted(_plain(v) for v in value)
    if isinstance(value, tuple | list):
        return [_plain(v) for v in value]
    if isinstance(value, str | int | float | bool) or value is None:
        return value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {item.name: _plain(getattr(value, item.name)) for item in dataclasses.fields(value)}
    return str(value)


@dataclass(frozen=True, slots=True)
class Step:
    """One thing to do on one node (``node`` is "" for the cluster as a whole).

    ``id`` is stable between runs (``join/n4``); ``details`` are the lines a person reads before agreeing.
    """

    id: str
    node: str
    title: str
    action: Action
    timeout_s: float
    details: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the step as a JSON object."""
        return {
            "id": self.id,
            "node": self.node,
            "title": self.title,
            "action": self.action.to_json(),
            "timeout_s": self.timeout_s,
            "details": list(self.details),
        }


@dataclass(frozen=True, slots=True)
class Wave:
    """Steps that may run side by side.

    ``failures_allowed`` is the budget: when more chains than that have failed, no further chain is started.
    ``together`` hands all steps to their performer in one call (one Ansible play for all hosts of the wave).
    """

    name: str
    steps: tuple[Step, ...]
    max_parallel: int = 1
    failures_allowed: int = 0
    together: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return the wave as a JSON object."""
        return {
            "name": self.name,
            "max_parallel": self.max_parallel,
            "failures_allowed": self.failures_allowed,
            "together": self.together,
            "steps": [s.to_json() for s in self.steps],
        }


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything one operation will do, in order; ``notes`` say what was found to be right already."""

    operation: str
    cluster: str
    waves: tuple[Wave, ...]
    arguments: Mapping[str, str] = dataclasses.field(default_factory=lambda: MappingProxyType({}))
    notes: tuple[str, ...] = ()

    @property
    def steps(self) -> tuple[Step, ...]:
        """Return all steps in order."""
        return tuple(self._iterate())

    def _iterate(self) -> Iterator[Step]:
        for wave in self.waves:
            yield from wave.steps

    @property
    def has_changes(self) -> bool:
        """Whether running the plan would do anything."""
        return any(wave.steps for wave in self.waves)

    @property
    def longest_s(self) -> float:
        """Return how long all steps take at most, each at its own limit; what is looked at in between is not in it."""
        return sum(map(longest_s, self.waves))

    @property
    def digest(self) -> str:
        """Return the SHA-256 (hex) of what will run; equal digests mean equal plans, notes aside."""
        return str(self.to_json()["digest"])

    def to_json(self) -> dict[str, Any]:
        """Return the plan as a JSON object; its digest is without the notes and what follows from the rest."""
        body: dict[str, Any] = {
            "operation": self.operation,
            "cluster": self.cluster,
            "arguments": dict(sorted(self.arguments.items())),
            "waves": [w.to_json() for w in self.waves],
            "notes": list(self.notes),
        }
        digest = _sha256({k: v for k, v in body.items() if k != "notes"})
        return {**body, "longest_s": self.longest_s, "digest": digest}


def longest_s(wave: Wave) -> float:
    """Return how long a wave takes when every step needs all of its limit: a chain begins when another ends."""
    if wave.together:
        return max((step.timeout_s for step in wave.steps), default=0.0)
    chains: dict[str, float] = {}
    for step in wave.steps:
        chains[step.node] = chains.get(step.node, 0.0) + step.timeout_s
    ends = [0.0] * max(1, min(wave.max_parallel, len(chains)))
    for chain_s in chains.values():
        heapq.heapreplace(ends, ends[0] + chain_s)
    return max(ends)


def _sha256(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def unexpected_steps(remaining: tuple[Step, ...], replanned: tuple[Step, ...]) -> tuple[Step, ...]:
    """Return the steps of a new plan that the remaining steps do not hold, in their order.

    A step that became true by itself may drop out of the new plan; nothing may enter it or change.
    """
    places: dict[str, list[int]] = {}
    for number, step in enumerate(remaining):
        places.setdefault(step.id, []).append(number)
    unexpected: list[Step] = []
    begin = 0
    for step in replanned:
        at = next((n for n in places.get(step.id, ()) if n >= begin and remaining[n] == step), None)
        if at is None:
            unexpected.append(step)
        else:
            begin = at + 1
    return tuple(unexpected)
