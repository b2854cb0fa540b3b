"""State files, locks and recorded processes: what keeps two runs, or a crash, from doing harm."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.lab import processes, rootfs, state
from tests.lab.check import unavailable_reason
from tests.lab.config import LabConfig, LabError


def test_a_half_written_state_counts_as_none(tmp_path: Path) -> None:
    config = LabConfig("x", tmp_path)
    config.dir.mkdir(parents=True)
    config.state_file.write_text('{"octet": 14')
    assert state.load_state(config) is None


def test_state_comes_back_and_leaves_no_temporary_file(tmp_path: Path) -> None:
    config = LabConfig("x", tmp_path)
    saved: state.LabState = {"octet": 140, "nodes": {}, "swarm_size": 0, "serve": None}
    state.save_state(config, saved)
    assert state.load_state(config) == saved
    assert [path.name for path in config.dir.iterdir()] == ["state.json"]


def test_the_registry_begins_empty(tmp_path: Path) -> None:
    assert state.load_registry(tmp_path) == {"labs": {}, "sysctls": {}}


def test_a_held_lock_is_reported_with_its_file_and_is_free_afterwards(tmp_path: Path) -> None:
    path = tmp_path / "locks" / "x"
    with state.file_lock(path, 1, "lab x"):  # noqa: SIM117 - what raises must be only the second one
        with pytest.raises(LabError, match=r"lab x is busy: .*locks/x"), state.file_lock(path, 0.1, "lab x"):
            pytest.fail("two holders of one lock")
    with state.file_lock(path, 0.1, "lab x"):
        pass


def test_a_lock_dies_with_a_killed_holder(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    script = (
        "import sys, time; from pathlib import Path; from tests.lab.state import file_lock\n"
        "with file_lock(Path(sys.argv[1]), 5, 'x'):\n    print('held', flush=True); time.sleep(60)\n"
    )
    root = Path(__file__).resolve().parents[3]
    with subprocess.Popen([sys.executable, "-c", script, str(path)], stdout=subprocess.PIPE, cwd=root) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(LabError), state.file_lock(path, 0.1, "x"):
            pytest.fail("two holders of one lock")
        holder.kill()
        holder.wait(10)
    with state.file_lock(path, 1, "x"):
        pass


def test_a_recorded_process_is_known_only_while_it_is_the_same(tmp_path: Path) -> None:
    path = tmp_path / "a.pid"
    processes.write_pid(path, os.getpid())
    assert processes.read_pid(path) == os.getpid()
    pid, started = path.read_text().split()
    path.write_text(f"{pid} {int(started) + 1}\n")  # the kernel gave the number to somebody else
    assert processes.read_pid(path) is None
    assert processes.read_pid(tmp_path / "absent.pid") is None


def test_a_zombie_counts_as_ended() -> None:
    with subprocess.Popen(["true"]) as process:
        assert processes.wait_until(lambda: not processes.is_alive(process.pid), 10)
        assert process.returncode is None  # nobody has reaped it yet


def test_ending_a_process_that_ignores_the_signal_takes_sigkill() -> None:
    argv = ["sh", "-c", "trap '' TERM; echo ready; while :; do sleep 1; done"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        processes.end_process(process.pid, 0.2, signal.SIGTERM)
        assert process.wait(10) == -signal.SIGKILL


def test_a_failing_tool_is_quoted_in_the_error() -> None:
    with pytest.raises(LabError, match=r"sh -c echo no >&2; exit 4: exit 4: no"):
        processes.run("sh", "-c", "echo no >&2; exit 4")


def test_layers_lie_above_the_base_with_the_last_on_top(tmp_path: Path) -> None:
    lowers = rootfs.lower_dirs(tmp_path, ["one", "two"]).split(":")
    assert [Path(path).parent.name for path in lowers[:2]] == ["two", "one"]
    assert lowers[-1] == str(rootfs.base_dir(tmp_path))


def test_a_tree_that_is_not_there_is_removed_already(tmp_path: Path) -> None:
    rootfs.remove_tree(tmp_path / "absent")
    assert rootfs.mounts_below(tmp_path) == []


def test_a_missing_tool_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setenv("PATH", str(tmp_path))
    reason = unavailable_reason()
    assert reason is not None
    assert "apt-get install" in reason
    assert "debootstrap" in reason


def test_an_ordinary_user_is_told_to_be_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert "as root" in (unavailable_reason() or "")
