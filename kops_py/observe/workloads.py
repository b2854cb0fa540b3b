"""What runs in the cluster, read page by page: at 150,000 pods nothing raw is kept."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from kops_py.connect.base import JsonObject, KubeApi
from kops_py.model.errors import KubeError
from kops_py.model.quantity import millis, whole
from kops_py.model.selectors import parse_label_selector
from kops_py.model.workloads import BudgetFacts, NodeCapacity, PodFacts, WorkloadFacts
from kops_py.observe import shapes
from kops_py.observe.pods import pod_facts

_HOSTNAME = "kubernetes.io/hostname"
_WANTED_AND_AVAILABLE: Mapping[str, Callable[[JsonObject], tuple[int, int]]] = MappingProxyType(
    {
        "deployments": lambda o: (_replicas(o), int(_status(o).get("availableReplicas") or 0)),
        "statefulsets": lambda o: (_replicas(o), int(_status(o).get("readyReplicas") or 0)),
        "daemonsets": lambda o: (
            int(_status(o).get("desiredNumberScheduled") or 0),
            int(_status(o).get("numberAvailable") or 0),
        ),
    }
)
_KINDS = {"deployments": "Deployment", "statefulsets": "StatefulSet", "daemonsets": "DaemonSet"}


def observe_workloads(api: KubeApi) -> WorkloadFacts:
    """Return pods, budgets, nodes and what is not available at this moment; raises KubeError.

    Budgets are read as policy/v1, and as policy/v1beta1 where the server has no other (before v1.21).
    """
    pods: list[PodFacts] = api.fold("/api/v1/pods", list, lambda into, o: into.append(pod_facts(o)), shape=shapes.Pod)
    nodes: dict[str, NodeCapacity] = api.fold(
        "/api/v1/nodes",
        dict,
        lambda into, o: into.update({o["metadata"]["name"]: node_capacity(o)}),
        shape=shapes.Node,
    )
    claims: dict[str, frozenset[str]] = api.fold("/api/v1/persistentvolumes", dict, _take_volume)
    return WorkloadFacts(
        pods=tuple(pods),
        budgets=observe_budgets(api),
        nodes=MappingProxyType(nodes),
        local_claims=MappingProxyType(claims),
        unavailable=observe_unavailable(api),
    )


def observe_budgets(api: KubeApi) -> tuple[BudgetFacts, ...]:
    """Return all PodDisruptionBudgets; raises KubeError."""
    budgets: list[BudgetFacts]
    try:
        budgets = api.fold("/apis/policy/v1/poddisruptionbudgets", list, lambda into, o: into.append(budget_facts(o)))
    except KubeError as error:
        if error.status != 404:
            raise
        budgets = api.fold(
            "/apis/policy/v1beta1/poddisruptionbudgets",
            list,
            lambda into, o: into.append(budget_facts(o, empty_fits_all=False)),
        )
    return tuple(budgets)


def observe_unavailable(api: KubeApi) -> tuple[str, ...]:
    """Name the Deployments, StatefulSets and DaemonSets that have fewer available pods than they want.

    Raises KubeError.
    """
    found: list[str] = []
    for plural, counts in _WANTED_AND_AVAILABLE.items():

        def take(into: list[str], item: JsonObject, plural: str = plural, counts: Any = counts) -> None:
            if problem := _unavailable(item, _KINDS[plural], *counts(item)):
                into.append(problem)

        more: list[str] = api.fold(f"/apis/apps/v1/{plural}", list, take, shape=shapes.Workload)
        found += more
    return tuple(sorted(found))


def budget_facts(obj: JsonObject, *, empty_fits_all: bool = True) -> BudgetFacts:
    """Return the facts of a PodDisruptionBudget; ``empty_fits_all`` is policy/v1's rule, not policy/v1beta1's.

    Raises ValueError for a selector that no API server would have taken.
    """
    metadata, spec, status = obj["metadata"], obj.get("spec") or {}, obj.get("status") or {}
    selector = spec.get("selector")
    terms = None if selector is None else parse_label_selector(selector)
    return BudgetFacts(
        namespace=sys.intern(metadata["namespace"]),
        name=metadata["name"],
        selector=terms if terms or empty_fits_all else None,
        min_available=spec.get("minAvailable"),
        max_unavailable=spec.get("maxUnavailable"),
        always_allow_unhealthy=spec.get("unhealthyPodEvictionPolicy") == "AlwaysAllow",
        current_healthy=int(status.get("currentHealthy") or 0),
        desired_healthy=int(status.get("desiredHealthy") or 0),
        expected_pods=int(status.get("expectedPods") or 0),
        disruptions_allowed=int(status.get("disruptionsAllowed") or 0),
        observed=int(status.get("observedGeneration") or 0) >= int(metadata.get("generation") or 0),
        sync_failure=next(
            (
                str(c.get("message") or "the controller gives no reason")
                for c in status.get("conditions") or ()
                if c.get("type") == "DisruptionAllowed" and c.get("reason") == "SyncFailed"
            ),
            "",
        ),
    )


def node_capacity(obj: JsonObject) -> NodeCapacity:
    """Return what the scheduler knows of a Node; raises ValueError when an amount is not a quantity."""
    metadata, spec, status = obj["metadata"], obj.get("spec") or {}, obj.get("status") or {}
    amounts = status.get("allocatable") or {}
    return NodeCapacity(
        name=sys.intern(metadata["name"]),
        cpu_millis=millis(str(amounts.get("cpu") or "0")),
        memory_bytes=whole(str(amounts.get("memory") or "0")),
        pods=whole(str(amounts.get("pods") or "0")),
        labels=MappingProxyType(dict(metadata.get("labels") or {})),
        taints=tuple((t["key"], t.get("value") or "", t["effect"]) for t in spec.get("taints") or ()),
        ready=any(c.get("type") == "Ready" and c.get("status") == "True" for c in status.get("conditions") or ()),
        unschedulable=bool(spec.get("unschedulable")),
    )


def _take_volume(into: dict[str, frozenset[str]], volume: JsonObject) -> None:
    """Note the claim of a volume that only the hosts named by its node affinity have."""
    spec = volume.get("spec") or {}
    claim = spec.get("claimRef") or {}
    hosts = _hosts_of((((spec.get("nodeAffinity") or {}).get("required") or {}).get("nodeSelectorTerms")) or [])
    if claim.get("name") and hosts:
        into[f"{claim.get('namespace')}/{claim['name']}"] = hosts


def _hosts_of(terms: list[JsonObject]) -> frozenset[str]:
    """Return the host names that terms joined by OR allow; empty when one of them names no host."""
    found: set[str] = set()
    for term in terms:
        named = [
            e.get("values") or ()
            for e in term.get("matchExpressions") or ()
            if e.get("key") == _HOSTNAME and e.get("operator") == "In"
        ]
        if not named:
            return frozenset()
        found.update(*named)
    return frozenset(found)


def _unavailable(item: JsonObject, kind: str, wanted: int, available: int) -> str:
    metadata = item["metadata"]
    if available >= wanted:
        return ""
    return f"{kind} {metadata['namespace']}/{metadata['name']} has {available} of {wanted} pods available"


def _replicas(item: JsonObject) -> int:
    wanted = (item.get("spec") or {}).get("replicas")
    return 1 if wanted is None else int(wanted)


def _status(item: JsonObject) -> JsonObject:
    status: JsonObject = item.get("status") or {}
    return status
