"""What the labs remember on disk: one registry for all of them, one state file for each, and file locks."""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

from .config import LabConfig, LabError


class NodeState(TypedDict):
    ip: str
    uuid: str
    layers: list[str]
    mem_bytes: int | None
    disk_bytes: int | None


class ServeState(TypedDict):
    directory: str
    port: int


class LabState(TypedDict):
    octet: int
    nodes: dict[str, NodeState]
    swarm_size: int
    serve: ServeState | None


class Registry(TypedDict):
    labs: dict[str, int]  # name → second octet of the network
    sysctls: dict[str, str]  # what the machine had before the first lab


class Hierarchy(NamedTuple):
    """A mounted cgroup hierarchy: where, our own cgroup in it, and its controllers (None for version 2)."""

    mountpoint: str
    own: str
    controllers: str | None


def read_json(path: Path) -> Any:
    """The file's content, or None when it is absent or was cut short."""
    try:
        return json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return None


def write_json(path: Path, value: Any) -> None:
    """Replace the file in one step, so that a reader or a kill never sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    temporary.write_text(json.dumps(value, indent=1))
    temporary.replace(path)


def load_state(config: LabConfig) -> LabState | None:
    state: LabState | None = read_json(config.state_file)
    return state


def save_state(config: LabConfig, state: LabState) -> None:
    write_json(config.state_file, state)


def load_registry(home: Path) -> Registry:
    registry: Registry | None = read_json(home / "registry.json")
    return registry or {"labs": {}, "sysctls": {}}


def save_registry(home: Path, registry: Registry) -> None:
    write_json(home / "registry.json", registry)


@contextmanager
def file_lock(path: Path, timeout_s: float, what: str) -> Iterator[None]:
    """Hold the lock file exclusively; the kernel releases it when the process dies, however it dies.

    Not re-entrant. Raises LabError when somebody else holds it for longer than `timeout_s`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + timeout_s
    with path.open("a") as handle:
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > end:
                    raise LabError(
                        f"{what} is busy: another process holds {path} for more than {timeout_s:.0f} s"
                    ) from None
                time.sleep(0.05)
        yield
