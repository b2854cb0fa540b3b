"""Backups of a real cluster's etcd: made, proven, listed, checked; for scenarios that have a cluster anyway."""

from __future__ import annotations

import contextlib
import json
import re
import stat
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.e2e.bed import Bed
from tests.e2e.program import Finished, Running
from tests.fakes.etcd_load import fill_quickly
from tests.integration.backup.s3_server import ACCESS_KEY, SECRET_KEY, S3Server

_MAKE_KEY = "import pyrage; i = pyrage.x25519.Identity.generate(); print(i.to_public()); print(i)"


def make_key(folder: Path) -> tuple[str, Path]:
    """Make an age key; returns the public one and the file with the private one."""
    made = subprocess.run([sys.executable, "-c", _MAKE_KEY], capture_output=True, text=True, check=True).stdout.split()
    path = folder / "age.key"
    path.write_text(f"# a key of the test\n{made[1]}\n")
    path.chmod(0o600)
    return made[0], path


def section(bed: Bed) -> tuple[dict[str, Any], Path, Path]:
    """Return a section ``backup`` for cluster.yaml, the folder that is its store, and the file with the private key."""
    public, private = make_key(bed.folder.parent)
    store = bed.folder.parent / "store"
    stores = [{"name": "local", "directory": {"path": str(store)}}]
    return {"stores": stores, "encryption": {"recipients": [public]}}, store, private


def section_with_s3(bed: Bed, server: S3Server, bucket: str) -> tuple[dict[str, Any], Path, Path]:
    """Return the same with a bucket as a second store, ``offsite``; the program gets its credentials."""
    with_folder, store, private = section(bed)
    s3 = {"bucket": bucket, "endpoint": server.endpoint, "accessKey": "env:S3_KEY", "secretKey": "env:S3_SECRET"}
    bed.program.extra_environment = {"S3_KEY": ACCESS_KEY, "S3_SECRET": SECRET_KEY}
    return {**with_folder, "stores": [*with_folder["stores"], {"name": "offsite", "s3": s3}]}, store, private


def fill(bed: Bed, members: Sequence[str], pki: str, size_mb: int, folder: Path) -> None:
    """Write keys straight into etcd, past the API server; ``pki`` is the members' folder with its certificates."""
    own = [folder / name for name in ("ca.crt", "healthcheck-client.crt", "healthcheck-client.key")]
    for path in own:
        path.write_text(bed.node(members[0]).exec(f"cat {pki}/{path.name}").stdout)
        path.chmod(0o600)
    begun = time.monotonic()
    endpoints = [f"https://{bed.node(name).ip}:2379" for name in members]
    fill_quickly(endpoints, (str(own[0]), str(own[1]), str(own[2])), size_mb)
    bed.say(f"{size_mb} MB of keys in {time.monotonic() - begun:.0f} s")


def measured(bed: Bed) -> tuple[Finished, float]:
    """Make a backup; returns how it ended and the peak of the program's memory in MB."""
    running = bed.program.start("etcd", "backup", "--yes", "-v")
    peak_kb = 0
    while not running.has_ended:
        peak_kb = max(peak_kb, _peak_kb(running))
        time.sleep(0.05)  # between two looks at a process that ends by itself
    return bed.program.expect(running, deadline_s=1200), peak_kb / 1024


def under_way(store: Path) -> bool:
    """Whether some of the snapshot, and not all of it, is in the folder."""
    return any(p.stat().st_size > 20 << 20 for p in store.rglob(".snapshot*.partial"))


def _peak_kb(running: Running) -> int:
    with contextlib.suppress(OSError):
        found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{running.pid}/status").read_text())
        return int(found[1]) if found else 0
    return 0


def listed(bed: Bed) -> list[dict[str, Any]]:
    """Return the backups as ``kops-py etcd list`` tells them."""
    return [*bed.program.run("etcd", "list", "-o", "json").json()["backups"]]


def check_backups(bed: Bed, name: str) -> None:
    """Everything ``kops-py etcd`` does with backups, short; cluster.yaml gets its section backup."""
    program = bed.program
    backup, store, private = section(bed)
    bed.write_cluster(name, backup=backup)
    status = program.run("etcd", "status", "-o", "json").json()
    assert [(m["name"], m["host"], m["healthy"], m["alarms"]) for m in status["members"]] == [("n1", "n1", True, [])]
    assert status["members"][0]["quota_bytes"] == 2 * 2**30
    assert status["findings"] == []
    before = program.run("etcd", "check", "--max-age", "1h", exit_code=14).stdout
    assert before.startswith("CRITICAL")
    assert "the folder of the store is not there" in before

    planned = program.run("etcd", "backup", "--plan", exit_code=20)
    assert "snapshot from n1" in planned.stdout, planned.report()
    made = program.run("etcd", "backup", "--yes")
    bed.say(f"backup and proof {made.duration_s:.1f} s")
    (line,) = listed(bed)
    assert line["state"] == "good", line
    assert line["keys"] > 100
    assert line["kubernetes_version"] == "v1.20.2"
    verified = program.run("etcd", "verify", line["id"], "--identity", str(private))
    assert f"backup {line['id']} is good" in verified.stdout
    bed.say(f"verify from the store {verified.duration_s:.1f} s")
    textfile = bed.folder / "etcd.prom"
    checked = program.run("etcd", "check", "--max-age", "1h", "--textfile", str(textfile)).stdout
    assert checked.startswith("OK: etcd backups of")
    assert f'kops_py_etcd_backup_ok{{cluster="{name}",store="local"}} 1' in textfile.read_text()
    pruned = program.run("etcd", "prune", "--plan")
    assert "nothing to do" in pruned.text or "stays" in pruned.text, pruned.report()

    # Nothing is left on the member, and nothing that was stored can be read by others, or without the key.
    node = bed.node("n1")
    left = node.exec(
        "find / -xdev -newer /etc/kubernetes/admin.conf -name '*.db*' -not -path '/var/lib/*' | head"
    ).stdout
    assert left == "", left
    for path in store.rglob("*"):
        assert not stat.S_IMODE(path.stat().st_mode) & 0o077, path
    secret = json.loads(bed.kubectl("-n kube-system get secrets -o json"))["items"][0]["metadata"]["name"].encode()
    assert not any(secret in p.read_bytes() for p in store.rglob("*") if p.is_file())
