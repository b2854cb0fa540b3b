"""Looking for what blocks a drain of every node and planning their upgrade, for growing clusters: seconds and memory.

    python -m bench.plan_scale [--rounds 1] [--sizes 100,500] [--write]

Every size has a process of its own. What the plan is made of besides, the facts of hosts and nodes, is made up here: an
upgrade of every node to the next minor, rendered as text and as JSON with its digest.
The lists are recorded ones that a small paging server of this machine sends over TLS (bench/recorded_cluster.py), so
the time is that of kops-py and of writing the pages; a real API server takes its own. ``--write`` puts the plot into
docs/plan-scale.svg.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kops_py.model.facts import Facts
    from kops_py.model.finding import Finding
    from kops_py.model.spec import ClusterSpec

SIZES = (100, 500, 1000, 2000, 3500, 5000)
GOAL_S, GOAL_MB = 30.0, 1000.0
PLOT = Path(__file__).resolve().parent.parent / "docs" / "plan-scale.svg"
LIMIT_S = 600


def look(kubeconfig: Path) -> None:
    """Look, judge and plan in this process; prints seconds of each, peak memory in MB, and how much there was."""
    from kops_py.connect.kube import connect_kube
    from kops_py.model.drain import DrainPolicy
    from kops_py.observe.workloads import observe_workloads
    from kops_py.runbooks.disruption import disruption_findings

    begun = time.perf_counter()
    api = connect_kube(
        kubeconfig.read_bytes(), server_override=None, work_dir=kubeconfig.parent, request_timeout_s=60.0
    )
    workloads = observe_workloads(api)
    api.close()
    seen = time.perf_counter()
    found = disruption_findings(workloads, DrainPolicy(), tuple(workloads.nodes), max(1, len(workloads.nodes) // 20))
    judged = time.perf_counter()
    spec, facts = upgradable(list(workloads.nodes))
    ready = time.perf_counter()
    steps = plan(spec, facts, found)
    ended = time.perf_counter()
    assert steps > 5 * len(workloads.nodes), steps
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
    print(seen - begun, judged - seen, ended - ready, peak_mb, len(workloads.pods))


def upgradable(names: list[str]) -> tuple[ClusterSpec, Facts]:
    """Return a healthy cluster of these nodes before an upgrade; the first three are control planes."""
    from kops_py.model.facts import Facts, HostFacts, KubeFacts, NodeFacts
    from tests.fakes.cluster import VERSION, make_spec

    spec = make_spec(3, len(names) - 3)
    spec = replace(spec, hosts=tuple(replace(h, name=name) for h, name in zip(spec.hosts, names, strict=True)))
    packages = dict.fromkeys(("kubeadm", "kubelet", "kubectl"), f"{VERSION.bare}-1.1")
    components = ("kube-apiserver", "kube-controller-manager", "kube-scheduler")
    images = {c: f"registry.k8s.io/{c}:{VERSION}" for c in components}
    hosts = {
        h.name: HostFacts(h.name, packages=packages, static_images=images if h.is_control_plane else {})
        for h in spec.hosts
    }
    nodes = {h.name: NodeFacts(h.name, True, "", str(VERSION), h.node_ip) for h in spec.hosts}
    return spec, Facts(hosts, KubeFacts(VERSION, nodes, True, True, True, kubernetes_version=str(VERSION)))


def plan(spec: ClusterSpec, facts: Facts, found: tuple[Finding, ...]) -> int:
    """Plan the upgrade of every node, one in twenty at a time, as text and JSON; returns how many steps it has."""
    from kops_py.model.drain import DrainPolicy
    from kops_py.model.version import Version
    from kops_py.report.text import findings_text, plan_text
    from kops_py.runbooks.rollout import Rollout
    from kops_py.runbooks.upgrade import UpgradeArguments, plan_order, upgrade
    from kops_py.tools.preparation import stage_digest

    target = Version(spec.kubernetes.version.major, spec.kubernetes.version.minor + 1, 0)
    rollout = Rollout(DrainPolicy(), max(1, len(spec.workers) // 20), order=plan_order(spec, facts, target))
    digests = {str(target): {h.name: stage_digest(spec, h, target, "") for h in spec.nodes}}
    decision = upgrade(spec, facts, UpgradeArguments((target,), rollout, digests))
    found = (*decision.findings, *found)
    body = decision.plan.to_json() | {"findings": [f.to_json() for f in found]}
    assert json.dumps(body, indent=2)
    assert body["digest"] in plan_text(decision.plan) + findings_text(found)
    return len(decision.plan.steps)


def measure(nodes: int) -> tuple[float, float, float, float, int]:
    """Return seconds of looking, of judging and of planning, peak MB and the number of pods."""
    with tempfile.TemporaryDirectory() as folder:
        argv = [sys.executable, "-m", "bench.recorded_cluster", str(nodes), folder]
        with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
            assert server.stdout is not None
            assert server.stdout.readline() == "ready\n"
            argv = [sys.executable, "-m", "bench.plan_scale", "--look", f"{folder}/kubeconfig"]
            done = subprocess.run(argv, capture_output=True, text=True, timeout=LIMIT_S, check=False)
            server.communicate("")
    if done.returncode:
        raise SystemExit(f"looking at {nodes} nodes failed:\n{done.stderr[-2000:]}")
    look_s, judge_s, plan_s, peak_mb, pods = done.stdout.split()
    return float(look_s), float(judge_s), float(plan_s), float(peak_mb), int(pods)


def plot(rows: list[tuple[int, float, float]]) -> str:
    """Return a plot of seconds and memory over pods, each as a part of its goal."""
    width, height, left, bottom = 640, 320, 50, 40
    most = max(pods for pods, _, _ in rows)

    def points(values: list[tuple[int, float]]) -> str:
        return " ".join(
            f"{left + (width - left - 20) * pods / most:.1f},{(height - bottom) * (1 - part) + 10:.1f}"
            for pods, part in values
        )

    def line(values: list[tuple[int, float]], colour: str) -> str:
        dots = "".join(
            f'<circle cx="{x}" cy="{y}" r="3" fill="{colour}"/>'
            for x, y in (p.split(",") for p in points(values).split())
        )
        return f'<polyline points="{points(values)}" fill="none" stroke="{colour}" stroke-width="2"/>{dots}'

    scale = (width - left - 20) / most
    ticks = "".join(
        f'<text x="{left + scale * pods:.1f}" y="{height - 12}" text-anchor="middle">{pods:,}</text>'
        for pods, _, _ in rows[1:]
    )
    marks = "".join(
        f'<text x="{left - 6}" y="{(height - bottom) * (1 - part) + 14:.1f}" text-anchor="end">{part:.0%}</text>'
        f'<line x1="{left}" x2="{width - 20}" y1="{(height - bottom) * (1 - part) + 10:.1f}" '
        f'y2="{(height - bottom) * (1 - part) + 10:.1f}" stroke="#ccc"/>'
        for part in (0, 0.25, 0.5, 0.75, 1)
    )
    seconds = line([(pods, s / GOAL_S) for pods, s, _ in rows], "#1f77b4")
    memory = line([(pods, mb / GOAL_MB) for pods, _, mb in rows], "#d62728")
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" '
        f'font-size="12"><rect width="{width}" height="{height}" fill="white"/>{marks}{ticks}{seconds}{memory}'
        f'<text x="{left + 12}" y="30" fill="#1f77b4">seconds, of {GOAL_S:g}</text>'
        f'<text x="{left + 12}" y="48" fill="#d62728">peak memory, of {GOAL_MB:g} MB</text>'
        f'<text x="{width - 20}" y="{height - bottom + 2}" text-anchor="end">pods</text></svg>\n'
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--sizes", type=lambda text: tuple(map(int, text.split(","))), default=SIZES, metavar="N,...")
    parser.add_argument("--write", action="store_true", help=f"put the plot into docs/{PLOT.name}")
    parser.add_argument("--look", type=Path, metavar="KUBECONFIG", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.look:
        look(arguments.look)
        return
    print("| nodes | pods | looking, s | judging, s | planning, s | together, s | peak memory, MB | µs a pod |")
    print("|---:|---:|---:|---:|---:|---:|---:|---:|")
    rows = []
    for nodes in arguments.sizes:
        runs = [measure(nodes) for _ in range(arguments.rounds)]
        look_s, judge_s, plan_s, peak_mb = (statistics.median(run[i] for run in runs) for i in range(4))
        pods, total_s = runs[0][4], look_s + judge_s + plan_s
        rows.append((pods, total_s, peak_mb))
        print(
            f"| {nodes:,} | {pods:,} | {look_s:.1f} | {judge_s:.1f} | {plan_s:.2f} | {total_s:.1f} | {peak_mb:.0f} "
            f"| {total_s / pods * 1e6:.0f} |",
            flush=True,
        )
    print(
        f"\nGoal at 5,000 nodes and 150,000 pods: {GOAL_S:g} s and {GOAL_MB:g} MB. Recorded lists, sent in pages over"
    )
    print("TLS by a server on the same machine; every node is to be upgraded and drained, one in twenty at a time. The")
    print("plan is of made-up facts of hosts and nodes, rendered as text and as JSON with its digest.")
    if arguments.write:
        PLOT.write_text(plot(rows))
        print("\n![Seconds and memory over pods, each as a part of its goal](plan-scale.svg)")


if __name__ == "__main__":
    main()
