"""The connector with the real ansible-playbook, on this machine (connection local)."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import MappingProxyType

import pytest

from kops_py.connect.ansible import AnsibleRunner
from kops_py.connect.base import AnsibleResult, AnsibleStatus, Cancel
from kops_py.model.errors import AnsibleError, CancelledError
from kops_py.model.spec import HostSpec

SECRET = "correct-horse-battery"


def host(name: str, **variables: object) -> HostSpec:
    return HostSpec(
        name=name,
        address="127.0.0.1",
        port=22,
        user=None,
        groups=frozenset({"kube_node"}),
        node_ip="127.0.0.1",
        become=False,
        connection="local",
        variables=MappingProxyType({"ansible_python_interpreter": "{{ ansible_playbook_python }}", **variables}),
    )


@pytest.fixture
def playbooks(tmp_path: Path) -> Path:
    folder = tmp_path / "playbooks"
    folder.mkdir()
    return folder


def run(playbooks: Path, tasks: str, hosts: list[HostSpec], **options: object) -> AnsibleResult:
    (playbooks / "p.yml").write_text(f"- hosts: all\n  gather_facts: false\n  tasks:\n{tasks}")
    runner = AnsibleRunner(playbooks.parent / "runs", playbooks=playbooks, become_password=lambda: SECRET)
    arguments: dict[str, object] = {"timeout_s": 60, "variables": {}, **options}
    return runner.run("p", hosts, **arguments)  # type: ignore[arg-type]


TASKS = """
    - name: Say it
      ansible.builtin.debug: {msg: "{{ number + 1 }} {{ colour }} {{ groups.kube_node | length }}"}
    - name: Fail on two
      ansible.builtin.command: {cmd: "sh -c 'echo from the command >&2; exit 4'"}
      changed_when: true
      when: inventory_hostname == 'two'
    - name: Loop
      ansible.builtin.command: {cmd: "test {{ item }} != b"}
      changed_when: true
      loop: [a, b]
"""


def test_hosts_are_told_apart_in_a_thread_and_nothing_secret_stays(playbooks: Path) -> None:
    begun: list[tuple[str, str]] = []
    results: list[AnsibleResult] = []
    before = signal.getsignal(signal.SIGINT)

    def work() -> None:
        results.append(
            run(
                playbooks,
                TASKS,
                [host("one", colour="red"), host("two"), host("three")],
                variables={"number": 1},
                host_variables={"two": {"colour": "blue"}, "three": {"colour": "green"}},
                on_task=lambda *begin: begun.append(begin),
            )
        )

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(60)
    (result,) = results
    assert result.problem is None
    assert signal.getsignal(signal.SIGINT) is before
    one, two = result.hosts["one"], result.hosts["two"]
    assert (one.status, one.task, one.ok) == (AnsibleStatus.FAILED, "Loop", 1)
    assert one.message.startswith("b: ")  # the words after it differ between versions of ansible-core
    assert "non-zero return code" in one.message
    assert (two.status, two.task) == (AnsibleStatus.FAILED, "Fail on two")
    assert "from the command" in two.message
    assert ("one", "Say it") in begun
    assert ("two", "Fail on two") in begun
    assert ("two", "Loop") not in begun
    assert "2 red 3" in result.log_path.read_text()
    left = [p for p in (playbooks.parent / "runs").rglob("*") if p.is_file()]
    assert not any(SECRET in p.read_text(errors="replace") for p in left)
    assert {p.stat().st_mode & 0o077 for p in left} == {0}
    assert not list(playbooks.parent.glob("runs/**/job_events/*"))


def test_no_log_keeps_a_failure_quiet(playbooks: Path) -> None:
    tasks = """
    - name: Quiet
      ansible.builtin.command: {cmd: "sh -c 'echo topsecret >&2; exit 1'"}
      no_log: true
"""
    result = run(playbooks, tasks, [host("one")])
    assert result.hosts["one"].message == "the module's answer is hidden (no_log)"
    assert "topsecret" not in result.log_path.read_text()


def test_unreachable_is_not_failed(playbooks: Path) -> None:
    far = HostSpec(
        name="far",
        address="127.0.0.1",
        port=1,
        user="ops",
        groups=frozenset(),
        node_ip="127.0.0.1",
        become=False,
        ssh_args="-o UserKnownHostsFile=/dev/null",
    )
    result = run(playbooks, "    - ansible.builtin.ping:\n", [far, host("near")])
    assert result.hosts["far"].status is AnsibleStatus.UNREACHABLE
    assert "refused" in result.hosts["far"].message
    assert result.hosts["near"].status is AnsibleStatus.OK
    assert result.problem is None


def test_check_mode_changes_nothing(playbooks: Path, tmp_path: Path) -> None:
    tasks = f"    - ansible.builtin.file: {{path: {tmp_path}/made, state: touch, mode: '0600'}}\n"
    result = run(playbooks, tasks, [host("one")], check_mode=True)
    assert result.hosts["one"].changed == 1
    assert not (tmp_path / "made").exists()


def test_a_playbook_that_cannot_run_is_a_problem_with_the_reason(playbooks: Path) -> None:
    result = run(playbooks, "    - no_such_module: {}\n", [host("one")])
    assert result.problem is not None
    assert "no_such_module" in result.problem.why
    assert result.hosts["one"].status is AnsibleStatus.NOT_RUN


def test_a_time_limit_ends_it_and_names_the_task(playbooks: Path) -> None:
    tasks = "    - name: Long\n      ansible.builtin.command: sleep 50\n"
    for limit_s in (4, 30):  # on a busy machine Ansible needs longer than the first to come to its task
        begun = time.monotonic()
        result = run(playbooks, tasks, [host("one")], timeout_s=limit_s)
        assert time.monotonic() - begun < limit_s + 16
        assert result.problem is not None
        assert f"did not end within {limit_s} s" in result.problem.what
        if result.problem.why:
            break
    assert result.problem is not None
    assert "one in 'Long'" in result.problem.why


def soon(cancel: Cancel, folder: Path) -> None:
    """Ask to end once the command runs, so that there is something to end."""

    def watch() -> None:
        deadline = time.monotonic() + 15
        while not any("sleep" in command for command in working_in(folder)) and time.monotonic() < deadline:
            cancel.wait(0.05)
        cancel.set("SIGINT")

    threading.Thread(target=watch, daemon=True).start()


def test_cancel_ends_it(playbooks: Path, tmp_path: Path) -> None:
    cancel = Cancel()
    tasks = f"    - name: Long\n      ansible.builtin.command: sleep 51\n      args: {{chdir: {tmp_path}}}\n"
    begun = time.monotonic()
    with pytest.raises(CancelledError):
        run(playbooks, tasks, [host("one")], cancel=cancel, on_task=lambda *_: soon(cancel, tmp_path))
    assert time.monotonic() - begun < 20
    assert not list(playbooks.parent.glob("runs/*/inventory.json"))
    assert working_in(tmp_path) == []


KILLED = """
import sys
from pathlib import Path
sys.path.insert(0, {root!r})
from tests.unit.connect.test_ansible_run import AnsibleRunner, host
AnsibleRunner(Path({runs!r}), playbooks=Path({playbooks!r})).run("p", [host("one")], {{}}, timeout_s=100)
"""


def test_a_killed_program_leaves_no_playbook_behind(playbooks: Path, tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    tasks = f"    - name: Long\n      ansible.builtin.command: sleep 52\n      args: {{chdir: {work}}}\n"
    (playbooks / "p.yml").write_text(f"- hosts: all\n  gather_facts: false\n  tasks:\n{tasks}")
    root = Path(__file__).parents[3]
    code = KILLED.format(root=str(root), runs=str(tmp_path / "runs"), playbooks=str(playbooks))
    program = subprocess.Popen([sys.executable, "-c", code])
    wait_until(lambda: bool(working_in(work)), "the task runs")
    program.kill()
    program.wait(10)
    wait_until(lambda: not playing(playbooks), "ansible-playbook has ended")


def playing(folder: Path) -> list[int]:
    """Return the processes that have a playbook of this folder in their arguments."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if f"{folder}/" in (entry / "cmdline").read_text():
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def wait_until(condition: Callable[[], bool], what: str, timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {what}"
        time.sleep(0.05)


def working_in(folder: Path) -> list[str]:
    """Return the commands of all processes whose working directory is this folder."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if (entry / "cwd").resolve() == folder.resolve():
                found.append((entry / "cmdline").read_text().replace("\0", " "))
        except OSError:
            continue
    return found


def test_no_playbook_is_an_error_before_anything_runs(playbooks: Path, tmp_path: Path) -> None:
    with pytest.raises(AnsibleError, match="no playbook absent"):
        AnsibleRunner(tmp_path / "runs", playbooks=playbooks).run("absent", [host("one")], {}, timeout_s=5)
    assert not (tmp_path / "runs").exists()


def test_no_hosts_is_nothing_to_do(playbooks: Path) -> None:
    assert run(playbooks, "    - ansible.builtin.ping:\n", []).hosts == {}
