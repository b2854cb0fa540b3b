"""Bootstrap of a real cluster: kops-py beside a bare shell script that runs the same steps over OpenSSH.

Every run gets systems that were just booted; kops-py and ``bare_bootstrap.sh`` go first in turn. Needs root (the lab)
and a Kubernetes bundle. kops-py is then run once more on its own cluster, with nothing to do:

    python -m bench.bootstrap [--topology 1+2 --topology 3+2] [--rounds 1] [--layer k8s] [--only kops-py|bare]

``--layer k8s`` begins with systems that have containerd already, which takes the package archive out of the figures.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench.common import cannot_run, need_lab
from tests.bundle import Bundle, ensure
from tests.bundle.shell import BundleError
from tests.e2e.bed import LAYER, VERSION, Bed
from tests.e2e.program import Finished, Program, ProgramError, installed_program, tail
from tests.lab import Lab, LabError

GOAL = 1.15
LIMIT_S = 900
AGAIN_LIMIT_S = 120
BARE = Path(__file__).with_name("bare_bootstrap.sh")
KOPS_PY = "kops-py"
BARE_SCRIPT = "bare script"
FIRST_PHASE = "look, check, plan"
PHASES = {  # waves of the plan, as the script names the same phase
    "preparation": "preparation",
    "first control plane": "init",
    "control planes": "control-planes",
    "API server": "api-server",
    "workers": "workers",
    "bridge network": "network",
    "healthy": "healthy",
    "join secrets": "join-secrets",
}


class BenchError(Exception):
    """A run did not do what is measured."""


@dataclass(frozen=True)
class Topology:
    """How many hosts of which kind; several control planes have a balancer before them."""

    control_planes: int
    workers: int

    @classmethod
    def parse(cls, text: str) -> Topology:
        """Read ``3+2``; raises ValueError."""
        control_planes, _, workers = text.partition("+")
        return cls(int(control_planes), int(workers))

    def __str__(self) -> str:
        return f"{self.control_planes}+{self.workers}"

    @property
    def hosts(self) -> tuple[list[str], list[str], list[str]]:
        """Return the names of control planes, workers and load balancers."""
        balancers = 1 if self.control_planes > 1 else 0
        names = [f"n{i}" for i in range(1, self.control_planes + self.workers + balancers + 1)]
        end = self.control_planes + self.workers
        return names[: self.control_planes], names[self.control_planes : end], names[end:]


@dataclass
class Run:
    """One bootstrap: seconds in all and by phase; ``again_s`` for a second one with nothing to do."""

    way: str
    total_s: float
    phases_s: Mapping[str, float]
    load: float
    again_s: float | None = None


@dataclass
class Series:
    """The runs of one topology."""

    topology: Topology
    runs: list[Run] = field(default_factory=list)

    def median_s(self, way: str) -> float:
        return statistics.median(r.total_s for r in self.runs if r.way == way)

    def phase_s(self, way: str, phase: str) -> float | None:
        found = [r.phases_s[phase] for r in self.runs if r.way == way and phase in r.phases_s]
        return statistics.median(found) if found else None


def kops_py(bed: Bed, topology: Topology) -> Run:
    """Bootstrap with kops-py, and once more with nothing to do."""
    control_planes, workers, balancers = topology.hosts
    bed.write_inventory(control_planes=control_planes, workers=workers, load_balancers=balancers)
    bed.write_cluster("bench")
    load = os.getloadavg()[0]
    begun, begun_at_s = time.monotonic(), time.time()
    _bootstrap(bed, LIMIT_S)
    total_s = time.monotonic() - begun
    phases_s = _journal_phases(bed, begun_at_s, total_s)
    begun = time.monotonic()
    again = _bootstrap(bed, AGAIN_LIMIT_S)
    again_s = time.monotonic() - begun
    if "nothing to do" not in again.text:
        raise BenchError(f"the second run had something to do\n{again.report()}")
    return Run(KOPS_PY, total_s, phases_s, load, again_s)


def _bootstrap(bed: Bed, limit_s: float) -> Finished:
    """Run the program; it does not outlive this one, whatever ends it."""
    running = bed.program.start("bootstrap", "-y")
    try:
        return bed.program.expect(running, deadline_s=limit_s)
    finally:
        if not running.has_ended:
            running.interrupt()
            running.wait(deadline_s=limit_s)


def _journal_phases(bed: Bed, begun_at_s: float, total_s: float) -> dict[str, float]:
    """Cut the run at the begins of its waves; what comes before the first is FIRST_PHASE."""
    marks = [(FIRST_PHASE, begun_at_s)]
    marks += [(PHASES.get(r["wave"], r["wave"]), r["at_s"]) for r in bed.program.journal() if r["kind"] == "wave"]
    return _between(marks, begun_at_s + total_s)


def bare_script(bed: Bed, topology: Topology) -> Run:
    """Bootstrap with the script."""
    control_planes, workers, balancers = topology.hosts
    load = os.getloadavg()[0]
    argv = [
        "bash", str(BARE), str(bed.lab.ssh_config), VERSION, f"{bed.url}/packages", f"{bed.url}/images",
        " ".join(control_planes), " ".join(workers), *balancers,
    ]  # fmt: skip
    begun = time.monotonic()
    said = run_to_its_end(argv, bed, LIMIT_S)
    total_s = time.monotonic() - begun
    words = [line.split() for line in said.splitlines() if line.startswith("phase ")]
    marks = [(name, float(at_s)) for _, name, at_s in words]
    return Run(BARE_SCRIPT, total_s, _between(marks[:-1], marks[-1][1]), load)


def run_to_its_end(argv: Sequence[str], bed: Bed, limit_s: float) -> str:
    """Run the script in a process group of its own, ended as a whole when its time is up."""
    with subprocess.Popen(
        argv, cwd=bed.folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=bed.program.environment, start_new_session=True,
    ) as process:  # fmt: skip
        try:
            out, err = process.communicate(timeout=limit_s)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    if process.returncode != 0:
        logs = "\n".join(f"--- {p.name}\n{tail(p.read_text(), 15)}" for p in sorted(bed.folder.glob("*.log")))
        raise BenchError(f"the bare script ended with {process.returncode}\n{out}{err}\n{logs}")
    return out


def _between(marks: Sequence[tuple[str, float]], end_at_s: float) -> dict[str, float]:
    ends = [at_s for _, at_s in marks[1:]] + [end_at_s]
    return {name: end - at_s for (name, at_s), end in zip(marks, ends, strict=True)}


WAYS: dict[str, Callable[[Bed, Topology], Run]] = {KOPS_PY: kops_py, BARE_SCRIPT: bare_script}


def run_once(way: str, topology: Topology, bundle: Bundle, layers: Sequence[str]) -> Run:
    """Boot systems, build a cluster on them, look at it, and take everything down again."""
    with tempfile.TemporaryDirectory(prefix="kops-bench-") as base, Lab(f"bench-{os.getpid()}") as lab:
        folder = Path(base) / "operator"
        folder.mkdir()
        bed = Bed(lab, bundle, Program(installed_program(), folder))
        try:
            bed.boot(sum(map(len, topology.hosts)), layers=layers)
            run = WAYS[way](bed, topology)
            _check_cluster(bed, topology)
        finally:
            lab.down()
        left = lab.leaks()
        if left:
            raise BenchError(f"the lab left behind: {left}")
    return run


def _check_cluster(bed: Bed, topology: Topology) -> None:
    """Both ways must have built the same: all nodes Ready, no join token left."""
    control_planes, workers, _ = topology.hosts
    ready = bed.ready_nodes()
    if ready != dict.fromkeys(control_planes + workers, True):
        raise BenchError(f"not every node is Ready: {ready}")
    tokens = bed.kubectl("-n kube-system get secrets --field-selector type=bootstrap.kubernetes.io/token -o name")
    if tokens.strip():
        raise BenchError(f"join tokens were left: {tokens}")


def measure(topology: Topology, rounds: int, bundle: Bundle, layers: Sequence[str], only: str | None) -> Series:
    """Run both ways ``rounds`` times, the first one in turn."""
    series = Series(topology)
    for number in range(rounds):
        ways = [KOPS_PY, BARE_SCRIPT] if number % 2 == 0 else [BARE_SCRIPT, KOPS_PY]
        for way in ways:
            if only is not None and way != only:
                continue
            run = run_once(way, topology, bundle, layers)
            series.runs.append(run)
            again = f", again {run.again_s:.1f} s" if run.again_s is not None else ""
            print(
                f"{topology} {way}: {run.total_s:.1f} s{again}, load before {run.load:.1f}", file=sys.stderr, flush=True
            )
            print("  " + ", ".join(f"{n} {s:.1f}" for n, s in run.phases_s.items()), file=sys.stderr, flush=True)
    return series


def print_tables(results: Sequence[Series]) -> None:
    print("| cluster | kops-py, s | bare script, s | ratio | again, nothing to do, s |\n|---|---:|---:|---:|---:|")
    for series in results:
        ours, bare = series.median_s(KOPS_PY), series.median_s(BARE_SCRIPT)
        again = statistics.median(r.again_s for r in series.runs if r.again_s is not None)
        print(f"| {series.topology} | {ours:.1f} | {bare:.1f} | {ours / bare:.2f} | {again:.1f} |")
    print(f"\nGoal: a ratio of at most {GOAL}. Where the time goes, seconds (medians):\n")
    names = [f"{s.topology} {way}" for s in results for way in WAYS]
    print(f"| phase | {' | '.join(names)} |\n|---|{'---:|' * len(names)}")
    measured = [phase for s in results for r in s.runs for phase in r.phases_s]
    for phase in dict.fromkeys((FIRST_PHASE, *PHASES.values(), *measured)):
        found = [s.phase_s(way, phase) for s in results for way in WAYS]
        if any(value is not None for value in found):
            print(f"| {phase} | {' | '.join('-' if v is None else f'{v:.1f}' for v in found)} |")
    loads = [r.load for s in results for r in s.runs]
    runs = " and ".join(f"{sum(r.way == KOPS_PY for r in s.runs)} of {s.topology}" for s in results)
    print(f"\nRuns of each way: {runs}; load average before a run {min(loads):.1f} to {max(loads):.1f}.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--topology", type=Topology.parse, action="append")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--layer", choices=["bare", LAYER], default="bare")
    parser.add_argument("--only", choices=list(WAYS))
    arguments = parser.parse_args()
    need_lab()
    layers = () if arguments.layer == "bare" else (arguments.layer,)
    topologies = arguments.topology or [Topology(1, 2), Topology(3, 2)]
    try:
        bundle = ensure((VERSION,))
    except BundleError as error:
        cannot_run(f"no Kubernetes bundle: {error}")
    try:
        results = [measure(t, arguments.rounds, bundle, layers, arguments.only) for t in topologies]
    except (BenchError, LabError, ProgramError) as error:
        raise SystemExit(f"bootstrap: {error}") from None
    if arguments.only is None:
        print_tables(results)


if __name__ == "__main__":
    main()
