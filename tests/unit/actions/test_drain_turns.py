"""Drains that take each other's places: which one gives its place back, for how long, and that it is cordoned again."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from kops_py.actions import drain_turns
from kops_py.actions.cordon import cordon, uncordon
from kops_py.actions.drain_turns import Turns, give_place_back
from kops_py.connect.base import JsonObject
from kops_py.model.actions import DrainNode
from kops_py.model.cordon import CORDONED
from kops_py.model.drain import DrainPolicy
from kops_py.model.errors import CancelledError, KubeError
from tests.fakes.kube import FakeKubeApi, node
from tests.unit.actions.stage import Stage, stage


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drain_turns, "_POLL_S", 0.01)


def pending(name: str, *, namespace: str = "shop", reason: str = "Unschedulable") -> JsonObject:
    condition = {"type": "PodScheduled", "status": "False", "reason": reason}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {},
        "status": {"phase": "Pending", "conditions": [condition]},
    }


@dataclass
class Scene:
    """n1's drain is under way, and n2's has been held by budgets for a while."""

    made: Stage
    turns: Turns = field(default_factory=Turns)
    records: list[str] = field(default_factory=list)

    @property
    def api(self) -> FakeKubeApi:
        return self.made.kube

    def give_back(self, node: str = "n2", *, for_s: float = 20.0, get_api: Callable[[], Any] | None = None) -> None:
        ctx = self.made.ctx(DrainNode(node, DrainPolicy()), node)
        ctx.journal = lambda kind, **_: self.records.append(kind)
        until = time.monotonic() + for_s
        source = get_api or (lambda: self.api)
        give_place_back(self.turns, source, node, {"shop"}, until, ctx, by="ann", run_id="r1")

    def is_cordoned(self, name: str = "n2") -> bool:
        found = self.api.object(f"/api/v1/nodes/{name}")
        assert found is not None
        marked = CORDONED in (found["metadata"].get("annotations") or {})
        assert marked == bool(found["spec"].get("unschedulable")), "cordon and mark go together"
        return marked


@pytest.fixture
def scene() -> Scene:
    made = stage(1, 1)
    for name in ("n1", "n2"):
        made.kube.add(node(name))
        cordon(made.kube, name, by="ann", run_id="r1")
    return Scene(made)


def test_the_order_is_that_of_their_beginnings() -> None:
    turns = Turns()
    with turns.drain_of("n2"), turns.drain_of("n1"):
        assert not turns.must_wait("n2", 0)
        assert turns.must_wait("n1", 0)
        with turns.drain_of("n3"):
            assert turns.must_wait("n3", 0)
        assert turns.ended == 1
        assert not turns.must_wait("n1", 0), "one has ended: it may try again"
        assert turns.must_wait("n1", 1)
    assert turns.ended == 3


def test_the_later_one_takes_pods_until_the_earlier_has_ended(scene: Scene) -> None:
    scene.api.add(pending("web-1"))
    given = threading.Event()

    def first() -> None:
        with scene.turns.drain_of("n1"):
            begun.set()
            until = time.monotonic() + 20
            while scene.is_cordoned("n2"):
                assert time.monotonic() < until, "n2 keeps its place"
                time.sleep(0.005)
            given.set()

    begun = threading.Event()
    thread = threading.Thread(target=first)
    thread.start()
    assert begun.wait(20)
    with scene.turns.drain_of("n2"):
        scene.give_back()
    thread.join(20)
    assert given.is_set()
    assert scene.is_cordoned("n1"), "the first one's stays"
    assert scene.is_cordoned("n2")
    assert scene.records == ["place-given-back"]
    assert any("shop/web-1 can run nowhere else" in line for line in scene.made.progress)
    assert scene.made.progress[-1].endswith("cordoned again")


@pytest.mark.parametrize(
    "pods",
    [[], [pending("elsewhere", namespace="other")], [pending("slow", reason="SchedulerError")]],
    ids=["none", "another-namespace", "not-for-want-of-a-node"],
)
def test_without_a_pod_that_lacks_a_node_nothing_is_done(scene: Scene, pods: list[JsonObject]) -> None:
    for pod in pods:
        scene.api.add(pod)
    before = scene.api.writes()
    with scene.turns.drain_of("n1"), scene.turns.drain_of("n2"):
        scene.give_back()
    assert scene.api.writes() == before


def test_the_first_one_keeps_its_place(scene: Scene) -> None:
    scene.api.add(pending("web-1"))
    before = scene.api.writes()
    with scene.turns.drain_of("n2"), scene.turns.drain_of("n1"):
        scene.give_back()
    assert scene.api.writes() == before


def test_a_cordon_of_somebody_else_stays(scene: Scene) -> None:
    scene.api.add(pending("web-1"))

    def by_a_person(item: JsonObject) -> None:
        item["metadata"]["annotations"].pop(CORDONED)

    scene.api.change("/api/v1/nodes/n2", by_a_person)
    with scene.turns.drain_of("n1"), scene.turns.drain_of("n2"):
        scene.give_back()
    found = scene.api.object("/api/v1/nodes/n2")
    assert found is not None
    assert found["spec"]["unschedulable"] is True


def test_it_is_cordoned_again_when_the_time_of_its_drain_is_up(scene: Scene) -> None:
    scene.api.add(pending("web-1"))
    with scene.turns.drain_of("n1"), scene.turns.drain_of("n2"):
        scene.give_back(for_s=0.05)
        assert scene.is_cordoned("n2")


def test_an_uncordon_whose_answer_is_lost_is_taken_back(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    scene.api.add(pending("web-1"))

    def lost(api: FakeKubeApi, name: str) -> None:
        uncordon(api, name)
        raise KubeError("the API server does not answer", status=503)

    monkeypatch.setattr(drain_turns, "uncordon", lost)
    with scene.turns.drain_of("n1"), scene.turns.drain_of("n2"):
        scene.give_back()
        assert scene.is_cordoned("n2")


def test_an_api_that_does_not_answer_does_not_leave_it_open(scene: Scene) -> None:
    scene.api.add(pending("web-1"))
    asked = 0

    def get_api() -> FakeKubeApi:
        nonlocal asked
        asked += 1
        if 3 <= asked <= 5:
            raise KubeError("the API server does not answer", status=503)
        return scene.api

    with scene.turns.drain_of("n1"), scene.turns.drain_of("n2"):
        scene.give_back(for_s=0.05, get_api=get_api)
    assert asked == 6
    assert scene.is_cordoned("n2")


def test_a_cancelled_run_ends_and_leaves_neither_cordon_nor_mark(scene: Scene) -> None:
    scene.api.add(pending("web-1"))
    timer = threading.Timer(0.1, lambda: scene.made.cancel.set("SIGTERM"))
    timer.start()
    with scene.turns.drain_of("n1"), scene.turns.drain_of("n2"), pytest.raises(CancelledError):
        scene.give_back()
    timer.join()
    assert not scene.is_cordoned("n2")
