"""Whose cordon a node carries: kops-py marks its own with an annotation, and takes away no other."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from kops_py.model.facts import NodeFacts

CORDONED = "kops-py/cordoned"
"""Annotation of a node that kops-py cordoned: who, in which run, and when, as a small JSON object."""


@dataclass(frozen=True, slots=True)
class Cordon:
    """A cordon of kops-py; ``at`` is RFC 3339 in UTC. Empty fields: the annotation does not tell."""

    by: str
    run: str
    at: str

    @property
    def operation(self) -> str:
        """Return the operation of the run, which its id carries (``20261120T101112Z-upgrade-1a2b``)."""
        return self.run.partition("-")[2].rpartition("-")[0]

    def to_annotation(self) -> str:
        """Return the annotation's value."""
        return json.dumps({"by": self.by, "run": self.run, "at": self.at})

    def __str__(self) -> str:
        return ", ".join(filter(None, (self.by, f"run {self.run}" if self.run else "", self.at)))


def read_cordon(annotations: Mapping[str, str]) -> Cordon | None:
    """Return the cordon these annotations of a node tell of, None without one; a damaged value still counts as ours.

    Whether the node is cordoned at all stands in its spec: a person may have uncordoned it since.
    """
    text = annotations.get(CORDONED)
    if text is None:
        return None
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        return Cordon("", "", "")
    return Cordon(*(str(value.get(key) or "") for key in ("by", "run", "at")))


def cordon_owner(node: NodeFacts) -> str:
    """Say whose cordon a node carries; empty when it is not cordoned."""
    if not node.unschedulable:
        return ""
    cordon = read_cordon(node.annotations)
    if cordon is None:
        return "somebody else"
    return f"kops-py ({cordon})" if str(cordon) else "kops-py"
