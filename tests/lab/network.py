"""Bridge, veth pairs, firewall and machine-wide settings of a lab."""

from __future__ import annotations

import os
import re
import socket
import urllib.parse
from pathlib import Path

from . import config as cfg
from .config import LabConfig, LabError
from .processes import run, wait_until
from .state import file_lock, load_registry, save_registry

_NETNS = Path("/run/netns")
_NET = Path("/sys/class/net")


def wanted_sysctls() -> dict[str, int]:
    """Least values of machine-wide settings while any lab is up."""
    return {
        "net.ipv4.ip_forward": 1,
        "net.ipv4.neigh.default.gc_thresh3": 8192,  # before gc_thresh2: the kernel wants them in order
        "net.ipv4.neigh.default.gc_thresh2": 4096,
        "fs.inotify.max_user_instances": 8192,
        "fs.inotify.max_user_watches": 1048576,
        # Read-only in a network namespace. kube-proxy writes it, and crash-loops, unless it is exactly this.
        "net.netfilter.nf_conntrack_max": max(131072, 32768 * (os.cpu_count() or 1)),
    }


def _sysctl_path(key: str) -> Path:
    return Path("/proc/sys") / key.replace(".", "/")


# ------------------------------------------------------------------ machine
def register(config: LabConfig) -> int:
    """Give the lab a network that nobody on this machine uses; returns its second octet."""
    with file_lock(config.home / "locks" / "registry", 60, "the registry of labs"):
        registry = load_registry(config.home)
        if config.name in registry["labs"]:
            octet = registry["labs"][config.name]
        else:
            octet = cfg.choose_octet(config.name, set(registry["labs"].values()) | _octets_in_use())
            registry["labs"][config.name] = octet
        for key, wanted in wanted_sysctls().items():
            path = _sysctl_path(key)
            if not path.exists():
                continue
            current = path.read_text().strip()
            registry["sysctls"].setdefault(key, current)
            if int(current) < wanted or "conntrack" in key:
                save_registry(config.home, registry)  # first remembered, then changed
                path.write_text(str(wanted))
        save_registry(config.home, registry)
        return octet


def unregister(config: LabConfig) -> None:
    """Forget the lab; the last one puts the machine's settings back.

    Settings stay, and stay remembered, while any other bridge exists (another program's, or a lab with another
    home directory): it may rely on forwarding as much as we did.
    """
    with file_lock(config.home / "locks" / "registry", 60, "the registry of labs"):
        registry = load_registry(config.home)
        registry["labs"].pop(config.name, None)
        if not registry["labs"] and not bridges():
            for key, value in reversed(registry["sysctls"].items()):
                _sysctl_path(key).write_text(value)
            registry["sysctls"] = {}
        save_registry(config.home, registry)


def bridges() -> list[str]:
    return sorted(x.name for x in _NET.iterdir() if (x / "bridge").is_dir())


def _octets_in_use() -> set[int]:
    text = run("ip", "-4", "-o", "addr").stdout + run("ip", "-4", "route").stdout
    return {int(x) for x in re.findall(r"\b10\.(\d+)\.", text)}


def bridge_up(bridge: str, address: str) -> None:
    """`address` is that of the machine on the bridge, with its prefix length."""
    if not (_NET / bridge).exists():
        run("ip", "link", "add", bridge, "type", "bridge")
    run("ip", "addr", "replace", address, "dev", bridge)
    run("ip", "link", "set", bridge, "up")


def host_down(config: LabConfig) -> None:
    """Remove every interface, namespace, rule and chain of the lab, found by name; nothing left is no error."""
    firewall_down(config)
    batch = "".join(f"link del {name}\n" for name in links(config))
    run("ip", "-force", "-batch", "-", check=False, stdin=batch)
    for name in namespaces(config):
        run("ip", "netns", "del", name, check=False)
    # a veth vanishes with its namespace, which the kernel ends a moment after its last process
    if not wait_until(lambda: not links(config) and not namespaces(config), 120, 0.05):
        left = links(config) + namespaces(config)
        raise LabError(f"the kernel keeps {left}: run `python -m tests.lab down --lab {config.name}` again")


def links(config: LabConfig) -> list[str]:
    return sorted(x.name for x in _NET.iterdir() if x.name.startswith(config.prefix))


def namespaces(config: LabConfig) -> list[str]:
    return sorted(x.name for x in _NETNS.iterdir() if x.name.startswith(config.prefix)) if _NETNS.is_dir() else []


# ------------------------------------------------------------------ firewall
def archive_uris() -> list[str]:
    """Addresses of the package archives this machine's own apt uses, the release archive first.

    `KOPS_LAB_MIRROR` comes before all of them.
    """
    folder = Path("/etc/apt/sources.list.d")
    files = [Path("/etc/apt/sources.list"), *sorted(folder.glob("debian*.list"))]
    files += sorted(folder.glob("debian*.sources"))
    text = "\n".join(path.read_text() for path in files if path.is_file())
    found = re.findall(r"^URIs:\s*(\S+)|^deb\s+(?:\[[^\]]*\]\s+)?(\S+)", text, re.MULTILINE)
    uris = sorted(dict.fromkeys(a or b for a, b in found), key=lambda uri: "security" in uri)
    mirror = os.environ.get("KOPS_LAB_MIRROR")
    uris = [mirror, *uris] if mirror else uris
    if not uris:
        raise LabError("no package archive found in /etc/apt: set KOPS_LAB_MIRROR=http://... to a Debian archive")
    return uris


def apt_settings() -> list[Path]:
    """The files in which this machine tells apt how to reach its archives (proxies, certificates)."""
    return [path for path in sorted(Path("/etc/apt/apt.conf.d").glob("*")) if "Acquire::" in path.read_text()]


def resolver_file() -> Path:
    """A resolv.conf that works from another network namespace too: not the local stub of systemd-resolved."""
    upstream = Path("/run/systemd/resolve/resolv.conf")
    return upstream if upstream.is_file() else Path("/etc/resolv.conf")


def _allowed() -> tuple[list[str], list[tuple[str, str]]]:
    """Name servers, and (address, ports) of the archives, their proxies and the hosts in `KOPS_LAB_ALLOW`."""
    servers = re.findall(r"^nameserver\s+(\d+\.\S+)", resolver_file().read_text(), re.MULTILINE)
    targets: set[tuple[str, str]] = set()
    proxies = re.findall(r'"(https?://[^"]+:\d+)', "\n".join(path.read_text() for path in apt_settings()))
    for uri in archive_uris() + proxies:
        parts = urllib.parse.urlsplit(uri)
        if parts.hostname:
            targets.add((parts.hostname, f"{parts.port}" if parts.port else "80,443"))
    targets |= {(host, "80,443") for host in os.environ.get("KOPS_LAB_ALLOW", "").split()}
    addresses = set()
    for host, ports in targets:
        try:
            addresses |= {(str(found[4][0]), ports) for found in socket.getaddrinfo(host, 80, socket.AF_INET)}
        except OSError:
            continue  # no name service here: then the nodes cannot reach it either
    return servers, sorted(addresses)


def firewall_up(config: LabConfig, octet: int) -> None:
    """Masquerade the lab; forward only to name servers and package archives. Replaces the rules in one step."""
    servers, web = _allowed()
    chain, bridge, net = config.chain, config.bridge, f"10.{octet}.0.0/24"
    rules = [f"-i {bridge} -o {bridge} -j ACCEPT"]
    rules += [f"-o {bridge} -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT"]
    rules += [f"-i {bridge} -p {p} -d {a} --dport 53 -j ACCEPT" for a in servers for p in ("udp", "tcp")]
    rules += [f"-i {bridge} -p tcp -d {a} -m multiport --dports {ports} -j ACCEPT" for a, ports in web]
    rules += [f"-i {bridge} -j REJECT"]
    lines = ["*filter", f":{chain} - [0:0]", *(f"-A {chain} {rule}" for rule in rules), "COMMIT"]
    lines += ["*nat", f":{chain} - [0:0]", f"-A {chain} -s {net} ! -d {net} -j MASQUERADE", "COMMIT", ""]
    run("iptables-restore", "-w", "--noflush", stdin="\n".join(lines))
    for table, hook in (("filter", "FORWARD"), ("nat", "POSTROUTING")):
        if run("iptables", "-w", "-t", table, "-C", hook, "-j", chain, check=False).returncode:
            run("iptables", "-w", "-t", table, "-I", hook, "-j", chain)


def firewall_down(config: LabConfig) -> None:
    for table, hook in (("filter", "FORWARD"), ("nat", "POSTROUTING")):
        while run("iptables", "-w", "-t", table, "-D", hook, "-j", config.chain, check=False).returncode == 0:
            pass
        run("iptables", "-w", "-t", table, "-F", config.chain, check=False)
        run("iptables", "-w", "-t", table, "-X", config.chain, check=False)
    for chain, rule in _drop_rules(config):
        run("ebtables", "-D", chain, *rule.split(), check=False)


def firewall_traces(config: LabConfig) -> list[str]:
    """Rules of this lab that exist now, as text."""
    lines = run("iptables-save", check=False).stdout.splitlines()
    found = [line for line in lines if re.search(rf"\b{config.chain}\b", line)]
    return found + [f"ebtables {chain}: {rule}" for chain, rule in _drop_rules(config)]


def _drop_rules(config: LabConfig) -> list[tuple[str, str]]:
    found = []
    for chain in ("INPUT", "FORWARD", "OUTPUT"):
        listing = run("ebtables", "-L", chain, check=False).stdout.splitlines()
        found += [(chain, line.strip()) for line in listing if f" {config.prefix}" in line]
    return found


# ------------------------------------------------------------------ one node
def node_up(config: LabConfig, node: str, octet: int, ip: str) -> None:
    """A fresh network namespace at each boot, as a real reboot would give; a cut cable stays cut."""
    node_down(config, node)
    name = config.veth(node)
    run("ip", "netns", "add", name)
    mac = "02:4d:" + ":".join(f"{int(part):02x}" for part in ip.split("."))
    run("ip", "link", "add", name, "mtu", str(cfg.VETH_MTU), "type", "veth", "peer", "name", "eth0", "netns", name)
    cable = "down" if is_cut(config, node) else "up"
    batch = (
        f"link set lo up\nlink set eth0 address {mac} mtu {cfg.VETH_MTU} up\n"
        f"addr add {ip}/24 dev eth0\nroute add default via {cfg.gateway(octet)}\n"
    )
    run("ip", "link", "set", name, "master", config.bridge, "up")
    run("ip", "-n", name, "-batch", "-", stdin=batch)
    if cable == "down":
        run("ip", "link", "set", name, "down")


def node_down(config: LabConfig, node: str) -> None:
    name = config.veth(node)
    if (_NET / name).exists():
        run("ip", "link", "del", name, check=False)
    if (_NETNS / name).exists():
        run("ip", "netns", "del", name, check=False)


def _cut_marker(config: LabConfig, node: str) -> Path:
    return config.node_dir(node) / "cut"


def is_cut(config: LabConfig, node: str) -> bool:
    return _cut_marker(config, node).exists()


def cut(config: LabConfig, node: str, ip: str) -> None:
    """Unplug the cable: others get "no route to host". Holds over reboots, until `heal`.

    This machine forgets the node's hardware address, so the error comes after 3 s of ARP and not after a SYN that
    waits for a stale entry. Other nodes may hold theirs for some 20 s, as hosts behind a real switch do.
    """
    _cut_marker(config, node).touch()
    if (_NET / config.veth(node)).exists():
        run("ip", "link", "set", config.veth(node), "down")
        run("ip", "neigh", "flush", "dev", config.bridge, "to", ip)


def heal(config: LabConfig, node: str, ip: str) -> None:
    _cut_marker(config, node).unlink(missing_ok=True)
    if (_NET / config.veth(node)).exists():
        run("ip", "link", "set", config.veth(node), "up")
        run("ip", "neigh", "flush", "dev", config.bridge, "to", ip)  # not the FAILED entry of before


def drop(config: LabConfig, node: str) -> None:
    """Black hole: the link is up and ARP answers, every IPv4 frame vanishes, so others run into timeouts."""
    undrop(config, node)
    for chain, direction in (("INPUT", "-i"), ("FORWARD", "-i"), ("FORWARD", "-o"), ("OUTPUT", "-o")):
        run("ebtables", "-A", chain, "-p", "IPv4", direction, config.veth(node), "-j", "DROP")


def undrop(config: LabConfig, node: str) -> None:
    for chain, direction in (("INPUT", "-i"), ("FORWARD", "-i"), ("FORWARD", "-o"), ("OUTPUT", "-o")):
        run("ebtables", "-D", chain, "-p", "IPv4", direction, config.veth(node), "-j", "DROP", check=False)


def is_dropped(config: LabConfig, node: str) -> bool:
    return any(config.veth(node) in rule.split() for _, rule in _drop_rules(config))
