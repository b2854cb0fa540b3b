"""The cluster as its API tells it: facts for the planner, and what keeps it from being healthy."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from types import MappingProxyType
from typing import Any

from kops_py.connect.base import JsonObject, KubeApi
from kops_py.model.errors import KubeError
from kops_py.model.facts import KubeFacts, NodeFacts
from kops_py.model.version import Version
from kops_py.observe.pods import MIRROR

_SYSTEM = "/api/v1/namespaces/kube-system"
NETWORK_DIGEST = "kops-py/network-digest"
MANAGED_BY = {"app.kubernetes.io/managed-by": "kops-py"}
"""Label of what kops-py made in the cluster."""

UPLOADED_CERTIFICATES = "kubeadm-certs"
_PEM = re.compile("-----BEGIN CERTIFICATE-----(.*?)-----END CERTIFICATE-----", re.DOTALL)
_NOT_READY_TAINT = "node.kubernetes.io/not-ready"
_STATIC_PODS = ("kube-apiserver", "kube-controller-manager", "kube-scheduler")
_NO_NETWORK = ("network plugin", "NetworkPluginNotReady", "cni")
"""How kubelets of all versions say in the Ready condition that there is no pod network."""
_STUCK = frozenset(
    {
        "CrashLoopBackOff",
        "ImagePullBackOff",
        "ErrImagePull",
        "ErrImageNeverPull",
        "InvalidImageName",
        "CreateContainerConfigError",
        "CreateContainerError",
        "RunContainerError",
    }
)


def observe_cluster(
    api: KubeApi,
    *,
    expected_nodes: Sequence[str],
    network_expected: bool = True,
    absent: Collection[str] = (),
) -> KubeFacts:
    """Return one snapshot of the cluster.

    ``expected_nodes`` are named in ``unhealthy`` when they are not (yet) nodes. Without ``network_expected`` the
    operator brings the pod network later: DNS, and nodes that only lack the network, are no complaint then.
    ``absent`` nodes are known to be down; nothing is said of them. Raises KubeError.
    """
    version = server_version(api.get("/version"))
    nodes = {n.name: n for n in (node_facts(o) for o in api.items("/api/v1/nodes"))}
    config = cluster_configuration(api.get_or_none(f"{_SYSTEM}/configmaps/kubeadm-config"))
    own = api.get_or_none(f"{_SYSTEM}/configmaps/kops-py") or {}
    proxy = api.get_or_none("/apis/apps/v1/namespaces/kube-system/daemonsets/kube-proxy")
    dns = api.get_or_none("/apis/apps/v1/namespaces/kube-system/deployments/coredns")
    pods = list(api.items(f"{_SYSTEM}/pods"))
    config_map, local_etcd = config or {}, has_local_etcd(config)
    asked = [node for name, node in nodes.items() if name not in absent]
    return KubeFacts(
        server_version=version,
        nodes=MappingProxyType(nodes),
        has_kubeadm_config=config is not None,
        has_kube_proxy=proxy is not None,
        has_dns=dns is not None,
        cluster_name=str(config_map.get("clusterName") or ""),
        control_plane_endpoint=str(config_map.get("controlPlaneEndpoint") or ""),
        kubernetes_version=str(config_map.get("kubernetesVersion") or ""),
        network_digest=str(((own.get("metadata") or {}).get("annotations") or {}).get(NETWORK_DIGEST) or ""),
        unhealthy=(
            *missing_nodes(nodes, [name for name in expected_nodes if name not in absent]),
            # before their consequences: a network pod that crashes tells more than nodes that are not Ready
            *stuck_pods(p for p in pods if (p.get("spec") or {}).get("nodeName") not in absent),
            *unready_nodes(asked, network_expected=network_expected),
            *system_pod_problems(asked, pods, local_etcd=local_etcd, has_proxy=proxy is not None),
            *(dns_problems(dns, pods, one_is_enough=bool(absent)) if network_expected else ()),
        ),
        silent_watches=silent_watches(nodes.values(), pods) if local_etcd else (),
        join_secrets=observe_join_secrets(api),
    )


def observe_join_secrets(api: KubeApi) -> tuple[str, ...]:
    """Return the names of what joins of ours left in the cluster; raises KubeError."""
    tokens = api.items(f"{_SYSTEM}/secrets", params={"fieldSelector": "type=bootstrap.kubernetes.io/token"})
    return join_secrets(tokens, api.get_or_none(f"{_SYSTEM}/secrets/{UPLOADED_CERTIFICATES}"))


def system_pod_problems(
    nodes: Collection[NodeFacts], pods: Collection[JsonObject], *, local_etcd: bool, has_proxy: bool
) -> tuple[str, ...]:
    """Name what these nodes lack of their static pods and, where the cluster has it, kube-proxy."""
    return (
        *static_pod_problems(nodes, pods, local_etcd=local_etcd),
        *(kube_proxy_problems([n.name for n in nodes], pods) if has_proxy else ()),
    )


def server_version(answer: JsonObject) -> Version:
    """Return the version of a /version answer, without what a distributor appended; raises KubeError."""
    text = str(answer.get("gitVersion") or "")
    try:
        return Version.parse(text.partition("+")[0])
    except ValueError as error:
        raise KubeError("the API server names no version", where="/version", why=f"gitVersion is {text!r}") from error


def node_facts(node: JsonObject) -> NodeFacts:
    """Return the facts of a Node object; ``reason`` says why it is not Ready."""
    metadata, spec, status = (node.get(part) or {} for part in ("metadata", "spec", "status"))
    ready, reason = _condition(status, "Ready")
    info = status.get("nodeInfo") or {}
    addresses = status.get("addresses") or []
    return NodeFacts(
        name=str(metadata["name"]),
        ready=ready,
        reason="" if ready else reason or "kubelet has not reported yet",
        version=str(info.get("kubeletVersion") or ""),
        internal_ip=next((str(a["address"]) for a in addresses if a.get("type") == "InternalIP"), ""),
        pod_cidr=str(spec.get("podCIDR") or ""),
        labels=MappingProxyType(dict(metadata.get("labels") or {})),
        taints=frozenset(_taint(t) for t in spec.get("taints") or []),
        unschedulable=bool(spec.get("unschedulable")),
        annotations=MappingProxyType(dict(metadata.get("annotations") or {})),
        os_image=str(info.get("osImage") or ""),
        kernel=str(info.get("kernelVersion") or ""),
        container_runtime=str(info.get("containerRuntimeVersion") or ""),
        boot_id=str(info.get("bootID") or ""),
        created_at=str(metadata.get("creationTimestamp") or ""),
    )


def cluster_authority(api: KubeApi) -> tuple[frozenset[bytes], str]:
    """Return the certificates (DER) that the cluster gives to those who join it, and where they are.

    Both are empty when it tells none. Raises KubeError.
    """
    import yaml

    info = api.get_or_none("/api/v1/namespaces/kube-public/configmaps/cluster-info") or {}
    try:
        config = yaml.safe_load((info.get("data") or {}).get("kubeconfig") or "")
        data = config["clusters"][0]["cluster"]["certificate-authority-data"]
        found = certificates_of(base64.b64decode(data).decode())
    except (yaml.YAMLError, KeyError, IndexError, TypeError, ValueError):
        found = frozenset()
    if found:
        return found, "ConfigMap kube-public/cluster-info"
    root = api.get_or_none(f"{_SYSTEM}/configmaps/kube-root-ca.crt") or {}
    found = certificates_of(str((root.get("data") or {}).get("ca.crt") or ""))
    return found, "ConfigMap kube-system/kube-root-ca.crt" if found else ""


def certificates_of(pem: str) -> frozenset[bytes]:
    """Return the certificates of a PEM text as DER; what is none is passed over."""
    found = set()
    for body in _PEM.findall(pem):
        with suppress(ValueError):
            found.add(base64.b64decode("".join(body.split()), validate=True))
    return frozenset(found)


def cluster_configuration(config_map: JsonObject | None) -> dict[str, Any] | None:
    """Return kubeadm's ClusterConfiguration, or None when kubeadm has not stored one; raises KubeError."""
    import yaml

    if config_map is None:
        return None
    text = (config_map.get("data") or {}).get("ClusterConfiguration")
    if not text:
        return None
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise KubeError(
            "kubeadm's stored ClusterConfiguration is not YAML",
            where="ConfigMap kube-system/kubeadm-config",
            why=str(error).partition("\n")[0],
            hint="repair it: kubectl -n kube-system edit configmap kubeadm-config",
        ) from error
    return value if isinstance(value, dict) else None


def has_local_etcd(config: Mapping[str, Any] | None) -> bool:
    """Whether control planes run etcd themselves: kubeadm's default unless etcd.external is set."""
    return "external" not in ((config or {}).get("etcd") or {})


def missing_nodes(nodes: Mapping[str, NodeFacts], expected: Iterable[str]) -> tuple[str, ...]:
    """Name the expected nodes that are not part of the cluster."""
    return tuple(f"node {name} has not joined the cluster" for name in expected if name not in nodes)


def unready_nodes(nodes: Iterable[NodeFacts], *, network_expected: bool = True) -> tuple[str, ...]:
    """Name the nodes that are not Ready, with their reason; a lacking pod network counts only when expected.

    The controller manager takes the not-ready taint away a moment after Ready; no pod is scheduled before that.
    """
    found = []
    for node in nodes:
        if not node.ready and (network_expected or not any(text in node.reason for text in _NO_NETWORK)):
            found.append(f"node {node.name} is not Ready: {node.reason}")
        elif node.ready and any(taint.startswith(_NOT_READY_TAINT) for taint in node.taints):
            found.append(f"node {node.name} is Ready, but its taint {_NOT_READY_TAINT} is not yet gone")
    return tuple(found)


def static_pod_problems(nodes: Iterable[NodeFacts], pods: Iterable[JsonObject], *, local_etcd: bool) -> tuple[str, ...]:
    """Name the control-plane pods that are absent or not Ready."""
    by_name = {str(p["metadata"]["name"]): p for p in pods}
    return tuple(
        f"{component} on {node.name}: {problem}"
        for node in nodes
        if node.is_control_plane
        for component in _components(local_etcd=local_etcd)
        if (problem := mirror_pod_problem(by_name.get(f"{component}-{node.name}")))
    )


def mirror_pod_problem(pod: JsonObject | None) -> str:
    """Return why a static pod does not serve, or an empty string.

    Mirror pods appear in the API only a while after a control plane joined: absent is not healthy.
    """
    if pod is None or MIRROR not in (pod["metadata"].get("annotations") or {}):
        return "its mirror pod has not appeared in the API"
    problem = pod_problem(pod)
    return "" if problem and has_started(pod) else problem


def has_started(pod: JsonObject) -> bool:
    """Whether every container runs and is ready, or has passed the startup probe that alone its readiness hangs on.

    kubeadm 1.20 restarts the kubelet at the end of init. That kubelet reports a passed startup probe at once as
    ``started``, but works out Ready only at the pod's next sync, up to 90 s later (pkg/kubelet/prober:
    updateStartup; pod workers resync every 60 s and a random half more). Nothing is less served in that time.
    """
    if pod["metadata"].get("deletionTimestamp"):
        return False
    containers = {c["name"]: c for c in (pod.get("spec") or {}).get("containers") or []}
    states = {c["name"]: c for c in (pod.get("status") or {}).get("containerStatuses") or []}
    return bool(containers) and all(
        name in states and (states[name].get("ready") is True or _only_lacks_a_sync(container, states[name]))
        for name, container in containers.items()
    )


def _only_lacks_a_sync(container: Mapping[str, Any], state: Mapping[str, Any]) -> bool:
    running = "running" in (state.get("state") or {})
    awaits_startup_only = "startupProbe" in container and "readinessProbe" not in container
    return running and awaits_startup_only and state.get("started") is True


def silent_watches(nodes: Iterable[NodeFacts], pods: Iterable[JsonObject]) -> tuple[str, ...]:
    """Name the first control plane when its API server runs since before the second one joined its etcd.

    While etcd grows from one voting member to two it has no leader for some seconds, and watches that are open
    then may stay silent for good (kubernetes/kubernetes#97294). Empty while the API server's start is unknown.
    """
    control_planes = sorted((n for n in nodes if n.is_control_plane), key=lambda n: (n.created_at, n.name))
    if len(control_planes) < 2:
        return ()
    first, second = control_planes[:2]
    pod = next((p for p in pods if p["metadata"]["name"] == f"kube-apiserver-{first.name}"), None)
    statuses = ((pod or {}).get("status") or {}).get("containerStatuses") or []
    started = [str(((s.get("state") or {}).get("running") or {}).get("startedAt") or "") for s in statuses]
    return (first.name,) if any(s and s < second.created_at for s in started) else ()


def kube_proxy_problems(nodes: Iterable[str], pods: Iterable[JsonObject]) -> tuple[str, ...]:
    """Name the nodes without a Ready kube-proxy."""
    by_node: dict[str, list[JsonObject]] = {}
    for pod in pods:
        if (pod["metadata"].get("labels") or {}).get("k8s-app") == "kube-proxy":
            by_node.setdefault(str((pod.get("spec") or {}).get("nodeName") or ""), []).append(pod)
    found = []
    for node in nodes:
        problems = [pod_problem(pod) for pod in by_node.get(node, [])]
        if not problems:
            found.append(f"kube-proxy on {node}: it has no pod yet")
        elif all(problems):
            found.append(f"kube-proxy on {node}: {problems[0]}")
    return tuple(found)


def dns_problems(
    deployment: JsonObject | None,
    pods: Iterable[JsonObject] = (),
    *,
    one_is_enough: bool = False,
    may_be_unseen: bool = False,
) -> tuple[str, ...]:
    """Say what DNS lacks: the deployment itself, or available replicas.

    While a node is down its replica is replaced only after five minutes; one that serves is enough then.
    ``may_be_unseen``: a change that no controller has seen yet, because none is at work, is no lack.
    """
    if deployment is None:
        return ("DNS: there is no Deployment kube-system/coredns",)
    status = deployment.get("status") or {}
    wanted = (deployment.get("spec") or {}).get("replicas")
    desired = 1 if wanted is None else int(wanted)
    available = int(status.get("availableReplicas") or 0)
    if desired == 0:
        return ("DNS: Deployment kube-system/coredns is scaled to 0",)
    observed = int(status.get("observedGeneration") or 0)
    unseen = observed < int((deployment.get("metadata") or {}).get("generation") or 0)
    if unseen and not may_be_unseen:
        return ("DNS: Deployment kube-system/coredns has changed and is not rolled out yet",)
    if available >= (1 if one_is_enough else desired):
        return ()
    causes = (pod_problem(p) for p in pods if (p["metadata"].get("labels") or {}).get("k8s-app") == "kube-dns")
    cause = next((c for c in causes if c), "")
    return (f"DNS: {available} of {desired} replicas available" + (f": {cause}" if cause else ""),)


def stuck_pods(pods: Iterable[JsonObject]) -> tuple[str, ...]:
    """Name the system pods whose containers crash or have no image, with what the kubelet says.

    Pods that another check speaks of already (static pods, kube-proxy, DNS) are left to it.
    """
    found = []
    for pod in pods:
        metadata = pod["metadata"]
        known = (metadata.get("labels") or {}).get("k8s-app") in {"kube-proxy", "kube-dns"}
        if known or MIRROR in (metadata.get("annotations") or {}):
            continue
        if reason := _waiting_reason(pod):
            found.append(f"pod kube-system/{metadata['name']}: {reason}")
    return tuple(found)


def join_secrets(tokens: Iterable[JsonObject], uploaded: JsonObject | None) -> tuple[str, ...]:
    """Name what a join of ours left: bootstrap tokens labelled or described as kops-py's, and uploaded certificates.

    Only names, labels and descriptions are looked at; the token values are not kept. Uploaded certificates count as
    ours when labelled so or when such a token is still there.
    """
    names = [str(s["metadata"]["name"]) for s in tokens if _is_our_token(s)]
    if uploaded is not None and (names or _is_labelled_ours(uploaded)):
        names.append(UPLOADED_CERTIFICATES)
    return tuple(sorted(names))


def pod_problem(pod: JsonObject) -> str:
    """Return why a pod does not serve, or an empty string when it is Ready."""
    if pod["metadata"].get("deletionTimestamp"):
        return "its pod is being deleted"
    if waiting := _waiting_reason(pod):
        return waiting
    status = pod.get("status") or {}
    ready, reason = _condition(status, "Ready")
    if ready:
        return ""
    scheduled, why = _condition(status, "PodScheduled")
    if why and not scheduled:
        return f"its pod is not scheduled: {why}"
    return f"its pod is {status.get('phase') or 'Pending'}, not Ready" + (f": {reason}" if reason else "")


def _waiting_reason(pod: JsonObject) -> str:
    status = pod.get("status") or {}
    for container in (status.get("initContainerStatuses") or []) + (status.get("containerStatuses") or []):
        waiting = (container.get("state") or {}).get("waiting") or {}
        if waiting.get("reason") in _STUCK:
            message = str(waiting.get("message") or "").strip()
            text = f"container {container.get('name')} is in {waiting['reason']}"
            return f"{text}: {message}" if message else text
    return ""


def _condition(status: Mapping[str, Any], kind: str) -> tuple[bool, str]:
    """Return whether a condition is True, and its reason and message in one text."""
    for condition in status.get("conditions") or []:
        if condition.get("type") == kind:
            texts = (condition.get("reason"), condition.get("message"))
            return condition.get("status") == "True", ": ".join(str(t).strip() for t in texts if t)
    return False, ""


def _components(*, local_etcd: bool) -> tuple[str, ...]:
    return (("etcd",) if local_etcd else ()) + _STATIC_PODS


def _taint(taint: Mapping[str, Any]) -> str:
    value = taint.get("value")
    return f"{taint['key']}={value}:{taint['effect']}" if value else f"{taint['key']}:{taint['effect']}"


def _is_labelled_ours(secret: JsonObject) -> bool:
    return MANAGED_BY.items() <= (secret["metadata"].get("labels") or {}).items()


def _is_our_token(secret: JsonObject) -> bool:
    if not str(secret["metadata"]["name"]).startswith("bootstrap-token-"):
        return False
    if _is_labelled_ours(secret):
        return True
    try:
        text = base64.b64decode((secret.get("data") or {}).get("description") or "")
    except (binascii.Error, ValueError):
        return False
    return text.startswith(b"kops-py")
