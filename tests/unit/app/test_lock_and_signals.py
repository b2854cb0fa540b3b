"""The file lock and the two kinds of Ctrl-C, in processes of their own where it matters."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kops_py.app.session import Settings, remove_left_input, session
from kops_py.connect.base import Cancel
from kops_py.engine.cancel import signals_cancel, signals_end
from kops_py.engine.lock import FileLock, RunMark, describe_holder
from kops_py.model.errors import ConfigError, LockedError
from kops_py.model.event import Event, Note
from tests.fakes.cluster import make_spec

HOLD = """
import sys
from pathlib import Path
from kops_py.engine.lock import FileLock
FileLock(Path(sys.argv[1]), "prod").acquire(run_id="run-7", command="kops-py bootstrap -y")
print("held", flush=True)
sys.stdin.read()
"""

TWICE = """
import sys, threading
from kops_py.connect.base import Cancel
from kops_py.engine.cancel import signals_cancel
cancel = Cancel()
try:
    with signals_cancel(cancel):
        print("ready", flush=True)
        while not cancel.wait(5): pass
        print(cancel.reason, flush=True)
        threading.Event().wait(30)  # work that does not look at the request
finally:
    print("cleaned up", flush=True)
"""


def child(code: str, *argv: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *argv], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_a_held_lock_names_its_holder_and_dies_with_it(tmp_path: Path) -> None:
    process = child(HOLD, str(tmp_path))
    try:
        assert line(process) == "held"
        with pytest.raises(LockedError) as caught:
            FileLock(tmp_path, "prod").acquire(run_id="run-8", command="x")
        assert caught.value.where == str(tmp_path / "prod.lock")
        assert f"process {process.pid}," in caught.value.why
        assert "run run-7: kops-py bootstrap -y" in caught.value.why
        assert caught.value.hint
        FileLock(tmp_path, "another").acquire(run_id="run-8", command="another cluster is free")
    finally:
        process.kill()
        process.communicate(timeout=10)
    lock = FileLock(tmp_path, "prod")
    lock.acquire(run_id="run-9", command="after its death")
    assert json.loads(lock.path.read_text())["pid"] == os.getpid()
    assert lock.path.stat().st_mode & 0o777 == 0o600
    lock.release()
    lock.release()
    assert lock.path.read_text() == ""


@given(
    st.dictionaries(
        st.sampled_from(["pid", "user", "host", "since_s", "run_id", "command"]),
        st.one_of(st.none(), st.text(max_size=9), st.integers(), st.floats(), st.lists(st.integers(), max_size=1)),
    )
)
def test_any_holder_can_be_described(holder: dict[str, object]) -> None:
    assert describe_holder(holder)


@pytest.mark.parametrize("text", ["", "not json", "[1]", '{"since_s": "soon"}'])
def test_a_lock_whose_file_says_nothing_is_still_a_lock(tmp_path: Path, text: str) -> None:
    lock = FileLock(tmp_path, "prod")
    lock.acquire(run_id="r", command="c")
    lock.path.write_text(text)
    with pytest.raises(LockedError) as caught:
        FileLock(tmp_path, "prod").acquire(run_id="r2", command="c")
    assert caught.value.why
    lock.release()


def test_a_lock_that_cannot_be_opened_is_a_configuration_error(tmp_path: Path) -> None:
    (tmp_path / "locks").write_text("a file")
    with pytest.raises(ConfigError) as caught:
        FileLock(tmp_path / "locks", "prod").acquire(run_id="r", command="c")
    assert caught.value.why
    assert "--run-dir" in caught.value.hint


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_asks_and_the_second_ends_at_once(number: signal.Signals) -> None:
    process = child(TWICE)
    assert line(process) == "ready"
    process.send_signal(number)
    assert line(process) == number.name
    began = time.monotonic()
    process.send_signal(number)
    out, _ = process.communicate(timeout=10)
    assert process.returncode == 130
    assert out == "", "nothing is waited for any more"
    assert time.monotonic() - began < 5


def test_handlers_are_put_back() -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    cancel = Cancel()
    with signals_cancel(cancel):
        with pytest.raises(KeyboardInterrupt), signals_end():
            os.kill(os.getpid(), signal.SIGTERM)
        assert not cancel.is_set
        os.kill(os.getpid(), signal.SIGINT)
        assert cancel.reason == "SIGINT"
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


RUN = """
import sys
from pathlib import Path
from kops_py.connect.ansible_files import make_folder, write_input
from kops_py.engine.lock import RunMark
run = Path(sys.argv[1])
run.mkdir(parents=True)
mark = RunMark(run)
mark.hold()
folder = write_input(
    make_folder(run / "ansible", "prepare"), [], {"kops_password": "hunter2"}, {}, become_password="hunter2",
    connect_timeout_s=5, forks=1, accept_new_host_keys=False,
)
print(folder.control_path_dir, flush=True)
sys.stdin.read()
"""


def test_input_of_a_killed_run_is_removed_by_the_next_and_that_of_a_living_one_stays(tmp_path: Path) -> None:
    runs = tmp_path / ".kops-py" / "runs"
    processes = {name: child(RUN, str(runs / name)) for name in ("killed", "living")}
    try:
        control = {name: Path(line(process)) for name, process in processes.items()}
        told: list[Event] = []
        remove_left_input(runs.parent, told.append)
        assert told == []
        processes["killed"].kill()
        processes["killed"].communicate(timeout=10)
        remove_left_input(runs.parent, told.append)
        assert [e.message for e in told if isinstance(e, Note)] == [
            "removed what the run killed left of its input for Ansible when it was killed"
        ]
        holding = [p for p in runs.rglob("*") if p.is_file() and "hunter2" in p.read_text()]
        assert {p.relative_to(runs).parts[0] for p in holding} == {"living"}
        assert [path.exists() for path in control.values()] == [False, True]
        remove_left_input(runs.parent, told.append)
        assert len(told) == 1
    finally:
        for process in processes.values():
            process.kill()
            process.communicate(timeout=10)
    remove_left_input(runs.parent, told.append)
    assert not control["living"].exists()


def test_input_that_cannot_be_removed_is_told_and_stops_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "old" / "ansible" / "1-prepare"
    folder.mkdir(parents=True)
    (folder / "inventory.json").mkdir()  # no file: it cannot be unlinked
    told: list[Event] = []
    remove_left_input(tmp_path, told.append)
    assert [type(e) for e in told] == [Note]
    assert "the run old" in str(told[0])
    assert "cannot be removed" in str(told[0])


def test_every_command_removes_what_was_left(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "old" / "ansible" / "1-prepare"
    folder.mkdir(parents=True)
    (folder / "inventory.json").write_text("hunter2")
    with session(Settings(run_dir=tmp_path), make_spec(1), lambda _: None):
        assert list(folder.iterdir()) == []


def test_a_run_is_marked_as_going_on_only_while_it_does(tmp_path: Path) -> None:
    mark = RunMark(tmp_path)
    assert mark.is_over()
    mark.hold()
    assert not RunMark(tmp_path).is_over()
    assert (tmp_path / "alive").stat().st_mode & 0o777 == 0o600
    mark.release()
    mark.release()
    assert mark.is_over()
    assert list(tmp_path.iterdir()) == []


def test_the_mark_of_a_killed_run_goes_without_a_word_and_that_of_a_living_one_stays(tmp_path: Path) -> None:
    for name in ("killed", "living"):
        (tmp_path / "runs" / name).mkdir(parents=True)
    (tmp_path / "runs" / "killed" / "alive").touch()
    living = RunMark(tmp_path / "runs" / "living")
    living.hold()
    told: list[Event] = []
    remove_left_input(tmp_path, told.append)
    assert [str(p.relative_to(tmp_path)) for p in tmp_path.rglob("alive")] == ["runs/living/alive"]
    assert told == []
    living.release()
