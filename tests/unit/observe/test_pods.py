"""Pods reduced to facts."""

from __future__ import annotations

from typing import Any

import pytest

from kops_py.connect.base import JsonObject
from kops_py.model.workloads import Owner, PodPhase
from kops_py.observe.pods import pod_facts, pods_on_node
from tests.fakes.kube import FakeKubeApi


def a_pod(**spec: Any) -> JsonObject:
    return {"metadata": {"namespace": "shop", "name": "web-0", "uid": "u1"}, "spec": spec}


def container(cpu: str | None = None, memory: str | None = None, **more: Any) -> JsonObject:
    requests = {k: v for k, v in (("cpu", cpu), ("memory", memory)) if v is not None}
    return {"name": "c", "resources": {"requests": requests}, **more}


def test_a_full_pod() -> None:
    facts = pod_facts(
        {
            "metadata": {
                "namespace": "shop",
                "name": "web-0",
                "uid": "u1",
                "labels": {"app": "web"},
                "deletionTimestamp": "2026-01-02T03:04:05Z",
                "ownerReferences": [
                    {"kind": "ConfigMap", "name": "x", "apiVersion": "v1"},
                    {"kind": "StatefulSet", "name": "web", "apiVersion": "apps/v1", "controller": True},
                ],
            },
            "spec": {
                "nodeName": "w1",
                "nodeSelector": {"disk": "ssd"},
                "tolerations": [{"operator": "Exists"}, {"key": "gpu", "value": "a", "effect": "NoSchedule"}],
                "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"x": []}}},
                "containers": [container("250m", "1Gi"), container("1")],
                "overhead": {"cpu": "50m"},
                "volumes": [
                    {"name": "a", "persistentVolumeClaim": {"claimName": "data-web-0"}},
                    {"name": "b", "emptyDir": {}},
                    {"name": "c", "hostPath": {"path": "/x"}},
                    {"name": "scratch", "ephemeral": {"volumeClaimTemplate": {}}},
                ],
            },
            "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]},
        }
    )
    assert (facts.id, facts.uid, facts.node, facts.phase) == ("shop/web-0", "u1", "w1", PodPhase.RUNNING)
    assert facts.ready
    assert facts.owner == Owner("StatefulSet", "web", "apps/v1")
    assert facts.deleting_since == "2026-01-02T03:04:05Z"
    assert facts.labels == {"app": "web"}
    assert facts.empty_dir
    assert facts.host_path
    assert facts.claims == ("data-web-0", "web-0-scratch")
    assert (facts.cpu_millis, facts.memory_bytes) == (1300, 1 << 30)
    assert facts.node_selector == {"disk": "ssd"}
    assert facts.tolerations == (("", "Exists", "", ""), ("gpu", "", "a", "NoSchedule"))
    assert facts.has_node_affinity
    assert not facts.mirror
    with pytest.raises(TypeError):
        facts.labels["app"] = "other"  # type: ignore[index]


def test_the_least_a_pod_can_have() -> None:
    facts = pod_facts({"metadata": {"namespace": "a", "name": "b", "uid": "c"}})
    assert facts.phase is PodPhase.UNKNOWN
    assert facts.owner is None
    assert (facts.node, facts.deleting_since, facts.claims, facts.tolerations) == ("", "", (), ())
    flags = (facts.ready, facts.empty_dir, facts.host_path, facts.has_node_affinity, facts.finished, facts.mirror)
    assert not any(flags)
    assert (facts.cpu_millis, facts.memory_bytes) == (0, 0)


def test_null_where_a_server_may_write_it() -> None:
    empty: JsonObject = {"metadata": {"namespace": "a", "name": "b", "uid": "c", "labels": None, "annotations": None}}
    empty["spec"] = {"volumes": None, "tolerations": None, "containers": None, "affinity": None, "resources": None}
    empty["status"] = {"conditions": None, "phase": "Strange"}
    assert pod_facts(empty).phase is PodPhase.UNKNOWN


def test_a_mirror_pod() -> None:
    item = a_pod()
    item["metadata"]["annotations"] = {"kubernetes.io/config.mirror": "hash"}
    item["metadata"]["ownerReferences"] = [{"kind": "Node", "name": "cp1", "apiVersion": "v1", "controller": True}]
    assert pod_facts(item).mirror
    assert pod_facts(item).owner == Owner("Node", "cp1", "v1")


@pytest.mark.parametrize(
    ("spec", "millis"),
    [
        ({"containers": [container("100m"), container("200m")]}, 300),
        ({"containers": [container("100m")], "initContainers": [container("1"), container("500m")]}, 1000),
        ({"containers": [container("2")], "initContainers": [container("1")]}, 2000),
        ({"containers": [container("1")], "initContainers": [container("1", restartPolicy="Always")]}, 2000),
        (
            {
                "containers": [container("1")],
                "initContainers": [container("1", restartPolicy="Always"), container("3")],
            },
            4000,
        ),
        (
            {
                "containers": [container("1")],
                "initContainers": [container("3"), container("1", restartPolicy="Always")],
            },
            3000,
        ),
        ({"containers": [container("1")], "resources": {"requests": {"cpu": "3"}}, "overhead": {"cpu": "1"}}, 4000),
        ({"containers": [{"name": "c"}, {"name": "d", "resources": {"requests": None}}]}, 0),
    ],
)
def test_requested_cpu(spec: dict[str, Any], millis: int) -> None:
    assert pod_facts(a_pod(**spec)).cpu_millis == millis


def test_what_replicas_have_in_common_is_held_once() -> None:
    def replica(number: int) -> JsonObject:
        item = a_pod(tolerations=[{"key": "a", "operator": "Exists"}], nodeName="w1")
        item["metadata"] = {**item["metadata"], "name": f"web-{number}", "labels": {"app": "web"}}
        item["metadata"]["ownerReferences"] = [{"kind": "ReplicaSet", "name": "web", "controller": True}]
        return item

    first, second = pod_facts(replica(1)), pod_facts(replica(2))
    assert first.labels is second.labels
    assert first.tolerations is second.tolerations
    assert first.owner is second.owner


def test_only_the_pods_of_the_node_are_read() -> None:
    api = FakeKubeApi()
    for name, node, app in (("a", "w1", "web"), ("b", "w2", "web"), ("c", "w1", "db"), ("d", "", "web")):
        item = a_pod(**({"nodeName": node} if node else {}))
        item["metadata"] = {"namespace": "shop", "name": name, "labels": {"app": app}}
        api.add({"kind": "Pod", **item})
    assert [p.name for p in pods_on_node(api, "w1")] == ["a", "c"]
    assert [p.name for p in pods_on_node(api, "w1", pod_selector="app=db")] == ["c"]
    api.assert_clean()
