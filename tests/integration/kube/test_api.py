"""The connector against a real kube-apiserver."""

from __future__ import annotations

import threading
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from kops_py.connect.base import Cancel, JsonObject, KubeApi
from kops_py.connect.kube import RestKubeApi
from kops_py.connect.kube_manifests import split_manifests
from kops_py.model.errors import CancelledError, KubeError
from kops_py.observe.cluster import observe_cluster
from kops_py.observe.status import observe_status
from tests.fakes.kube import node, pod
from tests.integration.kube.conftest import Connect
from tests.integration.kube.control_plane import ControlPlane
from tests.integration.kube.pki import Authority, kubeconfig
from tests.ports import free_port

pytestmark = pytest.mark.bundle

MAPS = "/api/v1/namespaces/default/configmaps"


def config_map(name: str, **data: str) -> JsonObject:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data}


@pytest.fixture(scope="module")
def many_maps(control_plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A namespace with 1,200 ConfigMaps."""
    from kops_py.connect.kube import connect_kube

    api = connect_kube(
        control_plane.kubeconfig(),
        server_override=None,
        work_dir=tmp_path_factory.mktemp("kube"),
        request_timeout_s=30,
    )
    control_plane.wait_ready()
    api.create("/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "many"}})
    path = "/api/v1/namespaces/many/configmaps"
    threads = [
        threading.Thread(target=lambda t=t: [api.create(path, config_map(f"m{t}-{i}")) for i in range(300)])
        for t in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    api.close()
    return path


def test_reads_a_list_in_pages(api: KubeApi, many_maps: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pages: list[Any] = []
    original = RestKubeApi._send

    def counting(self: RestKubeApi, method: str, path: str, **options: Any) -> Any:
        pages.append(dict(options["params"]))
        return original(self, method, path, **options)

    monkeypatch.setattr(RestKubeApi, "_send", counting)
    names = [m["metadata"]["name"] for m in api.items(many_maps)]
    wanted = {f"m{t}-{i}" for t in range(4) for i in range(300)}
    assert wanted <= set(names)
    assert len(names) == len(set(names))
    assert [p["limit"] for p in pages] == ["500", "500", "500"]


def test_a_server_restarted_between_two_pages(
    control_plane: ControlPlane, connect: Connect, many_maps: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    api = connect(control_plane.kubeconfig(), timeout_s=60.0)
    original = RestKubeApi._send
    pages = 0

    def killing(self: RestKubeApi, method: str, path: str, **options: Any) -> Any:
        nonlocal pages
        answer = original(self, method, path, **options)
        pages += 1
        if pages == 2:
            control_plane.stop(kill=True)
            control_plane.start()
        return answer

    monkeypatch.setattr(RestKubeApi, "_send", killing)
    names = {m["metadata"]["name"] for m in api.items(many_maps, params={"limit": "300"})}
    assert {f"m{t}-{i}" for t in range(4) for i in range(300)} <= names
    assert pages >= 4


def test_a_server_away_in_the_middle_of_a_wait(control_plane: ControlPlane, connect: Connect) -> None:
    api = connect(control_plane.kubeconfig(), timeout_s=60.0)
    api.apply(config_map("waited", state="old"))
    control_plane.stop(kill=True)
    assert not api.is_ready(1.0)
    starter = threading.Timer(1.0, control_plane.start)
    starter.start()
    try:
        assert api.get(f"{MAPS}/waited")["data"] == {"state": "old"}
        patched = api.patch(f"{MAPS}/waited", {"data": {"state": "new"}})
        assert patched["data"] == {"state": "new"}
    finally:
        starter.join()
    control_plane.wait_ready()


def test_a_server_that_stays_away_ends_with_the_cause(control_plane: ControlPlane, connect: Connect) -> None:
    api = connect(control_plane.kubeconfig(server=f"https://127.0.0.1:{free_port()}"), timeout_s=1.5)
    began = time.monotonic()
    with pytest.raises(KubeError) as caught:
        api.get("/version")
    assert 0.5 < time.monotonic() - began < 3
    assert caught.value.status == 0
    assert "connection refused" in caught.value.why
    assert "tried" in caught.value.why
    assert "kube-apiserver runs" in caught.value.hint


def test_cancel_ends_the_waiting_at_once(control_plane: ControlPlane, connect: Connect) -> None:
    cancel = Cancel()
    api = connect(control_plane.kubeconfig(server=f"https://127.0.0.1:{free_port()}"), timeout_s=60.0, cancel=cancel)
    threading.Timer(0.5, cancel.set, ["SIGINT"]).start()
    began = time.monotonic()
    with pytest.raises(CancelledError):
        api.get("/version")
    assert time.monotonic() - began < 2


def test_a_stalled_server_is_given_up_at_the_deadline(control_plane: ControlPlane, connect: Connect) -> None:
    import signal

    control_plane.wait_ready()
    api = connect(control_plane.kubeconfig())
    control_plane.signal("kube-apiserver", signal.SIGSTOP)
    try:
        began = time.monotonic()
        assert not api.is_ready(0.5)
        with pytest.raises(KubeError) as caught:
            api.get("/version", timeout_s=2.0)
        assert time.monotonic() - began < 4
    finally:
        control_plane.signal("kube-apiserver", signal.SIGCONT)
    assert caught.value.status == 0
    assert "within the time allowed" in caught.value.why
    control_plane.wait_ready()


def test_server_side_apply(api: KubeApi) -> None:
    text = """
apiVersion: v1
kind: List
items:
- {apiVersion: v1, kind: Namespace, metadata: {name: applied}}
- apiVersion: apps/v1
  kind: Deployment
  metadata: {name: web, namespace: applied}
  spec:
    replicas: 2
    selector: {matchLabels: {app: web}}
    template:
      metadata: {labels: {app: web}}
      spec: {containers: [{name: web, image: "web:1", ports: [{containerPort: 8080}]}]}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: plain}
data: {time: 12:30:45, date: 2020-01-01, sign: "="}
"""
    text = text.replace("12:30:45", "'12:30:45'").replace("2020-01-01", "'2020-01-01'")
    shown = [api.apply(m) for m in split_manifests(text)]
    assert shown == ["Namespace applied", "Deployment applied/web", "ConfigMap default/plain"]
    path = "/apis/apps/v1/namespaces/applied/deployments/web"
    first = api.get(path)
    assert [api.apply(m) for m in split_manifests(text)] == shown
    assert api.get(path)["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"]
    assert first["metadata"]["managedFields"][0]["manager"] == "kops-py"
    # force: somebody else's value of a field of ours gives way
    api.patch(path, {"spec": {"replicas": 5}})
    for manifest in split_manifests(text):
        api.apply(manifest)
    assert api.get(path)["spec"]["replicas"] == 2


def test_apply_finds_a_kind_whose_definition_was_applied_just_before(api: KubeApi) -> None:
    definition = {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "pools.net.example.test"},
        "spec": {
            "group": "net.example.test",
            "scope": "Namespaced",
            "names": {"kind": "Pool", "plural": "pools", "singular": "pool"},
            "versions": [
                {
                    "name": "v1",
                    "served": True,
                    "storage": True,
                    "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}},
                }
            ],
        },
    }
    pool = {"apiVersion": "net.example.test/v1", "kind": "Pool", "metadata": {"name": "a"}, "spec": {"cidr": "x"}}
    with pytest.raises(KubeError, match="knows no Pool"):
        api.apply(pool)
    api.apply(definition)
    assert api.apply(pool) == "Pool default/a"
    with pytest.raises(KubeError, match=r"knows no Nonsense in apps/v1") as caught:
        api.apply({"apiVersion": "apps/v1", "kind": "Nonsense", "metadata": {"name": "a"}})
    assert caught.value.status == 404


def test_conflicts_and_absence(api: KubeApi) -> None:
    made = api.create(MAPS, config_map("conflict", a="1"))
    with pytest.raises(KubeError) as exists:
        api.create(MAPS, config_map("conflict"))
    assert (exists.value.status, exists.value.reason) == (409, "AlreadyExists")
    assert exists.value.where == MAPS
    assert "already exists" in exists.value.why
    api.patch(f"{MAPS}/conflict", {"data": {"a": "2"}})
    with pytest.raises(KubeError) as stale:
        api.replace(f"{MAPS}/conflict", made)
    assert (stale.value.status, stale.value.reason) == (409, "Conflict")
    wrong_uid = {"preconditions": {"uid": "00000000-0000-0000-0000-000000000000"}}
    with pytest.raises(KubeError) as other:
        api.delete(f"{MAPS}/conflict", body=wrong_uid)
    assert other.value.status == 409
    assert api.delete(f"{MAPS}/conflict", body={"preconditions": {"uid": made["metadata"]["uid"]}})
    assert not api.delete(f"{MAPS}/conflict")
    assert api.get_or_none(f"{MAPS}/conflict") is None
    with pytest.raises(KubeError) as absent:
        api.get(f"{MAPS}/conflict")
    assert (absent.value.status, absent.value.reason) == (404, "NotFound")


def test_credentials_that_may_not_or_are_not_known(control_plane: ControlPlane, connect: Connect) -> None:
    control_plane.wait_ready()
    nobody = connect(control_plane.kubeconfig(control_plane.authority.issue("nobody")))
    with pytest.raises(KubeError) as forbidden:
        list(nobody.items("/api/v1/nodes"))
    assert (forbidden.value.status, forbidden.value.reason) == (403, "Forbidden")
    assert '"nobody"' in forbidden.value.why
    assert "administrator" in forbidden.value.hint
    stranger = connect(control_plane.kubeconfig(Authority("other").issue("admin", organisation="system:masters")))
    with pytest.raises(KubeError) as unknown:
        list(stranger.items("/api/v1/nodes"))
    assert (unknown.value.status, unknown.value.reason) == (401, "Unauthorized")
    expired = control_plane.authority.issue("admin", organisation="system:masters", valid=timedelta(days=-1))
    with pytest.raises(KubeError) as old:
        list(connect(control_plane.kubeconfig(expired)).items("/api/v1/nodes"))
    assert old.value.status == 401
    assert "expired" in old.value.hint
    token = kubeconfig(control_plane.server, control_plane.authority.certificate, None, token="wrong")
    with pytest.raises(KubeError) as wrong:
        connect(token).get("/api/v1/nodes")
    assert wrong.value.status == 401
    assert "wrong" not in str(wrong.value)


def test_a_server_that_cannot_be_trusted(control_plane: ControlPlane, connect: Connect) -> None:
    control_plane.wait_ready()
    foreign = connect(control_plane.kubeconfig(authority=Authority("other").certificate), timeout_s=20.0)
    began = time.monotonic()
    with pytest.raises(KubeError) as unknown:
        foreign.get("/version")
    assert time.monotonic() - began < 5
    assert "unknown authority" in unknown.value.why
    assert "kops-py kubeconfig" in unknown.value.hint
    named = control_plane.kubeconfig(server=f"https://localhost:{control_plane.port}")
    with pytest.raises(KubeError) as misnamed:
        connect(named).get("/version")
    assert "other names" in misnamed.value.why
    assert "localhost" in misnamed.value.why


def test_another_way_to_the_server_keeps_the_name_of_the_certificate(
    control_plane: ControlPlane, connect: Connect
) -> None:
    control_plane.wait_ready()
    by_name = control_plane.kubeconfig(server="https://api.example.test:6443")
    assert connect(by_name, server=control_plane.server).get("/version")["major"] == "1"
    by_address = control_plane.kubeconfig(server="https://10.96.0.1:6443")
    assert connect(by_address, server=control_plane.server).get("/version")["major"] == "1"
    strange = control_plane.kubeconfig(server="https://10.96.0.99:6443")
    with pytest.raises(KubeError, match="other names"):
        connect(strange, server=control_plane.server).get("/version")


def test_a_name_that_does_not_resolve_fails_at_once(control_plane: ControlPlane, connect: Connect) -> None:
    api = connect(control_plane.kubeconfig(server="https://no-such-host.invalid:6443"), timeout_s=30.0)
    began = time.monotonic()
    with pytest.raises(KubeError) as caught:
        api.get("/version")
    assert "does not resolve" in caught.value.why
    assert time.monotonic() - began < 25


def test_no_key_is_left_on_disk(control_plane: ControlPlane, connect: Connect, tmp_path: Path) -> None:
    api = connect(control_plane.kubeconfig())
    control_plane.wait_ready()
    api.get("/version")
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]


def test_observes_a_cluster(api: KubeApi) -> None:
    cp, worker = node("cp1", control_plane=True), node("w1", ready=False, ip="10.0.0.2")
    for item in (cp, worker):
        status = item.pop("status")
        api.create("/api/v1/nodes", item)
        api.patch(f"/api/v1/nodes/{item['metadata']['name']}/status", {"status": status})
    api.create(
        "/api/v1/namespaces/kube-system/configmaps",
        config_map(
            "kubeadm-config",
            ClusterConfiguration="{clusterName: prod, controlPlaneEndpoint: api.example.test:6443, etcd: {}}",
        ),
    )
    secret: JsonObject = {
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "bootstrap.kubernetes.io/token",
        "metadata": {"name": "bootstrap-token-abcdef"},
        "stringData": {"token-id": "abcdef", "token-secret": "0123456789abcdef", "description": "kops-py join"},
    }
    api.create("/api/v1/namespaces/kube-system/secrets", secret)
    mirror = pod("etcd-cp1", node="cp1", mirror=True)
    mirror["spec"] = {"nodeName": "cp1", "containers": [{"name": "main", "image": "etcd"}]}
    mirror["metadata"]["annotations"]["kubernetes.io/config.hash"] = "hash"
    status = mirror.pop("status")
    api.create("/api/v1/namespaces/kube-system/pods", mirror)
    status["containerStatuses"] = []
    api.patch("/api/v1/namespaces/kube-system/pods/etcd-cp1/status", {"status": status})
    facts = observe_cluster(api, expected_nodes=["cp1", "w1", "w2"])
    assert str(facts.server_version).startswith("v1.20")
    assert facts.nodes["cp1"].is_control_plane
    assert facts.nodes["cp1"].internal_ip == "10.0.0.1"
    assert facts.nodes["cp1"].ready
    assert facts.cluster_name == "prod"
    assert facts.control_plane_endpoint == "api.example.test:6443"
    assert facts.join_secrets == ("bootstrap-token-abcdef",)
    assert "0123456789abcdef" not in repr(facts)
    assert facts.unhealthy[0] == "node w2 has not joined the cluster"
    assert "node w1 is not Ready: KubeletNotReady: PLEG is not healthy" in facts.unhealthy
    assert "kube-apiserver on cp1: its mirror pod has not appeared in the API" in facts.unhealthy
    assert not [s for s in facts.unhealthy if s.startswith("etcd")]
    shown = observe_status(api)
    assert [(n.name, n.roles, n.ready) for n in shown.nodes] == [
        ("cp1", ("control-plane",), True),
        ("w1", ("worker",), False),
    ]
    assert shown.bootstrap_tokens == 1
    assert shown.etcd_pods[0].healthy
