"""A whole cluster down: every host reset, workers side by side, then the control planes, the first one last.

Nothing is drained and nothing is kept: with the last control plane all that etcd knew is gone.
"""

from __future__ import annotations

from kops_py.model.facts import Facts
from kops_py.model.finding import Finding
from kops_py.model.plan import Plan, Step, Wave
from kops_py.model.spec import ClusterSpec, HostSpec
from kops_py.runbooks.decision import Decision
from kops_py.runbooks.node_remove import OTHER_CLUSTER, is_cluster_host, is_foreign, removal_progress, reset_step
from kops_py.runbooks.rollout import UNREACHABLE

REASON = "reset of the whole cluster"


def reset_cluster(spec: ClusterSpec, facts: Facts) -> Decision:
    """Plan the reset of every host of the inventory that belongs to a cluster; pure."""
    control_planes = tuple(s for h in reversed(spec.control_planes) for s in _steps(spec, facts, h))
    workers = tuple(s for h in spec.workers for s in _steps(spec, facts, h))
    waves = (
        Wave("workers", workers, max_parallel=spec.ssh.max_parallel),
        # One at a time: each takes itself out of etcd while the others still have a quorum.
        Wave("control planes", control_planes),
    )
    plan = Plan("reset", spec.name, tuple(w for w in waves if w.steps), notes=_notes(spec, facts))
    return Decision(plan, _findings(spec, facts))


def _steps(spec: ClusterSpec, facts: Facts, host: HostSpec) -> tuple[Step, ...]:
    found = facts.hosts[host.name]
    begun, done = removal_progress(spec, found)
    if not found.reachable or done or not (begun or is_cluster_host(found)):
        return ()
    return (reset_step(spec, host.name, REASON),)


def _findings(spec: ClusterSpec, facts: Facts) -> tuple[Finding, ...]:
    found = []
    for host in spec.nodes:
        if not facts.hosts[host.name].reachable:
            hint = "bring it back; ignored, it keeps its certificates and data"
            found.append(UNREACHABLE.found("cannot be reached: it would be left as it is", node=host.name, hint=hint))
        elif is_foreign(spec, facts, facts.hosts[host.name]):
            text = "its certificate authority is not the one of the control planes"
            found.append(OTHER_CLUSTER.found(text, node=host.name))
    return tuple(found)


def _notes(spec: ClusterSpec, facts: Facts) -> tuple[str, ...]:
    found = ["EVERYTHING IN THIS CLUSTER IS LOST: workloads, and all that etcd knows"]
    known = {h.name for h in spec.nodes}
    if left := sorted(set(facts.kube.nodes if facts.kube else ()) - known):
        found.append(f"not in the inventory, left as they are: {', '.join(left)}")
    if spec.external_etcd:
        found.append("etcd is not kubeadm's here: its members and data stay")
    if balancers := [h.name for h in spec.load_balancers]:
        found.append(f"haproxy stays on {', '.join(balancers)}")
    return tuple(found)
