"""A kubelet that refused a static pod is restarted while kubeadm waits, and not for ever."""

from __future__ import annotations

import pytest

from kops_py.actions import admission, jobs
from kops_py.actions.admission import AdmissionWatch
from kops_py.actions.jobs import start_job, wait_job
from kops_py.model.actions import ConfigureBridge
from tests.fakes.ssh import Call, Reply
from tests.unit.actions.stage import Stage, stage

REFUSED = "Failed to admit pod etcd-n1"


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "_WAIT_S", 0.01)
    monkeypatch.setattr(admission, "_LOOK_S", 0.0)


def waited(made: Stage, *answers: str) -> int:
    """Wait for a job while the kubelet's journal says this, look by look; returns how often it was looked at."""
    left, looks = list(answers), 0

    def answer(call: Call) -> Reply:
        nonlocal looks
        looks += 1
        return Reply(stdout=left.pop(0) if left else "", sudo=True)

    host = made.hosts["n1"]
    host.on(lambda argv: "_SYSTEMD_INVOCATION_ID" in argv[-1], answer)
    made.jobs["n1"].outcomes["kubeadm-init"] = ["running"] * 5 + ["ended 0"]
    start_job(host, "kubeadm-init", ("true",))
    ctx = made.ctx(ConfigureBridge("n1"))
    assert wait_job(host, "kubeadm-init", ctx, meanwhile=AdmissionWatch(host, ctx).look).exit_status == 0
    return looks


def test_a_kubelet_that_refused_a_pod_is_told_of_when_it_was_restarted() -> None:
    made = stage()
    assert waited(made, "", f"{REFUSED}\n") == 5
    assert made.waits == [f"the kubelet said '{REFUSED}', and was restarted"]


def test_one_that_refuses_it_again_and_again_is_left_alone() -> None:
    made = stage()
    assert waited(made, *[REFUSED] * 5) == 2


def test_nobody_looks_in_the_first_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "_LOOK_S", 10.0)
    assert waited(stage()) == 0
