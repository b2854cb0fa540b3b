"""Whether a restart of the plan is left out, as the host says when its turn comes."""

from __future__ import annotations

import dataclasses

import pytest

from kops_py.actions import reboot
from kops_py.actions.deps import Deps
from kops_py.model.actions import RebootNode
from kops_py.model.facts import HostFacts
from kops_py.tools.restarts import restart_needed_script
from kops_py.tools.systemd import BOOT_ID
from tests.fakes.ssh import Reply
from tests.unit.actions.stage import Stage, stage

IF_NEEDED = RebootNode("n1", "first", only_if_needed=True)


def with_host(os_id: str, os_like: str = "") -> tuple[Stage, Deps]:
    made = stage()
    made.hosts["n1"].on(("cat", BOOT_ID), "first\n")
    return made, dataclasses.replace(made.deps, hosts={"n1": HostFacts("n1", os_id=os_id, os_like=os_like)})


@pytest.mark.parametrize(
    ("os_id", "os_like", "family"),
    [("debian", "", "debian"), ("ubuntu", "debian", "debian"), ("rocky", "rhel centos fedora", "redhat")],
)
def test_after_its_updates_a_host_is_asked_with_the_script_that_looked_at_it_before(
    os_id: str, os_like: str, family: str
) -> None:
    made, deps = with_host(os_id, os_like)
    asked = ("sh", "-c", restart_needed_script(family))
    made.hosts["n1"].on(asked, Reply(exit_status=1, sudo=True))
    assert reboot.why_no_reboot(deps, IF_NEEDED) == "no restart is needed"
    made.hosts["n1"].on(asked, Reply(exit_status=0, sudo=True))
    assert reboot.why_no_reboot(deps, IF_NEEDED) is None


def test_a_host_of_no_known_family_and_one_that_is_to_restart_in_any_case_are_not_asked() -> None:
    _, deps = with_host("suse")
    assert reboot.why_no_reboot(deps, IF_NEEDED) is None
    _, deps = with_host("debian")
    assert reboot.why_no_reboot(deps, RebootNode("n1", "first")) is None


def test_a_host_that_left_the_boot_id_of_the_plan_is_not_restarted_again() -> None:
    _, deps = with_host("debian")
    why = "it was restarted since the plan was made"
    assert reboot.why_no_reboot(deps, RebootNode("n1", "zeroth")) == why
    assert reboot.why_no_reboot(deps, dataclasses.replace(IF_NEEDED, boot_id="zeroth")) == why
