"""A simulated cluster: facts out, steps in; strict about order and about steps it does not know.

It knows the few rules that make order matter (a join needs an API and a prepared host, a bridge needs pod
CIDRs) and refuses a step whose ground is missing, as the real thing would.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_network
from pathlib import Path
from types import MappingProxyType

from kops_py.engine.run import StepContext
from kops_py.model.actions import (
    INIT_JOB,
    JOIN_JOB,
    AddEtcdMember,
    ApplyNetwork,
    ConfigureBridge,
    ConfigureEtcd,
    ConfigureLoadBalancer,
    InitControlPlane,
    IssueEtcdCertificates,
    JoinNode,
    LabelNode,
    PlaceEtcdClient,
    PrepareHost,
    RestartApiServer,
    RevokeJoinSecrets,
    WaitEtcd,
    WaitHealthy,
)
from kops_py.model.errors import CommandFailedError, KopsError
from kops_py.model.facts import Facts, HostFacts, JobState, KubeFacts, NodeFacts
from kops_py.model.plan import Step
from kops_py.model.spec import ClusterSpec, CniType, Endpoint, HostSpec, KubernetesSpec, NetworkSpec, Taint
from kops_py.model.status import EtcdMember
from kops_py.model.version import Version
from kops_py.runbooks.bootstrap import BootstrapArguments
from kops_py.runbooks.external_etcd import EtcdArguments

VERSION = Version(1, 31, 2)


def make_spec(
    control_planes: int = 1,
    workers: int = 0,
    load_balancers: int = 0,
    *,
    etcd: int = 0,
    cni: CniType = CniType.BRIDGE,
    labels: bool = False,
    version: Version = VERSION,
) -> ClusterSpec:
    """Return a spec with hosts n1.. in the order control planes, workers, load balancers."""
    hosts: list[HostSpec] = []

    def add(count: int, *groups: str) -> None:
        for _ in range(count):
            number = len(hosts) + 1
            address = f"10.9.0.{number}"
            extra = {"disk": "ssd"} if labels and "kube_node" in groups else {}
            taints = (Taint("gpu", "", "NoSchedule"),) if extra else None
            hosts.append(
                HostSpec(
                    name=f"n{number}",
                    address=address,
                    port=22,
                    user="ops",
                    groups=frozenset(groups),
                    node_ip=address,
                    labels=MappingProxyType(extra),
                    taints=taints,
                )
            )

    add(control_planes, "kube_control_plane", *(() if etcd else ("etcd",)))
    add(workers, "kube_node")
    add(load_balancers, "load_balancer")
    add(etcd, "etcd")
    return ClusterSpec(
        name="sim",
        kubernetes=KubernetesSpec(version, "https://example.invalid", None, None, None),
        network=NetworkSpec((ip_network("10.244.0.0/16"),), (ip_network("10.96.0.0/12"),), "cluster.local", cni, None),
        hosts=tuple(hosts),
        endpoint=Endpoint("api.example.invalid", 6443),
        endpoint_external=False,
        external_etcd=etcd > 0,
        inventory_path=Path("hosts.yaml"),
        cluster_path=Path("cluster.yaml"),
    )


def arguments_for(spec: ClusterSpec) -> BootstrapArguments:
    """Return digests as the composition root would compute them."""
    return BootstrapArguments(
        prepare_digests={h.name: f"prep-{h.name}" for h in spec.hosts},
        load_balancer_digests={h.name: f"lb-{h.name}" for h in spec.hosts},
        network_digest="net-1",
        etcd=EtcdArguments(
            settings={h.name: f"etcd-{h.name}" for h in spec.etcd_hosts},
            certificates={h.name: f"pki-{h.name}" for h in spec.etcd_hosts},
        ),
    )


@dataclass
class SimulatedCluster:
    """The state of a cluster that steps change and facts show; it is its own Performer."""

    spec: ClusterSpec
    hosts: dict[str, HostFacts] = field(default_factory=dict)
    nodes: dict[str, NodeFacts] = field(default_factory=dict)
    initialised: bool = False
    network_digest: str = ""
    healthy: bool = False
    silent_watches: tuple[str, ...] = ()
    secrets: set[str] = field(default_factory=set)
    applied: list[str] = field(default_factory=list)
    external_members: dict[str, EtcdMember] = field(default_factory=dict)
    """Members of an external etcd by host."""

    def __post_init__(self) -> None:
        for host in self.spec.hosts:
            self.hosts.setdefault(host.name, HostFacts(name=host.name, sudo=True))

    def facts(self) -> Facts:
        """Return a snapshot, as an observation would."""
        kube = None
        if self.initialised:
            kube = KubeFacts(
                server_version=self.spec.kubernetes.version,
                nodes=dict(self.nodes),
                has_kubeadm_config=True,
                has_kube_proxy=True,
                has_dns=True,
                network_digest=self.network_digest,
                unhealthy=() if self.healthy else ("not yet healthy",),
                silent_watches=self.silent_watches,
                join_secrets=tuple(sorted(self.secrets)),
            )
        return Facts(hosts=dict(self.hosts), kube=kube, etcd=tuple(self.external_members.values()))

    def _host(self, name: str, **changes: object) -> None:
        self.hosts[name] = dataclasses.replace(self.hosts[name], **changes)  # type: ignore[arg-type]

    def _require(self, condition: bool, what: str, node: str = "") -> None:
        if not condition:
            raise CommandFailedError(f"the simulated cluster refuses: {what}", where=node)

    def _is_left(self, name: str) -> bool:
        """Whether a Node is there of which its machine knows nothing any more: kubeadm joins beside it."""
        return name in self.nodes and not self.nodes[name].ready and not self.hosts[name].has_kubelet_conf

    def _add_node(self, name: str, *, control_plane: bool) -> None:
        label = {"node-role.kubernetes.io/control-plane": ""} if control_plane else {}
        number = len(self.nodes)
        self.nodes[name] = NodeFacts(
            name=name,
            ready=False,
            reason="",
            version=str(VERSION),
            internal_ip=self.spec.host(name).node_ip,
            pod_cidr=f"10.244.{number}.0/24",
            labels=label,
        )
        pods = {"kube-apiserver.yaml"} if self.spec.external_etcd else {"kube-apiserver.yaml", "etcd.yaml"}
        manifests = frozenset(pods) if control_plane else frozenset()
        job = JOIN_JOB if self.initialised else INIT_JOB
        self._host(name, has_kubelet_conf=True, manifests=manifests, jobs={job: JobState.SUCCEEDED})
        self.healthy = False

    def _start_member(self, host: str, digest: str) -> None:
        url = f"https://{self.spec.host(host).node_ip}:2379"
        self.external_members[host] = dataclasses.replace(self.external_members[host], endpoint=url, healthy=False)
        self._host(host, etcd_digest=digest, has_etcd_data=True, services=frozenset({"etcd.service"}))

    def perform(self, step: Step) -> None:
        """Carry out one step; raises KopsError when its ground is missing, TypeError when it is unknown."""
        match step.action:
            case ConfigureLoadBalancer(host=host, digest=digest):
                self._host(host, load_balancer_digest=digest)
            case IssueEtcdCertificates(host=host, digest=digest):
                self._host(host, etcd_pki_digest=digest, etcd_ca="ca")
            case ConfigureEtcd(host=host, digest=digest):
                self._require(bool(self.hosts[host].etcd_pki_digest), "no certificates", host)
                if not self.external_members:
                    self.external_members = {
                        h.name: EtcdMember(h.member_name, n, "", False) for n, h in enumerate(self.spec.etcd_hosts, 1)
                    }
                self._require(host in self.external_members, "the running etcd does not know this member", host)
                self._start_member(host, digest)
            case AddEtcdMember(host=host, digest=digest):
                self._require(bool(self.hosts[host].etcd_pki_digest), "no certificates", host)
                self._require(not self.hosts[host].has_etcd_data, "it holds data", host)
                others = [m for n, m in self.external_members.items() if n != host]
                self._require(sum(m.healthy for m in others) > len(self.external_members) // 2, "no majority", host)
                self.external_members[host] = EtcdMember(self.spec.host(host).member_name, 9, "", False)
                self._start_member(host, digest)
            case WaitEtcd(hosts=hosts):
                self._require(all(self.hosts[h].has_etcd_data for h in hosts), "a member does not run")
                self.external_members = {
                    n: dataclasses.replace(m, healthy=m.endpoint != "") for n, m in self.external_members.items()
                }
            case PlaceEtcdClient(node=node):
                self._require(any(f.etcd_ca for f in self.hosts.values()), "no authority", node)
                self._host(node, etcd_client_ca="ca", etcd_client_cert="client")
            case PrepareHost(host=host, digest=digest):
                self._require(
                    host not in self.nodes or self._is_left(host), "a member must not be prepared again", host
                )
                self._host(host, prepared_digest=digest)
            case InitControlPlane(node=node):
                self._require(not self.initialised, "init on a running cluster", node)
                self._require(bool(self.hosts[node].prepared_digest), "host is not prepared", node)
                if self.spec.external_etcd:
                    healthy = sum(m.healthy for m in self.external_members.values())
                    self._require(healthy > len(self.spec.etcd_hosts) // 2, "etcd does not serve", node)
                    self._require(bool(self.hosts[node].etcd_client_ca), "no certificate for etcd", node)
                self._add_node(node, control_plane=True)
                self.initialised = True
                self.secrets.add("bootstrap-token-init00")
            case ApplyNetwork(digest=digest):
                self._require(self.initialised, "no API")
                self.network_digest = digest
            case JoinNode(node=node, control_plane=control_plane):
                self._require(self.initialised, "no API", node)
                self._require(node not in self.nodes or self._is_left(node), "is a member already", node)
                self._require(bool(self.hosts[node].prepared_digest), "host is not prepared", node)
                members = [n.name for n in self.nodes.values() if n.is_control_plane and n.name != node]
                self._add_node(node, control_plane=control_plane)
                if control_plane and self.spec.external_etcd:
                    self._require(bool(self.hosts[node].etcd_client_ca), "no certificate for etcd", node)
                elif control_plane and len(members) == 1:
                    self.silent_watches = tuple(members)
                self.secrets.add("bootstrap-token-join00")
            case RestartApiServer(node=node):
                self._require(node in self.silent_watches, "nothing is wrong with this API server", node)
                self.silent_watches = ()
            case ConfigureBridge(node=node):
                peers = {f"{n.name}={n.pod_cidr}@{n.internal_ip}" for n in self.nodes.values()}
                self._require(node in self.nodes, "not a node", node)
                self._host(node, bridge_peers=frozenset(peers))
            case LabelNode(node=node, labels=labels, taints=taints):
                old = self.nodes[node]
                self.nodes[node] = dataclasses.replace(
                    old, labels={**old.labels, **labels}, taints=old.taints | set(taints)
                )
            case WaitHealthy():
                self.healthy = True
                for name, node_facts in self.nodes.items():
                    self.nodes[name] = dataclasses.replace(node_facts, ready=True)
            case RevokeJoinSecrets():
                self.secrets.clear()
            case _:
                raise TypeError(f"the simulated cluster does not know {step.action!r}")
        self.applied.append(step.id)

    # Performer, so that the real engine can drive it

    def check(self, ctx: StepContext) -> str | None:
        """Nothing is ever true by itself here."""
        return None

    def apply(self, ctx: StepContext) -> None:
        """Perform the step."""
        self.perform(ctx.step)

    def apply_together(self, contexts: Sequence[StepContext]) -> Mapping[str, KopsError | None]:
        """Perform all steps."""
        results: dict[str, KopsError | None] = {}
        for ctx in contexts:
            try:
                self.apply(ctx)
                results[ctx.step.id] = None
            except KopsError as error:
                results[ctx.step.id] = error
        return results

    def verify(self, ctx: StepContext) -> None:
        """Performing is proof enough here."""
