"""What a cluster still does with API versions that go away."""

from __future__ import annotations

from typing import Any

import pytest

from kops_py.connect.base import JsonObject, KubeApi
from kops_py.model.errors import KubeError
from kops_py.model.version import Version
from kops_py.observe.api_use import observe_api_use
from tests.fakes.kube import FakeKubeApi

METRICS = """\
apiserver_requested_deprecated_apis{group="batch",removed_release="1.25",resource="cronjobs",version="v1beta1"} 1
process_start_time_seconds 1.7672256e+09
"""
CURRENT, TARGET = Version.parse("v1.24.1"), Version.parse("v1.25.0")
LISTS = {
    "/apis/autoscaling/v2/horizontalpodautoscalers",
    "/apis/batch/v1/cronjobs",
    "/apis/node.k8s.io/v1/runtimeclasses",
    "/apis/policy/v1/poddisruptionbudgets",
}


def cron_job(name: str, *writers: tuple[str, str]) -> JsonObject:
    fields = [{"manager": m, "apiVersion": v, "time": "2025-06-01T00:00:00Z"} for m, v in writers]
    return {"metadata": {"name": name, "namespace": "shop", "managedFields": fields}}


def definition(name: str, stored: list[str], **served: bool) -> JsonObject:
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": name},
        "spec": {"versions": [{"name": n, "served": s} for n, s in served.items()]},
        "status": {"storedVersions": stored},
    }


def server(*objects: JsonObject, **lists: Any) -> FakeKubeApi:
    api = FakeKubeApi(objects)
    api.texts["/metrics"] = METRICS
    api.lists |= {path: [] for path in LISTS} | {"/apis/policy/v1beta1/podsecuritypolicies": []}
    return api


def test_requests_writers_definitions_and_policies() -> None:
    api = server(
        definition("good.example.org", ["v1"], v1=True),
        definition("bad.example.org", ["v1alpha1", "v1"], v1=True, v1alpha1=False),
    )
    api.lists["/apis/batch/v1/cronjobs"] = [
        cron_job("old", ("helm", "batch/v1beta1"), ("kube-controller-manager", "batch/v1")),
        cron_job("new", ("helm", "batch/v1")),
    ]
    api.lists["/apis/policy/v1beta1/podsecuritypolicies"] = [{"metadata": {"name": "restricted"}}]
    use = observe_api_use(api, {"n1": api}, CURRENT, TARGET)
    assert [(r.group, r.version, r.resource, r.removed_release) for r in use.requests] == [
        ("batch", "v1beta1", "cronjobs", "1.25")
    ]
    assert use.since == "2026-01-01T00:00:00Z"
    assert [(w.object, w.manager, w.api.version) for w in use.writers] == [("shop/old", "helm", "v1beta1")]
    assert [(d.name, d.unserved) for d in use.definitions] == [("bad.example.org", ("v1alpha1",))]
    assert use.security_policies == ("restricted",)
    assert use.problem == ""
    api.assert_clean()


def test_only_versions_that_stay_are_asked() -> None:
    api = server()
    observe_api_use(api, {"n1": api}, CURRENT, TARGET)
    asked = {path for verb, path in api.calls if verb == "items"}
    policies = {"/apis/policy/v1beta1/podsecuritypolicies"}
    assert asked - policies - {"/apis/apiextensions.k8s.io/v1/customresourcedefinitions"} == LISTS


def test_a_patch_asks_nothing_of_objects() -> None:
    api = FakeKubeApi()
    api.texts["/metrics"] = ""
    assert observe_api_use(api, {"n1": api}, CURRENT, Version.parse("v1.24.9")).writers == ()


def test_a_replacement_that_is_not_served_yet() -> None:
    api = server()
    for path in sorted(LISTS):
        api.fail("items", path, KubeError("no", status=404))
    assert observe_api_use(api, {"n1": api}, CURRENT, TARGET).writers == ()


def test_each_api_server_counts_its_own_requests() -> None:
    api, other = server(), FakeKubeApi()
    other.texts["/metrics"] = METRICS.replace("cronjobs", "jobs").replace("1.7672256e+09", "1.7e+09")
    servers: dict[str, KubeApi | KubeError] = {"n1": api, "n2": other, "n3": KubeError("no route to host")}
    use = observe_api_use(api, servers, CURRENT, TARGET)
    assert sorted(r.resource for r in use.requests) == ["cronjobs", "jobs"]
    assert use.since == "2023-11-14T22:13:20Z"
    assert use.problem == "n3: no route to host"


@pytest.mark.parametrize("status", [403, 404, 500])
def test_metrics_that_cannot_be_read_are_told(status: int) -> None:
    api = server()
    api.fail("text", "/metrics", KubeError("no", status=status))
    assert observe_api_use(api, {"n1": api}, CURRENT, TARGET).problem == "n1: no"
