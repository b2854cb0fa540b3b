"""The part of a restore onto new machines that is about an etcd outside the control planes; pure.

bootstrap's own steps form it, empty; then every member gets the snapshot as the members of a cluster that was lost do:
copied and made into new data beside the empty one, all stopped, switched, all started together and proven equal. What
fails before they are started puts the empty etcd back, so that the same command begins this part anew.
"""

from __future__ import annotations

from collections.abc import Iterator

from kops_py.model.etcd_restore import (
    Mark,
    NewMember,
    RestoreFacts,
    RestoreRun,
    SnapshotFacts,
    StageData,
    StartEtcd,
    StopControlPlanes,
    SwitchData,
    UploadSnapshot,
)
from kops_py.model.plan import Step, Wave
from kops_py.model.spec import ClusterSpec

ETCD_WAVES = frozenset({"etcd certificates", "etcd", "etcd members", "etcd healthy"})
"""Those of bootstrap that form the etcd."""
_STOP_S = 180.0
_MOVE_S = 120.0
_ETCD_S = 300.0
_STAGED = frozenset({Mark.STAGED, Mark.SWITCHED, Mark.STARTED})


def external_members(spec: ClusterSpec, restore: RestoreFacts) -> tuple[NewMember, ...]:
    """Return the members of the external etcd that can be reached, as they will be; empty where kubeadm runs etcd."""
    external = spec.external
    if external is None:
        return ()
    return tuple(
        NewMember(h.name, h.member_name, h.peer_url, restore.hosts[h.name].data_dir or external.data_dir, external.unit)
        for h in spec.etcd_hosts
        if restore.hosts[h.name].reachable
    )


def external_data(
    restore: RestoreFacts, run: RestoreRun, snapshot: SnapshotFacts, members: tuple[NewMember, ...], transfer_s: float
) -> list[Wave]:
    """Return what is left of giving the snapshot to all members; waves without steps are left in."""
    part = _Part(restore, run, snapshot, members, transfer_s)
    return [
        Wave("snapshot", tuple(part.copied())),
        Wave("data of etcd", tuple(part.switched())),
    ]


def is_under_way(restore: RestoreFacts, run: RestoreRun, members: tuple[NewMember, ...]) -> bool:
    """Whether members are being given the snapshot: nothing else may start or configure them meanwhile."""
    marks = [restore.hosts[m.node].restores.get(run.id, frozenset()) for m in members]
    ended = {Mark.SERVING, Mark.FINISHED}
    return any(m & {Mark.UPLOADED, Mark.STOPPED, *_STAGED} for m in marks) and not all(m & ended for m in marks)


class _Part:
    def __init__(
        self,
        restore: RestoreFacts,
        run: RestoreRun,
        snapshot: SnapshotFacts,
        members: tuple[NewMember, ...],
        transfer_s: float,
    ) -> None:
        self._restore, self._run, self._snapshot, self._transfer_s = restore, run, snapshot, transfer_s
        self._members = members
        self._nodes = tuple(m.node for m in members)
        self._where = ", ".join(self._nodes)

    def _all(self, *marks: Mark) -> bool:
        wanted = {*marks, Mark.FINISHED}
        return all(self._restore.hosts[n].restores.get(self._run.id, frozenset()) & wanted for n in self._nodes)

    def copied(self) -> Iterator[Step]:
        run = self._run
        if not self._all(Mark.UPLOADED, *_STAGED):
            upload = UploadSnapshot(run.id, run.words, self._snapshot.digest, self._nodes)
            more = (f"{self._snapshot.size_bytes / 1e6:.1f} MB, 0600 in a 0700 folder, removed at the end",)
            yield Step("upload", "", f"copy the snapshot to {self._where}", upload, self._transfer_s, more)
        if not self._all(*_STAGED):
            # Revisions need not jump: no process that saw a later one is left.
            stage = StageData(run.id, run.id, self._members, 0, True, self._nodes)
            details = (
                *(f"{m.node}: member {m.name} at {m.peer_url}" for m in self._members),
                "revisions go on from the snapshot's",
            )
            title = "make new data directories beside the empty ones"
            yield Step("stage", "", title, stage, self._transfer_s, details)

    def switched(self) -> Iterator[Step]:
        run = self._run
        if not self._all(Mark.STOPPED, Mark.STARTED):
            stop = StopControlPlanes(run.id, run.words, (), self._nodes)
            yield Step("stop", "", f"stop the empty etcd on {self._where}", stop, _STOP_S)
        if not self._all(Mark.SWITCHED, Mark.STARTED):
            switch = SwitchData(run.id, self._members, self._nodes)
            yield Step("switch", "", "put the new data in its place", switch, _MOVE_S)
        if not self._all(Mark.SERVING):
            start = StartEtcd(run.id, self._members)
            yield Step("start", "", "start all members, prove health and equal contents", start, _ETCD_S)
