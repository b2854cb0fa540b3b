"""haproxy's runtime interface on a load balancer host: argv and answers. What is set there, a restart forgets."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

BACKEND = "kubernetes_api"
"""Backend of the role haproxy; its servers have the names of the inventory's control planes."""

NO_HAPROXY_STATUS = 3
"""Exit status of ask_argv where no haproxy answers on a socket."""

MARKS = "/run/kops-py/out-of-balancer"
"""One file for each server that kops-py took out, in a place that no restart of the host survives, either."""

# The role is Ansible's, so that the host has Python; nothing else that speaks to a socket is sure to be there.
_ASK = f"""\
import json, socket, sys
def ask(path, command):
    with socket.socket(socket.AF_UNIX) as s:
        s.settimeout(5)
        s.connect(path)
        s.sendall(command.encode() + b"\\n")
        s.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: s.recv(65536), b"")).decode()
for path in ("/run/haproxy/admin.sock", "/var/lib/haproxy/stats"):
    try:
        print(json.dumps([ask(path, c) for c in sys.argv[1:]]))
        break
    except (FileNotFoundError, ConnectionRefusedError):
        pass
else:
    sys.exit({NO_HAPROXY_STATUS})
"""

# srv_admin_state of "show servers state" (haproxy's management guide): forced, inherited, from the configuration, and
# for want of an address.
_MAINTENANCE = 0x01 | 0x02 | 0x04 | 0x20
_DRAIN = 0x08 | 0x10
_RUNNING = 2


@dataclass(frozen=True, slots=True)
class Server:
    """One server of the backend as haproxy sees it."""

    name: str
    is_up: bool
    """Whether its health check passes; in drain and out of it."""
    in_maintenance: bool
    is_drained: bool

    @property
    def takes_connections(self) -> bool:
        """Whether new connections go to it."""
        return self.is_up and not self.in_maintenance and not self.is_drained


@dataclass(frozen=True, slots=True)
class Balancing:
    """What one haproxy says; ``process`` is another after each restart or reload, which forget all states."""

    process: str
    servers: Mapping[str, Server]


def ask_argv(*commands: str, python: str = "python3") -> tuple[str, ...]:
    """Return the command that sends commands to haproxy's socket, for parse_answers; it is to be run as root."""
    return (python or "python3", "-I", "-S", "-c", _ASK, *commands)


def parse_answers(output: str) -> tuple[str, ...]:
    """Return the answer to each command; raises ValueError."""
    value = json.loads(output)
    if not isinstance(value, list):
        raise ValueError("no list of answers")  # noqa: TRY004 - like all that json raises
    return tuple(str(answer) for answer in value)


LOOK = ("show info", f"show servers state {BACKEND}")
"""Commands whose answers parse_balancing reads."""


def parse_balancing(answers: tuple[str, ...]) -> Balancing:
    """Read the answers to LOOK; raises ValueError, with haproxy's own word where it has one."""
    info, states = answers
    process = next((line.partition(":")[2].strip() for line in info.splitlines() if line.startswith("Pid:")), "")
    lines = [line.split() for line in states.splitlines() if line.strip()]
    header = next((words[1:] for words in lines if words[0] == "#"), None)
    if not process or header is None:
        raise ValueError(" ".join(states.split())[:200] or "it names no process")
    rows = [dict(zip(header, words, strict=False)) for words in lines if len(words) >= len(header) and words[0] != "#"]
    return Balancing(process, {row["srv_name"]: _server(row) for row in rows})


def drain_command(server: str) -> str:
    """Return the command after which a server gets no new connections; open ones stay."""
    return f"set server {BACKEND}/{server} state drain"


def ready_command(server: str) -> str:
    """Return the command after which a server gets connections as soon as its health check passes."""
    return f"set server {BACKEND}/{server} state ready"


def read_mark_argv(server: str) -> tuple[str, ...]:
    """Return the command that prints the process in which kops-py took a server out; it fails when it did not."""
    return ("cat", f"{MARKS}/{server}")


def write_mark_argv(server: str, process: str) -> tuple[str, ...]:
    """Return the command that writes down that kops-py took a server out in this process of haproxy."""
    return ("sh", "-c", 'umask 077; mkdir -p "$1" && echo "$3" >"$1/$2"', "mark", MARKS, server, process)


def remove_mark_argv(server: str) -> tuple[str, ...]:
    """Return the command that takes the mark away."""
    return ("rm", "-f", f"{MARKS}/{server}")


def _server(row: Mapping[str, str]) -> Server:
    admin = int(row["srv_admin_state"])
    return Server(
        name=row["srv_name"],
        is_up=int(row["srv_op_state"]) == _RUNNING,
        in_maintenance=bool(admin & _MAINTENANCE),
        is_drained=bool(admin & _DRAIN),
    )
