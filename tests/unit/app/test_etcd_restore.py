"""Where a restore gets its snapshot from: files, and what is refused."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from kops_py.app.etcd_restore_source import holds_any, read_snapshot
from kops_py.model.errors import BackupError, ConfigError
from tests.unit.tools.test_bolt import snapshot as etcd_snapshot


def test_a_snapshot_file_is_looked_at_before_anything_else(tmp_path: Path) -> None:
    place = tmp_path / "s.db"
    place.write_bytes(etcd_snapshot())
    found = read_snapshot(place)
    assert (found.label, found.revision, found.minor, found.size_bytes) == ("s.db", 1234, "3.5", len(etcd_snapshot()))
    place.write_bytes(etcd_snapshot()[:-1])
    with pytest.raises(BackupError, match="damaged or cut off"):
        read_snapshot(place)
    body = bytes(512)
    place.write_bytes(body + hashlib.sha256(body).digest())  # whole, and no database
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
