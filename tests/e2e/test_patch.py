"""Patching real systems: updates from a repository, restarts proven by the boot id, one node by hand."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.e2e import workload
from tests.e2e.balancing import Balancing
from tests.e2e.bed import Bed
from tests.e2e.traffic import Traffic
from tests.lab import Node

NODES = ("n1", "n2", "n3")
PACKAGE = "kops-py-test"
FIX = "kops-py-test-fix"

pytestmark = pytest.mark.timeout(1500)


@pytest.mark.soak
def test_updates_and_restarts(bed: Bed, tmp_path: Path) -> None:
    """An update on every node, a restart where the system asks for it; killed in the middle; then one node by hand."""
    bed.boot(3)
    bed.write_inventory(control_planes=["n1"], workers=["n2", "n3"])
    bed.write_cluster("patched")
    bed.bootstrap()
    workload.load_image(bed, NODES)
    workload.deploy(bed, NODES, linger_s=5, min_available=workload.REPLICAS - 1)
    _offer_update(bed, tmp_path)
    bed.node("n2").exec("touch /run/reboot-required")  # gone after a restart: /run is a tmpfs
    before = {name: bed.node(name).boot_id() for name in NODES}

    plan = bed.program.run("patch", "--package", PACKAGE, "--plan", "-o", "json", exit_code=20).json()
    titles = {(s["node"], s["title"]) for w in plan["waves"] for s in w["steps"]}
    assert {("n1", "install 1 update"), ("n2", "restart"), ("n3", "restart, if the host asks for it")} <= titles
    with Traffic(bed, ("n1", "n3")) as traffic:
        running = bed.program.start("patch", "--package", PACKAGE, "-y")
        running.wait_said(r"n2:\s+restarting the operating system", deadline_s=300)
        running.kill()
        bed.node("n2").wait_rebooted(before["n2"])
        finished = bed.program.run("patch", "--package", PACKAGE, "-y", deadline_s=600)
    bed.say(f"patched 1+2 in {finished.duration_s:.1f} s after a kill; {traffic}")
    traffic.assert_unnoticed()
    after = {name: bed.node(name).boot_id() for name in NODES}
    assert {name for name in NODES if before[name] != after[name]} == {"n2"}
    for name in NODES:
        assert bed.node(name).exec(f"dpkg-query -W -f '${{Version}}' {PACKAGE}").stdout == "1.1"
        held = bed.node(name).exec("apt-mark showhold").stdout.split()
        assert {"kubeadm", "kubectl", "kubelet"} <= set(held)
    _check_free(bed)
    again = bed.program.run("patch", "--package", PACKAGE, "-y")
    assert "nothing to do" in again.text, again.report()

    _one_node_by_hand(bed)
    restarted = bed.program.run("node", "reboot", "n3", "-y", deadline_s=400)
    bed.say(f"node reboot n3 in {restarted.duration_s:.1f} s")
    assert bed.node("n3").boot_id() != after["n3"]
    assert bed.node("n2").boot_id() == after["n2"]
    _check_free(bed)
    workload.assert_answers(bed, NODES)
    _security_and_containerd(bed, tmp_path)


def _security_and_containerd(bed: Bed, folder: Path) -> None:
    """Security updates are told apart by their archive; containerd, which is held, comes when it is named."""
    wanted = _offer_security(bed, folder)
    security, every = (_updates(bed, *which) for which in (("--security",), ()))
    for name in NODES:  # besides what the distribution itself has meanwhile
        assert {FIX} <= security[name] < every[name], (security[name], every[name])
        assert PACKAGE in every[name] - security[name]
        assert "containerd" not in every[name]
    before = {name: bed.node(name).boot_id() for name in NODES}
    with Traffic(bed, NODES) as traffic:
        finished = bed.program.run("patch", "--package", "containerd", "-y", deadline_s=600)
    bed.say(f"containerd updated on 1+2 in {finished.duration_s:.1f} s; {traffic}")
    traffic.assert_unnoticed()
    for name in NODES:
        there = bed.node(name).exec(f"dpkg-query -W -f '${{Version}} ' containerd {PACKAGE} {FIX}").stdout.split()
        assert there == [wanted, "1.1", "1.0"], there
    assert {name: bed.node(name).boot_id() for name in NODES} == before
    assert "nothing to do" in bed.program.run("patch", "--package", "containerd", "-y").text
    _check_free(bed)
    workload.assert_answers(bed, NODES)


def _updates(bed: Bed, *which: str) -> dict[str, set[str]]:
    plan = bed.program.run("patch", *which, "--plan", "-o", "json", exit_code=20).json()
    steps = [s for w in plan["waves"] for s in w["steps"] if s["id"].startswith("updates/")]
    return {s["node"]: {name for name, _ in s["action"]["updates"]} for s in steps}


def _offer_security(bed: Bed, folder: Path) -> str:
    """Offer containerd and a small package as updates of Debian's security archive; returns containerd's version."""
    installed = bed.node("n1").exec("dpkg-query -W -f '${Version}' containerd").stdout
    wanted = f"{installed.partition('~')[0]}.99~kops1"  # higher than any the distribution has
    subprocess.run(["apt-get", "download", f"containerd={installed}"], cwd=folder, check=True, capture_output=True)
    (package,) = folder.glob("containerd_*.deb")
    root = folder / "containerd"
    subprocess.run(["dpkg-deb", "-R", package, root], check=True)
    control = root / "DEBIAN" / "control"
    control.write_text(control.read_text().replace(f"Version: {installed}\n", f"Version: {wanted}\n"))
    rebuilt = folder / "rebuilt.deb"
    subprocess.run(["dpkg-deb", "-Zgzip", "-z1", "--build", root, rebuilt], check=True, capture_output=True)
    newer = _build_package(folder, PACKAGE, "1.2")
    fixes = [_build_package(folder, FIX, version) for version in ("1.0", "1.1")]
    for name in NODES:
        node = bed.node(name)
        node.put_file(rebuilt, "/srv/security/containerd.deb")
        node.put_file(newer, f"/srv/updates/{PACKAGE}_1.2_all.deb")
        for number, fix in enumerate(fixes):
            node.put_file(fix, f"/srv/security/{FIX}_1.{number}_all.deb")
        node.exec(f"dpkg -i /srv/security/{FIX}_1.0_all.deb")
        _index(node, "/srv/updates")
        _index(node, "/srv/security")
        node.exec(
            "cd /srv/security && { printf 'Origin: Debian\\nLabel: Debian-Security\\nSuite: stable-security\\n"
            "Codename: bookworm-security\\nSHA256:\\n'; "
            "echo \" $(sha256sum Packages | cut -d' ' -f1) $(stat -c %s Packages) Packages\"; } > Release && "
            "echo 'deb [trusted=yes] file:/srv/security ./' > /etc/apt/sources.list.d/security.list"
        )
    return wanted


@pytest.mark.soak
def test_every_node_of_three_control_planes_restarts(bed: Bed) -> None:
    nodes = ("n1", "n2", "n3", "n4", "n5")
    bed.boot(6)
    bed.write_inventory(control_planes=nodes[:3], workers=nodes[3:], load_balancers=["n6"])
    bed.write_cluster("restarted")
    bed.bootstrap(deadline_s=900)
    workload.load_image(bed, nodes)
    workload.deploy(bed, nodes, linger_s=5, min_available=workload.REPLICAS - 1)
    before = {name: bed.node(name).boot_id() for name in nodes}
    with Traffic(bed, nodes, elsewhere=True) as traffic, Balancing(bed, "n6") as balancing:
        finished = bed.program.run("patch", "--reboot", "always", "-y", deadline_s=1200)
    bed.say(f"every node of 3+2 restarted in {finished.duration_s:.1f} s; {traffic}; {balancing}")
    assert not balancing.failures, balancing.failures[:10]
    traffic.assert_unnoticed()
    assert all(bed.node(name).boot_id() != before[name] for name in nodes)
    _check_free(bed, nodes)
    workload.wait_answers(bed, nodes, deadline_s=60)


def _one_node_by_hand(bed: Bed) -> None:
    bed.program.run("node", "drain", "n3", "-y", deadline_s=200)
    assert _cordoned(bed) == {"n3"}
    on_node = bed.kubectl("get pods -l app=echo -o jsonpath={.items[*].spec.nodeName}")
    assert "n3" not in on_node.split()
    shown = bed.program.run("status").text
    assert "kops-py" in shown, shown
    assert "nothing to do" in bed.program.run("node", "drain", "n3", "-y").text
    bed.program.run("node", "uncordon", "n3", "-y")
    assert _cordoned(bed) == set()
    bed.kubectl("cordon n3")
    left = bed.program.run("node", "uncordon", "n3", "-y")
    assert "somebody else" in left.text, left.report()
    assert _cordoned(bed) == {"n3"}
    bed.program.run("node", "uncordon", "n3", "--force", "-y")
    assert _cordoned(bed) == set()


def _offer_update(bed: Bed, folder: Path) -> None:
    """Install a package in version 1.0 on every node, and offer 1.1 in a repository on the node itself."""
    packages = {version: _build_package(folder, PACKAGE, version) for version in ("1.0", "1.1")}
    for name in NODES:
        node = bed.node(name)
        for version, package in packages.items():
            node.put_file(package, f"/srv/updates/{PACKAGE}_{version}_all.deb")
        node.exec(f"dpkg -i /srv/updates/{PACKAGE}_1.0_all.deb")
        _index(node, "/srv/updates")
        node.exec("echo 'deb [trusted=yes] file:/srv/updates ./' > /etc/apt/sources.list.d/updates.list")


def _build_package(folder: Path, name: str, version: str) -> Path:
    root = folder / f"{name}-{version}" / "DEBIAN"
    root.mkdir(parents=True)
    (root / "control").write_text(
        f"Package: {name}\nVersion: {version}\nArchitecture: all\nMaintainer: nobody <nobody@example.com>\n"
        "Description: something to update\n"
    )
    package = folder / f"{name}-{version}.deb"
    subprocess.run(["dpkg-deb", "--build", root.parent, package], check=True, capture_output=True)
    return package


def _index(node: Node, folder: str) -> None:
    """Write the index of a flat repository."""
    node.exec(
        f"cd {folder} && {{ for f in ./*.deb; do dpkg-deb -f $f; echo Filename: $f; echo Size: $(stat -c %s $f); "
        "echo SHA256: $(sha256sum $f | cut -d' ' -f1); echo; done; } > Packages"
    )


def _cordoned(bed: Bed) -> set[str]:
    items = json.loads(bed.kubectl("get nodes -o json"))["items"]
    return {n["metadata"]["name"] for n in items if n["spec"].get("unschedulable")}


def _check_free(bed: Bed, nodes: Sequence[str] = NODES) -> None:
    bed.wait_ready(nodes)
    assert _cordoned(bed) == set()
