"""Every finding: it appears when it must, with its severity and host, and not on a healthy cluster."""

from __future__ import annotations

import dataclasses
from ipaddress import ip_network
from types import MappingProxyType
from typing import Any

import pytest

from kops_py.model.errors import (
    AuthenticationError,
    DeadlineError,
    HostKeyError,
    KopsError,
    SudoError,
    UnreachableError,
)
from kops_py.model.facts import DiskFacts, Facts, HostFacts, JobState
from kops_py.model.finding import Severity, blocking
from kops_py.model.preflight import FsyncProbe, PortProbe, ProbeResults, Reach, UrlProbe, UrlUse
from kops_py.model.spec import ContainerdSource, ContainerdSpec, Endpoint, Group
from kops_py.model.version import Version
from kops_py.runbooks.preflight import CHECKS, OTHER_IDS, kubeadm_ignores, mark_ignored
from kops_py.runbooks.preflight_check import round_below
from tests.unit.runbooks.preflight_cases import (
    GIB,
    MEMBER,
    find,
    good_probes,
    host_spec,
    make_facts,
    make_kube,
    make_spec,
)

E, W, I = Severity.ERROR, Severity.WARNING, Severity.INFO  # noqa: E741


def version(text: str, **spec: int) -> Any:
    base = make_spec(**spec)
    return dataclasses.replace(base, kubernetes=dataclasses.replace(base.kubernetes, version=Version.parse(text)))


def subnets(pods: tuple[str, ...], services: tuple[str, ...]) -> Any:
    base = make_spec()
    network = dataclasses.replace(
        base.network,
        pod_subnets=tuple(map(ip_network, pods)),
        service_subnets=tuple(map(ip_network, services)),
    )
    return dataclasses.replace(base, network=network)


def disk(path: str, free: int, size: int = 100 * GIB) -> MappingProxyType[str, DiskFacts]:
    return MappingProxyType({path: DiskFacts(path, size, free, path)})


def port(outcome: Reach, number: int = 10250) -> ProbeResults:
    return ProbeResults((PortProbe("n1", "n2", "10.0.0.12", number, outcome, "words"),))


def url(use: UrlUse, *statuses: int) -> ProbeResults:
    return ProbeResults(urls=tuple(UrlProbe("n2", use, "s", f"https://{i}", s) for i, s in enumerate(statuses)))


def job(state: JobState) -> dict[str, Any]:
    return {"jobs": MappingProxyType({"kubeadm-init": state})}


def listen(**ports: str) -> dict[str, Any]:
    return {"listening": MappingProxyType({int(k[1:]): v for k, v in ports.items()})}


S = make_spec()
CLONE = {"n1": {"machine_id": "abc"}, "n2": {"machine_id": "ABC"}}
V4 = "10.244.0.0/16"

# id, severity, node, spec, changes of the hosts, probes
POSITIVE: list[tuple[str, Severity, str, Any, dict[str, Any], ProbeResults | None]] = [
    ("unreachable", E, "n2", S, {"n2": {"problem": UnreachableError("no answer", hint="wake it")}}, None),
    ("host-key", E, "n2", S, {"n2": {"problem": HostKeyError("unknown key")}}, None),
    ("authentication", E, "n2", S, {"n2": {"problem": AuthenticationError("refused")}}, None),
    ("sudo", E, "n2", S, {"n2": {"problem": SudoError("a password is required")}}, None),
    ("sudo", E, "n2", S, {"n2": {"sudo": False}}, None),
    ("unobserved", E, "n2", S, {"n2": {"problem": DeadlineError("no end within 30 s")}}, None),
    ("os-unsupported", E, "n2", S, {"n2": {"os_id": "gentoo"}}, None),
    ("os-unsupported", E, "n2", S, {"n2": {"os_version": "10"}}, None),
    ("os-unsupported", E, "n2", S, {"n2": {"os_id": "ubuntu", "os_version": "18.04"}}, None),
    ("os-unsupported", E, "n2", S, {"n2": {"os_id": "rocky", "os_version": "7.9"}}, None),
    ("os-unsupported", W, "n2", S, {"n2": {"os_version": ""}}, None),
    ("architecture", E, "n2", S, {"n2": {"architecture": "riscv64"}}, None),
    ("python-missing", E, "n2", S, {"n2": {"python": ""}}, None),
    ("python-old", E, "n2", S, {"n2": {"python": "3.6.8"}}, None),
    ("cpu", E, "n1", S, {"n1": {"cpus": 1}}, None),
    ("memory", E, "n1", S, {"n1": {"memory_bytes": 1699 * 1024**2}}, None),
    ("memory", W, "n2", S, {"n2": {"memory_bytes": GIB // 2}}, None),
    ("disk-space", E, "n2", S, {"n2": {"disks": disk("/var/lib/containerd", 2 * GIB)}}, None),
    ("disk-space", W, "n2", S, {"n2": {"disks": disk("/var/lib/containerd", 9 * GIB)}}, None),
    ("disk-space", W, "n2", S, {"n2": {"disks": disk("/var/lib/containerd", 14 * GIB)}}, None),
    ("disk-space", E, "n1", S, {"n1": {"disks": disk("/var/lib/etcd", GIB // 2)}}, None),
    ("hostname-mismatch", W, "n2", S, {"n2": {"hostname": "localhost"}}, None),
    ("hostname-unresolved", W, "n2", S, {"n2": {"resolves_hostname": frozenset()}}, None),
    ("swap-on", W, "n2", S, {"n2": {"swap_bytes": GIB}}, None),
    ("cgroup-v1", W, "n2", S, {"n2": {"cgroup_version": 1}}, None),
    ("cgroup-v1", E, "n2", version("v1.35.0"), {"n2": {"cgroup_version": 1}}, None),
    ("kernel-feature-missing", E, "n2", S, {"n2": {"features": frozenset({"overlay", "nf_tables"})}}, None),
    (
        "kernel-feature-missing",
        W,
        "n2",
        S,
        {"n2": {"features": frozenset({"overlay", "br_netfilter", "nf_conntrack"})}},
        None,
    ),
    ("kernel-old", E, "n2", version("v1.32.0"), {"n2": {"kernel": "4.18.0-553.el8_10.x86_64"}}, None),
    ("kernel-old", W, "n2", version("v1.34.0"), {"n2": {"kernel": "4.18.0-553.el8_10.x86_64"}}, None),
    ("containerd-too-old", E, "n2", S, {"n2": {"containerd_version": "1.4.13~ds1"}}, None),
    (
        "containerd-too-old",
        I,
        "n2",
        make_spec(containerd=ContainerdSpec(ContainerdSource.DOCKER)),
        {"n2": {"containerd_version": "1.4.13"}},
        None,
    ),
    ("foreign-container-runtime", W, "n2", S, {"n2": {"runtime_sockets": frozenset({"crio"})}}, None),
    ("leftovers", E, "n2", S, {"n2": {"leftovers": frozenset({"/etc/kubernetes/pki/ca.crt"})}}, None),
    ("cni-leftovers", W, "n2", S, {"n2": {"cni_configs": frozenset({"10-calico.conflist"})}}, None),
    ("firewalld-active", W, "n2", S, {"n2": {"services": frozenset({"ufw.service", "chronyd.service"})}}, None),
    ("selinux-enforcing", I, "n2", S, {"n2": {"selinux": "enforcing"}}, None),
    ("apparmor-parser-missing", W, "n2", S, {"n2": {"apparmor": True}}, None),
    ("time-service-missing", W, "n2", S, {"n2": {"services": frozenset()}}, None),
    (
        "automatic-updates",
        I,
        "n2",
        S,
        {"n2": {"services": frozenset({"chrony.service", "apt-daily-upgrade.timer"})}},
        None,
    ),
    ("proxy-without-exceptions", W, "n2", S, {"n2": {"proxies": frozenset({"HTTPS_PROXY"})}}, None),
    ("duplicate-hostname", E, "n2", S, {"n2": {"hostname": "N1"}}, None),
    ("duplicate-machine-id", E, "n2", S, CLONE, None),
    ("duplicate-mac", E, "n2", S, {"n2": {"macs": frozenset({"02:00:00:00:00:01"})}}, None),
    (
        "duplicate-product-uuid",
        W,
        "n2",
        S,
        {"n2": {"product_uuid": "4c4c4544-0042-3510-8053-b00000000001"}},
        None,
    ),
    ("time-skew", W, "n2", S, {"n2": {"clock_offset_s": 1.2}}, None),
    ("time-skew", E, "n2", S, {"n2": {"clock_offset_s": -7200.0}}, None),
    ("even-control-planes", W, "", make_spec(control_planes=2), {}, None),
    ("job-unfinished", I, "n2", S, {"n2": job(JobState.INTERRUPTED)}, None),
    ("port-in-use", E, "n1", S, {"n1": listen(p6443="haproxy")}, None),
    ("port-in-use", E, "n2", S, {"n2": listen(p10250="")}, None),
    ("port-in-use", E, "n1", S, {"n1": {**listen(p6443="nginx"), **job(JobState.FAILED)}}, None),
    ("port-in-use", E, "n4", make_spec(balancers=1), {"n4": listen(p6443="nginx")}, None),
    ("port-unreachable", E, "n2", S, {}, port(Reach.TIMEOUT)),
    ("port-unreachable", E, "n2", S, {}, port(Reach.REFUSED)),
    ("port-unreachable", E, "n2", S, {}, port(Reach.NO_ROUTE)),
    ("port-unreachable", E, "n2", S, {}, port(Reach.ERROR)),
    ("address-missing", E, "n2", S, {"n2": {"addresses": frozenset({"10.9.0.2/24"})}}, None),
    ("address-family", E, "n2", subnets(("fd00:1::/64", V4), ("fd00:2::/108", "10.96.0.0/12")),
     {"n2": {"addresses": frozenset({"10.0.0.12/24", "fd00::2/64"})}}, None),
    ("address-family", E, "n2", subnets((V4, "fd00:1::/64"), ("10.96.0.0/12", "fd00:2::/108")), {}, None),
    ("address-family", E, "", subnets((V4, "fd00:1::/64"), ("10.96.0.0/12",)), {}, None),
    ("network-overlap", E, "", subnets((V4,), ("10.244.128.0/20",)), {}, None),
    ("network-overlap", E, "n2", subnets(("10.0.0.0/16",), ("10.96.0.0/12",)), {}, None),
    ("network-overlap", W, "n2", S, {"n2": {"routes": frozenset({"10.244.7.0/24"})}}, None),
    ("network-overlap", W, "n2", S, {"n2": {"addresses": frozenset({"10.0.0.12/9"})}}, None),
    ("network-overlap", E, "", make_spec(endpoint=Endpoint("10.96.0.9", 6443)), {}, None),
    ("endpoint-unresolved", E, "n2", S, {"n2": {"resolves_endpoint": frozenset()}}, None),
    ("endpoint-elsewhere", W, "n2", S, {"n2": {"resolves_endpoint": frozenset({"192.0.2.9"})}}, None),
    ("endpoint-elsewhere", W, "", S, {"every": {"resolves_endpoint": frozenset({"192.0.2.9"})}}, None),
    ("repository-unreachable", E, "n2", S, {}, url(UrlUse.REPOSITORY, 404)),
    ("repository-unreachable", E, "n2", S, {}, url(UrlUse.REPOSITORY, 0)),
    ("repository-unreachable", W, "n2", S, {"n2": MEMBER}, url(UrlUse.REPOSITORY, 0)),
    ("registry-unreachable", E, "n2", S, {}, url(UrlUse.REGISTRY, 0, 0)),
    ("images-missing", E, "n2", S, {}, url(UrlUse.IMAGES, 404)),
    ("images-missing", E, "", S, {}, ProbeResults(images_problem="no images.json")),
    ("disk-slow", W, "n1", S, {}, ProbeResults(fsync=(FsyncProbe("n1", "/var/lib", 100, 3.0, 11.0),))),
    ("disk-slow", W, "n1", S, {}, ProbeResults(fsync=(FsyncProbe("n1", "/var/lib", 100, 3.0, 300.0),))),
    ("disk-slow", E, "n1", S, {}, ProbeResults(fsync=(FsyncProbe("n1", "/var/lib", 20, 140.0, 300.0),))),
    ("probe-failed", W, "n2", S, {}, ProbeResults(problems={"n2": DeadlineError("no end within 30 s")})),
    ("other-cluster", E, "n3", S, {"n1": {**MEMBER, "ca_digest": "a"}, "n2": {**MEMBER, "ca_digest": "a"},
                                   "n3": {**MEMBER, "ca_digest": "b"}}, None),
]  # fmt: skip


@pytest.mark.parametrize(("name", "severity", "node", "spec", "changes", "probes"), POSITIVE)
def test_finding_appears(
    name: str, severity: Severity, node: str, spec: Any, changes: dict[str, Any], probes: ProbeResults | None
) -> None:
    found = [f for f in find(spec, make_facts(spec, **changes), probes) if f.id == name and f.node == node]
    assert [f.severity for f in found] == [severity]
    assert found[0].message
    assert found[0].hint


def test_every_check_is_shown_to_find_something() -> None:
    assert {c.id for c in CHECKS} - {p[0] for p in POSITIVE} == {"version-skew"}  # has its own test below


def test_healthy_cluster_has_no_finding() -> None:
    for spec in (make_spec(), make_spec(3, 2), make_spec(1, 0), make_spec(endpoint=Endpoint("10.0.0.11", 6443))):
        assert find(spec, make_facts(spec), good_probes(spec)) == ()


def test_running_cluster_has_no_finding() -> None:
    spec = make_spec()
    hosts = make_facts(spec, every={**MEMBER, "addresses": frozenset({"10.244.1.1/24", "10.0.0.11/24"})}).hosts
    hosts = {
        n: dataclasses.replace(f, addresses=f.addresses | {f"10.0.0.1{i}/24"})
        for i, (n, f) in enumerate(hosts.items(), 1)
    }
    assert find(spec, Facts(hosts, make_kube("n1", "n2", "n3"))) == ()
    assert find(spec, Facts(hosts)) == ()  # the API server is down for the moment


NEGATIVE: list[tuple[str, Any, dict[str, Any], ProbeResults | None]] = [
    ("os-unsupported", S, {"n2": {"os_id": "ubuntu", "os_version": "20.04"}}, None),
    ("os-unsupported", S, {"n2": {"os_id": "almalinux", "os_version": "9.4"}}, None),
    ("cpu", S, {"n2": {"cpus": 1}}, None),
    ("memory", S, {"n1": {"memory_bytes": 1700 * 1024**2}}, None),
    ("disk-space", S, {"n2": {"disks": disk("/var/lib/etcd", GIB // 2)}}, None),
    ("hostname-mismatch", S, {"n2": {"hostname": "N2"}}, None),
    ("swap-on", S, {"n2": {"swap_in_fstab": True}}, None),
    ("cgroup-v1", version("v1.30.1"), {"n2": {"cgroup_version": 1}}, None),
    ("cgroup-v1", version("v1.35.0"), {"n2": {"cgroup_version": 0}}, None),
    ("kernel-old", version("v1.31.0"), {"n2": {"kernel": "4.18.0-553.el8_10.x86_64"}}, None),
    ("kernel-old", S, {"n2": {"kernel": "weird"}}, None),
    ("containerd-too-old", S, {"n2": {"containerd_version": "1.6.20~ds1"}}, None),
    ("containerd-too-old", S, {"n2": {"containerd_version": "2.0.0"}}, None),
    ("foreign-container-runtime", S, {"n2": {"runtime_sockets": frozenset({"containerd"})}}, None),
    ("leftovers", S, {"n2": {"leftovers": frozenset({"/var/lib/etcd/member"}), **job(JobState.FAILED)}}, None),
    ("cni-leftovers", S, {"n2": {"cni_configs": frozenset({"87-podman-bridge.conflist", ".kubernetes"})}}, None),
    ("duplicate-product-uuid", S, {"every": {"product_uuid": "00000000-0000-0000-0000-000000000000"}}, None),
    ("duplicate-machine-id", S, {"every": {"machine_id": ""}}, None),
    ("time-skew", S, {"n2": {"clock_offset_s": 0.9}}, None),
    ("time-skew", S, {"n2": {"clock_offset_s": 3.0, "clock_uncertainty_s": 2.5}}, None),
    ("time-skew", S, {"every": {"clock_offset_s": 900.0}}, None),
    ("even-control-planes", make_spec(control_planes=3), {}, None),
    ("port-in-use", S, {"n2": listen(p6443="haproxy")}, None),
    ("port-in-use", S, {"n1": {**listen(p6443="kube-apiserver"), **job(JobState.FAILED)}}, None),
    ("port-in-use", S, {"n1": {**listen(p10257="kube-controller"), **job(JobState.RUNNING)}}, None),
    ("port-in-use", make_spec(balancers=1), {"n4": listen(p6443="haproxy")}, None),
    ("port-unreachable", S, {}, port(Reach.OPEN)),
    ("port-unreachable", S, {"n2": listen(p10250="nginx")}, port(Reach.REFUSED)),
    ("network-overlap", S, {"n2": {**MEMBER, "routes": frozenset({"10.244.7.0/24"})}}, None),
    ("endpoint-unresolved", make_spec(endpoint=Endpoint("10.0.0.11", 6443)),
     {"n2": {"resolves_endpoint": frozenset()}}, None),
    ("endpoint-elsewhere", make_spec(endpoint_external=True),
     {"every": {"resolves_endpoint": frozenset({"192.0.2.9"})}}, None),
    ("registry-unreachable", S, {}, url(UrlUse.REGISTRY, 0, 401)),
    ("repository-unreachable", S, {}, url(UrlUse.REPOSITORY, 302)),
    ("disk-slow", S, {}, ProbeResults(fsync=(FsyncProbe("n1", "/var/lib", 100, 3.0, 9.9),))),
    ("apparmor-parser-missing", S, {"n2": {"apparmor": True, "has_apparmor_parser": True}}, None),
    ("proxy-without-exceptions", S, {"n2": {"proxies": frozenset({"https_proxy", "no_proxy"})}}, None),
]  # fmt: skip


@pytest.mark.parametrize(("name", "spec", "changes", "probes"), NEGATIVE)
def test_finding_does_not_appear(name: str, spec: Any, changes: dict[str, Any], probes: ProbeResults | None) -> None:
    assert [f for f in find(spec, make_facts(spec, **changes), probes) if f.id == name] == []


@pytest.mark.parametrize(
    ("name", "first", "second", "message"),
    [
        (
            "time-skew",
            {"n2": {"clock_offset_s": 7.31}, "n3": {"clock_offset_s": 0.01}},
            {"n2": {"clock_offset_s": 7.34}, "n1": {"clock_offset_s": 0.02}},
            "its clock is more than 5 s ahead of those of most hosts",
        ),
        (
            "disk-space",
            {"n2": {"disks": disk("/var/lib/containerd", 2 * GIB + 5)}},
            {"n2": {"disks": disk("/var/lib/containerd", 2 * GIB + 500 * 1024**2)}},
            "less than 3 GiB of 100.0 GiB free for /var/lib/containerd",
        ),
        (
            "disk-space",
            {"n2": {"disks": disk("/etc", 21 * 1024**2)}},
            {"n2": {"disks": disk("/etc", 28 * 1024**2)}},
            "less than 30 MiB of 100.0 GiB free for /etc",
        ),
    ],
)
def test_measures_that_change_all_the_time_read_the_same(
    name: str, first: dict[str, Any], second: dict[str, Any], message: str
) -> None:
    spec = make_spec(workers=2)
    for changes in (first, second):
        assert [f.message for f in find(spec, make_facts(spec, **changes)) if f.id == name] == [message]


def test_the_speed_of_a_disk_is_told_in_round_numbers() -> None:
    def said(p50_ms: float, p99_ms: float) -> str:
        probes = ProbeResults(fsync=(FsyncProbe("n1", "/var/lib", 100, p50_ms, p99_ms),))
        return next(f.message for f in find(S, make_facts(S), probes) if f.id == "disk-slow")

    assert said(3.1, 61.0) == said(4.8, 93.7)
    assert said(3.1, 61.0) == "one synced write in a hundred in /var/lib takes over 50 ms, half of them over 2 ms"
    assert said(0.4, 12.0) == "one synced write in a hundred in /var/lib takes over 10 ms"


@pytest.mark.parametrize(
    ("value", "rounded"),
    [(0.99, 0), (1.0, 1), (4.99, 2), (5, 5), (99.9, 50), (1e300, 5 * 10**9), (float("inf"), 5 * 10**9)],
)
def test_round_numbers(value: float, rounded: int) -> None:
    assert round_below(value) == rounded


def test_a_host_that_cannot_be_asked_has_exactly_one_finding() -> None:
    problems: list[KopsError] = [UnreachableError("x"), SudoError("x"), DeadlineError("x")]
    for problem in problems:
        hosts = {**make_facts(S).hosts, "n2": HostFacts("n2", problem=problem)}
        facts = Facts(hosts, make_kube("n1", kubelet="v1.40.1"))
        probes = ProbeResults(
            (PortProbe("n1", "n2", "10.0.0.12", 10250, Reach.TIMEOUT),), problems={"n2": DeadlineError("x")}
        )
        assert len([f for f in find(S, facts, probes) if f.node == "n2"]) == 1


def test_members_only_get_the_checks_that_make_sense_for_them() -> None:
    changes = {**MEMBER, "cpus": 1, "memory_bytes": GIB, "features": frozenset(), "disks": disk("/var", GIB // 2)}
    found = find(S, Facts(make_facts(S, n1=changes).hosts, make_kube("n1", "n2", "n3")))
    assert [(f.id, f.severity) for f in found if f.node == "n1"] == [("disk-space", W)]


def test_host_that_the_running_cluster_does_not_know_but_has_kubelet_conf_is_a_leftover() -> None:
    foreign = {k: v for k, v in MEMBER.items() if k != "jobs"}
    found = find(S, Facts(make_facts(S, n3=foreign).hosts, make_kube("n1", "n2")))
    ids = {f.id: f for f in found if f.node == "n3"}
    assert set(ids) == {"leftovers", "port-in-use"}
    assert "kubeadm reset" in ids["leftovers"].hint


@pytest.mark.parametrize(
    ("kubelet", "server", "found"),
    [
        ("v1.32.0", "v1.31.2", True),
        ("v1.31.9", "v1.31.2", False),
        ("v1.28.0", "v1.31.2", False),
        ("v1.27.0", "v1.31.2", True),
        ("v1.24.0", "v1.27.0", True),
        ("v1.24.0", "v1.26.0", False),
        ("nonsense", "v1.26.0", False),
    ],
)
def test_version_skew(kubelet: str, server: str, found: bool) -> None:
    kube = make_kube("n2", version=server, kubelet=kubelet)
    got = [f for f in find(S, Facts(make_facts(S, n2=MEMBER).hosts, kube)) if f.id == "version-skew"]
    assert [f.severity for f in got] == ([E] if found else [])


def test_external_etcd_members_keep_their_data_and_ports() -> None:
    hosts = (host_spec("n1", 1, Group.CONTROL_PLANE), host_spec("e1", 2, Group.ETCD))
    spec = make_spec(hosts=hosts, external_etcd=True)
    changes = {"leftovers": frozenset({"/var/lib/etcd/member"}), **listen(p2379="etcd", p2380="etcd")}
    assert find(spec, make_facts(spec, e1=changes)) == ()


def test_unreachable_ports_are_told_once_per_target_with_their_sources() -> None:
    dropped = [PortProbe(s, "n2", "10.0.0.12", 10250, Reach.TIMEOUT) for s in ("n3", "n1")]
    probes = ProbeResults((*dropped, PortProbe("n1", "n2", "10.0.0.12", 6443, Reach.REFUSED)))
    messages = [f.message for f in find(S, make_facts(S), probes)]
    assert len(messages) == 2
    assert messages[0].startswith("n1, n3 → 10.0.0.12:10250: no answer")
    assert "refused" in messages[1]


def test_what_is_wrong_outside_the_limit_does_not_stop() -> None:
    spec = make_spec(limit=frozenset({"n1"}))
    facts = make_facts(spec, n1={"cpus": 1}, n2={"problem": UnreachableError("x")}, n3={"python": ""})
    assert [(f.id, f.node) for f in blocking(find(spec, facts))] == [("cpu", "n1")]
    assert {(f.id, f.node) for f in find(spec, facts) if f.severity is W} == {
        ("unreachable", "n2"),
        ("python-missing", "n3"),
    }


def test_ignored_findings_are_shown_and_do_not_block() -> None:
    facts = make_facts(S, every={"swap_bytes": GIB}, n1={"cpus": 1})
    found = find(S, facts, ignore=frozenset({"cpu", "swap-on@n2"}))
    assert {(f.id, f.node, f.ignored) for f in found} == {
        ("cpu", "n1", True),
        ("swap-on", "n1", False),
        ("swap-on", "n2", True),
        ("swap-on", "n3", False),
    }
    assert blocking(found) == ()


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ("swapon", "did you mean 'swap-on'"),
        ("xyzzy", "there is no finding 'xyzzy'"),
        ("swap-on@n9", "there is no host 'n9' in the inventory"),
        ("@n1", "there is no finding ''"),
    ],
)
def test_unknown_ignore_is_refused(entry: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        find(S, make_facts(S), ignore=frozenset({entry}))


def test_findings_of_other_runbooks_may_be_ignored() -> None:
    assert find(S, make_facts(S), ignore=OTHER_IDS) == ()
    finding = next(iter(find(S, make_facts(S, n1={"cpus": 1}))))
    assert mark_ignored([finding], {"cpu@n1"})[0].ignored
    assert not mark_ignored([finding], {"cpu@n2"})[0].ignored


def test_what_is_ignored_here_is_ignored_in_kubeadm() -> None:
    assert kubeadm_ignores({"cpu", "cgroup-v1@n2", "kernel-old", "leftovers"}) == ("NumCPU", "SystemVerification")


def test_errors_come_first_and_findings_are_reproducible() -> None:
    facts = make_facts(S, every={"swap_bytes": GIB, "selinux": "enforcing", "machine_id": "a"})
    found = find(S, facts)
    assert found == find(S, facts)
    assert [f.severity for f in found] == sorted((f.severity for f in found), key=[E, W, I].index)


def test_check_ids_are_unique_and_described() -> None:
    ids = [c.id for c in CHECKS]
    assert len(ids) == len(set(ids))
    assert not OTHER_IDS & set(ids)
    for check in CHECKS:
        assert check.severities
        assert check.meaning.endswith(".")
        assert check.remedy.endswith(".")
