"""What an upgrade has to know of a cluster before it begins, as frozen data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType

from kops_py.model.facts import HostFacts, NodeFacts
from kops_py.model.status import Certificate, EtcdMember
from kops_py.model.version import Version


@dataclass(frozen=True, slots=True)
class UpgradeFacts:
    """The facts that rules for versions ask for; what was not observed stays empty and is not judged."""

    now: datetime
    api_servers: Mapping[str, Version] = field(default_factory=lambda: MappingProxyType({}))
    """Control plane → version of its API server."""
    nodes: Mapping[str, NodeFacts] = field(default_factory=lambda: MappingProxyType({}))
    hosts: Mapping[str, HostFacts] = field(default_factory=lambda: MappingProxyType({}))
    left_behind: frozenset[str] = frozenset()
    """Nodes that this operation does not upgrade (outside its limit)."""
    kubeadm_documents: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    """Where a kubeadm configuration stands (``ConfigMap kube-system/kubeadm-config``) → its apiVersion."""
    fail_cgroup_v1: bool | None = None
    """failCgroupV1 of the cluster's KubeletConfiguration; None: not set."""
    etcd_members: tuple[EtcdMember, ...] = ()
    etcd_expected: frozenset[str] = frozenset()
    """Names of the members there should be, once etcd was asked; empty for an etcd that kubeadm does not run."""
    etcd_alarms: tuple[str, ...] = ()
    etcd_flags: frozenset[str] = frozenset()
    """Names of etcd flags the cluster configuration sets (etcd.local.extraArgs), without dashes."""
    admission_plugins: frozenset[str] = frozenset()
    """What the API servers are started with in --enable-admission-plugins."""
    addon_changes: tuple[str, ...] = ()
    """What others than kubeadm wrote into the add-ons that it manages, a sentence each."""
    certificates: tuple[Certificate, ...] = ()
