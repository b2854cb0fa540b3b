"""The sources: Debian's own packages, fetched with a private apt configuration made from the machine's.

Nothing here names an archive: the entries of the machine's apt sources are copied at run time with
the type deb-src added, into folders of their own, so that no root and no change to the machine is needed.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

from tests.bundle import recipe
from tests.bundle.recipe import Folders
from tests.bundle.shell import BundleError, Progress, output, run

MACHINE_APT = Path("/etc/apt")
_TYPES = re.compile(r"^Types:.*$", re.MULTILINE | re.IGNORECASE)
_SUITES = re.compile(r"^Suites:(.*)$", re.MULTILINE | re.IGNORECASE)
_ONE_LINE = re.compile(r"^deb\s+((?:\[[^\]]*\]\s+)?)(\S+)\s+(\S+)\s+(.+)$")


def with_sources_deb822(text: str, codename: str) -> str:
    """The stanzas of a .sources file that are of that Debian release, each with the type deb-src added."""
    kept = []
    for stanza in re.split(r"\n\s*\n", text.strip()):
        suites = _SUITES.search(stanza)
        if not suites or not any(suite.startswith(codename) for suite in suites[1].split()):
            continue
        if re.search(r"^Enabled:\s*no\s*$", stanza, re.MULTILINE | re.IGNORECASE):
            continue
        kept.append(_TYPES.sub("Types: deb deb-src", stanza))
    return "".join(f"{stanza}\n\n" for stanza in kept)


def with_sources_one_line(text: str, codename: str) -> str:
    """The "deb" lines of a .list file that are of that Debian release, each followed by its deb-src twin."""
    kept = []
    for line in text.splitlines():
        found = _ONE_LINE.match(line.strip())
        if found and found[3].startswith(codename):
            rest = " ".join((found[1] + found[2], found[3], found[4]))
            kept += [f"deb {rest}", f"deb-src {rest}"]
    return "".join(f"{line}\n" for line in kept)


def codename() -> str:
    """The machine's Debian release by name."""
    for line in Path("/etc/os-release").read_text(encoding="utf-8").splitlines():
        if line.startswith("VERSION_CODENAME="):
            return line.partition("=")[2].strip('"')
    raise BundleError("/etc/os-release names no VERSION_CODENAME: a bundle can be built on Debian only")


class PrivateApt:
    """apt with sources, lists and caches of its own."""

    def __init__(self, folders: Folders, progress: Progress) -> None:
        self._folders = folders
        self._progress = progress
        self._root = folders.build / "apt"
        self._updated = False

    def _options(self) -> list[str]:
        options = {
            "Dir::Etc::sourcelist": "/dev/null",
            "Dir::Etc::sourceparts": str(self._root / "sources.d"),
            "Dir::State::lists": str(self._root / "lists"),
            "Dir::Cache": str(self._root / "cache"),
            "Dir::Cache::pkgcache": "pkgcache.bin",
            "Dir::Cache::srcpkgcache": "srcpkgcache.bin",
            "Acquire::Retries": "3",
        }
        if os.geteuid() == 0:  # the unprivileged download user cannot write below a private home
            options["APT::Sandbox::User"] = "root"
        return [word for key, value in options.items() for word in ("-o", f"{key}={value}")]

    def _write_sources(self) -> None:
        parts = self._root / "sources.d"
        shutil.rmtree(parts, ignore_errors=True)
        parts.mkdir(parents=True)
        (self._root / "lists" / "partial").mkdir(parents=True, exist_ok=True)
        (self._root / "cache" / "archives" / "partial").mkdir(parents=True, exist_ok=True)
        name = codename()
        machine = [MACHINE_APT / "sources.list", *sorted((MACHINE_APT / "sources.list.d").glob("*"))]
        for number, file in enumerate(file for file in machine if file.is_file()):
            text = file.read_text(encoding="utf-8", errors="replace")
            if file.suffix == ".sources":
                copied, ending = with_sources_deb822(text, name), "sources"
            elif file.suffix == ".list":
                copied, ending = with_sources_one_line(text, name), "list"
            else:
                continue
            if copied:
                (parts / f"{number:02}.{ending}").write_text(copied, encoding="utf-8")
        if not any(parts.iterdir()):
            raise BundleError(f"no entry for {name} in {MACHINE_APT}/sources.list or sources.list.d")

    def get(self, *arguments: str, what: str, cwd: Path) -> None:
        """apt-get with these arguments in that folder, after an update at the first call."""
        if not self._updated:
            self._write_sources()
            self._apt_get("update", what="package lists with sources (private apt)", cwd=self._root)
            self._updated = True
        self._apt_get(*arguments, what=what, cwd=cwd)

    def _apt_get(self, *arguments: str, what: str, cwd: Path) -> None:
        run(
            ["apt-get", "-q", *self._options(), *arguments],
            what=what,
            log=self._folders.log,
            progress=self._progress,
            cwd=cwd,
            env={"DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8"},
        )


def missing_on_machine() -> list[str]:
    """Debian packages that building needs and this machine lacks."""
    return sorted(
        {
            package
            for program, package in recipe.MACHINE_PACKAGES.items()
            if not (Path(program).exists() if program.startswith("/") else shutil.which(program))
        }
    )


def ready_machine(folders: Folders, progress: Progress) -> None:
    """Install what building needs, when root; else BundleError with the command to type."""
    missing = missing_on_machine()
    if not missing:
        return
    command = ["apt-get", "install", "-y", "--no-install-recommends", *missing]
    if os.geteuid() != 0:
        raise BundleError(f"packages are missing to build a bundle; type: sudo {' '.join(command)}")
    env = {"DEBIAN_FRONTEND": "noninteractive"}
    run(["apt-get", "-q", "update"], what="apt-get update", log=folders.log, progress=progress, env=env)
    what = f"installing on this machine: {' '.join(missing)}"
    run(command, what=what, log=folders.log, progress=progress, env=env, deadline_s=600)
    if still := missing_on_machine():
        raise BundleError(f"installed, and still not here: {' '.join(still)}; output in {folders.log}")


def fetch_packages(apt: PrivateApt, folders: Folders) -> None:
    """Download the Debian packages whose files go into packages and images; those here are kept."""
    folders.debian.mkdir(parents=True, exist_ok=True)
    missing = [name for name in recipe.DEBIAN_PACKAGES if not any(folders.debian.glob(f"{name}_*.deb"))]
    if missing:
        partial = folders.build / "debian.partial"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        apt.get("download", *missing, what=f"downloading {len(missing)} Debian packages", cwd=partial)
        for package in partial.glob("*.deb"):
            package.rename(folders.debian / package.name)


def unpack_package(folders: Folders, name: str) -> Path:
    """The files of a downloaded Debian package, as a folder."""
    (package, *_others) = sorted(folders.debian.glob(f"{name}_*.deb"))
    target = folders.build / "unpacked" / package.stem
    if not target.is_dir():
        partial = target.with_name(f"{target.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        output(["dpkg-deb", "-x", str(package), str(partial)], what=f"unpacking {name}")
        partial.rename(target)
    return target


def source_version(folders: Folders) -> str:
    """Debian's version of the unpacked sources."""
    first = (folders.tree / "debian" / "changelog").read_text(encoding="utf-8").partition("\n")[0]
    found = re.match(r"kubernetes \(([^)]+)\)", first)
    if not found:
        raise BundleError(f"{folders.tree}/debian/changelog does not begin with a version: {first!r}")
    return found[1]


def fetch_tree(apt: PrivateApt, folders: Folders, progress: Progress) -> None:
    """Download and unpack the Kubernetes source package; an unpacked one is kept."""
    if (folders.tree / "debian" / "changelog").is_file():
        return
    download = folders.build / "source"
    shutil.rmtree(download, ignore_errors=True)
    download.mkdir(parents=True)
    apt.get("--download-only", "source", "kubernetes", what="downloading the source package", cwd=download)
    (description,) = download.glob("kubernetes_*.dsc")
    partial = folders.tree.with_name("kubernetes.partial")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.rmtree(folders.tree, ignore_errors=True)
    partial.parent.mkdir(parents=True, exist_ok=True)
    run(
        ["dpkg-source", "--no-check", "-x", str(description), str(partial)],
        what="unpacking the source package",
        log=folders.log,
        progress=progress,
    )
    partial.rename(folders.tree)


def _replace_reflect2(folders: Folders) -> None:
    """Vendored reflect2 1.0.1 crashes with Go 1.18 and newer on pretty and YAML answers; 1.0.2 does not."""
    packaged = unpack_package(folders, recipe.REFLECT2_PACKAGE)
    new = packaged / "usr/share/gocode/src/github.com/modern-go/reflect2"
    old = folders.tree / "vendor/github.com/modern-go/reflect2"
    shutil.rmtree(old, ignore_errors=True)  # an interrupted run may have left none
    shutil.copytree(new, old)


def go_environment(folders: Folders) -> dict[str, str]:
    """GOPATH mode (module mode refuses the tree), static programs, caches below the build folder."""
    return {
        "GOPATH": str(folders.build / "gopath"),
        "GOCACHE": str(folders.build / "gocache"),
        "GO111MODULE": "off",
        "GOFLAGS": "",
        "CGO_ENABLED": "0",
        "PATH": f"{recipe.GO_BIN}:{os.environ.get('PATH', '/usr/bin:/bin')}",
    }


def openapi_folders(tree: Path) -> list[str]:
    """Go packages whose types ask for an OpenAPI description, as import paths."""
    found = set()
    for top in ("cmd", "pkg", "plugin", "staging/src/k8s.io", "test", "cluster"):
        for file in (tree / top).rglob("*.go"):
            if b"+k8s:openapi-gen=" in file.read_bytes():
                found.add(file.parent.relative_to(tree).as_posix().replace("staging/src/", "vendor/", 1))
    left_out = re.compile(r"/testdata|^vendor/k8s\.io/(code-generator|sample-apiserver|kube-openapi)(/|$)")
    return [f"k8s.io/kubernetes/{name}" for name in sorted(found) if not left_out.search(name)]


def _generate_openapi(folders: Folders, progress: Progress) -> None:
    """Write zz_generated.openapi.go, which the source package lacks and the API server needs."""
    tree, env = folders.tree, go_environment(folders)
    generator, report = folders.build / "bin" / "openapi-gen", folders.build / "violations.report"
    run(
        [
            "go",
            "build",
            "-p",
            "2",
            "-trimpath",
            "-buildvcs=false",
            "-o",
            str(generator),
            "./vendor/k8s.io/kube-openapi/cmd/openapi-gen",
        ],
        what="go build openapi-gen",
        log=folders.log,
        progress=progress,
        env=env,
        cwd=tree,
    )
    header = tree / "vendor/k8s.io/code-generator/hack/boilerplate.go.txt"
    run(
        [
            str(generator),
            "--logtostderr",
            "-i",
            ",".join(openapi_folders(tree)),
            "-p",
            "k8s.io/kubernetes/pkg/generated/openapi",
            "-O",
            "zz_generated.openapi",
            "-h",
            str(header),
            "-r",
            str(report),
        ],
        what="generating the OpenAPI description",
        log=folders.log,
        progress=progress,
        env=env,
        cwd=tree,
    )
    known = tree / "api/api-rules/violation_exceptions.list"
    if report.read_bytes() != known.read_bytes():
        raise BundleError(f"openapi-gen saw other types than upstream did: {report} differs from {known}")


def prepare(folders: Folders, progress: Progress) -> str:
    """Sources ready to compile; gives Debian's version of them. Done steps are not repeated."""
    ready_machine(folders, progress)
    apt = PrivateApt(folders, progress)
    fetch_packages(apt, folders)
    fetch_tree(apt, folders, progress)
    version = source_version(folders)
    stamp, wanted = folders.build / "prepared.json", {"source": version, "steps": ["reflect2", "openapi"]}
    if stamp.is_file() and json.loads(stamp.read_text(encoding="utf-8")) == wanted:
        return version
    _replace_reflect2(folders)
    _generate_openapi(folders, progress)
    stamp.write_text(json.dumps(wanted), encoding="utf-8")
    return version
