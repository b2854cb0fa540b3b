"""A simulated cluster whose members are upgraded, come and go; as strict as the one it extends."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field

from kops_py.model.actions import (
    JOIN_JOB,
    UPGRADE_JOB,
    ConfigureBridge,
    CordonNode,
    DeleteNode,
    DrainNode,
    FinishNode,
    ForgetEtcdMember,
    InstallPackages,
    JoinNode,
    PrepareHost,
    ResetNode,
    StageUpgrade,
    UncordonNode,
    UpgradeWithKubeadm,
    WaitNode,
    WaitWorkloads,
)
from kops_py.model.cordon import CORDONED, UNFINISHED, Cordon
from kops_py.model.facts import Facts, HostFacts, JobState
from kops_py.model.membership import RemovalMark, quorum_problem
from kops_py.model.plan import Step
from kops_py.model.spec import ClusterSpec
from kops_py.model.status import EtcdMember
from kops_py.model.version import Version
from kops_py.runbooks.bootstrap import bootstrap
from tests.fakes.cluster import SimulatedCluster, arguments_for

COMPONENTS = ("kube-apiserver", "kube-controller-manager", "kube-scheduler")


@dataclass
class MembershipCluster(SimulatedCluster):
    """Knows versions of packages, manifests and kubelets, etcd's members, cordons, and what a reset takes away."""

    etcd: dict[str, bool] = field(default_factory=dict)
    """Member → whether it is healthy."""
    peer_urls: dict[str, str] = field(default_factory=dict)
    """Where a member is, if not at its host's address."""
    stored: str = ""
    drained: set[str] = field(default_factory=set)
    run: str = "20261120T101112Z-upgrade-1a2b"
    interrupted_resets: set[str] = field(default_factory=set)
    """Hosts whose next reset ends half-way."""

    @classmethod
    def built(cls, spec: ClusterSpec) -> MembershipCluster:
        """Return a cluster that bootstrap has just built."""
        cluster = cls(spec)
        for step in bootstrap(spec, cluster.facts(), arguments_for(spec)).plan.steps:
            cluster.perform(step)
        version = spec.kubernetes.version
        cluster.stored = str(version)
        for host in spec.nodes:
            cluster.nodes[host.name] = dataclasses.replace(cluster.nodes[host.name], version=str(version))
            cluster._packages(host.name, version, "kubeadm", "kubelet")
            if host.is_control_plane:
                cluster._images(host.name, version)
                cluster._host(host.name, has_etcd_data=True, has_admin_conf=True)
                cluster.etcd[host.name] = True
            cluster._host(host.name, ca_digest="ca-1")
        cluster.applied.clear()
        return cluster

    def at(self, spec: ClusterSpec) -> MembershipCluster:
        """Return the same cluster under another inventory; it shares no state with this one."""
        kept = {h.name for h in spec.hosts}
        return dataclasses.replace(
            self,
            spec=spec,
            hosts={n: h for n, h in self.hosts.items() if n in kept},
            nodes=dict(self.nodes),
            etcd=dict(self.etcd),
            secrets=set(self.secrets),
            drained=set(self.drained),
            interrupted_resets=set(self.interrupted_resets),
            applied=[],
        )

    def facts(self) -> Facts:
        found = super().facts()
        members = tuple(
            EtcdMember(
                name,
                _member_id(name),
                "",
                healthy,
                version="3.5.15" if healthy else "",
                is_leader=number == 0,
                peer_urls=(self.peer_urls.get(name, f"https://10.9.0.{name[1:]}:2380"),),
            )
            for number, (name, healthy) in enumerate(self.etcd.items())
        )
        if found.kube is None:
            return dataclasses.replace(found, etcd=members)
        servers = [
            Version.parse(h.static_images["kube-apiserver"][-7:]) for h in self.hosts.values() if h.static_images
        ]
        kube = dataclasses.replace(
            found.kube,
            kubernetes_version=self.stored,
            server_version=min(servers, default=self.spec.kubernetes.version),
            unhealthy=() if self.healthy else ("not yet healthy",),
        )
        return dataclasses.replace(found, kube=kube, etcd=members)

    def _packages(self, name: str, version: Version, *packages: str) -> None:
        self._host(name, packages={**self.hosts[name].packages, **dict.fromkeys(packages, f"{version.bare}-00")})

    def _images(self, name: str, version: Version) -> None:
        self._host(name, static_images={c: f"example.invalid/{c}:{version}" for c in COMPONENTS})

    def _node(self, name: str, **changes: object) -> None:
        self.nodes[name] = dataclasses.replace(self.nodes[name], **changes)  # type: ignore[arg-type]

    def perform(self, step: Step) -> None:
        match step.action:
            case StageUpgrade(host=host, digest=digest):
                self._host(host, staged_digest=digest)
            case InstallPackages(node=node, packages=packages, version=text):
                self._install(node, packages, Version.parse(text))
            case UpgradeWithKubeadm(node=node, version=text, apply=apply, control_plane=control_plane):
                self._upgrade(node, Version.parse(text), apply=apply, control_plane=control_plane)
            case CordonNode(node=node):
                mark = {CORDONED: Cordon("sim", self.run, "").to_annotation()}
                self._node(node, unschedulable=True, annotations={**self.nodes[node].annotations, **mark})
            case DrainNode(node=node):
                self._require(self.nodes[node].unschedulable, "drain of a node that takes pods", node)
                self._require(self.nodes[node].ready, "its kubelet ends no pods", node)
                self.drained.add(node)
            case UncordonNode(node=node, unfinished=unfinished):
                mark = {UNFINISHED: Cordon("sim", self.run, "").to_annotation()} if unfinished else {}
                self._node(node, unschedulable=False, annotations=mark)
                self.drained.discard(node)
            case FinishNode(node=node):
                self._node(node, annotations={})
            case WaitNode(node=node, version=text):
                self._require(self.nodes[node].version == text, f"is not at {text}", node)
            case WaitWorkloads():
                pass
            case ForgetEtcdMember(node=node, stale=stale):
                if stale:
                    self._require(not self.hosts[node].has_etcd_data, "its host holds data of etcd", node)
                    node = next(name for name in self.etcd if f"{_member_id(name):x}" == stale)
                    self._require(not self.etcd[node], "a member that answers is not stale", node)
                problem = quorum_problem(self.facts().etcd, node)
                self._require(not problem, problem, node)
                self.etcd.pop(node, None)
            case ResetNode(node=node, reason=reason):
                self._reset(node, reason)
            case DeleteNode(node=node, lost=lost):
                self._require(not (lost and self.nodes[node].ready), "it is not lost", node)
                self._require(node not in self.etcd, "it is a member of etcd still", node)
                del self.nodes[node]
            case JoinNode(node=node, version=text):
                self._join(step, node, Version.parse(text))
                return
            case PrepareHost(host=host, version=text):
                super().perform(step)
                self._packages(host, Version.parse(text), "kubeadm", "kubelet")
                return
            case ConfigureBridge(node=node):
                self._require(node in self.nodes, "not a node", node)
                super().perform(step)
                return
            case _:
                super().perform(step)
                return
        self.applied.append(step.id)

    def _install(self, node: str, packages: tuple[str, ...], version: Version) -> None:
        if "kubeadm" in packages:
            self._host(node, jobs={k: v for k, v in self.hosts[node].jobs.items() if k != UPGRADE_JOB})
        self._packages(node, version, *packages)
        if "kubelet" in packages:
            self._require(node in self.drained, "a kubelet is changed on a node that was not drained", node)
            self._node(node, version=str(version))

    def _upgrade(self, node: str, version: Version, *, apply: bool, control_plane: bool) -> None:
        self._require(self.hosts[node].packages["kubeadm"].startswith(version.bare), "kubeadm is another", node)
        if apply:
            # kubeadm lets kube-proxy of the new version run on every node at once
            lacking = [
                n for n in self.nodes if n in self.hosts and self.hosts[n].staged_digest != f"stage-{version}-{n}"
            ]
            self._require(not lacking, f"no image of kube-proxy {version} on {lacking}")
            self.stored = str(version)
        self._require(self.stored == str(version), "upgrade node before apply", node)
        if control_plane:
            self._images(node, version)
        self._host(node, jobs={**self.hosts[node].jobs, UPGRADE_JOB: JobState.SUCCEEDED})

    def _join(self, step: Step, node: str, version: Version) -> None:
        facts = self.facts()
        assert facts.kube is not None
        servers = [
            h.static_images["kube-apiserver"] for n, h in self.hosts.items() if n in self.nodes and h.static_images
        ]
        self._require(all(image.endswith(str(version)) for image in servers), "control planes are at another version")
        self._require(self.hosts[node].packages["kubelet"].startswith(version.bare), "kubelet is another", node)
        host = self.spec.host(node)
        sick = [name for name, healthy in self.etcd.items() if not healthy]
        self._require(not (host.is_control_plane and sick), f"kubeadm's check of etcd: {sick} do not answer", node)
        super().perform(step)
        self._node(node, version=str(version))
        self._host(node, removal=None, ca_digest="ca-1", jobs={JOIN_JOB: JobState.SUCCEEDED})
        if host.is_control_plane:
            self._images(node, version)
            self._host(node, has_etcd_data=True, has_admin_conf=True)
            self.etcd[node] = True

    def _reset(self, node: str, reason: str) -> None:
        self._require(node not in self.etcd, "a member of etcd is reset", node)
        if node in self.nodes:
            self._require(node in self.drained or not self.nodes[node].ready, "is reset before it is drained", node)
            self._node(node, ready=False, reason="kubelet stopped")
        mark = RemovalMark(self.spec.name, self.run, reason, "2026-11-20T10:11:12Z")
        if node in self.interrupted_resets:
            self.interrupted_resets.discard(node)
            self._host(node, removal=mark)
            return
        old = self.hosts[node]
        self.hosts[node] = HostFacts(
            name=node,
            sudo=True,
            packages=old.packages,
            prepared_digest=old.prepared_digest,
            removal=dataclasses.replace(mark, done=True),
        )


def _member_id(name: str) -> int:
    """Return an id that stays the same while other members come and go."""
    return int.from_bytes(name.encode())


def stage_digests(spec: ClusterSpec, hops: tuple[Version, ...]) -> Mapping[str, Mapping[str, str]]:
    """Return digests as the composition root would compute them."""
    return {str(v): {h.name: f"stage-{v}-{h.name}" for h in spec.nodes} for v in hops}
