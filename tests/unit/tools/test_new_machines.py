"""What of a bundle goes to new machines, and what it says of the old cluster."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType

import pytest
import yaml

from kops_py.model.spec import ClusterSpec
from kops_py.model.version import Version
from kops_py.tools import new_machines as tool
from kops_py.tools.kubeadm import images_config
from tests.fakes.cluster import make_spec

PKI = tool.PKI
LEAVES = (
    "apiserver.crt",
    "apiserver.key",
    "apiserver-etcd-client.crt",
    "apiserver-etcd-client.key",
    "apiserver-kubelet-client.crt",
    "apiserver-kubelet-client.key",
    "front-proxy-client.crt",
    "front-proxy-client.key",
    "etcd/server.crt",
    "etcd/server.key",
    "etcd/peer.crt",
    "etcd/peer.key",
    "etcd/healthcheck-client.crt",
    "etcd/healthcheck-client.key",
)
SERVER_FLAGS = (
    "advertise-address=10.0.0.1",
    f"client-ca-file={PKI}/ca.crt",
    f"etcd-cafile={PKI}/etcd/ca.crt",
    f"etcd-certfile={PKI}/apiserver-etcd-client.crt",
    "etcd-servers=https://127.0.0.1:2379",
    f"proxy-client-key-file={PKI}/front-proxy-client.key",
    f"service-account-key-file={PKI}/sa.pub",
    f"service-account-signing-key-file={PKI}/sa.key",
    "service-account-issuer=https://kubernetes.default.svc.cluster.local",
    "service-cluster-ip-range=10.96.0.0/12",
    f"tls-cert-file={PKI}/apiserver.crt",
    "encryption-provider-config=/etc/enc/config.yaml",
    "audit-policy-file=/etc/kubernetes/audit/policy.yaml",
    "audit-log-path=/var/log/kubernetes/audit.log",
    f"oidc-ca-file={PKI}/oidc.crt",
    "tls-private-key-file=/etc/ssl/private/host.key",
)
SERVER_VOLUMES = {
    "/etc/enc": "/srv/secrets",
    PKI: PKI,
    "/etc/kubernetes/audit": "/etc/kubernetes/audit",
    "/etc/ssl/private": "/etc/ssl/private",
    "/var/log/kubernetes": "/var/log/kubernetes",
}
MANAGER_FLAGS = (
    "kubeconfig=/etc/kubernetes/controller-manager.conf",
    f"cluster-signing-key-file={PKI}/ca.key",
    "cluster-cidr=10.244.0.0/16",
)
SCHEDULER_FLAGS = ("kubeconfig=/etc/kubernetes/scheduler.conf", "config=/etc/kubernetes/sched.yaml")


def manifest(name: str, flags: tuple[str, ...], volumes: Mapping[str, str]) -> bytes:
    mounts = [{"name": f"v{i}", "mountPath": path} for i, path in enumerate(volumes)]
    sources = [{"name": f"v{i}", "hostPath": {"path": path}} for i, path in enumerate(volumes.values())]
    container = {"name": name, "command": [name, *(f"--{flag}" for flag in flags)], "volumeMounts": mounts}
    return yaml.safe_dump({"spec": {"containers": [container], "volumes": sources}}).encode()


def bundle() -> dict[str, bytes]:
    """Return the files of a control plane, as a bundle holds them."""
    conf = {"clusters": [{"name": "k", "cluster": {"server": "https://10.0.0.1:6443"}}]}
    return {
        **{path: f"content of {path}".encode() for path in (*tool.AUTHORITIES, *tool.OF_ETCD)},
        **{f"{PKI}/{name}": b"of a host that is gone" for name in LEAVES},
        f"{PKI}/oidc.crt": b"oidc",
        "/srv/secrets/config.yaml": b"the key of the encryption",
        "/srv/secrets/beside.yaml": b"beside it",
        "/etc/kubernetes/audit/policy.yaml": b"policy",
        "/etc/kubernetes/sched.yaml": b"sched",
        "/etc/kubernetes/scheduler.conf": b"old address",
        "/etc/kubernetes/controller-manager.conf": b"old address",
        "/etc/kubernetes/kubelet.conf": b"old name",
        "/etc/kubernetes/admin.conf": yaml.safe_dump(conf).encode(),
        "/etc/containerd/config.toml": b"",
        "/var/lib/kubelet/config.yaml": b"",
        f"{tool.MANIFESTS}/kube-apiserver.yaml": manifest("kube-apiserver", SERVER_FLAGS, SERVER_VOLUMES),
        f"{tool.MANIFESTS}/kube-controller-manager.yaml": manifest("kube-controller-manager", MANAGER_FLAGS, {}),
        f"{tool.MANIFESTS}/kube-scheduler.yaml": manifest("kube-scheduler", SCHEDULER_FLAGS, {}),
    }


def test_authorities_and_what_flags_name_are_taken_and_nothing_that_names_a_host() -> None:
    found = tool.describe(bundle())
    assert found.pki == (*tool.AUTHORITIES, *tool.OF_ETCD)
    assert found.files == (
        "/etc/kubernetes/audit/policy.yaml",
        f"{PKI}/oidc.crt",
        "/etc/kubernetes/sched.yaml",
        "/srv/secrets/beside.yaml",
        "/srv/secrets/config.yaml",
    )
    taken = {*found.pki, *found.files}
    assert not taken & {f"{PKI}/{name}" for name in LEAVES}
    assert not [path for path in taken if path.endswith(".conf") or path.startswith(tool.MANIFESTS)]
    assert found.missing == ()
    assert found.absent == ()


def test_what_the_files_say_of_the_cluster() -> None:
    found = tool.describe(bundle())
    assert (found.endpoint, found.service_subnets, found.pod_subnets, found.dns_domain) == (
        "10.0.0.1:6443",
        "10.96.0.0/12",
        "10.244.0.0/16",
        "cluster.local",
    )
    assert found.flags == (
        ("encryption-provider-config", "/etc/enc/config.yaml"),
        ("audit-policy-file", "/etc/kubernetes/audit/policy.yaml"),
        ("oidc-ca-file", f"{PKI}/oidc.crt"),
    )


@pytest.mark.parametrize("path", tool.AUTHORITIES)
def test_an_authority_that_is_not_there_is_missing(path: str) -> None:
    files = bundle()
    del files[path]
    assert tool.describe(files).missing == (path,)
    assert path not in tool.describe(files).pki


@pytest.mark.parametrize("path", tool.OF_ETCD)
def test_the_authority_of_etcd_is_taken_whole_or_made_anew(path: str) -> None:
    files = bundle()
    assert set(tool.OF_ETCD) <= set(tool.describe(files).pki)
    assert not set(tool.OF_ETCD) & set(tool.describe(files, external=True).pki)
    del files[path]
    assert tool.describe(files).missing == ()
    assert not set(tool.OF_ETCD) & set(tool.describe(files).pki)


def test_a_file_that_a_flag_names_and_the_bundle_lacks_is_told() -> None:
    files = bundle()
    for path in ("/srv/secrets/config.yaml", "/srv/secrets/beside.yaml", f"{PKI}/oidc.crt"):
        del files[path]
    assert tool.describe(files).absent == ("/srv/secrets", f"{PKI}/oidc.crt")


@pytest.mark.parametrize("text", [b"", b"\xff\xfe", b"[1, 2", b"- 1", b"spec: 3", b"clusters: []"])
def test_files_that_cannot_be_read_tell_nothing(text: bytes) -> None:
    names = ("kube-apiserver", "kube-controller-manager", "kube-scheduler")
    files = bundle() | {f"{tool.MANIFESTS}/{n}.yaml": text for n in names} | {tool.ADMIN_CONF: text}
    found = tool.describe(files)
    assert (found.files, found.flags, found.endpoint, found.service_subnets) == ((), (), "", "")
    assert found.pki == (*tool.AUTHORITIES, *tool.OF_ETCD)


def test_a_volume_as_broad_as_a_disk_is_not_taken_as_a_whole() -> None:
    flags = ("encryption-provider-config=/host/etc/kubernetes/enc.yaml",)
    files = bundle() | {
        f"{tool.MANIFESTS}/kube-apiserver.yaml": manifest(
            "kube-apiserver", flags, {"/host/etc/kubernetes": "/etc/kubernetes"}
        ),
        "/etc/kubernetes/enc.yaml": b"key",
    }
    assert "/etc/kubernetes/enc.yaml" in tool.describe(files).files
    assert "/etc/kubernetes/kubelet.conf" not in tool.describe(files).files


def test_only_certificates_and_public_keys_may_be_read_by_others() -> None:
    open_to_others = {
        path
        for path in (*tool.AUTHORITIES, *tool.OF_ETCD, *tool.describe(bundle()).files)
        if tool.mode_of(path) & 0o077
    }
    assert open_to_others == {
        f"{PKI}/ca.crt",
        f"{PKI}/etcd/ca.crt",
        f"{PKI}/front-proxy-ca.crt",
        f"{PKI}/sa.pub",
        f"{PKI}/oidc.crt",
    }
    assert tool.mode_of("/srv/x.crt") == 0o600


def spec_with(extra: dict[str, object], version: str = "v1.31.2") -> ClusterSpec:
    spec = make_spec(1)
    kubernetes = dataclasses.replace(
        spec.kubernetes, version=Version.parse(version), extra_kubeadm=MappingProxyType(extra)
    )
    return dataclasses.replace(spec, kubernetes=kubernetes)


@pytest.mark.parametrize("given", [{"audit-policy-file": "/a"}, [{"name": "audit-policy-file", "value": "/a"}]])
def test_flags_that_cluster_yaml_sets(given: object) -> None:
    assert tool.configured_flags(spec_with({"apiServer": {"extraArgs": given}})) == {"audit-policy-file"}
    assert tool.configured_flags(spec_with({})) == frozenset()


def test_the_etcd_that_kubeadm_will_run() -> None:
    own = spec_with({"etcd": {"local": {"dataDir": "/data/etcd/", "imageTag": "v3.5.24-0"}}})
    assert (tool.etcd_data_dir(own), tool.etcd_version(own)) == ("/data/etcd", "3.5.24")
    assert (tool.etcd_data_dir(spec_with({})), tool.etcd_version(spec_with({}))) == ("/var/lib/etcd", "3.5.15")
    assert tool.data_check("/var/lib/etcd") == "DirAvailable--var-lib-etcd"


def test_the_image_among_those_kubeadm_lists() -> None:
    listed = (
        "r.example:5000/k8s/kube-apiserver:v1.31.2\nr.example:5000/k8s/etcd:3.5.15-0\nr.example:5000/k8s/pause:3.10\n"
    )
    assert tool.etcd_image(listed) == "r.example:5000/k8s/etcd:3.5.15-0"
    with pytest.raises(ValueError, match="names no image"):
        tool.etcd_image("registry.k8s.io/pause:3.10")


@pytest.mark.parametrize("version", ["v1.20.2", "v1.29.0", "v1.31.2"])
def test_the_configuration_that_images_are_asked_with_holds_no_secret(version: str) -> None:
    spec = spec_with({}, version)
    text = images_config(spec, spec.control_planes[0])
    documents = list(yaml.safe_load_all(text))
    assert [d["kind"] for d in documents] == ["InitConfiguration", "ClusterConfiguration"]
    assert documents[1]["kubernetesVersion"] == version
    assert "token" not in text.lower()
    assert "certificateKey" not in text
