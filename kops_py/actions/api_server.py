"""Restart the API server of one control plane, through the runtime: the kubelet starts its static pod again."""

from __future__ import annotations

from kops_py.actions.deps import Deps
from kops_py.actions.kubeadm import verify_member
from kops_py.actions.waiting import remaining_s
from kops_py.engine.run import StepContext
from kops_py.model.actions import RestartApiServer
from kops_py.model.errors import CommandFailedError, KubeError
from kops_py.observe.cluster import observe_cluster
from kops_py.tools import crictl

_STOP_TIMEOUT_S = 2
"""For requests in flight; open watches keep it from ending by itself (v1.20.2 had not ended after 20 s).

Not longer: the controller manager beside it gives its lease up after 10 s without an API server, and then nobody
signs the kubelets' certificates until another one has taken it (seen: joins of 28 s in place of 7 s).
"""
_POLL_S = 0.5


def restart(deps: Deps, action: RestartApiServer, ctx: StepContext) -> None:
    """Stop the container and wait until another one serves; raises CommandFailedError, DeadlineError."""
    host = deps.fleet.host(action.node)
    listed = crictl.containers_argv("kube-apiserver")
    before = crictl.parse_ids(host.run(listed, sudo=True, cancel=deps.cancel).out)
    if not before:
        raise CommandFailedError(
            "no container of kube-apiserver runs here",
            where=host.name,
            hint="look at: crictl ps -a; journalctl -u kubelet -n 50; then run the same command again",
        )
    ctx.progress("stopping the container of kube-apiserver")
    host.run(
        crictl.stop_argv(before, timeout_s=_STOP_TIMEOUT_S), sudo=True, timeout_s=ctx.remaining_s(), cancel=deps.cancel
    )
    while not crictl.parse_ids(host.run(listed, sudo=True, cancel=deps.cancel).out) - before:
        ctx.progress("the kubelet starts kube-apiserver again", waiting=True)
        remaining_s(ctx, "the kubelet has not started kube-apiserver again", hint="journalctl -u kubelet -n 50")
        ctx.cancel.wait(_POLL_S)


def verify_restarted(deps: Deps, node: str, ctx: StepContext) -> None:
    """Wait until the API server is ready and the API itself tells its new start; raises DeadlineError."""
    verify_member(deps, node, True, ctx)
    while True:
        try:
            if node not in observe_cluster(deps.kube.api(), expected_nodes=()).silent_watches:
                return
            lacking = "the API still shows the old start of kube-apiserver"
        except KubeError as error:
            lacking = str(error)
        ctx.progress(lacking, waiting=True)
        remaining_s(ctx, lacking)
        ctx.cancel.wait(_POLL_S)
