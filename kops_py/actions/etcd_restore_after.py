"""Restoring etcd, after it serves: API servers, controllers, kubelets, what caches the API, and what is real."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from itertools import chain

from kops_py.actions.deps import Deps
from kops_py.actions.etcd_restore import Kubelets, everywhere, sh
from kops_py.actions.kubeadm import CA_CERTIFICATE, api_server_problem, own_api_argv
from kops_py.actions.waiting import remaining_s
from kops_py.connect.base import Host, JsonObject, KubeApi
from kops_py.engine.run import StepContext
from kops_py.model.errors import HostError, KopsError, KubeError
from kops_py.model.etcd_restore import (
    WRITERS,
    CheckRestored,
    FinishRestore,
    Mark,
    RestartAddons,
    RestartKubelet,
    StartApiServer,
    StartControllers,
)
from kops_py.model.event import Note
from kops_py.model.finding import few
from kops_py.observe.cluster import certificates_of, cluster_authority
from kops_py.tools import crictl
from kops_py.tools import etcd_restore as tool

_POLL_S = 0.5
_ASK_S = 30.0
_STOP_S = 10
_CONTROLLERS = WRITERS[1:]


def start_api_server(deps: Deps, action: StartApiServer, ctx: StepContext) -> None:
    """Put the API server's manifest back and wait until it is ready; raises DeadlineError."""
    host = deps.fleet.host(action.node)
    sh(host, tool.start_script(action.restore, WRITERS[:1], start_kubelet=True), ctx)
    ready = own_api_argv(deps.spec.host(action.node))
    kubelets = Kubelets(deps.cancel, ctx.progress)
    while problem := api_server_problem(host, ready, deps):
        kubelets.revive(host, WRITERS[0])
        ctx.progress(problem, waiting=True)
        remaining_s(ctx, problem, hint="crictl ps -a; journalctl -u kubelet -n 50; then run the same command again")
        ctx.cancel.wait(_POLL_S)
    sh(host, tool.mark_script(action.restore, Mark.API), ctx)


def start_controllers(deps: Deps, action: StartControllers, ctx: StepContext) -> None:
    """Put controller manager and scheduler back and wait until their containers run; raises DeadlineError."""
    host = deps.fleet.host(action.node)
    sh(host, tool.start_script(action.restore, _CONTROLLERS), ctx)
    kubelets = Kubelets(deps.cancel, ctx.progress)
    for pod in _CONTROLLERS:
        while not kubelets.revive(host, pod):
            lacking = f"the kubelet has not started {pod} yet"
            ctx.progress(lacking, waiting=True)
            remaining_s(ctx, lacking, hint="journalctl -u kubelet -n 50; then run the same command again")
            ctx.cancel.wait(_POLL_S)
    sh(host, tool.mark_script(action.restore, Mark.CONTROLLERS), ctx)


def restart_kubelet(deps: Deps, action: RestartKubelet, ctx: StepContext) -> None:
    """Restart a kubelet; raises CommandFailedError."""
    script = "systemctl restart kubelet\n" + tool.mark_script(action.restore, Mark.KUBELET)
    sh(deps.fleet.host(action.node), script, ctx)


def restart_addons(deps: Deps, action: RestartAddons, ctx: StepContext) -> None:
    """Stop the containers of pods in some namespaces; the kubelet starts them again. Static pods are left alone."""
    host = deps.fleet.host(action.node)
    pods = _load(host.run(crictl.pods_json_argv(), sudo=True, timeout_s=_ASK_S, cancel=deps.cancel).out)
    containers = _load(host.run(crictl.running_json_argv(), sudo=True, timeout_s=_ASK_S, cancel=deps.cancel).out)
    ids = crictl.containers_of(pods, containers, action.namespaces)
    if ids:
        ctx.progress(f"restarting {len(ids)} containers")
        argv = crictl.stop_argv(ids, timeout_s=_STOP_S)
        host.run(argv, sudo=True, check=False, timeout_s=ctx.remaining_s(), cancel=deps.cancel)
    sh(host, tool.mark_script(action.restore, Mark.ADDONS), ctx)


def finish_restore(deps: Deps, action: FinishRestore, ctx: StepContext) -> None:
    """Remove what was only for the restore and tell where the old data lies."""

    def finish(host: Host) -> None:
        found = tool.parse_observed(host.run(("sh", "-c", tool.observe_script()), sudo=True, timeout_s=_ASK_S).out)
        data_dir = next((v for v in found.get("data", ()) if v), "")
        kept = sh(host, tool.finish_script(action.restore, data_dir), ctx).strip()
        if kept and kept != "nothing":
            ctx.emit(Note(message=f"the old data is kept in {kept}; remove it when nobody needs it", node=host.name))

    everywhere(deps, action.nodes, finish)


def check_restored(deps: Deps, action: CheckRestored, ctx: StepContext, lost: Iterable[str] = ()) -> None:
    """Tell what differs between the API, which is of the snapshot's time, and what is real; never fails for that.

    ``lost``: what else is known to be gone, as sentences.
    """
    api, nodes = deps.kube.api(), action.nodes
    for message in chain(_nodes(deps, api, nodes), _pods(deps, api, nodes), _secrets(api), _authority(deps, api), lost):
        ctx.emit(Note(message=message))
        ctx.journal("restored-differs", message=message)


def _nodes(deps: Deps, api: KubeApi, nodes: Collection[str]) -> Iterable[str]:
    known = {str(n["metadata"]["name"]): n for n in api.items("/api/v1/nodes")}
    wanted = {h.name for h in deps.spec.nodes}
    gone = sorted(known.keys() - wanted)
    if gone:
        yield f"nodes of the snapshot that the inventory does not have: {few(gone, 10)}; kubectl delete node, if gone"
    missing = sorted(set(nodes) - known.keys())
    if missing:
        yield f"hosts that are no nodes now: {few(missing, 10)}; kops-py bootstrap joins them"
    for host in deps.spec.control_planes:
        labels = (known.get(host.name) or {}).get("metadata", {}).get("labels") or {}
        if labels and not any(f"node-role.kubernetes.io/{role}" in labels for role in ("control-plane", "master")):
            yield (
                f"{host.name} registered itself anew and lacks the labels and taints of a control plane: "
                "kubeadm init phase mark-control-plane there"
            )


def _pods(deps: Deps, api: KubeApi, nodes: Collection[str]) -> Iterable[str]:
    """Tell of pods that run on a host and are not in the API: made after the snapshot, the kubelets end them."""
    known = api.fold("/api/v1/pods", set, _take_name)

    def names(host: Host) -> list[str]:
        pods = _load(host.run(crictl.pods_json_argv(), sudo=True, timeout_s=_ASK_S, cancel=deps.cancel).out)
        return crictl.ready_pods(pods)

    answers: Mapping[str, list[str] | KopsError] = deps.fleet.map(list(nodes), names, cancel=deps.cancel)
    for node, running in answers.items():
        strange = sorted(set(running) - known) if not isinstance(running, KopsError) else []
        if strange:
            yield f"{node} runs pods that the API does not know, the kubelet ends them: {few(strange, 10)}"


def _take_name(found: set[str], pod: JsonObject) -> None:
    found.add(f"{pod['metadata'].get('namespace')}/{pod['metadata'].get('name')}")


def _secrets(api: KubeApi) -> Iterable[str]:
    """Tell of bootstrap tokens: one that was revoked after the snapshot is valid again."""
    secrets = "/api/v1/namespaces/kube-system/secrets"
    try:
        tokens = api.items(secrets, params={"fieldSelector": "type=bootstrap.kubernetes.io/token"})
        names = sorted(str(t["metadata"]["name"]) for t in tokens)
    except KubeError as error:
        yield f"bootstrap tokens could not be listed: {error}"
        return
    if names:
        yield f"bootstrap tokens of the snapshot's time are valid again (kubeadm token delete): {few(names, 5)}"


def _authority(deps: Deps, api: KubeApi) -> Iterable[str]:
    """Tell of control planes whose files hold another authority than the restored cluster gives to those who join."""
    wanted, where = cluster_authority(api)

    def read(host: Host) -> frozenset[bytes]:
        argv = ("cat", CA_CERTIFICATE)
        return certificates_of(host.run(argv, sudo=True, timeout_s=_ASK_S, cancel=deps.cancel).out)

    names = [h.name for h in deps.spec.control_planes] if wanted else []
    answers: Mapping[str, frozenset[bytes] | KopsError] = deps.fleet.map(names, read, cancel=deps.cancel)
    for node, found in answers.items():
        if isinstance(found, KopsError):
            yield f"{node}: whether its authority is the cluster's could not be checked: {found}"
        elif not found & wanted:
            yield (
                f"{node}: {CA_CERTIFICATE} is not the authority in {where}: was it renewed after the snapshot? "
                "Nobody can join until both are the same (docs/etcd-restore.md)"
            )


def _load(output: str) -> JsonObject:
    try:
        found = json.loads(output)
    except ValueError as error:
        raise HostError("crictl's answer is no JSON", why=str(error)) from error
    return found if isinstance(found, dict) else {}
