"""Nodes out of the cluster for good: drained, out of etcd, reset, forgotten.

The checklist this replaces, per node: cordon, drain, wait until what was moved is available again; for a control
plane its etcd member taken out through another one; kubeadm reset and what it leaves; the Node object deleted. Control
planes one at a time, then workers in a sliding window; in the end no other node has a route to them. A node that is
lost, or no longer in the inventory, is only taken out of the cluster: nothing can be done on its machine.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from kops_py.model.actions import (
    ConfigureBridge,
    ConfigureLoadBalancer,
    CordonNode,
    DeleteNode,
    DrainNode,
    ForgetEtcdMember,
    ResetNode,
    WaitWorkloads,
)
from kops_py.model.facts import Facts, HostFacts, NodeFacts
from kops_py.model.finding import Finding, FindingKind, Severity
from kops_py.model.membership import quorum_problem, without
from kops_py.model.plan import Plan, Step, Wave
from kops_py.model.spec import ClusterSpec, CniType, HostSpec
from kops_py.runbooks.decision import Decision
from kops_py.runbooks.rollout import DRAIN_WAITS_S, NOT_READY, UNREACHABLE, Rollout, drain_details

ERROR, WARNING, INFO = Severity.ERROR, Severity.WARNING, Severity.INFO

LAST_CONTROL_PLANE = FindingKind(
    "last-control-plane",
    (ERROR,),
    "No control plane would be left, or none that works.",
    "Join another one first (kops-py node add); kops-py reset takes a whole cluster down.",
)
ETCD_QUORUM = FindingKind(
    "etcd-quorum",
    (ERROR,),
    "etcd would lose its quorum with the member, or cannot be asked.",
    "Mend the other members first: kops-py status shows them.",
)
ENDPOINT_NODE = FindingKind(
    "endpoint-on-node",
    (ERROR,),
    "The cluster's API endpoint is the address of the control plane to be removed: every kubelet would lose the API.",
    "Move the endpoint to another address first.",
)
OTHER_CLUSTER = FindingKind(
    "host-of-other-cluster",
    (ERROR,),
    "The host has the certificate authority of another cluster: it is not reset.",
    "See which machine the inventory names; a node of this name that is gone for good is removed with --lost.",
)
NOT_LOST = FindingKind(
    "node-not-lost",
    (ERROR,),
    "--lost was given for a node that is there: its machine answers, or its kubelet reports.",
    "Remove it without --lost; or switch the machine off, and wait until the node is not Ready.",
)
MACHINE_LEFT = FindingKind(
    "machine-left",
    (WARNING,),
    "Nothing is done on the machine of a removed node: it still has its certificates, and joins again by itself when "
    "its kubelet starts.",
    "Keep it switched off; should it return, run kubeadm reset --force there before anything else.",
)
IN_INVENTORY = FindingKind(
    "still-in-inventory",
    (INFO,),
    "A removed host is in the inventory still: load balancers keep a control plane as backend, bootstrap joins it.",
    "Take it out of the inventory, then run kops-py bootstrap.",
)
UNKNOWN_NODE = FindingKind(
    "unknown-node",
    (WARNING,),
    "A name is neither a node of the cluster nor a host of the inventory: there is nothing to remove.",
    "Nothing when it was removed already; else look for the right name: kops-py status.",
)
LESS_TOLERANCE = FindingKind(
    "etcd-less-tolerance",
    (WARNING,),
    "etcd will not survive the loss of a member.",
    "Join another control plane.",
)
KINDS = (
    LAST_CONTROL_PLANE,
    ETCD_QUORUM,
    ENDPOINT_NODE,
    OTHER_CLUSTER,
    NOT_LOST,
    MACHINE_LEFT,
    IN_INVENTORY,
    UNKNOWN_NODE,
    LESS_TOLERANCE,
)
REFUSALS = frozenset(k.id for k in (LAST_CONTROL_PLANE, ETCD_QUORUM, ENDPOINT_NODE, OTHER_CLUSTER, NOT_LOST))
"""Findings that no --ignore puts aside: what they warn of cannot be undone."""


@dataclass(frozen=True, slots=True)
class RemoveArguments:
    """What is to go and how; decided once for a whole run."""

    names: tuple[str, ...]
    rollout: Rollout
    control_planes: frozenset[str] = frozenset()
    """Those of ``names`` that are control planes."""
    undrained: frozenset[str] = frozenset()
    """Those of ``names`` whose kubelet ends no pods: lost, or not Ready when the run began."""
    lost: bool = False
    """The operator says that their machines are gone."""
    machines_left: frozenset[str] = frozenset()
    """Those of ``names`` on whose machine nothing is done: lost, unreachable, or not in the inventory."""
    load_balancer_digests: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    reason: str = "node remove"


def removal_arguments(
    spec: ClusterSpec,
    facts: Facts,
    names: Sequence[str],
    rollout: Rollout,
    *,
    lost: bool = False,
    load_balancer_digests: Mapping[str, str] | None = None,
    reason: str = "node remove",
) -> RemoveArguments:
    """Return the arguments for a run that begins now."""
    nodes = facts.kube.nodes if facts.kube else {}
    inventory = {h.name: h for h in spec.nodes}
    return RemoveArguments(
        names=tuple(names),
        rollout=rollout,
        control_planes=frozenset(n for n in names if _is_control_plane(inventory.get(n), nodes.get(n))),
        undrained=frozenset(n for n in names if lost or (n in nodes and not nodes[n].ready)),
        lost=lost,
        machines_left=frozenset(n for n in names if lost or not _answers(facts, n)),
        load_balancer_digests=load_balancer_digests or {},
        reason=reason,
    )


def _is_control_plane(host: HostSpec | None, node: NodeFacts | None) -> bool:
    return node.is_control_plane if node is not None else host is not None and host.is_control_plane


def _answers(facts: Facts, name: str) -> bool:
    return name in facts.hosts and facts.hosts[name].reachable


def remove_nodes(spec: ClusterSpec, facts: Facts, arguments: RemoveArguments) -> Decision:
    """Plan the removal of nodes; pure."""
    waves = (
        _load_balancers(spec, facts, arguments),
        *removal_waves(spec, facts, arguments),
        routes_wave(spec, facts, arguments.names, pending=_pending(spec, facts, arguments)),
    )
    plan = Plan(
        "node-remove",
        spec.name,
        tuple(w for w in waves if w.steps),
        {"nodes": ",".join(arguments.names)},
        _notes(spec, facts, arguments),
    )
    return Decision(plan, removal_findings(spec, facts, arguments))


def removal_waves(spec: ClusterSpec, facts: Facts, arguments: RemoveArguments, title: str = "") -> tuple[Wave, ...]:
    """Return the waves that take the nodes out: control planes one by one, then the workers in a sliding window."""
    chains = {name: removal_chain(spec, facts, name, arguments) for name in arguments.names}
    workers = tuple(s for n in arguments.names if n not in arguments.control_planes for s in chains[n])
    window, failures = arguments.rollout.window, arguments.rollout.max_failures
    return (
        *(Wave(f"control plane {n} out", chains[n]) for n in arguments.names if n in arguments.control_planes),
        Wave(f"workers out{title}", workers, max_parallel=window, failures_allowed=failures),
    )


def _pending(spec: ClusterSpec, facts: Facts, arguments: RemoveArguments) -> bool:
    return any(removal_chain(spec, facts, name, arguments) for name in arguments.names)


def removal_chain(spec: ClusterSpec, facts: Facts, name: str, arguments: RemoveArguments) -> tuple[Step, ...]:
    """Return what is still to be done to take one node out, in order; empty when it is out."""
    node = facts.kube.nodes.get(name) if facts.kube else None
    host = facts.hosts.get(name)
    on_host = host is not None and host.reachable and name not in arguments.machines_left
    begun, done = removal_progress(spec, host) if host is not None and on_host else (False, False)
    timeouts = spec.timeouts
    steps: list[Step] = []
    # Ready although a reset was begun: it never ran, or the node is in use again. Nothing is lost by another drain.
    if node is not None and (not begun or node.ready):
        steps += _leave(spec, node, arguments)
    if (
        name in arguments.control_planes
        and not spec.external_etcd
        and (node or any(m.name == name for m in facts.etcd) or (on_host and host and host.has_etcd_data))
    ):
        address = node.internal_ip if node else next((h.node_ip for h in spec.hosts if h.name == name), "")
        title = "take its member out of etcd, its leadership moved away before" if on_host else "take out its member"
        action = ForgetEtcdMember(name, address, handover=on_host)
        steps.append(Step(f"etcd/{name}", name, title, action, timeouts.node_ready_s, ("etcdctl member remove",)))
    if host is not None and on_host and not done and (node or begun or is_cluster_host(host)):
        steps.append(reset_step(spec, name, arguments.reason))
    if node is not None:
        lost = name in arguments.undrained and not on_host
        action_ = DeleteNode(name, name in arguments.control_planes, lost=lost)
        steps.append(Step(f"delete/{name}", name, "delete its Node object", action_, timeouts.api_request_s * 4))
    return tuple(steps)


def is_cluster_host(host: HostFacts) -> bool:
    """Whether the host holds what makes it a member of some cluster."""
    return host.has_kubelet_conf or host.has_admin_conf or host.has_etcd_data or bool(host.manifests)


def removal_progress(spec: ClusterSpec, host: HostFacts) -> tuple[bool, bool]:
    """Return whether our reset of this host was begun, and whether it came to its end.

    A host that was clean and holds a cluster's files again was joined by somebody else since: the mark says nothing.
    """
    mark = host.removal
    if mark is None or mark.cluster != spec.name or (mark.done and is_cluster_host(host)):
        return False, False
    return True, mark.done


def was_removed(spec: ClusterSpec, host: HostFacts) -> bool:
    """Whether kops-py takes or took this host out of this cluster, and nothing has joined it again since."""
    return removal_progress(spec, host)[0]


def _leave(spec: ClusterSpec, node: NodeFacts, arguments: RemoveArguments) -> Iterator[Step]:
    name, policy, timeouts = node.name, arguments.rollout.drain, spec.timeouts
    if not node.unschedulable:
        yield Step(f"cordon/{name}", name, "cordon", CordonNode(name), timeouts.api_request_s * 4)
    if name in arguments.undrained:
        return
    yield Step(
        f"drain/{name}", name, "drain", DrainNode(name, policy), policy.timeout_s + DRAIN_WAITS_S, drain_details(policy)
    )
    title = "wait until what was moved is available again"
    yield Step(f"settled/{name}", name, title, WaitWorkloads(name), timeouts.node_ready_s)


def reset_step(spec: ClusterSpec, name: str, reason: str) -> Step:
    """Return the step that makes a host no member of any cluster."""
    details = ("kubeadm reset --force", "then the pod network, packet filter rules, keys and copies it leaves")
    return Step(f"reset/{name}", name, "kubeadm reset", ResetNode(name, reason), spec.timeouts.kubeadm_s, details)


def routes_wave(
    spec: ClusterSpec, facts: Facts, leaving: Collection[str], *, pending: bool, arriving: Collection[str] = ()
) -> Wave:
    """Return the wave that takes the routes to removed nodes from all others.

    ``pending``: some are still to go; ``arriving`` are nodes by then.
    """
    nodes = facts.kube.nodes if facts.kube else {}
    staying = {*nodes, *arriving} - {*leaving}
    steps: list[Step] = []
    for host in spec.nodes if spec.network.cni is CniType.BRIDGE else ():
        found = facts.hosts[host.name]
        if host.name not in staying or not found.reachable:
            continue
        gone = {peer for peer in found.bridge_peers if peer.partition("=")[0] not in nodes}
        if pending or gone:
            title = "take away routes to removed nodes"
            action = ConfigureBridge(host.name)
            steps.append(Step(f"routes/{host.name}", host.name, title, action, spec.timeouts.node_ready_s))
    return Wave("routes", tuple(steps), max_parallel=spec.ssh.max_parallel)


def _load_balancers(spec: ClusterSpec, facts: Facts, arguments: RemoveArguments) -> Wave:
    """Where the inventory no longer names a control plane, load balancers let it go before it is touched."""
    digests = arguments.load_balancer_digests
    steps = tuple(
        Step(
            f"load-balancer/{h.name}",
            h.name,
            f"configure haproxy for {spec.endpoint}",
            ConfigureLoadBalancer(h.name, digests[h.name]),
            spec.timeouts.prepare_s,
            (f"backends: {', '.join(c.node_ip for c in spec.control_planes)}",),
        )
        for h in spec.load_balancers
        if arguments.control_planes
        and h.name in digests
        and facts.hosts[h.name].reachable
        and facts.hosts[h.name].load_balancer_digest != digests[h.name]
    )
    return Wave("load balancers", steps, max_parallel=len(steps) or 1, together=True)


def _notes(spec: ClusterSpec, facts: Facts, arguments: RemoveArguments) -> tuple[str, ...]:
    out = [n for n in arguments.names if not removal_chain(spec, facts, n, arguments)]
    return (f"out of the cluster already: {', '.join(out)}",) if out else ()


def removal_findings(spec: ClusterSpec, facts: Facts, arguments: RemoveArguments) -> tuple[Finding, ...]:
    """Return what speaks against taking these nodes out; nothing is said of those that are out already."""
    names = [n for n in arguments.names if removal_chain(spec, facts, n, arguments)]
    known = {*facts.hosts, *(facts.kube.nodes if facts.kube else ())}
    return (
        *(UNKNOWN_NODE.found(f"there is no {n!r}", node=n) for n in arguments.names if n not in known),
        *(f for name in names for f in _node_findings(spec, facts, name, arguments)),
        *_control_plane_findings(spec, facts, [n for n in names if n in arguments.control_planes], arguments),
    )


def _node_findings(spec: ClusterSpec, facts: Facts, name: str, arguments: RemoveArguments) -> Iterator[Finding]:
    node = facts.kube.nodes.get(name) if facts.kube else None
    host = facts.hosts.get(name)
    if arguments.lost and host is not None and host.reachable:
        yield NOT_LOST.found("its machine answers over ssh", node=name)
    elif arguments.lost and node is not None and node.ready:
        yield NOT_LOST.found("its kubelet reports: what runs there would run on", node=name)
    elif host is not None and not host.reachable and not arguments.lost:
        hint = "bring it back; or, if it is gone for good: --lost"
        yield UNREACHABLE.found("cannot be reached over ssh: it cannot be reset", node=name, hint=hint)
    if host is not None and host.reachable and is_foreign(spec, facts, host):
        yield OTHER_CLUSTER.found("its certificate authority is not the one of the control planes", node=name)
    if node is not None and not node.ready and not arguments.lost and not (host and was_removed(spec, host)):
        hint = "mend it first; or, if it is gone for good: --lost"
        if host is not None and host.reachable:
            hint = "mend it first; ignored, it is not drained: kubeadm reset ends what runs there"
        yield NOT_READY.found(f"is not Ready, so that its pods cannot be moved: {node.reason}", node=name, hint=hint)
    if host is None or name in arguments.machines_left:
        yield MACHINE_LEFT.found("is only taken out of the cluster; its machine is left as it is", node=name)
    if host is not None:
        yield IN_INVENTORY.found("is in the inventory still: take it out when it is removed", node=name)


def is_foreign(spec: ClusterSpec, facts: Facts, host: HostFacts) -> bool:
    """Whether a host has the CA of another cluster than the control planes that are members."""
    nodes = facts.kube.nodes if facts.kube else {}
    own = {facts.hosts[h.name].ca_digest for h in spec.control_planes if h.name in nodes and h.name != host.name}
    own.discard("")
    return bool(host.ca_digest and own and host.ca_digest not in own)


def _control_plane_findings(
    spec: ClusterSpec, facts: Facts, names: Sequence[str], arguments: RemoveArguments
) -> Iterator[Finding]:
    if not names:
        return
    nodes = facts.kube.nodes if facts.kube else {}
    for host in spec.hosts:
        own = {host.address, host.node_ip, host.access_ip, host.name}
        if host.name in names and not host.is_load_balancer and spec.endpoint.host in own:
            yield ENDPOINT_NODE.found(f"{spec.endpoint} is the API endpoint", node=host.name)
    staying = [
        h.name
        for h in spec.control_planes
        if h.name not in arguments.names and h.name in nodes and nodes[h.name].ready and _answers(facts, h.name)
    ]
    if not staying:
        yield LAST_CONTROL_PLANE.found("no other control plane of the inventory is Ready and can be reached")
    if spec.external_etcd or not staying:
        return
    if not facts.etcd:
        yield ETCD_QUORUM.found("etcd does not answer through any control plane")
    members = facts.etcd
    for name in names:
        if problem := quorum_problem(members, name):
            yield ETCD_QUORUM.found(problem, node=name)
        members = without(members, {name})
    if 0 < len(members) < 3 <= len(facts.etcd):
        yield LESS_TOLERANCE.found(f"{len(members)} of {len(facts.etcd)} members stay: none may be lost")
