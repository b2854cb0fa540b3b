"""Killed at any moment, the same command finishes the job and repeats nothing that is not safe to repeat."""

from __future__ import annotations

import json
import random
import re
import time
from collections.abc import Sequence

import pytest

from tests.e2e import watch
from tests.e2e.bed import Bed

NODES = ("n1", "n2", "n3")
BIG_NODES = ("n1", "n2", "n3", "n4", "n5")

# Where in a run of 1+2 the program is killed: a line on its standard error, as a person would see it.
POINTS = (
    r"n1:\s+Install and hold the packages",
    r"n1:\s+wait-control-plane",
    r"^\[.*\] n1: kubeadm init .*: done",
    r"n[23]:\s+kubelet-start",
    r"cluster: waiting: ",
)
BIG_POINTS = (
    r"n3:\s+Load images",
    r"n1:\s+(certs|wait-control-plane)",
    r"n2:\s+(check-etcd|etcd|kubelet-start)",
    r"n3: join as control plane$",
    r"n[45]:\s+kubelet-start",
)

pytestmark = pytest.mark.timeout(900)


def test_killed_at_five_points(bed: Bed) -> None:
    bed.boot(3)
    bed.write_inventory(control_planes=["n1"], workers=["n2", "n3"])
    bed.write_cluster("killed")
    _finish_after(bed, NODES, POINTS)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_killed_at_five_points_of_three_control_planes(bed: Bed) -> None:
    bed.boot(6)
    bed.write_inventory(control_planes=BIG_NODES[:3], workers=BIG_NODES[3:], load_balancers=["n6"])
    bed.write_cluster("killed-big")
    _finish_after(bed, BIG_NODES, BIG_POINTS)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", range(3))
def test_killed_at_random_moments(bed: Bed, seed: int) -> None:
    """Kills after random times until five runs in a row could not be killed in time any more."""
    moments = random.Random(seed)
    bed.boot(3)
    bed.write_inventory(control_planes=["n1"], workers=["n2", "n3"])
    bed.write_cluster("killed-random")
    for number in range(12):
        running = bed.program.start("bootstrap", "-y")
        end = time.monotonic() + moments.uniform(1.5, 14)
        while time.monotonic() < end and not running.has_ended:
            time.sleep(0.05)
        if running.has_ended:
            bed.program.expect(running, deadline_s=1)
            break
        said = running.kill().stderr.strip().splitlines()
        bed.say(f"kill {number + 1} after: {said[-1] if said else 'nothing'}")
    _check_end(bed, NODES)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    ("node", "point"),
    [
        pytest.param("n1", r"n1:\s+wait-control-plane", id="init"),
        pytest.param("n2", r"n2:\s+(check-etcd|kubelet-start)", id="join-control-plane"),
        pytest.param("n4", r"n4:\s+(kubelet-start|preflight)", id="join-worker"),
    ],
)
def test_power_loss_of_the_node_being_worked_on(bed: Bed, node: str, point: str) -> None:
    """The run fails and names the node; powered on again, the same command finishes.

    Not so when the second control plane dies between being added to etcd and starting its member: etcd then has two
    members and one that runs, no quorum, and the API is down for good. That is kubeadm's order of things before 1.29
    (no learners), and a case for restoring etcd; docs/bootstrap.md says so. The point here comes before it.
    """
    bed.boot(6)
    bed.write_inventory(control_planes=BIG_NODES[:3], workers=BIG_NODES[3:], load_balancers=["n6"])
    bed.write_cluster("power")
    running = bed.program.start("bootstrap", "-y")
    running.wait_said(point, deadline_s=300)
    bed.node(node).kill()
    failed = bed.program.expect(running, exit_code=10, deadline_s=400)
    assert node in failed.stderr.partition("error:")[2], failed.report()
    assert "kops-py bootstrap -y" in failed.stderr, failed.report()
    bed.node(node).start()
    _check_end(bed, BIG_NODES, power_lost=node)


def _finish_after(bed: Bed, nodes: Sequence[str], points: Sequence[str]) -> None:
    identity = ""
    for point in points:
        running = bed.program.start("bootstrap", "-y")
        spent = running.wait_said(point, deadline_s=300)
        running.kill()
        bed.say(f"killed {spent:.1f} s after its start at {point!r}")
        if not identity and re.search("kubeadm init .*: done", running.stderr):
            identity = bed.cluster_id()
    assert identity, "no kill came after the end of kubeadm init"
    _check_end(bed, nodes)
    assert bed.cluster_id() == identity, "the cluster was made a second time"


def _check_end(bed: Bed, nodes: Sequence[str], *, power_lost: str = "") -> None:
    """Run the same command to its end; then every node is a member, was made once, and no secret is left."""
    built = bed.bootstrap(deadline_s=500)
    bed.say(f"finished in {built.duration_s:.1f} s")
    assert bed.ready_nodes() == dict.fromkeys(nodes, True)
    assert _successes(bed, "n1", "kubeadm-init") == 1
    for name in nodes[1:]:
        # None where the power went after kubeadm's last act on the node and before its end was written down.
        wanted = {0, 1} if name == power_lost else {1}
        assert _successes(bed, name, "kubeadm-join") in wanted, name
    annotation = r"kubeadm\.alpha\.kubernetes\.io/cri-socket"
    sockets = bed.kubectl(f"get nodes -o jsonpath='{{.items[*].metadata.annotations.{annotation}}}'").split()
    assert len(sockets) == len(nodes), f"kubeadm join did not come to its end on every node: {sockets}"
    watch.assert_no_join_secrets(json.loads(bed.kubectl("-n kube-system get secrets -o json"))["items"])
    for name in nodes:
        watch.assert_host_left_clean(bed.node(name))
    status = bed.program.run("status", "-o", "json").json()
    assert status["unhealthy"] == []
    bed.assert_nothing_to_do()
    left = [p for name in ("inventory.json", "variables.json", "alive") for p in bed.folder.rglob(name)]
    assert left == [], "input of killed runs is left, which may hold a sudo password"


def _successes(bed: Bed, node: str, job: str) -> int:
    """How often this job ended well on this node, as systemd wrote it down."""
    lines = bed.node(node).exec(f"journalctl --no-pager -o cat -u kops-py-{job}.service").stdout
    return lines.count(f"kops-py-{job}.service: Deactivated successfully")
