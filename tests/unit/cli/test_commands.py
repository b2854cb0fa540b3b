"""What commands print where: JSON alone on standard output, people's text, errors once, the command that goes on."""

from __future__ import annotations

import json
import os
import pty
import select
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kops_py.app.run import RunResult
from kops_py.app.session import Settings
from kops_py.cli import main
from kops_py.model.actions import ConfigureBridge
from kops_py.model.errors import ExitCode, KopsError, PreflightError, UnreachableError
from kops_py.model.event import Event, Note, RunFinished, StepFinished, StepResult, StepStarted
from kops_py.model.finding import Finding, Severity
from kops_py.model.plan import Plan, Step, Wave

ROOT = Path(__file__).parents[3]
PLAN = Plan("bootstrap", "sim", (Wave("w", (Step("join/n2", "n2", "join as worker", ConfigureBridge("n2"), 5.0),)),))
SWAP = Finding(Severity.ERROR, "swap-on", "n1", "swap is \x1b[31mon", "swapoff -a")
EVENTS: tuple[Event, ...] = (
    Note(message="looking at 2 hosts\x1b[2J"),
    StepStarted(step="join/n2", node="n2", title="join as worker"),
    StepFinished(step="join/n2", node="n2", title="join as worker", result=StepResult.FAILED, duration_s=1),
    RunFinished(exit_code=10, duration_s=1, steps_done=0, steps_skipped=0, steps_failed=1, steps_left=1),
)
LOST: tuple[KopsError, ...] = (
    UnreachableError("cannot be reached", where="n1", why="timed out"),
    UnreachableError("cannot be reached", where="n2", why="timed out"),
)


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> Callable[[RunResult], list[Settings]]:
    """Let bootstrap end as the test says; returns the settings it was called with."""

    def prepare(result: RunResult) -> list[Settings]:
        seen: list[Settings] = []

        def run(settings: Settings, emit: Any, confirm: Any) -> RunResult:
            seen.append(settings)
            for event in EVENTS:
                emit(event)
            if not settings.plan_only and result.exit_code is not ExitCode.PREFLIGHT:
                assert confirm(result.plan, result.findings)
            return result

        monkeypatch.setattr("kops_py.app.bootstrap.run_bootstrap", run)
        return seen

    return prepare


def test_json_is_one_event_a_line_and_errors_go_elsewhere(
    answers: Callable[[RunResult], list[Settings]], capsys: pytest.CaptureFixture[str]
) -> None:
    answers(RunResult(ExitCode.HOST, PLAN, errors=LOST, run_dir=Path("/runs/1"), executed=True))
    assert main.run(["bootstrap", "-y", "-o", "json"]) == 10
    out, err = capsys.readouterr()
    assert [json.loads(line)["event"] for line in out.splitlines()] == [
        "note",
        "step-started",
        "step-finished",
        "run-finished",
    ]
    assert err == (
        "error: n1, n2: cannot be reached\n"
        "  why:  timed out\n"
        "  log:  /runs/1\n"
        "  continue with: kops-py bootstrap -y -o json\n"
    )


def test_a_plan_as_json_is_one_object_with_its_digest(
    answers: Callable[[RunResult], list[Settings]], capsys: pytest.CaptureFixture[str]
) -> None:
    answers(RunResult(ExitCode.PENDING_CHANGES, PLAN, (SWAP,)))
    assert main.run(["bootstrap", "--plan", "-o", "json"]) == 20
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert (found["digest"], found["findings"][0]["id"]) == (PLAN.digest, "swap-on")
    assert err == ""


@pytest.mark.parametrize(
    ("argv", "end"),
    [
        (["-y"], "  next: mend them\n  continue with: kops-py bootstrap -y\n"),
        (["-y", "--plan-digest", "0" * 64], "  next: mend them\n  continue with: kops-py bootstrap -y\n"),
        (["--plan"], "  next: mend them\n"),  # nothing was to be run
    ],
)
def test_findings_that_stop_a_run_end_with_the_command_that_goes_on(
    argv: list[str],
    end: str,
    answers: Callable[[RunResult], list[Settings]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    stop = PreflightError("1 finding must be mended before anything is touched", hint="mend them")
    answers(RunResult(ExitCode.PREFLIGHT, PLAN, (SWAP,), (stop,)))
    assert main.run(["bootstrap", *argv]) == 3
    assert capsys.readouterr().err.endswith(end)


def test_a_plan_for_people_has_findings_and_table(
    answers: Callable[[RunResult], list[Settings]], capsys: pytest.CaptureFixture[str]
) -> None:
    seen = answers(RunResult(ExitCode.PENDING_CHANGES, PLAN, (SWAP,)))
    argv = ["bootstrap", "--plan", "-i", "my hosts", "--limit", "n1", "--ignore", "a", "--ignore", "b@n1"]
    assert main.run(argv) == 20
    out, err = capsys.readouterr()
    assert "error    n1: swap is on  [swap-on]" in out
    assert "1  n2  join as worker" in out
    assert PLAN.digest in out
    assert "looking at 2 hosts" in err
    assert "\x1b" not in out + err
    [settings] = seen
    assert settings.command == "kops-py bootstrap --plan -i 'my hosts' --limit n1 --ignore a --ignore b@n1"
    assert (settings.plan_only, settings.limit, settings.ignore) == (True, "n1", frozenset({"a", "b@n1"}))


@pytest.mark.parametrize("variable", ["CI", "NO_COLOR"])
def test_in_ci_there_are_no_escape_sequences(
    variable: str,
    answers: Callable[[RunResult], list[Settings]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv(variable, "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    answers(RunResult(ExitCode.DONE, PLAN, run_dir=Path("/runs/1"), executed=True))
    assert main.run(["bootstrap", "-y"]) == 0
    out, err = capsys.readouterr()
    assert out == "cluster sim is ready: 1 steps. Next: kops-py kubeconfig\n"
    assert "n2: join as worker: FAILED (1.0 s)" in err
    assert "\x1b" not in out + err


def test_nothing_to_do_says_so(
    answers: Callable[[RunResult], list[Settings]], capsys: pytest.CaptureFixture[str]
) -> None:
    answers(RunResult(ExitCode.DONE, Plan("bootstrap", "sim", (), notes=("members already: n1",)), run_dir=Path("/r")))
    assert main.run(["bootstrap", "-y"]) == 0
    assert capsys.readouterr().out == "cluster sim: nothing to do (members already: n1)\n"


@pytest.mark.parametrize(
    ("severity", "ignored", "code"), [("error", False, 3), ("error", True, 0), ("warning", False, 0)]
)
def test_preflight_ends_with_3_only_when_something_stands_in_the_way(
    severity: str, ignored: bool, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    finding = Finding(Severity(severity), "swap-on", "n1", "swap is on", ignored=ignored)
    monkeypatch.setattr("kops_py.app.queries.run_preflight", lambda *_: (finding,))
    assert main.run(["preflight"]) == code
    assert "[swap-on]" in capsys.readouterr().out
    assert main.run(["preflight", "-o", "json"]) == code
    assert json.loads(capsys.readouterr().out)["findings"][0]["id"] == "swap-on"


def test_the_kubeconfig_as_json(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("kops_py.app.queries.write_kubeconfig", lambda *_, **__: (Path("sim.kubeconfig"), "sim"))
    assert main.run(["kubeconfig", "-o", "json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"file": "sim.kubeconfig", "context": "sim"}


def test_the_next_command_names_the_same_files(
    answers: Callable[[RunResult], list[Settings]], capsys: pytest.CaptureFixture[str]
) -> None:
    answers(RunResult(ExitCode.DONE, PLAN, run_dir=Path("/runs/1"), executed=True))
    assert main.run(["bootstrap", "-y", "-i", "my {hosts}"]) == 0
    assert capsys.readouterr().out.endswith(" Next: kops-py kubeconfig --inventory 'my {hosts}'\n")


ASK = """
import sys
import kops_py.app.bootstrap as app
from kops_py.app.run import RunResult
from kops_py.cli import main
from kops_py.engine.cancel import signals_cancel, signals_end
from kops_py.connect.base import Cancel
from kops_py.model.errors import ExitCode
from tests.unit.cli.test_commands import PLAN
def run(settings, emit, confirm):
    with signals_cancel(Cancel()), signals_end():
        agreed = confirm(PLAN, ())
    return RunResult(ExitCode.DONE if agreed else ExitCode.INTERRUPTED, PLAN, executed=agreed)
app.run_bootstrap = run
sys.exit(main.run(["bootstrap"]))
"""


@pytest.mark.parametrize(
    ("typed", "code", "said"),
    [(b"y\n", 0, "is ready"), (b"n\n", 130, "nothing was changed"), (b"\n", 130, "nothing was changed"),
     (b"\x03", 130, "nothing was changed"), (b"\x04", 130, "nothing was changed")],
    ids=["yes", "no", "return", "Ctrl-C", "Ctrl-D"],
)  # fmt: skip
def test_the_question_on_a_terminal(typed: bytes, code: int, said: str) -> None:
    main_side, side = pty.openpty()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm"}
    process = subprocess.Popen(
        ["setsid", "--ctty", sys.executable, "-c", ASK], stdin=side, stdout=side, stderr=side, env=environment
    )
    os.close(side)
    seen, typed_at, end = b"", 0.0, time.monotonic() + 60
    while time.monotonic() < end:
        # The prompt is on the screen a moment before the program reads: a signal in that moment is only seen when the
        # read ends (CPython handles signals between instructions). A person would press the key again; so does this.
        if b"[y/N]: " in seen and time.monotonic() > typed_at + 2:
            typed_at = time.monotonic()
            os.write(main_side, typed)
        if not select.select([main_side], [], [], 0.5)[0]:
            continue
        try:
            chunk = os.read(main_side, 4096)
        except OSError:  # the other side is closed
            break
        if not chunk:
            break
        seen += chunk
    os.close(main_side)
    assert process.wait(10) == code, seen.decode()
    assert said in seen.decode()
    assert "join as worker" in seen.decode()
    assert "Traceback" not in seen.decode()
