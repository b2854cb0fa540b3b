"""A node with 100 pods is drained: kops-py beside ``kubectl drain``, on a real API server.

There are no kubelets and no controllers: a thread ends pods that are being deleted, for both ways alike. Each way is
a program of its own, so its start counts, and cordons the node first, as ``kubectl drain`` does:

    python -m bench.drain [--pods 100] [--rounds 5]

Needs a Kubernetes bundle, from which kube-apiserver, etcd and kubectl come.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.common import cannot_run, timed
from kops_py.connect.base import Cancel, JsonObject, KubeApi
from kops_py.connect.kube import connect_kube
from tests.bundle import cached
from tests.fakes.workloads import Cluster, Kubelet
from tests.integration.kube.binaries import find_binary, find_kubectl
from tests.integration.kube.control_plane import ControlPlane

GOAL = 1.0
LIMIT_S = 300
KOPS_PY, KUBECTL = "kops-py", "kubectl drain"
TERMS_S = (0.0, 1.0)


def only_ours(kubeconfig: Path, node: str) -> None:
    """Cordon and drain, as a program of its own."""
    from kops_py.actions.cordon import cordon
    from kops_py.actions.drain import drain
    from kops_py.engine.run import StepContext
    from kops_py.model.drain import DrainPolicy
    from kops_py.model.plan import Action, Step

    api = connect_kube(
        kubeconfig.read_bytes(), server_override=None, work_dir=kubeconfig.parent, request_timeout_s=30.0
    )
    cordon(api, node, by="bench", run_id="bench")
    step = Step("drain", node, "drain", Action(), LIMIT_S)
    ctx = StepContext(step, Cancel(), lambda _: None, time.monotonic() + LIMIT_S)
    report = drain(_Source(api), node, DrainPolicy(), ctx)
    json.dump(report.to_json(), sys.stdout)
    api.close()


@dataclass
class _Source:
    connected: KubeApi

    def api(self) -> KubeApi:
        return self.connected


def daemon_set(name: str) -> JsonObject:
    """Return the DaemonSet whose pod stays: kubectl looks for it."""
    labels = {"app": name}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "main", "image": "none"}]}}
    spec = {"selector": {"matchLabels": labels}, "template": template}
    return {"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": name}, "spec": spec}


@dataclass
class Bench:
    """A control plane, and the two ways to drain on it."""

    plane: ControlPlane
    kubectl: Path
    kubeconfig: Path
    pods: int
    nodes: int = 0

    def ours(self, node: str) -> list[str]:
        return [sys.executable, "-m", "bench.drain", "--only", str(self.kubeconfig), node]

    def theirs(self, node: str) -> list[str]:
        options = ["--ignore-daemonsets", "--delete-emptydir-data", f"--timeout={LIMIT_S}s"]
        return [str(self.kubectl), f"--kubeconfig={self.kubeconfig}", "drain", node, *options]

    def measure(self, way: Callable[[str], list[str]], end_after_s: float) -> float:
        """Return the seconds it takes to drain a fresh node; ``end_after_s`` is how long its pods take to end."""
        self.nodes += 1
        with self._connected() as api, self._connected() as kubelet_api:
            cluster = Cluster.make(api, f"bench-{self.nodes}")
            with ThreadPoolExecutor(16) as pool:
                list(pool.map(lambda n: cluster.pod(f"web-{n:03}"), range(self.pods)))
            api.create(f"/apis/apps/v1/namespaces/{cluster.namespace}/daemonsets", daemon_set("web"))
            cluster.pod("agent", owner="DaemonSet")
            with Kubelet(kubelet_api, cluster.node, end_after_s=end_after_s) as kubelet:
                try:
                    seconds, done = timed(way(cluster.node), limit_s=LIMIT_S)
                except subprocess.CalledProcessError as error:
                    raise SystemExit(f"{error}\n{error.stdout[-2000:]}{error.stderr[-2000:]}") from None
                if len(kubelet.ended) != self.pods:
                    raise SystemExit(f"{len(kubelet.ended)} of {self.pods} pods ended:\n{done.stdout}{done.stderr}")
            left = [p["metadata"]["name"] for p in api.items(cluster.pods)]
            if left != ["agent"] or not api.get(f"/api/v1/nodes/{cluster.node}")["spec"].get("unschedulable"):
                raise SystemExit(f"the node is not drained and cordoned: {left}")
            api.delete(f"{cluster.pods}/agent", body={"gracePeriodSeconds": 0})
        return seconds

    @contextmanager
    def _connected(self) -> Iterator[KubeApi]:
        api = connect_kube(
            self.kubeconfig.read_bytes(), server_override=None, work_dir=self.kubeconfig.parent, request_timeout_s=30.0
        )
        try:
            yield api
        finally:
            api.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pods", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs=2, metavar=("KUBECONFIG", "NODE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.only:
        only_ours(Path(arguments.only[0]), arguments.only[1])
        return
    bundle = cached(())
    if bundle is None or not bundle.kubernetes_versions:
        cannot_run("no Kubernetes bundle here: python -m tests.bundle makes one")
    version = bundle.kubernetes_versions[0]
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        plane = ControlPlane(
            find_binary(bundle, version, "kube-apiserver", "kube-apiserver", work / "images"),
            find_binary(bundle, version, "etcd", "etcd", work / "images"),
            work,
        )
        kubeconfig = work / "admin.conf"
        kubeconfig.touch(mode=0o600)
        kubeconfig.write_bytes(plane.kubeconfig())
        os.environ["HOME"] = str(work)  # kubectl keeps a cache of what the server offers there
        try:
            plane.start_etcd()
            plane.start()
            plane.wait_ready()
            bench = Bench(plane, find_kubectl(bundle, version, work), kubeconfig, arguments.pods)
            report(bench, arguments.rounds, version)
        finally:
            plane.down()


def report(bench: Bench, rounds: int, version: str) -> None:
    """Measure both ways in turn, and print the table."""
    print(f"{bench.pods} pods, kube-apiserver and kubectl {version}, median of {rounds} runs, taken in turn\n")
    print(f"| pods end after, s | {KOPS_PY}, s | {KUBECTL}, s | ratio |\n|---:|---:|---:|---:|")
    for end_after_s in TERMS_S:
        times: dict[str, list[float]] = {KOPS_PY: [], KUBECTL: []}
        for _ in range(rounds):
            times[KOPS_PY].append(bench.measure(bench.ours, end_after_s))
            times[KUBECTL].append(bench.measure(bench.theirs, end_after_s))
        ours, theirs = (statistics.median(times[name]) for name in (KOPS_PY, KUBECTL))
        print(f"| {end_after_s:g} | {ours:.2f} | {theirs:.2f} | {ours / theirs:.2f} |")
    print(f"\nGoal: a ratio of at most {GOAL:g}. Pods that end at once show the programs alone.")


if __name__ == "__main__":
    main()
