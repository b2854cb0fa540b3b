"""Preparation of booted systems: what it leaves, that a second run changes nothing, how failures are told."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import pytest

from kops_py.connect.ansible import playbooks_fingerprint
from kops_py.connect.base import AnsibleHostResult, AnsibleStatus
from kops_py.model.spec import ContainerdSpec
from kops_py.model.version import Version
from kops_py.tools.preparation import prepare_digest
from tests.integration.ansible.conftest import Setup
from tests.unit.playbooks.loading import PLAYBOOKS

pytestmark = pytest.mark.lab


def changed(results: dict[str, AnsibleHostResult]) -> dict[str, tuple[str, ...]]:
    assert {r.status for r in results.values()} == {AnsibleStatus.OK}, results
    return {name: r.changed_tasks for name, r in results.items()}


def failure(results: dict[str, AnsibleHostResult], name: str) -> AnsibleHostResult:
    result = results[name]
    assert result.status is AnsibleStatus.FAILED, result
    return result


def test_a_fresh_system_gets_what_kubeadm_needs(prepared: Setup) -> None:
    for name in ("n1", "n2"):
        node = prepared.node(name)
        facts = node.exec(
            "sysctl -n net.ipv4.ip_forward net.bridge.bridge-nf-call-iptables kernel.panic; "
            "cat /etc/modules-load.d/kops-py.conf; systemctl is-enabled kubelet containerd; "
            "systemctl is-active containerd; dpkg -l kubelet kubeadm kubectl containerd | grep -c ^hi"
        ).stdout.split("\n")
        assert facts[:3] == ["1", "1", "10"]
        assert {"overlay", "br_netfilter"} <= set(facts)
        assert facts[-5:] == ["enabled", "enabled", "active", "4", ""]
        config = tomllib.loads(node.exec("containerd config dump").stdout)
        cri = config["plugins"]["io.containerd.grpc.v1.cri"]
        assert cri["sandbox_image"] == "k8s.gcr.io/pause:3.2"
        assert cri["containerd"]["runtimes"]["runc"]["options"]["SystemdCgroup"] is True
        marker = json.loads(node.exec("cat /etc/kops-py/prepared.json").stdout)
        host = prepared.spec.host(name)
        assert marker == {"digest": prepare_digest(prepared.spec, host, playbooks_fingerprint())}
        assert node.exec("stat -c %a /etc/kops-py /etc/kops-py/prepared.json").stdout.split() == ["700", "600"]


def test_images_follow_the_role_and_no_archive_stays(prepared: Setup) -> None:
    def images(name: str) -> set[str]:
        node = prepared.node(name)
        assert node.exec("ls /var/lib/kops-py/images").stdout == ""
        return set(node.exec("ctr -n k8s.io images ls -q | grep -v sha256").stdout.split())

    everywhere = {"k8s.gcr.io/kube-proxy:v1.20.2", "k8s.gcr.io/pause:v1.20.2"}
    assert images("n1") == {*everywhere, "k8s.gcr.io/kube-apiserver:v1.20.2"}
    assert images("n2") == everywhere


def test_a_second_run_changes_nothing(prepared: Setup) -> None:
    assert changed(prepared.prepare()) == {"n1": (), "n2": ()}


def test_plain_ansible_playbook_finds_nothing_to_change(prepared: Setup, tmp_path: Path) -> None:
    inventory = prepared.lab.inventory(control_planes=1, workers=1)
    variables = tmp_path / "vars.json"
    variables.write_text(json.dumps(prepared.variables()))
    for name, values in prepared.host_variables().items():
        (tmp_path / f"{name}.json").write_text(json.dumps(values))
    for name in ("n1", "n2"):
        done = subprocess.run(
            [
                Path(sys.executable).with_name("ansible-playbook"),
                *("-i", inventory, "--limit", name, "-e", f"@{variables}", "-e", f"@{tmp_path}/{name}.json"),
                PLAYBOOKS / "prepare.yml",
            ],
            env={**os.environ, "ANSIBLE_NOCOLOR": "1"},
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert re.search(rf"{name} .*changed=0 .*unreachable=0 .*failed=0", done.stdout), done.stdout


def test_settings_outlive_a_reboot(prepared: Setup) -> None:
    node = prepared.node("n2")
    before = node.boot_id()
    node.ssh("sudo systemctl reboot", check=False)
    node.wait_rebooted(before)
    assert node.exec("sysctl -n net.ipv4.ip_forward kernel.panic").stdout.split() == ["1", "10"]
    # systemd-modules-load is not asked: it wants a capability that a system in namespaces does not have.
    assert node.exec("systemctl is-active systemd-sysctl containerd").stdout.split() == ["active", "active"]
    assert changed(prepared.prepare(["n2"])) == {"n2": ()}


def test_swap_is_kept_off_at_boot(prepared: Setup) -> None:
    # Swap is the whole machine's and cannot be turned on in a namespace: only what would happen at boot is shown.
    node = prepared.node("n2")
    node.put_file(b"# c\nnone /data tmpfs noauto 0 0\n  /swapfile none swap sw 0 0\n", "/etc/fstab")
    node.put_file(b"[Swap]\nWhat=/no/such\n[Install]\nWantedBy=swap.target\n", "/etc/systemd/system/no-such.swap")
    node.exec("systemctl daemon-reload; systemctl enable no-such.swap")
    tasks = changed(prepared.prepare(["n2"]))["n2"]
    assert len(tasks) == 2, tasks
    assert node.exec("cat /etc/fstab").stdout == (
        "# c\nnone /data tmpfs noauto 0 0\n# kops-py: /swapfile none swap sw 0 0\n"
    )
    assert node.exec("systemctl is-enabled no-such.swap || true").stdout.strip() == "disabled"
    assert changed(prepared.prepare(["n2"])) == {"n2": ()}


def test_mirrors_come_and_go_without_a_restart(prepared: Setup) -> None:
    node = prepared.node("n2")
    pid = node.exec("systemctl show -p MainPID containerd").stdout
    node.exec("mkdir -p /etc/containerd/certs.d/own.test && echo > /etc/containerd/certs.d/own.test/hosts.toml")
    mirrors = MappingProxyType({"docker.io": ("http://mirror.test:5000",)})
    spec = replace(prepared.spec, containerd=ContainerdSpec(mirrors=mirrors))
    assert len(changed(prepared.prepare(["n2"], spec=spec))["n2"]) == 3  # mark taken back, files, mark
    assert "mirror.test" in node.exec("cat /etc/containerd/certs.d/docker.io/hosts.toml").stdout
    changed(prepared.prepare(["n2"]))
    assert node.exec("cd /etc/containerd/certs.d && find . -type f").stdout == "./own.test/hosts.toml\n"
    assert node.exec("systemctl show -p MainPID containerd").stdout == pid


def test_an_interrupted_restart_is_made_up_for(prepared: Setup) -> None:
    node = prepared.node("n2")
    pid = node.exec("systemctl show -p MainPID containerd").stdout
    node.exec("touch /etc/containerd/config.toml")
    assert changed(prepared.prepare(["n2"])) == {"n2": ("Run containerd with this configuration",)}
    assert node.exec("systemctl show -p MainPID containerd").stdout != pid


def test_sudo_with_a_password(prepared: Setup, sudo_password: str) -> None:
    assert changed(prepared.prepare(["n1"], user="opspw", password=sudo_password)) == {"n1": ()}
    left = [p for p in prepared.runs.rglob("*") if p.is_file()]
    assert left
    assert not any(sudo_password in p.read_text(errors="replace") for p in left)


def test_wrong_sudo_is_a_failure_that_says_so(prepared: Setup) -> None:
    result = failure(prepared.prepare(["n1"], user="nosudo"), "n1")
    assert "password" in result.message.lower()
    assert result.task.endswith("Look at the host")


def test_a_host_that_is_down_is_unreachable_and_the_other_goes_on(prepared: Setup) -> None:
    node = prepared.node("n2")
    node.kill()
    try:
        results = prepared.prepare()
    finally:
        node.start()
    assert results["n1"].status is AnsibleStatus.OK
    assert results["n2"].status is AnsibleStatus.UNREACHABLE
    assert re.search("route|timed out|refused", results["n2"].message), results["n2"].message


def test_an_unknown_host_key_is_refused_until_it_may_be_accepted(prepared: Setup, tmp_path: Path) -> None:
    known_hosts = tmp_path / "known_hosts"
    args = f"-o UserKnownHostsFile={known_hosts} -o GlobalKnownHostsFile=/dev/null"
    result = prepared.prepare(["n1"], ssh_args=args)["n1"]
    assert result.status is AnsibleStatus.UNREACHABLE
    assert "Host key verification failed" in result.message
    assert changed(prepared.prepare(["n1"], ssh_args=args, accept_new_host_keys=True)) == {"n1": ()}
    assert "ssh-ed25519" in known_hosts.read_text()


def test_a_package_repository_that_is_gone_is_named(prepared: Setup) -> None:
    spec = replace(prepared.spec, kubernetes=replace(prepared.spec.kubernetes, version=Version.parse("v1.20.3")))
    prepared.lab.serve_stop()
    try:
        result = failure(prepared.prepare(["n2"], spec=spec), "n2")
    finally:
        prepared.lab.serve_start()
    assert result.task.endswith("Install and hold the packages")
    assert prepared.lab.gateway in result.message
    marker = "test ! -e /etc/kops-py/prepared.json"
    assert prepared.node("n2").exec(marker, check=False).returncode == 0
    assert len(changed(prepared.prepare(["n2"]))["n2"]) == 1  # the same command goes on: only the mark was missing


def test_a_full_disk_is_told(prepared: Setup) -> None:
    node = prepared.node("n2")
    node.exec("mount -t tmpfs -o size=4k none /var/cache/apt/archives")
    spec = replace(prepared.spec, kubernetes=replace(prepared.spec.kubernetes, version=Version.parse("v1.20.3")))
    try:
        result = failure(prepared.prepare(["n2"], spec=spec), "n2")
    finally:
        node.exec("umount /var/cache/apt/archives")
    assert re.search("enough free space|No space left", result.message), result.message
    assert changed(prepared.prepare(["n2"]))["n2"]


def test_a_node_in_a_cluster_keeps_its_version(prepared: Setup) -> None:
    node = prepared.node("n2")
    node.exec("mkdir -p /etc/kubernetes && touch /etc/kubernetes/kubelet.conf")
    spec = replace(prepared.spec, kubernetes=replace(prepared.spec.kubernetes, version=Version.parse("v1.20.3")))
    result = failure(prepared.prepare(["n2"], spec=spec), "n2")
    assert "kubelet 1.20.2 and would get 1.20.3" in result.message
    changed(prepared.prepare(["n2"], spec=spec, kops_allow_version_change=True))
    versions = node.exec("dpkg-query -W -f '${Version} ${db:Status-Want}\\n' kubelet kubeadm kubectl").stdout
    assert versions == "1.20.3-1.1 hold\n" * 3
    node.exec("rm /etc/kubernetes/kubelet.conf")
    changed(prepared.prepare(["n2"]))
    assert "1.20.2-1.1 hold" in node.exec("dpkg-query -W -f '${Version} ${db:Status-Want}' kubelet").stdout


def test_a_setting_that_another_file_takes_back_is_refused(prepared: Setup) -> None:
    node = prepared.node("n2")
    node.put_file(b"net.ipv4.ip_forward = 0\n", "/etc/sysctl.d/95-other.conf")
    result = failure(prepared.prepare(["n2"]), "n2")
    assert "/etc/sysctl.d/95-other.conf: net.ipv4.ip_forward = 0" in result.message
    node.exec("rm /etc/sysctl.d/95-other.conf")


def test_images_from_a_folder_of_the_controller(prepared: Setup, tmp_path: Path) -> None:
    node = prepared.node("n2")
    node.exec("ctr -n k8s.io images rm k8s.gcr.io/pause:v1.20.2")
    folder = Path(prepared.spec.kubernetes.repository_key or "").parents[3] / "images"
    spec = replace(prepared.spec, kubernetes=replace(prepared.spec.kubernetes, images=str(folder)))
    changed(prepared.prepare(["n2"], spec=spec))
    assert "pause:v1.20.2" in node.exec("ctr -n k8s.io images ls -q").stdout
    assert node.exec("ls /var/lib/kops-py/images").stdout == ""
    assert changed(prepared.prepare(["n2"], spec=spec)) == {"n2": ()}


def test_a_pinned_containerd_version_is_found_or_told(prepared: Setup) -> None:
    installed = prepared.node("n2").exec("containerd --version").stdout.split()[2].partition("~")[0]
    pinned = replace(prepared.spec, containerd=ContainerdSpec(version=installed))
    assert "Install and hold the packages" not in " ".join(changed(prepared.prepare(["n2"], spec=pinned))["n2"])
    other = replace(prepared.spec, containerd=ContainerdSpec(version="9.9.9"))
    assert "containerd" in failure(prepared.prepare(["n2"], spec=other), "n2").message
    changed(prepared.prepare(["n2"]))
