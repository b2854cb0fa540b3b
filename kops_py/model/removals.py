"""API versions that Kubernetes no longer serves from a minor on: the one table, and what clusters do with them.

Source: the deprecated API migration guide (kubernetes.io/docs/reference/using-api/deprecation-guide) and, for what it
leaves out, the release notes of the minor. Where a server announces another release for a removal (v1.20 says v1.25 for
autoscaling/v2beta2) this table holds.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RemovedApi:
    """A resource in a version that is not served from ``minor`` on; ``replacement`` is a group/version or empty."""

    minor: int
    group: str
    version: str
    resource: str
    replacement: str

    @property
    def name(self) -> str:
        """Return ``resource in group/version``."""
        return f"{self.resource} in {self.group}/{self.version}"


@dataclass(frozen=True, slots=True)
class DeprecatedRequest:
    """A deprecated API that clients asked an API server for since it started, as its metrics tell."""

    group: str
    version: str
    resource: str
    subresource: str = ""
    removed_release: str = ""
    """As the server says: ``1.25``; empty when no release is set."""


@dataclass(frozen=True, slots=True)
class OldWriter:
    """An object that a client last wrote in a version that goes away; ``when`` is RFC 3339 in UTC."""

    api: RemovedApi
    object: str
    manager: str
    when: str


@dataclass(frozen=True, slots=True)
class StoredVersions:
    """A CustomResourceDefinition that has, or may have, objects stored in versions it does not serve."""

    name: str
    unserved: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ApiUse:
    """What a cluster does with API versions that go away."""

    requests: tuple[DeprecatedRequest, ...] = ()
    since: str = ""
    """When the first of the API servers that were asked had started, RFC 3339 in UTC; empty when none says it."""
    writers: tuple[OldWriter, ...] = ()
    definitions: tuple[StoredVersions, ...] = ()
    security_policies: tuple[str, ...] = ()
    """Names of PodSecurityPolicy objects."""
    problem: str = ""
    """Why requests are not known, or not all of them."""


def _rows(minor: int, old: str, resources: str, replacement: str) -> Iterable[RemovedApi]:
    group, _, version = old.rpartition("/")
    return (RemovedApi(minor, group, version, resource, replacement) for resource in resources.split())


_V1 = {
    "admissionregistration.k8s.io": "mutatingwebhookconfigurations validatingwebhookconfigurations",
    "apiextensions.k8s.io": "customresourcedefinitions",
    "apiregistration.k8s.io": "apiservices",
    "authentication.k8s.io": "tokenreviews",
    "authorization.k8s.io": "localsubjectaccessreviews selfsubjectaccessreviews selfsubjectrulesreviews "
    "subjectaccessreviews",
    "certificates.k8s.io": "certificatesigningrequests",
    "coordination.k8s.io": "leases",
    "networking.k8s.io": "ingresses ingressclasses",
    "rbac.authorization.k8s.io": "clusterroles clusterrolebindings roles rolebindings",
    "scheduling.k8s.io": "priorityclasses",
    "storage.k8s.io": "csidrivers csinodes storageclasses volumeattachments",
}
"""Groups whose v1beta1 went with v1.22 in favour of v1."""

_FLOW = "flowschemas prioritylevelconfigurations"
_FLOW_GROUP = "flowcontrol.apiserver.k8s.io"

REMOVED: tuple[RemovedApi, ...] = (
    *_rows(16, "extensions/v1beta1", "daemonsets deployments replicasets", "apps/v1"),
    *_rows(16, "extensions/v1beta1", "networkpolicies", "networking.k8s.io/v1"),
    *_rows(16, "extensions/v1beta1", "podsecuritypolicies", "policy/v1beta1"),
    *_rows(16, "apps/v1beta1", "deployments statefulsets controllerrevisions", "apps/v1"),
    *_rows(16, "apps/v1beta2", "daemonsets deployments replicasets statefulsets controllerrevisions", "apps/v1"),
    *_rows(21, "batch/v2alpha1", "cronjobs", "batch/v1beta1"),
    *_rows(22, "extensions/v1beta1", "ingresses", "networking.k8s.io/v1"),
    *(row for group, names in _V1.items() for row in _rows(22, f"{group}/v1beta1", names, f"{group}/v1")),
    *_rows(23, "rbac.authorization.k8s.io/v1alpha1", _V1["rbac.authorization.k8s.io"], "rbac.authorization.k8s.io/v1"),
    *_rows(23, "scheduling.k8s.io/v1alpha1", "priorityclasses", "scheduling.k8s.io/v1"),
    *_rows(25, "autoscaling/v2beta1", "horizontalpodautoscalers", "autoscaling/v2"),
    *_rows(25, "batch/v1beta1", "cronjobs", "batch/v1"),
    *_rows(25, "discovery.k8s.io/v1beta1", "endpointslices", "discovery.k8s.io/v1"),
    *_rows(25, "events.k8s.io/v1beta1", "events", "events.k8s.io/v1"),
    *_rows(25, "node.k8s.io/v1beta1", "runtimeclasses", "node.k8s.io/v1"),
    *_rows(25, "policy/v1beta1", "poddisruptionbudgets", "policy/v1"),
    *_rows(25, "policy/v1beta1", "podsecuritypolicies", ""),
    *_rows(26, "autoscaling/v2beta2", "horizontalpodautoscalers", "autoscaling/v2"),
    *_rows(26, f"{_FLOW_GROUP}/v1beta1", _FLOW, f"{_FLOW_GROUP}/v1beta3"),
    *_rows(27, "storage.k8s.io/v1beta1", "csistoragecapacities", "storage.k8s.io/v1"),
    *_rows(29, f"{_FLOW_GROUP}/v1beta2", _FLOW, f"{_FLOW_GROUP}/v1"),
    *_rows(32, f"{_FLOW_GROUP}/v1beta3", _FLOW, f"{_FLOW_GROUP}/v1"),
)


def removed_between(current_minor: int, target_minor: int) -> tuple[RemovedApi, ...]:
    """Return what a cluster loses on the way from one minor to another."""
    return tuple(api for api in REMOVED if current_minor < api.minor <= target_minor)
