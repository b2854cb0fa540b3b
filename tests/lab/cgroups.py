"""Each node's own subtree in every cgroup hierarchy of the machine (version 1 or hybrid)."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

from .config import LabConfig
from .processes import wait_until
from .state import Hierarchy

_RECORD = "cgroups.json"


def hierarchies() -> list[Hierarchy]:
    """Every cgroup hierarchy that is mounted below /sys/fs/cgroup, with our own place in it."""
    own = {}
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        own[controllers] = path
    found = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields = line.split()
        separator = fields.index("-")
        mountpoint, fs, options = fields[4], fields[separator + 1], fields[separator + 3].split(",")
        if not mountpoint.startswith("/sys/fs/cgroup"):
            continue
        if fs == "cgroup2":
            found.append(Hierarchy(mountpoint, own.get("", "/"), None))
        elif fs == "cgroup":
            found += [
                Hierarchy(mountpoint, path, controllers)
                for controllers, path in own.items()
                if controllers and set(controllers.split(",")) <= set(options)
            ]
    return found


def create(config: LabConfig, node: str, mem_bytes: int | None) -> None:
    """Make the node's cgroups, limit its memory, and record the paths.

    The record is needed because whoever cleans up may itself sit in another cgroup than we do.
    """
    made = []
    for hierarchy in hierarchies():
        parent = Path(hierarchy.mountpoint + hierarchy.own.rstrip("/")) / config.cgroup
        path = parent / node
        _make_both(parent, path)
        if hierarchy.controllers == "cpuset":
            for directory in (parent, path):
                _inherit_cpuset(directory)
        if hierarchy.controllers == "memory" and mem_bytes:
            (path / "memory.limit_in_bytes").write_text(str(mem_bytes))
        made.append([str(path), hierarchy.controllers])
    (config.node_dir(node) / _RECORD).write_text(json.dumps(made))


def _make_both(parent: Path, path: Path) -> None:
    def made() -> bool:
        try:
            parent.mkdir(exist_ok=True)
            path.mkdir(exist_ok=True)
        except FileNotFoundError:  # another node's end has just removed the parent
            return False
        return True

    if not wait_until(made, 5):
        path.mkdir()  # its error says why


def _inherit_cpuset(directory: Path) -> None:
    """A version 1 cpuset takes no process until it has processors and memory nodes."""
    for name in ("cpuset.cpus", "cpuset.mems"):
        if not (directory / name).read_text().strip():
            (directory / name).write_text((directory.parent / name).read_text())
    (directory / "cgroup.clone_children").write_text("1")


def recorded(config: LabConfig, node: str) -> list[tuple[str, str | None]]:
    try:
        return [(path, ctl) for path, ctl in json.loads((config.node_dir(node) / _RECORD).read_text())]
    except (OSError, ValueError):
        return []


def join(config: LabConfig, node: str) -> None:
    for path, _ in recorded(config, node):
        (Path(path) / "cgroup.procs").write_text(str(os.getpid()))


def _remove_tree(top: Path) -> bool:
    for directory, _, _ in os.walk(top, topdown=False):
        try:
            os.rmdir(directory)  # noqa: PTH106 - os.walk gives text
        except OSError:
            continue  # busy for another moment
    return not top.is_dir()


def remove(config: LabConfig, node: str, timeout_s: float = 5) -> list[str]:
    """Remove the node's cgroups; returns those that are still busy after `timeout_s`."""
    end = time.monotonic() + timeout_s
    left = []
    for path, _ in recorded(config, node):
        top = Path(path)
        if not wait_until(lambda top=top: _remove_tree(top), max(0.1, end - time.monotonic())):  # type: ignore[misc]
            left.append(path)
        try:
            top.parent.rmdir()  # the last node takes the lab's own directory with it
        except OSError:
            continue
    return left


def find_all(config: LabConfig) -> list[Path]:
    """Every cgroup directory of this lab on the machine, whichever cgroup it was made from."""
    found = []
    for directory, names, _ in os.walk("/sys/fs/cgroup"):
        if config.cgroup in names:
            found.append(Path(directory) / config.cgroup)
            names.remove(config.cgroup)
    return found


def remove_all(config: LabConfig, timeout_s: float = 10) -> None:
    for top in find_all(config):
        wait_until(lambda top=top: _remove_tree(top), timeout_s)  # type: ignore[misc]


def memory_use(config: LabConfig, node: str) -> tuple[int, int, int] | None:
    """Bytes of (resident and mapped, page cache, kernel) memory of a running node."""
    for path, controllers in recorded(config, node):
        if controllers == "memory":
            try:
                stat = dict(line.split() for line in (Path(path) / "memory.stat").read_text().splitlines())
                kernel = int((Path(path) / "memory.kmem.usage_in_bytes").read_text())
            except OSError:
                return None
            return int(stat["total_rss"]) + int(stat["total_mapped_file"]), int(stat["total_cache"]), kernel
    return None
