"""What upgrades and patches share: the order of nodes, the window, and the steps around the work on one node.

The chain of a node, top to bottom: cordon, drain, the work, healthy, uncordon, workloads back. A node that a person
has cordoned is drained and worked on as well, and stays cordoned. A control plane is out of our load balancers from
before its work until it is healthy.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from kops_py.model.actions import (
    CordonNode,
    DrainNode,
    PutBackIntoBalancer,
    TakeOutOfBalancer,
    UncordonNode,
    WaitNode,
    WaitWorkloads,
)
from kops_py.model.cordon import read_cordon
from kops_py.model.drain import DrainPolicy
from kops_py.model.facts import Facts, NodeFacts
from kops_py.model.finding import Finding, FindingKind, Severity
from kops_py.model.plan import Step, Wave
from kops_py.model.spec import ClusterSpec, HostSpec

NOT_A_MEMBER = FindingKind(
    "not-a-member",
    (Severity.WARNING,),
    "A host of the inventory is not in the cluster; it is left out.",
    "kops-py bootstrap joins it.",
)
UNREACHABLE = FindingKind(
    "node-unreachable",
    (Severity.ERROR,),
    "A node of the cluster cannot be reached over ssh: it would be left behind.",
    "Bring it back; ignored, it is left out.",
)
NOT_READY = FindingKind(
    "node-not-ready",
    (Severity.ERROR,),
    "A node is not Ready before anything is touched; one more out of service may be one too many.",
    "Mend it first; kops-py status shows why.",
)
CORDONED = FindingKind(
    "node-cordoned",
    (Severity.INFO,),
    "A node was cordoned by somebody else: it is worked on as well, and stays cordoned.",
    "Nothing; or kubectl uncordon when nobody needs that any more.",
)
LIMIT = FindingKind(
    "control-plane-first",
    (Severity.ERROR,),
    "--limit leaves out control planes that are older than the target; kubelets must not be newer than API servers.",
    "Upgrade the control planes first.",
)
BALANCER = FindingKind(
    "balancer-unreachable",
    (Severity.WARNING,),
    "A load balancer cannot be reached over ssh: it is not told which control plane is being worked on.",
    "Bring it back; else its clients may meet an API server that is just being restarted.",
)
KINDS = (NOT_A_MEMBER, UNREACHABLE, NOT_READY, CORDONED, LIMIT, BALANCER)
_API_HINT = "bring it back (on a control plane: crictl ps -a; journalctl -u kubelet), then run the same command"

ROLLOUTS = frozenset({"upgrade", "patch", "reboot"})
"""Operations that cordon a node for the time they work on it; every other cordon is somebody's decision."""


@dataclass(frozen=True, slots=True)
class Rollout:
    """How nodes are taken out of service; decided once for a whole run."""

    drain: DrainPolicy
    window: int = 1
    """Workers worked on at once."""
    max_failures: int = 0
    canary: int = 0
    """Workers that go before all others, one at a time."""
    order: tuple[str, ...] = ()
    """Control planes in the order they are worked on."""
    limit: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class NodeWork:
    """What is to be done on one node: ``steps`` is the work itself, between drain and gate."""

    host: HostSpec
    before: tuple[Step, ...]
    steps: tuple[Step, ...]
    tag: str
    """Told apart by this behind the ids, when a node is worked on several times: ``v1.21.0``."""
    version: str
    """What the node runs afterwards."""
    out_of_balancer: bool = False
    """Whether an earlier run took it out of a load balancer and has not put it back."""


def is_our_cordon(node: NodeFacts) -> bool:
    """Whether the node was cordoned by an upgrade or patch of ours that has not ended."""
    cordon = read_cordon(node.annotations)
    return node.unschedulable and cordon is not None and cordon.operation in ROLLOUTS


def is_out_of_balancer(facts: Facts, name: str) -> bool:
    """Whether a run of ours that has not ended took this control plane out of a load balancer."""
    return any(name in host.out_of_balancer for host in facts.hosts.values())


def chain(work: NodeWork, node: NodeFacts, rollout: Rollout, spec: ClusterSpec) -> tuple[Step, ...]:
    """Return the steps for one node, in order; empty when nothing is to be done and no cordon of ours is left."""
    ours, name, control_plane = is_our_cordon(node), work.host.name, work.host.is_control_plane
    if not (work.before or work.steps or ours or work.out_of_balancer):
        return ()
    tag = f"@{work.tag}" if work.tag else ""
    persons = node.unschedulable and not ours
    policy, timeouts = rollout.drain, spec.timeouts
    leave = (
        Step(f"cordon/{name}{tag}", name, "cordon", CordonNode(name), timeouts.api_request_s * 4),
        Step(
            f"drain/{name}{tag}", name, "drain", DrainNode(name, policy), policy.timeout_s + 60, drain_details(policy)
        ),
    )
    out, into = _balancing(work, spec, tag)
    gate = Step(
        f"healthy/{name}{tag}",
        name,
        f"wait until the node is healthy ({work.version})",
        WaitNode(name, work.version, control_plane),
        timeouts.node_ready_s,
    )
    back = (
        Step(f"uncordon/{name}{tag}", name, "uncordon", UncordonNode(name), timeouts.api_request_s * 4),
        Step(
            f"settled/{name}{tag}",
            name,
            "wait until what was moved is available again",
            WaitWorkloads(name),
            timeouts.node_ready_s,
        ),
    )
    return (
        *out,
        *work.before,
        *((leave[1:] if persons else leave) if work.steps else ()),
        *work.steps,
        gate,
        *into,
        *(() if persons or not (work.steps or ours) else back),
    )


def _balancing(work: NodeWork, spec: ClusterSpec, tag: str) -> tuple[tuple[Step, ...], tuple[Step, ...]]:
    """Return the steps that take a control plane out of our load balancers and put it back, if there are any."""
    name, names = work.host.name, [h.name for h in spec.load_balancers]
    if not (work.host.is_control_plane and names):
        return (), ()
    several = len(spec.control_planes) > 1
    out = Step(
        f"out-of-balancer/{name}{tag}",
        name,
        f"take it out of the load balancer ({', '.join(names)})",
        TakeOutOfBalancer(name),
        spec.timeouts.api_request_s * 4,
        ("no new connections; open ones stay until its API server ends",),
    )
    into = Step(
        f"into-balancer/{name}{tag}",
        name,
        f"put it back into the load balancer ({', '.join(names)})",
        PutBackIntoBalancer(name),
        spec.timeouts.node_ready_s,
    )
    works = several and bool(work.before or work.steps)
    return (out,) if works else (), (into,) if works or work.out_of_balancer else ()


def drain_details(policy: DrainPolicy) -> tuple[str, ...]:
    """Return the lines that say what the drain may do beyond evicting."""
    found = [f"evict, at most {policy.timeout_s:g} s"]
    if policy.disable_eviction:
        found.append("DELETES PODS WITHOUT ASKING DISRUPTION BUDGETS")
    if policy.delete_empty_dir_data:
        found.append("pods with emptyDir data as well: it is lost")
    if policy.force:
        found.append("pods without a controller as well: nothing starts them again")
    if policy.grace_period_s is not None:
        found.append(f"grace period {policy.grace_period_s} s in place of the pods' own")
    return tuple(found)


def control_plane_order(spec: ClusterSpec, facts: Facts, begun: Collection[str]) -> tuple[str, ...]:
    """Return the control planes: those an earlier run has begun, then followers of etcd, then its leader."""
    leaders = {m.name for m in facts.etcd if m.is_leader}
    names = [h.name for h in spec.control_planes]
    return tuple(sorted(names, key=lambda n: (n not in begun, n in leaders, names.index(n))))


def worker_waves(chains: Sequence[tuple[Step, ...]], rollout: Rollout, title: str) -> tuple[Wave, ...]:
    """Return the waves of the workers: canaries one by one, then all others in a sliding window."""
    pending = [c for c in chains if c]
    canaries, rest = pending[: rollout.canary], pending[rollout.canary :]
    waves = [Wave(f"canary {c[0].node}{title}", c) for c in canaries]
    if rest:
        steps = tuple(step for c in rest for step in c)
        waves.append(Wave(f"workers{title}", steps, max_parallel=rollout.window, failures_allowed=rollout.max_failures))
    return tuple(waves)


def member_nodes(spec: ClusterSpec, facts: Facts, rollout: Rollout) -> dict[str, NodeFacts]:
    """Return the nodes that can be worked on: of the inventory, in the cluster, in the limit, reachable."""
    nodes = facts.kube.nodes if facts.kube else {}
    return {
        h.name: nodes[h.name]
        for h in spec.nodes
        if h.name in nodes and facts.hosts[h.name].reachable and (not rollout.limit or h.name in rollout.limit)
    }


def state_findings(spec: ClusterSpec, facts: Facts, pending: Iterable[str], rollout: Rollout) -> tuple[Finding, ...]:
    """Return what speaks against taking nodes out of service now."""
    kube = facts.kube
    if kube is None:
        why = f" ({facts.kube_problem.why or facts.kube_problem.what})" if facts.kube_problem else ""
        return (Finding(Severity.ERROR, "api-down", "", f"the API server does not answer{why}", _API_HINT),)
    found: list[Finding] = []
    for host in spec.nodes:
        if rollout.limit and host.name not in rollout.limit:
            continue
        if host.name not in kube.nodes:
            found.append(NOT_A_MEMBER.found("is in the inventory but not in the cluster; left out", node=host.name))
        elif not facts.hosts[host.name].reachable:
            message = "is a node of the cluster but cannot be reached: it would be left behind"
            found.append(UNREACHABLE.found(message, node=host.name))
    found += [
        BALANCER.found(
            "is a load balancer and cannot be reached: it is not told which control plane is worked on", node=h.name
        )
        for h in spec.load_balancers
        if not facts.hosts[h.name].reachable
    ]
    begun = {name for name, node in kube.nodes.items() if is_our_cordon(node)}
    working = set(pending) | begun
    for name, node in kube.nodes.items():
        if not node.ready and name not in begun:
            found.append(NOT_READY.found(f"is not Ready: {node.reason}", node=name))
        if node.unschedulable and name not in begun and name in working:
            message = "is cordoned, not by an upgrade or patch of kops-py: it is worked on and stays cordoned"
            found.append(CORDONED.found(message, node=name))
    return tuple(found)
