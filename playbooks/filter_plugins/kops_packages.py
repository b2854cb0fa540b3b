"""Decides which packages to install, hold and refuse, from the state of a host."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any

KUBERNETES = ("kubeadm", "kubectl", "kubelet")
# conntrack, ethtool, socat, ebtables: asked for by kubeadm's preflight up to 1.31/1.32 and by kube-proxy and
# port-forward after that; iproute2 and kmod by all of them.
TOOLS = {
    "debian": ("ca-certificates", "conntrack", "ebtables", "ethtool", "iproute2", "iptables", "kmod", "socat"),
    "redhat": (
        "ca-certificates",
        "conntrack-tools",
        "ethtool",
        "iproute",
        "iproute-tc",
        "iptables",
        "kmod",
        "socat",
    ),
}
CONTAINERD = {"distribution": "containerd", "docker": "containerd.io"}


def _pin(version: str) -> str:
    """Return the pattern of package versions: ``1.7.24`` is every build of it, a full version itself."""
    return version if set(version) & set("*~-+") else f"{version}[-~+]*"


def _base_version(package_version: str) -> str:
    """Return ``1.31.2`` of ``1.31.2-1.1``."""
    return package_version.partition(":")[2].partition("-")[0] or package_version.partition("-")[0]


def package_plan(state: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return ``install`` (with pins, only what is missing or another version), ``hold`` and ``refusals``.

    ``settings``: kubernetes_version, package_revision, repository, repository_key, containerd_source,
    containerd_version, allow_version_change.
    """
    family = state["os"]["family"]
    if family not in TOOLS:
        known = "Debian, Ubuntu, RHEL, Rocky, Alma"
        return {"install": [], "hold": [], "refusals": [f"{state['os']['name']!r} is not supported: {known} are"]}
    there, source = state["packages"], settings["containerd_source"]
    containerd, other = CONTAINERD[source], CONTAINERD["distribution" if source == "docker" else "docker"]
    refusals = []
    if not settings["repository"].startswith("https://") and not settings["repository_key"]:
        refusals.append(
            f"{settings['repository']} is not https, so its own key cannot be trusted; "
            "set kubernetes.repositoryKey to a key file or an https URL"
        )
    if family == "redhat" and source == "distribution":
        refusals.append("this distribution has no containerd package; set containerd.source to docker")
    if other in there:
        refusals.append(
            f"the package {other} is installed and {containerd} would replace it; "
            f"change containerd.source, or remove {other}"
        )
    version = settings["kubernetes_version"]
    kubelet = _base_version(there.get("kubelet", ""))
    if state["joined"] and kubelet and kubelet != version and not settings["allow_version_change"]:
        refusals.append(
            f"this node is in a cluster with kubelet {kubelet} and would get {version}; "
            "upgrade the cluster instead (or set kops_allow_version_change: true)"
        )
    pins = dict.fromkeys(KUBERNETES, f"{version}-{settings['package_revision']}")
    if settings["containerd_version"]:
        pins[containerd] = _pin(settings["containerd_version"])
    join = "=" if family == "debian" else "-"
    names = [
        name
        for name in (*TOOLS[family], containerd, "cri-tools", *KUBERNETES)
        if name not in there or (name in pins and not fnmatchcase(there[name], pins[name]))
    ]
    install = [f"{name}{join}{pins[name]}" if name in pins else name for name in names]
    # Installing a held package takes its hold away.
    hold = [name for name in sorted({containerd, *KUBERNETES}) if name in names or name not in state["held"]]
    return {"install": install, "hold": hold, "refusals": refusals}


class FilterModule:
    """What Ansible loads."""

    def filters(self) -> dict[str, Any]:
        """Return the filters by name."""
        return {"kops_package_plan": package_plan}
