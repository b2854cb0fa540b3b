"""Which images a bundle has, and what is inside each."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Literal

from tests.bundle import build, recipe
from tests.bundle.archive import Entry, ImageSpec, entries_of_folder, write_archive
from tests.bundle.layout import IMAGES_FILE, ImageArchive
from tests.bundle.recipe import Folders, KubernetesVersion
from tests.bundle.shell import BundleError, Progress
from tests.bundle.source import unpack_package

_SKIP = (
    "usr/share/doc",
    "usr/share/man",
    "usr/share/lintian",
    "usr/share/locale",
    "usr/share/bash-completion",
    "usr/share/bug",
    "usr/lib/x86_64-linux-gnu/gconv",
    "usr/lib/aarch64-linux-gnu/gconv",
    "usr/lib/locale",
)
_CONTROL_PLANE_PROGRAMS = ("kube-apiserver", "kube-controller-manager", "kube-scheduler")
_ON_EVERY_NODE = ("kube-proxy", "pause", "coredns")
_IPTABLES_NAMES = tuple(
    f"{family}{suffix}" for family in ("iptables", "ip6tables") for suffix in ("", "-save", "-restore")
)


def name_and_tag(ref: str) -> tuple[str, str]:
    """Last part of an image's name, and its tag: ("kube-proxy", "v1.20.2")."""
    path, _, tag = ref.rpartition(":")
    return path.rpartition("/")[2], tag


def archive_name(ref: str) -> str:
    """Name of the archive's file."""
    return "{}_{}.tar".format(*name_and_tag(ref))


def scope_of(ref: str) -> Literal["all", "control-plane"]:
    """On which nodes an image is wanted."""
    return "all" if name_and_tag(ref)[0] in _ON_EVERY_NODE else "control-plane"


def _debian_files(names: tuple[str, ...], folders: Folders) -> tuple[Entry, ...]:
    found: dict[str, Entry] = {}
    for name in names:
        for entry in entries_of_folder(unpack_package(folders, name), _SKIP):
            found[entry.path] = entry
    return tuple(found.values())


def _iptables_layer(folders: Folders, progress: Progress) -> tuple[Entry, ...]:
    """iptables in both variants behind one program that picks the kubelet's; conntrack; their libraries."""
    chooser = build.small_program("iptablesmode", folders, progress)
    files = {entry.path: entry for entry in _debian_files(recipe.LIBC_PACKAGES + recipe.IPTABLES_PACKAGES, folders)}
    files["usr/sbin/iptables-mode"] = Entry("usr/sbin/iptables-mode", chooser)
    for name in _IPTABLES_NAMES:
        files[f"usr/sbin/{name}"] = Entry(f"usr/sbin/{name}", link="iptables-mode")
    files["run"] = Entry("run")
    files["tmp"] = Entry("tmp", mode=0o1777)
    return tuple(files.values())


class ImageBuilder:
    """Makes the images of one bundle."""

    def __init__(self, folders: Folders, architecture: str, progress: Progress) -> None:
        self._folders = folders
        self._architecture = architecture
        self._progress = progress

    def _spec(self, ref: str, binaries: Path) -> ImageSpec:
        """What is inside an image kubeadm asks for; BundleError for one this recipe does not know."""
        name, tag = name_and_tag(ref)
        program = f"usr/local/bin/{name}"
        if name in _CONTROL_PLANE_PROGRAMS:
            return self._image(ref, (Entry(program, binaries / name),), entrypoint=(f"/{program}",))
        if name == "kube-proxy":
            base = _iptables_layer(self._folders, self._progress)
            return self._image(ref, base, (Entry(program, binaries / name),), entrypoint=(f"/{program}",))
        if name == "etcd":
            server, client = (unpack_package(self._folders, package) for package in recipe.ETCD_PACKAGES)
            programs = (
                Entry("usr/local/bin/etcd", server / "usr/bin/etcd"),
                Entry("usr/local/bin/etcdctl", client / "usr/bin/etcdctl"),
            )
            libraries = _debian_files(recipe.LIBC_PACKAGES, self._folders)
            return self._image(ref, libraries, programs, entrypoint=("/usr/local/bin/etcd",), ports=("2379/tcp",))
        if name == "coredns":
            stand_in = build.small_program("dns", self._folders, self._progress)
            return self._image(ref, (Entry("coredns", stand_in),), entrypoint=("/coredns",), ports=("53/udp", "53/tcp"))
        if name == "pause":
            waiting = build.pause(tag, self._folders, self._progress)
            return self._image(ref, (Entry("pause", waiting),), entrypoint=("/pause",), user="65535:65535")
        raise BundleError(f"kubeadm asks for the image {ref}, and the recipe has nothing of that name")

    def _echo(self) -> ImageSpec:
        program = build.small_program("echo", self._folders, self._progress)
        files = (Entry("echo", program),)
        return self._image(recipe.ECHO_IMAGE, files, entrypoint=("/echo",), user="65534:65534", ports=("8080/tcp",))

    def _image(
        self,
        ref: str,
        *layers: tuple[Entry, ...],
        entrypoint: tuple[str, ...],
        user: str = "",
        ports: tuple[str, ...] = (),
    ) -> ImageSpec:
        return ImageSpec(ref, layers, architecture=self._architecture, entrypoint=entrypoint, user=user, ports=ports)

    def of_version(self, version: KubernetesVersion, binaries: Path, images: Path) -> None:
        """Write the archives of one version below the folder `images`; those that are there stay."""
        target = images / str(version)
        refs = build.image_refs(binaries / "kubeadm", version)
        for ref in refs:
            place = target / archive_name(ref)
            if place.is_file():
                continue
            same = None if ref.endswith(f":{version}") else next(images.glob(f"*/{place.name}"), None)
            if same:
                _second_name(same, place)
                continue
            self._progress.say(f"image {ref}")
            write_archive(self._spec(ref, binaries), place)
        write_images_file(target, {ref: scope_of(ref) for ref in refs})

    def extra(self, images: Path) -> None:
        """Write the archive of the demo workload."""
        target = images / "extra"
        place = target / archive_name(recipe.ECHO_IMAGE)
        if not place.is_file():
            self._progress.say(f"image {recipe.ECHO_IMAGE}")
            write_archive(self._echo(), place)
        write_images_file(target, {recipe.ECHO_IMAGE: "all"})


def _second_name(source: Path, target: Path) -> None:
    """The same file under another name, as a copy where links cannot be made."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def write_images_file(folder: Path, scopes: dict[str, Literal["all", "control-plane"]]) -> None:
    """Write images.json for the archives of these names; it appears whole or not at all."""
    archives = [
        ImageArchive(
            path=folder / archive_name(ref),
            refs=(ref,),
            sha256=sha256_of(folder / archive_name(ref)),
            size_bytes=(folder / archive_name(ref)).stat().st_size,
            scope=scope,
        )
        for ref, scope in sorted(scopes.items())
    ]
    text = json.dumps([archive.to_json() for archive in archives], indent=2) + "\n"
    partial = folder / f"{IMAGES_FILE}.partial"
    partial.write_text(text, encoding="utf-8")
    partial.rename(folder / IMAGES_FILE)
