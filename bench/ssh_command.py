"""One command on an open connection: kops-py beside paramiko's default, fabric and OpenSSH's multiplexing.

Starts its own sshd on 127.0.0.1 and takes the ways in turn, so that all of them see the same machine:

    python -m bench.ssh_command [--rounds 40]
"""

from __future__ import annotations

import argparse
import getpass
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tests.integration.ssh.sshd import Sshd, fleet_for, running_sshd

Run = Callable[[], object]
COMMAND = "echo ok"


def ours(server: Sshd, stack: ExitStack) -> Run:
    fleet = fleet_for(server)
    stack.callback(fleet.close)
    host = fleet.host("n1")
    return lambda: _same(host.run(["echo", "ok"]).out)


def paramiko_default(server: Sshd, stack: ExitStack) -> Run:
    import paramiko

    client = paramiko.SSHClient()
    client.load_host_keys(str(server.known_hosts()))
    client.connect("127.0.0.1", server.port, getpass.getuser(), key_filename=str(server.key), allow_agent=False)
    stack.callback(client.close)
    return lambda: _same(client.exec_command(COMMAND)[1].read().decode())


def fabric_default(server: Sshd, stack: ExitStack) -> Run:
    from fabric import Config, Connection

    config = Config(lazy=True)
    connect: dict[str, Any] = {"key_filename": str(server.key), "allow_agent": False, "look_for_keys": False}
    connection = Connection("127.0.0.1", port=server.port, config=config, connect_kwargs=connect)
    connection.open()
    stack.callback(connection.close)
    return lambda: _same(connection.run(COMMAND, hide=True, in_stream=False).stdout)


def openssh_mux(server: Sshd, stack: ExitStack) -> Run:
    control = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "mux"
    base = [
        "ssh",
        "-F",
        "/dev/null",
        "-o",
        "BatchMode=yes",
        "-o",
        f"ControlPath={control}",
        "-p",
        str(server.port),
    ]
    base += ["-i", str(server.key), "-o", f"UserKnownHostsFile={server.known_hosts()}", "127.0.0.1"]
    subprocess.run([*base[:1], "-MNf", *base[1:]], check=True, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    stack.callback(lambda: subprocess.run([*base, "-O", "exit"], check=False, capture_output=True))
    return lambda: _same(subprocess.run([*base, COMMAND], check=True, capture_output=True, text=True).stdout)


WAYS: dict[str, Callable[[Sshd, ExitStack], Run]] = {
    "kops-py": ours,
    "paramiko, default": paramiko_default,
    "fabric": fabric_default,
    "OpenSSH ControlMaster": openssh_mux,
}


def _same(output: str) -> str:
    if output.strip() != "ok":
        raise RuntimeError(f"wrong answer {output!r}")
    return output


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=40)
    rounds = parser.parse_args().rounds
    times: dict[str, list[float]] = {name: [] for name in WAYS}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        server = stack.enter_context(running_sshd(folder / "sshd"))
        runs = {name: make(server, stack) for name, make in WAYS.items()}
        for number in range(rounds + 3):
            for name, run in runs.items():
                begun = time.perf_counter()
                run()
                if number >= 3:  # the first ones warm up
                    times[name].append(time.perf_counter() - begun)
    best = statistics.median(times["kops-py"])
    print(f"A command on an open connection, median of {rounds}, taken in turn\n")
    print("| way | ms | times kops-py |\n|---|---:|---:|")
    for name, values in times.items():
        median = statistics.median(values)
        print(f"| {name} | {median * 1000:.1f} | {median / best:.1f} |")


if __name__ == "__main__":
    main()
