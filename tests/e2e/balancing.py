"""What haproxy says of the control planes while a run works on them, and a client that asks through it all the time."""

from __future__ import annotations

import http.client
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any

from kops_py.tools import haproxy
from tests.e2e.bed import Bed

_EVERY_S = 0.1
_TIMEOUT_S = 5.0
_AT_WORK = ("upgrade", "drain", "kubelet", "reboot")
"""Steps in which a control plane must not get a new connection."""


class Balancing:
    """Looks from entering to leaving the block, with the clock of the journal."""

    def __init__(self, bed: Bed, balancer: str) -> None:
        self._node = bed.node(balancer)
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._repeat, args=(work,), name=work.__name__, daemon=True)
            for work in (self._look, self._ask)
        ]
        self.looks: list[tuple[float, Mapping[str, haproxy.Server]]] = []
        self.asked = 0
        self.failures: list[tuple[float, str]] = []

    def __enter__(self) -> Balancing:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def __str__(self) -> str:
        return f"{len(self.failures)} of {self.asked} requests to the API through haproxy failed"

    def servers(self) -> Mapping[str, haproxy.Server]:
        """What haproxy says now; asked on its own socket, through the file system of its host."""
        path = f"/proc/{self._node.init_pid}/root/run/haproxy/admin.sock"
        answers = []
        for command in haproxy.LOOK:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(_TIMEOUT_S)
                connection.connect(path)
                connection.sendall(f"{command}\n".encode())
                answers.append(b"".join(iter(lambda: connection.recv(65536), b"")).decode())
        return haproxy.parse_balancing(tuple(answers)).servers

    def assert_out_while_worked_on(self, journal: Sequence[Mapping[str, Any]], names: Sequence[str]) -> None:
        """Each was drained in every look while its steps ran, no two at once, and all of them are back."""
        for name in names:
            spans = _spans(journal, name)
            seen = [s[name] for at_s, s in self.looks if any(begin < at_s < end for begin, end in spans)]
            assert len(seen) > 10, f"{name} was hardly looked at while it was worked on: {len(seen)} times"
            kept = [s for s in seen if not s.is_drained or s.in_maintenance]
            assert not kept, f"{name} was in the load balancer in {len(kept)} of {len(seen)} looks while worked on"
        most = max(sum(s.is_drained for s in servers.values()) for _, servers in self.looks)
        assert most == 1, f"{most} control planes were out of the load balancer at once"
        assert all(s.takes_connections for s in self.servers().values()), self.servers()

    def _repeat(self, work: Callable[[], None]) -> None:
        while not self._stop.wait(_EVERY_S):
            work()

    def _look(self) -> None:
        self.looks.append((time.time(), self.servers()))

    def _ask(self) -> None:
        """Ask on a connection of its own: an open one would stay where it is."""
        context = ssl._create_unverified_context()
        self.asked += 1
        at_s = time.time()
        connection = http.client.HTTPSConnection(str(self._node.ip), 6443, timeout=_TIMEOUT_S, context=context)
        try:
            connection.request("GET", "/version")
            answer = connection.getresponse()
            answer.read()
            if answer.status != 200:
                self.failures.append((at_s, f"{answer.status} {answer.reason}"))
        except (OSError, http.client.HTTPException) as error:
            self.failures.append((at_s, repr(error)))
        finally:
            connection.close()


def _spans(journal: Sequence[Mapping[str, Any]], node: str) -> list[tuple[float, float]]:
    """Return when the steps that disturb a control plane began and ended."""
    begun = {r["step"]: r["at_s"] for r in journal if r["kind"] == "step-start" and r["node"] == node}
    return [
        (begun[r["step"]], r["at_s"])
        for r in journal
        if r["kind"] == "step-end" and r["step"] in begun and r["step"].partition("/")[0] in _AT_WORK
    ]
