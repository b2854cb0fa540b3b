"""What inventory and cluster.yaml must be together: topology, addresses, endpoint."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from fnmatch import fnmatchcase
from ipaddress import ip_address

from kops_py.config.cluster import ClusterFile
from kops_py.config.index import GROUP_NAMES, Index
from kops_py.config.problems import Place, Problems, did_you_mean, show
from kops_py.model.hooks import GroupSpec
from kops_py.model.spec import Endpoint, Group, HostSpec, Network

API_PORT = 6443
SHARED_API_PORT = 8443
"""Port of the balancer where it runs on a control plane, whose API server has 6443 itself."""

_BALANCER_HINT = "name a host in the group load_balancer, or set controlPlaneEndpoint to an address of a balancer"


def group_names(group: Group) -> list[str]:
    """Return the names a group can have in an inventory."""
    return [name for name, meant in GROUP_NAMES.items() if meant is group]


def check_hosts(hosts: tuple[HostSpec, ...], cluster: ClusterFile, index: Index, problems: Problems) -> None:
    """Note a missing control plane, addresses used twice, and addresses that the cluster's networks hold."""
    if not any(host.is_control_plane for host in hosts):
        problems.add(
            index.place_of_group(*group_names(Group.CONTROL_PLANE)),
            "the group kube_control_plane has no host",
            hint="a cluster needs at least one control plane",
        )
    _check_unique(hosts, "address in the cluster", lambda h: h.node_ip, ("ip", "ansible_host"), index, problems)
    _check_unique(hosts, "SSH address", lambda h: f"{h.address} port {h.port}", ("ansible_host",), index, problems)
    etcd = tuple(host for host in hosts if Group.ETCD in host.groups)
    _check_unique(
        etcd, "etcd member name", lambda h: h.etcd_member_name or h.name, ("etcd_member_name",), index, problems
    )
    for host in hosts:
        for variable, text in _addresses(host):
            for label, network in _networks(cluster):
                if ip_address(text) in network:
                    problems.add(
                        index.place_of(host.name, variable, "ip", "ansible_host"),
                        f"host {host.name}: its address {text} is inside the {label} network {network}",
                        hint=f"choose another {label}Subnet in {cluster.path.name}, or another address",
                    )
    _check_families(hosts, cluster, index, problems)


def _check_unique(
    hosts: tuple[HostSpec, ...],
    label: str,
    value_of: Callable[[HostSpec], str],
    variables: tuple[str, ...],
    index: Index,
    problems: Problems,
) -> None:
    first: dict[str, HostSpec] = {}
    for host in hosts:
        other = first.setdefault(value_of(host), host)
        if other is not host:
            place = index.place_of(host.name, *variables)
            problems.add(place, f"host {host.name}: {label} {value_of(host)} is also that of {other.name}")


def _check_families(hosts: tuple[HostSpec, ...], cluster: ClusterFile, index: Index, problems: Problems) -> None:
    if not cluster.network.service_subnets:
        return
    family = cluster.network.service_subnets[0].version
    for host in hosts:
        if host.is_kubernetes and ip_address(host.node_ip).version != family:
            problems.add(
                index.place_of(host.name, "ip", "ansible_host"),
                f"host {host.name}: its address {host.node_ip} is not IPv{family} as the first serviceSubnet is",
                hint="name the networks of the nodes' own family first",
            )


def _addresses(host: HostSpec) -> Iterator[tuple[str, str]]:
    yield "ip", host.node_ip
    if host.access_ip:
        yield "access_ip", host.access_ip
    try:
        ip_address(host.address)
    except ValueError:
        return
    if host.address != host.node_ip:
        yield "ansible_host", host.address


def _networks(cluster: ClusterFile) -> Iterator[tuple[str, Network]]:
    for network in cluster.network.pod_subnets:
        yield "pod", network
    for network in cluster.network.service_subnets:
        yield "service", network


def choose_etcd(hosts: tuple[HostSpec, ...], cluster: ClusterFile, index: Index, problems: Problems) -> bool:
    """Return whether etcd is external; when nothing is said, the group etcd decides."""
    members = {host.name for host in hosts if Group.ETCD in host.groups}
    control_planes = {host.name for host in hosts if host.is_control_plane}
    if cluster.external_etcd is None:
        return bool(members) and members != control_planes
    if cluster.etcd.given is not None and members:
        problems.add(
            cluster.place("etcd", "external", key=True),
            "etcd.external names an etcd that exists, and the group etcd has hosts to build one on",
            hint="take the hosts out of the group etcd, or leave etcd.external out",
        )
    if cluster.external_etcd and not members and cluster.etcd.given is None:
        problems.add(
            cluster.place("etcd", "topology"),
            "etcd is external, but the group etcd of the inventory has no host",
            hint="name its hosts in the group etcd, name one that exists in etcd.external, or set topology: stacked",
        )
    if not cluster.external_etcd and members and members != control_planes:
        for name in sorted(members ^ control_planes):
            inside = "is in the group etcd but no control plane" if name in members else "is not in the group etcd"
            problems.add(
                index.place_in_group(name, group_names(Group.ETCD)),
                f"host {name} {inside}, and etcd.topology is stacked",
                hint="leave the group etcd out, make it the control planes, or set etcd.topology: external",
            )
    return cluster.external_etcd


def choose_endpoint(
    hosts: tuple[HostSpec, ...], cluster: ClusterFile, index: Index, problems: Problems
) -> tuple[Endpoint, bool]:
    """Return the API endpoint and whether it is none of our hosts."""
    control_planes = tuple(host for host in hosts if host.is_control_plane)
    balancers = tuple(host for host in hosts if host.is_load_balancer)
    if cluster.endpoint is not None:
        _check_given_endpoint(cluster.endpoint, control_planes, cluster, problems)
        ours = {name for host in (*control_planes, *balancers) for name in _names_of(host)}
        return cluster.endpoint, cluster.endpoint.host not in ours
    if balancers:
        port = SHARED_API_PORT if balancers[0].is_control_plane else API_PORT
        return Endpoint(balancers[0].access_ip or balancers[0].node_ip, port), False
    if len(control_planes) > 1:
        problems.add(
            index.place_of_group(*group_names(Group.CONTROL_PLANE)),
            f"{len(control_planes)} control planes and no endpoint in front of them",
            hint=_BALANCER_HINT,
        )
    first = control_planes[0] if control_planes else None
    return Endpoint((first.access_ip or first.node_ip) if first else "", API_PORT), False


def _names_of(host: HostSpec) -> set[str]:
    return {host.name, host.address, host.node_ip, host.access_ip or host.node_ip}


def _check_given_endpoint(
    endpoint: Endpoint, control_planes: tuple[HostSpec, ...], cluster: ClusterFile, problems: Problems
) -> None:
    place = cluster.place("controlPlaneEndpoint")
    for host in control_planes:
        if endpoint.host not in _names_of(host):
            continue
        if host.is_load_balancer and endpoint.port == API_PORT:
            problems.add(
                place,
                f"the endpoint {endpoint} is the API server of {host.name} itself, not the balancer on it",
                hint=f"leave controlPlaneEndpoint out, or use another port, as in {SHARED_API_PORT}",
            )
        elif not host.is_load_balancer and len(control_planes) > 1:
            problems.add(
                place,
                f"the endpoint {endpoint} is the control plane {host.name}: when it is down, so is the cluster",
                hint=_BALANCER_HINT,
            )
    try:
        address = ip_address(endpoint.host)
    except ValueError:
        return
    for label, network in _networks(cluster):
        if address in network:
            problems.add(place, f"the endpoint {endpoint} is inside the {label} network {network}")


def choose_limit(text: str, members_of: Callable[[str], list[str]], hosts: tuple[HostSpec, ...]) -> frozenset[str]:
    """Return the hosts that ``--limit`` names: hosts, groups and shell patterns, with commas; ``!`` takes away.

    Raises ConfigError for a word that fits nothing.
    """
    names = [host.name for host in hosts]
    words = [word.strip() for word in text.split(",") if word.strip()]
    problems = Problems()
    place = Place("--limit", 0)
    chosen = set() if any(not word.startswith("!") for word in words) else set(names)
    for word in words:
        wanted = word.removeprefix("!")
        groups = group_names(GROUP_NAMES[wanted]) if wanted in GROUP_NAMES else [wanted]
        members = {member for group in groups for member in members_of(group)}
        found = {name for name in names if fnmatchcase(name, wanted) or name in members or wanted == "all"}
        if not found:
            problems.add(place, f"{show(wanted)} is no host and no group", hint=did_you_mean(wanted, names))
        chosen = chosen - found if word.startswith("!") else chosen | found
    if not problems and not chosen:
        problems.add(place, f"{show(text)} leaves no host")
    problems.raise_if_any()
    return frozenset(chosen)


def choose_groups(
    members_of: Callable[[str], list[str]], cluster: ClusterFile, problems: Problems
) -> tuple[GroupSpec, ...]:
    """Return the groups of workers with the hosts of their inventory groups; one without hosts is noted."""
    found = []
    for number, group in enumerate(cluster.maintenance.groups):
        wanted = group.inventory_group
        if wanted is None:
            found.append(group)
            continue
        known = group_names(GROUP_NAMES[wanted]) if wanted in GROUP_NAMES else [wanted]
        hosts = frozenset(member for name in known for member in members_of(name))
        if not hosts:
            place = cluster.place("maintenance", "groups", number, "inventoryGroup")
            problems.add(place, f"the inventory has no group {show(wanted)}, or it has no host")
        found.append(replace(group, hosts=hosts))
    return tuple(found)
