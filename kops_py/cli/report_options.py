"""Options of commands that run plans: the reports they leave, and how long they may take."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from kops_py.app.reports import ReportFiles
from kops_py.model.duration import Duration, parse_duration

F = TypeVar("F", bound=Callable[..., Any])
_FORMS = {"html": "one page to read", "markdown": "a summary for CI", "junit": "JUnit XML for CI"}


def duration(text: str) -> Duration:
    """Read the value of an option that is a length of time; fails as click does."""
    try:
        return parse_duration(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


def report_options(command: F) -> F:
    """Add --report-junit, --report-markdown and --report-html; ``report_files`` makes a value of them."""
    for form, text in _FORMS.items():
        command = click.option(
            f"--report-{form}",
            type=click.Path(path_type=Path),
            metavar="FILE",
            help=f"write {text} at the end, however it ends",
        )(command)
    return command


def deadline_option(command: F) -> F:
    """Add --deadline."""
    return click.option(
        "--deadline",
        type=duration,
        metavar="DURATION",
        help="end cleanly when the whole run takes longer (90m, 2h); exit code 124",
    )(command)


def report_files(given: dict[str, Any]) -> ReportFiles:
    """Return where the options ask for reports."""
    return ReportFiles(**{form: given.get(f"report_{form}") for form in _FORMS})
