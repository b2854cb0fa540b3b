"""Restarting a host, and the proof that it did: another boot id."""

from __future__ import annotations

from kops_py.actions.deps import Deps
from kops_py.actions.waiting import remaining_s
from kops_py.connect.base import Host
from kops_py.engine.run import StepContext
from kops_py.model.actions import RebootNode
from kops_py.model.errors import CommandFailedError, DeadlineError, UnreachableError
from kops_py.model.event import Note
from kops_py.tools.packages import family_of
from kops_py.tools.restarts import restart_needed_script
from kops_py.tools.systemd import BOOT_ID

_POLL_S = 1.0
_ASK_S = 10.0


def why_no_reboot(deps: Deps, action: RebootNode) -> str | None:
    """Return why the step is true already, or None when the host is to be restarted; raises HostError."""
    host = deps.fleet.host(action.node)
    if _boot_id(host) != action.boot_id:
        return "it was restarted since the plan was made"
    if action.only_if_needed and not _is_needed(deps, host):
        return "no restart is needed"
    return None


def reboot_node(deps: Deps, action: RebootNode, ctx: StepContext) -> None:
    """Restart the host and wait until it answers with another boot id; raises DeadlineError."""
    host = deps.fleet.host(action.node)
    before = _kernel(host)
    ctx.progress("restarting the operating system")
    try:
        # Asked of systemd and not waited for: the connection may end before the answer comes.
        host.run(("systemctl", "--no-block", "reboot"), sudo=True, timeout_s=_ASK_S)
    except (UnreachableError, DeadlineError):
        pass
    except CommandFailedError as error:
        if error.exit_status is not None:
            raise
    while True:
        lacking = "it has not gone down yet"
        try:
            if _boot_id(host) != action.boot_id:
                break
        except (UnreachableError, DeadlineError):
            lacking = "it does not answer yet"
        ctx.progress(lacking, waiting=True)
        remaining_s(ctx, lacking, hint="look at its console; once it is up, run the same command again")
        ctx.cancel.wait(_POLL_S)
    after = _kernel(host)
    changed = f"kernel {before} → {after}" if before != after else f"kernel {after}"
    ctx.journal("rebooted", node=action.node, kernel_before=before, kernel=after)
    ctx.emit(Note(message=f"restarted, {changed}", node=action.node))


def _boot_id(host: Host) -> str:
    return host.run(("cat", BOOT_ID), timeout_s=_ASK_S).out.strip()


def _kernel(host: Host) -> str:
    return host.run(("uname", "-r"), timeout_s=_ASK_S).out.strip()


def _is_needed(deps: Deps, host: Host) -> bool:
    facts = deps.hosts.get(host.name)
    family = family_of(facts.os_id, facts.os_like) if facts else ""
    if not family:
        return True
    return host.run(("sh", "-c", restart_needed_script(family)), sudo=True, check=False, timeout_s=60).ok
