"""The chain of a control plane behind load balancers, in upgrades and patches."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import pytest

from kops_py.model.actions import UPGRADE_JOB, PutBackIntoBalancer, TakeOutOfBalancer, WaitNode
from kops_py.model.drain import DrainPolicy
from kops_py.model.errors import UnreachableError
from kops_py.model.facts import Facts, HostFacts, JobState, KubeFacts, NodeFacts
from kops_py.model.patches import PatchFacts, RebootPolicy, Update
from kops_py.model.plan import Plan, unexpected_steps
from kops_py.model.spec import ClusterSpec
from kops_py.model.version import Version
from kops_py.runbooks.patch import PatchArguments, patch
from kops_py.runbooks.rollout import Rollout
from kops_py.runbooks.upgrade import UpgradeArguments, begun_nodes, upgrade
from tests.fakes.cluster import make_spec

OLD, NEW = Version(1, 31, 2), Version(1, 31, 3)
ROLLOUT = Rollout(DrainPolicy())
COMPONENTS = ("kube-apiserver", "kube-controller-manager", "kube-scheduler")


def facts(spec: ClusterSpec, *, done: Sequence[str] = (), out: Sequence[str] = ()) -> Facts:
    """Return a healthy cluster at OLD, those of ``done`` at NEW; ``out`` are out of every load balancer."""
    hosts, nodes = {}, {}
    for host in spec.hosts:
        version = NEW if host.name in done else OLD
        hosts[host.name] = HostFacts(
            host.name,
            boot_id="boot",
            packages=dict.fromkeys(("kubeadm", "kubelet", "kubectl"), f"{version.bare}-1.1"),
            static_images={c: f"registry.k8s.io/{c}:{version}" for c in COMPONENTS} if host.is_control_plane else {},
            jobs={UPGRADE_JOB: JobState.SUCCEEDED} if host.name in done else {},
            out_of_balancer=frozenset(out) if host.is_load_balancer else frozenset(),
        )
        if host.is_kubernetes:
            nodes[host.name] = NodeFacts(host.name, ready=True, reason="", version=str(version), internal_ip="")
    stored = str(NEW if done else OLD)
    return Facts(hosts, KubeFacts(OLD, nodes, True, True, True, kubernetes_version=stored))


def plan_upgrade(spec: ClusterSpec, now: Facts) -> Plan:
    return upgrade(spec, now, UpgradeArguments((NEW,), ROLLOUT)).plan


def chain_of(plan: Plan, node: str) -> list[str]:
    return [s.id.partition("/")[0] for s in plan.steps if s.node == node and not s.id.startswith("stage/")]


def test_a_control_plane_is_out_from_before_its_work_until_it_is_healthy() -> None:
    spec = make_spec(3, 1, 2)
    plan = plan_upgrade(spec, facts(spec))
    expected = ["out-of-balancer", "kubeadm", "upgrade", "cordon", "drain", "kubelet", "healthy", "into-balancer"]
    for name in ("n1", "n2", "n3"):
        assert chain_of(plan, name) == [*expected, "uncordon", "settled", "done"]
    assert "out-of-balancer" not in chain_of(plan, "n4")
    (step,) = [s for s in plan.steps if s.id == "out-of-balancer/n2@v1.31.3"]
    assert step.action == TakeOutOfBalancer("n2")
    assert step.title == "take it out of the load balancer (n5, n6)"


@pytest.mark.parametrize("spec", [make_spec(3, 1), make_spec(1, 1, 1)])
def test_not_without_load_balancers_of_ours_and_not_the_only_one(spec: ClusterSpec) -> None:
    plan = plan_upgrade(spec, facts(spec))
    assert not any(isinstance(s.action, (TakeOutOfBalancer, PutBackIntoBalancer)) for s in plan.steps)


def test_what_a_killed_run_left_out_is_put_back_and_comes_first() -> None:
    spec = make_spec(3, 0, 1)
    now = facts(spec, done=["n1"], out=["n1"])
    assert chain_of(plan_upgrade(spec, now), "n1") == ["healthy", "into-balancer"]
    assert not any(s.id.startswith("stage/n1") for s in plan_upgrade(spec, now).steps)
    assert "n1" in begun_nodes(spec, now, NEW)
    assert "n3" in begun_nodes(spec, facts(spec, out=["n3"]), NEW)
    everything = facts(spec, done=["n1", "n2", "n3"])
    assert not plan_upgrade(spec, everything).has_changes
    left = facts(spec, done=["n1", "n2", "n3"], out=["n3"])
    assert [s.id.partition("@")[0] for s in plan_upgrade(spec, left).steps] == ["healthy/n3", "into-balancer/n3"]


def test_the_plan_after_a_control_plane_holds_nothing_unannounced() -> None:
    spec = make_spec(3, 0, 1)
    first = plan_upgrade(spec, facts(spec))
    then = plan_upgrade(spec, facts(spec, done=["n1"]))
    assert unexpected_steps(first.steps, [s for s in then.steps if s.node != "n1"]) == ()  # type: ignore[arg-type]
    assert chain_of(then, "n1") == []


def led(plan: Plan) -> list[str]:
    return [s.node for s in plan.steps if isinstance(s.action, WaitNode) and s.action.control_plane and s.action.led]


def test_controllers_are_waited_for_by_the_drains_and_by_the_last_control_plane_where_none_follows() -> None:
    for spec, expected in ((make_spec(3, 1), []), (make_spec(3, 0), ["n3"]), (make_spec(1, 0), ["n1"])):
        now = facts(spec)
        patches = {h.name: PatchFacts(updates=(Update("curl", "1", "2"),)) for h in spec.nodes}
        assert led(plan_upgrade(spec, now)) == expected
        assert led(patch(spec, now, patches, PatchArguments(ROLLOUT, RebootPolicy.NEVER)).plan) == expected
    only = PatchArguments(ROLLOUT, RebootPolicy.ALWAYS, operation="reboot", nodes=("n1",))
    assert led(patch(make_spec(3, 1), facts(make_spec(3, 1)), {}, only).plan) == ["n1"]


def test_a_worker_that_drops_out_makes_nothing_of_the_control_planes_unannounced() -> None:
    spec = make_spec(2, 1)
    now = facts(spec)
    hosts = {**now.hosts, "n3": HostFacts("n3", problem=UnreachableError("gone", where="n3"))}
    then = plan_upgrade(spec, dataclasses.replace(now, hosts=hosts))
    assert led(then) == ["n2"]
    assert unexpected_steps(plan_upgrade(spec, now).steps, then.steps) == ()


def test_patches_and_restarts_do_the_same() -> None:
    spec = make_spec(3, 0, 1)
    arguments = PatchArguments(ROLLOUT, RebootPolicy.NEVER)
    updates = {"n2": PatchFacts(updates=(Update("curl", "1", "2"),))}
    plan = patch(spec, facts(spec), updates, arguments).plan
    expected = [
        "out-of-balancer",
        "cordon",
        "drain",
        "updates",
        "healthy",
        "into-balancer",
        "uncordon",
        "settled",
        "done",
    ]
    assert chain_of(plan, "n2") == expected
    assert chain_of(plan, "n1") == []
    left = patch(spec, facts(spec, out=["n2"]), {}, arguments).plan
    assert chain_of(left, "n2") == ["healthy", "into-balancer"]


def test_a_load_balancer_that_is_away_is_told() -> None:
    spec = make_spec(3, 0, 2)
    now = facts(spec)
    away = HostFacts("n5", problem=UnreachableError("does not answer", where="n5"))
    decision = upgrade(
        spec, dataclasses.replace(now, hosts={**now.hosts, "n5": away}), UpgradeArguments((NEW,), ROLLOUT)
    )
    assert [(f.id, f.node, str(f.severity)) for f in decision.findings] == [("balancer-unreachable", "n5", "warning")]
    assert "out-of-balancer" in chain_of(decision.plan, "n1")
