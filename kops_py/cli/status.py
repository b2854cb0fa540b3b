"""status: what the cluster looks like now."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import click

from kops_py.cli.options import (
    event_output,
    ignore_events,
    inventory_options,
    output_option,
    query_options,
    settings_from,
)
from kops_py.cli.output import print_json, say


@click.command()
@inventory_options
@output_option
@query_options
def status(output: str, verbose: bool, **given: Any) -> int:
    """Show nodes, versions, etcd, certificates' expiry, and cordons and whose they are; changes nothing."""
    from kops_py.app.queries import run_status
    from kops_py.report.status import status_text

    settings = settings_from(**given)
    with event_output("table") if verbose else nullcontext(ignore_events) as emit:
        found = run_status(settings, emit)
    if output == "json":
        print_json(found.to_json())
    else:
        say(status_text(found))
    return 0
