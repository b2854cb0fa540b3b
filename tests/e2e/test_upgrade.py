"""Real upgrades with real kubeadm, under a workload that somebody uses all the time."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from tests.bundle import ensure
from tests.e2e import backups, workload
from tests.e2e.balancing import Balancing
from tests.e2e.bed import VERSION, Bed
from tests.e2e.program import Finished
from tests.e2e.test_membership import assert_left_clean
from tests.e2e.traffic import Traffic

PATCH = "v1.20.3"
MINOR = "v1.21.0"
NEXT = "v1.22.0"
SMALL = ("n1", "n2", "n3")
BIG = ("n1", "n2", "n3", "n4", "n5")

pytestmark = pytest.mark.timeout(1500)


def test_a_minor_upgrade_killed_in_the_middle(bed: Bed) -> None:
    """1+2 from a reviewed plan; killed while a worker is drained; the same command finishes and repeats nothing.

    With the operator's hooks, gates, a canary and a group: each ran where and as often as it should. It begins with
    one backup, for all the times it is begun.
    """
    _build(bed, SMALL, control_planes=1, sections=_controls)
    before = _boot_ids(bed, SMALL)
    digest = _plan_digest(bed, MINOR)
    refused = bed.program.run("upgrade", "--to", MINOR, "--plan-digest", "0" * 64, exit_code=3)
    assert "not the one that was approved" in refused.stderr, refused.report()
    bed.kubectl("cordon n1")  # a person's: it stays
    digest = _plan_digest(bed, MINOR, changed_from=digest)
    with Traffic(bed, SMALL) as traffic:
        running = bed.program.start("upgrade", "--to", MINOR, "--plan-digest", digest)
        running.wait_said(r"n2: drain$", deadline_s=400)
        killed = running.kill()
        assert _cordons(bed)["n2"] is True
        _check_deadline(bed)
        finished = bed.program.run("upgrade", "--to", MINOR, "-y", deadline_s=900, exit_code=10)
        assert "n3: the hook after the work failed" in finished.stderr, finished.report()
        assert "exit status 3: not yet" in finished.stderr, finished.report()
        assert re.search(r"n3: its upgrade has not come to its end: .*not yet", bed.program.run("status").stdout)
        bed.node("n3").exec("touch /root/mended")
        last = _upgrade(bed, MINOR)
    bed.say(
        f"killed after {killed.duration_s:.1f} s; upgrade after that {finished.duration_s:.1f} s, "
        f"the end of it {last.duration_s:.1f} s; {traffic}"
    )
    _check(bed, SMALL, MINOR, traffic, cordoned=("n1",))
    assert "n1: kubeadm upgrade" not in finished.stderr, "the control plane was upgraded twice"
    assert "n3: drain" not in last.stderr, "the worker whose hook failed was drained twice"
    assert "the canary has been watched" in finished.stderr, finished.report()
    assert "workers of both, at most 1 at once" in finished.stderr, finished.report()
    assert "the canary has been watched" not in last.stderr, last.report()
    _check_traces(bed)
    (backup,) = backups.listed(bed)
    assert (backup["state"], backup["kubernetes_version"]) == ("good", VERSION), backup
    assert _boot_ids(bed, SMALL) == before

    removed = bed.program.run("node", "remove", "n3", "-y")
    bed.say(f"n3 removed in {removed.duration_s:.1f} s")
    bed.wait_ready(SMALL[:2])
    assert_left_clean(bed, "n3")
    workload.assert_answers(bed, SMALL[:2])
    again = bed.program.run("node", "remove", "n3", "-y")
    assert "nothing to do" in again.text, again.report()


def _check_deadline(bed: Bed) -> None:
    """A window that closes in the middle: the run ends by itself, tells it, and leaves its reports."""
    reports = ("--report-markdown", "cut.md", "--report-junit", "cut.xml")
    cut = bed.program.run("upgrade", "--to", MINOR, "-y", "--deadline", "6s", *reports, exit_code=124, deadline_s=120)
    assert cut.duration_s < 60, cut.report()
    assert "kops-py upgrade --to v1.21.0" in cut.stderr, cut.report()
    assert "deadline" in (bed.folder / "cut.md").read_text()
    assert list(ElementTree.parse(bed.folder / "cut.xml").getroot().iter("testcase"))


def _controls(bed: Bed) -> dict[str, Any]:
    """Backups, and hooks and gates that leave a trace; the hook on the node fails on n3 at first."""
    told = "echo before $KOPS_NODE $KOPS_CLUSTER $KOPS_OPERATION $KOPS_VERSION >> trace"
    after = (
        'if [ $KOPS_NODE = n3 ] && [ ! -e /root/mended ]; then echo "not yet"; exit 3; fi; '
        "echo $KOPS_NODE $KOPS_OPERATION >> /root/trace"
    )
    asked = 'echo gate $KOPS_NODE >> trace; test $(grep -c "^gate $KOPS_NODE$" trace) -ge 2'
    maintenance = {
        "hooks": {
            "before": [{"command": ["sh", "-c", told]}],
            "after": [{"command": ["sh", "-c", after], "runOn": "node"}],
        },
        "gates": [
            {"name": "second-time", "command": ["sh", "-c", asked], "intervalSeconds": 0.5, "deadlineSeconds": 30},
            {
                "name": "images",
                "http": {"url": f"{bed.url}/images/{VERSION}/images.json", "contains": "kube-apiserver"},
            },
        ],
        "canary": {"count": 1, "pauseSeconds": 3},
        "groups": [{"name": "both", "selector": "kubernetes.io/hostname in (n2,n3)", "maxUnavailable": "50%"}],
    }
    return {"maintenance": maintenance, "backup": backups.section(bed)[0]}


def _check_traces(bed: Bed) -> None:
    """Every hook ran once a node, for all the kill and the failure; the gate was asked until it was true."""
    lines = (bed.folder / "trace").read_text().splitlines()
    for name in SMALL:
        assert lines.count(f"before {name} upgraded upgrade {MINOR}") == 1, lines
        assert lines.count(f"gate {name}") >= 2, lines
        assert bed.node(name).exec("cat /root/trace").stdout.splitlines() == [f"{name} upgrade"]
    assert lines.count("gate n2") > lines.count("gate n1"), f"the canary's gates were not asked while watched: {lines}"


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_patch_and_minor_of_a_small_cluster(bed: Bed) -> None:
    _build(bed, SMALL, control_planes=1)
    for version in (PATCH, MINOR):
        with Traffic(bed, SMALL) as traffic:
            finished = _upgrade(bed, version)
        bed.say(f"upgrade of 1+2 to {version}: {finished.duration_s:.1f} s; {traffic}")
        _check(bed, SMALL, version, traffic)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_two_minors_in_one_command(bed: Bed) -> None:
    """Each hop from its own package repository, the second after the first is done everywhere; killed in the second."""
    ensure((VERSION, MINOR, NEXT))  # into the bundle that is served
    _build(bed, SMALL, control_planes=1)
    refused = bed.program.run("upgrade", "--to", NEXT, "--plan", exit_code=2)
    assert "--via v1.21.X" in refused.stderr, refused.report()
    command = ("upgrade", "--to", NEXT, "--via", MINOR)
    plan = bed.program.run(*command, "--plan", "-o", "json", exit_code=20).json()
    hops = [MINOR if MINOR in wave["name"] else NEXT for wave in plan["waves"]]
    assert hops == [MINOR] * hops.count(MINOR) + [NEXT] * hops.count(MINOR), plan["waves"]
    with Traffic(bed, SMALL) as traffic:
        running = bed.program.start(*command, "-y")
        running.wait_said(rf"n1: kubeadm upgrade apply {NEXT}", deadline_s=900)
        killed = running.kill()
        assert set(_versions(bed).values()) == {MINOR}, "the second hop began before the first was done"
        finished = _upgrade(bed, NEXT, "--via", MINOR)
    bed.say(f"two minors: killed after {killed.duration_s:.1f} s, the rest {finished.duration_s:.1f} s; {traffic}")
    _check(bed, SMALL, NEXT, traffic)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("strategy", ["rolling", "all-at-once"])
def test_patch_and_minor_of_three_control_planes(bed: Bed, strategy: str) -> None:
    """Followers of etcd first, each out of the load balancer; the first of the plan runs apply, the others node."""
    _build(bed, BIG, control_planes=3, load_balancers=["n6"])
    identity = bed.cluster_id()
    for version in (PATCH, MINOR):
        plan = bed.program.run("upgrade", "--to", version, "--plan", "-o", "json", exit_code=20).json()
        order = [w["name"].split()[2].rstrip(",") for w in plan["waves"] if w["name"].startswith("control plane ")]
        assert order[-1] == _etcd_leader(bed), "the leader of etcd is not the last"
        with Traffic(bed, BIG) as traffic, Balancing(bed, "n6") as balancing:
            finished = _upgrade(bed, version, "--strategy", strategy, "--max-unavailable", "1")
        bed.say(f"upgrade of 3+2 to {version}, {strategy}: {finished.duration_s:.1f} s; {traffic}; {balancing}")
        balancing.assert_out_while_worked_on(bed.program.journal(), BIG[:3])
        assert not balancing.failures, balancing.failures[:10]
        # All at once takes every worker away: the budget keeps the workload alive, one pod after the other.
        _check(bed, BIG, version, traffic)
    assert bed.cluster_id() == identity


# Where in an upgrade of 3+2 the program is killed: a line on its standard error.
KILLED_AT = (
    r"n\d:\s+Fetch the packages",
    r"n\d: install kubeadm",
    r"n\d:\s+n6: no new connections",
    r"n\d:\s+upgrade: ",
    r"n\d: cordon$",
    r"n\d: install kubelet and kubectl .*$",
    r"n\d: wait until the node is healthy .*$",
    r"n\d:\s+n6: connections to n\d again",
    r"n\d: uncordon$",
    r"n[45]: kubeadm upgrade node$",
    r"n[45]: drain$",
    r"n[45]: wait until what was moved",
)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_killed_at_twelve_points(bed: Bed) -> None:
    """After every kill the same command goes on from there; in the end nothing is cordoned or done twice."""
    _build(bed, BIG, control_planes=3, load_balancers=["n6"])
    with Traffic(bed, BIG) as traffic:
        for point in KILLED_AT:
            running = bed.program.start("upgrade", "--to", MINOR, "-y")
            spent = running.wait_said(point, deadline_s=500)
            running.kill()
            bed.say(f"killed {spent:.1f} s after its start at {point!r}")
        _upgrade(bed, MINOR)
    bed.say(str(traffic))
    _check(bed, BIG, MINOR, traffic)
    _check_balanced(bed)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("how", ["power", "cut", "api-server"])
def test_trouble_with_the_node_being_worked_on(bed: Bed, how: str) -> None:
    """Power loss, a cut cable, a restart of the API server, for a control plane and then for a worker.

    Failed long before the time limits, or ridden out: the same command finishes.
    """
    _build(bed, BIG, control_planes=3, load_balancers=["n6"])
    # What is lost is the host, or the kubelet that would end pods: the connection tells the one, the API the other.
    for node, point, code in (("n2", r"n2:\s+upgrade: ", 10), ("n4", r"n4: drain$", 11)):
        running = bed.program.start("upgrade", "--to", MINOR, "-y")
        running.wait_said(point, deadline_s=500)
        _make_trouble(bed, how, node)
        ended = running.wait(deadline_s=900)
        bed.say(f"{how} of {node}: exit code {ended.exit_code} after {ended.duration_s:.1f} s")
        assert "Traceback" not in ended.stderr
        assert "is not drained after" not in ended.stderr, ended.report()
        if how == "power":
            assert ended.exit_code == code, ended.report()
            bed.node(node).start()
        elif how == "cut":
            assert ended.exit_code == code, ended.report()
            bed.node(node).heal()
        else:
            assert ended.exit_code == 0, ended.report()
            break  # there is no API server on a worker, and the upgrade is done
        if node == "n2":
            assert Balancing(bed, "n6").servers()["n2"].is_drained, "put back before it is healthy"
        bed.wait_ready(BIG)
    _upgrade(bed, MINOR)
    _check(bed, BIG, MINOR, None)
    _check_balanced(bed)


def _make_trouble(bed: Bed, how: str, node: str) -> None:
    if how == "power":
        bed.node(node).kill()
    elif how == "cut":
        bed.node(node).cut()
    else:
        bed.node(node).exec("crictl stop --timeout 0 $(crictl ps --name '^kube-apiserver$' -q)")


@pytest.mark.soak
def test_a_budget_that_never_allows(bed: Bed) -> None:
    """Ends within its limit, names budget and pod, exit code 11; the node stays cordoned, nothing new is begun."""
    _build(bed, SMALL, control_planes=1, min_available=workload.REPLICAS)
    found = bed.program.run("upgrade", "--to", PATCH, "--plan", exit_code=3)
    assert "default/echo" in found.text, found.report()
    failed = bed.program.run(
        "upgrade", "--to", PATCH, "-y", "--drain-timeout", "60", "--ignore", "budget-impossible", exit_code=11,
        deadline_s=400,
    )  # fmt: skip
    assert re.search(r"budget default/echo", failed.stderr), failed.report()
    assert "default/echo-" in failed.stderr, failed.report()
    assert _cordons(bed) == {"n1": False, "n2": True, "n3": False}
    bed.kubectl("delete pdb echo")
    _upgrade(bed, PATCH)
    _check(bed, SMALL, PATCH, None)


def _build(
    bed: Bed,
    nodes: Sequence[str],
    *,
    control_planes: int,
    load_balancers: Sequence[str] = (),
    min_available: int = workload.REPLICAS - 1,
    sections: Callable[[Bed], dict[str, Any]] | None = None,
) -> None:
    bed.boot(len(nodes) + len(load_balancers))
    bed.write_inventory(
        control_planes=nodes[:control_planes], workers=nodes[control_planes:], load_balancers=load_balancers
    )
    bed.write_cluster("upgraded", **(sections(bed) if sections else {}))
    built = bed.bootstrap()
    workload.load_image(bed, nodes)
    workload.deploy(bed, nodes, linger_s=5, min_available=min_available)
    bed.say(f"bootstrap of {VERSION} {built.duration_s:.1f} s, workload answers")


def _plan_digest(bed: Bed, version: str, *, changed_from: str = "") -> str:
    plan = bed.program.run("upgrade", "--to", version, "--plan", "-o", "json", exit_code=20).json()
    assert plan["digest"] != changed_from
    return str(plan["digest"])


def _upgrade(bed: Bed, version: str, *options: str) -> Finished:
    return bed.program.run("upgrade", "--to", version, "-y", *options, deadline_s=900)


def _check(
    bed: Bed, nodes: Sequence[str], version: str, traffic: Traffic | None, *, cordoned: Sequence[str] = ()
) -> None:
    found = json.loads(bed.kubectl("get nodes -o json"))["items"]
    assert _versions(bed) == dict.fromkeys(nodes, version)
    assert _cordons(bed) == {name: name in cordoned for name in nodes}
    marked = [n["metadata"]["name"] for n in found if "kops-py/cordoned" in n["metadata"].get("annotations", {})]
    assert not marked, f"still marked as cordoned by kops-py: {marked}"
    again = bed.program.run("upgrade", "--to", version, "-y")
    assert "nothing to do" in again.text, again.report()
    workload.assert_answers(bed, nodes)
    if traffic is not None:
        traffic.assert_unnoticed()


def _versions(bed: Bed) -> dict[str, str]:
    items = json.loads(bed.kubectl("get nodes -o json"))["items"]
    return {n["metadata"]["name"]: n["status"]["nodeInfo"]["kubeletVersion"] for n in items}


def _check_balanced(bed: Bed) -> None:
    """Every control plane is back in the load balancer, and nothing there says that one is out."""
    servers = Balancing(bed, "n6").servers()
    assert all(s.takes_connections for s in servers.values()), servers
    assert bed.node("n6").exec("ls -A /run/kops-py/out-of-balancer").stdout == ""


def _cordons(bed: Bed) -> dict[str, bool]:
    items = json.loads(bed.kubectl("get nodes -o json"))["items"]
    return {n["metadata"]["name"]: bool(n["spec"].get("unschedulable")) for n in items}


def _boot_ids(bed: Bed, names: Sequence[str]) -> dict[str, str]:
    return {name: bed.node(name).boot_id() for name in names}


def _etcd_leader(bed: Bed) -> str:
    members = bed.program.run("status", "-o", "json").json()["etcd_members"]
    (leader,) = [m["name"] for m in members if m["is_leader"]]
    return str(leader)
