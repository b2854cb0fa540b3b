"""The rules for single versions: what is in the way, and what is not."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Any

import pytest

from kops_py.model.facts import DiskFacts, HostFacts, NodeFacts
from kops_py.model.finding import Finding, Severity
from kops_py.model.status import Certificate, EtcdMember
from kops_py.model.upgrade import UpgradeFacts
from kops_py.model.version import NEWEST_MINOR, OLDEST_MINOR, TABLE, Version
from kops_py.runbooks.upgrade_rules import version_findings

NOW = datetime(2026, 1, 1, tzinfo=UTC)
THREE = frozenset({"cp1", "cp2", "cp3"})
MIB = 1024**2
ENV = "/var/lib/kubelet/kubeadm-flags.env"


def a_host(name: str = "cp1", **fields: Any) -> dict[str, HostFacts]:
    return {name: HostFacts(name, **fields)}


def a_node(name: str = "cp1", runtime: str = "containerd://2.2.0", version: str = "") -> dict[str, NodeFacts]:
    return {name: NodeFacts(name, ready=True, reason="", version=version, internal_ip="", container_runtime=runtime)}


def member(name: str, version: str = "3.5.24", **fields: Any) -> EtcdMember:
    return EtcdMember(name, 1, "https://x", **{"healthy": True, "version": version, **fields})


def find(current: str, *path: str, **fields: Any) -> list[Finding]:
    way = [Version.parse(p) for p in path]
    return list(version_findings(Version.parse(current), way, UpgradeFacts(NOW, **fields)))


def told(found: list[Finding]) -> list[tuple[str, str]]:
    return [(f.id, str(f.severity)) for f in found]


def test_nothing_observed_nothing_told() -> None:
    for minor in range(OLDEST_MINOR, NEWEST_MINOR):
        assert find(f"v1.{minor}.1", f"v1.{minor + 1}.0") == []
    with pytest.raises(ValueError, match="not supported"):
        find("v1.30.0")
    with pytest.raises(ValueError, match="not supported"):
        find("v1.30.0", "v1.99.0")


def test_cgroup_v1() -> None:
    old = {"hosts": a_host(cgroup_version=1), "nodes": a_node()}
    assert told(find("v1.34.1", "v1.35.0", **old)) == [("upgrade-cgroup-v1", "error")]
    assert told(find("v1.33.1", "v1.34.0", "v1.35.0", **old)) == [("upgrade-cgroup-v1", "error")]
    assert told(find("v1.34.1", "v1.35.0", **old, fail_cgroup_v1=False)) == [("upgrade-cgroup-v1", "warning")]
    assert told(find("v1.34.1", "v1.35.0", **old, fail_cgroup_v1=True)) == [("upgrade-cgroup-v1", "error")]
    assert find("v1.33.1", "v1.34.0", **old) == []
    assert find("v1.34.1", "v1.35.0", hosts=a_host(cgroup_version=2), nodes=a_node()) == []
    assert find("v1.34.1", "v1.35.0", **old, left_behind=frozenset({"cp1"})) == []


@pytest.mark.parametrize(
    ("api", "current", "target", "fits"),
    [
        ("v1beta2", "v1.25.0", "v1.26.0", True),
        ("v1beta2", "v1.26.0", "v1.27.0", False),
        ("v1beta3", "v1.35.0", "v1.36.0", True),
        ("v1beta3", "v1.36.0", "v1.37.0", False),
        ("v1beta4", "v1.36.0", "v1.37.0", True),
        ("v1beta1", "v1.21.0", "v1.22.0", False),
    ],
)
def test_kubeadm_api(api: str, current: str, target: str, fits: bool) -> None:
    found = find(current, target, kubeadm_documents={"ConfigMap kubeadm-config": f"kubeadm.k8s.io/{api}"})
    assert (found == []) is fits
    assert all(f.id == "kubeadm-api-removed" and "ConfigMap kubeadm-config" in f.message for f in found)


def test_a_configuration_that_could_not_be_read_is_not_judged() -> None:
    assert find("v1.36.0", "v1.37.0", kubeadm_documents={"ConfigMap kubeadm-config": ""}) == []


def test_many_hosts_share_a_line() -> None:
    names = [f"w{n:03}" for n in range(100)]
    hosts = {n: HostFacts(n, cgroup_version=1) for n in names}
    found = find("v1.34.0", "v1.35.0", hosts=hosts, nodes={n: a_node(n)[n] for n in names})
    assert len(found) == 26
    assert found[-1].severity is Severity.ERROR
    assert found[-1].message == "the same holds for 75 more: w025, w026, w027, w028, w029 and 70 more"


def test_every_stored_api_is_read_by_the_next_minor() -> None:
    for minor in range(OLDEST_MINOR, NEWEST_MINOR):
        assert TABLE[minor].kubeadm_api in TABLE[minor + 1].readable_kubeadm_apis
        assert TABLE[minor].kubeadm_api in TABLE[minor].readable_kubeadm_apis


@pytest.mark.parametrize(
    ("version", "current", "target", "severity"),
    [
        ("3.5.21", "v1.33.0", "v1.34.0", "error"),
        ("3.5.24", "v1.33.0", "v1.34.0", "warning"),
        ("3.5.32", "v1.33.0", "v1.34.0", ""),
        ("3.6.4", "v1.34.0", "v1.34.1", ""),
        ("3.5.21", "v1.32.0", "v1.33.0", ""),
        ("3.6.8", "v1.36.0", "v1.37.0", "error"),
        ("3.6.11", "v1.36.0", "v1.37.0", ""),
    ],
)
def test_etcd_floors(version: str, current: str, target: str, severity: str) -> None:
    names = ("cp1", "cp2", "cp3")
    members = (member("cp1", version), *(member(n, "3.7.0") for n in names[1:]))
    found = find(current, target, etcd_members=members, etcd_expected=frozenset(names))
    assert told(found) == ([("etcd-too-old", severity)] if severity else [])


def test_etcd_floors_on_a_long_way_reckon_with_what_kubeadm_ships() -> None:
    members = tuple(member(n, "3.5.16") for n in sorted(THREE))
    (found,) = find("v1.32.0", "v1.33.9", "v1.34.0", etcd_members=members, etcd_expected=THREE)
    assert "etcd 3.5.21 on cp1, cp2, cp3: before v1.34.0, 3.5.24 is needed" in found.message


def test_etcd_that_kubeadm_does_not_run() -> None:
    assert told(find("v1.30.0", "v1.31.0", etcd_members=(member("e1", "3.5.10"),))) == [("etcd-too-old", "error")]
    assert find("v1.29.0", "v1.30.0", etcd_members=(member("e1", "3.5.10"),)) == []
    assert find("v1.33.0", "v1.34.0", etcd_members=(member("e1", "3.5.21"),)) == []


def test_etcd_flags() -> None:
    flags = frozenset({"experimental-watch-progress-notify-interval", "quota-backend-bytes"})
    (found,) = find("v1.36.0", "v1.37.0", etcd_flags=flags)
    assert found.id == "etcd-flag-removed"
    assert "--experimental-watch" in found.message
    assert "quota" not in found.message
    assert find("v1.35.0", "v1.36.0", etcd_flags=flags) == []


def test_etcd_members_must_all_be_there() -> None:
    good = tuple(member(n) for n in sorted(THREE))
    assert find("v1.30.0", "v1.31.0", etcd_expected=THREE, etcd_members=good) == []
    found = find("v1.30.0", "v1.31.0", etcd_expected=THREE, etcd_members=good[:2])
    assert told(found) == [("etcd-members", "error")]
    assert (found[0].node, "wants every member" in found[0].message) == ("cp3", True)
    sick = (*good[:2], member("cp3", healthy=False, problem="no leader"))
    assert "no leader" in find("v1.30.0", "v1.31.0", etcd_expected=THREE, etcd_members=sick)[0].message
    learner = (*good[:2], member("cp3", is_learner=True))
    assert told(find("v1.30.0", "v1.31.0", etcd_expected=THREE, etcd_members=learner)) == [("etcd-members", "error")]


def test_quorum_has_to_survive_one_more_where_kubeadm_is_content_with_it() -> None:
    newer = tuple(member(n, "3.7.0") for n in ("cp1", "cp2", "cp3", "cp4", "cp5"))
    three, five = THREE, THREE | {"cp4", "cp5"}
    path = ("v1.37.0", "v1.37.1")
    assert told(find(*path, etcd_expected=three, etcd_members=newer[:2])) == [("etcd-members", "error")]
    assert find(*path, etcd_expected=five, etcd_members=newer[:4]) == []


def test_quorum_that_is_lost_already() -> None:
    two = frozenset({"cp1", "cp2"})
    sick = (member("cp1", "3.7.0"), member("cp2", "3.7.0", healthy=False))
    (found,) = find("v1.37.0", "v1.37.1", etcd_expected=two, etcd_members=sick)
    assert (found.id, found.node, found.severity) == ("etcd-members", "cp2", Severity.ERROR)
    both = tuple(member(n, "3.7.0") for n in sorted(two))
    assert told(find("v1.37.0", "v1.37.1", etcd_expected=two, etcd_members=both)) == [("etcd-no-tolerance", "info")]


def test_addons_that_somebody_changed() -> None:
    change = "Deployment coredns: spec.template.spec.tolerations, written by kubectl-edit"
    (found,) = find("v1.30.0", "v1.30.1", addon_changes=(change,))
    assert (found.id, found.severity, found.message) == ("addon-customised", Severity.WARNING, change)


def test_one_member_and_alarms() -> None:
    found = find("v1.30.0", "v1.31.0", etcd_expected=frozenset({"cp1"}), etcd_members=(member("cp1"),))
    assert told(found) == [("etcd-no-tolerance", "info")]
    assert told(find("v1.30.0", "v1.31.0", etcd_alarms=("cp1: NOSPACE",))) == [("etcd-alarm", "error")]


@pytest.mark.parametrize(
    ("free_mib", "path", "severity"),
    [
        (99, ["v1.31.0"], "error"),
        (100, ["v1.31.0"], "warning"),
        (111, ["v1.31.0"], ""),
        (199, ["v1.31.0", "v1.32.0"], "error"),
        (225, ["v1.31.0", "v1.32.0"], ""),
        (99, ["v1.30.9"], "error"),
    ],
)
def test_room_for_kubeadms_own_copies(free_mib: int, path: list[str], severity: str) -> None:
    disks = MappingProxyType({"/etc": DiskFacts("/etc", 10**12, free_mib * MIB, "/")})
    hosts = a_host(disks=disks, etcd_data_bytes=100 * MIB)
    fields: dict[str, Any] = {"etcd_expected": frozenset({"cp1"}), "etcd_members": (member("cp1"),)}
    found = [f for f in find("v1.30.0", *path, hosts=hosts, **fields) if f.id == "etcd-copy-space"]
    assert [str(f.severity) for f in found] == ([severity] if severity else [])
    assert all(f.id != "etcd-copy-space" for f in find("v1.30.0", *path, hosts=hosts))  # a worker


@pytest.mark.parametrize(
    ("flag", "file", "current", "path", "severity"),
    [
        ("network-plugin", ENV, "v1.23.1", ["v1.24.0"], "error"),
        ("network-plugin", ENV, "v1.22.1", ["v1.23.0"], ""),
        ("pod-infra-container-image", ENV, "v1.34.0", ["v1.35.0"], "info"),
        ("pod-infra-container-image", "/etc/default/kubelet", "v1.34.0", ["v1.35.0"], "error"),
        ("pod-infra-container-image", f"{ENV}, /etc/default/kubelet", "v1.34.0", ["v1.35.0"], "error"),
        ("container-runtime", ENV, "v1.25.0", ["v1.26.0", "v1.27.0"], "info"),
        ("container-runtime", ENV, "v1.26.0", ["v1.27.0"], "error"),
        ("containerd", "/etc/sysconfig/kubelet", "v1.36.0", ["v1.37.0"], "error"),
        ("node-ip", ENV, "v1.34.0", ["v1.35.0", "v1.36.0", "v1.37.0"], ""),
        ("cloud-config", ENV, "v1.34.0", ["v1.34.9"], ""),
    ],
)
def test_kubelet_flags(flag: str, file: str, current: str, path: list[str], severity: str) -> None:
    found = find(current, *path, hosts=a_host("w1", kubelet_flags={flag: file}))
    assert told(found) == ([("kubelet-flag-removed", severity)] if severity else [])
    assert all(f"--{flag}" in f.message and f.node == "w1" for f in found)


def test_dockershim_and_old_containerd() -> None:
    docker = a_node(runtime="docker://20.10.7")
    assert told(find("v1.23.0", "v1.24.0", nodes=docker)) == [("dockershim-removed", "error")]
    assert find("v1.22.0", "v1.23.0", nodes=docker) == []
    shim = a_host(runtime_sockets=frozenset({"cri-dockerd"}))
    assert find("v1.23.0", "v1.24.0", nodes=docker, hosts=shim) == []
    old = a_node(runtime="containerd://1.7.28")
    assert told(find("v1.35.0", "v1.36.0", nodes=old)) == [("runtime-too-old", "error")]
    assert find("v1.34.0", "v1.35.0", nodes=old) == []
    assert find("v1.35.0", "v1.36.0", nodes=a_node(runtime="containerd://2.2.1")) == []
    assert find("v1.35.0", "v1.36.0", nodes=a_node(runtime="cri-o://1.30")) == []


def test_pod_security_policy_plugin() -> None:
    plugins = frozenset({"NodeRestriction", "PodSecurityPolicy"})
    assert told(find("v1.24.0", "v1.25.0", admission_plugins=plugins)) == [("pod-security-policy-plugin", "error")]
    assert find("v1.23.0", "v1.24.0", admission_plugins=plugins) == []
    assert find("v1.24.0", "v1.25.0", admission_plugins=frozenset({"NodeRestriction"})) == []


@pytest.mark.parametrize(
    ("days", "authority", "severity"),
    [(-1, False, "error"), (29, False, "warning"), (31, False, ""), (100, True, "warning"), (200, True, "")],
)
def test_certificates(days: int, authority: bool, severity: str) -> None:
    found = Certificate("/etc/kubernetes/pki/x.crt", "CN=x", NOW + timedelta(days=days), authority, host="cp1")
    result = find("v1.30.0", "v1.31.0", certificates=(found,))
    assert told(result) == ([("certificate-expiry", severity)] if severity else [])
    assert all(f.node == "cp1" for f in result)


def test_the_kubelets_own_certificate_never_stops_an_upgrade() -> None:
    own = Certificate("/var/lib/kubelet/pki/kubelet.crt", "CN=x", NOW - timedelta(days=9), is_ca=True, host="w1")
    assert told(find("v1.30.0", "v1.31.0", certificates=(own,))) == [("certificate-expiry", "warning")]


def test_skew_is_part_of_it() -> None:
    found = find("v1.30.0", "v1.31.0", nodes=a_node(version="v1.27.0"))
    assert [(f.id, f.severity) for f in found] == [("kubelet-skew", Severity.ERROR)]
