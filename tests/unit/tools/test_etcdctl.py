"""etcdctl's JSON of 3.4, 3.5 and 3.6, and its argv."""

from __future__ import annotations

import dataclasses
import json

import pytest

from kops_py.tools import etcdctl
from kops_py.tools.etcdctl import EtcdHealth

# as etcdctl 3.4.23 prints them
STATUS_34 = (
    '[{"Endpoint":"https://127.0.0.1:2379","Status":{"header":{"cluster_id":324952591200643719,'
    '"member_id":3319814642761637952,"revision":1,"raft_term":2},"version":"3.4.23","dbSize":20480,'
    '"leader":3319814642761637952,"raftIndex":4,"raftTerm":2,"raftAppliedIndex":4,"dbSizeInUse":16384}}]'
)
MEMBERS_34 = (
    '{"header":{"cluster_id":324952591200643719,"member_id":3319814642761637952,"raft_term":2},'
    '"members":[{"ID":3319814642761637952,"name":"cp1","peerURLs":["https://10.0.0.1:2380"],'
    '"clientURLs":["https://127.0.0.1:2379"]}]}'
)
HEALTH_34 = '[{"endpoint":"https://127.0.0.1:2379","health":true,"took":"1.27945ms"}]'
UNHEALTHY_34 = (
    '[{"endpoint":"http://127.0.0.1:1","health":false,"took":"1.000370364s","error":"context deadline exceeded"}]'
)
WARNING = '{"level":"warn","ts":"2026-11-20T18:59:59.687Z","msg":"retrying of unary invoker failed","attempt":0}\n'
# 3.6 adds storageVersion, dbSizeQuota and downgradeInfo; 3.5 and later errors
STATUS_36 = json.dumps(
    [
        {
            "Endpoint": "https://10.0.0.2:2379",
            "Status": {
                "header": {"cluster_id": 1, "member_id": 2**64 - 3, "revision": 812, "raft_term": 5},
                "version": "3.6.4",
                "dbSize": 5_000_000,
                "leader": 3319814642761637952,
                "raftIndex": 900,
                "raftTerm": 5,
                "raftAppliedIndex": 900,
                "errors": ["NOSPACE"],
                "dbSizeInUse": 4_000_000,
                "isLearner": True,
                "storageVersion": "3.6.0",
                "dbSizeQuota": 2147483648,
                "downgradeInfo": {},
            },
        }
    ]
)
MEMBERS_36 = json.dumps(
    {
        "header": {"cluster_id": 1},
        "members": [
            {"ID": 2**64 - 3, "name": "cp2", "clientURLs": ["https://10.0.0.2:2379"], "isLearner": True},
            {"ID": 5, "peerURLs": ["https://10.0.0.3:2380"]},
            {"ID": 7, "name": "cp9", "clientURLs": ["https://10.0.0.9:2379"]},
        ],
    }
)


def test_endpoint_status() -> None:
    (old,) = etcdctl.parse_endpoint_status(WARNING + STATUS_34 + "\n")
    assert (old.version, old.size_bytes, old.used_bytes, old.revision) == ("3.4.23", 20480, 16384, 1)
    assert (old.is_leader, old.is_learner, old.errors) == (True, False, ())
    (new,) = etcdctl.parse_endpoint_status(STATUS_36)
    assert (new.member_id, new.version, new.is_leader, new.is_learner) == (2**64 - 3, "3.6.4", False, True)
    assert new.errors == ("NOSPACE",)


def test_endpoint_health() -> None:
    assert etcdctl.parse_endpoint_health(HEALTH_34) == (EtcdHealth("https://127.0.0.1:2379", healthy=True),)
    (bad,) = etcdctl.parse_endpoint_health(WARNING + UNHEALTHY_34)
    assert (bad.healthy, bad.problem) == (False, "context deadline exceeded")


@pytest.mark.parametrize(
    ("problem", "alarms"),
    [
        ("Active Alarm(s): NOSPACE ", ("NOSPACE",)),  # as etcdctl 3.5 and newer print it
        ("Active Alarm(s): NOSPACE CORRUPT ", ("NOSPACE", "CORRUPT")),
        ("memberID:10276657743932975437 alarm:NOSPACE ", ("NOSPACE",)),
        ("Unable to fetch the alarm list", ()),
        ("context deadline exceeded", ()),
        ("etcdserver: no leader", ()),
    ],
)
def test_an_alarm_is_no_lost_quorum(problem: str, alarms: tuple[str, ...]) -> None:
    assert etcdctl.alarms_in(problem) == alarms
    assert EtcdHealth("x", healthy=False, problem=problem).commits is bool(alarms)


def test_what_else_than_an_alarm_is_wrong_is_not_taken_for_one() -> None:
    members = etcdctl.parse_member_list(MEMBERS_34)
    (status,) = etcdctl.parse_endpoint_status(STATUS_34)

    def only_alarms(*errors: str) -> tuple[str, ...]:
        (found,) = etcdctl.merge_members(members, [dataclasses.replace(status, errors=errors)])
        return found.only_alarms

    assert only_alarms("memberID:7 alarm:NOSPACE ") == ("NOSPACE",)
    assert only_alarms("memberID:7 alarm:NOSPACE ", "memberID:9 alarm:CORRUPT ") == ("NOSPACE", "CORRUPT")
    assert only_alarms("etcdserver: no leader", "memberID:7 alarm:NOSPACE ") == ()
    assert only_alarms() == ()


def test_member_list() -> None:
    (only,) = etcdctl.parse_member_list(WARNING + MEMBERS_34)
    assert (only.name, only.is_learner, only.peer_urls) == ("cp1", False, ("https://10.0.0.1:2380",))
    assert [m.name for m in etcdctl.parse_member_list(MEMBERS_36)] == ["cp2", "", "cp9"]


def test_members_joined_with_what_they_say() -> None:
    members = etcdctl.parse_member_list(MEMBERS_34) + etcdctl.parse_member_list(MEMBERS_36)
    statuses = etcdctl.parse_endpoint_status(STATUS_34) + etcdctl.parse_endpoint_status(STATUS_36)
    found = etcdctl.merge_members(members, statuses, etcdctl.parse_endpoint_health(HEALTH_34))
    assert [(m.name, m.healthy, m.problem) for m in found] == [
        ("", False, "it was added and has never started"),
        ("cp1", True, ""),
        ("cp2", False, "NOSPACE"),
        ("cp9", False, "it does not answer"),
    ]
    assert [m.is_leader for m in found] == [False, True, False, False]


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ('{"health":"true"}', (True, "")),
        ('{"health":"true","reason":""}', (True, "")),
        ('{"health":"false","reason":"RAFT NO LEADER"}', (False, "RAFT NO LEADER")),
        ('{"health":false}', (False, "it says it is not healthy")),
    ],
)
def test_plain_health(output: str, expected: tuple[bool, str]) -> None:
    found = etcdctl.parse_health(output)
    assert (found.healthy, found.problem) == expected


@pytest.mark.parametrize("output", ["", "Error: x509", "{", "3", '{"a": 1}'])
def test_an_output_without_json_is_an_error(output: str) -> None:
    with pytest.raises(ValueError, match="no JSON"):
        etcdctl.parse_endpoint_status(output)


def test_what_a_member_holds() -> None:
    argv = etcdctl.holds_cluster_argv(pki="/pki")
    assert "--consistency=s" in argv, "without a quorum too"
    assert "--cacert=/pki/ca.crt" in argv
    assert etcdctl.parse_holds_cluster(WARNING + '{"header":{},"kvs":[{"key":"eA=="}],"count":1}')
    for none in ("", WARNING, '{"header":{}}', "[]"):
        assert not etcdctl.parse_holds_cluster(none)
        assert etcdctl.parse_values(none) == ()
    assert etcdctl.parse_values(WARNING + '{"kvs":[{"key":"eA==","value":"aGVyZQ=="}]}') == (b"here",)
    assert etcdctl.parse_values('{"kvs":[{"key":"eA=="}]}') == ()
    assert all("--cacert=/pki/ca.crt" in argv for argv in etcdctl.authority_argvs(pki="/pki"))


def test_commands() -> None:
    assert etcdctl.find_container_argv() == ("crictl", "ps", "--name", "etcd", "-q")
    assert etcdctl.parse_container_id("\nabc\ndef\n") == "abc"
    assert etcdctl.parse_container_id("\n") is None
    status = etcdctl.in_container("abc", etcdctl.endpoint_status_argv(whole_cluster=True))
    assert status[:4] == ("crictl", "exec", "abc", "etcdctl")
    assert status[-4:] == ("--write-out=json", "endpoint", "status", "--cluster")
    assert "--cert=/etc/kubernetes/pki/etcd/healthcheck-client.crt" in status
    assert etcdctl.endpoint_health_argv()[-2:] == ("endpoint", "health")
    assert etcdctl.member_list_argv()[-2:] == ("member", "list")
    assert etcdctl.member_promote_argv(0xA1)[-4:] == ("--write-out=simple", "member", "promote", "a1")
    health = etcdctl.health_argv(timeout_s=3)
    assert health[health.index("--max-time") + 1] == "3"
    assert health[-1] == "https://127.0.0.1:2379/health"


def test_alarms() -> None:
    """As etcdctl 3.4.23 prints them; without any it is an empty object."""
    assert etcdctl.parse_alarms("{}") == {}
    both = '{"alarms":[{"memberID":10276657743932975437,"alarm":1},{"memberID":7,"alarm":2},{"memberID":8,"alarm":9}]}'
    assert etcdctl.parse_alarms(both) == {10276657743932975437: ("NOSPACE",), 7: ("CORRUPT",), 8: ("9",)}
    with pytest.raises(ValueError, match="no JSON"):
        etcdctl.parse_alarms("Error: context deadline exceeded")


def test_how_far_a_member_is() -> None:
    (status,) = etcdctl.parse_endpoint_status(STATUS_36)
    assert (status.applied_index, status.revision) == (900, 812)
    (member,) = etcdctl.merge_members(etcdctl.parse_member_list(MEMBERS_34), etcdctl.parse_endpoint_status(STATUS_34))
    assert (member.applied_index, member.revision, member.leader_id) == (4, 1, 3319814642761637952)
