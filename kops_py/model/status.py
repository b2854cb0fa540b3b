"""What ``kops-py status`` shows, as frozen data."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

NOSPACE, CORRUPT = "NOSPACE", "CORRUPT"
"""etcd's alarms: a database reached its quota; a member's data differs from the others'."""


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """One node; ``cordoned_by`` says whose cordon it is when there is one."""

    name: str
    roles: tuple[str, ...]
    ready: bool
    reason: str
    version: str
    internal_ip: str
    os_image: str
    kernel: str
    container_runtime: str
    cordoned: bool = False
    cordoned_by: str = ""
    stopped: str = ""
    """Why an upgrade or patch of kops-py ended on this node before its end; empty when none did."""


@dataclass(frozen=True, slots=True)
class EtcdPodStatus:
    """The etcd of one control plane as the API shows it; ``problem`` is empty when it is Ready."""

    node: str
    healthy: bool
    problem: str = ""


@dataclass(frozen=True, slots=True)
class EtcdMember:
    """One etcd member as etcd itself tells it; ``problem`` is empty when it answers."""

    name: str
    member_id: int
    endpoint: str
    healthy: bool
    version: str = ""
    size_bytes: int = 0
    used_bytes: int = 0
    is_leader: bool = False
    is_learner: bool = False
    leader_id: int = 0
    """Whom it follows; 0 when it knows no leader."""
    applied_index: int = 0
    """How far of etcd's raft log is in its data."""
    revision: int = 0
    problem: str = ""
    alarms: tuple[str, ...] = ()
    """Those it raised itself."""
    only_alarms: tuple[str, ...] = ()
    """Alarms, of whichever member, that are all that keeps it from being healthy; every member tells all of them."""
    quota_bytes: int = 0
    """Size at which it takes no more writes; 0 when it was not asked."""
    host: str = ""
    """Inventory name of the host it runs on; empty when no host of the inventory is it."""
    peer_urls: tuple[str, ...] = ()
    cluster_id: int = 0

    @property
    def is_available(self) -> bool:
        """Whether it counts for the quorum: healthy, or ill only of NOSPACE, with which it still commits."""
        return not self.is_learner and (self.healthy or set(self.only_alarms) == {NOSPACE})


@dataclass(frozen=True, slots=True)
class Certificate:
    """One certificate on a host; ``not_after`` is UTC."""

    path: str
    subject: str
    not_after: datetime
    is_ca: bool
    host: str = ""

    def days_left(self, now: datetime) -> int:
        """Return the whole days until it expires; negative when it has."""
        return (self.not_after - now).days


@dataclass(frozen=True, slots=True)
class ClusterStatus:
    """The cluster at one moment; what comes from hosts is empty unless they were asked."""

    server_version: str
    cluster_name: str
    endpoint: str
    nodes: tuple[NodeStatus, ...]
    etcd_pods: tuple[EtcdPodStatus, ...]
    external_etcd: bool
    bootstrap_tokens: int
    unhealthy: tuple[str, ...] = ()
    etcd_members: tuple[EtcdMember, ...] = ()
    certificates: tuple[Certificate, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the status as a JSON object; times in ISO 8601, UTC."""
        return {f.name: _plain(getattr(self, f.name)) for f in dataclasses.fields(self)}


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(v) for v in value]
    if dataclasses.is_dataclass(value):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    return value
