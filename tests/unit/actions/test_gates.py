"""Which workloads are waited for after a node is back, and what is said of them."""

from __future__ import annotations

import pytest

from kops_py.actions import gates
from kops_py.connect.base import JsonObject
from kops_py.model.actions import WaitWorkloads
from kops_py.model.errors import KubeError
from tests.fakes.kube import node, pod
from tests.unit.actions.stage import Stage, stage


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gates, "_SETTLE_POLL_S", 0.01)
    monkeypatch.setattr(gates, "_POLL_S", 0.01)


def workload(kind: str, name: str, there: int, wanted: int) -> JsonObject:
    counted = {"Deployment": "availableReplicas", "StatefulSet": "readyReplicas", "DaemonSet": "numberAvailable"}[kind]
    status = {counted: there, **({"desiredNumberScheduled": wanted} if kind == "DaemonSet" else {})}
    spec = {} if kind == "DaemonSet" else {"replicas": wanted}
    metadata = {"namespace": "shop", "name": name}
    return {"apiVersion": "apps/v1", "kind": kind, "metadata": metadata, "spec": spec, "status": status}


def wait(made: Stage) -> None:
    action = WaitWorkloads("n2")
    gates.wait_workloads(made.deps, made.ctx(action, "n2", timeout_s=0.1))


def test_only_what_became_short_in_the_run_is_waited_for_and_what_the_node_ran_comes_first() -> None:
    made = stage(1, 2, [node("n1"), node("n2"), node("n3")])
    for kind, name in (("Deployment", "api"), ("Deployment", "web"), ("StatefulSet", "db"), ("Deployment", "old")):
        made.kube.add(workload(kind, name, 1, 2))
    made.deps.short_before = frozenset({"Deployment shop/old"})
    made.deps.moved["n2"] = ("shop/web-5d4f-abcde", "shop/web-5d4f-fghij", "shop/db-1", "shop/web-admin-5d4f-abcde")
    with pytest.raises(KubeError) as caught:
        wait(made)
    assert caught.value.why.split("; ") == [
        "Deployment shop/web: 1 of 2 available (2 pods of it moved from n2)",
        "StatefulSet shop/db: 1 of 2 available (1 pod of it moved from n2)",
        "Deployment shop/api: 1 of 2 available",
    ]
    assert made.waits[0] == "Deployment shop/web: 1 of 2 available (2 pods of it moved from n2) (and 2 more)"
    for kind, name in (("Deployment", "api"), ("Deployment", "web"), ("StatefulSet", "db")):
        made.kube.add(workload(kind, name, 2, 2))
    wait(made)


def test_a_daemon_set_may_lack_its_pods_of_nodes_out_of_service_and_no_others() -> None:
    made = stage(1, 2, [node("n1"), node("n2"), node("n3")])
    made.kube.add(workload("DaemonSet", "log", 3, 3))
    wait(made)
    assert ("items", "/api/v1/nodes") not in made.kube.calls, "nodes were listed for nothing"
    made.kube.add(workload("DaemonSet", "log", 2, 3))
    with pytest.raises(KubeError, match="DaemonSet shop/log: 2 of 3 available"):
        wait(made)
    made.kube.change("/api/v1/nodes/n3", lambda n: n["spec"].update({"unschedulable": True}))
    wait(made)
    made.kube.add(workload("DaemonSet", "log", 1, 3))
    with pytest.raises(KubeError, match="DaemonSet shop/log: 1 of 2 available"):
        wait(made)


PROXY = "/api/v1/namespaces/kube-system/pods/kube-proxy-n1"
GENERATION = "deprecated.daemonset.template.generation"


def proxy_pod(generation: str, **metadata: str) -> JsonObject:
    made = pod("kube-proxy-n1", node="n1", labels={"k8s-app": "kube-proxy", "pod-template-generation": generation})
    made["metadata"].update(metadata)
    return made


def with_proxy(observed: int, *pods: JsonObject) -> Stage:
    made = stage(1, 1, [node("n1"), node("n2")])
    meta = {"namespace": "kube-system", "name": "kube-proxy", "generation": 2, "annotations": {GENERATION: "2"}}
    status = {"observedGeneration": observed}
    made.kube.add({"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": meta, "status": status})
    for each in pods:
        made.kube.add(each)
    return made


def wait_addons(made: Stage) -> None:
    action = WaitWorkloads("n1")
    gates.wait_addons(made.deps, "n1", made.ctx(action, "n1", timeout_s=0.1))


def test_the_newest_kube_proxy_of_this_node_is_waited_for_and_no_other_ones() -> None:
    made = with_proxy(2, proxy_pod("2"), pod("kube-proxy-n2", node="n2", labels={"pod-template-generation": "1"}))
    wait_addons(made)
    assert made.waits == []
    for observed, there, lacking in (
        (1, proxy_pod("1"), "kube-proxy: its rollout has not begun"),
        (2, proxy_pod("1"), "kube-proxy on n1: its pod is still the old one"),
        (2, proxy_pod("2", deletionTimestamp="2026-01-01T00:00:00Z"), "kube-proxy on n1: its pod is being deleted"),
        (2, None, "kube-proxy on n1: it has no pod"),
    ):
        with pytest.raises(KubeError) as caught:
            wait_addons(with_proxy(observed, *([there] if there else [])))
        assert caught.value.why == lacking


def test_a_rollout_that_takes_hours_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gates, "_PROXY_S", 0.0)
    made = with_proxy(2, proxy_pod("1"))
    dns = {"metadata": {"namespace": "kube-system", "name": "coredns"}, "spec": {"replicas": 1}, "status": {}}
    wait_addons(made)
    made.kube.add({"apiVersion": "apps/v1", "kind": "Deployment", **dns})
    with pytest.raises(KubeError, match="the add-ons are not rolled out"):
        wait_addons(made)


def test_a_kubelet_is_not_restarted_while_kube_proxy_ends_but_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    made = with_proxy(2, proxy_pod("1", deletionTimestamp="2026-01-01T00:00:00Z"))
    ctx = made.ctx(WaitWorkloads("n1"), "n1", timeout_s=5)
    path = "/api/v1/namespaces/kube-system/pods"
    made.kube.before("items", path, lambda: None)
    made.kube.before("items", path, lambda: made.kube.remove(PROXY))
    gates.wait_no_proxy_ending(made.deps, "n1", ctx)
    assert made.waits == ["kube-proxy on n1: its old pod is ending"]
    made.kube.add(proxy_pod("1", deletionTimestamp="2026-01-01T00:00:00Z"))
    monkeypatch.setattr(gates, "_ENDING_S", 0.0)
    gates.wait_no_proxy_ending(made.deps, "n1", ctx)
