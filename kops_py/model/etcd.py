"""etcd as it is: how its members are reached, what they say, and what was read out of a snapshot."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from kops_py.model.status import EtcdMember

LOCAL_ENDPOINT = "https://127.0.0.1:2379"


@dataclass(frozen=True, slots=True)
class EtcdCredentials:
    """Where a host keeps what a client of etcd needs: paths on that host, never their contents."""

    ca: str
    cert: str
    key: str


KUBEADM_CREDENTIALS = (
    EtcdCredentials(
        "/etc/kubernetes/pki/etcd/ca.crt",
        "/etc/kubernetes/pki/etcd/healthcheck-client.crt",
        "/etc/kubernetes/pki/etcd/healthcheck-client.key",
    ),
    EtcdCredentials(
        "/etc/kubernetes/pki/etcd/ca.crt",
        "/etc/kubernetes/pki/apiserver-etcd-client.crt",
        "/etc/kubernetes/pki/apiserver-etcd-client.key",
    ),
)
"""Client certificates kubeadm makes on a control plane, in the order they are tried."""


@dataclass(frozen=True, slots=True)
class EtcdTarget:
    """A host from which etcd may be reached; ``member`` is the name of the member that is to run there, or empty.

    ``endpoint`` is the client URL it asks by; empty: those that the API server there uses.
    """

    host: str
    endpoint: str
    credentials: tuple[EtcdCredentials, ...]
    member: str = ""
    node_ip: str = ""


@dataclass(frozen=True, slots=True)
class EtcdAccess:
    """A host from which etcd can be asked.

    ``container`` is the id of the running etcd container there, whose binaries are used; empty: the host's own.
    ``endpoint`` is the client URL of the member that runs there, or of any member where none does.
    """

    host: str
    endpoint: str
    credentials: EtcdCredentials
    container: str = ""
    has_member: bool = True
    """Whether a member of etcd runs on this host."""
    others: tuple[str, ...] = ()
    """Further client URLs, of other members, that this host may ask by as well."""


@dataclass(frozen=True, slots=True)
class EtcdFacts:
    """The whole of etcd at one moment.

    ``accesses`` are the hosts it can be asked from, by inventory name; ``problems`` say of every other host why not.
    ``expected`` are the inventory's hosts that are to run a member, with the member's name.
    """

    members: tuple[EtcdMember, ...] = ()
    accesses: Mapping[str, EtcdAccess] = field(default_factory=lambda: MappingProxyType({}))
    problems: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    expected: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    cluster_id: str = ""
    """Hexadecimal, as etcd's logs write it."""
    has_quorum: bool = True
    unreachable: frozenset[str] = frozenset()
    """Hosts that could not be asked anything, of those etcd may be reached from."""
    bare: frozenset[str] = frozenset()
    """Hosts that were asked and hold nothing of a cluster: new or reinstalled machines."""
    nodes: frozenset[str] | None = None
    """Names of the cluster's control-plane nodes; None when the API was not asked, or does not answer."""

    @property
    def leader(self) -> EtcdMember | None:
        """Return the member that leads."""
        return next((m for m in self.members if m.is_leader), None)

    @property
    def revision(self) -> int:
        """Return the newest revision any member has."""
        return max((m.revision for m in self.members), default=0)

    @property
    def alarms(self) -> frozenset[str]:
        """Return all alarms, those of members that are gone as well: the others still tell them."""
        return frozenset(a for m in self.members for a in (*m.alarms, *m.only_alarms))

    def to_json(self) -> dict[str, Any]:
        """Return the facts as a JSON object."""
        return {
            "cluster_id": self.cluster_id,
            "has_quorum": self.has_quorum,
            "revision": self.revision,
            "members": [
                {
                    **dataclasses.asdict(m),
                    "member_id": f"{m.member_id:x}",
                    "alarms": list(m.alarms),
                    "only_alarms": list(m.only_alarms),
                }
                for m in self.members
            ],
            "not_asked": dict(self.problems),
        }


def why_unfit(member: EtcdMember) -> str:
    """Return why no snapshot is taken from a member, however new its data; empty when it is fit."""
    if member.alarms:
        return f"has the alarm {', '.join(member.alarms)}"
    if member.is_learner:
        return "is a learner"
    return "" if member.healthy else f"is not healthy ({member.problem or 'it does not answer'})"


def newest_fit_revision(facts: EtcdFacts) -> int:
    """Return the newest revision of the members that are fit to take a snapshot from."""
    return max((m.revision for m in facts.members if not why_unfit(m)), default=0)


def choose_source(second: EtcdFacts, planned: str, reached: int) -> EtcdMember | None:
    """Return the member that gives the snapshot at a second look; ``reached`` is the newest revision at the first.

    Who has that much by now lags behind nobody: the planned member, else a follower. The leader when none of them has.
    """
    fit = [m for m in second.members if not why_unfit(m)]
    caught_up = [m for m in fit if m.revision >= reached]
    order = sorted(caught_up, key=lambda m: (m.name != planned, m.is_leader, -m.revision, m.name))
    return next(iter(order), None) or next((m for m in fit if m.is_leader), None)


@dataclass(frozen=True, slots=True)
class KeySample:
    """One key that was read: the revision that changed it last, and the SHA-256 of its value."""

    key: str
    mod_revision: int
    value_sha256: str


@dataclass(frozen=True, slots=True)
class SnapshotContents:
    """What a scratch etcd restored from a snapshot holds."""

    revision: int
    """Revision of the snapshot file, before any lease of it ran out."""
    total_keys: int
    """Entries of all revisions, as ``snapshot status`` counts them."""
    live_keys: int
    size_bytes: int
    hash: int
    etcd_version: str
    """The version it was restored with."""
    member_ids: tuple[str, ...]
    """Ids (hexadecimal) of the members that the snapshot's own list names."""
    namespaces: tuple[str, ...]
    cluster_uid: str
    """UID of the namespace kube-system, which tells clusters apart; empty where it could not be read."""
    samples: tuple[KeySample, ...]
