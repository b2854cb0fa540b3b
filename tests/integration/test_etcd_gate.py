"""The gate and the alarms of etcd on a real cluster of three members, asked as on a host: crictl exec etcdctl."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from kops_py.actions.etcd_gate import EtcdGate
from kops_py.app.session import Session
from kops_py.app.upgrade_facts import _etcd_alarms
from kops_py.connect.base import Host
from kops_py.model.facts import Facts, HostFacts
from kops_py.observe.host_status import observe_etcd_cluster
from tests.fakes.cluster import make_spec
from tests.fakes.ssh import Call, FakeFleet, FakeHost, Reply
from tests.ports import free_port

NAMES = ("n1", "n2", "n3")
QUOTA_BYTES = 600_000

pytestmark = pytest.mark.skipif(not shutil.which("etcd") or not shutil.which("etcdctl"), reason="etcd is not installed")


class Etcd:
    """Three members without TLS, and a host each whose crictl leads to its member."""

    def __init__(self, folder: Path) -> None:
        ports = [free_port() for _ in range(6)]
        self.clients = {n: f"http://127.0.0.1:{p}" for n, p in zip(NAMES, ports[:3], strict=True)}
        self._peers = {n: f"http://127.0.0.1:{p}" for n, p in zip(NAMES, ports[3:], strict=True)}
        self._folder = folder
        self.processes = {name: self._start(name) for name in NAMES}
        self.hosts = {name: self._host(name) for name in NAMES}

    def _start(self, name: str) -> subprocess.Popen[bytes]:
        cluster = ",".join(f"{n}={url}" for n, url in self._peers.items())
        with (self._folder / f"{name}.log").open("wb") as log:
            return subprocess.Popen(
                ["etcd", "--name", name, "--data-dir", str(self._folder / name), "--listen-client-urls",
                 self.clients[name], "--advertise-client-urls", self.clients[name], "--listen-peer-urls",
                 self._peers[name], "--initial-advertise-peer-urls", self._peers[name], "--initial-cluster", cluster,
                 "--quota-backend-bytes", str(QUOTA_BYTES)],
                stdout=log, stderr=log,
            )  # fmt: skip

    def _host(self, name: str) -> FakeHost:
        def exec_in_container(call: Call) -> Reply:
            argv = [a for a in call.argv[3:] if not re.match("--(cacert|cert|key)=", a)]
            argv = [f"--endpoints={self.clients[name]}" if a.startswith("--endpoints=") else a for a in argv]
            done = self._run(argv)
            return Reply(done.stdout, done.stderr, done.returncode)

        host = FakeHost(name)
        host.on(("crictl", "ps", "--name", "etcd", "-q"), "abc\n")
        host.on(lambda argv: argv[:3] == ("crictl", "exec", "abc"), exec_in_container)
        return host

    def _run(self, argv: list[str]) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "ETCDCTL_API": "3"}
        return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False, env=environment)

    def put(self, key: str, value: str) -> bool:
        endpoints = f"--endpoints={self.clients['n1']}"
        return self._run(["etcdctl", endpoints, "put", key, "--", value]).returncode == 0

    def stop(self) -> None:
        for process in self.processes.values():
            process.kill()
            process.wait(10)


@pytest.fixture
def etcd(tmp_path: Path) -> Iterator[Etcd]:
    found = Etcd(tmp_path)
    try:
        wait_for(found, ())
        yield found
    finally:
        found.stop()


def wait_for(etcd: Etcd, problems: tuple[str, ...]) -> None:
    """Wait until a gate that begins now finds exactly this."""
    deadline = time.monotonic() + 40
    while (found := EtcdGate().problems(cast("Host", etcd.hosts["n1"]))) != problems:
        assert time.monotonic() < deadline, found
        time.sleep(0.1)


def test_a_member_that_is_away_and_one_that_comes_back_behind(etcd: Etcd) -> None:
    members = observe_etcd_cluster(cast("Host", etcd.hosts["n1"]))
    assert [m.name for m in members] == list(NAMES)
    (leader,) = [m for m in members if m.is_leader]
    assert {m.leader_id for m in members} == {leader.member_id}
    follower = next(n for n in ("n2", "n3") if n != leader.name)
    etcd.processes[follower].send_signal(signal.SIGSTOP)
    for number in range(20):
        assert etcd.put(f"k{number}", "v")
    gate = EtcdGate()
    (problem,) = gate.problems(cast("Host", etcd.hosts["n1"]))
    assert problem.startswith(f"etcd member {follower}: ")
    etcd.processes[follower].send_signal(signal.SIGCONT)
    deadline = time.monotonic() + 40
    while found := gate.problems(cast("Host", etcd.hosts["n1"])):
        assert time.monotonic() < deadline, found
        time.sleep(0.1)
    revisions = {m.revision for m in observe_etcd_cluster(cast("Host", etcd.hosts["n1"]))}
    assert len(revisions) == 1


def test_an_alarm_is_seen_by_gate_and_finding(etcd: Etcd) -> None:
    for number in range(40):
        if not etcd.put(f"big{number}", "x" * 60_000):
            break
    else:
        pytest.fail("the quota was never reached")
    problems = EtcdGate().problems(cast("Host", etcd.hosts["n1"]))
    assert problems
    assert all("NOSPACE" in p for p in problems)
    spec = make_spec(3)
    members = observe_etcd_cluster(cast("Host", etcd.hosts["n1"]))
    facts = Facts({n: HostFacts(n) for n in NAMES}, etcd=members)
    opened: Any = SimpleNamespace(spec=spec, fleet=FakeFleet(etcd.hosts))
    alarms = _etcd_alarms(cast("Session", opened), facts)
    assert alarms
    assert set(alarms) <= {f"alarm NOSPACE of etcd member {n}" for n in NAMES}
