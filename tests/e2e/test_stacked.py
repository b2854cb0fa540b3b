"""Three control planes with stacked etcd behind haproxy: built, converged, and used with one of them dead."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any

import pytest

from tests.e2e import watch, workload
from tests.e2e.bed import KUBECONFIG, VERSION, Bed
from tests.e2e.program import Finished

CONTROL_PLANES = ("n1", "n2", "n3")
WORKERS = ("n4", "n5")
BALANCER = "n6"
NEWCOMER = "n7"
NODES = CONTROL_PLANES + WORKERS
HOST_VARIABLES: Mapping[str, Mapping[str, Any]] = {
    "n4": {"node_labels": {"disk": "fast", "example.com/rack": "r1"}},
    "n5": {"node_taints": ["dedicated=jobs:PreferNoSchedule"], "node_labels": {"disk": "slow"}},
}

pytestmark = pytest.mark.timeout(900)


def test_stacked_loses_first(bed: Bed) -> None:
    _scenario(bed, lost="n1")


@pytest.mark.soak
@pytest.mark.parametrize("lost", CONTROL_PLANES[1:])
def test_stacked_loses(bed: Bed, lost: str) -> None:
    _scenario(bed, lost=lost)


@pytest.mark.soak
def test_a_control_plane_installed_anew_joins_again(bed: Bed) -> None:
    """Its disk is new, its name and address are not: its old member of etcd goes first; killed right after that."""
    bed.boot(4)
    bed.write_inventory(control_planes=CONTROL_PLANES, workers=[], load_balancers=["n4"])
    bed.write_cluster("anew")
    bed.bootstrap(deadline_s=500)
    identity = bed.cluster_id()
    bed.lab.kill("n2")
    bed.lab.new_disk("n2")
    bed.lab.start("n2")
    plan = bed.program.run("bootstrap", "--plan", "-o", "json", exit_code=20).json()
    steps = [s["id"] for w in plan["waves"] for s in w["steps"] if not s["id"].startswith(("prepare/", "bridge/"))]
    assert steps.index("etcd/n2") < steps.index("join/n2"), steps
    assert not any(s.startswith(("join/", "etcd/")) and not s.endswith("/n2") for s in steps), steps
    running = bed.program.start("bootstrap", "-y")
    running.wait_said(r"n2: take the member of its earlier installation out of etcd: done", deadline_s=400)
    running.kill()
    finished = bed.bootstrap(deadline_s=500)
    bed.say(f"n2, installed anew, is back in {finished.duration_s:.1f} s after a kill")
    bed.wait_ready(CONTROL_PLANES)
    members = bed.program.run("etcd", "members", "-o", "json").json()
    assert sorted(m["name"] for m in members) == list(CONTROL_PLANES), members
    assert bed.cluster_id() == identity
    bed.assert_nothing_to_do()


def _scenario(bed: Bed, *, lost: str) -> None:
    bed.boot(7)
    _write(bed)
    _check_plans(bed)
    with watch.SecretWatch([bed.node(n) for n in NODES]) as watching:
        built = _build_from_approved_plan(bed)
    bed.say(f"bootstrap {built.duration_s:.1f} s")
    assert len(watching.secrets - watching.tokens) > 0, "the watch saw no certificate key"
    _check_built(bed)
    identity = bed.cluster_id()
    bed.assert_nothing_to_do()
    workload.load_image(bed, NODES)
    workload.deploy(bed, NODES)
    assert len(workload.assert_answers(bed, NODES)) > 1, "all pods are on one node"
    bed.say("workload answers from every node")
    _keep_dns(bed, lost)

    _lose(bed, lost)
    _add_worker(bed, lost)
    _come_back(bed, lost)
    assert bed.cluster_id() == identity
    _check_no_secrets(bed, watching, built)


def _write(bed: Bed, *, workers: tuple[str, ...] = WORKERS) -> None:
    bed.write_inventory(
        control_planes=CONTROL_PLANES,
        workers=workers,
        load_balancers=[BALANCER],
        host_variables={**HOST_VARIABLES, "n8": {"ansible_host": str(bed.lab.gateway).rpartition(".")[0] + ".250"}},
    )
    bed.write_cluster("stacked")


def _check_plans(bed: Bed) -> None:
    """Two plans of the same state are the same plan, and another digest is refused before anything is touched."""
    first, second = (bed.program.run("bootstrap", "--plan", "-o", "json", exit_code=20).json() for _ in range(2))
    assert first["digest"] == second["digest"]
    assert first["waves"] == second["waves"]
    steps = [s["id"] for w in first["waves"] for s in w["steps"]]
    assert [s for s in steps if s.startswith("join/")] == ["join/n2", "join/n3", "join/n4", "join/n5"]
    refused = bed.program.run("bootstrap", "--plan-digest", "0" * 64, exit_code=3)
    assert "not the one that was approved" in refused.stderr, refused.report()
    assert "--plan" in refused.stderr
    assert bed.node("n1").exec("test -e /etc/kops-py", check=False).returncode == 1


def _build_from_approved_plan(bed: Bed) -> Finished:
    """Run exactly the plan that was looked at, with the events as JSON lines."""
    plan = bed.program.run("bootstrap", "--plan", "-o", "json", exit_code=20).json()
    built = bed.program.run("bootstrap", "--plan-digest", plan["digest"], "-o", "json", deadline_s=500)
    events = built.events()
    last = events[-1]
    assert last["event"] == "run-finished", built.report()
    steps = [s["id"] for w in plan["waves"] for s in w["steps"]]
    assert (last["exit_code"], last["steps_left"], last["steps_failed"]) == (0, 0, 0)
    assert last["steps_done"] + last["steps_skipped"] == len(steps)
    assert sorted(e["step"] for e in events if e["event"] == "step-finished") == sorted(steps)
    assert all(e["at_s"] > 0 for e in events)
    return built


def _check_built(bed: Bed) -> None:
    nodes = {n["metadata"]["name"]: n for n in json.loads(bed.kubectl("get nodes -o json"))["items"]}
    assert sorted(nodes) == sorted(NODES)
    assert all(bed.ready_nodes().values())
    assert nodes["n4"]["metadata"]["labels"].items() >= {"disk": "fast", "example.com/rack": "r1"}.items()
    taint = {"key": "dedicated", "value": "jobs", "effect": "PreferNoSchedule"}
    assert taint in nodes["n5"]["spec"]["taints"]
    assert nodes["n4"]["spec"].get("taints", []) == []
    config = bed.kubectl("-n kube-system get configmap kubeadm-config -o jsonpath={.data.ClusterConfiguration}")
    assert f"controlPlaneEndpoint: {bed.node(BALANCER).ip}:6443" in config
    kubelet = bed.node("n4").exec("cat /etc/kubernetes/kubelet.conf").stdout
    assert f"server: https://{bed.node(BALANCER).ip}:6443" in kubelet
    status = bed.program.run("status", "-o", "json").json()
    assert status["unhealthy"] == []
    assert [m["healthy"] for m in status["etcd_members"]] == [True] * 3
    assert {n["version"] for n in status["nodes"]} == {VERSION}


def _keep_dns(bed: Bed, lost: str) -> None:
    """Both of its pods may be on the node that will be lost, and would be away for the five minutes they tolerate."""
    bed.kubectl(f"cordon {lost}")
    bed.kubectl("-n kube-system delete pods -l k8s-app=kube-dns --wait=true")
    rollout = "-n kube-system rollout status deployment/coredns --timeout=90s"
    bed.node("n1").exec(f"kubectl --kubeconfig {KUBECONFIG} {rollout}", timeout_s=100)
    bed.kubectl(f"uncordon {lost}")


def _lose(bed: Bed, lost: str) -> None:
    """Power loss: the API behind haproxy and the workload on the other nodes go on."""
    bed.node(lost).kill()
    rest = [n for n in NODES if n != lost]
    other = next(n for n in CONTROL_PLANES if n != lost)
    took = _wait_api(bed, other)
    bed.say(f"API through haproxy {took:.1f} s after the loss of {lost}")
    # kube-controller-manager's default: pods of a node count as ready until it was silent for 40 s.
    took = workload.wait_answers(bed, rest, deadline_s=90)
    bed.say(f"workload answers from the rest after {took:.1f} s")


def _wait_api(bed: Bed, on: str) -> float:
    """Ask through the balancer, which the node's admin.conf names; returns the seconds until it answered."""
    script = (
        "s=$(date +%s); until kubectl --kubeconfig /etc/kubernetes/admin.conf --request-timeout=3s get --raw /readyz;"
        " do [ $(($(date +%s) - s)) -lt 60 ] || exit 1; sleep 0.5; done; echo; echo $(($(date +%s) - s))"
    )
    return float(bed.node(on).exec(script, timeout_s=90).stdout.split()[-1])


def _add_worker(bed: Bed, lost: str) -> None:
    """A new worker joins while a control plane is dead; a host outside --limit is not touched, even a dead one."""
    other = next(n for n in CONTROL_PLANES if n != lost)
    _write(bed, workers=(*WORKERS, NEWCOMER, "n8"))
    added = bed.bootstrap("--limit", NEWCOMER)
    bed.say(f"worker added in {added.duration_s:.1f} s while {lost} is dead")
    warnings = [line for line in added.text.splitlines() if "member-unreachable" in line]
    assert any(lost in line for line in warnings), added.report()
    ready = bed.ready_nodes(on=other)
    assert set(ready) == {*NODES, NEWCOMER}
    assert ready[NEWCOMER]
    workload.load_image(bed, [NEWCOMER])
    _write(bed, workers=(*WORKERS, NEWCOMER))
    rest = [n for n in (*NODES, NEWCOMER) if n != lost]
    workload.wait_answers(bed, rest, deadline_s=30)


def _come_back(bed: Bed, lost: str) -> None:
    """Power again: the control plane is Ready by itself, and there is nothing left to do."""
    bed.node(lost).start()
    other = next(n for n in CONTROL_PLANES if n != lost)
    _wait_new_boot(bed, lost, other)  # its Ready of before the loss may still stand in the API
    took = bed.wait_ready(sorted((*NODES, NEWCOMER)), on=other)
    bed.say(f"{lost} is Ready again after {took:.1f} s")
    # Its routes do not know the newcomer that joined meanwhile: bootstrap sets exactly that right.
    settled = bed.bootstrap()
    bed.say(f"converged in {settled.duration_s:.1f} s")
    bed.assert_nothing_to_do()
    workload.assert_answers(bed, [*NODES, NEWCOMER])
    status = bed.program.run("status", "-o", "json").json()
    assert status["unhealthy"] == []
    assert [m["healthy"] for m in status["etcd_members"]] == [True] * 3


def _wait_new_boot(bed: Bed, name: str, other: str) -> None:
    """Wait until the node's kubelet has reported the boot that runs now."""
    booted, deadline = bed.node(name).boot_id(), time.monotonic() + 90
    path = f"get node {name} -o jsonpath={{.status.nodeInfo.bootID}}"
    while bed.kubectl(path, on=other, check=False).strip() != booted:
        assert time.monotonic() < deadline, f"the kubelet of {name} has not reported its new boot within 90 s"
        time.sleep(0.5)


def _check_no_secrets(bed: Bed, watching: watch.SecretWatch, built: Finished) -> None:
    watch.assert_no_join_secrets(json.loads(bed.kubectl("-n kube-system get secrets -o json"))["items"])
    places = [("stdout", built.stdout), ("stderr", built.stderr), *watch.files_below(bed.folder / ".kops-py")]
    for name in (*NODES, NEWCOMER):
        watch.assert_host_left_clean(bed.node(name))
        places += watch.host_places(bed.node(name))
    watching.assert_clean(places)
