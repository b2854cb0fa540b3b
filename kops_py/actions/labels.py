"""Labels and taints of a node, as the inventory names them; what others set stays."""

from __future__ import annotations

from typing import Any

from kops_py.actions.deps import Deps
from kops_py.actions.waiting import remaining_s
from kops_py.connect.base import JsonObject
from kops_py.engine.run import StepContext
from kops_py.model.actions import LabelNode
from kops_py.model.errors import KubeError

_ATTEMPTS_S = 0.5


def label_node(deps: Deps, action: LabelNode, ctx: StepContext) -> None:
    """Set labels and taints; raises KubeError. Taints are a list, so a conflicting writer means trying again."""
    api, path = deps.kube.api(), f"/api/v1/nodes/{action.node}"
    while True:
        node = api.get(path)
        taints = merged_taints(node.get("spec", {}).get("taints") or [], action.taints)
        body: JsonObject = {
            "metadata": {
                "resourceVersion": node["metadata"]["resourceVersion"],
                "labels": {**node["metadata"].get("labels", {}), **action.labels},
            },
            "spec": {"taints": taints},
        }
        try:
            api.patch(path, body, content_type="application/merge-patch+json")
        except KubeError as error:
            if error.status != 409:
                raise
            ctx.progress("somebody else changed the node at the same time", waiting=True)
            remaining_s(ctx, "every attempt met another change of the node at the same moment")
            ctx.cancel.wait(_ATTEMPTS_S)
            continue
        return


def merged_taints(existing: list[dict[str, Any]], wanted: tuple[str, ...]) -> list[dict[str, Any]]:
    """Return the existing taints with the wanted ones (``key=value:Effect``) put in their place."""
    merged = {(t["key"], t["effect"]): t for t in existing}
    for text in wanted:
        head, _, effect = text.rpartition(":")
        key, _, value = head.partition("=")
        merged[key, effect] = {"key": key, "effect": effect, **({"value": value} if value else {})}
    return list(merged.values())
