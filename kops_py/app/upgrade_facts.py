"""What the rules about versions ask for beyond hosts and nodes: certificates, stored configuration, flags, API use."""

from __future__ import annotations

import dataclasses
import time
from datetime import UTC, datetime
from typing import Any

from kops_py.app.session import Session
from kops_py.connect.base import Host
from kops_py.model.errors import HostError, KubeError
from kops_py.model.event import Note
from kops_py.model.facts import Facts
from kops_py.model.spec import ClusterSpec
from kops_py.model.status import Certificate
from kops_py.model.upgrade import UpgradeFacts
from kops_py.model.version import Version
from kops_py.observe.addons import observe_addon_changes

_SYSTEM = "/api/v1/namespaces/kube-system"
_ETCD_SETTLES_S = 30.0
_API_SERVERS = {"labelSelector": "component=kube-apiserver"}


def observe_upgrade(opened: Session, facts: Facts, left_behind: frozenset[str]) -> UpgradeFacts:
    """Look at what an upgrade may stumble over; what cannot be read is left out. Raises KubeError, CancelledError."""
    spec, api = opened.spec, opened.kube.api()
    stored = _stored(api.get_or_none(f"{_SYSTEM}/configmaps/kubeadm-config"), "ClusterConfiguration")
    local = (stored.get("etcd") or {}).get("local") or {}
    kubelet = _kubelet_configuration(opened, facts)
    servers = list(api.items(f"{_SYSTEM}/pods", params=_API_SERVERS))
    return UpgradeFacts(
        now=datetime.now(UTC),
        api_servers=_api_server_versions(spec, facts),
        nodes=facts.kube.nodes if facts.kube else {},
        hosts={h.name: facts.hosts[h.name] for h in spec.nodes},
        left_behind=left_behind,
        kubeadm_documents={"ConfigMap kube-system/kubeadm-config": str(stored.get("apiVersion") or "")},
        fail_cgroup_v1=kubelet.get("failCgroupV1") if isinstance(kubelet.get("failCgroupV1"), bool) else None,
        etcd_members=facts.etcd,
        etcd_expected=frozenset() if spec.external_etcd else _etcd_expected(spec, facts),
        etcd_alarms=_etcd_alarms(opened, facts),
        etcd_flags=frozenset(_argument_names(local.get("extraArgs"))),
        admission_plugins=frozenset(p for pod in servers for p in _admission_plugins(pod)),
        addon_changes=observe_addon_changes(api),
        certificates=_certificates(opened, facts),
    )


def _etcd_alarms(opened: Session, facts: Facts) -> tuple[str, ...]:
    """Return the alarms as sentences, told by the first member that answers; an external etcd is not asked."""
    from kops_py.observe.host_status import observe_etcd_alarms

    names = {m.member_id: m.name for m in facts.etcd}
    for host in opened.spec.control_planes if facts.etcd else ():
        if facts.hosts[host.name].reachable:
            try:
                found = observe_etcd_alarms(opened.fleet.host(host.name))
            except (HostError, ValueError):
                continue
            return tuple(
                f"alarm {alarm} of etcd member {names.get(member, f'{member:x}')}"
                for member, alarms in found.items()
                for alarm in alarms
            )
    return ()


def _etcd_expected(spec: ClusterSpec, facts: Facts) -> frozenset[str]:
    """Return the control planes that have a member of etcd; not those that were taken out and are still listed."""
    nodes = facts.kube.nodes if facts.kube else {}
    return frozenset(h.name for h in spec.control_planes if h.name in nodes or facts.hosts[h.name].removal is None)


def _api_server_versions(spec: ClusterSpec, facts: Facts) -> dict[str, Version]:
    found = {}
    for host in spec.control_planes:
        image = facts.hosts[host.name].static_images.get("kube-apiserver", "")
        try:
            found[host.name] = Version.parse(image.partition("@")[0].rpartition(":")[2])
        except ValueError:
            continue
    return found


def _kubelet_configuration(opened: Session, facts: Facts) -> dict[str, Any]:
    version = facts.kube.server_version if facts.kube else None
    for name in ("kubelet-config", f"kubelet-config-1.{version.minor}" if version else ""):
        found = opened.kube.api().get_or_none(f"{_SYSTEM}/configmaps/{name}") if name else None
        if found is not None:
            return _stored(found, "kubelet")
    return {}


def _stored(config_map: dict[str, Any] | None, key: str) -> dict[str, Any]:
    """Read a document that kubeadm keeps in a ConfigMap; one that cannot be read says nothing."""
    import yaml

    try:
        value = yaml.safe_load(((config_map or {}).get("data") or {}).get(key) or "")
    except yaml.YAMLError:
        return {}
    return value if isinstance(value, dict) else {}


def _argument_names(arguments: Any) -> list[str]:
    """Return the names in extraArgs: a map up to v1beta3, a list of name and value from v1beta4."""
    if isinstance(arguments, dict):
        return [str(name) for name in arguments]
    return [str(a.get("name")) for a in arguments or [] if isinstance(a, dict)]


def _admission_plugins(pod: dict[str, Any]) -> list[str]:
    prefix = "--enable-admission-plugins="
    containers = (pod.get("spec") or {}).get("containers") or []
    words = [w for c in containers for w in (*(c.get("command") or ()), *(c.get("args") or ()))]
    return [plugin for w in words if w.startswith(prefix) for plugin in w.removeprefix(prefix).split(",")]


def _certificates(opened: Session, facts: Facts) -> tuple[Certificate, ...]:
    from kops_py.tools.certificates import certificates_argv, parse_certificates

    def work(host: Host) -> tuple[Certificate, ...]:
        output = host.run(certificates_argv(), sudo=True, timeout_s=30.0, cancel=opened.cancel).stdout
        try:
            return parse_certificates(output, host=host.name)
        except ValueError:
            return ()

    names = [h.name for h in opened.spec.nodes if facts.hosts[h.name].reachable]
    answers = opened.fleet.map(names, work, cancel=opened.cancel)
    return tuple(c for name in names if isinstance(answers[name], tuple) for c in answers[name])


def with_etcd(opened: Session, facts: Facts) -> Facts:
    """Return the facts with what etcd says of its members."""
    return dataclasses.replace(facts, etcd=opened.observe_etcd(facts))


def with_settled_etcd(opened: Session, facts: Facts) -> Facts:
    """Do the same, and ask again for half a minute while a member on a host that answers is not healthy.

    A control plane that just started, after a loss of power or a restart, is Ready before its etcd is. Raises
    CancelledError.
    """
    facts, until = with_etcd(opened, facts), time.monotonic() + _ETCD_SETTLES_S
    there = {h.member_name for h in opened.spec.member_hosts if facts.hosts[h.name].reachable}
    told = ""
    while ill := sorted(m.name for m in facts.etcd if not m.healthy and not m.only_alarms and m.name in there):
        if time.monotonic() >= until:
            break
        message = f"etcd on {', '.join(ill)} is not healthy: looking again for {_ETCD_SETTLES_S:.0f} s"
        if message != told:
            opened.emit(Note(message=message))
        told = message
        opened.cancel.wait(_ETCD_SETTLES_S / 10)
        opened.cancel.check()
        facts = with_etcd(opened, facts)
    return facts


def require_api(facts: Facts, verb: str) -> None:
    """Raise why the API cannot be asked, where nothing can be done without it."""
    if facts.kube is not None:
        return
    if facts.kube_problem is not None:
        raise facts.kube_problem
    for host in facts.hosts.values():
        if host.problem is not None:  # the cluster may be there, behind the host that cannot be asked
            raise host.problem
    raise KubeError(f"there is no cluster to {verb}", hint="kops-py bootstrap builds one")
