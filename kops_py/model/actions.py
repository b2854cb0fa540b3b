"""The actions a plan can hold; ``actions/`` has one performer for each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from kops_py.model.drain import DrainPolicy
from kops_py.model.hooks import Gate, OperatorCommand
from kops_py.model.plan import Action

INIT_JOB = "kubeadm-init"
JOIN_JOB = "kubeadm-join"
UPGRADE_JOB = "kubeadm-upgrade"
"""Names of the jobs that kubeadm's init, join and upgrade leave on their host; runbooks read how they ended."""


@dataclass(frozen=True, slots=True)
class ConfigureLoadBalancer(Action):
    """Install and configure haproxy on a host; ``digest`` identifies the configuration."""

    host: str
    digest: str


@dataclass(frozen=True, slots=True)
class IssueEtcdCertificates(Action):
    """Make a member's certificates of an external etcd, and their authority where there is none; ``digest``
    identifies the names and addresses in them."""

    host: str
    digest: str


@dataclass(frozen=True, slots=True)
class ConfigureEtcd(Action):
    """Install, configure and start the member of an external etcd; ``digest`` identifies its settings.

    ``running``: the cluster was formed before, so that its other members must be healthy before and after.
    """

    host: str
    digest: str
    running: bool = False


@dataclass(frozen=True, slots=True)
class AddEtcdMember(Action):
    """Add an empty host to an external etcd that runs, in place of a lost member of the same name or address."""

    host: str
    digest: str


@dataclass(frozen=True, slots=True)
class WaitEtcd(Action):
    """Wait until the members on these hosts are healthy voters of one external etcd."""

    hosts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PlaceEtcdClient(Action):
    """Give a control plane the certificate its API server shows to an external etcd."""

    node: str


@dataclass(frozen=True, slots=True)
class PrepareHost(Action):
    """Bring a host to the state kubeadm needs; ``digest`` identifies the settings and playbooks."""

    host: str
    version: str
    digest: str


@dataclass(frozen=True, slots=True)
class InitControlPlane(Action):
    """Run kubeadm init; ``upload_certs`` when more control planes will join."""

    node: str
    version: str
    config_api: str
    endpoint: str
    upload_certs: bool


@dataclass(frozen=True, slots=True)
class ApplyNetwork(Action):
    """Apply the manifest of the pod network; ``digest`` identifies its content."""

    manifest: str
    digest: str


@dataclass(frozen=True, slots=True)
class JoinNode(Action):
    """Run kubeadm join."""

    node: str
    control_plane: bool
    version: str


@dataclass(frozen=True, slots=True)
class RestartApiServer(Action):
    """Restart the API server of one control plane and wait until it is ready again."""

    node: str


@dataclass(frozen=True, slots=True)
class ConfigureBridge(Action):
    """Write the bridge network's CNI configuration and the routes to all other nodes."""

    node: str


@dataclass(frozen=True, slots=True)
class LabelNode(Action):
    """Set the labels and taints that the inventory names; others stay."""

    node: str
    labels: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    taints: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class WaitHealthy(Action):
    """Wait until these nodes and the cluster are healthy.

    ``absent`` are members that were unreachable from the start; without ``network`` (the operator brings the pod
    network later) Ready nodes and DNS are not waited for.
    """

    nodes: tuple[str, ...]
    absent: tuple[str, ...] = ()
    network: bool = True


@dataclass(frozen=True, slots=True)
class RevokeJoinSecrets(Action):
    """Remove kops-py's bootstrap tokens and the uploaded certificates."""


@dataclass(frozen=True, slots=True)
class StageUpgrade(Action):
    """Fetch packages and images of a version to a host without installing them; ``digest`` identifies all of it."""

    host: str
    version: str
    digest: str


@dataclass(frozen=True, slots=True)
class InstallPackages(Action):
    """Install these packages of Kubernetes in this version and hold them; the kubelet is started anew with its own."""

    node: str
    packages: tuple[str, ...]
    version: str


@dataclass(frozen=True, slots=True)
class UpgradeWithKubeadm(Action):
    """Run kubeadm upgrade: ``apply`` on the first control plane of a version, ``node`` on all others."""

    node: str
    version: str
    apply: bool
    control_plane: bool


@dataclass(frozen=True, slots=True)
class TakeOutOfBalancer(Action):
    """Let the load balancers that kops-py set up send no new connection to this control plane."""

    node: str


@dataclass(frozen=True, slots=True)
class PutBackIntoBalancer(Action):
    """Put a control plane back where kops-py took it out, and wait until connections go there."""

    node: str


@dataclass(frozen=True, slots=True)
class CordonNode(Action):
    """Take a node out of scheduling and say on it who did."""

    node: str


@dataclass(frozen=True, slots=True)
class DrainNode(Action):
    """Evict what runs on a cordoned node."""

    node: str
    policy: DrainPolicy


@dataclass(frozen=True, slots=True)
class UncordonNode(Action):
    """Let a node be scheduled on again, if the cordon is ours; ``foreign``: whosever it is.

    ``unfinished``: the node keeps a mark that its chain has not ended, until FinishNode.
    """

    node: str
    foreign: bool = False
    unfinished: bool = False


@dataclass(frozen=True, slots=True)
class MarkUnfinished(Action):
    """Mark a node whose chain will end with something that cannot be seen on it: hooks, gates."""

    node: str


@dataclass(frozen=True, slots=True)
class FinishNode(Action):
    """Take the mark of an unfinished chain away: all of it was done."""

    node: str


@dataclass(frozen=True, slots=True)
class RunHook(Action):
    """Run a command of the operator before or after (``when``) the work on a node; it may be run again."""

    node: str
    when: str
    command: OperatorCommand
    operation: str
    version: str


@dataclass(frozen=True, slots=True)
class WaitGate(Action):
    """Wait until what the operator named is true, for all of these nodes."""

    nodes: tuple[str, ...]
    gate: Gate
    operation: str
    version: str


@dataclass(frozen=True, slots=True)
class WatchCanary(Action):
    """Watch the canaries for a time: gates stay true, and no workload lacks pods that did not before the run."""

    canaries: tuple[str, ...]
    pause_s: float
    gates: tuple[Gate, ...]
    operation: str
    version: str


@dataclass(frozen=True, slots=True)
class WaitNode(Action):
    """The gate after a node: it runs this version, is healthy with all that belongs to it, and hurt nobody."""

    node: str
    version: str
    control_plane: bool
    led: bool = field(default=True, compare=False)
    """Whether controllers and scheduler must be at work again as well; False where a later drain waits for them.

    Not compared: when that later node drops out of a run, this is still the step that was announced.
    """


@dataclass(frozen=True, slots=True)
class WaitWorkloads(Action):
    """The gate after a node is back: no workload lacks pods that did not before the run."""

    node: str


@dataclass(frozen=True, slots=True)
class InstallUpdates(Action):
    """Install updates of the operating system in exactly these versions, one ``(name, version)`` each."""

    node: str
    updates: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class RebootNode(Action):
    """Restart the operating system and wait for another boot id; ``boot_id`` is the one to be left.

    ``only_if_needed``: left out when the host does not ask for a restart by then.
    """

    node: str
    boot_id: str
    only_if_needed: bool = False


@dataclass(frozen=True, slots=True)
class ResetNode(Action):
    """Run kubeadm reset and remove what it leaves; ``reason`` goes into the mark on the host."""

    node: str
    reason: str


@dataclass(frozen=True, slots=True)
class ForgetEtcdMember(Action):
    """Take a node's member out of etcd; ``address`` is the node's.

    ``handover``: its host can be asked to give leadership to another member before. ``stale``: the hexadecimal id of
    the one member that is meant, left by an earlier machine of the node: only while it does not answer.
    """

    node: str
    address: str = ""
    handover: bool = False
    stale: str = ""


@dataclass(frozen=True, slots=True)
class DeleteNode(Action):
    """Delete a Node object; ``lost``: only while its kubelet does not report."""

    node: str
    control_plane: bool
    lost: bool = False


@dataclass(frozen=True, slots=True)
class DefragmentMember(Action):
    """Defragment one member of etcd, all of them healthy before and after; ``member_id`` is hexadecimal."""

    member: str
    member_id: str


@dataclass(frozen=True, slots=True)
class DisarmAlarms(Action):
    """Take back etcd's alarm NOSPACE when every database is below its quota again."""


@dataclass(frozen=True, slots=True)
class TakeBackup(Action):
    """Store a snapshot of etcd from a member, and the files of ``bundles`` (hosts), in the stores of these names."""

    member: str
    bundles: tuple[str, ...]
    stores: tuple[str, ...]
    encrypted: bool
    verify: str = "restore"
    """How it is proven in the next step; ``none``: not at all."""


@dataclass(frozen=True, slots=True)
class ProveBackup(Action):
    """Prove the backup just taken: by ``verify`` (checksum or restore), a restore on ``here`` or ``member``.

    ``new_cluster``: it is good also when it is of another cluster than the good ones before it.
    """

    verify: str
    verify_on: str = "here"
    new_cluster: bool = False


@dataclass(frozen=True, slots=True)
class PruneBackups(Action):
    """Remove the backups that the retention lets go."""


@dataclass(frozen=True, slots=True)
class BackUpFirst(Action):
    """Take a backup of etcd and prove it, unless there is a good one younger than ``max_age_s`` seconds."""

    max_age_s: float


@dataclass(frozen=True, slots=True)
class DeleteBackup(Action):
    """Delete one backup from one store, unless something keeps it by then."""

    store: str
    id: str
    why: str


@dataclass(frozen=True, slots=True)
class InstallSchedule(Action):
    """Write the units of a timer and start it; ``host`` is empty for this machine, ``digest`` is that of both files."""

    host: str
    unit: str
    digest: str


@dataclass(frozen=True, slots=True)
class RemoveSchedule(Action):
    """Stop a timer and remove its units."""

    host: str
    unit: str
