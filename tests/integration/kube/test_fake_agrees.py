"""The fake that other tests stand on behaves like the real API server, as far as they go."""

from __future__ import annotations

import pytest

from kops_py.connect.base import JsonObject, KubeApi
from kops_py.model.errors import KubeError
from tests.fakes.kube import FakeKubeApi, UnexpectedCallError
from tests.integration.kube.conftest import Connect

SECRETS = "/api/v1/namespaces/default/secrets"


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.bundle)])
def either(request: pytest.FixtureRequest) -> KubeApi:
    if request.param == "fake":
        return FakeKubeApi(version="v1.20.2")
    plane = request.getfixturevalue("control_plane")
    connect: Connect = request.getfixturevalue("connect")
    plane.wait_ready()
    return connect(plane.kubeconfig())


def secret(name: str, kind: str = "Opaque", **labels: str) -> JsonObject:
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "type": kind,
        "metadata": {"name": name, "namespace": "default", "labels": labels},
        "stringData": {"key": "value"},
    }


def status_of(call: object) -> int:
    assert callable(call)
    with pytest.raises(KubeError) as caught:
        call()
    return caught.value.status


def test_the_life_of_an_object(either: KubeApi) -> None:
    api, path = either, f"{SECRETS}/life"
    assert api.is_ready()
    assert api.get("/version")["gitVersion"].startswith("v1.20")
    assert api.get_or_none(path) is None
    made = api.create(SECRETS, secret("life", app="x"))
    assert made["data"] == {"key": "dmFsdWU="}
    assert "stringData" not in made
    assert status_of(lambda: api.create(SECRETS, secret("life"))) == 409
    patched = api.patch(path, {"metadata": {"labels": {"app": None, "tier": "1"}}})
    assert patched["metadata"]["labels"] == {"tier": "1"}
    assert patched["metadata"]["resourceVersion"] != made["metadata"]["resourceVersion"]
    assert status_of(lambda: api.replace(path, made)) == 409
    current = api.get(path)
    current["data"] = {"key": "b3RoZXI="}
    assert api.replace(path, current)["data"] == {"key": "b3RoZXI="}
    assert status_of(lambda: api.delete(path, body={"preconditions": {"uid": "other"}})) == 409
    stale = {"preconditions": {"uid": made["metadata"]["uid"], "resourceVersion": "1"}}
    assert status_of(lambda: api.delete(path, body=stale)) == 409
    assert api.delete(path, body={"preconditions": {"uid": made["metadata"]["uid"]}})
    assert not api.delete(path)
    assert status_of(lambda: api.get(path)) == 404
    assert status_of(lambda: api.patch(path, {"metadata": {"labels": {}}})) == 404
    assert status_of(lambda: api.replace(path, {**current, "metadata": {**current["metadata"]}})) in {404, 409}


def test_selection(either: KubeApi) -> None:
    api = either
    for name, kind, tier in (
        ("sel-a", "Opaque", "1"),
        ("sel-b", "kops-py/test", "1"),
        ("sel-c", "kops-py/test", "2"),
    ):
        api.create(SECRETS, secret(name, kind, tier=tier))

    def names(**params: str) -> list[str]:
        return sorted(i["metadata"]["name"] for i in api.items(SECRETS, params=params))

    assert names(labelSelector="tier=1") == ["sel-a", "sel-b"]
    assert names(labelSelector="tier=1", fieldSelector="type=kops-py/test") == ["sel-b"]
    assert names(fieldSelector="metadata.name=sel-c") == ["sel-c"]
    everywhere = {i["metadata"]["name"] for i in api.items("/api/v1/secrets", params={"labelSelector": "tier"})}
    assert everywhere == {"sel-a", "sel-b", "sel-c"}


def test_apply_makes_then_changes(either: KubeApi) -> None:
    api = either
    manifest: JsonObject = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "agreed"},
        "data": {"a": "1"},
    }
    assert api.apply(manifest) == "ConfigMap default/agreed"
    assert api.apply({**manifest, "data": {"a": "2"}}) == "ConfigMap default/agreed"
    assert api.get("/api/v1/namespaces/default/configmaps/agreed")["data"] == {"a": "2"}


def test_the_fake_is_strict() -> None:
    api = FakeKubeApi()
    for call in (
        lambda: api.get("/api/v1/namespaces/default/nonsense/a"),
        lambda: api.items("/apis/apps/v1beta1/deployments"),
        lambda: api.items("/api/v1/pods", params={"fieldSelector": "a!=b"}),
        lambda: api.items("/api/v1/pods", params={"resourceVersion": "5"}),
        lambda: api.apply({"apiVersion": "v1", "kind": "Nonsense", "metadata": {"name": "a"}}),
        lambda: api.create("/api/v1/nonsense", secret("a")),
    ):
        with pytest.raises(UnexpectedCallError):
            call()
    with pytest.raises(AssertionError):
        api.assert_clean()
