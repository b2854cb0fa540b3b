"""Upgrade by replacement: new hosts of the inventory join at the new version, old workers are drained out and removed.

The checklist this replaces: control planes upgraded as usual; new hosts prepared and joined at the target version;
then old worker after old worker drained, reset and deleted, in a sliding window. Workers that are not replaced
are upgraded in place, as usual, before. A host that was taken out bears a mark and is never taken for a new one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass

from kops_py.model.actions import JOIN_JOB, UPGRADE_JOB
from kops_py.model.facts import Facts, JobState
from kops_py.model.finding import Finding, FindingKind, Severity, few
from kops_py.model.plan import Plan, Step, Wave
from kops_py.model.spec import ClusterSpec
from kops_py.model.version import Version
from kops_py.runbooks.bootstrap import BootstrapArguments, bootstrap
from kops_py.runbooks.decision import Decision
from kops_py.runbooks.node_add import at_version
from kops_py.runbooks.node_remove import (
    RemoveArguments,
    removal_chain,
    removal_findings,
    removal_waves,
    routes_wave,
    was_removed,
)
from kops_py.runbooks.rollout import NOT_READY
from kops_py.runbooks.upgrade import UpgradeArguments, upgrade

TOO_FEW = FindingKind(
    "too-few-replacements",
    (Severity.ERROR,),
    "There are fewer new hosts than old workers to be removed.",
    "Add hosts to kube_node of the inventory; or name those to be replaced (--replace NODE), the others are upgraded "
    "in place.",
)
NEW_UNREACHABLE = FindingKind(
    "replacement-unreachable",
    (Severity.ERROR,),
    "A new host cannot be reached over ssh; it does not count as a replacement.",
    "Bring it up; or take it out of the inventory.",
)
REMOVED_EARLIER = FindingKind(
    "removed-earlier",
    (Severity.INFO,),
    "A host of the inventory was taken out of the cluster earlier; it is not taken for a new one.",
    "Take it out of the inventory; or kops-py node add joins it again.",
)
KINDS = (TOO_FEW, NEW_UNREACHABLE, REMOVED_EARLIER)
_JOINS = ("prepare/", "join/", "network/", "labels/", "revoke", "healthy")


@dataclass(frozen=True, slots=True)
class ReplaceArguments:
    """Who goes and who comes; decided once for a whole run."""

    upgrade: UpgradeArguments
    join: BootstrapArguments
    """At the target version."""
    remove: RemoveArguments
    newcomers: tuple[str, ...] = ()


def old_workers(spec: ClusterSpec, facts: Facts, target: Version, named: Sequence[str]) -> tuple[str, ...]:
    """Return the workers to be replaced: those named, else all members of the inventory below the target.

    With them those whose removal an earlier run has begun and not ended: they come first.
    """
    nodes = facts.kube.nodes if facts.kube else {}
    begun = [h.name for h in spec.workers if was_removed(spec, facts.hosts[h.name])]
    unfinished = [n for n in begun if n in nodes or not _is_done(facts, n)]
    chosen = named or [h.name for h in spec.workers if h.name in nodes and _is_below(nodes[h.name].version, target)]
    rest = [n for n in chosen if n not in begun]
    return tuple(dict.fromkeys((*unfinished, *rest)))


def _is_done(facts: Facts, name: str) -> bool:
    mark = facts.hosts[name].removal
    return mark is not None and mark.done


def new_workers(spec: ClusterSpec, facts: Facts, target: Version) -> tuple[str, ...]:
    """Return the hosts of kube_node that are new: no members yet, or joined at the target version itself.

    The latter have kubeadm's record of their join and none of an upgrade since; so an interrupted run knows its own.
    Hosts that were taken out earlier are not new, and those that cannot be reached are of no use.
    """
    nodes = facts.kube.nodes if facts.kube else {}

    def is_new(name: str) -> bool:
        host = facts.hosts[name]
        if not host.reachable or was_removed(spec, host):
            return False
        if name not in nodes or not host.has_kubelet_conf:
            return True
        joined = host.jobs.get(JOIN_JOB) is JobState.SUCCEEDED and UPGRADE_JOB not in host.jobs
        return joined and not _is_below(nodes[name].version, target)

    return tuple(h.name for h in spec.workers if is_new(h.name))


def replace(spec: ClusterSpec, facts: Facts, arguments: ReplaceArguments) -> Decision:
    """Plan an upgrade that replaces workers; pure."""
    nodes = facts.kube.nodes if facts.kube else {}
    out, target = arguments.remove.names, arguments.upgrade.hops[-1]
    removed = {h.name for h in spec.nodes if was_removed(spec, facts.hosts[h.name])}
    outside = {n for n in arguments.newcomers if n not in nodes or not facts.hosts[n].has_kubelet_conf}
    in_place = dataclasses.replace(arguments.upgrade, staged_only=frozenset(out) - removed)
    decision = upgrade(_without(spec, {*out, *removed, *outside}), facts, in_place)
    leaving = any(removal_chain(spec, facts, n, arguments.remove) for n in out)
    waves = (
        *decision.plan.waves,
        *_joins(_without(spec, removed), facts, arguments, target),
        *removal_waves(spec, facts, arguments.remove, f", replaced at {target}"),
        routes_wave(spec, facts, {*out, *removed}, pending=leaving, arriving=outside),
    )
    plan = Plan(
        "upgrade",
        spec.name,
        tuple(w for w in waves if w.steps),
        {**decision.plan.arguments, "strategy": "replace", "replaced": ",".join(out)},
        (*decision.plan.notes, *_notes(out, outside)),
    )
    # a new host whose join was cut off is not Ready yet: that is mended here, and of those that go more is said below
    new = set(arguments.newcomers)
    found = [f for f in decision.findings if f.node not in out and not (f.id == NOT_READY.id and f.node in new)]
    found += [*removal_findings(spec, facts, arguments.remove), *_findings(spec, facts, arguments)]
    return Decision(plan, tuple(found))


def _without(spec: ClusterSpec, names: Collection[str]) -> ClusterSpec:
    return dataclasses.replace(spec, hosts=tuple(h for h in spec.hosts if h.name not in names))


def _joins(spec: ClusterSpec, facts: Facts, arguments: ReplaceArguments, target: Version) -> tuple[Wave, ...]:
    """Return bootstrap's waves that make the new hosts members, and nothing else of it."""
    if not arguments.newcomers or facts.kube is None:
        return ()
    limited = dataclasses.replace(arguments.join, limit=frozenset(arguments.newcomers))
    waves = bootstrap(at_version(spec, target), facts, limited).plan.waves
    joining = any(s.id.startswith(("prepare/", "join/")) for w in waves for s in w.steps)
    peers = {f"{n.name}={n.pod_cidr}@{n.internal_ip}" for n in facts.kube.nodes.values()}

    def is_kept(step: Step) -> bool:
        if step.id.startswith("network/"):
            # routes too many are taken away after the removals
            return step.node != "" and (joining or bool(peers - facts.hosts[step.node].bridge_peers))
        return step.id.startswith(_JOINS)

    kept = [dataclasses.replace(w, steps=tuple(s for s in w.steps if is_kept(s))) for w in waves]
    if not any(s.id != "healthy" for w in kept for s in w.steps):
        return ()
    return tuple(kept)


def _notes(out: Collection[str], newcomers: Collection[str]) -> tuple[str, ...]:
    found = []
    if newcomers:
        found.append(f"new: {', '.join(sorted(newcomers))}")
    if out:
        found.append(f"replaced and removed, to be taken out of the inventory afterwards: {', '.join(out)}")
    return tuple(found)


def _findings(spec: ClusterSpec, facts: Facts, arguments: ReplaceArguments) -> tuple[Finding, ...]:
    nodes = facts.kube.nodes if facts.kube else {}
    out, reason = arguments.remove.names, arguments.remove.reason
    found: list[Finding] = []
    replaced = set(out)
    for host in spec.workers:
        mark = facts.hosts[host.name].removal
        if host.name in nodes:
            continue
        if not facts.hosts[host.name].reachable:
            found.append(
                NEW_UNREACHABLE.found("is in the inventory, not in the cluster, and cannot be reached", node=host.name)
            )
        elif mark is not None and was_removed(spec, facts.hosts[host.name]) and host.name not in out:
            found.append(REMOVED_EARLIER.found(f"was taken out of the cluster: {mark}", node=host.name))
            if mark.reason == reason:
                replaced.add(host.name)
    if len(arguments.newcomers) < len(replaced):
        new = f"{len(arguments.newcomers)} ({few(arguments.newcomers)})" if arguments.newcomers else "none"
        text = f"{len(replaced)} workers are to be replaced ({few(sorted(replaced))}), of new hosts there are {new}"
        found.append(TOO_FEW.found(text))
    return tuple(found)


def _is_below(text: str, target: Version) -> bool:
    with suppress(ValueError):
        return Version.parse(text.partition("+")[0]) < target
    return True
