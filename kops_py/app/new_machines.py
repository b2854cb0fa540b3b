"""Restore onto new machines: what the backup's files say is read, and the whole way from it to a cluster decided."""

from __future__ import annotations

import base64
import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, BinaryIO

from kops_py.app.etcd_restore_source import Fetched, holds_any, object_names
from kops_py.app.run import Decided, RunPlace
from kops_py.app.session import Session, check_hosts
from kops_py.model.errors import BackupError, ConfigError, HostError, KubeError
from kops_py.model.etcd_restore import Mark, RestoreFacts, RestoreKind, RestoreRun, SnapshotFacts
from kops_py.model.event import Note
from kops_py.model.facts import Facts
from kops_py.model.finding import Finding
from kops_py.model.new_machines import OldCluster
from kops_py.model.plan import Plan

if TYPE_CHECKING:
    from kops_py.actions.new_machines import NewMachinesPerformer
    from kops_py.runbooks.new_machines import NewMachinesArguments

_CA = "/etc/kubernetes/pki/ca.crt"
_NODES, _WEBHOOKS = "minions", ("mutatingwebhookconfigurations", "validatingwebhookconfigurations")
_ANSWER_S = 5.0
_JOINING = ("prepare/", "init/", "join/", "load-balancer/")
_OURS = frozenset({"leftovers", "cni-leftovers"})
"""What preflight finds on a host where this very restore has begun."""


def decide_new_machines(
    opened: Session, restore: RestoreFacts, run: RestoreRun, snapshot: SnapshotFacts | None, fetched: Fetched | None
) -> Decided:
    """Decide a restore onto new machines; raises ConfigError, BackupError for what it cannot begin with."""
    from kops_py.app.bootstrap import make_deps
    from kops_py.observe.etcd_restore import observe_restore
    from kops_py.runbooks.new_machines import new_machines

    spec = opened.spec
    if fetched is None or snapshot is None:
        raise ConfigError(
            "the hosts are empty, and a snapshot alone makes no cluster of them",
            why="no control plane has manifests; the cluster's keys are in no snapshot",
            hint="name a backup by its ID (kops-py etcd list): it holds the keys too",
        )
    planes = [restore.hosts[h.name] for h in spec.control_planes]
    if not any(plane.reachable for plane in planes):
        raise planes[0].problem or HostError("it cannot be reached", where=planes[0].name)
    host, digest, files = fetched.read_files(opened.cancel)
    arguments = _arguments(opened, restore, run, snapshot, fetched, (host, digest, files))
    facts = opened.observe()

    def replan() -> tuple[Plan, Facts]:
        now = opened.observe()
        marks = observe_restore(opened.fleet, spec, cancel=opened.cancel, closely=False)
        if now.kube is None and Mark.INITIALISED in marks.hosts[arguments.first].restores.get(run.id, frozenset()):
            raise now.kube_problem or KubeError("the restored API server does not answer", where=arguments.first)
        return new_machines(spec, now, marks, arguments), now

    def open_snapshot() -> BinaryIO:
        return fetched.file.open("rb")

    def performer(place: RunPlace) -> NewMachinesPerformer:
        from kops_py.actions.new_machines import NewMachinesPerformer

        deps = make_deps(opened, place, facts, arguments.bootstrap)
        kept = {path: files[path] for path in (*arguments.old.pki, *arguments.old.files)}
        return NewMachinesPerformer(deps, kept, open_snapshot, place.folder, minor=arguments.snapshot.minor)

    plan = new_machines(spec, facts, restore, arguments)
    return Decided(plan, _findings(opened, plan, facts, restore, arguments), replan, performer, keeps_lease=False)


def _arguments(
    opened: Session,
    restore: RestoreFacts,
    run: RestoreRun,
    snapshot: SnapshotFacts,
    fetched: Fetched,
    bundle: tuple[str, str, Mapping[str, bytes]],
) -> NewMachinesArguments:
    from kops_py.app.bootstrap import bootstrap_arguments
    from kops_py.connect.tls_probe import answers_for
    from kops_py.runbooks.new_machines import NewMachinesArguments, choose_first
    from kops_py.runbooks.new_machines_etcd import external_members
    from kops_py.tools import etcd_restore as tool
    from kops_py.tools.new_machines import configured_flags, etcd_data_dir, etcd_version

    spec, (host, digest, files) = opened.spec, bundle
    old = _old_cluster(fetched, host, digest, files, external=spec.external_etcd)
    outside = [restore.hosts[h.name].version for h in spec.etcd_hosts]
    version = next(filter(None, outside), "") if spec.external_etcd else etcd_version(spec)
    begun = any(run.id in h.begun for h in restore.hosts.values())
    if not begun and old.endpoint:
        opened.emit(Note(message=f"asking whether the old cluster answers at {old.endpoint}"))
    ours = (files[_CA].strip(), base64.b64encode(files[_CA].strip())[:512])
    keeps = run.kind is RestoreKind.CONTROL_PLANES
    return NewMachinesArguments(
        run=run,
        first=choose_first(spec, restore, run),
        snapshot=dataclasses.replace(
            snapshot,
            label=f"backup {fetched.manifest.id}",
            taken_at=fetched.manifest.begun_at,
            has_our_ca=_etcd_has(opened, restore, ours) if keeps else holds_any(fetched.file, ours),
        ),
        old=old,
        bootstrap=bootstrap_arguments(spec),
        etcd_version=version,
        data_dir=etcd_data_dir(spec),
        members=external_members(spec, restore),
        bump=tool.BUMP if tool.bumps_revision(version) else 0,
        configured=configured_flags(spec),
        old_answers=not begun and answers_for(old.endpoint, files[_CA], timeout_s=_ANSWER_S),
    )


def _etcd_has(opened: Session, restore: RestoreFacts, ours: Sequence[bytes]) -> bool:
    """Whether the etcd that serves is that of the authority in the backup; raises HostError."""
    from kops_py.observe.external_etcd import has_authority

    etcd = opened.spec.external
    serving = [h.name for h in opened.spec.etcd_hosts if restore.hosts[h.name].serves]
    return etcd is None or all(has_authority(opened.fleet.host(name), etcd, ours) for name in serving[:1])


def _old_cluster(fetched: Fetched, host: str, digest: str, files: Mapping[str, bytes], *, external: bool) -> OldCluster:
    """Return what is known of the cluster of the backup; raises BackupError when its authorities are not whole."""
    from kops_py.tools.new_machines import describe

    found = describe(files, external=external)
    if found.missing:
        raise BackupError(
            f"the files of {host} in backup {fetched.manifest.id} do not make a cluster",
            why=f"missing: {', '.join(found.missing)} (an external authority keeps its key elsewhere)",
            hint="choose another backup; or bring these files and restore by hand: docs/etcd-restore.md",
        )
    names = object_names(fetched.file, (_NODES, *_WEBHOOKS))
    return OldCluster(
        host=host,
        digest=digest,
        pki=found.pki,
        files=found.files,
        nodes=names[_NODES],
        webhooks=tuple(name for kind in _WEBHOOKS for name in names[kind]),
        endpoint=found.endpoint,
        kubernetes_version=fetched.manifest.source.kubernetes_version,
        service_subnets=found.service_subnets,
        pod_subnets=found.pod_subnets,
        dns_domain=found.dns_domain,
        absent=found.absent,
        flags=found.flags,
    )


def _findings(
    opened: Session, plan: Plan, facts: Facts, restore: RestoreFacts, arguments: NewMachinesArguments
) -> tuple[Finding, ...]:
    """Return preflight's findings, as bootstrap has them, and those of the restore."""
    from kops_py.runbooks.new_machines import new_machines_findings, seen_facts
    from kops_py.runbooks.preflight import mark_ignored

    own = mark_ignored(new_machines_findings(opened.spec, restore, arguments), opened.ignored)
    probes = None
    if any(step.id.startswith(_JOINING) for step in plan.steps):
        opened.emit(Note(message="probing ports between hosts, repositories, registries and disks"))
        probes = opened.probe(facts)
    found = check_hosts(opened, seen_facts(facts, restore, arguments), probes)
    begun = {name for name, host in restore.hosts.items() if arguments.run.id in host.begun}
    if (
        arguments.run.kind is RestoreKind.CONTROL_PLANES
    ):  # its workers, and what else etcd's hosts are, go on as they are
        begun |= {h.name for h in opened.spec.nodes if facts.hosts[h.name].has_kubelet_conf}
    return (*own, *(f for f in found if not (f.id in _OURS and f.node in begun)))
