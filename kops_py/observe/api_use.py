"""What the cluster still does with API versions that an upgrade takes away."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from kops_py.connect.base import JsonObject, KubeApi
from kops_py.model.errors import KubeError
from kops_py.model.removals import ApiUse, OldWriter, RemovedApi, StoredVersions, removed_between
from kops_py.model.version import Version
from kops_py.tools.metrics import deprecated_requests, started_at

_METRICS_TIMEOUT_S = 60.0
_POLICIES = "/apis/policy/v1beta1/podsecuritypolicies"
_NOT_OBJECTS = "reviews"
"""Ending of resources that are asked, not stored: tokenreviews, subjectaccessreviews."""
_BUSY = frozenset({"events", "leases", "endpointslices", "csinodes", "volumeattachments", "csistoragecapacities"})
"""Resources that only components of the cluster write, and that there may be very many of."""


def observe_api_use(
    api: KubeApi, servers: Mapping[str, KubeApi | KubeError], current: Version, target: Version
) -> ApiUse:
    """Return requests, writers and stored versions that matter on the way to ``target``; raises KubeError.

    Asks in versions that stay, so that asking does not itself count as a deprecated request. Each of the ``servers``
    counts its own requests; ``problem`` says which may not or cannot be read.
    """
    removed = removed_between(current.minor, target.minor)
    texts, problems = _metrics(servers)
    definitions: list[StoredVersions] = api.fold(
        "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", list, _take_definition, page_size=50
    )
    policies: tuple[str, ...] = ()
    if any(api_.resource == "podsecuritypolicies" for api_ in removed):
        policies = tuple(sorted(str(o["metadata"]["name"]) for o in api.items(_POLICIES)))
    return ApiUse(
        requests=tuple(dict.fromkeys(r for text in texts for r in deprecated_requests(text))),
        since=min(filter(None, map(started_at, texts)), default=""),
        writers=observe_writers(api, removed),
        definitions=tuple(definitions),
        security_policies=policies,
        problem="; ".join(problems),
    )


def _metrics(servers: Mapping[str, KubeApi | KubeError]) -> tuple[list[str], list[str]]:
    """Return what the API servers count, and why some do not say it."""
    texts: list[str] = []
    problems: list[str] = []
    for name, server in servers.items():
        try:
            if isinstance(server, KubeError):
                raise server
            texts.append(server.text("/metrics", timeout_s=_METRICS_TIMEOUT_S))
        except KubeError as error:
            problems.append(f"{name}: {error}")
    return texts, problems


def observe_writers(api: KubeApi, removed: Sequence[RemovedApi]) -> tuple[OldWriter, ...]:
    """Return the objects whose managed fields were last written in one of these versions; raises KubeError.

    Each is read in the version that replaces it; where the server does not serve that yet, nothing is told.
    """
    by_path: dict[str, list[RemovedApi]] = {}
    for old in removed:
        if old.replacement and old.resource not in _BUSY and not old.resource.endswith(_NOT_OBJECTS):
            by_path.setdefault(f"/apis/{old.replacement}/{old.resource}", []).append(old)
    found: list[OldWriter] = []
    for path, olds in sorted(by_path.items()):

        def take(into: list[OldWriter], item: JsonObject, olds: list[RemovedApi] = olds) -> None:
            into += _writers(item, olds)

        try:
            more: list[OldWriter] = api.fold(path, list, take)
        except KubeError as error:
            if error.status != 404:
                raise
        else:
            found += more
    return tuple(found)


def _writers(item: JsonObject, olds: Sequence[RemovedApi]) -> list[OldWriter]:
    metadata = item["metadata"]
    name = "/".join(filter(None, (metadata.get("namespace"), metadata["name"])))
    return [
        OldWriter(old, name, str(fields.get("manager") or "?"), str(fields.get("time") or ""))
        for fields in metadata.get("managedFields") or ()
        for old in olds
        if fields.get("apiVersion") == f"{old.group}/{old.version}"
    ]


def _take_definition(into: list[StoredVersions], item: JsonObject) -> None:
    served = {str(v["name"]) for v in (item.get("spec") or {}).get("versions") or () if v.get("served")}
    stored = (item.get("status") or {}).get("storedVersions") or ()
    if unserved := tuple(str(v) for v in stored if v not in served):
        into.append(StoredVersions(str(item["metadata"]["name"]), unserved))
