"""The upgrade command: from one version of Kubernetes to another, node by node."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from kops_py.app.canaries import settle_canaries, with_passed
from kops_py.app.run import Decided, RunPlace, RunResult, run_operation
from kops_py.app.session import Confirm, Emit, Session, Settings, looking_at
from kops_py.app.upgrade_backup import begin_with_backup
from kops_py.app.upgrade_facts import require_api, with_settled_etcd
from kops_py.model.errors import ConfigError
from kops_py.model.event import Note
from kops_py.model.facts import Facts, KubeFacts
from kops_py.model.finding import Finding
from kops_py.model.plan import Plan
from kops_py.model.spec import ClusterSpec
from kops_py.model.version import Version

if TYPE_CHECKING:
    from kops_py.model.workloads import NodeCapacity
    from kops_py.runbooks.rollout import Rollout
    from kops_py.runbooks.upgrade import UpgradeArguments


@dataclass(frozen=True, slots=True)
class RolloutSettings:
    """What the command line says about taking nodes out of service; None: what cluster.yaml says."""

    max_unavailable: str | None = None
    max_failures: int | None = None
    canary: int | None = None
    canary_pause_s: float | None = None
    canary_gate: tuple[str, ...] = ()
    all_at_once: bool = False
    drain_timeout_s: float | None = None
    grace_period_s: int | None = None
    pod_selector: str | None = None
    delete_empty_dir_data: bool = False
    force: bool = False
    disable_eviction: bool = False


def run_upgrade(
    settings: Settings,
    emit: Emit,
    confirm: Confirm,
    *,
    target: Version | None,
    via: Mapping[int, Version],
    rollout: RolloutSettings,
    replaced: tuple[str, ...] | None = None,
) -> RunResult:
    """Upgrade the cluster to ``target`` (None: what cluster.yaml says); raises KopsError before it starts.

    ``via`` maps each minor in between to the release to go through. ``replaced`` are the workers that new hosts take
    the place of; empty: all that are older than the target; None: every worker is upgraded in place.
    """
    from kops_py.app.membership import removed_hosts, with_hint

    inventory: set[str] = set()

    def decide(opened: Session) -> Decided:
        inventory.update(h.name for h in opened.spec.hosts)
        decided = _decide(opened, target or opened.spec.kubernetes.version, via, rollout, replaced)
        return begin_with_backup(opened, decided)

    result = run_operation(settings, emit, confirm, "upgrade", decide)
    return with_hint(result, [n for n in removed_hosts(result.plan) if n in inventory])


def _decide(
    opened: Session,
    target: Version,
    via: Mapping[int, Version],
    given: RolloutSettings,
    replaced: tuple[str, ...] | None,
) -> Decided:
    from kops_py.actions.gates import unavailable_workloads
    from kops_py.actions.perform import ClusterPerformer
    from kops_py.runbooks.preflight import mark_ignored
    from kops_py.runbooks.upgrade import upgrade
    from kops_py.runbooks.upgrade_path import path_findings, upgrade_path

    spec = opened.spec
    opened.emit(Note(message=looking_at(spec)))
    facts = with_settled_etcd(opened, opened.observe())
    current = _oldest(facts)
    if no_way := path_findings(current, target, via):
        # Not to be ignored: there is no plan without a way.
        raise ConfigError(
            "; ".join(f.message for f in no_way),
            why=no_way[0].hint,
            hint=" ".join(f"--via v1.{m}.X" for m in range(current.minor + 1, target.minor) if m not in via),
        )
    arguments = _arguments(spec, facts, upgrade_path(current, target, via), given)
    decision = upgrade(spec, facts, arguments)
    settled = settle_canaries(opened, arguments.rollout, decision.plan)
    if settled != arguments.rollout:
        arguments = dataclasses.replace(arguments, rollout=settled)
        decision = upgrade(spec, facts, arguments)
    if replaced is not None:
        from kops_py.app.membership import decide_replace

        decided = decide_replace(opened, facts, arguments, replaced)
        found = _version_findings(opened, facts, current, arguments, decided.plan)
        return dataclasses.replace(decided, findings=(*decided.findings, *mark_ignored(found, opened.ignored)))
    found = (*decision.findings, *_findings(opened, facts, current, arguments, decision.plan))
    short = frozenset(unavailable_workloads(opened.kube.api()))

    def replan() -> tuple[Plan, Facts]:
        now = opened.observe()  # etcd is not asked again: the order of the control planes is decided once
        rollout = with_passed(opened, arguments.rollout)
        return upgrade(spec, now, dataclasses.replace(arguments, rollout=rollout)).plan, now

    def performer(place: RunPlace) -> ClusterPerformer:
        from kops_py.app.bootstrap import make_deps

        return ClusterPerformer(make_deps(opened, place, facts, short_before=short))

    return Decided(decision.plan, mark_ignored(found, opened.ignored), replan, performer)


def _findings(
    opened: Session, facts: Facts, current: Version, arguments: UpgradeArguments, plan: Plan
) -> tuple[Finding, ...]:
    """Return what speaks against this upgrade; nothing is asked when there is nothing to do."""
    found = _version_findings(opened, facts, current, arguments, plan)
    return (*found, *drain_findings(opened, arguments.rollout, plan)) if plan.has_changes else found


def _version_findings(
    opened: Session, facts: Facts, current: Version, arguments: UpgradeArguments, plan: Plan
) -> tuple[Finding, ...]:
    """Return what of the cluster does not fit the versions on the way."""
    from kops_py.app.membership import removed_hosts
    from kops_py.app.upgrade_facts import observe_upgrade
    from kops_py.observe.api_use import observe_api_use
    from kops_py.runbooks.api_removals import api_findings
    from kops_py.runbooks.upgrade_rules import version_findings

    if not plan.has_changes:
        return ()
    limit = arguments.rollout.limit
    left_behind = frozenset(h.name for h in opened.spec.nodes if limit and h.name not in limit)
    left_behind |= frozenset(removed_hosts(plan))
    target = arguments.hops[-1]
    with opened.kube.servers() as servers:
        use = observe_api_use(opened.kube.api(), servers, current, target)
    return (
        *version_findings(current, arguments.hops, observe_upgrade(opened, facts, left_behind)),
        *api_findings(use, current, target),
    )


def drain_findings(
    opened: Session,
    rollout: Rollout,
    plan: Plan,
    *,
    leaving: Collection[str] = (),
    arriving: Mapping[str, NodeCapacity] | None = None,
) -> tuple[Finding, ...]:
    """Return what speaks against the drains of a plan; raises KubeError.

    Nodes that are ``leaving`` do not come back: what has no room or place without them is an error. Those that are
    ``arriving`` are reckoned as there.
    """
    from kops_py.model.actions import DrainNode, UncordonNode
    from kops_py.observe.workloads import observe_workloads
    from kops_py.runbooks.disruption import disruption_findings
    from kops_py.runbooks.room import for_good

    drained = list(dict.fromkeys(s.node for s in plan.steps if isinstance(s.action, DrainNode)))
    if not drained:
        return ()
    count = f"{len(drained)} nodes" if len(drained) > 1 else drained[0]
    opened.emit(Note(message=f"reckoning what draining {count} means for the pods there"))
    workloads = observe_workloads(opened.kube.api())
    # What an unfinished run of ours has cordoned takes pods again before the next node is drained.
    back = {s.node for s in plan.steps if isinstance(s.action, UncordonNode)}
    nodes = {
        name: dataclasses.replace(node, unschedulable=node.unschedulable and name not in back)
        for name, node in workloads.nodes.items()
    }
    workloads = dataclasses.replace(workloads, nodes={**(arriving or {}), **nodes})
    found = disruption_findings(workloads, rollout.drain, drained, max(rollout.widest, len({*leaving} & {*drained})))
    return tuple(for_good(f, leaving) for f in found)


def _arguments(spec: ClusterSpec, facts: Facts, hops: tuple[Version, ...], given: RolloutSettings) -> UpgradeArguments:
    from kops_py.connect.ansible import playbooks_fingerprint
    from kops_py.runbooks.upgrade import UpgradeArguments, plan_order
    from kops_py.tools.preparation import stage_digest

    fingerprint = playbooks_fingerprint()
    return UpgradeArguments(
        hops=hops,
        rollout=dataclasses.replace(make_rollout(spec, given, facts), order=plan_order(spec, facts, hops[0])),
        stage_digests={str(v): {h.name: stage_digest(spec, h, v, fingerprint) for h in spec.nodes} for v in hops},
    )


def make_rollout(spec: ClusterSpec, given: RolloutSettings, facts: Facts | None = None) -> Rollout:
    """Return how nodes are taken out of service: cluster.yaml's settings with the command line's over them.

    ``facts`` tell the labels that make a node a member of a group, and where an earlier run has begun. Raises
    ConfigError.
    """
    from kops_py.model.drain import DrainPolicy
    from kops_py.model.hooks import Gate, OperatorCommand, window_of
    from kops_py.runbooks.rollout import Rollout, is_begun, worker_groups

    own = spec.maintenance
    nodes = facts.kube.nodes if facts and facts.kube else {}
    whole = given.all_at_once or given.max_unavailable is not None
    groups = () if whole else worker_groups(spec, own.groups, nodes)
    if given.max_unavailable is not None:
        own = dataclasses.replace(own, max_unavailable=given.max_unavailable)
    canary = own.canary.count if given.canary is None else given.canary
    if not canary and (given.canary_pause_s or given.canary_gate):
        raise ConfigError(
            "--canary-pause and --canary-gate need a canary",
            hint="add --canary 1, or set maintenance.canary.count in cluster.yaml",
        )
    gate = own.canary.gate
    if given.canary_gate:
        gate = Gate("of the canary", OperatorCommand(given.canary_gate))
    drain: DrainPolicy = dataclasses.replace(
        own.drain,
        timeout_s=own.drain.timeout_s if given.drain_timeout_s is None else given.drain_timeout_s,
        grace_period_s=own.drain.grace_period_s if given.grace_period_s is None else given.grace_period_s,
        pod_selector=own.drain.pod_selector if given.pod_selector is None else given.pod_selector,
        delete_empty_dir_data=own.drain.delete_empty_dir_data or given.delete_empty_dir_data,
        force=own.drain.force or given.force,
        disable_eviction=given.disable_eviction,
    )
    workers = len(spec.workers)
    ungrouped = workers - sum(len(group.nodes) for group in groups)
    return Rollout(
        drain=drain,
        window=max(1, workers) if given.all_at_once else window_of(own.max_unavailable, ungrouped),
        groups=groups,
        max_failures=own.max_failures if given.max_failures is None else given.max_failures,
        canary=canary,
        canary_pause_s=own.canary.pause_s if given.canary_pause_s is None else given.canary_pause_s,
        canary_gate=gate,
        begun=frozenset(h.name for h in spec.workers if h.name in nodes and is_begun(nodes[h.name])),
        limit=spec.limit or frozenset(),
    )


def _oldest(facts: Facts) -> Version:
    """Return the oldest version there is; raises KubeError without an API.

    Of the nodes as well: an upgrade that was interrupted between two minors has workers at the one before.
    """
    require_api(facts, "upgrade")
    kube = cast("KubeFacts", facts.kube)
    found = [kube.server_version]
    for text in (kube.kubernetes_version, *(node.version for node in kube.nodes.values())):
        with suppress(ValueError):
            found.append(Version.parse(text.partition("+")[0]))
    return min(found)
