"""Drain a node: evict its pods as far as policy and disruption budgets allow, and wait until they are gone.

The node is listed again and again as a whole, so that pods which come late are found, a lost answer does no harm, and
an API server that restarts is ridden out. What is said to be gone in the end was read from etcd, not from a cache.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Collection
from concurrent.futures import Future, ThreadPoolExecutor, wait
from types import MappingProxyType
from typing import TypeVar

from kops_py.actions import drain_errors
from kops_py.actions.deps import HasApi
from kops_py.actions.drain_roster import Roster, Tracked
from kops_py.actions.drain_volumes import Attached, attached_volumes
from kops_py.actions.evict import Answer, Attempt, budgets_of, delete, evict, eviction_version
from kops_py.connect.base import JsonObject, KubeApi
from kops_py.engine.run import StepContext
from kops_py.model.drain import DrainPolicy
from kops_py.model.drain_report import DrainReport
from kops_py.model.errors import ConfigError, KubeError
from kops_py.model.selectors import parse_selector
from kops_py.model.workloads import PodFacts
from kops_py.observe.pods import pods_on_node, ready_condition

_PARALLEL = 32
_REQUEST_S, _REQUEST_AGAIN_S = 5.0, 15.0
"""For one request, repetitions by the connector included: a first one short, so that an outage is told soon."""
_LAST_LOOK_S = 5.0
"""After the deadline, to tell what holds the pods that are left."""
_FIRST_POLL_S, _POLL_S, _MANY_POLL_S, _MANY = 0.2, 0.5, 1.0, 250
_VOLUMES_POLL_S = 1.0
_KUBELET_POLL_S, _KUBELET_SILENT_S = 5.0, 30.0
"""How often the node is looked at while pods are to end, and for how long its kubelet may be unheard of (Ready is
Unknown, which the node controller says 40 s after the last report): without it no pod ends."""
_STUCK_S = 10.0
"""How long budgets alone hold a drain before its caller is told: longer than a pod elsewhere takes to become ready."""
_SLICE_S = 0.1
_PASSING = frozenset({0, 429, 500, 502, 503, 504})

T = TypeVar("T")


def _untold(_report: DrainReport) -> None:
    """Take the report of a drain that did not end well and keep it nowhere."""


def _unhelped(_namespaces: Collection[str], _until: float) -> None:
    """Do nothing for a drain that budgets hold."""


def drain(
    api_source: HasApi,
    node: str,
    policy: DrainPolicy,
    ctx: StepContext,
    unfinished: Callable[[DrainReport], None] = _untold,
    stuck: Callable[[Collection[str], float], None] = _unhelped,
) -> DrainReport:
    """Remove from a node all pods that do not belong to it, and return what was done; the cordon is the caller's.

    ``unfinished`` is given what was done until then, before the error of a drain that had begun goes on. ``stuck`` is
    called with the budgets' namespaces each time budgets alone have held the drain for a while, and may take until the
    time it is given (monotonic).

    Ends within ``policy.timeout_s`` and the step's own deadline. Safe to repeat after any interruption. Raises
    KubeError: pods the policy refuses (before anything is evicted), pods the API server refuses for good, and at the
    deadline what is left and why; ConfigError for a selector that is not one; CancelledError.
    """
    return _Drain(api_source, node, policy, ctx, stuck).run(unfinished)


class _Drain:
    """One drain of one node; the calling thread decides, the pool only carries requests."""

    def __init__(
        self,
        source: HasApi,
        node: str,
        policy: DrainPolicy,
        ctx: StepContext,
        stuck: Callable[[Collection[str], float], None],
    ) -> None:
        self._source, self._node, self._policy, self._ctx, self._stuck = source, node, policy, ctx, stuck
        self._started = time.monotonic()
        self._deadline = min(self._started + policy.timeout_s, ctx.deadline_at)
        self._roster = Roster(node, policy)
        self._api: KubeApi | None = None
        self._trouble = ""
        self._said = ""
        self._in_flight: dict[Future[Attempt], Tracked] = {}
        self._budgets_s: dict[str, float] = {}
        self._held_s = self._ending_s = 0.0
        self._kubelet_asked = self._started
        self._silent_since: float | None = None
        self._stuck_since: float | None = None

    def run(self, unfinished: Callable[[DrainReport], None]) -> DrainReport:
        _check_selectors(self._policy)
        roster = self._roster
        roster.observe(self._pods(self._source.api(), cached=False))
        if roster.refused:
            raise drain_errors.not_allowed(self._node, roster.refused.values(), self._policy, begun=False)
        if self._policy.disable_eviction:
            self._say("disruption budgets are not asked: pods are deleted, not evicted (disable_eviction)")
        try:
            if roster.going:
                pool = ThreadPoolExecutor(min(_PARALLEL, len(roster.going) + 1), "kops-drain")
                try:
                    self._empty(pool)
                finally:
                    pool.shutdown(wait=True, cancel_futures=True)
            volumes_s, unknown = self._wait_for_volumes()
        except BaseException:
            # what was under way has ended by now; answers that nobody has looked at yet took pods, too
            self._take({f for f in self._in_flight if f.done() and not f.cancelled() and f.exception() is None})
            unfinished(self._report())
            raise
        return self._report(volumes_s, unknown)

    def _report(self, volumes_s: float = 0.0, unknown: tuple[str, ...] = ()) -> DrainReport:
        return dataclasses.replace(
            self._roster.report(),
            duration_s=time.monotonic() - self._started,
            budgets_s=MappingProxyType(self._budgets_s),
            waited_for_budgets_s=self._held_s,
            waited_for_termination_s=self._ending_s,
            waited_for_volumes_s=volumes_s,
            volumes_left=unknown,
        )

    def _empty(self, pool: ThreadPoolExecutor) -> None:
        """Evict until a list read from etcd shows that nothing is left to go."""
        poll_s, certain = _FIRST_POLL_S, False
        while True:
            begun = time.monotonic()
            self._check_time()
            if not certain:
                self._start(pool)
                self._collect(begun + poll_s)
                self._raise_refused()
                poll_s = min(poll_s * 1.5, _POLL_S if len(self._roster.going) < _MANY else _MANY_POLL_S)
            cached = not certain
            pods = self._ask(lambda api, cached=cached: self._pods(api, cached=cached))  # type: ignore[misc]
            if pods is not None:
                self._roster.observe(pods)
            self._account(time.monotonic() - begun)
            self._check_kubelet()
            self._check_stuck()
            empty = pods is not None and not self._roster.going
            if empty and certain:
                break
            certain = empty
            self._tell()
        self._take(wait(self._in_flight).done)  # whose pods are gone already: the report wants to know by whom
        if self._roster.refused:
            raise drain_errors.not_allowed(self._node, self._roster.refused.values(), self._policy, begun=True)

    def _check_kubelet(self) -> None:
        """Give up when all that is left is to be ended by a kubelet that is gone: a node without power, a cut cable."""
        now = time.monotonic()
        if not self._roster.all_accepted:
            self._silent_since = None
            return
        if now - self._kubelet_asked < _KUBELET_POLL_S:
            return
        self._kubelet_asked = now
        ready = self._ask(lambda api: ready_condition(api, self._node, timeout_s=self._request_s()))
        if ready is None:
            return
        if ready.get("status") != "Unknown":
            self._silent_since = None
            return
        if self._silent_since is None:
            self._silent_since = now
        if now - self._silent_since >= _KUBELET_SILENT_S:
            raise drain_errors.kubelet_gone(self._roster, str(ready.get("lastTransitionTime") or ""))

    def _check_stuck(self) -> None:
        """Tell the caller when nothing ends and nothing goes, for budgets alone, and has not for a while."""
        held, now = self._roster.held(), time.monotonic()
        if not held or len(self._roster.going) > sum(map(len, held.values())):
            self._stuck_since = None
            return
        if self._stuck_since is None:
            self._stuck_since = now
        if now - self._stuck_since >= _STUCK_S:
            namespaces = {budget.partition("/")[0] for budget in held}
            self._stuck(namespaces, self._deadline)
            self._stuck_since = None

    def _start(self, pool: ThreadPoolExecutor) -> None:
        """Hand every pod that is due to the pool."""
        due = self._roster.due(time.monotonic())
        if not due:
            return
        if not self._policy.disable_eviction:
            # here and not in every worker: none may wait for another one's discovery
            version = self._ask(lambda api: eviction_version(api, timeout_s=self._request_s()))
            if version is None:
                return
        api = self._api
        if api is None:
            return
        for tracked in due:
            tracked.in_flight = True
            self._in_flight[pool.submit(self._attempt, api, tracked)] = tracked

    def _attempt(self, api: KubeApi, tracked: Tracked) -> Attempt:
        """Run in the pool."""
        self._ctx.cancel.check()
        if time.monotonic() >= self._deadline:
            return Attempt(Answer.UNANSWERED, "not tried before the time was up")
        remove = delete if self._roster.deletes(tracked) else evict
        return remove(api, tracked.pod, grace_period_s=self._policy.grace_period_s, timeout_s=self._request_s())

    def _collect(self, until: float) -> None:
        """Take answers, and wait with them until ``until``."""
        while (left_s := until - time.monotonic()) > 0:
            if self._ctx.cancel.wait(0):
                self._ctx.cancel.check()
            if not self._in_flight:
                self._ctx.cancel.wait(left_s)
                return
            self._take(wait(self._in_flight, timeout=min(left_s, _SLICE_S)).done)
            if self._roster.failed():
                return  # the drain ends here: no more evictions than are under way
        self._take({future for future in self._in_flight if future.done()})

    def _take(self, done: set[Future[Attempt]]) -> None:
        for future in done:
            tracked = self._in_flight.pop(future)
            attempt = future.result()
            if attempt.answer is Answer.UNANSWERED:
                self._trouble = attempt.why
            self._roster.answered(tracked, attempt, time.monotonic())

    def _raise_refused(self) -> None:
        failed = self._roster.failed()
        if not failed:
            return

        def names(pod: PodFacts) -> list[str]:
            try:
                return budgets_of(self._api, pod, timeout_s=_LAST_LOOK_S) if self._api else []
            except KubeError:
                return []  # the error is told without them

        raise drain_errors.refused_for_good(self._node, failed, names)

    def _wait_for_volumes(self) -> tuple[float, tuple[str, ...]]:
        """Wait until volumes that no pod uses are detached; returns the seconds and what could not be attributed."""
        begun, limit_s = time.monotonic(), self._policy.volumes_timeout_s
        if limit_s <= 0:
            return 0.0, ()
        until = min(begun + limit_s, self._deadline)
        seen: Attached | None = None
        while True:
            seen = self._ask(lambda api: attached_volumes(api, self._node, timeout_s=self._request_s(until))) or seen
            if seen is not None and not seen.owed and not (seen.unknown and self._roster.had_claims):
                break
            waited_s = time.monotonic() - begun
            if time.monotonic() >= until:
                if seen is None or seen.owed:
                    raise drain_errors.volumes_left(self._node, seen.owed if seen else (self._trouble,), waited_s)
                break
            if seen is not None:
                names = seen.owed or seen.unknown
                self._say(f"volumes to be detached: {drain_errors.listed(names, 3)}", waiting=True)
            self._pause(min(_VOLUMES_POLL_S, max(until - time.monotonic(), 0.0)))
        return time.monotonic() - begun, seen.unknown

    # asking

    def _pods(self, api: KubeApi, *, cached: bool) -> list[PodFacts]:
        self._api = api
        return pods_on_node(
            api, self._node, pod_selector=self._policy.pod_selector, cached=cached, timeout_s=self._request_s()
        )

    def _ask(self, question: Callable[[KubeApi], T]) -> T | None:
        """Return the API's answer; None, and the trouble told, when it has none just now. Raises KubeError."""
        try:
            if self._api is None:
                self._api = self._source.api()
            answer = question(self._api)
        except KubeError as error:
            if error.status not in _PASSING:
                raise
            self._api, self._trouble = None, str(error)
            self._say(f"the API does not answer: {error}", waiting=True)
            return None
        self._trouble = ""
        return answer

    def _request_s(self, until: float | None = None) -> float:
        limit_s = _REQUEST_AGAIN_S if self._trouble else _REQUEST_S
        return max(min(limit_s, (self._deadline if until is None else until) - time.monotonic()), 0.5)

    def _pause(self, pause_s: float) -> None:
        if self._ctx.cancel.wait(pause_s):
            self._ctx.cancel.check()

    def _check_time(self) -> None:
        self._ctx.cancel.check()
        if time.monotonic() < self._deadline:
            return
        raise drain_errors.not_done(
            self._roster,
            after_s=time.monotonic() - self._started,
            raw=self._last_look(),
            groups=[g.name for g in self._policy.groups],
            trouble=self._trouble,
        )

    def _last_look(self) -> dict[str, JsonObject]:
        """Return the node's pods as they are, by UID, as far as the API still answers."""
        try:
            api = self._api or self._source.api()
            params = {"fieldSelector": f"spec.nodeName={self._node}"}
            pods = api.items("/api/v1/pods", params=params, timeout_s=_LAST_LOOK_S)
            return {str(p["metadata"]["uid"]): p for p in pods}
        except KubeError:
            return {}

    # telling

    def _account(self, seconds: float) -> None:
        if held := self._roster.held():
            self._held_s += seconds
            for budget in held:
                self._budgets_s[budget] = self._budgets_s.get(budget, 0.0) + seconds
        elif self._roster.all_accepted:
            self._ending_s += seconds

    def _tell(self) -> None:
        """Say what the drain waits for, budgets before all else."""
        roster = self._roster
        if self._api is None or not roster.going:
            return
        if held := roster.held():
            texts = [
                f"budget {name}: {pods[-1].last.why if pods[-1].last else ''} "
                f"(pod {drain_errors.listed([t.pod.id for t in pods], 1)})"
                for name, pods in held.items()
            ]
            self._say("; ".join(texts[:3]) + (f"; and {len(texts) - 3} more" if len(texts) > 3 else ""), waiting=True)
            return
        tried = [t for t in roster.going.values() if t.last and not t.accepted and not t.in_flight]
        troubled = [t for t in tried if t.last and t.last.answer in (Answer.NAMESPACE, Answer.UNANSWERED)]
        ending = [t.pod.id for t in roster.going.values() if t.accepted]
        if troubled and troubled[0].last:
            self._say(f"pod {troubled[0].pod.id}: {troubled[0].last.why}", waiting=True)
        elif ending:
            count = f"{len(ending)} {'pod' if len(ending) == 1 else 'pods'}"
            self._say(f"{count} to end ({drain_errors.listed(ending, 1)})", waiting=True)

    def _say(self, message: str, *, waiting: bool = False) -> None:
        if message != self._said:
            self._said = message
            self._ctx.progress(message, waiting=waiting)


def _check_selectors(policy: DrainPolicy) -> None:
    for selector in (policy.pod_selector, *(group.selector for group in policy.groups)):
        try:
            parse_selector(selector)
        except ValueError as error:
            raise ConfigError(str(error), where="drain settings") from error
