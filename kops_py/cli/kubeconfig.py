"""kubeconfig: fetch the cluster's administrator kubeconfig."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from kops_py.cli.options import host_options, inventory_options, settings_from
from kops_py.cli.output import say


@click.command()
@inventory_options
@host_options
@click.option(
    "--file",
    "path",
    type=click.Path(path_type=Path, dir_okay=False),
    help="where to write  [default: CLUSTER.kubeconfig]",
)
@click.option("--merge", is_flag=True, help="merge into the file (default then: $KUBECONFIG or ~/.kube/config)")
@click.option("--use", is_flag=True, help="with --merge: make it the current context")
@click.option("--force", is_flag=True, help="replace entries of the same name that belong to another cluster")
def kubeconfig(path: Path | None, merge: bool, use: bool, force: bool, verbose: bool, **given: Any) -> int:
    """Write a kubeconfig (0600) whose context is named after the cluster; it holds an administrator's key."""
    del verbose
    from kops_py.app.queries import write_kubeconfig

    written, context = write_kubeconfig(settings_from(**given), path, merge=merge, use=use, force=force)
    say(f"wrote {written}, context {context}; try: kubectl --kubeconfig {written} --context {context} get nodes")
    return 0
