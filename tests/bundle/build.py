"""Compiling: Kubernetes stamped as a version, and the small programs Debian has no package of."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

from tests.bundle import recipe
from tests.bundle.recipe import Folders, KubernetesVersion
from tests.bundle.shell import BundleError, Progress, output, run
from tests.bundle.source import go_environment

COMMANDS = (
    "kubeadm",
    "kubectl",
    "kubelet",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kube-proxy",
)
_CONSTANTS = "cmd/kubeadm/app/constants/constants.go"
_VERSION_PACKAGES = (
    "k8s.io/kubernetes/vendor/k8s.io/component-base/version",
    "k8s.io/kubernetes/vendor/k8s.io/client-go/pkg/version",
)
_GO_BUILD = ("go", "build", "-p", "2", "-trimpath", "-buildvcs=false")


def link_flags(version: KubernetesVersion) -> str:
    """Linker flags: no symbols, and the version in both packages that hold it."""
    stamps = {
        "gitVersion": str(version),
        "gitMajor": "1",
        "gitMinor": str(version.minor),
        "gitTreeState": "archive",
        "buildDate": recipe.BUILD_DATE,
    }
    words = ["-s", "-w"]
    for package in _VERSION_PACKAGES:
        words += [f"-X {package}.{key}={value}" for key, value in stamps.items()]
    return " ".join(words)


def constants_of_minor(text: str, minor: int) -> str:
    """kubeadm's constants for a later minor than the sources: its range of versions one up for each step.

    Raises BundleError when the file does not look like the one this was written for.
    """
    for name, offset in (
        ("CurrentKubernetesVersion", 0),
        ("MinimumControlPlaneVersion", -1),
        ("MinimumKubeletVersion", -1),
    ):
        pattern = rf'({name} = version\.MustParseSemantic\(")v1\.{recipe.SOURCE_MINOR + offset}\.0("\))'
        text, count = re.subn(pattern, rf"\g<1>v1.{minor + offset}.0\g<2>", text)
        if count != 1:
            raise BundleError(f"{_CONSTANTS}: {name} was found {count} times, not once")
    table = re.search(r"SupportedEtcdVersion = map\[uint8\]string\{\n(.*?)\n(\t*)\}", text, re.DOTALL)
    last = re.search(r'(\t+)(\d+):(\s+)("[^"]+"),$', table[1]) if table else None
    if not table or not last:
        raise BundleError(f"{_CONSTANTS}: the table of etcd versions was not found")
    added = "".join(
        f"\n{last[1]}{number}:{last[3]}{last[4]},"
        for number in range(int(last[2]) + 1, int(last[2]) + 1 + minor - recipe.SOURCE_MINOR)
    )
    end = table.end(1)
    return text[:end] + added + text[end:]


def _overlay(version: KubernetesVersion, folders: Folders) -> list[str]:
    """Arguments that put the later minor's constants in place of the tree's, which stays as it is."""
    if version.minor == recipe.SOURCE_MINOR:
        return []
    original = folders.tree / _CONSTANTS
    place = folders.build / "overlay" / version.minor_name
    place.mkdir(parents=True, exist_ok=True)
    changed, table = place / "constants.go", place / "overlay.json"
    changed.write_text(constants_of_minor(original.read_text(encoding="utf-8"), version.minor), encoding="utf-8")
    table.write_text(json.dumps({"Replace": {str(original): str(changed)}}), encoding="utf-8")
    return ["-overlay", str(table)]


def binaries(version: KubernetesVersion, folders: Folders, source: str, progress: Progress) -> Path:
    """The seven programs of that version, in a folder; what is compiled already is not compiled again."""
    target = folders.build / "bin" / str(version)
    env = go_environment(folders)
    compiler = output(["go", "version"], what="go version", env=env)
    stamp = target / "stamp"
    wanted = recipe.digest(link_flags(version), source, compiler, recipe.source_digest("build.py"))
    if stamp.is_file() and stamp.read_text(encoding="utf-8") == wanted:
        return target
    target.mkdir(parents=True, exist_ok=True)
    overlay = _overlay(version, folders)
    for number, command in enumerate(COMMANDS, start=1):
        run(
            [
                *_GO_BUILD,
                *overlay,
                "-tags",
                "providerless",
                "-ldflags",
                link_flags(version),
                "-o",
                f"{target}/",
                f"./cmd/{command}",
            ],
            what=f"go build {command} {version} ({number} of {len(COMMANDS)})",
            log=folders.log,
            progress=progress,
            env=env,
            cwd=folders.tree,
            deadline_s=1200,
        )
    _check_stamp(target / "kubeadm", version)
    stamp.write_text(wanted, encoding="utf-8")
    return target


def _check_stamp(kubeadm: Path, version: KubernetesVersion) -> None:
    says = output([str(kubeadm), "version", "-o", "short"], what="kubeadm version").strip()
    if says != str(version):
        raise BundleError(f"{kubeadm} says it is {says!r}, not {version}: the version stamp did not take")


def image_refs(kubeadm: Path, version: KubernetesVersion) -> tuple[str, ...]:
    """The images that kubeadm of that version asks for, as it prints them."""
    listed = output(
        [str(kubeadm), "config", "images", "list", "--kubernetes-version", str(version)],
        what="kubeadm config images list",
    )
    return tuple(line.strip() for line in listed.splitlines() if line.strip())


def crictl(version: KubernetesVersion, folders: Folders, progress: Progress) -> Path:
    """Our crictl, compiled against the vendored CRI interface (so its files lie inside the tree)."""
    inside = folders.tree / "kops" / "crictl"
    shutil.rmtree(inside, ignore_errors=True)
    shutil.copytree(recipe.HERE / "src" / "crictl", inside)
    target = folders.build / "bin" / version.minor_name / "crictl"
    run(
        [
            *_GO_BUILD,
            "-ldflags",
            f"-s -w -X main.version=v1.{version.minor}.0",
            "-o",
            str(target),
            "./kops/crictl",
        ],
        what=f"go build crictl v1.{version.minor}.0",
        log=folders.log,
        progress=progress,
        env=go_environment(folders),
        cwd=folders.tree,
    )
    return target


def small_program(name: str, folders: Folders, progress: Progress) -> Path:
    """One of our programs that need the standard library only."""
    target = folders.build / "bin" / name
    run(
        [*_GO_BUILD, "-ldflags", "-s -w", "-o", str(target), "."],
        what=f"go build {name}",
        log=folders.log,
        progress=progress,
        env=go_environment(folders),
        cwd=recipe.HERE / "src" / name,
    )
    return target


def pause(tag: str, folders: Folders, progress: Progress) -> Path:
    """The program of the pause image, from the Kubernetes tree, static."""
    target = folders.build / "bin" / f"pause-{tag}"
    target.parent.mkdir(parents=True, exist_ok=True)
    run(
        [
            "gcc",
            "-Os",
            "-Wall",
            "-static",
            "-s",
            "-Wl,--build-id=none",
            f"-DVERSION={tag}",
            "-o",
            str(target),
            str(folders.tree / "build/pause/linux/pause.c"),
        ],
        what=f"gcc pause {tag}",
        log=folders.log,
        progress=progress,
    )
    return target
