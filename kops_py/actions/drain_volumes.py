"""Volumes that are still attached to a node whose pods are gone.

A volume is owed when no pod on the node uses it any more: the attach-detach controller has yet to take it away.
That holds after a crash of this program, too, which no longer knows whose volumes they were.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from kops_py.connect.base import JsonObject, KubeApi
from kops_py.model.workloads import PodFacts
from kops_py.observe.pods import pods_on_node

_ATTACHMENTS = "/apis/storage.k8s.io/v1/volumeattachments"
_CSI = "kubernetes.io/csi/"


@dataclass(frozen=True, slots=True)
class Attached:
    """Volumes attached to a node: ``owed`` are to be detached, of ``unknown`` it cannot be told whose they are."""

    owed: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()


def attached_volumes(api: KubeApi, node: str, *, timeout_s: float) -> Attached:
    """Return the volumes that no pod on the node uses any more; ``timeout_s`` is for each request.

    Looks at VolumeAttachments and at the node's status.volumesAttached and volumesInUse. Raises KubeError.
    """
    found = api.get_or_none(f"/api/v1/nodes/{node}", timeout_s=timeout_s)
    status = (found or {}).get("status") or {}
    names = set(status.get("volumesInUse") or ()) | {str(v["name"]) for v in status.get("volumesAttached") or ()}
    params = {"resourceVersion": "0"}  # from memory: a large cluster has many, and few of this node
    attachments = [
        a
        for a in api.items(_ATTACHMENTS, params=params, timeout_s=timeout_s)
        if (a.get("spec") or {}).get("nodeName") == node
    ]
    if found is None or not (names or attachments):
        return Attached()
    in_use, in_use_names = _volumes_of(api, pods_on_node(api, node, timeout_s=timeout_s), timeout_s)
    return sort_volumes(api, attachments, names - in_use_names, in_use, timeout_s=timeout_s)


def sort_volumes(
    api: KubeApi, attachments: Iterable[JsonObject], names: set[str], in_use: set[str], *, timeout_s: float
) -> Attached:
    """Tell owed volumes from those of pods that stay (``in_use``, PersistentVolumes) and from unknown ones.

    ``names`` are the node's own names of volumes, of which those of other plug-ins than CSI do not tell whose.
    """
    owed, unknown = set(), set()
    for attachment in attachments:
        source = attachment["spec"].get("source") or {}
        volume = source.get("persistentVolumeName")
        if volume is None:
            unknown.add(f"VolumeAttachment {attachment['metadata']['name']}")
        elif volume not in in_use:
            owed.add(str(volume))
            names = names - {_node_name_of(api, str(volume), timeout_s)}
        else:
            names = names - {_node_name_of(api, str(volume), timeout_s)}
    owed |= {name for name in names if name.startswith(_CSI)}
    unknown |= {name for name in names if not name.startswith(_CSI)}
    return Attached(tuple(sorted(owed)), tuple(sorted(unknown)))


def _volumes_of(api: KubeApi, pods: Iterable[PodFacts], timeout_s: float) -> tuple[set[str], set[str]]:
    """Return the PersistentVolumes these pods use, and the names under which the node knows them."""
    volumes, names = set(), set()
    for namespace, claim in sorted({(p.namespace, c) for p in pods if not p.finished for c in p.claims}):
        path = f"/api/v1/namespaces/{namespace}/persistentvolumeclaims/{claim}"
        found = api.get_or_none(path, timeout_s=timeout_s) or {}
        if volume := (found.get("spec") or {}).get("volumeName"):
            volumes.add(str(volume))
            names.add(_node_name_of(api, str(volume), timeout_s))
    return volumes, names


def _node_name_of(api: KubeApi, volume: str, timeout_s: float) -> str:
    """Return a CSI volume's name in the node's status; empty for others and for volumes that are gone."""
    found = api.get_or_none(f"/api/v1/persistentvolumes/{volume}", timeout_s=timeout_s) or {}
    csi = (found.get("spec") or {}).get("csi")
    return f"{_CSI}{csi['driver']}^{csi['volumeHandle']}" if csi else ""
