"""Start and stop nodes made from a kind node image, and write their inventory.

python -m tests.kind.nodes up 3 --control-planes 1 --output DIR
python -m tests.kind.nodes down
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).resolve().parent
TAG = "kops-py-node"
NETWORK = "kops-py"
USER = "ops"
ENGINES = ("docker", "podman")
GROUPS = ("kube_control_plane", "kube_node", "etcd", "load_balancer")

_DIGEST = re.compile(r"[a-z0-9./:_-]+@sha256:[0-9a-f]{64}")


def node_names(count: int) -> tuple[str, ...]:
    """Return the names of this many nodes; raises ValueError below 1."""
    if count < 1:
        raise ValueError("at least one node is needed")
    return tuple(f"kops-py-n{number}" for number in range(1, count + 1))


def build_argv(engine: str, node_image: str | None = None) -> tuple[str, ...]:
    """Return the argv that builds the image; ``node_image`` must name its digest, else ValueError."""
    if node_image is not None and _DIGEST.fullmatch(node_image) is None:
        raise ValueError(f"{node_image!r} has no digest: kind's release notes have NAME:TAG@sha256:...")
    argument = () if node_image is None else ("--build-arg", f"KIND_NODE_IMAGE={node_image}")
    return (engine, "build", "--tag", TAG, *argument, "--file", str(HERE / "Dockerfile"), str(HERE))


def network_argv(engine: str) -> tuple[str, ...]:
    """Return the argv that creates the nodes' network."""
    return (engine, "network", "create", NETWORK)


def run_argv(engine: str, name: str) -> tuple[str, ...]:
    """Return the argv that boots a node the way kind does it.

    Privileged, for mounts, cgroups and kernel settings of its own; /run and /tmp in memory, as systemd wants them;
    /var as a volume, because an overlay cannot lie on an overlay; the machine's modules to read; its own cgroup
    namespace. Source: kind's pkg/cluster/internal/providers.
    """
    if engine not in ENGINES:
        raise ValueError(f"{engine!r} is not one of {', '.join(ENGINES)}")
    unconfined = ("--security-opt", "seccomp=unconfined", "--security-opt", "apparmor=unconfined")
    return (
        *(engine, "run", "--detach", "--tty", "--privileged", *(unconfined if engine == "docker" else ())),
        *("--name", name, "--hostname", name, "--label", f"{NETWORK}.node=true"),
        *("--network", NETWORK, "--cgroupns=private", "--init=false", "--restart=no"),
        *("--tmpfs", "/tmp", "--tmpfs", "/run"),
        *("--volume", "/var", "--volume", "/lib/modules:/lib/modules:ro"),
        TAG,
    )


def authorize_argv(engine: str, name: str) -> tuple[str, ...]:
    """Return the argv that lets the public key on its standard input log in."""
    keys = f"/home/{USER}/.ssh/authorized_keys"
    script = f"umask 077 && cat >{keys} && chown {USER}: {keys}"
    return (engine, "exec", "--interactive", name, "sh", "-c", script)


def list_argv(engine: str) -> tuple[str, ...]:
    """Return the argv that prints the names of the nodes there are, one a line."""
    return (engine, "ps", "--all", "--filter", f"label={NETWORK}.node=true", "--format", "{{.Names}}")


def remove_argv(engine: str, names: Sequence[str]) -> tuple[str, ...]:
    """Return the argv that removes nodes and their volumes."""
    return (engine, "rm", "--force", "--volumes", *names)


def parse_inspect(output: str) -> dict[str, str]:
    """Read addresses by node name from what ``docker inspect`` or ``podman inspect`` prints; raises ValueError."""
    addresses: dict[str, str] = {}
    for container in json.loads(output):
        name = str(container["Name"]).removeprefix("/")
        address = container["NetworkSettings"]["Networks"].get(NETWORK, {}).get("IPAddress")
        if not address:
            raise ValueError(f"{name} has no address in the network {NETWORK}: is it running?")
        addresses[name] = str(address)
    return addresses


def inventory(addresses: Mapping[str, str], control_planes: int, *, key_file: str, known_hosts: str) -> str:
    """Return the inventory: the first nodes are control planes, the others workers; raises ValueError."""
    names = list(addresses)
    if not 1 <= control_planes <= len(names):
        raise ValueError(f"{len(names)} nodes cannot have {control_planes} control planes")
    members = {"kube_control_plane": names[:control_planes], "kube_node": names[control_planes:]}
    document: dict[str, Any] = {
        "all": {
            "vars": {
                "ansible_user": USER,
                "ansible_ssh_private_key_file": key_file,
                "ansible_ssh_common_args": f"-o UserKnownHostsFile={known_hosts}",
            },
            "hosts": {name: {"ansible_host": address} for name, address in addresses.items()},
            "children": {group: {"hosts": {name: {} for name in members.get(group, [])}} for group in GROUPS},
        }
    }
    return "---\n" + yaml.safe_dump(document, sort_keys=False)


def cluster_file(version: str) -> str:
    """Return a cluster.yaml for the nodes; the bridge network fits, as all are in one network."""
    document = {
        "apiVersion": "kops-py/v1",
        "kind": "Cluster",
        "metadata": {"name": "kind-nodes"},
        "kubernetes": {"version": version},
        "network": {"cni": {"type": "bridge"}},
    }
    return "---\n" + yaml.safe_dump(document, sort_keys=False)


def _run(argv: Sequence[str], *, text: str | None = None) -> str:
    return subprocess.run(argv, input=text, stdout=subprocess.PIPE, text=True, check=True, timeout=900).stdout


def up(options: argparse.Namespace) -> None:
    """Build the image, boot the nodes, write key, inventory and cluster.yaml."""
    names = node_names(options.count)
    output: Path = options.output.resolve()
    output.mkdir(parents=True, exist_ok=True, mode=0o700)
    key = output / "key"
    if not key.exists():
        _run(("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "kops-py kind nodes", "-f", str(key)))
    _run(build_argv(options.engine, options.node_image))
    if NETWORK not in _run((options.engine, "network", "ls", "--format", "{{.Name}}")).split():
        _run(network_argv(options.engine))
    for name in names:
        _run(run_argv(options.engine, name))
        _run(authorize_argv(options.engine, name), text=key.with_suffix(".pub").read_text())
    found = parse_inspect(_run((options.engine, "inspect", *names)))
    addresses = {name: found[name] for name in names}
    hosts = inventory(addresses, options.control_planes, key_file=str(key), known_hosts=str(output / "known_hosts"))
    (output / "hosts.yaml").write_text(hosts)
    (output / "cluster.yaml").write_text(cluster_file(options.version))
    print(f"kops-py preflight -i {output} --accept-new-host-keys")


def down(options: argparse.Namespace) -> None:
    """Remove all nodes and their network."""
    names = _run(list_argv(options.engine)).split()
    if names:
        _run(remove_argv(options.engine, names))
    if NETWORK in _run((options.engine, "network", "ls", "--format", "{{.Name}}")).split():
        _run((options.engine, "network", "rm", NETWORK))


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.kind.nodes")
    parser.add_argument("--engine", choices=ENGINES, default="docker")
    commands = parser.add_subparsers(required=True)
    starting = commands.add_parser("up", help="boot nodes and write their inventory")
    starting.add_argument("count", type=int)
    starting.add_argument("--control-planes", type=int, default=1)
    starting.add_argument("--output", type=Path, required=True, help="folder for key, hosts.yaml and cluster.yaml")
    starting.add_argument("--version", default="v1.34.2", help="Kubernetes version in cluster.yaml")
    starting.add_argument("--node-image", help="kind node image with its digest")
    starting.set_defaults(action=up)
    commands.add_parser("down", help="remove the nodes").set_defaults(action=down)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; 2 for a wrong argument, 1 when the engine fails."""
    options = parse_arguments(arguments)
    try:
        options.action(options)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    except (OSError, subprocess.SubprocessError) as error:
        print(f"{options.engine}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
