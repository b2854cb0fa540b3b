"""What somebody else changed in the add-ons that kubeadm upgrade writes anew."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from kops_py.connect.base import JsonObject, KubeApi

_ADDONS = {
    "Deployment coredns": "/apis/apps/v1/namespaces/kube-system/deployments/coredns",
    "DaemonSet kube-proxy": "/apis/apps/v1/namespaces/kube-system/daemonsets/kube-proxy",
}
_OWN = ("kubeadm", "kube-controller-manager")
_HARMLESS = ("spec.replicas", "spec.template.metadata.annotations.kubectl.kubernetes.io/restartedAt")
"""kubeadm keeps the number of replicas; the other is what ``kubectl rollout restart`` leaves."""


def observe_addon_changes(api: KubeApi) -> tuple[str, ...]:
    """Name the add-ons whose spec others than kubeadm wrote, with who and what; raises KubeError.

    The API server's managedFields tell it, so that nobody has to know what each kubeadm would write.
    """
    found = []
    for name, path in _ADDONS.items():
        for manager, fields in changed_fields(api.get_or_none(path) or {}).items():
            more = f" and {len(fields) - 3} more" if len(fields) > 3 else ""
            found.append(f"{name}: {', '.join(fields[:3])}{more}, written by {manager}")
    return tuple(found)


def changed_fields(addon: JsonObject) -> dict[str, list[str]]:
    """Return the fields of an add-on's spec that each manager but kubeadm wrote, as dotted paths."""
    found: dict[str, list[str]] = {}
    for entry in (addon.get("metadata") or {}).get("managedFields") or ():
        manager = str(entry.get("manager") or "?")
        if manager in _OWN:
            continue
        spec = (entry.get("fieldsV1") or {}).get("f:spec") or {}
        fields = [path for path in _leaves(spec, "spec") if path not in _HARMLESS]
        if fields:
            found.setdefault(manager, []).extend(fields)
    return found


def _leaves(fields: Mapping[str, Any], path: str) -> Iterator[str]:
    """Yield the paths that end here; ``f:`` is a field, ``k:`` an item of a list by its keys, ``v:`` by its value."""
    inner = {key: value for key, value in fields.items() if key != "."}
    if not inner:
        yield path
    for key, value in inner.items():
        kind, _, name = key.partition(":")
        if kind == "f":
            yield from _leaves(value or {}, f"{path}.{name}")
        else:
            yield from _leaves(value or {}, f"{path}[{name}]")
