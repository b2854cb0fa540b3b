"""cluster.yaml by itself."""

from ipaddress import ip_network

import pytest

from kops_py.config.cluster import read_cluster
from kops_py.model.errors import ConfigError
from kops_py.model.spec import CniType, ContainerdSource, SecretRef
from tests.unit.config.files import Pair, checked

LEAST = """\
apiVersion: kops-py/v1
kind: Cluster
metadata: {name: x}
kubernetes: {version: 1.31.2}
network: {cni: {type: none}}
"""


def test_everything_is_read(pair: Pair) -> None:
    cluster = read_cluster(pair.cluster)
    folder = pair.cluster.parent
    assert cluster.name == "prod"
    assert str(cluster.kubernetes.version) == "v1.34.2"
    assert cluster.kubernetes.repository == "https://mirror.example.com/kubernetes"
    assert cluster.kubernetes.repository_key == "https://mirror.example.com/kubernetes.asc"
    assert cluster.kubernetes.images == str(folder / "images")
    assert cluster.kubernetes.package_revision == "1.1"
    assert cluster.kubernetes.extra_kubeadm == {"apiServer": {"extraArgs": {"profiling": "false"}}}
    assert cluster.network.pod_subnets == (ip_network("10.244.0.0/16"),)
    assert cluster.network.cni is CniType.MANIFEST
    assert cluster.network.cni_manifest == str(folder / "cni.yaml")
    assert cluster.containerd.source is ContainerdSource.DOCKER
    assert cluster.containerd.mirrors == {"docker.io": ("https://mirror.example.com",)}
    assert cluster.external_etcd is False
    assert cluster.ssh.become_password == SecretRef("env", "SUDO_PASSWORD")
    assert (cluster.ssh.connect_timeout_s, cluster.ssh.max_parallel) == (12.5, 8)
    assert (cluster.timeouts.prepare_s, cluster.timeouts.kubeadm_s) == (900.0, 600.0)
    assert cluster.preflight_ignore == {"swap-on"}
    assert cluster.cert_sans == ("api.example.com", "192.0.2.200")


def test_defaults(pair: Pair) -> None:
    pair.cluster.write_text(LEAST)
    cluster = read_cluster(pair.cluster)
    assert cluster.kubernetes.repository == "https://pkgs.k8s.io/core:/stable:"
    assert cluster.kubernetes.repository_key is None
    assert [str(n) for n in cluster.network.pod_subnets] == ["10.244.0.0/16"]
    assert [str(n) for n in cluster.network.service_subnets] == ["10.96.0.0/12"]
    assert cluster.network.dns_domain == "cluster.local"
    assert cluster.external_etcd is None
    assert cluster.endpoint is None
    assert cluster.ssh.become_password is None


@pytest.mark.parametrize("form", ["10.244.0.0/16, fd00:1::/48", "[10.244.0.0/16, 'fd00:1::/48']"])
def test_dual_stack(pair: Pair, form: str) -> None:
    pair.change("podSubnet: 10.244.0.0/16", f"podSubnet: {form}")
    pair.change("[10.96.0.0/12]", "[10.96.0.0/12, 'fd00:2::/112']")
    assert len(read_cluster(pair.cluster).network.pod_subnets) == 2


@pytest.mark.parametrize(
    ("old", "new", "line", "words", "hint"),
    [
        ("kind: Cluster", "kind: Claster", 2, "'Claster'", "Cluster"),
        ("kops-py/v1", "kops-py/v2", 1, "'kops-py/v2'", "kops-py/v1"),
        ("  name: prod", "  nam: prod", 4, "unknown key 'nam'", "did you mean name?"),
        ("  name: prod", "  nam: prod", 3, "name is missing in metadata", "prod"),
        ("name: prod", "name: Prod_1", 4, "not a DNS label", "lower-case"),
        ("version: v1.34.2", "version: 1.34", 6, "version must be text, this is the number 1.34", "v1.34.2"),
        ("version: v1.34.2", "version: v1.34", 6, "version is 'v1.34'", ""),
        ("version: v1.34.2", "version: v1.99.0", 6, "version is 'v1.99.0'", ""),
        ("version: v1.34.2", "version: v1.5.0", 6, "version is 'v1.5.0'", ""),
        ("https://mirror.example.com/kubernetes\n", "mirror/x\n", 7, "repository is 'mirror/x'", ""),
        ("registry.example.com/k8s", "https://r.example.com", 9, "imageRepository is", "without a scheme"),
        ("./images", "./nothing", 10, "no folder './nothing'", "relative to"),
        ('"1.1"', "1.1", 11, "must be text, this is the number 1.1", '"1.1"'),
        ("10.244.0.0/16", "10.244.0.0/33", 13, "podSubnet is '10.244.0.0/33'", ""),
        ("10.244.0.0/16", "10.244.0.1/16", 13, "podSubnet is '10.244.0.1/16'", ""),
        ("10.244.0.0/16", "10.244.0.0", 13, "podSubnet is '10.244.0.0'", ""),
        ("10.244.0.0/16", "10.96.0.0/16", 14, "overlaps pod network 10.96.0.0/16", ""),
        ("10.244.0.0/16", "10.244.0.0/28", 13, "prefix", "/8 to /24"),
        ("10.244.0.0/16", "10.244.0.0/16,10.245.0.0/16", 13, "two IPv4 pod networks", "dual-stack"),
        ("10.244.0.0/16", "fd00::/64", 14, "service networks are IPv4, pod networks IPv6", "same families"),
        ("[10.96.0.0/12]", "[10.0.0.0/8]", 14, "prefix", "/12 to /28"),
        ("cluster.local", "Cluster_Local", 15, "not a DNS domain", ""),
        ("type: manifest", "type: manifets", 17, "'manifets'", "manifest"),
        ("type: manifest", "type: bridge", 18, "file has no meaning with type bridge", ""),
        ("    file: cni.yaml\n", "", 17, "neither url nor file", "exactly one"),
        ("file: cni.yaml", "file: cni.yaml\n    url: https://x.example/y", 17, "both", "exactly one"),
        ("file: cni.yaml", "file: other.yaml", 18, "no file 'other.yaml'", "relative"),
        ("file: cni.yaml", "url: ftp://x/y", 18, "url is 'ftp://x/y'", ""),
        ("192.0.2.200]", "a_b]", 19, "'a_b'", ""),
        ("source: docker", "source: [docker]", 21, "source is a list", ""),
        ("[https://mirror.example.com]", "[mirror]", 24, "docker.io is 'mirror'", ""),
        ("docker.io:", "https://docker.io:", 24, "not a registry", "docker.io"),
        ("topology: stacked", "topology: stackd", 25, "'stackd'", ""),
        ("12.5", "0", 28, "connectTimeoutSeconds is the number 0", ""),
        ("maxParallel: 8", "maxParallel: 8.5", 29, "whole number", "32"),
        ("maxParallel: 8", "maxParallel: true", 29, "whole number, this is a yes/no value", ""),
        ("prepareSeconds: 900", "prepareSeconds: 900s", 31, "must be a number, this is '900s'", ""),
        ("[swap-on]", "[Swap]", 46, "ignore is 'Swap'", "swap-on"),
        (
            "apiServer: {",
            "controlPlaneEndpoint: x\n    apiServer: {",
            49,
            "kops-py's to set",
            "controlPlaneEndpoint",
        ),
        ("{extraArgs:", "{certSANs: [x], extraArgs:", 49, "apiServer.certSANs is kops-py's", "certSANs"),
        ("ssh:\n", "ssh: x\nother:\n", 26, "ssh must be a map, this is 'x'", ""),
    ],
)
def test_mistakes(pair: Pair, old: str, new: str, line: int, words: str, hint: str) -> None:
    pair.change(old, new)
    with pytest.raises(ConfigError) as caught:
        read_cluster(pair.cluster)
    found = [e for e in checked(caught.value) if words in e.what]
    assert found, [str(e) for e in checked(caught.value)]
    assert found[0].where.rsplit(":", 2)[1] == str(line), found[0].where
    assert hint in f"{found[0].why} {found[0].hint}"


@pytest.mark.parametrize(
    "text",
    [
        "hunter2",
        "hunter2:x",
        "[hunter2]",
        "{x: hunter2}",
        "env:hunter2-x y",
        "'env:'",
        "'file:  '",
        "plain:hunter2",
    ],
)
def test_a_plain_secret_is_refused_and_not_repeated(pair: Pair, text: str) -> None:
    pair.change("env:SUDO_PASSWORD", text)
    with pytest.raises(ConfigError) as caught:
        read_cluster(pair.cluster)
    error = checked(caught.value)[0]
    assert error.where == f"{pair.cluster}:27:19"
    assert "hunter2" not in repr(error.to_json())
    assert "env:NAME" in error.hint
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None or "hunter2" not in str(caught.value.__context__)


def test_a_secret_under_a_wrong_key_is_not_repeated(pair: Pair) -> None:
    pair.change("becomePassword: env:SUDO_PASSWORD", "becomePasword: hunter2")
    with pytest.raises(ConfigError) as caught:
        read_cluster(pair.cluster)
    error = checked(caught.value)[0]
    assert "did you mean becomePassword?" in error.hint
    assert "hunter2" not in repr(error.to_json())


def test_the_password_of_a_url_is_not_repeated(pair: Pair) -> None:
    pair.change("https://mirror.example.com/kubernetes\n", "ftp://me:hunter2@mirror.example.com/\n")
    with pytest.raises(ConfigError) as caught:
        read_cluster(pair.cluster)
    assert "hunter2" not in repr(caught.value.to_json())


def test_all_mistakes_at_once_in_the_order_of_the_file(pair: Pair) -> None:
    pair.change("kind: Cluster", "kind: X")
    pair.change("maxParallel: 8", "maxParallel: 0")
    pair.change("topology: stacked", "topology: x")
    with pytest.raises(ConfigError) as caught:
        read_cluster(pair.cluster)
    lines = [int(e.where.rsplit(":", 2)[1]) for e in checked(caught.value)]
    assert lines == [2, 25, 29]


def test_secret_files_are_relative_to_the_file(pair: Pair) -> None:
    pair.change("env:SUDO_PASSWORD", "file:sudo.txt")
    reference = read_cluster(pair.cluster).ssh.become_password
    assert reference == SecretRef("file", str(pair.cluster.parent / "sudo.txt"))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("api.example.com", "api.example.com:6443"),
        ("api.example.com:443", "api.example.com:443"),
        ("192.0.2.9:8443", "192.0.2.9:8443"),
        ("'fd00::10'", "[fd00::10]:6443"),
        ("'[fd00::10]:443'", "[fd00::10]:443"),
        ("'[fd00::10]'", "[fd00::10]:6443"),
    ],
)
def test_endpoint(pair: Pair, text: str, shown: str) -> None:
    pair.change("certSANs:", f"controlPlaneEndpoint: {text}\ncertSANs:")
    assert str(read_cluster(pair.cluster).endpoint) == shown


@pytest.mark.parametrize(
    "text",
    [
        "https://api",
        "'api:'",
        "api:0",
        "api:70000",
        "API",
        "a_b",
        "'[::1'",
        "'[::1]x'",
        "'[a]:1'",
        "300.1.1.1",
        "'::g'",
    ],
)
def test_bad_endpoint(pair: Pair, text: str) -> None:
    pair.change("certSANs:", f"controlPlaneEndpoint: {text}\ncertSANs:")
    with pytest.raises(ConfigError) as caught:
        read_cluster(pair.cluster)
    error = checked(caught.value)[0]
    assert error.where == f"{pair.cluster}:19:23"
    assert "controlPlaneEndpoint is" in error.what
