"""Every trace of a lab on the machine. After `down` there is none."""

from __future__ import annotations

from . import cgroups, network, rootfs
from .config import LabConfig
from .processes import find_children
from .state import load_registry


def find_leaks(config: LabConfig) -> list[str]:
    """Each trace as one line. While the lab is up this lists the lab itself."""
    found = [f"process {child.pid}: {child.kind} {' '.join(child.args)}" for child in find_children(config)]
    found += [f"mount {point}" for point in rootfs.mounts_below(config.dir)]
    found += [f"interface {name}" for name in network.links(config)]
    found += [f"network namespace {name}" for name in network.namespaces(config)]
    found += [f"firewall {rule}" for rule in network.firewall_traces(config)]
    found += [f"cgroup {path}" for path in cgroups.find_all(config)]
    found += [f"loop device {device}" for device in rootfs.loop_devices(config.dir)]
    if config.dir.exists():
        found.append(f"directory {config.dir}")
    registry = load_registry(config.home)
    if config.name in registry["labs"]:
        found.append(f"registered network 10.{registry['labs'][config.name]}.0.0/16")
    if not registry["labs"] and registry["sysctls"] and not network.bridges():
        found.append(f"machine settings not restored: {', '.join(registry['sysctls'])}")
    return found
