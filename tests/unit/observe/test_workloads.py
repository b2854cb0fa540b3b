"""Workloads read from the API: budgets, capacity, volumes, what is not available."""

from __future__ import annotations

from typing import Any

import pytest

from kops_py.connect.base import JsonObject
from kops_py.model.errors import KubeError
from kops_py.model.selectors import parse_selector
from kops_py.observe.workloads import budget_facts, node_capacity, observe_budgets, observe_workloads
from tests.fakes.kube import FakeKubeApi, node, pod


def budget(name: str = "web", *, generation: int = 2, status: JsonObject | None = None, **spec: Any) -> JsonObject:
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": {"name": name, "namespace": "shop", "generation": generation},
        "spec": {"selector": {"matchLabels": {"app": "web"}}, **spec},
        "status": {"observedGeneration": 2, **(status or {})},
    }


def workload(kind: str, name: str, spec: JsonObject, status: JsonObject) -> JsonObject:
    metadata = {"name": name, "namespace": "shop"}
    return {"apiVersion": "apps/v1", "kind": kind, "metadata": metadata, "spec": spec, "status": status}


def volume(name: str, claim: str, *terms: list[JsonObject]) -> JsonObject:
    spec: JsonObject = {"local": {"path": "/x"}}
    if claim:
        spec["claimRef"] = {"namespace": "shop", "name": claim}
    if terms:
        spec["nodeAffinity"] = {"required": {"nodeSelectorTerms": [{"matchExpressions": t} for t in terms]}}
    return {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name}, "spec": spec}


def on(*hosts: str) -> list[JsonObject]:
    return [{"key": "kubernetes.io/hostname", "operator": "In", "values": list(hosts)}]


def test_everything_at_once() -> None:
    full = node("w1")
    full["status"]["allocatable"] = {"cpu": "3920m", "memory": "8Gi", "pods": "110"}
    full["spec"]["taints"] = [{"key": "gpu", "value": "yes", "effect": "NoSchedule"}]
    full["spec"]["unschedulable"] = True
    api = FakeKubeApi(
        [
            full,
            node("w2", ready=False),
            pod("a", node="w1"),
            pod("b", node="w2"),
            budget(minAvailable="50%", status={"currentHealthy": 3, "desiredHealthy": 2, "expectedPods": 4}),
            volume("v1", "one", on("w1")),
            volume("v2", "two", on("w1"), on("w2")),
            volume("v3", "zonal", on("w1"), [{"key": "zone", "operator": "In", "values": ["a"]}]),
            volume("v4", "", on("w1")),
            volume("v5", "anywhere"),
            workload("Deployment", "web", {"replicas": 3}, {"availableReplicas": 2}),
            workload("Deployment", "ok", {}, {"availableReplicas": 1}),
            workload("StatefulSet", "db", {"replicas": 1}, {}),
            workload("DaemonSet", "agent", {}, {"desiredNumberScheduled": 2, "numberAvailable": 2}),
        ]
    )
    found = observe_workloads(api)
    assert [p.name for p in found.pods] == ["a", "b"]
    first = found.nodes["w1"]
    assert (first.cpu_millis, first.memory_bytes, first.pods) == (3920, 8 << 30, 110)
    assert first.taints == (("gpu", "yes", "NoSchedule"),)
    assert (first.ready, first.unschedulable) == (True, True)
    assert (found.nodes["w2"].ready, found.nodes["w2"].pods) == (False, 0)
    assert found.local_claims == {"shop/one": {"w1"}, "shop/two": {"w1", "w2"}}
    assert found.unavailable == (
        "Deployment shop/web has 2 of 3 pods available",
        "StatefulSet shop/db has 0 of 1 pods available",
    )
    (rule,) = found.budgets
    assert (rule.id, rule.min_available, rule.rule) == ("shop/web", "50%", "minAvailable 50%")
    assert (rule.current_healthy, rule.desired_healthy, rule.expected_pods) == (3, 2, 4)
    assert rule.observed
    assert rule.selector == parse_selector("app=web")
    api.assert_clean()


def test_a_budget_not_observed_and_one_that_fails() -> None:
    assert not budget_facts(budget(generation=3)).observed
    failing = {"type": "DisruptionAllowed", "status": "False", "reason": "SyncFailed", "message": "no controller"}
    assert budget_facts(budget(status={"conditions": [failing]})).sync_failure == "no controller"
    fine = {**failing, "reason": "InsufficientPods"}
    assert budget_facts(budget(status={"conditions": [fine]})).sync_failure == ""
    assert budget_facts(budget(unhealthyPodEvictionPolicy="AlwaysAllow")).always_allow_unhealthy
    assert not budget_facts(budget(unhealthyPodEvictionPolicy="IfHealthyBudget")).always_allow_unhealthy


def test_the_empty_selector_is_read_by_its_version() -> None:
    empty = budget(selector={})
    assert budget_facts(empty).selector == ()
    assert budget_facts(empty, empty_fits_all=False).selector is None
    assert budget_facts(budget(selector=None)).selector is None


def test_old_servers_are_asked_in_the_old_version() -> None:
    api = FakeKubeApi([budget(selector={})], version="v1.20.2")
    (found,) = observe_budgets(api)
    assert found.selector is None
    api.fail("items", "/apis/policy/v1/", KubeError("no", status=403))
    with pytest.raises(KubeError):
        observe_budgets(api)


def test_a_list_forgotten_half_way_is_not_counted_twice() -> None:
    api = FakeKubeApi([node("w1"), pod("a", node="w1")])
    api.fail("items", "/api/v1/pods", KubeError("gone", status=410))
    assert [p.name for p in observe_workloads(api).pods] == ["a"]


def test_a_node_that_has_reported_nothing() -> None:
    found = node_capacity({"metadata": {"name": "w1"}})
    assert (found.cpu_millis, found.pods, found.ready, found.labels) == (0, 0, False, {})
