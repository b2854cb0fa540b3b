"""The scripts of a restore, killed after every single command and run again; and what they make of manifests."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from kops_py.model.etcd_restore import Mark, NewMember
from kops_py.tools import etcd_restore as tool
from tests.fakes.restore_hosts import FolderCluster, FolderHost

MEMBER = NewMember("n1", "n1", "https://10.9.0.1:2380", "/var/lib/etcd")
NEW = "new data"
# Ends the script before its Nth command, as SIGKILL or a power loss does between two commands.
_TRAP = "n=0; trap 'n=$((n+1)); [ $n -le {limit} ] || kill -9 $$' DEBUG\nset -o functrace\n"


@pytest.fixture
def host(tmp_path: Path) -> FolderHost:
    host = FolderCluster(tmp_path, ["n1"]).hosts["n1"]
    host.sh(tool.begin_script("r1-x", "all x"))
    return host


def kill_points(host: FolderHost, script: str) -> Iterator[int]:
    """Run a script once for each of its commands, killed before it; the last run comes to its end."""
    for limit in range(200):
        text = _TRAP.format(limit=limit) + host.script(script)
        done = subprocess.run(["bash", "-c", text], capture_output=True, env=host.environment)
        assert done.returncode in (0, -9), done.stderr.decode()
        yield limit
        if done.returncode == 0:
            assert limit > 5, "it was never killed"
            return
    raise AssertionError("it does not end")


def stage(host: FolderHost) -> None:
    host.sh("umask 077; printf '%s' '" + NEW + "' >/var/lib/kops-py/restore/r1-x/snapshot.db")
    status, _, err = host.sh(tool.stage_script("r1-x", "image:1", MEMBER, [MEMBER], "t", bump=0, has_hash=True))
    assert status == 0, err


def stores(host: FolderHost) -> list[str]:
    """Every database on the host."""
    return sorted(p.read_text() for p in (host.root / "var/lib").rglob("snap/db"))


def test_switch_killed_anywhere_loses_nothing_and_comes_to_its_end(host: FolderHost) -> None:
    stage(host)
    for _ in kill_points(host, tool.switch_script("r1-x", "/var/lib/etcd")):
        assert stores(host) == [NEW, "old data of n1"]
    assert host.store == NEW
    assert host.kept == ["old data of n1"]


@pytest.mark.parametrize("reached", [3, 8, 12, 15, 18, 22, 26, 30, 34, 38])
def test_undo_killed_anywhere_brings_the_old_state_back(host: FolderHost, reached: int) -> None:
    stage(host)
    host.sh(tool.stop_script("r1-x"))
    text = _TRAP.format(limit=reached) + host.script(tool.switch_script("r1-x", "/var/lib/etcd"))
    subprocess.run(["bash", "-c", text], capture_output=True, env=host.environment, check=False)
    for _ in kill_points(host, tool.undo_script("r1-x", "/var/lib/etcd")):
        assert "old data of n1" in stores(host)
    assert host.store == "old data of n1"
    assert (host.kept, len(list(host.manifests.iterdir()))) == ([], 4)
    assert (host.root / "kubelet").exists()


def test_the_new_data_gets_the_labels_of_its_folder_where_there_is_selinux(host: FolderHost) -> None:
    stage(host)
    program = host.root / "bin/restorecon"
    # It refuses as well: a label that cannot be set is no reason to leave a host without its data.
    program.write_text('#!/bin/sh\necho "$* $(cat "$2/member/snap/db")" >>"$HOST/labelled"\nexit 1\n')
    program.chmod(0o755)
    status, _, err = host.sh(tool.switch_script("r1-x", "/var/lib/etcd"))
    assert status == 0, err
    assert (host.root / "labelled").read_text() == f"-R {host.data.parent} {NEW}\n"
    assert host.store == NEW


def test_a_host_without_selinux_needs_no_restorecon(host: FolderHost, tmp_path: Path) -> None:
    stage(host)
    programs = tmp_path / "programs"
    programs.mkdir()
    for folder in reversed(os.environ["PATH"].split(":")):
        for program in Path(folder).iterdir() if Path(folder).is_dir() else ():
            if program.name != "restorecon":
                (programs / program.name).unlink(missing_ok=True)
                (programs / program.name).symlink_to(program)
    environment = {**host.environment, "PATH": f"{host.root}/bin:{programs}"}
    script = host.script(tool.switch_script("r1-x", "/var/lib/etcd"))
    assert "restorecon -R" in script
    assert subprocess.run(["sh", "-c", script], env=environment).returncode == 0
    assert host.store == NEW


def test_undo_where_there_was_no_data_leaves_none(host: FolderHost) -> None:
    subprocess.run(["rm", "-r", str(host.data)], check=True)
    stage(host)
    host.sh(tool.switch_script("r1-x", "/var/lib/etcd"))
    assert host.store == NEW
    assert host.sh(tool.undo_script("r1-x", "/var/lib/etcd"))[0] == 0
    assert host.store == ""


def test_undo_refuses_once_the_restored_etcd_was_started(host: FolderHost) -> None:
    stage(host)
    host.sh(tool.stop_script("r1-x"))
    host.sh(tool.switch_script("r1-x", "/var/lib/etcd"))
    host.sh(tool.start_script("r1-x", ("etcd",), Mark.STARTED, start_kubelet=True))
    assert host.sh(tool.undo_script("r1-x", "/var/lib/etcd"))[0] == tool.PAST_STATUS
    assert host.store == NEW


def test_stop_and_start_killed_anywhere_lose_no_manifest(host: FolderHost) -> None:
    before = {p.name: p.read_text() for p in host.manifests.iterdir()}
    for _ in kill_points(host, tool.stop_script("r1-x")):
        aside = host.root / "var/lib/kops-py/restore/manifests"
        found = {p.name: p.read_text() for folder in (host.manifests, aside) for p in folder.iterdir()}
        assert found == before
    assert list(host.manifests.iterdir()) == []
    for _ in kill_points(host, tool.start_script("r1-x", ("etcd", "kube-apiserver"), Mark.STARTED)):
        listed = {p.name for p in host.manifests.iterdir() if not p.name.startswith(".")}
        assert all((host.manifests / n).read_text() == before[n] for n in listed)
    assert listed == {"etcd.yaml", "kube-apiserver.yaml"}


def test_what_is_observed(host: FolderHost) -> None:
    host.sh(tool.mark_script("r1-x", Mark.STAGED))
    found = tool.parse_observed(host.sh(tool.observe_script())[1].decode())
    assert set(found["manifest"]) == {"etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler"}
    assert found["running"] == found["manifest"]
    assert (found["image"], found["peer"], found["name"]) == (("image:1",), ("https://10.9.0.1:2380",), ("n1",))
    assert found["has-data"] == (str(len("old data of n1")),)
    assert set(found["mark"]) == {"r1-x begun", "r1-x staged"}
    assert found["begun"] == ("r1-x all x",)
    assert int(found["free"][0]) > 0


MANIFEST = """\
    - --initial-advertise-peer-urls=https://10.0.0.3:2380
    - --initial-cluster=n1=https://10.0.0.1:2380
    - --key-file=/x
"""


def test_a_manifest_joins_the_cluster_that_is_there() -> None:
    once = tool.joining_manifest(MANIFEST, "n1=https://10.0.0.1:2380,n3=https://10.0.0.3:2380")
    assert once.splitlines() == [
        "    - --initial-advertise-peer-urls=https://10.0.0.3:2380",
        "    - --initial-cluster=n1=https://10.0.0.1:2380,n3=https://10.0.0.3:2380",
        "    - --initial-cluster-state=existing",
        "    - --key-file=/x",
    ]
    assert tool.joining_manifest(once, "n1=https://10.0.0.1:2380,n3=https://10.0.0.3:2380") == once
    with pytest.raises(ValueError, match="no flag"):
        tool.joining_manifest("spec:\n", "x")


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        ("3.4.23", False),
        ("3.4.27", True),
        ("3.5.9", False),
        ("3.5.10", True),
        ("3.6.0", True),
        ("", False),
        ("3.3.9", False),
    ],
)
def test_which_versions_let_revisions_jump(version: str, expected: bool) -> None:
    assert tool.bumps_revision(version) is expected


@pytest.mark.parametrize("bad", ["", "..", "a/b", "r1;rm", "manifests", "R1"])
def test_ids_that_cannot_be(bad: str) -> None:
    with pytest.raises(ValueError, match="not the id"):
        tool.work_dir(bad)
