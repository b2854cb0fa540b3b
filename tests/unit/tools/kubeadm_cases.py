"""Clusters whose kubeadm configuration is rendered in tests."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from ipaddress import ip_network
from typing import Any

from kops_py.model.spec import (
    ClusterSpec,
    CniType,
    Endpoint,
    HostSpec,
    KubernetesSpec,
    NetworkSpec,
    Taint,
)
from kops_py.model.version import Version
from kops_py.tools import kubeadm

TOKEN = "abcdef.0123456789abcdef"
KEY = "0123456789abcdef" * 4
CA_HASH = "sha256:" + "fedcba9876543210" * 4
VERSIONS = {"v1beta2": "v1.20.2", "v1beta3": "v1.28.4", "v1beta4": "v1.35.1"}


def host(name: str, address: str, *groups: str, **fields: Any) -> HostSpec:
    return HostSpec(
        name=name,
        address=address,
        port=22,
        user="ops",
        groups=frozenset(groups),
        node_ip=address,
        **fields,
    )


def cluster(
    *hosts: HostSpec, version: str = "v1.28.4", extra: Mapping[str, object] | None = None, **fields: Any
) -> ClusterSpec:
    spec = ClusterSpec(
        name="prod",
        kubernetes=KubernetesSpec(
            version=Version.parse(version),
            repository="https://packages.example/core:/stable:",
            repository_key=None,
            image_repository=None,
            images=None,
            extra_kubeadm=extra or {},
        ),
        network=NetworkSpec(
            pod_subnets=(ip_network("10.244.0.0/16"),),
            service_subnets=(ip_network("10.96.0.0/12"),),
            dns_domain="cluster.local",
            cni=CniType.BRIDGE,
        ),
        hosts=hosts,
        endpoint=Endpoint("api.prod.example", 6443),
        endpoint_external=True,
    )
    return replace(spec, **fields)


def single(version: str) -> ClusterSpec:
    node = host("n1", "10.0.0.1", "kube_control_plane", "kube_node", labels={"disk": "ssd"})
    return cluster(node, version=version, endpoint=Endpoint("10.0.0.1", 6443))


def stacked(version: str) -> ClusterSpec:
    worker = host(
        "w1",
        "10.0.0.11",
        "kube_node",
        labels={"node-role.kubernetes.io/worker": "", "topology.kubernetes.io/zone": "a", "disk": "ssd"},
        taints=(Taint("dedicated", "gpu", "NoSchedule"), Taint("draining", "", "NoExecute")),
    )
    return cluster(
        *(host(f"n{n}", f"10.0.0.{n}", "kube_control_plane") for n in (1, 2, 3)),
        worker,
        version=version,
        cert_sans=("api.public.example", "10.0.0.1"),
        extra={
            "apiServer": {"extraArgs": {"profiling": False, "v": 2}, "certSANs": ["more.example"]},
            "KubeletConfiguration": {"resolvConf": "/etc/resolv.pods"},
            "KubeProxyConfiguration": {"conntrack": {"maxPerCore": 0}},
        },
    )


def external(version: str) -> ClusterSpec:
    return cluster(
        host("n1", "10.0.0.1", "kube_control_plane"),
        *(host(f"e{n}", f"10.0.0.2{n}", "etcd") for n in (1, 2, 3)),
        version=version,
        external_etcd=True,
    )


def dual_stack(version: str) -> ClusterSpec:
    node = host("n1", "10.0.0.1", "kube_control_plane", variables={"ip6": "fd00:0::1"})
    network = NetworkSpec(
        pod_subnets=(ip_network("10.244.0.0/16"), ip_network("fd00:244::/56")),
        service_subnets=(ip_network("10.96.0.0/12"), ip_network("fd00:96::/112")),
        dns_domain="cluster.local",
        cni=CniType.MANIFEST,
    )
    return cluster(node, version=version, network=network)


def render_init(spec: ClusterSpec) -> str:
    return kubeadm.init_config(spec, spec.host("n1"), token=TOKEN, token_ttl_s=1800, certificate_key=KEY)


def render_join(name: str) -> Callable[[ClusterSpec], str]:
    def render(spec: ClusterSpec) -> str:
        return kubeadm.join_config(
            spec,
            spec.host(name),
            api_endpoint="10.0.0.1:6443",
            token=TOKEN,
            ca_cert_hash=CA_HASH,
            certificate_key=KEY,
        )

    return render


def render_upload(spec: ClusterSpec) -> str:
    return kubeadm.upload_certs_config(spec, spec.host("n1"), certificate_key=KEY)


CASES: dict[str, tuple[Callable[[str], ClusterSpec], Callable[[ClusterSpec], str]]] = {
    "single": (single, render_init),
    "stacked-init": (stacked, render_init),
    "stacked-join": (stacked, render_join("n2")),
    "stacked-upload": (stacked, render_upload),
    "worker": (stacked, render_join("w1")),
    "external": (external, render_init),
    "dual-stack": (dual_stack, render_init),
}
