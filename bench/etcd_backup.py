"""A backup of etcd beside ``etcdctl snapshot save`` alone: the same etcd, the same disk, taken in turn.

    python -m bench.etcd_backup [--rounds 2] [--sizes 100,1000,2000]

kops-py is the installed program and reaches the member over SSH; what it makes is compressed, encrypted, stored,
read back, and (in the second row) restored into a scratch etcd and asked. etcdctl writes one plain file.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import statistics
import subprocess
import tempfile
import time
from collections import defaultdict
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from bench.common import cannot_run
from tests.e2e.program import Program
from tests.fakes.etcd_load import fill_quickly
from tests.integration.etcd.host import kubeadm_host, operator, unavailable_reason
from tests.integration.etcd.members import ETCD, ETCDCTL, MISSING, Members
from tests.integration.ssh.sshd import SSHD

_LIMIT_S = 600.0
_LOOK_S = 0.01
SAVE, STORED, PROVEN = "etcdctl snapshot save", "kops-py, stored", "kops-py, stored and restored once"


@dataclass
class Measured:
    """Seconds, the peak of memory and the seconds to the first stored byte of every round."""

    seconds: list[float] = field(default_factory=list)
    peak_mb: list[float] = field(default_factory=list)
    first_byte_s: list[float] = field(default_factory=list)


def save(members: Members, target: Path, found: Measured) -> None:
    begun = time.perf_counter()
    own = members.credentials
    argv = [str(ETCDCTL), f"--endpoints={members.endpoint()}", f"--cacert={own.ca}", f"--cert={own.cert}"]
    subprocess.run(
        [*argv, f"--key={own.key}", "snapshot", "save", str(target)],
        check=True, capture_output=True, timeout=_LIMIT_S, env={**os.environ, "ETCDCTL_API": "3"},
    )  # fmt: skip
    found.seconds.append(time.perf_counter() - begun)
    target.unlink()


def back_up(program: Program, store: Path, verify: str, found: Measured) -> None:
    begun = time.perf_counter()
    running = program.start("etcd", "backup", "--yes", "--verify", verify)
    peak_kb, first = 0, 0.0
    while not running.has_ended:
        try:
            text = Path(f"/proc/{running.pid}/status").read_text()
            seen = re.search(r"VmHWM:\s+(\d+) kB", text)
            peak_kb = max(peak_kb, int(seen[1]) if seen else 0)
            if not first and any(p.stat().st_size for p in store.rglob(".snapshot*")):
                first = time.perf_counter() - begun
        except OSError:
            pass  # it ended, or a file got its name, between two looks
        time.sleep(_LOOK_S)
    found.seconds.append(time.perf_counter() - begun)
    program.expect(running, deadline_s=_LIMIT_S)
    found.peak_mb.append(peak_kb / 1024)
    found.first_byte_s.append(first)
    shutil.rmtree(store)


def measure(size_mb: int, rounds: int, stack: ExitStack) -> tuple[float, dict[str, Measured]]:
    """Return the size of the database in MB and what each way took, taken in turn."""
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    members = Members(folder / "etcd", quota_bytes=4 * 2**30)
    stack.callback(members.stop)
    members.start()
    members.cluster_keys()
    own = members.credentials
    fill_quickly([members.endpoint()] * 2, (own.ca, own.cert, own.key), size_mb)
    host = stack.enter_context(kubeadm_host(folder / "host", members))
    program, _ = operator(folder / "operator", host, members)
    found: dict[str, Measured] = defaultdict(Measured)
    for number in range(rounds + 1):
        into = found if number else defaultdict(Measured)  # the first one warms up
        save(members, folder / "snapshot.db", into[SAVE])
        back_up(program, folder / "store", "none", into[STORED])
        back_up(program, folder / "store", "restore", into[PROVEN])
    return (folder / "etcd" / "m1" / "member" / "snap" / "db").stat().st_size / 1e6, found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--sizes", default="100,1000,2000", help="MB of values, one etcd after the other")
    arguments = parser.parse_args()
    if reason := unavailable_reason():
        cannot_run(reason)
    if ETCD is None or ETCDCTL is None or not SSHD:
        cannot_run(MISSING if SSHD else "sshd is not installed (Debian: openssh-server)")
    rows = []
    for size_mb in map(int, arguments.sizes.split(",")):
        with ExitStack() as stack:
            db_mb, found = measure(size_mb, arguments.rounds, stack)
        pairs = list(zip(found[SAVE].seconds, found[STORED].seconds, found[PROVEN].seconds, strict=True))
        for name, ratios in (
            (SAVE, [1.0]),
            (STORED, [b / a for a, b, _ in pairs]),
            (PROVEN, [c / a for a, _, c in pairs]),
        ):
            one = found[name]
            peak = f"{max(one.peak_mb):.0f}" if one.peak_mb else ""
            first = f"{statistics.median(one.first_byte_s):.1f}" if one.first_byte_s else ""
            rows.append(
                f"| {db_mb:.0f} MB | {name} | {statistics.median(one.seconds):.1f} | {statistics.median(ratios):.2f} | "
                f"{peak} | {first} |"
            )
    print(
        f"Median of {arguments.rounds} rounds, the three in turn; times: median of the ratios of each round. Half of "
        "what the values hold compresses. Memory is the peak of kops-py itself (VmHWM). First byte: from the start of "
        "the program, as a timer starts it, to the first byte in the store; the rest of it is Python, the inventory, "
        "SSH and asking the members.\n"
    )
    print("| database | way | s | times etcdctl | peak MB | first byte s |\n|---|---|---:|---:|---:|---:|")
    print("\n".join(rows))


if __name__ == "__main__":
    main()
