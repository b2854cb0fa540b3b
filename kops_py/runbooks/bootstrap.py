"""Bootstrap: from an inventory to a Ready cluster, or from a running one to all that the inventory names.

The checklist this replaces, top to bottom: an external etcd where there is one, load balancers, preparation of every
host, kubeadm init on one control plane, the pod network, the other control planes one at a time, the workers side by
side, labels and taints, a healthy cluster, no join secret left. What is true already is left out of the plan; a node
that is a member is never prepared or joined again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from kops_py.model.actions import (
    INIT_JOB,
    JOIN_JOB,
    ApplyNetwork,
    ConfigureBridge,
    ConfigureLoadBalancer,
    InitControlPlane,
    JoinNode,
    LabelNode,
    PrepareHost,
    RestartApiServer,
    RevokeJoinSecrets,
    WaitHealthy,
)
from kops_py.model.facts import Facts, HostFacts, JobState, KubeFacts, NodeFacts
from kops_py.model.finding import Finding, Severity
from kops_py.model.plan import Plan, Step, Wave
from kops_py.model.spec import ClusterSpec, CniType, HostSpec
from kops_py.model.version import TABLE, facts_of
from kops_py.runbooks.decision import Decision
from kops_py.runbooks.external_etcd import (
    EtcdArguments,
    EtcdWorld,
    client_wave,
    etcd_findings,
    etcd_notes,
    etcd_waves,
)
from kops_py.runbooks.stale_members import stale_members_findings, stale_members_wave

API_SERVER_MANIFEST = "kube-apiserver.yaml"
_SOCKET_ANNOTATION = "kubeadm.alpha.kubernetes.io/cri-socket"


@dataclass(frozen=True, slots=True)
class BootstrapArguments:
    """What the runbook cannot know by itself: digests of what the playbooks and the network manifest hold."""

    prepare_digests: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    load_balancer_digests: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    network_digest: str = ""
    limit: frozenset[str] = frozenset()
    etcd: EtcdArguments = field(default_factory=EtcdArguments)
    balancers: frozenset[str] = frozenset()
    """Load balancers that are configured although ``limit`` leaves them out."""
    first: str = ""
    """The control plane that kubeadm init is to run on; empty: one where it was begun, else the first."""


def bootstrap(spec: ClusterSpec, facts: Facts, arguments: BootstrapArguments) -> Decision:
    """Plan the bootstrap of the cluster; pure."""
    world = _World(spec, facts, arguments)
    findings = _findings(world)
    waves = (
        *etcd_waves(world.etcd),
        *_preparation(world),
        client_wave(world.etcd),
        _init(world),
        _network_manifest(world),
        _stale_members(world),
        _join_control_planes(world),
        _restart_api_server(world),
        _join_workers(world),
        _bridge(world),
        _labels(world),
    )
    changes = any(wave.steps for wave in waves)
    closing = (_healthy(world, changes=changes), _revoke(world, joins=changes))
    plan = Plan(
        operation="bootstrap",
        cluster=spec.name,
        waves=tuple(w for w in (*waves, *closing) if w.steps),
        arguments={"version": str(spec.kubernetes.version)},
        notes=_notes(world),
    )
    return Decision(plan, findings)


@dataclass(frozen=True, slots=True)
class _World:
    spec: ClusterSpec
    facts: Facts
    arguments: BootstrapArguments

    @property
    def kube(self) -> KubeFacts | None:
        return self.facts.kube

    @property
    def initialised(self) -> bool:
        """Whether there is a cluster to join.

        An init of ours that did not come to its end left one only if even its last phase, the add-ons, is there;
        a cluster that others built may have other add-ons.
        """
        if self.kube is None:
            return False
        states = [self.host(h.name).jobs.get(INIT_JOB) for h in self.spec.control_planes]
        unfinished = any(s not in (None, JobState.SUCCEEDED) for s in states)
        return self.kube.has_all_of_init or (self.kube.has_kubeadm_config and not unfinished)

    @property
    def etcd(self) -> EtcdWorld:
        arguments = self.arguments
        return EtcdWorld(self.spec, self.facts, arguments.etcd, arguments.limit, self.initialised)

    def host(self, name: str) -> HostFacts:
        return self.facts.hosts[name]

    def in_limit(self, host: HostSpec) -> bool:
        return not self.arguments.limit or host.name in self.arguments.limit

    def is_member(self, host: HostSpec) -> bool:
        """Whether the host is a full member of the cluster.

        kubeadm marks a control plane (label) as its last act, and a worker's kubelet registers only after it
        has its own kubelet.conf; see _is_cut_off. A host that cannot be asked counts by its Node object alone.
        """
        node = self.kube.nodes.get(host.name) if self.kube else None
        if node is None or not self.initialised:
            return False
        facts = self.host(host.name)
        if not facts.reachable:
            return True
        if host.is_control_plane:
            return node.is_control_plane and facts.has_kubelet_conf and API_SERVER_MANIFEST in facts.manifests
        return facts.has_kubelet_conf and not self._is_cut_off(facts, node)

    def _is_cut_off(self, host: HostFacts, node: NodeFacts) -> bool:
        """Whether a worker's join ended (power loss) between its registration and kubeadm's last act on it.

        That is the annotation with the runtime's socket, without which ``kubeadm upgrade node`` and ``kubeadm reset``
        refuse the node; later versions keep it in a file on the node and need none.
        """
        if self.kube is None or host.jobs.get(JOIN_JOB) is not JobState.INTERRUPTED:
            return False
        minor = TABLE.get(self.kube.server_version.minor)
        return minor is not None and minor.socket_annotation and _SOCKET_ANNOTATION not in node.annotations

    def to_join(self, hosts: tuple[HostSpec, ...]) -> tuple[HostSpec, ...]:
        """Return the hosts that must be made members, without those that cannot be reached."""
        return tuple(h for h in hosts if not self.is_member(h) and self.host(h.name).reachable and self.in_limit(h))

    @property
    def first(self) -> HostSpec | None:
        """Return the control plane that kubeadm init runs on: one where it was begun, else the first."""
        candidates = self.to_join(self.spec.control_planes)
        named = [h for h in candidates if h.name == self.arguments.first]
        begun = [h for h in candidates if INIT_JOB in self.host(h.name).jobs]
        return next(iter(named or begun or candidates), None)

    @property
    def absent(self) -> tuple[str, ...]:
        """Return the members that cannot be reached now."""
        return tuple(h.name for h in self.spec.nodes if self.is_member(h) and not self.host(h.name).reachable)


def _findings(world: _World) -> tuple[Finding, ...]:
    found: list[Finding] = []
    kube, wanted = world.kube, world.spec.kubernetes.version
    if kube is not None and (kube.server_version.major, kube.server_version.minor) != (wanted.major, wanted.minor):
        found.append(
            Finding(
                Severity.ERROR,
                "version-differs",
                "",
                f"the cluster runs {kube.server_version}, cluster.yaml says {wanted}",
                f"kops-py upgrade --to {wanted}, or set kubernetes.version to {kube.server_version}",
            )
        )
    found += etcd_findings(world.etcd)
    if world.initialised:
        found += stale_members_findings(world.spec, world.facts, world.arguments.limit)
    if kube is None:
        found += [
            Finding(
                Severity.ERROR,
                "api-down",
                h.name,
                "this host already runs a control plane, but its API server does not answer"
                + (f" ({world.facts.kube_problem.why})" if world.facts.kube_problem else ""),
                "bring the API server back (journalctl -u kubelet; crictl ps -a), "
                "or clean the host with: kubeadm reset",
            )
            for h in world.spec.control_planes
            if _looks_initialised(world.host(h.name))
        ]
    found += [
        Finding(
            Severity.WARNING,
            "member-unreachable",
            name,
            "is a member of the cluster but cannot be reached; it is left as it is",
            "see the reason with: kops-py preflight",
        )
        for name in world.absent
    ]
    return tuple(found)


def _looks_initialised(host: HostFacts) -> bool:
    """Whether the host holds a control plane that came to the end of its init or join, ours or a person's."""
    if not host.reachable or not (host.manifests and host.has_kubelet_conf):
        return False
    states = [host.jobs[j] for j in (INIT_JOB, JOIN_JOB) if j in host.jobs]
    return not states or JobState.SUCCEEDED in states


def _notes(world: _World) -> tuple[str, ...]:
    notes = [*etcd_notes(world.etcd)]
    members = [h for h in world.spec.nodes if world.is_member(h)]
    if members:
        notes.append(f"members already, not touched: {', '.join(h.name for h in members)}")
    stale = [
        h.name
        for h in members
        if world.host(h.name).reachable
        and world.host(h.name).prepared_digest != world.arguments.prepare_digests.get(h.name, "")
    ]
    if stale:
        notes.append(f"prepared with other settings than today's, left as they are: {', '.join(stale)}")
    again = [h for h in world.to_join(world.spec.nodes) if world.host(h.name).removal is not None]
    notes += [
        f"{h.name} was taken out of the cluster earlier and joins again: {world.host(h.name).removal}" for h in again
    ]
    if world.kube is not None:
        unknown = sorted(set(world.kube.nodes) - {h.name for h in world.spec.nodes})
        if unknown:
            notes.append(f"in the cluster but not in the inventory, left as they are: {', '.join(unknown)}")
    return tuple(notes)


def _preparation(world: _World) -> tuple[Wave, ...]:
    """Prepare load balancers and nodes side by side; one after the other where a host is both (one package lock)."""
    balancers, nodes = _load_balancers(world), _prepare(world)
    if {s.node for s in balancers} & {s.node for s in nodes}:
        return _together("load balancers", balancers), _together("preparation", nodes)
    return (_together("preparation", (*balancers, *nodes)),)


def _together(name: str, steps: tuple[Step, ...]) -> Wave:
    return Wave(name, steps, max_parallel=len(steps) or 1, together=True)


def _load_balancers(world: _World) -> tuple[Step, ...]:
    digests = world.arguments.load_balancer_digests
    return tuple(
        Step(
            f"load-balancer/{h.name}",
            h.name,
            f"configure haproxy for {world.spec.endpoint}",
            ConfigureLoadBalancer(h.name, digests.get(h.name, "")),
            world.spec.timeouts.prepare_s,
            (f"backends: {', '.join(c.node_ip for c in world.spec.control_planes)}",),
        )
        for h in world.spec.load_balancers
        if world.host(h.name).reachable
        and (world.in_limit(h) or h.name in world.arguments.balancers)
        and world.host(h.name).load_balancer_digest != digests.get(h.name, "")
    )


def _prepare(world: _World) -> tuple[Step, ...]:
    version, digests = world.spec.kubernetes.version, world.arguments.prepare_digests
    return tuple(
        Step(
            f"prepare/{h.name}",
            h.name,
            f"prepare for Kubernetes {version}",
            PrepareHost(h.name, str(version), digests.get(h.name, "")),
            world.spec.timeouts.prepare_s,
            (f"swap, kernel, containerd, crictl, images; kubeadm kubelet kubectl {version.bare}, held",),
        )
        for h in world.to_join(world.spec.nodes)
        if world.host(h.name).prepared_digest != digests.get(h.name, "")
    )


def _init(world: _World) -> Wave:
    first = world.first
    if world.initialised or first is None:
        return Wave("first control plane", ())
    spec, api = world.spec, facts_of(world.spec.kubernetes.version).kubeadm_api
    more = len(spec.control_planes) > 1
    step = Step(
        f"init/{first.name}",
        first.name,
        f"kubeadm init ({spec.kubernetes.version})",
        InitControlPlane(first.name, str(spec.kubernetes.version), api, str(spec.endpoint), more),
        spec.timeouts.kubeadm_s,
        (
            f"kubeadm init --config FILE{' --upload-certs' if more else ''}   ({api})",
            f"endpoint {spec.endpoint}",
            f"pods {_nets(spec.network.pod_subnets)}, services {_nets(spec.network.service_subnets)}",
        ),
    )
    return Wave("first control plane", (step,))


def _nets(networks: tuple[object, ...]) -> str:
    return ",".join(str(n) for n in networks)


def _network_manifest(world: _World) -> Wave:
    network, digest = world.spec.network, world.arguments.network_digest
    applied = world.kube.network_digest if world.kube else ""
    # A running cluster whose network kops-py did not apply keeps the one it has.
    foreign = (
        world.initialised and not applied and any(n.ready for n in (world.kube.nodes if world.kube else {}).values())
    )
    if network.cni is not CniType.MANIFEST or applied == digest or foreign:
        return Wave("pod network", ())
    step = Step(
        "network/manifest",
        "",
        "apply the pod network",
        ApplyNetwork(network.cni_manifest or "", digest),
        world.spec.timeouts.cluster_healthy_s,
        (f"server-side apply of {network.cni_manifest}",),
    )
    return Wave("pod network", (step,))


def _join(world: _World, host: HostSpec) -> Step:
    role = "control plane" if host.is_control_plane else "worker"
    return Step(
        f"join/{host.name}",
        host.name,
        f"join as {role}",
        JoinNode(host.name, host.is_control_plane, str(world.spec.kubernetes.version)),
        world.spec.timeouts.kubeadm_s,
        ("kubeadm join --config FILE",),
    )


def _stale_members(world: _World) -> Wave:
    if not world.initialised:
        return Wave("stale members of etcd", ())
    return stale_members_wave(world.spec, world.facts, world.arguments.limit)


def _join_control_planes(world: _World) -> Wave:
    first = None if world.initialised else world.first
    hosts = [h for h in world.to_join(world.spec.control_planes) if h is not first]
    # One at a time: etcd takes one new member at a time, and below 1.29 each addition moves the quorum at once.
    return Wave("control planes", tuple(_join(world, h) for h in hosts), max_parallel=1)


def _restart_api_server(world: _World) -> Wave:
    """Where kubeadm joins etcd without a learner, the first API server is restarted once a second member is there.

    From one voting member to two, etcd has no leader for some seconds; watches that were open then may stay silent
    (kubernetes/kubernetes#97294), the controller manager's too, so that a new Service never gets endpoints.
    """
    spec, kube = world.spec, world.kube
    if spec.external_etcd or facts_of(spec.kubernetes.version).etcd_learner_join:
        return Wave("API server", ())
    first = None if world.initialised else world.first
    joining = [h for h in world.to_join(spec.control_planes) if h is not first]
    members = [h.name for h in spec.control_planes if world.is_member(h)] if first is None else [first.name]
    built_here = any({INIT_JOB, JOIN_JOB} & set(world.host(h.name).jobs) for h in spec.control_planes)
    names: tuple[str, ...] = ()
    if joining and len(members) == 1:
        names = tuple(members)
    elif kube is not None and built_here:
        names = tuple(n for n in kube.silent_watches if n in members and world.host(n).reachable)
    steps = tuple(
        Step(
            f"restart-api/{name}",
            name,
            "restart the API server: its watches may be silent since etcd grew to two members",
            RestartApiServer(name),
            spec.timeouts.node_ready_s,
        )
        for name in names
    )
    return Wave("API server", steps)


def _join_workers(world: _World) -> Wave:
    hosts = world.to_join(world.spec.workers)
    return Wave("workers", tuple(_join(world, h) for h in hosts), max_parallel=world.spec.ssh.max_parallel)


def _bridge(world: _World) -> Wave:
    """Every node's routes name every other node, so that one new node means a step on all of them."""
    if world.spec.network.cni is not CniType.BRIDGE:
        return Wave("bridge network", ())
    nodes = world.kube.nodes if world.kube and world.initialised else {}
    wanted = {f"{n.name}={n.pod_cidr}@{n.internal_ip}" for n in nodes.values()}
    joining = bool(world.to_join(world.spec.nodes))
    steps = tuple(
        Step(
            f"network/{h.name}",
            h.name,
            "set up the bridge network and its routes",
            ConfigureBridge(h.name),
            world.spec.timeouts.node_ready_s,
        )
        for h in world.spec.nodes
        if world.host(h.name).reachable
        and (world.is_member(h) or world.in_limit(h))
        and (joining or set(world.host(h.name).bridge_peers) != wanted)
    )
    return Wave("bridge network", steps, max_parallel=world.spec.ssh.max_parallel)


def _labels(world: _World) -> Wave:
    steps: list[Step] = []
    for host in world.spec.nodes:
        taints = tuple(str(t) for t in host.taints or ())
        if not (host.labels or taints) or not world.in_limit(host) or not world.host(host.name).reachable:
            continue
        node = world.kube.nodes.get(host.name) if world.kube else None
        if node and host.labels.items() <= node.labels.items() and set(taints) <= node.taints:
            continue
        text = [f"{k}={v}" for k, v in sorted(host.labels.items())] + [f"taint {t}" for t in taints]
        steps.append(
            Step(
                f"labels/{host.name}",
                host.name,
                "set labels and taints",
                LabelNode(host.name, host.labels, taints),
                world.spec.timeouts.node_ready_s,
                tuple(text),
            )
        )
    return Wave("labels", tuple(steps), max_parallel=world.spec.ssh.max_parallel)


def _healthy(world: _World, *, changes: bool) -> Wave:
    unhealthy = world.kube.unhealthy if world.kube else ()
    expected = tuple(
        h.name for h in world.spec.nodes if world.host(h.name).reachable and (world.is_member(h) or world.in_limit(h))
    )
    if not changes and not unhealthy:
        return Wave("healthy", ())
    network = world.spec.network.cni is not CniType.NONE
    note = () if network else ("network.cni is none: Ready nodes and DNS are not waited for",)
    step = Step(
        "healthy",
        "",
        "wait until every node, static pod, kube-proxy and DNS is healthy",
        WaitHealthy(expected, world.absent, network),
        world.spec.timeouts.cluster_healthy_s,
        note,
    )
    return Wave("healthy", (step,))


def _revoke(world: _World, *, joins: bool) -> Wave:
    left = world.kube.join_secrets if world.kube else ()
    joining = joins and bool(world.to_join(world.spec.nodes))
    if not joining and not left:
        return Wave("join secrets", ())
    step = Step(
        "revoke",
        "",
        "remove join tokens and uploaded certificates",
        RevokeJoinSecrets(),
        world.spec.timeouts.api_request_s * 4,
    )
    return Wave("join secrets", (step,))
