"""Write a kops-py inventory and cluster.yaml for running Vagrant machines.

    vagrant ssh-config | python inventory.py --output inventory

kops-py reaches the machines as ``vagrant ssh`` does; the cluster uses the private network of machines.yaml.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

import yaml

FIRST_HOST = 11
"""Number of the first machine in the private network; the Vagrantfile counts the same way."""

GROUPS = ("kube_control_plane", "kube_node", "etcd", "load_balancer")


@dataclass(frozen=True, slots=True)
class Machine:
    """A machine of machines.yaml; ``ip`` is its address in the private network."""

    name: str
    ip: str
    groups: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Target:
    """How ssh reaches a machine."""

    host: str
    port: int
    user: str
    key_file: str


def read_machines(text: str) -> tuple[Machine, ...]:
    """Read machines.yaml; raises ValueError that says what is wrong with it."""
    try:
        document = yaml.safe_load(text)
        network = IPv4Network(document["network"])
        machines = tuple(
            Machine(str(entry["name"]), str(network[FIRST_HOST + number]), tuple(entry["groups"]))
            for number, entry in enumerate(document["machines"])
        )
    except KeyError as error:
        raise ValueError(f"the key {error} is missing") from None
    except (TypeError, IndexError, yaml.YAMLError) as error:
        raise ValueError(str(error)) from None
    unknown = sorted({group for machine in machines for group in machine.groups} - set(GROUPS))
    if unknown:
        raise ValueError(f"unknown groups {', '.join(unknown)}; allowed are {', '.join(GROUPS)}")
    names = [machine.name for machine in machines]
    if len(set(names)) != len(names):
        raise ValueError("a machine's name is there twice")
    return machines


def read_ssh_config(text: str) -> dict[str, Target]:
    """Read the output of ``vagrant ssh-config``: how to reach each machine, by name; raises ValueError."""
    import paramiko

    config = paramiko.SSHConfig.from_text(text)
    targets: dict[str, Target] = {}
    for name in sorted(config.get_hostnames() - {"*"}):
        entry: Mapping[str, Any] = config.lookup(name)
        try:
            key_file = str(entry["identityfile"][0]).strip('"')
            targets[name] = Target(entry["hostname"], int(entry.get("port", 22)), entry["user"], key_file)
        except KeyError as error:
            raise ValueError(f"machine {name} has no {error.args[0]} in vagrant's ssh configuration") from None
    return targets


def inventory(machines: tuple[Machine, ...], targets: Mapping[str, Target], known_hosts: str) -> str:
    """Return the inventory of the machines; raises ValueError when one of them is not running."""
    missing = [machine.name for machine in machines if machine.name not in targets]
    if missing:
        raise ValueError(f"not running: {', '.join(missing)}; type: vagrant up {' '.join(missing)}")
    hosts: dict[str, Any] = {}
    for machine in machines:
        target = targets[machine.name]
        hosts[machine.name] = {
            "ansible_host": target.host,
            "ansible_port": target.port,
            "ansible_user": target.user,
            "ansible_ssh_private_key_file": target.key_file,
            "ip": machine.ip,
        }
    children: dict[str, Any] = {
        group: {"hosts": {machine.name: {} for machine in machines if group in machine.groups}} for group in GROUPS
    }
    common = f"-o UserKnownHostsFile={known_hosts}"
    document = {"all": {"vars": {"ansible_ssh_common_args": common}, "hosts": hosts, "children": children}}
    return "---\n" + yaml.safe_dump(document, sort_keys=False)


def cluster_file(version: str) -> str:
    """Return a cluster.yaml for the machines; the bridge network fits, as all are in one private network."""
    document = {
        "apiVersion": "kops-py/v1",
        "kind": "Cluster",
        "metadata": {"name": "vagrant"},
        "kubernetes": {"version": version},
        "network": {"cni": {"type": "bridge"}},
    }
    return "---\n" + yaml.safe_dump(document, sort_keys=False)


def main(arguments: list[str] | None = None) -> int:
    """Read ssh configuration from standard input, write the two files, and say what to type next."""
    here = Path(__file__).resolve().parent
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--output", type=Path, required=True, help="folder for hosts.yaml and cluster.yaml")
    parser.add_argument("--version", default="v1.34.2", help="Kubernetes version in a new cluster.yaml")
    options = parser.parse_args(arguments)
    machines_file = Path(os.environ.get("KOPS_VAGRANT_MACHINES", here / "machines.yaml"))
    output: Path = options.output.resolve()
    try:
        machines = read_machines(machines_file.read_text())
        hosts = inventory(machines, read_ssh_config(sys.stdin.read()), str(output / "known_hosts"))
    except (OSError, ValueError) as error:
        print(f"{machines_file}: {error}", file=sys.stderr)
        return 2
    output.mkdir(parents=True, exist_ok=True)
    (output / "hosts.yaml").write_text(hosts)
    if not (output / "cluster.yaml").exists():
        (output / "cluster.yaml").write_text(cluster_file(options.version))
    print(f"kops-py preflight -i {output} --accept-new-host-keys")
    return 0


if __name__ == "__main__":
    sys.exit(main())
