"""etcd's own upkeep: what is wrong with its members, which one a backup is taken from, and defragmenting them. Pure.

The checklist defrag replaces: all members healthy; one member at a time, the leader last, since a member answers
nothing while it is at it; after each, all members healthy again; the alarm NOSPACE taken back when there is room.
(etcd.io, Operations guide, Maintenance.)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from kops_py.model.actions import DefragmentMember, DisarmAlarms
from kops_py.model.errors import EtcdError
from kops_py.model.etcd import EtcdFacts, why_unfit
from kops_py.model.finding import Finding, FindingKind, Severity
from kops_py.model.plan import Plan, Step, Wave
from kops_py.model.spec import ClusterSpec
from kops_py.model.status import NOSPACE, EtcdMember
from kops_py.runbooks.decision import Decision

ERROR, WARNING, INFO = Severity.ERROR, Severity.WARNING, Severity.INFO
DEFRAG_S = 600.0
"""One member: 8 GiB, the largest database etcd suggests, at 20 MB a second, and a third more."""
_NEAR_QUOTA = 0.8
_FAR_BEHIND = 1000
"""Revisions; a member that lags so far has not just been asked a moment earlier."""

MEMBER_DOWN = FindingKind(
    "etcd-member-down",
    (ERROR, WARNING),
    "A member of etcd does not answer, or cannot commit.",
    "See its log on the host; or take it out and add it anew.",
)
MEMBER_STALE = FindingKind(
    "etcd-member-stale",
    (WARNING,),
    "A member of etcd belongs to no host of the inventory, or to a node that is gone: it counts for the quorum.",
    "If its machine is gone for good, take it out: etcdctl member remove ID.",
)
MEMBER_MISSING = FindingKind(
    "etcd-member-missing",
    (WARNING,),
    "A host of the inventory is to run a member of etcd, and none of the members is its.",
    "kops-py bootstrap joins it.",
)
MEMBER_LEARNER = FindingKind(
    "etcd-member-learner",
    (WARNING,),
    "A member of etcd is a learner: it holds the data but does not count for the quorum.",
    "Promote it when it has caught up: etcdctl member promote ID.",
)
ALARM = FindingKind(
    "etcd-alarm-raised",
    (ERROR,),
    "etcd has an alarm: with NOSPACE it takes no writes, with CORRUPT a member's data differs from the others'.",
    "NOSPACE: kops-py etcd defrag, which takes the alarm back. CORRUPT: take the member out and add it anew.",
)
QUOTA = FindingKind(
    "etcd-near-quota",
    (WARNING,),
    "A database is near the size at which etcd takes no more writes.",
    "kops-py etcd defrag; or raise quota-backend-bytes (8 GiB at most).",
)
NO_QUORUM = FindingKind(
    "etcd-no-quorum",
    (ERROR,),
    "Most members of etcd do not answer: nothing can be read or written through the API.",
    "Bring members back; if their data is lost, restore a backup.",
)
BEHIND = FindingKind(
    "etcd-member-behind",
    (WARNING,),
    "A member is far behind the others' revision.",
    "Look at its disk and its network; a member that cannot catch up is taken out and added anew.",
)
API_STALLS = FindingKind(
    "etcd-defrag-stalls",
    (INFO,),
    "etcd has one member: while it is defragmented, the API answers nothing.",
    "Nothing; about a second for every 50 MB.",
)
KINDS = (
    NO_QUORUM,
    MEMBER_DOWN,
    MEMBER_STALE,
    MEMBER_MISSING,
    MEMBER_LEARNER,
    ALARM,
    QUOTA,
    BEHIND,
    API_STALLS,
)


def member_findings(facts: EtcdFacts) -> tuple[Finding, ...]:
    """Say what is wrong with etcd's members."""
    return (*_quorum(facts), *_members(facts), *_missing(facts))


def choose_member(facts: EtcdFacts) -> EtcdMember:
    """Return the member a snapshot is taken from: a healthy voter without alarms that has the newest revision.

    A follower where there is one, so that the leader is left alone. Revisions were read one after the other while
    others wrote: here one of the newest thousand does, and just before the snapshot it must have caught up with this
    look (``choose_source``). Raises EtcdError, saying of each why not.
    """
    fit, unfit = [], []
    for member in facts.members:
        why = _why_unfit(member, facts)
        if why:
            unfit.append(f"{_label(member)} {why}")
        else:
            fit.append(member)
    if not fit:
        raise EtcdError(
            "no member of etcd is fit to take a backup from",
            why="; ".join(unfit) or "no member answers",
            hint="kops-py etcd status shows them; mend one first",
        )
    return min(fit, key=lambda m: (m.is_leader, -m.revision, m.name))


@dataclass(frozen=True, slots=True)
class DefragArguments:
    """What is decided once for a run: the order, and from which share of free space on a member is worked on."""

    order: tuple[int, ...]
    """Member ids, the leader last."""
    min_free_percent: int = 10


def defrag_order(facts: EtcdFacts) -> tuple[int, ...]:
    """Return the members in the order they are defragmented: the leader last."""
    return tuple(m.member_id for m in sorted(facts.members, key=lambda m: (m.is_leader, m.name)))


def defrag(spec: ClusterSpec, facts: EtcdFacts, arguments: DefragArguments) -> Decision:
    """Plan to defragment the members with enough free space in their database, one at a time."""
    by_id = {m.member_id: m for m in facts.members}
    waves, notes = [], []
    for member_id in arguments.order:
        member = by_id.get(member_id)
        if member is None or not member.is_available:
            continue
        free = _free_percent(member)
        if free < arguments.min_free_percent:
            notes.append(f"{member.name}: {free} % of {_mib(member.size_bytes)} free")
            continue
        step = Step(
            f"defrag/{member.name}",
            member.host,
            f"defragment {member.name}",
            DefragmentMember(member.name, f"{member_id:x}"),
            DEFRAG_S,
            ("it answers nothing meanwhile; all members are healthy before and after",),
        )
        waves.append(Wave(f"member {member.name}", (step,)))
    if NOSPACE in facts.alarms:
        disarm = Step(
            "disarm/nospace",
            "",
            "take back the alarm NOSPACE",
            DisarmAlarms(),
            60.0,
            ("only when every database is below its quota again, and no other alarm is raised",),
        )
        waves.append(Wave("alarm", (disarm,)))
    plan = Plan("defrag", spec.name, tuple(waves), {"min-free-percent": str(arguments.min_free_percent)}, tuple(notes))
    # NOSPACE and a full database are what is mended here; etcdctl takes alarms back all together, CORRUPT as well.
    found = [f for f in member_findings(facts) if f.id not in (ALARM.id, QUOTA.id)]
    if others := sorted(facts.alarms - {NOSPACE}):
        found.append(ALARM.found(f"{', '.join(others)}: nothing is defragmented while a member's data may be wrong"))
    if waves and len(facts.members) == 1:
        found.append(API_STALLS.found("the API answers nothing while etcd's only member is defragmented"))
    return Decision(plan, tuple(found))


def _why_unfit(member: EtcdMember, facts: EtcdFacts) -> str:
    if why := why_unfit(member):
        return why
    newest = max(m.revision for m in facts.members)
    return f"is {newest - member.revision} revisions behind" if newest - member.revision > _FAR_BEHIND else ""


def _quorum(facts: EtcdFacts) -> Iterator[Finding]:
    if not facts.has_quorum:
        yield NO_QUORUM.found("etcd has no quorum")


def _members(facts: EtcdFacts) -> Iterator[Finding]:
    for member in facts.members:
        label = _label(member)
        if not member.host and facts.expected:
            yield MEMBER_STALE.found(f"member {label} belongs to no host of the inventory")
        elif facts.nodes is not None and member.host in facts.expected and member.host not in facts.nodes:
            yield MEMBER_STALE.found(f"member {label}: there is no node {member.host} any more", node=member.host)
        if not member.healthy and not member.is_available:
            yield MEMBER_DOWN.found(f"member {label}: {member.problem or 'it does not answer'}", node=member.host)
        if member.is_learner:
            yield MEMBER_LEARNER.found(f"member {label} is a learner", node=member.host)
        for alarm in member.alarms:
            yield ALARM.found(f"member {label}: {alarm}", node=member.host)
        if member.quota_bytes and member.size_bytes > member.quota_bytes * _NEAR_QUOTA:
            share = member.size_bytes * 100 // member.quota_bytes
            yield QUOTA.found(f"member {label}: {share} % of {_mib(member.quota_bytes)}", node=member.host)
        if member.healthy and facts.revision - member.revision > _FAR_BEHIND:
            yield BEHIND.found(f"member {label} is {facts.revision - member.revision} revisions behind")


def _missing(facts: EtcdFacts) -> Iterator[Finding]:
    if not facts.has_quorum:
        return
    running = {m.host for m in facts.members}
    for host in facts.expected:
        if host not in running:
            why = facts.problems.get(host, "")
            yield MEMBER_MISSING.found(f"no member of etcd is that of {host}" + (f" ({why})" if why else ""), node=host)


def _free_percent(member: EtcdMember) -> int:
    return (member.size_bytes - member.used_bytes) * 100 // member.size_bytes if member.size_bytes else 0


def _label(member: EtcdMember) -> str:
    return member.name or f"{member.member_id:x} (never started)"


def _mib(size_bytes: int) -> str:
    return f"{size_bytes / 2**20:.1f} MiB"
