"""``python -m tests.pythons``: the unit tests under the Python of a newer Debian release, installed from the lock.

A base system of that release and a virtual environment made there from ``requirements.lock`` are kept in
``$KOPS_LAB_DIR/pythons`` (or ``~/.cache/kops-py/pythons``). Everything else happens in namespaces of its own, on
overlays in memory: neither the cache nor the checkout is written to, and no mount outlives the run.
"""

from __future__ import annotations

import configparser
import hashlib
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tests.lab.config import LabError
from tests.lab.network import archive_uris, resolver_file
from tests.lab.processes import run, wait_until
from tests.lab.rootfs import remove_tree
from tests.lab.state import file_lock
from tests.run import Result, count, say

ROOT = Path(__file__).resolve().parent.parent
# Raise it when PACKAGES or the way of installing change: older base systems and environments are then removed.
RECIPE = 1
PACKAGES = (
    "python3,python3-venv,ca-certificates,git,openssh-client,openssh-server,iproute2,procps,netbase,haproxy,busybox"
)
TOOLS = {"debootstrap": "debootstrap", "unshare": "util-linux", "setpriv": "util-linux", "git": "git"}
BUILD_TIMEOUT_S, INSTALL_TIMEOUT_S, TEST_TIMEOUT_S = 1200, 1800, 3600

# What tells pip how to reach its index. Only the installing steps get it; the tests do not.
_PIP_VARIABLES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
_NOT_FOR_PIP = {"PIP_CACHE_DIR", "PIP_TARGET", "PIP_PREFIX", "PIP_USER"}

# No compiler is there: a locked version without a wheel for this Python is an error that pip names.
_INSTALL = """
python3 -m venv --clear /venv
/venv/bin/python -m pip install -qq --disable-pip-version-check \\
  --require-hashes --only-binary=:all: -r /src/requirements.lock
"""
_CHECK = """
/venv/bin/python -m pip install -qq --disable-pip-version-check --no-deps /src
/venv/bin/python -m pip check
"""
_TEST = """
/venv/bin/kops-py --version
/venv/bin/python - "$1" <<'END'
import importlib.metadata, platform, sys
print(f"Python {platform.python_version()}, ansible-core {importlib.metadata.version('ansible-core')}", flush=True)
sys.exit(None if platform.python_version().startswith(sys.argv[1] + ".") else f"this is not Python {sys.argv[1]}")
END
cd /src
/venv/bin/python -m pytest -q -p no:cacheprovider -n 2 -m "not soak" --junitxml=/report/unit.xml tests/unit
"""


@dataclass(frozen=True, slots=True)
class System:
    """A Debian release and the Python it brings."""

    suite: str
    python: str


SYSTEMS = (System("trixie", "3.13"),)


@dataclass(frozen=True, slots=True)
class Room:
    """What one command sees: layers as root (the first on top), more trees laid over it, and directories bound in.

    What is written to ``overlays`` is lost; ``writable`` and ``readonly`` are the directories themselves.
    """

    layers: tuple[Path, ...]
    overlays: tuple[tuple[Path, str], ...] = ()
    writable: tuple[tuple[Path, str], ...] = ()
    readonly: tuple[tuple[Path, str], ...] = ()


def cache_dir() -> Path:
    """``$KOPS_LAB_DIR/pythons``, or ``~/.cache/kops-py/pythons``."""
    return (Path(os.environ.get("KOPS_LAB_DIR") or "~/.cache/kops-py").expanduser() / "pythons").absolute()


def unavailable_reason() -> str | None:
    """Why it cannot run here, or None when it can. Changes nothing on the machine."""
    if sys.platform != "linux":
        return f"it needs Linux; this is {sys.platform}"
    if os.geteuid() != 0:
        return "debootstrap and mounts need root: run it as root"
    missing = sorted({package for tool, package in TOOLS.items() if shutil.which(tool) is None})
    if missing:
        return f"missing on this machine: apt-get install {' '.join(missing)}"
    scripts = Path("/usr/share/debootstrap/scripts")
    unknown = [system.suite for system in SYSTEMS if not (scripts / system.suite).exists()]
    if unknown:
        return f"debootstrap of this machine does not know {', '.join(unknown)}: install a newer one"
    if "\toverlay" not in Path("/proc/filesystems").read_text():
        return "this kernel has no overlay file system: modprobe overlay"
    probe = subprocess.run(["unshare", "--mount", "--pid", "--fork", "true"], capture_output=True, text=True)
    return f"this machine lets nobody make namespaces: {probe.stderr.strip()}" if probe.returncode else None


# ------------------------------------------------------------------ a room and a command in it
def private(argv: Sequence[str]) -> list[str]:
    """The command in mount and process namespaces of its own: when we are killed, it all ends with us."""
    end_with_us = ["setpriv", "--pdeathsig", "KILL", "--"]
    namespaces = ["unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child=KILL"]
    return [*end_with_us, *namespaces, *argv]


def room_script(room: Room, work: Path) -> str:
    """Shell that builds the room on the empty directory ``work`` and runs its arguments in it."""
    root, lines = work / "root", [f"mount -t tmpfs -o mode=0755 kops-pythons {shlex.quote(str(work))}"]

    def overlay(lower: str, target: Path, number: int) -> None:
        upper, scratch = work / f"upper-{number}", work / f"work-{number}"
        lines.append(shlex.join(["mkdir", "-p", *map(str, (upper, scratch, target))]))
        options = f"lowerdir={lower},upperdir={upper},workdir={scratch}"
        lines.append(shlex.join(["mount", "-t", "overlay", "-o", options, "kops-pythons", str(target)]))

    def bind(source: Path, inside: str, *options: str) -> None:
        target = str(root / inside.lstrip("/"))
        lines.append(shlex.join(["mkdir", "-p", target]))
        lines.append(shlex.join(["mount", *options, str(source), target]))

    overlay(":".join(map(str, room.layers)), root, 0)
    lines.append(shlex.join(["mount", "-t", "proc", "proc", str(root / "proc")]))
    bind(Path("/sys"), "/sys", "--rbind")
    bind(Path("/dev"), "/dev", "--rbind")
    for number, (tree, inside) in enumerate(room.overlays, 1):
        overlay(str(tree), root / inside.lstrip("/"), number)
    for source, inside in room.writable:
        bind(source, inside, "--bind")
    for source, inside in room.readonly:
        bind(source, inside, "--bind", "-o", "ro")
    # not exec: process 1 of the namespace has to stay a shell, which collects what daemons leave behind
    lines.append(f'chroot {shlex.quote(str(root))} "$@"')
    return "\n".join(lines)


def run_in(room: Room, home: Path, script: str, argument: str, environment: dict[str, str], timeout_s: float) -> int:
    """Run a shell script in the room; its exit status. Raises LabError when it takes longer than ``timeout_s``."""
    work = home / "work"
    work.mkdir(exist_ok=True)
    inner = ["sh", "-euc", script, "sh", argument]
    argv = private(["sh", "-euc", room_script(room, work), "sh", *inner])
    usual = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}
    usual["HOME"] = str(Path.home())
    try:
        done = subprocess.run(argv, env=usual | environment, stdin=subprocess.DEVNULL, cwd="/", timeout=timeout_s)
    except subprocess.TimeoutExpired:
        raise LabError(f"not done after {timeout_s:.0f} s, ended it: {script.strip().splitlines()[-1]}") from None
    finally:
        wait_until(lambda: not mounts_left(home), 30)
        left = mounts_left(home)
        if left:
            raise LabError(f"still mounted: {', '.join(left)}")
    return done.returncode


def mounts_left(home: Path) -> list[str]:
    """Mount points below the directory in the mount namespace of any process of this machine."""
    found = set()
    for table in Path("/proc").glob("[0-9]*/mountinfo"):
        with suppress(OSError):  # that process has ended meanwhile
            points = [line.split()[4] for line in table.read_text().splitlines()]
            found |= {point for point in points if point.startswith(f"{home}/")}
    return sorted(found)


# ------------------------------------------------------------------ what pip needs of this machine
def pip_environment() -> dict[str, str]:
    """pip's own variables, proxies and certificates of this machine."""
    return {
        name: value
        for name, value in os.environ.items()
        if (name.startswith("PIP_") and name not in _NOT_FOR_PIP)
        or name in _PIP_VARIABLES
        or name.lower() in {"http_proxy", "https_proxy", "no_proxy", "all_proxy"}
    }


def pip_files() -> list[Path]:
    """The configuration files that pip reads on this machine."""
    home = Path.home()
    named = os.environ.get("PIP_CONFIG_FILE")
    paths = [Path("/etc/pip.conf"), Path("/etc/xdg/pip/pip.conf")]
    paths += [home / ".pip/pip.conf", home / ".config/pip/pip.conf", *([Path(named)] if named else [])]
    return [path for path in paths if path.is_file()]


def named_paths() -> list[Path]:
    """Files and directories of this machine that pip's configuration names: certificates, local indexes."""
    values = list(pip_environment().values())
    for path in pip_files():
        parser = configparser.RawConfigParser()
        parser.read(path)
        values += [value for section in parser.sections() for _, value in parser.items(section)]
    words = [word.removeprefix("file://") for value in values for word in value.split()]
    paths = [Path(word) for word in words if word.startswith("/")]
    # pages of a simple index lead to files beside it
    paths = [path.parent if path.name == "simple" else path for path in paths]
    return [path for path in dict.fromkeys(paths) if path.exists()]


def stage_machine(folder: Path) -> Path:
    """A tree with the files of this machine that make the network and pip work; directories stay where they are."""
    files = [*pip_files(), *(path for path in named_paths() if path.is_file())]
    files += [path for path in (Path("/etc/hosts"), Path("/etc/ssl/certs/ca-certificates.crt")) if path.is_file()]
    pairs = [(path, path) for path in files] + [(resolver_file(), Path("/etc/resolv.conf"))]
    for source, inside in pairs:
        target = folder / str(inside).lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, target)
    return folder


def stage_checkout(folder: Path) -> Path:
    """A copy of what belongs to the checkout, new files included, as a release would have it."""
    listed = run("git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard").stdout
    for name in filter(None, listed.split("\0")):
        source, target = ROOT / name, folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):  # deleted, and not committed yet
            shutil.copy(source, target, follow_symlinks=False)
    return folder


# ------------------------------------------------------------------ base system, environment, tests
def ensure_base(home: Path, system: System) -> Path:
    """The release's base system, built when it is not there. Raises LabError with the end of debootstrap's log."""
    base = home / f"{system.suite}-{RECIPE}"
    if base.is_dir():
        return base
    say(f"debootstrap {system.suite} (once)")
    for stale in home.glob(f"{system.suite}-*"):
        remove_tree(stale)
    build, log_file = base.with_name(base.name + ".tmp"), home / f"debootstrap-{system.suite}.log"
    argv = ["debootstrap", "--variant=minbase", f"--include={PACKAGES}", system.suite, str(build), archive_uris()[0]]
    with log_file.open("w") as log:
        done = subprocess.run(private(argv), stdin=subprocess.DEVNULL, stdout=log, stderr=log, timeout=BUILD_TIMEOUT_S)
    if done.returncode:
        tail = "\n".join(log_file.read_text().splitlines()[-8:])
        raise LabError(f"debootstrap of {system.suite}: exit {done.returncode}; end of {log_file}:\n{tail}")
    shutil.rmtree(build / "var/cache/apt", ignore_errors=True)
    build.rename(base)
    return base


def ensure_environment(home: Path, system: System, room: Room) -> Path:
    """A virtual environment with all of the lock, made when the lock has changed. Raises LabError when pip fails."""
    lock = (ROOT / "requirements.lock").read_bytes()
    digest = hashlib.sha256(lock + _INSTALL.encode()).hexdigest()[:16]
    environment = home / f"venv-{system.suite}-{RECIPE}-{digest}"
    if environment.is_dir():
        return environment
    say(f"installing requirements.lock under Python {system.python}")
    for stale in home.glob(f"venv-{system.suite}-*"):
        remove_tree(stale)
    build, downloads = environment.with_name(environment.name + ".tmp"), home / "pip"
    build.mkdir()
    downloads.mkdir(exist_ok=True)
    whole = Room(room.layers, room.overlays, ((build, "/venv"), (downloads, "/var/cache/pip")), room.readonly)
    variables = pip_environment() | {"PIP_CACHE_DIR": "/var/cache/pip"}
    if run_in(whole, home, _INSTALL, system.python, variables, INSTALL_TIMEOUT_S):
        raise LabError(f"requirements.lock does not install under Python {system.python}: pip says why above")
    build.rename(environment)
    return environment


def run_tests(home: Path, system: System, folder: Path) -> Result:
    """Install the project beside the lock and run the unit tests; how they ended."""
    started = time.monotonic()
    for name in ("machine", "src", "report"):
        (folder / name).mkdir(mode=0o755)
    machine, checkout = stage_machine(folder / "machine"), stage_checkout(folder / "src")
    base = ensure_base(home, system)
    indexes = tuple((path, str(path)) for path in named_paths() if path.is_dir())
    room = Room((machine, base), ((checkout, "/src"),), readonly=indexes)
    environment = ensure_environment(home, system, room)
    say(f"unit tests under Python {system.python} of {system.suite}")
    overlays = (*room.overlays, (environment, "/venv"))
    room = Room(room.layers, overlays, ((folder / "report", "/report"),), room.readonly)
    # the tests see nothing of pip's variables
    script = f"{_CHECK}\nunset {' '.join(pip_environment()) or 'PIP_CONFIG_FILE'}\n{_TEST}"
    code = run_in(room, home, script, system.python, pip_environment(), TEST_TIMEOUT_S)
    result = Result(f"Python {system.python}", code == 0, 0.0)
    report = folder / "report/unit.xml"
    if report.exists():
        count(report, result)
    result.ok = result.ok and result.counts["passed"] > 0
    result.duration_s = time.monotonic() - started
    return result


def main() -> int:
    """Run the unit tests under every Python of SYSTEMS: 0 all passed, 1 not, 2 it cannot run here."""
    reason = unavailable_reason()
    if reason:
        print(f"tests.pythons cannot run here: {reason}", file=sys.stderr)
        return 2
    home = cache_dir()
    home.mkdir(parents=True, exist_ok=True)
    results = []
    try:
        with file_lock(home / "lock", 60, "the run of tests.pythons"):
            for system in SYSTEMS:
                with tempfile.TemporaryDirectory(prefix="kops-py-pythons-") as folder:
                    results.append(run_tests(home, system, Path(folder)))
    except LabError as error:
        print(f"tests.pythons: {error}", file=sys.stderr)
        return 1
    for result in results:
        counted = ", ".join(f"{n} {kind}" for kind, n in sorted(result.counts.items())) or "nothing ran"
        print(f"{'ok  ' if result.ok else 'FAIL'} {result.name:<12} {result.duration_s:7.1f} s  {counted}")
    return 0 if all(result.ok for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
