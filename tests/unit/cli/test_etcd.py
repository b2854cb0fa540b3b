"""kops-py etcd over a real store in a folder: what needs no host."""

from __future__ import annotations

import functools
import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from kops_py.backup.catalogue import Catalogue
from kops_py.backup.directory import DirectoryStore
from kops_py.backup.manifest import PartKind, ProofKind
from kops_py.backup.new import NewBackup, is_alive
from kops_py.backup.proving import check_stored, proof_of
from kops_py.cli import main
from kops_py.config.listing import list_inventory
from kops_py.model.backup import BackupSpec, DirectoryStoreSpec, EncryptionSpec
from kops_py.model.errors import EtcdError
from tests.fakes.stores import ME, RESTORED, SOURCE

INVENTORY = """\
all:
  children:
    kube_control_plane: {hosts: {n1: {ansible_host: 192.0.2.1}}}
    kube_node: {hosts: {n1: {}}}
"""
KEY = "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p"
Page = pytest.CaptureFixture[str]


class Hook(BaseHTTPRequestHandler):
    """Keeps what it is sent."""

    received: list[dict[str, Any]]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.received.append(json.loads(body))
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def hook() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    received: list[dict[str, Any]] = []
    server = HTTPServer(("127.0.0.1", 0), type("Own", (Hook,), {"received": received}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/token", received
    server.shutdown()
    server.server_close()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hook: tuple[str, list[dict[str, Any]]]) -> Path:
    (tmp_path / "hosts.yaml").write_text(INVENTORY)
    (tmp_path / "store").mkdir(mode=0o700)
    monkeypatch.setenv("HOOK", hook[0])
    document = {
        "apiVersion": "kops-py/v1",
        "kind": "Cluster",
        "metadata": {"name": "prod"},
        "kubernetes": {"version": "v1.34.2"},
        "network": {"cni": {"type": "none"}},
        "backup": {
            "stores": [{"name": "local", "directory": {"path": "store"}}],
            "encryption": {"recipients": [KEY]},
            "webhook": "env:HOOK",
        },
    }
    (tmp_path / "cluster.yaml").write_text(yaml.safe_dump(document))
    monkeypatch.chdir(tmp_path)
    # the inventory stays as it is: Ansible is asked once a test
    monkeypatch.setattr("kops_py.config.load.list_inventory", functools.cache(list_inventory))
    return tmp_path


def good_backup(folder: Path) -> str:
    """Put a whole and proven backup into the store; returns its id."""
    spec = DirectoryStoreSpec("local", folder / "store")
    catalogue = Catalogue(DirectoryStore(spec), "prod", me=ME, clock=lambda: datetime.now(UTC), is_alive=is_alive)
    encryption = EncryptionSpec(required=False)
    new = NewBackup([catalogue], BackupSpec((spec,), encryption), recipients=(), me=ME, clock=lambda: datetime.now(UTC))
    new.begin()
    new.add(PartKind.SNAPSHOT, "cp1", [_database()])
    manifest = new.finish(SOURCE)
    stored = check_stored(catalogue, manifest)
    at = datetime.now(UTC)
    catalogue.add_proof(proof_of(manifest, ProofKind.RESTORE, stored, me=ME, at=at, restored=RESTORED))
    return new.id


def _database() -> bytes:
    import hashlib

    data = bytes(512 * 8)
    return data + hashlib.sha256(data).digest()


def test_silence_is_failure_and_is_told(folder: Path, capsys: Page, hook: tuple[str, list[dict[str, Any]]]) -> None:
    assert main.run(["etcd", "list"]) == 0
    assert "no backups yet" in capsys.readouterr().out
    assert main.run(["etcd", "check", "--max-age", "6h", "--textfile", "out.prom"]) == 14
    out, err = capsys.readouterr()
    assert out == "CRITICAL: etcd backups of prod: local: there is no good backup\n"
    assert hook[1][0]["cluster"] == "prod"
    assert "no good backup" in hook[1][0]["text"]
    assert "token" not in out + err
    assert 'kops_py_etcd_backup_ok{cluster="prod",store="local"} 0' in (folder / "out.prom").read_text()


def test_a_good_backup_is_listed_kept_and_never_pruned(folder: Path, capsys: Page) -> None:
    backup_id = good_backup(folder)
    assert main.run(["etcd", "check", "--max-age", "6h"]) == 0
    assert capsys.readouterr().out.startswith("OK: etcd backups of prod: local: newest good 0 min old, 1 good")
    assert main.run(["etcd", "list", "-o", "json"]) == 0
    (line,) = json.loads(capsys.readouterr().out)["backups"]
    assert (line["id"], line["state"], line["revision"], line["keys"]) == (backup_id, "good", 120, 900)
    assert main.run(["etcd", "keep", backup_id, "--why", "a test"]) == 0
    assert main.run(["etcd", "list"]) == 0
    assert "keep" in capsys.readouterr().out
    assert main.run(["etcd", "unkeep", backup_id]) == 0
    assert main.run(["etcd", "prune", "--plan"]) == 0
    assert main.run(["etcd", "keep", "20260101T000000Z-00000000"]) == 14


def test_a_store_that_cannot_be_read_is_critical(folder: Path, capsys: Page) -> None:
    good_backup(folder)
    text = (folder / "cluster.yaml").read_text().replace("path: store", "path: gone/away")
    (folder / "cluster.yaml").write_text(text)
    code = main.run(["etcd", "check"])
    assert code == 14
    assert "CRITICAL" in capsys.readouterr().out


def test_without_the_section_it_says_what_to_do(folder: Path, capsys: Page) -> None:
    document = yaml.safe_load((folder / "cluster.yaml").read_text())
    del document["backup"]
    (folder / "cluster.yaml").write_text(yaml.safe_dump(document))
    for command in (["list"], ["check"], ["backup", "--plan"], ["prune", "--plan"], ["schedule", "install", "--plan"]):
        assert main.run(["etcd", *command]) == 2, command
        assert "docs/etcd-backup.md" in capsys.readouterr().err


def test_schedules_as_text(folder: Path, capsys: Page) -> None:
    assert main.run(["etcd", "schedule", "install", "--format", "cron", "--every", "12h"]) == 0
    line = capsys.readouterr().out
    assert line.split()[1:5] == ["*/12", "*", "*", "*"]
    assert f"-i {folder}" in line
    assert main.run(["etcd", "schedule", "install", "--format", "systemd"]) == 0
    units = capsys.readouterr().out
    assert f"-{folder}/store" in units
    assert "Persistent=true" in units
    cronjob = ["etcd", "schedule", "install", "--format", "cronjob", "--image", "r/kops:1"]
    assert main.run(cronjob) == 2
    assert "is gone with the pod" in capsys.readouterr().err
    document = yaml.safe_load((folder / "cluster.yaml").read_text())
    document["backup"]["stores"] = [{"name": "offsite", "s3": {"bucket": "etcd-backups"}}]
    (folder / "s3.yaml").write_text(yaml.safe_dump(document))
    assert main.run([*cronjob, "--cluster", "s3.yaml"]) == 0
    job = yaml.safe_load(capsys.readouterr().out)
    assert job["kind"] == "CronJob"
    assert main.run(["etcd", "schedule", "install", "--on", "n1", "--plan"]) == 2
    assert "--inventory-there" in capsys.readouterr().err


def test_a_webhook_is_a_url_or_a_reference(folder: Path, capsys: Page) -> None:
    good = (folder / "cluster.yaml").read_text()
    for webhook in ("not a url", "ftp://x/y", "https://a b"):
        (folder / "cluster.yaml").write_text(good.replace("env:HOOK", f"'{webhook}'"))
        assert main.run(["validate"]) == 2
        assert "cluster.yaml:" in capsys.readouterr().err


def test_a_backup_that_fails_at_its_first_look_is_seen_by_the_check(
    folder: Path, capsys: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    good_backup(folder)

    def observe(_: object) -> None:
        raise EtcdError("no member of etcd answers")

    monkeypatch.setattr("kops_py.app.etcd_backup.observe", observe)
    assert main.run(["etcd", "backup", "--plan"]) == 12
    assert main.run(["etcd", "check", "--max-age", "6h"]) == 0, "a plan is no attempt"
    assert main.run(["etcd", "backup", "--yes"]) == 12
    capsys.readouterr()
    assert main.run(["etcd", "check", "--max-age", "6h"]) == 14
    out = capsys.readouterr().out
    assert "is failed: stopped at looking at etcd: no member of etcd answers" in out
