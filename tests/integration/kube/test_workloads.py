"""Workloads and uses of old API versions, read from a real kube-apiserver."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from kops_py.connect.base import JsonObject, KubeApi
from kops_py.connect.kube import RestKubeApi
from kops_py.model.drain import DrainPolicy
from kops_py.model.version import Version
from kops_py.observe import shapes
from kops_py.observe.api_use import observe_api_use
from kops_py.observe.pods import pod_facts
from kops_py.observe.workloads import observe_workloads
from kops_py.runbooks.api_removals import api_findings
from kops_py.runbooks.disruption import disruption_findings

pytestmark = pytest.mark.bundle

SPACE = "/api/v1/namespaces/loads"
BUDGETS = "/apis/policy/v1beta1/namespaces/loads/poddisruptionbudgets"
OWNER = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web", "uid": "u", "controller": True}


def a_pod(name: str, node: str) -> JsonObject:
    container = {"name": "c", "image": "x", "resources": {"requests": {"cpu": "1500m", "memory": "1Gi"}}}
    metadata = {"name": name, "labels": {"app": "web"}, "ownerReferences": [OWNER]}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": metadata,
        "spec": {"nodeName": node, "containers": [container]},
    }


@pytest.fixture
def loads(api: KubeApi) -> Iterator[KubeApi]:
    """Three nodes of 4 CPUs, 40 pods on the first two, and a budget that the disruption controller has seen."""
    if api.get_or_none(SPACE) is None:
        api.create("/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "loads"}})
    nodes = ("ln1", "ln2", "ln3")
    for node in nodes:
        api.create("/api/v1/nodes", {"apiVersion": "v1", "kind": "Node", "metadata": {"name": node}})
        ready = {"type": "Ready", "status": "True", "reason": "KubeletReady"}
        status = {"allocatable": {"cpu": "4", "memory": "64Gi", "pods": "110"}, "conditions": [ready]}
        api.patch(f"/api/v1/nodes/{node}/status", {"status": status})
    for number in range(4):
        name = f"web-{number}"
        api.create(f"{SPACE}/pods", a_pod(name, nodes[number % 2]))
        running = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}
        api.patch(f"{SPACE}/pods/{name}/status", {"status": running})
    budget = {"metadata": {"name": "web"}, "spec": {"minAvailable": "76%", "selector": {"matchLabels": {"app": "web"}}}}
    api.create(BUDGETS, {"apiVersion": "policy/v1beta1", "kind": "PodDisruptionBudget", **budget})
    yield api
    for number in range(4):
        api.delete(f"{SPACE}/pods/web-{number}", body={"gracePeriodSeconds": 0})
    api.delete(f"{BUDGETS}/web")
    for node in nodes:
        api.delete(f"/api/v1/nodes/{node}")


def test_budgets_room_and_what_they_come_to(loads: KubeApi) -> None:
    api = loads
    seen = observe_workloads(api)
    mine = {p.name: p for p in seen.pods if p.namespace == "loads"}
    assert sorted(mine) == ["web-0", "web-1", "web-2", "web-3"]
    first = mine["web-0"]
    assert (first.node, first.cpu_millis, first.memory_bytes, first.ready) == ("ln1", 1500, 1 << 30, True)
    assert first.owner is not None
    assert seen.nodes["ln1"].cpu_millis == 4000
    (budget,) = (b for b in seen.budgets if b.namespace == "loads")
    assert (budget.rule, budget.observed) == ("minAvailable 76%", False)

    def judged() -> dict[str, str]:
        found = disruption_findings(observe_workloads(api), DrainPolicy(), ("ln1", "ln2"), 1)
        return {f.id: f.message for f in found}

    # nobody has reckoned the budget yet: 76 % of four are all four
    assert "4 must stay of 4 replicas" in judged()["budget-impossible"]
    generation = api.get(f"{BUDGETS}/web")["metadata"]["generation"]
    status = {
        "currentHealthy": 4,
        "desiredHealthy": 3,
        "expectedPods": 4,
        "disruptionsAllowed": 1,
        "observedGeneration": generation,
    }
    merge = "application/merge-patch+json"
    api.patch(f"{BUDGETS}/web/status", {"status": status}, content_type=merge)
    found = judged()
    assert "ln1 has 2 of its pods" in found["budget-slow"] or "ln2 has 2 of its pods" in found["budget-slow"]
    assert "budget-impossible" not in found
    assert "no-room" not in found  # 3 CPUs move, 4 and 1 are free
    api.patch("/api/v1/nodes/ln3", {"spec": {"unschedulable": True}})
    assert "4 pods on ln1, ln2" in judged()["pod-no-other-node"]  # 1.5 CPUs each, 1 is free


def test_pages_and_shapes_on_real_pods(loads: KubeApi, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens: list[Any] = []
    send = RestKubeApi._send

    def counting(self: RestKubeApi, method: str, path: str, **options: Any) -> Any:
        tokens.append((options.get("params") or {}).get("continue"))
        return send(self, method, path, **options)

    monkeypatch.setattr(RestKubeApi, "_send", counting)
    cut: list[JsonObject] = loads.fold(f"{SPACE}/pods", list, list.append, shape=shapes.Pod, page_size=3)
    assert tokens[0] is None
    assert tokens[1]
    assert len(tokens) == 2
    whole = list(loads.items(f"{SPACE}/pods"))
    assert [pod_facts(o) for o in cut] == [pod_facts(o) for o in whole]
    assert "managedFields" in whole[0]["metadata"]
    assert "managedFields" not in cut[0]["metadata"]


def crd(*versions: tuple[str, bool, bool]) -> JsonObject:
    schema = {"openAPIV3Schema": {"type": "object"}}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "things.example.org"},
        "spec": {
            "group": "example.org",
            "scope": "Cluster",
            "names": {"kind": "Thing", "plural": "things"},
            "versions": [{"name": n, "served": s, "storage": t, "schema": schema} for n, s, t in versions],
        },
    }


def test_uses_of_versions_that_go_away(api: KubeApi) -> None:
    backend = {"serviceName": "x", "servicePort": 80}
    path = "/apis/networking.k8s.io/v1beta1/namespaces/default/ingresses"
    ingress = {"apiVersion": "networking.k8s.io/v1beta1", "kind": "Ingress", "metadata": {"name": "old"}}
    api.create(path, {**ingress, "spec": {"backend": backend}})
    definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
    api.create(definitions, crd(("v1alpha1", True, True)))
    try:
        api.apply(crd(("v1alpha1", False, False), ("v1", True, True)))
        current, target = Version.parse("v1.20.2"), Version.parse("v1.22.0")
        use = observe_api_use(api, {"n1": api}, current, target)
        assert ("networking.k8s.io", "v1beta1", "ingresses", "1.22") in {
            (r.group, r.version, r.resource, r.removed_release) for r in use.requests
        }
        assert use.since.startswith("20")
        assert ("default/old", "networking.k8s.io") in {(w.object, w.api.group) for w in use.writers}
        assert [(d.name, d.unserved) for d in use.definitions] == [("things.example.org", ("v1alpha1",))]
        texts = {f.id: f.message for f in api_findings(use, current, target)}
        assert {"api-requested", "api-written", "crd-stored-version"} <= texts.keys()
        assert "default/old" in texts["api-written"]
    finally:
        api.delete(f"{path}/old")
        api.delete(f"{definitions}/things.example.org")
