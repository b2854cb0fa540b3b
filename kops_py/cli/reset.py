"""reset: a whole cluster down."""

from __future__ import annotations

import sys
from functools import partial
from typing import Any

import click

from kops_py.app.reset import run_reset
from kops_py.cli.options import host_options, inventory_options, output_option, plan_options, settings_from
from kops_py.cli.planned import run_planned
from kops_py.model.errors import ConfigError
from kops_py.model.plan import Plan


def _ask_for_name(plan: Plan) -> bool:
    """Let the operator type the cluster's name; anything else is a no."""
    typed = click.prompt(f"Everything in it is lost. Type the cluster's name ({plan.cluster})", default="", err=True)
    return str(typed).strip() == plan.cluster


@click.command()
@click.option("--yes-really", metavar="NAME", default="", help="the cluster's name: do not ask for it")
@inventory_options
@output_option
@host_options
@plan_options
def reset(output: str, verbose: bool, *, yes_really: str, **given: Any) -> int:
    """Take the whole cluster down: every host reset, everything in the cluster lost."""
    if given.get("limit"):
        raise ConfigError("reset is for a whole cluster", hint="kops-py node remove takes single nodes out")
    silent = given.get("yes") or given.get("plan_digest") or not sys.stdin.isatty()
    if silent and not (yes_really or given.get("plan_only")):
        raise ConfigError(
            "the cluster's name is asked for, and there is nobody to ask",
            hint="look at the plan with --plan, then add --yes-really NAME",
        )
    given["yes"] = bool(yes_really)
    run = partial(run_reset, named=yes_really)
    done = "is no more: {steps} hosts reset"
    return run_planned(run, settings_from(**given), output, verbose=verbose, done=done, ask=_ask_for_name)
