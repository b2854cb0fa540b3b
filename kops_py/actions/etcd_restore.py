"""Restoring etcd, up to the point where the restored cluster serves: data made, switched, started, proven.

What comes before ``start_etcd`` is put back on every host when it fails or is interrupted; a process that is killed
leaves its marks on the hosts, and the same command goes on from them.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from kops_py.actions.deps import Deps
from kops_py.actions.waiting import remaining_s
from kops_py.connect.base import Cancel, CommandResult, Host
from kops_py.engine.run import StepContext
from kops_py.model.errors import CancelledError, CommandFailedError, EtcdError, HostError, KopsError, UnexpectedError
from kops_py.model.etcd_restore import (
    WRITERS,
    FetchData,
    Mark,
    NewMember,
    StageData,
    StartEtcd,
    StopControlPlanes,
    SwitchData,
    UploadSnapshot,
)
from kops_py.model.event import Note
from kops_py.model.status import NOSPACE
from kops_py.tools import crictl, etcdctl
from kops_py.tools import etcd_restore as tool

OpenSnapshot = Callable[[], BinaryIO]
_POLL_S = 0.5
_ASK_S = 30.0
_WRITERS_STOP_S = 3
"""An API server waits for its open watches, which do not end by themselves."""
_ETCD_STOP_S = 10
_UNDO_S = 60.0
_REVIVE_S = 30.0
_PUT_BACK_S = 120.0


def upload_snapshot(deps: Deps, action: UploadSnapshot, ctx: StepContext, open_snapshot: OpenSnapshot) -> None:
    """Copy the snapshot to every member's host; raises CommandFailedError when it arrives as another."""
    with undone_on_failure(deps, action.restore, action.nodes):
        everywhere(
            deps, action.nodes, lambda h: upload(h, action.restore, action.words, action.digest, open_snapshot, ctx)
        )


def fetch_data(deps: Deps, action: FetchData, ctx: StepContext, place: Path) -> None:
    """Copy a stopped member's database to all members by way of a file of ours (0600), removed afterwards."""
    digest = hashlib.sha256()
    with undone_on_failure(deps, action.restore, action.stopped):
        try:
            data_dir = _observed(deps.fleet.host(action.member), "data")
            with os.fdopen(os.open(place, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:

                def take(piece: bytes) -> None:
                    digest.update(piece)
                    file.write(piece)

                script = tool.send_database_script(data_dir)
                deps.fleet.host(action.member).run(
                    ("sh", "-c", script), sudo=True, timeout_s=ctx.remaining_s(), cancel=deps.cancel, stdout_to=take
                )

            def copy(host: Host) -> None:
                upload(host, action.restore, action.words, digest.hexdigest(), lambda: place.open("rb"), ctx)

            everywhere(deps, action.nodes, copy)
        finally:
            place.unlink(missing_ok=True)


def upload(host: Host, restore: str, words: str, digest: str, open_snapshot: OpenSnapshot, ctx: StepContext) -> None:
    """Copy the snapshot to one host; raises CommandFailedError when it arrives as another."""
    sh(host, tool.begin_script(restore, words), ctx)
    with open_snapshot() as stream:
        answer = host.run(
            ("sh", "-c", tool.receive_script(restore)),
            sudo=True,
            stdin=stream,
            timeout_s=ctx.remaining_s(),
            cancel=ctx.cancel,
        )
    if answer.out.split()[:1] != [digest]:
        raise CommandFailedError(
            "the snapshot did not arrive as it was sent",
            where=host.name,
            why=f"SHA-256 {answer.out.split()[:1]}, expected {digest}",
            hint="is the disk full, or does the file change? Then run the same command again",
        )
    sh(host, tool.keep_received_script(restore), ctx)
    ctx.progress(f"{host.name} has the snapshot")


def stage_data(deps: Deps, action: StageData, ctx: StepContext) -> None:
    """Make new data directories beside the old ones; this also proves that the snapshot can be restored."""

    def stage(host: Host) -> None:
        member = next(m for m in action.members if m.node == host.name)
        script = tool.stage_script(
            action.restore,
            "" if member.unit else _observed(host, "image"),
            member,
            action.members,
            action.token,
            bump=action.bump,
            has_hash=action.has_hash,
        )
        run_stage(host, script, ctx, hint="choose another snapshot; nothing was changed")

    with undone_on_failure(deps, action.restore, action.stopped):
        everywhere(deps, _nodes(action.members), stage)


def run_stage(host: Host, script: str, ctx: StepContext, *, hint: str) -> None:
    """Run a script of ``stage_script``; raises EtcdError when etcd does not take the snapshot."""
    try:
        sh(host, script, ctx)
    except CommandFailedError as error:
        raise EtcdError("etcd cannot restore this snapshot", where=host.name, why=error.why, hint=hint) from error


def stop_control_planes(deps: Deps, action: StopControlPlanes, ctx: StepContext) -> None:
    """Stop kubelets and static pods on all these hosts, then external members; wait until nothing of it runs."""

    def stop_unit(host: Host) -> None:
        sh(host, tool.begin_script(action.restore, action.words), ctx)
        sh(host, tool.stop_unit_script(action.restore), ctx)

    with undone_on_failure(deps, action.restore, (*action.nodes, *action.units)):
        everywhere(deps, action.nodes, lambda h: stop_control_plane(h, action.restore, action.words, ctx))
        everywhere(deps, action.units, stop_unit)


def stop_control_plane(host: Host, restore: str, words: str, ctx: StepContext) -> None:
    """Stop the kubelet and the static pods of one host, writers first; raises DeadlineError naming what still runs."""
    sh(host, tool.begin_script(restore, words), ctx)
    sh(host, tool.stop_script(restore), ctx)
    for pods, grace_s in ((WRITERS, _WRITERS_STOP_S), (("etcd",), _ETCD_STOP_S)):
        listed = crictl.containers_argv("(" + "|".join(pods) + ")")
        while ids := crictl.parse_ids(host.run(listed, sudo=True, timeout_s=_ASK_S, cancel=ctx.cancel).out):
            lacking = f"containers of {', '.join(pods)} still run"
            left_s = remaining_s(ctx, lacking, hint="look at: crictl ps; then run the same command again")
            ctx.progress(f"{host.name}: stopping {', '.join(pods)}", waiting=True)
            argv = crictl.stop_argv(ids, timeout_s=grace_s)
            host.run(argv, sudo=True, check=False, timeout_s=min(left_s, _UNDO_S), cancel=ctx.cancel)
    sh(host, tool.mark_script(restore, Mark.STOPPED), ctx)


def switch_data(deps: Deps, action: SwitchData, ctx: StepContext) -> None:
    """Keep the old data and put the new data in its place on every host."""
    by_node = {m.node: m for m in action.members}

    def switch(host: Host) -> None:
        sh(host, tool.switch_script(action.restore, by_node[host.name].data_dir), ctx)

    with undone_on_failure(deps, action.restore, action.stopped):
        everywhere(deps, _nodes(action.members), switch)


def start_etcd(deps: Deps, action: StartEtcd, ctx: StepContext) -> None:
    """Start all members together and prove them healthy and equal. The point of no return: nothing is put back.

    Nothing is lost by that: the old data lies beside the new data on every host.
    """
    nodes = _nodes(action.members)
    units = {m.node for m in action.members if m.unit}
    everywhere(deps, nodes, lambda h: sh(h, start_member_script(action.restore, unit=h.name in units), ctx))
    # A host that was lost for good meanwhile, and is left out, is in the list of the cluster it was restored with.
    lost = {h.peer_url for h in deps.spec.hosts if h.name not in nodes}
    expected = {m.peer_url for m in action.members}
    kubelets = Kubelets(deps.cancel, ctx.progress)
    while True:
        lacking = _not_one_cluster(deps, nodes, expected, lost)
        if not lacking:
            break
        for node in nodes:
            if node not in units:
                kubelets.revive(deps.fleet.host(node), "etcd")
        ctx.progress(lacking, waiting=True)
        remaining_s(ctx, lacking, hint="look at: crictl ps -a, crictl logs of etcd; then run the same command again")
        ctx.cancel.wait(_POLL_S)
    _take_back_nospace(deps, deps.fleet.host(nodes[0]), ctx)
    everywhere(deps, nodes, lambda h: sh(h, tool.mark_script(action.restore, Mark.SERVING), ctx))


def _take_back_nospace(deps: Deps, host: Host, ctx: StepContext) -> None:
    """Take back an alarm that came with the data, of members that are no more; raises EtcdError for any but NOSPACE."""
    again = "run the same command again"
    try:
        listed = etcdctl.parse_alarms(ask(deps, host, etcdctl.etcdctl_argv("alarm", "list")))
        alarms = {alarm for found in listed.values() for alarm in found}
        if others := sorted(alarms - {NOSPACE}):
            raise EtcdError(
                f"the restored etcd has the alarm {', '.join(others)}, and takes no writes",
                where=host.name,
                why="it was raised before the snapshot was taken; the restored members are equal",
                hint="judge whether the data is good: etcdctl alarm disarm there, then run the same command again",
            )
        if alarms:
            answer = run_etcdctl(deps, host, etcdctl.etcdctl_argv("alarm", "disarm"))
            if not answer.ok:
                why = answer.err.strip()[-300:]
                raise EtcdError("the alarm NOSPACE cannot be taken back", where=host.name, why=why, hint=again)
            told = (
                "the alarm NOSPACE came with the data and was taken back; the database is as large as it was: "
                "kops-py etcd defrag when the API answers, or it comes again"
            )
            ctx.emit(Note(message=told, node=host.name))
    except ValueError as error:
        raise EtcdError("etcd does not say its alarms", where=host.name, why=str(error), hint=again) from error


class Kubelets:
    """Restarts a kubelet that starts no container of a static pod.

    One that looks at its manifests before it knows what the node has refuses a pod for good ("Failed to admit pod",
    seen with 1.20 on a busy machine); only another start lets it look again.
    """

    def __init__(self, cancel: Cancel, say: Callable[[str], None]) -> None:
        self._cancel = cancel
        self._say = say
        self._since: dict[str, float] = {}

    def revive(self, host: Host, pod: str) -> bool:
        """Return whether the container runs; restart the kubelet when it has been gone for long. Raises HostError."""
        argv = crictl.containers_argv(pod)
        now = time.monotonic()
        if crictl.parse_ids(host.run(argv, sudo=True, timeout_s=_ASK_S, cancel=self._cancel).out):
            self._since.pop(host.name, None)
            return True
        if now - self._since.setdefault(host.name, now) >= _REVIVE_S:
            self._say(f"{host.name}: the kubelet does not start {pod}: restarting it")
            host.run(("systemctl", "restart", "kubelet"), sudo=True, timeout_s=_UNDO_S, cancel=self._cancel)
            self._since[host.name] = time.monotonic()
        return False


def start_member_script(restore: str, *, unit: bool) -> str:
    """Return the script that starts a member with its new data; nothing is put back on its host from then on."""
    if unit:
        return tool.start_unit_script(restore, Mark.STARTED)
    return tool.start_script(restore, ("etcd",), Mark.STARTED, start_kubelet=True)


def _not_one_cluster(deps: Deps, nodes: Sequence[str], expected: Collection[str], lost: Collection[str]) -> str:
    """Return what lacks for the members to be one healthy cluster with equal contents, "" when nothing does."""
    hashes: dict[str, tuple[int, int]] = {}
    for node in nodes:
        host = deps.fleet.host(node)
        problem = member_problem(deps, host)
        if problem:
            return f"{node}: {problem}"
        listed = etcdctl.parse_member_list(ask(deps, host, etcdctl.member_list_argv()))
        if {u for m in listed for u in m.peer_urls}.difference(lost) != expected:
            return f"{node}: its members are {', '.join(m.name or '?' for m in listed)}"
        try:
            hashes[node] = hash_of(deps, host)
        except ValueError as error:
            return f"{node}: {error}"
    if len(set(hashes.values())) > 1:
        return "the members' contents differ: " + ", ".join(f"{n} {h:x} at {r}" for n, (h, r) in hashes.items())
    return ""


def member_problem(deps: Deps, host: Host) -> str:
    """Return why the member of a host is not healthy, "" when it commits, with or without an alarm."""
    try:
        health = etcdctl.parse_endpoint_health(ask(deps, host, etcdctl.endpoint_health_argv()))
    except (ValueError, HostError) as error:
        return f"its member does not answer yet ({str(error)[:200]})"
    return next((h.problem or "it is not healthy" for h in health if not h.commits), "")


def hash_of(deps: Deps, host: Host, *, revision: int = 0) -> tuple[int, int]:
    """Return the hash of a member's contents and the revision it is of; raises ValueError, HostError."""
    return etcdctl.parse_hash(ask(deps, host, etcdctl.hash_argv(revision)))


def ask(deps: Deps, host: Host, argv: Sequence[str]) -> str:
    """Return what etcdctl beside the host's own member answers; raises ValueError when none runs, HostError."""
    answer = run_etcdctl(deps, host, argv)
    return answer.out if answer.out.strip() else answer.err


def run_etcdctl(deps: Deps, host: Host, argv: Sequence[str]) -> CommandResult:
    """Run etcdctl in the member's container, or on the host of an external one; raises ValueError, HostError."""
    if deps.spec.external_etcd:
        command = tool.on_host(argv)
    else:
        listed = host.run(crictl.containers_argv("etcd"), sudo=True, timeout_s=_ASK_S, cancel=deps.cancel)
        ids = crictl.parse_ids(listed.out)
        if not ids:
            raise ValueError("no container of etcd runs")
        command = etcdctl.in_container(min(ids), argv)
    return host.run(command, sudo=True, check=False, timeout_s=_ASK_S, cancel=deps.cancel)


def everywhere(deps: Deps, nodes: Iterable[str], work: Callable[[Host], object]) -> None:
    """Do something on all hosts side by side; raises the first error once all have ended."""
    answers = deps.fleet.map(list(nodes), work, cancel=deps.cancel)
    failed = [answer for answer in answers.values() if isinstance(answer, Exception)]
    real = [error for error in failed if not isinstance(error, CancelledError)]
    for error in (*real, *failed):
        raise error


@contextmanager
def undone_on_failure(deps: Deps, restore: str, nodes: Sequence[str]) -> Iterator[None]:
    """Put the old state of all hosts back when the block fails or is interrupted, by whatever; the error says so.

    Trouble of this machine (its disk is full) becomes an UnexpectedError.
    """
    try:
        yield
    except KopsError as error:
        told = _undo_safely(deps, restore, nodes)
        error.hint = f"{told}; {error.hint}" if error.hint else told
        raise
    except OSError as error:
        told = _undo_safely(deps, restore, nodes)
        raise UnexpectedError(
            "this machine does not let the restore go on",
            where=str(error.filename or ""),
            why=error.strerror or str(error),
            hint=f"{told}; make room or mend what is named (--run-dir names another place), "
            "then run the same command again",
        ) from error
    except Exception as error:  # a mistake of ours is no reason to leave control planes down
        error.add_note(_undo_safely(deps, restore, nodes))
        raise


def _undo_safely(deps: Deps, restore: str, nodes: Sequence[str]) -> str:
    """Do the same as _undo, and return as well how it failed itself: it must not hide why it was needed."""
    try:
        return _undo(deps, restore, nodes)
    except Exception as error:  # noqa: BLE001
        return f"the old state could not be put back ({error}): the same command goes on from there"


def _undo(deps: Deps, restore: str, nodes: Sequence[str]) -> str:
    """Return what was put back, as a sentence. Not cancellable: an interrupted restore must not leave things down."""

    def undo(host: Host) -> None:
        found = tool.parse_observed(host.run(("sh", "-c", tool.observe_script()), sudo=True, timeout_s=_ASK_S).out)
        data_dir = next((v for v in found.get("data", ()) if v), "")
        before = {pod: _containers(host, pod) for pod in found.get("aside", ())}
        script = tool.undo_script(restore, data_dir, unit="unit" in found)
        host.run(("sh", "-c", script), sudo=True, timeout_s=_UNDO_S)
        _wait_started(host, before)

    answers = deps.fleet.map(list(nodes), undo)
    failed = [f"{name} ({answer})" for name, answer in answers.items() if isinstance(answer, Exception)]
    if failed:
        return f"the old state could not be put back on {', '.join(failed)}: the same command goes on from there"
    return "the old state was put back on every host"


def _wait_started(host: Host, before: Mapping[str, frozenset[str]]) -> None:
    """Wait until the kubelet has made new containers of these static pods; raises HostError. Not cancellable either.

    What was lost before the restore may well end again: that it was started is all that is waited for.
    """
    never = Cancel()
    kubelets = Kubelets(never, lambda _: None)
    until = time.monotonic() + _PUT_BACK_S
    waiting = list(before)
    while waiting := [p for p in waiting if not kubelets.revive(host, p) and _containers(host, p) <= before[p]]:
        if time.monotonic() > until:
            raise HostError(f"the kubelet has not started {', '.join(waiting)} again", where=host.name)
        never.wait(_POLL_S)


def _containers(host: Host, pod: str) -> frozenset[str]:
    """Return the ids of all containers of a static pod, of those that have ended as well."""
    return crictl.parse_ids(host.run(crictl.all_containers_argv(pod), sudo=True, timeout_s=_ASK_S).out)


def _observed(host: Host, key: str) -> str:
    """Return what a host's manifest of etcd says, wherever it lies now."""
    found = tool.parse_observed(host.run(("sh", "-c", tool.observe_script()), sudo=True, timeout_s=_ASK_S).out)
    value = next((v for v in found.get(key, ()) if v), "")
    if not value:
        raise CommandFailedError(
            f"the manifest of etcd does not say its {key}", where=host.name, hint="is etcd.yaml still there?"
        )
    return value


def sh(host: Host, script: str, ctx: StepContext) -> str:
    """Run a script as root with what is left of the step's time and return its output; raises HostError."""
    return host.run(("sh", "-c", script), sudo=True, timeout_s=ctx.remaining_s(), cancel=ctx.cancel).out


def _nodes(members: Iterable[NewMember]) -> tuple[str, ...]:
    return tuple(m.node for m in members)
