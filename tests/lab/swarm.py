"""Hundreds of small hosts with nothing but sshd: no systemd, an overlay in memory, an address each."""

from __future__ import annotations

import os
import signal
import stat
import sys
from pathlib import Path
from typing import NoReturn

from . import config as cfg
from . import kernel, network
from .boot import hide_machine_controls
from .config import LabConfig, LabError
from .kernel import MS_NODEV, MS_NOEXEC, MS_NOSUID, MS_PRIVATE, MS_REC, mount
from .processes import end_process, find_children, run, spawn, wait_until
from .rootfs import base_dir, swarm_layer
from .state import load_state

_BATCH = 50
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_DEVICES = (("null", 1, 3), ("zero", 1, 5), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0))


def addresses(octet: int, size: int) -> dict[str, str]:
    return {f"h{index}": cfg.swarm_ip(octet, index) for index in range(1, size + 1)}


def start(config: LabConfig, octet: int, size: int, timeout_s: float) -> None:
    """Boot `size` hosts; returns when every sshd has said its banner."""
    from .node import has_ssh_banner

    network.bridge_up(config.swarm_bridge, f"{cfg.swarm_gateway(octet)}/17")
    (config.dir / "swarm").mkdir(exist_ok=True)
    log = config.dir / "swarm.log"
    spawn(config, [("swarm", [str(size)], config.dir / "swarm.pid", log)])
    for name, ip in addresses(octet, size).items():
        if not wait_until(lambda ip=ip: has_ssh_banner(ip) or not is_running(config), timeout_s):  # type: ignore[misc]
            raise LabError(f"swarm host {name} ({ip}): no ssh banner after {timeout_s:.0f} s; see {log}")
        if not is_running(config):
            raise LabError(f"the swarm has ended: see {log}")


def is_running(config: LabConfig) -> bool:
    return any(child.kind == "swarm" for child in find_children(config))


def stop(config: LabConfig) -> None:
    """End all hosts; returns when their interfaces are gone (the kernel needs a minute for many hundreds)."""
    for child in find_children(config):
        if child.kind == "swarm":
            end_process(child.pid, 120)  # the hosts die with it: PR_SET_PDEATHSIG
    if Path("/sys/class/net", config.swarm_bridge).exists():
        run("ip", "link", "del", config.swarm_bridge)

    def gone() -> bool:
        return not any(name.startswith(config.veth("h")) for name in network.links(config))

    if not wait_until(gone, 120, 0.05):
        raise LabError("the kernel still holds interfaces of the swarm after 120 s: run swarm-down again")


# ------------------------------------------------------------------ the swarm's own process
def swarm_parent(config: LabConfig, size: int) -> None:
    """Parent of all hosts. It ends with them, and they end with it."""
    state = load_state(config)
    if state is None:
        raise SystemExit("the lab has gone")
    octet = state["octet"]
    kernel.prctl(kernel.PR_SET_CHILD_SUBREAPER, 1)
    waiting: list[int] = []
    batch = ""
    for index in range(1, size + 1):
        pid, go = _fork_host(config, octet, index)
        veth = config.veth(f"h{index}")
        batch += f"link add {veth} type veth peer name eth0 netns {pid}\n"
        batch += f"link set {veth} master {config.swarm_bridge} up\n"
        waiting.append(go)
        if len(waiting) == _BATCH or index == size:
            run("ip", "-batch", "-", stdin=batch)
            for fd in waiting:
                os.write(fd, b"x")
                os.close(fd)
            waiting, batch = [], ""
    try:
        while True:
            os.wait()
    except ChildProcessError:
        return


def _fork_host(config: LabConfig, octet: int, index: int) -> tuple[int, int]:
    """Start a host in new namespaces; returns its pid and the pipe that lets it go on."""
    go_read, go_write = os.pipe()
    pid_read, pid_write = os.pipe()
    between = os.fork()
    if between == 0:
        try:
            os.setsid()
            kernel.unshare(kernel.NEWNS | kernel.NEWUTS | kernel.NEWIPC | kernel.NEWPID | kernel.NEWNET)
            pid = os.fork()
            if pid == 0:
                os.close(go_write)
                _become_host(config, octet, index, go_read)
            os.write(pid_write, str(pid).encode())
            os._exit(0)
        except BaseException as error:  # noqa: BLE001 - a forked child must never return into the parent's code
            print(f"h{index}: {error!r}", file=sys.stderr, flush=True)
            os._exit(70)
    os.close(go_read)
    os.close(pid_write)
    os.waitpid(between, 0)
    text = os.read(pid_read, 32)
    os.close(pid_read)
    if not text:
        raise SystemExit(f"swarm host {index} did not start")
    return int(text), go_write


def _become_host(config: LabConfig, octet: int, index: int, go: int) -> NoReturn:
    """PID 1 of a host without systemd is sshd itself (it reaps what it is given)."""
    mount(None, "/", None, MS_REC | MS_PRIVATE)
    top = str(config.dir / "swarm")
    mount("tmpfs", top, "tmpfs", 0, "mode=755,size=64m")
    for name in ("upper", "work", "root"):
        Path(top, name).mkdir(mode=0o755)
    lower = f"{swarm_layer(config.home)}:{base_dir(config.home)}"
    mount("overlay", f"{top}/root", "overlay", 0, f"lowerdir={lower},upperdir={top}/upper,workdir={top}/work")
    os.chdir(f"{top}/root")
    mount("proc", "proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    mount("tmpfs", "dev", "tmpfs", MS_NOSUID, "mode=755,size=1m")
    os.umask(0)
    for name, major, minor in _DEVICES:
        os.mknod(f"dev/{name}", stat.S_IFCHR | 0o666, os.makedev(major, minor))
    Path("dev/fd").symlink_to("/proc/self/fd")
    Path("dev/ptmx").symlink_to("pts/ptmx")
    Path("dev/pts").mkdir(mode=0o755)
    Path("dev/shm").mkdir(mode=0o1777)
    mount("devpts", "dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, "newinstance,gid=5,mode=620,ptmxmode=666")
    mount("tmpfs", "run", "tmpfs", MS_NOSUID | MS_NODEV, "mode=755,size=1m")
    os.umask(0o022)
    Path("run/sshd").mkdir(mode=0o755)
    hide_machine_controls("proc", Path(top))
    kernel.switch_root(".")
    kernel.set_hostname(f"h{index}")
    Path("etc/hosts").write_text(f"127.0.0.1 localhost h{index}\n")
    Path("etc/resolv.conf").write_text("")
    if os.read(go, 1) != b"x":  # the parent has moved our eth0 in
        os._exit(72)
    kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
    ip = cfg.swarm_ip(octet, index)
    run("ip", "-batch", "-", stdin=f"link set lo up\nlink set eth0 up\naddr add {ip}/17 dev eth0\n")
    kernel.give_up_machine_wide_powers()
    os.closerange(3, 4096)
    os.execve("/usr/sbin/sshd", ["/usr/sbin/sshd", "-D", "-f", "/etc/ssh/swarm_config"], {"PATH": _PATH})
