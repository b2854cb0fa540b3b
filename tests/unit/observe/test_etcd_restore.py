"""What a restore sees of members that serve, that run and do not answer, and that are stopped."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from kops_py.connect.base import Cancel
from kops_py.model.etcd_restore import RestoreHost
from kops_py.observe import etcd_restore
from kops_py.observe.etcd_restore import observe_restore, observe_restore_host
from kops_py.observe.host_file import HostFile
from kops_py.tools.bolt import read_database
from tests.fakes.cluster import make_spec
from tests.fakes.restore_hosts import FolderCluster, FolderHost
from tests.unit.tools.test_bolt import database


class Cluster(FolderCluster):
    """Hosts whose members answer nothing, as without a quorum after a start."""

    answers = False

    def etcdctl(self, host: FolderHost, words: list[str]) -> tuple[int, object]:
        return super().etcdctl(host, words) if self.answers else (1, "context deadline exceeded")


def look(cluster: FolderCluster) -> RestoreHost:
    return observe_restore(cluster, make_spec(1, 0), cancel=Cancel(), closely=True).hosts["n1"]


def test_a_member_that_runs_and_does_not_answer_is_known_by_its_database(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, ["n1"])
    (cluster.hosts["n1"].data / "snap/db").write_bytes(database())
    found = look(cluster)
    assert "etcd" in found.running
    assert (found.healthy, found.revision, found.version) == (False, 1234, "3.4.23")


def test_a_database_that_is_none_has_no_revision(tmp_path: Path) -> None:
    found = look(Cluster(tmp_path, ["n1"]))
    assert (found.has_data, found.revision, found.version) == (True, 0, "3.4.23")


def test_a_member_without_a_leader_is_not_asked_whether_it_commits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(etcd_restore, "_ELECTION_S", 60.0)
    cluster = Electing(tmp_path, ["n1"])
    cluster.leader_after = 1
    assert look(cluster).serves
    asked = re.findall("endpoint (status|health)", "\n".join(cluster.hosts["n1"].calls))
    assert asked == ["status", "status", "health"]


@pytest.mark.parametrize(("alarms", "told"), [([(7, 1)], ("NOSPACE",)), ([(7, 1), (8, 2)], ("NOSPACE", "CORRUPT"))])
def test_members_with_an_alarm_serve_all_the_same(
    tmp_path: Path, alarms: list[tuple[int, int]], told: tuple[str, ...]
) -> None:
    cluster = FolderCluster(tmp_path, ["n1"])
    cluster.alarms = alarms
    found = look(cluster)
    assert (found.serves, found.alarms) == (True, told)


def test_a_member_that_commits_nothing_does_not_serve_with_an_alarm(tmp_path: Path) -> None:
    cluster = FolderCluster(tmp_path, ["n1", "n2", "n3"])  # each has data of its own
    cluster.alarms = [(7, 1)]
    found = observe_restore_host(cluster.hosts["n1"], make_spec(3, 0), member=True, closely=True)
    assert (found.healthy, found.alarms) == (False, ("NOSPACE",))


def test_only_the_blocks_that_are_asked_for_are_read(tmp_path: Path) -> None:
    host = FolderCluster(tmp_path, ["n1"]).hosts["n1"]
    body = database() + bytes(1_000_000)
    (host.data / "snap/db").write_bytes(body)
    file = HostFile(host, "/var/lib/etcd/member/snap/db", len(body), timeout_s=9)
    assert read_database(file).revision == 1234
    assert file[len(body) - 3 :] == b"\0\0\0"
    assert file[16_380:16_390] == body[16_380:16_390]
    assert file[5:5] == b""
    assert sum(call.startswith("dd ") for call in host.calls) == 3


class Electing(FolderCluster):
    """Members of whom n3 is gone and the others choose a leader: it is there after some questions, or never."""

    questions = 0
    leader_after = 5

    def etcdctl(self, host: FolderHost, words: list[str]) -> tuple[int, object]:
        if host.name == "n3":
            return 1, "connection refused"
        code, answer = super().etcdctl(host, words)
        if words == ["endpoint", "status"]:
            self.questions += 1
            if self.questions <= self.leader_after:
                assert isinstance(answer, list)
                answer[0]["Status"]["leader"] = 0
        return code, answer


@pytest.mark.parametrize(("leader_after", "limit_s", "serving"), [(5, 60.0, ("n1", "n2")), (1000, 5.0, ())])
def test_a_quorum_without_a_leader_is_looked_at_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, leader_after: int, limit_s: float, serving: tuple[str, ...]
) -> None:
    monkeypatch.setattr(etcd_restore, "_ELECTION_S", limit_s)
    monkeypatch.setattr(etcd_restore, "_ELECTION_POLL_S", 0.01)
    cluster = Electing(tmp_path, ["n1", "n2", "n3"])
    for host in cluster.hosts.values():
        (host.data / "snap/db").write_text("the same")
    cluster.leader_after = leader_after
    told: list[str] = []
    found = observe_restore(cluster, make_spec(3, 0), cancel=Cancel(), closely=True, on_wait=told.append)
    assert found.serving == serving
    assert "waiting for one" in told[0]
    assert found.hosts["n1"].answers


def test_one_that_answers_of_three_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(etcd_restore, "_ELECTION_S", 60.0)
    cluster = Electing(tmp_path, ["n1", "n2", "n3"])
    cluster.leader_after = 1000
    cluster.unreachable = "n2"
    told: list[str] = []
    found = observe_restore(cluster, make_spec(3, 0), cancel=Cancel(), closely=True, on_wait=told.append)
    assert (found.serving, told) == ((), [])
