"""What a restore is to do, decided from what was found: kind, id, members; and what speaks against it. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from kops_py.model.etcd_restore import (
    Mark,
    NewMember,
    RestoreFacts,
    RestoreHost,
    RestoreKind,
    RestoreRun,
    SnapshotFacts,
)
from kops_py.model.finding import Finding, FindingKind, Severity, few
from kops_py.model.membership import quorum
from kops_py.model.spec import ClusterSpec
from kops_py.runbooks import new_machines_findings

QUORUM_SERVES = FindingKind(
    "quorum-serves",
    (Severity.ERROR,),
    "A healthy quorum of etcd serves this cluster: a restore would throw away what it holds.",
    "Nothing is to be restored; to set the cluster back to the snapshot nevertheless, add --force.",
)
ALARM = FindingKind(
    "etcd-serves-with-alarm",
    (Severity.WARNING,),
    "etcd has an alarm and its members commit all the same: that is no lost quorum, and a restore cures neither.",
    "NOSPACE: kops-py etcd defrag, which takes the alarm back. CORRUPT: take out the member that differs, add it anew.",
)
STORE_EMPTY = FindingKind(
    "etcd-store-empty",
    (Severity.WARNING,),
    "etcd answers, but nothing of a kubeadm cluster is in it: it was started on an empty disk.",
    "Nothing; the restore puts the cluster's data in its place and keeps what is there now.",
)
HOST_UNREACHABLE = FindingKind(
    "restore-host-unreachable",
    (Severity.ERROR, Severity.WARNING),
    "A host cannot be reached. A control plane that goes on with the old data would be a second cluster.",
    "Bring it back or switch it off for good; ignored, its member is left out of the restored cluster.",
)
FOREIGN_SNAPSHOT = FindingKind(
    "foreign-snapshot",
    (Severity.ERROR,),
    "The certificate of this cluster's authority is not in the snapshot: it is of another cluster.",
    "Choose a snapshot of this cluster; ignore only when the authority was renewed since.",
)
OTHER_MINOR = FindingKind(
    "snapshot-other-minor",
    (Severity.ERROR,),
    "The snapshot is of another minor version of etcd than the one that would run it.",
    "Restore with the version it was made with, then upgrade.",
)
NEWER_DATA = FindingKind(
    "newer-data-survives",
    (Severity.ERROR,),
    "A member's own data is newer than the snapshot.",
    "Restore it with --from-member HOST and lose less; ignored, the snapshot is used.",
)
UNFINISHED = FindingKind(
    "restore-unfinished",
    (Severity.ERROR,),
    "Another restore was begun and not ended.",
    "Bring it to its end with the command it was begun with; ignored, this one takes its place.",
)
REPEATED = FindingKind(
    "restore-repeated",
    (Severity.ERROR,),
    "This snapshot was restored here already: doing so again throws away what was written since.",
    "Nothing; or ignore it to set the cluster back once more.",
)
SPACE = FindingKind(
    "restore-space",
    (Severity.ERROR,),
    "There is too little space for the snapshot and the new data beside the old data.",
    "Make space on the file system of the data directory; old data of earlier restores may go.",
)
WAL_DIR = FindingKind(
    "etcd-wal-dir",
    (Severity.ERROR,),
    "etcd keeps its write-ahead log in a folder of its own (--wal-dir), which kops-py does not restore.",
    "Restore by hand after docs/etcd-restore.md.",
)
NO_ETCD = FindingKind(
    "no-etcd-manifest",
    (Severity.ERROR,),
    "A host has no member of etcd that could be restored: no manifest, no unit, or one that cannot join.",
    "Let it join first (kops-py bootstrap) or take it out of the inventory.",
)
LOSES = FindingKind(
    "restore-loses",
    (Severity.WARNING,),
    "What was written after the snapshot is lost.",
    "Nothing; what is gone is listed at the end as far as it can be seen.",
)
KINDS = (
    QUORUM_SERVES,
    ALARM,
    STORE_EMPTY,
    HOST_UNREACHABLE,
    FOREIGN_SNAPSHOT,
    OTHER_MINOR,
    NEWER_DATA,
    UNFINISHED,
    REPEATED,
    SPACE,
    WAL_DIR,
    NO_ETCD,
    LOSES,
    *new_machines_findings.KINDS,
)
IDS = frozenset(kind.id for kind in KINDS)
_SPACE_FACTOR = 2.2
_ID = re.compile(r"r(\d+)-")


def choose_run(
    spec: ClusterSpec, facts: RestoreFacts, kind: RestoreKind | None, snapshot: SnapshotFacts | None
) -> RestoreRun:
    """Return the restore to begin, or the unfinished one of the same source to go on with.

    ``kind`` None chooses: a lost member is replaced while quorum is there; where no control plane was ever set up these
    are new machines. Without a snapshot the kind is ``member``.
    """
    begun = unfinished(facts)
    source = snapshot.digest if snapshot else ""
    for run in begun:
        asked = kind or run.kind
        if run.kind is asked and (run.source == source or run.kind is RestoreKind.MEMBER):
            return run
    chosen = kind or _kind(spec, facts)
    number = 1 + max((int(m[1]) for h in facts.hosts.values() for i in h.restores if (m := _ID.match(i))), default=0)
    if chosen is RestoreKind.MEMBER:
        return RestoreRun(f"r{number}-member", chosen, "")
    return RestoreRun(f"r{number}-{_word(source)}", chosen, source)


def _word(source: str) -> str:
    """Return what tells a source in an id: the beginning of a digest, or a host's name."""
    return re.sub(r"[^a-z0-9-]+", "-", source.lower())[:12].strip("-") or "data"


def _kind(spec: ClusterSpec, facts: RestoreFacts) -> RestoreKind:
    planes = [facts.hosts[h.name] for h in spec.member_hosts]
    answering = [facts.hosts[h.name] for h in (*spec.member_hosts, *spec.control_planes)]
    if any(h.reachable for h in answering) and all(is_vacant(spec, h) for h in answering if h.reachable):
        return RestoreKind.NEW_MACHINES
    serving = [h for h in planes if h.serves]
    if keeps_data(spec, facts):
        return RestoreKind.CONTROL_PLANES
    if len(serving) >= quorum(len(planes)):
        # Everything serves: setting it back is the only thing a restore can mean.
        return RestoreKind.MEMBER if len(serving) < len(planes) else RestoreKind.ALL
    return RestoreKind.QUORUM if any(h.revision and not is_empty(h) for h in planes) else RestoreKind.ALL


def keeps_data(spec: ClusterSpec, facts: RestoreFacts) -> bool:
    """Whether an external etcd serves the cluster, and every control plane is a new machine: only keys are lacking."""
    serving = [h for h in spec.etcd_hosts if facts.hosts[h.name].serves]
    bare = [facts.hosts[h.name].has_no_control_plane for h in spec.control_planes if facts.hosts[h.name].reachable]
    return bool(bare) and all(bare) and bool(serving) and len(serving) >= quorum(len(spec.etcd_hosts))


def is_vacant(spec: ClusterSpec, host: RestoreHost) -> bool:
    """Whether there is neither a control plane on the host nor a member of etcd, or of an external one an empty one."""
    formed = spec.external_etcd and host.has_no_control_plane and (is_empty(host) or not host.has_data)
    return host.is_bare or formed


def is_empty(host: RestoreHost) -> bool:
    """Whether a member answers and nothing of a cluster is in it: whatever its revision, there is nothing to lose."""
    return host.healthy and not host.holds_cluster


def unfinished(facts: RestoreFacts) -> tuple[RestoreRun, ...]:
    """Return the restores that were begun and did not come to their end, the newest first."""
    found: dict[str, RestoreRun] = {}
    for host in facts.hosts.values():
        for restore, words in host.begun.items():
            kind, _, source = words.partition(" ")
            if Mark.FINISHED not in host.restores.get(restore, frozenset()) and kind in set(RestoreKind):
                found[restore] = RestoreRun(restore, RestoreKind(kind), source)
    return tuple(sorted(found.values(), key=lambda r: int(m[1]) if (m := _ID.match(r.id)) else 0, reverse=True))


def new_members(spec: ClusterSpec, facts: RestoreFacts, run: RestoreRun) -> tuple[NewMember, ...]:
    """Return the members a restore makes: all that can be reached, or the lost ones that are replaced."""
    found = []
    for spec_host in spec.member_hosts:
        host = facts.hosts[spec_host.name]
        if not host.reachable or not host.peer_url:
            continue
        lost = not host.serves or run.id in host.begun
        if run.kind is not RestoreKind.MEMBER or lost:
            name = host.member_name or host.name
            found.append(NewMember(host.name, name, host.peer_url, host.data_dir, host.unit))
    return tuple(found)


def restore_findings(
    spec: ClusterSpec,
    facts: RestoreFacts,
    run: RestoreRun,
    snapshot: SnapshotFacts | None,
    *,
    force: bool,
    size_bytes: int = 0,
) -> tuple[Finding, ...]:
    """Return what speaks against beginning or going on with a restore.

    Of one that was begun only what may have changed since is looked at: the rest was decided when it began.
    """
    planes = [facts.hosts[h.name] for h in spec.member_hosts]
    return (
        *_unreachable(spec, facts),
        *_unfit(planes, run),
        *([] if _is_stopped(planes, run) else _before(planes, facts, run, snapshot, force=force)),
        *(SPACE.found(_space(h, size_bytes), node=h.name) for h in planes if _lacks_space(h, run, size_bytes)),
    )


def _unreachable(spec: ClusterSpec, facts: RestoreFacts) -> Iterator[Finding]:
    members = spec.member_hosts
    for host in (*members, *(h for h in spec.nodes if h not in members)):
        found = facts.hosts[host.name]
        if found.problem is not None:
            matters = host.is_control_plane or host in members
            severity = Severity.ERROR if matters else Severity.WARNING
            text = str(found.problem) if matters else f"its kubelet is not restarted: {found.problem}"
            yield HOST_UNREACHABLE.found(text, node=host.name, severity=severity)


def _unfit(planes: Iterable[RestoreHost], run: RestoreRun) -> Iterator[Finding]:
    for host in planes:
        if not host.reachable:
            continue
        if host.wal_dir:
            yield WAL_DIR.found(f"--wal-dir={host.wal_dir}", node=host.name)
        if "etcd" not in host.manifests | host.aside and not host.unit:
            yield NO_ETCD.found("no manifest in place or put aside, and no unit etcd.service", node=host.name)
        if run.kind is RestoreKind.MEMBER and host.unit and not host.joins and not host.serves:
            yield NO_ETCD.found(
                f"{host.unit} does not read /etc/etcd/initial.env: its member cannot be told to join",
                node=host.name,
                hint="add EnvironmentFile=-/etc/etcd/initial.env to the unit, behind its other ones",
            )


def _is_stopped(planes: Iterable[RestoreHost], run: RestoreRun) -> bool:
    return any(host.restores.get(run.id, frozenset()) & {Mark.STOPPED, Mark.STARTED} for host in planes)


def _before(
    planes: list[RestoreHost], facts: RestoreFacts, run: RestoreRun, snapshot: SnapshotFacts | None, *, force: bool
) -> Iterator[Finding]:
    serving = [h for h in planes if h.serves]
    has_quorum = len(serving) >= quorum(len(planes))
    if has_quorum and run.kind is not RestoreKind.MEMBER and not force:
        yield QUORUM_SERVES.found(f"{len(serving)} of {len(planes)} members serve: {few(h.name for h in serving)}")
    if not has_quorum and run.kind is RestoreKind.MEMBER:
        yield QUORUM_SERVES.found(
            f"only {len(serving)} of {len(planes)} members serve: a member can be replaced only while a quorum does",
            hint="restore a snapshot: kops-py etcd restore --from FILE",
        )
    if alarms := dict.fromkeys(a for h in serving for a in h.alarms):
        yield ALARM.found(f"{', '.join(alarms)}, as told by {few(h.name for h in serving if h.alarms)}")
    for host in planes:
        if is_empty(host):
            yield STORE_EMPTY.found(f"its store is at revision {host.revision}", node=host.name)
    for other in unfinished(facts):
        if other.id != run.id:
            yield UNFINISHED.found(
                f"{other.id} (kind {other.kind}{', of ' + other.source[:12] if other.source else ''})"
            )
    if snapshot is not None and run.kind is not RestoreKind.MEMBER:
        yield from _of_snapshot(planes, run, snapshot)


def _of_snapshot(planes: list[RestoreHost], run: RestoreRun, snapshot: SnapshotFacts) -> Iterator[Finding]:
    if not snapshot.has_our_ca:
        yield FOREIGN_SNAPSHOT.found(f"{snapshot.label} is of another cluster")
    other = [h for h in planes if h.minor and snapshot.minor and h.minor != snapshot.minor]
    if other:
        yield OTHER_MINOR.found(f"the snapshot is of etcd {snapshot.minor}, {other[0].name} runs {other[0].version}")
    ended = [i for h in planes for i, words in h.begun.items() if words.endswith(f" {run.source}") and i != run.id]
    if ended and not snapshot.member:
        yield REPEATED.found(f"by {', '.join(sorted(set(ended)))}")
    if not any(h.revision and not is_empty(h) for h in planes):
        yield LOSES.found(f"{snapshot.label}: {snapshot.loss}; no member has data that could tell how many")
    newest = max((h for h in planes if not is_empty(h)), key=lambda h: h.revision, default=None)
    ahead = newest.revision - snapshot.revision if newest else 0
    if newest and snapshot.revision and ahead > 0:
        text = f"{newest.name} is at revision {newest.revision}, {snapshot.label} at {snapshot.revision}"
        lost = f"{ahead} revisions are lost" if snapshot.member else f"{ahead} revisions are lost; {snapshot.loss}"
        if snapshot.member or any(h.serves for h in planes):
            yield LOSES.found(f"{text}: {lost}")
        else:
            yield NEWER_DATA.found(text, hint=f"--from-member {newest.name} restores it and loses less; or ignore this")
            yield LOSES.found(f"{text}: with the snapshot {lost}")


def _lacks_space(host: RestoreHost, run: RestoreRun, size_bytes: int) -> bool:
    marks = host.restores.get(run.id, frozenset())
    settled = marks & {Mark.STAGED, Mark.SWITCHED, Mark.STARTED, Mark.FINISHED}
    return host.reachable and bool(host.free_bytes) and not settled and host.free_bytes < size_bytes * _SPACE_FACTOR


def _space(host: RestoreHost, size_bytes: int) -> str:
    needed = size_bytes * _SPACE_FACTOR
    return f"{host.free_bytes / 1e6:.0f} MB free at {host.data_dir}, {needed / 1e6:.0f} MB needed"
