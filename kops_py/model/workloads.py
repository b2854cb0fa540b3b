"""What runs in the cluster, as small as the questions about it allow: a cluster may have 150,000 pods."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType

from kops_py.model.selectors import Requirement


class PodPhase(StrEnum):
    """status.phase of a pod."""

    PENDING = "Pending"
    RUNNING = "Running"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    UNKNOWN = "Unknown"


def _no_map() -> Mapping[str, str]:
    return MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Owner:
    """The controller of a pod (the owner reference with ``controller: true``)."""

    kind: str
    name: str
    api_version: str = ""


@dataclass(frozen=True, slots=True)
class PodFacts:
    """One pod, reduced to what draining and planning ask of it."""

    namespace: str
    name: str
    uid: str
    node: str = ""
    phase: PodPhase = PodPhase.UNKNOWN
    ready: bool = False
    owner: Owner | None = None
    mirror: bool = False
    """A static pod's image in the API (annotation kubernetes.io/config.mirror)."""
    deleting_since: str = ""
    """metadata.deletionTimestamp, RFC 3339 in UTC; empty when the pod is not being deleted."""
    labels: Mapping[str, str] = field(default_factory=_no_map)
    empty_dir: bool = False
    """Whether it has an emptyDir volume, on disk or in memory."""
    host_path: bool = False
    claims: tuple[str, ...] = ()
    """Names of its PersistentVolumeClaims."""
    cpu_millis: int = 0
    """Requested CPU, the largest of init containers and the sum of the others, plus overhead."""
    memory_bytes: int = 0
    node_selector: Mapping[str, str] = field(default_factory=_no_map)
    tolerations: tuple[tuple[str, str, str, str], ...] = ()
    """(key, operator, value, effect), as in the pod; empty strings for what is not set."""
    has_node_affinity: bool = False
    """Whether it has required node affinity, which planning does not evaluate but names."""

    @property
    def id(self) -> str:
        """Return ``namespace/name``."""
        return f"{self.namespace}/{self.name}"

    @property
    def finished(self) -> bool:
        """Whether its containers have ended for good."""
        return self.phase in (PodPhase.SUCCEEDED, PodPhase.FAILED)


@dataclass(frozen=True, slots=True)
class BudgetFacts:
    """One PodDisruptionBudget and what the disruption controller says of it."""

    namespace: str
    name: str
    selector: tuple[Requirement, ...] | None
    """None fits no pod; an empty one fits all of the namespace."""
    min_available: int | str | None = None
    """As written: a number, or text such as ``50%``."""
    max_unavailable: int | str | None = None
    always_allow_unhealthy: bool = False
    """unhealthyPodEvictionPolicy AlwaysAllow (v1.27 on); otherwise IfHealthyBudget."""
    current_healthy: int = 0
    desired_healthy: int = 0
    expected_pods: int = 0
    disruptions_allowed: int = 0
    observed: bool = True
    """Whether the status is of the present generation; the eviction API refuses until it is."""
    sync_failure: str = ""
    """What keeps the controller from reckoning this budget; while it lasts nothing may be evicted."""

    @property
    def id(self) -> str:
        """Return ``namespace/name``."""
        return f"{self.namespace}/{self.name}"

    @property
    def rule(self) -> str:
        """Return what it demands, as written: ``minAvailable 2``."""
        if self.max_unavailable is not None:
            return f"maxUnavailable {self.max_unavailable}"
        return (
            "neither minAvailable nor maxUnavailable"
            if self.min_available is None
            else (f"minAvailable {self.min_available}")
        )


@dataclass(frozen=True, slots=True)
class NodeCapacity:
    """One node as the scheduler sees it; ``taints`` are (key, value, effect)."""

    name: str
    cpu_millis: int
    memory_bytes: int
    pods: int
    """How many pods it may run."""
    labels: Mapping[str, str] = field(default_factory=_no_map)
    taints: tuple[tuple[str, str, str], ...] = ()
    ready: bool = True
    unschedulable: bool = False


@dataclass(frozen=True, slots=True)
class WorkloadFacts:
    """What runs in the cluster and what protects it, at one moment."""

    pods: tuple[PodFacts, ...] = ()
    budgets: tuple[BudgetFacts, ...] = ()
    nodes: Mapping[str, NodeCapacity] = field(default_factory=lambda: MappingProxyType({}))
    local_claims: Mapping[str, frozenset[str]] = field(default_factory=lambda: MappingProxyType({}))
    """``namespace/claim`` of volumes that only some hosts have → the values of kubernetes.io/hostname they name."""
    unavailable: tuple[str, ...] = ()
    """Deployments, StatefulSets and DaemonSets with fewer available pods than they want, one sentence each."""


CORDON_TAINT = ("node.kubernetes.io/unschedulable", "", "NoSchedule")
"""What a cordon puts onto a node (key, value, effect)."""


def tolerates(toleration: tuple[str, str, str, str], taint: tuple[str, str, str]) -> bool:
    """Whether a toleration (key, operator, value, effect) accepts a taint (key, value, effect)."""
    key, operator, value, effect = toleration
    if effect and effect != taint[2]:
        return False
    if operator == "Exists":
        return not key or key == taint[0]
    return key == taint[0] and value == taint[1]
