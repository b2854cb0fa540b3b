"""API versions that go away: requests, writers, stored versions."""

from __future__ import annotations

from kops_py.model.finding import Finding
from kops_py.model.removals import REMOVED, ApiUse, DeprecatedRequest, OldWriter, StoredVersions, removed_between
from kops_py.model.version import Version
from kops_py.runbooks.api_removals import api_findings


def find(use: ApiUse, current: str = "v1.21.1", target: str = "v1.22.0") -> list[Finding]:
    return list(api_findings(use, Version.parse(current), Version.parse(target)))


INGRESS = DeprecatedRequest("networking.k8s.io", "v1beta1", "ingresses", removed_release="1.22")


def test_requested() -> None:
    use = ApiUse(requests=(INGRESS,), since="2026-01-01T00:00:00Z")
    (found,) = find(use)
    assert (found.id, str(found.severity)) == ("api-requested", "warning")
    assert "ingresses in networking.k8s.io/v1beta1 was asked for since 2026-01-01T00:00:00Z" in found.message
    assert "v1.22 no longer serves it; use networking.k8s.io/v1" in found.message
    assert find(use, "v1.20.1", "v1.21.0") == []
    assert find(use, "v1.20.1", "v1.25.0") != []


def test_the_table_holds_against_what_an_old_server_announces() -> None:
    early = ApiUse(requests=(DeprecatedRequest("autoscaling", "v2beta2", "horizontalpodautoscalers", "", "1.25"),))
    assert find(early, "v1.24.0", "v1.25.0") == []
    (found,) = find(early, "v1.24.0", "v1.26.0")
    assert "v1.26 no longer serves it; use autoscaling/v2" in found.message


def test_what_only_the_server_knows() -> None:
    new = ApiUse(requests=(DeprecatedRequest("example.k8s.io", "v1beta1", "things", "status", "1.36"),))
    (found,) = find(new, "v1.35.0", "v1.36.0")
    assert "things/status in example.k8s.io/v1beta1" in found.message
    assert find(new, "v1.34.0", "v1.35.0") == []
    endless = ApiUse(requests=(DeprecatedRequest("", "v1", "componentstatuses"),))
    assert find(endless, "v1.20.0", "v1.37.0") == []


def test_written() -> None:
    (api,) = (a for a in REMOVED if (a.group, a.version, a.resource) == ("networking.k8s.io", "v1beta1", "ingresses"))
    writers = (
        OldWriter(api, "shop/a", "helm", "2025-01-01T00:00:00Z"),
        OldWriter(api, "shop/b", "kubectl", "2025-06-01T00:00:00Z"),
    )
    (found,) = find(ApiUse(writers=writers))
    assert found.id == "api-written"
    assert "2 ingresses in networking.k8s.io/v1beta1 (shop/a, shop/b)" in found.message
    assert "last at 2025-06-01T00:00:00Z by kubectl" in found.message
    assert find(ApiUse(writers=writers), "v1.20.0", "v1.21.0") == []


def test_definitions_policies_and_no_metrics() -> None:
    (found,) = find(ApiUse(definitions=(StoredVersions("things.example.org", ("v1alpha1",)),)))
    assert (found.id, "things.example.org" in found.message) == ("crd-stored-version", True)
    policies = ApiUse(security_policies=("restricted",))
    assert find(policies) == []
    assert [f.id for f in find(policies, "v1.24.0", "v1.25.0")] == ["pod-security-policies"]
    assert [f.id for f in find(ApiUse(problem="403"))] == ["api-use-unknown"]


def test_the_table() -> None:
    assert len({(a.group, a.version, a.resource) for a in REMOVED}) == len(REMOVED)
    assert removed_between(30, 31) == ()
    assert {a.minor for a in removed_between(20, 37)} == {21, 22, 23, 25, 26, 27, 29, 32}
