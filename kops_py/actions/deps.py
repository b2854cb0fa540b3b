"""What performers work with, put together once for a run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from kops_py.actions.join_secrets import JoinSecrets
from kops_py.connect.base import Ansible, Cancel, Fleet, KubeApi
from kops_py.model.spec import ClusterSpec


class HasApi(Protocol):
    """Gives a connection to the API that answered just now."""

    def api(self) -> KubeApi:
        """Return the connection; raises KubeError."""


@dataclass(slots=True)
class Deps:
    """Connectors and settings of one run."""

    spec: ClusterSpec
    fleet: Fleet
    ansible: Ansible
    kube: HasApi
    cancel: Cancel
    prepare_variables: Mapping[str, Any]
    prepare_host_variables: Callable[[str], Mapping[str, Any]]
    load_balancer_variables: Mapping[str, Any]
    load_balancer_host_variables: Callable[[str], Mapping[str, Any]]
    read_manifest: Callable[[], str]
    """Returns the text of the network manifest that the plan announced; raises ConfigError when it changed."""
    cgroup_v1: Mapping[str, bool] = field(default_factory=dict)
    kubeadm_ignores: tuple[str, ...] = ()
    """kubeadm's own names of the checks whose findings the operator accepted."""
    join_secrets: JoinSecrets = field(default_factory=JoinSecrets)
