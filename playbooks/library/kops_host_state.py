#!/usr/bin/python
"""Reads, in one call, everything the roles decide by; changes nothing."""

from __future__ import annotations

import os
import re
import subprocess
import time
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: kops_host_state
short_description: Read the state of a host that the kops-py roles decide by
description:
  - One call instead of many tasks. Nothing is changed.
options:
  kernel_modules:
    description: Kernel features that must be there, as modules or built in.
    type: list
    elements: str
    default: []
  sysctl:
    description: Kernel settings that must hold, name to value.
    type: dict
    default: {}
  sysctl_file:
    description: The file that sets them at boot; settings in files that are read later are reported.
    type: str
    default: ""
  packages:
    description: Packages whose installed version is reported.
    type: list
    elements: str
    default: []
  marker:
    description: A JSON file whose C(digest) is reported.
    type: str
    default: ""
  etcd_pki:
    description: Folder in which the certificates of an etcd member are looked for.
    type: str
    default: ""
  etcd_data_dir:
    description: Folder in which the data of an etcd member is looked for.
    type: str
    default: ""
  managed_line:
    description: First line of the files that kops-py owns below /etc/containerd/certs.d.
    type: str
    default: ""
author: [kops-py]
"""

COMMAND_TIMEOUT_S = 20
CONFIGURATIONS = {
    "containerd": ("/etc/containerd/config.toml",),
    "haproxy": ("/etc/haproxy/haproxy.cfg",),
    "etcd": ("/etc/etcd/etcd.env", "/etc/systemd/system/etcd.service"),
}
ETCD_FILES = ("ca.crt", *(f"{pair}.{kind}" for pair in ("server", "peer") for kind in ("crt", "key")))
SYSCTL_DIRS = ("/usr/local/lib/sysctl.d", "/usr/lib/sysctl.d", "/lib/sysctl.d", "/run/sysctl.d", "/etc/sysctl.d")
DEBIAN_LIKE, REDHAT_LIKE = {"debian", "ubuntu"}, {"rhel", "rocky", "almalinux", "centos", "fedora", "ol"}


def read(path: str) -> str:
    """Return the text of a file; empty when it cannot be read."""
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def output(*argv: str) -> str:
    """Return what a command printed; empty when it is missing, failed or took too long."""
    environment = dict(os.environ, LC_ALL="C", PATH="/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
    try:
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=COMMAND_TIMEOUT_S,
            env=environment,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.decode("utf-8", "replace")


def operating_system() -> dict[str, str]:
    """Return id, version, code name and family (debian, redhat or empty) from os-release."""
    found = dict(re.findall(r'^([A-Z_]+)="?([^"\n]*)"?$', read("/etc/os-release"), re.MULTILINE))
    ids = {found.get("ID", ""), *found.get("ID_LIKE", "").split()}
    family = "debian" if ids & DEBIAN_LIKE else "redhat" if ids & REDHAT_LIKE else ""
    return {
        "id": found.get("ID", ""),
        "name": found.get("PRETTY_NAME", ""),
        "version": found.get("VERSION_ID", ""),
        "codename": found.get("UBUNTU_CODENAME") or found.get("VERSION_CODENAME", ""),
        "family": family,
    }


def installed(family: str, names: list[str]) -> tuple[dict[str, str], list[str]]:
    """Return the versions of those packages that are installed, and the names of those that are held.

    dpkg is asked and not apt-mark: that one opens the whole package cache first.
    """
    if not names:
        return {}, []
    if family == "redhat":
        lines = output("rpm", "-q", "--qf", "%{NAME}\t%{VERSION}-%{RELEASE}\n", *names)
    else:
        lines = output("dpkg-query", "-W", "-f", "${db:Status-Abbrev}\t${Package}\t${Version}\n", *names)
    found, held = {}, []
    for line in lines.splitlines():
        fields = line.split("\t")
        if family == "redhat" and len(fields) == 2:
            found[fields[0]] = fields[1]
        elif len(fields) == 3 and fields[0][1:2] == "i":
            found[fields[1]] = fields[2]
            if fields[0][0] == "h":
                held.append(fields[1])
    return found, sorted(held)


def missing_kernel_modules(names: list[str]) -> list[str]:
    """Return the features the kernel lacks now.

    Built-in features count: they are told by /proc/filesystems, /sys/module and the sysctl tree, not by lsmod.
    """
    filesystems = set(re.findall(r"(\S+)$", read("/proc/filesystems"), re.MULTILINE))
    marks = {"br_netfilter": "/proc/sys/net/bridge/bridge-nf-call-iptables"}
    return [
        name
        for name in names
        if name not in filesystems
        and not Path("/sys/module", name).is_dir()
        and not (name in marks and Path(marks[name]).exists())
    ]


def differing_sysctl(wanted: dict[str, str]) -> list[str]:
    """Return the settings whose value differs now, or that the kernel does not have yet."""
    differs = []
    for name, value in wanted.items():
        current = read("/proc/sys/" + name.replace(".", "/"))
        if current.split() != str(value).split():
            differs.append(name)
    return differs


def overridden_sysctl(wanted: dict[str, str], own_file: str) -> list[str]:
    """Return ``file: name = value`` for settings that a file read after ours turns to another value at boot."""
    files: dict[str, str] = {}
    for folder in SYSCTL_DIRS:
        files.update({path.name: str(path) for path in Path(folder).glob("*.conf")})
    own = Path(own_file).name
    found = []
    for name in sorted(name for name in files if own and name > own):
        for line in read(files[name]).splitlines():
            match = re.match(r"\s*-?([\w./-]+)\s*=\s*(.*?)\s*$", line)
            if not match:
                continue
            key = match[1].replace("/", ".")
            if key in wanted and match[2].split() != str(wanted[key]).split():
                found.append(f"{files[name]}: {key} = {match[2]}")
    return found


def swap() -> dict[str, object]:
    """Return what swaps now and what would at boot."""
    active = [line.split()[0] for line in read("/proc/swaps").splitlines()[1:] if line.strip()]
    at_boot = re.search(r"^[ \t]*[^#\s]\S*\s+\S+\s+swap\s", read("/etc/fstab"), re.MULTILINE) is not None
    units = [
        fields[0]
        for line in output(
            "systemctl", "list-units", "--type=swap", "--state=active", "--plain", "--no-legend", "--no-pager"
        ).splitlines()
        if (fields := line.split())
    ]
    units += [
        fields[0]
        for line in output(
            "systemctl", "list-unit-files", "--no-legend", "--no-pager", "*.swap", "zramswap.service"
        ).splitlines()
        if len(fields := line.split()) >= 2 and fields[1] in ("enabled", "enabled-runtime", "generated")
    ]
    return {"active": active, "fstab": at_boot, "units": sorted(set(units))}


def services(*names: str) -> dict[str, dict[str, bool]]:
    """Return whether services are enabled, active, and older than their configuration.

    The last one tells of a run that was interrupted between writing a file and restarting its service.
    """
    properties = "--property=Id,UnitFileState,ActiveState,StateChangeTimestampMonotonic"
    shown = output("systemctl", "show", properties, *names)
    found = {}
    for block in shown.split("\n\n"):
        values = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
        name = values.get("Id", "").rpartition(".service")[0]
        found[name] = {
            "enabled": values.get("UnitFileState") == "enabled",
            "active": values.get("ActiveState") == "active",
            "outdated": any(
                changed_since(path, values.get("StateChangeTimestampMonotonic", ""))
                for path in CONFIGURATIONS.get(name, ())
            ),
        }
    return {name: found.get(name, {"enabled": False, "active": False, "outdated": False}) for name in names}


def etcd(pki: str, data_dir: str) -> dict[str, object]:
    """Return which certificates of a member are missing, and whether it has data."""
    missing = [name for name in ETCD_FILES if pki and not Path(pki, name).exists()]
    return {"missing": missing, "has_data": bool(data_dir) and Path(data_dir, "member").exists()}


def changed_since(path: str, monotonic_us: str) -> bool:
    """Return whether a file was changed after a moment of systemd's clock, which counts from boot."""
    if not monotonic_us.isdigit() or not Path(path).exists():
        return False
    age_s = time.clock_gettime(time.CLOCK_MONOTONIC) - int(monotonic_us) / 1e6
    return Path(path).stat().st_mtime > time.time() - age_s


def managed_files(first_line: str) -> list[str]:
    """Return the registry settings that kops-py wrote."""
    top = "/etc/containerd/certs.d"
    paths = [str(path) for path in Path(top).glob("*/*") if path.is_file()]
    return sorted(p for p in paths if first_line and read(p).startswith(first_line))


def entries(folder: str) -> list[str]:
    """Return the names in a folder; none when it is missing."""
    return sorted(path.name for path in Path(folder).glob("*"))


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "kernel_modules": {"type": "list", "elements": "str", "default": []},
            "sysctl": {"type": "dict", "default": {}},
            "sysctl_file": {"type": "str", "default": ""},
            "packages": {"type": "list", "elements": "str", "default": []},
            "marker": {"type": "str", "default": ""},
            "etcd_pki": {"type": "str", "default": ""},
            "etcd_data_dir": {"type": "str", "default": ""},
            "managed_line": {"type": "str", "default": ""},
        },
        supports_check_mode=True,
    )
    wanted = module.params
    system = operating_system()
    running = services("containerd", "kubelet", "haproxy", "etcd")
    list_images = ("ctr", "--namespace", "k8s.io", "images", "ls", "-q")
    images = output(*list_images) if running["containerd"]["active"] else ""
    digest = re.search(r'"digest"\s*:\s*"([0-9a-f]*)"', read(wanted["marker"]) if wanted["marker"] else "")
    packages, held = installed(system["family"], wanted["packages"])
    joined = Path("/etc/kubernetes/kubelet.conf").exists()
    module.exit_json(
        changed=False,
        os=system,
        packages=packages,
        held=held,
        kernel_modules_missing=missing_kernel_modules(wanted["kernel_modules"]),
        sysctl_differs=differing_sysctl(wanted["sysctl"]),
        sysctl_overridden=overridden_sysctl(wanted["sysctl"], wanted["sysctl_file"]),
        swap=swap(),
        services=running,
        joined=joined,
        images=images.split(),
        ipv6=Path("/proc/net/if_inet6").exists(),
        cni_plugins={"opt": entries("/opt/cni/bin"), "distribution": entries("/usr/lib/cni")},
        etcd=etcd(wanted["etcd_pki"], wanted["etcd_data_dir"]),
        managed_files=managed_files(wanted["managed_line"]),
        selinux_enforcing=read("/sys/fs/selinux/enforce").strip() == "1",
        marker={
            "exists": bool(wanted["marker"]) and Path(wanted["marker"]).exists(),
            "digest": digest[1] if digest else "",
        },
    )


if __name__ == "__main__":
    main()
