"""One node, by hand: out of service (cordon, drain) and back (uncordon), with the code of upgrades and patches.

A cordon made here is the operator's decision: no later upgrade or patch takes it away.
"""

from __future__ import annotations

from collections.abc import Sequence

from kops_py.model.actions import CordonNode, DrainNode, UncordonNode
from kops_py.model.cordon import UNFINISHED, read_cordon
from kops_py.model.facts import Facts, NodeFacts
from kops_py.model.plan import Plan, Step, Wave
from kops_py.model.spec import ClusterSpec
from kops_py.runbooks.decision import Decision
from kops_py.runbooks.rollout import DRAIN_WAITS_S, Rollout, drain_details, state_findings


def cordon_nodes(spec: ClusterSpec, facts: Facts, names: Sequence[str]) -> Decision:
    """Plan to take nodes out of scheduling; pure."""
    steps = [_cordon(spec, name) for name in names if not _node(facts, name).unschedulable]
    return _decision(spec, facts, "cordon", names, steps, Rollout(spec.maintenance.drain), window=len(names))


def uncordon_nodes(spec: ClusterSpec, facts: Facts, names: Sequence[str], *, foreign: bool) -> Decision:
    """Plan to let nodes be scheduled on again; ``foreign``: also those that kops-py did not cordon. Pure."""
    steps, notes = [], []
    for name in names:
        node = _node(facts, name)
        ours = read_cordon(node.annotations) is not None
        if node.unschedulable and not (ours or foreign):
            notes.append(f"{name} was cordoned by somebody else; --force uncordons it all the same")
        elif node.unschedulable or ours or UNFINISHED in node.annotations:
            title = "uncordon" if ours or not node.unschedulable else "uncordon, whoever cordoned it"
            action = UncordonNode(name, foreign=foreign)
            steps.append(Step(f"uncordon/{name}", name, title, action, spec.timeouts.api_request_s * 4))
    return _decision(
        spec, facts, "uncordon", names, steps, Rollout(spec.maintenance.drain), window=len(names), notes=notes
    )


def drain_nodes(
    spec: ClusterSpec, facts: Facts, names: Sequence[str], rollout: Rollout, movable: frozenset[str]
) -> Decision:
    """Plan to drain nodes and leave them cordoned; ``movable`` are those with pods that would go. Pure."""
    steps: list[Step] = []
    for name in names:
        if not _node(facts, name).unschedulable:
            steps.append(_cordon(spec, name))
        if name in movable:
            details, limit_s = drain_details(rollout.drain), rollout.drain.timeout_s + DRAIN_WAITS_S
            steps.append(Step(f"drain/{name}", name, "drain", DrainNode(name, rollout.drain), limit_s, details))
    return _decision(spec, facts, "drain", names, steps, rollout, window=rollout.window)


def _node(facts: Facts, name: str) -> NodeFacts:
    return facts.kube.nodes[name] if facts.kube else NodeFacts(name, ready=False, reason="", version="", internal_ip="")


def _cordon(spec: ClusterSpec, name: str) -> Step:
    return Step(f"cordon/{name}", name, "cordon", CordonNode(name), spec.timeouts.api_request_s * 4)


def _decision(
    spec: ClusterSpec,
    facts: Facts,
    operation: str,
    names: Sequence[str],
    steps: Sequence[Step],
    rollout: Rollout,
    *,
    window: int,
    notes: Sequence[str] = (),
) -> Decision:
    wave = Wave("nodes", tuple(steps), max_parallel=max(1, window), failures_allowed=rollout.max_failures)
    plan = Plan(operation, spec.name, (wave,) if steps else (), {"nodes": ",".join(names)}, tuple(notes))
    # Only what stands in the way of the API: a node that is not Ready is a good reason to take it out.
    found = tuple(f for f in state_findings(spec, facts, (), rollout) if f.id == "api-down")
    return Decision(plan, found)
