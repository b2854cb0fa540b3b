"""preflight: look at hosts and cluster, change nothing."""

from __future__ import annotations

from typing import Any

import click

from kops_py.cli.options import (
    event_output,
    host_options,
    ignore_events,
    inventory_options,
    output_option,
    settings_from,
)
from kops_py.cli.output import print_json, say
from kops_py.model.errors import ExitCode
from kops_py.model.finding import blocking


@click.command()
@inventory_options
@output_option
@host_options
def preflight(output: str, verbose: bool, **given: Any) -> int:
    """Look for what would stand in the way of a bootstrap; exit code 3 when something does."""
    from kops_py.app.queries import run_preflight
    from kops_py.report.text import findings_text

    settings = settings_from(**given)
    if output == "json":
        findings = run_preflight(settings, ignore_events)
        print_json({"findings": [f.to_json() for f in findings]})
    else:
        with event_output(output, verbose=verbose) as emit:
            findings = run_preflight(settings, emit)
        say(findings_text(findings))
    return int(ExitCode.PREFLIGHT if blocking(findings) else ExitCode.DONE)
