"""A healthy cluster to be, from which each test changes one thing."""

from __future__ import annotations

import dataclasses
from ipaddress import ip_network
from types import MappingProxyType
from typing import Any

from kops_py.model.facts import DiskFacts, Facts, HostFacts, JobState, KubeFacts, NodeFacts
from kops_py.model.finding import Finding
from kops_py.model.preflight import FsyncProbe, PortProbe, ProbeResults, Reach, UrlProbe, UrlUse
from kops_py.model.spec import (
    ClusterSpec,
    CniType,
    Endpoint,
    Group,
    HostSpec,
    KubernetesSpec,
    NetworkSpec,
)
from kops_py.model.version import Version
from kops_py.observe.host_script import DISK_PATHS
from kops_py.runbooks.preflight import preflight

GIB = 1024**3


def host_spec(name: str, index: int, *groups: Group) -> HostSpec:
    address = f"10.0.0.{10 + index}"
    return HostSpec(name, address, 22, "ops", frozenset(groups), address)


def make_spec(control_planes: int = 1, workers: int = 2, balancers: int = 0, **changes: Any) -> ClusterSpec:
    kinds = [Group.CONTROL_PLANE] * control_planes + [Group.NODE] * workers + [Group.LOAD_BALANCER] * balancers
    hosts = tuple(host_spec(f"n{i + 1}", i + 1, kind) for i, kind in enumerate(kinds))
    spec = ClusterSpec(
        name="prod",
        kubernetes=KubernetesSpec(Version.parse("v1.31.2"), "https://pkgs.k8s.io/core:/stable:", None, None, None),
        network=NetworkSpec(
            (ip_network("10.244.0.0/16"),), (ip_network("10.96.0.0/12"),), "cluster.local", CniType.NONE
        ),
        hosts=hosts,
        endpoint=Endpoint("api.example.org", 6443),
        endpoint_external=False,
    )
    return dataclasses.replace(spec, **changes)


def healthy(name: str, index: int) -> HostFacts:
    return HostFacts(
        name=name,
        sudo=True,
        os_id="debian",
        os_version="12",
        os_name="Debian GNU/Linux 12 (bookworm)",
        architecture="x86_64",
        kernel="6.1.0-28-amd64",
        boot_id=f"boot-{index}",
        python="3.11.2",
        python_path="/usr/bin/python3",
        cpus=4,
        memory_bytes=8 * GIB,
        disks=MappingProxyType({p: DiskFacts(p, 100 * GIB, 80 * GIB, "/") for p in DISK_PATHS}),
        hostname=name,
        machine_id=f"{index:032x}",
        product_uuid=f"4c4c4544-0042-3510-8053-b{index:011x}",
        macs=frozenset({f"02:00:00:00:00:{index:02x}"}),
        addresses=frozenset({f"10.0.0.{10 + index}/24"}),
        routes=frozenset({"10.0.0.0/24"}),
        clock_uncertainty_s=0.05,
        listening=MappingProxyType({22: "sshd"}),
        cgroup_version=2,
        features=frozenset({"overlay", "br_netfilter", "nf_conntrack", "nf_tables"}),
        resolves_endpoint=frozenset({"10.0.0.11"}),
        resolves_hostname=frozenset({"127.0.1.1"}),
        services=frozenset({"chrony.service"}),
    )


def make_facts(spec: ClusterSpec, **changes: dict[str, Any]) -> Facts:
    """Return healthy hosts; a keyword names a host and the fields to change, ``every`` changes all."""
    hosts = {}
    for index, host in enumerate(spec.hosts, start=1):
        fields = {**changes.get("every", {}), **changes.get(host.name, {})}
        hosts[host.name] = dataclasses.replace(healthy(host.name, index), **fields)
    return Facts(hosts)


def make_kube(*names: str, version: str = "v1.31.2", kubelet: str = "v1.31.2") -> KubeFacts:
    nodes = {n: NodeFacts(n, ready=True, reason="", version=kubelet, internal_ip="") for n in names}
    return KubeFacts(Version.parse(version), nodes, True, True, True)


def good_probes(spec: ClusterSpec) -> ProbeResults:
    urls = tuple(UrlProbe(h.name, UrlUse.REPOSITORY, "u", "https://u", 200) for h in spec.hosts)
    ports = tuple(PortProbe("n1", h.name, h.node_ip, 10250, Reach.OPEN) for h in spec.hosts[1:])
    return ProbeResults(ports, urls, (FsyncProbe("n1", "/var/lib", 100, 0.5, 2.0),))


MEMBER: dict[str, Any] = {
    "has_kubelet_conf": True,
    "jobs": MappingProxyType({"kubeadm-join": JobState.SUCCEEDED}),
    "leftovers": frozenset({"/etc/kubernetes/kubelet.conf", "/var/lib/kubelet/config.yaml"}),
    "listening": MappingProxyType({22: "sshd", 10250: "kubelet"}),
}


def find(
    spec: ClusterSpec, facts: Facts, probes: ProbeResults | None = None, ignore: frozenset[str] = frozenset()
) -> tuple[Finding, ...]:
    return preflight(spec, facts, probes, ignore=ignore)
