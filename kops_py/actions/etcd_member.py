"""Replacing one lost etcd member while a quorum serves: no snapshot, no outage."""

from __future__ import annotations

from collections.abc import Sequence

from kops_py.actions.deps import Deps
from kops_py.actions.etcd_restore import (
    Kubelets,
    ask,
    hash_of,
    member_problem,
    run_etcdctl,
    sh,
    start_member_script,
    stop_control_plane,
)
from kops_py.actions.waiting import remaining_s
from kops_py.connect.base import Host
from kops_py.engine.run import StepContext
from kops_py.model.errors import EtcdError, HostError
from kops_py.model.etcd_restore import AddMember, Mark, PromoteMember, RemoveMember, StopMember
from kops_py.model.membership import quorum
from kops_py.tools import etcd_restore as tool
from kops_py.tools import etcdctl

_POLL_S = 0.5


def stop_member(deps: Deps, action: StopMember, ctx: StepContext) -> None:
    """Stop the control plane of the host whose member is lost; raises DeadlineError."""
    host = deps.fleet.host(action.node)
    if not action.unit:
        stop_control_plane(host, action.restore, action.words, ctx)
        return
    sh(host, tool.begin_script(action.restore, action.words), ctx)
    sh(host, tool.stop_unit_script(action.restore), ctx)


def remove_member(deps: Deps, action: RemoveMember, ctx: StepContext) -> None:
    """Remove the lost member from the list; raises EtcdError when a quorum would not be left."""
    healthy = _healthy(deps, action.via)
    for member in _members(deps, healthy[0]):
        if action.peer_url not in member.peer_urls:
            continue
        others = [m for m in _members(deps, healthy[0]) if m.member_id != member.member_id and not m.is_learner]
        if len(healthy) < quorum(len(others)):
            raise EtcdError(
                "without the lost member no quorum would be left",
                where=action.node,
                why=f"{len(healthy)} of {len(others)} other members are healthy",
                hint="bring another member back first, or restore a snapshot",
            )
        _tell(deps, healthy[0], etcdctl.member_remove_argv(member.member_id))
    sh(deps.fleet.host(action.node), tool.mark_script(action.restore, Mark.REMOVED), ctx)


def add_member(deps: Deps, action: AddMember, ctx: StepContext) -> None:
    """Keep the old data, add the member as a learner, and let its manifest join; raises EtcdError, ValueError."""
    member, via = action.member, _healthy(deps, action.via)[0]
    host = deps.fleet.host(member.node)
    sh(host, tool.empty_script(action.restore, member.data_dir), ctx)
    if not any(member.peer_url in m.peer_urls for m in _members(deps, via)):
        _tell(deps, via, etcdctl.member_add_argv(member.name, member.peer_url, learner=True))
    cluster = ",".join(f"{m.name or member.name}={url}" for m in _members(deps, via) for url in m.peer_urls)
    if member.unit:
        host.write_file(tool.INITIAL_ENV, tool.initial_env(cluster).encode(), timeout_s=ctx.remaining_s())
    else:
        path = f"{tool.ASIDE}/etcd.yaml"
        text = tool.joining_manifest(host.read_file(path).decode(), cluster)
        host.write_file(path, text.encode(), timeout_s=ctx.remaining_s())
    sh(host, tool.mark_script(action.restore, Mark.ADDED), ctx)


def promote_member(deps: Deps, action: PromoteMember, ctx: StepContext) -> None:
    """Start the new member, give it its vote once it has caught up, and prove its contents; raises DeadlineError."""
    member, host = action.member, deps.fleet.host(action.member.node)
    sh(host, start_member_script(action.restore, unit=bool(member.unit)), ctx)
    kubelets = Kubelets(deps.cancel, ctx.progress)
    while True:
        if not member.unit:
            kubelets.revive(host, "etcd")
        lacking = _not_promoted(deps, action) or member_problem(deps, host) or _differs(deps, action)
        if not lacking:
            break
        ctx.progress(lacking, waiting=True)
        remaining_s(ctx, lacking, hint="look at: crictl ps -a, crictl logs of etcd; then run the same command again")
        ctx.cancel.wait(_POLL_S)
    sh(host, tool.mark_script(action.restore, Mark.SERVING), ctx)
    ctx.progress(f"{member.name} votes")


def _not_promoted(deps: Deps, action: PromoteMember) -> str:
    via = _healthy(deps, action.via)[0]
    for listed in _members(deps, via):
        if action.member.peer_url in listed.peer_urls:
            if not listed.is_learner:
                return ""
            if not listed.name:
                return "the new member has not started yet"
            try:
                _tell(deps, via, etcdctl.member_promote_argv(listed.member_id))
            except EtcdError as error:  # etcd refuses until the learner has caught up
                return error.why
            return ""
    return "the new member is not in the list"


def _differs(deps: Deps, action: PromoteMember) -> str:
    """Return how the new member differs from a healthy one at the same revision; others write meanwhile."""
    try:
        host = deps.fleet.host(action.member.node)
        own, revision = hash_of(deps, host)
        own, _ = hash_of(deps, host, revision=revision)
        other, _ = hash_of(deps, _healthy(deps, action.via)[0], revision=revision)
    except (ValueError, HostError) as error:
        return f"its contents are not comparable yet ({str(error)[:200]})"
    return "" if own == other else f"its contents differ from the others' at revision {revision}"


def _healthy(deps: Deps, names: Sequence[str]) -> list[Host]:
    """Return the hosts whose members commit; raises EtcdError when there is none."""
    hosts = [deps.fleet.host(n) for n in names]
    found = [h for h in hosts if not member_problem(deps, h)]
    if not found:
        raise EtcdError(
            "no healthy member is left to ask",
            why=f"asked {', '.join(names)}",
            hint="if quorum is lost, restore: kops-py etcd restore --from FILE",
        )
    return found


def _members(deps: Deps, host: Host) -> tuple[etcdctl.EtcdMemberEntry, ...]:
    try:
        return etcdctl.parse_member_list(ask(deps, host, etcdctl.member_list_argv()))
    except ValueError as error:
        raise EtcdError("the member list cannot be read", where=host.name, why=str(error)) from error


def _tell(deps: Deps, host: Host, argv: Sequence[str]) -> None:
    """Let etcd change its members; raises EtcdError with what it said."""
    try:
        answer = run_etcdctl(deps, host, argv)
    except ValueError as error:
        raise EtcdError(str(error), where=host.name, hint="run the same command again") from error
    if not answer.ok:
        lines = (answer.err.strip() or answer.out.strip()).splitlines()
        raise EtcdError(
            f"etcd refuses: {' '.join(argv[-4:])[:120]}",
            where=host.name,
            why=lines[-1][-300:] if lines else "it said nothing",
            hint="run the same command again",
        )
