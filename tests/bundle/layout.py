"""The bundle as a folder: what lies where, reading it, and telling whether a folder is one (see README.md)."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from tests.bundle.shell import BundleError

FORMAT = 1
BUNDLE_FILE = "bundle.json"
IMAGES_FILE = "images.json"
_REPOSITORY_FILES = ("Packages", "Packages.gz", "Release", "InRelease", "Release.gpg", "Release.key")
_PACKAGES_OF_VERSION = ("kubeadm", "kubelet", "kubectl")

Scope = Literal["all", "control-plane"]


@dataclass(frozen=True, slots=True)
class ImageArchive:
    """One image archive; `scope` says on which nodes it is wanted ("for" in images.json)."""

    path: Path
    refs: tuple[str, ...]
    sha256: str
    size_bytes: int
    scope: Scope

    def to_json(self) -> dict[str, Any]:
        """The entry of images.json."""
        return {
            "file": self.path.name,
            "refs": list(self.refs),
            "sha256": self.sha256,
            "size_bytes": self.size_bytes,
            "for": self.scope,
        }

    @classmethod
    def from_json(cls, folder: Path, entry: dict[str, Any]) -> ImageArchive:
        """Read an entry of images.json; KeyError, TypeError or ValueError when it has another shape."""
        if entry["for"] not in ("all", "control-plane"):
            raise ValueError(f'"for" is {entry["for"]!r}; allowed: all, control-plane')
        return cls(
            path=folder / str(entry["file"]),
            refs=tuple(str(ref) for ref in entry["refs"]),
            sha256=str(entry["sha256"]),
            size_bytes=int(entry["size_bytes"]),
            scope=cast(Scope, entry["for"]),
        )


@dataclass(frozen=True, slots=True)
class Upstream:
    """The upstream package repository answers: no bundle is needed for these minors."""

    base_url: str
    minors: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Bundle:
    """A folder with a package repository per minor and image archives per version."""

    path: Path
    source: str
    kubernetes_versions: tuple[str, ...]
    architecture: str

    @staticmethod
    def minor_of(version: str) -> str:
        """Name of the minor of a version or minor: "v1.20.2" and "1.20" give "v1.20"."""
        return ".".join(["v" + version.lstrip("v").split(".")[0], version.split(".")[1]])

    @property
    def minors(self) -> tuple[str, ...]:
        """The minors there is a package repository for, oldest first."""
        found = {self.minor_of(version) for version in self.kubernetes_versions}
        return tuple(sorted(found, key=lambda name: [int(part) for part in name[1:].split(".")]))

    @property
    def packages(self) -> Path:
        """Folder that stands for the base URL of the upstream repository."""
        return self.path / "packages"

    @property
    def images(self) -> Path:
        """Folder of the image archives."""
        return self.path / "images"

    def repository(self, version: str) -> Path:
        """The flat apt repository of a version's (or minor's) minor."""
        return self.packages / self.minor_of(version) / "deb"

    def release_key(self, version: str) -> Path:
        """The armored public key that signs that repository."""
        return self.repository(version) / "Release.key"

    def package_version(self, version: str) -> str:
        """Version of the packages of a Kubernetes version, v1.20.2 → 1.20.2-1.1, as the repository has it.

        Raises BundleError when it has none.
        """
        wanted = version.lstrip("v") + "-"
        for fields in _packages(self.repository(version)):
            if fields.get("Package") == "kubeadm" and fields.get("Version", "").startswith(wanted):
                return fields["Version"]
        raise BundleError(f"{self.repository(version)} has no kubeadm of {version}")

    def image_archives(self, version: str) -> tuple[ImageArchive, ...]:
        """The archives of a version; BundleError when its images.json is missing or of another shape."""
        return _read_images(self.images / version)

    @property
    def extra_images(self) -> tuple[ImageArchive, ...]:
        """Archives of demo workloads; empty when there are none."""
        folder = self.images / "extra"
        return _read_images(folder) if folder.is_dir() else ()

    def write(self, recipe: str) -> None:
        """Write bundle.json; it appears whole or not at all."""
        value = {
            "format": FORMAT,
            "created_by": "kops-py tests.bundle",
            "recipe": recipe,
            "source": self.source,
            "architecture": self.architecture,
            "kubernetes_versions": list(self.kubernetes_versions),
            "repositories": {minor: f"packages/{minor}/deb" for minor in self.minors},
            "images": {version: f"images/{version}" for version in self.kubernetes_versions},
            "extra_images": "images/extra",
        }
        partial = self.path / f"{BUNDLE_FILE}.partial"
        partial.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
        partial.rename(self.path / BUNDLE_FILE)


def _packages(repository: Path) -> list[dict[str, str]]:
    """The paragraphs of a repository's Packages, without the lines that continue a field."""
    try:
        text = (repository / "Packages").read_text(encoding="utf-8")
    except OSError as exc:
        raise BundleError(f"{repository}/Packages cannot be read: {exc}") from exc
    return [
        dict(line.split(": ", 1) for line in paragraph.splitlines() if ": " in line and line[0] != " ")
        for paragraph in text.split("\n\n")
    ]


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as exc:
        raise BundleError(f"{path} is missing") from exc
    except (OSError, ValueError) as exc:
        raise BundleError(f"{path} cannot be read: {exc}") from exc


def _read_images(folder: Path) -> tuple[ImageArchive, ...]:
    path = folder / IMAGES_FILE
    value = _read_json(path)
    if not isinstance(value, list):
        raise BundleError(f"{path}: a list of archives was expected")
    try:
        return tuple(ImageArchive.from_json(folder, entry) for entry in value)
    except (KeyError, TypeError, ValueError) as exc:
        raise BundleError(f"{path}: an entry is not file, refs, sha256, size_bytes, for: {exc}") from exc


def read_bundle(folder: Path) -> Bundle:
    """Read bundle.json of a folder; BundleError when it is missing, unreadable or of another format."""
    path = folder / BUNDLE_FILE
    value = _read_json(path)
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        found = value.get("format") if isinstance(value, dict) else type(value).__name__
        raise BundleError(f"{path}: format {found!r} is not known; this program reads format {FORMAT}")
    try:
        return Bundle(
            path=folder.resolve(),
            source=str(value["source"]),
            kubernetes_versions=tuple(str(version) for version in value["kubernetes_versions"]),
            architecture=str(value["architecture"]),
        )
    except (KeyError, TypeError) as exc:
        raise BundleError(f"{path}: {exc} is missing or of another shape") from exc


def _repository_problems(bundle: Bundle, minor: str) -> list[str]:
    folder = bundle.repository(minor)
    missing = [name for name in _REPOSITORY_FILES if not (folder / name).is_file()]
    if missing:
        return [f"{folder}: missing {', '.join(missing)}"]
    problems = []
    release = (folder / "Release").read_text(encoding="utf-8")
    index = (folder / "Packages").read_bytes()
    if hashlib.sha256(index).hexdigest() not in release:
        problems.append(f"{folder}/Packages is not the one Release was written for")
    paragraphs = _packages(folder)
    listed = {one["Filename"].removeprefix("./"): int(one.get("Size", "-1")) for one in paragraphs if "Filename" in one}
    for name, size_bytes in listed.items():
        found_bytes = (folder / name).stat().st_size if (folder / name).is_file() else None
        if found_bytes is None:
            problems.append(f"{folder}/{name} is listed in Packages and missing")
        elif found_bytes != size_bytes:
            problems.append(f"{folder}/{name} is {found_bytes} bytes, Packages says {size_bytes}")
    for version in bundle.kubernetes_versions:
        if bundle.minor_of(version) != minor:
            continue
        plain = version.lstrip("v") + "-"
        there = {one["Package"] for one in paragraphs if one.get("Version", "").startswith(plain)}
        problems += [
            f"{folder}: no {name} of {version} in Packages" for name in _PACKAGES_OF_VERSION if name not in there
        ]
    return problems


def _image_problems(archives: tuple[ImageArchive, ...], *, read_all: bool) -> list[str]:
    problems = []
    for archive in archives:
        if not archive.path.is_file():
            problems.append(f"{archive.path} is missing")
        elif archive.path.stat().st_size != archive.size_bytes:
            problems.append(f"{archive.path} is {archive.path.stat().st_size} bytes, not {archive.size_bytes}")
        elif read_all:
            with archive.path.open("rb") as content:
                if hashlib.file_digest(content, "sha256").hexdigest() != archive.sha256:
                    problems.append(f"{archive.path} has another content than images.json says")
    return problems


def problems_of(folder: Path, *, read_all: bool = False) -> list[str]:
    """All that is wrong with a folder as a bundle, empty when nothing is; `read_all` also reads the archives."""
    try:
        bundle = read_bundle(folder)
    except BundleError as exc:
        return [str(exc)]
    problems = []
    for minor in bundle.minors:
        problems += _repository_problems(bundle, minor)
    for version in bundle.kubernetes_versions:
        try:
            problems += _image_problems(bundle.image_archives(version), read_all=read_all)
        except BundleError as exc:
            problems.append(str(exc))
    try:
        problems += _image_problems(bundle.extra_images, read_all=read_all)
    except BundleError as exc:
        problems.append(str(exc))
    return problems
