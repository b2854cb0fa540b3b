"""etcd of other Debian releases than this machine's: fetched with a private apt, unpacked, run where it lies.

Kept in ``$KOPS_LAB_DIR/etcd`` (or ``~/.cache/kops-py/etcd``). Nothing is installed, and no archive is named: the
addresses are those of this machine's own apt.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from tests.lab.network import archive_uris
from tests.lab.state import file_lock

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
PACKAGES = ("etcd-server", "etcd-client")
PROGRAMS = ("etcd", "etcdctl", "etcdutl")
SUITES = ("trixie", "sid")
"""3.5 both; Debian has no 3.6 anywhere (November 2026: not in sid, not in experimental)."""


class NoReleaseError(Exception):
    """The packages cannot be had here."""


def cache_dir() -> Path:
    return Path(os.environ.get("KOPS_LAB_DIR") or "~/.cache/kops-py").expanduser().absolute() / "etcd"


def programs(suite: str) -> Path:
    """Return a folder with etcd, etcdctl and etcdutl of a release; raises NoReleaseError."""
    target = cache_dir() / suite
    target.parent.mkdir(parents=True, exist_ok=True)
    with file_lock(target.with_suffix(".lock"), 900, "the packages of etcd"):
        if not target.is_dir():
            with tempfile.TemporaryDirectory(dir=target.parent) as folder:
                _fetch(suite, Path(folder))
                made = Path(folder) / "programs"
                made.mkdir()
                for name in PROGRAMS:
                    shutil.copy(Path(folder) / "root" / "usr" / "bin" / name, made / name)
                made.rename(target)
    done = subprocess.run([str(target / "etcd"), "--version"], capture_output=True, text=True, timeout=60)
    if done.returncode:
        raise NoReleaseError(f"etcd of {suite} does not run here: {done.stderr.strip()[-300:]}")
    return target


def version(folder: Path) -> str:
    """Return the version of the programs in a folder."""
    said = subprocess.run([str(folder / "etcd"), "--version"], capture_output=True, text=True, check=True, timeout=60)
    return said.stdout.split()[2]


def _fetch(suite: str, folder: Path) -> None:
    for name in ("lists/partial", "cache/archives/partial", "debs"):
        (folder / name).mkdir(parents=True)
    (folder / "status").write_text("")
    release = next(uri for uri in archive_uris() if "security" not in uri)
    (folder / "sources.list").write_text(f"deb [signed-by={KEYRING}] {release} {suite} main\n")
    options = {
        "Dir::Etc::sourcelist": folder / "sources.list", "Dir::Etc::sourceparts": "-", "Dir::State": folder,
        "Dir::State::lists": folder / "lists", "Dir::State::status": folder / "status",
        "Dir::Cache": folder / "cache", "Acquire::Languages": "none", "Acquire::Retries": "3",
        "APT::Sandbox::User": "root",
    }  # fmt: skip
    apt = ["apt-get", "-qq", *(w for k, v in options.items() for w in ("-o", f"{k}={v}"))]
    _run([*apt, "update"], folder)
    _run([*apt, "download", *PACKAGES], folder / "debs")
    for package in sorted((folder / "debs").glob("*.deb")):
        _run(["dpkg-deb", "-x", str(package), str(folder / "root")], folder)


def _run(argv: list[str], folder: Path) -> None:
    try:
        done = subprocess.run(argv, cwd=folder, capture_output=True, text=True, timeout=600)
    except OSError as error:
        raise NoReleaseError(str(error)) from None
    if done.returncode:
        raise NoReleaseError(f"{argv[0]} {argv[-1]}: {done.stderr.strip()[-300:]}")
