"""Preflight checks of addresses, ports, names, and what the hosts must reach."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_interface, ip_network

from kops_py.model.facts import HostFacts
from kops_py.model.finding import Severity
from kops_py.model.preflight import PortProbe, Reach, UrlProbe, UrlUse
from kops_py.model.spec import HostSpec, Network
from kops_py.runbooks.preflight_check import Check, Hit, Run, View, round_below

ERROR, WARNING, INFO = Severity.ERROR, Severity.WARNING, Severity.INFO

SLOW_DISK_WARNING_MS = 10.0
"""etcd's own advice: the 99th percentile of fdatasync below 10 ms."""
SLOW_DISK_ERROR_MS = 100.0
"""The heartbeat interval is 100 ms: beyond it a leader cannot keep its followers."""

API_SERVER = {6443: "kube-apiserver", 10257: "kube-controller-manager", 10259: "kube-scheduler"}
ETCD = {2379: "etcd", 2380: "etcd", 2381: "etcd"}
NODE = {10250: "kubelet", 10248: "kubelet", 10249: "kube-proxy", 10256: "kube-proxy"}

REASONS = {
    Reach.REFUSED: "refused: a firewall rejects it, or the service is down",
    Reach.TIMEOUT: "no answer: a firewall drops it, or a route is missing",
    Reach.NO_ROUTE: "no route to it: a firewall rejects it, or the hosts are not on one network",
    Reach.ERROR: "failed",
}


def _needed(view: View, host: HostSpec) -> dict[int, str]:
    """Return the ports this host needs for itself, and the program that is to have each."""
    ports: dict[int, str] = {}
    if host.is_control_plane:
        ports.update(API_SERVER)
    if view.runs_etcd(host):
        ports.update(ETCD)
    if host.is_kubernetes:
        ports.update(NODE)
    if host.is_load_balancer:
        ports[view.spec.endpoint.port] = "haproxy"
    return ports


def _taken(view: View, host: HostSpec, facts: HostFacts) -> dict[int, str]:
    """Return the needed ports that somebody else has, with the program."""
    if view.is_member(facts):
        return {}
    found = {}
    for port, expected in _needed(view, host).items():
        if port not in facts.listening:
            continue
        program = facts.listening[port]
        # The kernel keeps 15 characters of a program's name. What is ours: a job of kops-py that began a node, its
        # load balancer, an etcd that the external members run already.
        ours = view.begun(facts) or expected == "haproxy" or (expected == "etcd" and view.spec.external_etcd)
        if not (ours and program and expected[:15] == program[:15]):
            found[port] = program
    return found


def _port_in_use(view: View) -> Iterator[Hit]:
    for host, facts in view.pairs():
        for port, program in sorted(_taken(view, host, facts).items()):
            whose = f"by {program}" if program else "by a program that could not be told"
            message = f"TCP port {port} is in use {whose}; {_needed(view, host)[port]} needs it"
            hint = f"see it with: ss -ltnp 'sport = :{port}'; stop it or move it to another port"
            yield Hit(host.name, message, hint=hint)


def _port_unreachable(view: View) -> Iterator[Hit]:
    taken = {(h.name, port) for h, f in view.pairs() for port in _taken(view, h, f)}
    groups: dict[tuple[str, str, int, Reach], list[PortProbe]] = {}
    for probe in view.probes.ports:
        if probe.outcome is not Reach.OPEN and (probe.target, probe.port) not in taken:
            groups.setdefault((probe.target, probe.address, probe.port, probe.outcome), []).append(probe)
    for (target, address, port, outcome), probes in groups.items():
        sources = sorted({p.source for p in probes})
        shown = ", ".join(sources[:6]) + (f" and {len(sources) - 6} more" if len(sources) > 6 else "")
        place = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
        reason = REASONS.get(outcome, "failed") + (f" ({probes[0].detail})" if outcome is Reach.ERROR else "")
        hint = f"on {target} allow TCP {port} from the nodes; try: nc -vz {address} {port} on {sources[0]}"
        yield Hit(target, f"{shown} → {place}: {reason}", hint=hint)


def _address(text: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(text)
    except ValueError:
        return None


def _bare(facts: HostFacts) -> set[str]:
    return {item.partition("/")[0] for item in facts.addresses}


def _address_missing(view: View) -> Iterator[Hit]:
    for host, facts in view.pairs():
        if not (host.is_kubernetes or view.runs_etcd(host)):
            continue
        address = _address(host.node_ip)
        if address is None:
            yield Hit(host.name, f"{host.node_ip!r} is a name; the cluster needs an IP address", hint=_IP_HINT)
        elif facts.addresses and str(address) not in _bare(facts):
            has = ", ".join(sorted(_bare(facts))[:6])
            yield Hit(host.name, f"its address {host.node_ip} is on none of its interfaces (it has {has})")


_IP_HINT = "set the inventory variable ip to the host's address in the cluster's network"


def _address_family(view: View) -> Iterator[Hit]:
    network = view.spec.network
    pod_families = [n.version for n in network.pod_subnets]
    service_families = [n.version for n in network.service_subnets]
    if sorted(pod_families) != sorted(service_families):
        yield Hit("", "pod and service subnets are not of the same address families")
    for host, facts in view.nodes():
        address = _address(host.node_ip)
        if address is not None and service_families and address.version != service_families[0]:
            first = service_families[0]
            message = f"its address {host.node_ip} is IPv{address.version}, the first service subnet IPv{first}"
            yield Hit(host.name, message)
        own = {a.version for a in map(_address, _bare(facts)) if a is not None}
        for family in sorted(set(service_families) - own if own else ()):
            yield Hit(host.name, f"the cluster uses IPv{family}, the host has no IPv{family} address")


def _overlaps(one: Network, other: Network) -> bool:
    return one.version == other.version and one.overlaps(other)


def _inner_overlap(view: View) -> Iterator[Hit]:
    network = view.spec.network
    named = [("pod", n) for n in network.pod_subnets] + [("service", n) for n in network.service_subnets]
    for index, (kind, one) in enumerate(named):
        for other_kind, other in named[index + 1 :]:
            if _overlaps(one, other):
                yield Hit("", f"the {kind} subnet {one} overlaps the {other_kind} subnet {other}")
        endpoint = _address(view.spec.endpoint.host)
        if endpoint is not None and endpoint in one:
            yield Hit("", f"the API endpoint {endpoint} lies in the {kind} subnet {one}")


def _network_overlap(view: View) -> Iterator[Hit]:
    yield from _inner_overlap(view)
    network = view.spec.network
    named = [("pod", n) for n in network.pod_subnets] + [("service", n) for n in network.service_subnets]
    # Members carry addresses and routes of these very networks.
    for host, facts in view.newcomers():
        for kind, subnet in named:
            inside = sorted(a for a in facts.addresses if ip_interface(a).ip in subnet)
            if inside:
                yield Hit(host.name, f"its address {inside[0]} lies in the {kind} subnet {subnet}")
                continue
            known = {str(ip_interface(a).network) for a in facts.addresses} | facts.routes
            close = sorted(n for n in known if _overlaps(ip_network(n, strict=False), subnet))
            if close:
                message = f"its network or route {close[0]} overlaps the {kind} subnet {subnet}"
                yield Hit(host.name, message, WARNING)


def _endpoint_unresolved(view: View) -> Iterator[Hit]:
    if _address(view.spec.endpoint.host) is not None:
        return
    for host, facts in view.nodes():
        if not facts.resolves_endpoint:
            yield Hit(host.name, f"the API endpoint's name {view.spec.endpoint.host} does not resolve on it")


def _endpoint_elsewhere(view: View) -> Iterator[Hit]:
    spec = view.spec
    if _address(spec.endpoint.host) is not None:
        return
    answers: dict[frozenset[str], list[str]] = {}
    for host, facts in view.nodes():
        if facts.resolves_endpoint:
            answers.setdefault(facts.resolves_endpoint, []).append(host.name)
    usual = max(answers, key=lambda a: len(answers[a]), default=frozenset())
    for addresses, names in answers.items():
        if addresses != usual:
            shown, other = ", ".join(sorted(addresses)), ", ".join(sorted(usual))
            for name in names:
                yield Hit(name, f"{spec.endpoint.host} is {shown} there, but {other} on {answers[usual][0]}")
    fronts = spec.load_balancers or spec.control_planes
    ours = {address for h in fronts for address in (h.node_ip, h.address)}
    if usual and not spec.endpoint_external and not usual & ours:
        shown, names = ", ".join(sorted(usual)), [h.name for h in fronts]
        yield Hit("", f"{spec.endpoint.host} resolves to {shown}, which is none of {', '.join(names)}")


def _answered(probe: UrlProbe) -> bool:
    # A registry that asks for a login answers 401: it is there.
    return probe.status > 0 if probe.use is UrlUse.REGISTRY else 200 <= probe.status < 400


def _unreadable(use: UrlUse) -> Run:
    def run(view: View) -> Iterator[Hit]:
        groups: dict[tuple[str, str], list[UrlProbe]] = {}
        for probe in view.probes.urls:
            if probe.use is use:
                groups.setdefault((probe.host, probe.subject), []).append(probe)
        for (name, _), probes in groups.items():
            if any(map(_answered, probes)):
                continue
            said = "; ".join(f"{p.url}: {p.detail or f'HTTP {p.status}'}" for p in probes)
            facts = view.facts.hosts.get(name)
            member = facts is not None and facts.reachable and view.is_member(facts)
            yield Hit(name, said, WARNING if member else None)

    return run


def _images_missing(view: View) -> Iterator[Hit]:
    if view.probes.images_problem:
        yield Hit("", view.probes.images_problem)
    yield from _unreadable(UrlUse.IMAGES)(view)


def _disk_slow(view: View) -> Iterator[Hit]:
    for probe in view.probes.fsync:
        if probe.p99_ms > SLOW_DISK_WARNING_MS:
            severity = ERROR if probe.p50_ms > SLOW_DISK_ERROR_MS else WARNING
            usual, worst = round_below(probe.p50_ms), round_below(probe.p99_ms)
            message = f"one synced write in a hundred in {probe.path} takes over {worst} ms"
            message += f", half of them over {usual} ms" if usual else ""
            yield Hit(probe.host, message, severity)


def _probe_failed(view: View) -> Iterator[Hit]:
    for name, problem in sorted(view.probes.problems.items()):
        yield Hit(name, f"{problem.what}: {problem.why}" if problem.why else problem.what, hint=problem.hint)


NETWORK_CHECKS: tuple[Check, ...] = (
    Check(
        "port-in-use",
        (ERROR,),
        "Another program has a port that Kubernetes, etcd or the load balancer needs.",
        "See it with ss -ltnp, then stop it or move it to another port.",
        _port_in_use,
    ),
    Check(
        "port-unreachable",
        (ERROR,),
        "A node cannot connect to another on a port the cluster needs (6443, 2379, 2380, 10250, the endpoint's).",
        "Allow the port between the nodes in host firewalls and in the network between them.",
        _port_unreachable,
    ),
    Check(
        "address-missing",
        (ERROR,),
        "The address a node is to be known by is on none of its interfaces (NAT, or a mistake in the inventory).",
        "Set the inventory variable ip to an address that ip addr shows on the host.",
        _address_missing,
    ),
    Check(
        "address-family",
        (ERROR,),
        "The address families of node, pod and service networks do not fit each other.",
        "Give every family a pod and a service subnet, the node's first, and every node an address of each.",
        _address_family,
    ),
    Check(
        "network-overlap",
        (ERROR, WARNING),
        "Pod or service subnets contain a host's address (error) or overlap a host's network or route (warning).",
        "Choose other subnets in cluster.yaml; they cannot be changed later.",
        _network_overlap,
    ),
    Check(
        "endpoint-unresolved",
        (ERROR,),
        "The API endpoint's name does not resolve on a node.",
        "Add the name to DNS or to /etc/hosts of every node.",
        _endpoint_unresolved,
    ),
    Check(
        "endpoint-elsewhere",
        (WARNING,),
        "The API endpoint's name means different addresses on different nodes, or none of this inventory's hosts.",
        "Make DNS and /etc/hosts agree: getent ahosts NAME on each node.",
        _endpoint_elsewhere,
    ),
    Check(
        "repository-unreachable",
        (ERROR, WARNING),
        "A node cannot read the Kubernetes package repository (a warning on members, which have their packages).",
        "Allow it, set a proxy for apt or dnf on the host, or set kubernetes.repository to a mirror.",
        _unreadable(UrlUse.REPOSITORY),
    ),
    Check(
        "registry-unreachable",
        (ERROR, WARNING),
        "A node reaches neither the image registry nor a mirror of it (a warning on members).",
        "Allow it, set containerd.mirrors or kubernetes.imageRepository, or preload with kubernetes.images.",
        _unreadable(UrlUse.REGISTRY),
    ),
    Check(
        "images-missing",
        (ERROR, WARNING),
        "The image archives of this version are not where kubernetes.images points to.",
        "Put the archives and images.json into <images>/vX.Y.Z/.",
        _images_missing,
    ),
    Check(
        "disk-slow",
        (ERROR, WARNING),
        "Synced writes where etcd keeps its data are slow: one in a hundred over 10 ms; an error when half "
        "of them take over 100 ms, etcd's heartbeat.",
        "Give /var/lib/etcd a disk of its own (SSD, no network file system).",
        _disk_slow,
    ),
    Check(
        "probe-failed",
        (WARNING,),
        "A probe could not be run on a host; what it would have told is unknown.",
        "Run preflight again; see whether the host is overloaded.",
        _probe_failed,
    ),
)
