from __future__ import annotations

import json
from dataclasses import replace
from ipaddress import ip_network
from types import MappingProxyType

import pytest

from kops_py.model.spec import (
    ClusterSpec,
    CniType,
    ContainerdSource,
    ContainerdSpec,
    Endpoint,
    HostSpec,
    KubernetesSpec,
    NetworkSpec,
)
from kops_py.model.version import Version
from kops_py.tools.preparation import (
    load_balancer_digest,
    load_balancer_variables,
    prepare_digest,
    prepare_host_variables,
    prepare_variables,
)


def host(name: str, *groups: str, **variables: object) -> HostSpec:
    address = f"192.0.2.{sum(name.encode()) % 250 + 1}"
    return HostSpec(
        name=name,
        address=address,
        port=22,
        user="ops",
        groups=frozenset(groups),
        node_ip=address,
        variables=MappingProxyType(variables),
    )


CP1, CP2 = host("cp1", "kube_control_plane", "etcd"), host("cp2", "kube_control_plane", "etcd")
W1, LB = host("w1", "kube_node"), host("lb", "load_balancer")


@pytest.fixture
def spec() -> ClusterSpec:
    return ClusterSpec(
        name="c",
        kubernetes=KubernetesSpec(Version.parse("v1.31.2"), "https://packages.test/k8s", None, None, None),
        network=NetworkSpec((ip_network("10.244.0.0/16"),), (ip_network("10.96.0.0/12"),), "d", CniType.NONE),
        hosts=(CP1, CP2, W1, LB),
        endpoint=Endpoint("lb.test", 6443),
        endpoint_external=False,
    )


def test_variables_are_plain_json_with_the_defaults_of_the_roles(spec: ClusterSpec) -> None:
    assert json.loads(json.dumps(prepare_variables(spec))) == {
        "kops_kubernetes_version": "1.31.2",
        "kops_kubernetes_minor": "v1.31",
        "kops_kubernetes_repository": "https://packages.test/k8s",
        "kops_kubernetes_repository_key": "",
        "kops_kubernetes_package_revision": "*",
        "kops_containerd_source": "distribution",
        "kops_containerd_version": "",
        "kops_containerd_sandbox_image": "registry.k8s.io/pause:3.10",
        "kops_containerd_mirrors": {},
        "kops_images": "",
        "kops_ipv6": False,
    }


def test_every_setting_of_the_cluster_file_arrives(spec: ClusterSpec) -> None:
    variables = prepare_variables(
        replace(
            spec,
            kubernetes=KubernetesSpec(
                Version.parse("v1.20.2"),
                "http://mirror.test",
                "/keys/k8s.asc",
                "registry.test/k8s",
                "/images",
                "1.1",
            ),
            containerd=ContainerdSpec(
                ContainerdSource.DOCKER, "1.7.24", MappingProxyType({"docker.io": ("https://mirror.test",)})
            ),
            network=replace(spec.network, service_subnets=(ip_network("fd00::/108"), ip_network("10.96.0.0/12"))),
        )
    )
    assert variables["kops_kubernetes_repository_key"] == "/keys/k8s.asc"
    assert variables["kops_kubernetes_package_revision"] == "1.1"
    assert variables["kops_containerd_sandbox_image"] == "registry.test/k8s/pause:3.2"
    assert variables["kops_containerd_source"] == "docker"
    assert variables["kops_containerd_version"] == "1.7.24"
    assert variables["kops_containerd_mirrors"] == {"docker.io": ["https://mirror.test"]}
    assert variables["kops_images"] == "/images"
    assert variables["kops_ipv6"] is True


def test_host_variables_tell_a_control_plane(spec: ClusterSpec) -> None:
    assert prepare_host_variables(spec, CP1) == {"kops_control_plane": True}
    assert prepare_host_variables(spec, W1) == {"kops_control_plane": False}


def test_digest_does_not_change_with_other_hosts_or_order(spec: ClusterSpec) -> None:
    digest = prepare_digest(spec, W1, "f")
    assert prepare_digest(replace(spec, hosts=(LB, W1, CP2)), W1, "f") == digest
    mirrors = {"a.test": ("https://1.test",), "b.test": ("https://2.test",)}
    both = [
        replace(spec, containerd=ContainerdSpec(mirrors=MappingProxyType(dict(items))))
        for items in (list(mirrors.items()), list(mirrors.items())[::-1])
    ]
    assert prepare_digest(both[0], W1, "f") == prepare_digest(both[1], W1, "f") != digest


def test_digest_changes_with_what_matters(spec: ClusterSpec) -> None:
    kubernetes = spec.kubernetes
    others = [
        (spec, W1, "g"),
        (spec, host("w1", "kube_control_plane"), "f"),
        (spec, host("w1", "kube_node", kops_swap_off=False), "f"),
        (replace(spec, kubernetes=replace(kubernetes, version=Version.parse("v1.31.3"))), W1, "f"),
        (replace(spec, kubernetes=replace(kubernetes, repository_key="/k")), W1, "f"),
        (
            replace(spec, containerd=ContainerdSpec(mirrors=MappingProxyType({"a": ("https://2", "https://1")}))),
            W1,
            "f",
        ),
        (
            replace(spec, containerd=ContainerdSpec(mirrors=MappingProxyType({"a": ("https://1", "https://2")}))),
            W1,
            "f",
        ),
    ]
    digests = {prepare_digest(*other) for other in [(spec, W1, "f"), *others]}
    assert len(digests) == len(others) + 1


def test_digest_does_not_hold_what_is_not_ours(spec: ClusterSpec) -> None:
    assert prepare_digest(spec, host("w1", "kube_node", ansible_password="x"), "f") == prepare_digest(spec, W1, "f")


def test_load_balancer_knows_the_control_planes_in_one_order(spec: ClusterSpec) -> None:
    assert load_balancer_variables(spec) == {
        "kops_haproxy_port": 6443,
        "kops_haproxy_backends": [
            {"name": "cp1", "address": CP1.node_ip},
            {"name": "cp2", "address": CP2.node_ip},
        ],
        "kops_haproxy_backend_port": 6443,
    }
    digest = load_balancer_digest(spec, LB, "f")
    assert load_balancer_digest(replace(spec, hosts=(LB, CP2, CP1)), LB, "f") == digest
    assert load_balancer_digest(replace(spec, hosts=(LB, CP1)), LB, "f") != digest
    assert load_balancer_digest(replace(spec, endpoint=Endpoint("lb.test", 8443)), LB, "f") != digest
    assert load_balancer_digest(spec, LB, "g") != digest
