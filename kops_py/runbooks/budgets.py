"""Disruption budgets before a drain: which will never let a pod go, which only have to be waited for. Pure.

The rules are those of the disruption controller (kubernetes/kubernetes, pkg/controller/disruption) and of the eviction
API (pkg/registry/core/pod/storage/eviction.go).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from kops_py.model.finding import Finding, FindingKind, Severity, capped, few
from kops_py.model.quantity import number_of
from kops_py.model.selectors import Operator
from kops_py.model.workloads import BudgetFacts, PodFacts, PodPhase

ERROR, WARNING, INFO = Severity.ERROR, Severity.WARNING, Severity.INFO

OVERLAP = FindingKind(
    "budget-overlap",
    (ERROR,),
    "A pod to be moved is covered by several PodDisruptionBudgets; the eviction API refuses that (500).",
    "Change the selectors so that each pod has one budget at most.",
)
IMPOSSIBLE = FindingKind(
    "budget-impossible",
    (ERROR,),
    "A PodDisruptionBudget can never let its pods go: minAvailable is not below the replicas, or maxUnavailable is 0.",
    "Scale the workload up, or lower minAvailable or raise maxUnavailable.",
)
SYNC_FAILED = FindingKind(
    "budget-sync-failed",
    (ERROR,),
    "The disruption controller cannot reckon a PodDisruptionBudget; until it can, no eviction is allowed.",
    "See why: kubectl describe pdb; often the pods' controller has no scale subresource.",
)
UNHEALTHY = FindingKind(
    "budget-unhealthy",
    (WARNING,),
    "A PodDisruptionBudget allows no eviction now because pods are not healthy; the drain waits until they are.",
    "Mend the pods; or set unhealthyPodEvictionPolicy: AlwaysAllow in the budget (v1.27 on).",
)
UNOBSERVED = FindingKind(
    "budget-unobserved",
    (WARNING,),
    "The disruption controller has not yet seen the present form of a PodDisruptionBudget; evictions wait for it.",
    "Usually a matter of seconds; if it stays, see that kube-controller-manager runs.",
)
SLOW = FindingKind(
    "budget-slow",
    (INFO,),
    "A node has more pods of a PodDisruptionBudget than may go at once; they are evicted in turns.",
    "Nothing; or spread the pods over more nodes.",
)
BYPASSED = FindingKind(
    "budgets-bypassed",
    (WARNING,),
    "Pods will be deleted instead of evicted: no PodDisruptionBudget is heeded.",
    "Leave out --disable-eviction unless it is meant.",
)
KINDS = (OVERLAP, IMPOSSIBLE, SYNC_FAILED, UNHEALTHY, UNOBSERVED, SLOW, BYPASSED)


def desired_healthy(budget: BudgetFacts, expected: int) -> int:
    """Return how many pods of ``expected`` the budget wants healthy; raises ValueError."""
    if budget.max_unavailable is not None:
        return max(0, expected - number_of(budget.max_unavailable, expected))
    return 0 if budget.min_available is None else number_of(budget.min_available, expected)


@dataclass(slots=True)
class Covered:
    """The pods of a budget; ``moving`` are those that the eviction API will ask it about."""

    active: int = 0
    moving: list[PodFacts] = field(default_factory=list)


class BudgetIndex:
    """Finds the budgets of a pod without trying them all."""

    def __init__(self, budgets: Iterable[BudgetFacts]) -> None:
        self._by_label: dict[tuple[str, str, str], list[BudgetFacts]] = {}
        self._others: dict[str, list[BudgetFacts]] = {}
        self._namespaces: set[str] = set()
        for budget in budgets:
            if budget.selector is None:
                continue
            self._namespaces.add(budget.namespace)
            term = next((r for r in budget.selector if r.operator is Operator.IN), None)
            if term is None:
                self._others.setdefault(budget.namespace, []).append(budget)
                continue
            for value in term.values:
                self._by_label.setdefault((budget.namespace, term.key, value), []).append(budget)

    def of(self, pod: PodFacts) -> tuple[BudgetFacts, ...]:
        """Return the budgets that cover a pod."""
        if pod.namespace not in self._namespaces:
            return ()
        found = list(self._others.get(pod.namespace, ()))
        for key, value in pod.labels.items():
            found += self._by_label.get((pod.namespace, key, value), ())
        return tuple(b for b in found if b.selector is not None and all(r.fits(pod.labels) for r in b.selector))


def budget_findings(
    budgets: Sequence[BudgetFacts], pods: Sequence[PodFacts], moving: frozenset[str]
) -> Iterator[Finding]:
    """Say what stands in the way of evicting the pods whose uid is in ``moving``, one finding a budget."""
    index = BudgetIndex(budgets)
    covered: dict[str, Covered] = {b.id: Covered() for b in budgets}
    overlaps: dict[tuple[str, ...], list[PodFacts]] = {}
    for pod in pods:
        found = index.of(pod)
        asked = pod.uid in moving and _is_asked_about(pod)
        for budget in found:
            covered[budget.id].active += not pod.finished
            if asked and len(found) == 1:
                covered[budget.id].moving.append(pod)
        if asked and len(found) > 1:
            overlaps.setdefault(tuple(sorted(b.id for b in found)), []).append(pod)
    yield from capped(
        OVERLAP.found(f"{_pods(group)} covered by {' and '.join(names)}", node=_node(group))
        for names, group in sorted(overlaps.items())
    )
    judged = [_judge(b, covered[b.id]) for b in sorted(budgets, key=lambda b: b.id) if covered[b.id].moving]
    for kind in KINDS:
        yield from capped(f for f in judged if f is not None and f.id == kind.id)


def _is_asked_about(pod: PodFacts) -> bool:
    """Whether an eviction of this pod looks at budgets at all: not of one that is ending, or has not begun."""
    return not (pod.finished or pod.deleting_since or pod.phase is PodPhase.PENDING)


def _judge(budget: BudgetFacts, covered: Covered) -> Finding | None:
    desired, expected = budget.desired_healthy, budget.expected_pods
    if not budget.observed:
        expected = covered.active
        desired = desired_healthy(budget, expected)
    possible = min(expected, covered.active) if isinstance(budget.min_available, int) else expected
    held = [p for p in covered.moving if p.ready or not _may_go_unready(budget)]
    if not held:
        return None
    where = f"{budget.id} ({budget.rule})"
    if budget.sync_failure:
        return SYNC_FAILED.found(f"{where} holds {_pods(held)}: {budget.sync_failure}", node=_node(held))
    if desired >= possible:
        return IMPOSSIBLE.found(
            f"{where} never lets {_pods(held)} go: {_why_never(budget, desired, possible)}", node=_node(held)
        )
    if not budget.observed:
        return UNOBSERVED.found(f"{where} holds {_pods(held)} until its status is up to date", node=_node(held))
    if budget.disruptions_allowed <= 0:
        count = f"{budget.current_healthy} of {expected} are healthy, {desired} must stay"
        unready = [p for p in held if not p.ready]
        own = f"; not ready themselves, and held all the same: {few(p.name for p in unready)}" if unready else ""
        return UNHEALTHY.found(f"{where} holds {_pods(held)} now: {count}{own}", node=_node(held))
    node, most = Counter(p.node for p in held).most_common(1)[0]
    if most > budget.disruptions_allowed:
        return SLOW.found(
            f"{where} lets {budget.disruptions_allowed} go at a time; {node} has {most} of its pods", node=_node(held)
        )
    return None


def _may_go_unready(budget: BudgetFacts) -> bool:
    """Whether the budget lets a pod go that is not ready."""
    if budget.always_allow_unhealthy:
        return True
    return budget.observed and budget.current_healthy >= budget.desired_healthy > 0


def _why_never(budget: BudgetFacts, desired: int, possible: int) -> str:
    if budget.max_unavailable is None and budget.min_available is None:
        return "it allows nothing"
    if possible <= 0:
        return "none of them has a controller whose replicas could be counted"
    if budget.max_unavailable is not None:
        return "it allows no pod to be away"
    if possible == 1:
        return "there is one replica, and it must stay"
    return f"{desired} must stay of {possible} replicas"


def _pods(pods: Sequence[PodFacts]) -> str:
    nodes = sorted({p.node for p in pods})
    many = "pod" if len(pods) == 1 else f"{len(pods)} pods:"
    return f"{many} {few(sorted(p.id for p in pods))} on {few(nodes)}"


def _node(pods: Sequence[PodFacts]) -> str:
    nodes = {p.node for p in pods}
    return nodes.pop() if len(nodes) == 1 else ""
