"""Cordon and uncordon a node, so that kops-py never takes away a cordon that is somebody else's.

Mark and cordon are one patch, guarded by the node's resourceVersion: there is no moment, and no crash, after which
a person's cordon carries our mark or ours carries none.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum

from kops_py.connect.base import JsonObject, KubeApi
from kops_py.model.cordon import CORDONED, UNFINISHED, Cordon, read_cordon, read_mark
from kops_py.model.errors import KubeError

_ATTEMPTS = 20
"""Against others that change the node at the same moment; a kubelet does so every few seconds at most."""


class CordonState(StrEnum):
    """What a cordon or an uncordon found and did."""

    CORDONED = "cordoned"
    CORDONED_EARLIER = "cordoned-earlier"
    """By an earlier run of kops-py; it stays ours."""
    FOREIGN = "foreign"
    """A person's cordon, or another program's; left as it is."""
    UNCORDONED = "uncordoned"
    UNCORDONED_BY_OTHERS = "uncordoned-by-others"
    """Somebody had uncordoned it since we cordoned it; only our mark was taken away."""
    NOT_CORDONED = "not-cordoned"


@dataclass(frozen=True, slots=True)
class CordonResult:
    """How a node stands after a cordon or an uncordon; ``cordon`` is the mark that is or was on it, if it is ours."""

    node: str
    state: CordonState
    cordon: Cordon | None = None

    @property
    def ours(self) -> bool:
        """Whether the node is cordoned by kops-py now."""
        return self.state in (CordonState.CORDONED, CordonState.CORDONED_EARLIER)

    @property
    def message(self) -> str:
        """Say it in one sentence."""
        match self.state:
            case CordonState.CORDONED:
                return "cordoned"
            case CordonState.CORDONED_EARLIER:
                return f"was cordoned by kops-py already ({self.cordon})"
            case CordonState.FOREIGN:
                return (
                    "cordoned by somebody else, and stays so; when nobody needs that any more: "
                    f"kubectl uncordon {self.node}"
                )
            case CordonState.UNCORDONED:
                return "uncordoned"
            case CordonState.UNCORDONED_BY_OTHERS:
                return "somebody else had uncordoned it since kops-py cordoned it"
            case CordonState.NOT_CORDONED:
                return "was not cordoned"


def cordon(api: KubeApi, node: str, *, by: str, run_id: str) -> CordonResult:
    """Cordon a node and mark the cordon as ours; one that is cordoned already is left as it is.

    ``by`` says who runs kops-py and where. Raises KubeError.
    """
    mark = mark_of(by, run_id)

    def decide(found: JsonObject) -> tuple[CordonResult, JsonObject | None]:
        held = _own_cordon(found)
        if not _is_cordoned(found):
            patch = {"metadata": {"annotations": {CORDONED: mark.to_annotation()}}, "spec": {"unschedulable": True}}
            return CordonResult(node, CordonState.CORDONED, mark), patch
        if held is None:
            return CordonResult(node, CordonState.FOREIGN), None
        # this very mark: an attempt of ours whose answer was lost
        state = CordonState.CORDONED if held == mark else CordonState.CORDONED_EARLIER
        return CordonResult(node, state, held), None

    return _change(api, node, decide)


def uncordon(api: KubeApi, node: str, *, foreign: bool = False, unfinished: Cordon | None = None) -> CordonResult:
    """Take away our cordon and our marks; a cordon that is not ours only when ``foreign``. Raises KubeError.

    ``unfinished`` is put on the node in the same patch: its chain goes on after this. Without it, no mark stays.
    """
    removed_by_us = False
    left = None if unfinished is None else unfinished.to_annotation()

    def decide(found: JsonObject) -> tuple[CordonResult, JsonObject | None]:
        nonlocal removed_by_us
        mark, held = read_cordon(_annotations(found)), _own_cordon(found)
        unmark: JsonObject = {"metadata": {"annotations": {CORDONED: None, UNFINISHED: left}}}
        marks_are_right = mark is None and (UNFINISHED in _annotations(found)) == (left is not None)
        if not _is_cordoned(found):
            if mark is not None:
                return CordonResult(node, CordonState.UNCORDONED_BY_OTHERS, mark), unmark
            # gone since our own attempt, whose answer was lost
            state = CordonState.UNCORDONED if removed_by_us else CordonState.NOT_CORDONED
            return CordonResult(node, state), None if marks_are_right else unmark
        if held is None and not foreign:
            return CordonResult(node, CordonState.FOREIGN), None if marks_are_right else unmark
        removed_by_us = True
        return CordonResult(node, CordonState.UNCORDONED, held), {**unmark, "spec": {"unschedulable": None}}

    return _change(api, node, decide)


def mark_unfinished(api: KubeApi, node: str, *, by: str, run_id: str) -> None:
    """Mark a node whose chain has begun and ends with what cannot be seen on it; raises KubeError."""
    patch: JsonObject = {"metadata": {"annotations": {UNFINISHED: mark_of(by, run_id).to_annotation()}}}
    _change(api, node, lambda _: (CordonResult(node, CordonState.NOT_CORDONED), patch))


def finish(api: KubeApi, node: str) -> None:
    """Take the mark of an unfinished chain away, if there is one; raises KubeError."""

    def decide(found: JsonObject) -> tuple[CordonResult, JsonObject | None]:
        patch: JsonObject = {"metadata": {"annotations": {UNFINISHED: None}}}
        return CordonResult(node, CordonState.NOT_CORDONED), patch if UNFINISHED in _annotations(found) else None

    _change(api, node, decide)


def keep_reason(api: KubeApi, node: str, reason: str) -> None:
    """Write into our marks on a node why its chain has ended; a node without one is left alone. Raises KubeError."""

    def decide(found: JsonObject) -> tuple[CordonResult, JsonObject | None]:
        marks = {key: read_mark(_annotations(found), key) for key in (CORDONED, UNFINISHED)}
        changed = {k: replace(m, reason=reason).to_annotation() for k, m in marks.items() if m is not None}
        patch: JsonObject = {"metadata": {"annotations": changed}}
        return CordonResult(node, CordonState.CORDONED_EARLIER), patch if changed else None

    _change(api, node, decide)


def mark_of(by: str, run_id: str) -> Cordon:
    """Return a mark of this run, made now."""
    return Cordon(by, run_id, datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"))


def _change(
    api: KubeApi, node: str, decide: Callable[[JsonObject], tuple[CordonResult, JsonObject | None]]
) -> CordonResult:
    """Read the node, decide, and patch it if it is still as it was read; read again when it is not."""
    path = f"/api/v1/nodes/{node}"
    why = ""
    for _ in range(_ATTEMPTS):
        found = api.get_or_none(path)
        if found is None:
            raise KubeError(
                f"{node} is not a node of the cluster", where=path, hint="kops-py status shows them", status=404
            )
        result, patch = decide(found)
        if patch is None:
            return result
        patch["metadata"]["resourceVersion"] = found["metadata"]["resourceVersion"]
        try:
            api.patch(path, patch, content_type="application/merge-patch+json")
        except KubeError as error:
            if error.status != 409:
                raise
            why = error.why
            continue
        return result
    raise KubeError(
        f"{node} was changed by others at every one of {_ATTEMPTS} attempts",
        where=path,
        why=why,
        hint="find out what writes to the node all the time: kubectl get node "
        f"{node} -o yaml --show-managed-fields; then run the same command again",
        status=409,
    )


def _annotations(node: JsonObject) -> dict[str, str]:
    return node["metadata"].get("annotations") or {}


def _is_cordoned(node: JsonObject) -> bool:
    return bool((node.get("spec") or {}).get("unschedulable"))


def _own_cordon(node: JsonObject) -> Cordon | None:
    """Return our mark when the cordon of this node is ours.

    A person may uncordon a node of ours and cordon it again later: our mark is still there, but the API server's
    record of who set which field (managedFields) then names another one for the cordon than for the mark.
    """
    cordoned_by = _managers(node, ("f:spec", "f:unschedulable"))
    marked_by = _managers(node, ("f:metadata", "f:annotations", f"f:{CORDONED}"))
    if cordoned_by and marked_by and not cordoned_by & marked_by:
        return None
    return read_cordon(_annotations(node))


def _managers(node: JsonObject, way: tuple[str, ...]) -> set[str]:
    """Return the names of those who last set the field at this place, as far as the server recorded them."""
    found = set()
    for entry in node["metadata"].get("managedFields") or []:
        fields = entry.get("fieldsV1") or {}
        for part in way:
            fields = fields.get(part) if isinstance(fields, dict) else None
        if fields is not None:
            found.add(str(entry.get("manager")))
    return found
