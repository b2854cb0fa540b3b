"""Preflight checks that compare hosts with each other and with the cluster."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from statistics import median_low

from kops_py.model.facts import HostFacts
from kops_py.model.finding import Severity
from kops_py.model.version import Version, kubelet_lag
from kops_py.runbooks.preflight_check import Check, Hit, View, round_below

ERROR, WARNING, INFO = Severity.ERROR, Severity.WARNING, Severity.INFO

SKEW_WARNING_S = 1.0
"""etcd itself warns of a clock difference above one second."""
SKEW_ERROR_S = 5.0
"""kubeadm's certificates are valid from the moment they are made: a host that is behind refuses them."""


def _shared(value: Callable[[HostFacts], frozenset[str]]) -> Callable[[View], Mapping[str, list[str]]]:
    """Return a function that finds the values several hosts have: value → hosts."""

    def find(view: View) -> Mapping[str, list[str]]:
        owners: dict[str, list[str]] = {}
        for host, facts in view.pairs():
            for item in value(facts):
                owners.setdefault(item, []).append(host.name)
        return {item: names for item, names in sorted(owners.items()) if len(names) > 1}

    return find


def _one(text: str) -> frozenset[str]:
    return frozenset({text.lower()}) if text else frozenset()


def _uuid(facts: HostFacts) -> frozenset[str]:
    # Some boards carry a placeholder instead of a UUID; it says nothing about cloning.
    digits = set(facts.product_uuid.replace("-", ""))
    return _one(facts.product_uuid) if len(digits) > 2 else frozenset()


def _duplicate(what: str, value: Callable[[HostFacts], frozenset[str]]) -> Callable[[View], Iterator[Hit]]:
    find = _shared(value)

    def run(view: View) -> Iterator[Hit]:
        for item, names in find(view).items():
            for name in names[1:]:
                yield Hit(name, f"{what} {item} is also that of {', '.join(n for n in names if n != name)}")

    return run


def _time_skew(view: View) -> Iterator[Hit]:
    pairs = view.pairs()
    if len(pairs) < 2:
        return
    middle = median_low([facts.clock_offset_s for _, facts in pairs])
    reference = next(facts for _, facts in pairs if facts.clock_offset_s == middle)
    # Which of many hosts is in the middle changes from call to call.
    whose = f"that of {reference.name}" if len(pairs) == 2 else "those of most hosts"
    for host, facts in pairs:
        difference_s = facts.clock_offset_s - reference.clock_offset_s
        sure_s = abs(difference_s) - facts.clock_uncertainty_s - reference.clock_uncertainty_s
        if sure_s > SKEW_WARNING_S:
            side = "ahead of" if difference_s > 0 else "behind"
            severity = ERROR if sure_s > SKEW_ERROR_S else WARNING
            message = f"its clock is more than {round_below(sure_s)} s {side} {whose}"
            yield Hit(host.name, message, severity)


def _other_cluster(view: View) -> Iterator[Hit]:
    members = [(h, f) for h, f in view.nodes() if view.is_member(f) and f.ca_digest]
    if len(members) < 2:
        return
    usual = Counter(f.ca_digest for _, f in members).most_common(1)[0][0]
    for host, facts in members:
        if facts.ca_digest != usual:
            yield Hit(host.name, "its cluster certificate authority is not the one of the other nodes")


def _even_control_planes(view: View) -> Iterator[Hit]:
    count = sum(view.runs_etcd(h) for h in view.spec.hosts)
    if count and count % 2 == 0:
        yield Hit("", f"{count} etcd members tolerate the loss of {(count - 1) // 2}, no more than {count - 1} do")


def _kubelet_skew(view: View) -> Iterator[Hit]:
    # Version skew policy: never newer than the API server, and older only by as many minors as the table says.
    kube = view.facts.kube
    if kube is None:
        return
    for name, node in sorted(kube.nodes.items()):
        try:
            kubelet = Version.parse(node.version)
        except ValueError:
            continue
        server = kube.server_version
        behind = server.minor - kubelet.minor
        if (kubelet.major, kubelet.minor) > (server.major, server.minor):
            yield Hit(name, f"its kubelet {kubelet} is newer than the API server {server}")
        elif behind > kubelet_lag(kubelet):
            yield Hit(name, f"its kubelet {kubelet} is {behind} minors older than the API server {server}")


def _interrupted(view: View) -> Iterator[Hit]:
    for host, facts in view.pairs():
        for job, state in sorted(facts.jobs.items()):
            if state.value in ("interrupted", "failed"):
                yield Hit(host.name, f"the job {job} of an earlier run {_ENDINGS[state.value]}")


_ENDINGS = {"interrupted": "was interrupted", "failed": "failed"}


FLEET_CHECKS: tuple[Check, ...] = (
    Check(
        "duplicate-hostname",
        (ERROR,),
        "Two hosts call themselves the same.",
        "hostnamectl set-hostname NAME on one of them.",
        _duplicate("its hostname", lambda f: _one(f.hostname)),
    ),
    Check(
        "duplicate-machine-id",
        (ERROR,),
        "Two hosts have the same /etc/machine-id, as clones do; DHCP leases and network plugins mix them up.",
        "rm -f /etc/machine-id /var/lib/dbus/machine-id && systemd-machine-id-setup, then reboot.",
        _duplicate("its machine-id", lambda f: _one(f.machine_id)),
    ),
    Check(
        "duplicate-mac",
        (ERROR,),
        "Two hosts have the same MAC address on the interface of the cluster or on a device.",
        "Give one of the machines a new MAC address.",
        _duplicate("its MAC address", lambda f: f.macs),
    ),
    Check(
        "duplicate-product-uuid",
        (WARNING,),
        "Two hosts have the same product_uuid, as clones do.",
        "Give one of the machines a new UUID in its hypervisor.",
        _duplicate("its product_uuid", _uuid),
    ),
    Check(
        "time-skew",
        (ERROR, WARNING),
        "A clock differs from the others, beyond what the measurement may be wrong by: over 1 s etcd warns, "
        "over 5 s new certificates are not valid yet on the host that is behind.",
        "Install and start a time service: timedatectl set-ntp true, or chronyc makestep.",
        _time_skew,
    ),
    Check(
        "other-cluster",
        (ERROR,),
        "A node was made by another cluster than the rest.",
        "Take it out of the inventory, or clean it: kubeadm reset --force.",
        _other_cluster,
    ),
    Check(
        "even-control-planes",
        (WARNING,),
        "An even number of etcd members tolerates no more failures than one member less.",
        "Use 1, 3 or 5.",
        _even_control_planes,
    ),
    Check(
        "version-skew",
        (ERROR,),
        "A member's kubelet is newer than the API server, or older than the version skew policy allows.",
        "Bring the node to the cluster's version before anything else: kops-py upgrade.",
        _kubelet_skew,
    ),
    Check(
        "job-unfinished",
        (INFO,),
        "A long command of an earlier run did not end well; the next run picks it up.",
        "Run the same command again; its output is in /var/lib/kops-py/jobs/JOB/log on the host.",
        _interrupted,
    ),
)
