"""Runs the installed program as an operator does: a process of its own, in a folder of its own, with a deadline."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kops_py.engine.journal import read_journal

_LOOK_EVERY_S = 0.05
_TAIL_LINES = 60


class ProgramError(AssertionError):
    """The program did not do what the test says it does; the text holds what it printed."""


@dataclass(frozen=True)
class Finished:
    """One ended run of the program."""

    argv: tuple[str, ...]
    exit_code: int
    stdout: str
    stderr: str
    duration_s: float

    @property
    def text(self) -> str:
        """Everything a person sees."""
        return self.stdout + self.stderr

    def json(self) -> Any:
        """Standard output as one JSON value."""
        return json.loads(self.stdout)

    def events(self) -> list[dict[str, Any]]:
        """Standard output as JSON lines; a line that is none raises."""
        return [json.loads(line) for line in self.stdout.splitlines()]

    def report(self) -> str:
        """The command line, how it ended and the ends of its output."""
        return (
            f"$ {shlex.join(self.argv)}\nexit code {self.exit_code} after {self.duration_s:.1f} s\n"
            f"--- stdout\n{tail(self.stdout)}\n--- stderr\n{tail(self.stderr)}"
        )


class Running:
    """The program while it runs; its output goes to files, so that no pipe can fill up."""

    def __init__(self, argv: tuple[str, ...], folder: Path, environment: Mapping[str, str], logs: Path) -> None:
        self.argv = argv
        logs.mkdir(exist_ok=True)
        number = len(list(logs.glob("*.err"))) + 1
        self._stdout, self._stderr = logs / f"{number:02}.out", logs / f"{number:02}.err"
        self._started = time.monotonic()
        with self._stdout.open("wb") as out, self._stderr.open("wb") as err:
            self._process = subprocess.Popen(
                argv, cwd=folder, env=dict(environment), stdin=subprocess.DEVNULL, stdout=out, stderr=err
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def has_ended(self) -> bool:
        return self._process.poll() is not None

    @property
    def stderr(self) -> str:
        """What it has said so far."""
        return self._stderr.read_text(errors="replace")

    def wait_said(self, pattern: str, *, deadline_s: float) -> float:
        """Wait until standard error holds the pattern; returns seconds since the start. Raises ProgramError."""
        wanted = re.compile(pattern, re.MULTILINE)
        self.wait_until(lambda: wanted.search(self.stderr) is not None, f"{pattern!r} on stderr", deadline_s=deadline_s)
        return time.monotonic() - self._started

    def wait_until(self, condition: Callable[[], bool], what: str, *, deadline_s: float) -> None:
        """Wait for a condition while the program runs; raises ProgramError when it ends or the time is up."""
        end = time.monotonic() + deadline_s
        while not condition():
            if self.has_ended and not condition():
                raise ProgramError(f"the program ended before {what}\n{self._finished().report()}")
            if time.monotonic() > end:
                self.kill()
                raise ProgramError(f"no {what} within {deadline_s:.0f} s\n{self._finished().report()}")
            time.sleep(_LOOK_EVERY_S)

    def kill(self) -> Finished:
        """End the program alone with SIGKILL, as the kernel's out-of-memory killer does."""
        self._process.kill()
        self._process.wait(10)
        return self._finished()

    def interrupt(self) -> None:
        """Ctrl-C."""
        self._process.send_signal(signal.SIGINT)

    def wait(self, *, deadline_s: float) -> Finished:
        """Wait for its end; raises ProgramError (and kills it) when the time is up."""
        try:
            self._process.wait(max(0.1, deadline_s - (time.monotonic() - self._started)))
        except subprocess.TimeoutExpired:
            finished = self.kill()
            raise ProgramError(f"no end within {deadline_s:.0f} s\n{finished.report()}") from None
        return self._finished()

    def _finished(self) -> Finished:
        return Finished(
            self.argv,
            self._process.returncode if self._process.returncode is not None else -1,
            self._stdout.read_text(errors="replace"),
            self.stderr,
            time.monotonic() - self._started,
        )


class Program:
    """An installed kops-py and the folder it is run in."""

    def __init__(self, executable: Path, folder: Path) -> None:
        self.executable = executable
        self.folder = folder
        self.logs = folder.parent / "program-logs"
        self.home = folder.parent / "home"
        self.home.mkdir(exist_ok=True)
        self.extra_environment: dict[str, str] = {}

    @property
    def environment(self) -> dict[str, str]:
        """A login's environment: nothing of the test run's own, no agent, no ssh configuration of a person."""
        kept = {k: v for k, v in os.environ.items() if k in ("LANG", "LC_ALL", "TZ", "TMPDIR")}
        path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        return {**kept, "HOME": str(self.home), "PATH": path, "TERM": "dumb", **self.extra_environment}

    def start(self, *arguments: str) -> Running:
        """Start it and return at once."""
        return Running((str(self.executable), *arguments), self.folder, self.environment, self.logs)

    def run(self, *arguments: str, exit_code: int = 0, deadline_s: float = 300) -> Finished:
        """Run it to its end; raises ProgramError when it ends with another exit code."""
        return self.expect(self.start(*arguments), exit_code=exit_code, deadline_s=deadline_s)

    def expect(self, running: Running, *, exit_code: int = 0, deadline_s: float = 300) -> Finished:
        """Wait for the end of a started run; raises ProgramError when it ends with another exit code."""
        finished = running.wait(deadline_s=deadline_s)
        if finished.exit_code != exit_code:
            raise ProgramError(f"exit code {finished.exit_code}, expected {exit_code}\n{finished.report()}")
        if "Traceback (most recent call last)" in finished.stderr:
            raise ProgramError(f"a traceback on stderr\n{finished.report()}")
        return finished

    def runs(self, run_dir: str = ".kops-py") -> list[Path]:
        """The folders of all runs, oldest first."""
        return sorted((self.folder / run_dir / "runs").glob("*"), key=lambda p: p.stat().st_ctime_ns)

    def journal(self) -> list[dict[str, Any]]:
        """The records of the newest run that has a journal."""
        kept = [path / "journal.jsonl" for path in self.runs() if (path / "journal.jsonl").exists()]
        return read_journal(kept[-1]) if kept else []

    def report(self) -> str:
        """The end of what the last run printed, and its journal."""
        parts = []
        for path in sorted(self.logs.glob("*"))[-2:]:
            parts.append(f"--- {path.name}\n{tail(path.read_text(errors='replace'))}")
        parts.append("--- journal\n" + "\n".join(json.dumps(r) for r in self.journal()[-20:]))
        return "\n".join(parts)


def tail(text: str, lines: int = _TAIL_LINES) -> str:
    """Return the last lines of a text."""
    return "\n".join(text.rstrip().splitlines()[-lines:])


def installed_program() -> Path:
    """The console script of the environment these tests run in; raises ProgramError when there is none."""
    path = Path(sys.executable).with_name("kops-py")
    if not path.is_file():
        raise ProgramError(f"{path} is not there: install the project into this environment")
    return path
