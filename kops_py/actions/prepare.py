"""What Ansible does to hosts: one play for all hosts of a wave and kind of step."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from kops_py.actions.deps import Deps
from kops_py.connect.base import AnsibleHostResult, AnsibleResult, AnsibleStatus
from kops_py.engine.run import StepContext
from kops_py.model.actions import AddEtcdMember, ConfigureEtcd, ConfigureLoadBalancer, StageUpgrade
from kops_py.model.errors import AnsibleError, KopsError, UnreachableError
from kops_py.model.version import Version
from kops_py.tools.preparation import (
    ETCD_PLAYBOOK,
    LOAD_BALANCER_PLAYBOOK,
    PREPARE_PLAYBOOK,
    STAGE_PLAYBOOK,
    etcd_host_variables,
    etcd_variables,
    prepare_host_variables,
    stage_variables,
)


def prepare_hosts(deps: Deps, contexts: Sequence[StepContext]) -> Mapping[str, KopsError | None]:
    """Run the plays for these steps, side by side when there are two; returns the error of each step id."""
    kinds = dict.fromkeys(type(ctx.step.action) for ctx in contexts)
    plays = [[ctx for ctx in contexts if type(ctx.step.action) is kind] for kind in kinds]
    with ThreadPoolExecutor(len(plays), "kops-play") as pool:
        ended = [pool.submit(_run, deps, play) for play in plays]
    return {step: error for play in ended for step, error in play.result().items()}


@dataclass(frozen=True, slots=True)
class _Play:
    """A playbook and what it is given."""

    playbook: str
    variables: Mapping[str, Any]
    host_variables: Callable[[str], Mapping[str, Any]]


def _play_of(deps: Deps, contexts: Sequence[StepContext]) -> _Play:
    match contexts[0].step.action:
        case ConfigureLoadBalancer():
            return _Play(LOAD_BALANCER_PLAYBOOK, deps.load_balancer_variables, deps.load_balancer_host_variables)
        case ConfigureEtcd() | AddEtcdMember():
            return _Play(
                ETCD_PLAYBOOK,
                etcd_variables(deps.spec),
                lambda name: {
                    **etcd_host_variables(deps.spec, deps.spec.host(name), deps.etcd_initial.get(name, "")),
                    "kops_etcd_digest": deps.etcd_digests.get(name, ""),
                },
            )
        case StageUpgrade(version=version):
            digests = {ctx.step.node: getattr(ctx.step.action, "digest", "") for ctx in contexts}
            return _Play(
                STAGE_PLAYBOOK,
                stage_variables(deps.spec, Version.parse(version)),
                lambda name: {
                    **prepare_host_variables(deps.spec, deps.spec.host(name)),
                    "kops_stage_digest": digests[name],
                },
            )
        case _:
            return _Play(PREPARE_PLAYBOOK, deps.prepare_variables, deps.prepare_host_variables)


def _run(deps: Deps, contexts: Sequence[StepContext]) -> Mapping[str, KopsError | None]:
    """Run one play on the hosts of these steps, which are all of one kind."""
    by_host = {ctx.step.node: ctx for ctx in contexts}
    play = _play_of(deps, contexts)

    def on_task(host: str, task: str) -> None:
        if host in by_host:
            by_host[host].progress(task)

    result = deps.ansible.run(
        play.playbook,
        [deps.spec.host(name) for name in by_host],
        play.variables,
        host_variables={name: play.host_variables(name) for name in by_host},
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
