"""Members of etcd whose machine was installed anew: taken out before the machine joins again.

kubeadm join looks at every member first and refuses when one does not answer, so that a machine that lost its disk
could never come back under its old name or address while its old member is in the list.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from kops_py.model.actions import INIT_JOB, JOIN_JOB, ForgetEtcdMember
from kops_py.model.facts import Facts, HostFacts, JobState
from kops_py.model.finding import Finding
from kops_py.model.membership import answers, quorum_problem, without
from kops_py.model.plan import Step, Wave
from kops_py.model.spec import ClusterSpec, HostSpec, bracketed
from kops_py.model.status import EtcdMember
from kops_py.runbooks.node_remove import ETCD_QUORUM, is_cluster_host


def newcomers(spec: ClusterSpec, facts: Facts, limit: Collection[str]) -> tuple[HostSpec, ...]:
    """Return the control planes on which nothing of a cluster is, and whose join would bring a member of etcd.

    Where kubeadm works still, or left files, the join itself goes on or cleans up.
    """
    if spec.external_etcd or facts.kube is None:
        return ()
    return tuple(h for h in spec.control_planes if (not limit or h.name in limit) and _is_bare(facts.hosts[h.name]))


def _is_bare(host: HostFacts) -> bool:
    working = JobState.RUNNING in (host.jobs.get(INIT_JOB), host.jobs.get(JOIN_JOB))
    return host.reachable and not working and not is_cluster_host(host)


def stale_members(
    spec: ClusterSpec, facts: Facts, limit: Collection[str]
) -> tuple[tuple[HostSpec, tuple[EtcdMember, ...]], ...]:
    """Return the hosts that are to join and, of each, the members of its name or address that do not answer."""
    names = {h.name for h in spec.control_planes}
    found = []
    for host in newcomers(spec, facts, limit):
        own = tuple(m for m in facts.etcd if m.member_id and not answers(m) and _is_of(m, host, names - {host.name}))
        if own:
            found.append((host, own))
    return tuple(found)


def _is_of(member: EtcdMember, host: HostSpec, others: Collection[str]) -> bool:
    """Whether a member is of an earlier machine of the host; one with another host's name is that one's, anywhere."""
    if member.name == host.name:
        return True
    start = f"https://{bracketed(host.node_ip)}:"
    return member.name not in others and any(url.startswith(start) for url in (member.endpoint, *member.peer_urls))


def stale_members_wave(spec: ClusterSpec, facts: Facts, limit: Collection[str]) -> Wave:
    """Return the steps that take these members out; all of them before the first join."""
    steps = tuple(
        Step(
            f"etcd/{host.name}" if number == 0 else f"etcd/{host.name}/{member.member_id:x}",
            host.name,
            "take the member of its earlier installation out of etcd",
            ForgetEtcdMember(host.name, host.node_ip, stale=f"{member.member_id:x}"),
            spec.timeouts.node_ready_s,
            (f"etcdctl member remove {member.member_id:x} ({member.problem or 'it does not answer'})",),
        )
        for host, members in stale_members(spec, facts, limit)
        for number, member in enumerate(members)
    )
    return Wave("stale members of etcd", steps, max_parallel=1)


def stale_members_findings(spec: ClusterSpec, facts: Facts, limit: Collection[str]) -> Iterator[Finding]:
    """Return why a member must not be taken out now."""
    members = facts.etcd
    for host, own in stale_members(spec, facts, limit):
        for member in own:
            if problem := quorum_problem(members, member.name):
                yield ETCD_QUORUM.found(
                    f"its old member must go before it joins, and must not: {problem}", node=host.name
                )
            members = without(members, {member.name})
