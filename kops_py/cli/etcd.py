"""etcd: its members, and backups of them."""

from __future__ import annotations

from functools import partial
from typing import Any

import click

from kops_py.cli import etcd_backup, etcd_restore, etcd_schedule
from kops_py.cli.options import host_options, inventory_options, output_option, plan_options, settings_from
from kops_py.cli.output import print_json, say
from kops_py.cli.planned import run_planned
from kops_py.model.errors import ExitCode
from kops_py.model.finding import Severity


@click.group()
def etcd() -> None:
    """Look after etcd: its members, backups that are proven, and restores."""


@etcd.command()
@inventory_options
@output_option
@host_options
def status(output: str, verbose: bool, **given: Any) -> int:
    """Show members, sizes, quota and alarms, and what is wrong with them; needs no API server.

    The exit code is 12 when something is wrong that makes an outage or is about to.
    """
    del verbose
    from kops_py.app.etcd import run_etcd_status
    from kops_py.report.etcd import etcd_status_text

    facts, findings = run_etcd_status(settings_from(**given))
    if output == "json":
        print_json(facts.to_json() | {"findings": [f.to_json() for f in findings]})
    else:
        say(etcd_status_text(facts, findings))
    return int(ExitCode.ETCD if any(f.severity is Severity.ERROR for f in findings) else ExitCode.DONE)


@etcd.command()
@inventory_options
@output_option
@host_options
def members(output: str, verbose: bool, **given: Any) -> int:
    """Show the list of members as etcd has it, and the host of each."""
    del verbose
    from kops_py.app.etcd import run_etcd_status
    from kops_py.report.etcd import etcd_members_text

    facts, _ = run_etcd_status(settings_from(**given))
    if output == "json":
        print_json(facts.to_json()["members"])
    else:
        say(etcd_members_text(facts))
    return 0


@etcd.command()
@click.option(
    "--min-free",
    "min_free_percent",
    type=click.IntRange(0, 100),
    default=10,
    show_default=True,
    metavar="PERCENT",
    help="leave members alone whose database has less free space",
)
@inventory_options
@output_option
@host_options
@plan_options
def defrag(output: str, verbose: bool, *, min_free_percent: int, **given: Any) -> int:
    """Give back the free space in etcd's databases, one member at a time, the leader last."""
    from kops_py.app.etcd import run_defrag

    run = partial(run_defrag, min_free_percent=min_free_percent)
    return run_planned(
        run, settings_from(**given), output, verbose=verbose, done="has defragmented etcd: {steps} steps"
    )


for _command in (
    etcd_backup.backup,
    etcd_backup.list_,
    etcd_backup.verify,
    etcd_backup.drill,
    etcd_backup.prune,
    etcd_backup.keep,
    etcd_backup.unkeep,
    etcd_backup.check,
    etcd_schedule.schedule,
    etcd_restore.restore,
):
    etcd.add_command(_command)
