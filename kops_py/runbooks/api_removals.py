"""API versions that the target of an upgrade no longer serves and that something still uses: pure."""

from __future__ import annotations

from collections.abc import Iterator

from kops_py.model.finding import Finding, FindingKind, Severity, few
from kops_py.model.removals import ApiUse, DeprecatedRequest, OldWriter, RemovedApi, removed_between
from kops_py.model.version import Version, loses

ERROR, WARNING, INFO = Severity.ERROR, Severity.WARNING, Severity.INFO

REQUESTED = FindingKind(
    "api-requested",
    (WARNING,),
    "Clients asked an API server for an API version that a minor on the way no longer serves.",
    "Find the clients (audit log: annotation k8s.io/deprecated) and update them; "
    "components of this Kubernetes version itself ask as well, and go with it.",
)
WRITTEN = FindingKind(
    "api-written",
    (WARNING,),
    "Objects were last written in an API version that a minor on the way no longer serves; "
    "the objects stay, the client or manifest that wrote them may not work any more.",
    "Change apiVersion in the manifest or chart and apply it again before the upgrade.",
)
UNKNOWN = FindingKind(
    "api-use-unknown",
    (WARNING,),
    "The metrics of an API server could not be read, so it is not known who asks it for API versions that go away.",
    "Use a kubeconfig that may get /metrics, or look into the audit log.",
)
DEFINITION = FindingKind(
    "crd-stored-version",
    (WARNING,),
    "A CustomResourceDefinition has objects stored in a version that it does not serve.",
    "Write the objects anew in a served version, then take the old one out of status.storedVersions.",
)
POLICY = FindingKind(
    "pod-security-policies",
    (WARNING,),
    "There are PodSecurityPolicy objects; from v1.25 on nothing heeds them, and they cannot be read any more.",
    "Move to Pod Security admission (namespace labels pod-security.kubernetes.io/...) before.",
)
KINDS = (REQUESTED, WRITTEN, UNKNOWN, DEFINITION, POLICY)


def api_findings(use: ApiUse, current: Version, target: Version) -> tuple[Finding, ...]:
    """Say what still uses API versions that go away between two versions."""
    removed = {(a.group, a.version, a.resource): a for a in removed_between(current.minor, target.minor)}
    return (
        *_requested(use, removed, target),
        *_written(use, current, target),
        *(UNKNOWN.found(use.problem) for _ in range(bool(use.problem))),
        *(
            DEFINITION.found(f"{d.name} has objects stored as {', '.join(d.unserved)}, which it does not serve")
            for d in use.definitions
        ),
        *_policies(use, current, target),
    )


def _requested(use: ApiUse, removed: dict[tuple[str, str, str], RemovedApi], target: Version) -> Iterator[Finding]:
    for request in sorted(use.requests, key=lambda r: (r.group, r.version, r.resource, r.subresource)):
        if request.resource == "podsecuritypolicies":
            continue  # told by their objects; looking for those is a request itself
        known = removed.get((request.group, request.version, request.resource))
        minor = known.minor if known else _announced(request, target)
        if minor is None:
            continue
        since = f" since {use.since}" if use.since else ""
        instead = f"; use {known.replacement}" if known and known.replacement else ""
        yield REQUESTED.found(
            f"{request.resource}{'/' if request.subresource else ''}{request.subresource} in "
            f"{request.group}/{request.version} was asked for{since}; v1.{minor} no longer serves it{instead}"
        )


def _announced(request: DeprecatedRequest, target: Version) -> int | None:
    """Return the minor that the server itself announces, for what the table does not know and the target reaches."""
    major, _, minor = request.removed_release.partition(".")
    known = any(
        (a.group, a.version, a.resource) == (request.group, request.version, request.resource)
        for a in removed_between(0, 999)
    )
    if known or major != "1" or not minor.isdigit() or int(minor) > target.minor:
        return None
    return int(minor)


def _written(use: ApiUse, current: Version, target: Version) -> Iterator[Finding]:
    groups: dict[RemovedApi, list[OldWriter]] = {}
    for writer in use.writers:
        if current.minor < writer.api.minor <= target.minor:
            groups.setdefault(writer.api, []).append(writer)
    for api, writers in sorted(groups.items(), key=lambda item: (item[0].minor, item[0].name)):
        objects = sorted({w.object for w in writers})
        latest = max(writers, key=lambda w: w.when)
        when = f", last at {latest.when} by {latest.manager}" if latest.when else f" by {latest.manager}"
        yield WRITTEN.found(
            f"{len(objects)} {api.name} ({few(objects)}) were written in it{when}; v1.{api.minor} no longer serves it; "
            f"use {api.replacement}"
        )


def _policies(use: ApiUse, current: Version, target: Version) -> Iterator[Finding]:
    if use.security_policies and loses(current, target, "has_pod_security_policy"):
        yield POLICY.found(f"{len(use.security_policies)} objects: {few(use.security_policies, 5)}")
