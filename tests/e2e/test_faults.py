"""What goes wrong at an operator's site: the right exit code, the node's name, the next command, nothing broken.

All of it happens to one lab of three systems, in the order of a bad day; in the end the same command has built the
cluster.
"""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.bed import Bed
from tests.e2e.program import Finished
from tests.lab.config import SUDO_PASSWORD

GIB = 1024**3
NODES = ("n1", "n2", "n3")

pytestmark = pytest.mark.timeout(900)


class BadDay:
    """The lab of this file and the operator's files for it."""

    def __init__(self, bed: Bed) -> None:
        self.bed = bed
        self.program = bed.program
        self.write()

    def write(self, **variables: object) -> None:
        """Write the inventory for the account that needs a sudo password, with these changes."""
        usual = {"ansible_user": "opspw"}
        self.bed.write_inventory(control_planes=["n1"], workers=["n2", "n3"], variables={**usual, **variables})
        self.bed.write_cluster("bad-day", ssh={"becomePassword": "env:THE_SUDO_PASSWORD"})
        self.program.extra_environment["THE_SUDO_PASSWORD"] = SUDO_PASSWORD

    def fail(self, exit_code: int, *words: str, arguments: tuple[str, ...] = ()) -> Finished:
        """Run the command; it must end with this code and say these words."""
        finished = self.check(self.bed.bootstrap(*arguments, exit_code=exit_code), *words)
        assert "continue with: kops-py bootstrap -y" in finished.stderr, finished.report()
        return finished

    def check(self, finished: Finished, *words: str) -> Finished:
        """What was said holds these words, the command to continue with, no traceback and no password."""
        for word in words:
            assert word in finished.text, f"{word!r} is not said\n{finished.report()}"
        assert "error: " in finished.stderr, finished.report()
        assert "next: " in finished.stderr, finished.report()
        again = ("kops-py bootstrap -y", "run the same command again")
        assert any(words in finished.stderr for words in again), finished.report()
        assert SUDO_PASSWORD not in finished.text
        return finished

    def untouched(self) -> None:
        """No host was changed yet."""
        for name in NODES:
            assert self.bed.node(name).exec("test -e /etc/kops-py", check=False).returncode == 1, name


def test_bad_day(bed: Bed, tmp_path: Path) -> None:
    bed.boot(3, disk_bytes=8 * GIB)
    day = BadDay(bed)
    steps: list[Callable[[BadDay, Path], None]] = [
        _wrong_key,
        _unknown_host_key,
        _no_sudo,
        _wrong_sudo_password,
        _host_down,
        _endpoint_without_address,
        _repository_gone,
        _disk_full,
        _port_taken_at_init,
        _interrupted_during_init,
        _second_run,
    ]
    for step in steps:
        step(day, tmp_path)
        bed.say(step.__name__.strip("_").replace("_", " "))
    assert bed.ready_nodes() == dict.fromkeys(NODES, True)
    bed.assert_nothing_to_do()
    _no_password_left(bed)


def _wrong_key(day: BadDay, folder: Path) -> None:
    key = folder / "wrong_key"
    if not key.exists():
        day.bed.node("n1").exec("rm -f /root/k && ssh-keygen -q -t ed25519 -N '' -f /root/k")
        key.write_text(day.bed.node("n1").exec("cat /root/k; rm /root/k /root/k.pub").stdout)
        key.chmod(0o600)
    day.write(ansible_ssh_private_key_file=str(key))
    day.fail(3, "n1", "n2", "n3", "[authentication]")
    day.write()
    day.untouched()


def _unknown_host_key(day: BadDay, folder: Path) -> None:
    known = folder / "known_hosts"
    lines = day.bed.lab.known_hosts.read_text().splitlines()
    known.write_text("\n".join(line for line in lines if ",n2 " not in line) + "\n")
    day.write(ansible_ssh_common_args=f"-o UserKnownHostsFile={known}")
    ended = day.fail(3, "n2", "[host-key]", "ssh-keyscan")
    assert "n1: " not in "\n".join(line for line in ended.text.splitlines() if "[host-key]" in line)
    day.write()
    day.untouched()


def _no_sudo(day: BadDay, folder: Path) -> None:
    day.write(ansible_user="nosudo")
    day.fail(3, "n1", "n2", "n3", "[sudo]")
    day.write()
    day.untouched()


def _wrong_sudo_password(day: BadDay, folder: Path) -> None:
    day.program.extra_environment["THE_SUDO_PASSWORD"] = "not-the-password"
    day.fail(3, "n1", "[sudo]")
    del day.program.extra_environment["THE_SUDO_PASSWORD"]
    missing = day.bed.bootstrap(exit_code=2)
    assert "THE_SUDO_PASSWORD" in missing.stderr, missing.report()
    day.write()
    day.untouched()


def _host_down(day: BadDay, folder: Path) -> None:
    day.bed.node("n3").kill()
    day.fail(3, "n3", "[unreachable]")
    day.bed.node("n3").start()
    day.untouched()


def _endpoint_without_address(day: BadDay, folder: Path) -> None:
    day.bed.write_cluster(
        "bad-day", ssh={"becomePassword": "env:THE_SUDO_PASSWORD"}, controlPlaneEndpoint="api.nowhere.invalid:6443"
    )
    day.fail(3, "n1", "api.nowhere.invalid", "[endpoint-unresolved]")
    day.write()
    day.untouched()


def _repository_gone(day: BadDay, folder: Path) -> None:
    running = day.program.start("bootstrap", "-y")
    running.wait_said(r"^\[.*\] --- preparation", deadline_s=60)
    day.bed.lab.serve_stop()
    try:
        day.check(day.program.expect(running, exit_code=13, deadline_s=180), "n1", "failed", "log:")
    finally:
        day.bed.lab.serve_start()


def _disk_full(day: BadDay, folder: Path) -> None:
    node = day.bed.node("n3")
    running = day.program.start("bootstrap", "-y")
    running.wait_said(r"^\[.*\] --- preparation", deadline_s=60)
    node.exec("fallocate -l $(($(stat -f -c '%a*%S' /var) - 4194304)) /var/full || true; df -k /var >&2")
    ended = day.check(day.program.expect(running, exit_code=13, deadline_s=180), "n3", "continue with:")
    full = re.compile("error: n3: .*failed\n  why: .*(free space|No space left)", re.DOTALL)
    assert full.search(ended.stderr), ended.report()
    assert "error: n1" not in ended.stderr, ended.report()
    node.exec("rm /var/full")


def _port_taken_at_init(day: BadDay, folder: Path) -> None:
    """kubeadm itself finds what preflight was told to pass over."""
    node = day.bed.node("n1")
    node.exec(
        "systemd-run --quiet --unit=squatter python3 -c "
        "'import socket,time; s=socket.create_server((\"0.0.0.0\", 10259)); time.sleep(600)'"
    )
    day.fail(3, "n1", "10259", "[port-in-use]")
    day.fail(10, "n1", "10259", "kubeadm init failed", arguments=("--ignore", "port-in-use"))
    node.exec("systemctl stop squatter")


def _interrupted_during_init(day: BadDay, folder: Path) -> None:
    """Ctrl-C ends the program; kubeadm goes on, and the next run takes up what it did."""
    running = day.program.start("bootstrap", "-y")
    said_s = running.wait_said(r"n1:\s+wait-control-plane", deadline_s=120)
    running.interrupt()
    ended = day.program.expect(running, exit_code=130, deadline_s=said_s + 20)
    assert "kops-py bootstrap -y" in ended.stderr, ended.report()
    unit = day.bed.node("n1").exec("systemctl is-active kops-py-kubeadm-init.service", check=False).stdout.strip()
    assert unit == "active", "the interrupted run ended kubeadm on the host"


def _second_run(day: BadDay, folder: Path) -> None:
    """Two runs at once: refused by the lock here, and from another folder by the one in the cluster."""
    running = day.program.start("bootstrap", "-y")
    running.wait_said(r"^\[.*\] n1: kubeadm init", deadline_s=60)
    assert "runs there already" in running.stderr or "kubeadm init" in running.stderr
    refused = day.bed.bootstrap(exit_code=4)
    assert f"process {running.pid}" in refused.stderr, refused.report()
    running.wait_said(r"^\[.*\] --- workers", deadline_s=180)
    elsewhere = day.bed.bootstrap("--run-dir", "elsewhere", exit_code=4)
    assert str(running.pid) in elsewhere.stderr, elsewhere.report()
    assert "Lease kube-system/kops-py" in elsewhere.stderr
    ended = day.program.expect(running, deadline_s=300)
    count = day.bed.node("n1").exec("journalctl --no-pager -o cat -u kops-py-kubeadm-init.service").stdout
    assert count.count("Deactivated successfully") == 1, ended.report()


def _no_password_left(bed: Bed) -> None:
    """The sudo password is in none of the files the runs left here."""
    for path in bed.folder.rglob("*"):
        if path.is_file():
            assert SUDO_PASSWORD not in path.read_text(errors="replace"), path


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_join_cannot_reach_the_control_plane(bed: Bed) -> None:
    """kubeadm gives up after its own five minutes; the other worker is a member by then."""
    bed.boot(3)
    bed.write_inventory(control_planes=["n1"], workers=["n2", "n3"])
    bed.write_cluster("blocked")
    node, address = bed.node("n3"), bed.node("n1").ip
    running = bed.program.start("bootstrap", "-y")
    running.wait_said(r"^\[.*\] --- first control plane", deadline_s=120)
    node.exec(f"iptables -A OUTPUT -d {address} -p tcp --dport 6443 -j DROP")
    failed = bed.program.expect(running, exit_code=10, deadline_s=900)
    assert "n3" in failed.stderr.partition("error:")[2], failed.report()
    assert bed.ready_nodes().keys() == {"n1", "n2"}
    node.exec(f"iptables -D OUTPUT -d {address} -p tcp --dport 6443 -j DROP")
    bed.bootstrap()
    bed.wait_ready(NODES)
    bed.assert_nothing_to_do()


@pytest.mark.soak
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("how", ["kill", "drop"])
@pytest.mark.parametrize(
    ("node", "point"),
    [
        pytest.param("n3", r"n3:\s+Install and hold", id="preparation"),
        pytest.param("n3", r"n3:\s+kubeadm join", id="join"),
        pytest.param("n1", r"n1:\s+wait-control-plane", id="init"),
    ],
)
def test_host_lost_during_the_run(bed: Bed, node: str, point: str, how: str) -> None:
    bed.boot(3)
    bed.write_inventory(control_planes=["n1"], workers=["n2", "n3"])
    bed.write_cluster("lost")
    running = bed.program.start("bootstrap", "-y")
    running.wait_said(point, deadline_s=120)
    lost = bed.node(node)
    lost.kill() if how == "kill" else lost.drop()
    failed = bed.program.expect(running, exit_code=10, deadline_s=600)
    assert node in failed.stderr.partition("error:")[2], failed.report()
    assert "kops-py bootstrap -y" in failed.stderr
    lost.start() if how == "kill" else lost.undrop()
    bed.bootstrap()
    bed.wait_ready(NODES)
    bed.assert_nothing_to_do()


@pytest.mark.soak
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_in_every_wave(bed: Bed, number: signal.Signals) -> None:
    """A polite end in any wave: exit code 130 within seconds, and the same command goes on."""
    bed.boot(3)
    bed.write_inventory(control_planes=["n1"], workers=["n2", "n3"])
    bed.write_cluster("signals")
    for wave in ("preparation", "first control plane", "workers", "bridge network", "healthy"):
        running = bed.program.start("bootstrap", "-y")
        running.wait_said(rf"^\[.*\] --- {wave}", deadline_s=200)
        os.kill(running.pid, number)
        bed.program.expect(running, exit_code=130, deadline_s=60)
        bed.say(f"{number.name} in {wave}")
    bed.bootstrap()
    bed.assert_nothing_to_do()
