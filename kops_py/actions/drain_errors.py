"""Why a drain did not happen or did not end, as errors a person can act on."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from kops_py.actions.drain_roster import Roster, Tracked
from kops_py.actions.evict import Answer
from kops_py.connect.base import JsonObject
from kops_py.model.drain import DrainPolicy
from kops_py.model.errors import KubeError
from kops_py.model.workloads import PodFacts

_NAMED = 8


def listed(names: Collection[str], most: int = _NAMED) -> str:
    """Join names; of many only the first, and how many more there are."""
    shown = ", ".join(list(names)[:most])
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown


def not_allowed(node: str, pods: Iterable[PodFacts], policy: DrainPolicy, *, begun: bool) -> KubeError:
    """Return the error for pods the policy does not allow to remove; ``begun``: others were evicted before."""
    by_setting: dict[str, list[str]] = {}
    for pod in pods:
        if pod.empty_dir and not policy.delete_empty_dir_data:
            by_setting.setdefault("delete_empty_dir_data", []).append(pod.id)
        if pod.owner is None and not policy.force:
            by_setting.setdefault("force", []).append(pod.id)
    reasons = {
        "delete_empty_dir_data": "their emptyDir data would be lost",
        "force": "they have no controller, nothing would start them again",
    }
    count = len({name for names in by_setting.values() for name in names})
    return KubeError(
        f"{count} {'pod' if count == 1 else 'pods'} may not be removed from {node}"
        + (", and came while it was drained" if begun else "; nothing was evicted"),
        where=f"node {node}",
        why="; ".join(f"{reasons[s]}: {listed(by_setting[s])} (setting {s} allows it)" for s in sorted(by_setting)),
        hint=f"move or delete these pods, or allow it in the drain settings ({', '.join(sorted(by_setting))}: true); "
        "then run the same command again",
    )


def refused_for_good(
    node: str, failed: Sequence[Tracked], budgets_of: Callable[[PodFacts], Sequence[str]]
) -> KubeError:
    """Return the error for pods the API server will not evict however often it is asked."""
    several = [t for t in failed if t.last and t.last.answer is Answer.SEVERAL_BUDGETS]
    others = [t for t in failed if t not in several]
    why = [f"{t.pod.id}: {t.last.why}" for t in others[:_NAMED] if t.last]
    hint = "see why the API server refuses, then run the same command again"
    for tracked in several[:_NAMED]:
        names = budgets_of(tracked.pod)
        why.append(
            f"{tracked.pod.id} is selected by more than one disruption budget"
            + (f" ({', '.join(names)})" if names else "")
            + ", and the eviction API does not support that"
        )
    if several:
        pod = several[0].pod
        hint = f"let only one budget select it: kubectl -n {pod.namespace} get pdb; then run the same command again"
    return KubeError(
        f"{listed([t.pod.id for t in failed], 3)} cannot be evicted from {node}",
        where=f"node {node}",
        why="; ".join(why) + (f"; and {len(failed) - _NAMED} more" if len(failed) > _NAMED else ""),
        hint=hint,
    )


def not_done(
    roster: Roster, *, after_s: float, raw: Mapping[str, JsonObject], groups: Sequence[str], trouble: str = ""
) -> KubeError:
    """Return the error for a drain whose time is up.

    ``raw`` are the pods as just read, by UID, for what holds those that do not end; ``groups`` the groups' names;
    ``trouble`` what the API last failed with, if it did.
    """
    going = list(roster.going.values())
    held = roster.held()
    why = [f"budget {name}: {_why(pods)}: {listed([t.pod.id for t in pods])}" for name, pods in held.items()]
    ending = [t for t in going if t.accepted]
    why += [_does_not_end(t, raw.get(t.pod.uid), roster.node) for t in ending[:_NAMED]]
    if len(ending) > _NAMED:
        why.append(f"{len(ending) - _NAMED} more do not end")
    tried = [t for t in going if t.last and not t.accepted and not t.held_by_budget]
    why += [f"{t.pod.id}: {t.last.why or 'not gone yet'}" for t in tried[:_NAMED] if t.last]
    current = min((t.group for t in going), default=0)
    untried = [t for t in going if t.last is None and not t.accepted]
    if waiting := [t for t in untried if t.group > current]:
        names = sorted({groups[t.group - 1] for t in waiting})
        why.append(f"group {', '.join(names)} was not begun: {listed([t.pod.id for t in waiting])}")
    if not_tried := [t for t in untried if t.group == current]:
        why.append(f"not tried yet: {listed([t.pod.id for t in not_tried])}")
    if roster.latecomers:
        why.append(
            f"{roster.latecomers} pods came to the node meanwhile: "
            "somebody uncordoned it, or they were placed here by name"
        )
    if trouble:
        why.append(trouble)
    return KubeError(
        f"{roster.node} is not drained after {after_s:.0f} s: "
        + (f"{len(going)} {'pod is' if len(going) == 1 else 'pods are'} still there" if going else "it is not certain"),
        where=f"node {roster.node}",
        why="; ".join(why),
        hint=_what_next(roster, held, ending),
    )


def kubelet_gone(roster: Roster, since: str) -> KubeError:
    """Return the error for pods that wait for the kubelet of a node which is out of reach."""
    pods = [t.pod.id for t in roster.going.values()]
    return KubeError(
        f"{len(pods)} {'pod' if len(pods) == 1 else 'pods'} on {roster.node} cannot end: its kubelet is gone",
        where=f"node {roster.node}",
        why=f"the node's state is unknown{f' since {since}' if since else ''}: {listed(pods)}",
        hint="bring the machine or its network back, then run the same command again; "
        f"if it is gone for good: kops-py node remove {roster.node} --lost",
    )


def volumes_left(node: str, volumes: Sequence[str], after_s: float) -> KubeError:
    """Return the error for volumes that were not detached in time."""
    return KubeError(
        f"{len(volumes)} {'volume' if len(volumes) == 1 else 'volumes'} of pods that are gone "
        f"{'is' if len(volumes) == 1 else 'are'} still attached to {node} after {after_s:.0f} s",
        where=f"node {node}",
        why=listed(volumes),
        hint=f"kubectl get volumeattachments | grep {node}; look at the storage's controller; then run the same "
        "command again (setting volumes_timeout_s 0 does not wait for volumes)",
    )


def _why(pods: Sequence[Tracked]) -> str:
    return pods[-1].last.why if pods[-1].last else ""


def _does_not_end(tracked: Tracked, raw: JsonObject | None, node: str) -> str:
    pod = tracked.pod
    metadata = (raw or {}).get("metadata") or {}
    since = str(metadata.get("deletionTimestamp") or pod.deleting_since)
    text = f"{pod.id} does not end" + (f" (it was to by {since})" if since else "")
    if finalizers := metadata.get("finalizers"):
        return f"{text}: held by its finalizers {', '.join(finalizers)}"
    return f"{text}: the kubelet of {node} has not reported its end"


def _what_next(roster: Roster, held: Mapping[str, Sequence[Tracked]], ending: Sequence[Tracked]) -> str:
    again = f"then run the same command again; {roster.node} was left as it is"
    if held:
        namespace, _, name = next(iter(held)).partition("/")
        edit = f"kubectl -n {namespace} edit pdb {name}"
        return f"make room for the budget (more replicas that are Ready, or: {edit}), {again}"
    if ending:
        pod = ending[0].pod
        return (
            f"see what holds it: kubectl -n {pod.namespace} describe pod {pod.name}; on {roster.node}: "
            f"journalctl -u kubelet -n 50; {again}"
        )
    return f"kops-py status shows how the cluster is; {again}"
