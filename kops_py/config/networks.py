"""Rules for the cluster's networks among themselves."""

from __future__ import annotations

from collections.abc import Sequence

from kops_py.config.problems import Place, Problems
from kops_py.model.spec import Network

Placed = tuple[Network, Place]

# kube-apiserver takes IPv4 service networks up to /12 and IPv6 ones up to 20 host bits; kubeadm wants at least ten
# addresses. The controller manager gives each node a /24 (IPv4) or /64 (IPv6) out of the pod network and takes one
# at most 16 bits larger than that.
_SERVICE_PREFIXES = {4: (12, 28), 6: (108, 124)}
_POD_PREFIXES = {4: (8, 24), 6: (48, 64)}


def check_networks(
    pods: Sequence[Placed], services: Sequence[Placed], problems: Problems, *, own_node_mask: bool
) -> None:
    """Note overlaps, families that do not fit and sizes Kubernetes refuses.

    ``own_node_mask`` says that the operator configures the controller manager: pod prefixes are not judged then.
    """
    for label, networks in (("pod", pods), ("service", services)):
        if len(networks) == 2 and networks[0][0].version == networks[1][0].version:
            problems.add(
                networks[1][1],
                f"two IPv{networks[1][0].version} {label} networks",
                hint="a dual-stack cluster has one of each family",
            )
    if pods and services and [n.version for n, _ in pods] != [n.version for n, _ in services]:
        problems.add(
            services[0][1],
            f"service networks are {_families(services)}, pod networks {_families(pods)}",
            hint="both must have the same families in the same order",
        )
    _check_overlap([*(("pod", *p) for p in pods), *(("service", *s) for s in services)], problems)
    for network, place in services:
        _check_prefix("service", network, place, _SERVICE_PREFIXES, problems)
    for network, place in () if own_node_mask else pods:
        _check_prefix("pod", network, place, _POD_PREFIXES, problems)


def _families(networks: Sequence[Placed]) -> str:
    return "+".join(f"IPv{network.version}" for network, _ in networks)


def _check_overlap(networks: Sequence[tuple[str, Network, Place]], problems: Problems) -> None:
    for number, (label, network, place) in enumerate(networks):
        for other_label, other, _ in networks[:number]:
            if network.version == other.version and _overlap(network, other):
                problems.add(place, f"{label} network {network} overlaps {other_label} network {other}")


def _overlap(one: Network, other: Network) -> bool:
    return one.network_address in other or other.network_address in one


def _check_prefix(
    label: str, network: Network, place: Place, prefixes: dict[int, tuple[int, int]], problems: Problems
) -> None:
    shortest, longest = prefixes[network.version]
    if not shortest <= network.prefixlen <= longest:
        problems.add(
            place,
            f"{label} network {network} has a prefix Kubernetes does not take",
            hint=f"allowed here: /{shortest} to /{longest}",
        )
