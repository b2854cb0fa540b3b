"""After a restore: what is told of objects that only the old data has, and of authorities that differ."""

from __future__ import annotations

import base64
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import pytest
import yaml

from kops_py.actions import etcd_restore_lost as lost
from kops_py.actions.etcd_restore_after import check_restored
from kops_py.connect.base import JsonObject
from kops_py.model.errors import CancelledError, UnreachableError
from kops_py.model.etcd_restore import CheckRestored
from kops_py.model.event import Note
from kops_py.tools import etcd_restore as tool
from tests.fakes.kube import node
from tests.fakes.ssh import Reply
from tests.unit.actions.stage import CA_PEM, Stage, stage
from tests.unit.tools.test_bolt import store_of

ROOT = b"/registry/"
RESTORE = "r1-abc"
SIZE, SEND = tool.kept_size_script(RESTORE), tool.send_kept_script(RESTORE)
ACTION = CheckRestored(("n1", "n2"), RESTORE, ("n1", "n2"))


def database(*names: bytes, revision: int = 100) -> bytes:
    """Return a database with these keys; the newest entry is of this revision."""
    entries = [(number, ROOT + name, False) for number, name in enumerate(names, 2)]
    return store_of(*entries, (revision, b"compact_rev_key", False))


def keep(found: Stage, name: str, data: bytes) -> None:
    host = found.hosts[name]
    host.on(("sh", "-c", SIZE), Reply(f"{len(data)}\n" if data else "", sudo=True))
    host.on(("sh", "-c", SEND), Reply(data, sudo=True))


def opener(folder: Path, data: bytes) -> Callable[[], BinaryIO]:
    path = folder / "snapshot.db"
    path.write_bytes(data)
    return lambda: path.open("rb")


def told(found: Stage, folder: Path, snapshot: bytes, action: CheckRestored = ACTION) -> list[str]:
    work = folder / "run"
    work.mkdir(exist_ok=True)
    sentences = list(lost.lost_objects(found.deps, action, found.ctx(action), opener(folder, snapshot), work))
    assert list(work.iterdir()) == [], "the old data holds every secret, and is left"
    return sentences


def test_what_only_the_old_data_has_is_told_by_kind_and_name(tmp_path: Path) -> None:
    found = stage(2)
    both = [b"configmaps/default/a", b"minions/n1"]
    new = [
        b"configmaps/default/b",
        b"events/default/noise",
        b"example.com/widgets/default/w",
        b"leases/kube-node-lease/n1",
        b"minions/n9",
        b"services/endpoints/default/web",
        b"services/specs/default/web",
    ]
    keep(found, "n1", b"")
    keep(found, "n2", database(*both, *new))
    assert told(found, tmp_path, database(*both, b"secrets/default/old", revision=90)) == [
        "lost, in the old data kept on n2 only: 1 configmaps: default/b",
        "lost, in the old data kept on n2 only: 1 widgets.example.com: default/w",
        "lost, in the old data kept on n2 only: 1 nodes: n9",
        "lost, in the old data kept on n2 only: 1 services: default/web",
        "there again, deleted in the old data kept on n2: 1 secrets: default/old",
    ]


def test_what_is_set_back_and_what_is_there_again(tmp_path: Path) -> None:
    """Nodes and pods are written all the time; that they changed is not told, that they are there again is."""
    found = stage(1)
    names = [b"configmaps/default/a", b"configmaps/default/b", b"minions/n1", b"pods/default/p", b"leases/x/y"]
    entries = [(number, ROOT + name, False) for number, name in enumerate(names, 2)]
    gone = [(20, ROOT + b"secrets/default/s", False), (21, ROOT + b"pods/default/old", False)]
    changed = [(number, ROOT + name, False) for number, name in enumerate(names[1:], 91)]
    deleted = [(99, ROOT + b"secrets/default/s", True), (100, ROOT + b"pods/default/old", True)]
    keep(found, "n1", store_of(*entries, *gone, *changed, *deleted))
    snapshot = store_of(*entries, *gone, (90, b"compact_rev_key", False))
    assert told(found, tmp_path, snapshot, CheckRestored(("n1",), RESTORE, ("n1",))) == [
        "the old data kept on n1 has no object that the snapshot lacks",
        "set back, changed later in the old data kept on n1: 1 configmaps: default/b",
        "there again, deleted in the old data kept on n1: 1 pods: default/old",
        "there again, deleted in the old data kept on n1: 1 secrets: default/s",
    ]


def test_the_largest_old_data_is_compared(tmp_path: Path) -> None:
    """One that was started on an empty disk has nothing in it."""
    found = stage(2)
    keep(found, "n1", database())
    keep(found, "n2", database(b"configmaps/default/b") + b"\0" * 4096)
    assert [s.rpartition(": ")[2] for s in told(found, tmp_path, database(revision=90))] == ["default/b"]


@pytest.mark.parametrize("revision", [100, 101])
def test_old_data_that_is_no_newer_lost_nothing(tmp_path: Path, revision: int) -> None:
    found = stage(2)
    keep(found, "n1", database(b"configmaps/default/deleted"))
    keep(found, "n2", b"")
    assert told(found, tmp_path, database(revision=revision)) == []


def test_nothing_lost_is_told_too(tmp_path: Path) -> None:
    found = stage(2)
    keep(found, "n1", database(b"pods/default/a", b"events/default/e"))
    keep(found, "n2", b"")
    assert told(found, tmp_path, database(b"pods/default/a", revision=90)) == [
        "the old data kept on n1 has no object that the snapshot lacks"
    ]


def test_many_names_and_kinds_are_cut_short() -> None:
    names = [f"configmaps/default/c{i}" for i in range(9)] + [f"kind{i:02}/x" for i in range(25)]
    sentences = list(lost.lost_sentences(lost.Difference(names), "n1"))
    assert sentences[0].endswith("9 configmaps: default/c0, default/c1, default/c2, default/c3, default/c4 and 4 more")
    assert len(sentences) == 21
    assert sentences[-1] == "lost as well: objects of 6 more kinds: kind19, kind20, kind21, kind22, kind23, kind24"


@pytest.mark.parametrize(
    ("data", "why"),
    [(b"no database " * 2000, "it does not begin like a database"), (database()[: 5 * 4096], "it is cut off")],
)
def test_old_data_that_cannot_be_read_is_told(tmp_path: Path, data: bytes, why: str) -> None:
    found = stage(2)
    keep(found, "n1", data)
    keep(found, "n2", b"")
    [sentence] = told(found, tmp_path, database(revision=90))
    assert sentence.startswith(f"the old data kept on n1 could not be compared with the snapshot: {why}")


def test_what_is_too_large_is_not_copied(tmp_path: Path) -> None:
    found = stage(2)
    keep(found, "n2", b"")
    found.hosts["n1"].on(("sh", "-c", SIZE), f"{lost.MOST_BYTES + 1}\n")
    [sentence] = told(found, tmp_path, database(revision=90))
    assert sentence == "the old data kept on n1 (537 MB) is too large to be compared with the snapshot"


def test_no_old_data_is_told_and_a_lost_host_stops_nothing(tmp_path: Path) -> None:
    found = stage(2)
    keep(found, "n1", b"")
    gone = UnreachableError("does not answer", where="n2")
    found.hosts["n2"].on(("sh", "-c", SIZE), Reply(error=gone))
    [sentence] = told(found, tmp_path, database())
    assert sentence.startswith("no old data was kept that could be compared")
    assert told(found, tmp_path, database(), CheckRestored(("n1",))) == []
    keep(found, "n1", database())
    found.hosts["n1"].on(("sh", "-c", SEND), Reply(error=UnreachableError("gone now", where="n1")))
    assert told(found, tmp_path, database())[0].endswith("n1: gone now")


def test_a_cancel_is_no_failed_comparison(tmp_path: Path) -> None:
    found = stage(2)
    keep(found, "n1", database())
    keep(found, "n2", b"")
    found.hosts["n1"].on(
        ("sh", "-c", SEND), Reply(effect=lambda _: found.cancel.set("SIGINT"), error=CancelledError("x"))
    )
    with pytest.raises(CancelledError):
        told(found, tmp_path, database())


def test_the_scripts_find_what_a_restore_kept(tmp_path: Path) -> None:
    import subprocess

    def run(script: str) -> tuple[int, bytes]:
        text = script.replace(tool.ROOT, str(tmp_path))
        done = subprocess.run(["sh", "-c", text], capture_output=True, check=False, timeout=10)
        return done.returncode, done.stdout

    assert run(SIZE) == (0, b"")
    (tmp_path / RESTORE).mkdir()
    (tmp_path / RESTORE / "kept").write_text("nothing")
    assert run(SIZE) == (0, b"")
    kept = tmp_path / "etcd before"
    (kept / "member/snap").mkdir(parents=True)
    (kept / "member/snap/db").write_bytes(b"12345")
    (tmp_path / RESTORE / "kept").write_text(str(kept))
    assert run(SIZE) == (0, b"5\n")
    assert run(SEND) == (0, b"12345")


# the authority

OTHER_PEM = CA_PEM.replace(b"MIIB", b"MIIC")


def config_map(namespace: str, name: str, data: dict[str, str]) -> JsonObject:
    metadata = {"name": name, "namespace": namespace}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}


def cluster_info(pem: bytes) -> JsonObject:
    cluster = {"certificate-authority-data": base64.b64encode(pem).decode(), "server": "https://x:6443"}
    text = yaml.safe_dump({"clusters": [{"cluster": cluster, "name": ""}]})
    return config_map("kube-public", "cluster-info", {"kubeconfig": text})


def checked(*objects: JsonObject, files: dict[str, Reply]) -> list[str]:
    found = stage(2, kube=[node("n1", control_plane=True), node("n2", control_plane=True), *objects])
    for name, host in found.hosts.items():
        host.on(("crictl", "pods", "-o", "json"), '{"items": []}')
        host.on(("cat", "/etc/kubernetes/pki/ca.crt"), files[name])
    action = CheckRestored(("n1", "n2"))
    check_restored(found.deps, action, found.ctx(action), iter(["what is lost"]))
    notes = [e.message for e in found.events if isinstance(e, Note)]
    assert notes[-1] == "what is lost"
    return notes[:-1]


def test_the_same_authority_is_not_told() -> None:
    files = {"n1": Reply(CA_PEM, sudo=True), "n2": Reply(OTHER_PEM + CA_PEM, sudo=True)}
    assert checked(cluster_info(CA_PEM), files=files) == []
    assert checked(config_map("kube-system", "kube-root-ca.crt", {"ca.crt": CA_PEM.decode()}), files=files) == []
    assert checked(files=files) == []


def test_another_authority_and_one_that_cannot_be_read_are_told() -> None:
    files = {"n1": Reply(OTHER_PEM), "n2": Reply(error=UnreachableError("does not answer", where="n2"))}
    first, second = checked(cluster_info(CA_PEM), files=files)
    assert first.startswith("n1: /etc/kubernetes/pki/ca.crt is not the authority in ConfigMap kube-public/cluster-info")
    assert second == "n2: whether its authority is the cluster's could not be checked: n2: does not answer"


@pytest.mark.parametrize(
    "text", ["", "no: [yaml", "clusters: []", "clusters: [{cluster: {certificate-authority-data: 1}}]"]
)
def test_a_damaged_cluster_info_says_nothing(text: str) -> None:
    files = {"n1": Reply(CA_PEM), "n2": Reply(CA_PEM)}
    assert checked(config_map("kube-public", "cluster-info", {"kubeconfig": text}), files=files) == []
