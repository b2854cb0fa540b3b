"""etcd restore: from any loss back to a cluster that serves."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import click

from kops_py.app.etcd_restore import RestoreSettings, run_restore
from kops_py.cli.options import host_options, inventory_options, output_option, plan_options, settings_from
from kops_py.cli.planned import run_planned
from kops_py.model.errors import ConfigError
from kops_py.model.etcd_restore import RestoreKind


@click.command()
@click.argument("backup", required=False, default="", metavar="[ID]")
@click.option(
    "--identity",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="file with the private key the backup is read with (0600)",
)
@click.option(
    "--from",
    "file",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="a snapshot file, as etcdctl or etcdutl saves it",
)
@click.option("--from-member", "member", metavar="HOST", default="", help="the data of this stopped member")
@click.option(
    "--kind",
    type=click.Choice([k.value for k in RestoreKind]),
    help="member: replace a lost one; quorum, all: restore into every member; new-machines: every machine is lost, "
    "the inventory names empty ones; control-planes: all of these are, an external etcd serves  "
    "[default: by what is found]",
)
@click.option("--force", is_flag=True, help="also while a healthy quorum serves: set the cluster back")
@click.option(
    "--restart-namespace",
    "namespaces",
    multiple=True,
    metavar="NAMESPACE",
    help="restart the containers there too, when revisions go back",
)
@inventory_options
@output_option
@host_options
@plan_options
def restore(
    output: str,
    verbose: bool,
    *,
    backup: str,
    identity: Path | None,
    file: Path | None,
    member: str,
    kind: str | None,
    force: bool,
    namespaces: tuple[str, ...],
    **given: Any,
) -> int:
    """Restore etcd from a backup (ID, or newest), a snapshot file or a member's data, or replace a lost member.

    Works with the API down. Without any of them only a lost member can be replaced. Where the inventory names empty
    machines the whole cluster is brought back on them, which needs a backup (ID).
    """
    if sum(map(bool, (backup, file, member))) > 1:
        raise ConfigError("ID, --from and --from-member exclude each other", hint="leave all but one of them out")
    wanted = RestoreSettings(backup, identity, file, member, RestoreKind(kind) if kind else None, force, namespaces)
    run = partial(run_restore, given=wanted)
    return run_planned(run, settings_from(**given), output, verbose=verbose, done="is restored: {steps} steps")
