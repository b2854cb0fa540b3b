"""Where a restore gets its snapshot from: files and backups, and what is refused."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kops_py.app.etcd_restore_source import NEWEST, _fetch, holds_any, read_snapshot
from kops_py.connect.base import Cancel
from kops_py.model.errors import BackupError, ConfigError, DamagedError, StoreError
from tests.fakes.stores import Clock, MemoryStore, catalogue_of, make_backup, refuse, snapshot
from tests.unit.tools.test_bolt import snapshot as etcd_snapshot


def opened() -> Any:
    said: list[str] = []
    return SimpleNamespace(cancel=Cancel(), emit=lambda event: said.append(event.message), said=said)


def test_a_good_backup_becomes_a_private_file(tmp_path: Path) -> None:
    own, place, data = catalogue_of(MemoryStore(), Clock()), tmp_path / "x.db", snapshot(seed=1)
    make_backup([own], Clock(), data=snapshot(seed=2))
    manifest = make_backup([own], Clock(Clock()().replace(hour=13)), data=data)
    _fetch(opened(), [own], NEWEST, (), place)
    assert place.read_bytes() == data
    assert place.stat().st_mode & 0o777 == 0o600
    _fetch(opened(), [own], manifest.id, (), place)
    assert place.read_bytes() == data


def test_only_a_proven_backup_is_restored(tmp_path: Path) -> None:
    own = catalogue_of(MemoryStore(), Clock())
    manifest = make_backup([own], Clock(), good=False)
    with pytest.raises(BackupError, match="is not restored"):
        _fetch(opened(), [own], manifest.id, (), tmp_path / "x.db")
    for missing in ("20200101T000000Z-00000000", NEWEST):
        with pytest.raises(BackupError, match="there is no backup"):
            _fetch(opened(), [own], missing, (), tmp_path / "x.db")


def test_the_newest_is_that_of_all_stores_and_not_of_the_first(tmp_path: Path) -> None:
    stale, current = MemoryStore("local"), MemoryStore("s3")
    both = [catalogue_of(s, Clock()) for s in (stale, current)]
    make_backup(both, Clock(), data=snapshot(seed=1))
    later = Clock(Clock()().replace(day=27))
    manifest = make_backup(both[1:], later, data=snapshot(seed=2))
    make_backup(both, Clock(later().replace(hour=20)), data=snapshot(seed=3), good=False)
    catalogue, chosen = _fetch(opened(), both, NEWEST, (), tmp_path / "x.db")
    assert (catalogue.store.name, chosen.id) == ("s3", manifest.id)
    assert (tmp_path / "x.db").read_bytes() == snapshot(seed=2)


def test_a_store_that_cannot_be_read_is_told_where_the_newest_is_asked_for(tmp_path: Path) -> None:
    stores = [MemoryStore("local"), MemoryStore("s3")]
    own = [catalogue_of(s, Clock()) for s in stores]
    make_backup(own, Clock())
    stores[1].before = refuse("objects")
    session = opened()
    _fetch(session, own, NEWEST, (), tmp_path / "x.db")
    assert "s3 (memory) may have a newer backup, and cannot be read" in session.said[0]
    stores[0].before = refuse("objects")
    with pytest.raises(StoreError, match="the store refuses"):
        _fetch(opened(), own, NEWEST, (), tmp_path / "x.db")


def test_a_damaged_copy_is_passed_over_for_a_whole_one(tmp_path: Path) -> None:
    stores = [MemoryStore("a"), MemoryStore("b")]
    own = [catalogue_of(s, Clock()) for s in stores]
    manifest = make_backup(own, Clock())
    path = next(p for p in stores[0].content if p.endswith(manifest.snapshot.file))
    stores[0].content[path] = stores[0].content[path][:-1] + b"!"
    session = opened()
    _fetch(session, own, manifest.id, (), tmp_path / "x.db")
    assert (tmp_path / "x.db").read_bytes() == snapshot()
    assert any("b (memory)" in line for line in session.said)
    with pytest.raises(DamagedError):
        _fetch(opened(), own[:1], manifest.id, (), tmp_path / "x.db")


def test_a_snapshot_file_is_looked_at_before_anything_else(tmp_path: Path) -> None:
    place = tmp_path / "s.db"
    place.write_bytes(etcd_snapshot())
    found = read_snapshot(place)
    assert (found.label, found.revision, found.minor, found.size_bytes) == ("s.db", 1234, "3.5", len(etcd_snapshot()))
    place.write_bytes(etcd_snapshot()[:-1])
    with pytest.raises(BackupError, match="damaged or cut off"):
        read_snapshot(place)
    place.write_bytes(snapshot())  # whole, and no database
    with pytest.raises(BackupError, match="no snapshot of etcd"):
        read_snapshot(place)
    place.write_bytes(b"")
    with pytest.raises(BackupError, match="damaged or cut off"):
        read_snapshot(place)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_snapshot(tmp_path / "absent")


@pytest.mark.parametrize("at", [0, 5, (1 << 20) - 3, (1 << 20), (3 << 20) - 4])
def test_a_word_is_found_across_the_pieces_that_are_read(tmp_path: Path, at: int) -> None:
    place, data = tmp_path / "s.db", bytearray(3 << 20)
    place.write_bytes(data)
    assert not holds_any(place, (b"word", b"longer word"))
    data[at : at + 4] = b"word"
    place.write_bytes(data)
    assert holds_any(place, (b"word", b"longer word"))
