"""The gates of a rollout: a node that was worked on is healthy again, and nobody in the cluster was left hurt."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Iterator

from kops_py.actions.deps import Deps
from kops_py.actions.dns_gate import dns_silent
from kops_py.actions.etcd_gate import EtcdGate
from kops_py.actions.external_etcd import unhealthy_members
from kops_py.actions.static_pods import wait_static_pods
from kops_py.actions.waiting import remaining_s
from kops_py.connect.base import Host, JsonObject, KubeApi
from kops_py.engine.run import StepContext
from kops_py.model.actions import WaitNode
from kops_py.model.errors import DeadlineError, EtcdError, KubeError, UnreachableError
from kops_py.model.facts import NodeFacts
from kops_py.model.quantity import number_of
from kops_py.observe.cluster import (
    cluster_configuration,
    dns_problems,
    has_local_etcd,
    node_facts,
    pod_problem,
    system_pod_problems,
    unready_nodes,
)
from kops_py.observe.pods import MIRROR
from kops_py.tools import crictl
from kops_py.tools.systemd import BOOT_ID

_POLL_S = 0.5
_SYSTEM = "/api/v1/namespaces/kube-system"
_SETTLE_POLL_S = 1.0
_ASK_S = 15.0
_KUBE_PROXY = "/apis/apps/v1/namespaces/kube-system/daemonsets/kube-proxy"
_LEASES = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases"
_ELECTED = ("kube-controller-manager", "kube-scheduler")
_ENDING_S = 30.0
_PROXY_S = 90.0
_LEADERS_S = 60.0


def wait_node(deps: Deps, action: WaitNode, ctx: StepContext) -> None:
    """Wait until the node is healthy at its version, with all that belongs to it.

    That is: Ready, at the version, static pods healthy, kube-proxy and all other DaemonSet pods on it Ready, DNS
    available, and answering the node if it did before; of a control plane besides: every etcd member healthy and caught
    up, and, where no later drain waits for them, the cluster's controllers and scheduler at work. Raises KubeError
    naming what is lacking at the deadline.
    """
    if action.control_plane:
        deps.led = False
        wait_static_pods(deps, action.node, ctx)
    etcd, leaders = EtcdGate(), LeaderGate()

    def lacking() -> tuple[str, ...]:
        try:
            api = deps.kube.api()
            idle = leaders.problems(api) if action.control_plane and action.led else ()
            problems = _node_problems(api, deps.fleet.host(action.node), action, deps.short_before) or idle
            problems = problems or dns_silent(deps, action.node)
        except (UnreachableError, DeadlineError) as error:
            problems = (str(error),)
        if not problems and action.control_plane:
            problems = etcd.problems(deps.fleet.host(action.node)) or _external_etcd_problems(deps)
        return problems

    _wait(lacking, ctx, _POLL_S, f"{action.node} is not healthy")


class LeaderGate:
    """Sees whether somebody leads the controllers and the scheduler: whether its lease is renewed while we look.

    One that was restarted waits for the old lease to run out, some 15 s (kube-controller-manager --leader-elect-*);
    until then an evicted pod is not made anew anywhere. Clocks do not come into it.
    """

    def __init__(self) -> None:
        self._seen: dict[str, str] = {}
        self._renewed: set[str] = set()

    def problems(self, api: KubeApi) -> tuple[str, ...]:
        """Name those whose lease has not been renewed since the first look; leases that are not there do not count."""
        for name in _ELECTED:
            if name in self._renewed:
                continue
            lease = api.get_or_none(f"{_LEASES}/{name}")
            at = str(((lease or {}).get("spec") or {}).get("renewTime") or "")
            if lease is None or self._seen.setdefault(name, at) != at:
                self._renewed.add(name)
        return tuple(f"{name}: nobody renews its lease" for name in _ELECTED if name not in self._renewed)


def wait_leaders(deps: Deps, node: str, ctx: StepContext) -> None:
    """Wait before pods are moved from a node until somebody leads the controllers and the scheduler.

    Looked at once, and again when a control plane was worked on. Raises KubeError after ``_LEADERS_S``.
    """
    if deps.led:
        return
    leaders = LeaderGate()

    def lacking() -> tuple[str, ...]:
        api = deps.kube.api()
        if not _has_movable(api, node):
            return ()
        problems = leaders.problems(api)
        deps.led = not problems
        return problems

    hint = (
        "on a control plane: crictl ps -a, crictl logs; where one runs with --leader-elect=false, delete the Lease it "
        "left in kube-system; then run the same command again"
    )
    failure = "what would be evicted would be made anew by nobody, nothing has moved"
    _wait(lacking, ctx, _POLL_S, failure, limit_s=_LEADERS_S, hint=hint)


def wait_no_proxy_ending(deps: Deps, node: str, ctx: StepContext) -> None:
    """Wait for a moment in which kube-proxy's pod here is not ending, at most ``_ENDING_S``.

    After kubeadm it is rolled out, one node after the other, while the run goes on. A kubelet that is restarted while
    a pod is ending may leave it so for minutes (seen with v1.20.2: its pod worker is not picked up again).
    """
    until = time.monotonic() + _ENDING_S

    def lacking() -> tuple[str, ...]:
        if time.monotonic() >= until:
            return ()
        params = {"labelSelector": "k8s-app=kube-proxy", "fieldSelector": f"spec.nodeName={node}"}
        pods = deps.kube.api().items(f"{_SYSTEM}/pods", params=params)
        ending = [p for p in pods if p["metadata"].get("deletionTimestamp")]
        return (f"kube-proxy on {node}: its old pod is ending",) if ending else ()

    _wait(lacking, ctx, _POLL_S, "the node's kube-proxy is not seen to be whole")


def wait_proxy_rollout(deps: Deps, node: str, ctx: StepContext) -> None:
    """Wait before pods are moved from a node until kube-proxy is not being replaced, ``_PROXY_S`` in a run at most.

    A node whose kube-proxy is ending keeps its rules as they are: what moves then is asked for in vain from there
    (seen: connections refused for ten seconds). The rollout takes one node after the other, hours where there are
    thousands.
    """

    def lacking() -> tuple[str, ...]:
        api = deps.kube.api()
        proxy = api.get_or_none(_KUBE_PROXY)
        if proxy is None or not _being_replaced(proxy):
            return ()
        if deps.proxy_until_s is None:
            deps.proxy_until_s = time.monotonic() + _PROXY_S
        if time.monotonic() >= deps.proxy_until_s:
            return ()
        if not _has_movable(api, node):
            return ()
        status = proxy.get("status") or {}
        there, wanted = status.get("updatedNumberScheduled") or 0, status.get("desiredNumberScheduled") or 0
        return (f"kube-proxy is being replaced: {there} of {wanted}",)

    _wait(lacking, ctx, _POLL_S, "kube-proxy's rollout is not seen to be over, nothing has moved")


def _has_movable(api: KubeApi, node: str) -> bool:
    pods = api.items("/api/v1/pods", params={"fieldSelector": f"spec.nodeName={node}"})
    return not all(_belongs_to_node(p) for p in pods)


def _being_replaced(daemon: JsonObject) -> bool:
    """Whether a DaemonSet's pods are being replaced by newer ones, or will be (pkg/controller/daemon)."""
    status, spec = daemon.get("status") or {}, daemon.get("spec") or {}
    if (spec.get("updateStrategy") or {}).get("type") != "RollingUpdate":
        return False
    unseen = int(status.get("observedGeneration") or 0) < int(daemon["metadata"].get("generation") or 0)
    return unseen or int(status.get("updatedNumberScheduled") or 0) < int(status.get("desiredNumberScheduled") or 0)


def _node_problems(api: KubeApi, host: Host, action: WaitNode, short_before: Collection[str]) -> tuple[str, ...]:
    found = api.get_or_none(f"/api/v1/nodes/{action.node}")
    if found is None:
        return (f"{action.node} is not a node of the cluster",)
    node = node_facts(found)
    # Read before the API's word: what a node or a pod was before a restart stays Ready in the API for a while.
    boot_id, running = _boot_id(host), _running(host)
    if node.boot_id and node.boot_id != boot_id:
        return (f"the kubelet of {node.name} has not reported since the restart",)
    if problems := unready_nodes([node]):
        return problems
    if node.version.partition("+")[0] != action.version:
        return (f"the kubelet of {node.name} still reports {node.version}",)
    config = cluster_configuration(api.get_or_none(f"{_SYSTEM}/configmaps/kubeadm-config"))
    pods = list(api.items("/api/v1/pods", params={"fieldSelector": f"spec.nodeName={node.name}"}))
    return (
        *system_pod_problems([node], pods, local_etcd=has_local_etcd(config), has_proxy=_has_proxy(api)),
        *(_old_static_pods(node, pods, action.version) if action.control_plane else ()),
        *_daemon_problems(pods, short_before),
        *_gone(pods, running),
        *_dns_problems(api, led=action.led),
    )


def _boot_id(host: Host) -> str:
    return host.run(("cat", BOOT_ID), timeout_s=_ASK_S).out.strip()


def _running(host: Host) -> frozenset[str]:
    return crictl.parse_ids(host.run(crictl.running_argv(), sudo=True, check=False, timeout_s=_ASK_S).out)


def _gone(pods: Collection[JsonObject], running: Collection[str]) -> tuple[str, ...]:
    """Name the system pods whose containers, as the API shows them, do not run on the host any more."""
    found = []
    for pod in pods:
        if not _belongs_to_node(pod):
            continue
        shown = [str(c.get("containerID") or "") for c in (pod.get("status") or {}).get("containerStatuses") or []]
        if any(container.rpartition("/")[2] not in running for container in shown):
            name = f"{pod['metadata']['namespace']}/{pod['metadata']['name']}"
            found.append(f"{name}: the API still shows containers that do not run any more")
    return tuple(found)


def _belongs_to_node(pod: JsonObject) -> bool:
    """Whether a pod is a static pod or a DaemonSet's."""
    metadata = pod["metadata"]
    owners = metadata.get("ownerReferences") or []
    return MIRROR in (metadata.get("annotations") or {}) or any(o.get("kind") == "DaemonSet" for o in owners)


def _has_proxy(api: KubeApi) -> bool:
    return api.get_or_none(_KUBE_PROXY) is not None


def _dns_problems(api: KubeApi, *, led: bool) -> tuple[str, ...]:
    dns = api.get_or_none("/apis/apps/v1/namespaces/kube-system/deployments/coredns")
    if dns is None:
        return ()  # a cluster with another DNS
    pods = api.items(f"{_SYSTEM}/pods", params={"labelSelector": "k8s-app=kube-dns"})
    # Where its replicas fit only on nodes that are out of service, one must do until they are back.
    return dns_problems(dns, pods, one_is_enough=True, may_be_unseen=not led)


def _old_static_pods(node: NodeFacts, pods: Collection[JsonObject], version: str) -> tuple[str, ...]:
    """Name the static pods whose mirror still shows another version: the kubelet has not taken up the new one."""
    found = []
    for component in ("kube-apiserver", "kube-controller-manager", "kube-scheduler"):
        pod = next((p for p in pods if p["metadata"]["name"] == f"{component}-{node.name}"), None)
        image = str(((pod or {}).get("spec") or {}).get("containers", [{}])[0].get("image") or "")
        if pod is not None and image.partition("@")[0].rpartition(":")[2].partition("+")[0] != version:
            found.append(f"{component} on {node.name}: still {image}")
    return tuple(found)


def _daemon_problems(pods: Collection[JsonObject], short_before: Collection[str]) -> tuple[str, ...]:
    """Name the DaemonSet pods that are not healthy; of what was short before the run, those of kube-system only."""
    found = []
    for pod in pods:
        metadata = pod["metadata"]
        if MIRROR in (metadata.get("annotations") or {}) or not _belongs_to_node(pod):
            continue
        owners = (o["name"] for o in metadata.get("ownerReferences") or [] if o.get("kind") == "DaemonSet")
        if metadata["namespace"] != "kube-system" and any(
            f"DaemonSet {metadata['namespace']}/{name}" in short_before for name in owners
        ):
            continue
        if problem := pod_problem(pod):
            found.append(f"{metadata['namespace']}/{metadata['name']}: {problem}")
    return tuple(found)


def _external_etcd_problems(deps: Deps) -> tuple[str, ...]:
    """Name the members of an external etcd of ours that are not healthy."""
    etcd = deps.spec.external
    if etcd is None or not any(deps.hosts[n].etcd_ca for n in etcd.hosts if n in deps.hosts):
        return ()
    try:
        return unhealthy_members(deps, etcd)
    except EtcdError as error:
        return (str(error),)


def unavailable_workloads(api: KubeApi) -> dict[str, str]:
    """Return the workloads with fewer available pods than they want; raises KubeError.

    A node that is out of service for now may lack its pod of a DaemonSet; wait_node looks at these node by node. One
    whose pods are being replaced may lack as many as it allows itself: kubeadm's new kube-proxy comes to one node
    after the other, which takes hours where there are thousands.
    """
    found = {name: f"{there} of {wanted} available" for name, there, wanted in _workloads(api) if there < wanted}
    daemons = [(name, there, wanted) for name, there, wanted in _daemons(api) if there < wanted]
    if not daemons:
        return found  # nodes are only counted when it matters: there may be thousands
    away = sum(1 for item in api.items("/api/v1/nodes") if _is_away(node_facts(item)))
    lacking = ((name, there, wanted - away) for name, there, wanted in daemons)
    return {**found, **{name: f"{there} of {wanted} available" for name, there, wanted in lacking if there < wanted}}


def _is_away(node: NodeFacts) -> bool:
    return node.unschedulable or not node.ready


def _daemons(api: KubeApi) -> Iterator[tuple[str, int, int]]:
    for item in api.items("/apis/apps/v1/daemonsets"):
        metadata, status = item["metadata"], item.get("status") or {}
        name = f"DaemonSet {metadata['namespace']}/{metadata['name']}"
        wanted = int(status.get("desiredNumberScheduled") or 0)
        yield name, int(status.get("numberAvailable") or 0), wanted - _under_way(item, wanted)


def _under_way(daemon: JsonObject, wanted: int) -> int:
    """Return how many pods a DaemonSet may lack for its own rollout; 0 when there is none."""
    if not _being_replaced(daemon):
        return 0
    strategy = daemon["spec"]["updateStrategy"]
    return number_of((strategy.get("rollingUpdate") or {}).get("maxUnavailable", 1), wanted)


def _workloads(api: KubeApi) -> Iterator[tuple[str, int, int]]:
    for kind, plural, counted in (
        ("Deployment", "deployments", "availableReplicas"),
        ("StatefulSet", "statefulsets", "readyReplicas"),
    ):
        for item in api.items(f"/apis/apps/v1/{plural}"):
            metadata, status = item["metadata"], item.get("status") or {}
            wanted = (item.get("spec") or {}).get("replicas")
            name = f"{kind} {metadata['namespace']}/{metadata['name']}"
            yield name, int(status.get(counted) or 0), 1 if wanted is None else int(wanted)


def _is_rolled_out(api: KubeApi, workload: str) -> bool:
    """Whether the owner of a Deployment or StatefulSet outside of kube-system is replacing its pods just now."""
    kind, _, path = workload.partition(" ")
    namespace, _, name = path.partition("/")
    if kind == "DaemonSet" or namespace == "kube-system":
        return False
    item = api.get_or_none(f"/apis/apps/v1/namespaces/{namespace}/{kind.lower()}s/{name}")
    if item is None:
        return False
    status = item.get("status") or {}
    unseen = int(status.get("observedGeneration") or 0) < int(item["metadata"].get("generation") or 0)
    return unseen or int(status.get("replicas") or 0) > int(status.get("updatedReplicas") or 0)


def wait_workloads(deps: Deps, ctx: StepContext) -> None:
    """Wait until no workload is short of pods that was not so before the run; raises KubeError at the deadline."""
    node = ctx.step.node
    failure = "workloads have not come back after the node was drained"
    _wait(lambda: short_workloads(deps, (node,)), ctx, _SETTLE_POLL_S, failure)


def short_workloads(deps: Deps, nodes: Collection[str]) -> tuple[str, ...]:
    """Name the workloads that are short now and were not before the run, first those these nodes ran; raises KubeError.

    Each says how many of its pods this run has moved from these nodes. Left out: what lost pods only on other nodes of
    this run, whose own gates wait for it, and what somebody is rolling out meanwhile (not in kube-system).
    """
    api = deps.kube.api()
    elsewhere = [pods for node, pods in deps.moved.items() if node not in nodes]
    found = []
    for name, how in sorted(unavailable_workloads(api).items()):
        if name in deps.short_before:
            continue
        counts = {node: _moved(deps.moved.get(node, ()), name) for node in nodes}
        if not any(counts.values()) and (any(_moved(pods, name) for pods in elsewhere) or _is_rolled_out(api, name)):
            continue
        moved = [f"{n} pod{'s' if n > 1 else ''} of it moved from {node}" for node, n in counts.items() if n]
        found.append((not moved, f"{name}: {how}" + (f" ({', '.join(moved)})" if moved else "")))
    return tuple(text for _, text in sorted(found))


def _moved(pods: Collection[str], workload: str) -> int:
    """Count the pods that are a workload's, by their names: those of its controller and what that puts behind it."""
    kind, _, name = workload.partition(" ")
    parts = 2 if kind == "Deployment" else 1
    return sum(1 for pod in pods if pod.rsplit("-", parts)[0] == name)


def _wait(
    lacking: Callable[[], tuple[str, ...]],
    ctx: StepContext,
    poll_s: float,
    failure: str,
    *,
    limit_s: float = math.inf,
    hint: str = "the node stays as it is; mend the cause, then run the same command again",
) -> None:
    """Poll until nothing is lacking; raises KubeError at the step's deadline, or after ``limit_s``."""
    begun = time.monotonic()
    while True:
        try:
            problems = lacking()
        except KubeError as error:
            problems = (str(error),)
        if not problems:
            return
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        ctx.progress(problems[0] + more, waiting=True)
        waited_s = time.monotonic() - begun
        try:
            remaining_s(ctx, problems[0])
            late = waited_s >= limit_s
        except DeadlineError:
            late = True
        if late:
            why = "; ".join(problems[:6])
            raise KubeError(f"{failure} after {waited_s:.0f} s", where=ctx.step.node, why=why, hint=hint)
        ctx.cancel.wait(poll_s)
