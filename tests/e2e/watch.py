"""Looks for secrets where none may be: in argv of any process, in logs, journals, events and reports.

The real secrets of a run are learnt while it runs, from the 0600 files kops-py hands to kubeadm; so what is looked
for is what was used, and a watch that learnt nothing says so.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType

import yaml

from tests.lab import Node

_LOOK_EVERY_S = 0.03
_TOKEN = re.compile(r"(?<![a-z0-9.])[a-z0-9]{6}\.[a-z0-9]{16}(?![a-z0-9.])")
_PRIVATE_KEY = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----")
_CONFIGS = ("kubeadm-init.yaml", "kubeadm-join.yaml", "upload-certs.yaml")


class SecretWatch:
    """Samples every process's argv, and what kops-py writes for kubeadm, from entering to leaving the block."""

    def __init__(self, nodes: Sequence[Node], known: Iterable[str] = ()) -> None:
        self._folders = [node.upper / "etc/kops-py" for node in nodes]
        self.secrets: set[str] = set(known)
        self.modes: set[int] = set()
        self.command_lines: set[str] = set()
        self._seen: set[tuple[str, int, int]] = set()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, name="secret-watch", daemon=True)

    def __enter__(self) -> SecretWatch:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    @property
    def tokens(self) -> set[str]:
        return {s for s in self.secrets if _TOKEN.fullmatch(s)}

    def assert_clean(self, places: Iterable[tuple[str, str]]) -> None:
        """No secret of this run, no token and no private key in any command line or any ``(name, text)``."""
        assert self.tokens, "the watch saw no bootstrap token: it watched nothing"
        assert self.modes <= {0o600}, f"modes of kubeadm's configuration files: {[oct(m) for m in self.modes]}"
        found = [f"argv: {line}" for line in self.command_lines if any(s in line for s in self.secrets)]
        found += [f"argv: {line}" for line in self.command_lines if _looks_secret(line)]
        for name, text in places:
            found += [f"{name} holds a secret of this run" for s in self.secrets if s in text]
            if looks := _looks_secret(text):
                found.append(f"{name} holds what looks like a secret: {looks}")
        assert not found, "\n".join(found)

    def _look(self) -> None:
        while not self._stop.wait(_LOOK_EVERY_S):
            for folder in self._folders:
                self._read_configs(folder)
            for entry in Path("/proc").glob("[0-9]*"):
                try:
                    line = (entry / "cmdline").read_bytes()
                except OSError:
                    continue
                if line:
                    self.command_lines.add(line.replace(b"\0", b" ").decode(errors="replace"))

    def _read_configs(self, folder: Path) -> None:
        for name in _CONFIGS:
            try:
                status = (folder / name).stat()
                key = (str(folder / name), status.st_ino, status.st_mtime_ns)
                if key in self._seen:
                    continue
                text = (folder / name).read_text()
            except OSError:
                continue
            found = set(_secrets_in(text))
            if found:
                self._seen.add(key)
            self.secrets |= found
            self.modes.add(status.st_mode & 0o777)


def _secrets_in(text: str) -> Iterable[str]:
    """Return the values of every ``token`` and ``certificateKey`` of kubeadm's documents."""
    try:
        waiting: list[object] = list(yaml.safe_load_all(text))
    except yaml.YAMLError:
        return  # seen while it was being written; it will be looked at again
    while waiting:
        value = waiting.pop()
        if isinstance(value, list):
            waiting += value
        elif isinstance(value, dict):
            waiting += value.values()
            yield from (str(v) for k, v in value.items() if k in ("token", "certificateKey") and v)


def _looks_secret(text: str) -> str:
    """Return the kind of secret that the text seems to hold."""
    if _TOKEN.search(text):
        return "a bootstrap token"
    return "a private key" if _PRIVATE_KEY.search(text) else ""


def files_below(folder: Path) -> list[tuple[str, str]]:
    """Return name and text of every file below a folder."""
    return [(str(p), p.read_text(errors="replace")) for p in sorted(folder.rglob("*")) if p.is_file()]


def host_places(node: Node) -> list[tuple[str, str]]:
    """Return what a run leaves on a host: logs of its jobs, its own files, the journal of its units."""
    jobs = node.exec("cat /var/lib/kops-py/jobs/*/log /var/lib/kops-py/jobs/*/run 2>/dev/null || true").stdout
    own = node.exec("cat /etc/kops-py/* 2>/dev/null || true").stdout
    journal = node.exec("journalctl --no-pager -o cat -u 'kops-py-*' -t sudo").stdout
    return [(f"jobs of {node.name}", jobs), (f"/etc/kops-py of {node.name}", own), (f"journal of {node.name}", journal)]


def assert_host_left_clean(node: Node) -> None:
    """No configuration with a secret is left on a host."""
    left = node.exec("ls /etc/kops-py").stdout.split()
    assert not set(left) & set(_CONFIGS), f"{node.name}: /etc/kops-py still holds {left}"


def assert_no_join_secrets(secrets: Sequence[dict[str, object]]) -> None:
    """Neither a bootstrap token of ours nor uploaded certificates are left in the cluster."""
    names = [str(s["metadata"]["name"]) for s in secrets if isinstance(s["metadata"], dict)]
    left = [n for n in names if n.startswith("bootstrap-token-") or n == "kubeadm-certs"]
    assert not left, f"join secrets are left in kube-system: {left}"
