"""Pods as the API tells them, reduced to PodFacts: what pods have in common is held once, nothing raw is kept."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Any

from kops_py.connect.base import JsonObject, KubeApi
from kops_py.model.quantity import millis, whole
from kops_py.model.workloads import Owner, PodFacts, PodPhase

MIRROR = "kubernetes.io/config.mirror"
"""Annotation of a static pod's image in the API."""

_PHASES = {str(phase): phase for phase in PodPhase}
_SHARED = 8192
"""How many different sets of labels and the like are held once; replicas come close together in a list."""


def pods_on_node(
    api: KubeApi, node: str, *, pod_selector: str = "", cached: bool = False, timeout_s: float | None = None
) -> list[PodFacts]:
    """Return the pods bound to a node, by one list; ``pod_selector`` is a label selector. Raises KubeError.

    ``cached``: what the API server holds in memory, which may be a moment old. Without, old servers read every pod
    of the cluster from etcd for it: right for a first and a last look, wrong for looking twice a second.
    """
    params = {"fieldSelector": f"spec.nodeName={node}"}
    if pod_selector:
        params["labelSelector"] = pod_selector
    if cached:
        params["resourceVersion"] = "0"
    return [pod_facts(item) for item in api.items("/api/v1/pods", params=params, timeout_s=timeout_s)]


def ready_condition(api: KubeApi, node: str, *, timeout_s: float | None = None) -> JsonObject:
    """Return the condition Ready of a node, empty where there is none; raises KubeError."""
    status = (api.get_or_none(f"/api/v1/nodes/{node}", timeout_s=timeout_s) or {}).get("status") or {}
    return next((c for c in status.get("conditions") or () if c.get("type") == "Ready"), {})


def pod_facts(obj: JsonObject) -> PodFacts:
    """Return the facts of a Pod object; raises ValueError when a request is not a quantity."""
    metadata, spec, status = obj["metadata"], obj.get("spec") or {}, obj.get("status") or {}
    volumes = spec.get("volumes") or ()
    return PodFacts(
        namespace=sys.intern(metadata["namespace"]),
        name=metadata["name"],
        uid=metadata["uid"],
        node=sys.intern(spec.get("nodeName") or ""),
        phase=_PHASES.get(status.get("phase") or "", PodPhase.UNKNOWN),
        ready=any(c.get("type") == "Ready" and c.get("status") == "True" for c in status.get("conditions") or ()),
        owner=_controller(metadata.get("ownerReferences") or ()),
        mirror=MIRROR in (metadata.get("annotations") or ()),
        deleting_since=metadata.get("deletionTimestamp") or "",
        labels=_map(metadata.get("labels")),
        empty_dir=any("emptyDir" in v for v in volumes),
        host_path=any("hostPath" in v for v in volumes),
        claims=tuple(_claims(metadata["name"], volumes)) if volumes else (),
        cpu_millis=_requested(spec, "cpu"),
        memory_bytes=_requested(spec, "memory"),
        node_selector=_map(spec.get("nodeSelector")),
        tolerations=_tolerations(spec.get("tolerations") or ()),
        has_node_affinity=bool(
            ((spec.get("affinity") or {}).get("nodeAffinity") or {}).get(
                "requiredDuringSchedulingIgnoredDuringExecution"
            )
        ),
    )


def _controller(references: Iterable[Mapping[str, Any]]) -> Owner | None:
    for reference in references:
        if reference.get("controller"):
            return _owner(reference["kind"], reference["name"], reference.get("apiVersion") or "")
    return None


@lru_cache(maxsize=_SHARED)
def _owner(kind: str, name: str, api_version: str) -> Owner:
    return Owner(kind, name, api_version)


def _map(labels: Mapping[str, str] | None) -> Mapping[str, str]:
    return _shared_map(tuple(labels.items())) if labels else _NOTHING


@lru_cache(maxsize=_SHARED)
def _shared_map(items: tuple[tuple[str, str], ...]) -> Mapping[str, str]:
    return MappingProxyType({sys.intern(key): value for key, value in items})


_NOTHING: Mapping[str, str] = MappingProxyType({})


def _tolerations(found: Iterable[Mapping[str, Any]]) -> tuple[tuple[str, str, str, str], ...]:
    return _shared_tolerations(
        tuple((t.get("key") or "", t.get("operator") or "", t.get("value") or "", t.get("effect") or "") for t in found)
    )


@lru_cache(maxsize=_SHARED)
def _shared_tolerations(found: tuple[tuple[str, str, str, str], ...]) -> tuple[tuple[str, str, str, str], ...]:
    return found


def _claims(pod: str, volumes: Iterable[Mapping[str, Any]]) -> Iterable[str]:
    for volume in volumes:
        if claim := volume.get("persistentVolumeClaim"):
            yield claim["claimName"]
        elif "ephemeral" in volume:
            # the claim of a generic ephemeral volume is named after pod and volume
            yield f"{pod}-{volume['name']}"


def _requested(spec: Mapping[str, Any], resource: str) -> int:
    """Return what the scheduler counts for a pod (k8s.io/component-helpers, resource/helpers.go: PodRequests).

    Init containers run one after the other beside the sidecars started before them; those (restartPolicy Always)
    stay with the main containers. Requests of the pod as a whole (v1.32 on) take the containers' place.
    """
    read = millis if resource == "cpu" else whole
    main = sum(_request(c, resource, read) for c in spec.get("containers") or ())
    sidecars = largest_init = 0
    for container in spec.get("initContainers") or ():
        amount = _request(container, resource, read)
        if container.get("restartPolicy") == "Always":
            sidecars += amount
            largest_init = max(largest_init, sidecars)
        else:
            largest_init = max(largest_init, sidecars + amount)
    total = max(main + sidecars, largest_init)
    if resource in ((spec.get("resources") or {}).get("requests") or ()):
        total = _request(spec, resource, read)
    overhead = (spec.get("overhead") or {}).get(resource)
    return total + (read(str(overhead)) if overhead is not None else 0)


def _request(container: Mapping[str, Any], resource: str, read: Callable[[str], int]) -> int:
    amount = ((container.get("resources") or {}).get("requests") or {}).get(resource)
    return 0 if amount is None else read(str(amount))
