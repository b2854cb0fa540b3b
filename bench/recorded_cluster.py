"""A cluster of any size as an API server's lists, served in pages over TLS: bodies like real ones, nothing behind them.

    python -m bench.recorded_cluster NODES FOLDER

writes FOLDER/kubeconfig, serves until standard input ends, and answers lists of pods, nodes, budgets, volumes and
workloads with ``limit`` and ``continue`` as kube-apiserver does.
"""

from __future__ import annotations

import json
import ssl
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.integration.kube.pki import Authority, kubeconfig

PODS_PER_NODE = 30
DAEMONS_PER_NODE = 3
REPLICAS = 9
STAMP = "2026-01-01T00:00:00Z"


@dataclass(frozen=True)
class Recorded:
    """How many objects there are of a list, and the JSON text of each."""

    count: int
    item: Callable[[int], str]


def recorded(nodes: int) -> dict[str, Recorded]:
    """Return the lists of a cluster with this many nodes, by path."""
    pods = nodes * PODS_PER_NODE
    daemons = nodes * DAEMONS_PER_NODE
    workloads = (pods - daemons) // REPLICAS
    pod, budget, node, deployment = (json.dumps(o) for o in (_pod(), _budget(), _node(), _deployment()))

    def pod_at(number: int) -> str:
        if number < daemons:
            name, owner, place = f"agent-{number % DAEMONS_PER_NODE}", "DaemonSet", number // DAEMONS_PER_NODE
            namespace = "kube-system"
        else:
            rest = number - daemons
            name, owner = f"app-{rest // REPLICAS}", "ReplicaSet"
            place = (rest * 7919 + rest // nodes) % nodes
            namespace = f"team-{rest // REPLICAS % 200}"
        text = pod.replace("@NS@", namespace).replace("@APP@", name).replace("@NODE@", f"node-{place}")
        return text.replace("@KIND@", owner).replace("@N@", str(number)).replace("@CPU@", f"{50 + number % 7 * 25}m")

    def budget_at(number: int) -> str:
        return budget.replace("@NS@", f"team-{number * 2 % 200}").replace("@APP@", f"app-{number * 2}")

    def deployment_at(number: int) -> str:
        return deployment.replace("@NS@", f"team-{number % 200}").replace("@APP@", f"app-{number}")

    nothing = Recorded(0, lambda _: "")
    return {
        "/api/v1/pods": Recorded(pods, pod_at),
        "/api/v1/nodes": Recorded(nodes, lambda number: node.replace("@NODE@", f"node-{number}")),
        "/api/v1/persistentvolumes": nothing,
        "/apis/policy/v1/poddisruptionbudgets": Recorded(workloads // 2, budget_at),
        "/apis/apps/v1/deployments": Recorded(workloads, deployment_at),
        "/apis/apps/v1/statefulsets": nothing,
        "/apis/apps/v1/daemonsets": nothing,
    }


def page(kind: Recorded, start: int, limit: int) -> bytes:
    """Return one page of a list as a server writes it."""
    end = min(kind.count, start + limit)
    more = f',"continue":"{end}","remainingItemCount":{kind.count - end}' if end < kind.count else ""
    items = ",".join(kind.item(number) for number in range(start, end))
    return f'{{"kind":"List","apiVersion":"v1","metadata":{{"resourceVersion":"1"{more}}},"items":[{items}]}}'.encode()


def serve(nodes: int, folder: Path) -> ThreadingHTTPServer:
    """Start to serve; ``folder`` receives a kubeconfig."""
    lists = recorded(nodes)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base's name
            """Keep quiet."""

        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            query = {k: v[0] for k, v in parse_qs(parts.query).items()}
            kind = lists.get(parts.path)
            data = b"{}" if kind is None else page(kind, int(query.get("continue", 0)), int(query["limit"]))
            self.send_response(404 if kind is None else 200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    authority = Authority()
    pair = authority.issue("recorded", names=("127.0.0.1",))
    pair.write(folder, "server")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.crt", folder / "server.key")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    url = f"https://127.0.0.1:{server.server_address[1]}"
    (folder / "kubeconfig").write_bytes(kubeconfig(url, authority.certificate, authority.issue("admin")))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def _fields(manager: str, *names: str) -> dict[str, Any]:
    inner: dict[str, Any] = {f"f:{name}": {".": {}, "f:a": {}, "f:b": {}, "f:c": {}} for name in names}
    return {
        "manager": manager, "operation": "Update", "apiVersion": "v1", "time": STAMP, "fieldsType": "FieldsV1",
        "fieldsV1": {"f:metadata": {"f:labels": inner}, "f:spec": inner, "f:status": inner},
    }  # fmt: skip


def _container(name: str) -> dict[str, Any]:
    return {
        "name": name, "image": f"registry.example.org/team/{name}:v1.2.3", "imagePullPolicy": "IfNotPresent",
        "env": [{"name": f"SETTING_{i}", "value": f"a value of some length, as they are: {i}"} for i in range(8)],
        "ports": [{"containerPort": 8080, "protocol": "TCP", "name": "http"}],
        "resources": {"requests": {"cpu": "@CPU@", "memory": "128Mi"}, "limits": {"memory": "256Mi"}},
        "livenessProbe": {"httpGet": {"path": "/healthz", "port": "http", "scheme": "HTTP"}, "periodSeconds": 10},
        "readinessProbe": {"httpGet": {"path": "/ready", "port": "http", "scheme": "HTTP"}, "periodSeconds": 10},
        "volumeMounts": [{"name": "token", "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount"}],
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File",
    }  # fmt: skip


def _pod() -> dict[str, Any]:
    containers = [_container("main"), _container("sidecar")]
    status = [
        {
            "name": c["name"], "ready": True, "started": True, "restartCount": 0, "image": c["image"],
            "imageID": f"registry.example.org/team/{c['name']}@sha256:{'0' * 64}",
            "containerID": f"containerd://{'0' * 64}", "state": {"running": {"startedAt": STAMP}}, "lastState": {},
        }
        for c in containers
    ]  # fmt: skip
    tolerations = [
        {"key": f"node.kubernetes.io/{k}", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}
        for k in ("not-ready", "unreachable")
    ]
    token = {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}}
    conditions = [
        {"type": t, "status": "True", "lastTransitionTime": STAMP, "lastProbeTime": None}
        for t in ("PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled")
    ]
    return {
        "metadata": {
            "name": "@APP@-5d4f8c7b9-@N@", "generateName": "@APP@-5d4f8c7b9-", "namespace": "@NS@",
            "uid": "00000000-0000-4000-8000-@N@", "resourceVersion": "@N@", "creationTimestamp": STAMP,
            "labels": {"app.kubernetes.io/name": "@APP@", "app.kubernetes.io/part-of": "@NS@",
                       "pod-template-hash": "5d4f8c7b9"},
            "annotations": {"checksum/config": "0" * 64},
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "@KIND@", "name": "@APP@-5d4f8c7b9",
                                 "uid": "00000000-0000-4000-8000-000000000000", "controller": True,
                                 "blockOwnerDeletion": True}],
            "managedFields": [_fields("kube-controller-manager", "a", "b", "c", "d", "e"),
                              _fields("kubelet", "a", "b", "c", "d", "e", "f")],
        },
        "spec": {
            "nodeName": "@NODE@", "containers": containers, "restartPolicy": "Always", "dnsPolicy": "ClusterFirst",
            "serviceAccountName": "default", "tolerations": tolerations, "terminationGracePeriodSeconds": 30,
            "volumes": [{"name": "token", "projected": {"defaultMode": 420, "sources": [token]}}],
            "schedulerName": "default-scheduler", "priority": 0, "preemptionPolicy": "PreemptLowerPriority",
        },
        "status": {"phase": "Running", "conditions": conditions, "hostIP": "10.0.0.1", "podIP": "10.244.0.1",
                   "containerStatuses": status, "qosClass": "Burstable", "startTime": STAMP},
    }  # fmt: skip


def _budget() -> dict[str, Any]:
    return {
        "metadata": {"name": "@APP@", "namespace": "@NS@", "generation": 1},
        "spec": {"maxUnavailable": 1, "selector": {"matchLabels": {"app.kubernetes.io/name": "@APP@"}}},
        "status": {"currentHealthy": REPLICAS, "desiredHealthy": REPLICAS - 1, "expectedPods": REPLICAS,
                   "disruptionsAllowed": 1, "observedGeneration": 1},
    }  # fmt: skip


def _node() -> dict[str, Any]:
    images = [{"names": [f"registry.example.org/team/i{i}@sha256:{'0' * 64}"], "sizeBytes": i} for i in range(50)]
    return {
        "metadata": {"name": "@NODE@", "labels": {"kubernetes.io/hostname": "@NODE@", "kubernetes.io/os": "linux"},
                     "managedFields": [_fields("kubelet", "a", "b", "c")]},
        "spec": {"podCIDR": "10.244.0.0/24"},
        "status": {"allocatable": {"cpu": "16", "memory": "64Gi", "pods": "110"}, "images": images,
                   "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady"}]},
    }  # fmt: skip


def _deployment() -> dict[str, Any]:
    return {
        "metadata": {"name": "@APP@", "namespace": "@NS@", "managedFields": [_fields("kubectl", "a", "b", "c")]},
        "spec": {"replicas": REPLICAS, "template": {"spec": {"containers": [_container("main")]}}},
        "status": {"replicas": REPLICAS, "availableReplicas": REPLICAS},
    }


def main() -> None:
    server = serve(int(sys.argv[1]), Path(sys.argv[2]))
    print("ready", flush=True)
    sys.stdin.read()
    server.shutdown()


if __name__ == "__main__":
    main()
