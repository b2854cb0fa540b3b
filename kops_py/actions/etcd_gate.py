"""etcd after one of its members was away: every member healthy and caught up, no alarm, one leader for all."""

from __future__ import annotations

from collections.abc import Collection

from kops_py.connect.base import Host
from kops_py.model.errors import HostError
from kops_py.model.status import EtcdMember
from kops_py.observe.host_status import observe_etcd_cluster


class EtcdGate:
    """What etcd lacks, look by look.

    Clients write while members are asked one after the other, so that their revisions differ at any moment. The
    furthest of the first look is the mark that every one has to reach: a member that lags does it later, one whose
    data is another never does.
    """

    def __init__(self) -> None:
        self._mark = (0, 0)

    def problems(self, host: Host) -> tuple[str, ...]:
        """Ask through the member on this host; empty when nothing is lacking, or no etcd runs there."""
        try:
            members = observe_etcd_cluster(host)
        except (HostError, ValueError) as error:
            return (f"etcd through {host.name}: {error}",)
        # An alarm is in what each member says of itself, and so in its problem.
        ill = tuple(f"etcd member {m.name}: {m.problem or 'not healthy'}" for m in members if not m.healthy)
        return ill or leader_problems(members) or self._behind(members)

    def _behind(self, members: Collection[EtcdMember]) -> tuple[str, ...]:
        if members and self._mark == (0, 0):
            self._mark = max(m.revision for m in members), max(m.applied_index for m in members)
        revision, applied = self._mark
        return tuple(
            f"etcd member {m.name}: at revision {m.revision} of {revision}, raft index {m.applied_index} of {applied}"
            for m in members
            if m.revision < revision or m.applied_index < applied
        )


def leader_problems(members: Collection[EtcdMember]) -> tuple[str, ...]:
    """Say which members do not follow the one leader."""
    by_id = {m.member_id: m.name for m in members}
    followed = {m.name: by_id.get(m.leader_id, "") for m in members}
    nobody = sorted(name for name, leader in followed.items() if not leader)
    if nobody:
        return tuple(f"etcd member {name}: it knows no leader" for name in nobody)
    if len(set(followed.values())) > 1:
        return ("etcd: " + ", ".join(f"{name} follows {leader}" for name, leader in sorted(followed.items())),)
    return ()
