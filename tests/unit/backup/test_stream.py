"""From plain bytes to stored ones and back, and everything that must not pass for a backup."""

import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pyrage
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kops_py.backup.age import parse_recipient, split_identities
from kops_py.backup.stream import Label, Measured, TrailerHash, pack, unpack
from kops_py.connect.base import Cancel
from kops_py.model.errors import BackupError, CancelledError, ConfigError, DamagedError
from tests.fakes.stores import pieces, snapshot

IDENTITY = pyrage.x25519.Identity.generate()
KEY, SECRET = str(IDENTITY.to_public()), str(IDENTITY)
LABEL = Label("20261125T120000Z-00000000", "prod", "snapshot", "cp1")


def packed(data: bytes, *, label: Label = LABEL, key: str | None = KEY) -> tuple[bytes, Measured]:
    out: list[bytes] = []
    measured = pack(pieces(data), out.append, label, recipients=[key] if key else [], is_snapshot=True)
    return b"".join(out), measured


def opened(
    stored: bytes, *, label: Label = LABEL, key: str | None = KEY, most: int = 1 << 30
) -> tuple[bytes, Measured]:
    out: list[bytes] = []
    measured = unpack(
        pieces(stored),
        out.append,
        label,
        identities=[SECRET] if key else [],
        encrypted=key is not None,
        most_bytes=most,
        where="here",
    )
    return b"".join(out), measured


@pytest.mark.parametrize("key", [KEY, None], ids=["encrypted", "plain"])
@pytest.mark.parametrize("pages", [1, 8, 5000])
def test_there_and_back(key: str | None, pages: int) -> None:
    data = snapshot(pages)
    stored, measured = packed(data, key=key)
    plain, again = opened(stored, key=key)
    assert plain == data
    assert again == measured
    assert measured.trailer
    assert measured.stored_size_bytes == len(stored)


def test_the_tee_gets_the_plain_bytes() -> None:
    data, seen = snapshot(), bytearray()
    pack(pieces(data), len, LABEL, recipients=[KEY], is_snapshot=True, tee=seen.extend)
    assert seen == data


@given(st.lists(st.binary(max_size=100), max_size=20))
def test_the_trailer_is_found_however_the_pieces_fall(parts: list[bytes]) -> None:
    import hashlib

    whole = b"".join(parts)
    hashed = TrailerHash()
    for part in parts:
        hashed.update(part)
    assert hashed.hexdigest() == hashlib.sha256(whole).hexdigest()
    assert not hashed.is_whole


@given(st.integers(1, 40), st.integers(1, 1100))
def test_a_whole_snapshot_is_whole_in_any_pieces(pages: int, size: int) -> None:
    hashed = TrailerHash()
    for piece in pieces(snapshot(pages), size):
        hashed.update(piece)
    assert hashed.is_whole


@pytest.mark.parametrize(
    "data",
    [
        b"",
        snapshot()[:-1],
        snapshot()[:-32],
        snapshot() + b"\0",
        snapshot()[1:],
        b"\0" * 544,
        snapshot()[:600] + b"\x01" + snapshot()[601:],
        snapshot()[-32:],
    ],
)
def test_what_etcd_did_not_send_whole_is_refused(data: bytes) -> None:
    with pytest.raises((DamagedError, BackupError)):
        packed(data)


def test_what_goes_wrong_at_either_end_comes_through() -> None:
    def broken() -> Iterator[bytes]:
        yield b"x" * 1000
        raise KeyError("the source")

    def full(_: bytes) -> None:
        raise LookupError("the sink")

    with pytest.raises(KeyError, match="the source"):
        pack(broken(), len, LABEL, recipients=[KEY], is_snapshot=True)
    with pytest.raises(LookupError, match="the sink"):
        pack(pieces(snapshot()), full, LABEL, recipients=[KEY], is_snapshot=True)
    stored, _ = packed(snapshot())
    with pytest.raises(LookupError, match="the sink"):
        unpack(pieces(stored), full, LABEL, identities=[SECRET], encrypted=True, most_bytes=1 << 20, where="x")


def test_a_cancelled_run_ends() -> None:
    cancel = Cancel()
    cancel.set("test")
    with pytest.raises(CancelledError):
        pack(pieces(snapshot()), len, LABEL, recipients=[KEY], is_snapshot=True, cancel=cancel)


@pytest.mark.parametrize("key", [KEY, None], ids=["encrypted", "plain"])
def test_a_swapped_file_is_found_by_its_label(key: str | None) -> None:
    for other in (
        Label("20261125T120000Z-00000001", "prod", "snapshot", "cp1"),
        Label(LABEL.id, "other", "snapshot", "cp1"),
        Label(LABEL.id, "prod", "bundle", "cp1"),
        Label(LABEL.id, "prod", "snapshot", "cp2"),
    ):
        stored, _ = packed(snapshot(), label=other, key=key)
        with pytest.raises(DamagedError, match="not what its name says"):
            opened(stored, key=key)


def test_a_bomb_ends_at_the_size_of_the_manifest() -> None:
    stored, measured = packed(snapshot(200_000))
    assert measured.stored_size_bytes < measured.plain_size_bytes / 100
    with pytest.raises(DamagedError, match="more than its manifest says"):
        opened(stored, most=1000)


@pytest.mark.parametrize("key", [KEY, None], ids=["encrypted", "plain"])
def test_a_thousand_damages_are_all_found(key: str | None) -> None:
    """Bit flips, cuts, blocks doubled, swapped and zeroed: nothing comes back as the same backup."""
    draw = random.Random(7)
    data = snapshot(300)
    stored, measured = packed(data, key=key)
    for number in range(500):
        broken = bytearray(stored)
        at = draw.randrange(len(broken))
        match number % 5:
            case 0:
                broken[at] ^= 1 << draw.randrange(8)
            case 1:
                del broken[at:]
            case 2:
                del broken[at : at + draw.randrange(1, 50)]
            case 3:
                broken[at:at] = broken[max(0, at - 20) : at] or b"x"
            case 4:
                broken += draw.randbytes(draw.randrange(1, 50))
        if broken == stored:
            continue
        try:
            plain, found = opened(bytes(broken), key=key)
        except BackupError:
            continue
        # What opens all the same differs in the stored hash, which is compared before anything is used.
        assert found != measured
        assert found.stored_sha256 != measured.stored_sha256
        assert key is None or plain != data or broken != stored


@settings(max_examples=30, deadline=None)
@given(st.binary(max_size=300))
def test_noise_is_no_backup(data: bytes) -> None:
    for key in (KEY, None):
        with pytest.raises(BackupError):
            opened(data, key=key)


def test_keys() -> None:
    stored, _ = packed(snapshot())
    stranger = str(pyrage.x25519.Identity.generate())
    with pytest.raises(BackupError, match="none of the private keys given fits") as caught:
        unpack(pieces(stored), len, LABEL, identities=[stranger], encrypted=True, most_bytes=9999, where="x")
    assert not isinstance(caught.value, DamagedError)
    with pytest.raises(BackupError, match="there is no private key"):
        unpack(pieces(stored), len, LABEL, identities=[], encrypted=True, most_bytes=9999, where="x")
    assert split_identities(f"# created: today\n# public key: {KEY}\n{SECRET}\n") == (SECRET,)
    for text in (SECRET[:-1], f"{SECRET}\nhunter2\n"):
        with pytest.raises(ConfigError) as refused:
            split_identities(text)
        assert SECRET[20:40] not in f"{refused.value} {refused.value.hint}"
        assert "hunter2" not in f"{refused.value} {refused.value.hint}"
    with pytest.raises(ConfigError, match="private key") as shown:
        parse_recipient(SECRET)
    assert SECRET[20:40] not in str(shown.value)


@pytest.mark.skipif(not (shutil.which("age") and shutil.which("zstd")), reason="needs Debian's age and zstd")
def test_the_tools_of_the_distribution_read_it(tmp_path: Path) -> None:
    """In a disaster there may be no kops-py: docs/backup-stores.md shows these commands."""
    data = snapshot(3000)
    stored, _ = packed(data)
    (tmp_path / "snapshot.db.zst.age").write_bytes(stored)
    (tmp_path / "key.txt").write_text(f"{SECRET}\n")
    script = "age -d -i key.txt snapshot.db.zst.age | zstd -dq > snapshot.db"
    subprocess.run(["bash", "-euo", "pipefail", "-c", script], cwd=tmp_path, check=True, timeout=60)
    assert (tmp_path / "snapshot.db").read_bytes() == data


MEMORY = """
import pathlib, random, sys
import pyrage
from kops_py.backup.stream import Label, pack, unpack
identity = pyrage.x25519.Identity.generate()
label, out = Label("i", "c", "bundle", "h"), open(sys.argv[1], "w+b")
source = (random.randbytes(1 << 20) for _ in range(int(sys.argv[2])))
made = pack(source, out.write, label, recipients=[str(identity.to_public())], is_snapshot=False)
out.seek(0)
back = iter(lambda: out.read(1 << 20), b"")
found = unpack(back, len, label, identities=[str(identity)], encrypted=True, most_bytes=1 << 40, where="x")
assert found == made and made.plain_size_bytes == int(sys.argv[2]) << 20
print(pathlib.Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
"""


def test_memory_is_the_same_at_any_size(tmp_path: Path) -> None:
    peaks_kib = []
    for size_mb in (10, 100):
        command = [sys.executable, "-c", MEMORY, str(tmp_path / "x"), str(size_mb)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=100)
        assert done.returncode == 0, done.stderr
        peaks_kib.append(int(done.stdout))
    assert peaks_kib[1] < 100 * 1024
    assert peaks_kib[1] - peaks_kib[0] < 10 * 1024, peaks_kib
