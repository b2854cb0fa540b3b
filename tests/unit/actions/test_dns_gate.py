"""DNS is asked for from a node: the real question over the real shell, and what is made of the answers."""

from __future__ import annotations

import socket
import subprocess
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from kops_py.actions import dns_gate
from kops_py.connect.base import CommandResult
from kops_py.model.errors import UnreachableError
from tests.fakes.kube import node
from tests.unit.actions.stage import stage

SERVICE = {
    "apiVersion": "v1",
    "kind": "Service",
    "metadata": {"namespace": "kube-system", "name": "kube-dns"},
    "spec": {"clusterIP": "10.96.0.10"},
}


class Here:
    """Runs commands on this machine."""

    name = "n1"

    def run(self, argv: Sequence[str], **_: Any) -> CommandResult:
        done = subprocess.run(argv, capture_output=True, timeout=20)
        return CommandResult(self.name, done.returncode, done.stdout, done.stderr, 0.0)


class Server:
    """A DNS server that answers every question with the same flags, or not at all."""

    def __init__(self) -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.port = int(self.socket.getsockname()[1])
        self.flags: bytes | None = b"\x81\x80"
        self.questions: list[bytes] = []
        self.socket.settimeout(0.05)
        self.ended = False
        self.thread = threading.Thread(target=self._serve)
        self.thread.start()

    def _serve(self) -> None:
        while not self.ended:
            try:
                question, peer = self.socket.recvfrom(512)
            except TimeoutError:
                continue
            self.questions.append(question)
            if self.flags is not None:
                self.socket.sendto(question[:2] + self.flags + question[4:], peer)

    def stop(self) -> None:
        self.ended = True
        self.thread.join()
        self.socket.close()


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.stop()


@pytest.mark.parametrize(
    ("flags", "answered"),
    [(b"\x81\x80", True), (b"\x81\x83", True), (b"\x81\x82", False), (b"\x01\x00", False), (None, False)],
)
def test_an_answer_is_one_that_is_no_failure_of_the_server(server: Server, flags: bytes | None, answered: bool) -> None:
    server.flags = flags
    assert dns_gate.answers(Here(), "127.0.0.1", "cluster.local", port=server.port) is answered  # type: ignore[arg-type]
    [question] = server.questions
    name = b"\x0akubernetes\x07default\x03svc\x07cluster\x05local\x00"
    assert question == b"kp\x01\x00\x00\x01" + b"\x00" * 6 + name + b"\x00\x01\x00\x01"


def test_nobody_there_is_no_answer(server: Server) -> None:
    server.stop()
    assert not dns_gate.answers(Here(), "127.0.0.1", "cluster.local", port=server.port)  # type: ignore[arg-type]


def test_only_a_node_that_dns_answered_before_is_held_up(monkeypatch: pytest.MonkeyPatch) -> None:
    made = stage(1, 1, [node("n1"), node("n2")])
    answer: list[bool] = []
    monkeypatch.setattr(dns_gate, "answers", lambda host, ip, domain: answer.pop(0))
    dns_gate.note_dns(made.deps, "n2")
    assert made.deps.dns_answered == set(), "a cluster with another DNS is not asked"
    made.kube.add(SERVICE)
    answer[:] = [False]
    dns_gate.note_dns(made.deps, "n2")
    assert dns_gate.dns_silent(made.deps, "n2") == ()
    answer[:] = [True, False, True]
    dns_gate.note_dns(made.deps, "n2")
    assert dns_gate.dns_silent(made.deps, "n2") == ("DNS: the service kube-dns (10.96.0.10) does not answer n2",)
    assert dns_gate.dns_silent(made.deps, "n2") == ()

    def unreachable(*_: Any) -> bool:
        raise UnreachableError("gone", where="n1")

    monkeypatch.setattr(dns_gate, "answers", unreachable)
    dns_gate.note_dns(made.deps, "n1")
    assert made.deps.dns_answered == {"n2"}
