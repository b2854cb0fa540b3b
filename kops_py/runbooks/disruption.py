"""What stands in the way of draining nodes, told before the first is touched: pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence

from kops_py.model.drain import DrainPolicy, Fate, Verdict, judge
from kops_py.model.finding import Finding, FindingKind, Severity, few
from kops_py.model.selectors import parse_selector
from kops_py.model.workloads import PodFacts, WorkloadFacts
from kops_py.runbooks import budgets, room

ERROR, WARNING, INFO = Severity.ERROR, Severity.WARNING, Severity.INFO

LOCAL_DATA = FindingKind(
    "pod-local-data",
    (ERROR,),
    "Pods to be moved have emptyDir volumes, whose data is lost with the pod.",
    "See that the data may go, then: --delete-emptydir-data, or maintenance.drain.deleteEmptyDirData in cluster.yaml.",
)
UNMANAGED = FindingKind(
    "pod-unmanaged",
    (ERROR,),
    "Pods to be moved have no controller: nothing starts them again elsewhere.",
    "Delete them or give them a controller; or --force (maintenance.drain.force), and they are gone for good.",
)
HOST_PATH = FindingKind(
    "pod-host-path",
    (INFO,),
    "Pods to be moved use files of their node (hostPath); elsewhere they find other files, or none.",
    "Nothing when the files are the same on all nodes.",
)
ONE_REPLICA = FindingKind(
    "single-replica",
    (INFO,),
    "Workloads to be moved have one pod and no budget: they are away from its eviction until the next one is ready.",
    "Scale them to two or more where that is noticed.",
)
LEFT = FindingKind(
    "pod-left-by-selector",
    (WARNING,),
    "The pod selector leaves out pods that a drain would move: they stay, and a restart or the removal of their node "
    "ends them without asking a budget.",
    "Nothing when that is meant; else leave out --pod-selector (maintenance.drain.podSelector).",
)
UNAVAILABLE = FindingKind(
    "workload-unavailable",
    (WARNING,),
    "Workloads have fewer available pods than they want before anything is touched.",
    "Mend them first; the operation cannot tell its own damage from theirs.",
)
KINDS = (LOCAL_DATA, UNMANAGED, HOST_PATH, ONE_REPLICA, LEFT, UNAVAILABLE, *budgets.KINDS, *room.KINDS)


def disruption_findings(
    workloads: WorkloadFacts, policy: DrainPolicy, nodes_to_drain: Sequence[str], max_unavailable: int
) -> tuple[Finding, ...]:
    """Say what blocks or hurts when these nodes are drained, at most ``max_unavailable`` at a time.

    Errors are what cannot end well as things stand; warnings may only have to be waited for. A pod selector of the
    policy that is not understood raises ValueError.
    """
    drained = frozenset(nodes_to_drain)
    terms = parse_selector(policy.pod_selector)
    on_nodes = [judge(pod, policy) for pod in workloads.pods if pod.node in drained]
    verdicts = [v for v in on_nodes if all(term.fits(v.pod.labels) for term in terms)]
    moved = [v.pod for v in verdicts if v.fate is Fate.EVICT and not v.pod.deleting_since]
    return (
        *_refused(verdicts, policy),
        *_budgets(workloads, policy, moved),
        *room.room_findings(workloads, moved, drained, max(1, max_unavailable)),
        *_single(workloads, moved),
        *_summary(HOST_PATH, [p for p in moved if p.host_path], lambda p: p.id),
        *_left(on_nodes, verdicts),
        *_unavailable(workloads),
    )


def _refused(verdicts: Sequence[Verdict], policy: DrainPolicy) -> Iterator[Finding]:
    refused = [v.pod for v in verdicts if v.fate is Fate.REFUSED]
    local = [p for p in refused if p.empty_dir and not policy.delete_empty_dir_data]
    yield from _summary(LOCAL_DATA, local, lambda p: p.id)
    yield from _summary(UNMANAGED, [p for p in refused if p.owner is None and not policy.force], lambda p: p.id)


def _budgets(workloads: WorkloadFacts, policy: DrainPolicy, moved: Sequence[PodFacts]) -> Iterator[Finding]:
    if policy.disable_eviction:
        yield budgets.BYPASSED.found("evictions are disabled: pods are deleted, whatever their budgets say")
        return
    yield from budgets.budget_findings(workloads.budgets, workloads.pods, frozenset(p.uid for p in moved))


def _single(workloads: WorkloadFacts, moved: Sequence[PodFacts]) -> Iterator[Finding]:
    index = budgets.BudgetIndex(workloads.budgets)
    counts = Counter(_workload(p) for p in workloads.pods if p.owner is not None and not p.finished)
    alone = [
        p
        for p in moved
        if p.owner is not None and p.owner.kind != "Job" and counts[_workload(p)] == 1 and not index.of(p)
    ]
    yield from _summary(ONE_REPLICA, alone, lambda p: p.id)


def _left(on_nodes: Sequence[Verdict], chosen: Sequence[Verdict]) -> Iterator[Finding]:
    """Name the pods that only the pod selector keeps on their nodes."""
    known = {v.pod.uid for v in chosen}
    kept = [v.pod for v in on_nodes if v.fate in (Fate.EVICT, Fate.REFUSED) and v.pod.uid not in known]
    yield from _summary(LEFT, [p for p in kept if not p.deleting_since], lambda p: p.id)


def _workload(pod: PodFacts) -> tuple[str, str, str]:
    owner = pod.owner
    return (pod.namespace, owner.kind, owner.name) if owner else (pod.namespace, "", pod.name)


def _unavailable(workloads: WorkloadFacts) -> Iterator[Finding]:
    if workloads.unavailable:
        yield UNAVAILABLE.found(few(workloads.unavailable, 5))


def _summary(kind: FindingKind, pods: Sequence[PodFacts], name: Callable[[PodFacts], str]) -> Iterator[Finding]:
    if not pods:
        return
    nodes = sorted({p.node for p in pods})
    many = "1 pod" if len(pods) == 1 else f"{len(pods)} pods"
    yield kind.found(
        f"{many} on {few(nodes)}: {few(sorted(map(name, pods)), 5)}", node=nodes[0] if len(nodes) == 1 else ""
    )
