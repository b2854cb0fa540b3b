"""Stores that fail under the installed program while it backs up a real etcd over SSH.

Each time: a clear error and exit code 14, the backups from before untouched and still good, nothing half-written
listed as anything but failed, what was uploaded taken away, and the same command good again when the store is.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from kops_py.backup.s3 import Credentials
from kops_py.backup.s3_uploads import Uploads
from kops_py.model.backup import S3StoreSpec
from tests.e2e.program import Finished, Program
from tests.fakes.tcp_proxy import TcpProxy
from tests.integration.backup.denying import Denying
from tests.integration.backup.s3_server import ACCESS_KEY, SECRET_KEY, S3Server, keys_in, running_server
from tests.integration.disks import small_file_system
from tests.integration.etcd.host import kubeadm_host, operator, set_backup, unavailable_reason
from tests.integration.etcd.members import Members

BUCKETS = iter(f"etcd-{n}" for n in range(100))
LARGE_MB = 40
# Bytes that were sent to the bucket, or what the program says.
KILLED_AT: tuple[int | str, ...] = (
    r"backup \S+: snapshot from",
    2_000_000,
    20_000_000,
    "reading the files of n1",
    "is stored",
    "restoring .* into a scratch etcd",
)


@dataclass
class Bed:
    program: Program
    members: Members
    folder: Path

    def states(self) -> dict[str, list[str]]:
        """States by store, the newest first, as ``etcd list`` shows them."""
        found: dict[str, list[str]] = {}
        for line in self.program.run("etcd", "list", "-o", "json").json()["backups"]:
            found.setdefault(line["store"], []).append(line["state"])
        return found

    def back_up(self, exit_code: int = 0) -> Finished:
        done = self.program.run("etcd", "backup", "--yes", exit_code=exit_code)
        assert SECRET_KEY not in done.text
        return done


@pytest.fixture
def bed(one: Members, tmp_path: Path) -> Iterator[Bed]:
    if reason := unavailable_reason():
        pytest.skip(reason)
    with kubeadm_host(tmp_path / "host", one) as host:
        program, _ = operator(tmp_path / "operator", host, one)
        program.extra_environment = {"S3_KEY": ACCESS_KEY, "S3_SECRET": SECRET_KEY}
        yield Bed(program, one, tmp_path)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with running_server(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture
def bucket(server: S3Server) -> str:
    name = next(BUCKETS)
    server.bucket(name)
    return name


def s3(bucket: str, port: int) -> dict[str, Any]:
    own = {"bucket": bucket, "endpoint": f"http://127.0.0.1:{port}", "accessKey": "env:S3_KEY"}
    return {"name": "offsite", "s3": {**own, "secretKey": "env:S3_SECRET"}}


def folder(path: Path, name: str = "local") -> dict[str, Any]:
    return {"name": name, "directory": {"path": str(path)}}


def unfinished(bucket: str, server: S3Server) -> list[str]:
    spec = S3StoreSpec("offsite", bucket, endpoint=server.endpoint)
    return [key for key, _, _ in Uploads(spec, Credentials(ACCESS_KEY, SECRET_KEY), 10)._list("")]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 24 MB."""
    with small_file_system(tmp_path / "disk", 24) as disk:
        yield disk


def test_a_full_disk(bed: Bed, small_disk: Path) -> None:
    set_backup(bed.program, stores=[folder(small_disk / "store")])
    bed.back_up()
    before = {p: p.read_bytes() for p in (small_disk / "store").rglob("*") if p.is_file()}
    bed.members.fill_large(LARGE_MB)
    failed = bed.back_up(exit_code=14)
    assert "No space left on device" in failed.stderr
    assert f"df -h {small_disk}" in failed.stderr
    assert bed.states() == {"local": ["failed", "good"]}
    assert {p: p.read_bytes() for p in before} == before
    left = sorted(p.name for p in (small_disk / "store").rglob("*") if p.is_file() and p not in before)
    assert left == ["begun.json", "failed.json"], "what was half-written is gone"
    # Beside a store with room the backup is good there, and the exit code says that one lacks it.
    set_backup(bed.program, stores=[folder(small_disk / "store"), folder(bed.folder / "roomy", "roomy")])
    failed = bed.back_up(exit_code=14)
    assert "not every store has the backup" in failed.stderr
    assert bed.states() == {"local": ["failed", "failed", "good"], "roomy": ["good"]}
    subprocess.run(["mount", "-o", "remount,size=200m", str(small_disk)], check=True)
    bed.back_up()
    assert bed.states() == {"local": ["good", "failed", "failed", "good"], "roomy": ["good", "good"]}


def test_s3_that_refuses_and_credentials_that_are_gone(bed: Bed, server: S3Server, bucket: str) -> None:
    local = folder(bed.folder / "store")
    set_backup(bed.program, stores=[local, s3(bucket, server.port)])
    bed.back_up()
    before = keys_in(server.bucket(bucket))
    with Denying() as port:
        set_backup(bed.program, stores=[s3(bucket, port)])
        alone = bed.back_up(exit_code=14)
        assert "refuses the credentials of store offsite" in alone.stderr
        set_backup(bed.program, stores=[local, s3(bucket, port)])
        both = bed.back_up(exit_code=14)
        assert "not every store has the backup" in both.stderr
        assert "InvalidAccessKeyId" in both.stderr
    set_backup(bed.program, stores=[local, s3(bucket, server.port)])
    assert bed.states() == {"local": ["good", "good"], "offsite": ["good"]}
    assert keys_in(server.bucket(bucket)) == before
    # The reference to the key leads nowhere: no store is asked with nothing, and the other one gets its backup.
    bed.program.extra_environment = {}
    gone = bed.back_up(exit_code=14)
    assert "the credentials of the store cannot be had" in gone.stderr
    assert "S3_KEY" in gone.stderr
    check = bed.program.run("etcd", "check", exit_code=14)
    assert "offsite: it cannot be read: the credentials of the store cannot be had" in check.stdout
    bed.program.extra_environment = {"S3_KEY": ACCESS_KEY, "S3_SECRET": SECRET_KEY}
    assert bed.states() == {"local": ["good", "good", "good"], "offsite": ["good"]}


@pytest.mark.soak
@pytest.mark.parametrize("fault", ["stalls", "gone"])
def test_s3_that_fails_in_the_middle_of_an_upload(bed: Bed, server: S3Server, bucket: str, fault: str) -> None:
    with TcpProxy("127.0.0.1", server.port) as proxy:
        set_backup(bed.program, stores=[s3(bucket, proxy.port)], storeTimeoutSeconds=5)
        bed.back_up()
        before = keys_in(server.bucket(bucket))
        bed.members.fill_large(LARGE_MB)
        proxy.after(proxy.to_server_bytes + 20_000_000, proxy.stall if fault == "stalls" else proxy.close)
        begun = time.monotonic()
        failed = bed.back_up(exit_code=14)
        print(f"{fault}: {time.monotonic() - begun:.0f} s\n{failed.stderr}")
        assert "offsite (s3://" in failed.stderr
        assert f"http://127.0.0.1:{proxy.port}" in failed.stderr or "storeTimeoutSeconds" in failed.stderr
    set_backup(bed.program, stores=[s3(bucket, server.port)])
    states = bed.states()["offsite"]
    assert states in (["broken-off", "good"], ["failed", "good"])
    after = keys_in(server.bucket(bucket))
    assert [k for k in after if k not in before and not k.endswith(".json")] == []
    assert set(before) <= set(after)
    bed.back_up()
    assert bed.states()["offsite"] == ["good", *states]
    assert unfinished(bucket, server) == [], "the next run here takes away what could not be taken away then"


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_killed_while_a_bucket_is_written(bed: Bed, server: S3Server, bucket: str) -> None:
    """kill -9 at a part of the upload, between the objects and in the proof: nothing is taken for a good backup."""
    with TcpProxy("127.0.0.1", server.port, delay_s=0.005) as proxy:
        set_backup(bed.program, stores=[s3(bucket, proxy.port)])
        bed.back_up()
        bed.members.fill_large(LARGE_MB)
        for number, point in enumerate(KILLED_AT, start=1):
            sent = proxy.to_server_bytes
            running = bed.program.start("etcd", "backup", "--yes", "-v")
            if isinstance(point, int):
                running.wait_until(lambda at=sent + point: proxy.to_server_bytes > at, f"{point} bytes", deadline_s=120)  # type: ignore[misc]
            else:
                running.wait_said(point, deadline_s=120)
            running.kill()
            states = bed.states()["offsite"]
            print(f"killed at {point}: {states[0]}, {len(unfinished(bucket, server))} unfinished uploads")
            assert len(states) == number + 1
            assert states[0] in ("broken-off", "stored"), states
            assert states[-1] == "good"
        bed.back_up()
        assert bed.states()["offsite"][0] == "good"
    assert unfinished(bucket, server) == [], "the next run here takes away what a killed one has begun"


@pytest.mark.soak
def test_s3_that_is_slow_or_breaks_for_a_moment(bed: Bed, server: S3Server, bucket: str) -> None:
    with TcpProxy("127.0.0.1", server.port, delay_s=0.01) as proxy:
        set_backup(bed.program, stores=[s3(bucket, proxy.port)], storeTimeoutSeconds=20)
        bed.members.fill_large(LARGE_MB)
        proxy.after(10_000_000, proxy.cut)
        done = bed.back_up()
        print(f"{LARGE_MB} MB through a slow line that broke once: {done.duration_s:.0f} s")
        assert proxy.to_server_bytes > LARGE_MB * 1_000_000
    set_backup(bed.program, stores=[s3(bucket, server.port)])
    assert bed.states() == {"offsite": ["good"]}
    assert unfinished(bucket, server) == []
