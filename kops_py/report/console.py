"""The console: one line per node with what it does and waits for; Rich on a terminal, plain lines elsewhere."""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from kops_py.model.event import (
    Event,
    Note,
    RunFinished,
    RunStarted,
    StepFinished,
    StepProgress,
    StepResult,
    StepStarted,
    WaveStarted,
)
from kops_py.report.plain import clean, clean_line

if TYPE_CHECKING:
    from rich.live import Live

_CLUSTER = "cluster"
_MARKS = {
    StepResult.DONE: "done",
    StepResult.ALREADY_TRUE: "already so",
    StepResult.FAILED: "FAILED",
    StepResult.INTERRUPTED: "interrupted",
    StepResult.NOT_STARTED: "not started",
}


class Subscriber(Protocol):
    """Receives the events of a run."""

    def __call__(self, event: Event) -> None:
        """Take one event."""

    def close(self) -> None:
        """Write what is left."""


def make_console(stream: TextIO | None = None, *, verbose: bool = False) -> Subscriber:
    """Return the subscriber that fits the stream: live lines on a terminal, plain lines in CI or a pipe.

    NO_COLOR asks for plain lines as well: who sets it does not want escape sequences.
    """
    out = stream or sys.stderr
    plain = os.environ.get("TERM", "dumb") == "dumb" or os.environ.get("CI") or os.environ.get("NO_COLOR")
    return PlainConsole(out, verbose=verbose) if plain or not out.isatty() else LiveConsole(out, verbose=verbose)


@dataclass(slots=True)
class PlainConsole:
    """One line per thing that happened, with the time since the start; no colours, no cursor movement."""

    out: TextIO
    verbose: bool = False
    _started_at: float = field(default_factory=time.monotonic)
    _last: dict[str, str] = field(default_factory=dict)

    def __call__(self, event: Event) -> None:
        """Print the event if it says something new."""
        line = clean_line(self._line(event))
        if line:
            spent = time.monotonic() - self._started_at
            print(f"[{spent:6.1f}s] {line}", file=self.out, flush=True)

    def close(self) -> None:
        """Nothing is left to write."""

    def _line(self, event: Event) -> str:
        match event:
            case WaveStarted(wave=wave, steps=steps):
                return f"--- {wave} ({steps} step{'s' if steps != 1 else ''})"
            case StepStarted(node=node, title=title):
                return f"{node or _CLUSTER}: {title}"
            case StepProgress(step=step, node=node, message=message, waiting=waiting):
                if self._last.get(step) == message:
                    return ""
                self._last[step] = message
                return f"{node or _CLUSTER}: {'waiting: ' if waiting else '  '}{clean_line(message)}"
            case StepFinished():
                return finished_line(event)
            case Note(node=node, message=message):
                return f"{node}: {message}" if node else message
            case RunStarted(run_dir=run_dir) if self.verbose:
                return f"journal and logs: {run_dir}"
            case _:
                return ""


def finished_line(event: StepFinished) -> str:
    """Return the line that says how a step ended."""
    text = f"{event.node or _CLUSTER}: {event.title}: {_MARKS[event.result]} ({event.duration_s:.1f} s)"
    if event.result is StepResult.ALREADY_TRUE and event.message:
        text += f": {event.message}"
    return text


@dataclass(slots=True)
class _Row:
    title: str
    started_at: float
    message: str = ""
    waiting: bool = False


class LiveConsole:
    """Finished steps scroll by; running ones stay below, one line each.

    The live lines are there only while steps run: at other times the terminal belongs to whoever asks a question.
    """

    def __init__(self, out: TextIO, *, verbose: bool = False) -> None:
        from rich.console import Console

        self._console = Console(file=out, highlight=False)
        self._rows: dict[str, _Row] = {}
        self._verbose = verbose
        self._live: Live | None = None

    def __call__(self, event: Event) -> None:
        """Show the event."""
        match event:
            case WaveStarted(wave=wave):
                self._print(wave, "bold")
            case StepStarted(step=step, title=title, node=node):
                self._rows[step] = _Row(clean_line(f"{node or _CLUSTER}: {title}"), time.monotonic())
                self._start()
            case StepProgress(step=step, message=message, waiting=waiting) if step in self._rows:
                self._rows[step].message, self._rows[step].waiting = clean_line(message), waiting
            case StepFinished(step=step, result=result):
                self._rows.pop(step, None)
                style = {StepResult.DONE: "green", StepResult.FAILED: "red"}.get(result, "yellow")
                self._print(f"  {finished_line(event)}", style)
                if not self._rows:
                    self._stop()
            case Note(message=message, node=node):
                self._print(f"  {node + ': ' if node else ''}{message}")
            case RunStarted(run_dir=run_dir) if self._verbose:
                self._print(f"journal and logs: {run_dir}")
            case RunFinished():
                self.close()

    def _start(self) -> None:
        from rich.live import Live

        if self._live is None:
            self._live = Live(console=self._console, get_renderable=self._render, refresh_per_second=8, transient=True)
            self._live.start()

    def _stop(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _print(self, text: str, style: str = "") -> None:
        self._console.print(clean(text).replace("\n", " "), style=style, markup=False, emoji=False, soft_wrap=True)

    def _render(self) -> Any:
        from rich.table import Table
        from rich.text import Text

        table = Table.grid(padding=(0, 2))
        for _ in range(3):
            table.add_column(no_wrap=True, overflow="ellipsis")
        now = time.monotonic()
        for row in list(self._rows.values()):
            state = ("waiting: " if row.waiting else "") + row.message
            table.add_row(Text(f"  {row.title}"), Text(f"{now - row.started_at:.0f}s"), Text(state, style="dim"))
        return table

    def close(self) -> None:
        """Take the live lines away."""
        self._rows.clear()
        self._stop()
