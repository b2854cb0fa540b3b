"""Hosts that left their cluster: the mark our reset leaves on them, and what etcd's quorum says of who may go."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from kops_py.model.status import EtcdMember

REMOVED_PATH = "/etc/kops-py/removed.json"
"""On a host that kops-py takes or took out of its cluster: which, by which run, and why."""


@dataclass(frozen=True, slots=True)
class RemovalMark:
    """A host is being, or was, taken out of a cluster; ``at`` is RFC 3339 in UTC.

    Written before the reset begins, and again with ``done`` when it has ended: what was interrupted is told from what
    is finished, and a host that was taken out from one that never was in.
    """

    cluster: str
    run: str
    reason: str
    at: str
    done: bool = False

    def to_json(self) -> str:
        """Return the mark as the text of its file."""
        fields = {"cluster": self.cluster, "run": self.run, "reason": self.reason, "at": self.at, "done": self.done}
        return json.dumps(fields, indent=1) + "\n"

    def __str__(self) -> str:
        return ", ".join(filter(None, (self.reason, f"run {self.run}" if self.run else "", self.at)))


def read_removal_mark(text: str) -> RemovalMark | None:
    """Return the mark in a file's text; None when there is none, or nothing that can be read."""
    try:
        value = json.loads(text)
    except ValueError:
        return None
    if not isinstance(value, dict) or not isinstance(value.get("cluster"), str):
        return None
    run, reason, at = (str(value.get(key) or "") for key in ("run", "reason", "at"))
    return RemovalMark(value["cluster"], run, reason, at, done=value.get("done") is True)


def answers(member: EtcdMember) -> bool:
    """Whether a member says anything of itself, be it that it is ill: a learner does, and one with an alarm."""
    return member.healthy or bool(member.version)


def quorum(members: int) -> int:
    """Return how many of so many members decide."""
    return members // 2 + 1


def quorum_problem(members: Iterable[EtcdMember], leaving: str) -> str:
    """Say why etcd must not lose this member now; empty when it may go, or is gone already.

    Removing it must be agreed on by a quorum of today's voters, and those that stay must be a quorum of themselves.
    """
    voters = [m for m in members if not m.is_learner]
    rest = [m for m in voters if m.name != leaving]
    if len(rest) == len(voters):
        return ""
    if not rest:
        return "it is etcd's only voting member"
    sick = [m.name or f"{m.member_id:x}" for m in rest if not m.healthy]
    healthy, before = len(rest) - len(sick), sum(m.healthy for m in voters)
    if before < quorum(len(voters)):
        return f"etcd has no quorum: {before} of {len(voters)} voting members are healthy"
    if healthy < quorum(len(rest)):
        return f"{healthy} of the {len(rest)} members that stay are healthy, which is no quorum ({', '.join(sick)})"
    return ""


def without(members: Iterable[EtcdMember], names: Collection[str]) -> tuple[EtcdMember, ...]:
    """Return the members that are not named."""
    return tuple(m for m in members if m.name not in names)
