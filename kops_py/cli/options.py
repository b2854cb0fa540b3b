"""Options that commands share, and the output both kinds of reader get."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import click

from kops_py.app.session import Emit, Settings
from kops_py.cli.report_options import deadline_option, report_files, report_options
from kops_py.model.event import Event

F = TypeVar("F", bound=Callable[..., Any])


def inventory_options(command: F) -> F:
    """Add -i and --cluster."""
    command = click.option(
        "--cluster",
        "cluster",
        type=click.Path(path_type=Path),
        help="cluster.yaml  [default: beside the inventory]",
    )(command)
    return click.option(
        "-i",
        "--inventory",
        type=click.Path(path_type=Path),
        help="inventory file or its folder  [default: the current folder]",
    )(command)


def output_option(command: F) -> F:
    """Add -o."""
    return click.option(
        "-o",
        "--output",
        type=click.Choice(["table", "json"]),
        default="table",
        show_default=True,
        help="for people or for programs",
    )(command)


def host_options(command: F) -> F:
    """Add what commands that contact hosts and judge what they find understand."""
    ignore = click.option("--ignore", multiple=True, metavar="FINDING", help="accept a finding: NAME or NAME@HOST")
    return query_options(ignore(command))


def query_options(command: F) -> F:
    """Add what commands that contact hosts understand."""
    for option in (
        click.option("-v", "--verbose", is_flag=True, help="say more"),
        click.option(
            "--accept-new-host-keys",
            is_flag=True,
            help="trust host keys seen for the first time and record them (a changed key is always refused)",
        ),
        click.option(
            "--ssh-config",
            type=click.Path(path_type=Path, exists=True, dir_okay=False),
            help="ssh configuration to use  [default: ~/.ssh/config]",
        ),
        click.option(
            "--run-dir",
            type=click.Path(path_type=Path, file_okay=False),
            default=Path(".kops-py"),
            show_default=True,
            help="journals, logs and locks",
        ),
    ):
        command = option(command)
    return command


def _not_empty(_context: click.Context, _option: click.Parameter, text: str | None) -> str | None:
    """Refuse an empty value: a script whose variable is unset would act on all hosts, or run any plan."""
    if text is not None and not text.replace(",", "").strip():
        raise click.BadParameter("it is empty; give it a value, or leave the option out")
    return text


def plan_options(command: F) -> F:
    """Add what commands that plan and run understand, the reports they leave and their deadline too."""
    command = deadline_option(report_options(command))
    for option in (
        click.option("-y", "--yes", is_flag=True, help="do not ask; needed without a terminal"),
        click.option("--plan-digest", metavar="DIGEST", callback=_not_empty, help="run this plan and refuse any other"),
        click.option("--plan", "plan_only", is_flag=True, help="show what would run; exit code 20 if anything"),
        click.option("--limit", metavar="HOST,...", callback=_not_empty, help="act on these hosts only"),
    ):
        command = option(command)
    return command


def settings_from(**given: Any) -> Settings:
    """Return the settings of a command line."""
    return Settings(
        inventory=given.get("inventory"),
        cluster=given.get("cluster"),
        run_dir=given.get("run_dir") or Path(".kops-py"),
        limit=str(given.get("limit") or ""),
        ignore=frozenset(given.get("ignore") or ()),
        accept_new_host_keys=bool(given.get("accept_new_host_keys")),
        ssh_config=given.get("ssh_config"),
        yes=bool(given.get("yes")),
        plan_only=bool(given.get("plan_only")),
        plan_digest=str(given.get("plan_digest") or ""),
        reports=report_files(given),
        deadline=given.get("deadline"),
        command=shlex.join(["kops-py", *click.get_current_context().obj]),
    )


@contextmanager
def event_output(output: str, *, verbose: bool = False, events_file: Path | None = None) -> Iterator[Emit]:
    """Give the events of a command to a console on standard error or as JSON lines to standard output."""
    from kops_py.report.bus import EventBus
    from kops_py.report.console import Subscriber, make_console
    from kops_py.report.jsonl import JsonFile, JsonLines

    subscribers: list[Subscriber] = []
    if events_file is not None:
        subscribers.append(JsonFile(events_file))
    subscribers.append(JsonLines(sys.stdout) if output == "json" else make_console(verbose=verbose))
    bus = EventBus(subscribers)
    try:
        yield bus
    finally:
        bus.close()


def ignore_events(_event: Event) -> None:
    """Take an event and do nothing."""
