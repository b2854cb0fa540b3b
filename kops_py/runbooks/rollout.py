"""What upgrades and patches share: the order of nodes, the window, and the steps around the work on one node.

The chain of a node, top to bottom: the operator's hooks, what goes before the drain, cordon, drain, the work, healthy,
uncordon, workloads back, hooks, the operator's gates. A node that a person has cordoned is drained and worked on as
well, and stays cordoned. A control plane is out of our load balancers from before its work until it is healthy.

How far a chain has come is read from the node, so that it can be cut off anywhere: our cordon means that the hooks
before it are done; the mark "unfinished", which the uncordon leaves, means that what comes after is not.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from kops_py.model.actions import (
    CordonNode,
    DrainNode,
    FinishNode,
    MarkUnfinished,
    PutBackIntoBalancer,
    RunHook,
    StageUpgrade,
    TakeOutOfBalancer,
    UncordonNode,
    WaitGate,
    WaitNode,
    WaitWorkloads,
    WatchCanary,
)
from kops_py.model.cordon import UNFINISHED, read_cordon, read_mark
from kops_py.model.drain import DrainPolicy
from kops_py.model.duration import spell_seconds
from kops_py.model.facts import Facts, NodeFacts
from kops_py.model.finding import Finding, FindingKind, Severity
from kops_py.model.hooks import Gate, GroupSpec, OperatorCommand, Side, window_of
from kops_py.model.plan import Action, Plan, Step, Wave
from kops_py.model.selectors import matches
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


DRAIN_WAITS_S = 210.0
"""What a drain's step may take on top of the drain: the waits for leaders and kube-proxy before it, and its end."""

AFTER = ("healthy/", "into-balancer/", "uncordon/", "settled/", "after-", "gate-", "done/")
"""How the ids of steps begin that come after the work on a node."""


@dataclass(frozen=True, slots=True)
class WorkerGroup:
    """Workers that have a window of their own."""

    name: str
    nodes: frozenset[str]
    window: int


@dataclass(frozen=True, slots=True)
class Rollout:
    """How nodes are taken out of service; decided once for a whole run."""

    drain: DrainPolicy
    window: int = 1
    """Workers of no group worked on at once."""
    groups: tuple[WorkerGroup, ...] = ()
    max_failures: int = 0
    canary: int = 0
    """How many workers go before all others, one at a time."""
    canaries: tuple[str, ...] = ()
    """Which those are."""
    canary_pause_s: float = 0.0
    canary_gate: Gate | None = None
    passed: frozenset[str] = frozenset()
    """Ids of the steps after the canaries that have ended well, in this run or an unfinished one before it."""
    order: tuple[str, ...] = ()
    """Control planes in the order they are worked on."""
    begun: frozenset[str] = frozenset()
    """Workers on which an earlier run has begun: they go first."""
    limit: frozenset[str] = frozenset()

    @property
    def widest(self) -> int:
        """Return how many workers are worked on at once at most."""
        return max((self.window, *(group.window for group in self.groups)))


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
    operation: str
    out_of_balancer: bool = False
    """Whether an earlier run took it out of a load balancer and has not put it back."""


def is_our_cordon(node: NodeFacts) -> bool:
    """Whether the node was cordoned by an upgrade or patch of ours that has not ended."""
    cordon = read_cordon(node.annotations)
    return node.unschedulable and cordon is not None and cordon.operation in ROLLOUTS


def out_of_balancer(facts: Facts) -> frozenset[str]:
    """Return the control planes that a run of ours that has not ended took out of a load balancer."""
    return frozenset(name for host in facts.hosts.values() for name in host.out_of_balancer)


def is_unfinished(node: NodeFacts) -> bool:
    """Whether the chain of an upgrade or patch of ours has not come to its end on this node, uncordoned or not."""
    mark = read_mark(node.annotations, UNFINISHED)
    return mark is not None and mark.operation in ROLLOUTS


def is_begun(node: NodeFacts) -> bool:
    """Whether an earlier run of ours has begun on this node and not ended."""
    return is_our_cordon(node) or is_unfinished(node)


def chain(
    work: NodeWork, node: NodeFacts, rollout: Rollout, spec: ClusterSpec, *, first: bool = True
) -> tuple[Step, ...]:
    """Return the steps for one node, in order; empty when nothing is to be done and no mark of ours is left.

    ``first``: whether it is the node's first chain in the plan. What an earlier run left on the node matters to that
    one only: it ends with the node as if nothing had been.
    """
    ours, unfinished = first and is_our_cordon(node), first and is_unfinished(node)
    fresh = bool(work.before or work.steps)
    if not (fresh or ours or unfinished or work.out_of_balancer):
        return ()
    name, control_plane = work.host.name, work.host.is_control_plane
    if not (fresh or ours):
        work = replace(work, version=node.version.partition("+")[0])
    tag = f"@{work.tag}" if work.tag else ""
    persons = node.unschedulable and not is_our_cordon(node)
    policy, timeouts, own = rollout.drain, spec.timeouts, spec.maintenance
    api_s, ready_s = timeouts.api_request_s * 4, timeouts.node_ready_s

    def step(kind: str, title: str, action: Action, limit_s: float, details: tuple[str, ...] = ()) -> Step:
        return Step(f"{kind}/{name}{tag}", name, title, action, limit_s, details)

    cordon = step("cordon", "cordon", CordonNode(name), api_s)
    drain = step("drain", "drain", DrainNode(name, policy), policy.timeout_s + DRAIN_WAITS_S, drain_details(policy))
    gate = WaitNode(name, work.version, control_plane)
    healthy = step("healthy", f"wait until the node is healthy ({work.version})", gate, ready_s)
    uncordon = step("uncordon", "uncordon", UncordonNode(name, unfinished=True), api_s)
    settled = step("settled", "wait until what was moved is available again", WaitWorkloads(name), ready_s)
    mark = step("mark", "mark it as begun: its hooks and gates cannot be seen on it", MarkUnfinished(name), api_s)
    done = step("done", "note that all of it is done", FinishNode(name), api_s)
    out, into = _balancing(work, spec, tag)
    follows = (*_hooks("after", own.hooks.after, work, tag), *_gates(own.gates, work, tag))
    leaves = not persons and bool(work.steps or ours)
    marks = fresh and not leaves and bool(follows)
    return (
        *((mark,) if marks else ()),
        *(_hooks("before", own.hooks.before, work, tag) if fresh and not ours else ()),
        *out,
        *work.before,
        *((cordon,) if work.steps and not persons else ()),
        *((drain,) if work.steps else ()),
        *work.steps,
        healthy,
        *into,
        *((uncordon,) if leaves else ()),
        *((settled,) if work.steps or leaves or (unfinished and not persons) else ()),
        *follows,
        *((done,) if leaves or marks or unfinished else ()),
    )


def without_leaders(chains: Mapping[str, tuple[Step, ...]]) -> dict[str, tuple[Step, ...]]:
    """Let only the last control plane wait for controllers and scheduler, and none where pods are drained later.

    Every drain waits for them by itself. ``chains`` are of a plan or a hop, in its order.
    """
    found: dict[str, tuple[Step, ...]] = {}
    waited_for_later = False
    for name, steps in reversed(list(chains.items())):
        found[name] = tuple(_unled(s) for s in steps) if waited_for_later else steps
        waited_for_later = waited_for_later or any(_waits_for_leaders(s.action) for s in steps)
    return {name: found[name] for name in chains}


def _waits_for_leaders(action: Action) -> bool:
    return isinstance(action, DrainNode) or (isinstance(action, WaitNode) and action.control_plane and action.led)


def _unled(step: Step) -> Step:
    gate = step.action
    return replace(step, action=replace(gate, led=False)) if isinstance(gate, WaitNode) and gate.control_plane else step


def _hooks(when: str, commands: Sequence[OperatorCommand], work: NodeWork, tag: str) -> tuple[Step, ...]:
    name = work.host.name
    return tuple(
        Step(
            f"{when}-{number}/{name}{tag}",
            name,
            f"hook {when} the work{' on the node' if command.on is Side.NODE else ''}: {command}",
            RunHook(name, when, command, work.operation, work.version),
            command.timeout_s + 5,
            ("run again when the run is cut off in it",),
        )
        for number, command in enumerate(commands, 1)
    )


def _gates(gates: Sequence[Gate], work: NodeWork, tag: str) -> tuple[Step, ...]:
    name = work.host.name
    return tuple(
        Step(
            f"gate-{number}/{name}{tag}",
            name,
            f"wait until the gate {gate.name} is true: {gate.check}",
            WaitGate((name,), gate, work.operation, work.version),
            gate.deadline_s,
        )
        for number, gate in enumerate(gates, 1)
    )


def _balancing(work: NodeWork, spec: ClusterSpec, tag: str) -> tuple[tuple[Step, ...], tuple[Step, ...]]:
    """Return the steps that take a control plane out of our load balancers and put it back, if there are any."""
    if not work.host.is_control_plane:
        return (), ()
    name, names = work.host.name, [h.name for h in spec.load_balancers]
    if not names:
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
    if policy.pod_selector:
        found.append(f"only pods that fit {policy.pod_selector}; all others stay")
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
    return tuple(sorted((h.name for h in spec.control_planes), key=lambda n: (n not in begun, n in leaders)))


def worker_waves(
    chains: Sequence[tuple[Step, ...]], rollout: Rollout, spec: ClusterSpec, operation: str, version: str = ""
) -> tuple[Wave, ...]:
    """Return the waves of the workers: canaries one by one, the watch over them, then each group in its own window.

    One wave a group, in the order of cluster.yaml, those of no group last. ``version`` is what they run afterwards.
    """
    title = f", {version}" if version else ""
    pending = sorted((c for c in chains if c), key=lambda c: c[0].node not in rollout.begun)
    early = frozenset(rollout.canaries)
    rest = [c for c in pending if c[0].node not in early]
    waves = [Wave(f"canary {c[0].node}{title}", c) for c in pending if c[0].node in early]
    if not rest:
        return tuple(waves)
    if watch := _watch(rollout, spec, operation, version):
        waves.append(Wave(f"after the canaries{title}", watch))
    group_of = {name: group.name for group in rollout.groups for name in group.nodes}
    steps: dict[str | None, list[Step]] = {}
    for c in rest:
        steps.setdefault(group_of.get(c[0].node), []).extend(c)
    for name, window in (*((g.name, g.window) for g in rollout.groups), (None, rollout.window)):
        what = "workers" if name is None else f"workers of {name}, at most {window} at once"
        own = tuple(steps.get(name, ()))
        waves.append(Wave(f"{what}{title}", own, max_parallel=window, failures_allowed=rollout.max_failures))
    return tuple(w for w in waves if w.steps)


def _watch(rollout: Rollout, spec: ClusterSpec, operation: str, version: str) -> tuple[Step, ...]:
    """Return what comes between the canaries and all others, without what was passed already."""
    names, tag, gates = rollout.canaries, f"@{version}" if version else "", spec.maintenance.gates
    if not names:
        return ()
    steps: list[Step] = []
    if rollout.canary_pause_s:
        title = f"wait until the canary has been watched for {spell_seconds(rollout.canary_pause_s)}"
        details = ("gates stay true, workloads stay whole", "watched anew when the run is cut off in it")
        action = WatchCanary(names, rollout.canary_pause_s, gates, operation, version)
        limit_s = rollout.canary_pause_s + spec.timeouts.node_ready_s
        steps.append(Step(f"{WATCH[0]}{tag}", "", title, action, limit_s, details))
    if rollout.canary_gate is not None:
        gate = rollout.canary_gate
        title = f"wait until the gate {gate.name} is true: {gate.check}"
        waited = WaitGate(names, gate, operation, version)
        steps.append(Step(f"{WATCH[1]}{tag}", "", title, waited, gate.deadline_s))
    return tuple(s for s in steps if s.id not in rollout.passed)


WATCH = ("canary", "canary-gate")
"""What the ids of the steps between canaries and other workers begin with, up to the version."""


def choose_canaries(plan: Plan, spec: ClusterSpec, count: int) -> tuple[str, ...]:
    """Return the first workers that a plan works on."""
    workers = {h.name for h in spec.workers}
    worked_on = dict.fromkeys(
        s.node for s in plan.steps if s.node in workers and not isinstance(s.action, StageUpgrade)
    )
    return tuple(worked_on)[:count]


def worker_groups(
    spec: ClusterSpec, groups: Sequence[GroupSpec], nodes: Mapping[str, NodeFacts]
) -> tuple[WorkerGroup, ...]:
    """Return which workers belong to which group: to the first that fits; shares are of the group.

    A selector looks at the node's labels in the cluster and those of the inventory over them. Raises ValueError.
    """
    found: dict[str, list[str]] = {group.name: [] for group in groups}
    for host in spec.workers:
        labels = {**(nodes[host.name].labels if host.name in nodes else {}), **host.labels}
        for group in groups:
            fits = host.name in group.hosts if group.inventory_group is not None else matches(group.selector, labels)
            if fits:
                found[group.name].append(host.name)
                break
    return tuple(
        WorkerGroup(g.name, frozenset(found[g.name]), window_of(g.max_unavailable, len(found[g.name]))) for g in groups
    )


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
