"""The pipe, several stores at once, the folder store, and the bundle."""

import io
import os
import stat
import subprocess
import tarfile
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

from kops_py.backup.bundle import (
    LISTING,
    Repacked,
    extract,
    read_bundle,
    repack,
)
from kops_py.backup.directory import DirectoryStore
from kops_py.backup.fanout import FanOut
from kops_py.backup.pipe import BrokenPipe, Pipe, pumped
from kops_py.backup.store import open_store
from kops_py.connect.base import Cancel
from kops_py.model.backup import DirectoryStoreSpec, S3StoreSpec
from kops_py.model.errors import (
    BackupError,
    CancelledError,
    ConfigError,
    DamagedError,
    DeadlineError,
    ObjectExistsError,
    ObjectMissingError,
    StoreError,
)
from kops_py.model.secret import SecretRef
from tests.fakes.stores import MemoryStore, pieces, refuse

ID = "prod/20261125T120000Z-00000000"


# --- the pipe ---


def test_a_pipe_passes_everything_on_in_order() -> None:
    pipe = Pipe("cp1", timeout_s=10)
    data = os.urandom(5_000_000)

    def produce(write: Callable[[bytes], None]) -> None:
        for piece in pieces(data, 70_001):
            write(piece)

    thread = pumped(produce, pipe)
    assert b"".join(pipe) == data
    thread.join(5)


def test_what_the_producer_raises_arrives() -> None:
    def produce(write: Callable[[bytes], None]) -> None:
        write(b"x" * 3_000_000)
        raise KeyError("gone")

    pipe = Pipe("cp1", timeout_s=10)
    pumped(produce, pipe)
    with pytest.raises(KeyError, match="gone"):
        list(pipe)


def test_a_producer_ends_when_nobody_reads() -> None:
    raised = threading.Event()

    def produce(write: Callable[[bytes], None]) -> None:
        try:
            for _ in range(100):
                write(b"x" * 1_000_000)
        except BrokenPipe:
            raised.set()
            raise

    pipe = Pipe("cp1", timeout_s=10)
    thread = pumped(produce, pipe)
    next(iter(pipe))
    pipe.abandon()
    assert raised.wait(5)
    thread.join(5)
    assert not thread.is_alive()


def test_a_pipe_waits_no_longer_than_it_may() -> None:
    with pytest.raises(DeadlineError, match="nothing moved for"):
        list(Pipe("cp1", timeout_s=0.3))
    cancel = Cancel()
    cancel.set("test")
    with pytest.raises(CancelledError):
        list(Pipe("cp1", timeout_s=9, cancel=cancel))


# --- several stores ---


class StuckStore(MemoryStore):
    """Takes the first piece and then nothing, until it is let go."""

    def __init__(self) -> None:
        super().__init__("stuck")
        self.go = threading.Event()
        self.ended = threading.Event()

    def put(self, path: str, chunks: Iterable[bytes]) -> int:
        try:
            next(iter(chunks))
            self.go.wait(30)
            return super().put(path, chunks)
        finally:
            self.ended.set()


class PanickingStore(MemoryStore):
    """Ends as a library does that panics, or that believes to be done."""

    def __init__(self, *, early: bool) -> None:
        super().__init__("panics")
        self.early = early

    def put(self, path: str, chunks: Iterable[bytes]) -> int:
        if self.early:
            return 0
        raise BaseException("panic")  # noqa: TRY002  that is what pyo3's PanicException is


def test_one_stream_in_three_stores() -> None:
    stores = [MemoryStore(name) for name in "abc"]
    fan = FanOut(stores, f"{ID}/x", stall_s=5)
    data = os.urandom(3_500_000)
    for piece in pieces(data, 65_552):
        fan.write(piece)
    assert len(fan.commit()) == 3
    assert all(s.content == {f"{ID}/x": data} for s in stores)


def test_a_stuck_store_is_given_up_and_leaves_nothing() -> None:
    good, stuck = MemoryStore("good"), StuckStore()
    fan = FanOut([stuck, good], f"{ID}/x", stall_s=0.5)
    for _ in range(12):
        fan.write(b"x" * 1_000_000)
    assert [s.name for s in fan.commit()] == ["good"]
    assert "took nothing for 0.5 s" in str(fan.failed["stuck"])
    stuck.go.set()
    assert stuck.ended.wait(5)
    assert stuck.content == {}
    assert len(good.content[f"{ID}/x"]) == 12_000_000


@pytest.mark.parametrize("early", [True, False])
def test_a_store_that_ends_otherwise_has_not_stored(early: bool) -> None:
    fan = FanOut([PanickingStore(early=early)], f"{ID}/x", stall_s=2)

    def store_it() -> None:
        for _ in range(20):
            fan.write(b"x" * 1_000_000)
        fan.commit()

    with pytest.raises(StoreError, match="nobody foresaw"):
        store_it()


def test_when_all_fail_it_says_all_of_it() -> None:
    stores = [MemoryStore("a"), MemoryStore("b")]
    for store in stores:
        store.before = refuse("put")
    fan = FanOut(stores, f"{ID}/x", stall_s=2)
    with pytest.raises(StoreError, match="every store failed") as caught:
        fan.commit()
    assert caught.value.where == "a, b"


def test_what_is_aborted_is_not_stored() -> None:
    store = MemoryStore()
    fan = FanOut([store], f"{ID}/x", stall_s=2)
    fan.write(b"x" * 5_000_000)
    fan.abort()
    assert store.content == {}


# --- a folder ---


@pytest.fixture
def folder(tmp_path: Path) -> DirectoryStore:
    store = DirectoryStore(DirectoryStoreSpec("nas", tmp_path / "store"))
    store.prepare()
    return store


def files(tmp_path: Path) -> list[str]:
    return sorted(str(p.relative_to(tmp_path / "store")) for p in (tmp_path / "store").rglob("*"))


def test_a_folder_store_whatever_the_umask(folder: DirectoryStore, tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        assert folder.put(f"{ID}/part", iter([b"abc", b"", b"def"])) == 6
    finally:
        os.umask(old)
    for path in (tmp_path / "store").rglob("*"):
        wanted = 0o700 if path.is_dir() else 0o600
        assert stat.S_IMODE(path.stat().st_mode) == wanted, path
    assert stat.S_IMODE((tmp_path / "store").stat().st_mode) == 0o700
    assert b"".join(folder.chunks(f"{ID}/part")) == b"abcdef"
    (found,) = folder.objects("prod")
    assert (found.path, found.size_bytes) == (f"{ID}/part", 6)
    folder.delete(f"{ID}/part")
    folder.delete(f"{ID}/part")
    assert folder.objects("prod") == []
    assert files(tmp_path) == ["prod"]


def test_nothing_is_replaced(folder: DirectoryStore, tmp_path: Path) -> None:
    folder.put_document(f"{ID}/a", b"one")
    folder.put_document(f"{ID}/a", b"one")
    with pytest.raises(ObjectExistsError):
        folder.put_document(f"{ID}/a", b"two")
    with pytest.raises(ObjectExistsError):
        folder.put(f"{ID}/a", [b"two"])
    assert folder.get_document(f"{ID}/a") == b"one"
    assert files(tmp_path) == ["prod", ID, f"{ID}/a"]


@pytest.mark.parametrize("error", [1, 95])
def test_file_systems_without_hard_links(
    folder: DirectoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    def link(*_: object, **__: object) -> None:
        raise OSError(error, "no links")

    monkeypatch.setattr(os, "link", link)
    folder.put(f"{ID}/a", [b"one"])
    with pytest.raises(ObjectExistsError):
        folder.put(f"{ID}/a", [b"two"])
    assert folder.get_document(f"{ID}/a") == b"one"
    assert files(tmp_path) == ["prod", ID, f"{ID}/a"]


def test_a_link_whose_answer_was_lost_counts(folder: DirectoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.link

    def link(source: Path, target: Path, **options: bool) -> None:
        real(source, target, **options)
        raise FileExistsError(17, "the server had done it already")

    monkeypatch.setattr(os, "link", link)
    assert folder.put(f"{ID}/a", [b"one"]) == 3


def test_a_source_that_breaks_leaves_nothing(folder: DirectoryStore, tmp_path: Path) -> None:
    def broken() -> Iterator[bytes]:
        yield b"x"
        raise KeyError("source")

    with pytest.raises(KeyError):
        folder.put(f"{ID}/a", broken())
    assert files(tmp_path) == ["prod", ID]


def test_what_a_killed_writer_left_is_no_object_and_goes(folder: DirectoryStore, tmp_path: Path) -> None:
    folder.put(f"{ID}/a", [b"one"])
    left = tmp_path / "store" / ID / ".snapshot.db.zst.age.0011.partial"
    left.write_bytes(b"half")
    assert [o.path for o in folder.objects("prod")] == [f"{ID}/a"]
    assert folder.clean("prod", older_than_s=3600) == ()
    os.utime(left, (1, 1))
    assert folder.clean("prod", older_than_s=3600) == (f"{ID}/{left.name}",)
    assert not left.exists()


def test_what_a_writer_left_goes_at_once_when_it_is_known_to_be_gone(folder: DirectoryStore, tmp_path: Path) -> None:
    (tmp_path / "store" / ID).mkdir(parents=True)
    names = [".snapshot.db.zst.age.0011aabb.partial", ".bundle-n.1.tar.zst.0011aabb.partial", "..partial"]
    for name in names:
        (tmp_path / "store" / ID / name).write_bytes(b"half")
    asked: list[str] = []

    def is_over(path: str) -> bool:
        asked.append(path)
        return path == f"{ID}/snapshot.db.zst.age"

    assert folder.clean("prod", older_than_s=3600, is_over=is_over) == (f"{ID}/{names[0]}",)
    assert sorted(asked) == [f"{ID}/", f"{ID}/bundle-n.1.tar.zst", f"{ID}/snapshot.db.zst.age"]
    assert sorted(p.name for p in (tmp_path / "store" / ID).iterdir()) == sorted(names[1:])


def test_the_folder_is_missing_or_not_ours(tmp_path: Path) -> None:
    store = DirectoryStore(DirectoryStoreSpec("nas", tmp_path / "not-mounted" / "store"))
    with pytest.raises(StoreError, match="cannot be made") as caught:
        store.prepare()
    assert "mounted" in caught.value.hint
    with pytest.raises(StoreError, match="not there"):
        store.objects("prod")
    with pytest.raises(ObjectMissingError):
        store.get_document("prod/x")
    for path in ("../x", "/etc/passwd", "a//b", ".hidden", "a/../b", "a\nb"):
        with pytest.raises(ValueError, match="not a path"):
            store.delete(path)


def test_a_link_in_a_store_is_not_followed(folder: DirectoryStore, tmp_path: Path) -> None:
    folder.put(f"{ID}/a", [b"one"])
    (tmp_path / "store" / ID / "b").symlink_to("/etc/hostname")
    with pytest.raises(StoreError, match="reading failed"):
        folder.get_document(f"{ID}/b")
    assert {o.path.rpartition("/")[2]: o.size_bytes for o in folder.objects("prod")} == {"a": 3, "b": -1}


def test_credentials_that_are_gone_are_the_stores_failure() -> None:
    spec = S3StoreSpec("s3", "bucket", access_key=SecretRef("env", "GONE"), secret_key=SecretRef("env", "GONE"))

    def resolve(reference: SecretRef) -> str:
        raise ConfigError("environment variable GONE is not set", where=str(reference), hint="export GONE")

    store = open_store(spec, resolve)  # opening asks nobody: other stores go on
    assert (store.name, store.where) == ("s3", "s3 (s3://bucket)")
    for use in (store.prepare, lambda: store.objects("prod"), lambda: store.put_document("prod/x", b""),
                lambda: store.clean("prod", older_than_s=1)):  # fmt: skip
        with pytest.raises(StoreError, match="credentials of the store cannot be had") as caught:
            use()
        assert "env:GONE" in caught.value.why
        assert caught.value.hint == "export GONE"


# --- the bundle ---


def host_tar(content: dict[str, bytes], links: dict[str, str] | None = None, names: Iterable[str] = ()) -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        for name, body in content.items():
            info = tarfile.TarInfo(name)
            info.size, info.mode, info.uid = len(body), 0o640, 7
            archive.addfile(info, io.BytesIO(body))
        for name, target in (links or {}).items():
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, target
            archive.addfile(info)
    return data.getvalue()


PKI = {
    "/etc/kubernetes/pki/sa.key": b"a key",
    "/etc/kubernetes/pki/ca.crt": b"a certificate" * 1000,
    "/etc/kubernetes/admin.conf": b"",
}


def repacked(data: bytes) -> tuple[bytes, Repacked]:
    seen = Repacked("cp1")
    return b"".join(repack(pieces(data), seen)), seen


def test_a_bundle_there_and_back(tmp_path: Path) -> None:
    bundle, seen = repacked(host_tar(PKI, {"/etc/kubernetes/link": "/etc/shadow"}))
    assert {f.path: f.mode for f in seen.files} == dict.fromkeys(PKI, 0o640)
    assert seen.skipped == ["/etc/kubernetes/link: not a regular file"]
    assert "/etc/kubernetes/pki/ca.key" in seen.missing(stacked_etcd=False)
    assert "/etc/kubernetes/pki/sa.key" not in seen.missing(stacked_etcd=True)
    assert {f.path: data for f, data in read_bundle(pieces(bundle), where="x")} == PKI
    extract(pieces(bundle), tmp_path / "out", where="x")
    for name, body in PKI.items():
        path = tmp_path / "out" / name.lstrip("/")
        assert path.read_bytes() == body
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    (tmp_path / "by-hand").mkdir()
    subprocess.run(["tar", "-xf", "-"], input=bundle, cwd=tmp_path / "by-hand", check=True, timeout=30)
    assert (tmp_path / "by-hand" / LISTING).is_file()
    assert (tmp_path / "by-hand/etc/kubernetes/pki/sa.key").read_bytes() == b"a key"


def test_real_tar_of_real_files_under_every_name_they_have(tmp_path: Path) -> None:
    """tar sends a file it meets again, also through a symbolic link, as a hard link to the first."""
    top = tmp_path / "etc"
    (top / "pki").mkdir(parents=True)
    (top / "pki" / "ca.key").write_text("key")
    (top / "linked").symlink_to(top / "pki" / "ca.key")
    os.link(top / "pki" / "ca.key", top / "hard")
    os.mkfifo(top / "fifo")
    command = ["tar", "-C", "/", "--create", "--file=-", "--dereference", "--", str(top).lstrip("/")]
    done = subprocess.run(command, check=True, capture_output=True, timeout=30)
    bundle, seen = repacked(done.stdout)
    found = {file.path: data for file, data in read_bundle(pieces(bundle), where="x")}
    assert found == {f"{top}/{name}": b"key" for name in ("linked", "hard", "pki/ca.key")}
    assert seen.skipped == [f"{top}/fifo: not a regular file"]


def test_a_link_to_what_did_not_come() -> None:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        info = tarfile.TarInfo("etc/a")
        info.type, info.linkname = tarfile.LNKTYPE, "etc/shadow"
        archive.addfile(info)
    with pytest.raises(BackupError, match="link to etc/shadow"):
        repacked(data.getvalue())


@pytest.mark.parametrize("name", ["../etc/passwd", "/etc/../../x", "a\nb"])
def test_names_that_lead_elsewhere(name: str, tmp_path: Path) -> None:
    with pytest.raises(BackupError, match="not allowed"):
        repacked(host_tar({name: b"x"}))
    with pytest.raises(DamagedError):
        extract(pieces(host_tar({name: b"x"})), tmp_path / "out", where="x")


def test_streams_that_are_no_bundle_of_a_host() -> None:
    whole = host_tar(PKI)
    for data in (b"", b"x" * 2000, whole[:700], whole[:14000]):
        with pytest.raises(BackupError):
            repacked(data)
    with pytest.raises(BackupError, match="larger than they can be"):
        repacked(host_tar({"/etc/kubernetes/big": bytes(17 * 1024 * 1024)}))


def test_a_changed_bundle_is_refused() -> None:
    bundle, _ = repacked(host_tar(PKI))
    for at in (bundle.index(b"a key"), bundle.index(b"a certificate"), bundle.index(b'"host"'), 100):
        broken = bytearray(bundle)
        broken[at] ^= 1
        with pytest.raises(DamagedError):
            list(read_bundle(pieces(bytes(broken)), where="x"))
    with pytest.raises(DamagedError):
        list(read_bundle(pieces(host_tar(PKI)), where="x"))
