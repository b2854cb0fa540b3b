"""What an API server does with pods beyond keeping them: graceful deletion, eviction, disruption budgets.

The rules are kubernetes' (pkg/registry/core/pod/strategy.go and storage/eviction.go); test_fake_agrees.py asks the
same of a real server.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

from kops_py.connect.base import JsonObject
from kops_py.model.errors import KubeError
from kops_py.model.selectors import label_selector_matches

NEVER_COUNTED = {"Succeeded", "Failed", "Pending"}


def eviction_versions(version: str) -> tuple[str, ...]:
    """Return the versions of Eviction a server of this version takes, the one it tells first."""
    return ("policy/v1beta1",) if _minor(version) < 22 else ("policy/v1", "policy/v1beta1")


def discovery(version: str) -> JsonObject:
    """Return GET /api/v1, as far as anybody here reads it."""
    group, _, served = eviction_versions(version)[0].partition("/")
    return {
        "kind": "APIResourceList",
        "groupVersion": "v1",
        "resources": [
            {"name": "pods", "namespaced": True, "kind": "Pod"},
            {"name": "pods/eviction", "namespaced": True, "kind": "Eviction", "group": group, "version": served},
        ],
    }


def grace_period_s(pod: JsonObject, options: JsonObject) -> int:
    """Return the seconds a deletion with these options gives a pod."""
    wanted = options.get("gracePeriodSeconds")
    if not pod.get("spec", {}).get("nodeName") or pod.get("status", {}).get("phase") in {"Succeeded", "Failed"}:
        return 0
    if wanted is None:
        wanted = pod.get("spec", {}).get("terminationGracePeriodSeconds", 30)
    return int(wanted)


def mark_deleted(pod: JsonObject, grace_s: int) -> None:
    """Set what a graceful deletion sets."""
    at = datetime.now(UTC) + timedelta(seconds=grace_s)
    pod["metadata"].setdefault("deletionTimestamp", at.strftime("%Y-%m-%dT%H:%M:%SZ"))
    pod["metadata"]["deletionGracePeriodSeconds"] = grace_s


def take_from_budget(pod: JsonObject, budgets: Iterable[JsonObject], version: str, path: str) -> JsonObject | None:
    """Return the budget to count an eviction on, already counted, None when none has a say; raises KubeError."""
    metadata, status = pod["metadata"], pod.get("status", {})
    if status.get("phase") in NEVER_COUNTED or metadata.get("deletionTimestamp"):
        return None
    found = [b for b in budgets if _selects(b, pod, version)]
    if len(found) > 1:
        message = "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support."
        raise _error(500, "", path, message)
    if not found:
        return None
    budget, counts = found[0], found[0].setdefault("status", {})
    ready = any(c["type"] == "Ready" and c["status"] == "True" for c in status.get("conditions", []))
    if not ready and counts.get("currentHealthy", 0) >= counts.get("desiredHealthy", 0) > 0:
        return None
    if not ready and _minor(version) >= 27 and budget["spec"].get("unhealthyPodEvictionPolicy") == "AlwaysAllow":
        return None
    _count(budget, counts, metadata["name"], path)
    return budget


def _count(budget: JsonObject, counts: JsonObject, pod: str, path: str) -> None:
    name, allowed = budget["metadata"]["name"], counts.get("disruptionsAllowed", 0)
    refusal = "Cannot evict pod as it would violate the pod's disruption budget."
    if counts.get("observedGeneration", 0) < budget["metadata"].get("generation", 1):
        message = f"The disruption budget {name} is still being processed by the server."
        raise _error(429, "TooManyRequests", path, refusal, ("DisruptionBudget", message))
    if allowed < 0:
        message = f'poddisruptionbudget.policy "{name}" is forbidden: pdb disruptions allowed is negative'
        raise _error(403, "Forbidden", path, message)
    if allowed == 0:
        message = (
            f"The disruption budget {name} needs {counts.get('desiredHealthy', 0)} healthy pods "
            f"and has {counts.get('currentHealthy', 0)} currently"
        )
        raise _error(429, "TooManyRequests", path, refusal, ("DisruptionBudget", message))
    counts["disruptionsAllowed"] = allowed - 1
    counts.setdefault("disruptedPods", {})[pod] = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _selects(budget: JsonObject, pod: JsonObject, version: str) -> bool:
    selector = budget.get("spec", {}).get("selector")
    if not selector and _minor(version) < 21:
        return False
    same = budget["metadata"].get("namespace", "default") == pod["metadata"].get("namespace", "default")
    return same and label_selector_matches(selector, pod["metadata"].get("labels") or {})


def _minor(version: str) -> int:
    return int(version.lstrip("v").split(".")[1])


def _error(status: int, reason: str, path: str, message: str, *causes: tuple[str, str]) -> KubeError:
    return KubeError(
        f"the Kubernetes API answered {status} {reason}".rstrip() + " to a create",
        where=path, why=message, status=status, reason=reason, causes=causes,
    )  # fmt: skip
