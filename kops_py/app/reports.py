"""Reports of a run: checked before it begins, written when it ends, however it ends."""

from __future__ import annotations

import json
import os
import secrets
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from kops_py.model.errors import ConfigError, ExitCode, KopsError
from kops_py.model.event import Emit, Event, FindingsMade, Note, PlanMade, RunStarted, SeenWhen, VersionsSeen
from kops_py.model.finding import blocking

if TYPE_CHECKING:
    from kops_py.connect.kube_access import KubeAccess
    from kops_py.model.facts import Facts
    from kops_py.report.history import RunHistory

HTML_NAME = "report.html"
_VERSIONS_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class ReportFiles:
    """Where reports are asked for; None: not."""

    junit: Path | None = None
    markdown: Path | None = None
    html: Path | None = None

    @property
    def named(self) -> Mapping[str, Path]:
        """Return those that are asked for, by the name of their form."""
        given = {"junit": self.junit, "markdown": self.markdown, "html": self.html}
        return {form: path for form, path in given.items() if path is not None}


class HasReports(Protocol):
    """What of a command's settings is needed here."""

    @property
    def reports(self) -> ReportFiles: ...
    @property
    def command(self) -> str: ...
    @property
    def plan_only(self) -> bool: ...


@contextmanager
def reporting(settings: HasReports, emit: Emit, operation: str) -> Iterator[Emit]:
    """Give the ``emit`` for everything a command does, and write its reports when the block ends, however it ends.

    A run (RunStarted was emitted) is read back from its folder, which gets report.html too; of a plan that was only
    looked at, the events are what there is. Raises ConfigError before the block when a file cannot be written; at the
    end that is a note, as it changes nothing about the run.
    """
    check_report_files(settings.reports)
    seen = _Seen(emit, operation)
    try:
        yield seen
    except KopsError as error:
        _finish(settings, seen, error.code, error)
        raise
    except KeyboardInterrupt:
        _finish(settings, seen, ExitCode.INTERRUPTED)
        raise
    except BaseException:
        _finish(settings, seen, ExitCode.UNEXPECTED)
        raise
    _finish(settings, seen, None)


def write_reports(settings: HasReports, run_dir: Path) -> tuple[str, ...]:
    """Write the reports of the run in this folder, and report.html into it; return what could not be written."""
    from kops_py.app.runs import read_run

    return _write(settings.reports, read_run(run_dir), run_dir)


def write_report_files(files: ReportFiles, run: RunHistory) -> tuple[str, ...]:
    """Write the reports that are asked for, each whole or not at all; return what could not be written."""
    problems = []
    for form, path in files.named.items():
        try:
            write_whole(path, _render(form)(run))
        except OSError as error:
            problems.append(f"the {form} report could not be written: {path}: {error.strerror or error}")
    return tuple(problems)


def check_report_files(files: ReportFiles) -> None:
    """Raise ConfigError unless every report could be written now; leaves nothing behind."""
    taken: dict[Path, str] = {}
    for form, path in files.named.items():
        option = f"--report-{form}"
        other = taken.setdefault(path.resolve(), option)
        if other != option:
            raise ConfigError("two reports cannot be one file", where=f"{other} and {option}", why=str(path))
        try:
            _check_writable(path)
        except OSError as error:
            raise ConfigError(
                "the report cannot be written there",
                where=f"{option} {path}",
                why=error.strerror or str(error),
                hint="name a file in a folder that exists and that you may write to",
            ) from error


def write_whole(path: Path, text: str, *, mode: int = 0o666) -> None:
    """Put the text in the file's place in one move; a pipe or a terminal is written to. Raises OSError."""
    target = path.resolve()
    if target.exists() and not target.is_file():
        with target.open("w", encoding="utf-8") as stream:
            stream.write(text)
        return
    with _beside(target, mode) as (temporary, descriptor):
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(target)


def emit_versions(kube: KubeAccess, when: SeenWhen, emit: Emit) -> None:
    """Ask the cluster for the version of each node and tell the reports; where nothing answers, they do without."""
    try:
        nodes = list(kube.api().items("/api/v1/nodes", timeout_s=_VERSIONS_TIMEOUT_S))
    except KopsError:
        return
    versions = {
        n["metadata"]["name"]: str(n.get("status", {}).get("nodeInfo", {}).get("kubeletVersion", "")) for n in nodes
    }
    emit(VersionsSeen(when=when, nodes=versions))


def versions_seen(when: SeenWhen, facts: Facts) -> VersionsSeen:
    """Return the event that tells reports the version of each node."""
    return VersionsSeen(when=when, nodes={n.name: n.version for n in facts.kube.nodes.values()} if facts.kube else {})


class _Seen:
    """Passes events on, and keeps what a report of a plan needs."""

    def __init__(self, emit: Emit, operation: str) -> None:
        self._emit = emit
        self.operation = operation
        self.lines: list[str] = []
        self.run_dir: Path | None = None
        self.is_blocked = False
        self.has_changes = False

    def __call__(self, event: Event) -> None:
        if isinstance(event, RunStarted):
            self.run_dir = Path(event.run_dir)
        if isinstance(event, PlanMade):
            self.has_changes = event.plan.has_changes
        if isinstance(event, FindingsMade):
            self.is_blocked = bool(blocking(event.findings))
        if isinstance(event, FindingsMade | PlanMade | Note | VersionsSeen):
            self.lines.append(json.dumps(event.to_json()))
        self._emit(event)

    def say(self, text: str) -> None:
        self._emit(Note(message=text))


def _finish(settings: HasReports, seen: _Seen, code: ExitCode | None, error: KopsError | None = None) -> None:
    from kops_py.app.runs import read_run
    from kops_py.report.history import Failure
    from kops_py.report.history_read import history_of
    from kops_py.report.plain import clean

    if seen.run_dir is None and not settings.reports.named:
        return
    if seen.run_dir is not None:
        try:
            run = read_run(seen.run_dir)
        except ConfigError as unreadable:
            seen.say(f"no report is written: {unreadable}")
            return
    else:
        name = "plan" if settings.plan_only else "not begun"
        run = replace(history_of(name, events=seen.lines), planned_only=settings.plan_only, command=settings.command)
        changes = ExitCode.PENDING_CHANGES if seen.has_changes else ExitCode.DONE
        code = code or (ExitCode.PREFLIGHT if seen.is_blocked else changes)
    run = replace(run, operation=run.operation or seen.operation)
    if run.exit_code is None and code is not None:
        run = replace(run, exit_code=int(code))
    known = set(map(str, run.failures))
    for one in (error, *(error.others if isinstance(error, ConfigError) else ())) if error is not None else ():
        if str(one) not in known:
            failure = Failure(clean(one.what), clean(one.where), clean(one.why), clean(one.hint), type(one).__name__)
            run = replace(run, failures=(*run.failures, failure))
    for problem in _write(settings.reports, run, seen.run_dir):
        seen.say(problem)


def _write(files: ReportFiles, run: RunHistory, run_dir: Path | None) -> tuple[str, ...]:
    problems = write_report_files(files, run)
    if run_dir is None:
        return problems
    try:
        write_whole(run_dir / HTML_NAME, _render("html")(run), mode=0o600)
    except OSError as error:
        problems += (f"{run_dir / HTML_NAME} could not be written: {error.strerror or error}",)
    return problems


def _render(form: str) -> Callable[[RunHistory], str]:
    if form == "html":
        from kops_py.report.html import html

        return html
    if form == "junit":
        from kops_py.report.junit import junit

        return junit
    from kops_py.report.markdown import markdown

    return markdown


def _check_writable(path: Path) -> None:
    target = path.resolve()
    if target.is_dir():
        raise IsADirectoryError(None, "is a folder")
    if target.exists() and not target.is_file():
        if not os.access(target, os.W_OK):
            raise PermissionError(None, "may not be written to")
        return
    with _beside(target, 0o600) as (_, descriptor):
        os.close(descriptor)


@contextmanager
def _beside(target: Path, mode: int) -> Iterator[tuple[Path, int]]:
    """Open a new file in the same folder, and remove it at the end if it is still there."""
    temporary = target.with_name(f".{target.name[:100]}.{secrets.token_hex(4)}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        if target.exists():
            temporary.chmod(stat.S_IMODE(target.stat().st_mode))
        yield temporary, descriptor
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()
