"""Taking a node out of service and giving it back: cordon, drain, uncordon, and the marks on it."""

from __future__ import annotations

from collections.abc import Collection

from kops_py.actions.cordon import CordonState, cordon, finish, keep_reason, mark_of, mark_unfinished, uncordon
from kops_py.actions.deps import Deps
from kops_py.actions.dns_gate import note_dns
from kops_py.actions.drain import drain
from kops_py.actions.drain_turns import give_place_back
from kops_py.actions.gates import wait_leaders, wait_proxy_rollout
from kops_py.engine.run import StepContext
from kops_py.model.actions import CordonNode, DrainNode, FinishNode, MarkUnfinished, UncordonNode
from kops_py.model.drain_report import DrainReport
from kops_py.model.errors import KopsError
from kops_py.model.event import Note
from kops_py.tools.redact import redact


def cordon_node(deps: Deps, action: CordonNode, ctx: StepContext) -> None:
    """Cordon a node; one that a person cordoned meanwhile stays the person's. Raises KubeError."""
    result = cordon(deps.kube.api(), action.node, by=deps.by, run_id=deps.run_id)
    ctx.progress(result.message)


def drain_node(deps: Deps, action: DrainNode, ctx: StepContext) -> None:
    """Drain a node and say what it took, also when it does not end well; raises what ``drain`` raises."""
    note_dns(deps, action.node)
    wait_leaders(deps, action.node, ctx)
    wait_proxy_rollout(deps, action.node, ctx)
    ctx.journal("drain-begin", node=action.node)

    def keep(report: DrainReport) -> None:
        deps.moved[action.node] = (*report.evicted, *report.deleted, *report.went)
        ctx.journal("drained", **report.to_json())
        ctx.emit(Note(message=report.summary(), node=action.node))

    def stuck(namespaces: Collection[str], until: float) -> None:
        give_place_back(deps.turns, deps.kube.api, action.node, namespaces, until, ctx, by=deps.by, run_id=deps.run_id)

    with deps.turns.drain_of(action.node):
        keep(drain(deps.kube, action.node, action.policy, ctx, unfinished=keep, stuck=stuck))


def uncordon_node(deps: Deps, action: UncordonNode, ctx: StepContext) -> None:
    """Take our cordon away; any other stays unless the step says so, and that is said. Raises KubeError."""
    left = mark_of(deps.by, deps.run_id) if action.unfinished else None
    result = uncordon(deps.kube.api(), action.node, foreign=action.foreign, unfinished=left)
    ctx.progress(result.message)
    if result.state is not CordonState.UNCORDONED:
        ctx.emit(Note(message=result.message, node=action.node))


def mark_node(deps: Deps, action: MarkUnfinished | FinishNode) -> None:
    """Set or take away the mark of a chain that has not ended; raises KubeError."""
    if isinstance(action, FinishNode):
        finish(deps.kube.api(), action.node)
    else:
        mark_unfinished(deps.kube.api(), action.node, by=deps.by, run_id=deps.run_id)


def tell_on_node(deps: Deps, ctx: StepContext, failure: KopsError) -> None:
    """Write onto a node that carries our mark why its chain ended, as far as the API lets us; raises nothing."""
    what = f"{failure.what}: {failure.why}" if failure.why else failure.what
    try:
        keep_reason(deps.kube.api(), ctx.step.node, redact(f"{ctx.step.title}: {' '.join(what.split())}"))
    except KopsError as error:
        ctx.progress(f"the reason cannot be written onto the node: {error}")
