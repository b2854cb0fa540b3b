"""Restoring etcd: what was found on the hosts, what is restored, and the actions of the plan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from types import MappingProxyType

from kops_py.model.errors import KopsError
from kops_py.model.plan import Action

WRITERS = ("kube-apiserver", "kube-controller-manager", "kube-scheduler")
STATIC_PODS = (*WRITERS, "etcd")
"""The control plane of kubeadm, by the names of its manifests and containers."""


class RestoreKind(StrEnum):
    """What is to be mended, and how.

    ``member``: quorum is there, the lost member is replaced and no snapshot is used. ``quorum``: quorum is lost and
    some data is left. ``all``: nothing is left, or everything is to be set back. ``new-machines``: the machines
    themselves are gone, and the inventory names empty ones. ``control-planes``: all control planes are gone that way,
    and an external etcd serves; only keys are brought back.
    """

    MEMBER = "member"
    QUORUM = "quorum"
    ALL = "all"
    NEW_MACHINES = "new-machines"
    CONTROL_PLANES = "control-planes"


class Mark(StrEnum):
    """What a restore has done on a host; files on that host, each written as the last act of what it says.

    Whatever is done from ``STARTED`` on is never put back: the point of no return.
    """

    BEGUN = "begun"
    UPLOADED = "uploaded"
    STAGED = "staged"
    STOPPED = "stopped"
    REMOVED = "removed"
    ADDED = "added"
    SWITCHED = "switched"
    STARTED = "started"
    SERVING = "serving"
    API = "api"
    CONTROLLERS = "controllers"
    KUBELET = "kubelet"
    ADDONS = "addons"
    PLACED = "placed"
    INITIALISED = "initialised"
    FORGOTTEN = "forgotten"
    FINISHED = "finished"


@dataclass(frozen=True, slots=True)
class SnapshotFacts:
    """A snapshot, or the data directory of a member that takes its place.

    ``member`` is that member's host, "" for a snapshot. ``digest`` is the SHA-256 (hex) of the whole file, and the
    member's name for a data directory. ``revision`` and ``minor`` (``3.5``) are 0 and "" when they are not known.
    ``taken_at`` (UTC) is when its backup was begun, None where nobody wrote that down.
    """

    label: str
    digest: str
    size_bytes: int = 0
    revision: int = 0
    minor: str = ""
    member: str = ""
    has_our_ca: bool = True
    """Whether the certificate of this cluster's authority is among the objects in it."""
    taken_at: datetime | None = None

    @property
    def loss(self) -> str:
        """Return which writes a restore of it loses, as a sentence."""
        if self.member:
            return f"writes that are not in the database of {self.member} are lost"
        return f"writes after {f'{self.taken_at:%Y-%m-%d %H:%M:%S} UTC' if self.taken_at else 'it was taken'} are lost"


@dataclass(frozen=True, slots=True)
class RestoreHost:
    """One host as a restore sees it; of a worker only ``problem`` and ``marks`` are known.

    Sizes in bytes. ``revision`` is 0 while it is unknown; ``healthy`` is whether the member commits with the rest of
    its cluster, with or without an alarm; ``holds_cluster`` whether kubeadm's configuration is among its keys: an
    empty store is healthy too.
    """

    name: str
    problem: KopsError | None = None
    manifests: frozenset[str] = frozenset()
    """Static pods of the control plane whose manifests are in place."""
    aside: frozenset[str] = frozenset()
    """Those whose manifests a restore has put aside."""
    running: frozenset[str] = frozenset()
    """Those with a running container."""
    image: str = ""
    unit: str = ""
    """systemd's unit of an external member; empty where etcd is a static pod, or is not at all."""
    joins: bool = True
    """Whether an empty member can be told to join a cluster that is there."""
    member_name: str = ""
    peer_url: str = ""
    data_dir: str = ""
    wal_dir: str = ""
    has_data: bool = False
    data_bytes: int = 0
    free_bytes: int = 0
    version: str = ""
    bumps_revision: bool = False
    """Whether its etcd can let revisions jump at a restore (3.4.27, 3.5.10 and newer)."""
    answers: bool = False
    """Whether its member has a vote and says how it is, healthy or not."""
    healthy: bool = False
    alarms: tuple[str, ...] = ()
    """Those it tells, of whichever member."""
    holds_cluster: bool = False
    revision: int = 0
    restores: Mapping[str, frozenset[Mark]] = field(default_factory=lambda: MappingProxyType({}))
    """Marks of each restore that left its folder here, by its id."""
    begun: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    """What each restore was begun with, as restore_words of RestoreRun."""

    @property
    def reachable(self) -> bool:
        """Whether the host answered."""
        return self.problem is None

    @property
    def has_no_control_plane(self) -> bool:
        """Whether there is no control plane on the host, and none was put aside."""
        return self.reachable and not (self.manifests or self.aside)

    @property
    def is_bare(self) -> bool:
        """Whether there is no member of etcd on the host either: a new machine."""
        return self.has_no_control_plane and not self.unit

    @property
    def minor(self) -> str:
        """Return etcd's version as ``3.5``, "" when it is not known."""
        return ".".join(self.version.split(".")[:2])

    @property
    def serves(self) -> bool:
        """Whether its member is healthy and holds this cluster's objects."""
        return self.healthy and self.holds_cluster


@dataclass(frozen=True, slots=True)
class RestoreFacts:
    """All hosts as a restore sees them."""

    hosts: Mapping[str, RestoreHost]

    @property
    def serving(self) -> tuple[str, ...]:
        """Return the hosts whose members are healthy and hold this cluster's objects."""
        return tuple(name for name, host in self.hosts.items() if host.serves)


@dataclass(frozen=True, slots=True)
class RestoreRun:
    """One restore, from its first step to its last, over as many runs of the program as it takes."""

    id: str
    kind: RestoreKind
    source: str
    """Digest of the snapshot, or the name of the member whose data is used."""

    @property
    def words(self) -> str:
        """Return what is written beside its marks on every host."""
        return f"{self.kind} {self.source}"


@dataclass(frozen=True, slots=True)
class NewMember:
    """A member of the restored cluster."""

    node: str
    name: str
    peer_url: str
    data_dir: str
    unit: str = ""
    """systemd's unit of an external member; empty: a static pod."""


@dataclass(frozen=True, slots=True)
class UploadSnapshot(Action):
    """Copy the snapshot to the members' hosts; ``words`` say what this restore is of."""

    restore: str
    words: str
    digest: str
    nodes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class FetchData(Action):
    """Copy the database of a stopped member to all the others; ``stopped`` are the hosts to be put back if it fails."""

    restore: str
    words: str
    member: str
    nodes: tuple[str, ...]
    stopped: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class StageData(Action):
    """Make each member's new data directory beside its old one; ``bump`` is by how much revisions jump, or 0.

    ``has_hash``: the snapshot ends with its own hash; a copied database does not.
    """

    restore: str
    token: str
    members: tuple[NewMember, ...]
    bump: int
    has_hash: bool
    stopped: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class StopControlPlanes(Action):
    """Stop kubelets, put the static pods' manifests aside, and wait until the containers are gone.

    Units of external members are stopped after the writers.
    """

    restore: str
    words: str
    nodes: tuple[str, ...]
    units: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SwitchData(Action):
    """Keep the old data under a dated name and put the new data in its place."""

    restore: str
    members: tuple[NewMember, ...]
    stopped: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class StartEtcd(Action):
    """Start all members together and prove that they are one healthy cluster with equal contents."""

    restore: str
    members: tuple[NewMember, ...]


@dataclass(frozen=True, slots=True)
class StartApiServer(Action):
    """Put the API server's manifest back and wait until it is ready."""

    restore: str
    node: str


@dataclass(frozen=True, slots=True)
class StartControllers(Action):
    """Put the manifests of controller manager and scheduler back and wait until their containers run."""

    restore: str
    node: str


@dataclass(frozen=True, slots=True)
class RestartKubelet(Action):
    """Restart a kubelet, so that it lists its pods anew."""

    restore: str
    node: str


@dataclass(frozen=True, slots=True)
class RestartAddons(Action):
    """Restart the containers of a node that watch the API and would wait for revisions that are gone."""

    restore: str
    node: str
    namespaces: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class CheckRestored(Action):
    """Compare what the API says with what is real, and tell the difference.

    ``holders``: hosts on which ``restore`` may have kept old data that knows more than the snapshot.
    """

    nodes: tuple[str, ...]
    restore: str = ""
    holders: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class FinishRestore(Action):
    """Remove the snapshot and what else was only for the restore; the old data stays."""

    restore: str
    nodes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class StopMember(Action):
    """Stop the control plane of one host whose member is to be replaced; ``unit``: only its member, which is one."""

    restore: str
    words: str
    node: str
    unit: str = ""


@dataclass(frozen=True, slots=True)
class RemoveMember(Action):
    """Remove a lost member from the cluster, asking through a healthy one."""

    restore: str
    node: str
    peer_url: str
    via: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class AddMember(Action):
    """Add an empty member as a learner, keep its old data, and let its manifest join the cluster as it is now."""

    restore: str
    member: NewMember
    via: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PromoteMember(Action):
    """Start the new member, wait until it has caught up, and give it its vote."""

    restore: str
    member: NewMember
    via: tuple[str, ...]
