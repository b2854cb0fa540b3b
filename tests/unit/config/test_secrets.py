"""Secrets behind references."""

import os
import time
from pathlib import Path

import pytest

from kops_py.config.secrets import resolve
from kops_py.model.errors import ConfigError
from kops_py.model.spec import SecretRef


def failure(kind: str, target: str, *, deadline_s: float = 30) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        resolve(SecretRef(kind, target), deadline_s=deadline_s)
    assert "hunter2" not in f"{caught.value.to_json()}{caught.value.__cause__}"
    assert caught.value.where
    return caught.value


def test_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUDO_PASSWORD", "hunter2")
    assert resolve(SecretRef("env", "SUDO_PASSWORD")) == "hunter2"
    monkeypatch.setenv("SUDO_PASSWORD", "")
    assert "empty" in failure("env", "SUDO_PASSWORD").what
    monkeypatch.delenv("SUDO_PASSWORD")
    assert "export SUDO_PASSWORD" in failure("env", "SUDO_PASSWORD").hint


@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_file(tmp_path: Path, end: str) -> None:
    path = tmp_path / "secret file"
    path.write_bytes(f"hunter2 {end}".encode())
    path.chmod(0o600)
    assert resolve(SecretRef("file", str(path))) == "hunter2 "


def test_a_file_everybody_can_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "secret file"
    path.write_text("hunter2")
    path.chmod(0o644)
    error = failure("file", str(path))
    assert error.hint == f"chmod 600 '{path}'"
    assert error.why == "its mode is 0644"


def test_files_that_are_no_secret(tmp_path: Path) -> None:
    assert "cannot be read" in failure("file", str(tmp_path / "nothing")).what
    assert "cannot be read" in failure("file", str(tmp_path)).what
    path = tmp_path / "s"
    for data, words in [
        (b"hunter2\nhunter2", "one line"),
        (b"\xffhunter2", "UTF-8"),
        (b"", "empty"),
        (b"x" * 70000, "64 KiB"),
    ]:
        path.write_bytes(data)
        path.chmod(0o600)
        assert words in failure("file", str(path)).what


def test_command() -> None:
    assert resolve(SecretRef("cmd", "printf '%s\\n' 'hunter2 $HOME'")) == "hunter2 $HOME"
    error = failure("cmd", "sh -c 'echo hunter; echo hunt >&2; exit 7'")
    assert error.why == "exit status 7"
    assert "cannot run" in failure("cmd", "/no/such/program").what
    assert "cannot run" in failure("cmd", "echo 'open").what
    assert "cannot run" in failure("cmd", "''").what


def test_a_command_that_hangs_is_ended_with_its_children(tmp_path: Path) -> None:
    begin = time.monotonic()
    error = failure("cmd", f"sh -c 'sleep 300 & echo $! > {tmp_path}/pid; wait'", deadline_s=2)
    assert "did not end within 2 s" in error.what
    assert time.monotonic() - begin < 20
    pid = int((tmp_path / "pid").read_text())
    deadline = time.monotonic() + 10
    while Path(f"/proc/{pid}/cmdline").exists() and time.monotonic() < deadline:
        os.sched_yield()
    stat = Path(f"/proc/{pid}/stat")
    assert not stat.exists() or stat.read_text().rsplit(")", 1)[1].split()[0] == "Z"
