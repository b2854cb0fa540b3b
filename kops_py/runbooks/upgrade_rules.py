"""The rules for single versions, over the whole way of an upgrade: pure. What differs stands in model/version.py."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import timedelta
from itertools import pairwise

from kops_py.model.facts import HostFacts
from kops_py.model.finding import Finding, FindingKind, Severity, capped, few
from kops_py.model.membership import quorum
from kops_py.model.upgrade import UpgradeFacts
from kops_py.model.version import TABLE, MinorFacts, Version
from kops_py.runbooks.preflight_check import numbers, readable
from kops_py.runbooks.upgrade_path import skew_findings

ERROR, WARNING, INFO = Severity.ERROR, Severity.WARNING, Severity.INFO

LEAF_WARNING = timedelta(days=30)
CA_WARNING = timedelta(days=180)
_KUBELET_OWN = "/var/lib/kubelet/pki/kubelet.crt"

CGROUP_V1 = FindingKind(
    "upgrade-cgroup-v1",
    (ERROR, WARNING),
    "A host uses cgroup v1, with which the kubelet of a version on the way does not start.",
    "Boot with systemd.unified_cgroup_hierarchy=1; or set failCgroupV1: false in ConfigMap kube-system/kubelet-config.",
)
KUBEADM_API = FindingKind(
    "kubeadm-api-removed",
    (ERROR,),
    "A kubeadm configuration is in an API version that kubeadm of a version on the way no longer reads.",
    "Convert it with an older kubeadm: kubeadm config migrate --old-config FILE.",
)
ETCD_OLD = FindingKind(
    "etcd-too-old",
    (ERROR, WARNING),
    "An etcd member is older than etcd's upgrade guide asks for before the next minor of etcd.",
    "Bring all members to that patch first (etcd.local.imageTag in the cluster configuration; kubeadm then leaves etcd "
    "alone until the tag is taken away), after a backup.",
)
ETCD_FLAG = FindingKind(
    "etcd-flag-removed",
    (ERROR,),
    "etcd is configured with a flag that etcd of a version on the way refuses.",
    "Replace it in etcd.local.extraArgs by the feature gate or the flag that etcd's upgrade guide names.",
)
ETCD_MEMBERS = FindingKind(
    "etcd-members",
    (ERROR,),
    "An etcd member is absent, not healthy or a learner: kubeadm's check wants all of them (quorum since v1.37), and "
    "the upgrade takes each away for a moment.",
    "Mend it, or take it out: etcdctl member remove.",
)
ETCD_ALARM = FindingKind(
    "etcd-alarm",
    (ERROR,),
    "etcd has an alarm; with NOSPACE it takes no writes.",
    "Compact and defragment, then etcdctl alarm disarm.",
)
ETCD_SINGLE = FindingKind(
    "etcd-no-tolerance",
    (INFO,),
    "etcd cannot lose a member: the API is away while its only member, or one of two, is upgraded.",
    "Nothing; or use three control planes.",
)
COPY_SPACE = FindingKind(
    "etcd-copy-space",
    (ERROR, WARNING),
    "kubeadm copies the etcd data to /etc/kubernetes/tmp before it upgrades etcd, and never deletes the copies.",
    "Delete old copies in /etc/kubernetes/tmp, defragment etcd, or make the file system of /etc larger.",
)
ADDON_CHANGED = FindingKind(
    "addon-customised",
    (WARNING,),
    "Somebody changed the Deployment coredns or the DaemonSet kube-proxy; kubeadm upgrade writes its own again, and "
    "keeps only the number of replicas.",
    "Have the change ready to be made again after it; Corefile and configuration of kube-proxy stay as they are.",
)
KUBELET_FLAG = FindingKind(
    "kubelet-flag-removed",
    (ERROR, INFO),
    "A kubelet is started with a flag that a version on the way no longer knows; it would not start.",
    "Remove the flag from that file, and from kubeletExtraArgs; what it set may be a field of KubeletConfiguration.",
)
DOCKERSHIM = FindingKind(
    "dockershim-removed",
    (ERROR,),
    "A node runs its containers with Docker through dockershim, which v1.24 does not have any more.",
    "Move the node to containerd, or install cri-dockerd, before.",
)
POLICY_PLUGIN = FindingKind(
    "pod-security-policy-plugin",
    (ERROR,),
    "API servers are started with the admission plugin PodSecurityPolicy, with which v1.25 does not start.",
    "Take it out of apiServer.extraArgs enable-admission-plugins, and move to Pod Security admission.",
)
RUNTIME_OLD = FindingKind(
    "runtime-too-old",
    (ERROR,),
    "containerd of a host is too old for a version on the way.",
    "Upgrade containerd first: kops-py patch, or containerd.source: docker in cluster.yaml.",
)
CERTIFICATE = FindingKind(
    "certificate-expiry",
    (ERROR, WARNING),
    "A certificate has expired or soon will; an upgrade renews those of the control plane, never authorities.",
    "kubeadm certs renew all on the control planes, then restart their static pods; an authority is replaced by hand.",
)
KINDS = (
    CGROUP_V1,
    KUBEADM_API,
    ETCD_OLD,
    ETCD_FLAG,
    ETCD_MEMBERS,
    ETCD_ALARM,
    ETCD_SINGLE,
    COPY_SPACE,
    ADDON_CHANGED,
    KUBELET_FLAG,
    DOCKERSHIM,
    POLICY_PLUGIN,
    RUNTIME_OLD,
    CERTIFICATE,
)


def version_findings(current: Version, path: Sequence[Version], facts: UpgradeFacts) -> tuple[Finding, ...]:
    """Say what of the cluster does not fit the versions on the way from ``current`` (see upgrade_path).

    Raises ValueError for a version outside the table.
    """
    if not path or any(v.minor not in TABLE or v.major != 1 for v in (current, *path)):
        raise ValueError("the way holds a version that is not supported")
    hops = [(hop, TABLE[hop.minor]) for hop in path]
    return (
        *skew_findings(current, path, facts),
        *capped(_cgroups(hops, facts)),
        *_kubeadm_documents(path, facts),
        *_etcd_versions(current, path, facts),
        *_etcd_members(hops, facts),
        *capped(_copy_space(current, path, facts)),
        *(ADDON_CHANGED.found(change) for change in facts.addon_changes),
        *capped(_kubelet_flags(current, hops, facts)),
        *capped(_docker(hops, facts)),
        *capped(_containerd(hops, facts)),
        *_admission(hops, facts),
        *capped(_certificates(facts)),
    )


Hops = Sequence[tuple[Version, MinorFacts]]


def _upgraded(facts: UpgradeFacts) -> Iterator[tuple[str, HostFacts]]:
    for name, host in sorted(facts.hosts.items()):
        if host.reachable and name not in facts.left_behind:
            yield name, host


def _cgroups(hops: Hops, facts: UpgradeFacts) -> Iterator[Finding]:
    refusing = next((hop for hop, minor in hops if not minor.cgroup_v1_ok), None)
    if refusing is None:
        return
    for name, host in _upgraded(facts):
        if host.cgroup_version == 1 and name in facts.nodes:
            told = facts.fail_cgroup_v1 is False
            yield CGROUP_V1.found(
                f"it uses cgroup v1; the kubelet of {refusing} starts there only because failCgroupV1 is false"
                if told
                else f"it uses cgroup v1, with which the kubelet of {refusing} does not start",
                node=name,
                severity=WARNING if told else ERROR,
            )


def _kubeadm_documents(path: Sequence[Version], facts: UpgradeFacts) -> Iterator[Finding]:
    # Each hop's kubeadm stores the configuration anew, in its own API version: the first has to read it.
    first = path[0]
    readable_apis = TABLE[first.minor].readable_kubeadm_apis
    for where, api in sorted(facts.kubeadm_documents.items()):
        if api and api not in readable_apis:
            yield KUBEADM_API.found(f"{where} is {api}; kubeadm {first} reads {', '.join(readable_apis)}")


def _etcd_versions(current: Version, path: Sequence[Version], facts: UpgradeFacts) -> Iterator[Finding]:
    running = {m.name: _three(m.version) for m in facts.etcd_members if m.version}
    by_kubeadm = bool(facts.etcd_expected)
    for before, hop in pairwise((current, *path)):
        minor = TABLE[hop.minor]
        if hop.minor == before.minor:
            continue
        own = ((minor.etcd_required, ERROR), (minor.etcd_advised, WARNING))
        for floor, severity in own if by_kubeadm else ((minor.external_etcd_minimum, ERROR),):
            if floor is None:
                continue
            low = sorted(n for n, version in running.items() if version < floor)
            if low:
                text = ".".join(map(str, floor))
                now = ".".join(map(str, min(running[n] for n in low)))
                guide = "needed" if severity is ERROR else "advised by etcd"
                yield ETCD_OLD.found(
                    f"etcd {now} on {few(low)}: before {hop}, {text} is {guide}",
                    node=low[0] if len(low) == 1 else "",
                    severity=severity,
                )
                break
        if by_kubeadm:
            # what members will be after this hop, at least; a patch of the hop may bring a newer one
            running = {name: max(version, _three(minor.etcd)) for name, version in running.items()}
    if facts.etcd_flags:
        yield from _etcd_flags(path, facts)


def _etcd_flags(path: Sequence[Version], facts: UpgradeFacts) -> Iterator[Finding]:
    for hop in path:
        prefix = TABLE[hop.minor].removed_etcd_flag_prefix
        gone = sorted(f for f in facts.etcd_flags if prefix and f.startswith(prefix))
        if gone:
            yield ETCD_FLAG.found(f"etcd of {hop} does not start with --{', --'.join(gone)}")
            return


def _three(text: str) -> tuple[int, int, int]:
    found = (*numbers(text.removeprefix("v")), 0, 0, 0)
    return found[0], found[1], found[2]


def _etcd_members(hops: Hops, facts: UpgradeFacts) -> Iterator[Finding]:
    for alarm in facts.etcd_alarms:
        yield ETCD_ALARM.found(alarm)
    if not facts.etcd_expected:
        return
    members = {m.name: m for m in facts.etcd_members}
    problems: dict[str, str] = {}
    for name in sorted(facts.etcd_expected | members.keys()):
        member = members.get(name)
        if member is None:
            problems[name] = "it does not answer"
        elif not member.healthy:
            problems[name] = f"it is not healthy: {member.problem}" if member.problem else "it is not healthy"
        elif member.is_learner:
            problems[name] = "it is a learner and has no vote"
    wants_all = any(minor.etcd_check_wants_all for _, minor in hops)
    healthy, total = (
        len(facts.etcd_expected | members.keys()) - len(problems),
        len(facts.etcd_expected | members.keys()),
    )
    # one healthy member goes away while it is upgraded
    too_few = healthy - 1 < quorum(total)
    for name, problem in problems.items():
        why = "kubeadm's check wants every member" if wants_all else "without it another one may not go away"
        if wants_all or too_few:
            yield ETCD_MEMBERS.found(f"etcd member {name}: {problem}; {why}", node=name)
    if not problems and total < 3:
        yield ETCD_SINGLE.found(f"{total} member{'s' if total > 1 else ''}: none may be away")


def _copy_space(current: Version, path: Sequence[Version], facts: UpgradeFacts) -> Iterator[Finding]:
    etcds = [TABLE[v.minor].etcd for v in (current, *path)]
    copies = max(1, sum(before != after for before, after in pairwise(etcds)))
    sizes = {m.name: m.size_bytes for m in facts.etcd_members}
    for name, host in _upgraded(facts):
        size = max(host.etcd_data_bytes, sizes.get(name, 0))
        disk = host.disks.get("/etc")
        if name not in facts.etcd_expected or not size or disk is None or disk.free_bytes >= copies * size * 11 // 10:
            continue
        enough = disk.free_bytes >= copies * size
        many = "a copy" if copies == 1 else f"{copies} copies"
        yield COPY_SPACE.found(
            f"{many} of {readable(size)} go to /etc/kubernetes/tmp, {readable(disk.free_bytes)} are free on "
            f"{disk.mount or '/etc'}",
            node=name,
            severity=WARNING if enough else ERROR,
        )


def _kubelet_flags(current: Version, hops: Hops, facts: UpgradeFacts) -> Iterator[Finding]:
    groups: dict[tuple[str, str, Version, bool], list[str]] = {}
    for name, host in _upgraded(facts):
        for flag, files in host.kubelet_flags.items():
            stripped = False
            for hop, minor in hops:
                stripped = stripped or flag in minor.stripped_kubelet_flags
                if flag in minor.removed_kubelet_flags and hop.minor > current.minor:
                    ours = stripped and all(f.endswith("kubeadm-flags.env") for f in files.split(", "))
                    groups.setdefault((flag, files, hop, ours), []).append(name)
    for (flag, files, hop, ours), names in sorted(groups.items(), key=lambda item: item[0][:2]):
        end = "kubeadm takes it away on the way" if ours else "it would not start"
        yield KUBELET_FLAG.found(
            f"{few(names)}: --{flag} in {files} is unknown to the kubelet of {hop}; {end}",
            node=names[0] if len(names) == 1 else "",
            severity=INFO if ours else ERROR,
        )


def _docker(hops: Hops, facts: UpgradeFacts) -> Iterator[Finding]:
    without = next((hop for hop, minor in hops if not minor.has_dockershim), None)
    for name, runtime, version in _runtimes(facts):
        host = facts.hosts.get(name)
        shim = host is not None and "cri-dockerd" in host.runtime_sockets
        if runtime == "docker" and without is not None and not shim:
            yield DOCKERSHIM.found(f"it uses docker {version}; {without} has no dockershim", node=name)


def _containerd(hops: Hops, facts: UpgradeFacts) -> Iterator[Finding]:
    for name, runtime, version in _runtimes(facts):
        have = numbers(version)[:2]
        old = next((hop for hop, minor in hops if len(have) == 2 and have < minor.minimum_containerd), None)
        if runtime == "containerd" and old is not None:
            least = ".".join(map(str, TABLE[old.minor].minimum_containerd))
            yield RUNTIME_OLD.found(f"containerd {version}; {old} needs {least}", node=name)


def _runtimes(facts: UpgradeFacts) -> Iterator[tuple[str, str, str]]:
    """Return node, kind and version of the container runtimes of nodes that are upgraded."""
    for name, node in sorted(facts.nodes.items()):
        if name not in facts.left_behind:
            runtime, _, version = node.container_runtime.partition("://")
            yield name, runtime, version


def _admission(hops: Hops, facts: UpgradeFacts) -> Iterator[Finding]:
    without = next((hop for hop, minor in hops if not minor.has_pod_security_policy), None)
    if without is not None and "PodSecurityPolicy" in facts.admission_plugins:
        yield POLICY_PLUGIN.found(f"the API server of {without} does not know the plugin PodSecurityPolicy")


def _certificates(facts: UpgradeFacts) -> Iterator[Finding]:
    for found in sorted(facts.certificates, key=lambda c: (c.host, c.path)):
        left = found.not_after - facts.now
        if left > (CA_WARNING if found.is_ca and found.path != _KUBELET_OWN else LEAF_WARNING):
            continue
        day = found.not_after.strftime("%Y-%m-%d")
        when = f"expired on {day}" if left < timedelta(0) else f"expires on {day}"
        # made by the kubelet for itself, for a year; the API server does not check it unless told to
        own = found.path == _KUBELET_OWN
        what = "authority" if found.is_ca and not own else "certificate"
        severity = ERROR if left < timedelta(0) and not own else WARNING
        yield CERTIFICATE.found(f"{what} {found.path} {when}", node=found.host, severity=severity)
