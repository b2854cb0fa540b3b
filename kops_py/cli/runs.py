"""runs: what was done from this machine; reads the run folder only."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from kops_py.cli.options import output_option
from kops_py.cli.output import print_json, say
from kops_py.cli.report_options import report_files
from kops_py.model.errors import ConfigError

F = TypeVar("F", bound=Callable[..., Any])


def _run_dir_option(command: F) -> F:
    return click.option(
        "--run-dir",
        type=click.Path(path_type=Path, file_okay=False),
        default=Path(".kops-py"),
        show_default=True,
        help="where journals and logs are",
    )(command)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def runs() -> None:
    """Look at earlier runs, or make reports of them; contacts nothing.

    RUN is a run's name, as much of its beginning as no other shares, or "latest".
    """


@runs.command("list")
@_run_dir_option
@output_option
@click.option("--last", type=click.IntRange(min=1), default=20, show_default=True, metavar="N", help="the newest N")
def list_(run_dir: Path, output: str, last: int) -> int:
    """List runs, the newest first: operation, cluster, when, by whom, how it ended."""
    from kops_py.app.runs import list_runs
    from kops_py.report.runs import runs_text

    found, older = list_runs(run_dir, last)
    if output == "json":
        print_json({"runs": [run.to_json() for run in found], "older": older})
    else:
        say(runs_text(found, older=older))
    return 0


@runs.command()
@_run_dir_option
@output_option
@click.argument("run")
def show(run_dir: Path, output: str, run: str) -> int:
    """Show a run: each node's steps, failures, and the command that goes on with it."""
    from kops_py.app.runs import find_run
    from kops_py.report.runs import run_text

    found = find_run(run_dir, run)
    if output == "json":
        print_json(found.to_json_in_full())
    else:
        say(run_text(found))
    return 0


@runs.command()
@_run_dir_option
@click.option("--html", "report_html", type=click.Path(path_type=Path), metavar="FILE", help="one page to read")
@click.option("--markdown", "report_markdown", type=click.Path(path_type=Path), metavar="FILE", help="a summary for CI")
@click.option("--junit", "report_junit", type=click.Path(path_type=Path), metavar="FILE", help="JUnit XML for CI")
@click.argument("run")
def report(run_dir: Path, run: str, **given: Any) -> int:
    """Write reports of a run that has ended, or of how far it came."""
    from kops_py.app.reports import check_report_files, write_report_files
    from kops_py.app.runs import find_run

    files = report_files(given)
    if not files.named:
        raise ConfigError("no report is asked for", hint="add --html FILE, --markdown FILE or --junit FILE")
    found = find_run(run_dir, run)
    check_report_files(files)
    problems = write_report_files(files, found)
    if problems:
        raise ConfigError(problems[0], why="; ".join(problems[1:]), hint="name another file")
    for path in files.named.values():
        say(f"wrote {path}")
    return 0
