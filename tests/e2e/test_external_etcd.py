"""An etcd on hosts of its own: built with the cluster, killed meanwhile; a member lost, replaced, one more added."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence

import pytest

from tests.e2e import watch, workload
from tests.e2e.bed import Bed

CONTROL_PLANES = ("n1", "n2")
WORKER = "n3"
NODES = (*CONTROL_PLANES, WORKER)
ETCD = ("n4", "n5", "n6")
BALANCER = "n4"
"""A host can be two things: the first etcd host balances the API as well, and is not the one that is lost."""
NEWCOMER = "n3"
"""The worker, which becomes a member as well."""
PKI = "/etc/etcd/pki"

pytestmark = [pytest.mark.soak, pytest.mark.timeout(2400)]


def test_external_etcd(bed: Bed) -> None:
    bed.boot(6)
    _write(bed)
    _kill_while_etcd_is_built(bed)
    built = bed.bootstrap(deadline_s=900)
    bed.say(f"finished in {built.duration_s:.1f} s")
    assert bed.ready_nodes() == dict.fromkeys(NODES, True)
    _check_members(bed, ETCD)
    _check_files(bed)
    bed.assert_nothing_to_do()
    bed.say("nothing to do the second time")
    workload.load_image(bed, NODES)
    workload.deploy(bed, NODES)
    workload.assert_answers(bed, NODES)

    bed.node("n6").kill()
    bed.say("n6 lost its power")
    assert bed.ready_nodes() == dict.fromkeys(NODES, True)
    bed.kubectl("create configmap written-without-n6")
    workload.assert_answers(bed, NODES)
    status = bed.program.run("status", "-o", "json").json()
    assert any("n6" in problem for problem in status["unhealthy"]), status["unhealthy"]
    bed.node("n6").start()
    _wait_members(bed, ETCD)
    bed.say("n6 is a healthy member again")
    bed.assert_nothing_to_do()

    _replace(bed, "n5")
    _add(bed)
    workload.assert_answers(bed, NODES)
    bed.assert_nothing_to_do()
    _check_no_secrets(bed)


def _write(bed: Bed, etcd: Sequence[str] = ETCD) -> None:
    bed.write_inventory(control_planes=CONTROL_PLANES, workers=[WORKER], load_balancers=[BALANCER], etcd=etcd)
    bed.write_cluster("external", etcd={"topology": "external"})


def _kill_while_etcd_is_built(bed: Bed) -> None:
    for point in (r"n5: make the member's certificates", r"n[456]:\s+Write the settings"):
        running = bed.program.start("bootstrap", "-y")
        running.wait_said(point, deadline_s=600)
        running.kill()
        bed.say(f"killed at {point!r}")


def _members(bed: Bed) -> list[dict[str, object]]:
    status = bed.program.run("status", "-o", "json").json()
    return [*status["etcd_members"]]


def _check_members(bed: Bed, hosts: Sequence[str]) -> None:
    members = _members(bed)
    assert sorted(str(m["name"]) for m in members) == sorted(hosts)
    assert all(m["healthy"] and not m["is_learner"] for m in members), members
    assert sum(bool(m["is_leader"]) for m in members) == 1
    assert len({m["cluster_id"] for m in members}) == 1


def _wait_members(bed: Bed, hosts: Sequence[str]) -> None:
    deadline = time.monotonic() + 90
    while True:
        try:
            return _check_members(bed, hosts)
        except AssertionError:
            assert time.monotonic() < deadline, f"not all of {hosts} are healthy again: {_members(bed)}"
            time.sleep(1)


def _check_files(bed: Bed) -> None:
    for name in ETCD:
        found = bed.node(name).exec(f"stat -c '%n %a %U:%G' {PKI}/*.key /var/lib/etcd").stdout.split("\n")
        assert {line.removeprefix(f"{PKI}/") for line in found if "healthcheck" not in line} == {
            "",
            "ca.key 600 root:root",
            "peer.key 640 root:etcd",
            "server.key 640 root:etcd",
            "/var/lib/etcd 700 etcd:etcd",
        }
    digests = {bed.node(n).exec(f"sha256sum < {PKI}/ca.crt").stdout for n in ETCD}
    assert len(digests) == 1, "the members are by different authorities"
    for name in CONTROL_PLANES:
        mode = bed.node(name).exec("stat -c %a /etc/kubernetes/pki/apiserver-etcd-client.key").stdout
        assert mode == "600\n"
        assert bed.node(name).exec("ls /etc/kubernetes/manifests/etcd.yaml", check=False).returncode != 0
    config = bed.kubectl("-n kube-system get configmap kubeadm-config -o jsonpath={.data.ClusterConfiguration}")
    assert f"https://{bed.node('n5').ip}:2379" in config


def _replace(bed: Bed, name: str) -> None:
    """A machine that comes back empty under its old name takes the place of the lost member."""
    bed.node(name).exec("systemctl stop etcd; rm -rf /var/lib/etcd/member /etc/etcd /etc/kops-py")
    planned = bed.program.run("bootstrap", "--plan", "-o", "json", exit_code=20).json()
    steps = [s["id"] for w in planned["waves"] for s in w["steps"]]
    assert steps == [f"etcd-certificates/{name}", f"etcd-member/{name}", "etcd-healthy", "healthy"], steps
    replaced = bed.bootstrap(deadline_s=400)
    bed.say(f"{name} replaced in {replaced.duration_s:.1f} s")
    _check_members(bed, ETCD)
    bed.assert_nothing_to_do()


def _add(bed: Bed) -> None:
    _write(bed, (*ETCD, NEWCOMER))
    added = bed.bootstrap("--ignore", "even-control-planes", deadline_s=400)
    bed.say(f"{NEWCOMER} added in {added.duration_s:.1f} s")
    _check_members(bed, (*ETCD, NEWCOMER))


def _check_no_secrets(bed: Bed) -> None:
    watch.assert_no_join_secrets(json.loads(bed.kubectl("-n kube-system get secrets -o json"))["items"])
    for name, text in watch.files_below(bed.folder / ".kops-py"):
        assert "PRIVATE KEY" not in text, f"{name} holds a private key"
