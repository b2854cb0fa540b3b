"""A bundle as its users see it: a real apt accepts the repositories, the images are those kubeadm asks for."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest

from tests.bundle import Bundle, cached
from tests.bundle.layout import problems_of

pytestmark = pytest.mark.bundle


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    if shutil.which("apt-get") is None:
        pytest.skip("apt-get is not on this machine")
    found = cached(())
    if found is None:
        pytest.skip("no bundle is cached; python -m tests.bundle ensure builds one")
    return found


@pytest.fixture
def built(bundle: Bundle) -> Bundle:
    if not bundle.source.startswith("Debian source package"):
        pytest.skip(f"about what this recipe builds; the bundle is from {bundle.source}")
    return bundle


class Apt:
    """apt with one repository of the bundle as its only source, and no package installed."""

    def __init__(self, root: Path, repository: Path, key: Path) -> None:
        self._root = root
        for name in ("sources.d", "lists/partial", "cache/archives/partial", "preferences.d"):
            (root / name).mkdir(parents=True)
        (root / "status").touch()
        (root / "sources.d" / "kubernetes.list").write_text(f"deb [signed-by={key}] file:{repository} /\n")

    def run(self, *argv: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        options = {
            "Dir::Etc::sourcelist": "/dev/null",
            "Dir::Etc::sourceparts": self._root / "sources.d",
            "Dir::Etc::preferencesparts": self._root / "preferences.d",
            "Dir::State::lists": self._root / "lists",
            "Dir::State::status": self._root / "status",
            "Dir::Cache": self._root / "cache",
            "APT::Sandbox::User": "root" if os.geteuid() == 0 else "",
        }
        words = [word for key, value in options.items() for word in ("-o", f"{key}={value}")]
        env = {**os.environ, "LC_ALL": "C.UTF-8"}
        done = subprocess.run(
            [argv[0], *words, *argv[1:]], capture_output=True, text=True, timeout=60, env=env, cwd=self._root
        )
        if check:
            assert done.returncode == 0, done.stdout + done.stderr
        return done


def minors(bundle: Bundle) -> dict[str, list[str]]:
    return {
        minor: [version for version in bundle.kubernetes_versions if bundle.minor_of(version) == minor]
        for minor in bundle.minors
    }


def test_bundle_is_whole_to_the_last_byte(bundle: Bundle) -> None:
    assert problems_of(bundle.path, read_all=True) == []


def test_apt_accepts_each_repository_and_sees_every_version(bundle: Bundle, tmp_path: Path) -> None:
    for minor, versions in minors(bundle).items():
        key = tmp_path / f"{minor}.asc"  # apt tells an armored key by its ending
        shutil.copy(bundle.release_key(minor), key)
        apt = Apt(tmp_path / minor, bundle.repository(minor), key)
        updated = apt.run("apt-get", "update")
        assert "W:" not in updated.stderr, updated.stderr
        for name in ("kubeadm", "kubelet", "kubectl"):
            table = apt.run("apt-cache", "madison", name).stdout
            seen = {line.split("|")[1].strip() for line in table.splitlines()}
            assert seen >= {bundle.package_version(version) for version in versions}
        newest = bundle.package_version(versions[-1])
        apt.run("apt-get", "download", f"kubeadm={newest}", "cri-tools", "kubernetes-cni")
        (package,) = (tmp_path / minor).glob("kubeadm_*.deb")
        fields = subprocess.run(["dpkg-deb", "-f", package], capture_output=True, text=True, check=True, timeout=30)
        assert f"Version: {newest}\n" in fields.stdout


def test_apt_refuses_the_repository_under_another_key(bundle: Bundle, tmp_path: Path) -> None:
    home, key = tmp_path / "gnupg", tmp_path / "other.asc"
    home.mkdir(mode=0o700)
    gpg = ["gpg", "--homedir", str(home), "--batch", "--passphrase", ""]
    made = ["--quick-generate-key", "someone else", "rsa2048", "sign", "never"]
    subprocess.run([*gpg, *made], check=True, capture_output=True, timeout=60)
    exported = subprocess.run([*gpg, "--armor", "--export"], check=True, capture_output=True, timeout=60)
    subprocess.run(["gpgconf", "--homedir", str(home), "--kill", "all"], check=True, timeout=60)
    key.write_bytes(exported.stdout)
    apt = Apt(tmp_path / "apt", bundle.repository(bundle.minors[0]), key)
    refused = apt.run("apt-get", "update", check=False)
    assert refused.returncode != 0
    assert "NO_PUBKEY" in refused.stdout + refused.stderr


def test_images_are_those_kubeadm_asks_for(bundle: Bundle, tmp_path: Path) -> None:
    for version in bundle.kubernetes_versions:
        name = f"kubeadm_{bundle.package_version(version)}_{bundle.architecture}.deb"
        unpacked = tmp_path / version
        package = bundle.repository(version) / name
        subprocess.run(["dpkg-deb", "-x", package, unpacked], check=True, timeout=60)
        listed = subprocess.run(
            [unpacked / "usr/bin/kubeadm", "config", "images", "list", "--kubernetes-version", version],
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        ).stdout.split()
        there = [ref for archive in bundle.image_archives(version) for ref in archive.refs]
        assert sorted(there) == sorted(listed)


def blob(tar: tarfile.TarFile, digest: str) -> bytes:
    found = tar.extractfile(f"blobs/{digest.replace(':', '/')}")
    assert found is not None
    data = found.read()
    assert "sha256:" + hashlib.sha256(data).hexdigest() == digest
    return data


def test_every_image_has_the_names_it_is_listed_under_and_an_id_of_its_own(built: Bundle) -> None:
    ids: dict[str, str] = {}
    archives = [*built.extra_images]
    for version in built.kubernetes_versions:
        archives += built.image_archives(version)
    for archive in archives:
        with tarfile.open(archive.path) as tar:
            index = tar.extractfile("index.json")
            assert index is not None
            entries: list[dict[str, Any]] = json.loads(index.read())["manifests"]
            assert [one["annotations"]["io.containerd.image.name"] for one in entries] == list(archive.refs)
            for entry, ref in zip(entries, archive.refs, strict=True):
                manifest = json.loads(blob(tar, entry["digest"]))
                blob(tar, manifest["config"]["digest"])
                assert ids.setdefault(manifest["config"]["digest"], ref) == ref
                for layer in manifest["layers"]:
                    blob(tar, layer["digest"])


def test_kubelet_package_leaves_the_manifests_folder_empty(built: Bundle) -> None:
    """kubeadm before 1.23 refuses to join a node whose manifests folder holds anything."""
    for version in built.kubernetes_versions:
        name = f"kubelet_{built.package_version(version)}_{built.architecture}.deb"
        package = built.repository(version) / name
        shown = subprocess.run(["dpkg-deb", "-c", package], capture_output=True, text=True, check=True, timeout=60)
        paths = [line.split()[-1] for line in shown.stdout.splitlines()]
        assert [path for path in paths if "manifests" in path] == ["./etc/kubernetes/manifests/"]
        assert "./usr/lib/systemd/system/kubelet.service" in paths
