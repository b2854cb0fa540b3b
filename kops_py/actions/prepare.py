"""Preparation of hosts and load balancers: one Ansible play for all nodes of a wave, and one for its balancers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from kops_py.actions.deps import Deps
from kops_py.connect.base import AnsibleHostResult, AnsibleResult, AnsibleStatus
from kops_py.engine.run import StepContext
from kops_py.model.actions import ConfigureLoadBalancer
from kops_py.model.errors import AnsibleError, KopsError, UnreachableError

PREPARE_PLAYBOOK = "prepare.yml"
LOAD_BALANCER_PLAYBOOK = "load_balancer.yml"


def prepare_hosts(deps: Deps, contexts: Sequence[StepContext]) -> Mapping[str, KopsError | None]:
    """Run the plays for these steps, side by side when there are two; returns the error of each step id."""
    balancing = [ctx for ctx in contexts if isinstance(ctx.step.action, ConfigureLoadBalancer)]
    preparing = [ctx for ctx in contexts if ctx not in balancing]
    plays = [play for play in (balancing, preparing) if play]
    with ThreadPoolExecutor(len(plays), "kops-play") as pool:
        ended = [pool.submit(_play, deps, play) for play in plays]
    return {step: error for play in ended for step, error in play.result().items()}


def _play(deps: Deps, contexts: Sequence[StepContext]) -> Mapping[str, KopsError | None]:
    """Run one play on the hosts of these steps, which are all of one kind."""
    names = [ctx.step.node for ctx in contexts]
    balancing = isinstance(contexts[0].step.action, ConfigureLoadBalancer)
    by_host = {ctx.step.node: ctx for ctx in contexts}
    variables = deps.load_balancer_variables if balancing else deps.prepare_variables
    host_variables = deps.load_balancer_host_variables if balancing else deps.prepare_host_variables

    def on_task(host: str, task: str) -> None:
        if host in by_host:
            by_host[host].progress(task)

    result = deps.ansible.run(
        LOAD_BALANCER_PLAYBOOK if balancing else PREPARE_PLAYBOOK,
        [deps.spec.host(name) for name in names],
        variables,
        host_variables={name: host_variables(name) for name in names},
        timeout_s=min(ctx.remaining_s() for ctx in contexts),
        on_task=on_task,
        cancel=deps.cancel,
    )
    return {ctx.step.id: _error_of(result, ctx.step.node) for ctx in contexts}


def _error_of(result: AnsibleResult, host: str) -> KopsError | None:
    if result.problem is not None:
        return result.problem
    outcome = result.hosts.get(host, AnsibleHostResult(host, AnsibleStatus.NOT_RUN))
    hint = f"full output: {result.log_path}; mend the cause, then run the same command again"
    match outcome.status:
        case AnsibleStatus.OK:
            return None
        case AnsibleStatus.UNREACHABLE:
            return UnreachableError("was lost during preparation", where=host, why=outcome.message, hint=hint)
        case AnsibleStatus.FAILED:
            return AnsibleError(f"task {outcome.task!r} failed", where=host, why=outcome.message, hint=hint)
        case AnsibleStatus.NOT_RUN:
            return AnsibleError("was not prepared: the play ended before it", where=host, hint=hint)
