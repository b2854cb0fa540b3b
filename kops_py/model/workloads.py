"""What runs in the cluster, as small as the questions about it allow: a cluster may have 150,000 pods."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType


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
