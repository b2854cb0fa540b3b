"""Scripts and parsers of jobs; their behaviour on a real system is shown in tests/integration/test_jobs_lab.py."""

from __future__ import annotations

import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kops_py.model.facts import JobState
from kops_py.tools import systemd
from kops_py.tools.systemd import JobStatus

SCRIPTS = {
    "start": systemd.start_job_script("kubeadm-init", ("kubeadm", "init", "it's"), time_limit_s=600.5),
    "wait": systemd.wait_job_script("kubeadm-init", 2.5),
    "clear": systemd.clear_job_script("kubeadm-init"),
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_are_posix_sh(name: str) -> None:
    subprocess.run(["dash", "-n"], input=SCRIPTS[name], text=True, check=True)


def test_limits_are_rounded_up_to_seconds() -> None:
    assert "--property=RuntimeMaxSec=601 " in SCRIPTS["start"]
    assert "+ 3))" in SCRIPTS["wait"]
    assert "RuntimeMaxSec" not in systemd.start_job_script("x", ("true",))


@pytest.mark.parametrize("job", ["", "-x", "x-", "A", "a/b", "..", "a b", "a;b", "x" * 64, "a\n"])
def test_bad_names_are_refused_everywhere(job: str) -> None:
    for make in (
        lambda: systemd.start_job_script(job, ("true",)),
        lambda: systemd.wait_job_script(job, 1),
        lambda: systemd.clear_job_script(job),
        lambda: systemd.tail_job_argv(job),
        lambda: systemd.stop_job_argv(job),
        lambda: systemd.job_unit(job),
    ):
        with pytest.raises(ValueError, match="not a job name"):
            make()


def test_a_job_needs_a_command() -> None:
    with pytest.raises(ValueError, match="needs a command"):
        systemd.start_job_script("x", ())


@given(st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20), max_size=4))
def test_arguments_survive_both_shells(arguments: list[str]) -> None:
    script = systemd.start_job_script("x", ("printf", r"%s\0", *arguments))
    # What the start script writes as the job's own script, asked of the shell itself.
    line_start = script.index("printf '%s' ")
    line_end = script.index(' >"$dir/run"')
    runner = subprocess.run(["dash", "-c", script[line_start:line_end]], check=True, capture_output=True).stdout
    command = runner.decode().split("export HOME\n", 1)[1].rsplit(" </dev/null", 1)[0]
    output = subprocess.run(["dash", "-c", command], check=True, capture_output=True).stdout
    assert output.decode().split("\0")[:-1] == (arguments or [""])


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ("ended 0\n", JobStatus(JobState.SUCCEEDED, 0)),
        ("ended 137\n", JobStatus(JobState.FAILED, 137)),
        ("running\n", JobStatus(JobState.RUNNING)),
        ("interrupted\n", JobStatus(JobState.INTERRUPTED)),
        ("absent\n", None),
    ],
)
def test_states_are_read(text: str, status: JobStatus | None) -> None:
    assert systemd.parse_job_status(text) == status


@pytest.mark.parametrize("text", ["", "ended", "ended x", "succeeded", "running 0", "ended 1\nended 2"])
def test_other_output_is_no_state(text: str) -> None:
    with pytest.raises(ValueError, match="not the state of a job"):
        systemd.parse_job_status(text)


def test_argv() -> None:
    assert systemd.tail_job_argv("x", 5) == ("tail", "-n", "5", "--", "/var/lib/kops-py/jobs/x/log")
    assert systemd.stop_job_argv("x") == ("systemctl", "stop", "kops-py-x.service")
