"""The cluster's lock, fought over on a real API server."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable

import pytest

from kops_py.connect.base import KubeApi
from kops_py.connect.lease import ClusterLease, process_identity
from kops_py.model.errors import KubeError, LockedError
from tests.integration.kube.conftest import Connect
from tests.integration.kube.control_plane import ControlPlane

pytestmark = pytest.mark.bundle

PATH = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/kops-py"


def wait_for(condition: Callable[[], bool], timeout_s: float, what: str) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"waited {timeout_s} s for {what}"
        time.sleep(0.05)


def test_one_of_many_contenders_wins(control_plane: ControlPlane, connect: Connect) -> None:
    control_plane.wait_ready()
    apis = [connect(control_plane.kubeconfig()) for _ in range(6)]
    leases = [ClusterLease(a, f"user@host{i} 1 run{i}", {"command": "test"}) for i, a in enumerate(apis)]
    gate = threading.Barrier(len(leases))
    outcomes: list[object] = [None] * len(leases)

    def contend(number: int) -> None:
        gate.wait()
        try:
            leases[number].acquire()
            outcomes[number] = "held"
        except LockedError as error:
            outcomes[number] = error

    threads = [threading.Thread(target=contend, args=(n,)) for n in range(len(leases))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    try:
        winners = [n for n, outcome in enumerate(outcomes) if outcome == "held"]
        assert len(winners) == 1, outcomes
        losers = [o for o in outcomes if isinstance(o, LockedError)]
        assert len(losers) == 5
        assert all(f"user@host{winners[0]} 1 run{winners[0]}" in e.what for e in losers)
        assert all("(test)" in e.what and "counts as stale" in e.why for e in losers)
    finally:
        for lease in leases:
            lease.release()
    assert apis[0].get_or_none(PATH) is None


def test_is_renewed_across_a_restart_of_the_server(control_plane: ControlPlane, connect: Connect) -> None:
    control_plane.wait_ready()
    api = connect(control_plane.kubeconfig())
    reasons: list[str] = []
    with ClusterLease(api, "a@h 1 r", {}, ttl_s=30.0, on_lost=reasons.append) as lease:
        first = api.get(PATH)["spec"]["renewTime"]
        lease._ttl_s = 3.0  # renews each second from its next turn on
        wait_for(lambda: api.get(PATH)["spec"]["renewTime"] > first, 15, "a first renewal")
        control_plane.stop(kill=True)
        control_plane.start()
        control_plane.wait_ready()
        second = api.get(PATH)["spec"]["renewTime"]
        wait_for(lambda: api.get(PATH)["spec"]["renewTime"] > second, 15, "a renewal after the restart")
        wait_for(lambda: not lease.lost, 5, "the lock to be certain again")


def test_a_holder_learns_that_it_was_replaced(control_plane: ControlPlane, connect: Connect, api: KubeApi) -> None:
    reasons: list[str] = []
    lease = ClusterLease(api, "old@h 1 r", {}, ttl_s=1.5, on_lost=reasons.append)
    lease.acquire()
    taken = api.get(PATH)
    while True:
        taken["spec"]["holderIdentity"] = "new@other 2 r"
        try:
            api.replace(PATH, taken)
            break
        except KubeError:
            taken = api.get(PATH)
    wait_for(lambda: lease.lost, 10, "the loss to be noticed")
    assert "new@other 2 r" in reasons[0]
    lease.release()
    assert api.get(PATH)["spec"]["holderIdentity"] == "new@other 2 r", "another's lock must stay"
    api.delete(PATH)


def test_the_lock_of_a_killed_process_of_this_machine_is_free_at_once(api: KubeApi) -> None:
    if not process_identity():
        pytest.skip("no /proc here")
    child = subprocess.Popen(
        [sys.executable, "-c", "from kops_py.connect.lease import process_identity as p; print(p()); input()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    identity = child.stdout.readline().strip()
    dead = ClusterLease(api, "dead@h 7 r", {})
    dead.acquire()
    dead._stop.set()
    current = api.get(PATH)
    current["metadata"]["annotations"]["kops-py/process"] = identity
    api.replace(PATH, current)
    second = ClusterLease(api, "next@h 8 r", {})
    with pytest.raises(LockedError):
        second.acquire()
    child.kill()
    child.wait()
    began = time.monotonic()
    with second:
        assert time.monotonic() - began < 5
        assert api.get(PATH)["spec"]["holderIdentity"] == "next@h 8 r"
    child.communicate()
