"""Which workloads are waited for after a node is back, and what is said of them."""

from __future__ import annotations

import pytest

from kops_py.actions import gates
from kops_py.connect.base import JsonObject
from kops_py.model.actions import WaitWorkloads
from kops_py.model.errors import KubeError
from tests.fakes.kube import node
from tests.unit.actions.stage import Stage, stage


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gates, "_SETTLE_POLL_S", 0.01)


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
