"""The pod network: a manifest applied through the API, or the bridge network written on every node."""

from __future__ import annotations

from kops_py.actions.deps import Deps
from kops_py.actions.waiting import remaining_s
from kops_py.connect.base import Host
from kops_py.connect.kube_manifests import split_manifests
from kops_py.engine.run import StepContext
from kops_py.model.actions import ApplyNetwork, ConfigureBridge
from kops_py.model.errors import KubeError
from kops_py.observe.cluster import NETWORK_DIGEST, node_facts
from kops_py.tools import bridge

_POLL_S = 0.5


def apply_network(deps: Deps, action: ApplyNetwork, ctx: StepContext) -> None:
    """Apply every object of the manifest, then record its digest; raises KubeError, ConfigError."""
    api = deps.kube.api()
    for manifest in split_manifests(deps.read_manifest(), source=action.manifest):
        ctx.remaining_s()
        ctx.progress(f"applied {api.apply(manifest)}")
    api.apply(
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {
                "name": "kops-py",
                "namespace": "kube-system",
                "annotations": {NETWORK_DIGEST: action.digest},
            },
        }
    )


def configure_bridge(deps: Deps, action: ConfigureBridge, ctx: StepContext) -> None:
    """Write the node's CNI configuration and its routes to the pod networks of all other nodes.

    The list of peers says that the node is done, so it gets its name only in the script that also applies it:
    that script runs to its end on the node even when this program does not.
    """
    peers, own_cidrs = _pod_networks(deps, action.node, ctx)
    host, spec = deps.fleet.host(action.node), deps.spec
    routes = bridge.routes_script(action.node, spec.network.pod_subnets)
    mtu = _uplink_mtu(host, spec.host(action.node).node_ip)
    upcoming = f"{bridge.PEERS_PATH}.next"
    host.write_file(bridge.SCRIPT_PATH, routes.encode(), mode=0o700)
    host.write_file(bridge.UNIT_PATH, bridge.routes_unit().encode(), mode=0o644)
    host.write_file(bridge.CNI_PATH, bridge.conflist(own_cidrs, mtu=mtu).encode(), mode=0o644)
    host.write_file(upcoming, bridge.peers_text(peers).encode())
    script = f"mv -f {upcoming} {bridge.PEERS_PATH}\n{bridge.apply_script()}"
    host.run(("sh", "-c", script), sudo=True, timeout_s=min(90.0, ctx.remaining_s()), cancel=deps.cancel)


def _pod_networks(deps: Deps, node: str, ctx: StepContext) -> tuple[dict[str, tuple[str, str]], tuple[str, ...]]:
    """Return podCIDR and address of every node, and the node's own podCIDRs, once all of them have one."""
    while True:
        objects = list(deps.kube.api().items("/api/v1/nodes"))
        facts = [node_facts(o) for o in objects]
        lacking = sorted(n.name for n in facts if not (n.pod_cidr and n.internal_ip))
        if not lacking:
            break
        problem = f"the pod network of {', '.join(lacking)} is not assigned yet"
        ctx.progress(problem, waiting=True)
        remaining_s(ctx, problem, hint="look at it: kubectl get nodes; kubectl -n kube-system get pods")
        ctx.cancel.wait(_POLL_S)
    spec = next((o.get("spec") or {} for o in objects if o["metadata"]["name"] == node), None)
    if spec is None:
        raise KubeError("is not a node of the cluster", where=node, hint="run the same command again: it joins it")
    return {n.name: (n.pod_cidr, n.internal_ip) for n in facts}, tuple(spec.get("podCIDRs") or [spec["podCIDR"]])


def _uplink_mtu(host: Host, node_ip: str) -> int | None:
    answer = host.run(bridge.uplink_argv(node_ip), check=False)
    try:
        return bridge.parse_uplink_mtu(answer.out)
    except ValueError:
        return None  # an iproute2 without JSON: the kernel's default then
