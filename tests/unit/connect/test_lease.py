"""The cluster's lock against the fake: who holds it, staleness, loss."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from kops_py.connect.base import Cancel
from kops_py.connect.lease import ClusterLease, is_gone, process_identity, read_holding
from kops_py.model.errors import CancelledError, KubeError, LockedError
from tests.fakes.kube import FakeKubeApi

PATH = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/kops-py"
DOWN = KubeError("down", status=0)


def lease_object(holder: str = "eve@other 7 run", *, age_s: float = 0.0, ttl_s: int = 30) -> dict[str, Any]:
    renewed = datetime.fromtimestamp(time.time() - age_s, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    return {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {
            "name": "kops-py",
            "namespace": "kube-system",
            "annotations": {"kops-py/command": "kops-py upgrade"},
        },
        "spec": {
            "holderIdentity": holder,
            "leaseDurationSeconds": ttl_s,
            "acquireTime": "2026-01-02T03:04:05.000000Z",
            "renewTime": renewed,
        },
    }


def wait_for(condition: Callable[[], object], what: str, timeout_s: float = 5.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"waited {timeout_s} s for {what}"
        time.sleep(0.01)


def test_taken_shown_renewed_and_released() -> None:
    api = FakeKubeApi()
    with ClusterLease(api, "me@here 1 run", {"command": "kops-py bootstrap"}, ttl_s=0.3) as lease:
        first = api.object(PATH)
        assert first is not None
        holding = read_holding(first)
        assert holding is not None
        assert holding.holder == "me@here 1 run"
        assert holding.detail["command"] == "kops-py bootstrap"
        assert abs(holding.since_s - time.time()) < 5
        wait_for(lambda: (api.object(PATH) or {})["spec"]["renewTime"] > first["spec"]["renewTime"], "a renewal")
        assert not lease.lost
    assert api.object(PATH) is None
    lease.release()


class Heeding(FakeKubeApi):
    """Ends as a connection does when the run is to end: every call raises."""

    def __init__(self, cancel: Cancel) -> None:
        super().__init__()
        self.cancel = cancel
        for verb in ("create", "replace", "delete", "get"):
            self.heed(verb)

    def heed(self, verb: str) -> None:
        def check() -> None:
            self.heed(verb)
            self.cancel.check()

        self.before(verb, ".", check)


def test_a_run_that_is_told_to_end_keeps_its_lock_until_it_ends_and_gives_it_back() -> None:
    cancel = Cancel()
    api = Heeding(cancel)
    lease = ClusterLease(api, "me@here 1 run", {}, ttl_s=0.3, cancel=cancel)
    lease.acquire()
    cancel.set("SIGINT")
    with pytest.raises(CancelledError):
        api.get(PATH)
    at_first = (api.object(PATH) or {})["spec"]["renewTime"]
    wait_for(lambda: (api.object(PATH) or {})["spec"]["renewTime"] > at_first, "a renewal")
    lease.release()
    assert api.object(PATH) is None
    with pytest.raises(CancelledError):
        api.get(PATH)


def test_a_live_lock_names_its_holder_and_when_it_would_be_stale() -> None:
    api = FakeKubeApi([lease_object(age_s=12)])
    with pytest.raises(LockedError) as caught:
        ClusterLease(api, "me", {}).acquire()
    error = caught.value
    assert error.what == "eve@other 7 run works on this cluster since 2026-01-02 03:04:05 UTC (kops-py upgrade)"
    assert error.where == "Lease kube-system/kops-py"
    assert "renewed 12 s ago" in error.why
    assert "stale in 2" in error.why
    assert api.writes() == []


@pytest.mark.parametrize("age_s", [31, -3600])
def test_a_clock_that_differs_a_little_or_runs_ahead_never_makes_a_lock_stale(age_s: float) -> None:
    api = FakeKubeApi([lease_object(age_s=age_s)])
    with pytest.raises(LockedError):
        ClusterLease(api, "me", {}).acquire()


def test_a_released_lock_is_free() -> None:
    api = FakeKubeApi([lease_object(holder="")])
    with ClusterLease(api, "me", {}):
        assert (api.object(PATH) or {})["spec"]["holderIdentity"] == "me"


def test_a_stale_lock_is_taken_after_it_was_watched() -> None:
    api = FakeKubeApi([lease_object(age_s=600, ttl_s=1)])
    waits: list[str] = []
    began = time.monotonic()
    with ClusterLease(api, "me", {}, ttl_s=1.0, on_wait=waits.append):
        assert time.monotonic() - began >= 0.5
        assert (api.object(PATH) or {})["spec"]["holderIdentity"] == "me"
    assert "eve@other 7 run" in waits[0]


def test_a_holder_with_a_wrong_clock_shows_itself_alive_while_watched() -> None:
    api = FakeKubeApi([lease_object(age_s=600, ttl_s=1)])

    def renew(item: dict[str, Any]) -> None:
        item["spec"]["renewTime"] = lease_object(age_s=599)["spec"]["renewTime"]

    threading.Timer(0.2, lambda: api.change(PATH, renew)).start()
    with pytest.raises(LockedError, match="eve@other"):
        ClusterLease(api, "me", {}, ttl_s=1.0).acquire()
    assert api.writes() == []


def test_two_who_take_over_the_same_stale_lock() -> None:
    api = FakeKubeApi([lease_object(age_s=600, ttl_s=1)])

    def faster(item: dict[str, Any]) -> None:
        item.update(spec=lease_object("bob@third 9 run")["spec"])

    api.before("replace", "kops-py$", lambda: api.change(PATH, faster))
    with pytest.raises(LockedError, match="bob@third 9 run"):
        ClusterLease(api, "me", {}, ttl_s=1.0).acquire()


def test_two_who_create_it() -> None:
    api = FakeKubeApi()

    def be_faster() -> None:
        api.add(lease_object("bob@third 9 run"))

    api.before("create", "leases$", be_faster)
    with pytest.raises(LockedError, match="bob@third 9 run"):
        ClusterLease(api, "me", {}).acquire()


def test_watching_ends_with_the_run() -> None:
    cancel = Cancel()
    api = FakeKubeApi([lease_object(age_s=600)])
    threading.Timer(0.1, cancel.set, ["SIGINT"]).start()
    with pytest.raises(CancelledError):
        ClusterLease(api, "me", {}, cancel=cancel).acquire()


def test_an_api_that_is_away_makes_it_lost_and_its_return_found() -> None:
    api = FakeKubeApi()
    reasons: list[str] = []
    with ClusterLease(api, "me", {}, ttl_s=0.3, on_lost=reasons.append) as lease:
        api.fail("replace", "kops-py$", DOWN, times=20)
        wait_for(lambda: lease.lost, "the loss")
        wait_for(lambda: not lease.lost, "the recovery")
    assert len(reasons) == 1
    assert "could not be renewed" in reasons[0]
    assert api.object(PATH) is None


def test_the_connection_may_change_while_it_is_held() -> None:
    first = FakeKubeApi()
    now = [first]
    with ClusterLease(lambda: now[0], "me", {}, ttl_s=0.3):
        second = FakeKubeApi()
        second.add(first.object(PATH) or {})
        second.change(PATH, lambda item: None)
        now[0] = second
        wait_for(lambda: ("replace", PATH) in second.calls, "a renewal over the new connection")
    assert second.object(PATH) is None


def test_a_takeover_by_somebody_else_is_final_and_left_alone() -> None:
    api = FakeKubeApi()
    reasons: list[str] = []
    lease = ClusterLease(api, "me", {}, ttl_s=0.3, on_lost=reasons.append)
    lease.acquire()
    api.change(PATH, lambda item: item["spec"].update(holderIdentity="bob"))
    wait_for(lambda: lease.lost, "the loss")
    lease.release()
    assert reasons == ["the lock is now held by bob"]
    assert (api.object(PATH) or {})["spec"]["holderIdentity"] == "bob"


def test_a_change_by_another_hand_does_not_lose_it() -> None:
    api = FakeKubeApi()
    with ClusterLease(api, "me", {}, ttl_s=0.3) as lease:
        api.change(PATH, lambda item: item["metadata"]["annotations"].update(seen="yes"))
        changed = (api.object(PATH) or {})["spec"]["renewTime"]
        wait_for(lambda: (api.object(PATH) or {})["spec"]["renewTime"] > changed, "a renewal after it")
        assert not lease.lost


def test_a_removed_lock_is_lost() -> None:
    api = FakeKubeApi()
    reasons: list[str] = []
    lease = ClusterLease(api, "me", {}, ttl_s=0.3, on_lost=reasons.append)
    lease.acquire()
    api.remove(PATH)
    wait_for(lambda: lease.lost, "the loss")
    lease.release()
    assert "removed" in reasons[0]


def test_release_survives_an_api_that_is_away() -> None:
    api = FakeKubeApi()
    lease = ClusterLease(api, "me", {})
    lease.acquire()
    api.fail("delete", "kops-py$", DOWN)
    lease.release()


def test_who_is_gone() -> None:
    if not process_identity():
        pytest.skip("no /proc here")
    assert not is_gone(process_identity())
    assert not is_gone("")
    assert not is_gone("a:b:1:2")
    boot, namespace, _, started = process_identity().split(":")
    assert is_gone(f"{boot}:{namespace}:{os.getpid()}:1{started}"), "the number was given to another process"
    assert not is_gone(f"{boot}:{int(namespace) + 1}:{os.getpid()}:1"), "another container's processes are not ours"
    child = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "from kops_py.connect.lease import process_identity as p; print(p(), flush=True); input()",
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    identity = child.stdout.readline().strip()
    assert not is_gone(identity)
    child.kill()
    child.wait()
    child.communicate()
    assert is_gone(identity)


def test_the_lock_of_a_process_that_is_gone_needs_no_waiting() -> None:
    if not process_identity():
        pytest.skip("no /proc here")
    boot, namespace, _, started = process_identity().split(":")
    item = lease_object(age_s=1)
    item["metadata"]["annotations"]["kops-py/process"] = f"{boot}:{namespace}:{os.getpid()}:1{started}"
    with ClusterLease(FakeKubeApi([item]), "me", {}) as lease:
        assert not lease.lost
