"""What paramiko and the system raise, as errors a person can act on."""

from __future__ import annotations

import errno
import re
import shlex
import socket
from collections.abc import Sequence

from kops_py.connect.ssh_config import Target
from kops_py.model.errors import AuthenticationError, HostError, KopsError, UnreachableError

_TAIL_LINES = 5
_TAIL_CHARACTERS = 800
_SECRETS = re.compile(
    r"\b[a-z0-9]{6}\.[a-z0-9]{16}\b"  # a bootstrap token
    r"|(?<=certificate-key )[0-9a-f]{64}\b"
    r"|(?<=certificate-key=)[0-9a-f]{64}\b"
)


def short_command(argv: Sequence[str]) -> str:
    """Return the command on one line of at most 120 characters, a script by its first line."""
    words = [word.strip().splitlines()[0] + " ..." if "\n" in word.strip() else word for word in argv]
    text = _SECRETS.sub("<hidden>", shlex.join(words)).replace("\n", " ")
    return text if len(text) <= 120 else text[:117] + "..."


def tail(data: bytes) -> str:
    """Return the last lines of an output for an error; what looks like a join secret is hidden."""
    text = data[-8 * _TAIL_CHARACTERS :].decode("utf-8", "replace")
    lines = [line.rstrip() for line in text.splitlines() if line.strip()][-_TAIL_LINES:]
    return _SECRETS.sub("<hidden>", "\n".join(lines))[-_TAIL_CHARACTERS:]


def try_it(target: Target) -> str:
    """Return the ssh command that shows the same trouble by hand."""
    port = f"-p {target.port} " if target.port != 22 else ""
    jump = f"-J {target.via.user}@{target.via.address} " if isinstance(target.via, Target) else ""
    return f"ssh -v {jump}{port}{target.user}@{target.host} true"


def connecting_failed(error: BaseException, target: Target, timeout_s: float) -> KopsError:
    """Return why no connection came about; the kinds are told apart because each has another remedy."""
    from paramiko.ssh_exception import ChannelException, IncompatiblePeer, ProxyCommandFailure

    if isinstance(error, KopsError):
        return error
    what, hint = "no connection", f"try {try_it(target)}"
    said = str(error)
    why = f"{target.address}: {said or type(error).__name__}"
    if isinstance(error, socket.gaierror):
        what = f"the name {target.host} does not resolve"
        why = error.strerror or str(error)
        hint = f"correct ansible_host in the inventory, or see: getent hosts {target.host}"
    elif isinstance(error, TimeoutError):
        what = f"no connection within {timeout_s:g} s (timed out)"
        why = f"{target.address} {said or 'does not answer'}"
        hint = f"is the host up and port {target.port} not filtered? try {try_it(target)}"
    elif isinstance(error, ConnectionRefusedError):
        what, why = "connection refused", f"nothing listens on {target.address}"
        hint = f"is sshd running, and on port {target.port}? try {try_it(target)}"
    elif isinstance(error, OSError) and error.errno in {errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EHOSTDOWN}:
        what, why = "no route to host", f"{target.address}: {error.strerror}"
        hint = f"is the host up? see: ip route get {target.host}"
    elif isinstance(error, ChannelException):
        what = "the jump host does not reach it"
        why = f"{target.address}: {error.text}"
        hint = "is the host up, and does sshd of the jump host have AllowTcpForwarding? " + hint
    elif isinstance(error, IncompatiblePeer):
        what = "no common algorithm with sshd"
        hint = "the host's sshd is too old or restricted: update it, or allow a current algorithm in sshd_config"
    elif isinstance(error, ProxyCommandFailure):
        what = "the ProxyCommand failed"
    elif isinstance(error, (EOFError, ConnectionError)) or "banner" in said or "EOF" in said:
        what = "the connection was closed during the handshake"
        why = f"{target.address}: {said or 'end of stream'}"
        hint = "is it sshd that listens there, is the host still booting, is MaxStartups reached? " + hint
    return UnreachableError(what, where=target.label, why=why, hint=hint)


def login_refused(target: Target, tried: Sequence[str], allowed: Sequence[str]) -> AuthenticationError:
    """Return what was tried and what to do; kops-py offers keys only."""
    why = "; ".join(tried) or "there is no key to offer: no agent and no key file"
    hints: list[str] = []
    if any("passphrase" in note for note in tried):
        hints.append("load the key into an agent: eval $(ssh-agent) && ssh-add KEYFILE")
    if allowed and "publickey" not in allowed:
        why += f"; sshd allows only {', '.join(allowed)}"
        hints.append("kops-py logs in with keys only, never with a password: allow PubkeyAuthentication")
    else:
        hints.append(f"put a key in place: ssh-copy-id -p {target.port} {target.user}@{target.host}")
    return AuthenticationError(
        f"the login as {target.user} is refused", where=target.label, why=why, hint=" ; ".join(hints)
    )


def lost(label: str, command: str, error: BaseException | None) -> UnreachableError:
    """Return the error for a connection that broke while a command was running."""
    return UnreachableError(
        f"the connection was lost while {command} was running",
        where=label,
        why=f"whether the command ended, and how, is unknown{f' ({error})' if error and str(error) else ''}",
        hint="see whether the host is up, then run the same command again: what is done already is skipped",
    )


def unexpected(label: str, command: str, error: BaseException) -> KopsError:
    """Return anything else paramiko or the system raised, as an error of the host."""
    if isinstance(error, KopsError):
        return error
    return HostError(
        f"{command} could not be run",
        where=label,
        why=f"{type(error).__name__}: {error}",
        hint="run it again with -v",
    )
