"""Preflight against booted systems: healthy ones, and one fault at a time."""

from __future__ import annotations

import dataclasses
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kops_py.connect.ssh import SshFleet
from kops_py.model.errors import SudoError, UnreachableError
from kops_py.model.facts import Facts, JobState
from kops_py.model.finding import Finding, Severity, blocking
from kops_py.model.preflight import Reach
from kops_py.model.spec import ClusterSpec
from kops_py.observe.host import observe_hosts
from kops_py.observe.host_probes import run_probes
from kops_py.observe.network import LIFETIME_S, probe_network
from kops_py.runbooks.preflight import preflight
from tests.integration.preflight.conftest import Bed
from tests.lab import Node
from tests.lab.config import SUDO_PASSWORD, USER_WITH_PASSWORD, USER_WITHOUT_SUDO

pytestmark = pytest.mark.lab

ROOT = Path(__file__).resolve().parents[3]
# The probes leave directory entries of these alone; they change by themselves on a running system.
RESTLESS = r"^/(proc|sys|dev|run|var/log|var/lib/systemd|tmp/systemd-private|root|var/tmp/systemd-private)"


def wait_for(condition: Callable[[], bool], what: str, timeout_s: float = 30.0) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, f"waited {timeout_s} s for {what}"
        time.sleep(0.2)


@contextmanager
def rule(node: Node, *rules: str) -> Iterator[None]:
    """Packet filter rules on a node for a while."""
    for text in rules:
        node.exec(f"iptables -w -I INPUT {text}")
    try:
        yield
    finally:
        for text in rules:
            node.exec(f"iptables -w -D INPUT {text}")


@contextmanager
def as_user(bed: Bed, name: str, user: str) -> Iterator[tuple[SshFleet, ClusterSpec]]:
    """Connections where one host is logged in to as another user."""
    hosts = tuple(dataclasses.replace(h, user=user) if h.name == name else h for h in bed.spec.hosts)
    fleet = SshFleet(
        hosts,
        settings=bed.spec.ssh,
        become_password=lambda: SUDO_PASSWORD,
        known_hosts=bed.lab.known_hosts,
        ssh_config=Path(os.devnull),
    )
    try:
        yield fleet, dataclasses.replace(bed.spec, hosts=hosts)
    finally:
        fleet.close()


def of(findings: tuple[Finding, ...], name: str) -> list[Finding]:
    return [f for f in findings if f.id == name]


def processes(node: Node) -> str:
    return node.exec("ps -eo args").stdout


def files(node: Node) -> set[str]:
    command = "find / -xdev -printf '%p %T@ %s\n' 2>/dev/null; find /var/lib/etcd /var/lib/containerd"
    return {line for line in node.exec(command).stdout.splitlines() if not re.match(RESTLESS, line)}


def test_healthy_systems_have_no_errors_within_the_time_goal(bed: Bed) -> None:
    began = time.monotonic()
    findings = bed.findings()
    took_s = time.monotonic() - began
    assert blocking(findings) == ()
    assert {f.id for f in findings} <= {"cgroup-v1", "time-service-missing", "disk-slow", "disk-space"}
    assert took_s < 8


def test_facts_are_those_of_the_system(bed: Bed) -> None:
    node = bed.nodes["n1"]
    node.exec("mkdir -p /etc/kops-py; cd /; for j in done lost busy; do mkdir -p var/lib/kops-py/jobs/$j; done")
    node.exec('echo 0 >/var/lib/kops-py/jobs/done/rc; echo \'{"digest": "abc"}\' >/etc/kops-py/prepared.json')
    node.exec("systemd-run --unit kops-py-busy sleep 60")
    try:
        facts = bed.hosts()["n1"]
    finally:
        node.exec("systemctl stop kops-py-busy; rm -rf /etc/kops-py /var/lib/kops-py")
    assert facts.problem is None
    assert (facts.os_id, facts.os_version, facts.sudo, facts.hostname) == ("debian", "12", True, "n1")
    assert facts.boot_id == node.boot_id()
    assert facts.machine_id == node.exec("cat /etc/machine-id").stdout.strip()
    assert any(a.startswith(f"{node.ip}/") for a in facts.addresses)
    assert facts.macs == {node.exec(f"cat /sys/class/net/{_link(node)}/address").stdout.strip()}
    assert facts.listening[22] == "sshd"
    assert facts.features >= {"overlay", "br_netfilter", "nf_conntrack"}
    assert facts.sysctls["net.ipv4.ip_forward"] == node.exec("cat /proc/sys/net/ipv4/ip_forward").stdout.strip()
    assert facts.prepared_digest == "abc"
    assert facts.jobs == {"done": JobState.SUCCEEDED, "lost": JobState.INTERRUPTED, "busy": JobState.RUNNING}


def _link(node: Node) -> str:
    return node.exec(f"ip -o -4 addr show | grep -F ' {node.ip}/'").stdout.split()[1]


def test_clocks_of_one_machine_do_not_differ_beyond_their_uncertainty(bed: Bed) -> None:
    hosts = bed.hosts()
    for facts in hosts.values():
        assert abs(facts.clock_offset_s) <= facts.clock_uncertainty_s + 0.01
        assert facts.clock_uncertainty_s < 5


def test_nothing_is_left_behind(bed: Bed) -> None:
    bed.findings()
    before = {name: files(node) for name, node in bed.nodes.items()}
    bed.findings()
    for name, node in bed.nodes.items():
        assert files(node) == before[name]
        assert "kops-py" not in processes(node)
        assert set(re.findall(r":(\d+) ", node.exec("ss -Hltn").stdout)) == {"22"}


def test_listeners_end_by_themselves_when_kops_py_is_killed(bed: Bed) -> None:
    program = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from kops_py.connect.ssh import SshFleet\n"
        "from kops_py.observe import network\n"
        "from kops_py.observe.host import observe_hosts\n"
        "from tests.integration.preflight.conftest import make_spec\n"
        "from tests.lab import Lab\n"
        "lab = Lab(sys.argv[1])\n"
        "addresses = dict(pair.split('=') for pair in sys.argv[2:])\n"
        "spec = make_spec(lab, addresses, repository='http://127.0.0.1:1')\n"
        "known, none = lab.known_hosts, Path(os.devnull)\n"
        "fleet = SshFleet(spec.hosts, settings=spec.ssh, known_hosts=known, ssh_config=none)\n"
        "network._Probing.connect = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "network.probe_network(fleet, spec, observe_hosts(fleet, spec))\n"
    )
    pairs = [f"{name}={node.ip}" for name, node in bed.nodes.items()]
    command = [sys.executable, "-c", program, bed.lab.name, *pairs]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, timeout=60)
    assert done.returncode == -signal.SIGKILL
    assert any("kops-py-probe" in processes(node) for node in bed.nodes.values())

    def gone() -> bool:
        return not any("kops-py-probe" in processes(node) for node in bed.nodes.values())

    wait_for(gone, "the listeners to end", LIFETIME_S + 5)


@pytest.mark.parametrize(
    ("action", "outcomes", "words"),
    [
        ("DROP", {Reach.TIMEOUT}, "no answer"),
        ("REJECT --reject-with tcp-reset", {Reach.REFUSED}, "refused"),
        ("REJECT --reject-with icmp-host-prohibited", {Reach.NO_ROUTE}, "no route"),
    ],
)
def test_firewall_between_two_nodes(bed: Bed, action: str, outcomes: set[Reach], words: str) -> None:
    source = bed.nodes["n2"].ip
    with rule(bed.nodes["n1"], f"-p tcp -s {source} --dport 6443 -j {action}"):
        hosts = bed.hosts()
        probes = bed.probes(hosts)
        bad = [p for p in probes.ports if p.outcome is not Reach.OPEN]
        assert [(p.source, p.target, p.port) for p in bad] == [("n2", "n1", 6443)]
        assert {p.outcome for p in bad} == outcomes
        (finding,) = blocking(preflight(bed.spec, Facts(hosts), probes))
    assert (finding.id, finding.node) == ("port-unreachable", "n1")
    assert f"n2 → {bed.nodes['n1'].ip}:6443: {words}" in finding.message


def test_without_python_on_the_source_bash_tries(bed: Bed) -> None:
    hosts = dict(bed.hosts())
    hosts["n2"] = dataclasses.replace(hosts["n2"], python="", python_path="")
    with rule(
        bed.nodes["n1"],
        f"-p tcp -s {bed.nodes['n2'].ip} --dport 6443 -j DROP",
        f"-p tcp -s {bed.nodes['n2'].ip} --dport 10250 -j REJECT --reject-with tcp-reset",
    ):
        probes, problems = probe_network(bed.fleet, bed.spec, hosts)
    assert problems == {}
    found = {(p.target, p.port): p.outcome for p in probes if p.source == "n2"}
    assert found == {("n1", 6443): Reach.TIMEOUT, ("n1", 10250): Reach.REFUSED, ("n3", 10250): Reach.OPEN}


def test_occupied_port(bed: Bed) -> None:
    node = bed.nodes["n1"]
    node.exec("systemd-run --unit squatter python3 -m http.server 6443")
    try:
        wait_for(lambda: ":6443 " in node.exec("ss -Hltn").stdout, "the port to be taken")
        found = blocking(bed.findings())
    finally:
        node.exec("systemctl stop squatter")
    assert [(f.id, f.node) for f in found] == [("port-in-use", "n1")]
    assert "python3" in found[0].message


def test_clone_and_leftovers(bed: Bed) -> None:
    one, two = bed.nodes["n2"], bed.nodes["n3"]
    own = two.exec("cat /etc/machine-id").stdout.strip()
    other = one.exec("cat /etc/machine-id").stdout.strip()
    two.exec(f"echo {other} >/etc/machine-id; mkdir -p /etc/kubernetes/pki /var/lib/etcd/member")
    two.exec("touch /etc/kubernetes/pki/ca.crt")
    try:
        found = blocking(bed.findings())
    finally:
        two.exec(f"echo {own} >/etc/machine-id; rm -rf /etc/kubernetes /var/lib/etcd/member")
    assert {(f.id, f.node) for f in found} == {("duplicate-machine-id", "n3"), ("leftovers", "n3")}
    hint = next(f.hint for f in found if f.id == "leftovers")
    assert "kubeadm reset" in hint


def test_repository_that_is_not_there(bed: Bed) -> None:
    kubernetes = dataclasses.replace(bed.spec.kubernetes, repository=bed.spec.kubernetes.repository + "/nowhere")
    spec = dataclasses.replace(bed.spec, kubernetes=kubernetes)
    hosts = bed.hosts()
    probes = Bed(bed.lab, spec, bed.fleet).probes(hosts)
    found = of(preflight(spec, Facts(hosts), probes), "repository-unreachable")
    assert {f.node for f in found} == {"n1", "n2", "n3"}
    assert all("HTTP 404" in f.message for f in found)


def test_name_that_does_not_resolve(bed: Bed) -> None:
    endpoint = dataclasses.replace(bed.spec.endpoint, host="api.invalid")
    spec = dataclasses.replace(bed.spec, endpoint=endpoint)
    found = of(preflight(spec, Facts(observe_hosts(bed.fleet, spec))), "endpoint-unresolved")
    assert {f.node for f in found} == {"n1", "n2", "n3"}


def test_login_without_sudo(bed: Bed) -> None:
    with as_user(bed, "n2", USER_WITHOUT_SUDO) as (fleet, spec):
        facts = observe_hosts(fleet, spec)
    assert isinstance(facts["n2"].problem, SudoError)
    assert [f.id for f in preflight(spec, Facts(facts)) if f.node == "n2"] == ["sudo"]


def test_sudo_with_a_password_and_on_a_terminal_of_its_own(bed: Bed) -> None:
    node = bed.nodes["n2"]
    node.exec("echo 'Defaults use_pty' >/etc/sudoers.d/zz-pty")
    try:
        with as_user(bed, "n2", USER_WITH_PASSWORD) as (fleet, spec):
            hosts = observe_hosts(fleet, spec)
            probes = run_probes(fleet, spec, hosts)
    finally:
        node.exec("rm /etc/sudoers.d/zz-pty")
    assert hosts["n2"].problem is None
    assert hosts["n2"].sudo
    assert probes.problems == {}
    assert {(p.source, p.target) for p in probes.ports if p.port == 10250} == {
        (a, b) for a in ("n1", "n2", "n3") for b in ("n1", "n2", "n3") if a != b
    }
    assert blocking(preflight(spec, Facts(hosts), probes)) == ()
    assert "kops-py" not in processes(node)


@pytest.mark.parametrize("fault", ["cut", "drop"])
def test_unreachable_host_is_decided_within_fifteen_seconds(bed: Bed, fault: str) -> None:
    node = bed.nodes["n3"]
    getattr(node, fault)()
    try:
        fleet = SshFleet(
            bed.spec.hosts, settings=bed.spec.ssh, known_hosts=bed.lab.known_hosts, ssh_config=Path(os.devnull)
        )
        began = time.monotonic()
        try:
            facts = observe_hosts(fleet, bed.spec)
        finally:
            took_s = time.monotonic() - began
            fleet.close()
    finally:
        getattr(node, {"cut": "heal", "drop": "undrop"}[fault])()
        node.wait_ready()
        bed.fleet.close_host("n3")
    assert isinstance(facts["n3"].problem, UnreachableError)
    assert facts["n1"].reachable
    assert took_s < 16.5
    found = [f for f in preflight(bed.spec, Facts(facts)) if f.node == "n3"]
    assert [(f.id, f.severity) for f in found] == [("unreachable", Severity.ERROR)]
