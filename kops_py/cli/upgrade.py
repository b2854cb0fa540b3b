"""upgrade: another version of Kubernetes, node by node."""

from __future__ import annotations

import re
from typing import Any

import click

from kops_py.app.upgrade import RolloutSettings, run_upgrade
from kops_py.cli.options import F, host_options, inventory_options, output_option, plan_options, settings_from
from kops_py.cli.planned import run_planned
from kops_py.model.version import Version, facts_of


class VersionType(click.ParamType):
    """A Kubernetes release, as in v1.31.2."""

    name = "version"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Version:
        """See click.ParamType."""
        if isinstance(value, Version):
            return value
        try:
            version = Version.parse(str(value))
            facts_of(version)
        except ValueError as error:
            self.fail(str(error), param, ctx)
        return version


class CountOrShare(click.ParamType):
    """A number of nodes, or a percentage."""

    name = "number|percent"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """See click.ParamType."""
        if not re.fullmatch(r"[1-9][0-9]{0,5}%?", str(value)):
            self.fail(f"{value!r} is neither a number of nodes nor a percentage such as 25%", param, ctx)
        return str(value)


def rollout_options(command: F) -> F:
    """Add what commands understand that take nodes out of service."""
    for option in (
        click.option(
            "--disable-eviction",
            is_flag=True,
            help="delete pods without asking disruption budgets; written into journal and report",
        ),
        click.option("--force", is_flag=True, help="also pods without a controller, which nothing starts again"),
        click.option(
            "--delete-emptydir-data", "delete_empty_dir_data", is_flag=True, help="also pods with emptyDir data"
        ),
        click.option("--grace-period", type=click.IntRange(min=0), metavar="SECONDS", help="in place of the pods' own"),
        click.option("--drain-timeout", type=click.FloatRange(min=1), metavar="SECONDS", help="for one node"),
        click.option("--canary", type=click.IntRange(min=0), default=0, help="workers that go first, one at a time"),
        click.option(
            "--max-failures", type=click.IntRange(min=0), help="workers that may fail before nothing new begins"
        ),
        click.option("--max-unavailable", type=CountOrShare(), help="workers at once  [default: cluster.yaml's, or 1]"),
        click.option(
            "--strategy",
            type=click.Choice(["rolling", "all-at-once"]),
            default="rolling",
            show_default=True,
            help="a sliding window of workers, or all of them together",
        ),
    ):
        command = option(command)
    return command


def rollout_settings(given: dict[str, Any]) -> RolloutSettings:
    """Take the rollout's options out of ``given`` and return them as settings."""
    return RolloutSettings(
        max_unavailable=given.pop("max_unavailable"),
        max_failures=given.pop("max_failures"),
        canary=given.pop("canary"),
        all_at_once=given.pop("strategy") == "all-at-once",
        drain_timeout_s=given.pop("drain_timeout"),
        grace_period_s=given.pop("grace_period"),
        delete_empty_dir_data=given.pop("delete_empty_dir_data"),
        force=given.pop("force"),
        disable_eviction=given.pop("disable_eviction"),
    )


@click.command()
@click.option("--to", "target", type=VersionType(), help="release to upgrade to  [default: cluster.yaml's]")
@click.option("--via", type=VersionType(), multiple=True, help="release of a minor in between; one for each")
@rollout_options
@inventory_options
@output_option
@host_options
@plan_options
def upgrade(output: str, verbose: bool, target: Version | None, via: tuple[Version, ...], **given: Any) -> int:
    """Upgrade the cluster: control planes one at a time, then the workers; nothing is done twice."""
    rollout = rollout_settings(given)
    hops = {version.minor: version for version in via}

    def run(settings: Any, emit: Any, confirm: Any) -> Any:
        return run_upgrade(settings, emit, confirm, target=target, via=hops, rollout=rollout)

    return run_planned(run, settings_from(**given), output, verbose=verbose, done="is upgraded: {steps} steps")
