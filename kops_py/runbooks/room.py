"""Whether the rest of the cluster has room for the pods that a drain moves: roughly, and fast for 5,000 nodes. Pure.

What is reckoned: requests (CPU, memory, number of pods) against what nodes can allocate less what runs there; taints
and node selectors; the worst ``max_unavailable`` nodes away at once. Nodes that are not Ready or are cordoned take
nothing. Sums over all nodes stand in for the scheduler's packing; besides, each pod must fit on one node as it is now.
Not reckoned: node affinity, spreading, anti-affinity, priorities, extended resources, zones of volumes.

Nodes are grouped by what selectors and taints can tell apart, pods by where they may run: nothing is done for each
pair of a node and a pod.
"""

from __future__ import annotations

import dataclasses
import heapq
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from kops_py.model.finding import Finding, FindingKind, Severity, capped, few
from kops_py.model.workloads import NodeCapacity, PodFacts, WorkloadFacts, tolerates

ERROR, WARNING, INFO = Severity.ERROR, Severity.WARNING, Severity.INFO

NO_ROOM = FindingKind(
    "no-room",
    (WARNING, ERROR),
    "The other nodes have not enough unrequested CPU, memory or pod places for what a drain moves; "
    "pods stay Pending until the node is back.",
    "Take fewer nodes at a time (--max-unavailable), add a node, or lower requests.",
)
NO_OTHER_NODE = FindingKind(
    "pod-no-other-node",
    (WARNING, ERROR),
    "By node selector, taints or size of its requests a pod fits on no other node; it stays Pending until its node "
    "is back.",
    "Add a node it may run on, or expect it to be away.",
)
PINNED = FindingKind(
    "pod-pinned",
    (WARNING, ERROR),
    "A pod is bound to its node by a selector on the host name or by a volume that only this node has; "
    "it stays Pending until its node is back.",
    "Nothing when it may be away for that time.",
)
AFFINITY = FindingKind(
    "affinity-not-reckoned",
    (INFO,),
    "Pods to be moved have required node affinity, which the reckoning of room does not evaluate.",
    "See yourself that they have another node to run on.",
)
KINDS = (NO_ROOM, NO_OTHER_NODE, PINNED, AFFINITY)

HOSTNAME = "kubernetes.io/hostname"
_BLOCKING = frozenset({"NoSchedule", "NoExecute"})
_RESOURCES = ("CPU", "memory", "pod places")

Amounts = tuple[int, int, int]
"""CPU in thousandths, memory in bytes, pods."""
Where = frozenset[int]
"""Groups of nodes a pod may run on."""


@dataclass(slots=True)
class _Map:
    """Free room by node and group, and the demand that each drained node would set free."""

    free: Mapping[str, Amounts]
    group_of: Mapping[str, int]
    members: Mapping[int, list[str]]
    demand: dict[Where, dict[str, list[int]]] = field(default_factory=dict)


def room_findings(
    workloads: WorkloadFacts, moved: Sequence[PodFacts], drained: frozenset[str], max_unavailable: int
) -> Iterator[Finding]:
    """Say which of the moved pods have no other place, and which nodes set free more than the others can take."""
    pinned = [p for p in moved if _is_pinned(p, workloads)]
    held = {p.uid for p in pinned}
    loose = [p for p in moved if p.uid not in held]
    yield from _named(PINNED, pinned)
    yield from _named(AFFINITY, [p for p in loose if p.has_node_affinity])
    groups = _grouped(workloads, loose)
    places = _Places(groups[0])
    where = {p.uid: places.of(p) for p in loose}
    area = _Map(_free(workloads), groups[1], groups[2])
    lost = _fit_nowhere(loose, where, area)
    yield from _named(NO_OTHER_NODE, lost)
    lost_uids = {p.uid for p in lost}
    for pod in loose:
        if pod.uid not in lost_uids:
            sums = area.demand.setdefault(where[pod.uid], {}).setdefault(pod.node, [0, 0, 0])
            for i, amount in enumerate(_request(pod)):
                sums[i] += amount
    yield from capped(_shortages(area, drained, max_unavailable))


def for_good(finding: Finding, leaving: Collection[str]) -> Finding:
    """Return the finding as it is when these nodes do not come back: no room or place is an error then."""
    lasting = finding.id in {NO_ROOM.id, NO_OTHER_NODE.id, PINNED.id} and finding.severity is WARNING
    if not leaving or not lasting or (finding.node and finding.node not in leaving):
        return finding
    hint = f"{finding.hint} The node does not come back: what has no place then has none until there is another node."
    return dataclasses.replace(finding, severity=ERROR, hint=hint)


def _request(pod: PodFacts) -> Amounts:
    return pod.cpu_millis, pod.memory_bytes, 1


def _is_pinned(pod: PodFacts, workloads: WorkloadFacts) -> bool:
    if HOSTNAME in pod.node_selector:
        return True
    node = workloads.nodes.get(pod.node)
    own = frozenset({node.labels.get(HOSTNAME, pod.node) if node else pod.node})
    return any(workloads.local_claims.get(f"{pod.namespace}/{claim}", frozenset()) == own for claim in pod.claims)


def _free(workloads: WorkloadFacts) -> Mapping[str, Amounts]:
    """Return what the nodes that take pods have left."""
    used: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0])
    for pod in workloads.pods:
        if pod.node and not pod.finished:
            sums = used[pod.node]
            sums[0] += pod.cpu_millis
            sums[1] += pod.memory_bytes
            sums[2] += 1
    return {
        name: (
            max(0, node.cpu_millis - used[name][0]),
            max(0, node.memory_bytes - used[name][1]),
            max(0, node.pods - used[name][2]),
        )
        for name, node in workloads.nodes.items()
        if node.ready and not node.unschedulable
    }


_Group = tuple[tuple[tuple[str, str], ...], tuple[tuple[str, str, str], ...]]
"""Labels that selectors ask for, and taints that keep pods away."""


def _grouped(
    workloads: WorkloadFacts, pods: Iterable[PodFacts]
) -> tuple[list[_Group], dict[str, int], dict[int, list[str]]]:
    asked = sorted({key for pod in pods for key in pod.node_selector})
    numbers: dict[_Group, int] = {}
    group_of: dict[str, int] = {}
    members: dict[int, list[str]] = defaultdict(list)
    for node in workloads.nodes.values():
        key = _group(node, asked)
        number = numbers.setdefault(key, len(numbers))
        group_of[node.name] = number
        if node.ready and not node.unschedulable:
            members[number].append(node.name)
    return list(numbers), group_of, members


def _group(node: NodeCapacity, asked: Iterable[str]) -> _Group:
    labels = tuple((key, node.labels[key]) for key in asked if key in node.labels)
    return labels, tuple(sorted(t for t in node.taints if t[2] in _BLOCKING))


class _Places:
    """Says on which groups of nodes a pod may run; pods with the same wishes are asked about once."""

    def __init__(self, groups: Sequence[_Group]) -> None:
        self._groups = [(dict(labels), taints) for labels, taints in groups]
        self._known: dict[object, Where] = {}

    def of(self, pod: PodFacts) -> Where:
        """Return the numbers of the groups."""
        wishes = (tuple(sorted(pod.node_selector.items())) if pod.node_selector else (), pod.tolerations)
        found = self._known.get(wishes)
        if found is None:
            found = self._known[wishes] = frozenset(
                number
                for number, (labels, taints) in enumerate(self._groups)
                if all(labels.get(key) == value for key, value in pod.node_selector.items())
                and all(any(tolerates(t, taint) for t in pod.tolerations) for taint in taints)
            )
        return found


def _fit_nowhere(pods: Sequence[PodFacts], where: Mapping[str, Where], area: _Map) -> list[PodFacts]:
    """Return the pods that no other node could take even if all else stayed as it is."""
    edges: dict[Where, list[tuple[str, Amounts]]] = {}
    known: dict[tuple[Where, int, int], tuple[str, ...]] = {}
    found = []
    for pod in pods:
        place = where[pod.uid]
        shape = (place, pod.cpu_millis, pod.memory_bytes)
        hosts = known.get(shape)
        if hosts is None:
            if place not in edges:
                edges[place] = _roomiest(area, place)
            hosts = known[shape] = _first_two(edges[place], pod)
        if not any(host != pod.node for host in hosts):
            found.append(pod)
    return found


def _first_two(edge: Iterable[tuple[str, Amounts]], pod: PodFacts) -> tuple[str, ...]:
    fitting = (name for name, free in edge if pod.cpu_millis <= free[0] and pod.memory_bytes <= free[1])
    return tuple(name for name, _ in zip(fitting, range(2), strict=False))


def _roomiest(area: _Map, place: Where) -> list[tuple[str, Amounts]]:
    """Return nodes of which one takes a pod if any does, whichever one node is left out.

    Those that no other node surpasses in CPU and memory, and those of the rest that none of the rest surpasses.
    """
    nodes = [(n, area.free[n]) for group in place for n in area.members.get(group, ()) if area.free[n][2] > 0]
    nodes.sort(key=lambda item: item[1][:2], reverse=True)
    found = []
    for _ in range(2):
        rest, most_memory = [], -1
        for item in nodes:
            if item[1][1] > most_memory:
                most_memory = item[1][1]
                found.append(item)
            else:
                rest.append(item)
        nodes = rest
    return found


def _shortages(area: _Map, drained: frozenset[str], max_unavailable: int) -> Iterator[Finding]:
    """Compare, for each set of places that pods ask for, what is set free with what is left.

    Pods whose places lie within a set cannot go elsewhere: their sum must fit into it. A node that is away takes its
    own free room with it, so the worst nodes are those with the most demand and free room together.
    """
    everywhere: Where = frozenset().union(*area.demand) if area.demand else frozenset()
    for place in sorted({*area.demand, everywhere}, key=lambda p: (len(p), sorted(p))):
        weights = _weights(area, place, drained)
        names = [n for group in place for n in area.members.get(group, ())]
        for i, resource in enumerate(_RESOURCES):
            total = sum(area.free[name][i] for name in names)
            worst = heapq.nlargest(max_unavailable, weights.items(), key=lambda item: item[1].gone(i))
            if sum(w.gone(i) for _, w in worst) <= total:
                continue
            # some demand is among it: free room alone never exceeds the total
            moved = sum(w.demand[i] for _, w in worst)
            left = total - sum(w.free[i] for _, w in worst)
            nodes = sorted(name for name, _ in worst)
            others = len(names) - len({*names} & {*nodes})
            yield NO_ROOM.found(
                f"with {few(nodes)} away, {_amount(i, moved)} {resource} are looked for and {_amount(i, left)} free on "
                f"the {others} other nodes these pods may run on (requests against allocatable, by taints and node "
                "selectors; affinity and spreading are not reckoned)",
                node=nodes[0] if len(nodes) == 1 else "",
            )


@dataclass(slots=True)
class _Weight:
    demand: list[int]
    free: Amounts = (0, 0, 0)

    def gone(self, resource: int) -> int:
        """Return what is looked for elsewhere, and no longer offered, while the node is away."""
        return self.demand[resource] + self.free[resource]


def _weights(area: _Map, place: Where, drained: frozenset[str]) -> dict[str, _Weight]:
    found: dict[str, _Weight] = {}
    for inner, by_node in area.demand.items():
        if not inner <= place:
            continue
        for node, sums in by_node.items():
            weight = found.setdefault(node, _Weight([0, 0, 0]))
            for i in range(3):
                weight.demand[i] += sums[i]
    for node in drained:
        if node in area.free and area.group_of[node] in place:
            found.setdefault(node, _Weight([0, 0, 0])).free = area.free[node]
    return found


def _amount(resource: int, value: int) -> str:
    if resource == 0:
        return f"{value / 1000:g}"
    return f"{value / 1024**3:.1f} GiB" if resource == 1 else str(value)


def _named(kind: FindingKind, pods: Sequence[PodFacts]) -> Iterator[Finding]:
    if not pods:
        return
    nodes = Counter(p.node for p in pods)
    many = "1 pod" if len(pods) == 1 else f"{len(pods)} pods"
    names = few(sorted(p.id for p in pods), 5)
    yield kind.found(f"{many} on {few(sorted(nodes))}: {names}", node=next(iter(nodes)) if len(nodes) == 1 else "")
