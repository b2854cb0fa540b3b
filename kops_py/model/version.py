"""Kubernetes versions and the one table of what differs between minors."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import total_ordering

_NUMBER = r"(0|[1-9][0-9]{0,5})"
_PATTERN = re.compile(rf"v?{_NUMBER}\.{_NUMBER}\.{_NUMBER}(?:-([0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*))?")


@total_ordering
@dataclass(frozen=True, slots=True)
class Version:
    """A Kubernetes release such as v1.31.2; ordered, with pre-releases before their release."""

    major: int
    minor: int
    patch: int
    pre: str = ""

    @classmethod
    def parse(cls, text: str) -> Version:
        """Read ``v1.31.2`` or ``1.31.2``; raises ValueError."""
        match = _PATTERN.fullmatch(text.strip())
        if match is None:
            raise ValueError(f"{text!r} is not a version of the form v1.31.2")
        return cls(int(match[1]), int(match[2]), int(match[3]), match[4] or "")

    def __str__(self) -> str:
        return f"v{self.bare}"

    @property
    def bare(self) -> str:
        """Return the version without its leading v, as packages name it."""
        return f"{self.major}.{self.minor}.{self.patch}" + (f"-{self.pre}" if self.pre else "")

    @property
    def minor_text(self) -> str:
        """Return ``v1.31``, the name of the package repository of this minor."""
        return f"v{self.major}.{self.minor}"

    def _key(self) -> tuple[int, int, int, bool, tuple[tuple[bool, int, str], ...]]:
        # Semantic Versioning 2.0.0, item 11: numbers compare as numbers (rc.2 < rc.10) and come before words.
        pre = tuple(
            (False, int(part), "") if part.isdigit() else (True, 0, part) for part in self.pre.split(".") if part
        )
        return (self.major, self.minor, self.patch, not self.pre, pre)

    def __lt__(self, other: Version) -> bool:
        return self._key() < other._key()


@dataclass(frozen=True, slots=True)
class MinorFacts:
    """What is particular to one minor of Kubernetes.

    Sources: kubeadm's constants and release notes per minor; docs/adr says how the table is kept.
    """

    minor: int
    kubeadm_api: str
    default_registry: str
    pause: str
    etcd: str
    coredns: str
    control_plane_taints: tuple[str, ...]
    etcd_learner_join: bool
    has_config_validate: bool
    has_show_join_phase: bool
    cgroup_v1_ok: bool
    """Whether the kubelet starts on cgroup v1 without being told to (failCgroupV1 is false by default)."""
    has_fail_cgroup_v1: bool
    """Whether KubeletConfiguration has the field failCgroupV1."""
    socket_annotation: bool
    """Whether kubeadm keeps the runtime's socket in an annotation of the node (later: in a file on it)."""
    needs_dual_stack_gate: bool
    """Whether two address families need kubeadm's feature gate IPv6DualStack."""
    minimum_containerd: tuple[int, int]
    readable_kubeadm_apis: tuple[str, ...]
    """Config APIs that kubeadm of this minor reads, and so may stand in the cluster before an upgrade to it."""
    kubelet_lag: int
    """How many minors a kubelet of this minor may be older than an API server (version skew policy)."""
    kubeadm_kubelet_lag: int
    """How many minors older than itself kubeadm of this minor lets kubelets be."""
    external_etcd_minimum: tuple[int, int, int] | None
    """What kubeadm of this minor wants of an etcd that it does not run."""
    etcd_required: tuple[int, int, int] | None
    """Below this no etcd member may be when the cluster goes to this minor."""
    etcd_advised: tuple[int, int, int] | None
    """What etcd's upgrade guide asks for where kubeadm itself ships less."""
    removed_etcd_flag_prefix: str
    """Flags that begin so keep etcd of this minor from starting; empty: none."""
    etcd_check_wants_all: bool
    """Whether kubeadm's etcd check fails when any member is not healthy; quorum is enough since 1.37."""
    removed_kubelet_flags: frozenset[str]
    """Flags that the kubelet no longer knows since this minor: it does not start with them."""
    stripped_kubelet_flags: frozenset[str]
    """Flags that kubeadm's upgrade to this minor takes out of kubeadm-flags.env."""
    has_dockershim: bool
    has_pod_security_policy: bool


OLDEST_MINOR = 20
NEWEST_MINOR = 37

_MASTER, _CONTROL_PLANE = "node-role.kubernetes.io/master", "node-role.kubernetes.io/control-plane"

#          pause     etcd      coredns
_IMAGES: dict[int, tuple[str, str, str]] = {
    20: ("3.2", "3.4.13", "1.7.0"),
    21: ("3.4.1", "3.4.13", "1.8.0"),
    22: ("3.5", "3.5.0", "1.8.4"),
    23: ("3.6", "3.5.1", "1.8.6"),
    24: ("3.7", "3.5.3", "1.8.6"),
    25: ("3.8", "3.5.4", "1.9.3"),
    26: ("3.9", "3.5.6", "1.9.3"),
    27: ("3.9", "3.5.7", "1.10.1"),
    28: ("3.9", "3.5.9", "1.10.1"),
    29: ("3.9", "3.5.10", "1.11.1"),
    30: ("3.9", "3.5.12", "1.11.1"),
    31: ("3.10", "3.5.15", "1.11.1"),
    32: ("3.10", "3.5.16", "1.11.3"),
    33: ("3.10", "3.5.21", "1.12.0"),
    34: ("3.10.1", "3.6.4", "1.12.1"),
    35: ("3.10.1", "3.6.6", "1.13.1"),
    36: ("3.10.2", "3.6.8", "1.14.2"),
    37: ("3.10.2", "3.7.0", "1.14.6"),
}


# Release notes ("Urgent Upgrade Notes", "Deprecation") of each minor; only flags named there as removed.
_REMOVED_KUBELET_FLAGS: dict[int, str] = {
    23: "seccomp-profile-root",
    24: "cni-bin-dir cni-cache-dir cni-conf-dir docker-endpoint experimental-dockershim-root-directory "
    "image-pull-progress-deadline network-plugin network-plugin-mtu",
    27: "container-runtime master-service-namespace",
    31: "iptables-drop-bit iptables-masquerade-bit keep-terminated-pod-volumes",
    34: "cloud-config",
    35: "pod-infra-container-image",
    37: "application-metrics-count-limit boot-id-file container-hints containerd containerd-namespace "
    "enable-load-reader event-storage-age-limit event-storage-event-limit global-housekeeping-interval "
    "log-cadvisor-usage machine-id-file storage-driver-buffer-duration storage-driver-db storage-driver-host "
    "storage-driver-password storage-driver-secure storage-driver-table storage-driver-user",
}
_STRIPPED_KUBELET_FLAGS: dict[int, str] = {26: "container-runtime", 35: "pod-infra-container-image"}
_KUBEADM_APIS = {"v1beta1": (20, 21), "v1beta2": (20, 26), "v1beta3": (22, 36), "v1beta4": (31, NEWEST_MINOR)}


def _words(table: dict[int, str], minor: int) -> frozenset[str]:
    return frozenset(table.get(minor, "").split())


def _facts(minor: int) -> MinorFacts:
    pause, etcd, coredns = _IMAGES[minor]
    if minor <= 21:
        api = "v1beta2"
    elif minor <= 30:
        api = "v1beta3"
    else:
        api = "v1beta4"
    if minor <= 23:
        taints: tuple[str, ...] = (_MASTER,)
    elif minor == 24:
        taints = (_MASTER, _CONTROL_PLANE)
    else:
        taints = (_CONTROL_PLANE,)
    return MinorFacts(
        minor=minor,
        kubeadm_api=f"kubeadm.k8s.io/{api}",
        default_registry="k8s.gcr.io" if minor < 25 else "registry.k8s.io",
        pause=pause,
        etcd=etcd,
        coredns=coredns,
        control_plane_taints=taints,
        etcd_learner_join=minor >= 29,
        has_config_validate=minor >= 28,
        has_show_join_phase=minor >= 26,
        cgroup_v1_ok=minor < 35,
        has_fail_cgroup_v1=minor >= 31,
        socket_annotation=minor < 34,
        needs_dual_stack_gate=minor < 21,
        minimum_containerd=(1, 4) if minor < 26 else (1, 6) if minor < 36 else (2, 2),
        readable_kubeadm_apis=tuple(
            f"kubeadm.k8s.io/{name}" for name, (first, last) in _KUBEADM_APIS.items() if first <= minor <= last
        ),
        kubelet_lag=3 if minor >= 25 else 2,
        kubeadm_kubelet_lag=3 if minor >= 29 else 1,
        external_etcd_minimum=(3, 5, 11) if minor >= 31 else None,
        # etcd's guides for 3.6 and 3.7; 3.5.24 is what the last kubeadm 1.33 ships (docs/upgrade-findings.md)
        etcd_required={34: (3, 5, 24), 37: (3, 6, 11)}.get(minor),
        etcd_advised={34: (3, 5, 32)}.get(minor),
        removed_etcd_flag_prefix="experimental-" if minor >= 37 else "",
        etcd_check_wants_all=minor < 37,
        removed_kubelet_flags=_words(_REMOVED_KUBELET_FLAGS, minor),
        stripped_kubelet_flags=_words(_STRIPPED_KUBELET_FLAGS, minor),
        has_dockershim=minor < 24,
        has_pod_security_policy=minor < 25,
    )


TABLE: dict[int, MinorFacts] = {minor: _facts(minor) for minor in range(OLDEST_MINOR, NEWEST_MINOR + 1)}


def facts_of(version: Version) -> MinorFacts:
    """Return the facts of a version's minor; raises ValueError outside the supported range."""
    if version.major != 1 or version.minor not in TABLE:
        raise ValueError(f"{version} is outside the supported range v1.{OLDEST_MINOR} to v1.{NEWEST_MINOR}")
    return TABLE[version.minor]


def kubelet_lag(kubelet: Version) -> int:
    """Return how many minors a kubelet may be older than an API server; also for those older than the table."""
    return TABLE[min(max(kubelet.minor, OLDEST_MINOR), NEWEST_MINOR)].kubelet_lag


def loses(current: Version, target: Version, fact: str) -> bool:
    """Whether something true of one version's minor is no longer true of another's; raises ValueError."""
    return bool(getattr(facts_of(current), fact)) and not getattr(facts_of(target), fact)
