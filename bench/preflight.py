"""A look at five hosts: ``kops-py preflight`` beside Ansible collecting its facts of the same hosts.

Needs root (the lab) and a Kubernetes bundle, whose addresses preflight also tries from every host:

    python -m bench.preflight [--rounds 3]
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import tempfile
from pathlib import Path

from bench.common import cannot_run, need_lab, script, timed
from tests.bundle import ensure
from tests.bundle.shell import BundleError
from tests.e2e.bed import VERSION, Bed
from tests.e2e.program import Program, installed_program
from tests.lab import Lab

HOSTS = ["n1", "n2", "n3", "n4", "n5"]
LIMIT_S = 120


def measure(bed: Bed, rounds: int) -> dict[str, float]:
    """Return the median seconds of each way."""
    bed.boot(len(HOSTS), layers=())
    bed.write_inventory(control_planes=HOSTS[:1], workers=HOSTS[1:])
    bed.write_cluster("bench")
    ansible = [str(script("ansible")), "all", "-i", "hosts.yaml", "-f", str(len(HOSTS)), "-m", "ansible.builtin.setup"]
    times: dict[str, list[float]] = {"kops-py preflight": [], "ansible -m setup": []}
    for _ in range(rounds):
        times["kops-py preflight"].append(bed.program.run("preflight", deadline_s=LIMIT_S).duration_s)
        with tempfile.TemporaryDirectory() as control:  # no connection is left over from the round before
            settings = {"ANSIBLE_SSH_CONTROL_PATH_DIR": control, "ANSIBLE_PIPELINING": "True"}
            settings["ANSIBLE_SSH_ARGS"] = "-o ControlMaster=auto -o ControlPersist=1s"
            duration_s, done = timed(
                ansible, limit_s=LIMIT_S, cwd=bed.folder, env={**bed.program.environment, **settings}
            )
        if done.stdout.count("| SUCCESS =>") != len(HOSTS):
            raise SystemExit(f"ansible did not answer for all hosts:\n{done.stdout[-2000:]}")
        times["ansible -m setup"].append(duration_s)
    return {name: statistics.median(values) for name, values in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    need_lab()
    try:
        bundle = ensure((VERSION,))
    except BundleError as error:
        cannot_run(f"no Kubernetes bundle: {error}")
    with tempfile.TemporaryDirectory() as base, Lab(f"look{os.getpid()}") as lab:
        folder = Path(base) / "operator"
        folder.mkdir()
        try:
            medians = measure(Bed(lab, bundle, Program(installed_program(), folder)), rounds)
        except subprocess.CalledProcessError as error:
            raise SystemExit(f"{error}\n{error.stdout[-2000:]}{error.stderr[-2000:]}") from None
    print(f"{len(HOSTS)} hosts, median of {rounds} runs, taken in turn, connecting anew each time\n")
    print("| way | s | times kops-py |\n|---|---:|---:|")
    for name, median in medians.items():
        print(f"| {name} | {median:.2f} | {median / medians['kops-py preflight']:.1f} |")


if __name__ == "__main__":
    main()
