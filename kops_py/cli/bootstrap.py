"""bootstrap: build the cluster, or join what is missing."""

from __future__ import annotations

import shlex
from typing import Any

import click

from kops_py.cli.options import host_options, inventory_options, output_option, plan_options, settings_from
from kops_py.cli.planned import run_planned


@click.command()
@inventory_options
@output_option
@host_options
@plan_options
def bootstrap(output: str, verbose: bool, **given: Any) -> int:
    """Build the cluster that the inventory names; on a running one, join what it lacks and change nothing else."""
    from kops_py.app.bootstrap import run_bootstrap

    settings = settings_from(**given)
    files = [word for name in ("inventory", "cluster") if given[name] for word in (f"--{name}", str(given[name]))]
    following = shlex.join(["kops-py", "kubeconfig", *files]).replace("{", "{{").replace("}", "}}")
    done = f"is ready: {{steps}} steps. Next: {following}"
    return run_planned(run_bootstrap, settings, output, verbose=verbose, done=done)
