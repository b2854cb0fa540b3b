"""Steps of etcd's upkeep: one member defragmented while all are healthy, the alarm NOSPACE taken back."""

from __future__ import annotations

from collections.abc import Sequence

from kops_py.connect.base import Fleet
from kops_py.engine.run import StepContext
from kops_py.model.actions import DefragmentMember
from kops_py.model.errors import EtcdError, HostError, KopsError
from kops_py.model.etcd import EtcdFacts, EtcdTarget
from kops_py.model.status import NOSPACE, EtcdMember
from kops_py.observe.etcd import access_for, ask, observe_etcd

Targets = Sequence[EtcdTarget]
_POLL_S = 0.5
_HEALTHY_S = 60.0


def defragment(fleet: Fleet, targets: Targets, action: DefragmentMember, ctx: StepContext) -> None:
    """Defragment one member; raises EtcdError when not all are healthy before, HostError when etcdctl fails."""
    facts = _observe(fleet, targets, ctx)
    member = _member(facts, action)
    ill = [m for m in facts.members if not m.is_available]
    if ill or not facts.has_quorum:
        raise EtcdError(
            "not every member of etcd is healthy, so none is taken away",
            where=member.name,
            why="; ".join(f"{m.name or 'a new member'}: {m.problem or 'a learner'}" for m in ill),
            hint="mend that first (with CORRUPT: take out the member whose data differs and add it anew), "
            "then run the same command again",
        )
    access = access_for(facts, member)
    if access is None:
        raise EtcdError("no host reaches this member", where=member.name, hint="kops-py etcd status says why")
    ctx.progress(f"defragmenting {member.size_bytes / 2**20:.1f} MiB", waiting=True)
    limit_s = max(10, int(ctx.remaining_s() - _HEALTHY_S))
    host = fleet.host(access.host)
    try:
        ask(host, access, "defrag", timeout_s=limit_s, check=True, cancel=ctx.cancel)
    except HostError as error:
        raise EtcdError(
            "the member could not be defragmented", where=member.name, why=str(error), hint="run the same command again"
        ) from error


def verify_defragmented(fleet: Fleet, targets: Targets, action: DefragmentMember, ctx: StepContext) -> None:
    """Wait until all members are healthy again; raises EtcdError at the deadline."""
    while True:
        try:
            facts = _observe(fleet, targets, ctx)
            lacking = "; ".join(f"{m.name}: {m.problem or 'not healthy'}" for m in facts.members if not m.is_available)
            if not lacking and facts.has_quorum:
                return
        except EtcdError as error:
            lacking = str(error)
        ctx.progress(lacking or "etcd has no quorum", waiting=True)
        try:
            ctx.remaining_s()
        except HostError as error:
            raise EtcdError(
                f"etcd is not healthy after {action.member} was defragmented",
                why=lacking,
                hint="the other members are left alone; kops-py etcd status",
            ) from error
        ctx.cancel.wait(_POLL_S)


def disarm_alarms(fleet: Fleet, targets: Targets, ctx: StepContext) -> None:
    """Take back NOSPACE; raises EtcdError with another alarm, and while a database still is near its quota."""
    facts = _observe(fleet, targets, ctx)
    if others := sorted(facts.alarms - {NOSPACE}):
        # etcdctl knows no way to take back one alarm and leave another
        raise EtcdError(
            f"the alarm {', '.join(others)} is raised as well, and would be taken back with NOSPACE",
            where=", ".join(m.name for m in facts.members if set(m.alarms) - {NOSPACE}),
            hint="find out which member's data differs (kops-py etcd status), take that member out and add it anew; "
            "then run the same command again",
        )
    full = [m for m in facts.members if m.quota_bytes and m.size_bytes > m.quota_bytes * 0.95]
    if full:
        raise EtcdError(
            "a database is still as large as its quota, so the alarm would come back",
            where=", ".join(m.name for m in full),
            why="; ".join(f"{m.size_bytes} of {m.quota_bytes} bytes, {m.used_bytes} in use" for m in full),
            hint="delete what fills etcd, or raise quota-backend-bytes; the API server compacts every five minutes",
        )
    last: KopsError | None = None
    for name, access in facts.accesses.items():
        try:
            ask(fleet.host(name), access, "alarm", "disarm", timeout_s=10, check=True, cancel=ctx.cancel)
        except HostError as error:
            last = error
        else:
            return
    raise EtcdError("the alarm could not be taken back", why=str(last or "no host reaches etcd"))


def alarms_left(fleet: Fleet, targets: Targets, ctx: StepContext) -> bool:
    """Whether the alarm NOSPACE is raised."""
    return NOSPACE in _observe(fleet, targets, ctx).alarms


def _observe(fleet: Fleet, targets: Targets, ctx: StepContext) -> EtcdFacts:
    return observe_etcd(fleet, targets, cancel=ctx.cancel)


def _member(facts: EtcdFacts, action: DefragmentMember) -> EtcdMember:
    for member in facts.members:
        if f"{member.member_id:x}" == action.member_id:
            return member
    raise EtcdError("is no member of etcd any more", where=action.member, hint="look at the plan again with --plan")
