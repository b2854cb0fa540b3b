"""Upgrade of a real cluster by a minor: kops-py beside a bare shell script that takes the same steps over OpenSSH.

One control plane and two workers, built by kops-py on systems that were just booted; then kops-py or
``bare_upgrade.sh`` upgrades them. Needs root (the lab) and a Kubernetes bundle:

    python -m bench.upgrade [--rounds 1] [--only kops-py|bare script]

What a node costs beyond kubeadm, packages, drain and the wait for its kubelet is kops-py's own: its looks between the
nodes, its gates, its sessions. The journal tells it.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from bench.bootstrap import BARE_SCRIPT, KOPS_PY, BenchError, run_to_its_end
from bench.common import cannot_run, need_lab
from tests.bundle import Bundle, ensure
from tests.bundle.shell import BundleError
from tests.e2e.bed import LAYER, VERSION, Bed
from tests.e2e.program import Program, ProgramError, installed_program
from tests.lab import Lab, LabError

TARGET = "v1.21.0"
NODES = ("n1", "n2", "n3")
GOAL_S = 5.0
LIMIT_S = 900
BARE = Path(__file__).with_name("bare_upgrade.sh")
REST = "rest"
READY = "ready"
SAFE = "safe"
KINDS = ("kubeadm", "packages", SAFE, "drain", READY, REST)
STEPS = {"kubeadm": "packages", "kubelet": "packages", "drain": "drain", "healthy": READY}
"""Steps of a node's chain by what they cost; kubeadm's run is in the journal. All else is the rest."""


@dataclass
class Run:
    """One upgrade: seconds in all, before the first node, and of each node by kind."""

    way: str
    total_s: float
    nodes_s: Mapping[str, Mapping[str, float]]
    load: float

    @property
    def before_s(self) -> float:
        """Looking, planning and staging."""
        return self.total_s - sum(sum(kinds.values()) for kinds in self.nodes_s.values())


def kops_py(bed: Bed) -> Run:
    """Upgrade with kops-py."""
    load = os.getloadavg()[0]
    begun = time.monotonic()
    running = bed.program.start("upgrade", "--to", TARGET, "-y")
    try:
        bed.program.expect(running, deadline_s=LIMIT_S)
    finally:
        if not running.has_ended:
            running.interrupt()
            running.wait(deadline_s=LIMIT_S)
    total_s = time.monotonic() - begun
    return Run(KOPS_PY, total_s, from_journal(bed.program.journal()), load)


def from_journal(records: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Cut a run with one node at a time at the begins of its nodes; the look after a node belongs to it."""
    begins: dict[str, float] = {}
    step_at_s = 0.0
    costs: dict[str, defaultdict[str, float]] = defaultdict(lambda: defaultdict(float))
    for record in records:
        node, kind = record.get("node", ""), record.get("step", "").partition("/")[0]
        if not node or kind == "stage":
            continue
        if record["kind"] == "step-start":
            begins.setdefault(node, record["at_s"])
            step_at_s = record["at_s"]
        elif record["kind"] == "kubeadm-end":
            costs[node]["kubeadm"] = record["at_s"] - step_at_s
        elif record["kind"] == "drain-begin":
            costs[node][SAFE] = record["at_s"] - step_at_s
        elif record["kind"] == "step-end" and kind in STEPS:
            costs[node][STEPS[kind]] += record["duration_s"] - (costs[node][SAFE] if kind == "drain" else 0)
    end = records[-1]["at_s"]
    marks = [*begins.items(), ("", end)]
    found = {}
    for (node, begin), (_, end_s) in pairwise(marks):
        known = dict(costs[node])
        found[node] = {**known, REST: end_s - begin - sum(known.values())}
    return found


def bare_script(bed: Bed) -> Run:
    """Upgrade with the script."""
    load = os.getloadavg()[0]
    argv = [
        "bash", str(BARE), str(bed.lab.ssh_config), TARGET, f"{bed.url}/packages", f"{bed.url}/images",
        NODES[0], " ".join(NODES[1:]),
    ]  # fmt: skip
    begun = time.monotonic()
    said = run_to_its_end(argv, bed, LIMIT_S)
    total_s = time.monotonic() - begun
    words = [line.split() for line in said.splitlines() if line.startswith("phase ")]
    found: dict[str, defaultdict[str, float]] = {name: defaultdict(float) for name in NODES}
    for (_, node, kind, at_s), (_, _, _, next_s) in pairwise(words):
        if node in found:
            found[node][kind] += float(next_s) - float(at_s)
    return Run(BARE_SCRIPT, total_s, found, load)


WAYS: dict[str, Callable[[Bed], Run]] = {KOPS_PY: kops_py, BARE_SCRIPT: bare_script}


def run_once(way: str, bundle: Bundle) -> Run:
    """Boot systems, build a cluster, upgrade it, look at it, and take everything down again."""
    with tempfile.TemporaryDirectory(prefix="kops-bench-") as base, Lab(f"bench-{os.getpid()}") as lab:
        folder = Path(base) / "operator"
        folder.mkdir()
        bed = Bed(lab, bundle, Program(installed_program(), folder))
        try:
            bed.boot(len(NODES), layers=(LAYER,))
            bed.write_inventory(control_planes=NODES[:1], workers=NODES[1:])
            bed.write_cluster("bench")
            bed.bootstrap()
            run = WAYS[way](bed)
            _check_cluster(bed)
        finally:
            lab.down()
        left = lab.leaks()
        if left:
            raise BenchError(f"the lab left behind: {left}")
    return run


def _check_cluster(bed: Bed) -> None:
    """Both ways must have come to the same: every node at the version, Ready and schedulable."""
    bed.wait_ready(NODES)
    items = json.loads(bed.kubectl("get nodes -o json"))["items"]
    for item in items:
        version, name = item["status"]["nodeInfo"]["kubeletVersion"], item["metadata"]["name"]
        if version != TARGET or item["spec"].get("unschedulable"):
            raise BenchError(f"{name} is at {version}, cordoned: {item['spec'].get('unschedulable', False)}")


def measure(rounds: int, bundle: Bundle, only: str | None) -> list[Run]:
    """Run both ways ``rounds`` times, the first one in turn."""
    runs = []
    for number in range(rounds):
        for way in list(WAYS) if number % 2 == 0 else reversed(WAYS):
            if only is None or way == only:
                run = run_once(way, bundle)
                runs.append(run)
                print(f"{way}: {run.total_s:.1f} s, load before {run.load:.1f}", file=sys.stderr, flush=True)
                for node, kinds in run.nodes_s.items():
                    said = ", ".join(f"{kind} {kinds.get(kind, 0):.1f}" for kind in KINDS)
                    print(f"  {node}: {said}", file=sys.stderr, flush=True)
    return runs


def print_tables(runs: Sequence[Run]) -> None:
    by_way = {way: [r for r in runs if r.way == way] for way in WAYS}
    ours, bare = (statistics.median(r.total_s for r in by_way[way]) for way in (KOPS_PY, BARE_SCRIPT))
    print("| cluster | kops-py, s | bare script, s | ratio |\n|---|---:|---:|---:|")
    print(f"| 1+2, {VERSION} to {TARGET} | {ours:.1f} | {bare:.1f} | {ours / bare:.2f} |")
    print("\nWhere the time goes, seconds (medians); before: looking, planning and staging:\n")
    print(f"| way | node | {' | '.join(KINDS)} |\n|---|---|{'---:|' * len(KINDS)}")
    for way, found in by_way.items():
        before = _median(r.before_s for r in found)
        print(f"| {way} | before | {' | '.join('-' for _ in KINDS[1:])} | {before:.1f} |")
        for node in NODES:
            cells = (f"{_median(r.nodes_s[node].get(kind, 0) for r in found):.1f}" for kind in KINDS)
            print(f"| {way} | {node} | {' | '.join(cells)} |")
    own = {node: _median(r.nodes_s[node][REST] for r in by_way[KOPS_PY]) for node in NODES}
    loads = [r.load for r in runs]
    print(
        f"\nkops-py's own part of a node is its rest: {', '.join(f'{s:.1f} s for {n}' for n, s in own.items())}; the "
        f"goal is at most {GOAL_S:.0f} s. It holds the looks between the nodes, cordon and uncordon, and the wait "
        "until what was moved is available.\n\n"
        f"{READY}: from the kubelet's restart until the node is Ready at its version. On a control plane kops-py goes "
        "on when its static pods are Ready again as well, which the kubelet says when it has probed them anew; the "
        "script does not wait for that.\n\n"
        f"{SAFE}: a drain moves no pod before controllers and scheduler are led again, which Kubernetes' own lease of "
        "15 s decides where there is one control plane (until then nobody makes an evicted pod anew), and before "
        "kubeadm's new kube-proxy is on every node (90 s a run at most; where it is being replaced, what moves is "
        "asked for in vain). The script, as a careful hand, waits for kube-proxy as well, but on its first node "
        "drains at once; whether CoreDNS is there to be moved is chance. How long a drain takes is the kubelet's: "
        "v1.20.2 lets a pod go when its sandbox is removed, now and then not before its next collection of garbage, "
        "a minute later.\n\n"
        f"Runs of each way: {len(by_way[KOPS_PY])}; load average before a run {min(loads):.1f} to {max(loads):.1f}."
    )


def _median(values: Iterable[float]) -> float:
    return statistics.median(values)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--only", choices=list(WAYS))
    arguments = parser.parse_args()
    need_lab()
    try:
        bundle = ensure((VERSION, TARGET))
    except BundleError as error:
        cannot_run(f"no Kubernetes bundle: {error}")
    try:
        runs = measure(arguments.rounds, bundle, arguments.only)
    except (BenchError, LabError, ProgramError) as error:
        raise SystemExit(f"upgrade: {error}") from None
    if arguments.only is None:
        print_tables(runs)


if __name__ == "__main__":
    main()
