"""Restore onto new machines: every machine of a cluster is lost, the inventory names empty ones.

The checklist this replaces: hosts prepared as for a new cluster; the authorities and keys of the old one, and what its
API server's flags name, put in place; the snapshot made the data of an etcd of one member; kubeadm init on both, with
certificates for the new names; what belongs to the lost machines deleted from the API; everybody else joined as to any
cluster. All but the middle is bootstrap's own plan: at the end it has nothing to do. An etcd outside the control planes
gets the snapshot in all its members (new_machines_etcd).

Until kubeadm init nothing of a cluster runs here, so that there is nothing to put back. docs/adr/0012-new-machines.md
says why it is done so.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import ip_network

from kops_py.model.actions import InitControlPlane, JoinNode, PrepareHost
from kops_py.model.etcd_restore import (
    CheckRestored,
    FinishRestore,
    Mark,
    NewMember,
    RestoreFacts,
    RestoreKind,
    RestoreRun,
    SnapshotFacts,
    UploadSnapshot,
)
from kops_py.model.facts import Facts
from kops_py.model.finding import Finding, Severity, few
from kops_py.model.new_machines import ForgetMachines, InitRestored, MakeData, OldCluster, PlaceFiles
from kops_py.model.plan import Plan, Step, Wave
from kops_py.model.spec import ClusterSpec
from kops_py.model.version import Version
from kops_py.runbooks.bootstrap import BootstrapArguments, bootstrap
from kops_py.runbooks.etcd_restore_choice import (
    FOREIGN_SNAPSHOT,
    OTHER_MINOR,
    UNFINISHED,
    is_vacant,
    keeps_data,
    unfinished,
)
from kops_py.runbooks.new_machines_etcd import ETCD_WAVES, external_data, is_under_way
from kops_py.runbooks.new_machines_findings import (
    ETCD_DOES_NOT_SERVE,
    FILES_ABSENT,
    FLAGS_MISSING,
    HOST_HAS_CLUSTER,
    OLD_CLUSTER_ANSWERS,
    OTHER_KUBERNETES,
    OTHER_NETWORKS,
    WEBHOOKS,
)

_SLOWEST_BYTES_PER_S = 20_000_000
_PLACE_S = 120.0
_FORGET_S = 300.0
_CHECK_S = 120.0
_BEFORE_INIT = frozenset({"load balancers", "preparation"})
_CLIENTS = "etcd clients"
_INIT = "first control plane"
_ENCRYPTION = "encryption-provider-config"


@dataclass(frozen=True, slots=True)
class NewMachinesArguments:
    """What the runbook cannot know by itself; the same for a whole run."""

    run: RestoreRun
    first: str
    """The control plane that kubeadm init runs on, which gets the snapshot where kubeadm runs etcd."""
    snapshot: SnapshotFacts
    old: OldCluster
    bootstrap: BootstrapArguments
    etcd_version: str
    """Of the etcd that kubeadm will run, or that is there outside; empty while that is not known."""
    data_dir: str
    members: tuple[NewMember, ...] = ()
    """Those of an external etcd; empty where kubeadm runs etcd."""
    bump: int = 0
    configured: frozenset[str] = frozenset()
    """Flags of the API server that cluster.yaml sets."""
    old_answers: bool = False
    """Whether the API of the old cluster answers still; not asked for once the restore was begun."""

    @property
    def keeps_data(self) -> bool:
        """Whether an external etcd serves the cluster: then only keys are brought back, and nothing is lost.

        Decided when the restore begins: the first control plane that comes back is no new machine any more.
        """
        return self.run.kind is RestoreKind.CONTROL_PLANES


def choose_first(spec: ClusterSpec, facts: RestoreFacts, run: RestoreRun) -> str:
    """Return the control plane that gets the snapshot: the one that has it already, else the first that answers."""
    reachable = [h.name for h in spec.control_planes if facts.hosts[h.name].reachable]
    kept = {Mark.INITIALISED}
    if not spec.external_etcd:
        kept |= {Mark.UPLOADED, Mark.STAGED, Mark.SWITCHED}
    begun = [n for n in reachable if facts.hosts[n].restores.get(run.id, frozenset()) & kept]
    return next(iter(begun or reachable), "")


def new_machines(spec: ClusterSpec, facts: Facts, restore: RestoreFacts, arguments: NewMachinesArguments) -> Plan:
    """Plan what is left of a restore onto new machines; pure."""
    world = _World(spec, facts, restore, arguments)
    return Plan(
        operation="etcd restore",
        cluster=spec.name,
        waves=tuple(w for w in _waves(world) if w.steps),
        arguments={"kind": str(arguments.run.kind), "source": arguments.run.source},
        notes=_notes(world),
    )


def seen_facts(facts: Facts, restore: RestoreFacts, arguments: NewMachinesArguments) -> Facts:
    """Return the facts as bootstrap and its checks are to see them.

    The API of a control plane whose init has not ended shows the old cluster whole, and would be taken for one that is
    built; and Node objects of machines that are not there are about to be deleted.
    """
    marks = _marks(restore, arguments.first, arguments.run.id)
    if facts.kube is None or not marks & {Mark.INITIALISED, Mark.FINISHED}:
        return dataclasses.replace(facts, kube=None)
    hosts = facts.hosts
    real = {n: node for n, node in facts.kube.nodes.items() if n in hosts and hosts[n].has_kubelet_conf}
    return dataclasses.replace(facts, kube=dataclasses.replace(facts.kube, nodes=real))


def _marks(restore: RestoreFacts, name: str, run: str) -> frozenset[Mark]:
    """Return the marks of a restore on a host; of a cluster that somebody reset since nothing is believed."""
    host = restore.hosts[name]
    found = host.restores.get(run, frozenset())
    return found - {Mark.INITIALISED, Mark.FORGOTTEN} if host.has_no_control_plane else found


@dataclass(frozen=True, slots=True)
class _World:
    spec: ClusterSpec
    facts: Facts
    restore: RestoreFacts
    arguments: NewMachinesArguments

    @property
    def id(self) -> str:
        return self.arguments.run.id

    @property
    def first(self) -> str:
        return self.arguments.first

    @property
    def planes(self) -> tuple[str, ...]:
        """Return the control planes that can be reached."""
        return tuple(h.name for h in self.spec.control_planes if self.restore.hosts[h.name].reachable)

    @property
    def holders(self) -> tuple[str, ...]:
        """Return all hosts with marks of this restore."""
        return tuple(dict.fromkeys((*self.planes, *(m.node for m in self.arguments.members))))

    def has(self, name: str, *marks: Mark) -> bool:
        """Whether a host carries one of these marks of this restore."""
        return bool(_marks(self.restore, name, self.id) & {*marks, Mark.FINISHED})

    @property
    def initialised(self) -> bool:
        return self.has(self.first, Mark.INITIALISED)

    @property
    def transfer_s(self) -> float:
        size_bytes = self.arguments.snapshot.size_bytes * (len(self.arguments.members) or 1)
        return 120 + size_bytes / _SLOWEST_BYTES_PER_S


def _waves(world: _World) -> list[Wave]:
    if all(world.has(n, Mark.FINISHED) for n in world.planes):
        return []
    seen = seen_facts(world.facts, world.restore, world.arguments)
    whole = bootstrap(world.spec, seen, dataclasses.replace(world.arguments.bootstrap, first=world.first)).plan
    whole = dataclasses.replace(whole, waves=tuple(_without_living(world, w) for w in whole.waves))
    early = _BEFORE_INIT | ETCD_WAVES | {_CLIENTS, _INIT}
    return [
        *_keys_and_data(world, whole),
        *(_restored_init(world, w) for w in whole.waves if w.name == _INIT),
        Wave("lost machines", _forget(world)),
        *(w for w in whole.waves if w.name not in early),
        Wave("checks", _checks(world)),
    ]


def _without_living(world: _World, wave: Wave) -> Wave:
    """Leave out preparing and joining workers that are members still, since only control planes were lost."""
    hosts = world.facts.hosts
    living = (
        {h.name for h in world.spec.workers if hosts[h.name].has_kubelet_conf} if world.arguments.keeps_data else set()
    )
    steps = tuple(s for s in wave.steps if s.node not in living or not isinstance(s.action, (PrepareHost, JoinNode)))
    return dataclasses.replace(wave, steps=steps)


def _keys_and_data(world: _World, whole: Plan) -> list[Wave]:
    """Return all that comes before kubeadm init."""

    def of_bootstrap(names: Collection[str]) -> list[Wave]:
        return [w for w in whole.waves if w.name in names]

    arguments, parallel = world.arguments, len(world.planes) or 1
    if not arguments.members:
        data = Wave("keys and snapshot", tuple(_on_control_planes(world)), max_parallel=parallel)
        return [*of_bootstrap(_BEFORE_INIT), data]
    members = arguments.members
    formed = [] if is_under_way(world.restore, arguments.run, members) else of_bootstrap(ETCD_WAVES)
    return [
        # First of all, for its marks: they tell the next run whose the empty etcd is.
        Wave("keys", tuple(_on_control_planes(world)), max_parallel=parallel),
        *formed,
        *([] if arguments.keeps_data or world.initialised else _external_data(world)),
        *of_bootstrap(_BEFORE_INIT),
        *of_bootstrap({_CLIENTS}),
    ]


def _external_data(world: _World) -> list[Wave]:
    arguments = world.arguments
    return external_data(world.restore, arguments.run, arguments.snapshot, arguments.members, world.transfer_s)


def _on_control_planes(world: _World) -> Iterator[Step]:
    arguments, transfer_s = world.arguments, world.transfer_s
    size = arguments.snapshot.size_bytes
    for name in world.planes:
        place = _place(world, name)
        if place.paths and not world.has(name, Mark.PLACED):
            title = f"put files of {arguments.old.host} in place"
            yield Step(f"place/{name}", name, title, place, _PLACE_S, (*place.paths, "keys 0600, owned by root"))
        if name != world.first or world.initialised or arguments.members:
            continue
        if not world.has(name, Mark.UPLOADED):
            upload = UploadSnapshot(world.id, arguments.run.words, arguments.snapshot.digest, (name,))
            more = (f"{size / 1e6:.1f} MB, 0600 in a 0700 folder, removed at the end",)
            yield Step(f"upload/{name}", name, "copy the snapshot", upload, transfer_s, more)
        if not world.has(name, Mark.SWITCHED):
            data = _data(world)
            title = "make the snapshot etcd's data"
            yield Step(f"data/{name}", name, title, data, transfer_s, _data_details(data))


def _place(world: _World, name: str) -> PlaceFiles:
    old, run = world.arguments.old, world.arguments.run
    paths = (*(old.pki if name == world.first else ()), *old.files)
    return PlaceFiles(run.id, run.words, name, old.digest, paths)


def _data(world: _World) -> MakeData:
    arguments, host = world.arguments, world.spec.host(world.first)
    member = NewMember(host.name, host.name, host.peer_url, arguments.data_dir)
    return MakeData(world.id, member, arguments.snapshot.minor, arguments.bump)


def _data_details(data: MakeData) -> tuple[str, ...]:
    bump = f"revisions jump by {data.bump}" if data.bump else "revisions go on from the snapshot's"
    return (f"{data.member.data_dir}: the only member, {data.member.name} at {data.member.peer_url}", bump)


def _restored_init(world: _World, wave: Wave) -> Wave:
    """Return the wave of kubeadm init with the step that keeps what was put in place."""
    steps = []
    for step in wave.steps:
        if isinstance(step.action, InitControlPlane):
            data = None if world.arguments.members else _data(world)
            action = InitRestored(step.action, _place(world, step.node), data)
            details = (
                *step.details,
                "on the authorities and the data in place: certificates and kubeconfigs are made anew by them",
                "the cluster is back from here on; what failed before left nothing that runs",
            )
            step = dataclasses.replace(step, action=action, details=details)
        steps.append(step)
    return dataclasses.replace(wave, steps=tuple(steps))


def _forget(world: _World) -> tuple[Step, ...]:
    if world.has(world.first, Mark.FORGOTTEN):
        return ()
    names = world.arguments.old.nodes
    own = {h.name for h in world.spec.nodes}
    gone, again = [n for n in names if n not in own], [n for n in names if n in own and n != world.first]
    details = (
        *([f"not in the inventory: {few(gone, 20)}: Node objects, their leases and all their pods"] if gone else []),
        *([f"to join anew under their names: {few(again, 20)}: Node objects, with labels and taints"] if again else []),
        "pods of these are made anew by their controllers; what no controller owns is lost with its node",
        "kubeadm's record of control planes holds the new one alone",
    )
    action = ForgetMachines(world.id, world.first, names)
    return (Step("forget", "", "delete what belongs to the lost machines", action, _FORGET_S, details),)


def _checks(world: _World) -> tuple[Step, ...]:
    nodes = tuple(h.name for h in world.spec.nodes if world.restore.hosts[h.name].reachable)
    return (
        Step("check", "", "compare what the API says with what is real", CheckRestored(nodes), _CHECK_S),
        Step("finish", "", "remove the snapshot", FinishRestore(world.id, world.holders), _PLACE_S),
    )


def _notes(world: _World) -> tuple[str, ...]:
    old, snapshot = world.arguments.old, world.arguments.snapshot
    what = f"Kubernetes {old.kubernetes_version or '?'}"
    if world.arguments.keeps_data:
        kept = f"the keys of {snapshot.label}: {what}; etcd serves and keeps its data, nothing of it is lost"
    else:
        what += f", etcd {snapshot.minor or '?'}, revision {snapshot.revision or '?'}"
        kept = f"the cluster of {snapshot.label}: {what}; {snapshot.loss}"
    return (
        kept,
        f"its API was {old.endpoint or '?'}, and is {world.spec.endpoint}",
    )


def new_machines_findings(
    spec: ClusterSpec, restore: RestoreFacts, arguments: NewMachinesArguments
) -> tuple[Finding, ...]:
    """Return what speaks against beginning, or going on, beside what preflight and bootstrap find."""
    run = arguments.run
    begun = any(run.id in h.begun for h in restore.hosts.values())
    lost = arguments.keeps_data and not begun and not keeps_data(spec, restore)
    is_up = Mark.INITIALISED in _marks(restore, arguments.first, run.id)
    ours = dict.fromkeys(h.name for h in (*spec.control_planes, *spec.etcd_hosts))
    return (
        *([ETCD_DOES_NOT_SERVE.found("its members do not serve, or a control plane is there")] if lost else []),
        *(
            HOST_HAS_CLUSTER.found("it has manifests of a control plane, or a member of etcd with data", node=h.name)
            for h in (restore.hosts[name] for name in ours)
            if h.reachable and not is_vacant(spec, h) and not begun and not (arguments.keeps_data and h.unit)
        ),
        *(
            UNFINISHED.found(f"{other.id} (kind {other.kind}, of {other.source[:12]})")
            for other in unfinished(restore)
            if other.id != run.id
        ),
        *_of_backup(spec, arguments),
        *([WEBHOOKS.found(few(arguments.old.webhooks, 5))] if arguments.old.webhooks and not is_up else []),
    )


def _of_backup(spec: ClusterSpec, arguments: NewMachinesArguments) -> Iterator[Finding]:
    old, snapshot = arguments.old, arguments.snapshot
    if not snapshot.has_our_ca:
        whose = "the etcd that serves" if arguments.keeps_data else snapshot.label
        yield FOREIGN_SNAPSHOT.found(f"the authority among the files of {old.host} is not that of {whose}")
    minor = ".".join(arguments.etcd_version.split(".")[:2])
    if minor and snapshot.minor and not arguments.keeps_data and minor != snapshot.minor:
        who = "the hosts of the group etcd run" if arguments.members else "kubeadm runs"
        yield OTHER_MINOR.found(f"the snapshot is of etcd {snapshot.minor}, {who} {arguments.etcd_version}")
    if arguments.old_answers:
        yield OLD_CLUSTER_ANSWERS.found(f"{old.endpoint} answers with a certificate of the cluster's authority")
    yield from _other_version(spec, old)
    for what, was, now in (
        ("service network", old.service_subnets, spec.network.service_subnets),
        ("pod network", old.pod_subnets, spec.network.pod_subnets),
    ):
        if was and _networks(was.split(",")) != _networks([str(n) for n in now]):
            yield OTHER_NETWORKS.found(f"the {what} was {was}, cluster.yaml says {','.join(map(str, now))}")
    if old.dns_domain and old.dns_domain != spec.network.dns_domain:
        yield OTHER_NETWORKS.found(f"the domain was {old.dns_domain}, cluster.yaml says {spec.network.dns_domain}")
    for flag, value in old.flags:
        if flag not in arguments.configured:
            severity = Severity.ERROR if flag == _ENCRYPTION else Severity.WARNING
            yield FLAGS_MISSING.found(f"--{flag}={value}", severity=severity)
    for path in old.absent:
        yield FILES_ABSENT.found(path)


def _other_version(spec: ClusterSpec, old: OldCluster) -> Iterator[Finding]:
    wanted = spec.kubernetes.version
    try:
        was = Version.parse(old.kubernetes_version)
    except ValueError:
        return
    if (was.major, was.minor) != (wanted.major, wanted.minor):
        yield OTHER_KUBERNETES.found(f"it ran {was}, cluster.yaml says {wanted}")


def _networks(texts: Sequence[str]) -> list[str]:
    found = []
    for text in texts:
        try:
            found.append(str(ip_network(text.strip(), strict=False)))
        except ValueError:
            found.append(text.strip())
    return found
