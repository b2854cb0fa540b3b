"""Looks at hosts for a restore: manifests, containers, data and the marks of restores; with the API down."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from types import MappingProxyType

from kops_py.connect.base import Cancel, Fleet, Host
from kops_py.model.errors import HostError, KopsError
from kops_py.model.etcd_restore import Mark, RestoreFacts, RestoreHost
from kops_py.model.membership import quorum
from kops_py.model.spec import ClusterSpec
from kops_py.observe.host_file import HostFile
from kops_py.tools import crictl, etcdctl
from kops_py.tools import etcd_restore as tool
from kops_py.tools.bolt import NotADatabaseError, read_database

_LOOK_S = 60.0
_VERSION_S = 60.0
_ELECTION_S, _ELECTION_POLL_S = 15.0, 1.0
"""For a new leader after the old one is gone: etcd's own timeout is a second, a busy machine needs several."""


def _say_nothing(_: str) -> None:
    """Tell nobody."""


def observe_restore(
    fleet: Fleet, spec: ClusterSpec, *, cancel: Cancel, closely: bool, on_wait: Callable[[str], None] = _say_nothing
) -> RestoreFacts:
    """Look at all nodes; ``closely`` also asks each member about itself, and reads the database of a silent one.

    While most members answer and too few can commit, they may be choosing a leader: that is waited for, so that a
    quorum is not taken for lost. Changes nothing. Raises CancelledError.
    """
    until = time.monotonic() + _ELECTION_S
    while True:
        facts = _look_at_all(fleet, spec, cancel=cancel, closely=closely)
        if not closely or not _may_elect([facts.hosts[h.name] for h in spec.member_hosts]) or time.monotonic() >= until:
            return facts
        on_wait("most members of etcd answer, and none is their leader yet: waiting for one")
        cancel.wait(_ELECTION_POLL_S)


def _may_elect(members: Sequence[RestoreHost]) -> bool:
    return sum(m.healthy for m in members) < quorum(len(members)) <= sum(m.answers for m in members)


def _look_at_all(fleet: Fleet, spec: ClusterSpec, *, cancel: Cancel, closely: bool) -> RestoreFacts:
    external = spec.etcd_hosts
    looked_at = list(dict.fromkeys(h.name for h in (*external, *spec.nodes)))
    closer = {h.name for h in (*external, *spec.control_planes)}

    def look(host: Host) -> RestoreHost:
        return observe_restore_host(host, spec, member=host.name in closer, closely=closely)

    answers = fleet.map(looked_at, look, cancel=cancel)
    cancel.check()
    hosts = {
        name: RestoreHost(name, problem=answer) if isinstance(answer, KopsError) else answer
        for name, answer in answers.items()
    }
    return RestoreFacts(MappingProxyType(hosts))


def observe_restore_host(host: Host, spec: ClusterSpec, *, member: bool, closely: bool) -> RestoreHost:
    """Look at one host; raises HostError."""
    output = host.run(("sh", "-c", tool.observe_script()), sudo=True, timeout_s=_LOOK_S).out
    found = tool.parse_observed(output)
    restores, begun = _marks(found)
    if not member:
        return RestoreHost(host.name, restores=restores, begun=begun)

    def one(key: str, otherwise: str = "") -> str:
        return next((v for v in found.get(key, ()) if v), otherwise)

    own = spec.host(host.name)
    result = RestoreHost(
        host.name,
        manifests=frozenset(found.get("manifest", ())),
        aside=frozenset(found.get("aside", ())),
        running=frozenset(found.get("running", ())),
        image=one("image"),
        unit=one("unit"),
        joins=not one("unit") or bool(one("initial")),
        member_name=one("name", own.member_name),
        peer_url=one("peer", own.peer_url),
        data_dir=one("data"),
        wal_dir=one("wal"),
        has_data="has-data" in found,
        data_bytes=_number(one("has-data")),
        free_bytes=_number(one("free")),
        restores=restores,
        begun=begun,
    )
    return _closely(host, result) if closely and result.data_dir else result


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
    """Add what the member says of itself, or what the database says of one that does not answer."""
    answered = _ask_member(host, found) if "etcd" in found.running else None
    return answered or _read_data(host, found)


def _ask_member(host: Host, found: RestoreHost) -> RestoreHost | None:
    """Ask a running member; None when it does not answer. What it leaves open stays unknown: then it is not healthy."""
    container = None
    if not found.unit:
        listed = host.run(crictl.containers_argv("etcd"), sudo=True, check=False, timeout_s=_LOOK_S)
        container = etcdctl.parse_container_id(listed.out)
        if container is None:
            return None

    def ask(argv: tuple[str, ...]) -> str:
        command = etcdctl.in_container(container, argv) if container else tool.on_host(argv)
        return host.run(command, sudo=True, check=False, timeout_s=_LOOK_S).out

    try:
        (status,) = etcdctl.parse_endpoint_status(ask(etcdctl.endpoint_status_argv()))
    except ValueError:
        return None
    # Without a leader it would take etcdctl's whole time to say that nothing is committed.
    asked = bool(status.leader_id) and not status.is_learner
    commits, alarms = _commits(ask(etcdctl.endpoint_health_argv())) if asked else (False, ())
    return dataclasses.replace(
        found,
        version=status.version,
        bumps_revision=tool.bumps_revision(status.version),
        revision=status.revision,
        answers=not status.is_learner,
        healthy=commits,
        alarms=tuple(dict.fromkeys((*(a for e in status.errors for a in etcdctl.alarms_in(e)), *alarms))),
        holds_cluster=etcdctl.parse_holds_cluster(ask(etcdctl.holds_cluster_argv())),
    )


def _commits(output: str) -> tuple[bool, tuple[str, ...]]:
    """Return whether a quorum answers through the member, and the alarms, with which 3.5 calls it unhealthy."""
    try:
        health = etcdctl.parse_endpoint_health(output)
    except ValueError:
        return False, ()
    return all(h.commits for h in health), tuple(a for h in health for a in etcdctl.alarms_in(h.problem))


def _read_data(host: Host, found: RestoreHost) -> RestoreHost:
    """Add a member's version from its program, and the revision from its database, which may be in use.

    A database that cannot be read is worth nothing, and says so by its revision of 0.
    """
    with suppress(HostError):
        answer = host.run(("sh", "-c", tool.version_script(found.image)), sudo=True, timeout_s=_VERSION_S, check=False)
        version = tool.parse_version(answer.out)
        found = dataclasses.replace(found, version=version, bumps_revision=tool.bumps_revision(version))
    if found.has_data:
        # Not by etcd's own program: it waits for a lock that a running member does not give away.
        file = HostFile(host, tool.database(found.data_dir), found.data_bytes, timeout_s=_LOOK_S)
        with suppress(HostError, NotADatabaseError):
            found = dataclasses.replace(found, revision=read_database(file).revision)
    return found


def _number(text: str) -> int:
    return int(text) if text.isdigit() else 0
