"""Patch: updates of the operating system, node by node, with a restart where it is needed.

The same order, window, drain and gates as an upgrade; hosts of an external etcd go first, one at a time. A node without
updates that asks for no restart is left alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from kops_py.model.actions import InstallUpdates, RebootNode, WaitEtcd
from kops_py.model.facts import Facts, NodeFacts
from kops_py.model.finding import FindingKind, Severity, few
from kops_py.model.patches import PatchFacts, RebootPolicy
from kops_py.model.plan import Plan, Step, Wave
from kops_py.model.spec import ClusterSpec, HostSpec
from kops_py.runbooks.decision import Decision
from kops_py.runbooks.rollout import (
    NodeWork,
    Rollout,
    chain,
    is_begun,
    member_nodes,
    out_of_balancer,
    state_findings,
    without_leaders,
    worker_waves,
)

UPDATES_UNKNOWN = FindingKind(
    "updates-unknown",
    (Severity.ERROR,),
    "A host could not tell its updates: it would be left as it is.",
    "Mend its package repositories; ignored, it is left out.",
)
KINDS = (UPDATES_UNKNOWN,)
_SHOWN = 12
_BOOT_S = 300.0
"""For the firmware and the boot of a large machine, on top of the time for a node to become Ready."""


@dataclass(frozen=True, slots=True)
class PatchArguments:
    """What the runbook cannot know by itself; the same for a whole run."""

    rollout: Rollout
    reboot: RebootPolicy = RebootPolicy.AUTO
    rebooted: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    """Nodes that an unfinished run of the same command has restarted already and that have had nothing pending since.

    With the run that did it.
    """
    operation: str = "patch"
    asked: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    """What the command asks for, as the plan records it."""
    nodes: tuple[str, ...] = ()
    """Only these, in this order; empty: all."""
    boot_ids: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    """Boot id of each node when the run began: another one now means that it was restarted in this run."""
    etcd: tuple[str, ...] = ()
    """Hosts that run nothing but a member of the external etcd, in the order they are worked on: its leader last."""


def patch(spec: ClusterSpec, facts: Facts, patches: Mapping[str, PatchFacts], arguments: PatchArguments) -> Decision:
    """Plan the patching of all nodes, or the restart of some; pure."""
    rollout = arguments.rollout
    nodes, out, chosen = member_nodes(spec, facts, rollout), out_of_balancer(facts), frozenset(arguments.nodes)
    chains = {
        h.name: _chain(spec, facts, patches.get(h.name, PatchFacts()), arguments, h, nodes[h.name], h.name in out)
        for h in spec.nodes
        if h.name in nodes and (not chosen or h.name in chosen)
    }
    names = {h.name for h in spec.workers}
    order = dict.fromkeys(n for n in (*rollout.order, *chains) if n in chains and n not in names)
    chains = without_leaders({n: chains[n] for n in (*order, *(n for n in chains if n in names))})
    waves = [Wave(f"control plane {n}", chains[n]) for n in order if chains[n]]
    members = {n: _host_steps(spec, facts, patches.get(n, PatchFacts()), arguments, n) for n in arguments.etcd}
    chains |= {n: _with_gate(spec, n, steps) for n, steps in members.items()}
    waves = [Wave(f"etcd {n}", chains[n]) for n in members if chains[n]] + waves
    waves += worker_waves([c for n, c in chains.items() if n in names], rollout, spec, arguments.operation)
    held = [n for n in chains if n in arguments.rebooted and arguments.reboot is RebootPolicy.ALWAYS]
    idle = [n for n, c in chains.items() if not c and n not in held]
    notes = (f"nothing to do on {few(idle, 6)}",) if idle and waves else ()
    asked = {"reboot": str(arguments.reboot), **arguments.asked}
    plan = Plan(arguments.operation, spec.name, tuple(waves), asked, (*notes, *_held_notes(arguments, held)))
    pending = {s.node for s in plan.steps}
    unknown = tuple(
        UPDATES_UNKNOWN.found(str(p.problem), node=name) for name, p in patches.items() if p.problem is not None
    )
    return Decision(plan, (*state_findings(spec, facts, pending, rollout), *unknown))


def _held_notes(arguments: PatchArguments, held: Sequence[str]) -> tuple[str, ...]:
    """Return for each unfinished run the line that says which nodes are not restarted because of it."""
    runs = dict.fromkeys(arguments.rebooted[name] for name in held)
    return tuple(
        f"not restarted again: {few([n for n in held if arguments.rebooted[n] == run], 12)}; "
        f"the unfinished run {run} of the same command did it"
        for run in runs
    )


def _chain(
    spec: ClusterSpec,
    facts: Facts,
    patches: PatchFacts,
    arguments: PatchArguments,
    host: HostSpec,
    node: NodeFacts,
    out: bool,
) -> tuple[Step, ...]:
    steps = _host_steps(spec, facts, patches, arguments, host.name)
    if not (steps or is_begun(node) or out):
        return ()
    version = node.version.partition("+")[0]
    work = NodeWork(host, (), steps, "", version, arguments.operation, out)
    return chain(work, node, arguments.rollout, spec)


def _with_gate(spec: ClusterSpec, name: str, steps: tuple[Step, ...]) -> tuple[Step, ...]:
    """Return the steps on a host of the external etcd, and the wait for all of its members behind them."""
    if not steps:
        return ()
    hosts = tuple(h.name for h in spec.etcd_hosts)
    title = "wait until every member of etcd is healthy"
    return (*steps, Step(f"etcd-healthy/{name}", name, title, WaitEtcd(hosts), spec.timeouts.cluster_healthy_s))


def _host_steps(
    spec: ClusterSpec, facts: Facts, patches: PatchFacts, arguments: PatchArguments, name: str
) -> tuple[Step, ...]:
    """Return the updates and the restart that a host needs."""
    timeouts = spec.timeouts
    steps: list[Step] = []
    if patches.updates:
        updates = tuple((u.name, u.candidate) for u in patches.updates)
        count = len(updates)
        shown = [str(u) for u in patches.updates[:_SHOWN]]
        more = [f"and {count - _SHOWN} more"] if count > _SHOWN else []
        title = f"install {count} update{'s' if count != 1 else ''}"
        action = InstallUpdates(name, updates)
        steps.append(Step(f"updates/{name}", name, title, action, timeouts.prepare_s, (*shown, *more)))
    boot_id = facts.hosts[name].boot_id
    began = arguments.boot_ids.get(name, boot_id)
    restarted = name in arguments.rebooted or boot_id != began
    auto = arguments.reboot is RebootPolicy.AUTO
    always = arguments.reboot is RebootPolicy.ALWAYS and not restarted
    if always or (auto and not restarted and (patches.updates or patches.reboot_required)):
        needed = auto and not patches.reboot_required
        title = "restart, if the host asks for it" if needed else "restart"
        action_ = RebootNode(name, boot_id, only_if_needed=auto)
        limit_s = timeouts.node_ready_s + _BOOT_S
        steps.append(Step(f"reboot/{name}", name, title, action_, limit_s, ("proven by another boot id",)))
    return tuple(steps)
