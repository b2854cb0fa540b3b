"""A command on many hosts: kops-py beside pyinfra, ``ansible -m raw`` and a bare thread pool over paramiko.

Boots a swarm of sshd-only hosts in the lab (needs root) and connects from nothing in every round; each way is a
program of its own, so its start counts:

    python -m bench.ssh_fanout [--hosts 200] [--parallel 32] [--rounds 1]

pyinfra comes into a virtual environment of its own, kept under ~/.cache/kops-py/bench-venv.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from bench.common import need_lab
from kops_py.connect.ssh import SshFleet
from kops_py.model.spec import HostSpec, SshSpec
from tests.lab import Lab

VENV = Path("~/.cache/kops-py/bench-venv").expanduser()
LIMIT_S = 600


@dataclass(frozen=True)
class Swarm:
    """The hosts and how to log in."""

    hosts: Mapping[str, str]
    user: str
    key: Path
    known_hosts: Path
    parallel: int
    folder: Path


def in_own_process(way: str) -> Callable[[Swarm], tuple[int, float]]:
    """Return a function that runs one of our own ways as pyinfra and ansible are run: as a program."""

    def run(swarm: Swarm) -> tuple[int, float]:
        fields = {**asdict(swarm), "key": str(swarm.key), "known_hosts": str(swarm.known_hosts), "folder": "."}
        command = [sys.executable, "-m", "bench.ssh_fanout", "--only", way]
        done = subprocess.run(
            command, input=json.dumps(fields), capture_output=True, text=True, check=True, timeout=LIMIT_S
        )
        answered, second_s = json.loads(done.stdout)
        return int(answered), float(second_s)

    return run


def only(way: str) -> None:
    """Run one way on the swarm described on standard input."""
    fields = json.load(sys.stdin)
    swarm = Swarm(**{**fields, **{name: Path(fields[name]) for name in ("key", "known_hosts", "folder")}})
    json.dump({"kops-py": ours, "pool": bare_pool}[way](swarm), sys.stdout)


def ours(swarm: Swarm) -> tuple[int, float]:
    """Return how many answered, and how long a second command over the open connections took."""
    specs = [
        HostSpec(name, address, 22, swarm.user, frozenset(), address, key_file=swarm.key)
        for name, address in swarm.hosts.items()
    ]
    settings = SshSpec(connect_timeout_s=60, max_parallel=swarm.parallel)
    fleet = SshFleet(specs, settings=settings, known_hosts=swarm.known_hosts, ssh_config=Path("/dev/null"))
    results = fleet.map(list(swarm.hosts), lambda host: host.run(["hostname"]).ok)
    begun = time.perf_counter()
    fleet.map(list(swarm.hosts), lambda host: host.run(["hostname"]).ok)
    second_s = time.perf_counter() - begun
    fleet.close()
    return sum(r is True for r in results.values()), second_s


def bare_pool(swarm: Swarm) -> tuple[int, float]:
    import paramiko

    def one(address: str) -> tuple[bool, paramiko.SSHClient]:
        client = paramiko.SSHClient()
        client.load_host_keys(str(swarm.known_hosts))
        client.connect(
            address, username=swarm.user, key_filename=str(swarm.key), allow_agent=False, look_for_keys=False,
            timeout=60, banner_timeout=60, auth_timeout=60,
        )  # fmt: skip
        return again(client), client

    def again(client: paramiko.SSHClient) -> bool:
        return client.exec_command("hostname")[1].channel.recv_exit_status() == 0

    with ThreadPoolExecutor(swarm.parallel) as pool:
        results = list(pool.map(one, swarm.hosts.values()))
        begun = time.perf_counter()
        list(pool.map(again, [client for _, client in results]))
        second_s = time.perf_counter() - begun
    for _, client in results:
        client.close()
    return sum(ok for ok, _ in results), second_s


def pyinfra(swarm: Swarm) -> tuple[int, float]:
    data = {"ssh_user": swarm.user, "ssh_key": str(swarm.key), "ssh_known_hosts_file": str(swarm.known_hosts)}
    data["ssh_connect_timeout"] = "60"
    hosts = [(address, data) for address in swarm.hosts.values()]
    inventory = swarm.folder / "pyinfra_inventory.py"
    inventory.write_text(f"hosts = {hosts!r}\n")
    command = [str(VENV / "bin/pyinfra"), "-y", "--parallel", str(swarm.parallel), str(inventory), "exec", "--"]
    done = _run([*command, "hostname"], swarm.folder)
    # one line "[address] Success" each, and a summary that has the word, too
    said = re.sub(r"\x1b\[[0-9;]*m", "", done.stderr + done.stdout)
    return len(re.findall(r"\]\s+Success", said)), 0.0


def ansible_raw(swarm: Swarm) -> tuple[int, float]:
    inventory = swarm.folder / "ansible.ini"
    inventory.write_text("".join(f"{name} ansible_host={address}\n" for name, address in swarm.hosts.items()))
    done = _run(
        [
            str(Path(sys.executable).parent / "ansible"), "all", "-i", str(inventory), "-f", str(swarm.parallel),
            "-u", swarm.user, "--private-key", str(swarm.key), "-T", "60", "-m", "raw", "-a", "hostname",
            "--ssh-common-args", f"-F /dev/null -o UserKnownHostsFile={swarm.known_hosts}",
        ],
        swarm.folder,
    )  # fmt: skip
    return done.stdout.count("rc=0"), 0.0


def _run(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    # a control path per round, so that no connection is left over from the one before
    with tempfile.TemporaryDirectory() as control:
        environment = {**os.environ, "ANSIBLE_SSH_CONTROL_PATH_DIR": control, "ANSIBLE_HOST_KEY_CHECKING": "True"}
        environment |= {"ANSIBLE_SSH_ARGS": "-C -o ControlMaster=auto -o ControlPersist=1s"}
        environment.pop("SSH_AUTH_SOCK", None)
        return subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=LIMIT_S
        )


WAYS: dict[str, Callable[[Swarm], tuple[int, float]]] = {
    "kops-py": in_own_process("kops-py"),
    "bare thread pool, paramiko": in_own_process("pool"),
    "pyinfra": pyinfra,
    "ansible -m raw": ansible_raw,
}


def ensure_pyinfra() -> None:
    if not (VENV / "bin/pyinfra").exists():
        subprocess.run([sys.executable, "-m", "venv", VENV], check=True)
        subprocess.run([VENV / "bin/python", "-m", "pip", "install", "-q", "pyinfra>=3.4"], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hosts", type=int, default=200)
    parser.add_argument("--parallel", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--only", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.only:
        only(arguments.only)
        return
    need_lab()
    ensure_pyinfra()
    times: dict[str, list[float]] = {name: [] for name in WAYS}
    seconds: dict[str, list[float]] = {name: [] for name in WAYS}
    with Lab(f"fan{os.getpid()}") as lab, tempfile.TemporaryDirectory() as folder:
        hosts = lab.swarm(arguments.hosts)
        swarm = Swarm(hosts, lab.user, lab.key_path, lab.known_hosts, arguments.parallel, Path(folder))
        for _ in range(arguments.rounds):
            for name, way in WAYS.items():
                begun = time.perf_counter()
                answered, second_s = way(swarm)
                times[name].append(time.perf_counter() - begun - second_s)
                seconds[name].append(second_s)
                if answered != len(hosts):
                    raise SystemExit(f"{name}: only {answered} of {len(hosts)} hosts answered")
    best = statistics.median(times["kops-py"])
    print(f"A command on {len(hosts)} hosts, {arguments.parallel} side by side, {os.cpu_count()} processors\n")
    print("| way | connect and run, s | times kops-py | again, connections open, s |\n|---|---:|---:|---:|")
    for name, values in times.items():
        median, again = statistics.median(values), statistics.median(seconds[name])
        print(f"| {name} | {median:.2f} | {median / best:.1f} | {f'{again:.2f}' if again else '-'} |")


if __name__ == "__main__":
    main()
