"""The installed program backs up an etcd that was given, over SSH, with no API server anywhere; and is killed."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import stat
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from kops_py.backup.catalogue import Catalogue
from kops_py.backup.directory import DirectoryStore
from kops_py.backup.new import is_alive, me
from kops_py.model.backup import DirectoryStoreSpec
from tests.e2e.program import Program
from tests.integration.etcd.host import kubeadm_host, operator, unavailable_reason
from tests.integration.etcd.members import Members

POINTS = (
    r"backup \S+: snapshot from",
    "reading the files of n1",
    "is stored",
    "restoring .* into a scratch etcd",
    "reading back what",
)


@pytest.fixture
def bed(one: Members, tmp_path: Path) -> Iterator[tuple[Program, Path, Members]]:
    if reason := unavailable_reason():
        pytest.skip(reason)
    one.fill(40)
    with kubeadm_host(tmp_path / "host", one) as host:
        program, private = operator(tmp_path / "operator", host, one)
        yield program, private, one


def states(folder: Path) -> list[str]:
    """The states of the backups in the store, the newest first."""
    store = DirectoryStore(DirectoryStoreSpec("local", folder / "store"))
    catalogue = Catalogue(store, "prod", me=me("0"), clock=lambda: datetime.now(UTC), is_alive=is_alive)
    return [str(e.state) for e in catalogue.entries()]


def test_from_a_plan_to_a_drill(bed: tuple[Program, Path, Members], tmp_path: Path) -> None:
    program, private, members = bed
    status = program.run("etcd", "status", "-o", "json").json()
    assert [(m["name"], m["healthy"]) for m in status["members"]] == [("m1", True)]
    assert status["findings"] == []
    program.run("etcd", "check", exit_code=14)
    planned = program.run("etcd", "backup", "--plan", exit_code=20)
    assert "snapshot from m1 and the files of n1" in planned.stdout
    made = program.run("etcd", "backup", "--yes")
    assert "is backed up" in made.stdout
    (line,) = program.run("etcd", "list", "-o", "json").json()["backups"]
    assert (line["state"], line["revision"], line["keys"]) == ("good", members.revision(), 43)
    assert line["kubernetes_version"] == "v1.20.2"
    assert program.run("etcd", "check", "--max-age", "1h").stdout.startswith("OK")
    drill = program.run("etcd", "drill", "--identity", str(private))
    assert f"backup {line['id']} is good: restored into etcd 3.4" in drill.stdout
    no_key = program.run("etcd", "verify", line["id"], exit_code=2)
    assert "--identity" in no_key.stderr
    assert program.run("etcd", "verify", line["id"], "--checksum").exit_code == 0
    store = tmp_path / "store"
    for path in store.rglob("*"):
        assert not stat.S_IMODE(path.stat().st_mode) & 0o077, path
        assert not path.is_file() or b"this is sa.key" not in path.read_bytes()
    (bundle,) = (p["file"] for p in _manifest(store, line["id"])["parts"] if p["kind"] == "bundle")
    assert bundle == "bundle-n1.tar.zst.age"
    damaged = next(store.rglob("snapshot.db*"))
    data = bytearray(damaged.read_bytes())
    data[len(data) // 3] ^= 8
    damaged.chmod(0o600)
    damaged.write_bytes(data)
    program.run("etcd", "verify", line["id"], "--identity", str(private), exit_code=14)
    assert states(tmp_path) == ["damaged"]
    assert "damaged" in program.run("etcd", "check", exit_code=14).stdout


def _in_store(pattern: str, size_bytes: int = 0) -> Callable[[Path], bool]:
    """Whether the newest backup's folder has such a file, of more than so many bytes."""

    def look(folder: Path) -> bool:
        newest = max((folder / "store" / "prod").glob("*Z-*"), default=folder / "none")
        return any(p.stat().st_size > size_bytes for p in newest.glob(pattern))

    return look


def _scratch_etcd_listens(folder: Path) -> bool:
    return any((folder / "operator" / ".kops-py" / "scratch" / "proof").glob("proof.*/c:0"))


MOMENTS: dict[str, Callable[[Path], bool]] = {
    "begun is written": _in_store("begun.json"),
    "a piece of the snapshot is": _in_store(".snapshot*", 1 << 20),
    "the snapshot is": _in_store("snapshot.db.zst.age"),
    "the manifest is": _in_store("manifest.json"),
    "the scratch etcd listens": _scratch_etcd_listens,
}
"""Besides what the program says: what lies there. They come between its words, in this order."""
ALL = (
    POINTS[0], "begun is written", "a piece of the snapshot is", "the snapshot is", POINTS[1], "the manifest is",
    POINTS[2], POINTS[3], "the scratch etcd listens", POINTS[4],
)  # fmt: skip


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("points", [POINTS[3:4], pytest.param(ALL, marks=pytest.mark.soak)], ids=["proof", "all"])
def test_killed_at_any_point_the_same_command_makes_a_good_one(
    bed: tuple[Program, Path, Members], tmp_path: Path, points: tuple[str, ...]
) -> None:
    program, private, members = bed
    if points == ALL:
        members.fill_large(30)
    known: set[Path] = set()

    def has_begun() -> bool:
        return set((tmp_path / "store" / "prod").glob("*Z-*")) > known

    for number, point in enumerate(points):
        running = program.start("etcd", "backup", "--yes", "-v")
        if point in MOMENTS:
            running.wait_until(has_begun, "a backup begun", deadline_s=120)
            running.wait_until(lambda look=MOMENTS[point]: look(tmp_path), point, deadline_s=120)  # type: ignore[misc]
        else:
            running.wait_said(point, deadline_s=120)
        running.kill()
        known = set((tmp_path / "store" / "prod").glob("*Z-*"))
        found = states(tmp_path)
        assert len(found) == number + 1
        # the last point may come when the proof is on record: then it is good, and rightly so
        good_ones = len(list((tmp_path / "store").rglob("proof-restore-*.json")))
        assert found.count("good") == good_ones <= (1 if point == POINTS[4] else 0), point
        assert set(found) <= {"broken-off", "stored", "good"}, point
        print(f"killed when {point}: {found[0]}")
    program.run("etcd", "backup", "--yes")
    found = states(tmp_path)
    assert found[0] == "good"
    assert len(found) == len(points) + 1
    assert (
        f"backup {max(p.name for p in (tmp_path / 'store' / 'prod').iterdir())} is good"
        in program.run("etcd", "drill", "--identity", str(private)).stdout
    )
    left = [p for p in (program.folder / ".kops-py" / "scratch").rglob("*") if p.is_file() and "/etcd/" not in str(p)]
    assert left == [], "a proof that was killed left something"


def test_two_at_once_do_not_meet(bed: tuple[Program, Path, Members], tmp_path: Path) -> None:
    program, _, _ = bed
    first = program.start("etcd", "backup", "--yes", "-v")
    first.wait_said(POINTS[0], deadline_s=120)
    os.kill(first.pid, signal.SIGSTOP)  # so that it is still at it when the second one comes, however slow this machine
    try:
        second = program.run("etcd", "backup", "--yes", exit_code=4)
    finally:
        os.kill(first.pid, signal.SIGCONT)
    assert "another run works on this cluster" in second.stderr
    program.expect(first)
    assert states(tmp_path) == ["good"]


@pytest.mark.soak
def test_half_a_gigabyte_in_constant_memory(bed: tuple[Program, Path, Members], tmp_path: Path) -> None:
    program, _, members = bed
    members.fill(550, 1_000_000)
    running = program.start("etcd", "backup", "--yes", "-v")
    peak_kb = 0
    while not running.has_ended:
        with contextlib.suppress(OSError):
            text = Path(f"/proc/{running.pid}/status").read_text()
            found = re.search(r"VmHWM:\s+(\d+) kB", text)
            peak_kb = max(peak_kb, int(found[1]) if found else 0)
        time.sleep(0.05)  # between two looks at a process that ends by itself
    program.expect(running, deadline_s=600)
    line = program.run("etcd", "list", "-o", "json").json()["backups"][0]
    assert line["state"] == "good"
    print(f"550 MB: peak {peak_kb / 1024:.0f} MB of memory\n{running.stderr}")
    assert peak_kb < 200 * 1024


def _manifest(store: Path, backup_id: str) -> dict[str, list[dict[str, str]]]:
    found: dict[str, list[dict[str, str]]] = json.loads((store / "prod" / backup_id / "manifest.json").read_text())
    return found
