"""The way from one Kubernetes version to another, minor by minor, and what stands in it: pure.

Rules: the version skew policy (kubernetes.io/releases/version-skew-policy), kubeadm's upgrade policy
(cmd/kubeadm/app/phases/upgrade/policy.go), and the table in model/version.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

from kops_py.model.finding import Finding, FindingKind, Severity, few
from kops_py.model.upgrade import UpgradeFacts
from kops_py.model.version import NEWEST_MINOR, OLDEST_MINOR, TABLE, Version, kubelet_lag

ERROR, WARNING, INFO = Severity.ERROR, Severity.WARNING, Severity.INFO

UNSUPPORTED = FindingKind(
    "version-unsupported",
    (ERROR,),
    f"A version on the way is outside what kops-py knows (v1.{OLDEST_MINOR} to v1.{NEWEST_MINOR}).",
    "Use a kops-py that knows it.",
)
DOWNGRADE = FindingKind(
    "downgrade",
    (ERROR,),
    "The target is older than the cluster; Kubernetes has no way back but restoring an etcd backup.",
    "Name a version that is not older; to go back, restore the backup made before the upgrade.",
)
MISSING_HOP = FindingKind(
    "minor-skipped",
    (ERROR,),
    "A minor lies between the cluster and the target, and no version of it is known; none may be skipped.",
    "Name one patch of each minor on the way.",
)
API_SKEW = FindingKind(
    "api-server-skew",
    (ERROR,),
    "The API servers are more than one minor apart, or one is newer than the target.",
    "Finish the upgrade that was begun, with the newest of their versions as target, before the next one.",
)
KUBELET_SKEW = FindingKind(
    "kubelet-skew",
    (ERROR,),
    "On the way a kubelet would be newer than the API servers, or older than the version skew policy or kubeadm allow.",
    "Bring these nodes to the cluster's version first, or take them into this upgrade.",
)
KINDS = (UNSUPPORTED, DOWNGRADE, MISSING_HOP, API_SKEW, KUBELET_SKEW)


def path_findings(current: Version, target: Version, via: Mapping[int, Version]) -> tuple[Finding, ...]:
    """Say why there is no way from ``current`` to ``target``; empty when upgrade_path has one."""
    if target < current:
        return (DOWNGRADE.found(f"the cluster is at {current}, {target} is older"),)
    found = [
        UNSUPPORTED.found(f"v1.{minor} lies on the way from {current} to {target}")
        for minor in range(current.minor, target.minor + 1)
        if current.major != 1 or target.major != 1 or minor not in TABLE
    ]
    for minor in range(current.minor + 1, target.minor):
        version = via.get(minor)
        if version is None:
            found.append(MISSING_HOP.found(f"v1.{minor} lies between {current} and {target}"))
        elif (version.major, version.minor) != (1, minor):
            found.append(MISSING_HOP.found(f"{version} is given for v1.{minor}, of which it is not"))
    return tuple(found)


def upgrade_path(current: Version, target: Version, via: Mapping[int, Version]) -> tuple[Version, ...]:
    """Return the versions to go through, the target last, one for each minor.

    ``current`` is the oldest API server's version. ``via`` maps each minor in between to the patch to use: what the
    operator names, over what the caller found (the newest in the package repository). A target equal to ``current``
    is a path of one: nodes may still lag. Raises ValueError where path_findings has findings.
    """
    if problems := path_findings(current, target, via):
        raise ValueError("; ".join(f.message for f in problems))
    return (*(via[minor] for minor in range(current.minor + 1, target.minor)), target)


def skew_findings(current: Version, path: Sequence[Version], facts: UpgradeFacts) -> tuple[Finding, ...]:
    """Say where versions would be too far apart, at the start and after each hop."""
    return (*_api_servers(path, facts), *_kubelets(current, path, facts))


def _api_servers(path: Sequence[Version], facts: UpgradeFacts) -> Iterator[Finding]:
    servers = sorted(facts.api_servers.items(), key=lambda item: item[1])
    if not servers:
        return
    (old_name, oldest), (new_name, newest) = servers[0], servers[-1]
    if newest.minor - oldest.minor > 1:
        yield API_SKEW.found(f"{old_name} runs {oldest}, {new_name} {newest}")
    if newest > path[-1]:
        names = few(name for name, version in servers if version > path[-1])
        yield API_SKEW.found(f"{names}: {newest} runs there, which is newer than {path[-1]}")


def _kubelets(current: Version, path: Sequence[Version], facts: UpgradeFacts) -> Iterator[Finding]:
    reasons: dict[str, list[str]] = {}
    for name, node in sorted(facts.nodes.items()):
        try:
            kubelet = Version.parse(node.version.partition("+")[0])
        except ValueError:
            continue
        if reason := _kubelet_problem(kubelet, current, path, behind=name in facts.left_behind):
            reasons.setdefault(reason, []).append(name)
    for reason, names in reasons.items():
        yield KUBELET_SKEW.found(f"{few(names)}: {reason}", node=names[0] if len(names) == 1 else "")


def _kubelet_problem(kubelet: Version, current: Version, path: Sequence[Version], *, behind: bool) -> str:
    if (kubelet.major, kubelet.minor) > (path[-1].major, path[-1].minor):
        return f"kubelet {kubelet} is newer than {path[-1]}"
    if kubelet.minor > max(current.minor, path[0].minor):
        return f"kubelet {kubelet} is newer than the API servers' {current}"
    for before, hop in pairwise((current, *path)):
        allowed = min(kubelet_lag(kubelet), TABLE[hop.minor].kubeadm_kubelet_lag)
        lag = hop.minor - kubelet.minor
        if lag > allowed:
            policy = "kubeadm" if TABLE[hop.minor].kubeadm_kubelet_lag == allowed else "the version skew policy"
            return (
                f"kubelet {kubelet} would be {lag} minors older than {hop}, {policy} allows {allowed} (from {before})"
            )
        if not behind:
            kubelet = max(kubelet, hop)
    return ""
