"""What the readers of long lists look at in an item: the rest is skipped while the answer is parsed.

A reader that begins to look at another field has to name it here; tests/unit/observe/test_shapes.py compares what the
readers make of whole objects and of such.
"""

from __future__ import annotations

from typing import Any, TypedDict

Any_ = dict[str, Any]


class Meta(TypedDict, total=False):
    """Of metadata."""

    namespace: str
    name: str
    uid: str
    generation: int
    labels: dict[str, str]
    annotations: dict[str, str]
    deletionTimestamp: str
    ownerReferences: list[Any_]


class Condition(TypedDict, total=False):
    """Of a condition."""

    type: str
    status: str
    reason: str
    message: str


class Resources(TypedDict, total=False):
    """Of resources."""

    requests: dict[str, str | int | float]


class Container(TypedDict, total=False):
    """Of a container."""

    resources: Resources
    restartPolicy: str


class PodSpec(TypedDict, total=False):
    """Of a pod's spec."""

    nodeName: str
    containers: list[Container]
    initContainers: list[Container]
    resources: Resources
    overhead: dict[str, str | int | float]
    volumes: list[Any_]
    tolerations: list[Any_]
    nodeSelector: dict[str, str]
    affinity: Any_


class PodStatus(TypedDict, total=False):
    """Of a pod's status."""

    phase: str
    conditions: list[Condition]


class Pod(TypedDict, total=False):
    """What observe/pods.py reads."""

    metadata: Meta
    spec: PodSpec
    status: PodStatus


class NodeSpec(TypedDict, total=False):
    """Of a node's spec."""

    taints: list[Any_]
    unschedulable: bool


class NodeStatus(TypedDict, total=False):
    """Of a node's status."""

    allocatable: dict[str, str | int | float]
    conditions: list[Condition]


class Node(TypedDict, total=False):
    """What observe/workloads.py reads of nodes."""

    metadata: Meta
    spec: NodeSpec
    status: NodeStatus


class Replicas(TypedDict, total=False):
    """Of a workload's spec."""

    replicas: int


class Counts(TypedDict, total=False):
    """Of a workload's status."""

    availableReplicas: int
    readyReplicas: int
    desiredNumberScheduled: int
    numberAvailable: int


class Workload(TypedDict, total=False):
    """What observe/workloads.py reads of Deployments, StatefulSets and DaemonSets."""

    metadata: Meta
    spec: Replicas
    status: Counts
