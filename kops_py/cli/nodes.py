"""patch, and the verbs of ``kops-py node``: nodes out of service and back."""

from __future__ import annotations

from functools import partial
from typing import Any

import click

from kops_py.app.membership import run_node_add, run_node_remove
from kops_py.app.nodes import run_node_verb, run_patch, run_reboot
from kops_py.app.upgrade import RolloutSettings
from kops_py.cli.options import host_options, inventory_options, output_option, plan_options, settings_from
from kops_py.cli.planned import run_planned
from kops_py.cli.upgrade import rollout_options, rollout_settings
from kops_py.model.errors import ConfigError
from kops_py.model.patches import RebootPolicy, Selection


@click.command()
@click.option("--security", is_flag=True, help="only updates that the distribution calls security updates")
@click.option("--package", "packages", multiple=True, metavar="NAME", help="only this package, even when held")
@click.option(
    "--reboot",
    type=click.Choice([p.value for p in RebootPolicy]),
    default=RebootPolicy.AUTO.value,
    show_default=True,
    help="restart a node if its system asks for it, always, or never",
)
@rollout_options
@inventory_options
@output_option
@host_options
@plan_options
def patch(output: str, verbose: bool, *, security: bool, packages: tuple[str, ...], reboot: str, **given: Any) -> int:
    """Install updates of the operating system, node by node; Kubernetes and containerd are held and stay."""
    if security and packages:
        raise ConfigError("--security and --package exclude each other", hint="leave one of them out")
    selection = Selection.NAMED if packages else Selection.SECURITY if security else Selection.ALL
    run = partial(
        run_patch,
        selection=selection,
        packages=packages,
        reboot=RebootPolicy(reboot),
        rollout=rollout_settings(given),
    )
    return run_planned(run, settings_from(**given), output, verbose=verbose, done="is patched: {steps} steps")


@click.group()
def node() -> None:
    """Join and remove nodes; take single ones out of service and back."""


_names = click.argument("nodes", nargs=-1, required=True, metavar="NODE...")


@node.command()
@_names
@inventory_options
@output_option
@host_options
@plan_options
def cordon(output: str, verbose: bool, nodes: tuple[str, ...], **given: Any) -> int:
    """Let nothing new be scheduled on these nodes; no upgrade or patch takes this away."""
    run = partial(run_node_verb, verb="cordon", nodes=_unique(nodes), rollout=RolloutSettings())
    return run_planned(run, settings_from(**given), output, verbose=verbose, done="has {steps} more nodes cordoned")


@node.command()
@_names
@click.option("--force", is_flag=True, help="also nodes that somebody else cordoned")
@inventory_options
@output_option
@host_options
@plan_options
def uncordon(output: str, verbose: bool, nodes: tuple[str, ...], *, force: bool, **given: Any) -> int:
    """Let these nodes be scheduled on again."""
    run = partial(run_node_verb, verb="uncordon", nodes=_unique(nodes), rollout=RolloutSettings(), foreign=force)
    return run_planned(run, settings_from(**given), output, verbose=verbose, done="has {steps} nodes back")


@node.command()
@_names
@rollout_options
@inventory_options
@output_option
@host_options
@plan_options
def drain(output: str, verbose: bool, nodes: tuple[str, ...], **given: Any) -> int:
    """Cordon nodes and evict what runs on them; they stay cordoned."""
    run = partial(run_node_verb, verb="drain", nodes=_unique(nodes), rollout=rollout_settings(given))
    return run_planned(run, settings_from(**given), output, verbose=verbose, done="has them drained: {steps} steps")


@node.command()
@_names
@rollout_options
@inventory_options
@output_option
@host_options
@plan_options
def reboot(output: str, verbose: bool, nodes: tuple[str, ...], **given: Any) -> int:
    """Drain nodes, restart their systems, and give them back when they are healthy."""
    run = partial(run_reboot, nodes=_unique(nodes), rollout=rollout_settings(given))
    return run_planned(run, settings_from(**given), output, verbose=verbose, done="has them restarted: {steps} steps")


@node.command()
@click.argument("nodes", nargs=-1, required=True, metavar="HOST...")
@inventory_options
@output_option
@host_options
@plan_options
def add(output: str, verbose: bool, nodes: tuple[str, ...], **given: Any) -> int:
    """Join hosts of the inventory, and no others, at the version the cluster has now."""
    if given.get("limit"):
        raise ConfigError("the hosts to join are named without --limit", hint="leave --limit out")
    run = partial(run_node_add, nodes=_unique(nodes))
    return run_planned(run, settings_from(**given), output, verbose=verbose, done="has them: {steps} steps")


@node.command()
@_names
@click.option("--lost", is_flag=True, help="their machines are gone: only the cluster forgets them")
@rollout_options
@inventory_options
@output_option
@host_options
@plan_options
def remove(output: str, verbose: bool, nodes: tuple[str, ...], *, lost: bool, **given: Any) -> int:
    """Take nodes out for good: drained, out of etcd, reset, deleted; also those the inventory no longer names."""
    if given.get("limit"):
        raise ConfigError("the nodes to remove are named without --limit", hint="leave --limit out")
    run = partial(run_node_remove, nodes=_unique(nodes), lost=lost, rollout=rollout_settings(given))
    return run_planned(run, settings_from(**given), output, verbose=verbose, done="is without them: {steps} steps")


def _unique(names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(names))
