"""Variables and digests of the playbooks prepare, stage and load_balancer; pure."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from kops_py.model.spec import ClusterSpec, HostSpec
from kops_py.model.version import Version
from kops_py.tools.containerd import sandbox_image

PREPARE_PLAYBOOK = "prepare"
LOAD_BALANCER_PLAYBOOK = "load_balancer"
STAGE_PLAYBOOK = "stage"
ETCD_PLAYBOOK = "etcd"
_ROLE_VARIABLE_PREFIX = "kops_"
_API_SERVER_PORT = 6443


def prepare_variables(spec: ClusterSpec) -> dict[str, Any]:
    """Return the variables of ``prepare`` that are the same on every host.

    Only what cluster.yaml says is set, so that everything else stays the operator's to set in the inventory.
    """
    kubernetes, containerd = spec.kubernetes, spec.containerd
    return {
        **_kubernetes_variables(spec, kubernetes.version),
        "kops_containerd_source": containerd.source.value,
        "kops_containerd_version": containerd.version or "",
        "kops_containerd_sandbox_image": sandbox_image(kubernetes.version, kubernetes.image_repository),
        "kops_containerd_mirrors": {name: list(urls) for name, urls in sorted(containerd.mirrors.items())},
        "kops_ipv6": any(n.version == 6 for n in (*spec.network.pod_subnets, *spec.network.service_subnets)),
    }


def _kubernetes_variables(spec: ClusterSpec, version: Version) -> dict[str, Any]:
    kubernetes = spec.kubernetes
    return {
        "kops_kubernetes_version": version.bare,
        "kops_kubernetes_minor": version.minor_text,
        "kops_kubernetes_repository": kubernetes.repository,
        "kops_kubernetes_repository_key": kubernetes.repository_key or "",
        "kops_kubernetes_package_revision": kubernetes.package_revision or "*",
        "kops_images": kubernetes.images or "",
    }


def stage_variables(spec: ClusterSpec, version: Version) -> dict[str, Any]:
    """Return the variables of ``stage`` for a version, without the digest."""
    return {**_kubernetes_variables(spec, version), "kops_containerd_source": spec.containerd.source.value}


def stage_digest(spec: ClusterSpec, host: HostSpec, version: Version, playbooks_fingerprint: str) -> str:
    """Return what identifies all that is staged on this host for a version."""
    return _digest(
        STAGE_PLAYBOOK,
        {**_inventory_settings(host), **prepare_host_variables(spec, host), **stage_variables(spec, version)},
        playbooks_fingerprint,
    )


def prepare_host_variables(spec: ClusterSpec, host: HostSpec) -> dict[str, Any]:
    """Return the variables of ``prepare`` that differ from host to host, without the digest."""
    del spec  # every host's own today; the signature leaves room
    return {"kops_control_plane": host.is_control_plane}


def prepare_digest(spec: ClusterSpec, host: HostSpec, playbooks_fingerprint: str) -> str:
    """Return what identifies the preparation of this host: all settings it gets, and the playbooks themselves.

    Other hosts, and the order of anything without a meaning, do not count.
    """
    return _digest(
        PREPARE_PLAYBOOK,
        {**_inventory_settings(host), **prepare_host_variables(spec, host), **prepare_variables(spec)},
        playbooks_fingerprint,
    )


def load_balancer_variables(spec: ClusterSpec) -> dict[str, Any]:
    """Return the variables of ``load_balancer``; the control planes are sorted by name."""
    backends = [{"name": h.name, "address": h.node_ip} for h in spec.control_planes]
    return {
        "kops_haproxy_port": spec.endpoint.port,
        "kops_haproxy_backends": sorted(backends, key=lambda backend: backend["name"]),
        "kops_haproxy_backend_port": _API_SERVER_PORT,
    }


def load_balancer_digest(spec: ClusterSpec, host: HostSpec, playbooks_fingerprint: str) -> str:
    """Return what identifies the configuration of this load balancer."""
    return _digest(
        LOAD_BALANCER_PLAYBOOK,
        {**_inventory_settings(host), **load_balancer_variables(spec)},
        playbooks_fingerprint,
    )


def etcd_variables(spec: ClusterSpec) -> dict[str, Any]:
    """Return the variables of ``etcd`` that are the same on every host."""
    return {"kops_etcd_cluster_token": spec.name}


def etcd_host_variables(spec: ClusterSpec, host: HostSpec, initial_cluster: str = "") -> dict[str, Any]:
    """Return the variables of ``etcd`` that differ from host to host, without the digest.

    ``initial_cluster`` is given for a member that was added to a cluster that runs.
    """
    return {
        "kops_etcd_name": host.member_name,
        "kops_etcd_address": host.node_ip,
        "kops_etcd_initial_state": "existing" if initial_cluster else "new",
        "kops_etcd_initial_cluster": initial_cluster
        or ",".join(f"{h.member_name}={h.peer_url}" for h in sorted(spec.etcd_hosts, key=lambda h: h.member_name)),
    }


def etcd_digest(spec: ClusterSpec, host: HostSpec, playbooks_fingerprint: str) -> str:
    """Return what identifies the settings of this member; which other members there are does not count."""
    own = {name: value for name, value in etcd_host_variables(spec, host).items() if "initial" not in name}
    return _digest(ETCD_PLAYBOOK, {**_inventory_settings(host), **etcd_variables(spec), **own}, playbooks_fingerprint)


def _inventory_settings(host: HostSpec) -> dict[str, object]:
    return {name: value for name, value in host.variables.items() if name.startswith(_ROLE_VARIABLE_PREFIX)}


def _digest(playbook: str, settings: Mapping[str, object], playbooks_fingerprint: str) -> str:
    text = json.dumps(
        {"playbook": playbook, "playbooks": playbooks_fingerprint, "settings": dict(settings)},
        sort_keys=True,
        default=str,
    )
    return hashlib.sha256(text.encode()).hexdigest()
