"""Observation with scripted hosts, and the script itself with the shells that are here."""

from __future__ import annotations

import shutil
import subprocess
import time
from pathlib import Path

import pytest

from kops_py.connect.base import Cancel
from kops_py.model.errors import CancelledError, CommandFailedError, SudoError, UnreachableError
from kops_py.observe.host import clock, observe_hosts
from kops_py.observe.host_parse import host_facts, sections
from kops_py.observe.host_script import SECTIONS, script
from tests.fakes.ssh import Call, FakeFleet, FakeHost, Reply
from tests.unit.runbooks.preflight_cases import make_spec


def is_script(argv: tuple[str, ...]) -> bool:
    return argv[:3] == ("sh", "-s", "--") and len(argv) == 6


def answer(call: Call) -> Reply:
    nonce = call.argv[3]
    body = {"clock": f"{time.time() + 100:.6f}", "user": "0", "hostname": "n1", "os": "ID=debian\nVERSION_ID=12"}
    lines = [f"{nonce} begin {k}\n{v}\n{nonce} end 0\n" for k, v in body.items()]
    return Reply("".join(lines) + f"{nonce} finished\n", sudo=True)


def test_one_round_trip_a_host_and_problems_stay_with_theirs() -> None:
    down, refused = UnreachableError("no answer"), SudoError("a password is required")
    fleet = FakeFleet(
        [
            FakeHost("n1").on(is_script, answer),
            FakeHost("n2").on(is_script, Reply(error=down)),
            FakeHost("n3").on(is_script, Reply(error=refused)),
        ]
    )
    found = observe_hosts(fleet, make_spec())
    assert [len(h.calls) for h in fleet.hosts.values()] == [1, 1, 1]
    assert fleet.host("n1").calls[0].argv[4] == "api.example.org"
    assert (found["n1"].hostname, found["n1"].os_version, found["n1"].sudo) == ("n1", "12", True)
    assert found["n1"].clock_offset_s == pytest.approx(100, abs=2)
    assert found["n2"].problem is down
    assert found["n3"].problem is refused


def test_output_that_ends_early_is_a_problem_that_says_why() -> None:
    hosts = [FakeHost(f"n{i}").on(is_script, Reply("x begin os\n", "sh: cannot fork\n", 2)) for i in (1, 2, 3)]
    problem = observe_hosts(FakeFleet(hosts), make_spec())["n1"].problem
    assert isinstance(problem, CommandFailedError)
    assert problem.why == "sh: cannot fork"


def test_cancel_ends_it() -> None:
    cancel = Cancel()
    cancel.set("SIGINT")
    with pytest.raises(CancelledError):
        observe_hosts(FakeFleet([FakeHost(f"n{i}") for i in (1, 2, 3)]), make_spec(), cancel=cancel)


def test_clock_is_read_against_the_midpoint() -> None:
    assert clock(105.0, 100.0, 102.0) == (4.0, 1.0)


@pytest.mark.parametrize("shell", ["dash", "bash --posix", "busybox sh"])
def test_script_runs_in_every_shell_and_needs_little(shell: str) -> None:
    command = shell.split()
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed")
    done = subprocess.run(
        [*command, "-s", "--", "mark", "localhost", ""], input=script().encode(), capture_output=True, timeout=60
    )
    assert done.stderr == b""
    found, finished = sections(done.stdout.decode(), "mark")
    assert finished
    assert set(found) == set(SECTIONS)
    facts = host_facts("here", found, frozenset())
    assert facts.kernel == subprocess.run(["uname", "-r"], capture_output=True, text=True).stdout.strip()
    assert facts.cpus > 0
    assert facts.memory_bytes > 0
    assert facts.disks["/var/lib/etcd"].size_bytes > 0
    assert facts.resolves_endpoint
    assert facts.sysctls["net.ipv4.ip_forward"] in ("0", "1", "2")


def test_script_without_any_tool_still_comes_to_its_end() -> None:
    before, _, after = script().partition('PATH="$PATH:')
    text = before + "PATH=/nowhere" + after.partition('"')[2]
    command = ["/bin/sh", "-s", "--", "mark", "", ""]
    done = subprocess.run(command, input=text.encode(), capture_output=True, timeout=60)
    found, finished = sections(done.stdout.decode(), "mark")
    assert finished
    assert (found["uname"], found["links"] == "", found["dpkg"]) == ("", False, "")
    facts = host_facts("here", found, frozenset())
    assert facts.cgroup_version in (1, 2)


@pytest.mark.parametrize("shell", ["dash", "bash --posix", "busybox sh"])
def test_kubelet_flags_by_name_and_size_of_the_etcd_data(shell: str, tmp_path: Path) -> None:
    command = shell.split()
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed")
    for name, text in {
        "var/lib/kubelet/kubeadm-flags.env": 'KUBELET_KUBEADM_ARGS="--network-plugin=cni --node-ip=10.0.0.1"\n',
        "etc/default/kubelet": "# --commented=1\nKUBELET_EXTRA_ARGS=--node-labels=a=s3cret--x '--cloud-config=/x'\n",
        "etc/systemd/system/kubelet.service.d/20 own.conf": '[Service]\nEnvironment="A=--network-plugin=cni"\n',
        "var/lib/etcd/member/snap/db": "x" * 300_000,
    }.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    text = script().replace(" /var/lib/", f" {tmp_path}/var/lib/").replace(" /etc/", f" {tmp_path}/etc/")
    done = subprocess.run(
        [*command, "-s", "--", "mark", "localhost", ""], input=text.encode(), capture_output=True, timeout=60
    )
    found, finished = sections(done.stdout.decode(), "mark")
    assert finished
    facts = host_facts("n1", found, frozenset())
    root = str(tmp_path)
    where = {flag: files.replace(root, "") for flag, files in facts.kubelet_flags.items()}
    own = "/etc/systemd/system/kubelet.service.d/20 own.conf"
    assert where == {
        "cloud-config": "/etc/default/kubelet",
        "network-plugin": f"/var/lib/kubelet/kubeadm-flags.env, {own}",
        "node-ip": "/var/lib/kubelet/kubeadm-flags.env",
        "node-labels": "/etc/default/kubelet",
    }
    assert 300_000 <= facts.etcd_data_bytes < 2_000_000
    assert "s3cret" not in found["kubelet_flags"]
