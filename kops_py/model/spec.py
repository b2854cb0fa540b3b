"""What the operator asked for: the inventory and cluster.yaml, read and checked, as frozen data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from types import MappingProxyType

from kops_py.model.backup import BackupSpec
from kops_py.model.drain import DrainPolicy
from kops_py.model.hooks import CanarySpec, Gate, GroupSpec, Hooks, window_of
from kops_py.model.secret import SecretRef as SecretRef
from kops_py.model.version import Version

Network = IPv4Network | IPv6Network
ETCD_CLIENT_PORT = 2379
ETCD_PEER_PORT = 2380


def bracketed(host: str) -> str:
    """Return a host as it stands before ``:port``: an IPv6 address in brackets."""
    return f"[{host}]" if ":" in host else host


class Group(StrEnum):
    """Inventory groups with a meaning; the names are Kubespray's."""

    CONTROL_PLANE = "kube_control_plane"
    NODE = "kube_node"
    ETCD = "etcd"
    LOAD_BALANCER = "load_balancer"


class CniType(StrEnum):
    """Where the pod network comes from."""

    MANIFEST = "manifest"
    BRIDGE = "bridge"
    NONE = "none"


class ContainerdSource(StrEnum):
    """Which package repository containerd is installed from."""

    DISTRIBUTION = "distribution"
    DOCKER = "docker"


@dataclass(frozen=True, slots=True)
class Taint:
    """A node taint; ``effect`` is NoSchedule, PreferNoSchedule or NoExecute."""

    key: str
    value: str
    effect: str

    def __str__(self) -> str:
        return f"{self.key}={self.value}:{self.effect}" if self.value else f"{self.key}:{self.effect}"


@dataclass(frozen=True, slots=True)
class HostSpec:
    """One host of the inventory.

    ``address`` is what kops-py connects to; ``node_ip`` what the cluster uses (inventory variable ``ip``, as in
    Kubespray; the same as ``address`` when not given). ``variables`` are the host's merged inventory variables
    as Ansible prints them; they may hold secrets and never leave for a log, an event or a journal.
    """

    name: str
    address: str
    port: int
    user: str | None
    groups: frozenset[str]
    node_ip: str
    labels: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    taints: tuple[Taint, ...] | None = None
    key_file: Path | None = None
    ssh_args: str = ""
    become: bool = True
    variables: Mapping[str, object] = field(default_factory=lambda: MappingProxyType({}), repr=False)
    access_ip: str | None = None
    """Address other hosts use for this one where it is not ``node_ip`` (behind NAT); as in Kubespray."""
    etcd_member_name: str | None = None
    """Name of the host's member of an external etcd; None: the host's name."""
    connection: str = "ssh"
    """``ssh``, or ``local`` for the machine kops-py runs on."""

    @property
    def is_control_plane(self) -> bool:
        """Whether the host runs the control plane."""
        return Group.CONTROL_PLANE in self.groups

    @property
    def is_worker(self) -> bool:
        """Whether the host is a node without the control plane."""
        return Group.NODE in self.groups and not self.is_control_plane

    @property
    def is_kubernetes(self) -> bool:
        """Whether the host is to be a node of the cluster."""
        return Group.CONTROL_PLANE in self.groups or Group.NODE in self.groups

    @property
    def member_name(self) -> str:
        """Return the name of the host's member of an external etcd."""
        return self.etcd_member_name or self.name

    @property
    def peer_url(self) -> str:
        """Return the URL that the other members of an external etcd reach this host's by."""
        return f"https://{bracketed(self.node_ip)}:{ETCD_PEER_PORT}"

    @property
    def is_load_balancer(self) -> bool:
        """Whether the host balances the API endpoint."""
        return Group.LOAD_BALANCER in self.groups


@dataclass(frozen=True, slots=True)
class KubernetesSpec:
    """Version and sources of Kubernetes.

    ``repository`` is the base of the per-minor package repositories (``/vX.Y/deb/`` is appended);
    ``repository_key`` a URL or a file with its signing key (None: ``<repository>/vX.Y/deb/Release.key``).
    ``images`` is a folder on the controller or an http(s) URL with image archives and an ``images.json`` per
    version (``<images>/vX.Y.Z/images.json``); None pulls from ``image_repository``.
    """

    version: Version
    repository: str
    repository_key: str | None
    image_repository: str | None
    images: str | None
    package_revision: str | None = None
    extra_kubeadm: Mapping[str, object] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True, slots=True)
class NetworkSpec:
    """Cluster networks; several subnets make a dual-stack cluster."""

    pod_subnets: tuple[Network, ...]
    service_subnets: tuple[Network, ...]
    dns_domain: str
    cni: CniType
    cni_manifest: str | None = None


@dataclass(frozen=True, slots=True)
class Endpoint:
    """The address all clients use for the API server."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"{bracketed(self.host)}:{self.port}"


@dataclass(frozen=True, slots=True)
class ContainerdSpec:
    """Container runtime settings; ``mirrors`` maps a registry to the URLs tried before it."""

    source: ContainerdSource = ContainerdSource.DISTRIBUTION
    version: str | None = None
    mirrors: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True, slots=True)
class SshSpec:
    """How hosts are reached; limits in seconds."""

    become_password: SecretRef | None = None
    connect_timeout_s: float = 15.0
    max_parallel: int = 32


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Time limits of the long steps, in seconds."""

    prepare_s: float = 1800.0
    kubeadm_s: float = 600.0
    node_ready_s: float = 300.0
    cluster_healthy_s: float = 300.0
    api_request_s: float = 15.0


@dataclass(frozen=True, slots=True)
class MaintenanceSpec:
    """How nodes are taken out of service for upgrades and patches."""

    max_unavailable: str = "1"
    """Workers worked on at once: a number, or a percentage of all workers, rounded down, at least 1."""
    max_failures: int = 0
    """Workers that may fail before no further one is begun."""
    drain: DrainPolicy = field(default_factory=DrainPolicy)
    hooks: Hooks = field(default_factory=Hooks)
    gates: tuple[Gate, ...] = ()
    """What has to be true after each node before the next is begun."""
    canary: CanarySpec = field(default_factory=CanarySpec)
    groups: tuple[GroupSpec, ...] = ()

    def window(self, workers: int) -> int:
        """Return how many of so many workers may be out of service at once."""
        return window_of(self.max_unavailable, workers)


@dataclass(frozen=True, slots=True)
class GivenEtcd:
    """An etcd that exists already; the files are on the controller, the key only readable by its owner."""

    endpoints: tuple[str, ...]
    ca: Path
    cert: Path
    key: Path


@dataclass(frozen=True, slots=True)
class GivenCa:
    """The authority that certificates of etcd are to be made by, as files on the controller."""

    cert: Path
    key: Path


@dataclass(frozen=True, slots=True)
class EtcdSpec:
    """What cluster.yaml says of an etcd outside the control planes."""

    given: GivenEtcd | None = None
    ca: GivenCa | None = None
    """None: kops-py makes an authority of its own, whose key stays on the etcd hosts."""


@dataclass(frozen=True, slots=True)
class ExternalEtcd:
    """An etcd outside the control planes, as everything that works with it finds it.

    ``endpoints`` are the client URLs that API servers use. ``hosts`` are the inventory names of the hosts whose
    members kops-py runs (unit ``unit``, data in ``data_dir``), with the name of the member of each in
    ``member_names``; both are empty for an etcd that was given. ``pki`` is the folder on each of these hosts that
    holds ca.crt and the pairs server, peer and healthcheck-client (kubeadm's names), and ca.key unless an authority
    was given.
    """

    endpoints: tuple[str, ...]
    hosts: tuple[str, ...] = ()
    member_names: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    pki: str = "/etc/etcd/pki"
    data_dir: str = "/var/lib/etcd"
    unit: str = "etcd.service"
    local_endpoint: str = "https://127.0.0.1:2379"


@dataclass(frozen=True, slots=True)
class ClusterSpec:
    """Everything the operator asked for, checked."""

    name: str
    kubernetes: KubernetesSpec
    network: NetworkSpec
    hosts: tuple[HostSpec, ...]
    endpoint: Endpoint
    endpoint_external: bool
    """Whether the endpoint was given (from outside) and is not one of our load balancers or control planes."""
    containerd: ContainerdSpec = ContainerdSpec()
    ssh: SshSpec = SshSpec()
    timeouts: Timeouts = Timeouts()
    maintenance: MaintenanceSpec = MaintenanceSpec()
    backup: BackupSpec | None = None
    preflight_ignore: frozenset[str] = frozenset()
    external_etcd: bool = False
    etcd: EtcdSpec = EtcdSpec()
    cert_sans: tuple[str, ...] = ()
    inventory_path: Path = Path()
    cluster_path: Path = Path()
    limit: frozenset[str] | None = None
    """Names of the hosts that may be touched (``--limit``); None: all. The rest of the spec stays whole."""
    _by_name: Mapping[str, HostSpec] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_by_name", {h.name: h for h in self.hosts})

    def host(self, name: str) -> HostSpec:
        """Return the host of this inventory name; raises KeyError."""
        return self._by_name[name]

    @property
    def control_planes(self) -> tuple[HostSpec, ...]:
        """Return the control-plane hosts in inventory order."""
        return tuple(h for h in self.hosts if h.is_control_plane)

    @property
    def workers(self) -> tuple[HostSpec, ...]:
        """Return the hosts that are nodes without a control plane, in inventory order."""
        return tuple(h for h in self.hosts if h.is_worker)

    @property
    def nodes(self) -> tuple[HostSpec, ...]:
        """Return the control planes, then the workers."""
        return self.control_planes + self.workers

    @property
    def etcd_hosts(self) -> tuple[HostSpec, ...]:
        """Return the hosts whose members of an external etcd kops-py runs, in inventory order."""
        if not self.external_etcd or self.etcd.given is not None:
            return ()
        return tuple(h for h in self.hosts if Group.ETCD in h.groups)

    @property
    def member_hosts(self) -> tuple[HostSpec, ...]:
        """Return the hosts that are to run a member of etcd: the control planes, or those of an external one."""
        return self.etcd_hosts if self.external_etcd else self.control_planes

    @property
    def external(self) -> ExternalEtcd | None:
        """Return the etcd outside the control planes; None when kubeadm runs etcd on them."""
        if not self.external_etcd:
            return None
        if self.etcd.given is not None:
            return ExternalEtcd(self.etcd.given.endpoints)
        hosts = self.etcd_hosts
        return ExternalEtcd(
            endpoints=tuple(f"https://{bracketed(h.node_ip)}:{ETCD_CLIENT_PORT}" for h in hosts),
            hosts=tuple(h.name for h in hosts),
            member_names=MappingProxyType({h.name: h.member_name for h in hosts}),
        )

    @property
    def load_balancers(self) -> tuple[HostSpec, ...]:
        """Return the hosts that balance the API endpoint."""
        return tuple(h for h in self.hosts if h.is_load_balancer)
