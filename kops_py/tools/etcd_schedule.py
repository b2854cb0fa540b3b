"""A schedule for backups of etcd: a systemd timer, a cron line, a Kubernetes CronJob; as text."""

from __future__ import annotations

import hashlib
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kops_py.model.errors import ExitCode
from kops_py.model.version import Version

UNIT_FOLDER = "/etc/systemd/system"
_MARK = "# made by kops-py etcd schedule; removed by it"
_TIMEOUT_S = 4 * 3600
_CRON_JOB_V1 = Version(1, 21, 0)
"""The first Kubernetes whose CronJobs are ``batch/v1``."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """When a backup is made, by whom, and with which command; ``writable`` are the folders it writes into."""

    cluster: str
    every_hours: int
    argv: tuple[str, ...]
    user: str
    working_folder: str
    writable: tuple[str, ...] = ()
    jitter_s: int = 600

    @property
    def unit(self) -> str:
        """Return the name of the units, without their ending."""
        return unit_name(self.cluster)

    @property
    def minute(self) -> int:
        """Return the minute of the hour: one of the cluster's own, so that not all begin at once."""
        return hashlib.sha256(self.cluster.encode()).digest()[0] % 60

    @property
    def secrets_file(self) -> str:
        """Return the file with what the service finds in its environment."""
        return f"/etc/kops-py/{self.cluster}.backup.env"


def unit_name(cluster: str) -> str:
    """Return the name of a cluster's units, without their ending."""
    return f"kops-py-etcd-backup-{cluster}"


def service_unit(schedule: Schedule) -> str:
    """Return the service: one backup, with no more rights than it needs.

    What it may not do: write anywhere but its own folders, gain rights, load modules, change the system. It keeps the
    capability to read files whatever their mode only where it is root. When another backup is being made it has nothing
    to do, and that is no failure: ``etcd check`` tells when none of them ends well.
    """
    folders = " ".join(_quoted(f"-{p}") for p in dict.fromkeys((*schedule.writable, schedule.working_folder)))
    capabilities = "CAP_DAC_READ_SEARCH CAP_DAC_OVERRIDE" if schedule.user == "root" else ""
    return f"""\
{_MARK}
[Unit]
Description=Backup of etcd of the cluster {schedule.cluster}
Documentation=https://kubernetes.io/docs/tasks/administer-cluster/configure-upgrade-etcd/
Wants=network-online.target
After=network-online.target

[Service]
Type=oneshot
User={schedule.user}
WorkingDirectory={_escaped(schedule.working_folder)}
EnvironmentFile=-{schedule.secrets_file}
ExecStart={" ".join(_quoted(word.replace("$", "$$")) for word in schedule.argv)}
SuccessExitStatus={int(ExitCode.LOCKED)}
TimeoutStartSec={_TIMEOUT_S}
KillMode=mixed
Nice=10
IOSchedulingClass=idle
UMask=0077
NoNewPrivileges=yes
CapabilityBoundingSet={capabilities}
ProtectSystem=strict
ProtectHome=read-only
ReadWritePaths={folders}
PrivateTmp=yes
PrivateDevices=yes
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectKernelLogs=yes
ProtectControlGroups=yes
ProtectClock=yes
ProtectHostname=yes
ProtectProc=invisible
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallErrorNumber=EPERM
"""


def timer_unit(schedule: Schedule) -> str:
    """Return the timer: with jitter, and a run that was missed while the machine was off is made up for."""
    return f"""\
{_MARK}
[Unit]
Description=Backups of etcd of the cluster {schedule.cluster}, every {schedule.every_hours} h

[Timer]
OnCalendar=*-*-* {_hours(schedule)}:{schedule.minute:02}:00
RandomizedDelaySec={schedule.jitter_s}
AccuracySec=1min
Persistent=true

[Install]
WantedBy=timers.target
"""


def cron_line(schedule: Schedule) -> str:
    """Return a line for /etc/cron.d; cron has no jitter and makes up for nothing."""
    command = f"cd {shlex.quote(schedule.working_folder)} && {shlex.join(schedule.argv)}"
    return f"{cron_times(schedule)} {schedule.user} {command}".replace("%", "\\%") + "\n"


def cron_times(schedule: Schedule) -> str:
    """Return the five fields of cron."""
    hours = "*" if schedule.every_hours == 1 else "0" if schedule.every_hours == 24 else f"*/{schedule.every_hours}"
    return f"{schedule.minute} {hours} * * *"


def cron_job(schedule: Schedule, *, image: str, namespace: str, version: Version) -> dict[str, Any]:
    """Return a CronJob that runs kops-py from an image in a cluster of this version.

    Inventory, cluster.yaml, the SSH key and known_hosts come from the Secret of its name. What the cluster itself
    cannot start any more, no CronJob can back up: ``etcd check`` from outside is needed with it.
    """
    name = f"kops-py-etcd-backup-{schedule.cluster}"[:52].rstrip("-.")
    container = {
        "name": "backup",
        "image": image,
        "command": list(schedule.argv),
        "workingDir": "/work",
        # the number it runs as has no name in the image
        "env": [{"name": "HOME", "value": "/work"}, {"name": "LOGNAME", "value": "kops-py"}],
        "resources": {"requests": {"cpu": "100m", "memory": "256Mi"}, "limits": {"memory": "2Gi"}},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        },
        "volumeMounts": [
            {"name": "work", "mountPath": "/work"},
            {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108 - inside the container
            {"name": "config", "mountPath": "/config", "readOnly": True},
        ],
    }
    pod = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 10001,
            "fsGroup": 10001,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [container],
        "volumes": [
            {"name": "work", "emptyDir": {}},
            {"name": "tmp", "emptyDir": {}},
            {"name": "config", "secret": {"secretName": name, "defaultMode": 0o440}},
        ],
    }
    return {
        "apiVersion": "batch/v1" if version >= _CRON_JOB_V1 else "batch/v1beta1",
        "kind": "CronJob",
        "metadata": {"name": name, "namespace": namespace, "labels": {"app.kubernetes.io/managed-by": "kops-py"}},
        "spec": {
            "schedule": cron_times(schedule),
            "concurrencyPolicy": "Forbid",
            "startingDeadlineSeconds": schedule.every_hours * 1800,
            "successfulJobsHistoryLimit": 2,
            "failedJobsHistoryLimit": 3,
            "jobTemplate": {
                "spec": {"backoffLimit": 1, "activeDeadlineSeconds": _TIMEOUT_S, "template": {"spec": pod}}
            },
        },
    }


def is_ours(unit: str) -> bool:
    """Whether a unit file was made here."""
    return unit.startswith(_MARK)


def trial_argv(schedule: Schedule, argv: Sequence[str]) -> tuple[str, ...]:
    """Return the command that runs another one as the service would: its user, folder and environment."""
    properties = (
        f"User={schedule.user}",
        f"WorkingDirectory={schedule.working_folder}",
        f"EnvironmentFile=-{schedule.secrets_file}",
    )
    given = [f"--property={p}" for p in properties]
    return ("systemd-run", "--wait", "--collect", "--pipe", "--quiet", *given, "--", *argv)


def not_writable_argv(folders: Iterable[str]) -> tuple[str, ...]:
    """Return the command that prints those of these folders that are there and cannot be written into."""
    return ("sh", "-c", 'for p; do [ ! -e "$p" ] || [ -w "$p" ] || echo "$p"; done', "sh", *folders)


def show_argv(cluster: str) -> tuple[str, ...]:
    """Return the command that prints what systemd knows of the timer and of the last run."""
    unit = unit_name(cluster)
    names = (
        "Id,LoadState,ActiveState,NextElapseUSecRealtime,LastTriggerUSec,Result,ExecMainStatus,"
        "ExecMainStartTimestamp,ExecMainExitTimestamp"
    )
    return ("systemctl", "show", "--no-pager", f"--property={names}", f"{unit}.timer", f"{unit}.service")


def parse_show(output: str) -> dict[str, dict[str, str]]:
    """Read ``systemctl show`` of several units: their properties by id."""
    found: dict[str, dict[str, str]] = {}
    for block in re.split(r"\n\s*\n", output.strip()):
        values = dict(line.partition("=")[::2] for line in block.splitlines() if "=" in line)
        if "Id" in values:
            found[values["Id"]] = values
    return found


def shown(cluster: str, found: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """Return what a person wants to know of a schedule, from ``parse_show``; empty values where there is nothing.

    systemd remembers through a restart of the machine when the timer ran, but not how the service ended.
    """
    unit = unit_name(cluster)
    timer, service = found.get(f"{unit}.timer", {}), found.get(f"{unit}.service", {})
    installed = timer.get("LoadState") == "loaded"
    ended = bool(service.get("ExecMainExitTimestamp"))
    return {
        "unit": f"{unit}.timer",
        "installed": "yes" if installed else "no",
        "active": timer.get("ActiveState", "") if installed else "",
        "next": timer.get("NextElapseUSecRealtime", "") if installed else "",
        "running": ("yes" if service.get("ActiveState") == "activating" else "no") if installed else "",
        "last": service.get("ExecMainStartTimestamp") or timer.get("LastTriggerUSec", ""),
        "last_result": service.get("Result", "") if ended else "",
        "last_exit_code": service.get("ExecMainStatus", "") if ended else "",
    }


def writable_folders(run_dir: Path, stores: Iterable[Path]) -> tuple[str, ...]:
    """Return the folders a backup writes into, absolute."""
    return tuple(dict.fromkeys(str(p.absolute()) for p in (run_dir, *stores)))


def _hours(schedule: Schedule) -> str:
    return "*" if schedule.every_hours == 1 else "00" if schedule.every_hours == 24 else f"00/{schedule.every_hours}"


def _escaped(text: str) -> str:
    """Return a text as a unit file takes it: % begins a specifier."""
    return text.replace("%", "%%")


def _quoted(word: str) -> str:
    """Return a word of a command line or a list, quoted as systemd reads it (systemd.syntax, Quoting)."""
    plain = _escaped(word)
    if re.fullmatch(r"[A-Za-z0-9_@%+=:,./$-]+", plain):
        return plain
    return '"' + plain.replace("\\", "\\\\").replace('"', '\\"') + '"'
