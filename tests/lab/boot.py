"""What happens inside a node's new namespaces until its systemd takes over as PID 1."""

from __future__ import annotations

import os
import select
import shutil
import signal
import stat
import sys
import time
import uuid
from pathlib import Path
from typing import NoReturn

from . import kernel
from .config import REAL_DIRS, LabConfig
from .kernel import MS_BIND, MS_NODEV, MS_NOEXEC, MS_NOSUID, MS_REC, mount
from .rootfs import lower_dirs
from .state import Hierarchy, NodeState

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_HIDDEN = MS_NOSUID | MS_NODEV | MS_NOEXEC

# Settings of the whole machine that kubelet and provisioning write: each node gets plain files with the machine's
# values bound over them, so a write succeeds, stays in the node, and never reaches the machine. Containers mount
# their own /proc and see the real ones.
_SHADOWED = (
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "vm/swappiness",
    "vm/max_map_count",
    "vm/dirty_ratio",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
    "kernel/threads-max",
    "kernel/core_pattern",
    "fs/file-max",
    "fs/nr_open",
    "fs/inotify/max_user_instances",
    "fs/inotify/max_user_watches",
    "fs/inotify/max_queued_events",
    "net/core/rmem_max",
    "net/core/wmem_max",
    "net/core/rmem_default",
    "net/core/wmem_default",
    "net/netfilter/nf_conntrack_max",
)

_DEVICES = (
    ("null", 1, 3, 0o666),
    ("zero", 1, 5, 0o666),
    ("full", 1, 7, 0o666),
    ("random", 1, 8, 0o666),
    ("urandom", 1, 9, 0o666),
    ("tty", 5, 0, 0o666),
    ("kmsg", 1, 11, 0o644),
    ("fuse", 10, 229, 0o666),
)


def start_clock_at_zero() -> None:
    """Between unshare and fork: uptime counts from the node's boot. The time of day stays the machine's."""
    monotonic, boottime = (int(time.clock_gettime(clock)) for clock in (time.CLOCK_MONOTONIC, time.CLOCK_BOOTTIME))
    Path("/proc/self/timens_offsets").write_text(f"monotonic -{monotonic} 0\nboottime -{boottime} 0\n")


def become_init(
    config: LabConfig, node: str, state: NodeState, console: int, go: int, hierarchies: list[Hierarchy]
) -> NoReturn:
    """Runs as PID 1 of the new pid namespace, in all new namespaces; ends in /sbin/init."""
    if os.read(go, 1) != b"x":  # from here on our parent is the supervisor; without one there is no node
        os._exit(72)
    kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
    if select.select([go], [], [], 0)[0]:  # end of file: it died before we asked to die with it
        os._exit(72)
    mount(None, "/", None, MS_REC | kernel.MS_PRIVATE)
    folder = config.node_dir(node)
    root = str(folder / "root")
    data = folder / "data"
    lower = lower_dirs(config.home, state["layers"])
    mount("overlay", root, "overlay", 0, f"lowerdir={lower},upperdir={data}/upper,workdir={data}/work")
    for directory in REAL_DIRS:
        real = data / "real" / directory.lstrip("/")
        real.mkdir(parents=True, exist_ok=True)
        Path(root + directory).mkdir(parents=True, exist_ok=True)
        mount(str(real), root + directory, None, MS_BIND)
    _mount_proc(folder, root)
    mount("sysfs", root + "/sys", "sysfs", _HIDDEN)
    _make_dev(root + "/dev", console)
    mount("tmpfs", root + "/run", "tmpfs", MS_NOSUID | MS_NODEV, "mode=755")
    _mount_cgroups(root + "/sys/fs/cgroup", hierarchies)
    kernel.switch_root(root)
    mount(None, "/", None, MS_REC | kernel.MS_SHARED)  # kubelet wants shared propagation
    kernel.set_hostname(node)
    kernel.give_up_machine_wide_powers()
    _forget_python()
    environment = {"PATH": _PATH, "container": "lab", "container_uuid": state["uuid"], "TERM": "linux"}
    os.execve("/sbin/init", ["/sbin/init"], environment)


def _mount_proc(folder: Path, root: str) -> None:
    mount("proc", root + "/proc", "proc", _HIDDEN)
    values = folder / "sysctl"
    shutil.rmtree(values, ignore_errors=True)  # sysctls do not survive a reboot
    for key in _SHADOWED:
        file = values / key
        try:
            text = Path("/proc/sys", key).read_text()
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
            mount(str(file), f"{root}/proc/sys/{key}", None, MS_BIND)
        except OSError as error:
            print(f"shadow {key}: {error}", file=sys.stderr, flush=True)
    hide_machine_controls(root + "/proc", folder)
    # boot_id is the machine's too; Ansible's reboot module and kubelet tell reboots by it
    boot_id = folder / "boot_id"
    boot_id.write_text(f"{uuid.uuid4()}\n")
    mount(str(boot_id), root + "/proc/sys/kernel/random/boot_id", None, MS_BIND)


def hide_machine_controls(proc: str, scratch: Path) -> None:
    """What acts on the whole machine through /proc: sysrq (a reboot of the machine!) and `swapoff -a`.

    `scratch/swaps` is what the node sees as its swap: none.
    """
    (scratch / "swaps").write_text("Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n")
    for source, name in (("/dev/null", "sysrq-trigger"), (str(scratch / "swaps"), "swaps")):
        if Path(proc, name).exists():  # not every kernel has both
            mount(source, f"{proc}/{name}", None, MS_BIND)


def _make_dev(dev: str, console: int) -> None:
    """A private /dev, never the machine's devtmpfs."""
    mount("tmpfs", dev, "tmpfs", MS_NOSUID, "mode=755,size=4m")
    os.umask(0)
    for name, major, minor, mode in _DEVICES:
        os.mknod(f"{dev}/{name}", stat.S_IFCHR | mode, os.makedev(major, minor))
    Path(dev, "net").mkdir(mode=0o755)
    os.mknod(f"{dev}/net/tun", stat.S_IFCHR | 0o666, os.makedev(10, 200))
    for name, target in (
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
        ("ptmx", "pts/ptmx"),
    ):
        Path(dev, name).symlink_to(target)
    for name in ("pts", "shm", "mqueue"):
        Path(dev, name).mkdir(mode=0o755)
    mount("devpts", f"{dev}/pts", "devpts", MS_NOSUID | MS_NOEXEC, "newinstance,gid=5,mode=620,ptmxmode=666")
    mount("tmpfs", f"{dev}/shm", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777")
    Path(dev, "console").touch()
    mount(os.ttyname(console), f"{dev}/console", None, MS_BIND)
    os.umask(0o022)


def _mount_cgroups(top: str, hierarchies: list[Hierarchy]) -> None:
    """From inside the cgroup namespace, so that every hierarchy's root is the node's own subtree."""
    mount("tmpfs", top, "tmpfs", _HIDDEN, "mode=755,size=4m")
    for hierarchy in hierarchies:
        target = f"{top}/{Path(hierarchy.mountpoint).name}"
        Path(target).mkdir(mode=0o755)
        if hierarchy.controllers is None:
            mount("cgroup2", target, "cgroup2", _HIDDEN)
        else:
            named = hierarchy.controllers.startswith("name=")
            mount("cgroup", target, "cgroup", _HIDDEN, ("none," if named else "") + hierarchy.controllers)
    # read-only, or the node's systemd would create new hierarchies for the whole kernel (net_cls, ...)
    mount(None, top, None, kernel.MS_REMOUNT | MS_BIND | kernel.MS_RDONLY | _HIDDEN)


def _forget_python() -> None:
    """systemd must not inherit our descriptors, signal handlers or signal mask."""
    console = os.open("/dev/console", os.O_RDWR | os.O_NOCTTY)
    for fd in (0, 1, 2):
        os.dup2(console, fd)
    os.closerange(3, 1024)
    for number in signal.valid_signals():
        if number not in (signal.SIGKILL, signal.SIGSTOP):
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
