"""One run at a time on a cluster, as far as this machine can tell: a file lock that names its holder.

The kernel frees the lock when its holder dies, so a stale one cannot exist; what the file says is for people.
"""

from __future__ import annotations

import fcntl
import getpass
import json
import os
import socket
import time
from pathlib import Path
from typing import Any

from kops_py.model.errors import ConfigError, LockedError


class FileLock:
    """Holds ``<folder>/<cluster>.lock`` until released or until the process ends."""

    def __init__(self, folder: Path, cluster: str) -> None:
        self.path = folder / f"{cluster}.lock"
        self._descriptor: int | None = None

    def acquire(self, *, run_id: str, command: str) -> None:
        """Take the lock; raises LockedError naming the holder when somebody else has it, ConfigError."""
        try:
            for folder in (self.path.parent.parent, self.path.parent):  # mode is for the last folder only
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise ConfigError(
                "the lock file cannot be opened",
                where=str(self.path),
                why=error.strerror or str(error),
                hint="choose a folder of your own with --run-dir",
            ) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = _read_holder(descriptor)
            os.close(descriptor)
            raise LockedError(
                "another run works on this cluster",
                where=str(self.path),
                why=describe_holder(holder),
                hint="wait for it to end, or end that process and run the same command again",
            ) from None
        self._descriptor = descriptor
        body = json.dumps(
            {
                "pid": os.getpid(),
                "user": user_name(),
                "host": socket.gethostname(),
                "since_s": round(time.time(), 3),
                "run_id": run_id,
                "command": command,
            }
        ).encode()
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, body, 0)

    def release(self) -> None:
        """Give the lock back; safe to call when it is not held."""
        if self._descriptor is not None:
            os.ftruncate(self._descriptor, 0)
            os.close(self._descriptor)
            self._descriptor = None


class RunMark:
    """Says that a run goes on: a locked file ``alive`` in its folder, until released or until the process ends."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "alive"
        self._descriptor: int | None = None

    def hold(self) -> None:
        """Make and lock the file; raises OSError."""
        self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def release(self) -> None:
        """Remove the file; safe to call when it is not held."""
        if self._descriptor is not None:
            self._path.unlink(missing_ok=True)
            os.close(self._descriptor)
            self._descriptor = None

    @property
    def is_there(self) -> bool:
        """Whether the run holds its mark, or was killed and left it."""
        return self._path.exists()

    def remove(self) -> None:
        """Remove what a killed run left; only of one that is over. Raises OSError."""
        self._path.unlink(missing_ok=True)

    def is_over(self) -> bool:
        """Whether the run has ended, however: no process holds its mark. Raises OSError."""
        try:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return True
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        finally:
            os.close(descriptor)
        return True


def describe_holder(holder: dict[str, Any]) -> str:
    """Say in one sentence who holds a lock, from what its file says."""
    if not holder:
        return "its holder left no name"
    try:
        since = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(float(holder["since_s"])))
    except (KeyError, TypeError, ValueError, OverflowError, OSError):
        since = "?"
    return (
        f"held by {holder.get('user', '?')}@{holder.get('host', '?')}, process {holder.get('pid', '?')}, "
        f"since {since}, run {holder.get('run_id', '?')}: {holder.get('command', '?')}"
    )


def _read_holder(descriptor: int) -> dict[str, Any]:
    try:
        body = json.loads(os.pread(descriptor, 65536, 0))
    except (OSError, ValueError):
        return {}
    return body if isinstance(body, dict) else {}


def user_name() -> str:
    """Return who runs this program: the login name, or the number where there is none."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())
