"""Programs run for the bundle: their failures are told with the place to look, and none runs for ever."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

import pytest

from tests.bundle import obtain
from tests.bundle.recipe import Folders
from tests.bundle.shell import BundleError, Progress, output, run

QUIET = Progress(quiet=True)


def test_failure_names_the_step_the_code_and_the_end_of_the_log(tmp_path: Path) -> None:
    log = tmp_path / "logs" / "build.log"
    with pytest.raises(BundleError, match=r"(?s)packing: exit code 3; output in .*build\.log.*\nlast words$") as caught:
        run(["sh", "-c", "seq 40; echo last words; exit 3"], what="packing", log=log, progress=QUIET)
    assert "\n20\n" not in str(caught.value)
    assert "\n20\n" in log.read_text()


def test_missing_program_is_named(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="'no-such-program-here' is not on this machine"):
        run(["no-such-program-here"], what="x", log=tmp_path / "log", progress=QUIET)
    with pytest.raises(BundleError, match="'no-such-program-here' is not on this machine"):
        output(["no-such-program-here"], what="x")


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_deadline_ends_the_program_and_its_children(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    script = f"sleep 600 & echo $! > {pid}; wait"
    start = time.monotonic()
    with pytest.raises(BundleError, match="not done after 1 s, ended"):
        run(["sh", "-c", script], what="waiting", log=tmp_path / "log", progress=QUIET, deadline_s=1)
    assert time.monotonic() - start < 10
    number = int(pid.read_text())
    deadline = time.monotonic() + 5
    while _runs(number):
        assert time.monotonic() < deadline, "the child still runs"
        time.sleep(0.05)


def test_long_program_is_not_silent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tests.bundle.shell.HEARTBEAT_S", 0.1)
    run(["sleep", "0.5"], what="compiling", log=tmp_path / "log", progress=Progress())
    assert capsys.readouterr().err.count("compiling") >= 3


def test_lock_held_by_another_is_waited_for_and_then_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = Folders(tmp_path / "bundle", tmp_path / "build")
    folders.build.mkdir()
    monkeypatch.setattr(obtain, "LOCK_DEADLINE_S", 0.2)
    monkeypatch.setattr(obtain, "LOCK_POLL_S", 0.05)
    with folders.lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        held.write("4711\n")
        held.flush()
        with pytest.raises(BundleError, match="process 4711 has held"), obtain.build_lock(folders, QUIET):
            pytest.fail("two hold the lock")
    with obtain.build_lock(folders, QUIET):
        assert folders.lock.read_text() == f"{os.getpid()}\n"


def test_bundles_of_other_recipes_go_when_nobody_asked_for_them_in_a_week(tmp_path: Path) -> None:
    folders = Folders(tmp_path / "bundle", tmp_path / "build")
    old, recent, current = folders.bundles / "old", folders.bundles / "recent", folders.bundle()
    for folder, age_s in ((old, 8 * 86400), (recent, 6 * 86400), (current, 30 * 86400)):
        folder.mkdir(parents=True)
        marker = folder / "bundle.json"
        marker.touch()
        os.utime(marker, (time.time() - age_s,) * 2)
    obtain.forget_old(folders)
    assert sorted(path.name for path in folders.bundles.iterdir()) == sorted(["recent", current.name])
