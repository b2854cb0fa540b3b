"""A quiet cluster to be drained, from which each test changes one thing."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

from kops_py.model.drain import DrainPolicy
from kops_py.model.finding import Finding
from kops_py.model.selectors import parse_selector
from kops_py.model.workloads import BudgetFacts, NodeCapacity, Owner, PodFacts, PodPhase, WorkloadFacts
from kops_py.runbooks.disruption import disruption_findings

GIB = 1024**3
_NUMBERS = itertools.count(1)
APP = MappingProxyType({"app": "web"})


def a_pod(node: str = "w1", name: str = "", **changes: Any) -> PodFacts:
    number = next(_NUMBERS)
    fields: dict[str, Any] = {
        "namespace": "shop",
        "name": name or f"web-{number}",
        "uid": f"u{number}",
        "node": node,
        "phase": PodPhase.RUNNING,
        "ready": True,
        "owner": Owner("ReplicaSet", "web", "apps/v1"),
        "labels": APP,
        "cpu_millis": 100,
        "memory_bytes": GIB // 8,
    }
    return PodFacts(**{**fields, **changes})


def a_budget(name: str = "web", selector: str | None = "app=web", **changes: Any) -> BudgetFacts:
    fields: dict[str, Any] = {
        "min_available": 1,
        "current_healthy": 2,
        "desired_healthy": 1,
        "expected_pods": 2,
        "disruptions_allowed": 1,
    }
    terms = None if selector is None else parse_selector(selector)
    return BudgetFacts("shop", name, terms, **{**fields, **changes})


def a_node(name: str, **changes: Any) -> NodeCapacity:
    fields: dict[str, Any] = {
        "cpu_millis": 4000,
        "memory_bytes": 8 * GIB,
        "pods": 110,
        "labels": MappingProxyType({"kubernetes.io/hostname": name}),
    }
    return NodeCapacity(name, **{**fields, **changes})


def cluster(
    pods: Iterable[PodFacts],
    budgets: Iterable[BudgetFacts] = (),
    nodes: Iterable[NodeCapacity] | None = None,
    claims: Mapping[str, frozenset[str]] | None = None,
    unavailable: tuple[str, ...] = (),
) -> WorkloadFacts:
    found = list(nodes) if nodes is not None else [a_node("w1"), a_node("w2"), a_node("w3")]
    return WorkloadFacts(tuple(pods), tuple(budgets), {n.name: n for n in found}, claims or {}, unavailable)


def find(workloads: WorkloadFacts, *drained: str, at_once: int = 1, policy: DrainPolicy | None = None) -> list[Finding]:
    return list(disruption_findings(workloads, policy or DrainPolicy(), drained or ("w1",), at_once))


def ids(findings: Iterable[Finding]) -> list[str]:
    return [f.id for f in findings]
