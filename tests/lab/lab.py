"""A lab: some booted systems on a private network of this machine. The interface for tests and for the CLI."""

from __future__ import annotations

import concurrent.futures
import re
import shutil
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType

from . import cgroups, inventory, network, rootfs, serve, swarm
from . import config as cfg
from .check import unavailable_reason
from .config import LabConfig, LabError
from .leaks import find_leaks
from .node import READY_TIMEOUT_S, Node, kill_nodes, start_nodes, stop_nodes
from .processes import end_process, find_children, run, wait_until
from .state import LabState, NodeState, file_lock, load_state, save_state

_LOCK_TIMEOUT_S = 300


class Lab:
    """Booted Debian systems n1..nN with their own network. Several labs live side by side under different names.

    Use it as a context manager, or call `down()`; nothing of it ends by itself.
    """

    def __init__(self, name: str = cfg.DEFAULT_LAB) -> None:
        self.config = LabConfig(name)
        self.user = cfg.USER

    def __enter__(self) -> Lab:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.down()

    # -------------------------------------------------------------- what is known
    @property
    def name(self) -> str:
        return self.config.name

    @property
    def known_hosts(self) -> Path:
        """Host keys of all nodes and swarm hosts, by address and by name."""
        return self.config.known_hosts

    @property
    def key_path(self) -> Path:
        """Private key that all three users accept."""
        return self.config.key

    @property
    def ssh_config(self) -> Path:
        return self.config.ssh_config

    def state(self) -> LabState:
        """Raises LabError when the lab is not up."""
        state = load_state(self.config)
        if state is None:
            raise LabError(f"lab {self.name} is not up: python -m tests.lab up 3 --lab {self.name}")
        return state

    def node_state(self, name: str) -> NodeState:
        nodes = self.state()["nodes"]
        if name not in nodes:
            raise LabError(f"lab {self.name} has no node {name!r}; it has: {', '.join(nodes) or 'none'}")
        return nodes[name]

    def node(self, name: str) -> Node:
        self.node_state(name)
        return Node(self, name)

    @property
    def nodes(self) -> list[Node]:
        """All nodes, n1 first."""
        return [Node(self, name) for name in self.state()["nodes"]]

    @property
    def gateway(self) -> str:
        """Address of this machine as the nodes see it."""
        return cfg.gateway(self.state()["octet"])

    @property
    def subnet(self) -> str:
        return f"10.{self.state()['octet']}.0.0/24"

    def leaks(self) -> list[str]:
        """Every trace of the lab on this machine; empty after `down()`."""
        return find_leaks(self.config)

    # -------------------------------------------------------------- life
    def up(
        self,
        count: int,
        *,
        layers: Sequence[str] = (),
        mem_bytes: int | None = None,
        disk_bytes: int | None = None,
        wait: bool = True,
    ) -> list[Node]:
        """Boot nodes n1..n<count>; those that exist keep their disk and settings.

        `layers` are names given to `layer()`, the last one on top. `mem_bytes` limits the node's memory cgroup.
        `disk_bytes` puts what the node writes, its /var/lib/{containerd,kubelet,etcd,docker} included, on an
        ext4 file of that size (through a loop device; on a tmpfs where the machine has none). Returns the nodes
        when ssh lets a user in. Raises LabError.
        """
        reason = unavailable_reason()
        if reason:
            raise LabError(f"no lab can run here: {reason}")
        for layer in layers:
            if rootfs.layer_recipe(self.config.home, layer) is None:
                raise LabError(f"there is no layer {layer!r}: python -m tests.lab layer {layer} PACKAGE...")
        rootfs.ensure_base(self.config.home)
        with self._lock():
            state = self._ensure_network()
            names = [f"n{index}" for index in range(1, count + 1)]
            for index, name in enumerate(names, 1):
                if name not in state["nodes"]:
                    state["nodes"][name] = {
                        "ip": cfg.node_ip(state["octet"], index),
                        "uuid": str(uuid.uuid4()),
                        "layers": list(layers),
                        "mem_bytes": mem_bytes,
                        "disk_bytes": disk_bytes,
                    }
            save_state(self.config, state)
            self._provision(state)
            nodes = [Node(self, name) for name in names]
            start_nodes(nodes)
        if wait:
            wait_all_ready([node for node in nodes if node.is_reachable])
        return nodes

    def start(self, *names: str) -> None:
        nodes = [self.node(name) for name in names]
        start_nodes(nodes)
        wait_all_ready([node for node in nodes if node.is_reachable])

    def stop(self, *names: str) -> None:
        stop_nodes([self.node(name) for name in names])

    def kill(self, *names: str) -> None:
        kill_nodes([self.node(name) for name in names])

    def new_disk(self, name: str) -> None:
        """An empty disk with new host keys for a node that is down."""
        if self.node(name).is_running:
            raise LabError(f"{name} is running: kill it first")
        with self._lock():
            rootfs.make_disk(self.config, name, self.node_state(name)["disk_bytes"])
            self._provision(self.state())

    def down(self) -> None:
        """Remove everything of the lab, in whatever state a crash has left it; harmless when there is nothing.

        The base system and the layers stay, for all labs. Raises LabError when something does not go away.
        """
        with self._lock():
            for child in find_children(self.config):  # a node's init and the swarm's hosts die with their parent
                end_process(child.pid, 60)
            inits = [Node(self, path.name) for path in (self.config.dir / "nodes").glob("*")]
            if not wait_until(lambda: not any(node.init_pid for node in inits), 30):
                raise LabError(f"still running: {[node.name for node in inits if node.init_pid]}; run down again")
            network.host_down(self.config)
            cgroups.remove_all(self.config)
            rootfs.remove_tree(self.config.dir)
            # a loop device goes with its last mount, which a dying namespace may hold for another moment
            wait_until(lambda: not rootfs.loop_devices(self.config.dir), 10)
            network.unregister(self.config)

    # -------------------------------------------------------------- layers
    def layer(
        self,
        name: str,
        packages: Sequence[str],
        *,
        on: Sequence[str] = (),
        customise: Callable[[Node], None] | None = None,
        force: bool = False,
    ) -> None:
        """Make sure that the layer exists: packages installed once on a throw-away system, shared by all labs.

        `on` names layers it is built upon (give them to `up` before this one); `customise` may do more on the
        booted system. Built again when the packages differ, or with `force`. Raises LabError with apt's output.
        """
        if not re.fullmatch(r"[a-z][a-z0-9-]*", name):
            raise LabError(f"layer name {name!r}: lower-case letters, digits and '-' only")
        home = self.config.home
        recipe = f"on: {' '.join(on)}\npackages: {' '.join(packages)}\n"
        with file_lock(home / "locks" / f"layer-{name}", 900, f"layer {name}"):
            if rootfs.layer_recipe(home, name) == recipe and not force:
                return
            with Lab(f"layer-{name}"[:31]) as builder:
                builder.down()  # what an interrupted build has left
                (node,) = builder.up(1, layers=on)
                if packages:
                    node.exec("apt-get -q update", timeout_s=300)
                    install = ["env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-qy", "install", *packages]
                    node.exec(install, timeout_s=900)
                if customise:
                    customise(node)
                node.exec("apt-get clean && rm -rf /var/lib/apt/lists/*")
                node.stop()
                rootfs.keep_as_layer(home, name, node.upper, recipe)

    # -------------------------------------------------------------- swarm
    def swarm(self, size: int, timeout_s: float = 120) -> dict[str, str]:
        """Boot h1..h<size>, hosts with nothing but sshd; returns name → address. Replaces an earlier swarm."""
        if not 1 <= size <= cfg.MAX_SWARM:
            raise LabError(f"a swarm has 1 to {cfg.MAX_SWARM} hosts")
        rootfs.ensure_base(self.config.home)
        with self._lock():
            state = self._ensure_network()
            swarm.stop(self.config)
            state["swarm_size"] = size
            save_state(self.config, state)
            self._write_access_files(state)
            swarm.start(self.config, state["octet"], size, timeout_s)
        return swarm.addresses(state["octet"], size)

    def swarm_down(self) -> None:
        with self._lock():
            swarm.stop(self.config)
            state = load_state(self.config)
            if state:
                state["swarm_size"] = 0
                save_state(self.config, state)
                self._write_access_files(state)

    # -------------------------------------------------------------- file server
    def serve(self, directory: Path, port: int = cfg.SERVE_PORT) -> str:
        """Serve a directory over HTTP on the gateway until `serve_stop()` or `down()`; returns the URL."""
        with self._lock():
            state = self._ensure_network()
            state["serve"] = {"directory": str(directory.absolute()), "port": port}
            save_state(self.config, state)
            serve.start(self.config, state["octet"], port, directory.absolute())
        return serve.url(state["octet"], port)

    def serve_stop(self) -> None:
        """The repository vanishes: open downloads break, new connections are refused."""
        serve.stop(self.config)

    def serve_start(self) -> str:
        """The repository is back, with the directory and the port it had."""
        last = self.state()["serve"]
        if last is None:
            raise LabError("nothing was served yet: serve DIR first")
        return self.serve(Path(last["directory"]), last["port"])

    # -------------------------------------------------------------- inventory
    def inventory(
        self,
        *,
        control_planes: int = 1,
        workers: int | None = None,
        load_balancers: int = 0,
        external_etcd: int = 0,
        user: str = cfg.USER,
        path: Path | None = None,
    ) -> Path:
        """Write an Ansible inventory, roles given out in the order n1, n2, ...; returns its path."""
        nodes = self.state()["nodes"]
        groups = inventory.assign_roles(
            list(nodes),
            control_planes=control_planes,
            workers=workers,
            load_balancers=load_balancers,
            external_etcd=external_etcd,
        )
        text = inventory.render_inventory(
            {name: node["ip"] for name, node in nodes.items()},
            groups,
            user=user,
            key=str(self.key_path),
            known_hosts=str(self.known_hosts),
        )
        path = path or self.config.dir / "inventory.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    # -------------------------------------------------------------- inner works
    def _lock(self) -> AbstractContextManager[None]:
        return file_lock(self.config.lock_file, _LOCK_TIMEOUT_S, f"lab {self.name}")

    def _ensure_network(self) -> LabState:
        """The lab's state, with its network there; recorded before anything is made, so that `down` finds it."""
        octet = network.register(self.config)
        state = load_state(self.config) or {"octet": octet, "nodes": {}, "swarm_size": 0, "serve": None}
        save_state(self.config, state)
        network.bridge_up(self.config.bridge, f"{cfg.gateway(octet)}/24")
        network.firewall_up(self.config, octet)
        return state

    def _provision(self, state: LabState) -> None:
        """What an installer would have put on the disk of nodes that are off: host keys, names, resolver."""
        hosts = "127.0.0.1 localhost\n::1 localhost ip6-localhost\n"
        hosts += "".join(f"{node['ip']} {name}\n" for name, node in state["nodes"].items())
        for name, node in state["nodes"].items():
            upper = self.config.node_dir(name) / "data" / "upper"
            if not rootfs.mount_disk(self.config, name, node["disk_bytes"]):
                rootfs.make_disk(self.config, name, node["disk_bytes"])
            if Node(self, name).is_running:
                continue
            for folder in (upper, upper / "etc", upper / "etc/ssh"):
                folder.mkdir(exist_ok=True)
                folder.chmod(0o755)
            key = upper / "etc/ssh/ssh_host_ed25519_key"
            if not (key.exists() and key.with_suffix(".pub").exists()):
                key.unlink(missing_ok=True)
                run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(key))
            (upper / "etc/hostname").write_text(f"{name}\n")
            (upper / "etc/hosts").write_text(hosts)
            shutil.copy(network.resolver_file(), upper / "etc/resolv.conf")
        self._write_access_files(state)

    def _write_access_files(self, state: LabState) -> None:
        addresses = {name: node["ip"] for name, node in state["nodes"].items()}
        keys = {}
        for name, ip in addresses.items():
            public = self.config.node_dir(name) / "data/upper/etc/ssh/ssh_host_ed25519_key.pub"
            if public.exists():
                keys[name] = (ip, public.read_text())
        if state["swarm_size"]:
            public_key = (rootfs.swarm_layer(self.config.home) / "etc/ssh/swarm_key.pub").read_text()
            hosts = swarm.addresses(state["octet"], state["swarm_size"])
            keys |= {name: (ip, public_key) for name, ip in hosts.items()}
            addresses |= hosts
        self.config.known_hosts.write_text(inventory.render_known_hosts(keys))
        self.config.ssh_config.write_text(inventory.render_ssh_config(self.config, addresses))


def wait_all_ready(nodes: Sequence[Node], timeout_s: float = READY_TIMEOUT_S) -> dict[str, float]:
    """Wait for all at once; returns seconds per node. Raises LabError for the first that is not ready in time."""
    started = time.monotonic()

    def wait(node: Node) -> tuple[str, float]:
        node.wait_ready(timeout_s)
        return node.name, time.monotonic() - started

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        return dict(pool.map(wait, nodes))
