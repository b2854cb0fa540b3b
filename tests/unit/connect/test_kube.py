"""The connector's rules on repeating, deadlines, pages and errors, against scripted answers."""

from __future__ import annotations

import gc
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypedDict

import pytest

from kops_py.connect import kube
from kops_py.connect.base import Cancel, KubeApi
from kops_py.connect.kube import connect_kube
from kops_py.model.errors import CancelledError, KubeError
from tests.unit.connect.kube_server import Reply, ScriptedServer, plain_kubeconfig, status

Start = Callable[..., tuple[KubeApi, ScriptedServer]]
PATH = "/api/v1/namespaces/default/configmaps/a"
OBJECT = {"kind": "ConfigMap", "metadata": {"name": "a", "resourceVersion": "7"}, "data": {"x": "1"}}
OK = Reply(200, OBJECT)
BUSY = [
    status(503, "ServiceUnavailable", "apiserver is shutting down"),
    status(429, "TooManyRequests", "slow down", (("Retry-After", "0"),)),
    Reply(502, b"<html>bad gateway</html>"),
    status(504, "Timeout", "request did not complete"),
    status(500, "InternalError", "etcdserver: leader changed"),
    status(500, "InternalError", "etcdserver: request timed out"),
    Reply(cut=True),
    Reply(200, b"{", promised=100),
]


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    monkeypatch.setattr(kube, "_FIRST_PAUSE_S", 0.02)
    started: list[tuple[KubeApi, ScriptedServer]] = []

    def begin(*script: Reply, timeout_s: float = 5.0, cancel: Cancel | None = None) -> tuple[KubeApi, ScriptedServer]:
        server = ScriptedServer(script)
        api = connect_kube(
            server.kubeconfig(),
            server_override=None,
            work_dir=tmp_path,
            request_timeout_s=timeout_s,
            cancel=cancel,
        )
        started.append((api, server))
        return api, server

    yield begin
    for api, server in started:
        api.close()
        server.close()
        assert not server.faults, server.faults


@pytest.mark.parametrize("trouble", BUSY)
@pytest.mark.parametrize(
    "call",
    [
        lambda api: api.get(PATH),
        lambda api: api.replace(PATH, OBJECT),
        lambda api: api.patch(PATH, {"data": {"x": "1"}}),
        lambda api: api.delete(PATH, body={"preconditions": {"uid": "u"}}),
        lambda api: list(api.items(PATH.rpartition("/")[0])),
    ],
    ids=["get", "replace", "patch", "delete", "items"],
)
def test_rides_out_a_restarting_server(start: Start, call: Callable[[KubeApi], Any], trouble: Reply) -> None:
    api, server = start(trouble, trouble, OK)
    assert call(api) is not None
    assert len(server.requests) == 3


@pytest.mark.parametrize("trouble", BUSY)
@pytest.mark.parametrize(
    "call",
    [
        lambda api: api.create(PATH.rpartition("/")[0], OBJECT),
        lambda api: api.replace(PATH, {"metadata": {"name": "a"}}),
        lambda api: api.patch(
            PATH, [{"op": "add", "path": "/x/-", "value": 1}], content_type="application/json-patch+json"
        ),
        lambda api: api.delete(PATH),
    ],
    ids=["create", "replace-unguarded", "json-patch", "delete-unguarded"],
)
def test_tries_once_what_is_not_safe_to_repeat(start: Start, call: Callable[[KubeApi], Any], trouble: Reply) -> None:
    api, server = start(trouble)
    with pytest.raises(KubeError) as caught:
        call(api)
    assert caught.value.status == (0 if trouble.cut or trouble.promised else trouble.status)
    assert len(server.requests) == 1


@pytest.mark.parametrize("code", [400, 401, 403, 404, 405, 409, 410, 413, 415, 422, 500, 501])
def test_an_answer_that_repeating_cannot_change_is_final(start: Start, code: int) -> None:
    api, server = start(status(code, "Reason", "the server's message"))
    with pytest.raises(KubeError) as caught:
        api.get(PATH)
    error = caught.value
    assert (error.status, error.reason, error.where, error.why) == (code, "Reason", PATH, "the server's message")
    assert len(server.requests) == 1


def test_a_create_is_sent_again_when_no_connection_was_made(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    api = connect_kube(
        plain_kubeconfig(f"http://127.0.0.1:{port}"), server_override=None, work_dir=tmp_path, request_timeout_s=10
    )
    received: list[bytes] = []

    def listen() -> None:
        with socket.create_server(("127.0.0.1", port)) as server:
            connection, _ = server.accept()
            with connection:
                received.append(connection.recv(65536))
                body = json.dumps(OBJECT).encode()
                connection.sendall(b"HTTP/1.1 201 Created\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))

    late = threading.Timer(0.5, listen)
    late.start()
    try:
        assert api.create("/api/v1/namespaces/default/configmaps", OBJECT) == OBJECT
    finally:
        late.join()
        api.close()
    assert len(received) == 1


def test_the_deadline_holds_for_all_attempts_together(start: Start) -> None:
    api, server = start(*[status(503)] * 50, timeout_s=1.0)
    began = time.monotonic()
    with pytest.raises(KubeError, match=r"tried \d+ times in 1 s") as caught:
        api.get(PATH)
    assert time.monotonic() - began < 1.5
    assert caught.value.status == 503
    assert 3 <= len(server.requests) < 20


def test_a_pause_the_server_asks_for_is_kept_or_not_begun(start: Start) -> None:
    api, server = start(status(429, headers=(("Retry-After", "1"),)), OK, status(429, headers=(("Retry-After", "30"),)))
    began = time.monotonic()
    api.get(PATH)
    assert 1.0 <= time.monotonic() - began < 2.0
    began = time.monotonic()
    with pytest.raises(KubeError) as caught:
        api.get(PATH)
    assert caught.value.status == 429
    assert time.monotonic() - began < 0.5
    assert len(server.requests) == 3


def test_an_answer_drop_by_drop_does_not_outlive_the_deadline(start: Start) -> None:
    drip = Reply(200, OBJECT, drip_s=0.1)
    api, _ = start(drip, drip, drip, drip, timeout_s=1.5)
    began = time.monotonic()
    with pytest.raises(KubeError, match="within the time allowed"):
        api.get(PATH)
    assert time.monotonic() - began < 2.5


def test_cancel_is_noticed_in_a_pause(start: Start) -> None:
    cancel = Cancel()
    api, _ = start(status(429, headers=(("Retry-After", "20"),)), timeout_s=60, cancel=cancel)
    threading.Timer(0.3, cancel.set, ["SIGTERM"]).start()
    began = time.monotonic()
    with pytest.raises(CancelledError):
        api.get(PATH)
    assert time.monotonic() - began < 2


def test_a_conflict_that_is_our_own_earlier_write_is_a_success(start: Start) -> None:
    stored = {**OBJECT, "metadata": {"name": "a", "resourceVersion": "8", "uid": "u"}, "immutable": False}
    api, _ = start(Reply(cut=True), status(409, "Conflict"), Reply(200, stored))
    assert api.replace(PATH, OBJECT) == stored


def test_a_conflict_after_a_lost_answer_may_still_be_somebody_elses(start: Start) -> None:
    stored = {**OBJECT, "data": {"x": "2"}}
    api, _ = start(Reply(cut=True), status(409, "Conflict"), Reply(200, stored))
    with pytest.raises(KubeError) as caught:
        api.replace(PATH, OBJECT)
    assert caught.value.status == 409


def test_a_delete_whose_answer_was_lost_still_says_true(start: Start) -> None:
    guarded = {"preconditions": {"uid": "u"}}
    api, _ = start(Reply(cut=True), status(404), status(404), Reply(cut=True), status(409))
    assert api.delete(PATH, body=guarded) is True
    assert api.delete(PATH, body=guarded) is False
    assert api.delete(PATH, body=guarded) is True


def test_a_conflict_at_the_first_attempt_is_somebody_elses_even_if_they_wrote_the_same(start: Start) -> None:
    api, server = start(status(409, "Conflict"), status(503), status(409, "Conflict"))
    for _ in range(2):
        with pytest.raises(KubeError) as caught:
            api.replace(PATH, OBJECT)
        assert caught.value.status == 409
    assert [r.method for r in server.requests] == ["PUT", "PUT", "PUT"]


def test_a_delete_that_was_turned_away_before_is_not_counted_as_done(start: Start) -> None:
    api, _ = start(status(503), status(404))
    assert api.delete(PATH, body={"preconditions": {"uid": "u"}}) is False


def page(names: str, token: str = "") -> Reply:
    items = [{"metadata": {"name": n}} for n in names]
    return Reply(200, {"metadata": {"continue": token} if token else {}, "items": items or None})


def test_pages_are_read_to_the_end(start: Start) -> None:
    api, server = start(page("ab", "t1"), page("cd", "t2"), page(""))
    found = api.items("/api/v1/pods", params={"labelSelector": "a=b,c"})
    assert [i["metadata"]["name"] for i in found] == list("abcd")
    assert [r.query.get("continue") for r in server.requests] == [None, "t1", "t2"]
    assert all(r.query["limit"] == "500" and r.query["labelSelector"] == "a=b,c" for r in server.requests)


def test_a_list_the_server_forgot_is_read_anew_once(start: Start) -> None:
    gone = status(410, "Expired", "The provided continue parameter is too old")
    api, _ = start(page("ab", "t1"), gone, page("bc", "t2"), page("d"))
    assert [i["metadata"]["name"] for i in api.items("/api/v1/pods")] == list("bcd")
    api, _ = start(page("ab", "t1"), gone, page("ab", "t1"), gone)
    with pytest.raises(KubeError) as caught:
        api.items("/api/v1/pods")
    assert caught.value.status == 410


class Shape(TypedDict, total=False):
    name: str


def collect(api: KubeApi, shape: type[Any] | None = None) -> list[Any]:
    return api.fold("/api/v1/pods", list, list.append, shape=shape, page_size=2)


def test_a_long_list_is_given_on_as_its_pages_arrive(start: Start) -> None:
    api, server = start(page("ab", "t1"), page("c"))
    seen: list[tuple[int, Any]] = []
    api.fold("/api/v1/pods", list, lambda _, item: seen.append((len(server.requests), item)), page_size=2)
    assert [requests for requests, _ in seen] == [1, 1, 2]
    assert [r.query["limit"] for r in server.requests] == ["2", "2"]


def test_a_list_forgotten_half_way_is_folded_anew(start: Start) -> None:
    gone = status(410, "Expired", "The provided continue parameter is too old")
    api, _ = start(page("ab", "t1"), gone, page("a", "t2"), page("c"))
    assert len(collect(api)) == 2
    api, _ = start(page("a", "t1"), gone, page("a", "t2"), gone)
    with pytest.raises(KubeError) as caught:
        collect(api)
    assert caught.value.status == 410


def test_only_the_shape_of_an_item_is_read(start: Start) -> None:
    api, _ = start(Reply(200, {"metadata": {}, "items": [{"name": "a", "other": {"b": 1}}]}))
    assert collect(api, Shape) == [{"name": "a"}]


@pytest.mark.parametrize("items", [[{"name": 5, "other": 1}], [{"name": None}], None])
def test_what_does_not_fit_the_shape_is_read_whole(start: Start, items: Any) -> None:
    api, _ = start(Reply(200, {"metadata": {}, "items": items}))
    assert collect(api, Shape) == (items or [])


def test_a_list_that_is_no_json(start: Start) -> None:
    api, _ = start(Reply(200, b"<html>login</html>"))
    with pytest.raises(KubeError, match="does not answer as a Kubernetes API server"):
        collect(api, Shape)


def test_the_cycle_collector_is_on_again_whatever_happens(start: Start) -> None:
    api, _ = start(page("a"), page("a"))
    collect(api)
    assert gc.isenabled()
    with pytest.raises(ZeroDivisionError):
        api.fold("/api/v1/pods", list, lambda _into, _item: 1 / 0)  # type: ignore[arg-type]
    assert gc.isenabled()


def test_text(start: Start) -> None:
    api, _ = start(Reply(200, 'a_metric{x="ü"} 1\n'.encode()))
    assert api.text("/metrics") == 'a_metric{x="ü"} 1\n'


def test_absence_is_none_for_those_who_ask_so(start: Start) -> None:
    api, _ = start(status(404, "NotFound"), status(403, "Forbidden"))
    assert api.get_or_none(PATH) is None
    with pytest.raises(KubeError):
        api.get_or_none(PATH)


@pytest.mark.parametrize("body", [b"<html>login</html>", b"[1]", b"", b"\xff"])
def test_an_answer_of_something_else_is_named(start: Start, body: bytes) -> None:
    api, _ = start(Reply(200, body))
    with pytest.raises(KubeError, match="does not answer as a Kubernetes API server"):
        api.get("/version")


def test_readiness_is_one_question(start: Start) -> None:
    api, server = start(Reply(200, b"ok"), status(500, message="[+]etcd failed"), Reply(cut=True))
    assert [api.is_ready(), api.is_ready(), api.is_ready()] == [True, False, False]
    assert len(server.requests) == 3


RESOURCES = {
    "resources": [
        {"name": "configmaps", "kind": "ConfigMap", "namespaced": True},
        {"name": "namespaces", "kind": "Namespace", "namespaced": False},
        {"name": "namespaces/status", "kind": "Namespace", "namespaced": False},
    ]
}


def test_apply_asks_for_kinds_once_and_sends_a_forced_server_side_apply(start: Start) -> None:
    api, server = start(Reply(200, RESOURCES), OK, OK)
    manifest = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"x": "1"}}
    assert api.apply(manifest, field_manager="me") == "ConfigMap default/a"
    assert api.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "n"}}) == "Namespace n"
    assert [(r.method, r.path) for r in server.requests] == [
        ("GET", "/api/v1"),
        ("PATCH", PATH),
        ("PATCH", "/api/v1/namespaces/n"),
    ]
    sent = server.requests[1]
    assert sent.query == {"fieldManager": "me", "force": "true"}
    assert sent.headers["Content-Type"] == "application/apply-patch+yaml"
    assert json.loads(sent.body)["metadata"] == {"name": "a", "namespace": "default"}
    assert "namespace" not in manifest["metadata"]


def test_an_unknown_kind_is_asked_for_again_then_named(start: Start) -> None:
    api, _ = start(Reply(200, RESOURCES), OK, Reply(200, RESOURCES))
    api.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}})
    with pytest.raises(KubeError, match="knows no Pool in v1"):
        api.apply({"apiVersion": "v1", "kind": "Pool", "metadata": {"name": "a"}})


def test_the_token_goes_into_the_header_and_nowhere_else(start: Start) -> None:
    api, server = start(status(401, "Unauthorized"))
    with pytest.raises(KubeError) as caught:
        api.get(PATH)
    sent = {k.lower(): v for k, v in server.requests[0].headers.items()}
    assert sent["authorization"] == "Bearer t0ken"
    assert "t0ken" not in json.dumps(caught.value.to_json())
    assert "kops-py kubeconfig" in caught.value.hint


def test_a_closed_connection_is_not_used_again(start: Start) -> None:
    api, server = start()
    api.close()
    with pytest.raises(KubeError, match="was closed"):
        api.get(PATH)
    assert not api.is_ready()
    assert server.requests == []


@pytest.mark.parametrize(("method", "least", "most"), [("get", 3, 100), ("create", 1, 1)])
def test_tls_cut_off_in_the_middle_of_the_handshake(tmp_path: Path, method: str, least: int, most: int) -> None:
    accepted: list[int] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def hang_up() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                accepted.append(1)
                connection.recv(10)
                connection.close()

        thread = threading.Thread(target=hang_up, daemon=True)
        thread.start()
        url = f"https://127.0.0.1:{server.getsockname()[1]}"
        api = connect_kube(plain_kubeconfig(url), server_override=None, work_dir=tmp_path, request_timeout_s=1.5)
        with pytest.raises(KubeError, match="does not answer"):
            api.get(PATH) if method == "get" else api.create(PATH, OBJECT)
        api.close()
        server.shutdown(socket.SHUT_RDWR)
        thread.join(5)
    assert least <= len(accepted) <= most


def test_a_port_that_speaks_no_tls_is_named_at_once(start: Start, tmp_path: Path) -> None:
    _, server = start(timeout_s=30)
    url = server.url.replace("http:", "https:")
    api = connect_kube(plain_kubeconfig(url), server_override=None, work_dir=tmp_path, request_timeout_s=30)
    began = time.monotonic()
    with pytest.raises(KubeError, match="no TLS connection"):
        api.get(PATH)
    assert time.monotonic() - began < 5
    api.close()


def test_the_client_is_imported_only_when_used() -> None:
    modules = ("connect.kube", "connect.lease", "connect.kube_manifests", "observe.cluster", "observe.status")
    code = "; ".join(f"import kops_py.{m}" for m in modules)
    code += "; import sys; print([m for m in ('kubernetes', 'urllib3', 'yaml', 'cryptography') if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_an_error_tells_its_causes_and_when_to_ask_again(start: Start) -> None:
    details = {"retryAfterSeconds": 10, "causes": [{"reason": "DisruptionBudget", "message": "web needs 2"}]}
    body = {"kind": "Status", "status": "Failure", "reason": "TooManyRequests", "code": 429, "details": details}
    throttled = status(429, "", "slow down", (("Retry-After", "3"),))
    api, _ = start(Reply(429, body), throttled)
    with pytest.raises(KubeError) as caught:
        api.create(PATH.rpartition("/")[0], OBJECT)
    assert caught.value.causes == (("DisruptionBudget", "web needs 2"),)
    assert caught.value.retry_after_s == 10
    with pytest.raises(KubeError) as caught:
        api.create(PATH.rpartition("/")[0], OBJECT)
    assert (caught.value.causes, caught.value.retry_after_s) == ((), 3)
