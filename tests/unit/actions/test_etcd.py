"""Defragmenting members that a full database makes unhealthy, and taking its alarm back."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from kops_py.actions.etcd import alarms_left, defragment, disarm_alarms
from kops_py.engine.run import StepContext
from kops_py.model.actions import DefragmentMember, DisarmAlarms
from kops_py.model.errors import EtcdError
from kops_py.model.etcd import KUBEADM_CREDENTIALS, EtcdTarget
from kops_py.model.plan import Action
from tests.fakes.ssh import Argv, FakeFleet, FakeHost, Reply
from tests.unit.actions.stage import stage

TARGETS = [EtcdTarget("n1", "https://10.0.0.1:2379", KUBEADM_CREDENTIALS, "n1")]
DEFRAGMENT = DefragmentMember("n1", "1")


def etcd(*alarms: tuple[int, int]) -> FakeHost:
    """A host with one of two members; (member, kind of alarm) is told by both, as etcd 3.5 does."""
    names = {1: "NOSPACE", 2: "CORRUPT"}
    errors = [f"memberID:{member} alarm:{names[kind]} " for member, kind in alarms]
    urls = {n: f"https://10.0.0.{n}:2379" for n in (1, 2)}
    told = "Active Alarm(s): " + "".join(f"{names[kind]} " for _, kind in alarms)
    status = {"version": "3.5.24", "dbSize": 100, "dbSizeInUse": 10, "leader": 1, "errors": errors}
    answers: dict[tuple[str, ...], object] = {
        ("member", "list"): {
            "header": {"cluster_id": 5},
            "members": [{"ID": n, "name": f"n{n}", "clientURLs": [url]} for n, url in urls.items()],
        },
        ("endpoint", "status", "--cluster"): [
            {"Endpoint": url, "Status": {"header": {"member_id": n, "revision": 9}, **status}}
            for n, url in urls.items()
        ],
        ("endpoint", "health", "--cluster"): [
            {"endpoint": url, "health": not alarms, "error": told if alarms else ""} for url in urls.values()
        ],
        ("alarm", "list"): {"alarms": [{"memberID": member, "alarm": kind} for member, kind in alarms]},
        ("alarm", "disarm"): {"header": {}},
        ("defrag",): {},
    }
    host = FakeHost("n1").on(_finds, Reply("container abc\ncredentials 0\n", sudo=True))
    for words, answer in answers.items():
        host.on(_ends(words), Reply(json.dumps(answer), sudo=True))
    return host.on(lambda argv: argv[0] == "curl", Reply("etcd_server_quota_backend_bytes 1000\n", sudo=True))


def _finds(argv: Argv) -> bool:
    return argv[:2] == ("sh", "-c") and "crictl ps" in argv[2]


def _ends(words: Argv) -> Callable[[Argv], bool]:
    return lambda argv: argv[-len(words) :] == words


def asked(host: FakeHost, *words: str) -> int:
    return sum(argv[-len(words) :] == words for argv in host.argvs)


def test_the_full_database_of_one_member_keeps_none_from_being_defragmented() -> None:
    host = etcd((2, 1))
    defragment(FakeFleet([host]), TARGETS, DEFRAGMENT, _ctx(DEFRAGMENT))
    assert asked(host, "defrag") == 1


def test_no_member_is_taken_away_while_data_may_be_wrong() -> None:
    host = etcd((2, 1), (2, 2))
    with pytest.raises(EtcdError, match="not every member of etcd is healthy") as caught:
        defragment(FakeFleet([host]), TARGETS, DEFRAGMENT, _ctx(DEFRAGMENT))
    assert "with CORRUPT" in caught.value.hint
    assert asked(host, "defrag") == 0


def test_the_alarm_is_taken_back_that_of_a_member_that_is_gone_too() -> None:
    for raised_by in (1, 9):
        host = etcd((raised_by, 1))
        assert alarms_left(FakeFleet([host]), TARGETS, _ctx(DisarmAlarms()))
        disarm_alarms(FakeFleet([host]), TARGETS, _ctx(DisarmAlarms()))
        assert asked(host, "alarm", "disarm") == 1


def test_corruption_is_never_taken_back_with_a_full_database() -> None:
    host = etcd((1, 1), (2, 2))
    with pytest.raises(EtcdError, match="the alarm CORRUPT is raised as well") as caught:
        disarm_alarms(FakeFleet([host]), TARGETS, _ctx(DisarmAlarms()))
    assert caught.value.where == "n2"
    assert asked(host, "alarm", "disarm") == 0


def _ctx(action: Action) -> StepContext:
    return stage(1).ctx(action)
