"""Waiting until the cluster is healthy, saying what for."""

from __future__ import annotations

from kops_py.actions.deps import Deps
from kops_py.engine.run import StepContext
from kops_py.model.actions import WaitHealthy
from kops_py.model.errors import DeadlineError, KopsError, KubeError
from kops_py.observe.cluster import observe_cluster

_POLL_S = 1.0


def wait_healthy(deps: Deps, action: WaitHealthy, ctx: StepContext) -> None:
    """Wait until nothing is unhealthy; raises KubeError naming everything that still is when the time is up."""
    problems: tuple[str, ...] = ("the cluster was not asked yet",)
    while True:
        try:
            problems = observe_cluster(
                deps.kube.api(), expected_nodes=action.nodes, absent=action.absent, network_expected=action.network
            ).unhealthy
        except KubeError as error:
            problems = (str(error),)
        if not problems:
            return
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        ctx.progress(problems[0] + more, waiting=True)
        _check_deadline(ctx, problems)
        ctx.cancel.wait(_POLL_S)


def _check_deadline(ctx: StepContext, problems: tuple[str, ...]) -> None:
    try:
        ctx.remaining_s()
    except DeadlineError as error:
        failure: KopsError = KubeError(
            f"the cluster is not healthy after {ctx.step.timeout_s:.0f} s",
            why="; ".join(problems[:10]),
            hint="mend the cause (kops-py status shows it), then run the same command again",
        )
        raise failure from error
