"""Logging in with keys, in OpenSSH's order: the inventory's key, ssh_config's keys, then the agent's others."""

from __future__ import annotations

import base64
import binascii
import contextlib
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kops_py.connect.ssh_config import Target
from kops_py.connect.ssh_errors import login_refused

if TYPE_CHECKING:
    from paramiko import AgentKey, PKey, Transport

_OPENSSH_MAGIC = b"openssh-key-v1\0"


@dataclass
class _Attempt:
    """What was tried, in words, and what sshd says it would take."""

    notes: list[str] = field(default_factory=list)
    allowed: tuple[str, ...] = ()


def log_in(transport: Transport, target: Target) -> None:
    """Authenticate; raises AuthenticationError with everything that was tried, or what paramiko raises."""
    from paramiko.ssh_exception import AuthenticationException, BadAuthenticationType, SSHException

    attempt = _Attempt()
    with contextlib.ExitStack() as stack:
        agent_keys = stack.enter_context(_agent(target, attempt))
        for name, key in _candidates(target, agent_keys, attempt):
            try:
                more = transport.auth_publickey(target.user, key)
            except BadAuthenticationType as e:
                attempt.allowed = tuple(e.allowed_types)
                break
            except AuthenticationException as e:
                attempt.notes.append(f"{name} refused" if transport.is_active() else f"{name}: {e}")
            except SSHException as e:
                attempt.notes.append(f"{name}: {e}")
            else:
                if transport.is_authenticated():
                    return
                attempt.notes.append(f"{name} accepted")
                attempt.allowed = tuple(more)
                break
            if not transport.is_active():
                attempt.notes.append("sshd closed the connection (too many keys? name one with key_file)")
                break
    raise login_refused(target, attempt.notes, attempt.allowed)


@contextlib.contextmanager
def _agent(target: Target, attempt: _Attempt) -> Iterator[dict[bytes, AgentKey]]:
    """Yield the agent's keys by their public part; no agent is no error."""
    from paramiko.agent import AgentSSH
    from paramiko.ssh_exception import SSHException

    path = os.environ.get("SSH_AUTH_SOCK", "") if target.agent is None else target.agent
    keys: dict[bytes, AgentKey] = {}
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(10)
    agent: Any = AgentSSH()
    try:
        if path:
            try:
                connection.connect(path)
                agent._connect(connection)  # paramiko.Agent offers no way to name the socket (IdentityAgent)
                keys = {key.asbytes(): key for key in agent.get_keys()}
            except (OSError, SSHException) as e:
                attempt.notes.append(f"the agent at {path} does not answer ({e})")
        yield keys
    finally:
        connection.close()


def _candidates(target: Target, agent_keys: dict[bytes, AgentKey], attempt: _Attempt) -> Iterator[tuple[str, PKey]]:
    offered: set[bytes] = set()
    files = ([target.key_file] if target.key_file else []) + list(target.identity_files)
    for path in dict.fromkeys(files):
        public = _public_part(path)
        if public and public in agent_keys:
            if public not in offered:
                offered.add(public)
                yield f"key {path} (in the agent)", agent_keys[public]
            continue
        key = _load(path, attempt, named=path == target.key_file)
        if key is not None and key.asbytes() not in offered:
            offered.add(key.asbytes())
            yield f"key {path}", key
    if target.identities_only:
        return
    for blob, agent_key in agent_keys.items():
        if blob not in offered:
            yield f"agent key {agent_key.comment or agent_key.get_name()}", agent_key


def _load(path: Path, attempt: _Attempt, *, named: bool) -> PKey | None:
    """Return a private key (with its certificate when one lies beside it), or note why there is none."""
    from paramiko import PKey

    if not path.exists():
        if named:
            attempt.notes.append(f"key {path} does not exist")
        return None
    try:
        return PKey.from_path(path)
    except OSError as e:
        attempt.notes.append(f"key {path} cannot be read ({e.strerror})")
    except Exception as e:  # noqa: BLE001 - paramiko's and cryptography's loaders raise many kinds
        # cryptography raises TypeError or ValueError with "Password was not given" or "Key is password-protected"
        if "encrypted" in str(e) or "assword" in str(e):
            attempt.notes.append(f"key {path} has a passphrase and is not in the agent")
        else:
            attempt.notes.append(f"key {path} is not a private key that can be used ({e})")
    return None


def _public_part(path: Path) -> bytes | None:
    """Return the public part of a key file without its passphrase: the .pub beside it, or its own clear head."""
    with contextlib.suppress(OSError, ValueError, IndexError, binascii.Error):
        return base64.b64decode(Path(f"{path}.pub").read_text(encoding="ascii").split()[1], validate=True)
    with contextlib.suppress(OSError, ValueError, IndexError, binascii.Error):
        from paramiko.message import Message

        body = "".join(line for line in path.read_text(encoding="ascii").split("\n") if not line.startswith("-----"))
        data = base64.b64decode(body)
        if data.startswith(_OPENSSH_MAGIC):
            message = Message(data[len(_OPENSSH_MAGIC) :])
            for _ in range(3):  # cipher, key derivation, its options
                message.get_binary()
            if message.get_int() == 1:
                return message.get_binary()
    return None
