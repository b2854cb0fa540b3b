"""upgrade: another version of Kubernetes, node by node."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from typing import Any

import click

from kops_py.app.run import RunResult
from kops_py.app.session import Confirm, Emit, Settings
from kops_py.app.upgrade import RolloutSettings, run_upgrade
from kops_py.cli.options import F, host_options, inventory_options, output_option, plan_options, settings_from
from kops_py.cli.planned import run_planned
from kops_py.model.duration import parse_duration
from kops_py.model.errors import ConfigError
from kops_py.model.selectors import parse_selector
from kops_py.model.version import Version, facts_of


def _version(_context: click.Context, _option: click.Parameter, text: str | None) -> Version | None:
    """Read a release such as v1.31.2."""
    if text is None:
        return None
    try:
        version = Version.parse(text)
        facts_of(version)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error
    return version


def _versions(context: click.Context, option: click.Parameter, texts: tuple[str, ...]) -> dict[int, Version]:
    """Read releases, one of each minor."""
    found: dict[int, Version] = {}
    for text in texts:
        version = _version(context, option, text)
        if version is not None and found.setdefault(version.minor, version) != version:
            raise click.BadParameter(f"{found[version.minor]} and {version} are of the same minor")
    return found


def _count_or_share(_context: click.Context, _option: click.Parameter, text: str | None) -> str | None:
    """Read a number of nodes, or a percentage."""
    good = text is None or re.fullmatch(r"[1-9][0-9]{0,5}|([1-9][0-9]?|100)%", text)
    if not good:
        raise click.BadParameter(f"{text!r} is neither a number of nodes nor a percentage such as 25%")
    return text


def _duration(_context: click.Context, _option: click.Parameter, text: str | None) -> float | None:
    """Read a length of time; 0 is none."""
    if text is None or text == "0":
        return None if text is None else 0.0
    try:
        return float(parse_duration(text).seconds)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


def _selector(_context: click.Context, _option: click.Parameter, text: str | None) -> str | None:
    """Read a label selector; an empty one, as from a script's unset variable, would fit every pod."""
    if text is None:
        return None
    if not text.strip():
        raise click.BadParameter("it is empty; give it a value, or leave the option out")
    try:
        parse_selector(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error
    return text.strip()


def _words(_context: click.Context, _option: click.Parameter, text: str | None) -> tuple[str, ...]:
    """Split a command into words as a shell would."""
    try:
        words = tuple(shlex.split(text or ""))
    except ValueError as error:
        raise click.BadParameter(f"{text!r} is no command: {error}") from error
    if text is not None and not words:
        raise click.BadParameter("this is no command")
    return words


_STRATEGIES = ("rolling", "all-at-once")


def rollout_options(command: F) -> F:
    """Add what commands understand that take nodes out of service."""
    return _rollout_options(command, _STRATEGIES, "a sliding window of workers, or all of them together")


def _rollout_options(command: F, strategies: Sequence[str], meaning: str) -> F:
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
        click.option(
            "--pod-selector",
            callback=_selector,
            metavar="SELECTOR",
            help="only pods whose labels fit, as in app!=db; all others stay on the node",
        ),
        click.option("--grace-period", type=click.IntRange(min=0), metavar="SECONDS", help="in place of the pods' own"),
        click.option("--drain-timeout", type=click.FloatRange(min=1), metavar="SECONDS", help="for one node"),
        click.option(
            "--canary-gate",
            callback=_words,
            metavar="COMMAND",
            help="has to end with 0 within 10 minutes before other workers are begun",
        ),
        click.option(
            "--canary-pause",
            callback=_duration,
            metavar="DURATION",
            help="watch the canaries for so long before other workers are begun, as in 10m",
        ),
        click.option("--canary", type=click.IntRange(min=0), help="workers that go first, one at a time"),
        click.option("--max-failures", type=click.IntRange(min=0), help="workers that may fail before it stops"),
        click.option(
            "--max-unavailable",
            callback=_count_or_share,
            metavar="N|N%",
            help="workers at once; puts the groups of cluster.yaml aside",
        ),
        click.option(
            "--strategy",
            type=click.Choice(strategies),
            default="rolling",
            show_default=True,
            help=meaning,
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
        canary_pause_s=given.pop("canary_pause"),
        canary_gate=given.pop("canary_gate"),
        all_at_once=given.pop("strategy") == "all-at-once",
        drain_timeout_s=given.pop("drain_timeout"),
        grace_period_s=given.pop("grace_period"),
        pod_selector=given.pop("pod_selector"),
        delete_empty_dir_data=given.pop("delete_empty_dir_data"),
        force=given.pop("force"),
        disable_eviction=given.pop("disable_eviction"),
    )


def _upgrade_rollout_options(command: F) -> F:
    meaning = "a sliding window of workers, all of them together, or new hosts of the inventory in place of old ones"
    return _rollout_options(command, (*_STRATEGIES, "replace"), meaning)


@click.command()
@click.option(
    "--to", "target", callback=_version, metavar="VERSION", help="release to reach; not given: cluster.yaml's"
)
@click.option("--via", callback=_versions, metavar="VERSION", multiple=True, help="release of each minor in between")
@click.option(
    "--replace",
    "replaced",
    multiple=True,
    metavar="NODE",
    help="with --strategy replace: this worker  [default: all old]",
)
@_upgrade_rollout_options
@inventory_options
@output_option
@host_options
@plan_options
def upgrade(
    output: str,
    verbose: bool,
    target: Version | None,
    via: dict[int, Version],
    replaced: tuple[str, ...],
    **given: Any,
) -> int:
    """Upgrade the cluster: control planes one at a time, then the workers; nothing is done twice."""
    replacing = given["strategy"] == "replace"
    if replaced and not replacing:
        raise ConfigError("--replace names workers to be replaced", hint="add --strategy replace")
    if replacing and given.get("limit"):
        raise ConfigError("--limit and --strategy replace exclude each other", hint="name workers with --replace NODE")
    rollout = rollout_settings(given)
    names = tuple(dict.fromkeys(replaced)) if replacing else None

    def run(settings: Settings, emit: Emit, confirm: Confirm) -> RunResult:
        return run_upgrade(settings, emit, confirm, target=target, via=via, rollout=rollout, replaced=names)

    return run_planned(run, settings_from(**given), output, verbose=verbose, done="is upgraded: {steps} steps")
