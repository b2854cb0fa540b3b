"""known_hosts files: who is who, and the refusal that says which command would accept a key.

paramiko's own reader knows neither wildcards nor the markers @revoked and @cert-authority, and its client looks at
the first key only; the format is in sshd(8), "SSH_KNOWN_HOSTS FILE FORMAT".
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import fcntl
import fnmatch
import hashlib
import hmac
import os
import secrets
import shlex
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from kops_py.connect.ssh_config import Target
from kops_py.model.errors import HostKeyError


class PublicKey(Protocol):
    """What is needed of paramiko's PKey."""

    def get_name(self) -> str:
        """Return the key type."""

    def asbytes(self) -> bytes:
        """Return the public part as on the wire."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One line: the key that the hosts matching ``patterns`` show (or, revoked, must not show)."""

    path: Path
    line: int
    marker: str
    patterns: str
    key_type: str
    blob: bytes

    def matches(self, name: str) -> bool:
        """Whether the line is about this name."""
        if self.patterns.startswith("|1|"):
            return _hash_matches(self.patterns, name)
        wanted = False
        for pattern in self.patterns.lower().split(","):
            if pattern.startswith("!"):
                if _glob(pattern[1:], name):
                    return False
            elif _glob(pattern, name):
                wanted = True
        return wanted


def _glob(pattern: str, name: str) -> bool:
    # only * and ? are special to OpenSSH; [ opens "[host]:port"
    return fnmatch.fnmatchcase(name, pattern.replace("[", "[[]"))


def _hash_matches(pattern: str, name: str) -> bool:
    try:
        _, _, salt, digest = pattern.split("|")
        expected = base64.b64decode(digest)
        found = hmac.new(base64.b64decode(salt), name.encode(), hashlib.sha1).digest()
    except (ValueError, binascii.Error):
        return False
    return hmac.compare_digest(expected, found)


def hashed(name: str) -> str:
    """Return the name as HashKnownHosts writes it (HMAC-SHA1 is the format's, not a choice)."""
    salt = secrets.token_bytes(20)
    digest = hmac.new(salt, name.encode(), hashlib.sha1).digest()
    return f"|1|{base64.b64encode(salt).decode()}|{base64.b64encode(digest).decode()}"


def parse(path: Path) -> tuple[Entry, ...]:
    """Read one file; what is not an entry is passed over, a file that does not exist is empty. Raises OSError."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return ()
    entries: list[Entry] = []
    for number, line in enumerate(lines, 1):
        words = line.split()
        marker = words.pop(0) if words and words[0].startswith("@") else ""
        if len(words) < 3 or words[0].startswith("#"):
            continue
        with contextlib.suppress(binascii.Error, ValueError):
            entries.append(Entry(path, number, marker, words[0], words[1], base64.b64decode(words[2], validate=True)))
    return tuple(entries)


def names_of(target: Target) -> tuple[str, ...]:
    """Return the names a key of this host may stand under; the first is the one that is written."""
    if target.host_key_alias:
        return (target.host_key_alias.lower(),)
    host = target.host.lower()
    # OpenSSH looks without the port second: a matching key there is good
    return (host,) if target.port == 22 else (f"[{host}]:{target.port}", host)


def fingerprint(key: PublicKey) -> str:
    """Return the SHA-256 fingerprint as ssh-keygen -l prints it."""
    return "SHA256:" + base64.b64encode(hashlib.sha256(key.asbytes()).digest()).decode().rstrip("=")


class KnownHosts:
    """Checks host keys against the files of each target; thread-safe."""

    def __init__(self, *, accept_new: bool, log: Callable[[str], None]) -> None:
        self._accept_new = accept_new
        self._log = log
        self._lock = threading.Lock()
        self._cache: dict[Path, tuple[tuple[int, int], tuple[Entry, ...]]] = {}

    def key_types(self, target: Target) -> tuple[str, ...]:
        """Return the types of the keys on record, so that the server is asked for one of these first."""
        return tuple(dict.fromkeys(e.key_type for e in self._records(target) if not e.marker))

    def check(self, target: Target, key: PublicKey) -> None:
        """Let the host pass or raise HostKeyError; an unknown key is recorded where that was asked for."""
        blob = key.asbytes()
        records = self._records(target)
        if any(e.marker == "@revoked" and e.blob == blob for e in self._all(target)):
            raise HostKeyError(
                "the host shows a key that is marked as revoked",
                where=target.label,
                why=f"{key.get_name()} {fingerprint(key)}",
                hint="do not connect until you know why; give the host a new key",
            )
        plain = [e for e in records if not e.marker]
        if any(e.blob == blob for e in plain):
            return
        first = names_of(target)[0]
        changed = [e for e in plain if e.matches(first)]
        if changed:
            raise _changed(target, key, changed[0])
        if not (self._accept_new or target.accept_new_host_key):
            raise _unknown(target, key)
        self._record(target, key)

    def _records(self, target: Target) -> list[Entry]:
        names = names_of(target)
        return [e for e in self._all(target) if any(e.matches(name) for name in names)]

    def _all(self, target: Target) -> Iterator[Entry]:
        for path in (*target.user_known_hosts, *target.global_known_hosts):
            yield from self._read(path, target)

    def _read(self, path: Path, target: Target) -> tuple[Entry, ...]:
        try:
            status = path.stat()
            stamp = (status.st_mtime_ns, status.st_size)
            with self._lock:
                cached = self._cache.get(path)
            if cached and cached[0] == stamp:
                return cached[1]
            entries = parse(path)
        except FileNotFoundError:
            return ()
        except OSError as e:
            raise HostKeyError(
                "the known host keys cannot be read",
                where=target.label,
                why=f"{path}: {e.strerror}",
                hint=f"ls -l {path}",
            ) from e
        with self._lock:
            self._cache[path] = (stamp, entries)
        return entries

    def _record(self, target: Target, key: PublicKey) -> None:
        """Add the key to the first file of the user, in one move, 0600."""
        path = target.user_known_hosts[0] if target.user_known_hosts else Path("/dev/null")
        name = names_of(target)[0]
        label = hashed(name) if target.hash_known_hosts else name
        line = f"{label} {key.get_name()} {base64.b64encode(key.asbytes()).decode()}\n"
        if path.exists() and not path.is_file():
            self._log(f"{target.label}: accepted unknown {key.get_name()} {fingerprint(key)}; {path} keeps no record")
            return
        try:
            with self._lock:
                append_line(path, line)
        except OSError as e:
            raise HostKeyError(
                "the accepted host key cannot be recorded",
                where=target.label,
                why=f"{path}: {e}",
                hint=f"ls -ld {path}",
            ) from e
        self._log(f"{target.label}: recorded {key.get_name()} {fingerprint(key)} in {path}")


def append_line(path: Path, line: str) -> None:
    """Write the file anew with one more line: beside it, flushed, renamed; other runs are locked out."""
    path = path.resolve()  # a symbolic link stays one
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        old, owner = b"", None
        with contextlib.suppress(FileNotFoundError):
            old = path.read_bytes()
            owner = path.stat()
        if old and not old.endswith(b"\n"):
            old += b"\n"
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # created 0600
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(old + line.encode())
                file.flush()
                os.fsync(file.fileno())
            if owner is not None and (owner.st_uid, owner.st_gid) != (os.geteuid(), os.getegid()):
                os.chown(name, owner.st_uid, owner.st_gid)  # under sudo the file stays its owner's
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
        os.fsync(folder)
    finally:
        os.close(folder)


def _unknown(target: Target, key: PublicKey) -> HostKeyError:
    file = shlex.quote(str(target.user_known_hosts[0] if target.user_known_hosts else "~/.ssh/known_hosts"))
    name = names_of(target)[0]
    if target.via is not None or target.host_key_alias:
        # ssh-keyscan can neither pass a jump host nor write an alias
        line = f"{name} {key.get_name()} {base64.b64encode(key.asbytes()).decode()}"
        command = f"echo {shlex.quote(line)} >> {file}"
    else:
        port = f"-p {target.port} " if target.port != 22 else ""
        command = f"ssh-keyscan {port}-t {_keyscan_type(key)} {shlex.quote(target.host)} >> {file}"
    return HostKeyError(
        "the host key is unknown",
        where=target.label,
        why=f"{name} shows {key.get_name()} {fingerprint(key)}, which is in none of "
        + ", ".join(map(str, target.user_known_hosts + target.global_known_hosts)),
        hint="compare the fingerprint with the host's own (ssh-keygen -lf /etc/ssh/ssh_host_*_key.pub), "
        f"then: {command} ; or run again with --accept-new-host-keys",
    )


def _changed(target: Target, key: PublicKey, entry: Entry) -> HostKeyError:
    name = names_of(target)[0]
    return HostKeyError(
        "the host key has CHANGED: this is another machine, a reinstalled one, or somebody in between",
        where=target.label,
        why=f"{name} shows {key.get_name()} {fingerprint(key)}, on record is another in {entry.path}:{entry.line}",
        hint="find out why; if the host was reinstalled: "
        f"ssh-keygen -f {shlex.quote(str(entry.path))} -R {shlex.quote(name)} ; then accept the new key",
    )


def _keyscan_type(key: PublicKey) -> str:
    name = key.get_name()
    return "ecdsa" if name.startswith("ecdsa") else name.removeprefix("ssh-")
