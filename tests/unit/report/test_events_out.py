"""Events on their way out: plain lines, live lines on a terminal, JSON lines, and readers that go away."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from kops_py.model.event import (
    Event,
    FindingsMade,
    Note,
    RunFinished,
    RunStarted,
    StepFinished,
    StepProgress,
    StepResult,
    StepStarted,
    WaveStarted,
)
from kops_py.model.finding import Finding, Severity
from kops_py.report.bus import EventBus
from kops_py.report.console import LiveConsole, PlainConsole, make_console
from kops_py.report.jsonl import JsonFile, JsonLines

ROOT = Path(__file__).parents[3]
EVENTS: tuple[Event, ...] = (
    RunStarted(run_id="r1", operation="bootstrap", cluster="prod", run_dir="/runs/r1"),
    Note(message="looking at 2 hosts"),
    Note(message="is slow", node="n2"),
    WaveStarted(wave="workers", steps=1),
    StepStarted(step="join/n2", node="n2", title="join as worker"),
    StepProgress(step="join/n2", node="n2", message="kubeadm join"),
    StepProgress(step="join/n2", node="n2", message="kubeadm join"),
    StepProgress(step="join/n2", node="n2", message="its \x1b[31mkubelet\x1b[0m\nis late", waiting=True),
    StepFinished(step="join/n2", node="n2", title="join as worker", result=StepResult.DONE, duration_s=2.04),
    WaveStarted(wave="healthy", steps=2),
    StepStarted(step="healthy", node="", title="wait until healthy"),
    StepFinished(
        step="secrets", node="", title="revoke", result=StepResult.ALREADY_TRUE, duration_s=0, message="none is left"
    ),
    StepFinished(step="healthy", node="", title="wait until healthy", result=StepResult.FAILED, duration_s=9),
    RunFinished(exit_code=11, duration_s=12, steps_done=1, steps_skipped=1, steps_failed=1, steps_left=1),
)
PLAIN = """\
looking at 2 hosts
n2: is slow
--- workers (1 step)
n2: join as worker
n2:   kubeadm join
n2: waiting: its kubelet is late
n2: join as worker: done (2.0 s)
--- healthy (2 steps)
cluster: wait until healthy
cluster: revoke: already so (0.0 s): none is left
cluster: wait until healthy: FAILED (9.0 s)
"""


def test_plain_lines() -> None:
    out = io.StringIO()
    console = PlainConsole(out)
    for event in EVENTS:
        console(event)
    console.close()
    assert re.sub(r"^\[ *\d+\.\ds\] ", "", out.getvalue(), flags=re.MULTILINE) == PLAIN


def test_plain_lines_name_the_run_folder_only_when_asked() -> None:
    out = io.StringIO()
    PlainConsole(out, verbose=True)(EVENTS[0])
    assert "journal and logs: /runs/r1" in out.getvalue()


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("variable", "value", "live"),
    [("TERM", "xterm", True), ("TERM", "dumb", False), ("NO_COLOR", "1", False), ("CI", "true", False)],
)
def test_which_console_fits(monkeypatch: pytest.MonkeyPatch, variable: str, value: str, live: bool) -> None:
    for name in ("NO_COLOR", "CI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv(variable, value)
    console = make_console(Terminal())
    assert isinstance(console, LiveConsole if live else PlainConsole)
    console.close()
    assert isinstance(make_console(io.StringIO()), PlainConsole)


SHOW = textwrap.dedent(
    """
    import os, sys, time
    os.environ.pop("CI", None); os.environ.pop("NO_COLOR", None); os.environ["TERM"] = "xterm-256color"
    from kops_py.report.console import LiveConsole, make_console
    from tests.unit.report.test_events_out import EVENTS
    console = make_console()
    assert isinstance(console, LiveConsole)
    for event in EVENTS:
        console(event)
        if type(event).__name__ == "StepProgress":
            time.sleep(0.15)
        if type(event).__name__ == "Note":
            sys.stderr.write("Run this plan? [y/N]: "); sys.stderr.flush(); time.sleep(0.3); sys.stderr.write("y\\n")
    console.close()
    sys.stderr.write("after\\n")
    """
)


def screen(raw: str, width: int) -> tuple[list[str], bool]:
    """Return what stands on a terminal after this output, and whether its cursor shows; strict about sequences."""
    rows: list[list[str]] = [[]]
    row = column = 0
    shown = True
    for token in re.findall(r"\x1b\[[?0-9;]*[A-Za-z]|\r|\n|[^\x1b]", raw):
        if token == "\r":
            column = 0
        elif token == "\n":
            row += 1
            rows += [[]] if row == len(rows) else []
        elif token.startswith("\x1b["):
            kind, count = token[-1], token[2:-1]
            if kind == "A":
                row = max(0, row - int(count or 1))
            elif token == "\x1b[2K":
                rows[row] = []
            elif token in {"\x1b[?25l", "\x1b[?25h"}:
                shown = token.endswith("h")
            else:
                assert kind == "m", f"unexpected sequence {token!r}"
        else:
            if column == width:
                row, column = row + 1, 0
                rows += [[]] if row == len(rows) else []
            line = rows[row]
            line += [" "] * (column + 1 - len(line))
            line[column] = token
            column += 1
    return ["".join(line).rstrip() for line in rows], shown


def on_pty(code: str, columns: int = 80) -> str:
    """Run Python code with a pseudo-terminal for all three streams; returns everything it printed."""
    main, side = pty.openpty()
    environment = {**os.environ, "COLUMNS": str(columns), "LINES": "24", "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, "-c", code], stdin=side, stdout=side, stderr=side, env=environment)
    os.close(side)
    chunks = []
    while True:
        try:
            chunk = os.read(main, 65536)
        except OSError:  # the other side is closed
            break
        if not chunk:
            break
        chunks.append(chunk)
    os.close(main)
    assert process.wait(30) == 0, b"".join(chunks).decode()
    return b"".join(chunks).decode()


@pytest.mark.parametrize("columns", [30, 80])
def test_on_a_terminal_the_live_lines_come_and_go_and_leave_a_clean_screen(columns: int) -> None:
    raw = on_pty(SHOW, columns)
    assert "kubeadm join" in raw or columns == 30, "the live line was there"
    assert "\x1b[?25l" in raw
    lines, cursor_shown = screen(raw, 10_000)
    assert cursor_shown
    assert [line for line in lines if line] == [
        "  looking at 2 hosts",
        "Run this plan? [y/N]: y",
        "  n2: is slow",
        "Run this plan? [y/N]: y",
        "workers",
        "  n2: join as worker: done (2.0 s)",
        "healthy",
        "  cluster: revoke: already so (0.0 s): none is left",
        "  cluster: wait until healthy: FAILED (9.0 s)",
        "after",
    ]
    printed = [re.sub(r"\x1b\[[?0-9;]*[A-Za-z]", "", part) for part in re.split(r"[\r\n]", raw)]
    live = [p for p in printed if p.startswith(("  n2: join", "  cluster: wait")) and "(" not in p]
    assert live
    assert max(map(len, live)) <= columns, "a live line that wraps could not be taken away again"


def test_json_lines_are_one_object_each_without_control_characters() -> None:
    out = io.StringIO()
    lines = JsonLines(out)
    for event in (*EVENTS, FindingsMade(findings=(Finding(Severity.ERROR, "swap-on", "n1", "x\x1b[0m\n"),))):
        lines(event)
    lines.close()
    texts = out.getvalue().splitlines()
    assert len(texts) == len(EVENTS) + 1
    assert [json.loads(t)["event"] for t in texts][:3] == ["run-started", "note", "note"]
    assert "\x1b" not in out.getvalue()


def test_a_file_of_events_is_private(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    file = JsonFile(path)
    file(EVENTS[0])
    file.close()
    assert path.stat().st_mode & 0o777 == 0o600
    assert json.loads(path.read_text())["run_id"] == "r1"


class Gone:
    """A subscriber whose reader has gone."""

    def __init__(self, error: Exception) -> None:
        self.error, self.calls = error, 0

    def __call__(self, event: Event) -> None:
        self.calls += 1
        raise self.error

    def close(self) -> None:
        raise self.error


@pytest.mark.parametrize("error", [BrokenPipeError(), OSError("No space left"), ValueError("I/O on closed file")])
def test_a_reader_that_goes_away_stops_neither_the_run_nor_the_others(error: Exception) -> None:
    gone, out = Gone(error), io.StringIO()
    bus = EventBus([gone, JsonLines(out)])
    bus(EVENTS[0])
    bus(EVENTS[1])
    bus.close()
    assert gone.calls == 1
    first, second = (json.loads(line) for line in out.getvalue().splitlines())
    assert second["at_s"] >= first["at_s"] > 1e9
