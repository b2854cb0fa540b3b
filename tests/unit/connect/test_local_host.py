"""Commands on this machine, as on any other host."""

from __future__ import annotations

import io
import stat
import time
from pathlib import Path

import pytest

from kops_py.connect.base import Cancel
from kops_py.connect.local_host import LocalHost
from kops_py.model.errors import CancelledError, CommandFailedError, DeadlineError, HostError

HERE = LocalHost()


def test_streams_of_any_size_both_ways() -> None:
    data = bytes(range(256)) * 20_000
    assert HERE.run(["cat"], stdin=io.BytesIO(data)).stdout == data
    pieces: list[bytes] = []
    assert HERE.run(["cat"], stdin=data, stdout_to=pieces.append).stdout == b""
    assert b"".join(pieces) == data


def test_how_a_command_ends() -> None:
    assert HERE.run(["sh", "-c", "exit 3"], check=False).exit_status == 3
    with pytest.raises(CommandFailedError, match="exit status 3") as caught:
        HERE.run(["sh", "-c", "echo why >&2; exit 3"])
    assert caught.value.why == "why"
    with pytest.raises(HostError, match="cannot be run"):
        HERE.run(["/no/such/program"])
    with pytest.raises(HostError, match="as another user"):
        HERE.run(["true"], sudo=True)
    assert HERE.run(["true"], stdin=b"x" * 1_000_000).ok


def test_a_deadline_and_a_cancel_end_it_with_what_it_started(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    begun = time.monotonic()
    with pytest.raises(DeadlineError):
        HERE.run(["sh", "-c", f"trap 'echo ended > {mark}; exit' TERM; sleep 60 & wait"], timeout_s=0.3)
    assert mark.read_text() == "ended\n"
    cancel = Cancel()
    cancel.set("test")
    with pytest.raises(CancelledError):
        HERE.run(["sleep", "60"], cancel=cancel)
    assert time.monotonic() - begun < 20


def test_what_the_source_or_the_sink_raises_is_raised() -> None:
    class Broken(io.RawIOBase):
        def read(self, size: int = -1) -> bytes:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        HERE.run(["cat"], stdin=Broken())  # type: ignore[arg-type]

    def sink(_: bytes) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        HERE.run(["sh", "-c", "echo x; sleep 60"], stdout_to=sink)


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b"
    HERE.write_file(str(path), b"x", mode=0o640)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert HERE.read_file(str(path)) == b"x"
    assert [p.name for p in path.parent.iterdir()] == ["b"]
    with pytest.raises(CommandFailedError):
        HERE.read_file(str(tmp_path / "none"))
