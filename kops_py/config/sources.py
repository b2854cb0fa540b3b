"""Which files are meant: the inventory's sources and the cluster file."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from kops_py.config.problems import Place, Problems

HOSTS_NAMES = (
    "hosts.yaml",
    "hosts.yml",
    "hosts.ini",
    "inventory.ini",
    "inventory.yaml",
    "inventory.yml",
    "hosts",
)
CLUSTER_NAME = "cluster.yaml"

# What Ansible leaves out of a directory inventory (INVENTORY_IGNORE_EXTS and the names it always ignores).
_IGNORED = re.compile(
    r"^\.|^(host_vars|group_vars|vars_plugins)$|~$|\.(pyc|pyo|swp|bak|rpm|md|txt|rst|orig|cfg|retry)$"
)


@dataclass(frozen=True, slots=True)
class Files:
    """The files of one cluster; ``sources`` is what Ansible is given, ``scanned`` every file behind them."""

    inventory: Path
    sources: tuple[Path, ...]
    scanned: tuple[Path, ...]
    cluster: Path

    @property
    def variable_folders(self) -> tuple[Path, ...]:
        """Return the folders that may hold group_vars and host_vars, each once."""
        folders = [path if path.is_dir() else path.parent for path in (*self.sources, *self.scanned)]
        return tuple(dict.fromkeys(folders))


def find_files(inventory: Path | None, cluster: Path | None) -> Files:
    """Find the files of a cluster.

    ``inventory`` None means the current folder; a folder means the hosts file in it, or, when it has none, the
    folder as an Ansible directory inventory; cluster.yaml stands beside the hosts file. Raises ConfigError.
    """
    problems = Problems()
    given = inventory if inventory is not None else Path()
    if "\0" in str(given) or "\0" in str(cluster or ""):
        problems.fail(Place(repr(str(given))), "a path cannot hold a NUL byte")
    try:
        if not given.exists():
            problems.fail(Place(str(given)), "there is no such inventory", hint="kops-py init DIR writes an example")
        if given.is_dir():
            return _in_folder(given, cluster, given_by_user=inventory is not None, problems=problems)
    except OSError as error:
        problems.fail(Place(str(given)), "cannot be read", why=error.strerror or str(error))
    return Files(given, (given,), (given,), cluster or given.parent / CLUSTER_NAME)


def _in_folder(folder: Path, cluster: Path | None, *, given_by_user: bool, problems: Problems) -> Files:
    found = [folder / name for name in HOSTS_NAMES if (folder / name).is_file()]
    if len(found) > 1:
        names = " and ".join(path.name for path in found)
        problems.fail(Place(str(folder)), f"this folder holds {names}", hint=f"name one: -i {found[0]}")
    beside = cluster or folder / CLUSTER_NAME
    if found:
        return Files(found[0], (found[0],), (found[0],), beside)
    sources = [path for path in sorted(folder.iterdir()) if _is_source(path, beside)] if given_by_user else []
    if not sources:
        problems.fail(
            Place(str(folder)),
            "there is no inventory in this folder",
            hint=f"name it with -i; looked for {', '.join(HOSTS_NAMES)}",
        )
    scanned = [path for source in sources for path in _files_below(source)]
    if cluster is None and not beside.exists() and (folder.parent / CLUSTER_NAME).is_file():
        beside = folder.parent / CLUSTER_NAME
    return Files(folder, tuple(sources), tuple(scanned), beside)


def _is_source(path: Path, cluster: Path) -> bool:
    return _IGNORED.search(path.name) is None and path.name != CLUSTER_NAME and path != cluster


def _files_below(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    found = []
    for folder, folders, files in os.walk(path):
        folders[:] = sorted(name for name in folders if _IGNORED.search(name) is None)
        found += [Path(folder, name) for name in sorted(files) if _IGNORED.search(name) is None]
    return found
