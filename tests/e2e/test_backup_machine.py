"""The machine that makes backups loses its power in the middle of one: the same command makes a good one."""

from __future__ import annotations

import re
import subprocess
import time
from pathlib import Path

import pytest

from tests.e2e import backups
from tests.e2e.backup_host import BackupHost
from tests.e2e.bed import Bed
from tests.e2e.program import Program
from tests.lab.config import USER

STORE = "srv/backup/kubernetes"
PKI = "/etc/kubernetes/pki/etcd"
SIZE_MB = 120
A_PIECE = "a piece of the snapshot is in the store"
POINTS = (
    r"backup \S+: snapshot from",
    A_PIECE,
    "reading the files of n1",
    "is stored",
    "restoring .* into a scratch etcd",
    "reading back what",
)
"""What the program says, and one thing that is looked for in its store."""

pytestmark = [pytest.mark.soak, pytest.mark.timeout(1500)]


@pytest.fixture
def bed(bed: Bed, wheel_program: Path) -> Bed:
    bed.program = Program(wheel_program, bed.folder)
    return bed


def test_power_lost_by_the_machine_that_makes_backups(bed: Bed, wheel_program: Path, tmp_path: Path) -> None:
    bed.boot(2)
    bed.write_inventory(control_planes=["n1"], workers=["n1"], others=["n2"])
    bed.write_cluster("alone")
    bed.say(f"bootstrap {bed.bootstrap().duration_s:.1f} s")
    backups.fill(bed, ("n1",), PKI, SIZE_MB, tmp_path)
    public, _ = backups.make_key(bed.folder.parent)
    stores = [{"name": "local", "directory": {"path": f"/{STORE}"}}]
    bed.write_cluster("alone", backup={"stores": stores, "encryption": {"recipients": [public]}})
    host = BackupHost(bed.node("n2"))
    host.install(wheel_program)
    host.node.exec("mkdir -p /srv/backup && chown kops: /srv/backup")
    host.put_files(bed, user=USER)
    host.run("etcd", "backup", "--yes", user="kops")
    (first,) = host.backups()
    assert first["state"] == "good", first

    for number, point in enumerate(POINTS, start=1):
        _lose_power(bed, host, point, tmp_path / f"{number}.log")
        found = host.backups()
        bed.say(f"power lost at {point!r}: the backup is {found[0]['state']}")
        assert len(found) == number + 1
        # At the last point its proof may be on record already, and then it is good, rightly.
        assert found[0]["state"] in ("broken-off", "stored", *(("good",) if point == POINTS[-1] else ())), found[0]
        assert found[-1]["state"] == "good", "the one from before"
    made = time.monotonic()
    host.run("etcd", "backup", "--yes", user="kops")
    bed.say(f"the same command made a good one in {time.monotonic() - made:.1f} s")
    assert host.backups()[0]["state"] == "good"
    assert host.run("etcd", "check", "--max-age", "1h", user="kops").stdout.startswith("OK")
    _check_nothing_left(bed, host)


def _lose_power(bed: Bed, host: BackupHost, point: str, log: Path) -> None:
    """Begin a backup, end the machine at that point, and let it boot again."""
    before = {b["id"] for b in host.backups()}
    argv = host.node.exec_argv(*host.argv("etcd", "backup", "--yes", "-v", user="kops"))
    with log.open("wb") as output:
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    until = time.monotonic() + 120
    while not _is_there(host, point, log, before):
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < until, log.read_text()
        time.sleep(0.02)
    host.node.kill()
    assert process.wait(60) != 0
    host.node.start()


def _is_there(host: BackupHost, point: str, log: Path, before: set[str]) -> bool:
    if point != A_PIECE:
        return re.search(point, log.read_text()) is not None
    new = [p for p in (host.node.upper / STORE).rglob(".snapshot*.partial") if p.parent.name not in before]
    return any(p.stat().st_size > 4 << 20 for p in new)


def _check_nothing_left(bed: Bed, host: BackupHost) -> None:
    """No half of a snapshot in the store, no scratch etcd, and nothing that still reads on the member."""
    partial = list((host.node.upper / STORE).rglob("*.partial"))
    assert partial == [], partial
    scratch = host.node.exec(f"find {host.folder}/.kops-py/scratch -type f -not -path '*/etcd/*'", check=False).stdout
    assert scratch == "", scratch
    reading = bed.node("n1").exec(["pgrep", "-a", "curl"], check=False).stdout
    assert reading == "", reading
