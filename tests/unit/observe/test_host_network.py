"""Probes between hosts: which connections are tried, from where, and what is never done."""

from __future__ import annotations

import dataclasses
import re
from types import MappingProxyType
from typing import Any

import pytest

from kops_py.connect.base import Cancel
from kops_py.model.errors import CancelledError, DeadlineError
from kops_py.model.facts import HostFacts, JobState
from kops_py.model.preflight import PortProbe, Reach
from kops_py.model.spec import ClusterSpec, Group
from kops_py.observe import network
from kops_py.observe.network import (
    connections,
    listener_ports,
    may_listen,
    probe_network,
    required_ports,
    sources_of,
)
from tests.fakes.ssh import Call, FakeFleet, FakeHost, Reply
from tests.unit.runbooks.preflight_cases import MEMBER, host_spec, make_facts, make_spec

PYTHON = ("/usr/bin/python3", "-I", "-S", "-")


def is_listener(argv: tuple[str, ...]) -> bool:
    return argv[:4] == PYTHON and argv[4].startswith("kops-py-probe-")


def is_connect(argv: tuple[str, ...]) -> bool:
    return argv[:4] == PYTHON and argv[4] == "3.5"


def is_stop(argv: tuple[str, ...]) -> bool:
    return argv[:3] == ("sh", "-s", "--") and argv[-1].startswith("kops-py-probe-")


def listen(call: Call) -> Reply:
    return Reply("".join(f"port {p} ok\n" for p in call.argv[7:]) + "pid 77\n", sudo=True)


def connect(call: Call) -> Reply:
    return Reply("".join(f"{pair.replace(',', ' ')} ok Success\n" for pair in call.argv[5:]), sudo=False)


def fleet_of(spec: ClusterSpec) -> FakeFleet:
    return FakeFleet(
        [
            FakeHost(h.name, allow_writes=False)
            .on(is_listener, listen)
            .on(is_connect, connect)
            .on(is_stop, Reply(sudo=True))
            for h in spec.hosts
        ]
    )


def tried(probes: tuple[PortProbe, ...]) -> set[tuple[str, str, int]]:
    return {(p.source, p.target, p.port) for p in probes}


def run(spec: ClusterSpec, **changes: Any) -> tuple[tuple[PortProbe, ...], FakeFleet]:
    fleet = fleet_of(spec)
    probes, problems = probe_network(fleet, spec, make_facts(spec, **changes).hosts)
    assert problems == {}
    return probes, fleet


def test_what_a_small_cluster_needs_both_ways() -> None:
    probes, fleet = run(make_spec(1, 1))
    assert tried(probes) == {("n2", "n1", 6443), ("n2", "n1", 10250), ("n1", "n2", 10250)}
    assert [len(h.calls) for h in fleet.hosts.values()] == [3, 3]  # listen, connect, stop
    assert fleet.host("n1").argvs[0][5:] == ("20", "10.0.0.11", "6443", "2379", "2380", "10250")


def test_several_control_planes_and_a_balancer() -> None:
    probes, _ = run(make_spec(3, 1, 1))
    found = tried(probes)
    assert {(s, t) for s, t, p in found if p == 2380} == {
        (a, b) for a in ("n1", "n2", "n3") for b in ("n1", "n2", "n3") if a != b
    }
    assert ("n5", "n1", 6443) in found  # the balancer reaches its backends
    assert ("n4", "n5", 6443) in found  # a worker reaches the balancer
    assert ("n4", "n1", 2379) not in found


def test_external_etcd() -> None:
    etcd = (host_spec("e1", 2, Group.ETCD), host_spec("e2", 3, Group.ETCD))
    hosts = (host_spec("n1", 1, Group.CONTROL_PLANE), *etcd)
    probes, _ = run(make_spec(hosts=hosts, external_etcd=True))
    assert {("n1", "e1", 2379), ("e1", "e2", 2380), ("e2", "e1", 2379)} <= tried(probes)
    assert ("n1", "e1", 2380) not in tried(probes)
    assert not any(t == "n1" and p in (2379, 2380) for _, t, p in tried(probes))


def test_work_is_bounded() -> None:
    spec = make_spec(3, 197)
    for host in spec.hosts:
        for port in required_ports(spec, host):
            assert len(sources_of(spec, host, port)) <= 3 + network.PEERS
    fleet = fleet_of(spec)
    probe_network(fleet, spec, make_facts(spec).hosts)
    rounds = -(-200 // network.GROUP_SIZE)
    assert max(sum(is_connect(a) for a in h.argvs) for h in fleet.hosts.values()) <= rounds


def test_unreachable_hosts_are_left_out() -> None:
    probes, fleet = run(make_spec(1, 2), n2={"problem": DeadlineError("x")})
    assert not fleet.host("n2").calls
    assert {s for s, _, _ in tried(probes)} | {t for _, t, _ in tried(probes)} == {"n1", "n3"}


@pytest.mark.parametrize(
    "changes",
    [
        MEMBER,
        {"manifests": frozenset({"etcd.yaml"})},
        {"jobs": MappingProxyType({"kubeadm-init": JobState.RUNNING})},
        {"python": "", "python_path": ""},
    ],
)
def test_no_stand_in_where_it_could_do_harm(changes: dict[str, Any]) -> None:
    spec = make_spec(1, 1)
    assert not may_listen(make_facts(spec, n1=changes).hosts["n1"])
    fleet = fleet_of(spec)
    shell = FakeHost("n1").on(lambda a: a[:4] == ("sh", "-s", "--", "3.5"), Reply("10.0.0.12 10250 ok ok\n"))
    fleet.hosts["n1"] = shell.on(is_connect, connect)
    probes, _ = probe_network(fleet, spec, make_facts(spec, n1=changes).hosts)
    listening = make_facts(spec, n1=changes).hosts["n1"].listening
    assert {p for _, t, p in tried(probes) if t == "n1"} == {10250} & set(listening)
    assert ("n1", "n2", 10250) in tried(probes)


def test_no_stand_in_outside_the_limit() -> None:
    _, fleet = run(make_spec(1, 1, limit=frozenset({"n2"})))
    assert not any(is_listener(a) for a in fleet.host("n1").argvs)
    assert any(is_listener(a) for a in fleet.host("n2").argvs)


def test_listeners_are_stopped_when_probing_fails_or_is_cancelled() -> None:
    spec, cancel = make_spec(1, 1), Cancel()
    fleet = fleet_of(spec)
    fleet.host("n1").on(is_connect, Reply(effect=lambda _: cancel.set("SIGINT")))
    with pytest.raises(CancelledError):
        probe_network(fleet, spec, make_facts(spec).hosts, cancel=cancel)
    assert [sum(map(is_stop, h.argvs)) for h in fleet.hosts.values()] == [1, 1]

    fleet = fleet_of(spec)
    fleet.host("n1").on(is_connect, Reply(error=DeadlineError("no end")))
    probes, problems = probe_network(fleet, spec, make_facts(spec).hosts)
    assert set(problems) == {"n1"}
    assert {s for s, _, _ in tried(probes)} == {"n2"}
    assert [sum(map(is_stop, h.argvs)) for h in fleet.hosts.values()] == [1, 1]


def test_a_refusal_after_the_listener_may_be_gone_proves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    spec, now = make_spec(1, 1), [0.0]
    monkeypatch.setattr("kops_py.observe.network.time.monotonic", lambda: now[0])
    fleet = fleet_of(spec)

    def late(call: Call) -> Reply:
        now[0] += network.LIFETIME_S + 1
        return Reply("10.0.0.11 6443 ECONNREFUSED x\n10.0.0.11 10250 ok x\n")

    fleet.host("n2").on(is_connect, late)
    fleet.host("n1").on(is_connect, Reply(""))
    probes, _ = probe_network(fleet, spec, make_facts(spec).hosts)
    assert tried(probes) == {("n2", "n1", 10250)}


def test_listener_output() -> None:
    text = "port 6443 ok\nport 2379 errno 98 Address already in use\nport 80 errno 99 Cannot assign\n"
    text += "pid 12\npid x\n"
    assert listener_ports(text) == (12, frozenset({6443, 2379}))
    assert listener_ports("Traceback") == (0, frozenset())


def test_connection_output() -> None:
    text = "10.0.0.1 1 ok Success\n10.0.0.1 2 ECONNREFUSED Connection refused\nfd00::1 3 ETIMEDOUT x y\n"
    text += "10.0.0.1 4 EHOSTUNREACH No route\n10.0.0.1 5 EPERM no\n10.0.0.1 6 ECONNRESET r\ngarbage\n"
    assert {k: v[0] for k, v in connections(text).items()} == {
        ("10.0.0.1", 1): Reach.OPEN,
        ("10.0.0.1", 2): Reach.REFUSED,
        ("fd00::1", 3): Reach.TIMEOUT,
        ("10.0.0.1", 4): Reach.NO_ROUTE,
        ("10.0.0.1", 5): Reach.ERROR,
        ("10.0.0.1", 6): Reach.OPEN,
    }


def test_the_mark_is_only_for_this_run() -> None:
    spec = make_spec(1, 1)
    marks = set()
    for _ in range(2):
        fleet = fleet_of(spec)
        probe_network(fleet, spec, make_facts(spec).hosts)
        marks |= {a[4] for a in fleet.host("n1").argvs if is_listener(a)}
    assert len(marks) == 2
    assert all(re.fullmatch(r"kops-py-probe-[0-9a-f]{12}", m) for m in marks)


def test_facts_may_lack_a_host() -> None:
    spec = make_spec(1, 1)
    fleet = fleet_of(spec)
    facts: dict[str, HostFacts] = {"n1": dataclasses.replace(make_facts(spec).hosts["n1"])}
    assert probe_network(fleet, spec, facts)[0] == ()
