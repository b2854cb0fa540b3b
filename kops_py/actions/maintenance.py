"""Taking a node out of service and giving it back: cordon, drain, uncordon, and the wait for what was moved."""

from __future__ import annotations

from kops_py.actions.cordon import CordonState, cordon, uncordon
from kops_py.actions.deps import Deps
from kops_py.actions.drain import drain
from kops_py.engine.run import StepContext
from kops_py.model.actions import CordonNode, DrainNode, UncordonNode
from kops_py.model.event import Note


def cordon_node(deps: Deps, action: CordonNode, ctx: StepContext) -> None:
    """Cordon a node; one that a person cordoned meanwhile stays the person's. Raises KubeError."""
    result = cordon(deps.kube.api(), action.node, by=deps.by, run_id=deps.run_id)
    ctx.progress(result.message)


def drain_node(deps: Deps, action: DrainNode, ctx: StepContext) -> None:
    """Drain a node and say what it took; raises what ``drain`` raises."""
    report = drain(deps.kube, action.node, action.policy, ctx)
    ctx.journal("drained", **report.to_json())
    ctx.emit(Note(message=report.summary(), node=action.node))


def uncordon_node(deps: Deps, action: UncordonNode, ctx: StepContext) -> None:
    """Take our cordon away; any other stays unless the step says so, and that is said. Raises KubeError."""
    result = uncordon(deps.kube.api(), action.node, foreign=action.foreign)
    ctx.progress(result.message)
    if result.state is not CordonState.UNCORDONED:
        ctx.emit(Note(message=result.message, node=action.node))
