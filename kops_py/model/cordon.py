"""Whose cordon a node carries: kops-py marks its own with an annotation, and takes away no other."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from kops_py.model.facts import NodeFacts

CORDONED = "kops-py/cordoned"
"""Annotation of a node that kops-py cordoned: who, in which run, and when, as a small JSON object."""
UNFINISHED = "kops-py/unfinished"
"""Annotation of a node that is back in service while its chain has not ended (hooks, gates); the same object."""
_REASON_CHARACTERS = 500


@dataclass(frozen=True, slots=True)
class Cordon:
    """A mark of kops-py on a node; ``at`` is RFC 3339 in UTC. Empty fields: the annotation does not tell.

    ``reason`` is why the node's chain ended before its end; it may not hold a secret.
    """

    by: str
    run: str
    at: str
    reason: str = ""

    @property
    def operation(self) -> str:
        """Return the operation of the run, which its id carries (``20261120T101112Z-upgrade-1a2b``)."""
        return self.run.partition("-")[2].rpartition("-")[0]

    def to_annotation(self) -> str:
        """Return the annotation's value."""
        reason = {"reason": self.reason[:_REASON_CHARACTERS]} if self.reason else {}
        return json.dumps({"by": self.by, "run": self.run, "at": self.at, **reason})

    def __str__(self) -> str:
        return ", ".join(filter(None, (self.by, f"run {self.run}" if self.run else "", self.at)))


def read_cordon(annotations: Mapping[str, str]) -> Cordon | None:
    """Return the cordon these annotations of a node tell of, None without one; a damaged value still counts as ours.

    Whether the node is cordoned at all stands in its spec: a person may have uncordoned it since.
    """
    return read_mark(annotations, CORDONED)


def read_mark(annotations: Mapping[str, str], key: str) -> Cordon | None:
    """Return the mark under one of our annotations, None without one; a damaged value still counts as ours."""
    text = annotations.get(key)
    if text is None:
        return None
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        return Cordon("", "", "")
    return Cordon(*(str(value.get(key) or "") for key in ("by", "run", "at", "reason")))


def stop_reason(node: NodeFacts) -> str:
    """Say why a chain of ours ended early on this node, and whether it is out of service; empty when none did."""
    cordon = read_mark(node.annotations, CORDONED) if node.unschedulable else None
    if cordon is not None and cordon.reason:
        return f"its {cordon.operation or 'run'} stopped: {cordon.reason}"
    left = read_mark(node.annotations, UNFINISHED)
    if left is None or cordon is not None:
        return ""
    return f"its {left.operation or 'run'} has not come to its end" + (f": {left.reason}" if left.reason else "")


def cordon_owner(node: NodeFacts) -> str:
    """Say whose cordon a node carries; empty when it is not cordoned."""
    if not node.unschedulable:
        return ""
    cordon = read_cordon(node.annotations)
    if cordon is None:
        return "somebody else"
    return f"kops-py ({cordon})" if str(cordon) else "kops-py"
