"""The S3 store against a real endpoint process, also when it refuses, is slow, or is cut."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import obstore
import pyrage
import pytest

from kops_py.backup.catalogue import State
from kops_py.backup.fanout import FanOut
from kops_py.backup.manifest import PartKind, ProofKind
from kops_py.backup.new import NewBackup
from kops_py.backup.proving import check_stored, proof_of, prove_checksum, read_part
from kops_py.backup.s3 import Credentials, S3Store
from kops_py.backup.s3_uploads import Uploads
from kops_py.model.backup import S3StoreSpec
from kops_py.model.errors import DamagedError, ExitCode, ObjectExistsError, ObjectMissingError, StoreError
from tests.fakes.stores import ME, RESTORED, SOURCE, Clock, catalogue_of, pieces, snapshot, spec_of
from tests.fakes.tcp_proxy import TcpProxy
from tests.integration.backup.denying import Denying
from tests.integration.backup.s3_server import ACCESS_KEY, SECRET_KEY, S3Server, keys_in, running_server

ID = "prod/20261125T120000Z-00000000"
KEYS = Credentials(ACCESS_KEY, SECRET_KEY)
BUCKETS = iter(f"bucket-{n}" for n in range(1000))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with running_server(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture
def spec(server: S3Server) -> S3StoreSpec:
    name = next(BUCKETS)
    server.bucket(name)
    return S3StoreSpec("offsite", name, prefix="a/b", endpoint=server.endpoint)


@pytest.fixture
def store(spec: S3StoreSpec) -> S3Store:
    return S3Store(spec, KEYS, timeout_s=10)


def behind(spec: S3StoreSpec, proxy: TcpProxy) -> S3StoreSpec:
    return S3StoreSpec(spec.name, spec.bucket, spec.prefix, f"http://127.0.0.1:{proxy.port}")


def blocks(count: int) -> Iterator[bytes]:
    draw = random.Random(count)
    for _ in range(count):
        yield draw.randbytes(1 << 20)


def unfinished(spec: S3StoreSpec) -> list[str]:
    return [key for key, _, _ in Uploads(spec, KEYS, 10)._list("")]


def test_objects_of_every_size(store: S3Store, spec: S3StoreSpec, server: S3Server) -> None:
    store.prepare()
    for number, data in enumerate((b"x", os.urandom(1 << 20), os.urandom((8 << 20) + 1), os.urandom(20 << 20))):
        path = f"{ID}/part-{number}"
        assert store.put(path, pieces(data, 1 << 20)) == len(data)
        assert hashlib.sha256(b"".join(store.chunks(path))).digest() == hashlib.sha256(data).digest()
        with pytest.raises(ObjectExistsError):
            store.put(path, [b"other"])
    assert len(store.objects("prod")) == 4
    assert keys_in(server.bucket(spec.bucket))[0] == f"a/b/{ID}/part-0"
    assert store.objects("pro") == []
    for number in range(4):
        store.delete(f"{ID}/part-{number}")
        store.delete(f"{ID}/part-{number}")
    assert store.objects("prod") == []
    assert unfinished(spec) == []
    with pytest.raises(ObjectMissingError):
        store.get_document(f"{ID}/part-0")
    with pytest.raises(ObjectMissingError):
        list(store.chunks(f"{ID}/part-0"))


def test_documents_are_created_only(store: S3Store) -> None:
    store.put_document(f"{ID}/begun.json", b"one")
    store.put_document(f"{ID}/begun.json", b"one")
    with pytest.raises(ObjectExistsError):
        store.put_document(f"{ID}/begun.json", b"two")
    assert store.get_document(f"{ID}/begun.json") == b"one"


def test_a_server_that_replaces_is_refused(store: S3Store, monkeypatch: pytest.MonkeyPatch) -> None:
    real = obstore.put

    def put(*arguments: object, **options: object) -> object:
        options.pop("mode", None)
        return real(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(obstore, "put", put)
    with pytest.raises(StoreError, match="replaces objects") as caught:
        store.prepare()
    assert "If-None-Match" in caught.value.hint
    assert store.objects("prod") == []


def test_a_source_that_breaks_leaves_neither_object_nor_upload(store: S3Store, spec: S3StoreSpec) -> None:
    def broken() -> Iterator[bytes]:
        yield from blocks(20)
        raise KeyError("the member went away")

    with pytest.raises(KeyError, match="the member went away"):
        store.put(f"{ID}/part", broken())
    assert store.objects("prod") == []
    assert unfinished(spec) == []


def test_the_whole_way_of_a_backup(store: S3Store, tmp_path: Path) -> None:
    identity = pyrage.x25519.Identity.generate()
    key, clock = str(identity.to_public()), Clock()
    catalogue = catalogue_of(store, clock)
    new = NewBackup([catalogue], spec_of(key, stall_s=20), recipients=[key], me=ME, clock=clock)
    new.begin()
    data = snapshot(40_000)
    new.add(PartKind.SNAPSHOT, "cp1", pieces(data, 1 << 20))
    new.add(PartKind.BUNDLE, "cp1", [b"a tar"])
    manifest = new.finish(SOURCE)
    prove_checksum(catalogue, manifest, me=ME, clock=clock)
    assert catalogue.entries()[0].state is State.STORED
    stored = check_stored(catalogue, manifest)
    catalogue.add_proof(proof_of(manifest, ProofKind.RESTORE, stored, me=ME, at=clock(), restored=RESTORED))
    entry = catalogue.entry(new.id)
    assert entry.is_good
    plain = bytearray()
    read_part(catalogue, manifest, manifest.snapshot, plain.extend, identities=[str(identity)])
    assert plain == data
    # The bundle under the snapshot's name.
    path = catalogue.path(new.id, manifest.snapshot.file)
    bundle = list(store.chunks(catalogue.path(new.id, manifest.bundles[0].file)))
    store.delete(path)
    store.put(path, bundle)
    with pytest.raises(DamagedError):
        read_part(catalogue, manifest, manifest.snapshot, plain.extend, identities=[str(identity)])
    assert catalogue.entry(new.id).state is State.DAMAGED
    catalogue.delete(new.id, "test")
    assert store.objects("prod") == []


def test_refused(spec: S3StoreSpec) -> None:
    with TcpProxy("127.0.0.1", 1) as proxy:
        gone = behind(spec, proxy)
    started = time.monotonic()
    with pytest.raises(StoreError) as caught:
        S3Store(gone, KEYS, timeout_s=3).prepare()
    assert time.monotonic() - started < 15
    assert caught.value.code is ExitCode.BACKUP
    assert caught.value.where.startswith("offsite (s3://")
    assert gone.endpoint is not None
    assert gone.endpoint in caught.value.hint
    with pytest.raises(StoreError, match=r"uploading failed|asking"):
        S3Store(gone, KEYS, timeout_s=3).put(f"{ID}/x", blocks(1))


def test_no_bucket_and_no_credentials(server: S3Server, spec: S3StoreSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    missing = S3StoreSpec("offsite", "no-such-bucket", endpoint=server.endpoint)
    with pytest.raises(StoreError) as caught:
        S3Store(missing, KEYS, timeout_s=5).prepare()
    assert "make the bucket" in caught.value.hint
    for name in [n for n in os.environ if n.startswith("AWS_")]:
        monkeypatch.delenv(name)


def test_credentials_that_were_withdrawn(spec: S3StoreSpec) -> None:
    with Denying() as port:
        store = S3Store(S3StoreSpec("offsite", "bucket", endpoint=f"http://127.0.0.1:{port}"), KEYS, timeout_s=5)
        for attempt in (store.prepare, lambda: store.put_document("prod/x", b"x"), lambda: store.objects("prod")):
            with pytest.raises(StoreError) as caught:
                attempt()
            assert "refuses the credentials of store offsite" in caught.value.hint
            assert SECRET_KEY not in f"{caught.value}{caught.value.hint}"
            assert caught.value.code is ExitCode.BACKUP


@pytest.mark.parametrize("fault", ["stall", "cut"])
def test_a_server_that_stalls_or_is_cut_in_the_middle(
    store: S3Store, spec: S3StoreSpec, server: S3Server, fault: str
) -> None:
    """The upload fails within its limits, older objects stay, and what it left is found and taken away."""
    store.put(f"{ID}/older", [b"older"])
    with TcpProxy("127.0.0.1", server.port) as proxy:
        slow = S3Store(behind(spec, proxy), KEYS, timeout_s=2)
        fan = FanOut([slow], f"{ID}/part", stall_s=8)

        def upload() -> None:
            for number, block in enumerate(blocks(60)):
                if number == 20:
                    proxy.stall() if fault == "stall" else proxy.close()
                fan.write(block)
            fan.commit()

        started = time.monotonic()
        with pytest.raises(StoreError) as caught:
            upload()
        assert time.monotonic() - started < 60
        assert caught.value.code is ExitCode.BACKUP
        fan.abort()
    assert [o.path for o in store.objects("prod")] == [f"{ID}/older"]
    assert store.get_document(f"{ID}/older") == b"older"
    store.clean("prod", older_than_s=0)
    assert unfinished(spec) == []


def test_a_short_cut_is_ridden_out(spec: S3StoreSpec, server: S3Server) -> None:
    with TcpProxy("127.0.0.1", server.port) as proxy:
        store = S3Store(behind(spec, proxy), KEYS, timeout_s=20)

        def source() -> Iterator[bytes]:
            for number, block in enumerate(blocks(40)):
                if number in (10, 30):
                    proxy.cut()
                yield block

        assert store.put(f"{ID}/part", source()) == 40 << 20
        digest = hashlib.sha256()
        for number, data in enumerate(store.chunks(f"{ID}/part")):
            if number == 2:
                proxy.cut()
            digest.update(data)
    assert digest.digest() == hashlib.sha256(b"".join(blocks(40))).digest()


UPLOADER = """
import sys
from kops_py.backup.s3 import Credentials, S3Store
from kops_py.model.backup import S3StoreSpec
bucket, endpoint = sys.argv[1:]
store = S3Store(S3StoreSpec("s", bucket, "a/b", endpoint), Credentials("an-access-key", "a-secret-key"))
def source():
    for number in range(10_000):
        if number == 40:
            print("under way", flush=True)
            sys.stdin.read()
        yield bytes(1 << 20)
store.put("prod/20261125T120000Z-00000000/part", source())
"""


def test_what_a_killed_upload_left_is_cleaned(store: S3Store, spec: S3StoreSpec) -> None:
    assert spec.endpoint is not None
    child = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(UPLOADER), spec.bucket, spec.endpoint],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert child.stdout is not None
    assert child.stdout.readline() == b"under way\n"
    child.send_signal(signal.SIGKILL)
    child.wait(10)
    child.stdout.close()
    assert child.stdin is not None
    child.stdin.close()
    assert store.objects("prod") == []
    assert unfinished(spec) == [f"a/b/{ID}/part"]
    assert store.clean("stage", older_than_s=0) == ()
    assert store.clean("prod", older_than_s=10**10) == ()
    # moto says of all uploads that they are of 2010: what counts here is that the writer is gone
    assert store.clean("prod", older_than_s=10**10, is_over=lambda path: path == f"{ID}/part") == (f"a/b/{ID}/part",)
    assert unfinished(spec) == []


def test_the_memory_of_a_large_upload_is_bounded(spec: S3StoreSpec) -> None:
    """160 MB through the whole pipeline in a process of its own: at most 120 MB of memory at its peak."""
    script = """
    import pathlib, random, sys
    import pyrage
    from kops_py.backup.fanout import FanOut
    from kops_py.backup.s3 import Credentials, S3Store
    from kops_py.backup.stream import Label, pack
    from kops_py.model.backup import S3StoreSpec
    store = S3Store(S3StoreSpec("s", sys.argv[1], "a", sys.argv[2]), Credentials("an-access-key", "a-secret-key"))
    fan = FanOut([store], "prod/20261125T120000Z-00000000/part", stall_s=60)
    key = str(pyrage.x25519.Identity.generate().to_public())
    source = (random.randbytes(1 << 20) for _ in range(160))
    pack(source, fan.write, Label("i", "c", "bundle", "h"), recipients=[key], is_snapshot=False)
    fan.commit()
    status = pathlib.Path("/proc/self/status").read_text()
    print(status.split("VmHWM:")[1].split()[0])
    """
    assert spec.endpoint is not None
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), spec.bucket, spec.endpoint],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 120 * 1024, f"{int(done.stdout) // 1024} MB"
