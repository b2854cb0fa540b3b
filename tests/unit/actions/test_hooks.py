"""Hooks, gates and the watch over canaries: real commands here, scripted ones on nodes, a real web server."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from kops_py.actions import hooks
from kops_py.actions.perform import ClusterPerformer
from kops_py.connect.base import JsonObject
from kops_py.model.actions import RunHook, WaitGate, WatchCanary
from kops_py.model.cordon import CORDONED, UNFINISHED, Cordon
from kops_py.model.errors import CancelledError, CommandFailedError, DeadlineError, KubeError, UnreachableError
from kops_py.model.hooks import Gate, HttpCheck, OperatorCommand, Side
from tests.fakes.kube import node
from tests.fakes.ssh import Reply
from tests.unit.actions.stage import Stage, stage

TOKEN = "abcdef.0123456789abcdef"
TOLD = ["KOPS_NODE=n1", "KOPS_CLUSTER=sim", "KOPS_OPERATION=patch", "KOPS_VERSION=v1.31.2", "KOPS_RUN_ID=r1"]


def on_stage(folder: Path) -> Stage:
    made = stage(1, 1, [node("n1"), node("n2")])
    made.deps.run_id = "r1"
    made.deps.spec = dataclasses.replace(made.spec, cluster_path=folder / "cluster.yaml")
    return made


def hook(script: str, *, on: Side = Side.CONTROLLER, timeout_s: float = 10.0) -> RunHook:
    return RunHook("n1", "before", OperatorCommand(("sh", "-c", script), on, timeout_s), "patch", "v1.31.2")


def gate(check: OperatorCommand | HttpCheck, **times: float) -> WaitGate:
    return WaitGate(("n1",), Gate("shop", check, **{"interval_s": 0.01, **times}), "patch", "v1.31.2")


def script(text: str, timeout_s: float = 10.0) -> OperatorCommand:
    return OperatorCommand(("sh", "-c", text), timeout_s=timeout_s)


def test_a_hook_on_the_controller_runs_beside_cluster_yaml_and_is_told_what_for(tmp_path: Path) -> None:
    made = on_stage(tmp_path)
    action = hook("env | grep ^KOPS_ | sort > told; echo said it; cat")  # stdin is empty: cat ends
    hooks.run_hook(made.deps, action, made.ctx(action))
    assert (tmp_path / "told").read_text().split() == sorted(TOLD)
    assert made.progress == ["said it"]


def test_a_hook_on_the_node_runs_as_root_and_is_told_the_same(tmp_path: Path) -> None:
    made = on_stage(tmp_path)
    made.hosts["n1"].on(("env", *TOLD, "sh", "-c", "drain-lb"), Reply(sudo=True))
    action = hook("drain-lb", on=Side.NODE)
    hooks.run_hook(made.deps, action, made.ctx(action))
    assert len(made.hosts["n1"].calls) == 1


@pytest.mark.parametrize("on", list(Side))
def test_a_hook_that_fails_says_how_it_ended_and_shows_no_secret(tmp_path: Path, on: Side) -> None:
    made = on_stage(tmp_path)
    text = f"echo token {TOKEN}; echo no such lease >&2; exit 7"
    made.hosts["n1"].on(lambda argv: argv[0] == "env", Reply(f"token {TOKEN}\n", "no such lease\n", exit_status=7))
    action = hook(text, on=on)
    with pytest.raises(CommandFailedError) as caught:
        hooks.run_hook(made.deps, action, made.ctx(action))
    error = caught.value
    assert (error.where, int(error.code), error.exit_status) == ("n1", 10, 7)
    assert error.what.startswith("the hook before the work failed: sh -c")
    assert error.why == "exit status 7: token [redacted token]\nno such lease"
    assert "run again" in error.hint


def test_a_hook_that_cannot_be_started_or_does_not_end(tmp_path: Path) -> None:
    made = on_stage(tmp_path)
    missing = RunHook("n1", "after", OperatorCommand(("./nothing-here",)), "patch", "")
    with pytest.raises(CommandFailedError, match=r"hook after .* cannot be started: No such file") as caught:
        hooks.run_hook(made.deps, missing, made.ctx(missing))
    assert caught.value.where == "n1"
    slow = hook("echo waiting; sleep 60 & echo $! > child; wait", timeout_s=0.5)
    with pytest.raises(DeadlineError, match=r"did not end within 0\.5 s: waiting"):
        hooks.run_hook(made.deps, slow, made.ctx(slow))
    assert_gone(int((tmp_path / "child").read_text()))


def test_an_interrupted_hook_is_ended(tmp_path: Path) -> None:
    made = on_stage(tmp_path)
    action = hook("sleep 60 & echo $! > child; mv child begun; wait")

    def interrupt() -> None:
        wait_until((tmp_path / "begun").exists)
        made.cancel.set("SIGTERM")

    threading.Thread(target=interrupt).start()
    with pytest.raises(CancelledError):
        hooks.run_hook(made.deps, action, made.ctx(action))
    assert_gone(int((tmp_path / "begun").read_text()))


def test_much_output_is_no_trouble_and_its_end_is_what_counts(tmp_path: Path) -> None:
    made = on_stage(tmp_path)
    action = hook("head -c 3000000 /dev/zero | tr '\\0' 'x'; echo; echo the end; exit 1")
    with pytest.raises(CommandFailedError) as caught:
        hooks.run_hook(made.deps, action, made.ctx(action))
    assert caught.value.why.endswith("the end")
    assert len(caught.value.why) < 1100


def test_a_gate_is_asked_until_it_is_true(tmp_path: Path) -> None:
    made = on_stage(tmp_path)
    action = gate(script("echo x >> asked; echo not yet; test $(wc -l < asked) -ge 3"))
    hooks.wait_gate(made.deps, action, made.ctx(action))
    assert (tmp_path / "asked").read_text() == "x\n" * 3
    assert made.waits == ["gate shop: exit status 1: not yet"] * 2


def test_a_gate_that_stays_false_says_what_it_last_said(tmp_path: Path) -> None:
    made = on_stage(tmp_path)
    action = gate(script(f"echo x >> asked; echo {TOKEN} try $(wc -l < asked); exit 2"))
    with pytest.raises(DeadlineError) as caught:
        hooks.wait_gate(made.deps, action, made.ctx(action, timeout_s=0.4))
    count = len((tmp_path / "asked").read_text().split())
    assert caught.value.why == f"it last said: exit status 2: [redacted token] try {count}"
    assert int(caught.value.code) == 10
    stuck = gate(script("sleep 60", timeout_s=0.1))
    with pytest.raises(DeadlineError, match=r"did not end within"):
        hooks.wait_gate(made.deps, stuck, made.ctx(stuck, timeout_s=0.1))


def test_a_gate_on_nodes_is_asked_on_each_and_a_lost_connection_is_asked_again(tmp_path: Path) -> None:
    made = on_stage(tmp_path)
    made.hosts["n1"].on(lambda argv: "KOPS_NODE=n1" in argv, Reply())
    made.hosts["n2"].on(lambda argv: "KOPS_NODE=n2" in argv, Reply())
    lost = Reply(error=UnreachableError("no connection", where="n2"), times=1)
    made.hosts["n2"].on(lambda argv: argv[0] == "env", lost)
    check = OperatorCommand(("true",), Side.NODE)
    action = dataclasses.replace(gate(check), nodes=("n1", "n2"))
    hooks.wait_gate(made.deps, action, made.ctx(action, ""))
    assert [len(made.hosts[n].calls) for n in ("n1", "n2")] == [2, 2]
    assert made.waits == ["gate shop: n2: no connection"]


Answer = tuple[int, str]


@contextmanager
def web(answers: Callable[[str], Answer]) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = answers(self.path)
            self.send_response(status)
            if status == 302:
                self.send_header("Location", "/ok")
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_: Any) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_url_is_judged_by_status_and_text_and_redirects_are_not_followed(tmp_path: Path) -> None:
    made = on_stage(tmp_path)
    pages = {"/ok": (200, "all is well"), "/moved": (302, ""), "/broken": (503, "down"), "/made": (201, "")}

    def said(path: str, **fields: Any) -> str:
        action = gate(HttpCheck(f"{url}{path}", timeout_s=2.0, **fields))
        try:
            hooks.wait_gate(made.deps, action, made.ctx(action, timeout_s=0.05))
        except DeadlineError as error:
            return error.why.removeprefix("it last said: ").replace(url, "")
        return ""

    with web(lambda path: pages[path]) as url:
        assert said("/ok") == said("/made") == said("/ok", contains="well") == ""
        assert said("/broken", status=(503,)) == said("/moved", status=(301, 302)) == ""
        assert said("/broken") == "GET /broken answered 503, not 200 to 299"
        assert said("/moved") == "GET /moved answered 302, not 200 to 299"
        assert said("/made", status=(200,)) == "GET /made answered 201, not 200"
        assert said("/ok", contains="unwell") == "GET /ok answered 200, without the text 'unwell'"
        secure = HttpCheck(url.replace("http://", "https://"), ca_file=str(tmp_path / "none.pem"))
        action = gate(secure)
        with pytest.raises(DeadlineError, match="the file of authorities cannot be used"):
            hooks.wait_gate(made.deps, action, made.ctx(action, timeout_s=0.05))
    assert "refused" in said("/ok")


def a_watch(pause_s: float, *gates: Gate) -> WatchCanary:
    return WatchCanary(("n2",), pause_s, gates, "upgrade", "v1.31.2")


def deployment(available: int) -> JsonObject:
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"namespace": "shop", "name": "web"},
        "spec": {"replicas": 2},
        "status": {"availableReplicas": available},
    }


def test_the_watch_lasts_its_time_and_asks_the_gates_all_along(tmp_path: Path) -> None:
    made = on_stage(tmp_path)
    made.kube.add(deployment(2))
    action = a_watch(0.3, Gate("shop", script("echo $KOPS_NODE >> asked"), interval_s=0.05))
    began = time.monotonic()
    hooks.watch_canary(made.deps, action, made.ctx(action, ""))
    assert time.monotonic() - began >= 0.3
    asked = (tmp_path / "asked").read_text().split()
    assert set(asked) == {"n2"}
    assert len(asked) >= 2
    assert made.waits[0].startswith("the canary has been watched for 0s of 0.3s")


def test_a_gate_that_breaks_in_the_watch_ends_it(tmp_path: Path) -> None:
    made = on_stage(tmp_path)
    text = "echo x >> asked; echo alert; test $(wc -l < asked) -lt 3"
    action = a_watch(60, Gate("alerts", script(text), interval_s=0.01))
    with pytest.raises(CommandFailedError) as caught:
        hooks.watch_canary(made.deps, action, made.ctx(action, ""))
    assert str(caught.value) == "the gate alerts broke while n2 was watched: exit status 1: alert"
    assert "no other worker was begun" in caught.value.hint


def test_workloads_that_are_short_hold_the_watch_open_unless_they_were_before(tmp_path: Path) -> None:
    made = on_stage(tmp_path)
    made.kube.add(deployment(1))
    action = a_watch(0.01)
    with pytest.raises(DeadlineError, match="Deployment shop/web: 1 of 2 available"):
        hooks.watch_canary(made.deps, action, made.ctx(action, "", timeout_s=0.1))
    made.deps.short_before = frozenset({"Deployment shop/web"})
    hooks.watch_canary(made.deps, action, made.ctx(action, ""))
    made.cancel.set("SIGINT")
    with pytest.raises(CancelledError):
        hooks.watch_canary(made.deps, a_watch(60, Gate("x", script("true"))), made.ctx(action, ""))


def marked(made: Stage, key: str) -> None:
    mark = Cordon("ann", "t-upgrade-1", "now").to_annotation()
    made.kube.change("/api/v1/nodes/n1", lambda n: n["metadata"].setdefault("annotations", {}).update({key: mark}))


def annotation(made: Stage, key: str) -> str:
    found = made.kube.object("/api/v1/nodes/n1")
    assert found is not None
    return str(found["metadata"].get("annotations", {}).get(key, ""))


@pytest.mark.parametrize("key", [CORDONED, UNFINISHED])
def test_a_failure_is_written_onto_a_node_that_carries_our_mark(tmp_path: Path, key: str) -> None:
    made = on_stage(tmp_path)
    marked(made, key)
    action = hook(f"echo lease is gone {TOKEN}; exit 1")
    with pytest.raises(CommandFailedError):
        ClusterPerformer(made.deps).apply(made.ctx(action))
    assert '"reason": "the step: the hook before the work failed: ' in annotation(made, key)
    assert "lease is gone [redacted token]" in annotation(made, key)


def test_a_failure_is_written_nowhere_else_and_never_hidden(tmp_path: Path) -> None:
    made = on_stage(tmp_path)
    action = hook("exit 1")
    with pytest.raises(CommandFailedError):
        ClusterPerformer(made.deps).apply(made.ctx(action))
    assert made.kube.writes() == []
    marked(made, CORDONED)
    made.kube.fail("patch", "/nodes/n1", KubeError("no answer"))
    with pytest.raises(CommandFailedError, match="exit status 1"):
        ClusterPerformer(made.deps).apply(made.ctx(action))
    assert made.progress[-1] == "the reason cannot be written onto the node: no answer"
    made.cancel.set("SIGTERM")
    writes = made.kube.writes()
    with pytest.raises(CancelledError):
        ClusterPerformer(made.deps).apply(made.ctx(action))
    assert made.kube.writes() == writes


def wait_until(true: Callable[[], bool], deadline_s: float = 20.0) -> None:
    ends = time.monotonic() + deadline_s
    while not true():
        assert time.monotonic() < ends
        time.sleep(0.01)


def assert_gone(pid: int) -> None:
    """The process ended, or is only still to be collected by whoever inherited it."""

    def gone() -> bool:
        try:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
        except OSError:
            return True

    wait_until(gone)
