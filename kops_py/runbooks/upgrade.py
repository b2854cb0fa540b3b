"""Upgrade: one hop after the other, control planes one at a time, then the workers in a sliding window.

The checklist this replaces, per hop: packages and images fetched to every host; on each control plane kubeadm's
package, kubeadm upgrade (``apply`` on the first, ``node`` on the others), drain, kubelet and kubectl, the kubelet
restarted, everything healthy again, uncordon; then the same on the workers. What is true already is left out.
(Order: kubernetes.io, "Upgrading kubeadm clusters"; draining is a must for minors of the kubelet.)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from kops_py.model.actions import UPGRADE_JOB, InstallPackages, StageUpgrade, UpgradeWithKubeadm
from kops_py.model.facts import Facts, HostFacts, JobState, NodeFacts
from kops_py.model.finding import Finding
from kops_py.model.plan import Plan, Step, Wave
from kops_py.model.spec import ClusterSpec, HostSpec
from kops_py.model.version import Version
from kops_py.runbooks.decision import Decision
from kops_py.runbooks.rollout import (
    AFTER,
    LIMIT,
    NodeWork,
    Rollout,
    chain,
    control_plane_order,
    is_begun,
    is_our_cordon,
    is_unfinished,
    member_nodes,
    out_of_balancer,
    state_findings,
    without_leaders,
    worker_waves,
)

_OPERATION = "upgrade"
_COMPONENTS = ("kube-apiserver", "kube-controller-manager", "kube-scheduler")


@dataclass(frozen=True, slots=True)
class UpgradeArguments:
    """What the runbook cannot know by itself; the same for a whole run."""

    hops: tuple[Version, ...]
    rollout: Rollout
    stage_digests: Mapping[str, Mapping[str, str]] = field(default_factory=lambda: MappingProxyType({}))
    """Digest of what is staged, by version and host."""
    staged_only: frozenset[str] = frozenset()
    """Nodes that are replaced, not upgraded: kube-proxy and DNS of every version on the way run there all the same."""


def upgrade(spec: ClusterSpec, facts: Facts, arguments: UpgradeArguments) -> Decision:
    """Plan the upgrade through all hops; pure."""
    nodes = member_nodes(spec, facts, arguments.rollout)
    world = _World(spec, facts, arguments, nodes, out_of_balancer(facts))
    waves: list[Wave] = []
    seen: set[str] = set()
    if facts.kube is not None:
        for version in arguments.hops:
            waves += _hop(world, version, seen)
    pending = {step.node for wave in waves for step in wave.steps}
    plan = Plan(
        operation=_OPERATION,
        cluster=spec.name,
        waves=tuple(w for w in waves if w.steps),
        arguments={"to": str(arguments.hops[-1]) if arguments.hops else ""},
        notes=_notes(world),
    )
    return Decision(plan, (*state_findings(spec, facts, pending, arguments.rollout), *_limit_findings(world)))


def begun_nodes(spec: ClusterSpec, facts: Facts, target: Version) -> frozenset[str]:
    """Return the control planes on which an upgrade was begun and not ended: they come first."""
    nodes, out = facts.kube.nodes if facts.kube else {}, out_of_balancer(facts)
    return frozenset(
        h.name
        for h in spec.control_planes
        if _is_unfinished(facts.hosts[h.name])
        or _package(facts.hosts[h.name], "kubeadm") == target
        or (h.name in nodes and is_begun(nodes[h.name]))
        or h.name in out
    )


def plan_order(spec: ClusterSpec, facts: Facts, target: Version) -> tuple[str, ...]:
    """Return the order of the control planes for a run that begins now."""
    return control_plane_order(spec, facts, begun_nodes(spec, facts, target))


@dataclass(frozen=True, slots=True)
class _World:
    spec: ClusterSpec
    facts: Facts
    arguments: UpgradeArguments
    nodes: Mapping[str, NodeFacts]
    """Those that can be worked on."""
    out_of_balancer: frozenset[str]

    @property
    def stored_version(self) -> Version | None:
        """Return what the cluster's kubeadm configuration says."""
        return _version(self.facts.kube.kubernetes_version if self.facts.kube else "")

    def host(self, name: str) -> HostFacts:
        return self.facts.hosts[name]

    @property
    def target(self) -> Version:
        """Return the version of the last hop."""
        return self.arguments.hops[-1]


def _hop(world: _World, version: Version, seen: set[str]) -> list[Wave]:
    """Return the waves of one hop; ``seen`` are the nodes that have a chain in an earlier one."""
    spec, rollout, nodes = world.spec, world.arguments.rollout, world.nodes
    order = [n for n in rollout.order if n in nodes] or [h.name for h in spec.control_planes if h.name in nodes]
    # Only one control plane runs "apply": the first one of the order that is still to do, while the cluster's own
    # record is older.
    apply_on = ""
    stored = world.stored_version
    if stored is None or stored < version:
        apply_on = next((n for n in order if _kubeadm_pending(world, spec.host(n), version)), "")
    chains: dict[str, tuple[Step, ...]] = {}
    for name in (*order, *(h.name for h in spec.workers if h.name in nodes)):
        work = _work(world, spec.host(name), nodes[name], version, apply=name == apply_on)
        node, at_last, at_first = nodes[name], version == world.target, version == world.arguments.hops[0]
        left = (at_last and (is_our_cordon(node) or work.out_of_balancer)) or (at_first and is_unfinished(node))
        if work.before or work.steps or left:
            steps = chain(work, node, rollout, spec, first=name not in seen)
            chains.update({name: steps} if steps else {})
    seen.update(chains)
    chains = without_leaders(chains)
    workers = [chains[h.name] for h in spec.workers if h.name in chains]
    pending = [n for n in chains if any(not s.id.startswith(AFTER) for s in chains[n])]
    if any(n in order for n in pending):
        members = world.facts.kube.nodes if world.facts.kube else {}
        pending += [n for n in sorted(world.arguments.staged_only) if n in members and _answers(world.facts, n)]
    return [
        _stage(world, version, pending),
        *(Wave(f"control plane {name}, {version}", chains[name]) for name in order if name in chains),
        *worker_waves(workers, rollout, spec, _OPERATION, str(version)),
    ]


def _answers(facts: Facts, name: str) -> bool:
    return name in facts.hosts and facts.hosts[name].reachable


def _stage(world: _World, version: Version, names: list[str]) -> Wave:
    digests = world.arguments.stage_digests.get(str(version), {})
    steps = tuple(
        Step(
            f"stage/{name}@{version}",
            name,
            f"fetch packages and images of {version}",
            StageUpgrade(name, str(version), digests.get(name, "")),
            world.spec.timeouts.prepare_s,
            ("nothing is installed yet",),
        )
        for name in names
        if world.host(name).staged_digest != digests.get(name, "")
    )
    return Wave(f"staging {version}", steps, max_parallel=len(steps) or 1, together=True)


def _work(world: _World, host: HostSpec, node: NodeFacts, version: Version, *, apply: bool) -> NodeWork:
    name, facts, timeouts = host.name, world.host(host.name), world.spec.timeouts
    kubelet_pending = _is_below(_version(node.version), version) or _is_below(_package(facts, "kubelet"), version)
    kubeadm_pending = _kubeadm_pending(world, host, version)
    before: list[Step] = []
    if kubeadm_pending and _is_below(_package(facts, "kubeadm"), version):
        install = InstallPackages(name, ("kubeadm",), str(version))
        title = f"install kubeadm {version.bare}"
        before.append(Step(f"kubeadm/{name}@{version}", name, title, install, timeouts.prepare_s))
    if kubeadm_pending:
        action = UpgradeWithKubeadm(name, str(version), apply, host.is_control_plane)
        command = f"kubeadm upgrade apply {version}" if apply else "kubeadm upgrade node"
        several = host.is_control_plane and len(world.spec.control_planes) > 1 and not world.spec.external_etcd
        more = ("etcd's leadership is moved away first, if it is here",) if several else ()
        limit_s = timeouts.kubeadm_s * (2 if host.is_control_plane else 1)
        before.append(Step(f"upgrade/{name}@{version}", name, command, action, limit_s, more))
    steps: tuple[Step, ...] = ()
    if kubelet_pending:
        install = InstallPackages(name, ("kubelet", "kubectl"), str(version))
        title = f"install kubelet and kubectl {version.bare}, restart the kubelet"
        steps = (Step(f"kubelet/{name}@{version}", name, title, install, timeouts.prepare_s),)
    out = name in world.out_of_balancer
    return NodeWork(host, tuple(before), steps, str(version), str(version), _OPERATION, out)


def _kubeadm_pending(world: _World, host: HostSpec, version: Version) -> bool:
    """Whether kubeadm upgrade has not come to its end here for this version.

    The manifests tell it for a control plane; kubeadm swaps them one by one and may be killed in between, which
    its job's record on the host tells. Installing another kubeadm takes that record away.
    """
    facts = world.host(host.name)
    if _package(facts, "kubeadm") == version:
        if _is_unfinished(facts):
            return True
        if not host.is_control_plane and facts.jobs.get(UPGRADE_JOB) is JobState.SUCCEEDED:
            return False
    if host.is_control_plane:
        return any(_is_below(_image_version(facts.static_images.get(c, "")), version) for c in _COMPONENTS)
    node = world.nodes.get(host.name)
    return node is None or _is_below(_version(node.version), version)


def _is_unfinished(facts: HostFacts) -> bool:
    return facts.jobs.get(UPGRADE_JOB) not in (None, JobState.SUCCEEDED)


def _package(facts: HostFacts, name: str) -> Version | None:
    return _version(facts.packages.get(name, "").rpartition(":")[2].partition("-")[0])


def _image_version(image: str) -> Version | None:
    """Return the version of an image's tag; a digest behind it does not matter."""
    return _version(image.partition("@")[0].rpartition(":")[2])


def _version(text: str) -> Version | None:
    try:
        return Version.parse(text.partition("+")[0])
    except ValueError:
        return None


def _is_below(found: Version | None, wanted: Version) -> bool:
    """Whether a version is older; one that cannot be told counts as older, so that the step looks again."""
    return found is None or found < wanted


def _limit_findings(world: _World) -> tuple[Finding, ...]:
    """Control planes come first: workers alone must not get ahead of them."""
    rollout, spec = world.arguments.rollout, world.spec
    left_out = [h for h in spec.control_planes if rollout.limit and h.name not in rollout.limit]
    behind = [h.name for h in left_out if world.host(h.name).reachable and _kubeadm_pending(world, h, world.target)]
    if not behind:
        return ()
    return (LIMIT.found(f"older than {world.target} and left out: {', '.join(behind)}"),)


def _notes(world: _World) -> tuple[str, ...]:
    target = world.target
    done = [
        n for n, node in world.nodes.items() if not _is_below(_version(node.version), target) and not is_begun(node)
    ]
    return (f"run {target} or newer already: {', '.join(done)}",) if done else ()
