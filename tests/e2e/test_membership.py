"""Members come and go: workers replaced by new hosts in an upgrade, a control plane removed, a machine lost."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence

import pytest

from kops_py.model.version import Version, facts_of
from tests.e2e import workload
from tests.e2e.bed import VERSION, Bed
from tests.e2e.traffic import Traffic

MINOR = "v1.21.0"
NEW = ("n4", "n5")
OLD = ("n2", "n3")
BIG = ("n1", "n2", "n3", "n4", "n5")

pytestmark = pytest.mark.timeout(1800)


@pytest.mark.soak
def test_replace_workers_killed_in_the_middle(bed: Bed) -> None:
    """1+2 become 1+2 others at a new minor, in one plan; killed in a drain and in a reset, the command finishes."""
    bed.boot(5)
    bed.write_inventory(control_planes=["n1"], workers=OLD)
    bed.write_cluster("replaced")
    bed.bootstrap(deadline_s=900)
    for name in NEW:
        bed.node(name).exec("systemctl start containerd")
        _bring_pause(bed, name)
    workload.load_image(bed, ["n1", *OLD, *NEW])
    workload.deploy(bed, ["n1", *OLD], linger_s=5, min_available=workload.REPLICAS - 1)
    command = ("upgrade", "--to", MINOR, "--strategy", "replace")
    few = bed.program.run(*command, "--plan", exit_code=3)
    assert "too-few-replacements" in few.text, few.report()

    bed.write_inventory(control_planes=["n1"], workers=[*OLD, *NEW])
    plan = bed.program.run(*command, "--plan", "-o", "json", exit_code=20).json()
    steps = [s["id"] for w in plan["waves"] for s in w["steps"]]
    assert steps.index(f"settled/n1@{MINOR}") < steps.index("join/n4") < steps.index("drain/n2"), steps
    with Traffic(bed, ["n1"]) as traffic:
        running = bed.program.start(*command, "--plan-digest", plan["digest"])
        running.wait_said(r"n2: drain$", deadline_s=500)
        bed.say(f"killed after {running.kill().duration_s:.1f} s in the drain of n2")
        running = bed.program.start(*command, "-y")
        running.wait_said(r"n[23]: kubeadm reset$", deadline_s=300)
        bed.say(f"killed after {running.kill().duration_s:.1f} s in a reset")
        finished = bed.program.run(*command, "-y", deadline_s=600)
        bed.say(f"finished in {finished.duration_s:.1f} s; {traffic}")
    assert "take out of the inventory: n" in finished.stdout, finished.report()
    bed.wait_ready(["n1", *NEW])
    found = json.loads(bed.kubectl("get nodes -o json"))["items"]
    assert {n["status"]["nodeInfo"]["kubeletVersion"] for n in found} == {MINOR}
    workload.wait_answers(bed, ["n1", *NEW], deadline_s=30)
    traffic.assert_unnoticed()
    for name in OLD:
        assert_left_clean(bed, name)

    again = bed.program.run(*command, "-y")
    assert "nothing to do" in again.text, again.report()
    bed.write_cluster("replaced", kubernetes={"version": MINOR})
    back = bed.program.run("bootstrap", "--plan", exit_code=20)
    assert "n2 was taken out of the cluster earlier and joins again: replaced by the upgrade" in back.text, (
        back.report()
    )
    bed.write_inventory(control_planes=["n1"], workers=NEW)
    bed.assert_nothing_to_do()
    again = bed.program.run(*command, "-y")
    assert "nothing to do" in again.text, again.report()


@pytest.mark.soak
def test_control_planes_leave_and_a_worker_is_lost(bed: Bed) -> None:
    """etcd's leader is removed, then a lost worker; the last control plane stays; a removed one joins again."""
    bed.boot(6)
    _write_big(bed, BIG[:3])
    bed.bootstrap(deadline_s=900)
    workload.load_image(bed, BIG)
    workload.deploy(bed, BIG, linger_s=5, min_available=workload.REPLICAS - 1)
    members = bed.program.run("status", "-o", "json").json()["etcd_members"]
    (leader,) = [m["name"] for m in members if m["is_leader"]]
    rest = [n for n in BIG[:3] if n != leader]
    on = rest[0]
    with Traffic(bed, [on]) as traffic:
        running = bed.program.start("node", "remove", leader, "-y")
        running.wait_said(rf"{leader}: kubeadm reset$", deadline_s=300)
        bed.say(f"killed after {running.kill().duration_s:.1f} s in the reset of {leader}, etcd's leader")
        removed = bed.program.run("node", "remove", leader, "-y", deadline_s=600)
        bed.say(f"finished in {removed.duration_s:.1f} s; {traffic}")
    assert f"take out of the inventory: {leader}" in removed.stdout, removed.report()
    traffic.assert_unnoticed()
    bed.wait_ready([n for n in BIG if n != leader], on=on)
    assert _members(bed) == dict.fromkeys(rest, True)
    assert_left_clean(bed, leader)

    _write_big(bed, rest)
    balanced = bed.bootstrap()
    assert "n6: configure haproxy" in balanced.stderr, balanced.report()
    bed.assert_nothing_to_do()

    alive = bed.program.run("node", "remove", "n5", "--lost", "-y", exit_code=3)
    assert "node-not-lost" in alive.text, alive.report()
    bed.node("n5").kill()
    _wait_not_ready(bed, "n5", on)
    plain = bed.program.run("node", "remove", "n5", "-y", exit_code=3)
    assert "--lost" in plain.text, plain.report()
    lost = bed.program.run("node", "remove", "n5", "--lost", "-y", deadline_s=200)
    assert "machine-left" in lost.text, lost.report()
    bed.wait_ready([*rest, "n4"], on=on)
    workload.wait_answers(bed, [*rest, "n4"], deadline_s=90)

    last = bed.program.run("node", "remove", *rest, "-y", "--ignore", "last-control-plane", exit_code=3)
    assert "last-control-plane" in last.text, last.report()
    _write_big(bed, BIG[:3], workers=["n4"])
    added = bed.program.run("node", "add", leader, "-y", deadline_s=900)
    bed.say(f"{leader} is back in {added.duration_s:.1f} s")
    bed.wait_ready([*BIG[:3], "n4"], on=on)
    assert _members(bed) == dict.fromkeys(BIG[:3], True)
    bed.assert_nothing_to_do()

    refused = bed.program.run("reset", "-y", exit_code=2)
    assert "--yes-really" in refused.stderr, refused.report()
    running = bed.program.start("reset", "--yes-really", "leaving")
    running.wait_said(r"n3: kubeadm reset$", deadline_s=200)
    running.kill()
    down = bed.program.run("reset", "--yes-really", "leaving", deadline_s=400)
    bed.say(f"reset of what was left in {down.duration_s:.1f} s")
    for name in (*BIG[:3], "n4"):
        assert_left_clean(bed, name)
    again = bed.program.run("reset", "--yes-really", "leaving")
    assert "nothing to do" in again.text, again.report()
    bed.program.run("bootstrap", "--plan", exit_code=20)  # and nothing that is left stands in the way of another


def _bring_pause(bed: Bed, name: str) -> None:
    """Give a host that joins at 1.21 the pause image that its containerd is told to use.

    The bed's 1.21.0 is made from 1.20's source and so brings pause 3.2; the real one, and the table, say 3.4.1.
    """
    (archive,) = [a for a in bed.bundle.image_archives(MINOR) if any("/pause:" in ref for ref in a.refs)]
    bed.node(name).put_file(archive.path, "/var/tmp/pause.tar")
    (ref,) = archive.refs
    wanted = f"{ref.rpartition(':')[0]}:{facts_of(Version.parse(MINOR)).pause}"
    bed.node(name).exec(f"ctr -n k8s.io images import /var/tmp/pause.tar && ctr -n k8s.io images tag {ref} {wanted}")


def assert_left_clean(bed: Bed, name: str) -> None:
    """Nothing of the cluster is left on a removed host but its packages, and the mark that says who removed it."""
    script = (
        "ls -d /etc/kubernetes/*.conf /etc/kubernetes/pki /etc/kubernetes/manifests/* /var/lib/etcd/member"
        " /var/lib/kubelet/pki /etc/cni/net.d/* /var/lib/cni/networks /etc/kops-py/bridge-peers"
        " /etc/systemd/system/kops-py-routes.service /var/lib/kops-py/jobs/* 2>/dev/null;"
        " iptables-save | grep -E 'KUBE-|kops-py|CNI-'; ip route show proto 76; ip -o link show cni0 2>/dev/null;"
        " crictl pods -q --state Ready; systemctl is-active --quiet kubelet && echo kubelet; true"
    )
    left = bed.node(name).exec(script).stdout.strip()
    assert not left, f"{name} still has:\n{left}"
    mark = json.loads(bed.node(name).exec("cat /etc/kops-py/removed.json").stdout)
    assert mark["done"] is True


def _write_big(bed: Bed, control_planes: Sequence[str], workers: Sequence[str] = BIG[3:]) -> None:
    bed.write_inventory(control_planes=control_planes, workers=workers, load_balancers=["n6"])
    bed.write_cluster("leaving", kubernetes={"version": VERSION})


def _members(bed: Bed) -> dict[str, bool]:
    return {m["name"]: m["healthy"] for m in bed.program.run("status", "-o", "json").json()["etcd_members"]}


def _wait_not_ready(bed: Bed, name: str, on: str) -> None:
    deadline = time.monotonic() + 120
    while bed.ready_nodes(on=on).get(name):
        assert time.monotonic() < deadline, f"{name} is Ready still, 120 s after its power was cut"
        time.sleep(1)
