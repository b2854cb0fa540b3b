"""The commands that change who is a member: node add, node remove, and upgrades that replace workers."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from kops_py.app.bootstrap import bootstrap_arguments, make_deps, with_members
from kops_py.app.run import Decided, RunPlace, RunResult, run_operation
from kops_py.app.session import Confirm, Emit, Session, Settings, check_hosts, looking_at
from kops_py.app.upgrade import RolloutSettings, drain_findings, make_rollout
from kops_py.app.upgrade_facts import require_api, with_etcd
from kops_py.model.errors import ConfigError, ExitCode
from kops_py.model.event import Note
from kops_py.model.facts import Facts
from kops_py.model.finding import Finding
from kops_py.model.plan import Plan
from kops_py.model.spec import ClusterSpec
from kops_py.model.version import Version

if TYPE_CHECKING:
    from kops_py.model.workloads import NodeCapacity
    from kops_py.runbooks.bootstrap import BootstrapArguments
    from kops_py.runbooks.node_remove import RemoveArguments
    from kops_py.runbooks.replace import ReplaceArguments
    from kops_py.runbooks.upgrade import UpgradeArguments


def run_node_add(settings: Settings, emit: Emit, confirm: Confirm, *, nodes: tuple[str, ...]) -> RunResult:
    """Join hosts of the inventory at the cluster's present version; raises KopsError before it starts."""

    def decide(opened: Session) -> Decided:
        from kops_py.actions.perform import ClusterPerformer
        from kops_py.runbooks.node_add import add_nodes, at_version, joining_version
        from kops_py.runbooks.preflight import mark_ignored

        _check_hosts_of_inventory(opened.spec, nodes)
        facts = _look(opened, "join")
        spec = at_version(opened.spec, joining_version(opened.spec, facts))
        limited = _limited(opened, spec, nodes)
        arguments = bootstrap_arguments(spec)
        joining = dataclasses.replace(arguments, limit=frozenset(nodes))
        facts = with_members(opened, facts, joining)
        decision = add_nodes(spec, facts, nodes, arguments)

        def replan() -> tuple[Plan, Facts]:
            now = with_members(limited, limited.observe(), joining)
            return add_nodes(spec, now, nodes, arguments).plan, now

        return Decided(
            decision.plan,
            _host_findings(limited, facts, decision.plan) + mark_ignored(decision.findings, opened.ignored),
            replan,
            lambda place: ClusterPerformer(make_deps(limited, place, facts, arguments)),
        )

    return run_operation(settings, emit, confirm, "node-add", decide)


def run_node_remove(
    settings: Settings,
    emit: Emit,
    confirm: Confirm,
    *,
    nodes: tuple[str, ...],
    lost: bool,
    rollout: RolloutSettings,
) -> RunResult:
    """Take nodes out of the cluster for good; ``lost``: their machines are gone. Raises KopsError."""
    staying: list[str] = []

    def decide(opened: Session) -> Decided:
        from kops_py.runbooks.node_remove import removal_arguments, remove_nodes

        spec, join = opened.spec, bootstrap_arguments(opened.spec)
        facts = with_etcd(opened, _look(opened, "remove nodes from"))
        arguments = removal_arguments(
            spec,
            facts,
            nodes,
            make_rollout(spec, rollout),
            lost=lost,
            load_balancer_digests=join.load_balancer_digests,
        )
        decision = remove_nodes(spec, facts, arguments)
        staying[:] = [h.name for h in spec.hosts if h.name in nodes]
        leaving = [n for n in nodes if n not in arguments.undrained]
        found = (*decision.findings, *drain_findings(opened, arguments.rollout, decision.plan, leaving=leaving))

        def replan() -> tuple[Plan, Facts]:
            now = with_etcd(opened, opened.observe())
            return remove_nodes(spec, now, arguments).plan, now

        return _decided(opened, facts, decision.plan, found, replan, arguments, join)

    return with_hint(run_operation(settings, emit, confirm, "node-remove", decide), staying)


def decide_replace(opened: Session, facts: Facts, arguments: UpgradeArguments, named: tuple[str, ...]) -> Decided:
    """Decide an upgrade whose workers are replaced by new hosts; the caller adds what speaks against the upgrade."""
    from kops_py.runbooks.node_add import at_version
    from kops_py.runbooks.replace import replace

    target = arguments.hops[-1]
    # Canaries are for what is upgraded in place; here old nodes go only when the new ones serve.
    rollout = dataclasses.replace(arguments.rollout, canary=0, canaries=(), canary_pause_s=0.0, canary_gate=None)
    arguments = dataclasses.replace(arguments, rollout=rollout)
    spec = at_version(opened.spec, target)
    _check_replaced(opened.spec, facts, named)
    own = dataclasses.replace(opened, spec=spec)
    chosen = _replace_arguments(own, facts, arguments, target, named)
    decision = replace(spec, facts, chosen)
    joining = [s.node for s in decision.plan.steps if s.id.startswith("join/")]
    found = [*decision.findings]
    if joining:
        found += _host_findings(_limited(own, spec, joining), facts, decision.plan)
    found += drain_findings(
        own,
        arguments.rollout,
        decision.plan,
        leaving=[n for n in chosen.remove.names if n not in chosen.remove.undrained],
        arriving=_capacities(spec, facts, joining),
    )

    def replan() -> tuple[Plan, Facts]:
        now = own.observe()  # etcd is not asked again: the order of the control planes is decided once
        return replace(spec, now, chosen).plan, now

    return _decided(own, facts, decision.plan, found, replan, chosen.remove, chosen.join)


def _replace_arguments(
    opened: Session, facts: Facts, arguments: UpgradeArguments, target: Version, named: tuple[str, ...]
) -> ReplaceArguments:
    from kops_py.runbooks.node_remove import removal_arguments
    from kops_py.runbooks.replace import ReplaceArguments, new_workers, old_workers

    old = old_workers(opened.spec, facts, target, named)
    return ReplaceArguments(
        upgrade=arguments,
        join=bootstrap_arguments(opened.spec),
        remove=removal_arguments(
            opened.spec, facts, old, arguments.rollout, reason=f"replaced by the upgrade to {target}"
        ),
        newcomers=tuple(n for n in new_workers(opened.spec, facts, target) if n not in old),
    )


def _decided(
    opened: Session,
    facts: Facts,
    plan: Plan,
    found: Sequence[Finding],
    replan: Callable[[], tuple[Plan, Facts]],
    arguments: RemoveArguments,
    join: BootstrapArguments,
) -> Decided:
    from kops_py.actions.gates import unavailable_workloads
    from kops_py.actions.perform import ClusterPerformer
    from kops_py.runbooks.node_remove import REFUSALS
    from kops_py.runbooks.preflight import mark_ignored

    short = frozenset(unavailable_workloads(opened.kube.api()))

    def performer(place: RunPlace) -> ClusterPerformer:
        return ClusterPerformer(make_deps(opened, place, facts, join, short_before=short))

    ignored = {i for i in opened.ignored if i.partition("@")[0] not in REFUSALS}
    return Decided(plan, mark_ignored(found, ignored), replan, performer, arguments.machines_left)


def with_hint(result: RunResult, spec_names: Collection[str]) -> RunResult:
    """Return the result with what to do about removed hosts that the inventory still names."""
    if result.exit_code is not ExitCode.DONE or not spec_names:
        return result
    names = ", ".join(sorted(spec_names))
    return dataclasses.replace(
        result, hint=f"take out of the inventory: {names} (removed; bootstrap would join a host that stays in it again)"
    )


def removed_hosts(plan: Plan) -> list[str]:
    """Return the nodes that a plan takes out of the cluster."""
    from kops_py.model.actions import DeleteNode, ResetNode

    return list(dict.fromkeys(s.node for s in plan.steps if isinstance(s.action, DeleteNode | ResetNode)))


def _look(opened: Session, verb: str) -> Facts:
    opened.emit(Note(message=looking_at(opened.spec)))
    facts = opened.observe()
    require_api(facts, verb)
    return facts


def _limited(opened: Session, spec: ClusterSpec, names: Collection[str]) -> Session:
    """Return the session as if only these hosts might be touched."""
    return dataclasses.replace(opened, spec=dataclasses.replace(spec, limit=frozenset(names)))


def _host_findings(limited: Session, facts: Facts, plan: Plan) -> tuple[Finding, ...]:
    """Return the preflight findings of hosts that are to join."""
    probes = None
    if any(s.id.startswith(("prepare/", "join/")) for s in plan.steps):
        limited.emit(Note(message="probing ports between hosts, repositories, registries and disks"))
        probes = limited.probe(facts)
    return check_hosts(limited, facts, probes)


def _check_hosts_of_inventory(spec: ClusterSpec, nodes: Sequence[str]) -> None:
    known = [h.name for h in spec.nodes]
    if unknown := [n for n in nodes if n not in known]:
        raise ConfigError(
            f"{', '.join(unknown)}: no host of the inventory in kube_control_plane or kube_node",
            hint=f"there are {', '.join(known)}; add the host to one of these groups first",
        )


def _check_replaced(spec: ClusterSpec, facts: Facts, named: Sequence[str]) -> None:
    nodes = facts.kube.nodes if facts.kube else {}
    control_planes = {h.name for h in spec.control_planes} | {n for n, node in nodes.items() if node.is_control_plane}
    if wrong := [n for n in named if n in control_planes]:
        raise ConfigError(
            f"{', '.join(wrong)}: control planes are upgraded in place, not replaced",
            where="--replace",
            hint="kops-py node add and kops-py node remove exchange a control plane",
        )


def _capacities(spec: ClusterSpec, facts: Facts, names: Sequence[str]) -> Mapping[str, NodeCapacity]:
    """Return what new hosts will offer: the kubelet keeps 100 MiB of memory free and runs 110 pods by default."""
    from kops_py.model.workloads import NodeCapacity

    found = {}
    for name in names:
        host, wanted = facts.hosts[name], spec.host(name)
        found[name] = NodeCapacity(
            name=name,
            cpu_millis=host.cpus * 1000,
            memory_bytes=max(0, host.memory_bytes - 100 * 1024**2),
            pods=110,
            labels={"kubernetes.io/hostname": name, "kubernetes.io/os": "linux", **wanted.labels},
            taints=tuple((t.key, t.value, t.effect) for t in wanted.taints or ()),
        )
    return found
