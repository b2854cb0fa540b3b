"""docs/backup-stores.md: the commands for a disaster, run as they stand there on a backup of ours."""

import hashlib
import io
import json
import re
import shutil
import subprocess
import tarfile
from dataclasses import replace
from pathlib import Path

import pyrage
import pytest

from kops_py.backup.bundle import LISTING, Repacked, repack
from kops_py.backup.directory import DirectoryStore
from kops_py.backup.manifest import PartKind
from kops_py.backup.new import NewBackup
from kops_py.model.backup import DirectoryStoreSpec, SigningSpec
from tests.fakes.stores import ME, SOURCE, Clock, catalogue_of, pieces, snapshot, spec_of
from tests.unit.backup.test_signing import key_pair

PAGE = Path(__file__).resolve().parents[3] / "docs" / "backup-stores.md"


def files_of_a_host() -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        info = tarfile.TarInfo("/etc/kubernetes/pki/sa.key")
        info.size = 5
        archive.addfile(info, io.BytesIO(b"a key"))
    return data.getvalue()


@pytest.mark.skipif(not (shutil.which("age") and shutil.which("zstd")), reason="needs Debian's age and zstd")
def test_the_commands_of_the_page_open_a_backup(tmp_path: Path) -> None:
    identity = pyrage.x25519.Identity.generate()
    key, clock, data = str(identity.to_public()), Clock(), snapshot(5000)
    catalogue = catalogue_of(DirectoryStore(DirectoryStoreSpec("nas", tmp_path / "store")), clock)
    private, public = key_pair()
    spec = replace(spec_of(key, stall_s=20), signing=SigningSpec((public,)))
    new = NewBackup([catalogue], spec, recipients=[key], me=ME, clock=clock, signing_key=private)
    new.begin()
    new.add(PartKind.SNAPSHOT, "cp1", pieces(data, 1 << 16))
    seen = Repacked("cp1")
    new.add(PartKind.BUNDLE, "cp1", repack(pieces(files_of_a_host()), seen))
    new.finish(SOURCE)
    folder = tmp_path / "store" / "prod" / new.id
    (folder / "key.txt").write_text(f"# created: today\n{identity}\n")

    (folder / "signers").write_text(f"kops-py {public}\n")
    blocks = re.findall(r"```sh\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len(blocks) == 4
    outputs = []
    for block in blocks:
        command = ["bash", "-euo", "pipefail", "-c", block]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        outputs.append(done.stdout)
    assert (folder / "snapshot.db").read_bytes() == data
    part = next(p for p in json.loads((folder / "manifest.json").read_text())["parts"] if p["kind"] == "snapshot")
    assert f"{part['stored_sha256']}  snapshot.db.zst.age" in outputs[0]
    assert f"{part['plain_sha256']}  snapshot.db" in outputs[0]
    assert part["plain_sha256"] == hashlib.sha256(data).hexdigest()
    assert len(set(outputs[1].split())) == 1
    assert outputs[2].startswith('Good "kops-py-backup" signature for kops-py')
    assert (folder / "files/etc/kubernetes/pki/sa.key").read_bytes() == b"a key"
    assert (folder / "files" / LISTING).is_file()
