"""The base system that all nodes share, the layers above it, and the safe removal of such trees."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

from . import config as cfg
from .config import LabConfig, LabError
from .kernel import MNT_DETACH, unmount
from .network import apt_settings, archive_uris
from .processes import run
from .state import file_lock

# Raise it when the recipe below changes: an old base, and the layers above it, are then left alone and not used.
RECIPE = 1
SUITE = "bookworm"

_PACKAGES = (
    "systemd,systemd-sysv,dbus,libpam-systemd,libnss-systemd,openssh-server,python3,python3-apt,sudo,iproute2,"
    "iptables,procps,ca-certificates,kmod,curl,iputils-ping,netbase,gnupg,less"
)

# Nothing in a node may touch the machine, hold the dpkg lock behind our back, or wait for hardware.
_MASKED = (
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "e2scrub_reap.service",
    "fstrim.timer",
    "getty.target",
    "console-getty.service",
    "systemd-udevd.service",
    "systemd-udev-trigger.service",
    "systemd-timesyncd.service",
    "systemd-pstore.service",
    "sys-kernel-debug.mount",
    "sys-kernel-tracing.mount",
    "sys-kernel-config.mount",
    "dev-hugepages.mount",
    "sys-fs-fuse-connections.mount",
    "systemd-firstboot.service",
)

# What the usual kernel of a test machine has built in; modprobe in a node answers by this list.
_BUILTIN = (
    *("overlay", "bridge", "br_netfilter", "veth", "vxlan", "tun", "loop", "ip_set", "nf_conntrack", "nf_nat"),
    *("nf_tables", "ip_tables", "ip6_tables", "iptable_nat", "iptable_filter", "xt_conntrack", "xt_MASQUERADE"),
)

# Without CAP_SYS_RESOURCE nobody may lower oom_score_adj, and runc then dies with "can't get final child's PID
# from pipe: EOF" on every pod sandbox (-998). /usr/local/sbin comes before the real runc on PATH.
_RUNC_WRAPPER = """#!/bin/sh
# lab: raise negative oomScoreAdj in the bundle to 0, then the real runc
real=/usr/sbin/runc; [ -x $real ] || real=/usr/bin/runc
prev=
for a do
  case "$prev" in --bundle|-b) [ -f "$a/config.json" ] &&
    sed -i 's/"oomScoreAdj": *-[0-9]*/"oomScoreAdj":0/' "$a/config.json";; esac
  prev=$a
done
exec $real "$@"
"""

SWARM_SSHD_CONFIG = (
    "HostKey /etc/ssh/swarm_key\nUsePAM no\nUseDNS no\nPasswordAuthentication no\nMaxStartups 200\n"
    "Subsystem sftp /usr/lib/openssh/sftp-server\nPidFile none\n"
)


def base_dir(home: Path) -> Path:
    return home / f"base-{RECIPE}"


def layers_dir(home: Path) -> Path:
    return home / f"layers-{RECIPE}"


def kmod_dir(home: Path) -> Path:
    return layers_dir(home) / f"_kmod-{os.uname().release}"


def swarm_layer(home: Path) -> Path:
    return layers_dir(home) / "_swarm"


def layer_upper(home: Path, name: str) -> Path:
    return layers_dir(home) / name / "upper"


def lower_dirs(home: Path, layers: list[str]) -> str:
    """overlayfs `lowerdir`: the last layer on top, the base at the bottom."""
    uppers = [layer_upper(home, name) for name in reversed(layers)]
    return ":".join(str(path) for path in [*uppers, kmod_dir(home), base_dir(home)])


# ------------------------------------------------------------------ removal
def mounts_below(directory: Path) -> list[str]:
    """Mount points at or below the directory in our mount namespace, the innermost first."""
    found = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        point = line.split()[4].encode().decode("unicode_escape")
        if point == str(directory) or point.startswith(f"{directory}/"):
            found.append(point)
    return sorted(found, key=len, reverse=True)


def remove_tree(directory: Path) -> None:
    """Unmount everything below the directory, then remove it. Never follows a mount."""
    for point in mounts_below(directory):
        unmount(point, MNT_DETACH)
    if mounts_below(directory):
        raise LabError(f"still mounted below {directory}: {mounts_below(directory)}; nothing was removed there")
    # a node's own directories may be unreadable even by their names' owner, never to root; a file that vanishes
    # meanwhile (a dying node's socket) is no failure
    shutil.rmtree(directory, ignore_errors=True)
    if directory.exists():
        shutil.rmtree(directory)


# ------------------------------------------------------------------ base
def ensure_base(home: Path) -> None:
    """Build the base system when it is not there yet: about a minute, once for all labs of this user.

    An interrupted build leaves a temporary directory that the next one removes. Raises LabError with the end of
    debootstrap's log.
    """
    base = base_dir(home)
    if base.is_dir() and kmod_dir(home).is_dir():
        return
    with file_lock(home / "locks" / "base", 900, "the base system"):
        (home / "log").mkdir(parents=True, exist_ok=True)
        _ensure_key(home)
        _ensure_small_layers(home)
        if base.is_dir():
            return
        for stale in home.glob("base-*.tmp"):
            remove_tree(stale)
        build = base.with_name(base.name + ".tmp")
        _debootstrap(home, build)
        _configure(home, build)
        build.rename(base)


def _debootstrap(home: Path, build: Path) -> None:
    cache, log_file = home / "cache", home / "log" / "debootstrap.log"
    cache.mkdir(exist_ok=True)
    # in namespaces of its own: when we are killed, all its processes and mounts end with us, and none of them goes
    # on writing into a directory that the next build removes
    argv = ["setpriv", "--pdeathsig", "KILL", "--", "unshare", "--mount", "--propagation", "private", "--pid"]
    argv += ["--fork", "--kill-child=KILL", "--mount-proc", "debootstrap", "--variant=minbase"]
    argv += [f"--include={_PACKAGES}", f"--cache-dir={cache}", SUITE, str(build), archive_uris()[0]]
    with log_file.open("w") as log:
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, check=False)
    if done.returncode != 0:
        tail = "\n".join(log_file.read_text().splitlines()[-5:])
        raise LabError(f"debootstrap failed with exit {done.returncode}; end of {log_file}:\n{tail}")


def _put(root: Path, path: str, text: str = "", mode: int = 0o644) -> None:
    target = root / path.lstrip("/")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    target.write_text(text)
    target.chmod(mode)


def _configure(home: Path, root: Path) -> None:
    public_key = (home / "id_ed25519.pub").read_text()
    _add_user(root, cfg.USER, public_key, f"{cfg.USER} ALL=(ALL:ALL) NOPASSWD:ALL\n")
    _add_user(root, cfg.USER_WITH_PASSWORD, public_key, f"{cfg.USER_WITH_PASSWORD} ALL=(ALL:ALL) ALL\n")
    _add_user(root, cfg.USER_WITHOUT_SUDO, public_key, None)
    run("chroot", str(root), "chpasswd", stdin=f"{cfg.USER_WITH_PASSWORD}:{cfg.SUDO_PASSWORD}\n")

    _put(root, "/etc/machine-id")  # empty: each node makes its own at first boot ...
    (root / "var/lib/dbus/machine-id").unlink(missing_ok=True)  # ... unless it finds this one
    for key in (root / "etc/ssh").glob("ssh_host_*"):
        key.unlink()
    _put(root, "/etc/fstab")
    _put(root, "/etc/default/locale", "LANG=C.UTF-8\n")
    _configure_archives(root)
    # /dev/kmsg is the whole machine's log
    _put(root, "/etc/systemd/journald.conf.d/lab.conf", "[Journal]\nReadKMsg=no\nRuntimeMaxUse=16M\n")
    _put(root, "/etc/systemd/system.conf.d/lab.conf", "[Manager]\nDefaultTimeoutStopSec=15s\n")
    _put(root, "/usr/local/sbin/runc", _RUNC_WRAPPER, 0o755)
    for unit in _MASKED:
        link = root / "etc/systemd/system" / unit
        link.unlink(missing_ok=True)
        link.symlink_to("/dev/null")
    for directory in cfg.REAL_DIRS:
        (root / directory.lstrip("/")).mkdir(parents=True, exist_ok=True)


def _add_user(root: Path, name: str, public_key: str, sudoers: str | None) -> None:
    # "*" is no password but not "locked": sshd without PAM refuses "!"
    run("chroot", str(root), "useradd", "-m", "-s", "/bin/bash", "-p", "*", name)
    _put(root, f"/home/{name}/.ssh/authorized_keys", public_key, 0o600)
    (root / "home" / name / ".ssh").chmod(0o700)
    run("chroot", str(root), "chown", "-R", f"{name}:{name}", f"/home/{name}")
    if sudoers:
        _put(root, f"/etc/sudoers.d/{name}", sudoers, 0o440)


def _configure_archives(root: Path) -> None:
    """Whatever this machine needs to reach its package archives: sources, apt settings, certificates."""
    _put(root, "/etc/apt/sources.list")
    sources = sorted(Path("/etc/apt/sources.list.d").glob("debian*.sources"))
    for path in sources:
        shutil.copy(path, root / "etc/apt/sources.list.d")
    if not sources:
        _put(root, "/etc/apt/sources.list", f"deb {archive_uris()[0]} {SUITE} main\n")
    for setting in apt_settings():
        shutil.copy(setting, root / "etc/apt/apt.conf.d")
    _put(root, "/etc/apt/apt.conf.d/99lab", 'APT::Install-Recommends "false";\nAcquire::Languages "none";\n')
    certificates = sorted(Path("/usr/local/share/ca-certificates").glob("*.crt"))
    for path in certificates:
        shutil.copy(path, root / "usr/local/share/ca-certificates")
    if certificates:
        run("chroot", str(root), "update-ca-certificates")


def _ensure_key(home: Path) -> None:
    key = home / "id_ed25519"
    if not key.exists():
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "kops-py-lab", "-f", str(key))


def _ensure_small_layers(home: Path) -> None:
    """modules.builtin for the running kernel, so that modprobe answers; the swarm's sshd files."""
    release = os.uname().release
    modules = kmod_dir(home)
    if not modules.is_dir():
        build = modules.with_name(modules.name + ".tmp")
        remove_tree(build)
        folder = build / "usr/lib/modules" / release
        folder.mkdir(parents=True)
        (folder / "modules.builtin").write_text("".join(f"kernel/lab/{name}.ko\n" for name in _BUILTIN))
        (folder / "modules.order").touch()
        run("depmod", "-b", str(build / "usr"), release, check=False)
        build.rename(modules)
    swarm = swarm_layer(home)
    if not swarm.is_dir():
        build = swarm.with_name(swarm.name + ".tmp")
        remove_tree(build)
        (build / "etc/ssh").mkdir(parents=True)
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(build / "etc/ssh/swarm_key"))
        (build / "etc/ssh/swarm_config").write_text(SWARM_SSHD_CONFIG)
        build.rename(swarm)


# ------------------------------------------------------------------ a node's disk
_DISK_MADE = "disk-made"


def make_disk(config: LabConfig, node: str, disk_bytes: int | None) -> None:
    """The node's writable directories `data/{upper,work,real}`, empty.

    With `disk_bytes` they live on a loop-mounted ext4 file of that size (sparse), so that the node runs out of
    disk like a real one; on a machine without loop devices on a tmpfs of that size. Loses what was there.
    """
    folder = config.node_dir(node)
    data, made = folder / "data", folder / _DISK_MADE
    made.unlink(missing_ok=True)
    remove_tree(data)
    data.mkdir(parents=True)
    (folder / "root").mkdir(exist_ok=True)
    image = folder / "disk.img"
    image.unlink(missing_ok=True)
    if disk_bytes and Path("/dev/loop-control").exists():
        with image.open("wb") as handle:
            handle.truncate(disk_bytes)
        run("mkfs.ext4", "-q", "-m", "0", str(image))
    if image.exists():
        run("mount", "-o", "loop", str(image), str(data))
    elif disk_bytes:
        run("mount", "-t", "tmpfs", "-o", f"size={disk_bytes},mode=755", "lab-disk", str(data))
    for name in ("upper", "work", "real"):
        (data / name).mkdir()
    made.touch()


def mount_disk(config: LabConfig, node: str, disk_bytes: int | None) -> bool:
    """Mount the node's limited disk if that is not done; False when the disk has to be made first.

    A tmpfs that somebody has unmounted is lost, and an interrupted `make_disk` counts for nothing.
    """
    folder = config.node_dir(node)
    data, image = folder / "data", folder / "disk.img"
    if not (folder / _DISK_MADE).exists():
        return False
    if not disk_bytes or mounts_below(data):
        return True
    if image.exists():
        run("mount", "-o", "loop", str(image), str(data))
    return image.exists()


def loop_devices(directory: Path) -> list[str]:
    """Loop devices whose file lies below the directory."""
    found = []
    for backing in Path("/sys/block").glob("loop*/loop/backing_file"):
        try:
            if backing.read_text().startswith(f"{directory}/"):
                found.append(f"/dev/{backing.parts[3]}")
        except OSError:
            continue  # detached meanwhile
    return found


# ------------------------------------------------------------------ layers
_NOT_IN_LAYER = (
    "etc/hostname",
    "etc/hosts",
    "etc/resolv.conf",
    "etc/machine-id",
    "var/lib/dbus/machine-id",
    "var/lib/systemd/random-seed",
)


def layer_recipe(home: Path, name: str) -> str | None:
    """How the layer was made, or None when there is no such layer."""
    path = layers_dir(home) / name / "recipe"
    return path.read_text() if path.exists() else None


def keep_as_layer(home: Path, name: str, upper: Path, recipe: str) -> None:
    """Turn a stopped node's upper directory into a layer, without what belongs to that one node."""
    for path in _NOT_IN_LAYER:
        (upper / path).unlink(missing_ok=True)
    for key in (upper / "etc/ssh").glob("ssh_host_*"):
        key.unlink()
    for path in ("tmp", "var/tmp", "run", "var/log"):
        shutil.rmtree(upper / path, ignore_errors=True)
    target = layers_dir(home) / name
    if target.exists():  # nodes that run on it keep their open copy until they end
        old = target.with_name(f"{name}.old-{time.time_ns()}")
        target.rename(old)
        remove_tree(old)
    build = target.with_name(f"{name}.tmp")
    remove_tree(build)
    build.mkdir(parents=True)
    upper.rename(build / "upper")
    (build / "recipe").write_text(recipe)
    build.rename(target)
