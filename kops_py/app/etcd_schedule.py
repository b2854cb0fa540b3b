"""etcd schedule: a timer for backups, here or on a host; or its text for cron and for the cluster."""

from __future__ import annotations

import getpass
import hashlib
import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kops_py.app.etcd_backup import backup_spec
from kops_py.app.run import Decided, RunResult, run_operation
from kops_py.app.session import Confirm, Emit, Session, Settings, load_spec, session
from kops_py.model.actions import InstallSchedule, RemoveSchedule
from kops_py.model.backup import DirectoryStoreSpec
from kops_py.model.errors import CommandFailedError, ConfigError
from kops_py.model.event import Event
from kops_py.model.facts import Facts
from kops_py.model.plan import Plan, Step, Wave
from kops_py.model.spec import ClusterSpec
from kops_py.tools import etcd_schedule as tool
from kops_py.tools.etcd_schedule import Schedule

if TYPE_CHECKING:
    from kops_py.actions.etcd_schedule import Place


@dataclass(frozen=True, slots=True)
class ScheduleSettings:
    """What the command line says about a schedule.

    ``host`` is the inventory name of where the timer runs (empty: this machine). There, ``program`` and
    ``inventory`` name kops-py and the operator's files; not given they are those of this machine.
    """

    every_hours: int = 6
    host: str = ""
    program: str = ""
    inventory: str = ""
    user: str = ""
    options: tuple[str, ...] = ()
    """Further options of ``etcd backup``."""


def make_schedule(settings: Settings, spec: ClusterSpec, given: ScheduleSettings) -> Schedule:
    """Return the schedule; raises ConfigError when something it needs is not there."""
    backup = backup_spec(spec)
    if given.host and not given.inventory:
        raise ConfigError(
            "on another host the inventory is somewhere else",
            hint="name its folder there with --inventory-there, and where kops-py is with --program",
        )
    run_dir = settings.run_dir.absolute()
    folder = given.inventory or str(
        spec.inventory_path.parent if spec.inventory_path.is_file() else spec.inventory_path
    )
    program = given.program or ("kops-py" if given.host else _own_program())
    working = folder if given.host else str(run_dir.parent)
    argv = [program, "etcd", "backup", "-i", folder, "--yes", "--prune", "--deadline", "3h"]
    if not given.host:
        argv += ["--cluster", str(spec.cluster_path), "--run-dir", str(run_dir)]
        if settings.ssh_config is not None:
            argv += ["--ssh-config", str(settings.ssh_config.absolute())]
    stores = [s.path for s in backup.stores if isinstance(s, DirectoryStoreSpec)]
    return Schedule(
        cluster=spec.name,
        every_hours=given.every_hours,
        argv=(*argv, *given.options),
        user=given.user or getpass.getuser(),
        working_folder=working,
        writable=tool.writable_folders(Path(working) / ".kops-py" if given.host else run_dir, stores),
    )


def print_schedule(settings: Settings, given: ScheduleSettings, *, form: str, image: str, namespace: str) -> str:
    """Return the schedule as text: ``systemd``, ``cron`` or ``cronjob``; contacts nothing."""
    spec = load_spec(settings)
    if form != "cronjob":
        schedule = make_schedule(settings, spec, given)
        return tool.cron_line(schedule) if form == "cron" else "\n".join(_files(schedule).values())
    import yaml

    argv = ("kops-py", "etcd", "backup", "-i", "/config", "--run-dir", "/work/.kops-py", "--yes", "--prune")
    backup_spec(spec)
    schedule = Schedule(spec.name, given.every_hours, (*argv, *given.options), "", "/work")
    return str(yaml.safe_dump(tool.cron_job(schedule, image=image, namespace=namespace), sort_keys=False))


def run_install(settings: Settings, emit: Emit, confirm: Confirm, *, given: ScheduleSettings) -> RunResult:
    """Write the units and start the timer; raises KopsError before it starts."""

    def decide(opened: Session) -> Decided:
        schedule = make_schedule(settings, opened.spec, given)
        files, place = _files(schedule), _place(opened, given.host)
        _check_program(place, schedule, given)
        same = all(place.unit(name) == text for name, text in files.items())
        state = place.run("systemctl", "is-active", f"{schedule.unit}.timer", check=False).strip()
        digest = hashlib.sha256("".join(files.values()).encode()).hexdigest()
        step = Step(
            f"schedule/{given.host or 'here'}",
            given.host,
            f"install the timer {schedule.unit}",
            InstallSchedule(given.host, schedule.unit, digest),
            120.0,
            (f"every {schedule.every_hours} h as {schedule.user}: {' '.join(schedule.argv)}",),
        )
        steps = () if same and state == "active" else (step,)
        return _decided(opened, "etcd-schedule", steps, place, files)

    return run_operation(settings, emit, confirm, "etcd-schedule", decide, exclusive=False)


def run_remove(settings: Settings, emit: Emit, confirm: Confirm, *, host: str) -> RunResult:
    """Stop the timer and remove its units; raises KopsError before it starts."""

    def decide(opened: Session) -> Decided:
        unit, place = tool.unit_name(opened.spec.name), _place(opened, host)
        there = any(place.unit(f"{unit}.{end}") for end in ("timer", "service"))
        step = Step(f"unschedule/{host or 'here'}", host, f"remove the timer {unit}", RemoveSchedule(host, unit), 120.0)
        return _decided(opened, "etcd-schedule-remove", (step,) if there else (), place, {})

    return run_operation(settings, emit, confirm, "etcd-schedule", decide, exclusive=False)


def show_schedule(settings: Settings, *, host: str) -> dict[str, str]:
    """Return what systemd knows of the timer and of its last run; empty values where there is none."""
    spec = load_spec(settings)
    unit = tool.unit_name(spec.name)
    with session(settings, spec, _ignore) as opened:
        found = tool.parse_show(_place(opened, host).run(*tool.show_argv(spec.name), check=False))
    timer, service = found.get(f"{unit}.timer", {}), found.get(f"{unit}.service", {})
    installed = timer.get("LoadState") == "loaded"
    return {
        "unit": f"{unit}.timer",
        "installed": "yes" if installed else "no",
        "active": timer.get("ActiveState", "") if installed else "",
        "next": timer.get("NextElapseUSecRealtime", ""),
        "last": timer.get("LastTriggerUSec", ""),
        "last_result": service.get("Result", "") if timer.get("LastTriggerUSec") else "",
    }


def _decided(
    opened: Session, operation: str, steps: tuple[Step, ...], place: Place, files: Mapping[str, str]
) -> Decided:
    from kops_py.actions.etcd_schedule import SchedulePerformer

    plan = Plan(operation, opened.spec.name, (Wave("schedule", steps),) if steps else ())
    return Decided(
        plan,
        (),
        lambda: (Plan(operation, opened.spec.name, ()), Facts(hosts={})),
        lambda _: SchedulePerformer(place, files),
    )


def _place(opened: Session, host: str) -> Place:
    from kops_py.actions.etcd_schedule import Place, this_machine

    if host:
        try:
            return Place(opened.fleet.host(host), sudo=True)
        except KeyError:
            raise ConfigError(f"there is no host {host} in the inventory", where="--on") from None
    if os.geteuid() != 0 and not opened.settings.plan_only:
        raise ConfigError(
            "a systemd timer of this machine is installed by root",
            hint="run it as root with --user NAME, or take a line for cron: --format cron",
        )
    return this_machine()


def _check_program(place: Place, schedule: Schedule, given: ScheduleSettings) -> None:
    """Make sure that what the timer will start is there; raises ConfigError."""
    if not given.host:
        return
    try:
        place.run(schedule.argv[0], "validate", "-i", given.inventory)
    except CommandFailedError as error:
        raise ConfigError(
            "kops-py does not accept the files there",
            where=given.host,
            why=error.why,
            hint="install kops-py there and copy inventory, cluster.yaml and keys, then run the same command again",
        ) from error


def _files(schedule: Schedule) -> dict[str, str]:
    return {
        f"{schedule.unit}.service": tool.service_unit(schedule),
        f"{schedule.unit}.timer": tool.timer_unit(schedule),
    }


def _own_program() -> str:
    beside = Path(sys.executable).with_name("kops-py")
    return str(beside) if beside.is_file() else shutil.which("kops-py") or "kops-py"


def _ignore(_event: Event) -> None:
    """Nobody listens."""
