"""The ``kops-py`` program: its commands, and the one place where errors become text and exit codes.

Commands are imported when they are called; their one-line help stands in the table here so that ``--help`` need
not import any of them.
"""

from __future__ import annotations

import errno
import importlib
import io
import sys
from collections.abc import Sequence
from typing import Any

import click

from kops_py.cli.output import mute_stdout, stdout_is_gone
from kops_py.model.errors import CancelledError, ExitCode, KopsError, UnexpectedError

_COMMANDS: dict[str, tuple[str, str]] = {
    "init": ("kops_py.cli.files:init", "Write a commented inventory and cluster.yaml to start from."),
    "validate": ("kops_py.cli.files:validate", "Check the files; nothing is contacted."),
    "schema": ("kops_py.cli.files:schema", "Print the JSON Schema of cluster.yaml."),
    "preflight": ("kops_py.cli.preflight:preflight", "Look for what would stand in the way; changes nothing."),
    "bootstrap": ("kops_py.cli.bootstrap:bootstrap", "Build the cluster, or join what is missing."),
    "upgrade": ("kops_py.cli.upgrade:upgrade", "Upgrade Kubernetes, node by node."),
    "patch": ("kops_py.cli.nodes:patch", "Install updates of the operating system, node by node."),
    "node": ("kops_py.cli.nodes:node", "Add or remove nodes; cordon, drain, uncordon or restart single ones."),
    "etcd": ("kops_py.cli.etcd:etcd", "Look after etcd: members, proven backups, restores."),
    "status": ("kops_py.cli.status:status", "Show nodes, versions, etcd, certificates and cordons."),
    "runs": ("kops_py.cli.runs:runs", "Look at earlier runs, or make reports of them."),
    "reset": ("kops_py.cli.reset:reset", "Take the whole cluster down; everything in it is lost."),
    "kubeconfig": ("kops_py.cli.kubeconfig:kubeconfig", "Fetch the cluster's kubeconfig."),
}


_MACHINE_TROUBLE = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM}
)


class _UnforeseenError(Exception):
    """Carries an error past click, which takes any broken pipe for that of our output and EOFError for Ctrl-D."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(str(cause))
        self.cause = cause


class LazyGroup(click.Group):
    """A group whose commands are imported when they are called."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; raises _UnforeseenError for what click would misunderstand."""
        try:
            return super().invoke(ctx)
        except (OSError, EOFError) as error:
            raise _UnforeseenError(error) from error

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the commands in the order of the table, which is the order of their use."""
        del ctx
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return one command."""
        del ctx
        if cmd_name not in _COMMANDS:
            return None
        module, _, attribute = _COMMANDS[cmd_name][0].partition(":")
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command)  # noqa: S101 - a wrong table is a bug, not an input
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the table without importing the commands."""
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in _COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="kops-py", prog_name="kops-py")
def root() -> None:
    """Build, upgrade, patch, back up and restore kubeadm clusters over SSH, Ansible and the Kubernetes API."""


def main(argv: Sequence[str] | None = None) -> None:
    """Run the program and end the process with the exit code of docs/exit-codes.md."""
    sys.exit(run(sys.argv[1:] if argv is None else list(argv)))


def run(argv: Sequence[str]) -> int:
    """Run one command line and return its exit code; never raises."""
    import warnings

    _print_anything()
    # kubeadm before 1.22 made certificates with serial number 0; reading them is no reason to warn an operator.
    warnings.filterwarnings("ignore", message="Parsed a serial number which wasn't positive")
    try:
        result: Any = root.main(args=list(argv), prog_name="kops-py", standalone_mode=False, obj=tuple(argv))
    except click.exceptions.Abort:
        return _interrupted()
    except click.ClickException as error:
        error.show(file=sys.stderr)
        return int(ExitCode.CONFIGURATION)
    except KopsError as error:
        return _show(error)
    except KeyboardInterrupt:
        return _interrupted()
    except SystemExit:
        mute_stdout()  # click's answer to a reader of --help that went away (| head): nothing to tell any more
        return int(ExitCode.DONE)
    except _UnforeseenError as error:
        if isinstance(error.cause, BrokenPipeError) and stdout_is_gone():
            mute_stdout()
            return int(ExitCode.DONE)
        return _unexpected(error.cause)
    except Exception as error:  # noqa: BLE001 - the last resort: a bug must not look like anything else
        return _unexpected(error)
    return result if isinstance(result, int) else int(ExitCode.DONE)


def _show(error: KopsError) -> int:
    from kops_py.report.text import error_text

    print(error_text(error), file=sys.stderr)
    return int(error.code)


def _unexpected(error: Exception) -> int:
    """Say that this is our fault (or that of the machine we run on), and keep the traceback in a file."""
    from kops_py.app.crash import record_crash
    from kops_py.report.text import error_text

    crash = record_crash(error)
    if isinstance(error, OSError) and error.errno in _MACHINE_TROUBLE:
        what, hint = "this machine does not let kops-py go on", "mend that, then run the same command again"
    else:
        what = "this is a bug in kops-py"
        hint = "report it with the file named here (read it first); what a run has done, the same command skips"
    print(error_text(UnexpectedError(what, why=crash.summary, hint=hint), log=crash.report), file=sys.stderr)
    return int(ExitCode.UNEXPECTED)


def _print_anything() -> None:
    """Let characters that the terminal's encoding lacks be replaced, not end the program."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _interrupted() -> int:
    from kops_py.report.text import error_text

    print(error_text(CancelledError("interrupted", hint="run the same command again")), file=sys.stderr)
    return int(ExitCode.INTERRUPTED)
