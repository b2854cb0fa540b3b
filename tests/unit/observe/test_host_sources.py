"""Probes to the outside: what is asked for, and what is never shown."""

from __future__ import annotations

import dataclasses
import http.server
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from kops_py.connect.base import CommandResult
from kops_py.model.errors import DeadlineError
from kops_py.model.preflight import UrlUse
from kops_py.model.spec import ClusterSpec, ContainerdSpec
from kops_py.observe.host_probes import run_probes
from kops_py.observe.sources import (
    fsync_answer,
    images_problem,
    probe_sources,
    url_answers,
    wanted_urls,
    without_password,
)
from tests.fakes.ssh import Call, FakeFleet, FakeHost, Reply
from tests.unit.runbooks.preflight_cases import make_facts, make_spec


def with_kubernetes(**changes: Any) -> ClusterSpec:
    spec = make_spec(1, 1)
    return dataclasses.replace(spec, kubernetes=dataclasses.replace(spec.kubernetes, **changes))


def urls(spec: ClusterSpec, **changes: Any) -> list[tuple[UrlUse, str]]:
    return [(w.use, w.url) for w in wanted_urls(spec, spec.hosts[0], make_facts(spec, n1=changes).hosts["n1"])]


def test_urls_from_the_internet() -> None:
    repository = "https://pkgs.k8s.io/core:/stable:/v1.31"
    registry = (UrlUse.REGISTRY, "https://registry.k8s.io/v2/")
    assert urls(make_spec()) == [(UrlUse.REPOSITORY, f"{repository}/deb/Release"), registry]
    rpm = (UrlUse.REPOSITORY, f"{repository}/rpm/repodata/repomd.xml")
    assert urls(make_spec(), os_id="rocky", os_like="rhel centos fedora") == [rpm, registry]


def test_urls_of_a_mirror_and_of_a_bundle() -> None:
    mirrors = MappingProxyType({"r.example": ("http://m.example/v2/k8s",)})
    spec = dataclasses.replace(
        with_kubernetes(image_repository="r.example/k8s", repository_key="https://k.example/key"),
        containerd=ContainerdSpec(mirrors=mirrors),
    )
    assert urls(spec)[1:] == [
        (UrlUse.REPOSITORY, "https://k.example/key"),
        (UrlUse.REGISTRY, "http://m.example/v2/k8s"),
        (UrlUse.REGISTRY, "https://r.example/v2/"),
    ]
    spec = with_kubernetes(repository="http://b.example/", images="http://b.example/images")
    assert urls(spec) == [
        (UrlUse.REPOSITORY, "http://b.example/v1.31/deb/Release"),
        (UrlUse.IMAGES, "http://b.example/images/v1.31.2/images.json"),
    ]


def test_hosts_that_are_no_nodes_need_nothing() -> None:
    spec = make_spec(1, 0, 1)
    assert wanted_urls(spec, spec.hosts[1], make_facts(spec).hosts["n2"]) == ()


def test_image_folder_on_this_machine(tmp_path: Path) -> None:
    spec = with_kubernetes(images=str(tmp_path))
    assert "cannot be read: No such file" in images_problem(spec)
    index = tmp_path / "v1.31.2" / "images.json"
    index.parent.mkdir()
    index.write_text("{")
    assert "is not JSON" in images_problem(spec)
    index.write_text(json.dumps({}))
    assert images_problem(spec) == ""
    assert images_problem(with_kubernetes(images="https://x/y")) == images_problem(make_spec()) == ""


def test_answers() -> None:
    assert url_answers("m 0 200 \nm 1 000 Could not resolve host: x\nother 2 200\nm x 1\n", "m") == {
        0: (200, ""),
        1: (0, "Could not resolve host: x"),
    }
    probe = fsync_answer("n1", "fsync 100 0.512 2.250 /var/lib/with space\n")
    assert probe is not None
    assert (probe.writes, probe.p50_ms, probe.p99_ms, probe.path) == (100, 0.512, 2.25, "/var/lib/with space")
    assert fsync_answer("n1", "Traceback") is None


class LocalHost(FakeHost):
    """Runs what it is told here, so that the scripts themselves are tested."""

    def run(self, argv: Any, **options: Any) -> CommandResult:
        done = subprocess.run(argv, input=options.get("stdin"), capture_output=True, timeout=60)
        return CommandResult(self.name, done.returncode, done.stdout, done.stderr, 0.0)


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path.startswith("/v1.31") and self.headers.get("Authorization") != "Basic dXNlcjpzZWNyZXQ=":
            self.send_error(401)
            return
        status = {"/v1.31/deb/Release": 200, "/v2/": 401}.get(self.path, 404)
        self.send_response(status)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        pass


@pytest.fixture
def server() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


@pytest.mark.parametrize("tool", ["curl", "python3", "none"])
def test_the_script_asks_with_what_is_there(
    server: str, tool: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    spec = dataclasses.replace(
        with_kubernetes(repository=f"http://user:secret@{server}", repository_key=f"http://{server}/none"),
        containerd=ContainerdSpec(mirrors=MappingProxyType({"registry.k8s.io": (f"http://{server}",)})),
    )
    original = LocalHost.run

    def run(self: LocalHost, argv: Any, **options: Any) -> CommandResult:
        if argv[0] == "sh":
            text = options["stdin"].decode().replace("https://registry.k8s.io", f"http://{server}/x")
            text = text.replace("use_proxy_of_packages() {", "use_proxy_of_packages() { return\n", 1)
            if tool != "curl":
                text = text.replace("command -v curl", "command -v no-such-tool")
            if tool == "none":
                text = text.replace("command -v wget", "command -v no-such-tool")
                argv = (*argv[:4], "")
            options["stdin"] = text.encode()
            assert not any("secret" in word for word in argv)
        return original(self, argv, **options)

    monkeypatch.setattr(LocalHost, "run", run)
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    facts = make_facts(spec, every={"python_path": sys.executable}).hosts
    fleet = FakeFleet([LocalHost("n1"), LocalHost("n2")])
    probes, fsyncs, problems = probe_sources(fleet, spec, facts)
    assert problems == {}
    assert "secret" not in repr(probes)
    found = {(p.host, p.url): p.status for p in probes}
    if tool == "none":
        assert {p.detail for p in probes} == {"no curl, wget or python3 to ask with"}
        assert set(found.values()) == {0}
        return
    assert found["n1", f"http://{server}/v1.31/deb/Release"] == 200
    assert found["n2", f"http://{server}/none"] == 404
    assert found["n2", f"http://{server}/v2/"] == 401
    assert [f.host for f in fsyncs] == ["n1"]
    assert fsyncs[0].writes > 0
    assert 0 <= fsyncs[0].p50_ms <= fsyncs[0].p99_ms


def test_nobody_there_tells_why(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = with_kubernetes(repository="http://127.0.0.1:1", images="http://127.0.0.1:1")
    facts = make_facts(spec, every={"python_path": sys.executable}).hosts
    probes, _, _ = probe_sources(FakeFleet([LocalHost("n1"), LocalHost("n2")]), spec, facts)
    assert {p.status for p in probes} == {0}
    assert all(p.detail for p in probes)


def test_a_host_that_fails_is_told_and_the_others_go_on() -> None:
    spec = with_kubernetes(images="https://x/y")

    def shell(argv: tuple[str, ...]) -> bool:
        return argv[:3] == ("sh", "-s", "--")

    def answer(call: Call) -> Reply:
        return Reply(f"{call.argv[3]} 0 200 \n{call.argv[3]} 1 200 \n", sudo=True)

    failing = FakeHost("n1").on(shell, Reply(error=DeadlineError("x")))
    fleet = FakeFleet([failing, FakeHost("n2").on(shell, answer)])
    probes, fsyncs, problems = probe_sources(fleet, spec, make_facts(spec).hosts)
    assert set(problems) == {"n1"}
    assert [(p.host, p.status) for p in probes] == [("n2", 200), ("n2", 200)]
    assert fsyncs == ()


def test_nothing_reachable_means_nothing_is_run() -> None:
    spec = make_spec(1, 1)
    facts = make_facts(spec, every={"problem": DeadlineError("x")}).hosts
    found = run_probes(FakeFleet([FakeHost("n1"), FakeHost("n2")]), spec, facts)
    assert (found.ports, found.urls, found.fsync) == ((), (), ())


def test_passwords_in_urls_are_not_shown() -> None:
    assert without_password("no https://u:p@h/x nor http://t@i") == "no https://h/x nor http://i"
