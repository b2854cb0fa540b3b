"""A drain from its first look to its report, over the strict fake."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from kops_py.actions import drain as drain_module
from kops_py.actions import drain_roster
from kops_py.actions.drain import drain
from kops_py.connect.base import Cancel, JsonObject, KubeApi
from kops_py.engine.run import StepContext
from kops_py.model.drain import DrainGroup, DrainPolicy
from kops_py.model.drain_report import DrainReport
from kops_py.model.errors import CancelledError, ConfigError, ExitCode, KubeError
from kops_py.model.event import Event, StepProgress
from kops_py.model.plan import Action, Step
from tests.fakes.kube import FakeKubeApi
from tests.fakes.workloads import Cluster

DOWN = KubeError("the Kubernetes API does not answer", why="connection refused")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_FIRST_POLL_S", "_POLL_S", "_MANY_POLL_S", "_VOLUMES_POLL_S", "_SLICE_S"):
        monkeypatch.setattr(drain_module, name, 0.01)
    monkeypatch.setattr(drain_module, "_KUBELET_POLL_S", 0.02)
    monkeypatch.setattr(drain_module, "_KUBELET_SILENT_S", 0.2)
    for name in ("FIRST_PAUSE_S", "LONGEST_PAUSE_S"):
        monkeypatch.setattr(drain_roster, name, 0.03)


@dataclass
class Scene:
    """A node to drain; ``other`` connections are what the source gives after the first."""

    api: FakeKubeApi
    shop: Cluster
    cancel: Cancel = field(default_factory=Cancel)
    events: list[Event] = field(default_factory=list)
    asked: int = 0
    refuse: list[KubeError] = field(default_factory=list)

    def api_source(self) -> KubeApi:
        self.asked += 1
        if self.asked > 1 and self.refuse:
            raise self.refuse.pop(0)
        return self.api

    def drain(
        self, *, step_s: float = 30.0, stuck: Callable[[Any, float], None] = lambda *_: None, **policy: object
    ) -> DrainReport:
        settings = DrainPolicy(**{"timeout_s": 20.0, **policy})  # type: ignore[arg-type]
        step = Step(f"drain/{self.shop.node}", self.shop.node, "drain", Action(), step_s)
        ctx = StepContext(step, self.cancel, self.events.append, time.monotonic() + step_s)
        return drain(Source(self.api_source), self.shop.node, settings, ctx, stuck=stuck)

    @property
    def said(self) -> list[str]:
        return [e.message for e in self.events if isinstance(e, StepProgress)]

    def there(self) -> list[str]:
        return sorted(p["metadata"]["name"] for p in self.api.items("/api/v1/pods"))

    def evicted_names(self) -> list[str]:
        return [path.split("/")[-2] for verb, path in self.api.calls if verb == "create" and path.endswith("/eviction")]

    def fails(self, **policy: Any) -> KubeError:
        with pytest.raises(KubeError) as caught:
            self.drain(**policy)
        assert caught.value.code is ExitCode.KUBERNETES
        return caught.value


@dataclass
class Source:
    """HasApi."""

    give: Callable[[], KubeApi]

    def api(self) -> KubeApi:
        return self.give()


@pytest.fixture
def scene() -> Iterator[Scene]:
    api = FakeKubeApi()
    made = Scene(api, Cluster.make(api, "shop"))
    api.pod_lists_until_gone = 1
    yield made
    api.assert_clean()


def test_the_caller_is_told_when_budgets_alone_have_held_it_for_a_while(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drain_module, "_STUCK_S", 0.1)
    scene.shop.pod("web-0")
    scene.shop.pod("free", labels={"app": "free"})
    scene.shop.budget("web", {"matchLabels": {"app": "web"}}, allowed=0, healthy=1, desired=1)
    told: list[tuple[set[str], bool]] = []

    def stuck(namespaces: set[str], until: float) -> None:
        told.append((namespaces, 0 < until - time.monotonic() <= 20))
        if len(told) == 2:
            scene.shop.set_budget("web", allowed=1, healthy=2, desired=1)

    begun = time.monotonic()
    report = scene.drain(stuck=stuck)
    assert told == [({"shop"}, True)] * 2
    assert time.monotonic() - begun >= 0.2
    assert report.evicted == ("shop/free", "shop/web-0")


def test_a_drain_whose_pods_end_is_not_stuck(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is held waits for another that ends: that may be what its budget waits for."""
    monkeypatch.setattr(drain_module, "_STUCK_S", 0.0)
    scene.api.pod_lists_until_gone = 10
    scene.shop.pod("web-0")
    scene.drain(stuck=lambda *_: pytest.fail("nothing holds it"))


def test_what_goes_and_what_stays(scene: Scene) -> None:
    shop = scene.shop
    for name in ("web-0", "web-1"):
        shop.pod(name)
    shop.pod("agent", owner="DaemonSet")
    shop.pod("elsewhere", node="other")
    shop.pod("done", phase="Succeeded")
    shop.pod("lonely-done", phase="Failed", owner=None)
    shop.pod("done-agent", phase="Failed", owner="DaemonSet")
    mirror = shop.pod("etcd", owner="Node")
    mirror["metadata"]["annotations"] = {"kubernetes.io/config.mirror": "x"}
    scene.api.add(mirror)
    report = scene.drain()
    assert scene.there() == ["agent", "elsewhere", "etcd"]
    assert report.evicted == ("shop/web-0", "shop/web-1")
    assert report.deleted == ("shop/done", "shop/done-agent", "shop/lonely-done")
    assert report.stayed == (("shop/agent", "DaemonSet"), ("shop/etcd", "static pod"))
    assert not report.bypasses
    assert report.duration_s > 0
    assert sorted(scene.evicted_names()) == ["web-0", "web-1"]
    assert report.to_json()["stayed"][0] == {"pod": "shop/agent", "why": "DaemonSet"}
    assert "pods: 2 evicted, 3 deleted, 2 stayed" in report.summary()


def test_an_empty_node_and_one_that_is_not_there(scene: Scene) -> None:
    assert scene.drain().evicted == ()
    scene.api.remove(f"/api/v1/nodes/{scene.shop.node}")
    assert scene.drain().evicted == ()
    assert scene.api.bodies == []


def test_what_is_gone_is_read_from_etcd_in_the_end(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache that does not show a pod any more is not believed."""
    scene.shop.pod("web-0")
    items, versions = scene.api.items, []

    def listing(path: str, **more: object) -> Iterator[JsonObject]:
        params = dict(more.get("params") or {})  # type: ignore[call-overload]
        found = list(items(path, **more))  # type: ignore[arg-type]
        if path == "/api/v1/pods":
            versions.append(params.get("resourceVersion"))
            if params.get("resourceVersion") == "0" and versions.count(None) < 2:
                return iter([])
        return iter(found)

    monkeypatch.setattr(scene.api, "items", listing)
    scene.api.pod_lists_until_gone = 4
    scene.drain()
    assert versions[0] is None
    assert versions[1:3] == ["0", None], "the cache said gone, etcd did not"
    assert versions[-1] is None


def test_refusals_are_gathered_before_anything_is_evicted(scene: Scene) -> None:
    shop = scene.shop
    shop.pod("fine")
    shop.pod("done", phase="Succeeded")
    shop.pod("alone", owner=None)
    shop.pod("scratch", empty_dir=True)
    shop.pod("both", owner=None, empty_dir=True)
    before = scene.api.writes()
    error = scene.fails()
    assert scene.api.writes() == before
    assert "3 pods may not be removed" in error.what
    assert "nothing was evicted" in error.what
    assert "emptyDir data would be lost: shop/both, shop/scratch (setting delete_empty_dir_data" in error.why
    assert "no controller, nothing would start them again: shop/alone, shop/both (setting force" in error.why
    report = scene.drain(force=True, delete_empty_dir_data=True)
    assert report.without_controller == ("shop/alone", "shop/both")
    assert report.lost_empty_dirs == ("shop/both", "shop/scratch")
    assert len(report.bypasses) == 2
    assert scene.there() == []


def test_a_refused_pod_that_ends_by_itself_is_waited_for(scene: Scene) -> None:
    scene.shop.pod("alone", owner=None)
    scene.api.delete(f"{scene.shop.pods}/alone")
    report = scene.drain()
    assert report.went == ("shop/alone",)
    assert scene.evicted_names() == []


def test_the_pod_selector(scene: Scene) -> None:
    scene.shop.pod("web-0")
    scene.shop.pod("db-0", labels={"app": "db"}, owner=None)
    assert scene.drain(pod_selector="app notin (db)").evicted == ("shop/web-0",)
    assert scene.there() == ["db-0"]
    with pytest.raises(ConfigError, match="is not understood"):
        scene.drain(pod_selector="app in db")
    with pytest.raises(ConfigError, match="is not understood"):
        scene.drain(groups=(DrainGroup("x", selector="=="),))


def test_bypassing_budgets_is_said_and_reported(scene: Scene) -> None:
    scene.shop.pod("web-0")
    scene.shop.budget("web", {"matchLabels": {"app": "web"}}, allowed=0, healthy=1, desired=1)
    report = scene.drain(disable_eviction=True, grace_period_s=3)
    assert report.bypassed_budgets
    assert report.deleted == ("shop/web-0",)
    assert "not asked: 1 pod was deleted" in report.bypasses[0]
    assert any("budgets are not asked" in s for s in scene.said)
    assert scene.evicted_names() == []
    uid = scene.api.bodies[0]["preconditions"]["uid"]
    assert uid
    assert scene.api.bodies[0]["gracePeriodSeconds"] == 3


def test_a_budget_that_opens_is_waited_for_and_counted(scene: Scene) -> None:
    for number in range(6):
        scene.shop.pod(f"web-{number}")
    scene.shop.budget("web", {"matchLabels": {"app": "web"}}, allowed=1, healthy=6, desired=5)
    tries = 0

    def room() -> None:
        nonlocal tries
        tries += 1
        if tries < 200:
            scene.api.before("items", "/api/v1/pods$", room)
        if tries % 5 == 0:
            scene.shop.set_budget("web", allowed=1, healthy=6, desired=5)

    scene.api.before("items", "/api/v1/pods$", room)
    report = scene.drain()
    assert len(report.evicted) == 6
    assert report.budgets_s.keys() == {"shop/web"}
    assert 0 < report.waited_for_budgets_s <= report.duration_s
    assert any(s.startswith("budget shop/web: needs 5 healthy, has 6 (pod shop/web-") for s in scene.said), scene.said
    # the other pods of a closed budget are not tried at every turn: that is what the gate is for
    assert len(scene.evicted_names()) < 40


def test_a_budget_that_never_opens_ends_at_the_deadline(scene: Scene) -> None:
    scene.shop.pod("web-0")
    scene.shop.pod("web-1")
    scene.shop.pod("free", labels={"app": "free"})
    scene.shop.budget("web", {"matchLabels": {"app": "web"}}, allowed=0, healthy=2, desired=2)
    begun = time.monotonic()
    error = scene.fails(timeout_s=2)
    assert 2 <= time.monotonic() - begun < 4.5
    assert "node-shop is not drained after" in error.what
    assert "2 pods are still there" in error.what
    assert error.why == "budget shop/web: needs 2 healthy, has 2: shop/web-0, shop/web-1"
    assert "kubectl -n shop edit pdb web" in error.hint
    assert "run the same command again" in error.hint
    assert scene.there() == ["web-0", "web-1"]


def test_the_step_ends_earlier_than_the_policy(scene: Scene) -> None:
    scene.shop.pod("web-0")
    scene.shop.budget("web", {}, allowed=0, healthy=1, desired=1)
    begun = time.monotonic()
    assert "budget shop/web" in scene.fails(timeout_s=900, step_s=3).why
    assert time.monotonic() - begun < 60


def test_two_budgets_are_named_and_not_retried(scene: Scene) -> None:
    scene.shop.pod("web-0")
    for name in ("one", "two"):
        scene.shop.budget(name, {"matchLabels": {"app": "web"}}, allowed=1)
    error = scene.fails()
    assert "shop/web-0 cannot be evicted" in error.what
    assert "more than one disruption budget (shop/one, shop/two)" in error.why
    assert "kubectl -n shop get pdb" in error.hint
    assert scene.evicted_names() == ["web-0"]


def test_what_the_server_refuses_for_good_ends_the_drain(scene: Scene) -> None:
    scene.shop.pod("web-0")
    scene.api.fail("create", "/eviction$", KubeError("answered 403", why='User "x" cannot create', status=403))
    error = scene.fails()
    assert "cannot create" in error.why
    assert scene.there() == ["web-0"]


def test_after_a_refusal_for_good_nothing_new_is_evicted(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drain_module, "_FIRST_POLL_S", 10.0)
    for number in range(200):
        scene.shop.pod(f"web-{number:03}")
    create = scene.api.create

    def slow(path: str, body: JsonObject, *, timeout_s: float | None = None) -> JsonObject:
        if "web-000" in path:
            raise KubeError("answered 403", why="cannot create", status=403)
        time.sleep(0.05)
        return create(path, body)

    monkeypatch.setattr(scene.api, "create", slow)
    begun = time.monotonic()
    assert "shop/web-000: answered 403" in scene.fails().why
    assert time.monotonic() - begun < 5
    assert len(scene.evicted_names()) <= 150


def test_throttling_is_silent_and_honours_the_time_to_ask_again(scene: Scene) -> None:
    scene.shop.pod("web-0")
    scene.api.fail("create", "/eviction$", KubeError("busy", status=429, retry_after_s=0.3), times=2)
    begun = time.monotonic()
    assert scene.drain().evicted == ("shop/web-0",)
    assert time.monotonic() - begun >= 0.6
    assert not any("budget" in s or "busy" in s for s in scene.said)


def test_a_namespace_that_is_being_deleted_takes_its_pods_along(scene: Scene) -> None:
    scene.shop.pod("web-0")
    error = KubeError("answered 403", status=403, causes=(("NamespaceTerminating", "x"),))
    scene.api.fail("create", "/eviction$", error, times=500)
    timer = threading.Timer(0.3, lambda: scene.api.remove(f"{scene.shop.pods}/web-0"))
    timer.start()
    report = scene.drain()
    timer.join()
    assert report.went == ("shop/web-0",)
    assert "pod shop/web-0: namespace shop is being deleted" in scene.said
    scene.shop.pod("web-1")
    assert "namespace shop is being deleted" in scene.fails(timeout_s=0.3).why


@pytest.mark.parametrize("status", [0, 500, 502, 503, 504])
def test_an_api_server_that_is_away_is_ridden_out(scene: Scene, status: int) -> None:
    for number in range(5):
        scene.shop.pod(f"web-{number}")
    away = KubeError("the API is away", status=status)
    scene.api.fail("create", "/eviction$", away, times=7)
    scene.api.before("create", "/eviction$", lambda: scene.api.fail("items", "/api/v1/pods$", away, times=3))
    scene.refuse = [DOWN, DOWN]
    report = scene.drain()
    assert len(report.evicted) == 5
    assert scene.asked >= 4
    assert any("the API does not answer" in s for s in scene.said)


def test_a_webhook_that_fails_is_told_and_named_in_the_end(scene: Scene) -> None:
    scene.shop.pod("web-0")
    scene.api.fail(
        "create", "/eviction$", KubeError("answered 500", why="failed calling webhook x", status=500), times=999
    )
    error = scene.fails(timeout_s=0.4)
    assert error.why == "shop/web-0: answered 500: failed calling webhook x"
    assert "pod shop/web-0: answered 500: failed calling webhook x" in scene.said


def test_the_first_look_is_not_repeated_by_the_drain(scene: Scene) -> None:
    """The connector rides out restarts; before anything was done, its error is the answer."""
    scene.api.fail("items", "/api/v1/pods$", DOWN)
    assert "connection refused" in str(scene.fails())


def test_an_api_that_stays_away_is_told_at_the_deadline(scene: Scene) -> None:
    scene.shop.pod("web-0")
    scene.api.before("create", "/eviction$", lambda: scene.api.fail("*", ".*", DOWN, times=100_000))
    error = scene.fails(timeout_s=0.4)
    assert "connection refused" in error.why
    assert "1 pod is still there" in error.what


def test_no_right_to_list_ends_it(scene: Scene) -> None:
    scene.shop.pod("web-0")
    forbidden = KubeError("answered 403", why="cannot list", status=403)
    scene.api.before("create", "/eviction$", lambda: scene.api.fail("items", "/api/v1/pods$", forbidden))
    assert scene.fails().why == "cannot list"


def test_a_lost_answer_does_no_harm(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    scene.shop.pod("web-0")
    scene.api.pod_lists_until_gone = 3
    create = scene.api.create
    lost: list[str] = []

    def lose(path: str, body: JsonObject, *, timeout_s: float | None = None) -> JsonObject:
        made = create(path, body)
        if not lost:
            lost.append(path)
            raise DOWN
        return made

    monkeypatch.setattr(scene.api, "create", lose)
    assert scene.drain().went == ("shop/web-0",)
    assert len(scene.evicted_names()) == 1, "the next list showed it ending"


def test_an_answer_that_comes_after_the_pod_went_is_reported(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    scene.shop.pod("web-0")
    create = scene.api.create

    def slow(path: str, body: JsonObject, *, timeout_s: float | None = None) -> JsonObject:
        made = create(path, body)
        time.sleep(0.5)  # many lists long
        return made

    monkeypatch.setattr(scene.api, "create", slow)
    assert scene.drain().evicted == ("shop/web-0",)


def test_a_replaced_pod_is_done_and_its_successor_is_another_pod(scene: Scene) -> None:
    """A StatefulSet's pod of the same name comes back on the node, bound by hand."""
    old = scene.shop.pod("web-0")

    def replace() -> None:
        scene.api.remove(f"{scene.shop.pods}/web-0")
        scene.shop.pod("web-0")

    scene.api.before("create", "/eviction$", replace)
    report = scene.drain()
    assert report.went == ("shop/web-0",)
    assert report.evicted == ("shop/web-0",), "the successor, on the second try, by its own UID"
    uids = [b["deleteOptions"]["preconditions"]["uid"] for b in scene.api.bodies]
    assert uids[0] == old["metadata"]["uid"]
    assert uids[-1] != uids[0]


def test_pods_that_come_late_are_found(scene: Scene) -> None:
    scene.shop.pod("web-0")
    late = iter(["late-1", "late-2"])

    def come() -> None:
        for name in late:
            scene.shop.pod(name)
            scene.api.before("create", "/eviction$", come)
            return

    scene.api.before("create", "/eviction$", come)
    assert scene.drain().evicted == ("shop/late-1", "shop/late-2", "shop/web-0")
    assert scene.there() == []


def test_a_refused_pod_that_comes_late_is_told_after_the_others_went(scene: Scene) -> None:
    scene.shop.pod("web-0")

    def come() -> None:
        scene.shop.pod("alone", owner=None)

    scene.api.before("create", "/eviction$", come)
    error = scene.fails()
    assert "came while it was drained" in error.what
    assert "shop/alone" in error.why
    assert scene.there() == ["alone"]


def test_pods_that_come_back_for_ever_are_told(scene: Scene) -> None:
    scene.shop.pod("web")
    number = iter(range(10_000))

    def again() -> None:
        scene.shop.pod(f"again-{next(number)}")
        scene.api.before("create", "/eviction$", again)

    scene.api.before("create", "/eviction$", again)
    error = scene.fails(timeout_s=0.5)
    assert "pods came to the node meanwhile: somebody uncordoned it, or they were placed here by name" in error.why


def test_a_pod_that_comes_back_because_it_tolerates_the_cordon_is_not_evicted_for_ever(scene: Scene) -> None:
    scene.shop.pod("operator-0", tolerates_cordon=True)
    scene.shop.pod("web")

    def again() -> None:
        scene.shop.pod("operator-1", tolerates_cordon=True, empty_dir=True)

    scene.api.before("create", "/operator-0/eviction$", again)
    report = scene.drain()
    assert sorted(report.evicted) == ["shop/operator-0", "shop/web"]
    assert report.stayed == (("shop/operator-1", "came while the node was drained, and tolerates its cordon"),)
    assert scene.there() == ["operator-1"]


def test_groups_go_one_after_the_other(scene: Scene) -> None:
    shop = scene.shop
    scene.api.create("/api/v1/namespaces", {"kind": "Namespace", "metadata": {"name": "storage"}})
    shop.pod("a-db", labels={"role": "storage"})
    shop.pod("b-web")
    shop.pod("c-osd", namespace="storage")
    shop.pod("d-web")
    scene.api.pod_lists_until_gone = 3
    gone_when_tried: dict[str, list[str]] = {}
    for name in ("a-db", "c-osd"):
        scene.api.before(
            "create",
            f"/{name}/eviction$",
            lambda name=name: gone_when_tried.update({name: scene.there()}),  # type: ignore[misc]
        )
    groups = (DrainGroup("volumes", selector="role in (storage)"), DrainGroup("osd", namespaces=("storage",)))
    report = scene.drain(groups=groups)
    assert gone_when_tried == {"a-db": ["a-db", "c-osd"], "c-osd": ["c-osd"]}
    assert len(report.evicted) == 4
    shop.pod("e-web", finalizers=("example.com/hold",))
    shop.pod("f-db", labels={"role": "storage"})
    error = scene.fails(groups=groups, timeout_s=0.3)
    assert "group volumes was not begun: shop/f-db" in error.why


def test_a_pod_that_does_not_end_is_named_with_what_holds_it(scene: Scene) -> None:
    scene.api.pod_lists_until_gone = None
    scene.shop.pod("held", finalizers=("example.com/a", "example.com/b"))
    scene.shop.pod("slow")
    error = scene.fails(timeout_s=0.4)
    assert "shop/held does not end (it was to by 20" in error.why
    assert "held by its finalizers example.com/a, example.com/b" in error.why
    assert "shop/slow does not end" in error.why
    assert "the kubelet of node-shop has not reported its end" in error.why
    assert "kubectl -n shop describe pod held" in error.hint
    assert "2 pods to end (shop/held and 1 more)" in scene.said


def test_a_finished_pod_that_was_running_at_first_is_deleted(scene: Scene) -> None:
    scene.shop.pod("job")
    scene.shop.budget("web", {}, allowed=0, healthy=1, desired=1)

    lists = iter(range(100))

    def finish() -> None:
        if next(lists) == 5:
            scene.api.change(f"{scene.shop.pods}/job", lambda item: item["status"].update(phase="Succeeded"))
        else:
            scene.api.before("items", "/api/v1/pods$", finish)

    scene.api.before("items", "/api/v1/pods$", finish)
    assert scene.drain().deleted == ("shop/job",)


@pytest.mark.parametrize("when", ["before", "meanwhile"])
def test_cancel_ends_it_at_once(scene: Scene, when: str) -> None:
    scene.shop.pod("web-0")
    scene.shop.budget("web", {}, allowed=0, healthy=1, desired=1)
    timer = threading.Timer(0.0 if when == "before" else 0.3, lambda: scene.cancel.set("SIGINT"))
    timer.start()
    if when == "before":
        timer.join()
    begun = time.monotonic()
    with pytest.raises(CancelledError):
        scene.drain()
    timer.join()
    assert time.monotonic() - begun < 2
    assert scene.there() == ["web-0"]


def test_many_pods_are_evicted_side_by_side_but_bounded(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(120):
        scene.shop.pod(f"web-{number:03}")
    create, lock, now, most = scene.api.create, threading.Lock(), 0, 0

    def slow(path: str, body: JsonObject, *, timeout_s: float | None = None) -> JsonObject:
        nonlocal now, most
        with lock:
            now, most = now + 1, max(most, now + 1)
        time.sleep(0.01)
        with lock:
            now -= 1
        return create(path, body)

    monkeypatch.setattr(scene.api, "create", slow)
    report = scene.drain()
    assert len(report.evicted) == 120
    assert 8 < most <= 32
    assert len(scene.evicted_names()) == 120


class TestVolumes:
    """Attachments of pods that are gone are waited for, those of pods that stay are not."""

    def test_the_volumes_of_evicted_pods(self, scene: Scene) -> None:
        shop = scene.shop
        for claim, pod, owner in (("data", "db-0", "StatefulSet"), ("cache", "agent", "DaemonSet")):
            volume = shop.claimed_volume(claim)
            shop.pod(pod, claims=(claim,), owner=owner)
            path = shop.attachment(claim, volume)
        owed = path.replace("cache", "data")
        self.in_use(scene, "data", "cache")

        def detach() -> None:
            scene.api.remove(owed)
            self.in_use(scene, "cache")

        timer = threading.Timer(0.3, detach)
        timer.start()
        report = scene.drain()
        timer.join()
        assert report.waited_for_volumes_s >= 0.2
        assert report.volumes_left == ()
        assert any("volumes to be detached: pv-shop-data" in s for s in scene.said), scene.said

    def test_the_volumes_of_pods_that_stay_as_only_the_node_knows_them(self, scene: Scene) -> None:
        scene.shop.claimed_volume("cache")
        scene.shop.pod("agent", claims=("cache",), owner="DaemonSet")
        self.in_use(scene, "cache")
        report = scene.drain(volumes_timeout_s=0.3)
        assert (report.volumes_left, report.waited_for_volumes_s < 0.3) == ((), True)

    def test_too_slow(self, scene: Scene) -> None:
        volume = scene.shop.claimed_volume("data")
        scene.shop.pod("db-0", claims=("data",))
        scene.shop.attachment("data", volume)
        begun = time.monotonic()
        error = scene.fails(volumes_timeout_s=0.3)
        assert time.monotonic() - begun < 3
        assert "1 volume of pods that are gone is still attached to node-shop" in error.what
        assert error.why == "pv-shop-data"
        assert scene.there() == []
        assert scene.drain(volumes_timeout_s=0).waited_for_volumes_s == 0
        assert "pv-shop-data" in scene.fails(volumes_timeout_s=0.3).why, "a run that did not evict them waits as well"

    def test_volumes_only_the_node_knows(self, scene: Scene) -> None:
        scene.shop.claimed_volume("data")
        scene.shop.pod("db-0", claims=("data",))
        self.in_use(scene, "data", attached=True)
        assert "csi.example.com^pv-shop-data" in scene.fails(volumes_timeout_s=0.2).why

    def test_volumes_of_which_it_cannot_be_told_whose(self, scene: Scene) -> None:
        scene.shop.claimed_volume("data")
        scene.shop.pod("db-0", claims=("data",))
        path = f"/api/v1/nodes/{scene.shop.node}"
        scene.api.change(path, lambda item: item.update(status={"volumesInUse": ["kubernetes.io/aws-ebs/vol-1"]}))
        report = scene.drain(volumes_timeout_s=0.3)
        assert report.volumes_left == ("kubernetes.io/aws-ebs/vol-1",)
        assert report.waited_for_volumes_s >= 0.3
        again = scene.drain(volumes_timeout_s=10)
        assert again.volumes_left == ("kubernetes.io/aws-ebs/vol-1",)
        assert again.waited_for_volumes_s < 2, "nothing with a claim went: they are not ours to wait for"

    def test_the_volumes_of_another_node(self, scene: Scene) -> None:
        scene.shop.pod("db-0", claims=("data",))
        scene.shop.attachment("x", "pv-x", node="other")
        assert scene.drain().volumes_left == ()

    @staticmethod
    def in_use(scene: Scene, *claims: str, attached: bool = False) -> None:
        names = [f"kubernetes.io/csi/csi.example.com^pv-shop-{c}" for c in claims]
        status: JsonObject = (
            {"volumesAttached": [{"name": n, "devicePath": ""} for n in names]} if attached else {"volumesInUse": names}
        )
        scene.api.change(f"/api/v1/nodes/{scene.shop.node}", lambda item: item.update(status=status))


def _set_ready(scene: Scene, status: str) -> None:
    def change(node: JsonObject) -> None:
        node["status"]["conditions"] = [
            {"type": "Ready", "status": status, "lastTransitionTime": "2026-01-02T03:04:05Z"}
        ]

    scene.api.change(f"/api/v1/nodes/{scene.shop.node}", change)


def test_pods_are_not_waited_for_on_a_node_that_is_gone(scene: Scene) -> None:
    """A kubelet that nobody hears of ends nothing: the drain says so long before its time is over."""
    scene.shop.pod("held", finalizers=("example.com/a",))
    _set_ready(scene, "Unknown")
    error = scene.fails()
    assert f"1 pod on {scene.shop.node} cannot end: its kubelet is gone" in str(error)
    assert "unknown since 2026-01-02T03:04:05Z: shop/held" in error.why
    assert f"kops-py node remove {scene.shop.node} --lost" in error.hint


def test_a_kubelet_that_comes_back_or_says_not_ready_is_waited_for(scene: Scene) -> None:
    scene.shop.pod("held", finalizers=("example.com/a",))
    _set_ready(scene, "Unknown")
    back = threading.Timer(0.1, lambda: _set_ready(scene, "False"))
    back.start()
    assert "is not drained after" in str(scene.fails(timeout_s=0.8))
    back.join()


def test_a_budget_is_waited_for_whatever_the_kubelet_does(scene: Scene) -> None:
    scene.shop.pod("held", finalizers=("example.com/a",))
    scene.shop.pod("web-0")
    scene.shop.budget("web", {"matchLabels": {"app": "web"}}, allowed=0)
    _set_ready(scene, "Unknown")
    assert "budget shop/web" in scene.fails(timeout_s=0.8).why
