"""Drains against a real API server; threads play the kubelet and the disruption controller."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from kops_py.actions.cordon import CordonState, cordon, finish, keep_reason, mark_of, uncordon
from kops_py.actions.drain import drain
from kops_py.connect.base import Cancel, KubeApi
from kops_py.connect.kube import connect_kube
from kops_py.engine.run import StepContext
from kops_py.model.cordon import stop_reason
from kops_py.model.drain import DrainPolicy
from kops_py.model.drain_report import DrainReport
from kops_py.model.errors import KubeError
from kops_py.model.event import Event, StepProgress
from kops_py.model.plan import Action, Step
from kops_py.observe.cluster import node_facts
from tests.fakes.workloads import Cluster, Kubelet
from tests.integration.kube.conftest import Connect
from tests.integration.kube.control_plane import ControlPlane

pytestmark = pytest.mark.bundle
numbers = itertools.count(1)
SELECTOR = {"matchLabels": {"app": "web"}}


@dataclass
class Access:
    """HasApi as the program has it: a connection that answers, or an error."""

    connect: Callable[[], KubeApi]
    current: KubeApi | None = None

    def api(self) -> KubeApi:
        if self.current is None or not self.current.is_ready(2.0):
            self.current = self.connect()
            if not self.current.is_ready(2.0):
                raise KubeError("the API server does not answer")
        return self.current


@dataclass
class Bed:
    """A namespace and a node on the server, and what is needed to drain the node."""

    plane: ControlPlane
    cluster: Cluster
    access: Access
    kubelet: Kubelet
    events: list[Event] = field(default_factory=list)

    def pods(self, count: int, **more: object) -> None:
        with ThreadPoolExecutor(16) as pool:
            list(pool.map(lambda n: self.cluster.pod(f"web-{n:03}", **more), range(count)))  # type: ignore[arg-type]

    def drain(self, timeout_s: float = 60.0, **policy: object) -> DrainReport:
        node = self.cluster.node
        ctx = StepContext(Step("drain", node, "drain", Action(), 120), Cancel(), self.emit, time.monotonic() + 120)
        return drain(self.access, node, DrainPolicy(timeout_s=timeout_s, **policy), ctx)  # type: ignore[arg-type]

    def emit(self, event: Event) -> None:
        self.events.append(event)

    @property
    def said(self) -> list[str]:
        return [e.message for e in self.events if isinstance(e, StepProgress)]

    def left(self) -> list[str]:
        params = {"fieldSelector": f"spec.nodeName={self.cluster.node}"}
        return [p["metadata"]["name"] for p in self.cluster.api.items("/api/v1/pods", params=params)]


@pytest.fixture
def bed(control_plane: ControlPlane, connect: Connect, tmp_path: Path) -> Iterator[Bed]:
    control_plane.wait_ready()
    config = control_plane.kubeconfig()
    cluster = Cluster.make(connect(config, timeout_s=30.0), f"drain-{next(numbers)}")

    def fresh() -> KubeApi:
        return connect_kube(config, server_override=None, work_dir=tmp_path, request_timeout_s=10.0)

    with Kubelet(connect(config, timeout_s=1.0), cluster.node) as kubelet:
        yield Bed(control_plane, cluster, Access(fresh), kubelet)


def test_a_hundred_pods(bed: Bed) -> None:
    bed.pods(100)
    bed.cluster.pod("agent", owner="DaemonSet")
    bed.cluster.pod("done", phase="Succeeded", owner=None)
    report = bed.drain()
    assert bed.left() == ["agent"]
    assert len(report.evicted) == 100
    assert report.deleted == (f"{bed.cluster.namespace}/done",)
    assert report.stayed == ((f"{bed.cluster.namespace}/agent", "DaemonSet"),)
    assert bed.kubelet.most > 5, "they ended side by side"
    assert report.duration_s < 20


def test_the_server_restarts_in_the_middle(bed: Bed) -> None:
    bed.pods(100)
    bed.cluster.budget("web", SELECTOR, allowed=40, healthy=100, desired=60)
    outcome: list[object] = []

    def work() -> None:
        try:
            outcome.append(bed.drain(timeout_s=90))
        except KubeError as error:
            outcome.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        bed.cluster.wait_for(lambda: len(bed.kubelet.ended) >= 20, "the first pods to end")
        bed.plane.stop(kill=True)
        assert thread.is_alive()
        time.sleep(1.5)  # the time a container's restart takes at least; the drain has to meet it
    finally:
        bed.plane.start()
        bed.plane.wait_ready()
    bed.cluster.set_budget("web", allowed=100, healthy=100, desired=0)
    thread.join(90)
    report = outcome[0]
    assert isinstance(report, DrainReport), report
    assert bed.left() == []
    assert len(report.evicted) + len(report.went) == 100


def test_a_budget_that_opens_after_a_while(bed: Bed) -> None:
    bed.pods(6)
    bed.cluster.pod("free", labels={"app": "free"})
    bed.cluster.budget("web", SELECTOR, allowed=2, healthy=6, desired=4)
    waiting = f"budget {bed.cluster.namespace}/web: needs 4 healthy, has 6 (pod {bed.cluster.namespace}/web-"

    def controller() -> None:
        bed.cluster.wait_for(lambda: any(s.startswith(waiting) for s in bed.said), "the wait to be told")
        bed.cluster.set_budget("web", allowed=100, healthy=6, desired=4)

    with ThreadPoolExecutor(1) as pool:
        played = pool.submit(controller)
        report = bed.drain()
        played.result()
    assert len(report.evicted) == 7
    assert bed.left() == []
    assert report.budgets_s[f"{bed.cluster.namespace}/web"] > 0
    assert report.waited_for_budgets_s > 0


def test_a_budget_that_never_opens(bed: Bed) -> None:
    bed.pods(3)
    bed.cluster.pod("free", labels={"app": "free"})
    bed.cluster.budget("web", SELECTOR, allowed=0, healthy=3, desired=3)
    begun = time.monotonic()
    with pytest.raises(KubeError) as caught:
        bed.drain(timeout_s=4)
    assert 4 <= time.monotonic() - begun < 8
    assert int(caught.value.code) == 11
    names = ", ".join(f"{bed.cluster.namespace}/web-00{n}" for n in range(3))
    assert caught.value.why == f"budget {bed.cluster.namespace}/web: needs 3 healthy, has 3: {names}"
    assert bed.left() == ["web-000", "web-001", "web-002"]
    assert bed.drain(disable_eviction=True).bypassed_budgets
    assert bed.left() == []


def test_a_budget_nobody_has_looked_at(bed: Bed) -> None:
    bed.pods(1)
    bed.cluster.budget("web", SELECTOR, allowed=None)
    with pytest.raises(KubeError, match="the cluster has not looked at its latest change yet"):
        bed.drain(timeout_s=2)


def test_two_budgets_on_one_pod(bed: Bed) -> None:
    bed.pods(1)
    for name in ("one", "two"):
        bed.cluster.budget(name, SELECTOR, allowed=5)
    begun = time.monotonic()
    with pytest.raises(KubeError) as caught:
        bed.drain()
    assert time.monotonic() - begun < 5
    space = bed.cluster.namespace
    assert f"{space}/web-000 is selected by more than one disruption budget ({space}/one, {space}/two)" in str(
        caught.value
    )
    assert bed.left() == ["web-000"]


def test_a_namespace_that_is_being_deleted(bed: Bed) -> None:
    """No namespace controller runs here: the test plays it, some time after the namespace began to end."""
    bed.pods(3)
    assert bed.cluster.api.delete(f"/api/v1/namespaces/{bed.cluster.namespace}")
    space = bed.cluster.namespace
    told = f"pod {space}/web-000: namespace {space} is being deleted"

    def controller() -> None:
        bed.cluster.wait_for(lambda: told in bed.said, "the wait to be told")
        for name in bed.left():
            bed.cluster.api.delete(f"{bed.cluster.pods}/{name}", body={"gracePeriodSeconds": 0})

    with ThreadPoolExecutor(1) as pool:
        played = pool.submit(controller)
        report = bed.drain(timeout_s=30)
        played.result()
    assert len(report.went) == 3
    assert bed.left() == []


def test_a_replaced_pod(bed: Bed) -> None:
    """The pod is replaced by one of its name, bound to the same node, between the look and the eviction."""
    first = bed.cluster.pod("web-0")
    second: list[str] = []
    api = bed.access.api()
    create = api.create

    def replace_first(path: str, body: dict[str, object], *, timeout_s: float | None = None) -> dict[str, object]:
        if not second:
            bed.cluster.api.delete(f"{bed.cluster.pods}/web-0", body={"gracePeriodSeconds": 0})
            second.append(bed.cluster.pod("web-0")["metadata"]["uid"])
        return create(path, body, timeout_s=timeout_s)

    api.create = replace_first  # type: ignore[method-assign]
    report = bed.drain()
    name = f"{bed.cluster.namespace}/web-0"
    assert second[0] != first["metadata"]["uid"]
    assert (report.went, report.evicted) == ((name,), (name,)), "the old one went, its successor was evicted as itself"
    assert bed.left() == []


def test_a_pod_held_by_a_finalizer(bed: Bed) -> None:
    bed.cluster.pod("held", finalizers=("example.com/hold",))
    with pytest.raises(KubeError, match=r"held by its finalizers example\.com/hold"):
        bed.drain(timeout_s=2)
    merge = "application/merge-patch+json"
    bed.cluster.api.patch(f"{bed.cluster.pods}/held", {"metadata": {"finalizers": None}}, content_type=merge)
    assert bed.drain().evicted == ()
    assert bed.left() == []


def test_volumes_are_waited_for(bed: Bed) -> None:
    cluster = bed.cluster
    for claim, pod, owner in (("data", "db-0", "StatefulSet"), ("cache", "agent", "DaemonSet")):
        volume = cluster.claimed_volume(claim)
        cluster.pod(pod, claims=(claim,), owner=owner)
        cluster.attachment(claim, volume)
    owed = f"/apis/storage.k8s.io/v1/volumeattachments/{cluster.namespace}-data"

    def controller() -> None:
        cluster.wait_for(lambda: any("volumes to be detached" in s for s in bed.said), "the wait to be told")
        cluster.api.delete(owed)

    with ThreadPoolExecutor(1) as pool:
        played = pool.submit(controller)
        report = bed.drain()
        played.result()
    assert report.waited_for_volumes_s > 0
    assert report.volumes_left == ()
    assert bed.left() == ["agent"]


def test_cordons_of_ours_and_of_others(bed: Bed) -> None:
    """The server's record of who set which field tells a person's second cordon from ours."""
    api, node = bed.cluster.api, bed.cluster.node
    path, merge = f"/api/v1/nodes/{node}", "application/merge-patch+json"
    assert cordon(api, node, by="ann@desk", run_id="t-upgrade-1").state is CordonState.CORDONED
    assert cordon(api, node, by="bob@desk", run_id="r2").state is CordonState.CORDONED_EARLIER
    keep_reason(api, node, "drain: a budget does not allow it")
    assert stop_reason(node_facts(api.get(path))) == "its upgrade stopped: drain: a budget does not allow it"
    assert cordon(api, node, by="bob@desk", run_id="t-upgrade-2").state is CordonState.CORDONED_EARLIER
    assert uncordon(api, node, unfinished=mark_of("bob@desk", "t-upgrade-2")).state is CordonState.UNCORDONED
    assert stop_reason(node_facts(api.get(path))) == "its upgrade has not come to its end"
    finish(api, node)
    assert "kops-py/unfinished" not in api.get(path)["metadata"].get("annotations", {})
    assert "unschedulable" not in api.get(path)["spec"]
    cordon(api, node, by="ann@desk", run_id="r3")
    api.patch(path, {"spec": {"unschedulable": None}}, content_type=merge)
    somebody = {"fieldManager": "kubectl-cordon"}
    api.patch(path, {"spec": {"unschedulable": True}}, content_type=merge, params=somebody)
    assert cordon(api, node, by="ann@desk", run_id="r4").state is CordonState.FOREIGN
    assert uncordon(api, node).state is CordonState.FOREIGN
    assert api.get(path)["spec"]["unschedulable"] is True
    assert "kops-py/cordoned" not in api.get(path)["metadata"].get("annotations", {})
