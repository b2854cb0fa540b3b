"""What of a control plane's files makes another machine the same cluster, and what these files say of it; pure.

Taken are authorities, the keys of service accounts, and what the static pods' flags name: encryption, audit,
admission, authentication. Certificates that name a host, and kubeconfigs, are not: kubeadm makes them anew from the
authorities, for the new names and addresses.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from kops_py.model.spec import ClusterSpec
from kops_py.model.version import facts_of
from kops_py.tools.kubeadm_merge import CLUSTER, argument_pairs, split_extra

PKI = "/etc/kubernetes/pki"
MANIFESTS = "/etc/kubernetes/manifests"
ADMIN_CONF = "/etc/kubernetes/admin.conf"
ETCD_DATA = "/var/lib/etcd"

AUTHORITIES = tuple(
    f"{PKI}/{name}" for name in ("ca.crt", "ca.key", "front-proxy-ca.crt", "front-proxy-ca.key", "sa.key", "sa.pub")
)
OF_ETCD = (f"{PKI}/etcd/ca.crt", f"{PKI}/etcd/ca.key")
"""Not needed: nothing that it signed is left, and kubeadm makes one that is not there."""
_LEAVES = frozenset(
    f"{PKI}/{name}.{end}"
    for name in (
        "apiserver",
        "apiserver-kubelet-client",
        "apiserver-etcd-client",
        "front-proxy-client",
        "etcd/server",
        "etcd/peer",
        "etcd/healthcheck-client",
    )
    for end in ("crt", "key")
)
_PODS = ("kube-apiserver", "kube-controller-manager", "kube-scheduler")
_OF_THE_SYSTEM = ("/etc/ssl", "/etc/pki", "/etc/ca-certificates", "/usr", "/dev", "/proc", "/sys", "/run", "/var/run")
"""Where a machine has its own: authorities of the system, sockets."""
_NOT_CONFIGURATION = frozenset({"audit-log-path", "cert-dir", "log-file"})
_SHARED = frozenset({"/", "/etc", "/etc/kubernetes", PKI, f"{PKI}/etcd", "/var", "/var/lib", "/root", "/home", "/opt"})
"""No volume of such a breadth is taken as a whole, only the file named in it."""


@dataclass(frozen=True, slots=True)
class Described:
    """What the files of a control plane say; see OldCluster."""

    pki: tuple[str, ...]
    files: tuple[str, ...]
    missing: tuple[str, ...]
    """Authorities that are not there: without their keys no certificate can be made."""
    absent: tuple[str, ...]
    endpoint: str
    service_subnets: str
    pod_subnets: str
    dns_domain: str
    flags: tuple[tuple[str, str], ...]


def describe(files: Mapping[str, bytes], *, external: bool = False) -> Described:
    """Look at all files of a bundle, by their paths; a manifest that cannot be read tells nothing.

    ``external``: the new cluster's etcd is outside the control planes, with an authority of its own.
    """
    pods = {name: _pod(files.get(f"{MANIFESTS}/{name}.yaml", b"")) for name in _PODS}
    named = [(pod, flag, value, place) for pod in _PODS for flag, value, place in _named(pods[pod])]
    taken: dict[str, None] = {}
    absent: dict[str, None] = {}
    flags: list[tuple[str, str]] = []
    for pod, flag, value, place in named:
        if place in AUTHORITIES or place in OF_ETCD or place in _LEAVES or _is_kubeconfig(place):
            continue
        found = [path for path in files if path == place or path.startswith(f"{place}/")]
        taken.update(dict.fromkeys(found))
        if not found:
            absent[place] = None
        if pod == _PODS[0]:
            flags.append((flag, value))
    server, manager = (dict(_flags(pods[name])) for name in _PODS[:2])
    of_etcd = () if external or not all(path in files for path in OF_ETCD) else OF_ETCD
    return Described(
        pki=(*(path for path in AUTHORITIES if path in files), *of_etcd),
        files=tuple(sorted(taken)),
        missing=tuple(path for path in AUTHORITIES if path not in files),
        absent=tuple(absent),
        endpoint=_endpoint(files.get(ADMIN_CONF, b"")),
        service_subnets=server.get("service-cluster-ip-range", ""),
        pod_subnets=manager.get("cluster-cidr", ""),
        dns_domain=_domain(server.get("service-account-issuer", "")),
        flags=tuple(flags),
    )


def mode_of(path: str) -> int:
    """Return the permissions a file is written with: certificates and public keys as kubeadm has them, the rest 0600.

    Of what the bundle says about modes nothing is taken: a key that anybody could read stays no such key.
    """
    return 0o644 if path.startswith(f"{PKI}/") and path.endswith((".crt", ".pub")) else 0o600


def configured_flags(spec: ClusterSpec) -> frozenset[str]:
    """Return the flags of the API server that cluster.yaml sets; raises ConfigError."""
    server = _cluster(spec).get("apiServer")
    arguments = server.get("extraArgs") if isinstance(server, Mapping) else None
    return frozenset(name for name, _ in argument_pairs(arguments or {}))


def etcd_data_dir(spec: ClusterSpec) -> str:
    """Return where kubeadm's etcd will have its data; raises ConfigError."""
    return str(_local_etcd(spec).get("dataDir") or ETCD_DATA).rstrip("/")


def etcd_version(spec: ClusterSpec) -> str:
    """Return the version of the etcd that kubeadm will run, as ``3.5.24``; raises ConfigError."""
    return str(_local_etcd(spec).get("imageTag") or facts_of(spec.kubernetes.version).etcd).split("-")[0].lstrip("v")


def etcd_image(output: str) -> str:
    """Return etcd's image among those ``kubeadm config images list`` printed; raises ValueError when none is."""
    for line in output.split():
        if line.rsplit(":", 1)[0].rsplit("/", 1)[-1] == "etcd":
            return line
    raise ValueError("kubeadm names no image of etcd")


def pull_script(image: str) -> tuple[str, ...]:
    """Return the command that brings an image to a host that lacks it."""
    return ("sh", "-c", 'crictl inspecti -q "$1" >/dev/null 2>&1 || crictl pull "$1"', "sh", image)


def data_check(data_dir: str) -> str:
    """Return kubeadm's name of the check that this folder is empty."""
    return f"DirAvailable-{data_dir.replace('/', '-')}"


def _cluster(spec: ClusterSpec) -> dict[str, Any]:
    return split_extra(spec.kubernetes.extra_kubeadm).get(CLUSTER, {})


def _local_etcd(spec: ClusterSpec) -> Mapping[str, Any]:
    etcd = _cluster(spec).get("etcd")
    local = etcd.get("local") if isinstance(etcd, Mapping) else None
    return local if isinstance(local, Mapping) else {}


def _yaml(text: bytes) -> Mapping[str, Any]:
    import yaml

    try:
        found = yaml.safe_load(text)
    except (yaml.YAMLError, UnicodeDecodeError):
        return {}
    return found if isinstance(found, Mapping) else {}


def _pod(text: bytes) -> Mapping[str, Any]:
    spec = _yaml(text).get("spec")
    return spec if isinstance(spec, Mapping) else {}


def _flags(pod: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    for container in pod.get("containers") or ():
        for word in (*(container.get("command") or ()), *(container.get("args") or ())):
            flag, equals, value = str(word).lstrip("-").partition("=")
            if equals:
                yield flag, value


def _named(pod: Mapping[str, Any]) -> Iterable[tuple[str, str, str]]:
    """Return flag, value and the host's path of each file, or folder of files, that a flag names."""
    volumes = {
        str(v.get("name")): str((v.get("hostPath") or {}).get("path") or "").rstrip("/")
        for v in pod.get("volumes") or ()
    }
    mounts = {
        str(m.get("mountPath")).rstrip("/"): volumes.get(str(m.get("name")), "")
        for container in pod.get("containers") or ()
        for m in container.get("volumeMounts") or ()
    }
    for flag, value in _flags(pod):
        if not value.startswith("/") or flag in _NOT_CONFIGURATION:
            continue
        place = _on_host(PurePosixPath(value), mounts)
        if not any(place == folder or place.startswith(f"{folder}/") for folder in _OF_THE_SYSTEM):
            yield flag, value, place


def _on_host(path: PurePosixPath, mounts: Mapping[str, str]) -> str:
    """Return the host's path of a file in a container: its whole volume where that holds only what belongs to it."""
    for folder in (path, *path.parents):
        source = mounts.get(str(folder))
        if source:
            inside = str(PurePosixPath(source) / path.relative_to(folder))
            return inside if source in _SHARED else source
    return str(path)


def _is_kubeconfig(path: str) -> bool:
    """Whether kubeadm makes this file for the control plane's own use."""
    place = PurePosixPath(path)
    return str(place.parent) == "/etc/kubernetes" and place.name in (
        "admin.conf",
        "super-admin.conf",
        "controller-manager.conf",
        "scheduler.conf",
        "kubelet.conf",
    )


def _endpoint(text: bytes) -> str:
    clusters = _yaml(text).get("clusters") or [{}]
    cluster = clusters[0].get("cluster") if isinstance(clusters[0], Mapping) else None
    server = str((cluster or {}).get("server") or "")
    return server.removeprefix("https://").rstrip("/")


def _domain(issuer: str) -> str:
    return issuer.partition("://kubernetes.default.svc.")[2].rstrip("/")
