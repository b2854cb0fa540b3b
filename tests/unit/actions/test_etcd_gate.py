"""etcd after a member was away: what the gate waits for."""

from __future__ import annotations

import dataclasses

import pytest

from kops_py.actions import etcd_gate
from kops_py.actions.etcd_gate import EtcdGate, leader_problems
from kops_py.connect.base import Host
from kops_py.model.errors import CommandFailedError
from kops_py.model.status import EtcdMember
from tests.fakes.ssh import FakeHost

HOST = FakeHost("n1")


def member(number: int, **fields: object) -> EtcdMember:
    known = {"healthy": True, "revision": 100, "applied_index": 200, "leader_id": 1, "is_leader": number == 1}
    return EtcdMember(f"n{number}", number, "https://x", **{**known, **fields})  # type: ignore[arg-type]


ALL = tuple(member(n) for n in (1, 2, 3))


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[tuple[EtcdMember, ...] | Exception]:
    found: list[tuple[EtcdMember, ...] | Exception] = []

    def observe(_: Host) -> tuple[EtcdMember, ...]:
        answer = found.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(etcd_gate, "observe_etcd_cluster", observe)
    return found


def changed(number: int, **fields: object) -> tuple[EtcdMember, ...]:
    return tuple(dataclasses.replace(m, **fields) if m.member_id == number else m for m in ALL)  # type: ignore[arg-type]


def test_all_well(looks: list[tuple[EtcdMember, ...] | Exception]) -> None:
    looks += [ALL, ()]
    assert EtcdGate().problems(HOST) == ()
    assert EtcdGate().problems(HOST) == (), "no etcd runs here"


def test_a_lagging_member_has_to_reach_the_first_mark_while_clients_write(
    looks: list[tuple[EtcdMember, ...] | Exception],
) -> None:
    gate = EtcdGate()
    looks += [changed(3, revision=90, applied_index=190), changed(3, revision=99, applied_index=250)]
    assert gate.problems(HOST) == ("etcd member n3: at revision 90 of 100, raft index 190 of 200",)
    assert gate.problems(HOST) == ("etcd member n3: at revision 99 of 100, raft index 250 of 200",)
    looks.append(tuple(dataclasses.replace(m, revision=100 + m.member_id, applied_index=300) for m in ALL))
    assert gate.problems(HOST) == ()


@pytest.mark.parametrize(
    ("members", "problem"),
    [
        (changed(2, healthy=False, problem="memberID:2 alarm:NOSPACE"), "etcd member n2: memberID:2 alarm:NOSPACE"),
        (changed(2, healthy=False), "etcd member n2: not healthy"),
        (changed(2, leader_id=0), "etcd member n2: it knows no leader"),
        (changed(2, leader_id=77), "etcd member n2: it knows no leader"),
        (changed(2, leader_id=3), "etcd: n1 follows n1, n2 follows n3, n3 follows n1"),
    ],
)
def test_what_is_lacking(
    looks: list[tuple[EtcdMember, ...] | Exception], members: tuple[EtcdMember, ...], problem: str
) -> None:
    looks.append(members)
    assert EtcdGate().problems(HOST) == (problem,)


def test_a_mark_is_not_taken_from_a_look_with_problems(looks: list[tuple[EtcdMember, ...] | Exception]) -> None:
    gate = EtcdGate()
    looks += [changed(1, healthy=False, revision=10**6), ALL]
    assert gate.problems(HOST)
    assert gate.problems(HOST) == ()


def test_no_answer(looks: list[tuple[EtcdMember, ...] | Exception]) -> None:
    looks += [CommandFailedError("crictl failed", where="n1"), ValueError("no JSON")]
    gate = EtcdGate()
    assert "crictl failed" in gate.problems(HOST)[0]
    assert gate.problems(HOST) == ("etcd through n1: no JSON",)


def test_a_single_member_leads_itself() -> None:
    assert leader_problems([member(1)]) == ()
    assert leader_problems([]) == ()
