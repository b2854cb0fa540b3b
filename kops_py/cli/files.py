"""init, validate and schema: files only, nothing is contacted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from kops_py.cli.options import inventory_options, output_option, settings_from
from kops_py.cli.output import print_json, say


@click.command()
@click.argument("directory", type=click.Path(path_type=Path, file_okay=False))
@click.option(
    "--topology",
    type=click.Choice(["single", "one-control-plane", "stacked", "external-etcd"]),
    default="single",
    show_default=True,
    help="what the example describes",
)
def init(directory: Path, topology: str) -> None:
    """Write a commented inventory and cluster.yaml into DIRECTORY."""
    from kops_py.config.init import write_example

    for path in write_example(directory, topology):
        say(f"wrote {path}")
    say(f"edit them, then: kops-py validate -i {directory}")


@click.command()
@inventory_options
@output_option
def validate(output: str, **given: Any) -> None:
    """Check inventory and cluster.yaml; every error names file, line and column."""
    from kops_py.app.session import load_spec

    spec = load_spec(settings_from(**given))
    if output == "json":
        print_json(
            {
                "valid": True,
                "cluster": spec.name,
                "version": str(spec.kubernetes.version),
                "endpoint": str(spec.endpoint),
                "control_planes": [h.name for h in spec.control_planes],
                "workers": [h.name for h in spec.workers],
                "load_balancers": [h.name for h in spec.load_balancers],
            }
        )
        return
    say(
        f"{spec.cluster_path} and {spec.inventory_path} are valid: cluster {spec.name}, "
        f"Kubernetes {spec.kubernetes.version}, {len(spec.control_planes)} control plane(s), "
        f"{len(spec.workers)} worker(s), {len(spec.load_balancers)} load balancer(s), endpoint {spec.endpoint}"
    )


@click.command()
def schema() -> None:
    """Print the JSON Schema of cluster.yaml, for editors."""
    from kops_py.config.schema import json_schema

    print_json(json_schema())
