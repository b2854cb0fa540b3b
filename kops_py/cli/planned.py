"""What all commands that plan share: ask before they run, and say how it ended."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import nullcontext
from typing import TYPE_CHECKING

import click

from kops_py.app.session import Confirm, Emit, Settings
from kops_py.cli.options import event_output, ignore_events
from kops_py.cli.output import print_json, say
from kops_py.model.errors import ConfigError, ExitCode
from kops_py.model.finding import Finding
from kops_py.model.plan import Plan

if TYPE_CHECKING:
    from kops_py.app.run import RunResult

Run = Callable[[Settings, Emit, Confirm], "RunResult"]
Ask = Callable[[Plan], bool]


def run_planned(run: Run, settings: Settings, output: str, *, verbose: bool, done: str, ask: Ask | None = None) -> int:
    """Run a command that plans and return its exit code; ``done`` says what is true when it ended well.

    ``ask`` asks in place of a plain yes or no.
    """
    if not (settings.plan_only or settings.yes or settings.plan_digest or sys.stdin.isatty()):
        raise ConfigError(
            "there is no terminal to ask on",
            hint="look at the plan with --plan, then add --yes or --plan-digest DIGEST",
        )
    # A plan as JSON is one object, not a stream: the events of making it would be in the way of whoever reads it.
    with (
        nullcontext(ignore_events)
        if output == "json" and settings.plan_only
        else event_output(output, verbose=verbose) as emit
    ):
        result = run(settings, emit, lambda plan, findings: _confirm(settings, output, plan, findings, ask))
    if output == "table":
        _print(result, plan_only=settings.plan_only, done=done)
    elif settings.plan_only:
        print_json(result.plan.to_json() | {"findings": [f.to_json() for f in result.findings]})
    if result.errors:
        _print_errors(settings, result)
    return int(result.exit_code)


def _confirm(settings: Settings, output: str, plan: Plan, findings: tuple[Finding, ...], ask: Ask | None) -> bool:
    """Show what was found, and ask unless the answer was given on the command line."""
    from kops_py.report.text import findings_text, plan_text

    if findings and output == "table":
        click.echo(findings_text(findings), err=True)
    if settings.yes or settings.plan_digest:
        return True
    click.echo(plan_text(plan), err=True)
    try:
        return ask(plan) if ask else click.confirm("Run this plan?", default=False, err=True)
    except click.Abort:  # Ctrl-C or Ctrl-D
        click.echo(err=True)
        return False


def _print(result: RunResult, *, plan_only: bool, done: str) -> None:
    from kops_py.report.text import findings_text, plan_text

    refused = result.exit_code is ExitCode.INTERRUPTED and not result.errors
    if plan_only or (result.findings and not result.executed and not refused):
        say(findings_text(result.findings))
    if plan_only:
        say(plan_text(result.plan))
    elif refused:
        say("nothing was changed")
    elif not result.plan.has_changes and not result.errors:
        notes = "; ".join(result.plan.notes)
        say(f"cluster {result.plan.cluster}: nothing to do" + (f" ({notes})" if notes else ""))
    elif not result.errors:
        say(f"cluster {result.plan.cluster} {done.format(steps=len(result.plan.steps))}")
    if result.hint and not plan_only:
        say(result.hint)


def _print_errors(settings: Settings, result: RunResult) -> None:
    from kops_py.app.session import resume_command
    from kops_py.report.text import errors_text

    text = errors_text(
        result.errors,
        resume="" if settings.plan_only else resume_command(settings.command),
        log=str(result.run_dir) if result.run_dir is not None else "",
    )
    click.echo(text, err=True)
