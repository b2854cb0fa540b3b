"""What was found: one immutable snapshot of hosts and cluster, taken before a plan is made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType

from kops_py.model.errors import KopsError
from kops_py.model.membership import RemovalMark
from kops_py.model.status import EtcdMember
from kops_py.model.version import Version


def _no_map() -> Mapping[str, str]:
    return MappingProxyType({})


class JobState(StrEnum):
    """State of a job that kops-py left on a host (see actions/jobs.py)."""

    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    INTERRUPTED = "interrupted"


@dataclass(frozen=True, slots=True)
class DiskFacts:
    """Space of the file system that holds a path."""

    path: str
    size_bytes: int
    free_bytes: int
    mount: str = ""
    """Where that file system is mounted."""


@dataclass(frozen=True, slots=True)
class HostFacts:
    """One host as it is.

    When ``problem`` is set the host could not be asked and everything else is empty.
    """

    name: str
    problem: KopsError | None = None
    sudo: bool = False
    os_id: str = ""
    os_like: str = ""
    os_version: str = ""
    os_name: str = ""
    architecture: str = ""
    kernel: str = ""
    boot_id: str = ""
    python: str = ""
    cpus: int = 0
    memory_bytes: int = 0
    disks: Mapping[str, DiskFacts] = field(default_factory=lambda: MappingProxyType({}))
    hostname: str = ""
    machine_id: str = ""
    product_uuid: str = ""
    macs: frozenset[str] = frozenset()
    addresses: frozenset[str] = frozenset()
    """All IP addresses with their prefix length, as ``10.0.0.5/24``."""
    routes: frozenset[str] = frozenset()
    """Networks the host has a route to, as ``10.0.0.0/24``, without the default route."""
    clock_offset_s: float = 0.0
    """The host's clock minus the controller's at the same moment."""
    clock_uncertainty_s: float = 0.0
    swap_bytes: int = 0
    swap_in_fstab: bool = False
    listening: Mapping[int, str] = field(default_factory=lambda: MappingProxyType({}))
    """TCP ports listened on and the program that does."""
    cgroup_version: int = 0
    features: frozenset[str] = frozenset()
    """Kernel features that are there or can be loaded: overlay, br_netfilter, vxlan, nf_conntrack ..."""
    sysctls: Mapping[str, str] = field(default_factory=_no_map)
    packages: Mapping[str, str] = field(default_factory=_no_map)
    """Installed version of kubeadm, kubelet, kubectl, containerd, containerd.io, cri-tools, kubernetes-cni."""
    held: frozenset[str] = frozenset()
    containerd_version: str = ""
    prepared_digest: str = ""
    """Digest that the node preparation role left as its last act; empty when it never ended."""
    load_balancer_digest: str = ""
    etcd_digest: str = ""
    """Digest that the role etcd left as its last act, after the member of an external etcd was up."""
    etcd_pki_digest: str = ""
    """Digest of the names in the certificates kops-py made for this member; empty when one is missing or runs out."""
    etcd_ca: str = ""
    """SHA-256 of the external etcd's authority that lies on this host of the group etcd; empty when none does."""
    etcd_client_ca: str = ""
    """SHA-256 of the authority a control plane was given for an external etcd; empty when something is missing."""
    etcd_client_cert: str = ""
    """SHA-256 of the client certificate beside it."""
    etcd_client_runs_out: bool = False
    """Whether that certificate should be made anew."""
    out_of_balancer: frozenset[str] = frozenset()
    """On a load balancer: the control planes that kops-py took out and has not put back."""
    staged_digest: str = ""
    """Digest of the upgrade whose packages and images lie ready here; empty when none was staged."""
    removal: RemovalMark | None = None
    """Which run takes or took this host out of a cluster; None when none did since it last joined one."""
    static_images: Mapping[str, str] = field(default_factory=_no_map)
    """Image of each static pod by its manifest's name (kube-apiserver, etcd ...), as the manifest names it."""
    manifests: frozenset[str] = frozenset()
    """File names in /etc/kubernetes/manifests."""
    has_kubelet_conf: bool = False
    has_admin_conf: bool = False
    has_etcd_data: bool = False
    cni_configs: frozenset[str] = frozenset()
    """File names in /etc/cni/net.d."""
    bridge_peers: frozenset[str] = frozenset()
    """What the bridge network was last set up with, one ``name=podcidr@address`` a node."""
    jobs: Mapping[str, JobState] = field(default_factory=lambda: MappingProxyType({}))
    resolves_endpoint: frozenset[str] = frozenset()
    """Addresses the API endpoint's name resolves to on this host."""
    resolves_hostname: frozenset[str] = frozenset()
    """Addresses the host's own name resolves to on it."""
    services: frozenset[str] = frozenset()
    """systemd units that are active, of those preflight asks for: firewalld.service, chrony.service ..."""
    runtime_sockets: frozenset[str] = frozenset()
    """Sockets of container runtimes that are there: containerd, docker, cri-dockerd, crio."""
    kubelet_flags: Mapping[str, str] = field(default_factory=_no_map)
    """Names of flags the kubelet is started with, without dashes → the files they are in; never their values."""
    etcd_data_bytes: int = 0
    """Size of /var/lib/etcd; 0 when it is not there or could not be measured."""
    leftovers: frozenset[str] = frozenset()
    """Paths that a Kubernetes installation leaves behind (of any origin) and that exist."""
    ca_digest: str = ""
    """SHA-256 of /etc/kubernetes/pki/ca.crt; tells members of one cluster from those of another."""
    selinux: str = ""
    """enforcing, permissive, or empty when SELinux is off or absent."""
    apparmor: bool = False
    """Whether the kernel enforces AppArmor."""
    has_apparmor_parser: bool = False
    python_path: str = ""
    """The interpreter ``python`` is the version of."""
    proxies: frozenset[str] = frozenset()
    """Names of the proxy variables set in /etc/environment; never their values, which may hold a password."""

    @property
    def reachable(self) -> bool:
        """Whether the host answered."""
        return self.problem is None


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """One Node object."""

    name: str
    ready: bool
    reason: str
    version: str
    internal_ip: str
    pod_cidr: str = ""
    labels: Mapping[str, str] = field(default_factory=_no_map)
    taints: frozenset[str] = frozenset()
    unschedulable: bool = False
    annotations: Mapping[str, str] = field(default_factory=_no_map)
    os_image: str = ""
    kernel: str = ""
    container_runtime: str = ""
    boot_id: str = ""
    """Boot id the kubelet reported last; another one than the host's means that it has not reported since its boot."""
    created_at: str = ""
    """When the Node object was made, RFC 3339 in UTC: these compare as text."""

    @property
    def is_control_plane(self) -> bool:
        """Whether the node carries a control-plane label."""
        prefix = "node-role.kubernetes.io/"
        return f"{prefix}control-plane" in self.labels or f"{prefix}master" in self.labels


@dataclass(frozen=True, slots=True)
class KubeFacts:
    """The cluster as its API tells it."""

    server_version: Version
    nodes: Mapping[str, NodeFacts]
    has_kubeadm_config: bool
    has_kube_proxy: bool
    has_dns: bool
    cluster_name: str = ""
    control_plane_endpoint: str = ""
    kubernetes_version: str = ""
    """What kubeadm's stored ClusterConfiguration says; kubeadm upgrade apply writes it when the control plane is up."""
    network_digest: str = ""
    """Digest of the network manifest kops-py applied last; empty when it never did."""
    unhealthy: tuple[str, ...] = ()
    """What keeps the cluster from being healthy, one sentence each; empty when it is."""
    silent_watches: tuple[str, ...] = ()
    """Nodes whose API server runs since before etcd grew from one member to two (see runbooks/bootstrap)."""
    join_secrets: tuple[str, ...] = ()
    """Names of kops-py's bootstrap tokens and of uploaded certificates that are still there."""

    @property
    def has_all_of_init(self) -> bool:
        """Whether all that kubeadm init makes is there, up to its last phase, the add-ons."""
        return self.has_kubeadm_config and self.has_kube_proxy and self.has_dns


@dataclass(frozen=True, slots=True)
class Facts:
    """One snapshot of everything; ``kube`` is None while there is no API to ask, ``kube_problem`` says why."""

    hosts: Mapping[str, HostFacts]
    kube: KubeFacts | None = None
    kube_problem: KopsError | None = None
    etcd: tuple[EtcdMember, ...] = ()
    """Members as etcd tells them; empty when etcd was not asked, or did not answer."""
    etcd_holds_cluster: bool = False
    """Whether an external etcd of ours holds a cluster; asked only where no control plane has one."""
