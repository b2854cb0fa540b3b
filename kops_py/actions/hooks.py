"""What the operator runs around the work on a node: hooks, gates, and the watch over canaries.

A hook that was cut off is run again by the next run; so is a watch. Exit code of all their failures: 10.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from kops_py.actions.deps import Deps
from kops_py.actions.gates import short_workloads
from kops_py.actions.waiting import remaining_s
from kops_py.connect.base import CommandResult
from kops_py.connect.http import ask_url
from kops_py.connect.local import run_local
from kops_py.engine.run import StepContext
from kops_py.model.actions import RunHook, WaitGate, WatchCanary
from kops_py.model.duration import spell_seconds
from kops_py.model.errors import CancelledError, CommandFailedError, HostError, KubeError
from kops_py.model.hooks import Gate, HttpCheck, OperatorCommand, Side
from kops_py.tools.redact import redact

_SHOWN_LINES = 8
_SHOWN_CHARACTERS = 1000
_WATCH_EVERY_S = 5.0
_AGAIN = "mend the cause (try the command by hand), then run the same command again; the hook is run again"


def run_hook(deps: Deps, action: RunHook, ctx: StepContext) -> None:
    """Run a hook once; raises CommandFailedError with the end of its output, DeadlineError, CancelledError."""
    told = _told(deps, action.node, action.operation, action.version)
    name = f"the hook {action.when} the work"
    try:
        result = _run(deps, action.command, action.node, told, ctx, min(action.command.timeout_s, ctx.remaining_s()))
    except CancelledError:
        raise
    except HostError as error:
        why = f"{error.what}: {error.why}" if error.why else error.what
        raise type(error)(f"{name} failed: {action.command}", where=action.node, why=_tail(why), hint=_AGAIN) from error
    if said := _tail(result.out):
        ctx.progress(said)
    if not result.ok:
        raise CommandFailedError(
            f"{name} failed: {action.command}",
            where=action.node,
            why=_failure(result),
            hint=_AGAIN,
            exit_status=result.exit_status,
        )


def wait_gate(deps: Deps, action: WaitGate, ctx: StepContext) -> None:
    """Ask until the gate is true for all its nodes; raises DeadlineError with what it last said, CancelledError."""
    while problem := _problem(deps, action.gate, action.nodes, action.operation, action.version, ctx):
        ctx.progress(f"gate {action.gate.name}: {problem}", waiting=True)
        hint = "mend the cause, then run the same command again: it asks again before the next node"
        left_s = remaining_s(ctx, f"it last said: {problem}", hint=hint)
        ctx.cancel.wait(min(action.gate.interval_s, left_s))


def watch_canary(deps: Deps, action: WatchCanary, ctx: StepContext) -> None:
    """Watch the canaries for the whole pause; at its end every workload has what it had before the run.

    Raises CommandFailedError when a gate breaks in it, DeadlineError for workloads that stay short, CancelledError.
    """
    began = time.monotonic()
    every_s = min((_WATCH_EVERY_S, *(gate.interval_s for gate in action.gates)))
    while True:
        for gate in action.gates:
            if problem := _problem(deps, gate, action.canaries, action.operation, action.version, ctx):
                raise CommandFailedError(
                    f"the gate {gate.name} broke while {', '.join(action.canaries)} was watched",
                    why=problem,
                    hint="no other worker was begun; mend the cause, then run the same command again",
                )
        try:
            lacking = short_workloads(deps, action.canaries)
        except KubeError as error:
            lacking = (str(error),)
        watched_s = time.monotonic() - began
        if watched_s >= action.pause_s and not lacking:
            return
        # Rounded: it is told anew at every look, and only a change is worth a line.
        whole_s = int(watched_s) if action.pause_s < 120 else int(watched_s) // 60 * 60
        shown = f"the canary has been watched for {spell_seconds(whole_s)} of {spell_seconds(action.pause_s)}"
        ctx.progress("; ".join((shown, *lacking[:2])), waiting=True)
        left_s = remaining_s(ctx, "; ".join(lacking[:6]) or shown)
        pause_left_s = action.pause_s - watched_s
        ctx.cancel.wait(min(every_s, left_s, pause_left_s if pause_left_s > 0 else every_s))


def _problem(deps: Deps, gate: Gate, nodes: Sequence[str], operation: str, version: str, ctx: StepContext) -> str:
    """Ask a gate once; empty when it is true. Raises CancelledError."""
    ctx.cancel.check()
    check = gate.check
    limit_s = max(1.0, min(check.timeout_s, ctx.deadline_at - time.monotonic()))
    try:
        if isinstance(check, HttpCheck):
            return _http_problem(check, limit_s)
        if check.on is Side.CONTROLLER:
            told = _told(deps, ",".join(nodes), operation, version)
            return _command_problem(_run(deps, check, "", told, ctx, limit_s))
        for node in nodes:
            told = _told(deps, node, operation, version)
            if problem := _command_problem(_run(deps, check, node, told, ctx, limit_s)):
                return f"{node}: {problem}"
    except CancelledError:
        raise
    except HostError as error:
        return _tail(str(error))
    return ""


def _http_problem(check: HttpCheck, limit_s: float) -> str:
    answer = ask_url(check.url, ca_file=check.ca_file, insecure=check.insecure, timeout_s=limit_s)
    right = answer.status in check.status if check.status else 200 <= answer.status <= 299
    if not right:
        wanted = ", ".join(map(str, check.status)) or "200 to 299"
        return f"{check} answered {answer.status}, not {wanted}"
    if check.contains and check.contains not in answer.text:
        return f"{check} answered {answer.status}, without the text {check.contains!r}"
    return ""


def _command_problem(result: CommandResult) -> str:
    return "" if result.ok else _failure(result)


def _run(
    deps: Deps, command: OperatorCommand, node: str, told: Mapping[str, str], ctx: StepContext, limit_s: float
) -> CommandResult:
    if command.on is Side.NODE:
        argv = ("env", *(f"{key}={value}" for key, value in told.items()), *command.argv)
        host = deps.fleet.host(node)
        return host.run(argv, sudo=True, check=False, timeout_s=limit_s, cancel=ctx.cancel)
    folder = Path(deps.spec.cluster_path).absolute().parent
    return run_local(command.argv, environment=told, folder=folder, timeout_s=limit_s, cancel=ctx.cancel)


def _told(deps: Deps, node: str, operation: str, version: str) -> dict[str, str]:
    """Return what a command of the operator finds in its environment."""
    return {
        "KOPS_NODE": node,
        "KOPS_CLUSTER": deps.spec.name,
        "KOPS_OPERATION": operation,
        "KOPS_VERSION": version,
        "KOPS_RUN_ID": deps.run_id,
    }


def _failure(result: CommandResult) -> str:
    said = _tail("\n".join(filter(None, (result.out.strip(), result.err.strip()))))
    ended = "ended by a signal" if result.exit_status is None else f"exit status {result.exit_status}"
    return f"{ended}: {said}" if said else ended


def _tail(text: str) -> str:
    """Return the last lines without secrets."""
    lines = redact(text).strip().splitlines()[-_SHOWN_LINES:]
    return "\n".join(lines)[-_SHOWN_CHARACTERS:].strip()
