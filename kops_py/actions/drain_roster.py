"""The pods of a node that is drained: who has to go, who may be tried now, what holds the others. No I/O, no clock.

Pods are known by UID: a successor of the same name is another pod.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from kops_py.actions.evict import Answer, Attempt
from kops_py.model.drain import DrainPolicy, Fate, group_number, judge
from kops_py.model.drain_report import DrainReport
from kops_py.model.workloads import CORDON_TAINT, PodFacts, tolerates

FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 5.0
"""Between attempts that a budget refuses; kubectl's is 5 s from the start."""


@dataclass(slots=True)
class Tracked:
    """A pod that has to go; ``accepted`` once the API server took its eviction or it was seen ending."""

    pod: PodFacts
    fate: Fate
    group: int
    accepted: bool = False
    in_flight: bool = False
    due_at: float = 0.0
    tried_at: float = -1.0
    attempts: int = 0
    last: Attempt | None = None

    @property
    def held_by_budget(self) -> str:
        """Return the budget that refused the last attempt, or an empty string."""
        held = self.last is not None and self.last.answer is Answer.BUDGET and not self.accepted
        return self.last.budget if held and self.last is not None else ""


@dataclass(slots=True)
class _Gate:
    """A budget that refused: one of its pods is tried at a time, twice as many after each round that went well."""

    due_at: float
    pause_s: float
    width: int = 1


@dataclass(slots=True)
class Roster:
    """All that is known of the node's pods; the caller brings lists, answers and the time."""

    node: str
    policy: DrainPolicy
    going: dict[str, Tracked] = field(default_factory=dict)
    refused: dict[str, PodFacts] = field(default_factory=dict)
    """Pods the policy does not allow to remove."""
    total: int = 0
    """How many had to go when the drain began."""
    latecomers: int = 0
    """How many pods came to the node while it was drained."""
    _known: set[str] = field(default_factory=set)
    _came_back: set[str] = field(default_factory=set)
    _stayed: dict[str, tuple[str, str]] = field(default_factory=dict)
    _done: dict[str, tuple[PodFacts, str]] = field(default_factory=dict)
    _gates: dict[str, _Gate] = field(default_factory=dict)

    def observe(self, pods: Iterable[PodFacts]) -> None:
        """Take a new list of the node's pods; what is not in it any more is gone."""
        first, seen = not self._known, set()
        self.refused = {}
        for pod in sorted(pods, key=lambda p: (p.namespace, p.name)):
            verdict = judge(pod, self.policy)
            seen.add(pod.uid)
            if not first and pod.uid not in self._known:
                self.latecomers += 1
                if any(tolerates(t, CORDON_TAINT) for t in pod.tolerations):
                    self._came_back.add(pod.uid)
            self._known.add(pod.uid)
            if verdict.fate is Fate.STAYS:
                self._stayed[pod.uid] = (pod.id, verdict.reason)
            elif pod.uid in self._came_back:
                # The scheduler would put it here again each time it is evicted; kubectl looks only once as well.
                self._stayed[pod.uid] = (pod.id, "came while the node was drained, and tolerates its cordon")
            elif verdict.fate is Fate.REFUSED and not pod.deleting_since:
                self.refused[pod.uid] = pod
            else:
                self._track(pod, verdict.fate)
        for uid in [uid for uid in self.going if uid not in seen]:
            self._end(self.going.pop(uid))
        if first:
            self.total = len(self.going)
        self._known |= seen

    def due(self, now: float) -> list[Tracked]:
        """Return the pods to try now, in a stable order: of the earliest group only, and past no closed budget."""
        current = min((t.group for t in self.going.values()), default=0)
        found: list[Tracked] = []
        held: dict[str, list[Tracked]] = {}
        for tracked in self.going.values():
            if tracked.group != current or tracked.accepted or tracked.in_flight:
                continue
            if budget := tracked.held_by_budget:
                held.setdefault(budget, []).append(tracked)
            elif tracked.due_at <= now:
                found.append(tracked)
        for budget, waiting in held.items():
            gate = self._gates[budget]
            if gate.due_at <= now:
                found += sorted(waiting, key=lambda t: t.tried_at)[: gate.width]
        return found

    def answered(self, tracked: Tracked, attempt: Attempt, now: float) -> None:
        """Take the answer to an attempt."""
        before = tracked.held_by_budget
        tracked.in_flight, tracked.tried_at, tracked.last = False, now, attempt
        tracked.attempts += 1
        longest = min(0.5 * 2 ** min(tracked.attempts - 1, 8), LONGEST_PAUSE_S)
        match attempt.answer:
            case Answer.ACCEPTED:
                tracked.accepted = True
                if tracked.pod.uid in self._done:  # a list without the pod was faster than this answer
                    self._done[tracked.pod.uid] = (tracked.pod, self._how(tracked))
                if before:
                    gate = self._gates[before]
                    gate.due_at, gate.pause_s, gate.width = now, FIRST_PAUSE_S, gate.width + 1
            case Answer.BUDGET:
                gate = self._gates.setdefault(attempt.budget, _Gate(now, FIRST_PAUSE_S))
                gate.width = 1
                if gate.due_at <= now:  # the first refusal of this round
                    gate.due_at = now + gate.pause_s
                    gate.pause_s = min(gate.pause_s * 1.5, LONGEST_PAUSE_S)
                gate.due_at = max(gate.due_at, now + attempt.retry_after_s)
            case Answer.NAMESPACE:
                tracked.due_at = now + max(attempt.retry_after_s, LONGEST_PAUSE_S)
            case _:
                # gone: the next list will tell; refusals for good end the drain
                tracked.due_at = now + (attempt.retry_after_s or longest)

    def failed(self) -> list[Tracked]:
        """Return the pods whose last attempt was refused for good."""
        final = (Answer.REFUSED, Answer.SEVERAL_BUDGETS)
        return [t for t in self.going.values() if t.last and t.last.answer in final and not t.accepted]

    def held(self) -> dict[str, list[Tracked]]:
        """Return the pods that wait for a budget, by budget."""
        found: dict[str, list[Tracked]] = {}
        for tracked in self.going.values():
            if budget := tracked.held_by_budget:
                found.setdefault(budget, []).append(tracked)
        return found

    @property
    def all_accepted(self) -> bool:
        """Whether nothing is left to try: what has to go is ending."""
        return bool(self.going) and all(t.accepted for t in self.going.values())

    @property
    def had_claims(self) -> bool:
        """Whether a pod that went had a PersistentVolumeClaim."""
        return any(pod.claims for pod, _ in self._done.values())

    def report(self) -> DrainReport:
        """Return what happened to the pods; times and volumes are the caller's.

        Of a drain that has not ended, a pod counts as removed once the API server took that: nothing calls it back.
        """
        left = sorted(self.going.values(), key=lambda t: t.pod.id)
        ending = [(t.pod, how) for t in left if (how := self._how(t)) != "went"]
        done = sorted([*self._done.values(), *ending], key=lambda entry: entry[0].id)
        removed = [pod for pod, how in done if how != "went" and not pod.finished]
        return DrainReport(
            node=self.node,
            evicted=tuple(pod.id for pod, how in done if how == "evicted"),
            deleted=tuple(pod.id for pod, how in done if how == "deleted"),
            went=tuple(pod.id for pod, how in done if how == "went"),
            stayed=tuple(sorted(self._stayed.values())),
            bypassed_budgets=self.policy.disable_eviction and bool(removed),
            without_controller=tuple(pod.id for pod in removed if pod.owner is None),
            lost_empty_dirs=tuple(pod.id for pod in removed if pod.empty_dir),
            left=tuple(t.pod.id for t in left),
        )

    def deletes(self, tracked: Tracked) -> bool:
        """Whether this pod is removed by a deletion: finished pods, and all when budgets are not to be asked."""
        return self.policy.disable_eviction or tracked.fate is Fate.DELETE

    def _track(self, pod: PodFacts, fate: Fate) -> None:
        tracked = self.going.get(pod.uid)
        if tracked is None:
            tracked = self.going[pod.uid] = Tracked(pod, fate, group_number(pod, self.policy.groups))
        if tracked.last is None or tracked.last.answer is not Answer.ACCEPTED:
            # else it stays as it was when it had to go: a pod that ends may show as finished before it is gone
            tracked.pod, tracked.fate = pod, fate
        tracked.accepted = tracked.accepted or bool(pod.deleting_since)

    def _end(self, tracked: Tracked) -> None:
        self._done.setdefault(tracked.pod.uid, (tracked.pod, self._how(tracked)))

    def _how(self, tracked: Tracked) -> str:
        if tracked.last is None or tracked.last.answer is not Answer.ACCEPTED:
            return "went"
        return "deleted" if self.deletes(tracked) else "evicted"
