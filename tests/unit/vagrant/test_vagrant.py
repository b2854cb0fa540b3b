"""The inventory for Vagrant machines is one that kops-py reads, and the Vagrantfile is one that Vagrant reads."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from kops_py.config.load import load
from vagrant.inventory import cluster_file, inventory, main, read_machines, read_ssh_config

FOLDER = Path(__file__).resolve().parents[3] / "vagrant"
MACHINES = (FOLDER / "machines.yaml").read_text()

# Recorded forms of `vagrant ssh-config`: libvirt gives an address, VirtualBox a forwarded port of this machine.
LIBVIRT = """\
Host debian1
  HostName 192.168.121.35
  User vagrant
  Port 22
  UserKnownHostsFile /dev/null
  StrictHostKeyChecking no
  PasswordAuthentication no
  IdentityFile /home/ops/kops/vagrant/.vagrant/machines/debian1/libvirt/private_key
  IdentitiesOnly yes
  LogLevel FATAL

"""
VIRTUALBOX = """\
Host ubuntu1
  HostName 127.0.0.1
  User vagrant
  Port 2222
  UserKnownHostsFile /dev/null
  StrictHostKeyChecking no
  PasswordAuthentication no
  IdentityFile "/home/ops/my clusters/vagrant/.vagrant/machines/ubuntu1/virtualbox/private_key"
  IdentitiesOnly yes
  LogLevel FATAL
  PubkeyAcceptedKeyTypes +ssh-rsa
  HostKeyAlgorithms +ssh-rsa

"""
RECORDED = LIBVIRT + VIRTUALBOX + LIBVIRT.replace("debian1", "rocky1").replace(".35", ".36")


def test_recorded_ssh_configuration_is_read() -> None:
    targets = read_ssh_config(RECORDED)
    assert sorted(targets) == ["debian1", "rocky1", "ubuntu1"]
    assert (targets["debian1"].host, targets["debian1"].port) == ("192.168.121.35", 22)
    ubuntu = targets["ubuntu1"]
    assert (ubuntu.host, ubuntu.port, ubuntu.user) == ("127.0.0.1", 2222, "vagrant")
    assert ubuntu.key_file == "/home/ops/my clusters/vagrant/.vagrant/machines/ubuntu1/virtualbox/private_key"


def test_inventory_has_both_addresses() -> None:
    document = yaml.safe_load(inventory(read_machines(MACHINES), read_ssh_config(RECORDED), "/x/known_hosts"))["all"]
    assert document["hosts"]["ubuntu1"]["ansible_port"] == 2222
    assert document["hosts"]["ubuntu1"]["ip"] == "192.168.56.12"
    assert list(document["children"]["kube_control_plane"]["hosts"]) == ["debian1"]
    assert list(document["children"]["kube_node"]["hosts"]) == ["ubuntu1", "rocky1"]


def test_kops_py_reads_what_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(RECORDED))
    assert main(["--output", str(tmp_path)]) == 0
    spec = load(tmp_path)
    assert [host.name for host in spec.nodes] == ["debian1", "ubuntu1", "rocky1"]
    assert [host.node_ip for host in spec.nodes] == ["192.168.56.11", "192.168.56.12", "192.168.56.13"]
    assert [host.port for host in spec.nodes] == [22, 2222, 22]
    assert str(spec.endpoint) == "192.168.56.11:6443"


def test_a_cluster_file_that_is_there_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cluster.yaml").write_text("mine")
    monkeypatch.setattr("sys.stdin", io.StringIO(RECORDED))
    assert main(["--output", str(tmp_path)]) == 0
    assert (tmp_path / "cluster.yaml").read_text() == "mine"


def test_a_machine_that_is_down_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(LIBVIRT))
    assert main(["--output", str(tmp_path / "new")]) == 2
    assert "not running: ubuntu1, rocky1; type: vagrant up ubuntu1 rocky1" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "subscriptable"),
        ("network: x\nmachines: []\n", "Expected 4 octets"),
        ("network: fd00::/64\nmachines: []\n", "Expected 4 octets"),
        ("network: 10.0.0.0/24\n", "'machines' is missing"),
        ("network: 10.0.0.0/24\nmachines: [{name: a}]\n", "'groups' is missing"),
        ("network: 10.0.0.0/24\nmachines: [{name: a, groups: [nodes]}]\n", "unknown groups nodes"),
        ("network: 10.0.0.0/28\nmachines: [{name: a, groups: []}, {name: a, groups: []}]\n", "twice"),
        ("network: [\n", "expected"),
    ],
)
def test_bad_machine_files_are_explained(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_machines(text)


def test_a_host_without_a_key_is_explained() -> None:
    with pytest.raises(ValueError, match="machine a has no identityfile"):
        read_ssh_config("Host a\n  HostName 10.0.0.1\n  User vagrant\n")


def test_cluster_file_is_valid_yaml_with_the_version_as_text() -> None:
    assert yaml.safe_load(cluster_file("v1.30.0"))["kubernetes"] == {"version": "v1.30.0"}


def test_every_machine_has_a_box_for_both_providers() -> None:
    document = yaml.safe_load(MACHINES)
    for machine in document["machines"]:
        assert set(document["boxes"][machine["system"]]) == {"libvirt", "virtualbox"}


def test_ruby_reads_the_vagrantfile() -> None:
    if shutil.which("ruby") is None:
        pytest.skip("ruby is not installed: apt-get install ruby")
    result = subprocess.run(["ruby", "-wc", FOLDER / "Vagrantfile"], check=True, capture_output=True, text=True)
    assert result.stdout.strip() == "Syntax OK"
    assert result.stderr == ""


def test_vagrant_validates_the_vagrantfile(tmp_path: Path) -> None:
    if shutil.which("vagrant") is None:
        pytest.skip("vagrant is not installed: apt-get install vagrant")
    environment = os.environ | {
        "VAGRANT_HOME": str(tmp_path / "home"),
        "VAGRANT_DOTFILE_PATH": str(tmp_path / "state"),
        "VAGRANT_CHECKPOINT_DISABLE": "1",
        "VAGRANT_CWD": str(FOLDER),
    }
    command = ["vagrant", "validate", "--ignore-provider"]
    result = subprocess.run(command, env=environment, check=False, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "validated successfully" in result.stdout
    broken = environment | {"KOPS_VAGRANT_CPUS": "many"}
    result = subprocess.run(command, env=broken, check=False, capture_output=True, text=True, timeout=120)
    assert result.returncode != 0
