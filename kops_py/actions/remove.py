"""Taking a node out of its cluster: kubeadm reset and what it leaves, its etcd member, its Node object.

Every step may be repeated after a kill at any moment: the node may be gone from the API, the host may have no
kubelet.conf any more, etcd may have forgotten the member.
"""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from kops_py.actions.deps import Deps
from kops_py.actions.jobs import forget_job, run_job
from kops_py.actions.kubeadm import RESET_JOB
from kops_py.actions.upgrade import PACKAGES_JOB, move_etcd_leader_away
from kops_py.actions.waiting import remaining_s
from kops_py.connect.base import Host, KubeApi
from kops_py.engine.run import StepContext
from kops_py.model.actions import INIT_JOB, JOIN_JOB, UPGRADE_JOB, DeleteNode, ForgetEtcdMember, ResetNode
from kops_py.model.errors import CommandFailedError, DeadlineError, EtcdError, HostError, KopsError, KubeError
from kops_py.model.membership import REMOVED_PATH, RemovalMark, answers, quorum_problem
from kops_py.model.spec import bracketed
from kops_py.model.status import EtcdMember
from kops_py.observe.cluster import node_facts
from kops_py.observe.host_status import observe_etcd_cluster
from kops_py.tools import etcdctl, kubeadm, leaving
from kops_py.tools.kubeadm_failure import parse_failure

_CLEAR_TIMEOUT_S = 120.0
_ETCD_TIMEOUT_S = 30.0
_POLL_S = 0.5
_CONFIG = "/api/v1/namespaces/kube-system/configmaps/kubeadm-config"


def reset_node(deps: Deps, action: ResetNode, ctx: StepContext) -> None:
    """Make the host no member of any cluster; its packages stay.

    Raises CommandFailedError with what kubeadm said, or with what is still there afterwards.
    """
    host = deps.fleet.host(action.node)
    _write_mark(deps, host, action, done=False)
    ctx.progress("kubeadm reset")
    outcome = run_job(host, RESET_JOB, kubeadm.reset_argv(), ctx)
    if outcome.exit_status != 0:
        raise CommandFailedError(
            "kubeadm reset failed",
            where=host.name,
            why="it was interrupted" if outcome.exit_status is None else parse_failure(outcome.log),
            hint=f"log on the host: {outcome.log_path}; then run the same command again",
            exit_status=outcome.exit_status,
        )
    ctx.progress("removing what kubeadm reset leaves: pod network, packet filter, keys")
    host.run(("sh", "-c", leaving.clear_script()), sudo=True, timeout_s=min(_CLEAR_TIMEOUT_S, ctx.remaining_s()))
    for job in (INIT_JOB, JOIN_JOB, UPGRADE_JOB, PACKAGES_JOB, RESET_JOB):
        forget_job(host, job)
    left = host.run(("sh", "-c", leaving.left_script()), sudo=True, cancel=deps.cancel).out.split("\n")
    if found := [line for line in left if line.strip()]:
        raise CommandFailedError(
            "the host is not clean after kubeadm reset",
            where=host.name,
            why="; ".join(found[:6]),
            hint="mend the cause there, then run the same command again",
        )
    _write_mark(deps, host, action, done=True)


def _write_mark(deps: Deps, host: Host, action: ResetNode, *, done: bool) -> None:
    at = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    mark = RemovalMark(deps.spec.name, deps.run_id, action.reason, at, done=done)
    host.write_file(REMOVED_PATH, mark.to_json().encode())


def forget_mark(deps: Deps, name: str) -> None:
    """Remove the mark of an earlier removal from a host that is to join; raises HostError."""
    facts = deps.hosts.get(name)
    if facts is not None and facts.removal is not None:
        deps.fleet.host(name).run(("rm", "-f", REMOVED_PATH), sudo=True, cancel=deps.cancel)


def why_no_member(deps: Deps, action: ForgetEtcdMember) -> str | None:
    """Return why there is nothing to take out of etcd, or None; raises EtcdError when etcd cannot be asked."""
    _, members = _ask_others(deps, action.node)
    return None if _find(members, action) else "etcd knows no such member any more"


def forget_etcd_member(deps: Deps, action: ForgetEtcdMember, ctx: StepContext) -> None:
    """Take the member out through another one; raises EtcdError, also when etcd would lose its quorum.

    Before kubeadm reset and not left to it: where its attempt fails it says so and removes the data all the same,
    and of two members the other one then has no quorum (cmd/kubeadm/app/cmd/phases/reset/removeetcdmember.go).
    """
    host, members = _ask_others(deps, action.node)
    found = _find(members, action)
    if found is None:
        return
    if action.stale and answers(found):
        raise EtcdError(
            "its old member answers: it is not taken out of etcd",
            where=action.node,
            why=f"member {found.name or action.stale} is at {', '.join(found.peer_urls) or found.endpoint}",
            hint="look which machine the inventory names; kops-py node remove takes out a member that is in use",
        )
    _raise_for_quorum(members, found.name)
    if action.handover:
        with suppress(ValueError, HostError):  # then etcd elects another leader by itself
            move_etcd_leader_away(deps, deps.fleet.host(action.node), ctx)
    ctx.progress(f"etcd: taking out member {found.member_id:x}")
    container = etcdctl.parse_container_id(host.run(etcdctl.find_container_argv(), sudo=True, cancel=deps.cancel).out)
    if container is None:
        raise EtcdError("its etcd has stopped just now", where=host.name, hint="run the same command again")
    argv = etcdctl.in_container(container, etcdctl.member_remove_argv(found.member_id))
    answer = host.run(argv, sudo=True, check=False, timeout_s=_ETCD_TIMEOUT_S, cancel=deps.cancel)
    # A lost answer is no failure: the verification asks again who is a member.
    if not answer.ok:
        ctx.progress(f"etcdctl: {answer.err.strip()[-200:]}")


def verify_no_member(deps: Deps, action: ForgetEtcdMember, ctx: StepContext) -> None:
    """Wait until the member is gone and all others are healthy; raises EtcdError at the deadline.

    Others may be ill where a stale one goes: they may be as stale, and go next.
    """
    while True:
        try:
            _, members = _ask_others(deps, action.node)
            sick = [
                f"etcd member {m.name}: {m.problem or 'not healthy'}"
                for m in members
                if not (m.healthy or action.stale)
            ]
            lacking = "it is a member of etcd still" if _find(members, action) else "; ".join(sick)
        except EtcdError as error:
            lacking = str(error)
        if not lacking:
            return
        ctx.progress(lacking, waiting=True)
        try:
            remaining_s(ctx, lacking)
        except DeadlineError as error:
            hint = "kops-py status shows the members; mend the cause, then run the same command again"
            raise EtcdError("etcd is not as it must be", where=action.node, why=lacking, hint=hint) from error
        ctx.cancel.wait(_POLL_S)


def _find(members: tuple[EtcdMember, ...], action: ForgetEtcdMember) -> EtcdMember | None:
    """Return the node's member: by name, or by address one that was added and never started; a stale one by its id."""
    if action.stale:
        return next((m for m in members if f"{m.member_id:x}" == action.stale), None)
    start = f"https://{bracketed(action.address)}:" if action.address else ""
    for member in members:
        if member.name == action.node or (not member.name and start and member.endpoint.startswith(start)):
            return member
    return None


def _raise_for_quorum(members: tuple[EtcdMember, ...], node: str) -> None:
    if problem := quorum_problem(members, node):
        raise EtcdError(
            "must not be taken out of etcd now",
            where=node or "a member that never started",
            why=problem,
            hint="mend the other members first (kops-py status shows them), then run the same command again",
        )


def _ask_others(deps: Deps, node: str) -> tuple[Host, tuple[EtcdMember, ...]]:
    """Ask etcd through a control plane other than this one; raises EtcdError when none answers."""
    why = "there is no other control plane in the inventory"
    for spec_host in deps.spec.control_planes:
        if spec_host.name == node:
            continue
        host = deps.fleet.host(spec_host.name)
        try:
            members = observe_etcd_cluster(host)
        except (HostError, ValueError) as error:
            why = str(error)
            continue
        if any(m.name == spec_host.name and m.member_id for m in members):
            return host, members
        why = f"no etcd answers on {spec_host.name}"
    hint = "kops-py status shows what is wrong; then run the same command again"
    raise EtcdError("etcd does not answer through any other control plane", where=node, why=why, hint=hint)


def delete_node(deps: Deps, action: DeleteNode, ctx: StepContext) -> None:
    """Delete the Node object, and a control plane's entry in kubeadm's record; raises KubeError."""
    api, path = deps.kube.api(), f"/api/v1/nodes/{action.node}"
    found = api.get_or_none(path)
    if found is not None and action.lost and node_facts(found).ready:
        raise KubeError(
            "its kubelet reports again: it is not lost",
            where=action.node,
            hint="bring its ssh back and remove it without --lost; or switch the machine off first",
        )
    if found is not None:
        api.delete(path)
        ctx.progress("deleted its Node object")
    if action.control_plane:
        _forget_endpoint(api, action.node)


def _forget_endpoint(api: KubeApi, node: str) -> None:
    """Remove a control plane from the ClusterStatus that kubeadm kept up to 1.21; reset does it where it can."""
    import yaml

    found = api.get_or_none(_CONFIG)
    text = ((found or {}).get("data") or {}).get("ClusterStatus")
    if found is None or not text:
        return
    with suppress(yaml.YAMLError):
        status: Any = yaml.safe_load(text)
        endpoints = status.get("apiEndpoints") if isinstance(status, dict) else None
        if isinstance(endpoints, dict) and endpoints.pop(node, None) is not None:
            found["data"]["ClusterStatus"] = yaml.safe_dump(status, sort_keys=False)
            with suppress(KopsError):  # nobody reads it but kubeadm, which asks the pods of etcd first
                api.replace(_CONFIG, found)


def verify_deleted(deps: Deps, node: str, ctx: StepContext) -> None:
    """Wait until the API knows no such node; raises DeadlineError."""
    while True:
        try:
            found = deps.kube.api().get_or_none(f"/api/v1/nodes/{node}")
            lacking = "its Node object is still there (its kubelet may have registered it again)" if found else ""
        except KubeError as error:
            lacking = str(error)
        if not lacking:
            return
        ctx.progress(lacking, waiting=True)
        remaining_s(ctx, lacking)
        ctx.cancel.wait(_POLL_S)
