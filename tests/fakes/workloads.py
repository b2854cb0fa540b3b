"""Objects of a cluster without kubelets and controllers, and who plays them; works on the fake as well."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from kops_py.connect.base import JsonObject, KubeApi
from kops_py.model.errors import KubeError

_LOST_NODES = ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable")
_AS_ADMITTED = [{"key": k, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300} for k in _LOST_NODES]
"""What the API server gives every pod (DefaultTolerationSeconds)."""


@dataclass
class Cluster:
    """A namespace and a node, and what tests put there."""

    api: KubeApi
    namespace: str
    node: str = ""
    policy: str = "policy/v1"
    """The version of budgets that the server has."""

    @classmethod
    def make(cls, api: KubeApi, namespace: str) -> Cluster:
        """Create the namespace, and a node named after it."""
        api.create("/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})
        old = api.get("/version")["gitVersion"] < "v1.21"  # of the versions the tests have
        cluster = cls(api, namespace, f"node-{namespace}", "policy/v1beta1" if old else "policy/v1")
        cluster.add_node(cluster.node)
        return cluster

    @property
    def pods(self) -> str:
        return f"/api/v1/namespaces/{self.namespace}/pods"

    @property
    def budgets(self) -> str:
        return f"/apis/{self.policy}/namespaces/{self.namespace}/poddisruptionbudgets"

    def add_node(self, name: str) -> JsonObject:
        return self.api.create(
            "/api/v1/nodes", {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": {"a": "b"}}}
        )

    def pod(
        self,
        name: str,
        *,
        node: str | None = None,
        phase: str = "Running",
        ready: bool = True,
        labels: Mapping[str, str] | None = None,
        owner: str | None = "ReplicaSet",
        finalizers: tuple[str, ...] = (),
        claims: tuple[str, ...] = (),
        empty_dir: bool = False,
        namespace: str = "",
        tolerates_cordon: bool = False,
    ) -> JsonObject:
        """Create a pod as its controller and its kubelet would have it."""
        namespace = namespace or self.namespace
        metadata: JsonObject = {"name": name, "namespace": namespace, "labels": dict(labels or {"app": "web"})}
        if owner:
            reference = {"apiVersion": "apps/v1", "kind": owner, "name": "web", "uid": "1", "controller": True}
            metadata["ownerReferences"] = [reference]
        if finalizers:
            metadata["finalizers"] = list(finalizers)
        volumes: list[Any] = [{"name": c, "persistentVolumeClaim": {"claimName": c}} for c in claims]
        volumes += [{"name": "scratch", "emptyDir": {}}] if empty_dir else []
        node = self.node if node is None else node
        tolerations = [{"operator": "Exists"}] if tolerates_cordon else _AS_ADMITTED
        spec: JsonObject = {"containers": [{"name": "main", "image": "none"}], "tolerations": tolerations}
        spec.update({"volumes": volumes} if volumes else {}, **({"nodeName": node} if node else {}))
        base = f"/api/v1/namespaces/{namespace}/pods"
        self.api.create(base, {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})
        status: JsonObject = {"phase": phase}
        if phase == "Running":
            status["conditions"] = [{"type": "Ready", "status": "True" if ready else "False"}]
        return self.api.patch(f"{base}/{name}/status", {"status": status}, content_type="application/merge-patch+json")

    def budget(
        self,
        name: str,
        selector: JsonObject,
        *,
        allowed: int | None,
        healthy: int = 0,
        desired: int = 0,
    ) -> None:
        """Create a budget and, unless ``allowed`` is None, what the disruption controller would write."""
        body = {
            "apiVersion": self.policy,
            "kind": "PodDisruptionBudget",
            "metadata": {"name": name, "namespace": self.namespace},
            "spec": {"selector": selector, "minAvailable": 1},
        }
        self.api.create(self.budgets, body)
        if allowed is not None:
            self.set_budget(name, allowed=allowed, healthy=healthy, desired=desired)

    def set_budget(self, name: str, *, allowed: int, healthy: int = 0, desired: int = 0) -> None:
        """Play the disruption controller."""
        generation = self.api.get(f"{self.budgets}/{name}")["metadata"]["generation"]
        status = {
            "observedGeneration": generation,
            "disruptionsAllowed": allowed,
            "currentHealthy": healthy,
            "desiredHealthy": desired,
            "expectedPods": healthy,
        }
        path = f"{self.budgets}/{name}/status"
        self.api.patch(path, {"status": status}, content_type="application/merge-patch+json")

    def attachment(self, name: str, volume: str, *, node: str = "") -> str:
        """Create a VolumeAttachment; returns its path."""
        path, name = "/apis/storage.k8s.io/v1/volumeattachments", f"{self.namespace}-{name}"
        body = {
            "apiVersion": "storage.k8s.io/v1",
            "kind": "VolumeAttachment",
            "metadata": {"name": name},
            "spec": {
                "attacher": "csi.example.com",
                "nodeName": node or self.node,
                "source": {"persistentVolumeName": volume},
            },
        }
        self.api.create(path, body)
        return f"{path}/{name}"

    def claimed_volume(self, claim: str) -> str:
        """Create a CSI volume and the claim that has it; returns the volume's name."""
        volume = f"pv-{self.namespace}-{claim}"
        self.api.create(
            "/api/v1/persistentvolumes",
            {
                "apiVersion": "v1",
                "kind": "PersistentVolume",
                "metadata": {"name": volume},
                "spec": {
                    "capacity": {"storage": "1Gi"},
                    "accessModes": ["ReadWriteOnce"],
                    "csi": {"driver": "csi.example.com", "volumeHandle": volume},
                },
            },
        )
        self.api.create(
            f"/api/v1/namespaces/{self.namespace}/persistentvolumeclaims",
            {
                "apiVersion": "v1",
                "kind": "PersistentVolumeClaim",
                "metadata": {"name": claim, "namespace": self.namespace},
                "spec": {
                    "accessModes": ["ReadWriteOnce"],
                    "resources": {"requests": {"storage": "1Gi"}},
                    "volumeName": volume,
                },
            },
        )
        return volume

    @staticmethod
    def wait_for(condition: Callable[[], bool], what: str, timeout_s: float = 20.0) -> None:
        deadline = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < deadline, f"waited {timeout_s} s for {what}"
            time.sleep(0.05)


@dataclass
class Kubelet:
    """Ends the pods of a node that are being deleted, as a kubelet does; rides out an API server that is away."""

    api: KubeApi
    node: str
    ended: list[str] = field(default_factory=list)
    most: int = 0
    """The most pods that were seen ending at the same time."""
    pause_s: float = 0.05
    end_after_s: float = 0.0
    """How long a pod takes to end."""
    _seen: dict[str, float] = field(default_factory=dict)
    _stop: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Kubelet:
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _work(self) -> None:
        params = {"fieldSelector": f"spec.nodeName={self.node}"}
        while not self._stop.wait(self.pause_s):
            try:
                pods = list(self.api.items("/api/v1/pods", params=params))
                ending = [p for p in pods if p["metadata"].get("deletionTimestamp")]
                self.most = max(self.most, len(ending))
                for pod in ending:
                    seen = self._seen.setdefault(pod["metadata"]["uid"], time.monotonic())
                    if time.monotonic() - seen >= self.end_after_s:
                        self._end(pod)
            except KubeError:
                continue

    def _end(self, pod: JsonObject) -> None:
        metadata = pod["metadata"]
        path = f"/api/v1/namespaces/{metadata['namespace']}/pods/{metadata['name']}"
        body = {"gracePeriodSeconds": 0, "preconditions": {"uid": metadata["uid"]}}
        self.api.delete(path, body=body)
        self._seen.pop(metadata["uid"], None)
        self.ended.append(f"{metadata['namespace']}/{metadata['name']}")
