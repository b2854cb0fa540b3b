"""A control plane out of the load balancer while it is worked on: drained in every haproxy of ours, and put back.

haproxy does not say who drained a server. A mark beside it does, with the process it was done in: a restart forgets
the state, and what is drained or in maintenance after that is somebody else's.
"""

from __future__ import annotations

from kops_py.actions.deps import Deps
from kops_py.actions.waiting import remaining_s
from kops_py.connect.base import Host
from kops_py.engine.run import StepContext
from kops_py.model.actions import PutBackIntoBalancer, TakeOutOfBalancer
from kops_py.model.errors import CommandFailedError
from kops_py.model.event import Note
from kops_py.tools import haproxy

_POLL_S = 0.5
_ASK_S = 20.0


def take_out(deps: Deps, action: TakeOutOfBalancer, ctx: StepContext) -> None:
    """Let no new connection go to a control plane; open ones stay. Raises HostError.

    It stays in where no other control plane would take the connections.
    """
    for host in _balancers(deps, ctx):
        _take_out(deps, host, action.node, ctx)


def put_back(deps: Deps, action: PutBackIntoBalancer, ctx: StepContext) -> None:
    """Undo take_out of this or an earlier run, and wait until connections go there; raises HostError, DeadlineError."""
    name = action.node
    waiting = [host for host in _balancers(deps, ctx) if _put_back(deps, host, name, ctx)]
    while waiting:
        now = {host.name: _look(deps, host) for host in waiting}
        waiting = [h for h in waiting if (found := now[h.name]) is not None and not _takes_connections(found, name)]
        if waiting:
            lacking = f"haproxy on {waiting[0].name}: the health check of {name} has not passed yet"
            ctx.progress(lacking, waiting=True)
            remaining_s(ctx, lacking)
            ctx.cancel.wait(_POLL_S)


def _balancers(deps: Deps, ctx: StepContext) -> list[Host]:
    """Return the load balancers; one that was away when the run began has nothing that could be told."""
    found = []
    for spec in deps.spec.load_balancers:
        facts = deps.hosts.get(spec.name)
        if facts is None or facts.reachable:
            found.append(deps.fleet.host(spec.name))
        else:
            ctx.progress(f"{spec.name} could not be reached when the run began: it is left out")
    return found


def _take_out(deps: Deps, host: Host, server: str, ctx: StepContext) -> None:
    balancing = _look(deps, host)
    state = balancing.servers.get(server) if balancing else None
    if balancing is None or state is None:
        ctx.emit(Note(message=f"haproxy on {host.name} does not run, or does not know {server}", node=server))
        return
    ours = _mark(deps, host, server) == balancing.process
    if state.in_maintenance or (state.is_drained and not ours):
        message = f"{server} is out of the load balancer {host.name} already, not by kops-py; it stays so"
        ctx.emit(Note(message=message, node=server))
        return
    if state.is_drained:
        return
    if not any(s.takes_connections for s in balancing.servers.values() if s.name != server):
        message = f"{server} stays in the load balancer {host.name}: no other control plane takes connections there"
        ctx.emit(Note(message=message, node=server))
        return
    # First: a kill in between leaves a mark for nothing, and not a server that is out for nobody knows whom.
    host.run(haproxy.write_mark_argv(server, balancing.process), sudo=True, timeout_s=_ASK_S, cancel=deps.cancel)
    _tell(deps, host, haproxy.drain_command(server))
    ctx.progress(f"{host.name}: no new connections to {server}")


def _put_back(deps: Deps, host: Host, server: str, ctx: StepContext) -> bool:
    """Put a server back where it was taken out by us; whether it is to be waited for."""
    mark = _mark(deps, host, server)
    if not mark:
        return False
    balancing = _look(deps, host)
    state = balancing.servers.get(server) if balancing else None
    waits = False
    if state is not None and balancing is not None:
        ours = state.is_drained and mark == balancing.process
        if state.in_maintenance or (state.is_drained and not ours):
            message = f"{server} stays out of the load balancer {host.name}: somebody else took it out meanwhile"
            ctx.emit(Note(message=message, node=server))
        else:
            if ours:
                _tell(deps, host, haproxy.ready_command(server))
                ctx.progress(f"{host.name}: connections to {server} again")
            waits = True
    host.run(haproxy.remove_mark_argv(server), sudo=True, timeout_s=_ASK_S, cancel=deps.cancel)
    return waits


def _takes_connections(balancing: haproxy.Balancing, server: str) -> bool:
    """Whether connections go there, as far as it is ours: a person may have taken it out since."""
    state = balancing.servers.get(server)
    return state is None or state.takes_connections or state.in_maintenance or state.is_drained


def _mark(deps: Deps, host: Host, server: str) -> str:
    answer = host.run(haproxy.read_mark_argv(server), sudo=True, check=False, timeout_s=_ASK_S, cancel=deps.cancel)
    return answer.out.strip() if answer.ok else ""


def _look(deps: Deps, host: Host) -> haproxy.Balancing | None:
    """Return what haproxy on a host says; None where none answers. Raises HostError."""
    argv = haproxy.ask_argv(*haproxy.LOOK, python=_python(deps, host))
    answer = host.run(argv, sudo=True, check=False, timeout_s=_ASK_S, cancel=deps.cancel)
    if answer.exit_status == haproxy.NO_HAPROXY_STATUS:
        return None
    try:
        return haproxy.parse_balancing(haproxy.parse_answers(answer.out))
    except ValueError as error:
        raise CommandFailedError(
            "haproxy's answer is not understood",
            where=host.name,
            why=str(error) if answer.ok else answer.err.strip()[-300:],
            hint="kops-py bootstrap sets the load balancer up anew; then run the same command again",
            exit_status=answer.exit_status,
        ) from error


def _tell(deps: Deps, host: Host, command: str) -> None:
    """Send a command that answers nothing when it is done; raises HostError."""
    argv = haproxy.ask_argv(command, python=_python(deps, host))
    answer = host.run(argv, sudo=True, timeout_s=_ASK_S, cancel=deps.cancel)
    said = "".join(haproxy.parse_answers(answer.out)).strip()
    if said:
        raise CommandFailedError(
            f"haproxy refused: {command}", where=host.name, why=said, hint="run the same command again"
        )


def _python(deps: Deps, host: Host) -> str:
    facts = deps.hosts.get(host.name)
    return facts.python_path if facts else ""
