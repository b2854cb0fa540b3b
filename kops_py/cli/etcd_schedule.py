"""etcd schedule: backups that make themselves."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import click

from kops_py.cli.options import host_options, inventory_options, output_option, plan_options, settings_from
from kops_py.cli.output import print_json, say
from kops_py.cli.planned import run_planned

_HOURS = (1, 2, 3, 4, 6, 8, 12, 24)
"""Steps that divide a day, so that a schedule is the same every day."""
F = TypeVar("F", bound=Callable[..., Any])


@click.group()
def schedule() -> None:
    """Make backups by themselves: a systemd timer, a cron line or a CronJob."""


_host = click.option(
    "--on", "host", default="", metavar="HOST", help="a host of the inventory  [default: this machine]"
)


def _when(command: F) -> F:
    for option in (
        click.option("--user", default="", help="who runs it  [default: you]"),
        click.option("--inventory-there", default="", metavar="DIR", help="the operator's files on that host"),
        click.option("--program", default="", metavar="PATH", help="kops-py on that host"),
        click.option(
            "--every",
            "every_hours",
            type=click.Choice([f"{h}h" for h in _HOURS]),
            default="6h",
            show_default=True,
            help="how often",
        ),
    ):
        command = option(command)
    return command


@schedule.command()
@_host
@_when
@click.option(
    "--format",
    "form",
    type=click.Choice(["systemd", "cron", "cronjob"]),
    help="print it in this form and install nothing",
)
@click.option("--image", default="kops-py:latest", show_default=True, help="image of the CronJob")
@click.option("--namespace", default="kube-system", show_default=True, help="namespace of the CronJob")
@inventory_options
@output_option
@host_options
@plan_options
def install(
    output: str,
    verbose: bool,
    *,
    host: str,
    every_hours: str,
    program: str,
    inventory_there: str,
    user: str,
    form: str | None,
    image: str,
    namespace: str,
    **given: Any,
) -> int:
    """Install a hardened systemd timer: with jitter, and what was missed while the machine was off is made up for."""
    from kops_py.app.etcd_schedule import ScheduleSettings, print_schedule, run_install

    settings = settings_from(**given)
    chosen = ScheduleSettings(int(every_hours.removesuffix("h")), host, program, inventory_there, user)
    if form is not None:
        say(print_schedule(settings, chosen, form=form, image=image, namespace=namespace).rstrip("\n"))
        return 0
    run = partial(run_install, given=chosen)
    return run_planned(run, settings, output, verbose=verbose, done="has its backups scheduled")


@schedule.command()
@_host
@inventory_options
@output_option
@host_options
def show(output: str, verbose: bool, *, host: str, **given: Any) -> int:
    """Show the timer: when it runs next, and how its last run ended."""
    del verbose
    from kops_py.app.etcd_schedule import show_schedule

    found = show_schedule(settings_from(**given), host=host)
    if output == "json":
        print_json(found)
    else:
        say("\n".join(f"{name.replace('_', ' ')}: {value or '-'}" for name, value in found.items()))
    return 0


@schedule.command()
@_host
@inventory_options
@output_option
@host_options
@plan_options
def remove(output: str, verbose: bool, *, host: str, **given: Any) -> int:
    """Stop the timer and remove it; the backups stay."""
    from kops_py.app.etcd_schedule import run_remove

    run = partial(run_remove, host=host)
    return run_planned(run, settings_from(**given), output, verbose=verbose, done="has no backups scheduled any more")
