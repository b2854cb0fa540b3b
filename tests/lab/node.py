"""One booted system of a lab, as tests see it."""

from __future__ import annotations

import os
import shlex
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from . import config as cfg
from . import kernel, network, rootfs
from .config import LabError
from .processes import end_process, find_children, read_pid, spawn, wait_until
from .supervisor import log_tail

if TYPE_CHECKING:
    from .lab import Lab

READY_TIMEOUT_S = 90
STOP_TIMEOUT_S = 30
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_BOOT_ID = "/proc/sys/kernel/random/boot_id"
_POWEROFF = signal.SIGRTMIN + 4  # systemd: start poweroff.target

Completed = subprocess.CompletedProcess[str]


def finish(argv: Sequence[str], what: str, *, check: bool, timeout_s: float, stdin: str | None) -> Completed:
    """Run to the end. Raises LabError with both outputs on a failure (when `check`) and on the time limit."""
    source = {"input": stdin} if stdin is not None else {"stdin": subprocess.DEVNULL}
    try:
        done: Completed = subprocess.run(
            list(argv), capture_output=True, text=True, errors="replace", timeout=timeout_s, check=False, **source
        )
    except subprocess.TimeoutExpired:
        raise LabError(f"{what}: no end after {timeout_s:.0f} s") from None
    if check and done.returncode != 0:
        raise LabError(f"{what}: exit {done.returncode}\nstdout: {done.stdout}\nstderr: {done.stderr}")
    return done


def has_ssh_banner(ip: str) -> bool:
    try:
        with socket.create_connection((ip, 22), 0.5) as connection:
            connection.settimeout(2)
            return connection.recv(4) == b"SSH-"
    except OSError:
        return False


class Node:
    """A system with its own address, disk, init and sshd. Made by `Lab`, not by hand."""

    def __init__(self, lab: Lab, name: str) -> None:
        self.lab = lab
        self.name = name

    def __repr__(self) -> str:
        return f"<Node {self.name} of lab {self.lab.name}>"

    # -------------------------------------------------------------- what is known
    @property
    def ip(self) -> str:
        return self.lab.node_state(self.name)["ip"]

    @property
    def dir(self) -> Path:
        return self.lab.config.node_dir(self.name)

    @property
    def upper(self) -> Path:
        """What this node has written, as files of this machine; readable (and writable while it is down)."""
        return self.dir / "data" / "upper"

    @property
    def console_log(self) -> Path:
        return self.dir / "console.log"

    @property
    def init_pid(self) -> int | None:
        return read_pid(self.dir / "init.pid")

    @property
    def supervisor_pid(self) -> int | None:
        return read_pid(self.dir / "supervisor.pid")

    @property
    def is_running(self) -> bool:
        return self.supervisor_pid is not None

    @property
    def is_reachable(self) -> bool:
        """Neither cut nor dropped."""
        config = self.lab.config
        return not network.is_cut(config, self.name) and not network.is_dropped(config, self.name)

    def boot_id(self) -> str:
        """Changes with every boot, as on a real machine."""
        return self.exec(f"cat {_BOOT_ID}").stdout.strip()

    # -------------------------------------------------------------- commands
    def ssh_argv(self, *command: str, user: str = cfg.USER) -> list[str]:
        return ["ssh", "-F", str(self.lab.config.ssh_config), "-l", user, self.name, *command]

    def ssh(
        self,
        command: str,
        *,
        user: str = cfg.USER,
        check: bool = True,
        timeout_s: float = 120,
        stdin: str | None = None,
    ) -> Completed:
        """Run a shell command as a user through sshd. Raises LabError on a failure when `check`."""
        what = f"ssh {user}@{self.name} {command}"
        return finish(self.ssh_argv(command, user=user), what, check=check, timeout_s=timeout_s, stdin=stdin)

    def exec_argv(self, *command: str) -> list[str]:
        pid = self.init_pid
        if pid is None:
            raise LabError(f"{self.name} of lab {self.lab.name} is down: start it first")
        inside = ["env", "-i", f"PATH={_PATH}", "HOME=/root", "LANG=C.UTF-8", *command]
        return [
            *kernel.LIMITED,
            "nsenter",
            "-t",
            str(pid),
            "-m",
            "-u",
            "-i",
            "-n",
            "-p",
            "-C",
            "-T",
            "-w",
            "--",
            *inside,
        ]

    def exec(
        self,
        command: str | Sequence[str],
        *,
        check: bool = True,
        timeout_s: float = 120,
        stdin: str | None = None,
    ) -> Completed:
        """Run as root inside the node's namespaces, without ssh: works on a node whose network is cut.

        A string goes through the node's shell; a sequence is an argv.
        """
        argv = ["sh", "-c", command] if isinstance(command, str) else list(command)
        what = f"exec on {self.name}: {shlex.join(argv)}"
        return finish(self.exec_argv(*argv), what, check=check, timeout_s=timeout_s, stdin=stdin)

    def put_file(self, source: Path | bytes, target: str, mode: int = 0o644) -> None:
        """Write a file in the running node as root, whatever its size; makes the directories above."""
        script = 'mkdir -p "$(dirname "$1")" && cat > "$1" && chmod "$2" "$1"'
        argv = self.exec_argv("sh", "-c", script, "put", target, f"{mode:o}")
        if isinstance(source, bytes):
            done = subprocess.run(argv, input=source, capture_output=True, check=False)
        else:
            with source.open("rb") as handle:
                done = subprocess.run(argv, stdin=handle, capture_output=True, check=False)
        if done.returncode != 0:
            raise LabError(f"write {target} on {self.name}: {done.stderr.decode(errors='replace').strip()}")

    # -------------------------------------------------------------- power
    def start(self, *, wait: bool = True) -> None:
        """Power on; by default returns when ssh lets a user in."""
        start_nodes([self])
        if wait and self.is_reachable:
            self.wait_ready()

    def stop(self) -> None:
        """Clean shutdown; power loss when it takes longer than half a minute."""
        stop_nodes([self])

    def kill(self) -> None:
        """Power loss: every process ends at once. (The machine's page cache survives, unlike on hardware.)"""
        kill_nodes([self])

    def reset(self) -> None:
        """Power loss, then power on."""
        self.kill()
        self.start()

    def wipe(self) -> None:
        """Power loss and a new empty disk with new host keys; stays off."""
        self.kill()
        self.lab.new_disk(self.name)

    def wait_ready(self, timeout_s: float = READY_TIMEOUT_S) -> None:
        """Wait until ssh lets the user in (pam_nologin is lifted late in a boot).

        Raises LabError with the end of the console when it does not, or when the node ends meanwhile.
        """
        end = time.monotonic() + timeout_s

        def wait_for(condition: Callable[[], bool], what: str) -> None:
            def settled() -> bool:
                return condition() or not self.is_running

            if not wait_until(settled, end - time.monotonic(), 0.03):
                raise LabError(f"{self.name}: no {what} after {timeout_s:.0f} s\n{log_tail(self.dir)}")
            if not self.is_running:
                raise LabError(f"{self.name}: the system ended while waiting for {what}\n{log_tail(self.dir)}")

        wait_for(lambda: has_ssh_banner(self.ip), "ssh banner")
        wait_for(lambda: self.ssh("true", check=False, timeout_s=30).returncode == 0, "ssh login")

    def wait_rebooted(self, old_boot_id: str, timeout_s: float = READY_TIMEOUT_S) -> None:
        """Wait until the node has another boot_id than before and ssh works again."""
        path = self.dir / "boot_id"

        def changed() -> bool:
            return path.exists() and path.read_text().strip() not in ("", old_boot_id)

        if not wait_until(changed, timeout_s):
            raise LabError(f"{self.name}: no reboot within {timeout_s:.0f} s\n{log_tail(self.dir)}")
        self.wait_ready(timeout_s)

    def wait_down(self, timeout_s: float = 60) -> None:
        """Wait until the node has ended, for instance after `poweroff` from inside."""
        if not wait_until(lambda: not self.is_running, timeout_s):
            raise LabError(f"{self.name}: still running after {timeout_s:.0f} s\n{log_tail(self.dir)}")

    # -------------------------------------------------------------- network
    def cut(self) -> None:
        """Unplug the cable: others get "no route to host" after some 3 s. Holds over reboots."""
        network.cut(self.lab.config, self.name, self.ip)

    def heal(self) -> None:
        network.heal(self.lab.config, self.name, self.ip)

    def drop(self) -> None:
        """Let every IPv4 frame vanish while the link stays up: others run into timeouts. Holds over reboots."""
        network.drop(self.lab.config, self.name)

    def undrop(self) -> None:
        network.undrop(self.lab.config, self.name)


def start_nodes(nodes: Sequence[Node]) -> None:
    """Power on all at once, without waiting for their boots."""
    starts = []
    for node in nodes:
        if node.is_running:
            continue
        state = node.lab.node_state(node.name)
        rootfs.mount_disk(node.lab.config, node.name, state["disk_bytes"])
        (node.dir / "boot_id").unlink(missing_ok=True)
        starts.append(("supervise", [node.name], node.dir / "supervisor.pid", node.dir / "supervisor.log"))
    if starts:
        spawn(nodes[0].lab.config, starts)


def stop_nodes(nodes: Sequence[Node], timeout_s: float = STOP_TIMEOUT_S) -> None:
    for node in nodes:
        _signal_init(node, _POWEROFF)
    wait_until(lambda: not any(node.is_running for node in nodes), timeout_s)
    kill_nodes(nodes)


def kill_nodes(nodes: Sequence[Node]) -> None:
    for node in nodes:
        _signal_init(node, signal.SIGKILL)  # the kernel ends the whole pid namespace with its init
    if wait_until(lambda: not any(node.is_running for node in nodes), 10):
        return
    names = {node.name for node in nodes}
    for child in find_children(nodes[0].lab.config):
        if child.kind == "supervise" and child.args[0] in names:
            end_process(child.pid, 10)
    if not wait_until(lambda: not any(node.init_pid for node in nodes), 10):
        raise LabError(f"still running after SIGKILL: {[node.name for node in nodes if node.init_pid]}")


def _signal_init(node: Node, number: int) -> None:
    pid = node.init_pid
    if pid is not None:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            return
