from __future__ import annotations

from typing import Any

import pytest

from tests.unit.playbooks.loading import load

plan = load("filter_plugins/kops_packages.py").package_plan
missing_archives = load("filter_plugins/kops_images.py").missing_archives
backend = load("filter_plugins/kops_inventory.py").backend

SETTINGS = {
    "kubernetes_version": "1.31.2",
    "package_revision": "*",
    "repository": "https://packages.test",
    "repository_key": "",
    "containerd_source": "distribution",
    "containerd_version": "",
    "allow_version_change": False,
}
TOOLS = {"ca-certificates", "conntrack", "ebtables", "ethtool", "iproute2", "iptables", "kmod", "socat"}
READY = {
    **dict.fromkeys(TOOLS, "1"),
    **dict.fromkeys(("kubeadm", "kubectl", "kubelet"), "1.31.2-1.1"),
    "containerd": "1.6.20~ds1-1+deb12u3",
    "cri-tools": "1.31.1-1.1",
}


def state(family: str = "debian", packages: dict[str, str] | None = None, **more: Any) -> dict[str, Any]:
    return {"os": {"family": family, "name": "X"}, "packages": packages or {}, "held": [], "joined": False, **more}


def test_a_fresh_host_gets_everything_pinned_in_one_list() -> None:
    found = plan(state(), SETTINGS)
    assert found["refusals"] == []
    assert set(found["install"]) > TOOLS
    assert found["install"][-5:] == [
        "containerd",
        "cri-tools",
        "kubeadm=1.31.2-*",
        "kubectl=1.31.2-*",
        "kubelet=1.31.2-*",
    ]
    assert found["hold"] == ["containerd", "kubeadm", "kubectl", "kubelet"]


def test_a_ready_host_gets_nothing() -> None:
    found = plan(state(packages=READY, held=["containerd", "kubeadm", "kubectl", "kubelet"]), SETTINGS)
    assert found == {"install": [], "hold": [], "refusals": []}


def test_a_hold_is_renewed_when_another_version_is_installed() -> None:
    held = ["containerd", "kubeadm", "kubectl", "kubelet"]
    found = plan(state(packages={**READY, "kubelet": "1.31.1-1.1"}, held=held), SETTINGS)
    assert (found["install"], found["hold"]) == (["kubelet=1.31.2-*"], ["kubelet"])


def test_rpm_names_and_pins() -> None:
    found = plan(state("redhat"), {**SETTINGS, "containerd_source": "docker", "containerd_version": "1.7.24"})
    assert found["refusals"] == []
    assert {"kubelet-1.31.2-*", "containerd.io-1.7.24[-~+]*", "conntrack-tools"} <= set(found["install"])
    assert "ebtables" not in found["install"]


@pytest.mark.parametrize(
    ("wanted", "installed", "fits"),
    [
        ("1.6.20", "1.6.20~ds1-1+deb12u3", True),
        ("1.6.2", "1.6.20~ds1-1+deb12u3", False),
        ("1.6.20~ds1-1+deb12u3", "1.6.20~ds1-1+deb12u3", True),
        ("1.6.*", "1.6.20~ds1-1+deb12u3", True),
        ("1.7.24", "1.6.20~ds1-1+deb12u3", False),
        ("", "1.6.20~ds1-1+deb12u3", True),
    ],
)
def test_a_containerd_version_means_every_build_of_it(wanted: str, installed: str, fits: bool) -> None:
    found = plan(state(packages={**READY, "containerd": installed}), {**SETTINGS, "containerd_version": wanted})
    assert (found["install"] == []) is fits


def test_a_joined_node_keeps_its_version() -> None:
    joined = state(packages={**READY, "kubelet": "1.30.4-1.1"}, joined=True)
    (refusal,) = plan(joined, SETTINGS)["refusals"]
    assert "kubelet 1.30.4" in refusal
    assert plan(joined, {**SETTINGS, "allow_version_change": True})["refusals"] == []
    assert plan({**joined, "joined": False}, SETTINGS)["refusals"] == []
    newer = state(packages={**READY, "kubelet": "1.32.0-1.1"}, joined=True)
    assert len(plan(newer, SETTINGS)["refusals"]) == 1
    assert plan(state(packages=READY, joined=True), SETTINGS)["refusals"] == []


@pytest.mark.parametrize(
    ("found", "settings", "word"),
    [
        (state(""), {}, "not supported"),
        (state("redhat"), {}, "no containerd package"),
        (state(packages={"containerd.io": "1.7.24-1"}), {}, "containerd.io is installed"),
        (state(packages={"containerd": "1.6.20"}), {"containerd_source": "docker"}, "containerd is installed"),
        (state(), {"repository": "http://packages.test"}, "not https"),
    ],
)
def test_what_would_harm_is_refused(found: dict[str, Any], settings: dict[str, Any], word: str) -> None:
    (refusal,) = plan(found, {**SETTINGS, **settings})["refusals"]
    assert word in refusal


def test_http_is_fine_with_a_key() -> None:
    settings = {**SETTINGS, "repository": "http://packages.test", "repository_key": "/k.asc"}
    assert plan(state(), settings)["refusals"] == []


def test_archives_are_needed_by_role_and_by_what_is_missing() -> None:
    index = [
        {"file": "pause.tar", "refs": ["r/pause:1"], "for": "all"},
        {"file": "two.tar", "refs": ["r/a:1", "r/b:1"], "for": "all"},
        {"file": "etcd.tar", "refs": ["r/etcd:1"], "for": "control-plane"},
    ]
    assert missing_archives(index, [], control_plane=True) == ["pause.tar", "two.tar", "etcd.tar"]
    assert missing_archives(index, ["r/pause:1", "r/a:1"], control_plane=False) == ["two.tar"]
    assert missing_archives(index, ["r/pause:1", "r/a:1", "r/b:1"], control_plane=False) == []


def test_backend_address_is_the_cluster_address() -> None:
    hosts = {"a": {"ip": "10.0.0.1", "ansible_host": "192.0.2.1"}, "b": {"ansible_host": "192.0.2.2"}, "c": {}}
    assert [backend(name, hosts)["address"] for name in "abc"] == ["10.0.0.1", "192.0.2.2", "c"]
