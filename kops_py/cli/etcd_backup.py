"""The verbs of ``kops-py etcd`` that make, prove and keep backups."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from kops_py.cli.options import (
    event_output,
    host_options,
    inventory_options,
    output_option,
    plan_options,
    settings_from,
)
from kops_py.cli.output import print_json, say
from kops_py.cli.planned import run_planned
from kops_py.cli.report_options import duration
from kops_py.model.backup import Verify
from kops_py.model.errors import ConfigError, ExitCode

if TYPE_CHECKING:
    from kops_py.app.etcd_backup import BackupSettings

F = TypeVar("F", bound=Callable[..., Any])


def _proof_options(command: F) -> F:
    command = click.option(
        "--identity",
        type=click.Path(path_type=Path, exists=True, dir_okay=False),
        help="file with the private key, to prove what is read back from the store (0600)",
    )(command)
    return click.option(
        "--verify-on",
        type=click.Choice(["here", "member"]),
        default="here",
        show_default=True,
        help="where the scratch etcd runs: on this machine, or on a host with a member",
    )(command)


_new_cluster = click.option(
    "--new-cluster", is_flag=True, help="it is meant to be of another cluster than the good backups before it"
)


@click.command()
@click.option(
    "--verify",
    type=click.Choice([v.value for v in Verify]),
    help="how far the backup is proven  [default: backup.verify of cluster.yaml, else restore]",
)
@_proof_options
@_new_cluster
@click.option("--prune", is_flag=True, help="then delete what the retention lets go")
@inventory_options
@output_option
@host_options
@plan_options
def backup(
    output: str,
    verbose: bool,
    *,
    verify: str | None,
    verify_on: str,
    prune: bool,
    identity: Path | None,
    new_cluster: bool,
    **given: Any,
) -> int:
    """Back up etcd and what belongs to it, and prove it by a restore; needs no API server.

    A backup is good only when it was read back, restored into a scratch etcd and looked into.
    """
    from kops_py.app.etcd_backup import BackupSettings, run_backup

    chosen = BackupSettings(Verify(verify) if verify else None, verify_on, prune, identity, new_cluster)
    run = partial(run_backup, given=chosen)
    return run_planned(run, settings_from(**given), output, verbose=verbose, done="is backed up: {steps} steps")


@click.command("list")
@inventory_options
@output_option
def list_(output: str, **given: Any) -> int:
    """Show the backups in all stores; the exit code is 14 when a store cannot be read."""
    from kops_py.app.etcd_backup import list_backups
    from kops_py.report.etcd import backups_text

    lines, problems = list_backups(settings_from(**given))
    if output == "json":
        print_json({"backups": [line.to_json() for line in lines], "problems": list(problems)})
    else:
        say(backups_text(lines, problems))
    return int(ExitCode.BACKUP if problems else ExitCode.DONE)


@click.command()
@click.argument("backup_id", metavar="ID")
@click.option("--checksum", "checksum_only", is_flag=True, help="only read back and compare hashes; needs no key")
@_proof_options
@_new_cluster
@inventory_options
@output_option
@host_options
def verify(
    output: str,
    verbose: bool,
    *,
    backup_id: str,
    checksum_only: bool,
    verify_on: str,
    identity: Path | None,
    new_cluster: bool,
    **given: Any,
) -> int:
    """Prove a stored backup by a restore into a scratch etcd; works on another machine and without the cluster."""
    from kops_py.app.etcd_backup import BackupSettings

    chosen = BackupSettings(None, verify_on, False, identity, new_cluster)
    return _verify(output, verbose, backup_id, checksum_only, chosen, given)


@click.command()
@_proof_options
@inventory_options
@output_option
@host_options
def drill(output: str, verbose: bool, *, verify_on: str, identity: Path | None, **given: Any) -> int:
    """Prove the newest good backup in full again, and say how long that took."""
    from kops_py.app.etcd_backup import BackupSettings

    return _verify(output, verbose, None, False, BackupSettings(None, verify_on, False, identity), given)


@click.command()
@inventory_options
@output_option
@host_options
@plan_options
def prune(output: str, verbose: bool, **given: Any) -> int:
    """Delete the backups that backup.retention lets go; never the last good one, never for an unproven one."""
    from kops_py.app.etcd_backup import run_prune

    settings = settings_from(**given)
    return run_planned(run_prune, settings, output, verbose=verbose, done="has {steps} backups less")


@click.command()
@click.argument("backup_id", metavar="ID")
@click.option("--why", default="", help="a word about it")
@inventory_options
def keep(backup_id: str, why: str, **given: Any) -> int:
    """Mark a backup, so that no retention deletes it."""
    from kops_py.app.etcd_backup import mark_backup

    say(
        f"backup {backup_id} is kept in {', '.join(mark_backup(settings_from(**given), backup_id, keep=True, why=why))}"
    )
    return 0


@click.command()
@click.argument("backup_id", metavar="ID")
@inventory_options
def unkeep(backup_id: str, **given: Any) -> int:
    """Take the keep mark of a backup away."""
    from kops_py.app.etcd_backup import mark_backup

    stores = mark_backup(settings_from(**given), backup_id, keep=False)
    say(f"backup {backup_id} has no keep mark in {', '.join(stores)}")
    return 0


@click.command()
@click.option(
    "--max-age", default="24h", show_default=True, metavar="DURATION", help="age the newest good one may have"
)
@click.option(
    "--textfile", type=click.Path(path_type=Path, dir_okay=False), help="also write metrics for node_exporter here"
)
@inventory_options
@output_option
def check(output: str, *, max_age: str, textfile: Path | None, **given: Any) -> int:
    """Say in one line whether there is a good backup that is young enough; exit code 14 when not.

    For monitoring: a backup that stopped running shows here, on whichever machine can read the stores.
    """
    from kops_py.app.etcd_backup import backup_spec, check_backups
    from kops_py.app.notify import send
    from kops_py.app.session import load_spec
    from kops_py.cli.options import ignore_events
    from kops_py.model.backup_list import CheckResult
    from kops_py.model.backup_list import textfile as render

    age = duration(max_age)
    settings = settings_from(**given)
    found = check_backups(settings, max_age_s=age.seconds)
    if textfile is not None:
        _write_textfile(textfile, render(found))
    if output == "json":
        print_json(found.to_json())
    else:
        say(found.line)
    if found.result is CheckResult.OK:
        return 0
    spec = load_spec(settings)
    backup_spec(spec)
    send(spec, {"what": "etcd check", "text": found.line, "check": found.to_json()}, ignore_events)
    return int(ExitCode.BACKUP)


def _verify(
    output: str,
    verbose: bool,
    backup_id: str | None,
    checksum_only: bool,
    chosen: BackupSettings,
    given: dict[str, Any],
) -> int:
    from kops_py.app.etcd_backup import verify_backup

    settings = settings_from(**given)
    with event_output("table" if output == "table" else "json", verbose=verbose) as emit:
        done = verify_backup(settings, emit, backup_id, given=chosen, checksum_only=checksum_only)
    line, contents = done.line, done.contents
    if output == "json":
        body = {"backup": line.to_json(), "duration_s": round(done.duration_s, 3)}
        if contents is not None:
            body["contents"] = {
                "revision": contents.revision,
                "live_keys": contents.live_keys,
                "total_keys": contents.total_keys,
                "etcd_version": contents.etcd_version,
                "namespaces": len(contents.namespaces),
                "cluster_uid": contents.cluster_uid,
            }
        print_json(body)
    elif contents is None:
        say(f"backup {line.id}: what is stored is what was written; a restore proves more ({done.duration_s:.1f} s)")
    else:
        say(
            f"backup {line.id} is good: restored into etcd {contents.etcd_version} at revision {contents.revision}, "
            f"{contents.live_keys} keys, {len(contents.namespaces)} namespaces ({done.duration_s:.1f} s)"
        )
    return 0


def _write_textfile(path: Path, text: str) -> None:
    """Write a file that others read, in one move: node_exporter may read at any moment."""
    new = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        new.write_text(text, encoding="utf-8")
        new.chmod(0o644)
        new.replace(path)
    except OSError as error:
        new.unlink(missing_ok=True)
        raise ConfigError("the metrics cannot be written", where=str(path), why=error.strerror or str(error)) from error
