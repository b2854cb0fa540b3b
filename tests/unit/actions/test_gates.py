"""Which workloads are waited for after a node is back, and what is said of them."""

from __future__ import annotations

from functools import partial

import pytest

from kops_py.actions import gates
from kops_py.connect.base import JsonObject
from kops_py.model.actions import WaitWorkloads
from kops_py.model.errors import KubeError
from tests.fakes.kube import FakeKubeApi, node, pod
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


def rolled(updated: int, there: int, strategy: JsonObject) -> JsonObject:
    made = workload("DaemonSet", "log", there, 40)
    made["spec"]["updateStrategy"] = strategy
    made["status"]["updatedNumberScheduled"] = updated
    return made


def test_a_daemon_set_that_is_being_replaced_may_lack_what_it_allows_itself() -> None:
    made = stage(1, 2, [node("n1"), node("n2"), node("n3")])
    rolling: JsonObject = {"type": "RollingUpdate"}
    for updated, there, limits, lacking in (
        (17, 39, {}, ""),
        (17, 38, {}, "DaemonSet shop/log: 38 of 39 available"),
        (17, 30, {"maxUnavailable": "23%"}, ""),
        (17, 29, {"maxUnavailable": "23%"}, "DaemonSet shop/log: 29 of 30 available"),
        (40, 39, {}, "DaemonSet shop/log: 39 of 40 available"),
    ):
        made.kube.add(rolled(updated, there, {**rolling, **({"rollingUpdate": limits} if limits else {})}))
        found = gates.unavailable_workloads(made.kube)
        assert ": ".join(*found.items()) == lacking if lacking else found == {}
    made.kube.add(rolled(17, 39, {"type": "OnDelete"}))
    assert gates.unavailable_workloads(made.kube) == {"DaemonSet shop/log": "39 of 40 available"}


def test_neither_what_other_nodes_moved_nor_what_somebody_rolls_out_holds_a_node_up() -> None:
    made = stage(1, 2, [node("n1"), node("n2"), node("n3")])
    made.deps.moved = {"n2": ("shop/api-5d4f-abcde",), "n3": ("shop/db-1", "shop/api-5d4f-fghij")}
    made.kube.add(workload("StatefulSet", "db", 1, 2))
    rolled = workload("Deployment", "new", 1, 2)
    rolled["status"] |= {"replicas": 3, "updatedReplicas": 1}
    made.kube.add(rolled)
    unseen = workload("Deployment", "changed", 1, 2)
    unseen["metadata"]["generation"] = 2
    made.kube.add(unseen)
    wait(made)
    made.kube.add(workload("Deployment", "api", 1, 2))
    assert gates.short_workloads(made.deps, ("n2",)) == (
        "Deployment shop/api: 1 of 2 available (1 pod of it moved from n2)",
    )
    own = workload("Deployment", "dns", 1, 2)
    own["metadata"]["namespace"] = "kube-system"
    own["status"] |= {"replicas": 3, "updatedReplicas": 1}
    made.kube.add(own)
    assert "Deployment kube-system/dns: 1 of 2 available" in gates.short_workloads(made.deps, ("n2",))


def test_daemon_pods_that_were_broken_before_the_run_hold_no_node_up_but_those_of_the_system_do() -> None:
    found = []
    for namespace in ("shop", "kube-system"):
        made = pod("log-x", node="n2", ready=False)
        made["metadata"] |= {"namespace": namespace, "ownerReferences": [{"kind": "DaemonSet", "name": "log"}]}
        found.append(made)
    before = {"DaemonSet shop/log", "DaemonSet kube-system/log"}
    assert [p.partition(":")[0] for p in gates._daemon_problems(found, before)] == ["kube-system/log-x"]
    assert len(gates._daemon_problems(found, ())) == 2


LEASE = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases"


ELECTED = ("kube-controller-manager", "kube-scheduler")
NOBODY = tuple(f"{name}: nobody renews its lease" for name in ELECTED)


def add_leases(kube: FakeKubeApi) -> None:
    for name in ELECTED:
        metadata = {"namespace": "kube-system", "name": name}
        spec = {"holderIdentity": "n1", "renewTime": "2026-01-01T00:00:00.000000Z"}
        kube.add({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": metadata, "spec": spec})


def renew(kube: FakeKubeApi, name: str) -> None:
    kube.change(f"{LEASE}/{name}", lambda o: o["spec"].update(renewTime="2026-01-01T00:00:02.000000Z"))


def test_controllers_and_scheduler_are_at_work_when_their_leases_are_renewed_under_our_eyes() -> None:
    kube = FakeKubeApi()
    assert gates.LeaderGate().problems(kube) == (), "a version that has its leases elsewhere"
    add_leases(kube)
    gate = gates.LeaderGate()
    assert gate.problems(kube) == gate.problems(kube) == NOBODY
    renew(kube, "kube-scheduler")
    assert gate.problems(kube) == NOBODY[:1]
    renew(kube, "kube-controller-manager")
    assert gate.problems(kube) == ()
    kube.remove(f"{LEASE}/kube-scheduler")
    assert gate.problems(kube) == (), "what was seen stays seen"


def test_pods_are_moved_when_somebody_makes_them_anew_and_once_seen_it_is_not_asked_again() -> None:
    made = stage(1, 1, [node("n1"), node("n2")])
    ctx = made.ctx(WaitWorkloads("n2"), "n2", timeout_s=5)
    add_leases(made.kube)
    gates.wait_leaders(made.deps, "n2", ctx)
    assert made.waits == [], "there is nothing to move"
    assert not made.deps.led
    made.kube.add(pod("web-0", node="n2"))
    for name in reversed(ELECTED):
        made.kube.before("get", f"{LEASE}/{name}", lambda: None)
        made.kube.before("get", f"{LEASE}/{name}", partial(renew, made.kube, name))
    gates.wait_leaders(made.deps, "n2", ctx)
    assert made.waits == [f"{NOBODY[0]} (and 1 more)"]
    assert made.deps.led
    made.kube.before("get", f"{LEASE}/kube-scheduler", partial(pytest.fail, "it was seen already"))
    gates.wait_leaders(made.deps, "n2", ctx)


def test_pods_are_not_moved_where_nobody_would_make_them_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gates, "_LEADERS_S", 0.0)
    made = stage(1, 1, [node("n1"), node("n2"), pod("web-0", node="n2")])
    add_leases(made.kube)
    with pytest.raises(KubeError) as caught:
        gates.wait_leaders(made.deps, "n2", made.ctx(WaitWorkloads("n2"), "n2", timeout_s=5))
    assert caught.value.why == "; ".join(NOBODY)
    assert "--leader-elect=false" in caught.value.hint
    assert "nothing has moved" in caught.value.what


PROXY = "/api/v1/namespaces/kube-system/pods/kube-proxy-n1"


def test_pods_are_moved_when_kube_proxy_is_not_being_replaced_or_the_time_for_that_is_over() -> None:
    made = stage(1, 1, [node("n1"), node("n2")])
    ctx = made.ctx(WaitWorkloads("n2"), "n2", timeout_s=5)
    path = "/apis/apps/v1/namespaces/kube-system/daemonsets/kube-proxy"
    gates.wait_proxy_rollout(made.deps, "n2", ctx)
    proxy = workload("DaemonSet", "kube-proxy", 2, 2)
    proxy["metadata"] |= {"namespace": "kube-system", "generation": 2}
    proxy["spec"]["updateStrategy"] = {"type": "RollingUpdate"}
    proxy["status"] |= {"observedGeneration": 1, "updatedNumberScheduled": 2}
    made.kube.add(proxy)
    gates.wait_proxy_rollout(made.deps, "n2", ctx)
    assert made.waits == [], "there is nothing to move"
    made.kube.add(pod("web-0", node="n2"))
    made.kube.before("get", path, lambda: None)
    seen = {"observedGeneration": 2, "updatedNumberScheduled": 1}
    made.kube.before("get", path, lambda: made.kube.change(path, lambda o: o["status"].update(seen)))
    made.kube.before(
        "get", path, lambda: made.kube.change(path, lambda o: o["status"].update(updatedNumberScheduled=2))
    )
    gates.wait_proxy_rollout(made.deps, "n2", ctx)
    assert made.waits == [f"kube-proxy is being replaced: {n} of 2" for n in (2, 1)]
    made.kube.change(path, lambda o: o["status"].update(updatedNumberScheduled=1))
    made.deps.proxy_until_s = 0.0
    gates.wait_proxy_rollout(made.deps, "n2", ctx)
    assert len(made.waits) == 2


def ending_proxy() -> JsonObject:
    made = pod("kube-proxy-n1", node="n1", labels={"k8s-app": "kube-proxy"})
    made["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    return made


def test_a_kubelet_is_not_restarted_while_kube_proxy_ends_but_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    made = stage(1, 1, [node("n1"), node("n2")])
    made.kube.add(ending_proxy())
    ctx = made.ctx(WaitWorkloads("n1"), "n1", timeout_s=5)
    path = "/api/v1/namespaces/kube-system/pods"
    made.kube.before("items", path, lambda: None)
    made.kube.before("items", path, lambda: made.kube.remove(PROXY))
    gates.wait_no_proxy_ending(made.deps, "n1", ctx)
    assert made.waits == ["kube-proxy on n1: its old pod is ending"]
    made.kube.add(ending_proxy())
    monkeypatch.setattr(gates, "_ENDING_S", 0.0)
    gates.wait_no_proxy_ending(made.deps, "n1", ctx)
