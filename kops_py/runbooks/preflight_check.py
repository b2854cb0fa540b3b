"""What a preflight check is, and what it looks at."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from kops_py.model.facts import Facts, HostFacts, JobState
from kops_py.model.finding import Severity
from kops_py.model.preflight import ProbeResults
from kops_py.model.spec import ClusterSpec, Group, HostSpec

MIB = 1024 * 1024
GIB = 1024 * MIB


@dataclass(frozen=True, slots=True)
class Hit:
    """One thing a check found; without a severity or hint those of its check hold."""

    node: str
    message: str
    severity: Severity | None = None
    hint: str = ""


@dataclass(frozen=True, slots=True)
class View:
    """What a check may look at."""

    spec: ClusterSpec
    facts: Facts
    probes: ProbeResults

    def pairs(self) -> tuple[tuple[HostSpec, HostFacts], ...]:
        """Return the hosts that answered, in inventory order."""
        found = ((h, self.facts.hosts.get(h.name)) for h in self.spec.hosts)
        return tuple((h, f) for h, f in found if f is not None and f.reachable)

    def nodes(self) -> tuple[tuple[HostSpec, HostFacts], ...]:
        """Return the hosts that answered and are (to be) nodes of the cluster."""
        return tuple((h, f) for h, f in self.pairs() if h.is_kubernetes)

    def newcomers(self) -> tuple[tuple[HostSpec, HostFacts], ...]:
        """Return the nodes that are not members yet."""
        return tuple((h, f) for h, f in self.nodes() if not self.is_member(f))

    def begun(self, facts: HostFacts) -> bool:
        """Whether kops-py itself began to make a node of this host."""
        return bool(facts.jobs)

    def is_member(self, facts: HostFacts) -> bool:
        """Whether the host runs as a node: the API says so, or, while it does not answer, what is on the host."""
        if self.facts.kube is not None:
            return facts.name in self.facts.kube.nodes and facts.has_kubelet_conf
        ended = any(state is JobState.SUCCEEDED for state in facts.jobs.values())
        return facts.has_kubelet_conf and ended

    def runs_etcd(self, host: HostSpec) -> bool:
        """Whether etcd keeps its data on this host."""
        return Group.ETCD in host.groups if self.spec.external_etcd else host.is_control_plane


Run = Callable[[View], Iterable[Hit]]


@dataclass(frozen=True, slots=True)
class Check:
    """One named check: ``severities`` are all it may give, the first unless a hit says otherwise."""

    id: str
    severities: tuple[Severity, ...]
    meaning: str
    remedy: str
    run: Run


def readable(size_bytes: int) -> str:
    """Return a size as a person reads it."""
    return f"{size_bytes / GIB:.1f} GiB" if size_bytes >= GIB else f"{size_bytes // MIB} MiB"


def readable_limit(size_bytes: int) -> str:
    """Return a round size just above this one: what changes all the time reads the same from call to call."""
    step = GIB if size_bytes >= GIB else 100 * MIB if size_bytes >= 100 * MIB else 10 * MIB
    size = (size_bytes // step + 1) * step
    return f"{size // GIB} GiB" if size >= GIB else f"{size // MIB} MiB"


def round_below(value: float) -> int:
    """Return the largest of 1, 2, 5, 10, 20, 50, ... that is not above the value; 0 when it is below 1."""
    steps = [factor * 10**power for power in range(10) for factor in (1, 2, 5)]
    return max((step for step in steps if step <= value), default=0)


def numbers(version: str) -> tuple[int, ...]:
    """Return the leading numbers of a dotted version: ``1.6.20~ds1`` is (1, 6, 20)."""
    found: list[int] = []
    for part in version.split("."):
        digits = ""
        for char in part:
            if not ("0" <= char <= "9"):
                break
            digits += char
        if not digits or len(digits) > 9:
            break
        found.append(int(digits))
        if digits != part:
            break
    return tuple(found)
