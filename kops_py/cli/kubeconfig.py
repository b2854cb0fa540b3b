"""kubeconfig: fetch the cluster's administrator kubeconfig."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
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
@click.option(
    "--file",
    "path",
    type=click.Path(path_type=Path, dir_okay=False),
    help="where to write  [default: CLUSTER.kubeconfig]",
)
@click.option("--merge", is_flag=True, help="merge into the file (default then: $KUBECONFIG or ~/.kube/config)")
@click.option("--use", is_flag=True, help="with --merge: make it the current context")
@click.option("--force", is_flag=True, help="replace another cluster's entries of the same name, or another file")
def kubeconfig(path: Path | None, merge: bool, use: bool, force: bool, output: str, verbose: bool, **given: Any) -> int:
    """Write a kubeconfig (0600) whose context is named after the cluster; it holds an administrator's key."""
    from kops_py.app.queries import write_kubeconfig

    settings = settings_from(**given)
    with event_output("table") if verbose else nullcontext(ignore_events) as emit:
        written, context = write_kubeconfig(settings, emit, path, merge=merge, use=use, force=force)
    if output == "json":
        print_json({"file": str(written), "context": context})
        return 0
    say(f"wrote {written}, context {context}; try: kubectl --kubeconfig {written} --context {context} get nodes")
    return 0
