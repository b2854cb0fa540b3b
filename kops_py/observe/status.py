"""What ``kops-py status`` reads from the API."""

from __future__ import annotations

from collections.abc import Iterable

from kops_py.connect.base import JsonObject, KubeApi
from kops_py.model.cordon import cordon_owner, stop_reason
from kops_py.model.facts import NodeFacts
from kops_py.model.status import ClusterStatus, EtcdPodStatus, NodeStatus
from kops_py.observe.cluster import (
    cluster_configuration,
    dns_problems,
    has_local_etcd,
    node_facts,
    pod_problem,
    server_version,
    stuck_pods,
    system_pod_problems,
    unready_nodes,
)

_SYSTEM = "/api/v1/namespaces/kube-system"
_APPS = "/apis/apps/v1/namespaces/kube-system"
_ROLE_PREFIX = "node-role.kubernetes.io/"


def observe_status(api: KubeApi) -> ClusterStatus:
    """Return what the API tells about the cluster; certificates and etcd's own answer come from the hosts.

    Raises KubeError.
    """
    config = cluster_configuration(api.get_or_none(f"{_SYSTEM}/configmaps/kubeadm-config"))
    nodes = [node_facts(o) for o in api.items("/api/v1/nodes")]
    pods = list(api.items(f"{_SYSTEM}/pods"))
    proxy = api.get_or_none(f"{_APPS}/daemonsets/kube-proxy")
    dns = api.get_or_none(f"{_APPS}/deployments/coredns")
    tokens = api.items(f"{_SYSTEM}/secrets", params={"fieldSelector": "type=bootstrap.kubernetes.io/token"})
    local_etcd = has_local_etcd(config)
    return ClusterStatus(
        server_version=str(server_version(api.get("/version"))),
        cluster_name=str((config or {}).get("clusterName") or ""),
        endpoint=str((config or {}).get("controlPlaneEndpoint") or ""),
        nodes=tuple(sorted((node_status(n) for n in nodes), key=lambda n: n.name)),
        etcd_pods=etcd_pods(nodes, pods) if local_etcd else (),
        external_etcd=not local_etcd,
        bootstrap_tokens=sum(1 for _ in tokens),
        unhealthy=(
            *unready_nodes(nodes),
            *system_pod_problems(nodes, pods, local_etcd=local_etcd, has_proxy=proxy is not None),
            *dns_problems(dns, pods),
            *stuck_pods(pods),
        ),
    )


def node_status(node: NodeFacts) -> NodeStatus:
    """Return what is shown of a node."""
    roles = {k.removeprefix(_ROLE_PREFIX) for k in node.labels if k.startswith(_ROLE_PREFIX)}
    if "control-plane" in roles:
        roles.discard("master")
    return NodeStatus(
        name=node.name,
        roles=tuple(sorted(roles)) or ("worker",),
        ready=node.ready,
        reason=node.reason,
        version=node.version,
        internal_ip=node.internal_ip,
        os_image=node.os_image,
        kernel=node.kernel,
        container_runtime=node.container_runtime,
        cordoned=node.unschedulable,
        cordoned_by=cordon_owner(node),
        stopped=stop_reason(node),
    )


def etcd_pods(nodes: Iterable[NodeFacts], pods: Iterable[JsonObject]) -> tuple[EtcdPodStatus, ...]:
    """Return the state of the etcd pod of every control plane; one that is absent is not healthy."""
    by_name = {str(p["metadata"]["name"]): p for p in pods}
    found = []
    for node in sorted((n for n in nodes if n.is_control_plane), key=lambda n: n.name):
        pod = by_name.get(f"etcd-{node.name}")
        problem = pod_problem(pod) if pod else "its mirror pod has not appeared in the API"
        if not problem and not node.ready:
            problem = f"its node is not Ready: {node.reason}"
        found.append(EtcdPodStatus(node.name, healthy=not problem, problem=problem))
    return tuple(found)
