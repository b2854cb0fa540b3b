"""Drains side by side that take each other's places: the later ones give theirs back, and go on when one has ended.

Nodes that are cordoned at once can leave what is evicted nowhere to go. Its budgets then allow no more evictions on any
of them, and no drain would come to its end: with all workers at once that is so from the second pod on.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager

from kops_py.actions.cordon import cordon, uncordon
from kops_py.actions.waiting import remaining_s
from kops_py.connect.base import JsonObject, KubeApi
from kops_py.engine.run import StepContext
from kops_py.model.errors import KubeError

_POLL_S = 0.5
_GONE = 404
_UNSCHEDULED = {"fieldSelector": "spec.nodeName=,status.phase=Pending"}


class Turns:
    """The drains of a run that are under way, in the order in which they began; thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._under_way: list[str] = []
        self._ended = 0

    @contextmanager
    def drain_of(self, node: str) -> Iterator[None]:
        """Count a drain as under way within the block."""
        with self._lock:
            self._under_way.append(node)
        try:
            yield
        finally:
            with self._lock:
                self._under_way.remove(node)
                self._ended += 1

    def must_wait(self, node: str, ended: int) -> bool:
        """Whether another drain began before this one, and none has ended since ``ended``."""
        with self._lock:
            return self._under_way[0] != node and self._ended == ended

    @property
    def ended(self) -> int:
        """Return how many drains have ended."""
        with self._lock:
            return self._ended


def give_place_back(
    turns: Turns,
    get_api: Callable[[], KubeApi],
    node: str,
    namespaces: Collection[str],
    until: float,
    ctx: StepContext,
    *,
    by: str,
    run_id: str,
) -> None:
    """Let a node take pods again while an earlier drain needs that; returns when it is cordoned, by ``until`` at last.

    Does nothing for the first of the drains, nor where no pod of these namespaces lacks a node, nor for a cordon of
    somebody else's. Raises DeadlineError, KubeError when the node is gone, CancelledError; what ends here otherwise
    leaves a node that is not cordoned, and unmarked.
    """
    ended = turns.ended
    if not turns.must_wait(node, ended):
        return
    try:
        waiting = _without_node(get_api(), namespaces)
    except KubeError:
        return  # the next time will do
    if not waiting:
        return
    try:
        if uncordon(get_api(), node).cordon is None:
            return
    except KubeError as error:
        ctx.progress(str(error), waiting=True)  # it may have been done: it is cordoned again below
    else:
        _wait(turns, node, ended, waiting, until, ctx)
    _cordon_again(get_api, node, ctx, by=by, run_id=run_id)


def _wait(turns: Turns, node: str, ended: int, waiting: list[str], until: float, ctx: StepContext) -> None:
    ctx.journal("place-given-back", node=node, pods=waiting[:20])
    more = f" and {len(waiting) - 1} more" if len(waiting) > 1 else ""
    told = f"takes pods again until another drain has ended: {waiting[0]}{more} can run nowhere else"
    while turns.must_wait(node, ended) and time.monotonic() < until:
        ctx.progress(told, waiting=True)
        ctx.cancel.wait(_POLL_S)
        ctx.cancel.check()


def _cordon_again(get_api: Callable[[], KubeApi], node: str, ctx: StepContext, *, by: str, run_id: str) -> None:
    """Cordon for good: what is drained must not take pods, however often the API does not answer."""
    while True:
        try:
            cordon(get_api(), node, by=by, run_id=run_id)
        except KubeError as error:
            if error.status == _GONE:
                raise
            ctx.progress(f"not cordoned again yet: {error}", waiting=True)
            remaining_s(ctx, str(error))
            ctx.cancel.wait(_POLL_S)
        else:
            ctx.progress("cordoned again")
            return


def _without_node(api: KubeApi, namespaces: Collection[str]) -> list[str]:
    """Return the pods of these namespaces that no node takes; raises KubeError."""
    return [
        f"{namespace}/{pod['metadata']['name']}"
        for namespace in sorted(namespaces)
        for pod in api.items(f"/api/v1/namespaces/{namespace}/pods", params=_UNSCHEDULED)
        if _is_unschedulable(pod)
    ]


def _is_unschedulable(pod: JsonObject) -> bool:
    conditions = (pod.get("status") or {}).get("conditions") or []
    return any(c.get("type") == "PodScheduled" and c.get("reason") == "Unschedulable" for c in conditions)
