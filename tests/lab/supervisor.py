"""One small process per node: boots it, waits for its end, and boots it again after a reboot from inside."""

from __future__ import annotations

import os
import select
import signal
import time
from pathlib import Path
from typing import BinaryIO

from . import boot, cgroups, kernel, network
from .config import LabConfig
from .processes import write_pid
from .state import NodeState, load_state


def supervise(config: LabConfig, node: str) -> None:
    """Boot the node until it ends by anything but a reboot."""
    kernel.prctl(kernel.PR_SET_CHILD_SUBREAPER, 1)  # the node's init becomes our child
    while True:
        state = load_state(config)
        if state is None or node not in state["nodes"]:
            return  # the lab was taken down meanwhile
        if _boot_once(config, node, state["octet"], state["nodes"][node]) != "reboot":
            return


def _boot_once(config: LabConfig, node: str, octet: int, state: NodeState) -> str:
    """Boot and wait for the end; returns 'reboot', 'poweroff', 'killed', 'failed' or 'exit-N'."""
    folder = config.node_dir(node)
    network.node_up(config, node, octet, state["ip"])
    cgroups.create(config, node, state["mem_bytes"])
    with (folder / "console.log").open("ab", buffering=0) as log:
        log.write(f"--- boot {time.strftime('%F %T')}\n".encode())
        master, slave = os.openpty()
        status = None
        pid, leash = _launch(config, node, state, slave)
        os.close(slave)
        if pid:
            write_pid(folder / "init.pid", pid)
            status = _watch(pid, master, log)
        else:
            _drain(master, log)
        os.close(master)
        os.close(leash)
        _reap_orphans()
        network.node_down(config, node)
        left = cgroups.remove(config, node)
        how = _meaning(status)
        busy = f", still busy: {left}" if left else ""
        log.write(f"--- end {time.strftime('%F %T')}: {how}{busy}\n".encode())
    return how


def _launch(config: LabConfig, node: str, state: NodeState, console: int) -> tuple[int, int]:
    """Fork twice: the one in between enters the namespaces, its child is the node's PID 1.

    Returns that pid, or 0, and a pipe's end which the supervisor keeps open as the sign that it lives.
    """
    netns = os.open(f"/run/netns/{config.veth(node)}", os.O_RDONLY)
    hierarchies = cgroups.hierarchies()
    pid_read, pid_write = os.pipe()
    go_read, go_write = os.pipe()
    between = os.fork()
    if between == 0:
        try:
            os.close(pid_read)
            os.close(go_write)
            os.setsid()
            cgroups.join(config, node)
            kernel.enter_network_namespace(netns)
            kernel.unshare(
                kernel.NEWNS | kernel.NEWUTS | kernel.NEWIPC | kernel.NEWPID | kernel.NEWCGROUP | kernel.NEWTIME
            )
            boot.start_clock_at_zero()
            pid = os.fork()
            if pid == 0:
                os.close(pid_write)
                boot.become_init(config, node, state, console, go_read, hierarchies)
            os.write(pid_write, str(pid).encode())
            os._exit(0)  # init is reparented to the supervisor
        except BaseException as error:  # noqa: BLE001 - a forked child must never return into the parent's code
            os.write(console, f"lab: {error!r}\r\n".encode())
            os._exit(71)
    for fd in (pid_write, go_read, netns):
        os.close(fd)
    os.waitpid(between, 0)
    text = os.read(pid_read, 32)
    if text:
        try:
            os.write(go_write, b"x")
        except BrokenPipeError:
            text = b""
    os.close(pid_read)
    return int(text or 0), go_write


def _watch(pid: int, master: int, log: BinaryIO) -> int:
    """Copy the console to the log until init ends; returns its wait status."""
    pidfd = os.pidfd_open(pid)
    try:
        while True:
            ready, _, _ = select.select([master, pidfd], [], [])
            if master in ready:
                try:
                    log.write(os.read(master, 65536))
                except OSError:  # EIO: nobody has the console open just now
                    select.select([pidfd], [], [], 0.2)
            if pidfd in ready:
                _drain(master, log)
                return os.waitpid(pid, 0)[1]
    finally:
        os.close(pidfd)


def _drain(master: int, log: BinaryIO) -> None:
    while select.select([master], [], [], 0)[0]:
        try:
            log.write(os.read(master, 65536))
        except OSError:
            return


def _reap_orphans() -> None:
    while True:
        try:
            if os.waitpid(-1, os.WNOHANG)[0] == 0:
                return
        except ChildProcessError:
            return


def _meaning(status: int | None) -> str:
    """In a pid namespace the kernel ends init with SIGHUP for reboot(2) and SIGINT for power off."""
    if status is None:
        return "failed"
    if not os.WIFSIGNALED(status):
        return f"exit-{os.WEXITSTATUS(status)}"
    meanings: dict[int, str] = {signal.SIGHUP: "reboot", signal.SIGINT: "poweroff"}
    return meanings.get(os.WTERMSIG(status), "killed")


def log_tail(folder: Path, lines: int = 8) -> str:
    """The end of what the supervisor and the console said, for error messages."""
    texts = []
    for name in ("supervisor.log", "console.log"):
        path = folder / name
        if path.exists():
            texts += path.read_text(errors="replace").splitlines()[-lines:]
    return "\n".join(texts)
