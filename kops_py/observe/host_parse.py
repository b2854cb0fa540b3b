"""Reads what the host script printed; pure functions, lenient towards anything a host may say."""

from __future__ import annotations

import ipaddress
import json
import re
import shlex
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from kops_py.model.facts import DiskFacts, HostFacts, JobState
from kops_py.model.membership import read_removal_mark
from kops_py.observe.external_etcd import client_facts, pki_facts

MEMBER_DIRECTORY = "/var/lib/etcd/member"


def sections(text: str, nonce: str) -> tuple[Mapping[str, str], bool]:
    """Return the text of each section that ended, and whether the script came to its end."""
    found: dict[str, str] = {}
    name, lines, finished = "", list[str](), False
    for line in text.split("\n"):
        if line.startswith(f"{nonce} begin "):
            name, lines = line.removeprefix(f"{nonce} begin "), []
        elif line.startswith(f"{nonce} end "):
            found[name] = "\n".join(lines).strip()
            name = ""
        elif line == f"{nonce} finished":
            finished = True
        elif name:
            lines.append(line)
    return found, finished


def os_release(text: str) -> Mapping[str, str]:
    """Read /etc/os-release."""
    values: dict[str, str] = {}
    for line in text.splitlines():
        key, separator, value = line.strip().partition("=")
        if not separator or key.startswith("#"):
            continue
        try:
            words = shlex.split(value)
        except ValueError:
            words = [value.strip("\"'")]
        values[key] = words[0] if words else ""
    return values


def kib_of(meminfo: str, key: str) -> int:
    """Return one value of /proc/meminfo in KiB; 0 when it is missing."""
    match = re.search(rf"^{key}:\s+(\d+) kB", meminfo, re.MULTILINE)
    return int(match[1]) if match else 0


def disks(text: str) -> Mapping[str, DiskFacts]:
    """Read ``path size free mount`` lines in KiB."""
    found = {}
    for line in text.splitlines():
        words = line.split(" ", 3)
        if len(words) == 4 and words[1].isdigit() and words[2].lstrip("-").isdigit():
            free_kib = max(0, int(words[2]))
            found[words[0]] = DiskFacts(words[0], int(words[1]) * 1024, free_kib * 1024, words[3])
    return MappingProxyType(found)


def addresses_by_link(text: str) -> Mapping[str, frozenset[str]]:
    """Read ``ip -o addr``: addresses with prefix length per interface, without loopback and link-local ones."""
    found: dict[str, set[str]] = {}
    for line in text.splitlines():
        match = re.match(r"\d+:\s+(\S+)\s+inet6?\s+(\S+)(?:\s+peer\s+(\S+))?", line)
        if match is None:
            continue
        address = match[2]
        if match[3] and "/" not in address:
            address = f"{address}/{match[3].rpartition('/')[2]}"
        try:
            interface = ipaddress.ip_interface(address)
        except ValueError:
            continue
        if not (interface.ip.is_loopback or interface.ip.is_link_local):
            found.setdefault(match[1].split("@")[0], set()).add(str(interface))
    return {link: frozenset(values) for link, values in found.items()}


def routes(text: str) -> frozenset[str]:
    """Read ``ip -o route``: networks, without default, link-local, multicast and single-address routes."""
    found = set()
    for line in text.splitlines():
        words = line.split()
        if words and words[0] in ("unreachable", "blackhole", "prohibit", "throw", "unicast"):
            words = words[1:]
        if not words or words[0] == "default":
            continue
        try:
            network = ipaddress.ip_network(words[0], strict=False)
        except ValueError:
            continue
        if network.prefixlen in (0, network.max_prefixlen) or network.is_link_local or network.is_multicast:
            continue
        found.add(str(network))
    return frozenset(found)


def macs(links: str, by_link: Mapping[str, frozenset[str]], own: frozenset[str]) -> frozenset[str]:
    """Return the MAC addresses that must be unique: of real devices, and of the interface the node is known by.

    Bridges and pod interfaces are left out: several network plugins give them the same address on every node.
    """
    found = set()
    for line in links.splitlines():
        words = line.split()
        if len(words) != 3 or words[1] == "00:00:00:00:00:00" or words[1].count(":") != 5:
            continue
        bare = {address.partition("/")[0] for address in by_link.get(words[0], frozenset())}
        if words[2] == "device" or bare & own:
            found.add(words[1].lower())
    return frozenset(found)


def listening(ss: str, proc_tcp: str) -> Mapping[int, str]:
    """Read ``ss -ltnp``, or /proc/net/tcp when that is missing: port → program (empty when it is not known)."""
    found: dict[int, str] = {}
    for line in ss.splitlines():
        words = line.split()
        if len(words) < 5 or words[0] != "LISTEN":
            continue
        port = words[3].rpartition(":")[2]
        program = re.search(r'users:\(\("([^"]*)"', line)
        if port.isdigit() and not found.get(int(port)):
            found[int(port)] = program[1] if program else ""
    if not found:
        for line in proc_tcp.splitlines():
            match = re.match(r"\s*\d+:\s+[0-9A-F]+:([0-9A-F]{4})\s+\S+\s+0A\s", line)
            if match:
                found.setdefault(int(match[1], 16), "")
    return MappingProxyType(dict(sorted(found.items())))


def swap(swaps: str, fstab: str) -> tuple[int, bool]:
    """Return the bytes of swap in use by the kernel, and whether fstab brings swap at boot."""
    total_kib = 0
    for line in swaps.splitlines()[1:]:
        words = line.split()
        if len(words) >= 3 and words[2].isdigit():
            total_kib += int(words[2])
    at_boot = any(
        len(words) >= 3 and not words[0].startswith("#") and words[2] == "swap"
        for words in (line.split() for line in fstab.splitlines())
    )
    return total_kib * 1024, at_boot


def cgroup_version(text: str) -> int:
    """Return 2 only when /sys/fs/cgroup itself is cgroup2; a hybrid layout is 1, as the kubelet sees it."""
    kinds = text.split()
    if not kinds:
        return 0
    return 2 if kinds[0] in ("cgroup2fs", "cgroup2") or kinds[-1] == "cgroup2" else 1


def packages(dpkg: str, rpm: str) -> Mapping[str, str]:
    """Read ``installed NAME VERSION`` lines."""
    found = {}
    for line in (dpkg + "\n" + rpm).splitlines():
        words = line.split()
        if len(words) == 3 and words[0] == "installed":
            found[words[1]] = words[2]
    return MappingProxyType(found)


def held(selections: str, versionlock: str, excludes: str) -> frozenset[str]:
    """Return the packages an update leaves alone: dpkg holds, dnf version locks, excludes of a repository."""
    found = set()
    for line in selections.splitlines():
        words = line.split()
        if len(words) == 2 and words[1] == "hold":
            found.add(words[0].partition(":")[0])
    for line in versionlock.splitlines():
        lock = line.strip()
        toml = re.fullmatch(r'name\s*=\s*"([^"]+)"', lock)
        if toml:
            found.add(toml[1])
        # dnf 4 writes name-epoch:version-release.arch and yum epoch:name-version-release.arch.
        elif match := re.match(r"(?:\d+:)?([a-z][a-z0-9.+-]*?)-(?:\d+:)?v?\d", lock):
            found.add(match[1])
    for line in excludes.splitlines():
        found.update(word for word in re.split(r"[\s,]+", line.partition("=")[2]) if word)
    return frozenset(found)


def digest(text: str) -> str:
    """Return the digest of a ``{"digest": hex}`` file; empty when it is missing or damaged."""
    try:
        body: Any = json.loads(text)
    except ValueError:
        return ""
    value = body.get("digest") if isinstance(body, dict) else None
    return value if isinstance(value, str) else ""


def static_images(text: str) -> Mapping[str, str]:
    """Read ``/etc/kubernetes/manifests/NAME.yaml:    image: IMAGE`` lines; the first image of a manifest counts."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        path, _, image = line.partition(":")
        name = path.rpartition("/")[2].removesuffix(".yaml")
        found.setdefault(name, image.partition("image:")[2].strip().strip("\"'"))
    return MappingProxyType(found)


def job_states(text: str) -> Mapping[str, JobState]:
    """Read ``name unit-state rc`` lines; a state systemd could not tell counts as running, to leave it alone."""
    found = {}
    for line in text.splitlines():
        words = line.split()
        if len(words) != 3:
            continue
        name, state, rc = words
        if rc != "-":
            found[name] = JobState.SUCCEEDED if rc == "0" else JobState.FAILED
        elif state in ("inactive", "failed"):
            found[name] = JobState.INTERRUPTED
        else:
            found[name] = JobState.RUNNING
    return MappingProxyType(found)


def sysctls(text: str) -> Mapping[str, str]:
    """Read ``/proc/sys/net/ipv4/ip_forward:1`` lines."""
    found = {}
    for line in text.splitlines():
        path, separator, value = line.partition(":")
        if separator and path.startswith("/proc/sys/"):
            found[path.removeprefix("/proc/sys/").replace("/", ".")] = value.strip()
    return MappingProxyType(found)


def kubelet_flags(text: str) -> Mapping[str, str]:
    """Read ``file flag`` lines: flag → the files it is in, joined by commas."""
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        path, separator, flag = line.rpartition(" ")
        if separator and flag and path not in found.setdefault(flag, []):
            found[flag].append(path)
    return MappingProxyType({flag: ", ".join(paths) for flag, paths in sorted(found.items())})


def _resolved(text: str) -> frozenset[str]:
    found = set()
    for line in text.splitlines():
        word = line.split()[0] if line.split() else ""
        try:
            found.add(str(ipaddress.ip_address(word.partition("%")[0])))
        except ValueError:
            continue
    return frozenset(found)


def _number(text: str) -> int:
    word = text.split()[0] if text.split() else ""
    return int(word) if word.isascii() and word.isdigit() else 0


def _words(text: str) -> frozenset[str]:
    return frozenset(line.strip() for line in text.splitlines() if line.strip())


def clock_of(text: str) -> float | None:
    """Return seconds since the epoch from ``date +%s.%N``; None when it says nothing usable."""
    match = re.match(r"\s*(\d{9,11}(?:\.\d{1,9})?)", text)
    return float(match[1]) if match else None


def containerd_version(text: str) -> str:
    """Return ``1.7.22`` from ``containerd github.com/containerd/containerd v1.7.22 <commit>``."""
    match = re.search(r"\bv?(\d+\.\d+\.\d+[0-9A-Za-z.~+-]*)", text)
    return match[1] if match else ""


def host_facts(name: str, found: Mapping[str, str], own: frozenset[str]) -> HostFacts:
    """Make facts of sections; ``own`` are the addresses the inventory knows the host by."""

    def get(section: str) -> str:
        return found.get(section, "")

    release = os_release(get("os"))
    machine, _, kernel = get("uname").partition("\n")
    python, _, python_path = get("python").partition("\n")
    by_link = addresses_by_link(get("addresses"))
    swap_bytes, swap_in_fstab = swap(get("swaps"), get("fstab"))
    active = {words[0] for words in map(str.split, get("units").splitlines()) if words[1:] == ["active"]}
    leftovers = _words(get("leftovers"))
    pki_digest, authority = pki_facts(digest(get("etcd_pki")), get("etcd_certificates"))
    client_authority, client, client_runs_out = client_facts(get("etcd_client"))
    apparmor = get("apparmor").splitlines()
    return HostFacts(
        name=name,
        sudo=get("user") == "0",
        os_id=release.get("ID", "").lower(),
        os_like=release.get("ID_LIKE", "").lower(),
        os_version=release.get("VERSION_ID", ""),
        os_name=release.get("PRETTY_NAME", "") or release.get("NAME", ""),
        architecture=machine.strip(),
        kernel=kernel.strip(),
        boot_id=get("boot_id"),
        python=python,
        python_path=python_path.strip(),
        cpus=_number(get("cpus")),
        memory_bytes=kib_of(get("meminfo"), "MemTotal") * 1024,
        disks=disks(get("disks")),
        hostname=get("hostname"),
        machine_id=get("machine_id"),
        product_uuid=get("product_uuid").lower(),
        macs=macs(get("links"), by_link, own),
        addresses=frozenset().union(*by_link.values()),
        routes=routes(get("routes")),
        swap_bytes=swap_bytes,
        swap_in_fstab=swap_in_fstab,
        listening=listening(get("ss"), get("proc_tcp")),
        cgroup_version=cgroup_version(get("cgroup")),
        features=_words(get("features")),
        sysctls=sysctls(get("sysctls")),
        packages=packages(get("dpkg"), get("rpm")),
        held=held(get("dpkg_selections"), get("versionlock"), get("dnf_excludes")),
        containerd_version=containerd_version(get("containerd")),
        prepared_digest=digest(get("prepared")),
        staged_digest=digest(get("staged")),
        removal=read_removal_mark(get("removed")),
        static_images=static_images(get("static_images")),
        load_balancer_digest=digest(get("load_balancer")),
        etcd_digest=digest(get("etcd")),
        etcd_pki_digest=pki_digest,
        etcd_ca=authority,
        etcd_client_ca=client_authority,
        etcd_client_cert=client,
        etcd_client_runs_out=client_runs_out,
        out_of_balancer=_words(get("out_of_balancer")),
        manifests=_words(get("manifests")),
        has_kubelet_conf="/etc/kubernetes/kubelet.conf" in leftovers,
        has_admin_conf="/etc/kubernetes/admin.conf" in leftovers,
        has_etcd_data=MEMBER_DIRECTORY in leftovers,
        cni_configs=_words(get("cni")),
        bridge_peers=_words(get("bridge_peers")),
        jobs=job_states(get("jobs")),
        resolves_endpoint=_resolved(get("endpoint")),
        resolves_hostname=_resolved(get("own_name")),
        services=frozenset(active),
        runtime_sockets=_words(get("sockets")),
        kubelet_flags=kubelet_flags(get("kubelet_flags")),
        etcd_data_bytes=_number(get("etcd_data")) * 1024,
        leftovers=leftovers,
        ca_digest=get("ca_digest").split(" ")[0],
        selinux={"1": "enforcing", "0": "permissive"}.get(get("selinux"), ""),
        apparmor=bool(apparmor) and apparmor[0].strip() == "Y",
        has_apparmor_parser=len(apparmor) > 1,
        proxies=_words(get("proxies")),
    )
