"""Newer etcds, as other Debian releases have them: backed up over SSH, proven and restored by their own programs.

Damage is tried as well: what refuses it is another program there (etcdutl). See releases.py for where they come from.
"""

from __future__ import annotations

import os
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from kops_py.actions.etcd_proof import local_binaries
from kops_py.connect.ssh import SshFleet
from kops_py.model.etcd_restore import NewMember
from kops_py.observe.etcd import observe_etcd
from kops_py.tools import etcd_restore
from tests.integration.etcd import damage, releases
from tests.integration.etcd.damage_bed import Make, maker, refused_all, run, run_raw, tally, two_clusters
from tests.integration.etcd.members import Members
from tests.integration.ssh.sshd import Sshd

pytestmark = pytest.mark.soak


@pytest.fixture(scope="module", params=releases.SUITES)
def programs(request: pytest.FixtureRequest, sshd: Sshd) -> Path:
    try:
        return releases.programs(str(request.param))
    except releases.NoReleaseError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def clusters(programs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Members, Members]]:
    with two_clusters(tmp_path_factory.mktemp("clusters"), programs) as made:
        yield made


@pytest.fixture
def make(
    clusters: tuple[Members, Members], fleet: SshFleet, programs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Make:
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    return maker(clusters, fleet, tmp_path, monkeypatch)


def test_backup_proof_and_damage(
    make: Make, fleet: SshFleet, clusters: tuple[Members, Members], programs: Path, tmp_path: Path
) -> None:
    version = releases.version(programs)
    facts = observe_etcd(fleet, clusters[0].targets())
    assert [(m.healthy, m.version) for m in facts.members] == [(True, version)]
    binaries = local_binaries(version)
    assert binaries is not None
    assert Path(binaries.tool) == programs / "etcdutl"
    draw = random.Random(version)
    kept = make(encrypted=True, signed=True)
    entry = kept.catalogue.entry(kept.manifest.id)
    restored = entry.proofs[0].restored
    assert entry.is_good
    assert restored is not None
    assert (restored.etcd_version, kept.manifest.source.etcd_version) == (version, version)
    assert restored.key_count > 500
    for title, table in (
        (f"etcd {version}: damaged", run(kept, damage.NAIVE, 27, draw)),
        (f"etcd {version}: forged", run(kept, damage.FORGED, 9, draw)),
        (f"etcd {version}: given to a scratch etcd", run_raw(kept.plain, tmp_path, 24, draw, version)),
    ):
        tally(table, title)
        assert refused_all(table), table


def test_scratch_restore_lets_revisions_jump(
    make: Make, clusters: tuple[Members, Members], programs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The script of ``etcd restore`` makes a data directory of a backup with etcdutl, and an etcd starts from it."""
    monkeypatch.setattr(etcd_restore, "ROOT", str(tmp_path / "restore"))
    version = releases.version(programs)
    assert etcd_restore.bumps_revision(version)
    kept = make(encrypted=True, signed=True)
    revision = clusters[0].revision()
    clusters[0].stop()
    work = Path(etcd_restore.work_dir("r-0001"))
    work.mkdir(parents=True)
    (work / "snapshot.db").write_bytes(kept.plain)
    anew = Members(tmp_path / "anew", programs=programs)
    member = NewMember("n1", "m1", f"https://127.0.0.1:{anew.peers['m1']}", str(anew.folder / "m1"))
    script = etcd_restore.stage_script("r-0001", "", member, [member], "token", bump=10**9, has_hash=True)
    subprocess.run(["sh", "-euc", script], check=True, capture_output=True, timeout=120)
    (staged,) = anew.folder.glob("*/data/member")
    (anew.folder / "m1").mkdir(mode=0o700)
    staged.rename(anew.folder / "m1" / "member")
    anew.start()
    try:
        assert anew.revision() >= revision + 10**9
        assert anew.ctl("get", "/registry/namespaces/kube-system", "--print-value-only").stdout.startswith(b"k8s")
        old = anew.ctl("get", "/registry/namespaces/kube-system", f"--rev={revision}", check=False)
        assert b"compacted" in old.stderr, "what watched before the restore has to list anew"
        anew.put("/registry/after", b"x")
    finally:
        anew.stop()
        clusters[0].start()
