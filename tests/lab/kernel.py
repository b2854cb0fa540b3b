"""Thin typed calls into libc for what Python's library lacks: mounts, namespaces, prctl."""

from __future__ import annotations

import ctypes
import os

NEWTIME, NEWNS, NEWCGROUP, NEWUTS = 0x80, 0x20000, 0x2000000, 0x4000000
NEWIPC, NEWPID, NEWNET = 0x8000000, 0x20000000, 0x40000000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT = 1, 2, 4, 8, 32
MS_BIND, MS_REC, MS_PRIVATE, MS_SHARED = 4096, 16384, 1 << 18, 1 << 20
MNT_DETACH = 2
PR_SET_PDEATHSIG, PR_CAPBSET_DROP, PR_SET_CHILD_SUBREAPER = 1, 24, 36
CAP_SYS_MODULE, CAP_SYS_TIME = 16, 25

# The same for a command that we start by another tool; CAP_SYS_MODULE, CAP_SYS_TIME in setpriv's words.
LIMITED = ("setpriv", "--bounding-set", "-sys_module,-sys_time", "--")

_libc = ctypes.CDLL(None, use_errno=True)


def _checked(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def _bytes(text: str | None) -> bytes | None:
    return None if text is None else text.encode()


def mount(source: str | None, target: str, fs: str | None = None, flags: int = 0, data: str | None = None) -> None:
    """mount(2). Raises OSError that names the target."""
    result = _libc.mount(_bytes(source), _bytes(target), _bytes(fs), ctypes.c_ulong(flags), _bytes(data))
    _checked(result, f"mount {fs or 'bind'} on {target}")


def unmount(target: str, flags: int = 0) -> None:
    _checked(_libc.umount2(target.encode(), flags), f"umount {target}")


def unshare(flags: int) -> None:
    _checked(_libc.unshare(flags), f"unshare {flags:#x}")


def enter_network_namespace(fd: int) -> None:
    _checked(_libc.setns(fd, NEWNET), "setns")


def prctl(option: int, value: int) -> None:
    _checked(_libc.prctl(option, value, 0, 0, 0), f"prctl {option}")


def switch_root(root: str) -> None:
    """Make `root` the root of this mount namespace and drop the old one.

    pivot_root and not chroot: runc refuses, and a root process could leave, a plain chroot.
    """
    os.chdir(root)
    _checked(_libc.pivot_root(b".", b"."), "pivot_root")
    unmount(".", MNT_DETACH)
    os.chroot(".")
    os.chdir("/")


def give_up_machine_wide_powers() -> None:
    """Neither this process nor what it starts can set the clock or load modules: no namespace holds these.

    Everything that runs inside a node has to come through here (or `LIMITED` for tools), as root as it is there.
    """
    for capability in (CAP_SYS_MODULE, CAP_SYS_TIME):
        prctl(PR_CAPBSET_DROP, capability)


def set_hostname(name: str) -> None:
    _checked(_libc.sethostname(name.encode(), len(name)), "sethostname")
