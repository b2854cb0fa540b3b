"""Reading a bundle, and telling what is wrong with a folder that should be one."""

from __future__ import annotations

import hashlib
import json
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.bundle import BundleError, Upstream, cached, ensure, obtain
from tests.bundle.__main__ import main
from tests.bundle.images import archive_name, name_and_tag, scope_of, write_images_file
from tests.bundle.layout import Bundle, problems_of, read_bundle
from tests.bundle.repo import packages_paragraph


def lay_out(folder: Path, versions: tuple[str, ...] = ("v1.20.2",)) -> Bundle:
    """A small folder of the right shape."""
    bundle = Bundle(folder, "hand", versions, "amd64")
    for minor in bundle.minors:
        repository = bundle.repository(minor)
        repository.mkdir(parents=True)
        paragraphs = []
        for version in (one for one in versions if bundle.minor_of(one) == minor):
            for name in ("kubeadm", "kubelet", "kubectl"):
                packed = f"{version[1:]}-1.1"
                package = repository / f"{name}_{packed}_amd64.deb"
                package.write_text(name)
                control = f"Package: {name}\nVersion: {packed}\nDescription: x"
                paragraphs.append(packages_paragraph(control, f"./{package.name}", len(name), "m", "s"))
        (repository / "Packages").write_text("\n".join(paragraphs))
        for name in ("Packages.gz", "InRelease", "Release.gpg", "Release.key"):
            (repository / name).write_text("x")
        digest = hashlib.sha256((repository / "Packages").read_bytes()).hexdigest()
        (repository / "Release").write_text(f"SHA256:\n {digest} 1 Packages\n")
    for version in (*versions, "extra"):
        images = folder / "images" / version
        images.mkdir(parents=True)
        ref = f"registry.test/pause:{version}"
        (images / archive_name(ref)).write_text("image")
        write_images_file(images, {ref: "all"})
    bundle.write("recipe")
    return bundle


def test_what_is_written_is_read(tmp_path: Path) -> None:
    lay_out(tmp_path, ("v1.20.2", "v1.20.3", "v1.21.0"))
    bundle = read_bundle(tmp_path)
    assert bundle.kubernetes_versions == ("v1.20.2", "v1.20.3", "v1.21.0")
    assert bundle.minors == ("v1.20", "v1.21")
    assert bundle.repository("v1.20.3") == bundle.repository("1.20") == tmp_path / "packages/v1.20/deb"
    assert bundle.release_key("v1.21.0") == tmp_path / "packages/v1.21/deb/Release.key"
    assert bundle.package_version("v1.20.3") == "1.20.3-1.1"
    with pytest.raises(BundleError, match=r"no kubeadm of v1\.20\.9"):
        bundle.package_version("v1.20.9")
    (archive,) = bundle.image_archives("v1.20.2")
    assert archive.refs == ("registry.test/pause:v1.20.2",)
    assert archive.sha256 == hashlib.sha256(b"image").hexdigest()
    assert (archive.size_bytes, archive.scope) == (5, "all")
    assert len(bundle.extra_images) == 1
    assert problems_of(tmp_path, read_all=True) == []


def test_minors_are_sorted_as_numbers() -> None:
    assert Bundle(Path(), "", ("v1.10.1", "v1.9.0"), "amd64").minors == ("v1.9", "v1.10")


Damage = Callable[[Path], Any]
REPOSITORY = "packages/v1.20/deb"


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda root: (root / "bundle.json").unlink(), "bundle.json is missing"),
        (lambda root: (root / "bundle.json").write_text("{"), "cannot be read"),
        (lambda root: (root / "bundle.json").write_text('{"format": 7}'), "format 7 is not known"),
        (lambda root: (root / "bundle.json").write_text('{"format": 1}'), "source"),
        (lambda root: (root / REPOSITORY / "Release.key").unlink(), "missing Release.key"),
        (lambda root: (root / REPOSITORY / "Packages").write_text(""), "is not the one Release was written for"),
        (lambda root: (root / REPOSITORY / "Packages").write_text(""), "no kubelet of v1.20.2 in Packages"),
        (lambda root: (root / REPOSITORY / "kubeadm_1.20.2-1.1_amd64.deb").unlink(), "listed in Packages"),
        (lambda root: (root / REPOSITORY / "kubelet_1.20.2-1.1_amd64.deb").write_text("cut"), "3 bytes, Packages"),
        (lambda root: (root / "images/v1.20.2/images.json").unlink(), "images.json is missing"),
        (lambda root: (root / "images/v1.20.2/images.json").write_text('[{"file": "a"}]'), "an entry is not"),
        (lambda root: (root / "images/v1.20.2/pause_v1.20.2.tar").unlink(), "pause_v1.20.2.tar is missing"),
        (lambda root: (root / "images/v1.20.2/pause_v1.20.2.tar").write_text("short-"), "6 bytes, not 5"),
        (lambda root: (root / "images/v1.20.2/pause_v1.20.2.tar").write_text("other"), "another content"),
    ],
)
def test_each_damage_is_named(tmp_path: Path, damage: Damage, said: str) -> None:
    lay_out(tmp_path)
    damage(tmp_path)
    problems = problems_of(tmp_path, read_all=True)
    assert any(said in problem for problem in problems), problems


def test_for_of_an_image_is_one_of_two_words(tmp_path: Path) -> None:
    lay_out(tmp_path)
    place = tmp_path / "images/v1.20.2/images.json"
    entries = json.loads(place.read_text())
    entries[0]["for"] = "workers"
    place.write_text(json.dumps(entries))
    (problem,) = problems_of(tmp_path)
    assert "allowed: all, control-plane" in problem


@pytest.mark.parametrize(
    ("ref", "name", "scope"),
    [
        ("k8s.gcr.io/kube-apiserver:v1.20.2", "kube-apiserver_v1.20.2.tar", "control-plane"),
        ("k8s.gcr.io/etcd:3.4.13-0", "etcd_3.4.13-0.tar", "control-plane"),
        ("k8s.gcr.io/kube-proxy:v1.20.2", "kube-proxy_v1.20.2.tar", "all"),
        ("k8s.gcr.io/coredns/coredns:v1.8.0", "coredns_v1.8.0.tar", "all"),
        ("registry.test:5000/pause:3.2", "pause_3.2.tar", "all"),
    ],
)
def test_names_of_archives(ref: str, name: str, scope: str) -> None:
    assert (archive_name(ref), scope_of(ref)) == (name, scope)
    assert "_".join(name_and_tag(ref)) + ".tar" == name


def test_given_bundle_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lay_out(tmp_path)
    monkeypatch.setenv("KOPS_BUNDLE", str(tmp_path))
    assert ensure(["v1.20.2"]).path == tmp_path.resolve()
    assert cached(["v1.20.2"]) == ensure(["v1.20.2"])
    assert cached(["v1.20.9"]) is None
    with pytest.raises(BundleError, match=r"has v1\.20\.2 and lacks v1\.20\.9"):
        ensure(["v1.20.9"])


def test_given_folder_that_is_no_bundle_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("KOPS_BUNDLE", str(tmp_path))
    assert main(["ensure"]) == 1
    assert f"KOPS_BUNDLE={tmp_path} is not a bundle" in capsys.readouterr().err


def test_path_without_a_bundle_says_what_to_type(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("KOPS_BUNDLE", raising=False)
    monkeypatch.setenv("KOPS_BUNDLE_CACHE", str(tmp_path))
    assert main(["path"]) == 1
    said = capsys.readouterr()
    assert "type: python -m tests.bundle ensure" in said.err
    assert said.out == ""


def test_check_and_path_print(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lay_out(tmp_path)
    assert main(["check", str(tmp_path), "--read-all"]) == 0
    assert "a bundle with v1.20.2" in capsys.readouterr().out
    monkeypatch.setenv("KOPS_BUNDLE", str(tmp_path))
    assert main(["path", "--versions", "v1.20.2", "-o", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["path"] == str(tmp_path.resolve())
    assert [one["file"] for one in found["images"]["v1.20.2"]] == ["pause_v1.20.2.tar"]


def test_upstream_is_asked_for_every_minor_and_all_must_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    class Answer:
        def __enter__(self) -> Answer:
            return self

        def __exit__(self, *_error: object) -> None:
            return None

    def urlopen(request: urllib.request.Request, timeout: float) -> Answer:
        assert (request.get_method(), timeout <= 5) == ("HEAD", True)
        asked.append(request.full_url)
        if "v1.40" in request.full_url:
            raise TimeoutError
        return Answer()

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    url = "https://packages.test/core"
    assert obtain.upstream(["v1.30.1", "v1.30.4", "v1.31.0"], url) == Upstream(url, ("v1.30", "v1.31"))
    assert asked == [f"{url}/v1.30/deb/Release", f"{url}/v1.31/deb/Release"]
    assert obtain.upstream(["v1.31.0", "v1.40.0"], url) is None
