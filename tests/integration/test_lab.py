"""The lab itself, on this machine: what the fault tests of kops-py rely on, and that nothing is left behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab import Lab, LabError, unavailable_reason
from tests.lab.check import unavailable_reason as check
from tests.lab.config import SUDO_PASSWORD, USER_WITH_PASSWORD, USER_WITHOUT_SUDO, lab_home
from tests.lab.kernel import CAP_SYS_MODULE, CAP_SYS_TIME
from tests.lab.processes import find_children, is_alive, wait_until
from tests.lab.rootfs import base_dir, loop_devices

REASON = unavailable_reason()
pytestmark = [
    pytest.mark.lab,
    pytest.mark.skipif(REASON is not None, reason=str(REASON)),
]
ROOT = Path(__file__).resolve().parents[2]
MIB = 1 << 20


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab(f"self-{os.getpid()}") as lab:
        lab.down()
        lab.up(2)
        yield lab
    assert lab.leaks() == []


def connect_error(ip: str, timeout_s: float) -> OSError | None:
    try:
        socket.create_connection((ip, 22), timeout_s).close()
    except OSError as error:
        return error
    return None


def test_two_systems_with_systemd_and_identities_of_their_own(lab: Lab) -> None:
    n1, n2 = lab.nodes
    assert [node.ssh("hostname").stdout.strip() for node in (n1, n2)] == ["n1", "n2"]
    assert n1.ssh("ps -o comm= 1").stdout.strip() == "systemd"
    assert n1.ssh("cat /etc/machine-id").stdout != n2.ssh("cat /etc/machine-id").stdout
    assert n1.boot_id() != n2.boot_id()
    assert float(n1.ssh("cut -d. -f1 /proc/uptime").stdout) < 600  # its own clock, not the machine's
    settled = "systemctl is-system-running --wait"
    assert n1.ssh(settled, check=False).stdout.strip() == "running"
    assert n1.ssh(f"ping -c 1 -W 2 {n2.ip}").returncode == 0


def test_the_three_users_differ_in_what_sudo_lets_them(lab: Lab) -> None:
    node = lab.node("n1")
    assert node.ssh("sudo -n id -u").stdout == "0\n"
    refused = node.ssh("sudo -n id -u", user=USER_WITH_PASSWORD, check=False)
    assert refused.returncode != 0
    assert "password is required" in refused.stderr
    asked = node.ssh("sudo -S -p '' id -u", user=USER_WITH_PASSWORD, stdin=f"{SUDO_PASSWORD}\n")
    assert asked.stdout == "0\n"
    never = node.ssh("sudo -S -p '' id -u", user=USER_WITHOUT_SUDO, stdin=f"{SUDO_PASSWORD}\n", check=False)
    assert never.returncode != 0
    assert node.ssh("id -un", user=USER_WITHOUT_SUDO).stdout.strip() == USER_WITHOUT_SUDO


def test_a_reboot_from_inside_changes_the_boot_id_and_keeps_the_disk(lab: Lab) -> None:
    node = lab.node("n1")
    before = node.boot_id()
    node.ssh("echo kept > mark && sync && sudo systemctl reboot", check=False)
    node.wait_rebooted(before)
    assert node.boot_id() != before
    assert node.ssh("cat mark").stdout == "kept\n"


def test_poweroff_from_inside_ends_the_node_until_it_is_started(lab: Lab) -> None:
    node = lab.node("n2")
    node.ssh("sudo systemctl poweroff", check=False)
    node.wait_down()
    assert connect_error(node.ip, 4) is not None
    with pytest.raises(LabError, match="is down"):
        node.exec("true")
    node.start()
    assert node.ssh("hostname").stdout == "n2\n"


def test_power_loss_ends_everything_at_once_and_a_start_boots_again(lab: Lab) -> None:
    node = lab.node("n2")
    before, pid = node.boot_id(), node.init_pid
    started = time.monotonic()
    node.kill()
    assert time.monotonic() - started < 5
    assert pid is not None
    assert not is_alive(pid)
    assert not node.is_running
    node.start()
    assert node.boot_id() != before


def test_a_cut_cable_and_a_black_hole_are_different_failures(lab: Lab) -> None:
    node = lab.node("n2")
    node.cut()
    no_route = connect_error(node.ip, 15)
    assert no_route is not None
    assert no_route.errno == 113  # EHOSTUNREACH
    assert node.exec("hostname").stdout == "n2\n"  # the system runs on
    node.heal()
    assert wait_until(lambda: connect_error(node.ip, 5) is None, 15)

    node.drop()
    assert not node.is_reachable
    assert isinstance(connect_error(node.ip, 2), TimeoutError)
    assert "100% packet loss" in lab.node("n1").ssh(f"ping -c 1 -W 1 {node.ip}", check=False).stdout
    node.undrop()
    assert wait_until(lambda: connect_error(node.ip, 5) is None, 15)


def test_a_cut_cable_stays_cut_over_a_reboot(lab: Lab) -> None:
    node = lab.node("n2")
    node.cut()
    node.reset()  # does not wait for ssh, which could not come
    assert connect_error(node.ip, 4) is not None
    node.heal()
    node.wait_ready()


def test_settings_of_the_whole_machine_stay_the_machines(lab: Lab) -> None:
    path = Path("/proc/sys/vm/overcommit_memory")
    machine = path.read_text()
    other = "0" if machine.strip() == "1" else "1"
    node = lab.node("n1")
    node.exec(f"sysctl -w vm.overcommit_memory={other}")
    assert node.exec("cat /proc/sys/vm/overcommit_memory").stdout.strip() == other
    assert path.read_text() == machine


def bounding_set(text: str) -> int:
    """From `grep CapBnd /proc/self/status`."""
    return int(text.split()[1], 16)


def test_nobody_in_a_node_can_set_the_machines_clock_or_reach_its_controls(lab: Lab) -> None:
    # Only looked at, never tried: the clock is that of everybody on this machine.
    machine_wide = 1 << CAP_SYS_TIME | 1 << CAP_SYS_MODULE
    node = lab.node("n1")
    look = "grep CapBnd /proc/self/status"
    assert bounding_set(node.exec(look).stdout) & machine_wide == 0
    assert bounding_set(node.ssh(f"sudo {look}").stdout) & machine_wide == 0
    hidden = node.exec("cut -d' ' -f2 /proc/mounts").stdout.split()
    for control in ("/proc/sysrq-trigger", "/proc/swaps"):
        assert (control in hidden) == Path(control).exists()
    assert node.exec("swapon --show").stdout == ""


def test_files_are_served_and_vanish_and_come_back(lab: Lab, tmp_path: Path) -> None:
    content = os.urandom(3 * MIB)
    (tmp_path / "bundle.tar").write_bytes(content)
    url = lab.serve(tmp_path)
    node = lab.node("n1")
    fetch = f"curl -sS {url}/bundle.tar | wc -c"
    assert node.ssh(fetch).stdout.strip() == str(len(content))
    lab.serve_stop()
    assert node.ssh(f"curl -sS -m 5 {url}/", check=False).returncode == 7  # connection refused
    assert lab.serve_start() == url
    assert node.ssh(fetch).stdout.strip() == str(len(content))


def test_wiping_gives_an_empty_disk_and_new_host_keys(lab: Lab) -> None:
    node = lab.node("n2")
    node.ssh("echo old > mark")
    node.put_file(b"data", "/var/lib/etcd/member/wal", 0o600)
    assert node.exec("stat -c %a /var/lib/etcd/member/wal").stdout == "600\n"
    known = lab.known_hosts.read_text()
    node.wipe()
    assert not node.is_running
    node.start()
    assert lab.known_hosts.read_text() != known
    assert node.ssh("cat mark", check=False).returncode != 0
    assert node.exec("ls /var/lib/etcd").stdout == ""


def test_a_swarm_answers_and_goes(lab: Lab) -> None:
    hosts = lab.swarm(20)
    assert len(set(hosts.values())) == 20
    for name in ("h1", "h20"):
        argv = ["ssh", "-F", str(lab.ssh_config), name, "sudo -n hostname"]
        assert subprocess.run(argv, capture_output=True, text=True, check=True, timeout=30).stdout == f"{name}\n"
    argv[-1] = "sudo -n grep CapBnd /proc/self/status"
    caps = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=30).stdout
    assert bounding_set(caps) & (1 << CAP_SYS_TIME | 1 << CAP_SYS_MODULE) == 0
    lab.swarm_down()
    traces = lab.leaks()
    assert not any("swarm" in trace for trace in traces if trace.startswith("process"))
    assert not any(trace.startswith(f"interface {lab.config.veth('h')}") for trace in traces)
    assert f"interface {lab.config.swarm_bridge}" not in traces


def test_two_labs_live_side_by_side_and_a_small_disk_fills_up(lab: Lab) -> None:
    with Lab(f"disk-{os.getpid()}") as other:
        (node,) = other.up(1, disk_bytes=128 * MIB, mem_bytes=512 * MIB)
        assert other.subnet != lab.subnet
        for place in ("/root/fill", "/var/lib/containerd/fill"):
            full = node.exec(f"dd if=/dev/zero of={place} bs=1M count=256; rm {place}", check=False)
            assert "No space left on device" in full.stderr
        # one lab's nodes do not reach another's
        assert node.exec(f"ping -c 1 -W 1 {lab.node('n1').ip}", check=False).returncode != 0
        node.reset()
        assert node.ssh("hostname").stdout == "n1\n"
    assert other.leaks() == []
    assert loop_devices(other.config.dir) == []
    assert lab.node("n1").ssh("true").returncode == 0


def test_down_cleans_up_after_the_cli_and_its_processes_were_killed() -> None:
    name = f"crash-{os.getpid()}"
    lab = Lab(name)
    argv = [sys.executable, "-m", "tests.lab", "up", "2", "--lab", name]
    with subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as cli:
        try:
            assert wait_until(lambda: bool(find_children(lab.config)), 60)
            cli.kill()
            cli.wait(10)
            for child in find_children(lab.config)[:1]:
                os.kill(child.pid, signal.SIGKILL)  # a supervisor too
            assert lab.leaks() != []
        finally:
            lab.down()
    assert lab.leaks() == []
    lab.down()  # and again: nothing to do
    assert lab.leaks() == []


def test_an_unknown_node_or_layer_is_named() -> None:
    with pytest.raises(LabError, match="is not up"):
        Lab("never-up").node("n1")
    with pytest.raises(LabError, match="there is no layer 'nosuch'"):
        Lab("never-up").up(1, layers=["nosuch"])


def test_check_agrees_with_the_base_that_is_there() -> None:
    assert check() is None
    assert base_dir(lab_home()).is_dir()
