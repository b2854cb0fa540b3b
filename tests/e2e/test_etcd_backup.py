"""Backups of a real cluster's etcd alone; the short scenario of a single node holds the same checks for CI."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e import backups
from tests.e2e.bed import Bed
from tests.integration.backup.s3_server import S3Server, keys_in, running_server

PLANES = ("n1", "n2", "n3")
PKI = "/etc/kubernetes/pki/etcd"
SIZE_MB = 520
BUCKET = "etcd-backups"

pytestmark = pytest.mark.soak


@pytest.mark.timeout(900)
def test_backups_of_a_real_cluster(bed: Bed) -> None:
    bed.boot(1)
    bed.write_inventory(control_planes=["n1"], workers=["n1"])
    bed.write_cluster("alone")
    bed.say(f"bootstrap {bed.bootstrap().duration_s:.1f} s")
    backups.check_backups(bed, "alone")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[S3Server]:
    with running_server(tmp_path) as server:
        yield server


@pytest.mark.timeout(3000)
def test_half_a_gigabyte_of_three_members_to_a_folder_and_s3(bed: Bed, server: S3Server, tmp_path: Path) -> None:
    """Then the host the snapshot comes from loses its power in the middle, and the same command takes another."""
    bed.boot(4)
    bed.write_inventory(control_planes=PLANES, workers=PLANES, load_balancers=["n4"])
    section, store, private = backups.section_with_s3(bed, server, BUCKET)
    bed.write_cluster("loaded", backup=section)
    bucket = server.bucket(BUCKET)
    bed.say(f"bootstrap {bed.bootstrap(deadline_s=900).duration_s:.1f} s")
    backups.fill(bed, PLANES, PKI, SIZE_MB, tmp_path)

    made, peak_mb = backups.measured(bed)
    assert f"{SIZE_MB // 100}" in re.findall(r"of (\d+) MiB", made.stderr)[-1], made.report()
    bed.say(f"backup into both stores and proof {made.duration_s:.1f} s, peak {peak_mb:.0f} MB of memory")
    lines = bed.program.run("etcd", "list", "-o", "json").json()["backups"]
    assert {line["store"]: line["state"] for line in lines} == {"local": "good", "offsite": "good"}
    assert lines[0]["keys"] > SIZE_MB
    assert peak_mb < 200
    drill = bed.program.run("etcd", "drill", "--identity", str(private), deadline_s=600)
    bed.say(f"read back from the store, decrypted, restored {drill.duration_s:.1f} s")
    assert f"backup {lines[0]['id']} is good" in drill.stdout

    before = keys_in(bucket)
    planned = bed.program.run("etcd", "backup", "--plan", exit_code=20).stdout
    found = re.search(r"snapshot from (n\d)", planned)
    assert found is not None, planned
    source = found[1]
    running = bed.program.start("etcd", "backup", "--yes", "-v")
    running.wait_said(r"backup \S+: snapshot from", deadline_s=200)
    running.wait_until(lambda: backups.under_way(store), "a piece of the snapshot in the store", deadline_s=120)
    bed.node(source).kill()
    failed = running.wait(deadline_s=600)
    bed.say(f"{source} lost its power in the middle: exit code {failed.exit_code} after {failed.duration_s:.1f} s")
    assert failed.exit_code in (10, 12, 14), failed.report()
    assert source in failed.stderr.partition("error:")[2], failed.report()
    again = bed.program.run("etcd", "backup", "--yes", deadline_s=900)
    bed.say(f"the same command {again.duration_s:.1f} s")
    assert "etcd-bundle-incomplete" in again.text or source in again.text, again.report()
    states = {
        (line["store"], line["state"]) for line in bed.program.run("etcd", "list", "-o", "json").json()["backups"]
    }
    assert states == {(name, state) for name in ("local", "offsite") for state in ("good", "failed")}
    kept = keys_in(bucket)
    assert set(before) <= set(kept)
    snapshots = [key for key in kept if "snapshot" in key]
    assert len(snapshots) == 2, "nothing half-written is in the bucket"
    bed.node(source).start()
    bed.wait_ready(PLANES)
