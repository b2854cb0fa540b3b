"""What a drain leaves in the journal when it does not end well: what it had taken by then."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from kops_py.actions import drain as drain_module
from kops_py.actions import drain_roster
from kops_py.actions.maintenance import drain_node
from kops_py.connect.base import JsonObject
from kops_py.engine.run import StepContext
from kops_py.model.actions import DrainNode
from kops_py.model.drain import DrainPolicy
from kops_py.model.errors import CancelledError, KubeError
from kops_py.model.event import Note
from tests.fakes.workloads import Cluster
from tests.unit.actions.stage import Stage, stage


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_FIRST_POLL_S", "_POLL_S", "_MANY_POLL_S", "_VOLUMES_POLL_S", "_SLICE_S"):
        monkeypatch.setattr(drain_module, name, 0.01)
    for name in ("FIRST_PAUSE_S", "LONGEST_PAUSE_S"):
        monkeypatch.setattr(drain_roster, name, 0.03)


@dataclass
class Scene:
    """A node with pods, and the journal of the step that drains it."""

    stage: Stage
    shop: Cluster
    records: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    def drain(self, **policy: Any) -> None:
        action = DrainNode(self.shop.node, DrainPolicy(**{"timeout_s": 20.0, **policy}))
        drain_node(self.stage.deps, action, self.ctx(action))

    def ctx(self, action: DrainNode) -> StepContext:
        plain = self.stage.ctx(action, self.shop.node)
        return dataclasses.replace(plain, journal=lambda kind, **values: self.records.append((kind, values)))

    def drained(self) -> dict[str, Any]:
        """Return the one record there is, which is the last thing written."""
        assert [kind for kind, _ in self.records] == ["drain-begin", "drained"]
        return self.records[-1][1]

    @property
    def moved(self) -> Sequence[str]:
        return self.stage.deps.moved[self.shop.node]

    @property
    def notes(self) -> list[str]:
        return [e.message for e in self.stage.events if isinstance(e, Note) and e.node == self.shop.node]


@pytest.fixture
def scene() -> Iterator[Scene]:
    made = stage()
    made.deps.led = True
    shop = Cluster.make(made.kube, "shop")
    made.kube.pod_lists_until_gone = 1
    yield Scene(made, shop)
    made.kube.assert_clean()


def test_a_drain_that_ends_well_is_recorded_once(scene: Scene) -> None:
    scene.shop.pod("web-0")
    scene.drain(disable_eviction=True)
    assert scene.drained()["deleted"] == ["shop/web-0"]
    assert scene.drained()["left"] == []
    assert scene.moved == ("shop/web-0",)
    assert len(scene.notes) == 1


def test_pods_deleted_past_their_budget_are_named_when_the_time_is_up(scene: Scene) -> None:
    """Both that are gone and those that were deleted and do not end."""
    scene.shop.pod("web-0")
    scene.shop.pod("web-1", finalizers=("example.com/held",), owner=None)
    scene.shop.budget("web", {"matchLabels": {"app": "web"}}, allowed=0, healthy=2, desired=2)
    with pytest.raises(KubeError, match="is not drained after"):
        scene.drain(disable_eviction=True, force=True, timeout_s=2)
    record = scene.drained()
    assert record["deleted"] == ["shop/web-0", "shop/web-1"]
    assert record["left"] == ["shop/web-1"]
    assert record["bypassed_budgets"] is True
    assert record["without_controller"] == ["shop/web-1"]
    assert record["duration_s"] >= 2
    assert scene.moved == ("shop/web-0", "shop/web-1")
    assert "2 pods were deleted, not evicted (shop/web-0, shop/web-1)" in scene.notes[0]


def test_what_a_budget_held_is_not_said_to_have_moved(scene: Scene) -> None:
    scene.shop.pod("free", labels={"app": "free"})
    scene.shop.pod("web-0")
    scene.shop.budget("web", {"matchLabels": {"app": "web"}}, allowed=0, healthy=1, desired=1)
    with pytest.raises(KubeError, match="is not drained after"):
        scene.drain(timeout_s=2)
    record = scene.drained()
    assert (record["evicted"], record["left"], record["bypassed_budgets"]) == (["shop/free"], ["shop/web-0"], False)
    assert list(record["budgets_s"]) == ["shop/web"]
    assert scene.moved == ("shop/free",)


def test_a_deletion_under_way_when_the_run_is_cancelled_is_recorded(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The drain ends without another look; the answer comes while it waits for its requests to end."""
    scene.shop.pod("web-0")
    asked, delete = threading.Event(), scene.stage.kube.delete

    def slow(path: str, *, body: JsonObject | None = None, timeout_s: float | None = None) -> bool:
        asked.set()
        scene.stage.cancel.set("SIGTERM")
        threading.Event().wait(0.3)
        return delete(path, body=body, timeout_s=timeout_s)

    monkeypatch.setattr(scene.stage.kube, "delete", slow)
    with pytest.raises(CancelledError):
        scene.drain(disable_eviction=True)
    assert asked.is_set()
    record = scene.drained()
    assert (record["deleted"], record["bypassed_budgets"]) == (["shop/web-0"], True)
    assert scene.moved == ("shop/web-0",)


def test_volumes_that_stay_attached_do_not_hide_what_was_moved(scene: Scene) -> None:
    volume = scene.shop.claimed_volume("data")
    scene.shop.pod("db-0", claims=("data",))
    scene.shop.attachment("data", volume)
    with pytest.raises(KubeError, match="still attached"):
        scene.drain(volumes_timeout_s=0.3)
    assert (scene.drained()["evicted"], scene.drained()["left"]) == (["shop/db-0"], [])
    assert scene.moved == ("shop/db-0",)


def test_a_drain_that_did_not_begin_leaves_no_record_of_one(scene: Scene) -> None:
    scene.shop.pod("alone", owner=None)
    with pytest.raises(KubeError, match="nothing was evicted"):
        scene.drain()
    assert [kind for kind, _ in scene.records] == ["drain-begin"]
    assert scene.notes == []
