"""Jobs on a booted system: they outlive the connection, end with a status, and a lost one is known as lost."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence

import pytest

from kops_py.model.facts import JobState
from kops_py.tools import systemd
from kops_py.tools.systemd import JobStatus
from tests.lab import Lab, Node, unavailable_reason

REASON = unavailable_reason()
pytestmark = [
    pytest.mark.lab,
    pytest.mark.skipif(REASON is not None, reason=str(REASON)),
]


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    with Lab(f"jobs-{os.getpid()}") as lab:
        lab.down()
        (node,) = lab.up(1)
        yield node
    assert lab.leaks() == []


def sudo(script: str) -> str:
    return f"sudo sh -c {shlex.quote(script)}"


def start(node: Node, job: str, argv: Sequence[str], **options: float) -> subprocess.CompletedProcess[str]:
    return node.ssh(sudo(systemd.start_job_script(job, argv, **options)), user="ops", check=False)


def wait(node: Node, job: str, timeout_s: float = 30.0) -> JobStatus | None:
    output = node.ssh(sudo(systemd.wait_job_script(job, timeout_s)), user="ops", timeout_s=timeout_s + 30).stdout
    return systemd.parse_job_status(output)


def test_exit_status_and_output_are_kept_private(node: Node) -> None:
    argv = ("sh", "-c", "echo $HOME '%h' $1; echo bad >&2; pwd; cat; exit 3", "sh", "it's a b$c")
    assert start(node, "exit-three", argv).returncode == 0
    assert wait(node, "exit-three") == JobStatus(JobState.FAILED, 3)
    log = node.exec([*systemd.tail_job_argv("exit-three", 10)]).stdout
    assert log.splitlines() == ["/root %h it's a b$c", "bad", "/"]
    folder = systemd.job_dir("exit-three")
    modes = node.exec(f"stat -c '%a %n' {systemd.JOBS_DIR} {folder} {folder}/log {folder}/rc {folder}/run").stdout
    assert [line.split()[0] for line in modes.splitlines()] == ["700", "700", "600", "600", "600"]


def test_success_and_a_second_look(node: Node) -> None:
    assert start(node, "fine", ("true",)).returncode == 0
    assert wait(node, "fine") == JobStatus(JobState.SUCCEEDED, 0)
    assert wait(node, "fine", 0) == JobStatus(JobState.SUCCEEDED, 0)
    assert wait(node, "never-started", 0) is None


def test_a_job_can_be_started_again_after_it_failed(node: Node) -> None:
    for status in (7, 0, 9):
        assert start(node, "again", ("sh", "-c", f"exit {status}")).returncode == 0
        found = wait(node, "again")
        assert found is not None
        assert found.exit_status == status


def test_a_second_start_while_it_runs_is_refused_and_harms_nothing(node: Node) -> None:
    assert start(node, "long", ("sh", "-c", "echo first; exec sleep 300")).returncode == 0
    refused = start(node, "long", ("echo", "second"))
    assert refused.returncode == systemd.JOB_RUNNING_STATUS
    assert "running already" in refused.stderr
    assert wait(node, "long", 0) == JobStatus(JobState.RUNNING)
    assert node.ssh(sudo(systemd.clear_job_script("long")), check=False).returncode == systemd.JOB_RUNNING_STATUS
    node.exec([*systemd.stop_job_argv("long")])
    assert wait(node, "long") == JobStatus(JobState.INTERRUPTED)
    assert node.exec([*systemd.tail_job_argv("long")]).stdout == "first\n"
    node.ssh(sudo(systemd.clear_job_script("long")))
    assert wait(node, "long", 0) is None


def test_ten_starts_at_once_run_it_once(node: Node) -> None:
    node.exec("rm -f /var/tmp/counted")
    argv = ("sh", "-c", "echo x >>/var/tmp/counted; exec sleep 300")
    results: list[int] = []
    threads = [threading.Thread(target=lambda: results.append(start(node, "once", argv).returncode)) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(results) == [0] + [systemd.JOB_RUNNING_STATUS] * 9
    node.exec([*systemd.stop_job_argv("once")])
    assert node.exec("cat /var/tmp/counted").stdout == "x\n"


def test_the_wait_ends_at_its_limit_and_at_the_end_of_the_job(node: Node) -> None:
    release = "/var/tmp/release"
    node.exec(f"rm -f {release}; mkfifo {release}")
    assert start(node, "released", ("cat", release)).returncode == 0
    begin = time.monotonic()
    assert wait(node, "released", 2) == JobStatus(JobState.RUNNING)
    assert 1 <= time.monotonic() - begin < 15
    found: list[JobStatus | None] = []
    waiter = threading.Thread(target=lambda: found.append(wait(node, "released", 60)))
    waiter.start()
    node.exec(f"echo go >{release}")
    begin = time.monotonic()
    waiter.join(60)
    assert found == [JobStatus(JobState.SUCCEEDED, 0)]
    assert time.monotonic() - begin < 10


def test_the_job_outlives_a_killed_ssh_client(node: Node) -> None:
    lab = node.lab
    release = "/var/tmp/outlives"
    node.exec(f"rm -f {release}; mkfifo {release}")
    script = systemd.start_job_script("outlives", ("cat", release)).replace("exec systemd-run", "systemd-run")
    script += systemd.wait_job_script("outlives", 300)
    client = subprocess.Popen(["ssh", "-F", str(lab.ssh_config), node.name, sudo(script)], stdout=subprocess.PIPE)
    deadline = time.monotonic() + 30
    while (status := wait(node, "outlives", 0)) is None or status.state is not JobState.RUNNING:
        assert time.monotonic() < deadline, f"the job did not start: {status}"
    client.send_signal(signal.SIGKILL)
    client.communicate(timeout=30)
    assert wait(node, "outlives", 0) == JobStatus(JobState.RUNNING)
    node.exec(f"echo done >{release}")
    assert wait(node, "outlives") == JobStatus(JobState.SUCCEEDED, 0)
    assert node.exec([*systemd.tail_job_argv("outlives")]).stdout == "done\n"


def test_what_a_job_leaves_running_is_not_the_job(node: Node) -> None:
    # A unit of its own, as containerd and the kubelet are: it lives on and must not hold the job's lock.
    argv = ("systemd-run", "--quiet", "--collect", "--unit=left-behind", "sleep", "300")
    assert start(node, "leaves", argv).returncode == 0
    assert wait(node, "leaves") == JobStatus(JobState.SUCCEEDED, 0)
    node.exec("systemctl stop left-behind")


def test_a_time_limit_interrupts(node: Node) -> None:
    assert start(node, "limited", ("sleep", "300"), time_limit_s=1).returncode == 0
    assert wait(node, "limited") == JobStatus(JobState.INTERRUPTED)


def test_a_killed_main_process_is_an_interruption(node: Node) -> None:
    assert start(node, "killed", ("sleep", "300")).returncode == 0
    node.exec(f"systemctl kill --signal=KILL {systemd.job_unit('killed')}")
    assert wait(node, "killed") == JobStatus(JobState.INTERRUPTED)


def test_power_loss_is_an_interruption_and_the_job_can_start_again(node: Node) -> None:
    assert start(node, "power", ("sleep", "300")).returncode == 0
    assert start(node, "done-before", ("true",)).returncode == 0
    assert wait(node, "done-before") == JobStatus(JobState.SUCCEEDED, 0)
    node.kill()
    node.start()
    assert wait(node, "done-before", 5) == JobStatus(JobState.SUCCEEDED, 0)
    assert wait(node, "power", 5) == JobStatus(JobState.INTERRUPTED)
    assert start(node, "power", ("true",)).returncode == 0
    assert wait(node, "power") == JobStatus(JobState.SUCCEEDED, 0)
