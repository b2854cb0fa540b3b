"""One attempt to evict or delete one pod, and what the API server's answer to it means.

Every request carries the pod's UID as a precondition: it cannot hit a successor of the same name, and repeating it
after a lost answer is safe. The answers are those of kubernetes, pkg/registry/core/pod/storage/eviction.go.
"""

from __future__ import annotations

import re
import threading
from dataclasses import dataclass
from enum import StrEnum
from typing import Any
from weakref import WeakKeyDictionary

from kops_py.connect.base import JsonObject, KubeApi
from kops_py.model.errors import KubeError
from kops_py.model.selectors import label_selector_matches
from kops_py.model.workloads import PodFacts

_PASSING = frozenset({0, 408, 500, 502, 503, 504})
"""Without an answer, or answered by a server that restarts, waits for etcd or for a webhook."""
_HEALTHY = re.compile(r"disruption budget (\S+) needs (\d+) healthy pods and has (\d+) currently")
_UNSEEN = re.compile(r"disruption budget (\S+) is still being processed")
_BUDGET = re.compile(r"disruption budget (\S+)")
_STUCK_BUDGET = re.compile(r'poddisruptionbudgets?(?:\.policy)? "([^"]+)" is forbidden: (.*)')


class Answer(StrEnum):
    """What became of an attempt."""

    ACCEPTED = "accepted"
    """The pod ends now."""
    GONE = "gone"
    """It is not there any more, or another of the same name is."""
    BUDGET = "budget"
    """A disruption budget does not allow it now."""
    SEVERAL_BUDGETS = "several-budgets"
    """More than one budget selects the pod, which the API cannot evict, now or later."""
    NAMESPACE = "namespace"
    """Its namespace is being deleted, and the pod with it."""
    THROTTLED = "throttled"
    UNANSWERED = "unanswered"
    """No answer, or one of a server in trouble: the same attempt may go well in a moment."""
    REFUSED = "refused"
    """For good."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """An answer; ``why`` for people, ``budget`` is ``namespace/name``, ``retry_after_s`` 0 when nothing was said."""

    answer: Answer
    why: str = ""
    budget: str = ""
    retry_after_s: float = 0.0


def pod_path(pod: PodFacts) -> str:
    """Return the path of a pod in the API."""
    return f"/api/v1/namespaces/{pod.namespace}/pods/{pod.name}"


def evict(api: KubeApi, pod: PodFacts, *, grace_period_s: int | None, timeout_s: float) -> Attempt:
    """Try once to evict a pod; KubeErrors become attempts. Raises CancelledError."""
    try:
        version = eviction_version(api, timeout_s=timeout_s)
        try:
            return _evict_as(version, api, pod, grace_period_s, timeout_s)
        except KubeError as error:
            if error.status != 400:
                raise
            # behind one endpoint, servers of two versions: a control plane in the middle of an upgrade
            _forget_version(api)
            other = eviction_version(api, timeout_s=timeout_s)
            if other == version:
                raise
            return _evict_as(other, api, pod, grace_period_s, timeout_s)
    except KubeError as error:
        return _after_error(api, pod, error, timeout_s)


def delete(api: KubeApi, pod: PodFacts, *, grace_period_s: int | None, timeout_s: float) -> Attempt:
    """Try to delete a pod, which no budget is asked about; KubeErrors become attempts. Raises CancelledError."""
    body = {"apiVersion": "v1", "kind": "DeleteOptions", **_options(pod, grace_period_s)}
    try:
        there = api.delete(pod_path(pod), body=body, timeout_s=timeout_s)
    except KubeError as error:
        return _after_error(api, pod, error, timeout_s)
    return Attempt(Answer.ACCEPTED if there else Answer.GONE)


def read_answer(pod: PodFacts, error: KubeError) -> Attempt:
    """Return what an error of the API says about the eviction or deletion of a pod."""
    retry_after_s, why = error.retry_after_s, str(error)
    if error.status == 404:
        return Attempt(Answer.GONE)
    if error.status == 429:
        told = next((message for reason, message in error.causes if reason == "DisruptionBudget"), None)
        if told is None:
            return Attempt(Answer.THROTTLED, "the API server asks for fewer requests", "", retry_after_s)
        budget, why = _budget_says(told)
        return Attempt(Answer.BUDGET, why, f"{pod.namespace}/{budget}", retry_after_s)
    if error.status == 500 and "more than one PodDisruptionBudget" in error.why:
        return Attempt(Answer.SEVERAL_BUDGETS, error.why)
    if error.status == 403:
        if any(reason == "NamespaceTerminating" for reason, _ in error.causes):
            return Attempt(Answer.NAMESPACE, f"namespace {pod.namespace} is being deleted", "", retry_after_s)
        if stuck := _STUCK_BUDGET.search(error.why):
            return Attempt(Answer.BUDGET, stuck[2], f"{pod.namespace}/{stuck[1]}", retry_after_s)
    if error.status in _PASSING:
        return Attempt(Answer.UNANSWERED, why, "", retry_after_s)
    return Attempt(Answer.REFUSED, why)


_versions: WeakKeyDictionary[KubeApi, str] = WeakKeyDictionary()
_versions_lock = threading.Lock()


def eviction_version(api: KubeApi, *, timeout_s: float | None = None) -> str:
    """Return the version of Eviction that the API server takes (policy/v1 since 1.22), found once per connection.

    Raises KubeError.
    """
    with _versions_lock:
        known = _versions.get(api)
        if known is None:
            known = _versions[api] = _discover(api, timeout_s)
        return known


def budgets_of(api: KubeApi, pod: PodFacts, *, timeout_s: float | None = None) -> list[str]:
    """Return the disruption budgets that select a pod, as ``namespace/name``; raises KubeError."""
    # policy/v1 budgets came one minor before policy/v1 evictions; v1beta1 was served beside them until 1.24
    version = eviction_version(api, timeout_s=timeout_s)
    path = f"/apis/{version}/namespaces/{pod.namespace}/poddisruptionbudgets"
    found = []
    for item in api.items(path, timeout_s=timeout_s):
        selector: dict[str, Any] | None = (item.get("spec") or {}).get("selector")
        if not selector and version == "policy/v1beta1":
            selector = None
        if label_selector_matches(selector, pod.labels):
            found.append(f"{pod.namespace}/{item['metadata']['name']}")
    return sorted(found)


def _discover(api: KubeApi, timeout_s: float | None) -> str:
    for resource in api.get("/api/v1", timeout_s=timeout_s).get("resources") or []:
        if resource.get("name") == "pods/eviction":
            return f"{resource['group']}/{resource['version']}"
    raise KubeError(
        "the API server offers no evictions",
        where="/api/v1",
        why="there is no resource pods/eviction",
        hint="look at what answers under this address; a Kubernetes API server has it since 1.4",
        status=501,
    )


def _forget_version(api: KubeApi) -> None:
    with _versions_lock:
        _versions.pop(api, None)


def _evict_as(version: str, api: KubeApi, pod: PodFacts, grace_period_s: int | None, timeout_s: float) -> Attempt:
    body: JsonObject = {
        "apiVersion": version,
        "kind": "Eviction",
        "metadata": {"namespace": pod.namespace, "name": pod.name},
        "deleteOptions": _options(pod, grace_period_s),
    }
    api.create(f"{pod_path(pod)}/eviction", body, timeout_s=timeout_s)
    return Attempt(Answer.ACCEPTED)


def _options(pod: PodFacts, grace_period_s: int | None) -> JsonObject:
    options: JsonObject = {"preconditions": {"uid": pod.uid}}
    if grace_period_s is not None:
        options["gracePeriodSeconds"] = grace_period_s
    return options


def _after_error(api: KubeApi, pod: PodFacts, error: KubeError, timeout_s: float) -> Attempt:
    """Read the error; a conflict means a successor of the same name, or a pod that was changed meanwhile."""
    if error.status != 409:
        return read_answer(pod, error)
    try:
        found = api.get_or_none(pod_path(pod), timeout_s=timeout_s)
    except KubeError as problem:
        return read_answer(pod, problem)
    if found is None or found["metadata"]["uid"] != pod.uid:
        return Attempt(Answer.GONE)
    return Attempt(Answer.UNANSWERED, str(error), "", error.retry_after_s)


def _budget_says(told: str) -> tuple[str, str]:
    """Return the budget's name and what it says, out of the cause's message."""
    if found := _HEALTHY.search(told):
        return found[1], f"needs {found[2]} healthy, has {found[3]}"
    if found := _UNSEEN.search(told):
        return found[1], "the cluster has not looked at its latest change yet"
    found = _BUDGET.search(told)
    return (found[1] if found else "unknown"), told
