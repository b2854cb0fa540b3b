"""A backup of etcd: what is taken from where, to which stores, and how it is proven. Pure.

The checklist this replaces: pick a healthy member that is up to date, a follower if there is one; save a snapshot;
save what is not in etcd (authorities, keys, encryption and audit configuration, manifests); encrypt; copy it away;
read the copy back, restore it into a scratch etcd and look into it; only then believe in it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from kops_py.model.actions import BackUpFirst, DeleteBackup, ProveBackup, PruneBackups, TakeBackup
from kops_py.model.backup import BackupSpec, Verify
from kops_py.model.etcd import EtcdFacts
from kops_py.model.finding import Finding, FindingKind, Severity
from kops_py.model.plan import Plan, Step, Wave
from kops_py.model.spec import ClusterSpec
from kops_py.runbooks.decision import Decision
from kops_py.runbooks.etcd import choose_member, member_findings

WARNING, INFO = Severity.WARNING, Severity.INFO
_DELETE_S = 300.0
_SLOWEST_BYTES_S = 2_000_000
"""A line to the store slower than this is no place for a backup."""

NO_BACKUP = FindingKind(
    "etcd-backup-none",
    (WARNING,),
    "No backups of etcd are configured: what goes wrong now cannot be undone.",
    "Add the section backup to cluster.yaml, then: kops-py etcd backup",
)
OLD_BACKUP = FindingKind(
    "etcd-backup-old",
    (WARNING,),
    "There is no proven backup of etcd, or the newest one is old.",
    "kops-py etcd backup; kops-py etcd schedule install makes them by itself.",
)
UNENCRYPTED = FindingKind(
    "etcd-backup-unencrypted",
    (WARNING,),
    "Backups are stored without encryption; they hold every Secret and every key of the cluster.",
    "age-keygen -o KEYFILE on another machine, and its public key into backup.encryption.recipients.",
)
UNPROVEN = FindingKind(
    "etcd-backup-unproven",
    (WARNING,),
    "Backups are stored without being restored once: none of them counts as good.",
    "Leave out --verify, or prove it later: kops-py etcd verify ID.",
)
BUNDLE_MISSING = FindingKind(
    "etcd-bundle-incomplete",
    (WARNING,),
    "A control plane cannot be reached, or holds no files of a cluster: what it should have is not in this backup.",
    "Bring it back, or bootstrap it, and make another backup; the other control planes' are in it.",
)
KINDS = (NO_BACKUP, OLD_BACKUP, UNENCRYPTED, UNPROVEN, BUNDLE_MISSING)


@dataclass(frozen=True, slots=True)
class BackupArguments:
    """What the command line says; the same for a whole run."""

    verify: Verify
    verify_on: str = "here"
    """``here`` or ``member``."""
    prune: bool = False
    can_read: bool = False
    """Whether this machine has a private key, or nothing is encrypted."""
    new_cluster: bool = False
    """Whether a backup of another cluster than the good ones before it is meant."""


def plan_backup(spec: ClusterSpec, backup: BackupSpec, facts: EtcdFacts, arguments: BackupArguments) -> Decision:
    """Plan one backup; raises EtcdError when no member is fit to take it from."""
    member = choose_member(facts)
    stores = ", ".join(str(s) for s in backup.stores)
    keys = len(backup.encryption.recipients)
    bundles = bundle_hosts(spec, facts)
    limit_s = backup_limit_s(member.size_bytes)
    role = "the leader" if member.is_leader else "a follower"
    take = Step(
        "backup/take",
        "",
        f"snapshot from {member.name} and the files of {', '.join(bundles) or 'no host'}",
        TakeBackup(member.name, bundles, tuple(s.name for s in backup.stores), keys > 0, str(arguments.verify)),
        limit_s + 120.0 * len(bundles),
        (
            f"{member.name} is {role}; nothing is written on it",
            f"encrypted to {keys} public key{'s' if keys > 1 else ''}" if keys else "NOT encrypted",
            f"stored in {stores}",
        ),
    )
    waves = [Wave("backup", (take,))]
    if arguments.verify is not Verify.NONE:
        waves.append(Wave("proof", (_prove(arguments, member.name, limit_s),)))
    if arguments.prune:
        prune = Step(
            "backup/prune",
            "",
            "remove the backups that the retention lets go",
            PruneBackups(),
            limit_s,
            ("good ones only make room for good ones; never the last good one",),
        )
        waves.append(Wave("retention", (prune,)))
    plan = Plan("etcd-backup", spec.name, tuple(waves), {"verify": str(arguments.verify)})
    found = tuple(f for f in member_findings(facts) if f.severity is not Severity.ERROR)
    return Decision(plan, (*found, *_errors_as_warnings(facts), *_findings(spec, backup, facts, arguments)))


def plan_prune(spec: ClusterSpec, goes: Sequence[tuple[str, str, str]], stays: Sequence[tuple[str, str, str]]) -> Plan:
    """Plan the deletion of backups, each as store, id and reason; what stays is told in the notes."""
    steps = tuple(
        Step(f"prune/{store}/{backup_id}", "", f"delete {backup_id} from {store}", DeleteBackup(store, backup_id, why),
             _DELETE_S, (why,))
        for store, backup_id, why in goes
    )  # fmt: skip
    notes = tuple(f"{store}: {backup_id} stays: {why}" for store, backup_id, why in stays)
    return Plan("etcd-prune", spec.name, (Wave("retention", steps),) if steps else (), {}, notes)


def back_up_first(plan: Plan, max_age_s: float, limit_s: float) -> Plan:
    """Return a plan with a proven backup as its first step."""
    step = Step(
        "backup/etcd",
        "",
        "take a backup of etcd and prove it by a restore",
        BackUpFirst(max_age_s),
        limit_s,
        (f"unless there is a good one younger than {max_age_s / 3600:g} h by then",),
    )
    return dataclasses.replace(plan, waves=(Wave("backup", (step,)), *plan.waves))


def bundle_hosts(spec: ClusterSpec, facts: EtcdFacts) -> tuple[str, ...]:
    """Return the hosts whose files go into the backup: the control planes, and the hosts of an external etcd.

    Without those that cannot be reached, and those that hold nothing as long as another control plane does.
    """
    own = [h.name for h in spec.control_planes]
    reached = tuple(name for name in dict.fromkeys([*own, *facts.expected]) if name not in facts.unreachable)
    found = tuple(name for name in reached if name not in facts.bare)
    return found if any(name in own for name in found) else reached


def backup_limit_s(size_bytes: int) -> float:
    """Return the time limit for moving so many bytes once."""
    return 300.0 + size_bytes / _SLOWEST_BYTES_S


def _prove(arguments: BackupArguments, member: str, limit_s: float) -> Step:
    if arguments.verify is Verify.CHECKSUM:
        title = "read the stored bytes back and compare their hashes"
        details: tuple[str, ...] = ("this makes no good backup: kops-py etcd verify ID does",)
    else:
        place = f"on the host of {member}" if arguments.verify_on == "member" else "here"
        title = f"restore it into a scratch etcd {place}, start it, and read it"
        source = (
            "what is restored is what was read back from the store"
            if arguments.can_read
            else "what is restored is what came from the member; what is stored is read back and compared by its hash, "
            "since this machine has no key to read it"
        )
        details = (source, "the scratch etcd listens on private sockets only, and nothing of it stays")
        if arguments.new_cluster:
            details += ("good also when it is of another cluster than the good backups before it",)
    action = ProveBackup(str(arguments.verify), arguments.verify_on, arguments.new_cluster)
    return Step("backup/prove", "", title, action, 2 * limit_s, details)


def _errors_as_warnings(facts: EtcdFacts) -> Iterator[Finding]:
    """What is wrong with a member stops no backup: it is a reason to make one."""
    for found in member_findings(facts):
        if found.severity is Severity.ERROR:
            yield Finding(WARNING, found.id, found.node, found.message, found.hint)


def _findings(spec: ClusterSpec, backup: BackupSpec, facts: EtcdFacts, arguments: BackupArguments) -> Iterator[Finding]:
    if not backup.encryption.recipients:
        yield UNENCRYPTED.found("backups are stored in the clear")
    if arguments.verify is not Verify.RESTORE:
        yield UNPROVEN.found(f"with --verify {arguments.verify} this backup will not count as good")
    for host in spec.control_planes:
        if host.name in facts.unreachable:
            yield BUNDLE_MISSING.found(f"{host.name} cannot be reached", node=host.name)
        elif host.name in facts.bare:
            yield BUNDLE_MISSING.found(f"{host.name} holds no files of a cluster", node=host.name)
