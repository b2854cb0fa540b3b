"""Schedules: accepted by systemd itself, and the same every day."""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from kops_py.model.version import Version
from kops_py.tools import etcd_schedule as tool
from kops_py.tools.etcd_schedule import Schedule

SCHEDULE = Schedule(
    cluster="prod",
    every_hours=6,
    argv=("/usr/bin/true", "etcd", "backup", "-i", "/srv/my $files 100%", "--yes"),
    user="root",
    working_folder="/var/tmp",
    writable=("/srv/backup", "/var/lib/a b"),
)


@pytest.mark.parametrize("hours", [1, 6, 24])
def test_systemd_accepts_the_units(tmp_path: Path, hours: int) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed (Debian: systemd)")
    schedule = dataclasses.replace(SCHEDULE, every_hours=hours)
    service, timer = tmp_path / f"{schedule.unit}.service", tmp_path / f"{schedule.unit}.timer"
    service.write_text(tool.service_unit(schedule))
    timer.write_text(tool.timer_unit(schedule))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(service), str(timer)], capture_output=True, text=True, timeout=60
    )
    assert "kops-py" not in done.stderr, done.stderr
    calendar = next(x for x in timer.read_text().splitlines() if x.startswith("OnCalendar=")).partition("=")[2]
    said = subprocess.run(
        ["systemd-analyze", "calendar", "--iterations=3", calendar], capture_output=True, text=True, timeout=60
    )
    assert said.returncode == 0, said.stderr


def test_a_service_may_do_little() -> None:
    text = tool.service_unit(SCHEDULE)
    for line in ("NoNewPrivileges=yes", "ProtectSystem=strict", "UMask=0077", "RestrictNamespaces=yes"):
        assert f"\n{line}\n" in text
    assert 'ExecStart=/usr/bin/true etcd backup -i "/srv/my $$files 100%%" --yes' in text
    assert 'ReadWritePaths=-/srv/backup "-/var/lib/a b" -/var/tmp' in text
    assert "CapabilityBoundingSet=\n" in tool.service_unit(dataclasses.replace(SCHEDULE, user="backup"))
    assert "SuccessExitStatus=4\n" in text, "another backup that is being made is no failure"
    assert tool.is_ours(text)
    assert not tool.is_ours("[Unit]\n")
    assert "Persistent=true" in tool.timer_unit(SCHEDULE)
    assert "RandomizedDelaySec=600" in tool.timer_unit(SCHEDULE)


@pytest.mark.parametrize(("hours", "field"), [(1, "*"), (6, "*/6"), (24, "0")])
def test_cron(hours: int, field: str) -> None:
    line = tool.cron_line(dataclasses.replace(SCHEDULE, every_hours=hours))
    assert line.split()[1:5] == [field, "*", "*", "*"]
    assert 0 <= int(line.split()[0]) < 60
    assert "100\\%" in line


def cron_job(schedule: Schedule, version: str = "v1.31.2") -> dict[str, Any]:
    return tool.cron_job(schedule, image="registry/kops-py:1", namespace="backup", version=Version.parse(version))


def test_a_cron_job_has_no_rights() -> None:
    job = cron_job(SCHEDULE)
    pod = job["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    assert job["spec"]["concurrencyPolicy"] == "Forbid"
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["containers"][0]["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert len(cron_job(dataclasses.replace(SCHEDULE, cluster="x" * 63))["metadata"]["name"]) <= 52
    assert [cron_job(SCHEDULE, v)["apiVersion"] for v in ("v1.20.15", "v1.21.0")] == ["batch/v1beta1", "batch/v1"]


def test_what_systemd_says_of_a_timer() -> None:
    found = tool.parse_show("Id=a.timer\nLoadState=loaded\n\nId=a.service\nResult=exit-code\n")
    assert found["a.timer"]["LoadState"] == "loaded"
    assert found["a.service"]["Result"] == "exit-code"
    assert tool.parse_show("") == {}


PRINTED = """\
Id=kops-py-etcd-backup-prod.timer
LoadState=loaded
ActiveState=active
NextElapseUSecRealtime=Thu 2026-11-26 12:07:41 UTC
LastTriggerUSec=Thu 2026-11-26 06:01:00 UTC

Id=kops-py-etcd-backup-prod.service
LoadState=loaded
ActiveState=failed
"""


def test_what_is_shown_of_a_schedule() -> None:
    ran = "Result=exit-code\nExecMainStatus=14\nExecMainStartTimestamp=06:01\nExecMainExitTimestamp=06:02\n"
    found = tool.shown("prod", tool.parse_show(PRINTED + ran))
    assert (found["installed"], found["active"], found["running"]) == ("yes", "active", "no")
    assert (found["last"], found["last_result"], found["last_exit_code"]) == ("06:01", "exit-code", "14")
    # after a restart of the machine systemd calls a service that did not run yet a success
    not_yet = "Result=success\nExecMainStatus=0\nExecMainStartTimestamp=\nExecMainExitTimestamp=\n"
    found = tool.shown("prod", tool.parse_show(PRINTED + not_yet))
    assert (found["last"], found["last_result"]) == ("Thu 2026-11-26 06:01:00 UTC", "")
    assert tool.shown("prod", {})["installed"] == "no"
