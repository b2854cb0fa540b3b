"""kubeadm's configuration files and command lines.

Configuration is built as data and written as YAML, one document per kind: v1beta2 for Kubernetes up to 1.21,
v1beta3 up to 1.30, v1beta4 from 1.31 (the field names per version are held by tests). Everything goes through the
file, because kubeadm does not mix ``--config`` with most flags and because a secret must not be in an argv.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable, Mapping
from ipaddress import ip_address
from typing import Any

from kops_py.model.spec import ClusterSpec, Group, HostSpec
from kops_py.model.version import Version, facts_of
from kops_py.tools import kubeadm_merge
from kops_py.tools.kubeadm_merge import (
    CLUSTER,
    INIT,
    JOIN,
    KUBE_PROXY,
    KUBELET,
    merge,
    shape_arguments,
    split_extra,
)

CRI_SOCKET = "unix:///run/containerd/containerd.sock"
"""containerd's socket with its scheme: kubeadm wants the scheme since 1.24 and takes it in 1.20."""

API_PORT = 6443
TOKEN_DESCRIPTION = "kops-py join token"  # noqa: S105 - a description
ETCD_CA = "/etc/kubernetes/pki/etcd/ca.crt"
ETCD_CLIENT_CERT = "/etc/kubernetes/pki/apiserver-etcd-client.crt"
ETCD_CLIENT_KEY = "/etc/kubernetes/pki/apiserver-etcd-client.key"

_CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----[A-Za-z0-9+/=\s]+-----END CERTIFICATE-----")
_ALPHABET = "abcdefghijklmnopqrstuvwxyz0123456789"

# Labels a kubelet may give its own node: upstream's k8s.io/kubelet/pkg/apis/well_known_labels.go, enforced by the
# kubelet at its start and by the NodeRestriction admission plugin.
_SELF_LABELS = frozenset(
    {
        "kubernetes.io/hostname",
        "kubernetes.io/arch",
        "kubernetes.io/os",
        "beta.kubernetes.io/arch",
        "beta.kubernetes.io/os",
        "beta.kubernetes.io/instance-type",
        "node.kubernetes.io/instance-type",
        "failure-domain.beta.kubernetes.io/region",
        "failure-domain.beta.kubernetes.io/zone",
        "topology.kubernetes.io/region",
        "topology.kubernetes.io/zone",
    }
)
_SELF_NAMESPACES = ("kubelet.kubernetes.io", "node.kubernetes.io")
_RESERVED_NAMESPACES = ("kubernetes.io", "k8s.io")


def init_config(
    spec: ClusterSpec,
    node: HostSpec,
    *,
    token: str,
    token_ttl_s: float,
    certificate_key: str | None = None,
    cgroup_v1: bool = False,
    resolv_conf: str | None = None,
    ignore_preflight_errors: Iterable[str] = (),
) -> str:
    """Render the configuration of ``kubeadm init`` on the first control plane; it holds secrets (write it 0600).

    ``cgroup_v1`` says that hosts of this cluster run cgroup v1, which Kubernetes 1.35 and newer refuses unless
    told. ``resolv_conf`` is the file kubelets give to pods. Raises ConfigError when extra_kubeadm cannot be used.
    """
    facts = facts_of(spec.kubernetes.version)
    init = _init_document(
        spec,
        node,
        token=token,
        token_ttl_s=token_ttl_s,
        certificate_key=certificate_key,
        ignore=_preflight_ignored(spec, ignore_preflight_errors, cgroup_v1=cgroup_v1),
    )
    kubelet: dict[str, Any] = {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": KUBELET,
        "cgroupDriver": "systemd",
    }
    if cgroup_v1 and facts.has_fail_cgroup_v1:
        kubelet["failCgroupV1"] = False
    if resolv_conf is not None:
        kubelet["resolvConf"] = resolv_conf
    documents = [init, _cluster_document(spec), kubelet]
    if KUBE_PROXY in split_extra(spec.kubernetes.extra_kubeadm):
        documents.append({"apiVersion": "kubeproxy.config.k8s.io/v1alpha1", "kind": KUBE_PROXY})
    return _render(spec, documents)


def join_config(
    spec: ClusterSpec,
    node: HostSpec,
    *,
    api_endpoint: str,
    token: str,
    ca_cert_hash: str,
    certificate_key: str | None = None,
    cgroup_v1: bool = False,
    ignore_preflight_errors: Iterable[str] = (),
) -> str:
    """Render the configuration of ``kubeadm join``; it holds secrets (write it 0600).

    ``api_endpoint`` is ``host:port`` of an API server that answers. A control plane needs ``certificate_key``, the
    key its certificates were uploaded with (else ValueError). Raises ConfigError as init_config does.
    """
    discovery: dict[str, Any] = {
        "bootstrapToken": {"token": token, "apiServerEndpoint": api_endpoint, "caCertHashes": [ca_cert_hash]},
    }
    api = facts_of(spec.kubernetes.version).kubeadm_api
    document: dict[str, Any] = {
        "apiVersion": api,
        "kind": JOIN,
        "discovery": discovery,
        "nodeRegistration": _registration(
            spec, node, _preflight_ignored(spec, ignore_preflight_errors, cgroup_v1=cgroup_v1)
        ),
    }
    if node.is_control_plane:
        if certificate_key is None:
            raise ValueError(f"{node.name} joins as a control plane and needs the certificate key")
        document["controlPlane"] = {"localAPIEndpoint": _local_endpoint(node), "certificateKey": certificate_key}
    if api.endswith("/v1beta4"):
        document["timeouts"] = _timeouts(spec, joining=True)
    else:
        discovery["timeout"] = _share(spec, 0.5)
    return _render(spec, [document])


def upload_certs_config(spec: ClusterSpec, node: HostSpec, *, certificate_key: str) -> str:
    """Render the configuration for uploading the certificates of a running cluster again, see upload_certs_argv.

    ClusterConfiguration is in it because kubeadm would ask the internet for a version without it, and because it
    says which certificates belong to the set.
    """
    init = _init_document(spec, node, token=None, token_ttl_s=0.0, certificate_key=certificate_key, ignore=())
    return _render(spec, [init, _cluster_document(spec)])


def images_config(spec: ClusterSpec, node: HostSpec) -> str:
    """Render the configuration that ``kubeadm config images list`` tells this cluster's images by; no secret in it."""
    init = _init_document(spec, node, token=None, token_ttl_s=0.0, certificate_key=None, ignore=())
    return _render(spec, [init, _cluster_document(spec)])


def check_extra(spec: ClusterSpec) -> None:
    """Refuse what the operator's own kubeadm fields may not set; raises ConfigError. Nothing is contacted."""
    kubeadm_merge.check_extra(spec.kubernetes.extra_kubeadm, facts_of(spec.kubernetes.version).kubeadm_api)


def labels_via_kubelet(host: HostSpec) -> dict[str, str]:
    """Return the inventory labels that the kubelet may give its own node, sorted."""
    return {key: value for key, value in sorted(host.labels.items()) if _may_label_itself(key)}


def node_addresses(spec: ClusterSpec, host: HostSpec) -> str:
    """Return the kubelet's ``--node-ip``: the host's ip, and in a dual-stack cluster its ``ip6`` after a comma."""
    if len({network.version for network in spec.network.pod_subnets}) < 2:
        return host.node_ip
    second = host.variables.get("ip6")
    if not isinstance(second, str) or second == host.node_ip:
        return host.node_ip
    return f"{host.node_ip},{ip_address(second)}"


def _init_document(
    spec: ClusterSpec,
    node: HostSpec,
    *,
    token: str | None,
    token_ttl_s: float,
    certificate_key: str | None,
    ignore: Iterable[str],
) -> dict[str, Any]:
    facts = facts_of(spec.kubernetes.version)
    document: dict[str, Any] = {"apiVersion": facts.kubeadm_api, "kind": INIT}
    if token is not None:
        document["bootstrapTokens"] = [
            {"token": token, "description": TOKEN_DESCRIPTION, "ttl": f"{max(1, int(token_ttl_s))}s"}
        ]
    if certificate_key is not None:
        document["certificateKey"] = certificate_key
    document["localAPIEndpoint"] = _local_endpoint(node)
    document["nodeRegistration"] = _registration(spec, node, ignore)
    if facts.has_show_join_phase:
        document["skipPhases"] = ["show-join-command"]
    if facts.kubeadm_api.endswith("/v1beta4"):
        document["timeouts"] = _timeouts(spec, joining=False)
    return document


def _cluster_document(spec: ClusterSpec) -> dict[str, Any]:
    facts = facts_of(spec.kubernetes.version)
    api_server: dict[str, Any] = {"certSANs": _cert_sans(spec)}
    if not facts.kubeadm_api.endswith("/v1beta4"):
        api_server["timeoutForControlPlane"] = _share(spec, 0.4)
    document: dict[str, Any] = {
        "apiVersion": facts.kubeadm_api,
        "kind": CLUSTER,
        "clusterName": spec.name,
        "kubernetesVersion": str(spec.kubernetes.version),
        "controlPlaneEndpoint": str(spec.endpoint),
        "networking": {
            "podSubnet": ",".join(map(str, spec.network.pod_subnets)),
            "serviceSubnet": ",".join(map(str, spec.network.service_subnets)),
            "dnsDomain": spec.network.dns_domain,
        },
        "apiServer": api_server,
    }
    if spec.kubernetes.image_repository is not None:
        document["imageRepository"] = spec.kubernetes.image_repository
    if spec.external_etcd:
        document["etcd"] = {"external": _external_etcd(spec)}
    if facts.needs_dual_stack_gate and len(spec.network.pod_subnets) > 1:
        document["featureGates"] = {"IPv6DualStack": True}
    return document


def _external_etcd(spec: ClusterSpec) -> dict[str, Any]:
    return {
        "endpoints": list(spec.external.endpoints) if spec.external else [],
        "caFile": ETCD_CA,
        "certFile": ETCD_CLIENT_CERT,
        "keyFile": ETCD_CLIENT_KEY,
    }


def _cert_sans(spec: ClusterSpec) -> list[str]:
    names = [spec.endpoint.host]
    for host in spec.control_planes:
        names += [host.name, *node_addresses(spec, host).split(",")]
    return list(dict.fromkeys([*names, "127.0.0.1", "localhost", *spec.cert_sans]))


def _registration(spec: ClusterSpec, node: HostSpec, ignore: Iterable[str]) -> dict[str, Any]:
    arguments = {"node-ip": node_addresses(spec, node)}
    labels = labels_via_kubelet(node)
    if labels:
        arguments["node-labels"] = ",".join(f"{key}={value}" for key, value in labels.items())
    registration: dict[str, Any] = {
        "name": node.name,
        "criSocket": CRI_SOCKET,
        "kubeletExtraArgs": arguments,
    }
    taints = _taints(node)
    if taints is not None:
        registration["taints"] = taints
    ignored = sorted(set(ignore))
    if ignored:
        registration["ignorePreflightErrors"] = ignored
    return registration


def _taints(node: HostSpec) -> list[dict[str, str]] | None:
    """Return the taints to register with; None leaves kubeadm's own for the role."""
    if node.taints is not None:
        return [
            {"key": taint.key, "effect": taint.effect} | ({"value": taint.value} if taint.value else {})
            for taint in node.taints
        ]
    # A control plane that is in kube_node as well is to take workloads: an empty list, not a missing one, says so.
    return [] if node.is_control_plane and Group.NODE in node.groups else None


def _preflight_ignored(spec: ClusterSpec, given: Iterable[str], *, cgroup_v1: bool) -> tuple[str, ...]:
    ignored = set(given)
    if cgroup_v1 and not facts_of(spec.kubernetes.version).cgroup_v1_ok:
        # The check of the cgroup version is a part of SystemVerification (kubernetes/kubernetes#134744).
        ignored.add("SystemVerification")
    return tuple(sorted(ignored))


def _local_endpoint(node: HostSpec) -> dict[str, Any]:
    return {"advertiseAddress": node.node_ip, "bindPort": API_PORT}


def _timeouts(spec: ClusterSpec, *, joining: bool) -> dict[str, str]:
    timeouts = {
        "controlPlaneComponentHealthCheck": _share(spec, 0.4),
        "kubeletHealthCheck": _share(spec, 0.4),
    }
    if joining:
        timeouts |= {"discovery": _share(spec, 0.5), "tlsBootstrap": _share(spec, 0.5)}
    return timeouts


def _share(spec: ClusterSpec, part: float) -> str:
    """Return a part of the time for kubeadm, so that it gives up and says why before kops-py does.

    With the default of 600 s these are kubeadm's own defaults, 4 and 5 minutes.
    """
    return f"{max(30, int(spec.timeouts.kubeadm_s * part))}s"


def _may_label_itself(key: str) -> bool:
    namespace, slash, _ = key.partition("/")
    if not slash:
        return True
    if key in _SELF_LABELS or _within(namespace, _SELF_NAMESPACES):
        return True
    return not _within(namespace, _RESERVED_NAMESPACES)


def _within(namespace: str, parents: tuple[str, ...]) -> bool:
    return any(namespace == parent or namespace.endswith(f".{parent}") for parent in parents)


def _render(spec: ClusterSpec, documents: list[dict[str, Any]]) -> str:
    check_extra(spec)
    extra = split_extra(spec.kubernetes.extra_kubeadm)
    lists = facts_of(spec.kubernetes.version).kubeadm_api.endswith("/v1beta4")
    return to_yaml(
        shape_arguments(merge(document, extra.get(document["kind"], {})), lists=lists) for document in documents
    )


def to_yaml(documents: Iterable[Mapping[str, Any]]) -> str:
    """Write documents as YAML in which every text value is quoted.

    Quoted, because ``1e3`` or ``0123`` left plain by one YAML library is a number to another one.
    """
    import yaml

    class Dumper(yaml.SafeDumper):
        def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 - the signature is PyYAML's
            return True

    class Quoted(str):
        __slots__ = ()

    def quote(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: quote(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [quote(item) for item in value]
        return Quoted(value) if isinstance(value, str) else value

    Dumper.add_representer(
        Quoted, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", str(text), style='"')
    )
    text: str = yaml.dump_all(
        [quote(document) for document in documents],
        Dumper=Dumper,
        sort_keys=False,
        explicit_start=True,
        allow_unicode=True,
        width=10**9,
    )
    return text


def init_argv(config_path: str, *, upload_certs: bool) -> tuple[str, ...]:
    """Return the argv of ``kubeadm init``; token and certificate key are kept out of its output."""
    upload = ("--upload-certs",) if upload_certs else ()
    return (
        *("kubeadm", "init", "--config", config_path, *upload),
        *("--skip-token-print", "--skip-certificate-key-print"),
    )


def join_argv(config_path: str) -> tuple[str, ...]:
    """Return the argv of ``kubeadm join``."""
    return ("kubeadm", "join", "--config", config_path)


def upload_certs_argv(config_path: str) -> tuple[str, ...]:
    """Return the argv that uploads the certificates again under the key in the configuration."""
    return (
        *("kubeadm", "init", "phase", "upload-certs", "--upload-certs", "--skip-certificate-key-print"),
        *("--config", config_path),
    )


def upgrade_apply_argv(version: Version, *, ignore_preflight_errors: Iterable[str] = ()) -> tuple[str, ...]:
    """Return the argv of ``kubeadm upgrade apply`` without questions.

    Everything the cluster was built with is in its own ConfigMaps; a configuration file here would, before 1.31,
    change the cluster instead of upgrading it.
    """
    return ("kubeadm", "upgrade", "apply", str(version), "--yes", *_ignoring(ignore_preflight_errors))


def upgrade_node_argv(*, ignore_preflight_errors: Iterable[str] = ()) -> tuple[str, ...]:
    """Return the argv of ``kubeadm upgrade node``: a further control plane, or a worker's kubelet configuration."""
    return ("kubeadm", "upgrade", "node", *_ignoring(ignore_preflight_errors))


def _ignoring(names: Iterable[str]) -> tuple[str, ...]:
    joined = ",".join(sorted(set(names)))
    return (f"--ignore-preflight-errors={joined}",) if joined else ()


def reset_argv() -> tuple[str, ...]:
    """Return the argv of ``kubeadm reset`` without questions."""
    return ("kubeadm", "reset", "--force", "--cri-socket", CRI_SOCKET)


def config_validate_argv(version: Version, config_path: str) -> tuple[str, ...] | None:
    """Return the argv with which kubeadm checks a configuration file; None before 1.28, which cannot."""
    if not facts_of(version).has_config_validate:
        return None
    return ("kubeadm", "config", "validate", "--config", config_path)


def images_argv(config_path: str) -> tuple[str, ...]:
    """Return the argv that prints the images of a configuration, one a line; contacts nothing."""
    return ("kubeadm", "config", "images", "list", "--config", config_path)


def new_token() -> str:
    """Return a new bootstrap token of kubeadm's form, ``[a-z0-9]{6}.[a-z0-9]{16}``."""
    return f"{_random_text(6)}.{_random_text(16)}"


def token_secret_name(token: str) -> str:
    """Return the name of the token's Secret in kube-system; the part of the token in it is its public id."""
    return f"bootstrap-token-{token.partition('.')[0]}"


def new_certificate_key() -> str:
    """Return a new key for the upload of certificates: 32 bytes as hexadecimal digits."""
    return secrets.token_hex(32)


def ca_cert_hash(ca_pem: bytes) -> str:
    """Return the pin of the cluster CA, ``sha256:`` and the digest of its DER public key (SubjectPublicKeyInfo).

    The first certificate counts. Raises ValueError when there is none. Read without an X.509 library on purpose:
    old kubeadms gave their CAs the serial number 0, which libraries are about to refuse (RFC 5280, 4.1.2.2).
    """
    import hashlib
    import ssl

    match = _CERTIFICATE.search(ca_pem.decode("ascii", "replace"))
    if match is None:
        raise ValueError("there is no PEM certificate")
    try:
        return f"sha256:{hashlib.sha256(_public_key_info(ssl.PEM_cert_to_DER_cert(match[0]))).hexdigest()}"
    except (IndexError, ValueError) as error:
        raise ValueError("the certificate cannot be read") from error


def _public_key_info(der: bytes) -> bytes:
    """Return the encoded SubjectPublicKeyInfo of a DER certificate (RFC 5280, 4.1)."""
    _, start, _ = _der_value(der, 0)
    _, position, end = _der_value(der, start)
    tag, _, after = _der_value(der, position)
    position = after if tag == 0xA0 else position  # the version is left out in version 1
    for _ in ("serialNumber", "signature", "issuer", "validity", "subject"):
        _, _, position = _der_value(der, position)
    tag, _, after = _der_value(der, position)
    if tag != 0x30 or after > end:
        raise ValueError("no public key where it should be")
    return der[position:after]


def _der_value(der: bytes, position: int) -> tuple[int, int, int]:
    """Return the tag of the DER value at a position, where its content begins and where it ends."""
    tag, length, start = der[position], der[position + 1], position + 2
    if length >= 0x80:
        octets = length & 0x7F
        length, start = int.from_bytes(der[start : start + octets], "big"), start + octets
    if start + length > len(der):
        raise ValueError("the certificate is cut off")
    return tag, start, start + length


def _random_text(length: int) -> str:
    return "".join(secrets.choice(_ALPHABET) for _ in range(length))
