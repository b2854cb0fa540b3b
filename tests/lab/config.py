"""Names, paths, addresses and constants of a lab; nothing in this file touches the machine."""

from __future__ import annotations

import os
import re
import zlib
from collections.abc import Collection
from pathlib import Path

DEFAULT_LAB = "kops"
DEFAULT_HOME = "~/.cache/kops-py/lab"

# The three accounts every node has; all of them accept the lab's key.
USER = "ops"  # sudo without a password
USER_WITH_PASSWORD = "opspw"  # sudo asks for SUDO_PASSWORD
USER_WITHOUT_SUDO = "nosudo"
SUDO_PASSWORD = "lab-password"  # a test-bed constant, known to everybody; it protects nothing

# One lab owns 10.<octet>.0.0/16: nodes in 10.<octet>.0.0/24, swarm hosts in 10.<octet>.128.0/17. The range keeps
# clear of the Kubernetes service range (10.96.0.0/12) and of the usual pod ranges (10.244.0.0/16, 10.217.0.0/16).
OCTETS = range(130, 215)
MAX_NODES = 200
MAX_SWARM = 1000  # a bridge carries 1023 ports
SWARM_PER_BLOCK = 200
VETH_MTU = 1400
SERVE_PORT = 8080

# overlayfs refuses an overlay as upper directory: these are real directories of the machine, bound in.
REAL_DIRS = ("/var/lib/containerd", "/var/lib/docker", "/var/lib/kubelet", "/var/lib/etcd")

_INTERFACE_NAME_MAX = 15  # IFNAMSIZ - 1
_TAG_MAX = 7


class LabError(RuntimeError):
    """The lab cannot do what was asked; the text says what happened, where, and what to do next."""


def lab_home() -> Path:
    """Directory shared by all labs of this user: `KOPS_LAB_DIR`, or `~/.cache/kops-py/lab`."""
    return Path(os.environ.get("KOPS_LAB_DIR") or DEFAULT_HOME).expanduser().absolute()


def lab_tag(name: str) -> str:
    """At most seven characters that stand for the lab in names of interfaces, chains and cgroups.

    Raises LabError when the name is not `[a-z][a-z0-9-]{0,30}`.
    """
    if not re.fullmatch(r"[a-z][a-z0-9-]{0,30}", name):
        raise LabError(
            f"lab name {name!r}: lower-case letters, digits and '-' only, a letter first, 31 characters at most"
        )
    if len(name) <= _TAG_MAX and "-" not in name:
        return name
    return f"{re.sub('-', '', name)[:3]}{zlib.crc32(name.encode()) & 0xFFFF:04x}"


def choose_octet(name: str, taken: Collection[int]) -> int:
    """Second octet of the lab's network: by the name's hash, or the next one that is free."""
    start = zlib.crc32(name.encode()) % len(OCTETS)
    for step in range(len(OCTETS)):
        octet = OCTETS[(start + step) % len(OCTETS)]
        if octet not in taken:
            return octet
    raise LabError(f"no free network left in 10.{OCTETS[0]}.0.0 to 10.{OCTETS[-1]}.255.255: end other labs first")


class LabConfig:
    """Everything that follows from a lab's name and home directory."""

    __slots__ = ("bridge", "cgroup", "chain", "dir", "home", "name", "prefix", "swarm_bridge", "tag")

    def __init__(self, name: str, home: Path | None = None) -> None:
        self.name = name
        self.tag = lab_tag(name)
        self.home = home or lab_home()
        self.dir = self.home / "labs" / name
        self.prefix = f"kl{self.tag}-"  # network namespaces and host-side veth: kl<tag>-n1
        self.bridge = self.prefix + "br0"
        self.swarm_bridge = self.prefix + "br1"
        self.chain = f"KOPSLAB-{self.tag}"
        self.cgroup = f"kops-lab-{self.tag}"

    @classmethod
    def from_dir(cls, directory: Path) -> LabConfig:
        """The configuration of the lab that lives in `<home>/labs/<name>`."""
        return cls(directory.name, directory.parent.parent)

    def veth(self, node: str) -> str:
        name = self.prefix + node
        if len(name) > _INTERFACE_NAME_MAX:
            raise LabError(f"interface name {name} is longer than {_INTERFACE_NAME_MAX} characters")
        return name

    def node_dir(self, node: str) -> Path:
        return self.dir / "nodes" / node

    @property
    def state_file(self) -> Path:
        return self.dir / "state.json"

    @property
    def known_hosts(self) -> Path:
        return self.dir / "known_hosts"

    @property
    def ssh_config(self) -> Path:
        return self.dir / "ssh_config"

    @property
    def lock_file(self) -> Path:
        return self.home / "locks" / f"lab-{self.name}"

    @property
    def key(self) -> Path:
        return self.home / "id_ed25519"


def gateway(octet: int) -> str:
    return f"10.{octet}.0.1"


def node_ip(octet: int, index: int) -> str:
    """Address of node number `index` (from 1)."""
    if not 1 <= index <= MAX_NODES:
        raise LabError(f"a lab has at most {MAX_NODES} nodes")
    return f"10.{octet}.0.{10 + index}"


def swarm_gateway(octet: int) -> str:
    return f"10.{octet}.128.1"


def swarm_ip(octet: int, index: int) -> str:
    """Address of swarm host number `index` (from 1)."""
    if not 1 <= index <= MAX_SWARM:
        raise LabError(f"a swarm has at most {MAX_SWARM} hosts")
    block, offset = divmod(index - 1, SWARM_PER_BLOCK)
    return f"10.{octet}.{128 + block}.{10 + offset}"
