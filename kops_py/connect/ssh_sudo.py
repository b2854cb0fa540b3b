"""Becoming root, certain of where sudo ends and the command begins.

Two marks on standard error decide everything, never a guess:

* sudo's prompt is a mark of ours; the password is sent when, and only when, it appears. So it is right whether
  sudo asks, has a cached timestamp, or has NOPASSWD: sent blindly, the password would become the first line of the
  command's input in the last two cases (``sudo -k`` cures only the first of them).
* the command is started by a small sh that prints a second mark; only then its own input is sent, so that a second
  prompt (a wrong password) can never swallow it, and what sudo or PAM said before (lectures) is cut off.
"""

from __future__ import annotations

import re
import secrets
import shlex
from collections.abc import Callable, Sequence

from kops_py.connect.ssh_errors import tail
from kops_py.model.errors import SudoError

SUDO_LIMIT_S = 30.0
"""How long sudo may take to start a command; PAM waits about 2 s after a wrong password."""

_MOST_BEFORE_START = 64 * 1024


class SudoStream:
    """The standard error of one command under sudo: takes sudo's part out of it and answers the prompt."""

    def __init__(self, argv: Sequence[str], password: str | None) -> None:
        word = secrets.token_hex(8)
        self._prompt = f"[kops-py {word}] password:".encode()
        self._start = f"kops-py {word} starts\n".encode()
        self._password = password
        self._before = b""
        self._prompts = 0
        self.started = False
        self.refused_password = False
        script = f'LC_ALL=C; export LC_ALL; echo {shlex.quote(self._start.decode().strip())} >&2; exec "$@"'
        ask = ["-n"] if password is None else ["-S", "-p", self._prompt.decode()]
        self.argv: tuple[str, ...] = ("sudo", *ask, "--", "sh", "-c", script, "sh", *argv)

    def feed(self, data: bytes, send: Callable[[bytes], None]) -> bytes:
        """Take a piece of standard error; return what of it is the command's own."""
        if self.started:
            return data
        self._before += data
        before, found, after = self._before.partition(self._start)
        if found:
            self.started = True
            self._before = before
            return after
        if self._before.count(self._prompt) > self._prompts:
            self._prompts += 1
            if self._prompts == 1 and self._password is not None:
                send(self._password.encode() + b"\n")
            else:
                self.refused_password = True
        if len(self._before) > _MOST_BEFORE_START:
            self._before = self._before[-_MOST_BEFORE_START // 2 :]
        return b""

    def failure(self, label: str, user: str) -> SudoError:
        """Return why the command was never started."""
        said = tail(self._before.replace(self._prompt, b""))
        what, hint = _explain(said, user, self.refused_password, self._password is not None)
        return SudoError(what, where=label, why=said, hint=hint)


def _explain(said: str, user: str, refused: bool, has_password: bool) -> tuple[str, str]:
    nopasswd = f"allow it on the host: echo '{user} ALL=(ALL) NOPASSWD: ALL' > /etc/sudoers.d/{user}"
    if refused or "incorrect password" in said:
        return "sudo refuses the password", "correct what ssh.become_password in cluster.yaml refers to"
    if "password is required" in said or "terminal is required" in said:
        return f"sudo wants a password of {user}", f"set ssh.become_password in cluster.yaml, or {nopasswd}"
    if "not in the sudoers" in said or "not allowed to" in said or "may not run sudo" in said:
        return f"{user} may not become root", nopasswd
    if "must have a tty" in said:
        return "sudo wants a terminal", f"put 'Defaults:{user} !requiretty' into /etc/sudoers.d/{user}"
    if re.search(r"sudo\W*: .*(not found|No such file)", said):
        return "sudo is not installed", "install sudo on the host, or log in as root (ansible_user)"
    detail = "with the password" if has_password else "without a password"
    return f"sudo did not start the command ({detail})", f"try on the host, as {user}: sudo -v"
