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
    kubelet_config_map: str
    control_plane_taints: tuple[str, ...]
    eviction_api: str
    etcd_learner_join: bool
    has_config_validate: bool
    has_show_join_phase: bool
    cgroup_v1_ok: bool
    """Whether the kubelet starts on cgroup v1 without being told to (failCgroupV1 is false by default)."""
    has_fail_cgroup_v1: bool
    """Whether KubeletConfiguration has the field failCgroupV1."""
    needs_dual_stack_gate: bool
    """Whether two address families need kubeadm's feature gate IPv6DualStack."""
    needs_crictl: bool
    needs_conntrack: bool
    minimum_containerd: tuple[int, int]


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
        kubelet_config_map=f"kubelet-config-1.{minor}" if minor < 24 else "kubelet-config",
        control_plane_taints=taints,
        eviction_api="policy/v1beta1" if minor < 22 else "policy/v1",
        etcd_learner_join=minor >= 29,
        has_config_validate=minor >= 28,
        has_show_join_phase=minor >= 26,
        cgroup_v1_ok=minor < 35,
        has_fail_cgroup_v1=minor >= 31,
        needs_dual_stack_gate=minor < 21,
        needs_crictl=minor < 31,
        needs_conntrack=minor < 32,
        minimum_containerd=(1, 4) if minor < 26 else (1, 6) if minor < 36 else (2, 2),
    )


TABLE: dict[int, MinorFacts] = {minor: _facts(minor) for minor in range(OLDEST_MINOR, NEWEST_MINOR + 1)}


def facts_of(version: Version) -> MinorFacts:
    """Return the facts of a version's minor; raises ValueError outside the supported range."""
    if version.major != 1 or version.minor not in TABLE:
        raise ValueError(f"{version} is outside the supported range v1.{OLDEST_MINOR} to v1.{NEWEST_MINOR}")
    return TABLE[version.minor]
