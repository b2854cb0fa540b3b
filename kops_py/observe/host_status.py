"""What ``status`` asks of the hosts: certificates, and what each control plane's etcd says of itself."""

from __future__ import annotations

from dataclasses import dataclass

from kops_py.connect.base import Host
from kops_py.model.status import Certificate, EtcdMember
from kops_py.tools import etcdctl
from kops_py.tools.certificates import certificates_argv, parse_certificates

_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class HostStatus:
    """What one host says; ``problems`` are sentences about what could not be read."""

    certificates: tuple[Certificate, ...] = ()
    etcd: tuple[EtcdMember, ...] = ()
    problems: tuple[str, ...] = ()


def observe_host_status(host: Host, *, control_plane: bool) -> HostStatus:
    """Ask one host; raises HostError when it cannot be asked at all."""
    problems: list[str] = []
    certificates: tuple[Certificate, ...] = ()
    output = host.run(certificates_argv(), sudo=True, timeout_s=_TIMEOUT_S).stdout
    try:
        certificates = parse_certificates(output, host=host.name)
    except ValueError as error:
        problems.append(f"{host.name}: {error}")
    if not control_plane:
        return HostStatus(certificates, (), tuple(problems))
    try:
        etcd = _observe_etcd(host)
    except ValueError as error:
        etcd = ()
        problems.append(f"{host.name}: etcd's answer is not understood: {error}")
    problems += [f"etcd on {host.name}: {m.problem}" for m in etcd if m.problem]
    return HostStatus(certificates, etcd, tuple(problems))


def observe_etcd_cluster(host: Host) -> tuple[EtcdMember, ...]:
    """Ask through the member on this host about all members; empty when none runs here. Raises HostError, ValueError.

    Members that do not answer are in it with their problem.
    """
    return _ask_etcd(host, whole_cluster=True)


def observe_etcd_alarms(host: Host) -> dict[int, tuple[str, ...]]:
    """Ask through the member on this host for the alarms of each member, by id; empty when none runs here.

    Raises HostError, ValueError.
    """
    found = host.run(etcdctl.find_container_argv(), sudo=True, check=False, timeout_s=_TIMEOUT_S)
    container = etcdctl.parse_container_id(found.out)
    if container is None:
        return {}
    argv = etcdctl.in_container(container, etcdctl.etcdctl_argv("alarm", "list"))
    return etcdctl.parse_alarms(host.run(argv, sudo=True, timeout_s=_TIMEOUT_S).out)


def _observe_etcd(host: Host) -> tuple[EtcdMember, ...]:
    """Ask the member on this host about itself; empty when no etcd runs here (external etcd). Raises ValueError."""
    return tuple(m for m in _ask_etcd(host, whole_cluster=False) if m.name == host.name)


def _ask_etcd(host: Host, *, whole_cluster: bool) -> tuple[EtcdMember, ...]:
    found = host.run(etcdctl.find_container_argv(), sudo=True, check=False, timeout_s=_TIMEOUT_S)
    container = etcdctl.parse_container_id(found.out)
    if container is None:
        manifest = host.run(("test", "-e", "/etc/kubernetes/manifests/etcd.yaml"), sudo=True, check=False)
        if not manifest.ok:
            return ()
        return (
            EtcdMember(name=host.name, member_id=0, endpoint="", healthy=False, problem="its container is not running"),
        )

    def ask(argv: tuple[str, ...]) -> str:
        answer = host.run(etcdctl.in_container(container, argv), sudo=True, check=False, timeout_s=_TIMEOUT_S)
        return answer.out if answer.out.strip() else answer.err

    return etcdctl.merge_members(
        etcdctl.parse_member_list(ask(etcdctl.member_list_argv())),
        etcdctl.parse_endpoint_status(ask(etcdctl.endpoint_status_argv(whole_cluster=whole_cluster))),
        etcdctl.parse_endpoint_health(ask(etcdctl.endpoint_health_argv(whole_cluster=whole_cluster))),
    )
