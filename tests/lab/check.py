"""Can this machine run a lab, and if not, why, in words that say what to do."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from .cgroups import hierarchies

# command → Debian package
_TOOLS = {
    "debootstrap": "debootstrap",
    "iptables": "iptables",
    "iptables-restore": "iptables",
    "iptables-save": "iptables",
    "ebtables": "ebtables",
    "ip": "iproute2",
    "ssh": "openssh-client",
    "ssh-keygen": "openssh-client",
    "nsenter": "util-linux",
    "setpriv": "util-linux",
    "unshare": "util-linux",
    "mkfs.ext4": "e2fsprogs",
    "depmod": "kmod",
}


def missing_packages() -> list[str]:
    """Debian packages whose commands the lab needs and this machine lacks."""
    return sorted({package for command, package in _TOOLS.items() if shutil.which(command) is None})


def unavailable_reason() -> str | None:
    """Why no lab can run here, or None when one can. Changes nothing on the machine."""
    if sys.platform != "linux":
        return f"the lab needs Linux; this is {sys.platform}"
    if os.geteuid() != 0:
        return "the lab makes namespaces, mounts and firewall rules: run it as root"
    missing = missing_packages()
    if missing:
        return f"missing on this machine: apt-get install {' '.join(missing)}"
    if "\toverlay" not in Path("/proc/filesystems").read_text():
        return "this kernel has no overlay file system: modprobe overlay"
    if not any(hierarchy.controllers for hierarchy in hierarchies()):
        return "the lab needs cgroup v1 or hybrid hierarchies below /sys/fs/cgroup; this machine has none"
    probe = subprocess.run(
        ["unshare", "-m", "-u", "-i", "-n", "-p", "-C", "-T", "-f", "--mount-proc", "true"],
        capture_output=True,
        text=True,
        check=False,
    )
    if probe.returncode != 0:
        return f"this machine lets nobody make namespaces: {probe.stderr.strip()}"
    return None
