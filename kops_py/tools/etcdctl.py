"""etcdctl on a control plane: its argv and its JSON, for etcd 3.4 to 3.6, and the plain health check beside it."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from kops_py.model.etcd import LOCAL_ENDPOINT, EtcdCredentials
from kops_py.model.status import CORRUPT, NOSPACE, EtcdMember

_KUBEADM_CONFIG = "/registry/configmaps/kube-system/kubeadm-config"
_WITH_AUTHORITY = (
    "/registry/configmaps/kube-public/cluster-info",
    "/registry/configmaps/kube-system/kube-root-ca.crt",
)
PKI = "/etc/kubernetes/pki/etcd"
_ALARMS = {1: NOSPACE, 2: CORRUPT}
"""AlarmType of etcd's rpc.proto."""
_ALARM_TEXT = re.compile(r"(?:memberID:\d+ +)?alarm:(\w+)|Active Alarm\(s\):((?: +\w+)+)")
"""How a member's status tells an alarm, and how ``endpoint health`` of 3.5 and newer does."""


@dataclass(frozen=True, slots=True)
class EtcdHealth:
    """Whether one endpoint is healthy; ``problem`` is etcd's own word when it is not."""

    endpoint: str
    healthy: bool
    problem: str = ""

    @property
    def commits(self) -> bool:
        """Whether a quorum answered through it: 3.5 and newer look for alarms, of any member, only after that."""
        return self.healthy or bool(alarms_in(self.problem))


@dataclass(frozen=True, slots=True)
class EtcdEndpointStatus:
    """What one endpoint says of itself; sizes in bytes, ``used_bytes`` is what a defragmentation would leave."""

    endpoint: str
    member_id: int
    version: str
    size_bytes: int
    used_bytes: int
    leader_id: int
    revision: int
    raft_term: int
    is_learner: bool
    errors: tuple[str, ...]
    cluster_id: int = 0
    applied_index: int = 0

    @property
    def is_leader(self) -> bool:
        """Whether this endpoint leads."""
        return self.member_id == self.leader_id


@dataclass(frozen=True, slots=True)
class EtcdMemberEntry:
    """One entry of the member list; ``name`` is empty for a member that was added and never started."""

    member_id: int
    name: str
    peer_urls: tuple[str, ...]
    client_urls: tuple[str, ...]
    is_learner: bool


def find_container_argv() -> tuple[str, ...]:
    """Return the command that prints the id of the running etcd container, if there is one."""
    return ("crictl", "ps", "--name", "etcd", "-q")


def parse_container_id(output: str) -> str | None:
    """Return the first container id of ``crictl ps -q``."""
    return next((line.strip() for line in output.splitlines() if line.strip()), None)


def in_container(container_id: str, argv: Iterable[str]) -> tuple[str, ...]:
    """Return ``argv`` to be run inside a container; images without a shell need none for this."""
    return ("crictl", "exec", container_id, *argv)


def holds_cluster_argv(*, pki: str = PKI) -> tuple[str, ...]:
    """Return the command that asks a member, without a quorum, for a key that only a cluster of kubeadm has."""
    return etcdctl_argv("get", _KUBEADM_CONFIG, "--keys-only", "--consistency=s", pki=pki)


def parse_holds_cluster(output: str) -> bool:
    """Read its output; what is no answer is no key."""
    try:
        return bool(json.loads(output.strip().splitlines()[-1]).get("kvs"))
    except (ValueError, IndexError, AttributeError):
        return False


def authority_argvs(*, pki: str = PKI) -> tuple[tuple[str, ...], ...]:
    """Return the commands for the objects that hold the certificate of a cluster's authority, for parse_values."""
    return tuple(etcdctl_argv("get", key, "--consistency=s", pki=pki) for key in _WITH_AUTHORITY)


def parse_values(output: str) -> tuple[bytes, ...]:
    """Read the values that ``etcdctl get`` printed; what is no answer has none."""
    try:
        found = json.loads(output.strip().splitlines()[-1]).get("kvs") or ()
        return tuple(base64.b64decode(kv["value"]) for kv in found)
    except (ValueError, IndexError, AttributeError, KeyError, TypeError):
        return ()


def etcdctl_argv(
    *command: str,
    endpoint: str = LOCAL_ENDPOINT,
    timeout_s: int = 5,
    pki: str = PKI,
    credentials: EtcdCredentials | None = None,
    output: str = "json",
) -> tuple[str, ...]:
    """Return an etcdctl command with a client certificate, by default the health check's in ``pki``.

    The flags are the same in 3.4 to 3.6, and the v3 API is their default.
    """
    own = credentials or EtcdCredentials(
        f"{pki}/ca.crt", f"{pki}/healthcheck-client.crt", f"{pki}/healthcheck-client.key"
    )
    return (
        "etcdctl",
        f"--endpoints={endpoint}",
        f"--cacert={own.ca}",
        f"--cert={own.cert}",
        f"--key={own.key}",
        f"--command-timeout={timeout_s}s",
        f"--write-out={output}",
        *command,
    )


def endpoint_status_argv(*, whole_cluster: bool = False, pki: str = PKI) -> tuple[str, ...]:
    """Return the command for parse_endpoint_status."""
    return etcdctl_argv("endpoint", "status", *(("--cluster",) if whole_cluster else ()), pki=pki)


def endpoint_health_argv(*, whole_cluster: bool = False, pki: str = PKI) -> tuple[str, ...]:
    """Return the command for parse_endpoint_health; it exits with 1 when an endpoint is unhealthy."""
    return etcdctl_argv("endpoint", "health", *(("--cluster",) if whole_cluster else ()), pki=pki)


def member_list_argv(*, pki: str = PKI) -> tuple[str, ...]:
    """Return the command for parse_member_list."""
    return etcdctl_argv("member", "list", pki=pki)


def member_add_argv(name: str, peer_url: str, *, learner: bool, pki: str = PKI) -> tuple[str, ...]:
    """Return the command that adds a member, as one without a vote where the version has that (3.4 and newer)."""
    more = ("--learner",) if learner else ()
    return etcdctl_argv("member", "add", name, f"--peer-urls={peer_url}", *more, pki=pki)


def member_promote_argv(member_id: int, *, pki: str = PKI) -> tuple[str, ...]:
    """Return the command that gives a learner its vote; it fails until the learner has caught up.

    No JSON: etcdctl 3.4.23 promotes, and panics when it prints that as JSON.
    """
    return etcdctl_argv("member", "promote", f"{member_id:x}", pki=pki, output="simple")


def member_remove_argv(member_id: int, *, pki: str = PKI) -> tuple[str, ...]:
    """Return the command that takes a member out; its exit status tells whether a quorum agreed."""
    return etcdctl_argv("member", "remove", f"{member_id:x}", pki=pki)


def hash_argv(revision: int = 0) -> tuple[str, ...]:
    """Return the command for parse_hash: the hash of one member's contents up to a revision (0: all of it)."""
    return etcdctl_argv("endpoint", "hashkv", f"--rev={revision}")


def move_leader_argv(member_id: int) -> tuple[str, ...]:
    """Return the command that hands leadership to another member; it must be sent to the leader."""
    return etcdctl_argv("move-leader", f"{member_id:x}")


def health_argv(endpoint: str = LOCAL_ENDPOINT, *, timeout_s: int = 5, pki: str = PKI) -> tuple[str, ...]:
    """Return the HTTPS health check of a host without a crictl that can exec, for parse_health."""
    return (
        "curl",
        "--silent",
        "--show-error",
        "--max-time",
        str(timeout_s),
        "--cacert",
        f"{pki}/ca.crt",
        "--cert",
        f"{pki}/healthcheck-client.crt",
        "--key",
        f"{pki}/healthcheck-client.key",
        f"{endpoint}/health",
    )


def parse_health(output: str, endpoint: str = LOCAL_ENDPOINT) -> EtcdHealth:
    """Read etcd's /health answer; ``health`` is the text "true" in all versions. Raises ValueError."""
    answer = _load(output, dict)
    healthy = str(answer.get("health")).lower() == "true"
    return EtcdHealth(endpoint, healthy, "" if healthy else str(answer.get("reason") or "it says it is not healthy"))


def parse_endpoint_health(output: str) -> tuple[EtcdHealth, ...]:
    """Read ``endpoint health``; raises ValueError."""
    return tuple(
        EtcdHealth(str(e.get("endpoint") or ""), bool(e.get("health")), str(e.get("error") or ""))
        for e in _load(output, list)
    )


def parse_endpoint_status(output: str) -> tuple[EtcdEndpointStatus, ...]:
    """Read ``endpoint status``; etcd leaves out what is zero or false. Raises ValueError."""
    return tuple(_endpoint_status(entry) for entry in _load(output, list))


def parse_hash(output: str) -> tuple[int, int]:
    """Read ``endpoint hashkv`` of one endpoint: the hash, and the revision it is of. Raises ValueError."""
    found = _load(output, list)
    if len(found) != 1:
        raise ValueError(f"hashes of {len(found)} endpoints in place of one")
    body = found[0].get("HashKV") or {}
    return int(body.get("hash") or 0), int((body.get("header") or {}).get("revision") or 0)


def parse_member_list(output: str) -> tuple[EtcdMemberEntry, ...]:
    """Read ``member list``; raises ValueError."""
    return tuple(
        EtcdMemberEntry(
            member_id=int(m["ID"]),
            name=str(m.get("name") or ""),
            peer_urls=tuple(m.get("peerURLs") or ()),
            client_urls=tuple(m.get("clientURLs") or ()),
            is_learner=bool(m.get("isLearner")),
        )
        for m in _load(output, dict).get("members") or []
    )


def parse_alarms(output: str) -> dict[int, tuple[str, ...]]:
    """Read ``alarm list``: the alarms of each member id; raises ValueError."""
    found: dict[int, tuple[str, ...]] = {}
    for entry in _load(output, dict).get("alarms") or []:
        member, kind = int(entry.get("memberID") or 0), entry.get("alarm")
        found[member] = (*found.get(member, ()), _ALARMS.get(kind, str(kind)))
    return found


def alarms_in(text: str) -> tuple[str, ...]:
    """Return the alarms that a problem is about; () when it is about anything else."""
    found = _ALARM_TEXT.fullmatch(text.strip())
    return (found[1],) if found and found[1] else tuple(found[2].split()) if found else ()


def parse_cluster_id(output: str) -> str:
    """Return the cluster id in the header of any answer, hexadecimal; raises ValueError."""
    answer = _load(output, dict)
    header = answer.get("header") or {}
    return f"{int(header.get('cluster_id') or 0):x}"


def parse_quota(metrics: str) -> int:
    """Return etcd_server_quota_backend_bytes of a /metrics answer; 0 when it is not in it."""
    for line in metrics.splitlines():
        name, _, value = line.partition(" ")
        if name == "etcd_server_quota_backend_bytes":
            try:
                return int(float(value))
            except ValueError:
                return 0
    return 0


def merge_members(
    members: Iterable[EtcdMemberEntry],
    statuses: Iterable[EtcdEndpointStatus],
    health: Iterable[EtcdHealth] = (),
) -> tuple[EtcdMember, ...]:
    """Join the three answers into what status shows; a member without a status does not answer."""
    by_id = {s.member_id: s for s in statuses}
    by_endpoint = {h.endpoint: h for h in health}
    found = []
    for member in members:
        endpoint = next(iter(member.client_urls), "")
        status, state = by_id.get(member.member_id), by_endpoint.get(endpoint)
        problems = [p for p in (*(status.errors if status else ()), state.problem if state else "") if p]
        alarms = [alarms_in(p) for p in problems]
        problem = "; ".join(problems)
        if status is None:
            problem = problem or ("it was added and has never started" if not member.name else "it does not answer")
        found.append(
            EtcdMember(
                name=member.name,
                member_id=member.member_id,
                endpoint=endpoint,
                healthy=status is not None and not problem and (state is None or state.healthy),
                version=status.version if status else "",
                size_bytes=status.size_bytes if status else 0,
                used_bytes=status.used_bytes if status else 0,
                is_leader=status.is_leader if status else False,
                is_learner=member.is_learner,
                leader_id=status.leader_id if status else 0,
                applied_index=status.applied_index if status else 0,
                revision=status.revision if status else 0,
                problem=problem,
                only_alarms=tuple(dict.fromkeys(a for found in alarms for a in found)) if all(alarms) else (),
                peer_urls=member.peer_urls,
                cluster_id=status.cluster_id if status else 0,
            )
        )
    return tuple(sorted(found, key=lambda m: m.name))


def _endpoint_status(entry: Mapping[str, Any]) -> EtcdEndpointStatus:
    status = entry.get("Status") or {}
    header = status.get("header") or {}
    return EtcdEndpointStatus(
        endpoint=str(entry.get("Endpoint") or ""),
        member_id=int(header.get("member_id") or 0),
        version=str(status.get("version") or ""),
        size_bytes=int(status.get("dbSize") or 0),
        used_bytes=int(status.get("dbSizeInUse") or 0),
        leader_id=int(status.get("leader") or 0),
        revision=int(header.get("revision") or 0),
        raft_term=int(status.get("raftTerm") or header.get("raft_term") or 0),
        is_learner=bool(status.get("isLearner")),
        errors=tuple(str(e) for e in status.get("errors") or ()),
        cluster_id=int(header.get("cluster_id") or 0),
        applied_index=int(status.get("raftAppliedIndex") or 0),
    )


def _load(output: str, shape: type[Any]) -> Any:
    """Read the JSON in an output that may have warnings of etcdctl on the lines before it."""
    lines = output.strip().splitlines()
    for start, line in enumerate(lines):
        if line.lstrip().startswith(("{", "[")):
            try:
                value = json.loads("\n".join(lines[start:]))
            except ValueError:
                continue
            if isinstance(value, shape):
                return value
    raise ValueError("the output holds no JSON of etcdctl")
