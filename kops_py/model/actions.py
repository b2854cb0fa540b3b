"""The actions a plan can hold; ``actions/`` has one performer for each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from kops_py.model.plan import Action

INIT_JOB = "kubeadm-init"
JOIN_JOB = "kubeadm-join"
"""Names of the jobs that InitControlPlane and JoinNode leave on their host; runbooks read how they ended."""


@dataclass(frozen=True, slots=True)
class ConfigureLoadBalancer(Action):
    """Install and configure haproxy on a host; ``digest`` identifies the configuration."""

    host: str
    digest: str


@dataclass(frozen=True, slots=True)
class PrepareHost(Action):
    """Bring a host to the state kubeadm needs; ``digest`` identifies the settings and playbooks."""

    host: str
    version: str
    digest: str


@dataclass(frozen=True, slots=True)
class InitControlPlane(Action):
    """Run kubeadm init; ``upload_certs`` when more control planes will join."""

    node: str
    version: str
    config_api: str
    endpoint: str
    upload_certs: bool


@dataclass(frozen=True, slots=True)
class ApplyNetwork(Action):
    """Apply the manifest of the pod network; ``digest`` identifies its content."""

    manifest: str
    digest: str


@dataclass(frozen=True, slots=True)
class JoinNode(Action):
    """Run kubeadm join."""

    node: str
    control_plane: bool
    version: str


@dataclass(frozen=True, slots=True)
class RestartApiServer(Action):
    """Restart the API server of one control plane and wait until it is ready again."""

    node: str


@dataclass(frozen=True, slots=True)
class ConfigureBridge(Action):
    """Write the bridge network's CNI configuration and the routes to all other nodes."""

    node: str


@dataclass(frozen=True, slots=True)
class LabelNode(Action):
    """Set the labels and taints that the inventory names; others stay."""

    node: str
    labels: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    taints: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class WaitHealthy(Action):
    """Wait until these nodes and the cluster are healthy.

    ``absent`` are members that were unreachable from the start; without ``network`` (the operator brings the pod
    network later) Ready nodes and DNS are not waited for.
    """

    nodes: tuple[str, ...]
    absent: tuple[str, ...] = ()
    network: bool = True


@dataclass(frozen=True, slots=True)
class RevokeJoinSecrets(Action):
    """Remove kops-py's bootstrap tokens and the uploaded certificates."""
