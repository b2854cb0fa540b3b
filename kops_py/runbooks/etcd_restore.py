"""Restore of stacked etcd: every control plane stopped, one snapshot in every member, everything started again.

The checklist this replaces: the snapshot on every member's host; new data directories beside the old ones; writers
and etcd stopped everywhere; old data kept, new data in its place; all members up together and equal; API servers;
controller managers and schedulers; kubelets, and what caches the API; what is real against what the API says now.
(Order: kubernetes.io, "Restoring an etcd cluster"; etcd.io, "Disaster recovery".)

Until the first restored member is started every failure puts the old state back. From then on (``start``, the point
of no return) the same command goes on.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from kops_py.model.actions import WaitHealthy
from kops_py.model.etcd_restore import (
    AddMember,
    CheckRestored,
    FetchData,
    FinishRestore,
    Mark,
    NewMember,
    PromoteMember,
    RemoveMember,
    RestartAddons,
    RestartKubelet,
    RestoreFacts,
    RestoreHost,
    RestoreKind,
    RestoreRun,
    SnapshotFacts,
    StageData,
    StartApiServer,
    StartControllers,
    StartEtcd,
    StopControlPlanes,
    StopMember,
    SwitchData,
    UploadSnapshot,
)
from kops_py.model.plan import Action, Plan, Step, Wave
from kops_py.model.spec import ClusterSpec

_SLOWEST_BYTES_PER_S = 20_000_000
_ESTIMATED_BYTES_PER_S = 20_000_000
"""Over the network to each control plane and twice to its disk, for the time a plan tells."""
_ALWAYS_S = 60
"""What was measured with a snapshot of a few MB; docs/etcd-restore.md."""
_STOP_S = 180.0
_MOVE_S = 120.0
_ETCD_S = 300.0
_KUBELET_S = 120.0
_CHECK_S = 120.0


@dataclass(frozen=True, slots=True)
class RestoreArguments:
    """What the runbook cannot know by itself; the same for a whole run."""

    run: RestoreRun
    nodes: tuple[str, ...]
    """Control planes that are stopped and started; those that cannot be reached are left out."""
    workers: tuple[str, ...] = ()
    """Workers whose kubelets are restarted."""
    members: tuple[NewMember, ...] = ()
    """Members of the restored cluster, or the lost ones that are replaced."""
    snapshot: SnapshotFacts | None = None
    via: tuple[str, ...] = ()
    """Hosts of healthy members, to ask about the cluster (kind ``member``)."""
    bump: int = 0
    namespaces: tuple[str, ...] = ()
    """Where containers are restarted when revisions do not jump."""
    network: bool = True


def etcd_restore(spec: ClusterSpec, facts: RestoreFacts, arguments: RestoreArguments) -> Plan:
    """Plan what is left of a restore; pure."""
    world = _World(spec, facts, arguments)
    if world.all_have(world.everyone, Mark.FINISHED):
        waves: list[Wave] = []
    elif arguments.run.kind is RestoreKind.MEMBER:
        waves = _replace_members(world)
    else:
        waves = _restore(world)
    return Plan(
        operation="etcd restore",
        cluster=spec.name,
        waves=tuple(w for w in waves if w.steps),
        arguments={"kind": str(arguments.run.kind), "source": arguments.run.source},
        notes=_notes(world) if waves else (),
    )


@dataclass(frozen=True, slots=True)
class _World:
    spec: ClusterSpec
    facts: RestoreFacts
    arguments: RestoreArguments

    @property
    def id(self) -> str:
        return self.arguments.run.id

    def host(self, name: str) -> RestoreHost:
        return self.facts.hosts[name]

    def has(self, name: str, *marks: Mark) -> bool:
        """Whether a host carries one of these marks of this restore."""
        return bool(self.host(name).restores.get(self.id, frozenset()) & {*marks, Mark.FINISHED})

    def all_have(self, names: Iterable[str], *marks: Mark) -> bool:
        return all(self.has(n, *marks) for n in names)

    @property
    def holders(self) -> tuple[str, ...]:
        """Return the hosts of the members that get new data."""
        return tuple(m.node for m in self.arguments.members)

    @property
    def units(self) -> tuple[str, ...]:
        """Return those of them that are no control planes: an external etcd."""
        return tuple(m.node for m in self.arguments.members if m.unit)

    @property
    def everyone(self) -> tuple[str, ...]:
        """Return all hosts that are stopped and started."""
        return tuple(dict.fromkeys((*self.arguments.nodes, *self.holders)))

    @property
    def transfer_s(self) -> float:
        size = self.arguments.snapshot.size_bytes if self.arguments.snapshot else 0
        return 120 + size * len(self.holders) / _SLOWEST_BYTES_PER_S

    def is_stopped(self, name: str) -> bool:
        host = self.host(name)
        return self.has(name, Mark.STOPPED) and not host.manifests and not host.running


def _notes(world: _World) -> tuple[str, ...]:
    """Say what is restored, what is lost with it, and how long it takes from its beginning to its end."""
    snapshot = world.arguments.snapshot
    if snapshot is None or world.arguments.run.kind is RestoreKind.MEMBER:
        return ()
    ways = 2 if snapshot.member else 1  # a member's database comes to this machine first
    copied = f"{snapshot.size_bytes / 1e6:.1f} MB{' twice' if snapshot.member else ''}"
    takes_s = _ALWAYS_S + ways * snapshot.size_bytes / _ESTIMATED_BYTES_PER_S
    rule = f"{_ALWAYS_S} s, and {copied} at {_ESTIMATED_BYTES_PER_S // 10**6} MB/s to all members' hosts side by side"
    return (
        f"{snapshot.label}: etcd {snapshot.minor or '?'}, revision {snapshot.revision or '?'}; {snapshot.loss}",
        f"takes about {takes_s:.0f} s: {rule}",
    )


_STAGED = (Mark.STAGED, Mark.SWITCHED, Mark.STARTED)


def _restore(world: _World) -> list[Wave]:
    arguments, nodes = world.arguments, world.arguments.nodes
    first: list[Step] = []
    switch: list[Step] = []
    from_member = bool(arguments.snapshot and arguments.snapshot.member)
    (switch if from_member else first).extend(_new_data(world, from_member=from_member))
    past = any(world.has(n, Mark.STARTED) for n in world.holders)
    if not past and not all(world.is_stopped(n) for n in world.everyone):
        switch.insert(0, _stop(world))
    if not past and not world.all_have(world.holders, Mark.SWITCHED, Mark.STARTED):
        switch.append(_switch(world))
    if not world.all_have(world.holders, Mark.SERVING):
        switch.append(_start(world))
    return [
        Wave("snapshot", tuple(first)),
        Wave("switch over", tuple(switch)),
        *_control_plane(world, nodes),
        Wave(
            "kubelets and caches",
            tuple(s for n in (*nodes, *arguments.workers) for s in _caches(world, n)),
            max_parallel=len(nodes) + len(arguments.workers) or 1,
            # A worker whose kubelet does not restart is no reason to leave the others with what they remember.
            failures_allowed=len(arguments.workers),
        ),
        Wave("checks", _checks(world, (*nodes, *arguments.workers))),
    ]


def _new_data(world: _World, *, from_member: bool) -> Iterable[Step]:
    arguments, nodes, snapshot = world.arguments, world.holders, world.arguments.snapshot
    assert snapshot is not None  # noqa: S101 - only the kind ``member`` goes without
    words, more = (
        arguments.run.words,
        (f"{snapshot.size_bytes / 1e6:.1f} MB, 0600 in a 0700 folder, removed at the end",),
    )
    if not world.all_have(nodes, Mark.UPLOADED, *_STAGED):
        if from_member:
            fetch = FetchData(world.id, words, snapshot.member, nodes, world.everyone)
            title = f"copy the database of {snapshot.member} to {_names(nodes)}"
            yield Step("fetch", "", title, fetch, world.transfer_s)
        else:
            upload = UploadSnapshot(world.id, words, snapshot.digest, nodes)
            yield Step("upload", "", f"copy the snapshot to {_names(nodes)}", upload, world.transfer_s, more)
    if not world.all_have(nodes, *_STAGED):
        stage = StageData(world.id, world.id, arguments.members, arguments.bump, not from_member, world.everyone)
        bump = (
            f"revisions jump by {arguments.bump}"
            if arguments.bump
            else "revisions go back: this etcd cannot let them jump"
        )
        yield Step(
            "stage",
            "",
            "make the new data directories beside the old ones",
            stage,
            world.transfer_s,
            (*(f"{m.node}: member {m.name} at {m.peer_url}" for m in arguments.members), bump),
        )


def _stop(world: _World) -> Step:
    nodes = world.everyone
    action = StopControlPlanes(world.id, world.arguments.run.words, world.arguments.nodes, world.units)
    details = (
        "systemctl stop kubelet; manifests to /var/lib/kops-py/restore/manifests; containers stopped",
        "workloads go on running; nothing answers on the API from here on",
    )
    return Step("stop", "", f"stop API servers, controllers and etcd on {_names(nodes)}", action, _STOP_S, details)


def _switch(world: _World) -> Step:
    action = SwitchData(world.id, world.arguments.members, world.everyone)
    kept = tuple(
        f"{m.node}: old data of {m.data_dir} kept beside it as *-before-{world.id}-DATE" for m in action.members
    )
    return Step("switch", "", "keep the old data, put the new data in its place", action, _MOVE_S, kept)


def _start(world: _World) -> Step:
    action = StartEtcd(world.id, world.arguments.members)
    details = (
        "the point of no return: until here a failure puts the old state back, from here on the same command goes on",
    )
    return Step("start", "", "start all members, prove health and equal contents", action, _ETCD_S, details)


def _control_plane(world: _World, nodes: tuple[str, ...]) -> list[Wave]:
    limit_s = world.spec.timeouts.node_ready_s
    api = tuple(
        Step(f"api/{n}", n, "start the API server", StartApiServer(world.id, n), limit_s)
        for n in nodes
        if not world.has(n, Mark.API)
    )
    controllers = tuple(
        Step(f"controllers/{n}", n, "start controller manager and scheduler", StartControllers(world.id, n), limit_s)
        for n in nodes
        if not world.has(n, Mark.CONTROLLERS)
    )
    return [
        Wave("API servers", api, max_parallel=len(nodes) or 1),
        Wave("controllers", controllers, max_parallel=len(nodes) or 1),
    ]


def _caches(world: _World, node: str) -> Iterable[Step]:
    """Return the steps for what remembers revisions; a control plane's kubelet was started before any API server."""
    if node in world.arguments.workers and not world.has(node, Mark.KUBELET):
        action = RestartKubelet(world.id, node)
        yield Step(f"kubelet/{node}", node, "restart the kubelet", action, _KUBELET_S, ("containers go on running",))
    if world.arguments.namespaces and not world.has(node, Mark.ADDONS):
        addons = RestartAddons(world.id, node, world.arguments.namespaces)
        where = ("containers in " + ", ".join(addons.namespaces),)
        yield Step(f"addons/{node}", node, "restart what watches the API", addons, _KUBELET_S, where)


def _checks(world: _World, nodes: tuple[str, ...]) -> tuple[Step, ...]:
    arguments = world.arguments
    healthy = WaitHealthy(nodes, network=arguments.network)
    # Of a replaced member nothing is lost, nor of one whose own data was restored.
    loses = arguments.run.kind is not RestoreKind.MEMBER and not (arguments.snapshot and arguments.snapshot.member)
    check = CheckRestored(nodes, world.id, world.holders) if loses else CheckRestored(nodes)
    finish = FinishRestore(world.id, tuple(dict.fromkeys((*nodes, *world.holders))))
    return (
        Step("healthy", "", "wait until the cluster is healthy", healthy, world.spec.timeouts.cluster_healthy_s),
        Step("check", "", "compare what the API says with what is real", check, _CHECK_S),
        Step("finish", "", "remove the snapshot; the old data stays", finish, _MOVE_S),
    )


def _replace_members(world: _World) -> list[Wave]:
    """One lost member after the other: the cluster must have settled before the next is touched."""
    waves: list[Wave] = []
    for member in world.arguments.members:
        waves.append(Wave(f"member {member.name}", tuple(_replace(world, member))))
        waves += _control_plane(world, () if member.unit else (member.node,))
    return [*waves, Wave("checks", _checks(world, world.arguments.nodes))]


def _replace(world: _World, member: NewMember) -> Iterable[Step]:
    node, via, words = member.node, world.arguments.via, world.arguments.run.words
    done = [Mark.STARTED, Mark.SERVING]

    def step(name: str, title: str, action: Action, limit_s: float, *details: str) -> Step:
        return Step(f"{name}/{node}", node, title, action, limit_s, details)

    if not world.has(node, *done) and not world.is_stopped(node):
        yield step(
            "stop",
            "stop the member" if member.unit else "stop the control plane of this host",
            StopMember(world.id, words, node, member.unit),
            _STOP_S,
            "the others go on serving; workloads go on running",
        )
    if not world.has(node, Mark.REMOVED, Mark.ADDED, *done):
        remove = RemoveMember(world.id, node, member.peer_url, via)
        yield step("remove", f"remove the lost member at {member.peer_url}", remove, _MOVE_S)
    if not world.has(node, Mark.ADDED, *done):
        add = AddMember(world.id, member, via)
        kept = f"old data of {member.data_dir} kept as *-before-{world.id}-DATE"
        yield step("add", "add an empty member as a learner", add, _MOVE_S, kept)
    if not world.has(node, Mark.SERVING):
        promote = PromoteMember(world.id, member, via)
        yield step("promote", "start it, wait until it has caught up, give it its vote", promote, _ETCD_S)


def _names(nodes: Iterable[str]) -> str:
    return ", ".join(nodes)
