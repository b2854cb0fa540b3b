"""What a restore sees of members that serve, that run and do not answer, and that are stopped."""

from __future__ import annotations

from pathlib import Path

from kops_py.connect.base import Cancel
from kops_py.model.etcd_restore import RestoreHost
from kops_py.observe.etcd_restore import observe_restore
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


def test_a_member_without_a_leader_is_not_asked_whether_it_commits(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, ["n1"])
    cluster.answers = True
    host = cluster.hosts["n1"]
    assert look(cluster).serves
    asked = sum("endpoint health" in call for call in host.calls)
    assert asked == 1
    (host.data / "snap/db").write_text("")  # the stand-in's member of no store has no leader
    found = look(cluster)
    assert (found.healthy, found.version) == (False, "3.4.23")
    assert sum("endpoint health" in call for call in host.calls) == asked


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
