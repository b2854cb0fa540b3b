"""Long commands: started once, waited for across everything."""

from __future__ import annotations

import pytest

from kops_py.actions import jobs
from kops_py.actions.jobs import forget_job, read_job, run_job, start_job, wait_job
from kops_py.model.actions import ConfigureBridge
from kops_py.model.errors import CancelledError, CommandFailedError, DeadlineError, UnreachableError
from kops_py.model.facts import JobState
from tests.fakes.ssh import Call, Reply
from tests.unit.actions.stage import Stage, stage

TOKEN = "abcdef.0123456789abcdef"
LOG = f'[preflight] Running pre-flight checks\n[certs] Generating "ca" certificate\nkubeadm join --token {TOKEN}\n'


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "_WAIT_S", 0.01)


def begin(*states: str, log: str = LOG) -> Stage:
    made = stage()
    made.jobs["n1"].outcomes["kubeadm-init"] = list(states)
    made.jobs["n1"].logs["kubeadm-init"] = log
    return made


def test_a_job_is_started_and_its_end_and_phases_told() -> None:
    made = begin("running", "running", "ended 0")
    outcome = run_job(made.hosts["n1"], "kubeadm-init", ("kubeadm", "init"), made.ctx(ConfigureBridge("n1")))
    assert (outcome.exit_status, outcome.log_path) == (0, "/var/lib/kops-py/jobs/kubeadm-init/log")
    assert made.jobs["n1"].started == [("kubeadm-init", "kubeadm init")]
    assert made.progress == ['certs: Generating "ca" certificate'] * 2
    assert TOKEN not in outcome.log
    assert "[redacted token]" in outcome.log


def test_one_that_runs_already_is_not_started_again_but_waited_for() -> None:
    made = stage()
    made.jobs["n1"].states["kubeadm-init"] = ["running", "ended 3"]
    outcome = run_job(made.hosts["n1"], "kubeadm-init", ("kubeadm", "init"), made.ctx(ConfigureBridge("n1")))
    assert outcome.exit_status == 3
    assert made.jobs["n1"].started == []


def test_a_start_that_fails_says_where_and_why_without_secrets() -> None:
    made = begin()
    made.jobs["n1"].refuse["kubeadm-init"] = Reply(exit_status=1, stderr=f"Failed to start: no bus {TOKEN}\n")
    with pytest.raises(CommandFailedError) as caught:
        start_job(made.hosts["n1"], "kubeadm-init", ("true",))
    assert caught.value.where == "n1"
    assert caught.value.why == "Failed to start: no bus [redacted token]"
    assert caught.value.hint
    assert caught.value.exit_status == 1


@pytest.mark.parametrize(
    "error", [UnreachableError("lost", where="n1"), DeadlineError("ended not within 22 s", where="n1")]
)
def test_a_lost_connection_is_made_anew_and_the_wait_goes_on(error: UnreachableError | DeadlineError) -> None:
    made = begin("running", "ended 0")
    host = made.hosts["n1"]
    start_job(host, "kubeadm-init", ("true",))
    host.on(lambda argv: argv[0] == "tail", Reply(error=error, times=1))
    host.on(lambda argv: "echo interrupted" in argv[-1], Reply(error=error, times=2))
    outcome = wait_job(host, "kubeadm-init", made.ctx(ConfigureBridge("n1")))
    assert outcome.exit_status == 0
    assert made.waits == ["connection lost; the job goes on, connecting again"] * 3


def test_a_host_that_stays_away_ends_the_wait_by_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "_RECONNECT_S", 0.05)
    made = stage()
    made.hosts["n1"].on(lambda argv: "echo interrupted" in argv[-1], Reply(error=UnreachableError("gone", where="n1")))
    with pytest.raises(UnreachableError, match="gone"):
        wait_job(made.hosts["n1"], "kubeadm-init", made.ctx(ConfigureBridge("n1"), timeout_s=30))
    assert len(made.waits) >= 2


def test_the_deadline_names_the_phase_and_where_the_log_is() -> None:
    made = begin("running")
    start_job(made.hosts["n1"], "kubeadm-init", ("true",))
    with pytest.raises(DeadlineError) as caught:
        wait_job(made.hosts["n1"], "kubeadm-init", made.ctx(ConfigureBridge("n1"), timeout_s=0.05))
    assert caught.value.where == "n1"
    assert caught.value.why == 'kubeadm-init still runs (certs: Generating "ca" certificate)'
    assert "/var/lib/kops-py/jobs/kubeadm-init/log" in caught.value.hint


def test_a_cancel_leaves_the_job_alone() -> None:
    made = begin("running")
    start_job(made.hosts["n1"], "kubeadm-init", ("true",))

    def cancel(_: Call) -> Reply:
        made.cancel.set("SIGINT")
        return Reply("running")

    made.hosts["n1"].on(lambda argv: "echo interrupted" in argv[-1], cancel)
    with pytest.raises(CancelledError):
        wait_job(made.hosts["n1"], "kubeadm-init", made.ctx(ConfigureBridge("n1")))
    assert not any("stop" in argv for argv in made.hosts["n1"].argvs)


def test_an_interrupted_job_has_no_exit_status() -> None:
    made = begin("running", "interrupted")
    assert run_job(made.hosts["n1"], "kubeadm-init", ("true",), made.ctx(ConfigureBridge("n1"))).exit_status is None


def test_a_shell_that_talks_is_an_error_of_the_host_not_a_bug() -> None:
    made = begin("Welcome to n1!\nrunning")
    with pytest.raises(CommandFailedError, match="state of the job"):
        run_job(made.hosts["n1"], "kubeadm-init", ("true",), made.ctx(ConfigureBridge("n1")))


def test_reading_and_forgetting() -> None:
    made = stage()
    assert read_job(made.hosts["n1"], "kubeadm-join") is None
    made.jobs["n1"].states["kubeadm-join"] = ["ended 1"]
    assert read_job(made.hosts["n1"], "kubeadm-join") is JobState.FAILED
    forget_job(made.hosts["n1"], "kubeadm-join")
    assert read_job(made.hosts["n1"], "kubeadm-join") is None
    made.jobs["n1"].states["kubeadm-join"] = ["running"]
    with pytest.raises(CommandFailedError):
        forget_job(made.hosts["n1"], "kubeadm-join")
