"""What a drain did, for the journal and the reports."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from kops_py.model.finding import few

_NAMED = 5


def _no_map() -> Mapping[str, float]:
    return MappingProxyType({})


@dataclass(frozen=True, slots=True)
class DrainReport:
    """How a node was drained; pods are ``namespace/name``, times seconds."""

    node: str
    evicted: tuple[str, ...] = ()
    deleted: tuple[str, ...] = ()
    """Finished pods, and with ``bypassed_budgets`` all others."""
    went: tuple[str, ...] = ()
    """Pods that ended without us: they were ending already, or somebody else removed them."""
    stayed: tuple[tuple[str, str], ...] = ()
    """Pods that belong on the node, and why: DaemonSet, static pod."""
    bypassed_budgets: bool = False
    """Whether pods were deleted instead of evicted: no disruption budget was asked."""
    without_controller: tuple[str, ...] = ()
    """Pods that were removed though nothing starts them again (policy: force)."""
    lost_empty_dirs: tuple[str, ...] = ()
    """Pods whose emptyDir data was removed with them (policy: delete_empty_dir_data)."""
    left: tuple[str, ...] = ()
    """Pods that were still there when the drain ended with an error; some may be in ``evicted`` or ``deleted``, too."""
    duration_s: float = 0.0
    budgets_s: Mapping[str, float] = field(default_factory=_no_map)
    """For how long each disruption budget (``namespace/name``) held a pod."""
    waited_for_budgets_s: float = 0.0
    waited_for_termination_s: float = 0.0
    """While all pods that could go were ending, and no budget held any."""
    waited_for_volumes_s: float = 0.0
    volumes_left: tuple[str, ...] = ()
    """Volumes that are still attached and could not be told to belong to a pod of ours."""

    @property
    def bypasses(self) -> tuple[str, ...]:
        """Name the safeguards that the policy put aside and that mattered, and for which pods, one sentence each."""
        found = []
        if self.bypassed_budgets:
            found.append(f"disruption budgets were not asked: {_pods(self.deleted, 'deleted, not evicted')}")
        if self.without_controller:
            found.append(_pods(self.without_controller, "removed without a controller that starts it again"))
        if self.lost_empty_dirs:
            found.append(_pods(self.lost_empty_dirs, "removed with the data of their emptyDir volumes"))
        return tuple(found)

    def summary(self) -> str:
        """Say it in one line."""
        parts = [f"pods: {len(self.evicted)} evicted, {len(self.deleted)} deleted, {len(self.stayed)} stayed"]
        parts += [f"{len(self.left)} still there at its end"] if self.left else []
        parts += [
            f"waited {seconds:.0f} s for {what}"
            for seconds, what in (
                (self.waited_for_budgets_s, "budgets"),
                (self.waited_for_termination_s, "pods to end"),
                (self.waited_for_volumes_s, "volumes"),
            )
            if seconds >= 0.5
        ]
        return "; ".join([*parts, *self.bypasses])

    def to_json(self) -> dict[str, Any]:
        """Return the report as a JSON object."""
        return {
            "node": self.node,
            "evicted": list(self.evicted),
            "deleted": list(self.deleted),
            "went": list(self.went),
            "stayed": [{"pod": pod, "why": why} for pod, why in self.stayed],
            "bypassed_budgets": self.bypassed_budgets,
            "without_controller": list(self.without_controller),
            "lost_empty_dirs": list(self.lost_empty_dirs),
            "left": list(self.left),
            "duration_s": round(self.duration_s, 3),
            "budgets_s": {name: round(seconds, 3) for name, seconds in self.budgets_s.items()},
            "waited_for_budgets_s": round(self.waited_for_budgets_s, 3),
            "waited_for_termination_s": round(self.waited_for_termination_s, 3),
            "waited_for_volumes_s": round(self.waited_for_volumes_s, 3),
            "volumes_left": list(self.volumes_left),
        }


def _pods(names: tuple[str, ...], what: str) -> str:
    count = "1 pod was" if len(names) == 1 else f"{len(names)} pods were"
    return f"{count} {what} ({few(names, _NAMED)})"
