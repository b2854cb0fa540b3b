"""status: what the cluster looks like now."""

from __future__ import annotations

from typing import Any

import click

from kops_py.cli.options import host_options, inventory_options, output_option, settings_from
from kops_py.cli.output import print_json, say


@click.command()
@inventory_options
@output_option
@host_options
def status(output: str, verbose: bool, **given: Any) -> int:
    """Show nodes, versions, etcd, certificates' expiry, and cordons and whose they are; changes nothing."""
    del verbose
    from kops_py.app.queries import run_status
    from kops_py.report.status import status_text

    found = run_status(settings_from(**given))
    if output == "json":
        print_json(found.to_json())
    else:
        say(status_text(found))
    return 0
