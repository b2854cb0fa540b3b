"""The command etcd restore: what is to be mended is looked at, decided once, and carried out without the API."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from kops_py.app.etcd_restore_source import Fetched, fetched_backup, holds_any, read_snapshot
from kops_py.app.run import Decided, RunPlace, RunResult, run_operation
from kops_py.app.session import Confirm, Emit, Session, Settings, looking_at
from kops_py.model.errors import ConfigError, HostError
from kops_py.model.etcd_restore import RestoreFacts, RestoreKind, RestoreRun, SnapshotFacts
from kops_py.model.event import Note
from kops_py.model.facts import Facts
from kops_py.model.plan import Plan
from kops_py.model.spec import ClusterSpec, CniType

if TYPE_CHECKING:
    from kops_py.actions.etcd_restore_perform import RestorePerformer
    from kops_py.runbooks.etcd_restore import RestoreArguments

CA_CERTIFICATE = "/etc/kubernetes/pki/ca.crt"
CACHING_NAMESPACES = ("kube-system", "kube-flannel", "calico-system", "calico-apiserver", "tigera-operator", "cilium")
"""Where add-ons run that watch the API: proxies, networks, DNS."""


@dataclass(frozen=True, slots=True)
class RestoreSettings:
    """What the command line says about a restore; at most one of ``backup``, ``file`` and ``member`` is given.

    ``identity`` is a file with the private key that ``backup`` is read with.
    """

    backup: str = ""
    identity: Path | None = None
    file: Path | None = None
    member: str = ""
    kind: RestoreKind | None = None
    force: bool = False
    namespaces: tuple[str, ...] = ()
    """More namespaces whose containers are restarted."""


def run_restore(settings: Settings, emit: Emit, confirm: Confirm, *, given: RestoreSettings) -> RunResult:
    """Restore etcd; raises KopsError before anything is touched."""
    with ExitStack() as stack:

        def decide(opened: Session) -> Decided:
            if not given.backup:
                return _decide(opened, given, None)
            fetched = stack.enter_context(fetched_backup(opened, given.backup, given.identity))
            return _decide(opened, dataclasses.replace(given, file=fetched.file), fetched)

        return run_operation(settings, emit, confirm, "etcd-restore", decide)


def _decide(opened: Session, given: RestoreSettings, fetched: Fetched | None) -> Decided:
    from kops_py.runbooks.etcd_restore import etcd_restore
    from kops_py.runbooks.etcd_restore_choice import choose_run, restore_findings
    from kops_py.runbooks.preflight import mark_ignored

    spec = opened.spec
    _check_spec(spec, given)
    snapshot = read_snapshot(given.file) if given.file else None
    opened.emit(Note(message=looking_at(spec)))
    facts = _observe(opened, closely=True)
    if snapshot is not None and fetched is not None:
        manifest = fetched.manifest
        snapshot = dataclasses.replace(snapshot, label=f"backup {manifest.id}", taken_at=manifest.begun_at)
    snapshot = _completed(opened, facts, snapshot, given)
    run = choose_run(spec, facts, given.kind, snapshot)
    if run.kind is not RestoreKind.MEMBER and snapshot is None:
        raise ConfigError(
            "nothing was named that could be restored",
            why=f"{len(facts.serving)} of {len(spec.member_hosts)} members of etcd serve",
            hint="name a backup (kops-py etcd list), --from FILE, or a member's data with --from-member HOST",
        )
    if run.kind in (RestoreKind.NEW_MACHINES, RestoreKind.CONTROL_PLANES):
        from kops_py.app.new_machines import decide_new_machines

        _tell(opened, facts, run, snapshot)
        return decide_new_machines(opened, facts, run, snapshot, fetched)
    arguments = _arguments(spec, facts, run, snapshot, given)
    found = restore_findings(
        spec, facts, run, snapshot, force=given.force, size_bytes=snapshot.size_bytes if snapshot else 0
    )
    _tell(opened, facts, run, snapshot)

    def replan() -> tuple[Plan, Facts]:
        from kops_py.observe.host import observe_hosts

        now = _observe(opened, closely=False)
        _check_reachable(now, (*arguments.nodes, *(m.node for m in arguments.members)))
        return etcd_restore(spec, now, arguments), Facts(hosts=observe_hosts(opened.fleet, spec, cancel=opened.cancel))

    def open_snapshot() -> BinaryIO:
        if given.file is None:
            raise ConfigError("there is no snapshot file to copy", hint="run the command with --from FILE again")
        return given.file.open("rb")

    def performer(place: RunPlace) -> RestorePerformer:
        from kops_py.actions.etcd_restore_perform import RestorePerformer
        from kops_py.app.bootstrap import make_deps

        return RestorePerformer(make_deps(opened, place, Facts(hosts={})), open_snapshot, place.folder)

    plan = etcd_restore(spec, facts, arguments)
    return Decided(plan, mark_ignored(found, opened.ignored), replan, performer, keeps_lease=False)


def _check_spec(spec: ClusterSpec, given: RestoreSettings) -> None:
    hosts = [h.name for h in spec.member_hosts]
    if not hosts:
        raise ConfigError(
            "the inventory names no host of etcd",
            why="etcd is one that was given (etcd.external), or the group etcd is empty",
            hint="restore it with the tools of whoever runs it; docs/etcd-restore.md says what else is to be done",
        )
    if spec.limit is not None:
        raise ConfigError("--limit makes no sense here", why="a restore concerns every member", hint="leave it out")
    if given.member and given.member not in hosts:
        raise ConfigError(
            f"--from-member {given.member}: no host of etcd in this inventory", hint="there are " + ", ".join(hosts)
        )


def _observe(opened: Session, *, closely: bool) -> RestoreFacts:
    from kops_py.observe.etcd_restore import observe_restore

    def tell(message: str) -> None:
        opened.emit(Note(message=message))

    return observe_restore(opened.fleet, opened.spec, cancel=opened.cancel, closely=closely, on_wait=tell)


def _check_reachable(facts: RestoreFacts, names: Iterable[str]) -> None:
    """Raise the problem of a host that was lost between two waves: nothing is known of what it still lacks."""
    for name in names:
        if (problem := facts.hosts[name].problem) is not None:
            problem.hint = (
                "bring it back, then run the same command again; it is gone for good: switch it off for good "
                "and add --ignore restore-host-unreachable"
            )
            raise problem


def _completed(
    opened: Session, facts: RestoreFacts, snapshot: SnapshotFacts | None, given: RestoreSettings
) -> SnapshotFacts | None:
    """Return the source with what only the hosts know: whose it is, or what a member's data holds."""
    if given.member:
        host = facts.hosts[given.member]
        if not host.reachable:
            raise host.problem or HostError("it cannot be reached", where=given.member)
        label = f"the data of {given.member}"
        return SnapshotFacts(label, given.member, host.data_bytes, host.revision, host.minor, member=given.member)
    if snapshot is None or given.file is None:
        return snapshot
    return dataclasses.replace(snapshot, has_our_ca=_has_our_ca(opened, given.file))


def _has_our_ca(opened: Session, path: Path) -> bool:
    """Whether the authority of this cluster is in the snapshot: kubeadm writes its certificate into ConfigMaps."""
    import base64

    for host in opened.spec.control_planes:
        try:
            pem = opened.fleet.host(host.name).read_file(CA_CERTIFICATE).strip()
        except HostError:
            continue
        return holds_any(path, (pem, base64.b64encode(pem)[:512]))
    return True  # no host has one: new machines, and nothing to compare with


def _arguments(
    spec: ClusterSpec, facts: RestoreFacts, run: RestoreRun, snapshot: SnapshotFacts | None, given: RestoreSettings
) -> RestoreArguments:
    from kops_py.runbooks.etcd_restore import RestoreArguments
    from kops_py.runbooks.etcd_restore_choice import new_members
    from kops_py.tools.etcd_restore import BUMP

    members = new_members(spec, facts, run)
    holders = tuple(m.node for m in members)
    external_restore = spec.external_etcd and run.kind is not RestoreKind.MEMBER
    planes = tuple(h.name for h in spec.control_planes if facts.hosts[h.name].reachable)
    nodes = planes if external_restore else tuple(m.node for m in members if not m.unit)
    workers = tuple(h.name for h in spec.workers if facts.hosts[h.name].reachable)
    bumps = bool(holders) and all(facts.hosts[n].bumps_revision for n in holders)
    replaced = run.kind is RestoreKind.MEMBER
    return RestoreArguments(
        run=run,
        nodes=nodes,
        workers=() if replaced else workers,
        members=members,
        snapshot=snapshot,
        via=tuple(n for n in facts.serving if n not in holders),
        bump=BUMP if bumps and not replaced else 0,
        namespaces=() if replaced or bumps else tuple(dict.fromkeys((*CACHING_NAMESPACES, *given.namespaces))),
        network=spec.network.cni is not CniType.NONE,
    )


def _tell(opened: Session, facts: RestoreFacts, run: RestoreRun, snapshot: SnapshotFacts | None) -> None:
    """Say what was found, in one line each: the person who reads it has no other sight of the cluster."""
    for host in opened.spec.member_hosts:
        found = facts.hosts[host.name]
        if not found.reachable:
            continue
        if found.is_bare:
            what = "etcd" if opened.spec.external_etcd else "control plane"
            opened.emit(Note(message=f"no {what} was ever set up here", node=host.name))
            continue
        state = "serves" if found.serves else "runs" if "etcd" in found.running else "is stopped"
        state += f" with the alarm {', '.join(found.alarms)}" if found.alarms else ""
        data = f"revision {found.revision}" if found.revision else "data" if found.has_data else "no data"
        opened.emit(Note(message=f"etcd {found.version or '?'} {state}, {data}", node=host.name))
    if snapshot is not None and run.kind is not RestoreKind.MEMBER:
        opened.emit(
            Note(message=f"{snapshot.label}: etcd {snapshot.minor or '?'}, revision {snapshot.revision or '?'}")
        )
    opened.emit(Note(message=f"restore {run.id}: kind {run.kind}"))
