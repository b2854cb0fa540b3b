"""The commands that take nodes out of service and back: patch, and the node verbs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from kops_py.app.canaries import settle_canaries, with_passed
from kops_py.app.restarted import held_for_restarted, restarted_earlier
from kops_py.app.run import Decided, RunPlace, RunResult, run_operation
from kops_py.app.session import Confirm, Emit, Session, Settings, looking_at
from kops_py.app.upgrade import RolloutSettings, drain_findings, make_rollout
from kops_py.app.upgrade_backup import begin_with_backup
from kops_py.app.upgrade_facts import require_api, with_settled_etcd
from kops_py.model.errors import ConfigError
from kops_py.model.event import Note
from kops_py.model.facts import Facts
from kops_py.model.finding import Finding
from kops_py.model.patches import PatchFacts, RebootPolicy, Selection
from kops_py.model.plan import Plan
from kops_py.model.spec import ClusterSpec

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kops_py.runbooks.decision import Decision
    from kops_py.runbooks.patch import PatchArguments
    from kops_py.runbooks.rollout import Rollout


def run_patch(
    settings: Settings,
    emit: Emit,
    confirm: Confirm,
    *,
    selection: Selection,
    packages: tuple[str, ...],
    reboot: RebootPolicy,
    rollout: RolloutSettings,
) -> RunResult:
    """Install updates of the operating system, node by node; raises KopsError before it starts."""

    def decide(opened: Session) -> Decided:
        facts = _look(opened, "patch")
        asked = _asked(opened.spec, reboot, selection=selection, packages=packages)
        arguments = _patch_arguments(opened, facts, rollout, reboot, "patch", (), asked)
        opened.emit(Note(message="asking the hosts for their updates"))
        first = _updates(opened, facts, selection, packages)
        arguments = dataclasses.replace(arguments, rebooted=held_for_restarted(arguments.rebooted, first))
        found = _etcd_findings(facts)

        def updates(now: Facts) -> Mapping[str, PatchFacts]:
            return _still_pending(first, _updates(opened, now, selection, packages))

        return begin_with_backup(opened, _decided(opened, facts, arguments, first, updates, found))

    return run_operation(settings, emit, confirm, "patch", decide)


def run_reboot(
    settings: Settings, emit: Emit, confirm: Confirm, *, nodes: tuple[str, ...], rollout: RolloutSettings
) -> RunResult:
    """Restart nodes, drained, one at a time or as many as the rollout allows; raises KopsError before it starts."""

    def decide(opened: Session) -> Decided:
        facts = _look(opened, "restart nodes of")
        _check_members(facts, nodes)
        asked = _asked(opened.spec, RebootPolicy.ALWAYS, nodes=nodes)
        arguments = _patch_arguments(opened, facts, rollout, RebootPolicy.ALWAYS, "reboot", nodes, asked)
        return _decided(opened, facts, arguments, {}, lambda _: {}, _etcd_findings(facts))

    return run_operation(settings, emit, confirm, "reboot", decide)


def run_node_verb(
    settings: Settings,
    emit: Emit,
    confirm: Confirm,
    *,
    verb: str,
    nodes: tuple[str, ...],
    rollout: RolloutSettings,
    foreign: bool = False,
) -> RunResult:
    """Cordon, drain or uncordon nodes (``verb``); ``foreign``: uncordon whoever cordoned. Raises KopsError."""
    from kops_py.runbooks import node_service

    def decide(opened: Session) -> Decided:
        facts = _look(opened, "work on")
        _check_members(facts, nodes)
        chosen = make_rollout(opened.spec, rollout)

        def plan(now: Facts) -> Decision:
            if verb == "cordon":
                return node_service.cordon_nodes(opened.spec, now, nodes)
            if verb == "uncordon":
                return node_service.uncordon_nodes(opened.spec, now, nodes, foreign=foreign)
            movable = _with_movable_pods(opened, nodes, chosen)
            return node_service.drain_nodes(opened.spec, now, nodes, chosen, movable)

        decision = plan(facts)
        found = (*decision.findings, *drain_findings(opened, chosen, decision.plan))
        return _finished(opened, facts, decision.plan, found, lambda now: plan(now).plan)

    return run_operation(settings, emit, confirm, verb, decide)


def _look(opened: Session, verb: str) -> Facts:
    opened.emit(Note(message=looking_at(opened.spec)))
    facts = opened.observe()
    require_api(facts, verb)
    return with_settled_etcd(opened, facts)


def _check_members(facts: Facts, nodes: Sequence[str]) -> None:
    known = sorted(facts.kube.nodes if facts.kube else ())
    unknown = [name for name in nodes if name not in known or name not in facts.hosts]
    if unknown:
        raise ConfigError(
            f"{', '.join(unknown)}: no node of this cluster and its inventory", hint=f"there are {', '.join(known)}"
        )


def _patch_arguments(
    opened: Session,
    facts: Facts,
    rollout: RolloutSettings,
    reboot: RebootPolicy,
    operation: str,
    nodes: tuple[str, ...],
    asked: Mapping[str, str],
) -> PatchArguments:
    from kops_py.runbooks.patch import PatchArguments
    from kops_py.runbooks.rollout import control_plane_order, is_begun, out_of_balancer

    members = facts.kube.nodes if facts.kube else {}
    begun = {name for name, node in members.items() if is_begun(node)} | out_of_balancer(facts)
    order = control_plane_order(opened.spec, facts, begun)
    return PatchArguments(
        rollout=dataclasses.replace(make_rollout(opened.spec, rollout, facts), order=order),
        reboot=reboot,
        rebooted=restarted_earlier(opened, facts, operation, asked),
        operation=operation,
        asked=asked,
        nodes=nodes,
        boot_ids={name: host.boot_id for name, host in facts.hosts.items()},
        etcd=() if nodes else _etcd_order(opened.spec, facts),
    )


def _asked(
    spec: ClusterSpec,
    reboot: RebootPolicy,
    *,
    nodes: tuple[str, ...] = (),
    selection: Selection | None = None,
    packages: tuple[str, ...] = (),
) -> dict[str, str]:
    """Return what a command asks for, as its plan records it: equal for commands that want the same."""
    return {
        "reboot": str(reboot),
        **({"nodes": " ".join(sorted(nodes))} if nodes else {}),
        **({"updates": " ".join(sorted(packages)) or str(selection)} if selection is not None else {}),
        **({"limit": " ".join(sorted(spec.limit))} if spec.limit else {}),
    }


def _updates(opened: Session, facts: Facts, selection: Selection, packages: Sequence[str]) -> Mapping[str, PatchFacts]:
    from kops_py.observe.patches import observe_patches

    limit = opened.spec.limit
    members = facts.kube.nodes if facts.kube else {}
    asked = {
        h.name: facts.hosts[h.name]
        for h in opened.spec.nodes
        if facts.hosts[h.name].reachable and h.name in members and (not limit or h.name in limit)
    }
    asked |= {name: facts.hosts[name] for name in _etcd_order(opened.spec, facts)}
    return observe_patches(opened.fleet, asked, selection, packages, cancel=opened.cancel)


def _etcd_order(spec: ClusterSpec, facts: Facts) -> tuple[str, ...]:
    """Return the hosts that run nothing but a member of our external etcd: its followers first, its leader last."""
    leaders = {m.name for m in facts.etcd if m.is_leader}
    names = [
        h
        for h in spec.etcd_hosts
        if not h.is_kubernetes
        and facts.hosts[h.name].reachable
        and facts.hosts[h.name].etcd_ca
        and (not spec.limit or h.name in spec.limit)
    ]
    return tuple(h.name for h in sorted(names, key=lambda h: h.member_name in leaders))


def _still_pending(first: Mapping[str, PatchFacts], now: Mapping[str, PatchFacts]) -> dict[str, PatchFacts]:
    """Return of what was announced what is still to do; what has come up since then waits for the next patch."""
    found = {}
    for name, facts in now.items():
        names = {update.name for update in facts.updates}
        announced = first.get(name, PatchFacts()).updates
        found[name] = dataclasses.replace(facts, updates=tuple(u for u in announced if u.name in names))
    return found


def _etcd_findings(facts: Facts) -> tuple[Finding, ...]:
    from kops_py.runbooks.upgrade_rules import ETCD_MEMBERS

    return tuple(
        ETCD_MEMBERS.found(f"etcd member {m.name}: {m.problem or 'not healthy'}", node=m.name)
        for m in facts.etcd
        if not m.healthy
    )


def _decided(
    opened: Session,
    facts: Facts,
    arguments: PatchArguments,
    first: Mapping[str, PatchFacts],
    updates: Callable[[Facts], Mapping[str, PatchFacts]],
    found: tuple[Finding, ...],
) -> Decided:
    from kops_py.runbooks.patch import patch

    decision = patch(opened.spec, facts, first, arguments)
    settled = settle_canaries(opened, arguments.rollout, decision.plan)
    if settled != arguments.rollout:
        arguments = dataclasses.replace(arguments, rollout=settled)
        decision = patch(opened.spec, facts, first, arguments)
    if decision.plan.has_changes:
        found = (*found, *drain_findings(opened, arguments.rollout, decision.plan))
    return _finished(
        opened,
        facts,
        decision.plan,
        (*decision.findings, *found),
        lambda now: (
            patch(
                opened.spec,
                now,
                updates(now),
                dataclasses.replace(arguments, rollout=with_passed(opened, arguments.rollout)),
            ).plan
        ),
    )


def _finished(
    opened: Session,
    facts: Facts,
    plan: Plan,
    found: tuple[Finding, ...],
    plan_again: Callable[[Facts], Plan],
) -> Decided:
    from kops_py.actions.gates import unavailable_workloads
    from kops_py.actions.perform import ClusterPerformer
    from kops_py.app.bootstrap import make_deps
    from kops_py.runbooks.preflight import mark_ignored

    short = frozenset(unavailable_workloads(opened.kube.api()))

    def replan() -> tuple[Plan, Facts]:
        now = opened.observe()
        return plan_again(now), now

    def performer(place: RunPlace) -> ClusterPerformer:
        return ClusterPerformer(make_deps(opened, place, facts, short_before=short))

    return Decided(plan, mark_ignored(found, opened.ignored), replan, performer)


def _with_movable_pods(opened: Session, nodes: Sequence[str], rollout: Rollout) -> frozenset[str]:
    """Return the nodes with pods that a drain would move, or would have to refuse; raises KubeError."""
    from kops_py.model.drain import Fate, judge
    from kops_py.observe.pods import pods_on_node

    api, policy = opened.kube.api(), rollout.drain

    def moves(name: str) -> bool:
        pods = pods_on_node(api, name, pod_selector=policy.pod_selector)
        return any(judge(pod, policy).fate is not Fate.STAYS for pod in pods)

    return frozenset(filter(moves, nodes))
