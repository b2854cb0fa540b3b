"""What a drain may do to pods, and what it will do to each: pure, so that a plan can say it beforehand.

The rules are kubectl drain's (kubernetes/kubectl, pkg/drain/filters.go): DaemonSet and mirror pods stay; pods whose
local data would be lost, and pods that nothing would start again, are refused unless the policy allows them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from kops_py.model.selectors import matches
from kops_py.model.workloads import PodFacts


@dataclass(frozen=True, slots=True)
class DrainGroup:
    """Pods that are evicted only after those of the groups before it are gone (storage comes last).

    A pod belongs to the first group whose ``namespaces`` (when given) hold its namespace and whose ``selector``
    (``key=value``, ``key``, ``!key``, ``key in (a,b)``; when given) fits its labels; else to the unnamed first one.
    """

    name: str
    selector: str = ""
    namespaces: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class DrainPolicy:
    """What a drain is allowed to do, and how long it may take; times in seconds, never endless."""

    timeout_s: float = 900.0
    """For one node, from the first eviction to the last pod gone and volume detached."""
    grace_period_s: int | None = None
    """In place of the pods' own terminationGracePeriodSeconds; None: their own."""
    delete_empty_dir_data: bool = False
    force: bool = False
    """Also pods without a controller, which nothing starts again."""
    disable_eviction: bool = False
    """Delete instead of evicting: bypasses disruption budgets. Never a default; written into journal and report."""
    pod_selector: str = ""
    """Only pods this label selector fits; empty: all."""
    groups: tuple[DrainGroup, ...] = ()
    volumes_timeout_s: float = 120.0
    """For volumes to detach after the pods are gone; within ``timeout_s``. 0: not waited for."""


class Fate(StrEnum):
    """What a drain does to a pod."""

    EVICT = "evict"
    DELETE = "delete"
    """Finished pods: no budget counts them."""
    STAYS = "stays"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Verdict:
    """The fate of one pod, and why where it is not plainly evicted."""

    pod: PodFacts
    fate: Fate
    reason: str = ""


def judge(pod: PodFacts, policy: DrainPolicy) -> Verdict:
    """Say what a drain with this policy does to a pod; the pod selector is not looked at here."""
    if pod.mirror:
        return Verdict(pod, Fate.STAYS, "static pod")
    if pod.owner is not None and pod.owner.kind == "DaemonSet":
        return Verdict(pod, Fate.DELETE if pod.finished else Fate.STAYS, "" if pod.finished else "DaemonSet")
    if pod.finished:
        return Verdict(pod, Fate.DELETE, "finished")
    if pod.empty_dir and not policy.delete_empty_dir_data:
        return Verdict(pod, Fate.REFUSED, "has emptyDir data that would be lost")
    if pod.owner is None and not policy.force:
        return Verdict(pod, Fate.REFUSED, "has no controller: nothing would start it again")
    return Verdict(pod, Fate.EVICT)


def group_number(pod: PodFacts, groups: Sequence[DrainGroup]) -> int:
    """Return the place of the pod's group in the order of eviction; 0 is the unnamed one. Raises ValueError."""
    for number, group in enumerate(groups, 1):
        if group.namespaces and pod.namespace not in group.namespaces:
            continue
        if matches(group.selector, pod.labels):
            return number
    return 0
