"""What performers work with, put together once for a run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from kops_py.actions.drain_turns import Turns
from kops_py.actions.join_secrets import JoinSecrets
from kops_py.connect.base import Ansible, Cancel, Fleet, KubeApi
from kops_py.engine.run import StepContext
from kops_py.model.facts import HostFacts
from kops_py.model.spec import ClusterSpec


def _no_backup(ctx: StepContext, max_age_s: float) -> None:
    """Refuse: only operations whose plan begins with a backup bring what makes one."""
    raise TypeError(f"{ctx.step.id} (of at most {max_age_s:.0f} s) is not carried out here")


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
    etcd_digests: Mapping[str, str] = field(default_factory=dict)
    """What the settings of each member of an external etcd are known by."""
    etcd_initial: dict[str, str] = field(default_factory=dict)
    """The members a host is added to, by its name; filled while the run goes on."""
    hosts: Mapping[str, HostFacts] = field(default_factory=dict)
    """The hosts as they were when the run began: operating system and cgroup version do not change in it."""
    short_before: frozenset[str] = frozenset()
    """Workloads that lacked pods before the run: they are not waited for."""
    moved: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Pods (``namespace/name``) that the drains of this run took from each node."""
    turns: Turns = field(default_factory=Turns)
    """The drains of this run that are under way."""
    dns_answered: set[str] = field(default_factory=set)
    """Nodes that DNS answered before their work in this run."""
    led: bool = False
    """Whether controllers and scheduler were seen at work since a control plane was last worked on."""
    proxy_until_s: float | None = None
    """Until when (monotonic) drains of this run wait for kube-proxy's rollout; set by the first that does."""
    run_id: str = ""
    by: str = ""
    """Who runs this and where, for marks in the cluster."""
    kubeadm_ignores: tuple[str, ...] = ()
    """kubeadm's own names of the checks whose findings the operator accepted."""
    join_secrets: JoinSecrets = field(default_factory=JoinSecrets)
    back_up: Callable[[StepContext, float], None] = _no_backup
    """Takes a proven backup of etcd unless there is one younger than so many seconds."""
