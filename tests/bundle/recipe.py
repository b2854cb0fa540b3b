"""What a built bundle is made of: versions, Debian packages, folders of the cache, and the key of all that."""

from __future__ import annotations

import functools
import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path

from tests.bundle.shell import BundleError

DEFAULT_VERSIONS = ("v1.20.2", "v1.20.3", "v1.21.0")
SOURCE_MINOR = 20  # what Debian's source package is
NEWEST_STAND_IN = 22  # two minors in one upgrade; farther the sources have not been tried
PACKAGE_REVISION = "1.1"  # as upstream: 1.20.2-1.1
SOURCE_DATE_EPOCH = 1610546400  # 2021-01-13: one date in everything, so that the same input gives the same bytes
BUILD_DATE = "2021-01-13T14:00:00Z"
ECHO_IMAGE = "kops-py.test/echo:1"
HERE = Path(__file__).resolve().parent
GO_BIN = Path("/usr/lib/go-1.19/bin")

# Needed on the machine that builds: program to look for → Debian package that has it.
MACHINE_PACKAGES = {
    str(GO_BIN / "go"): "golang-1.19-go",
    "dpkg-source": "dpkg-dev",
    "dpkg-deb": "dpkg",
    "gcc": "gcc",
    "/usr/share/doc/libc6-dev": "libc6-dev",
    "gpg": "gnupg",
    "xz": "xz-utils",
}
REFLECT2_PACKAGE = "golang-github-modern-go-reflect2-dev"
CNI_PACKAGE = "containernetworking-plugins"
ETCD_PACKAGES = ("etcd-server", "etcd-client")
LIBC_PACKAGES = ("libc6",)
IPTABLES_PACKAGES = (
    "iptables",
    "conntrack",
    "libip4tc2",
    "libip6tc2",
    "libxtables12",
    "libmnl0",
    "libnetfilter-conntrack3",
    "libnfnetlink0",
    "libnftnl11",
    "netbase",
)
DEBIAN_PACKAGES = (REFLECT2_PACKAGE, CNI_PACKAGE, *ETCD_PACKAGES, *LIBC_PACKAGES, *IPTABLES_PACKAGES)

# A change of these changes what is inside a bundle; the rest only decides when one is built.
RECIPE_FILES = ("recipe.py", "source.py", "build.py", "debs.py", "archive.py", "images.py", "repo.py")

_VERSION = re.compile(r"v1\.(\d+)\.(\d+)")


@dataclass(frozen=True, order=True, slots=True)
class KubernetesVersion:
    """A release this recipe can stamp."""

    minor: int
    patch: int

    @classmethod
    def parse(cls, text: str) -> KubernetesVersion:
        """Read "v1.20.2"; BundleError for anything else and for a minor the sources cannot stand in for."""
        found = _VERSION.fullmatch(text)
        if not found:
            raise BundleError(f"{text!r} is not a Kubernetes version; write it like v1.20.2")
        version = cls(int(found[1]), int(found[2]))
        if not SOURCE_MINOR <= version.minor <= NEWEST_STAND_IN:
            raise BundleError(
                f"{text}: Debian's source package is Kubernetes 1.{SOURCE_MINOR}; v1.{SOURCE_MINOR}.x to "
                f"v1.{NEWEST_STAND_IN}.x can be built from it. Give a bundle that has {text} with KOPS_BUNDLE=DIR"
            )
        return version

    def __str__(self) -> str:
        return f"v1.{self.minor}.{self.patch}"

    @property
    def plain(self) -> str:
        """Without the v, as package versions have it."""
        return f"1.{self.minor}.{self.patch}"

    @property
    def minor_name(self) -> str:
        """Name of the minor's package repository, "v1.20"."""
        return f"v1.{self.minor}"

    @property
    def package_version(self) -> str:
        """Version of the Debian packages, "1.20.2-1.1"."""
        return f"{self.plain}-{PACKAGE_REVISION}"


@dataclass(frozen=True, slots=True)
class Folders:
    """Where bundles and what they are built from are kept, outside of the repository."""

    bundles: Path
    build: Path

    @classmethod
    def from_environment(cls) -> Folders:
        """KOPS_BUNDLE_CACHE and KOPS_BUNDLE_BUILD_CACHE, else bundle/ and build/ in the user's cache."""
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kops-py"
        bundles = os.environ.get("KOPS_BUNDLE_CACHE")
        build = os.environ.get("KOPS_BUNDLE_BUILD_CACHE")
        return cls(
            bundles=Path(bundles).expanduser().resolve() if bundles else base / "bundle",
            build=Path(build).expanduser().resolve() if build else base / "build",
        )

    @property
    def tree(self) -> Path:
        """The Kubernetes sources, in the place GOPATH mode wants."""
        return self.build / "gopath" / "src" / "k8s.io" / "kubernetes"

    @property
    def debian(self) -> Path:
        """Debian packages as downloaded."""
        return self.build / "debian"

    @property
    def log(self) -> Path:
        """Output of all programs."""
        return self.build / "build.log"

    @property
    def lock(self) -> Path:
        """Held while a bundle is built."""
        return self.build / "lock"

    def bundle(self) -> Path:
        """The bundle that this recipe makes."""
        return self.bundles / recipe_key()


def digest(*parts: bytes | str) -> str:
    """A short hash of parts, each with its length."""
    total = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        total.update(f"{len(data)}:".encode())
        total.update(data)
    return total.hexdigest()[:16]


def source_digest(*names: str) -> str:
    """Hash of files and folders of this package, by name and content."""
    parts: list[bytes | str] = []
    for name in names:
        start = HERE / name
        files = [start] if start.is_file() else sorted(p for p in start.rglob("*") if p.is_file())
        for file in files:
            parts += [str(file.relative_to(HERE)), file.read_bytes()]
    return digest(*parts)


@functools.cache  # a file edited while a build runs must not split the bundle
def recipe_key() -> str:
    """Name of the bundle that this recipe makes; versions are added to it as they are asked for."""
    return source_digest(*RECIPE_FILES, "src")
