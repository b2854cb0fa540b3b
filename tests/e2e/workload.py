"""A small workload that says which pod on which node answered, and asking it from everywhere."""

from __future__ import annotations

import json
import time
import urllib.request
from collections.abc import Sequence

from tests.e2e.bed import KUBECONFIG, Bed
from tests.lab import Node

IMAGE = "kops-py.test/echo:1"
NODE_PORT = 30080
REPLICAS = 4
_PLACE = "/var/tmp/echo.tar"

# Waits of 2 s and three attempts: a Service of many pods may still name one that is going away.
_ASK = """
import json, sys, urllib.request
found = {}
for address in sys.argv[2:]:
    for attempt in range(3):
        try:
            with urllib.request.urlopen(f"http://{address}:{sys.argv[1]}/", timeout=2) as answer:
                found[address] = json.load(answer)
            break
        except OSError as error:
            found[address] = {"error": str(error)}
print(json.dumps(found))
"""


def load_image(bed: Bed, names: Sequence[str]) -> None:
    """Import the workload's image on these nodes; there is no registry in a lab."""
    (archive,) = [a for a in bed.bundle.extra_images if IMAGE in a.refs]
    for name in names:
        bed.node(name).put_file(archive.path, _PLACE)
        bed.node(name).exec(f"ctr -n k8s.io images import {_PLACE} && rm {_PLACE}")


def deploy(
    bed: Bed,
    names: Sequence[str],
    *,
    replicas: int = REPLICAS,
    linger_s: int = 0,
    min_available: int | None = None,
    on: str = "n1",
    deadline_s: float = 60,
) -> None:
    """Apply the Deployment, its NodePort Service and, when asked, a disruption budget.

    Waits until all replicas are available and answer everywhere. A pod answers for ``linger_s`` after it was told to
    end, as one must for which no request is to fail: kube-proxy hears of a pod's end a moment after the pod does.
    """
    items = [_deployment(replicas, linger_s), _service()]
    if min_available is not None:
        items.append(_budget(min_available))
    documents = {"apiVersion": "v1", "kind": "List", "items": items}
    bed.kubectl("apply -f -", on=on, stdin=json.dumps(documents))
    bed.node(on).exec(
        f"kubectl --kubeconfig {KUBECONFIG} rollout status deployment/echo --timeout={deadline_s:.0f}s",
        timeout_s=deadline_s + 10,
    )
    wait_answers(bed, names, deadline_s=30)


def assert_answers(bed: Bed, names: Sequence[str], *, addresses_of: Sequence[str] | None = None) -> set[str]:
    """Ask every node's address from every node and from this machine; returns the nodes whose pods answered."""
    addresses = [bed.node(name).ip for name in addresses_of or names]
    answered: set[str] = set()
    for name in names:
        answered |= _check(name, _ask_from(bed.node(name), addresses))
    here = {}
    for address in addresses:
        with urllib.request.urlopen(f"http://{address}:{NODE_PORT}/", timeout=5) as answer:
            here[address] = json.load(answer)
    return answered | _check("this machine", here)


def wait_answers(bed: Bed, names: Sequence[str], *, deadline_s: float) -> float:
    """Wait until the workload answers on every address from every node; returns the seconds it took."""
    started = time.monotonic()
    while True:
        try:
            assert_answers(bed, names)
        except (AssertionError, OSError):
            if time.monotonic() - started > deadline_s:
                raise
            time.sleep(0.5)
            continue
        return time.monotonic() - started


def _ask_from(node: Node, addresses: Sequence[str]) -> dict[str, dict[str, str]]:
    answer = node.exec(["python3", "-c", _ASK, str(NODE_PORT), *addresses], timeout_s=60)
    found: dict[str, dict[str, str]] = json.loads(answer.stdout)
    return found


def _check(asker: str, found: dict[str, dict[str, str]]) -> set[str]:
    silent = {address: answer["error"] for address, answer in found.items() if "error" in answer}
    assert not silent, f"asked from {asker}, no answer of the workload on {silent}"
    return {answer["node"] for answer in found.values()}


def _deployment(replicas: int, linger_s: int) -> dict[str, object]:
    def field(name: str, path: str) -> dict[str, object]:
        return {"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}}

    container = {
        "name": "echo",
        "image": IMAGE,
        "imagePullPolicy": "IfNotPresent",
        "env": [
            field("POD_NAME", "metadata.name"),
            field("NODE_NAME", "spec.nodeName"),
            {"name": "LINGER_S", "value": str(linger_s)},
        ],
        "ports": [{"containerPort": 8080}],
        "readinessProbe": {"httpGet": {"path": "/healthz", "port": 8080}, "periodSeconds": 1},
    }
    # Short, so that pods of a dead node are not in the Service for five minutes.
    tolerations = [
        {"key": f"node.kubernetes.io/{key}", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 5}
        for key in ("not-ready", "unreachable")
    ]
    spread = {
        "maxSkew": 1,
        "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": {"matchLabels": {"app": "echo"}},
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "echo"},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": "echo"}},
            "template": {
                "metadata": {"labels": {"app": "echo"}},
                "spec": {
                    "containers": [container],
                    "tolerations": tolerations,
                    "topologySpreadConstraints": [spread],
                    "terminationGracePeriodSeconds": linger_s + 1,
                },
            },
        },
    }


def _budget(min_available: int) -> dict[str, object]:
    return {
        "apiVersion": "policy/v1beta1",
        "kind": "PodDisruptionBudget",
        "metadata": {"name": "echo"},
        "spec": {"minAvailable": min_available, "selector": {"matchLabels": {"app": "echo"}}},
    }


def _service() -> dict[str, object]:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "echo"},
        "spec": {
            "type": "NodePort",
            "selector": {"app": "echo"},
            "ports": [{"port": 80, "targetPort": 8080, "nodePort": NODE_PORT}],
        },
    }
