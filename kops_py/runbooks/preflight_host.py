"""Preflight checks of each host by itself: can it be asked, and is the machine fit to be what it is to be."""

from __future__ import annotations

from collections.abc import Iterator

from kops_py.model.errors import AuthenticationError, HostKeyError, KopsError, SudoError, UnreachableError
from kops_py.model.facts import DiskFacts
from kops_py.model.finding import Severity
from kops_py.model.spec import ContainerdSource
from kops_py.model.version import facts_of
from kops_py.runbooks.preflight_check import GIB, MIB, Check, Hit, Run, View, numbers, readable, readable_limit

ERROR, WARNING, INFO = Severity.ERROR, Severity.WARNING, Severity.INFO

OLDEST_SYSTEMS = {
    "debian": (11,),
    "ubuntu": (20, 4),
    "rhel": (8,),
    "rocky": (8,),
    "almalinux": (8,),
    "centos": (8,),
    "ol": (8,),
}
ARCHITECTURES = frozenset({"x86_64", "amd64", "aarch64", "arm64", "ppc64le", "s390x"})
OLDEST_PYTHON = (3, 8)
"""What the modules of ansible-core 2.17 to 2.19 need on a host is 3.7 or 3.8."""
CONTROL_PLANE_CPUS = 2
CONTROL_PLANE_MEMORY_BYTES = 1700 * MIB
WORKER_MEMORY_BYTES = 900 * MIB

# Free space: (path, error below, warning below, only where etcd runs). Images and logs of a control plane take
# about 2 GiB; etcd's default quota is 2 GiB and a defragmentation needs the size again.
DISK_NEEDS = (
    ("/var/lib/containerd", 3 * GIB, 10 * GIB, False),
    ("/var/lib/kubelet", GIB, 4 * GIB, False),
    ("/var", GIB, 4 * GIB, False),
    ("/var/lib/etcd", GIB, 4 * GIB, True),
    ("/etc", 32 * MIB, 64 * MIB, False),
)
FULL_RATIO = 0.15
"""The kubelet evicts pods when its image file system has less than 15 % left."""

TIME_SERVICES = frozenset(
    f"{name}.service" for name in ("chrony", "chronyd", "systemd-timesyncd", "ntp", "ntpd", "ntpsec", "openntpd")
)
UPDATE_UNITS = frozenset(
    {
        "unattended-upgrades.service",
        "apt-daily-upgrade.timer",
        "dnf-automatic.timer",
        "dnf-automatic-install.timer",
    }
)


def _asked(kind: type[KopsError] | None) -> Run:
    named = (UnreachableError, HostKeyError, AuthenticationError, SudoError)

    def run(view: View) -> Iterator[Hit]:
        for host in view.spec.hosts:
            facts = view.facts.hosts.get(host.name)
            problem = facts.problem if facts else None
            if problem is None:
                if kind is SudoError and facts is not None and not facts.sudo:
                    yield Hit(host.name, "commands do not run as root there")
                continue
            if isinstance(problem, kind) if kind else not isinstance(problem, named):
                message = f"{problem.what}: {problem.why}" if problem.why else problem.what
                yield Hit(host.name, message, hint=problem.hint)

    return run


def _os(view: View) -> Iterator[Hit]:
    for host, facts in view.pairs():
        name = facts.os_name or facts.os_id or "an unknown system"
        oldest = OLDEST_SYSTEMS.get(facts.os_id)
        if oldest is None:
            yield Hit(host.name, f"{name} is not a system kops-py knows how to prepare")
        elif not facts.os_version:
            yield Hit(host.name, f"{name} tells no version (a rolling or testing release?)", WARNING)
        elif numbers(facts.os_version) < oldest:
            yield Hit(host.name, f"{name} is too old: {facts.os_id} {'.'.join(map(str, oldest))} is the oldest")


def _architecture(view: View) -> Iterator[Hit]:
    for host, facts in view.nodes():
        if facts.architecture not in ARCHITECTURES:
            yield Hit(host.name, f"there are no Kubernetes packages for {facts.architecture or 'its processor'}")


def _python_missing(view: View) -> Iterator[Hit]:
    for host, facts in view.pairs():
        if not facts.python:
            yield Hit(host.name, "there is no python3, which Ansible needs to prepare the host")


def _python_old(view: View) -> Iterator[Hit]:
    for host, facts in view.pairs():
        if facts.python and numbers(facts.python) < OLDEST_PYTHON:
            yield Hit(host.name, f"{facts.python_path or 'python3'} is {facts.python}; Ansible needs 3.8 there")


def _cpu(view: View) -> Iterator[Hit]:
    for host, facts in view.newcomers():
        if host.is_control_plane and 0 < facts.cpus < CONTROL_PLANE_CPUS:
            yield Hit(host.name, f"{facts.cpus} CPU; kubeadm wants {CONTROL_PLANE_CPUS} on a control plane")


def _memory(view: View) -> Iterator[Hit]:
    for host, facts in view.newcomers():
        size = facts.memory_bytes
        if host.is_control_plane and 0 < size < CONTROL_PLANE_MEMORY_BYTES:
            yield Hit(host.name, f"{readable(size)} of memory; kubeadm wants 1700 MiB on a control plane")
        elif 0 < size < WORKER_MEMORY_BYTES:
            yield Hit(host.name, f"{readable(size)} of memory leaves little for pods", WARNING)


def _disk(view: View) -> Iterator[Hit]:
    for host, facts in view.nodes():
        said: set[tuple[str, Severity]] = set()
        for path, error_below, warning_below, etcd_only in DISK_NEEDS:
            disk = facts.disks.get(path)
            if disk is None or disk.size_bytes <= 0 or (etcd_only and not view.runs_etcd(host)):
                continue
            severity = _disk_severity(disk, error_below, warning_below, image_store=path == "/var/lib/containerd")
            if severity is ERROR and view.is_member(facts):
                severity = WARNING
            if severity is None or (disk.mount, severity) in said:
                continue
            said.add((disk.mount, severity))
            place = f"{path} (on {disk.mount})" if disk.mount and disk.mount != path else path
            free, size = readable_limit(disk.free_bytes), readable(disk.size_bytes)
            yield Hit(host.name, f"less than {free} of {size} free for {place}", severity)


def _disk_severity(disk: DiskFacts, error_below: int, warning_below: int, *, image_store: bool) -> Severity | None:
    if disk.free_bytes < error_below:
        return ERROR
    nearly_full = image_store and disk.free_bytes < disk.size_bytes * FULL_RATIO
    return WARNING if disk.free_bytes < warning_below or nearly_full else None


def _hostname(view: View) -> Iterator[Hit]:
    for host, facts in view.nodes():
        actual = facts.hostname.lower()
        if actual and actual not in (host.name.lower(), host.name.lower().split(".")[0]):
            yield Hit(host.name, f"the host calls itself {facts.hostname}")


def _hostname_unresolved(view: View) -> Iterator[Hit]:
    for host, facts in view.newcomers():
        if facts.hostname and not facts.resolves_hostname:
            yield Hit(host.name, f"its own name {facts.hostname} does not resolve on it")


def _swap(view: View) -> Iterator[Hit]:
    for host, facts in view.nodes():
        if facts.swap_bytes:
            member = view.is_member(facts)
            end = "" if member else "; preparation turns it off, now and at boot"
            yield Hit(host.name, f"{readable(facts.swap_bytes)} of swap is on{end}")
        elif facts.swap_in_fstab and view.is_member(facts):
            yield Hit(host.name, "swap is off now, but /etc/fstab turns it on at the next boot")


def _cgroup(view: View) -> Iterator[Hit]:
    version = view.spec.kubernetes.version
    for host, facts in view.nodes():
        if facts.cgroup_version != 1:
            continue
        if not facts_of(version).cgroup_v1_ok:
            yield Hit(host.name, f"cgroup v1 is mounted; the kubelet of {version.minor_text} refuses it")
        elif version.minor >= 31:
            yield Hit(host.name, "cgroup v1 is mounted; Kubernetes ends its support with v1.35", WARNING)


def _kernel_feature(view: View) -> Iterator[Hit]:
    for host, facts in view.newcomers():
        missing = sorted({"overlay", "br_netfilter", "nf_conntrack"} - facts.features)
        if missing:
            yield Hit(host.name, f"kernel {facts.kernel} lacks {', '.join(missing)}, built in or as a module")
        if not facts.features & {"ip_tables", "nf_tables"}:
            yield Hit(host.name, f"kernel {facts.kernel} seems to have neither ip_tables nor nf_tables", WARNING)


def _kernel_old(view: View) -> Iterator[Hit]:
    # kubeadm's SystemVerification wants 4.19 since 1.32, and only warns since 1.34; before that 3.10.
    version = view.spec.kubernetes.version
    oldest = (4, 19) if version.minor >= 32 else (3, 10)
    severity = WARNING if version.minor >= 34 else ERROR
    for host, facts in view.newcomers():
        kernel = numbers(facts.kernel)
        if kernel and kernel[:2] < oldest:
            text = ".".join(map(str, oldest))
            yield Hit(host.name, f"kernel {facts.kernel} is older than {text}, which kubeadm wants", severity)


def _containerd_old(view: View) -> Iterator[Hit]:
    needed = facts_of(view.spec.kubernetes.version).minimum_containerd
    for host, facts in view.nodes():
        found = numbers(facts.containerd_version)
        if len(found) < 2 or found[:2] >= needed:
            continue
        text = f"containerd {facts.containerd_version} is older than {needed[0]}.{needed[1]}"
        replaced = view.spec.containerd.source is ContainerdSource.DOCKER and not view.is_member(facts)
        if replaced:
            yield Hit(host.name, f"{text}; preparation replaces it", INFO)
        else:
            yield Hit(host.name, text)


def _foreign_runtime(view: View) -> Iterator[Hit]:
    for host, facts in view.nodes():
        names = sorted(facts.runtime_sockets - {"containerd"})
        names += ["docker"] if "docker.service" in facts.services and "docker" not in names else []
        if names:
            yield Hit(host.name, f"another container runtime is there: {', '.join(names)}")


def _leftovers(view: View) -> Iterator[Hit]:
    for host, facts in view.newcomers():
        found = sorted(facts.leftovers)
        if view.spec.external_etcd and view.runs_etcd(host):
            found = [path for path in found if not path.startswith("/var/lib/etcd")]
        if not found or view.begun(facts):
            continue
        shown = ", ".join(found[:4]) + (f" and {len(found) - 4} more" if len(found) > 4 else "")
        yield Hit(host.name, f"an earlier Kubernetes installation left {shown}", hint=_clean(host.name, found))


def _clean(name: str, found: list[str]) -> str:
    other = {"k3s": "k3s-uninstall.sh", "rke2": "rke2-uninstall.sh", "k0s": "k0s reset", "microk8s": "snap remove"}
    for mark, command in other.items():
        if any(mark in path for path in found):
            return f"if {name} is not needed in another cluster, clean it: {command} (then reboot)"
    return (
        f"if {name} belongs to a cluster that is to stay, start its API server or take it out of the inventory; "
        "else clean it: kubeadm reset --force; "
        "rm -rf /etc/kubernetes /var/lib/etcd /var/lib/kubelet /etc/cni/net.d"
    )


def _cni_leftovers(view: View) -> Iterator[Hit]:
    # Podman, CRI-O and containerd bring files of their own; the kubelet takes the first by name.
    harmless = ("87-podman", "100-crio", "200-loopback", "99-loopback")
    for host, facts in view.newcomers():
        found = sorted(n for n in facts.cni_configs if not n.startswith(harmless) and not n.startswith("."))
        if found and not facts.bridge_peers and not view.begun(facts):
            yield Hit(host.name, f"/etc/cni/net.d already holds {', '.join(found)}")


def _firewalld(view: View) -> Iterator[Hit]:
    for host, facts in view.pairs():
        active = sorted(s.split(".")[0] for s in facts.services & {"firewalld.service", "ufw.service"})
        if active:
            yield Hit(host.name, f"{', '.join(active)} is active")


def _selinux(view: View) -> Iterator[Hit]:
    for host, facts in view.nodes():
        if facts.selinux == "enforcing":
            yield Hit(host.name, "SELinux enforces")


def _apparmor(view: View) -> Iterator[Hit]:
    for host, facts in view.nodes():
        if facts.apparmor and not facts.has_apparmor_parser:
            yield Hit(host.name, "the kernel enforces AppArmor, but apparmor_parser is missing")


def _time_service(view: View) -> Iterator[Hit]:
    for host, facts in view.pairs():
        if not facts.services & TIME_SERVICES:
            yield Hit(host.name, "no service keeps its clock right")


def _automatic_updates(view: View) -> Iterator[Hit]:
    for host, facts in view.nodes():
        active = sorted(facts.services & UPDATE_UNITS)
        if active:
            yield Hit(host.name, f"updates install themselves ({', '.join(active)})")


def _proxy(view: View) -> Iterator[Hit]:
    for host, facts in view.nodes():
        names = {name.lower() for name in facts.proxies}
        if names & {"http_proxy", "https_proxy", "all_proxy"} and "no_proxy" not in names:
            yield Hit(host.name, "/etc/environment sets a proxy but no no_proxy")


HOST_CHECKS: tuple[Check, ...] = (
    Check(
        "unreachable",
        (ERROR,),
        "No connection to the host within the time allowed.",
        "See that it is up and that address and port in the inventory are right: ssh -p PORT USER@ADDRESS.",
        _asked(UnreachableError),
    ),
    Check(
        "host-key",
        (ERROR,),
        "The host's key is unknown or not the one on record.",
        "Compare it on the host's console, then accept it: ssh-keyscan or --accept-new-host-keys.",
        _asked(HostKeyError),
    ),
    Check(
        "authentication",
        (ERROR,),
        "The host refuses the login.",
        "Put the public key into the user's authorized_keys, or name the right user and key in the inventory.",
        _asked(AuthenticationError),
    ),
    Check(
        "sudo",
        (ERROR,),
        "The login works, but it may not become root.",
        "Give the user a sudoers entry, or set ssh.become_password in cluster.yaml.",
        _asked(SudoError),
    ),
    Check(
        "unobserved",
        (ERROR,),
        "The host answers, but looking at it failed.",
        "Log in and see whether sh works there, and whether the host is overloaded or out of memory.",
        _asked(None),
    ),
    Check(
        "os-unsupported",
        (ERROR, WARNING),
        "The system is not Debian 11+, Ubuntu 20.04+, or of the RHEL family 8+.",
        "Install a supported system; or prepare the host by hand and ignore this finding.",
        _os,
    ),
    Check(
        "architecture",
        (ERROR,),
        "There are no Kubernetes packages for this processor.",
        "Use amd64, arm64, ppc64le or s390x.",
        _architecture,
    ),
    Check(
        "python-missing",
        (ERROR,),
        "There is no Python 3, which Ansible needs to prepare the host.",
        "apt-get install python3, or dnf install python3.",
        _python_missing,
    ),
    Check(
        "python-old",
        (ERROR,),
        "The host's Python is too old for Ansible's modules.",
        "Install Python 3.8 or newer, or name one with ansible_python_interpreter in the inventory.",
        _python_old,
    ),
    Check(
        "cpu",
        (ERROR,),
        "A control plane has fewer than two CPUs, which kubeadm refuses.",
        "Give the machine a second CPU.",
        _cpu,
    ),
    Check(
        "memory",
        (ERROR, WARNING),
        "A control plane has less than 1700 MiB, which kubeadm refuses, or a worker less than 900 MiB.",
        "Give the machine more memory.",
        _memory,
    ),
    Check(
        "disk-space",
        (ERROR, WARNING),
        "Too little room for images, logs or etcd; below 15 % free the kubelet evicts pods.",
        "Free space or mount a larger disk there.",
        _disk,
    ),
    Check(
        "hostname-mismatch",
        (WARNING,),
        "The host's own name is not its inventory name, which becomes the name of the node.",
        "hostnamectl set-hostname NAME, or rename it in the inventory before it becomes a node.",
        _hostname,
    ),
    Check(
        "hostname-unresolved",
        (WARNING,),
        "The host's own name does not resolve on it.",
        "Add it to /etc/hosts or to DNS.",
        _hostname_unresolved,
    ),
    Check(
        "swap-on",
        (WARNING,),
        "Swap is on; the kubelet does not start with it.",
        "Nothing for a new node: preparation turns it off. On a member: swapoff -a and remove it from /etc/fstab.",
        _swap,
    ),
    Check(
        "cgroup-v1",
        (ERROR, WARNING),
        "The host uses cgroup v1: deprecated since 1.31, refused by the kubelet since 1.35.",
        "Boot with systemd.unified_cgroup_hierarchy=1, or use a newer system.",
        _cgroup,
    ),
    Check(
        "kernel-feature-missing",
        (ERROR, WARNING),
        "The kernel has no overlay, br_netfilter, nf_conntrack or packet filter, built in or as a module.",
        "Install the distribution's full kernel and its modules (linux-modules-extra, kernel-modules); reboot.",
        _kernel_feature,
    ),
    Check(
        "kernel-old",
        (ERROR, WARNING),
        "The kernel is older than kubeadm of this version wants: 3.10, since 1.32 4.19.",
        "Use a newer kernel or system.",
        _kernel_old,
    ),
    Check(
        "containerd-too-old",
        (ERROR, INFO),
        "The installed containerd is too old for this Kubernetes version.",
        "Set containerd.source: docker in cluster.yaml, or upgrade containerd on the host.",
        _containerd_old,
    ),
    Check(
        "foreign-container-runtime",
        (WARNING,),
        "Docker or CRI-O runs beside containerd; its bridge and rules may get in the way.",
        "Remove it unless it is needed.",
        _foreign_runtime,
    ),
    Check(
        "leftovers",
        (ERROR,),
        "Files of another Kubernetes cluster are on a host that is not a member; kubeadm would refuse them.",
        "Clean the host: kubeadm reset --force, then remove what is left.",
        _leftovers,
    ),
    Check(
        "cni-leftovers",
        (WARNING,),
        "/etc/cni/net.d holds a network configuration not of this cluster; the first file by name is used.",
        "Remove the files unless you put them there on purpose.",
        _cni_leftovers,
    ),
    Check(
        "firewalld-active",
        (WARNING,),
        "A host firewall is active and may drop traffic between pods, which no probe here can see.",
        "Allow the pod and service networks in it, or systemctl disable --now firewalld.",
        _firewalld,
    ),
    Check(
        "selinux-enforcing",
        (INFO,),
        "SELinux enforces; volumes and plugins need the right labels.",
        "Install container-selinux, or leave it if it is there.",
        _selinux,
    ),
    Check(
        "apparmor-parser-missing",
        (WARNING,),
        "The kernel enforces AppArmor but its parser is missing: containers run unconfined, or do not start.",
        "apt-get install apparmor.",
        _apparmor,
    ),
    Check(
        "time-service-missing",
        (WARNING,),
        "No time service is active; clocks drift apart, then certificates and leases fail.",
        "apt-get install systemd-timesyncd, or dnf install chrony.",
        _time_service,
    ),
    Check(
        "automatic-updates",
        (INFO,),
        "The system installs updates by itself; containerd may restart at any time.",
        "The Kubernetes packages are held by preparation; use kops-py patch for the rest.",
        _automatic_updates,
    ),
    Check(
        "proxy-without-exceptions",
        (WARNING,),
        "A proxy is set without no_proxy: traffic to the API, pods and services would go to the proxy.",
        "Add the node, pod and service networks and .svc to no_proxy.",
        _proxy,
    ),
)
