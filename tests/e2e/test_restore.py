"""Restores on real kubeadm clusters: from one wiped control plane to the loss of every disk.

Each with keys written before and after the snapshot, a workload that goes on answering, and a controller and a
kubelet that are seen to notice what is changed after the restore.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.e2e import backups, canaries
from tests.e2e.bed import Bed
from tests.e2e.program import Finished
from tests.e2e.snapshots import HOST_ETCDCTL, fetch, take_snapshot

PLANES = ("n1", "n2", "n3")
NODES = ("n1", "n2", "n3", "n4")
BALANCER = "n5"
GOAL_S = 300
# Where a restore is killed: what a person would see on its standard error at that moment.
KILLED_AT = (
    r"etcd \S+ (serves|runs|is stopped)",
    r"has the snapshot",
    r"cluster: make the new data directories beside the old ones$",
    r"stopping (kube-|etcd)",
    r"stop API servers, controllers and etcd .*: done",
    # What a killed run has still told the hosts to do, the next one passes over: from here on only what is always said.
    r"cluster: start all members, prove health and equal contents$",
    r"prove health and equal contents: done",
    r"API server is not ready",
    r"n\d: start controller manager and scheduler$",
    r"restarting \d+ containers",
    r"cluster: wait until the cluster is healthy$",
)
# Where a control plane loses its power in a restore, and whether the old state is put back on the others then.
POWER_LOST_AT = (
    (r"has the snapshot", "n3", True),
    (r"stop API servers, controllers and etcd .*: done", "n2", True),
    (r"put the new data in its place: done", "n3", False),
    (r"n2: start the API server$", "n2", False),
    (r"n1: start controller manager and scheduler$", "n1", False),
)

pytestmark = pytest.mark.timeout(1800)


@pytest.mark.soak
def test_single_control_plane_loses_all_disks(bed: Bed, tmp_path: Path) -> None:
    """The only disk is lost while the node is down; a fresh, empty etcd then serves, and is told from the cluster."""
    nodes = _single(bed)
    snapshot = _prepared(bed, nodes, tmp_path)
    bed.node("n1").exec("systemctl stop kubelet; crictl stop --timeout 5 $(crictl ps --name '^etcd$' -q)")
    _wipe(bed, "n1")
    bed.node("n1").exec("systemctl start kubelet")
    _restored(bed, nodes, "--from", str(snapshot))


@pytest.mark.soak
def test_set_back_and_refusals(bed: Bed, tmp_path: Path) -> None:
    """What must be refused is, before anything is touched; with --force the cluster is set back, old data kept."""
    nodes = _single(bed)
    snapshot = _prepared(bed, nodes, tmp_path)
    bed.kubectl("annotate configmap canary-before changed=later")
    refused = bed.program.run("etcd", "restore", "--from", str(snapshot), "-y", exit_code=3)
    assert "quorum-serves" in refused.text, refused.report()
    damaged = tmp_path / "damaged.db"
    body = bytearray(snapshot.read_bytes())
    body[len(body) // 2] ^= 1
    damaged.write_bytes(body)
    bed.program.run("etcd", "restore", "--from", str(damaged), "--force", "-y", exit_code=14)
    planned = bed.program.run("etcd", "restore", "--from", str(snapshot), "--force", "--plan", exit_code=20)
    assert "point of no return" in planned.stdout, planned.report()
    assert "restore-loses" in planned.text, planned.report()
    canaries.check(bed, before=True, after=True)  # nothing was touched so far
    done = _restored(bed, nodes, "--from", str(snapshot), "--force", kept=("n1",))
    assert re.search(r"lost, in .*: \d+ configmaps: .*default/canary-after", done.text), done.report()
    assert re.search(r"set back, .*: \d+ configmaps: .*default/canary-before", done.text), done.report()
    again = bed.program.run("etcd", "restore", "--from", str(snapshot), "--force", "-y", exit_code=3)
    assert "restore-repeated" in again.text, again.report()


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_every_disk_then_one_then_two_of_three_lost(bed: Bed) -> None:
    """One cluster, one loss after the other, from a backup in a store; the last restore is killed at every point."""
    nodes = _three(bed)
    backup, key = _prepared_with_backup(bed, nodes)
    _lose_disks(bed, PLANES)
    locked = bed.program.run("etcd", "restore", backup, "-y", exit_code=2)
    assert "--identity" in locked.text, locked.report()
    _restored(bed, nodes, backup, "--identity", str(key))
    bed.kubectl("create configmap canary-after --from-literal=word=after")
    _one_lost(bed, nodes)
    _two_lost(bed, nodes, backup, "--identity", str(key))
    _lose_disks(bed, PLANES)
    arguments = ("newest", "--identity", str(key), "--ignore", "restore-repeated")
    for point in KILLED_AT:
        running = bed.program.start("etcd", "restore", *arguments, "-y")
        spent = running.wait_said(point, deadline_s=200)
        running.kill()
        bed.say(f"killed {spent:.1f} s after its start at {point!r}")
    _restored(bed, nodes, *arguments)
    _check_no_snapshot_left(bed)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_power_lost_in_a_restore(bed: Bed, tmp_path: Path) -> None:
    """A control plane loses its power in a restore, on this side and beyond of the point of no return."""
    nodes = _three(bed)
    arguments = ("--from", str(_prepared(bed, nodes, tmp_path)), "--force")
    for point, name, put_back in POWER_LOST_AT:
        running = bed.program.start("etcd", "restore", *arguments, "-y")
        spent = running.wait_said(point, deadline_s=300)
        bed.node(name).kill()
        finished = running.wait(deadline_s=900)
        bed.say(f"{name} lost its power {spent:.1f} s after the start at {point!r}; ended {finished.duration_s:.1f} s")
        assert finished.exit_code not in (0, 20), finished.report()
        assert "Traceback" not in finished.stderr, finished.report()
        assert "the same command" in finished.text, finished.report()
        if put_back:
            _check_old_state_serves(bed, on="n1")
        bed.node(name).start()
    _restored(bed, nodes, *arguments, kept=PLANES)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_external_etcd_lost(bed: Bed, tmp_path: Path) -> None:
    """etcd on hosts of its own: one member lost and replaced, then every disk lost and restored."""
    nodes, etcd = ("n1", "n2"), ("n3", "n4", "n5")
    bed.boot(5)
    bed.write_inventory(control_planes=nodes[:1], workers=nodes[1:], etcd=etcd)
    bed.write_cluster("restored", etcd={"topology": "external"})
    bed.bootstrap(deadline_s=900)
    canaries.write(bed, nodes)
    bed.node("n3").exec(f"{HOST_ETCDCTL} snapshot save /var/tmp/test.db")
    snapshot = fetch(bed, "/var/tmp/test.db", tmp_path, on="n3")
    bed.kubectl("create configmap canary-after --from-literal=word=after")

    bed.node("n5").exec("systemctl stop etcd; find /var/lib/etcd -mindepth 1 -delete; systemctl start --no-block etcd")
    finished = bed.program.run("etcd", "restore", "-y", deadline_s=600)
    bed.say(f"external member of n5 replaced in {finished.duration_s:.1f} s")
    canaries.check(bed, before=True, after=True)
    canaries.check_serves(bed, nodes, etcd)

    for name in etcd:
        bed.node(name).exec("systemctl stop etcd")
    for name in etcd:
        bed.node(name).exec("find /var/lib/etcd -mindepth 1 -delete")
    finished = bed.program.run("etcd", "restore", "--from", str(snapshot), "-y", deadline_s=900)
    bed.say(f"external etcd restored in {finished.duration_s:.1f} s")
    assert finished.duration_s < GOAL_S
    canaries.check(bed, before=True, after=False)
    owner = bed.node("n3").exec("stat -c '%U:%G %a' /var/lib/etcd /var/lib/etcd/member").stdout
    assert owner.split() == ["etcd:etcd", "700"] * 2, owner
    canaries.check_serves(bed, nodes, etcd)


def _one_lost(bed: Bed, nodes: Sequence[str]) -> None:
    """Quorum serves: the member is replaced, nothing is restored and nothing is lost."""
    _lose_disks(bed, ("n3",), come_back=False)
    finished = bed.program.run("etcd", "restore", "-y", deadline_s=600)
    bed.say(f"member of n3 replaced in {finished.duration_s:.1f} s")
    assert finished.duration_s < GOAL_S
    canaries.check(bed, before=True, after=True)
    canaries.check_serves(bed, nodes)


def _two_lost(bed: Bed, nodes: Sequence[str], *backup: str) -> None:
    """The survivor's data is newer than the snapshot: that is said, and with it nothing is lost."""
    _lose_disks(bed, ("n2", "n3"), come_back=False)
    refused = bed.program.run("etcd", "restore", *backup, "-y", exit_code=3)
    assert "newer-data-survives" in refused.text, refused.report()
    assert "--from-member n1" in refused.text, refused.report()
    finished = bed.program.run("etcd", "restore", "--from-member", "n1", "-y", deadline_s=600)
    bed.say(f"restored from the data of n1 in {finished.duration_s:.1f} s")
    assert finished.duration_s < GOAL_S
    canaries.check(bed, before=True, after=True)
    canaries.check_serves(bed, nodes)


def _single(bed: Bed) -> tuple[str, ...]:
    nodes = ("n1", "n2")
    bed.boot(2)
    bed.write_inventory(control_planes=nodes[:1], workers=nodes[1:])
    bed.write_cluster("restored")
    bed.bootstrap()
    return nodes


def _three(bed: Bed) -> tuple[str, ...]:
    bed.boot(5)
    bed.write_inventory(control_planes=PLANES, workers=NODES[3:], load_balancers=[BALANCER])
    bed.write_cluster("restored")
    bed.bootstrap(deadline_s=900)
    return NODES


def _prepared(bed: Bed, nodes: Sequence[str], folder: Path) -> Path:
    """Deploy the workload, write keys, take a snapshot, write more keys; returns the snapshot on this machine."""
    canaries.write(bed, nodes)
    place = take_snapshot(bed, folder)
    bed.kubectl("create configmap canary-after --from-literal=word=after")
    return place


def _prepared_with_backup(bed: Bed, nodes: Sequence[str]) -> tuple[str, Path]:
    """Do the same with a backup in a store; returns its id and the file with the private key."""
    canaries.write(bed, nodes)
    backup, _, key = backups.section(bed)
    bed.write_cluster("restored", backup=backup)
    made = bed.program.run("etcd", "backup", "--yes")
    (line,) = backups.listed(bed)
    assert line["state"] == "good", line
    bed.say(f"backup {line['id']} made and proven in {made.duration_s:.1f} s")
    bed.kubectl("create configmap canary-after --from-literal=word=after")
    return str(line["id"]), key


def _wipe(bed: Bed, name: str) -> None:
    bed.node(name).exec("find /var/lib/etcd -mindepth 1 -delete")


def _lose_disks(bed: Bed, names: Sequence[str], *, come_back: bool = True) -> None:
    """Take the data of these members while they are down, all at the same time.

    They ``come_back`` with empty disks. A member whose manifest lists the whole cluster as one that exists then joins
    by itself under its old id, and even gives a lost quorum back: what is to stay lost stays down.
    """
    for name in names:
        bed.node(name).exec(
            "systemctl stop kubelet; crictl stop --timeout 0 $(crictl ps --name '^etcd$' -q)", check=False
        )
    for name in names:
        _wipe(bed, name)
    for name in names if come_back else ():
        bed.node(name).exec("systemctl start kubelet")


def _restored(bed: Bed, nodes: Sequence[str], *arguments: str, kept: Sequence[str] = ()) -> Finished:
    """Restore to the end and check all that must hold afterwards."""
    finished = bed.program.run("etcd", "restore", *arguments, "-y", deadline_s=900)
    bed.say(f"restored {len(nodes)} nodes in {finished.duration_s:.1f} s")
    assert finished.duration_s < GOAL_S
    canaries.check(bed, before=True, after=False)
    for name in kept:
        found = bed.node(name).exec(
            "ls -d /var/lib/etcd/etcd-before-r*/member /var/lib/etcd-before-r*/member", check=False
        )
        assert re.search(r"before-r\d+-[0-9a-f]+-\d{8}T\d{6}Z/member", found.stdout), found
    canaries.check_serves(bed, nodes)
    return finished


def _check_old_state_serves(bed: Bed, *, on: str) -> None:
    """What was put back serves again, with what was written after the snapshot."""
    started = time.monotonic()
    while "configmap/canary-after" not in bed.kubectl("get configmaps -o name", on=on, check=False).split():
        assert time.monotonic() - started < 180, "the old state does not serve again"
        time.sleep(1)
    bed.say(f"the old state serves again {time.monotonic() - started:.1f} s after the program's end")


def _check_no_snapshot_left(bed: Bed) -> None:
    left = [p for p in (bed.folder / ".kops-py").rglob("*") if p.suffix == ".db"]
    assert left == []
