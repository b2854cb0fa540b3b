"""Secrets behind references; nothing here ever shows one."""

from __future__ import annotations

import os
import shlex
import signal
import stat
import subprocess
from pathlib import Path

from kops_py.model.errors import ConfigError
from kops_py.model.spec import SecretRef

_COMMAND_DEADLINE_S = 30.0
_MOST_BYTES = 64 * 1024


def resolve(reference: SecretRef, *, deadline_s: float = _COMMAND_DEADLINE_S, lines: bool = False) -> str:
    """Return the secret a reference stands for, without its last line break; ``lines`` allows more than one.

    ``cmd:`` is split into words as a shell would, but run without one, and ended after ``deadline_s``. Raises
    ConfigError that names the reference, never the secret.
    """
    if reference.kind == "env":
        secret = _from_environment(reference)
    elif reference.kind == "file":
        secret = _from_file(reference)
    elif reference.kind == "cmd":
        secret = _from_command(reference, deadline_s)
    else:
        raise ConfigError("a secret is given as env:NAME, file:PATH or cmd:COMMAND", where=reference.kind)
    secret = secret.removesuffix("\n").removesuffix("\r")
    if not secret:
        raise ConfigError("the secret is empty", where=str(reference))
    if ("\n" in secret and not lines) or "\0" in secret:
        raise ConfigError("the secret has more than one line", where=str(reference))
    return secret


def _from_environment(reference: SecretRef) -> str:
    secret = os.environ.get(reference.target)
    if secret is None:
        raise ConfigError(
            f"environment variable {reference.target} is not set",
            where=str(reference),
            hint=f"read -rs {reference.target} && export {reference.target}",
        )
    return secret


def _from_file(reference: SecretRef) -> str:
    path = Path(reference.target).expanduser()
    where = str(reference)
    try:
        with path.open("rb") as stream:
            status = os.fstat(stream.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise ConfigError("this is not a regular file", where=where)
            if status.st_mode & stat.S_IRWXO:
                raise ConfigError(
                    "the file can be read by everybody on this machine",
                    where=where,
                    why=f"its mode is {stat.S_IMODE(status.st_mode):04o}",
                    hint=f"chmod 600 {shlex.quote(str(path))}",
                )
            data = stream.read(_MOST_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else None
        raise ConfigError("the file of a secret cannot be read", where=where, why=reason or "bad path") from None
    return _decode(data, where)


def _from_command(reference: SecretRef, deadline_s: float) -> str:
    where = str(reference)
    by_hand = f"try it by hand: {reference.target}"
    try:
        argv = shlex.split(reference.target)
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    except (OSError, ValueError, IndexError) as error:
        reason = error.strerror if isinstance(error, OSError) else None
        raise ConfigError("the command of a secret cannot run", where=where, why=reason or "bad command") from None
    try:
        data, _ = process.communicate(timeout=deadline_s)
    except subprocess.TimeoutExpired:
        raise ConfigError(
            f"the command of a secret did not end within {deadline_s:g} s", where=where, hint=by_hand
        ) from None
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        if process.stdout is not None:
            process.stdout.close()
    if process.returncode != 0:
        # Its output is not repeated: it may hold the secret.
        raise ConfigError(
            "the command of a secret failed", where=where, why=f"exit status {process.returncode}", hint=by_hand
        )
    return _decode(data, where)


def _decode(data: bytes, where: str) -> str:
    if len(data) > _MOST_BYTES:
        raise ConfigError(f"the secret is longer than {_MOST_BYTES // 1024} KiB", where=where)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise ConfigError("the secret is not UTF-8 text", where=where) from None
