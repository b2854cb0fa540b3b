"""Looks at hosts for a restore: manifests, containers, data and the marks of restores; with the API down."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from types import MappingProxyType

from kops_py.connect.base import Cancel, Fleet, Host
from kops_py.model.errors import HostError, KopsError
from kops_py.model.etcd_restore import Mark, RestoreFacts, RestoreHost
from kops_py.model.spec import ClusterSpec, bracketed
from kops_py.model.status import EtcdMember
from kops_py.observe.host_status import observe_etcd_cluster
from kops_py.tools import etcd_restore as tool
from kops_py.tools import etcdctl

_LOOK_S = 60.0
_REVISION_S = 120.0
_KUBEADM_CONFIG = "/registry/configmaps/kube-system/kubeadm-config"


def observe_restore(fleet: Fleet, spec: ClusterSpec, *, cancel: Cancel, closely: bool) -> RestoreFacts:
    """Look at all nodes; ``closely`` also asks each member about itself and stopped ones' databases for a revision.

    Changes nothing. Raises CancelledError.
    """
    planes = {h.name for h in spec.control_planes}

    def look(host: Host) -> RestoreHost:
        return observe_restore_host(host, spec, control_plane=host.name in planes, closely=closely)

    answers = fleet.map([h.name for h in spec.nodes], look, cancel=cancel)
    cancel.check()
    hosts = {
        name: RestoreHost(name, problem=answer) if isinstance(answer, KopsError) else answer
        for name, answer in answers.items()
    }
    return RestoreFacts(MappingProxyType(hosts), _members(fleet, hosts) if closely else ())


def observe_restore_host(host: Host, spec: ClusterSpec, *, control_plane: bool, closely: bool) -> RestoreHost:
    """Look at one host; raises HostError."""
    output = host.run(("sh", "-c", tool.observe_script()), sudo=True, timeout_s=_LOOK_S).out
    found = tool.parse_observed(output)
    restores, begun = _marks(found)
    if not control_plane:
        return RestoreHost(host.name, restores=restores, begun=begun)

    def one(key: str, otherwise: str = "") -> str:
        return next((v for v in found.get(key, ()) if v), otherwise)

    node_ip = spec.host(host.name).node_ip
    result = RestoreHost(
        host.name,
        manifests=frozenset(found.get("manifest", ())),
        aside=frozenset(found.get("aside", ())),
        running=frozenset(found.get("running", ())),
        image=one("image"),
        member_name=one("name", host.name),
        peer_url=one("peer", f"https://{bracketed(node_ip)}:2380"),
        data_dir=one("data", "/var/lib/etcd"),
        wal_dir=one("wal"),
        has_data="has-data" in found,
        data_bytes=_number(one("has-data")),
        free_bytes=_number(one("free")),
        restores=restores,
        begun=begun,
    )
    return _closely(host, result) if closely else result


def _marks(found: Mapping[str, tuple[str, ...]]) -> tuple[Mapping[str, frozenset[Mark]], Mapping[str, str]]:
    names = {str(m) for m in Mark}
    restores: dict[str, set[Mark]] = {}
    for line in found.get("mark", ()):
        restore, _, mark = line.partition(" ")
        restores.setdefault(restore, set())
        if mark in names:
            restores[restore].add(Mark(mark))
    begun = dict(line.split(" ", 1) for line in found.get("begun", ()) if " " in line)
    return MappingProxyType({i: frozenset(m) for i, m in restores.items()}), MappingProxyType(begun)


def _closely(host: Host, found: RestoreHost) -> RestoreHost:
    """Add what the member says of itself, or what a stopped one's database says."""
    if "etcd" in found.running:
        return _ask_member(host, found)
    return _ask_image(host, found, with_revision=found.has_data) if found.image else found


def _ask_member(host: Host, found: RestoreHost) -> RestoreHost:
    """Ask a running member; what it does not answer stays unknown: then it is not healthy."""
    listed = host.run(etcdctl.find_container_argv(), sudo=True, check=False, timeout_s=_LOOK_S)
    container = etcdctl.parse_container_id(listed.out)
    if container is None:
        return found

    def ask(argv: tuple[str, ...]) -> str:
        answer = host.run(etcdctl.in_container(container, argv), sudo=True, check=False, timeout_s=_LOOK_S)
        return answer.out

    try:
        (status,) = etcdctl.parse_endpoint_status(ask(etcdctl.endpoint_status_argv()))
    except ValueError:
        return _ask_image(host, found, with_revision=False)
    try:
        healthy = all(h.healthy for h in etcdctl.parse_endpoint_health(ask(etcdctl.endpoint_health_argv())))
    except ValueError:
        healthy = False
    keys = ask(etcdctl.etcdctl_argv("get", _KUBEADM_CONFIG, "--keys-only", "--consistency=s"))
    return dataclasses.replace(
        found,
        version=status.version,
        bumps_revision=tool.bumps_revision(status.version),
        revision=status.revision,
        healthy=healthy and bool(status.leader_id) and not status.is_learner,
        holds_cluster=_has_keys(keys),
    )


def _has_keys(output: str) -> bool:
    try:
        return bool(json.loads(output.strip().splitlines()[-1]).get("kvs"))
    except (ValueError, IndexError, AttributeError):
        return False


def _ask_image(host: Host, found: RestoreHost, *, with_revision: bool) -> RestoreHost:
    """Add version and revision of a stopped member, from the programs in its image and its database.

    A database that cannot be read is worth nothing, and says so by its revision of 0.
    """
    try:
        answer = host.run(("sh", "-c", tool.version_script(found.image)), sudo=True, timeout_s=_REVISION_S, check=False)
        version = tool.parse_version(answer.out)
        found = dataclasses.replace(found, version=version, bumps_revision=tool.bumps_revision(version))
        if with_revision:
            script = tool.revision_script(found.image, found.data_dir)
            output = host.run(("sh", "-c", script), sudo=True, timeout_s=_REVISION_S, check=False).out
            found = dataclasses.replace(found, revision=int(json.loads(output.strip().splitlines()[-1])["revision"]))
    except (HostError, ValueError, KeyError, IndexError, TypeError):
        return found
    return found


def _members(fleet: Fleet, hosts: Mapping[str, RestoreHost]) -> tuple[EtcdMember, ...]:
    for name, host in hosts.items():
        if host.serves:
            try:
                return observe_etcd_cluster(fleet.host(name))
            except (HostError, ValueError):
                continue
    return ()


def _number(text: str) -> int:
    return int(text) if text.isdigit() else 0
