"""Ansible inventories and ssh client files for a lab; pure text."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from . import config as cfg
from .config import LabConfig, LabError

GROUPS = ("kube_control_plane", "kube_node", "etcd", "load_balancer")


def assign_roles(
    names: Sequence[str],
    *,
    control_planes: int = 1,
    workers: int | None = None,
    load_balancers: int = 0,
    external_etcd: int = 0,
) -> dict[str, list[str]]:
    """Give out roles in the order of the names: control planes, workers, load balancers, then etcd hosts.

    `workers=None` takes all that the others leave. Without external etcd the control planes are in `etcd`.
    Raises LabError when the lab has too few nodes.
    """
    if control_planes < 1:
        raise LabError("an inventory needs at least one control plane")
    fixed = control_planes + load_balancers + external_etcd
    if workers is None:
        workers = max(0, len(names) - fixed)
    if fixed + workers > len(names):
        raise LabError(f"{fixed + workers} nodes are wanted but the lab has {len(names)}: up {fixed + workers}")
    rest = list(names)

    def take(count: int) -> list[str]:
        taken, rest[:] = rest[:count], rest[count:]
        return taken

    groups = {"kube_control_plane": take(control_planes), "kube_node": take(workers)}
    groups["load_balancer"] = take(load_balancers)
    groups["etcd"] = take(external_etcd) or list(groups["kube_control_plane"])
    return groups


def render_inventory(
    addresses: Mapping[str, str],
    groups: Mapping[str, Sequence[str]],
    *,
    user: str,
    key: str,
    known_hosts: str,
) -> str:
    """A YAML inventory of the hosts that are in any group. A quoted JSON string is a YAML string."""
    members = [name for name in addresses if any(name in group for group in groups.values())]
    lines = ["---", "all:", "  vars:"]
    lines += [
        f"    ansible_user: {json.dumps(user)}",
        f"    ansible_ssh_private_key_file: {json.dumps(key)}",
        f"    ansible_ssh_common_args: {json.dumps(f'-o UserKnownHostsFile={known_hosts}')}",
        "    ansible_python_interpreter: /usr/bin/python3",
        "  hosts:",
    ]
    for name in members:
        lines += [f"    {name}:", f"      ansible_host: {json.dumps(addresses[name])}"]
    lines.append("  children:")
    for group in GROUPS:
        hosts = list(groups.get(group, ()))
        lines += [f"    {group}:", f"      hosts:{'' if hosts else ' {}'}"]
        lines += [f"        {name}: {{}}" for name in hosts]
    return "\n".join(lines) + "\n"


def render_ssh_config(config: LabConfig, addresses: Mapping[str, str]) -> str:
    """For `ssh -F`: strict about host keys, and never asking anything."""
    blocks = [f"Host {name}\n  HostName {ip}\n" for name, ip in addresses.items()]
    blocks.append(
        f"Host *\n  User {cfg.USER}\n  IdentityFile {config.key}\n  IdentitiesOnly yes\n"
        f"  UserKnownHostsFile {config.known_hosts}\n  GlobalKnownHostsFile /dev/null\n"
        "  StrictHostKeyChecking yes\n  BatchMode yes\n  ConnectTimeout 5\n  LogLevel ERROR\n"
    )
    return "".join(blocks)


def render_known_hosts(keys: Mapping[str, tuple[str, str]]) -> str:
    """`keys`: name → (address, public key as ssh-keygen writes it)."""
    return "".join(f"{ip},{name} {' '.join(key.split()[:2])}\n" for name, (ip, key) in keys.items())
