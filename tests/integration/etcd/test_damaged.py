"""A thousand damaged backups of a real etcd: what refuses each, and that none is named good or read back.

Two ways are tried with each: ``etcd verify`` (read back, restored into a real scratch etcd, recorded) and the reading
back of ``etcd restore``. Damaged snapshot files go straight to etcd's own restore as well, past everything of ours.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from kops_py.connect.ssh import SshFleet
from tests.integration.etcd import damage
from tests.integration.etcd.damage_bed import Make, maker, refused_all, run, run_raw, tally, two_clusters
from tests.integration.etcd.members import Members
from tests.integration.ssh.sshd import Sshd


@pytest.fixture(scope="module")
def clusters(sshd: Sshd, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Members, Members]]:
    with two_clusters(tmp_path_factory.mktemp("clusters")) as made:
        yield made


@pytest.fixture
def make(clusters: tuple[Members, Members], fleet: SshFleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    return maker(clusters, fleet, tmp_path, monkeypatch)


def test_twenty_damaged_backups(make: Make, tmp_path: Path) -> None:
    draw = random.Random(1)
    kept = make(encrypted=True, signed=True)
    for title, table in (
        ("damaged", run(kept, damage.NAIVE, 9, draw)),
        ("forged", run(kept, damage.FORGED, 6, draw)),
        ("snapshot files given to etcd itself", run_raw(kept.plain, tmp_path, 6, draw)),
    ):
        tally(table, title)
        assert refused_all(table), table


@pytest.mark.soak
@pytest.mark.timeout(5400)
def test_a_thousand_damaged_backups(make: Make, tmp_path: Path) -> None:
    total = 0
    for encrypted in (True, False):
        for signed in (True, False):
            draw = random.Random(f"{encrypted}{signed}")
            kept = make(encrypted=encrypted, signed=signed)
            title = f"{'encrypted' if encrypted else 'plain'}, {'signed' if signed else 'not signed'}"
            table = run(kept, damage.NAIVE, 135, draw)
            tally(table, f"{title}: damaged")
            assert refused_all(table), table
            total += table.total()
            forged = damage.FORGED if encrypted else (*damage.FORGED, *damage.FORGED_PLAIN)
            table = run(kept, forged, 105 if signed else 35, draw)
            tally(table, f"{title}: forged by somebody who may write to the store and makes all of it fit")
            total += table.total()
            if signed:
                assert refused_all(table), table
    table = run_raw(kept.plain, tmp_path, 200, random.Random(7))
    tally(table, "snapshot files given to etcd's own restore, past all of ours")
    assert refused_all(table), table
    print(f"\n{total + table.total()} damaged backups and snapshots")
    assert total + table.total() >= 1000
