"""A large etcd on hosts of its own, of a newer minor: into a folder and S3, lost, and back by the backup's id.

Its programs are those of a later Debian, brought to the hosts by hand, which the role is told of.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.e2e import backups, canaries
from tests.e2e.bed import Bed
from tests.integration.backup.s3_server import S3Server, keys_in, running_server
from tests.integration.etcd import releases

NODES = ("n1", "n2")
ETCD = ("n3", "n4", "n5")
PKI = "/etc/etcd/pki"
PLACE = "/usr/local/bin"
SIZE_MB = 520
BUCKET = "external-etcd"
GOAL_S = 300

pytestmark = [pytest.mark.soak, pytest.mark.timeout(2400)]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[S3Server]:
    with running_server(tmp_path) as server:
        yield server


@pytest.fixture
def programs() -> Path:
    try:
        return releases.programs("trixie")
    except releases.NoReleaseError as error:
        pytest.skip(str(error))


def test_half_a_gigabyte_of_an_external_etcd_lost_and_back_by_id(
    bed: Bed, server: S3Server, programs: Path, tmp_path: Path
) -> None:
    bed.boot(5)
    _bring(bed, ETCD, programs)
    own = {"kops_etcd_packages": [], "kops_etcd_binary": f"{PLACE}/etcd"}
    bed.write_inventory(control_planes=NODES[:1], workers=NODES[1:], etcd=ETCD, variables=own)
    section, store, private = backups.section_with_s3(bed, server, BUCKET)
    bucket = server.bucket(BUCKET)
    bed.write_cluster("restored", etcd={"topology": "external"}, backup=section)
    bed.say(f"bootstrap {bed.bootstrap(deadline_s=900).duration_s:.1f} s")
    version = releases.version(programs)
    members = bed.program.run("etcd", "status", "-o", "json").json()["members"]
    assert {(m["name"], m["version"]) for m in members} == {(name, version) for name in ETCD}, members
    canaries.write(bed, NODES)
    backups.fill(bed, ETCD, PKI, SIZE_MB, tmp_path)

    made, peak_mb = backups.measured(bed)
    bed.say(f"backup into both stores and proof {made.duration_s:.1f} s, peak {peak_mb:.0f} MB of memory")
    assert peak_mb < 200
    lines = backups.listed(bed)
    assert {line["store"]: line["state"] for line in lines} == {"local": "good", "offsite": "good"}
    assert {(line["etcd_version"], line["keys"] > SIZE_MB) for line in lines} == {(version, True)}, lines
    bed.kubectl("create configmap canary-after --from-literal=word=after")
    assert not any(b"canary-before" in bytes(bucket.get(key).bytes()) for key in keys_in(bucket)), "not encrypted"

    shutil.rmtree(store)  # with the machine that it was on: only the bucket is left
    for name in ETCD:
        bed.node(name).exec("systemctl stop etcd")
    for name in ETCD:
        bed.node(name).exec("find /var/lib/etcd -mindepth 1 -delete")
    restore = ("etcd", "restore", str(lines[0]["id"]), "--identity", str(private))
    planned = bed.program.run(*restore, "--plan", exit_code=20)
    assert str(lines[0]["revision"]) in planned.stdout, planned.report()
    finished = bed.program.run(*restore, "-y", deadline_s=900)
    bed.say(f"external etcd {version} restored from S3 in {finished.duration_s:.1f} s")
    assert finished.duration_s < GOAL_S
    canaries.check(bed, before=True, after=False)
    canaries.check_serves(bed, NODES, ETCD)
    again = bed.program.run(*restore, "-y", exit_code=3)
    assert "quorum-serves" in again.text, again.report()


def _bring(bed: Bed, hosts: Sequence[str], programs: Path) -> None:
    """Put the programs on the hosts, with the user that a package would have made."""
    for name in hosts:
        bed.node(name).exec("useradd --system --user-group --home-dir /var/lib/etcd etcd")
        for program in releases.PROGRAMS:
            bed.node(name).put_file(programs / program, f"{PLACE}/{program}", 0o755)
