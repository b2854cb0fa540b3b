"""``make demo``: a real cluster of three systems on this machine, built by kops-py while you watch.

It boots three Debian systems in namespaces, serves them Kubernetes packages and images from a bundle, and then
types what an operator would type. The lab stays up until ``make demo-down``.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import time
import urllib.request
from functools import partial
from pathlib import Path

from tests import bundle as kubernetes
from tests.lab import Lab, LabError, unavailable_reason
from tests.lab.processes import wait_until

LAB = "demo"
VERSION = "v1.20.2"
FOLDER = Path(__file__).resolve().parent.parent / ".kops-py" / "demo"
KOPS = Path(sys.executable).parent / "kops-py"
NODE_PORT = 30080
_ANSWER_S = 30.0

CLUSTER = """\
apiVersion: kops-py/v1
kind: Cluster
metadata:
  name: demo
kubernetes:
  version: {version}
  # what an air-gapped site would point at its own mirror
  repository: {url}/packages
  repositoryKey: {key}
  images: {url}/images
network:
  podSubnet: 10.244.0.0/16
  serviceSubnet: 10.96.0.0/12
  cni:
    type: bridge
"""

WORKLOAD = """\
apiVersion: apps/v1
kind: Deployment
metadata: {{name: echo}}
spec:
  replicas: 4
  selector: {{matchLabels: {{app: echo}}}}
  template:
    metadata: {{labels: {{app: echo}}}}
    spec:
      containers:
        - name: echo
          image: kops-py.test/echo:1
          imagePullPolicy: IfNotPresent
          ports: [{{containerPort: 8080}}]
          env:
            - name: NODE_NAME
              valueFrom: {{fieldRef: {{fieldPath: spec.nodeName}}}}
            - name: POD_NAME
              valueFrom: {{fieldRef: {{fieldPath: metadata.name}}}}
---
apiVersion: v1
kind: Service
metadata: {{name: echo}}
spec:
  type: NodePort
  selector: {{app: echo}}
  ports: [{{port: 80, targetPort: 8080, nodePort: {port}}}]
"""


def say(text: str) -> None:
    """Print a headline at once."""
    print(f"\n\033[1m=== {text}\033[0m" if sys.stdout.isatty() else f"\n=== {text}", flush=True)


def kops(*arguments: str, allowed: tuple[int, ...] = (0,)) -> None:
    """Type a kops-py command; what it prints is shown."""
    print(f"$ kops-py {shlex.join(arguments)}", flush=True)
    code = subprocess.run([str(KOPS), *arguments], cwd=FOLDER).returncode
    if code not in allowed:
        raise SystemExit(f"kops-py ended with {code}; look around, then: make demo-down")


def up() -> None:
    """Build everything and show it."""
    reason = unavailable_reason()
    if reason:
        raise SystemExit(f"the demo cannot run on this machine: {reason}")
    started = time.monotonic()
    say("Kubernetes packages and images (built from Debian's source package the first time: about 8 minutes)")
    bundle = kubernetes.ensure((VERSION,))
    print(f"bundle: {bundle.path}")

    say("three Debian systems, booted in namespaces (base system the first time: about a minute)")
    lab = Lab(LAB)
    lab.down()
    nodes = lab.up(3)
    url = lab.serve(bundle.path)
    FOLDER.mkdir(parents=True, exist_ok=True)
    lab.inventory(control_planes=1, workers=2, path=FOLDER / "hosts.yaml")
    text = CLUSTER.format(version=VERSION, url=url, key=bundle.release_key(VERSION))
    (FOLDER / "cluster.yaml").write_text(text)
    for node in nodes:
        print(f"{node.name} {node.ip}")

    say("the operator's commands")
    kops("validate")
    kops("preflight")
    kops("bootstrap", "--plan", allowed=(20,))
    kops("bootstrap", "--yes")
    kops("status")
    kops("bootstrap", "--plan")
    kops("kubeconfig", "--force")

    say("a small workload, asked through every node")
    control_plane = nodes[0]
    for node in nodes:
        for archive in bundle.extra_images:
            node.put_file(archive.path, "/var/tmp/image.tar", 0o600)
            node.exec("ctr -n k8s.io images import /var/tmp/image.tar >/dev/null && rm /var/tmp/image.tar")
    kubectl = "kubectl --kubeconfig /etc/kubernetes/admin.conf"
    control_plane.put_file(WORKLOAD.format(port=NODE_PORT).encode(), "/root/echo.yaml", 0o600)
    control_plane.exec(f"{kubectl} apply -f /root/echo.yaml")
    control_plane.exec(f"{kubectl} rollout status deployment/echo --timeout=120s", timeout_s=150)
    for node in nodes:
        # a Ready pod is known to every kube-proxy a moment later
        if not wait_until(partial(answers_at, node.ip), _ANSWER_S, 0.2):
            raise LabError(f"http://{node.ip}:{NODE_PORT} is not answered {_ANSWER_S:.0f} s after the pods were Ready")
        answers = {ask(node.ip) for _ in range(12)}
        print(f"http://{node.ip}:{NODE_PORT} is answered by pods on {', '.join(sorted(answers))}")

    say(f"done in {time.monotonic() - started:.0f} s; the cluster stays up")
    here = FOLDER.relative_to(Path.cwd()) if FOLDER.is_relative_to(Path.cwd()) else FOLDER
    print(f"look around:  {Path(sys.executable)} -m tests.lab ssh --lab {LAB} n1 sudo {kubectl} get pods -A -o wide")
    print(f"              cd {here} && {KOPS} status")
    print("take it away: make demo-down")


def answers_at(address: str) -> bool:
    """Whether the workload answers on an address."""
    try:
        ask(address)
    except OSError:
        return False
    return True


def ask(address: str) -> str:
    """Return the node whose pod answers; every request is a new connection."""
    with urllib.request.urlopen(f"http://{address}:{NODE_PORT}/", timeout=10) as answer:
        return str(json.load(answer)["node"])


def down() -> None:
    """Take the lab away, and say when something stayed."""
    lab = Lab(LAB)
    lab.down()
    left = lab.leaks()
    if left:
        raise SystemExit("left behind: " + ", ".join(map(str, left)))
    print("the demo's systems are gone")


if __name__ == "__main__":
    try:
        {"up": up, "down": down}[sys.argv[1]]()
    except LabError as error:
        raise SystemExit(str(error)) from None
