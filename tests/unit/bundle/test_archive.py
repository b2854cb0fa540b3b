"""The image archive writer: the same input gives the same bytes, and every digest in it is true."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import tarfile
from pathlib import Path
from typing import Any

import pytest

from tests.bundle.archive import Entry, ImageSpec, entries_of_folder, with_parents, write_archive

REF = "registry.test/group/thing:v1"


def spec(program: Path, ref: str = REF) -> ImageSpec:
    return ImageSpec(
        ref,
        (
            (Entry("etc/hosts.conf", b"a = 1\n", mode=0o644), Entry("lib64", link="lib")),
            (Entry("usr/bin/thing", program),),
        ),
        architecture="amd64",
        entrypoint=("/usr/bin/thing",),
        user="65534:65534",
        ports=("8080/tcp",),
    )


@pytest.fixture
def program(tmp_path: Path) -> Path:
    place = tmp_path / "program"
    place.write_bytes(b"\x7fELF" + bytes(range(256)) * 5000)
    return place


def members(archive: Path) -> dict[str, bytes]:
    with tarfile.open(archive) as tar:
        return {one.name: tar.extractfile(one).read() for one in tar if one.isfile()}  # type: ignore[union-attr]


def blob(files: dict[str, bytes], digest: str) -> bytes:
    return files["blobs/" + digest.replace(":", "/")]


def manifest_of(files: dict[str, bytes]) -> dict[str, Any]:
    (entry,) = json.loads(files["index.json"])["manifests"]
    found: dict[str, Any] = json.loads(blob(files, entry["digest"]))
    return found


def test_same_input_same_bytes_whatever_the_time_and_order(program: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "a" / "1.tar", tmp_path / "b" / "2.tar"
    write_archive(spec(program), first)
    os.utime(program, (1, 1))
    turned = spec(program)
    turned = ImageSpec(
        turned.ref,
        tuple(tuple(reversed(layer)) for layer in turned.layers),
        architecture="amd64",
        entrypoint=turned.entrypoint,
        user=turned.user,
        ports=turned.ports,
    )
    write_archive(turned, second)
    assert first.read_bytes() == second.read_bytes()
    assert sorted(path.name for path in first.parent.iterdir()) == ["1.tar"]  # no scratch is left


def test_every_digest_and_size_is_that_of_its_blob(program: Path, tmp_path: Path) -> None:
    place = tmp_path / "out.tar"
    write_archive(spec(program), place)
    files = members(place)
    blobs = {name: data for name, data in files.items() if name.startswith("blobs/sha256/")}
    assert len(blobs) == 4  # two layers, configuration, manifest
    for name, data in blobs.items():
        assert hashlib.sha256(data).hexdigest() == name.rpartition("/")[2]
    manifest = manifest_of(files)
    for descriptor in [manifest["config"], *manifest["layers"]]:
        assert len(blob(files, descriptor["digest"])) == descriptor["size"]
    config = json.loads(blob(files, manifest["config"]["digest"]))
    plain = [hashlib.sha256(gzip.decompress(blob(files, one["digest"]))).hexdigest() for one in manifest["layers"]]
    assert config["rootfs"]["diff_ids"] == [f"sha256:{one}" for one in plain]
    assert len(config["history"]) == len(plain)


def test_oci_layout_and_docker_archive_name_the_same_image(program: Path, tmp_path: Path) -> None:
    place = tmp_path / "out.tar"
    write_archive(spec(program), place)
    files = members(place)
    (entry,) = json.loads(files["index.json"])["manifests"]
    assert entry["annotations"] == {
        "io.containerd.image.name": REF,
        "org.opencontainers.image.ref.name": "v1",
    }
    (docker,) = json.loads(files["manifest.json"])
    manifest = manifest_of(files)
    assert docker["RepoTags"] == [REF]
    assert docker["Config"] == "blobs/" + manifest["config"]["digest"].replace(":", "/")
    assert docker["Layers"] == ["blobs/" + one["digest"].replace(":", "/") for one in manifest["layers"]]
    assert json.loads(files["oci-layout"]) == {"imageLayoutVersion": "1.0.0"}


def test_two_tags_of_equal_content_have_image_ids_of_their_own(program: Path, tmp_path: Path) -> None:
    ids = set()
    for tag in ("v1", "v2"):
        place = tmp_path / f"{tag}.tar"
        write_archive(spec(program, f"registry.test/group/thing:{tag}"), place)
        ids.add(manifest_of(members(place))["config"]["digest"])
    assert len(ids) == 2


def test_layer_holds_what_was_given(program: Path, tmp_path: Path) -> None:
    place = tmp_path / "out.tar"
    write_archive(spec(program), place)
    files = members(place)
    manifest = manifest_of(files)
    found: dict[str, tarfile.TarInfo] = {}
    for layer in manifest["layers"]:
        with tarfile.open(fileobj=io.BytesIO(gzip.decompress(blob(files, layer["digest"])))) as tar:
            found |= {one.name: one for one in tar}
    assert found["usr/bin/thing"].size == program.stat().st_size
    assert found["usr/bin/thing"].mode == 0o755
    assert found["etc/hosts.conf"].mode == 0o644
    assert (found["lib64"].issym(), found["lib64"].linkname) == (True, "lib")
    assert found["usr"].isdir()
    assert {(one.uid, one.gid) for one in found.values()} == {(0, 0)}


def test_with_parents_adds_each_folder_once_and_keeps_the_given_one() -> None:
    found = with_parents([Entry("a/b/file", b""), Entry("a/b/other", b""), Entry("a", mode=0o700)])
    assert [(one.path, one.mode) for one in found] == [
        ("a", 0o700),
        ("a/b", 0o755),
        ("a/b/file", 0o755),
        ("a/b/other", 0o755),
    ]


def test_entries_of_folder_keeps_links_and_modes_and_skips(tmp_path: Path) -> None:
    (tmp_path / "usr/share/doc").mkdir(parents=True)
    (tmp_path / "usr/share/doc/copyright").write_text("x")
    (tmp_path / "usr/lib").mkdir()
    (tmp_path / "usr/lib/lib.so.1").write_text("x")
    (tmp_path / "usr/lib/lib.so.1").chmod(0o644)
    (tmp_path / "usr/lib/lib.so").symlink_to("lib.so.1")
    found = {one.path: one for one in entries_of_folder(tmp_path, ("usr/share/doc",))}
    assert sorted(found) == ["usr/lib/lib.so", "usr/lib/lib.so.1"]
    assert found["usr/lib/lib.so"].link == "lib.so.1"
    assert found["usr/lib/lib.so.1"].mode == 0o644
