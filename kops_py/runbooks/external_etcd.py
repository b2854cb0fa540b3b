"""The part of a bootstrap that is about an etcd outside the control planes.

Top to bottom: certificates of every member, one host after the other (the first makes the authority that the others
read); the members, all together while the cluster is being formed, one at a time once it serves; hosts that came
later, or lost their data, are added one at a time; all healthy; and every control plane gets the certificate its API
server shows. An etcd that others built is never touched.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from kops_py.model.actions import (
    INIT_JOB,
    AddEtcdMember,
    ConfigureEtcd,
    IssueEtcdCertificates,
    PlaceEtcdClient,
    WaitEtcd,
)
from kops_py.model.facts import Facts, HostFacts
from kops_py.model.finding import Finding, FindingKind, Severity, few
from kops_py.model.plan import Step, Wave
from kops_py.model.spec import ClusterSpec, HostSpec
from kops_py.model.status import EtcdMember

_UNIT = "etcd.service"
_LOCAL_MANIFEST = "etcd.yaml"

DATA_EXISTS = FindingKind(
    "etcd-data-exists",
    (Severity.ERROR,),
    "A host of the group etcd holds data of an etcd that kops-py did not build, and there is no cluster yet.",
    "If nobody needs it: systemctl stop etcd; mv /var/lib/etcd/member away. Else give that etcd in etcd.external.",
)
QUORUM = FindingKind(
    "etcd-no-majority",
    (Severity.ERROR,),
    "Too few hosts of the external etcd can be used for it to have a majority.",
    "Bring the hosts back, or widen --limit; when their data is lost, restore a backup.",
)
AUTHORITIES = FindingKind(
    "etcd-authorities",
    (Severity.ERROR,),
    "The hosts of the group etcd hold certificates by different authorities.",
    "Decide which one the running members use; remove /etc/etcd/pki and /etc/kops-py/etcd-pki.json on the others.",
)
TOPOLOGY = FindingKind(
    "etcd-topology",
    (Severity.ERROR,),
    "The files say that etcd is external, but the cluster's control planes run it themselves.",
    "Set etcd.topology: stacked and make the group etcd the control planes, or leave it out.",
)
UNKNOWN_MEMBER = FindingKind(
    "etcd-member-unknown",
    (Severity.WARNING,),
    "The external etcd has a member that is no host of the group etcd; it is left as it is.",
    "Add its host to the inventory, or take it out: etcdctl member remove ID.",
)
HOLDS_CLUSTER = FindingKind(
    "etcd-holds-cluster",
    (Severity.ERROR,),
    "The external etcd holds a cluster, and no control plane has its keys: a new one would be built over its data.",
    "Control planes were lost: kops-py etcd restore ID brings back their keys, and etcd keeps its data.",
)
KINDS = (DATA_EXISTS, QUORUM, AUTHORITIES, TOPOLOGY, UNKNOWN_MEMBER, HOLDS_CLUSTER)


@dataclass(frozen=True, slots=True)
class EtcdArguments:
    """What the runbook cannot know by itself: digests of settings and names, and those of files that were given."""

    settings: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    certificates: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    given_ca: str = ""
    given_cert: str = ""


@dataclass(frozen=True, slots=True)
class EtcdWorld:
    """An external etcd as it is and as it is wanted."""

    spec: ClusterSpec
    facts: Facts
    arguments: EtcdArguments
    limit: frozenset[str]
    initialised: bool

    def host(self, name: str) -> HostFacts:
        """Return what was found on a host."""
        return self.facts.hosts[name]

    @property
    def usable(self) -> tuple[HostSpec, ...]:
        """Return the hosts of the group that can be worked on."""
        return tuple(
            h for h in self.spec.etcd_hosts if self.host(h.name).reachable and (not self.limit or h.name in self.limit)
        )

    def is_foreign(self, host: HostSpec) -> bool:
        """Whether an etcd runs or ran on the host that kops-py did not build."""
        facts = self.host(host.name)
        return facts.reachable and not facts.etcd_ca and (facts.has_etcd_data or _UNIT in facts.services)

    @property
    def is_ours(self) -> bool:
        """Whether there is an external etcd that kops-py builds and keeps."""
        if not self.spec.etcd_hosts or self.is_stacked:
            return False
        ours = any(self.host(h.name).etcd_ca for h in self.spec.etcd_hosts)
        return ours or not (self.initialised or any(map(self.is_foreign, self.spec.etcd_hosts)))

    @property
    def is_stacked(self) -> bool:
        """Whether kubeadm runs etcd on the control planes already, whatever the files say."""
        if not self.spec.external_etcd or not self.initialised:
            return False
        return any(_LOCAL_MANIFEST in self.host(h.name).manifests for h in self.spec.control_planes)

    @property
    def members(self) -> Mapping[str, EtcdMember]:
        """Return the members by name, as etcd tells them."""
        return {m.name: m for m in self.facts.etcd if m.name}

    @property
    def is_formed(self) -> bool:
        """Whether the cluster had a majority once: later hosts are added to it, not started with it."""
        return bool(self.facts.etcd) or any(self.host(h.name).etcd_digest for h in self.spec.etcd_hosts)

    @property
    def serves(self) -> bool:
        """Whether a majority of the voters is healthy."""
        voters = [m for m in self.facts.etcd if not m.is_learner]
        return sum(m.healthy for m in voters) > len(voters) // 2

    @property
    def authority(self) -> str:
        """Return the digest of the authority API servers are to trust; empty while there is none."""
        if self.spec.etcd.given is not None:
            return self.arguments.given_ca
        found = Counter(f for h in self.spec.etcd_hosts if (f := self.host(h.name).etcd_ca))
        return found.most_common(1)[0][0] if found else ""

    def must_be_added(self, host: HostSpec) -> bool:
        """Whether the host is to become a member of a cluster that runs without it.

        One that was in the list from the beginning and never started (it has no client URL) just starts.
        """
        if not self.is_formed:
            return False
        member = self.members.get(host.member_name)
        if self.host(host.name).has_etcd_data:
            return member is not None and member.is_learner
        return member is None or member.is_learner or bool(member.endpoint)

    def needs_configuration(self, host: HostSpec) -> bool:
        """Whether settings differ or the service does not run."""
        facts = self.host(host.name)
        return facts.etcd_digest != self.arguments.settings.get(host.name, "") or _UNIT not in facts.services


def etcd_waves(world: EtcdWorld) -> tuple[Wave, ...]:
    """Return what is to be done on the hosts of the external etcd, before anything else; empty waves are left in."""
    if not world.is_ours:
        return ()
    waves = (_certificates(world), _configuration(world), _additions(world))
    return (*waves, _healthy(world, changes=any(w.steps for w in waves[1:])))


def client_wave(world: EtcdWorld) -> Wave:
    """Return the steps that give control planes their certificate; after the members are there."""
    spec = world.spec
    ours = world.is_ours or (spec.etcd.given is not None and not world.is_stacked)
    hosts = [h for h in spec.control_planes if ours and _needs_client(world, h)]
    steps = tuple(
        Step(
            f"etcd-client/{h.name}",
            h.name,
            "place the API server's certificate for etcd",
            PlaceEtcdClient(h.name),
            spec.timeouts.api_request_s * 4,
        )
        for h in hosts
    )
    return Wave("etcd clients", steps, max_parallel=spec.ssh.max_parallel)


def _needs_client(world: EtcdWorld, host: HostSpec) -> bool:
    facts = world.host(host.name)
    if not facts.reachable or (world.limit and host.name not in world.limit):
        return False
    if not world.authority or facts.etcd_client_ca != world.authority:
        return True
    if world.spec.etcd.given is not None:
        return facts.etcd_client_cert != world.arguments.given_cert
    return facts.etcd_client_runs_out


def _certificates(world: EtcdWorld) -> Wave:
    digests, spec = world.arguments.certificates, world.spec
    steps = tuple(
        Step(
            f"etcd-certificates/{h.name}",
            h.name,
            "make the member's certificates",
            IssueEtcdCertificates(h.name, digests.get(h.name, "")),
            spec.timeouts.api_request_s * 8,
            (f"server, peer and client by {_whose(spec)}",),
        )
        for h in world.usable
        if world.host(h.name).etcd_pki_digest != digests.get(h.name, "")
    )
    return Wave("etcd certificates", steps, max_parallel=1)


def _whose(spec: ClusterSpec) -> str:
    return (
        str(spec.etcd.ca.cert) if spec.etcd.ca else "an authority of the cluster's own, whose key lies on these hosts"
    )


def _configuration(world: EtcdWorld) -> Wave:
    hosts = [h for h in world.usable if world.needs_configuration(h) and not world.must_be_added(h)]
    steps = tuple(
        Step(
            f"etcd/{h.name}",
            h.name,
            "install, configure and run etcd",
            ConfigureEtcd(h.name, world.arguments.settings.get(h.name, "")),
            world.spec.timeouts.prepare_s,
            (f"member {h.member_name} at {h.node_ip}",),
        )
        for h in hosts
    )
    if world.serves:
        # A member that may have to restart: one at a time, and only while all others are healthy.
        return Wave("etcd", steps, max_parallel=1)
    return Wave("etcd", steps, max_parallel=len(steps) or 1, together=True)


def _additions(world: EtcdWorld) -> Wave:
    steps = tuple(
        Step(
            f"etcd-member/{h.name}",
            h.name,
            "add to etcd as a member",
            AddEtcdMember(h.name, world.arguments.settings.get(h.name, "")),
            world.spec.timeouts.prepare_s,
            ("etcdctl member add --learner, start, promote; a lost member of this name is removed first",),
        )
        for h in world.usable
        if world.must_be_added(h)
    )
    return Wave("etcd members", steps, max_parallel=1)


def _healthy(world: EtcdWorld, *, changes: bool) -> Wave:
    names = tuple(h.name for h in world.spec.etcd_hosts if h in world.usable or _is_voter(world, h))
    members = world.members
    well = all(
        (m := members.get(world.spec.host(n).member_name)) is not None and m.healthy and not m.is_learner for n in names
    )
    if not changes and well:
        return Wave("etcd healthy", ())
    step = Step(
        "etcd-healthy",
        "",
        "wait until every member of etcd is healthy",
        WaitEtcd(names),
        world.spec.timeouts.cluster_healthy_s,
    )
    return Wave("etcd healthy", (step,))


def _is_voter(world: EtcdWorld, host: HostSpec) -> bool:
    return world.host(host.name).reachable and host.member_name in world.members


def etcd_findings(world: EtcdWorld) -> tuple[Finding, ...]:
    """Return what speaks against building or keeping the external etcd."""
    hosts, found = world.spec.etcd_hosts, []
    if world.is_stacked:
        found.append(
            TOPOLOGY.found("etcd is external in the files, the control planes of the cluster run it themselves")
        )
    if not world.initialised:
        message = "holds data of an etcd that kops-py did not build"
        found += [DATA_EXISTS.found(message, node=h.name) for h in hosts if world.is_foreign(h)]
        # An init that was begun leaves its keys in etcd when it is cleaned up, and goes on over them.
        begun = any(INIT_JOB in world.host(h.name).jobs for h in world.spec.control_planes)
        if world.facts.etcd_holds_cluster and not begun:
            found.append(HOLDS_CLUSTER.found("etcd holds kubeadm's configuration of a cluster"))
    if len({f for h in hosts if (f := world.host(h.name).etcd_ca)}) > 1:
        found.append(AUTHORITIES.found("the hosts of the group etcd hold certificates by different authorities"))
    if world.is_ours:
        found += _quorum(world)
        known = {h.member_name for h in hosts}
        unknown = [n for n in world.members if n not in known]
        found += [
            UNKNOWN_MEMBER.found(f"etcd has a member {name} that no host of the inventory has") for name in unknown
        ]
    return tuple(found)


def _quorum(world: EtcdWorld) -> list[Finding]:
    hosts = world.spec.etcd_hosts
    if world.serves:
        return []
    with_data = [h for h in hosts if world.host(h.name).has_etcd_data]
    if world.is_formed:
        lacking, wanted = [h.name for h in hosts if h not in with_data], with_data
        reason = "has no majority: without data, or not reachable,"
    else:
        lacking, wanted = [h.name for h in hosts if h not in world.usable], list(world.usable)
        reason = "would have no majority: not reachable, or outside --limit,"
    if len(wanted) > len(hosts) // 2:
        return []
    return [QUORUM.found(f"etcd {reason} are {few(lacking, 6)} of {len(hosts)} hosts")]


def etcd_notes(world: EtcdWorld) -> tuple[str, ...]:
    """Return what was found to be left alone."""
    if world.spec.etcd_hosts and world.initialised and not world.is_ours and not world.is_stacked:
        return ("etcd was not built by kops-py: it is left as it is",)
    return ()
