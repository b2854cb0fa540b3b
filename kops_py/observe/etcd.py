"""What etcd says of itself, asked over SSH: stacked and external alike, with or without an API server.

Each host that may reach etcd is asked where its etcd container, its etcdctl and a client certificate are; the
members are then asked through the first host that has all of them.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import MappingProxyType
from urllib.parse import urlsplit

from kops_py.connect.base import Cancel, Fleet, Host
from kops_py.model.errors import EtcdError, HostError, KopsError, NotSetUpError
from kops_py.model.etcd import (
    KUBEADM_CREDENTIALS,
    LOCAL_ENDPOINT,
    EtcdAccess,
    EtcdCredentials,
    EtcdFacts,
    EtcdTarget,
)
from kops_py.model.spec import ClusterSpec
from kops_py.model.status import EtcdMember
from kops_py.tools import etcdctl
from kops_py.tools.etcd_snapshot import metrics_argv

_TIMEOUT_S = 30.0
_CLIENT = ("ca.crt", "healthcheck-client.crt", "healthcheck-client.key")
# crictl's pattern is a regular expression. The credentials come as triples; the first that is whole is the one.
_FIND = """\
container=$(crictl ps --name '^etcd$' -q 2>/dev/null | head -n 1)
echo "container $container"
command -v etcdctl >/dev/null 2>&1 && echo "etcdctl yes"
test -e /etc/kubernetes/manifests/etcd.yaml && echo "manifest yes"
[ -e /etc/kubernetes/pki/ca.crt ] || [ -e /etc/etcd/pki/ca.crt ] || echo "bare yes"
sed -n 's/^ *- --etcd-servers=\\(.*\\)$/servers \\1/p' /etc/kubernetes/manifests/kube-apiserver.yaml 2>/dev/null
number=0
while [ $# -ge 3 ]; do
  if [ -s "$1" ] && [ -s "$2" ] && [ -s "$3" ]; then echo "credentials $number"; break; fi
  number=$((number + 1))
  shift 3
done
"""


def etcd_targets(spec: ClusterSpec) -> tuple[EtcdTarget, ...]:
    """Return the hosts etcd may be asked from, those that are to run a member first."""
    external = spec.external
    if external is None:
        return tuple(
            EtcdTarget(h.name, LOCAL_ENDPOINT, KUBEADM_CREDENTIALS, h.name, h.node_ip) for h in spec.control_planes
        )
    own = EtcdCredentials(*(f"{external.pki}/{name}" for name in _CLIENT))
    members = [spec.host(name) for name in external.hosts]
    return (
        *(
            EtcdTarget(
                h.name, external.local_endpoint, (own, *KUBEADM_CREDENTIALS), external.member_names[h.name], h.node_ip
            )
            for h in members
        ),
        *(EtcdTarget(h.name, "", KUBEADM_CREDENTIALS) for h in spec.control_planes if h not in members),
    )


def observe_etcd(
    fleet: Fleet, targets: Sequence[EtcdTarget], *, cancel: Cancel | None = None, alarms_and_quota: bool = True
) -> EtcdFacts:
    """Ask etcd about all its members; changes nothing. Raises EtcdError when no host can ask it, CancelledError."""
    by_host = {t.host: t for t in targets}
    answers = fleet.map(list(by_host), lambda host: find_access(host, by_host[host.name], cancel), cancel=cancel)
    if cancel is not None:
        cancel.check()
    accesses = {name: a for name, a in answers.items() if isinstance(a, EtcdAccess)}
    problems = {name: str(a) for name, a in answers.items() if isinstance(a, KopsError)}
    expected = {t.host: t.member for t in targets if t.member}
    facts = EtcdFacts(
        accesses=MappingProxyType(accesses),
        problems=MappingProxyType(problems),
        expected=MappingProxyType(expected),
        unreachable=frozenset(name for name, a in answers.items() if isinstance(a, HostError)),
        bare=frozenset(name for name, a in answers.items() if isinstance(a, NotSetUpError)),
    )
    for name, access in accesses.items():
        try:
            whole = _ask_any(fleet.host(name), access, facts, cancel)
        except (HostError, ValueError) as error:
            at = f" at {', '.join((access.endpoint, *access.others))}" if access.others else ""
            problems[name] = f"etcd does not answer there{at}: {error}"
            continue
        return _complete(fleet, whole, by_host, cancel, alarms_and_quota)
    return _without_quorum(fleet, facts, by_host, problems, cancel)


def find_access(host: Host, target: EtcdTarget, cancel: Cancel | None = None) -> EtcdAccess:
    """Return how etcd is asked from a host; raises HostError, and EtcdError saying what is missing there."""
    files = [path for c in target.credentials for path in (c.ca, c.cert, c.key)]
    answer = host.run(("sh", "-c", _FIND, "sh", *files), sudo=True, timeout_s=_TIMEOUT_S, check=False, cancel=cancel)
    said = dict(line.partition(" ")[::2] for line in answer.out.splitlines())
    container, number = said.get("container", "").strip(), said.get("credentials", "")
    lacks = NotSetUpError if "bare" in said else EtcdError
    if not container and "manifest" in said and "etcdctl" not in said:
        raise EtcdError("etcd's container is not running", where=host.name, hint="crictl ps -a --name etcd")
    if not container and "etcdctl" not in said:
        raise lacks(
            "there is no etcd container and no etcdctl", where=host.name, hint="install etcdctl of etcd's version"
        )
    if not number.isdigit():
        raise lacks(
            "there is no client certificate for etcd",
            where=host.name,
            why="none of " + ", ".join(c.cert for c in target.credentials) + " is there with its key and authority",
        )
    # a host without a member asks those its API server asks, in that order
    urls = [target.endpoint] if target.endpoint else [u.strip() for u in said.get("servers", "").split(",")]
    endpoint, *others = [url for url in urls if url] or [""]
    if not endpoint:
        raise EtcdError("no API server there names an etcd", where=host.name, hint="kops-py bootstrap builds one")
    return EtcdAccess(
        host.name,
        endpoint,
        target.credentials[int(number)],
        container,
        has_member=bool(target.member),
        others=tuple(others),
    )


def ask(
    host: Host,
    access: EtcdAccess,
    *command: str,
    endpoint: str = "",
    timeout_s: int = 5,
    check: bool = False,
    cancel: Cancel | None = None,
) -> str:
    """Return what etcdctl prints; what it prints on standard error when it prints nothing else. Raises HostError."""
    argv = etcdctl.etcdctl_argv(
        *command, endpoint=endpoint or access.endpoint, timeout_s=timeout_s, credentials=access.credentials
    )
    if access.container:
        argv = etcdctl.in_container(access.container, argv)
    answer = host.run(argv, sudo=True, check=check, timeout_s=timeout_s + _TIMEOUT_S, cancel=cancel)
    return answer.out if answer.out.strip() else answer.err


def access_for(facts: EtcdFacts, member: EtcdMember) -> EtcdAccess | None:
    """Return how one member is asked: on its own host, else from any other host by its client URL."""
    own = facts.accesses.get(member.host)
    if own is not None and own.has_member:
        return own
    if not member.endpoint:
        return None
    return next((dataclasses.replace(a, endpoint=member.endpoint) for a in facts.accesses.values()), None)


def _ask_any(host: Host, access: EtcdAccess, facts: EtcdFacts, cancel: Cancel | None) -> EtcdFacts:
    """Ask by one URL after the other; the first that answers is the one hosts with a choice ask by from then on.

    Raises HostError, ValueError as the last one failed.
    """
    *urls, last = (access.endpoint, *access.others)
    for endpoint in urls:
        with contextlib.suppress(HostError, ValueError):
            whole = _ask_all(host, dataclasses.replace(access, endpoint=endpoint), facts, cancel)
            return _by(whole, endpoint)
    return _by(_ask_all(host, dataclasses.replace(access, endpoint=last), facts, cancel), last)


def _by(facts: EtcdFacts, endpoint: str) -> EtcdFacts:
    accesses = {
        name: dataclasses.replace(a, endpoint=endpoint) if endpoint in a.others else a
        for name, a in facts.accesses.items()
    }
    return dataclasses.replace(facts, accesses=MappingProxyType(accesses))


def _ask_all(host: Host, access: EtcdAccess, facts: EtcdFacts, cancel: Cancel | None) -> EtcdFacts:
    """Ask through one host about all members; raises HostError, ValueError without an answer."""
    questions = (("member", "list"), ("endpoint", "status", "--cluster"), ("endpoint", "health", "--cluster"))
    with ThreadPoolExecutor(len(questions), thread_name_prefix="kops-py etcd") as pool:
        listed, status, healthy = pool.map(lambda q: ask(host, access, *q, cancel=cancel), questions)
    members = etcdctl.parse_member_list(listed)
    if not members:
        raise ValueError("the list of members is empty")
    statuses = etcdctl.parse_endpoint_status(status)
    health = etcdctl.parse_endpoint_health(healthy)
    merged = etcdctl.merge_members(members, statuses, health)
    voters = [m for m in merged if not m.is_learner]
    answering = {s.member_id for s in statuses if s.leader_id}
    return dataclasses.replace(
        facts,
        members=merged,
        cluster_id=etcdctl.parse_cluster_id(listed),
        has_quorum=sum(m.member_id in answering for m in voters) * 2 > len(voters),
    )


def _complete(
    fleet: Fleet,
    facts: EtcdFacts,
    targets: Mapping[str, EtcdTarget],
    cancel: Cancel | None,
    alarms_and_quota: bool,
) -> EtcdFacts:
    members = tuple(dataclasses.replace(m, host=_host_of(m, targets.values())) for m in facts.members)
    if alarms_and_quota and facts.has_quorum:
        members = _with_alarms(fleet, dataclasses.replace(facts, members=members), cancel)
    return dataclasses.replace(facts, members=members)


def _with_alarms(fleet: Fleet, facts: EtcdFacts, cancel: Cancel | None) -> tuple[EtcdMember, ...]:
    alarms: dict[int, tuple[str, ...]] = {}
    for name, access in facts.accesses.items():
        try:
            alarms = etcdctl.parse_alarms(ask(fleet.host(name), access, "alarm", "list", cancel=cancel))
            break
        except (HostError, ValueError):
            continue

    def quota(host: Host) -> int:
        access = facts.accesses[host.name]
        argv = metrics_argv(access.endpoint, access.credentials)
        answer = host.run(argv, sudo=True, check=False, timeout_s=_TIMEOUT_S, cancel=cancel)
        return etcdctl.parse_quota(answer.out)

    own = [n for n, a in facts.accesses.items() if a.has_member]
    quotas = fleet.map(own, quota, cancel=cancel)
    return tuple(
        dataclasses.replace(
            m,
            alarms=alarms.get(m.member_id, ()),
            quota_bytes=q if isinstance(q := quotas.get(m.host, 0), int) else 0,
        )
        for m in facts.members
    )


def _without_quorum(
    fleet: Fleet,
    facts: EtcdFacts,
    targets: Mapping[str, EtcdTarget],
    problems: Mapping[str, str],
    cancel: Cancel | None,
) -> EtcdFacts:
    """Ask every member by itself: without a quorum none answers for the others. Raises EtcdError when none answers."""

    def alone(host: Host) -> EtcdMember | None:
        access = facts.accesses[host.name]
        try:
            statuses = etcdctl.parse_endpoint_status(ask(host, access, "endpoint", "status", cancel=cancel))
        except ValueError:
            return None
        return next((_lonely(s, targets[host.name]) for s in statuses), None)

    answers = fleet.map([n for n, a in facts.accesses.items() if a.has_member], alone, cancel=cancel)
    members = tuple(m for m in answers.values() if isinstance(m, EtcdMember))
    if not members:
        own = "on a control plane, crictl ps -a --name etcd and its log say why it is down"
        foreign = "this etcd is not kops-py's: look where it runs; control planes ask it with an etcdctl of their own"
        raise EtcdError(
            "no member of etcd answers",
            why="; ".join(f"{name}: {why}" for name, why in sorted(problems.items())),
            hint=f"kops-py etcd list shows the backups; {own if facts.expected else foreign}",
        )
    return dataclasses.replace(facts, members=members, has_quorum=False, problems=MappingProxyType(dict(problems)))


def _lonely(status: etcdctl.EtcdEndpointStatus, target: EtcdTarget) -> EtcdMember:
    return EtcdMember(
        name=target.member,
        member_id=status.member_id,
        endpoint=status.endpoint,
        healthy=False,
        version=status.version,
        size_bytes=status.size_bytes,
        used_bytes=status.used_bytes,
        is_learner=status.is_learner,
        revision=status.revision,
        problem="; ".join(status.errors) or "it has no quorum",
        host=target.host,
    )


def _host_of(member: EtcdMember, targets: Iterable[EtcdTarget]) -> str:
    """Return the host a member runs on: by its name, or by an address of its where it was never started."""
    own = [t for t in targets if t.member]
    by_name = next((t.host for t in own if t.member == member.name), "")
    if by_name or member.name:
        return by_name
    addresses = {urlsplit(url).hostname for url in member.peer_urls}
    return next((t.host for t in own if t.node_ip in addresses), "")
