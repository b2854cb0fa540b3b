"""etcd schedule: a timer for backups, here or on a host; or its text for cron and for the cluster."""

from __future__ import annotations

import dataclasses
import getpass
import hashlib
import os
import shlex
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from kops_py.actions.etcd_schedule import Place, SchedulePerformer, this_machine
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

_TRIAL_S = 180.0


@dataclass(frozen=True, slots=True)
class ScheduleSettings:
    """What the command line says about a schedule.

    ``host`` is the inventory name of where the timer runs (empty: this machine). There, ``program`` and
    ``inventory`` name kops-py and the operator's files; not given they are those of this machine. ``user`` is who
    runs it; not given, who runs this, or who is logged in to on the other host.
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
    _check_given(given)
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


def _check_given(given: ScheduleSettings) -> None:
    if given.host and not given.inventory:
        raise ConfigError(
            "on another host the inventory is somewhere else",
            hint="name its folder there with --inventory-there, and where kops-py is with --program",
        )


def print_schedule(settings: Settings, given: ScheduleSettings, *, form: str, image: str, namespace: str) -> str:
    """Return the schedule as text: ``systemd``, ``cron`` or ``cronjob``; contacts nothing."""
    spec = load_spec(settings)
    if form != "cronjob":
        schedule = make_schedule(settings, spec, given)
        return tool.cron_line(schedule) if form == "cron" else "\n".join(_files(schedule).values())
    import yaml

    argv = ("kops-py", "etcd", "backup", "-i", "/config", "--run-dir", "/work/.kops-py", "--yes", "--prune")
    _refuse_folders(spec)
    schedule = Schedule(spec.name, given.every_hours, (*argv, *given.options), "", "/work")
    job = tool.cron_job(schedule, image=image, namespace=namespace, version=spec.kubernetes.version)
    return str(yaml.safe_dump(job, sort_keys=False))


def _refuse_folders(spec: ClusterSpec) -> None:
    folders = [s for s in backup_spec(spec).stores if isinstance(s, DirectoryStoreSpec)]
    if folders:
        raise ConfigError(
            f"the store {folders[0].name} is a folder, and what a pod writes into one is gone with the pod",
            where=str(spec.cluster_path),
            hint="name a cluster.yaml with S3 stores only: --cluster FILE; it belongs into the Secret",
        )


def run_install(settings: Settings, emit: Emit, confirm: Confirm, *, given: ScheduleSettings) -> RunResult:
    """Write the units and start the timer; raises KopsError before it starts."""

    def decide(opened: Session) -> Decided:
        backup_spec(opened.spec)
        _check_given(given)
        place = _place(opened, given.host, needs_root=True)
        who = given.user or (place.ask("id", "-un") if given.host else "")
        schedule = make_schedule(settings, opened.spec, dataclasses.replace(given, user=who))
        files = _files(schedule)
        same = all(place.unit(name) == text for name, text in files.items())
        state = place.run("systemctl", "is-active", f"{schedule.unit}.timer", check=False).strip()
        if same and state == "active":
            return _decided(opened, "etcd-schedule", (), SchedulePerformer(place, files))
        # root hands over the folder of its own run, which the service uses as well
        own_runs = "" if given.host else str(settings.run_dir.absolute())
        if _is_root_there(given.host):
            _try_out(place, schedule, skip=own_runs)
        digest = hashlib.sha256("".join(files.values()).encode()).hexdigest()
        step = Step(
            f"schedule/{given.host or 'here'}",
            given.host,
            f"install the timer {schedule.unit}",
            InstallSchedule(given.host, schedule.unit, digest),
            120.0,
            (f"every {schedule.every_hours} h as {schedule.user}: {' '.join(schedule.argv)}",),
        )
        performer = SchedulePerformer(place, files, user=schedule.user, own=schedule.writable, handed_over=own_runs)
        return _decided(opened, "etcd-schedule", (step,), performer)

    with _left_to_its_owner(settings.run_dir):
        return run_operation(_for_place(settings, given.host), emit, confirm, "etcd-schedule", decide, exclusive=False)


def run_remove(settings: Settings, emit: Emit, confirm: Confirm, *, host: str) -> RunResult:
    """Stop the timer and remove its units; raises KopsError before it starts."""

    def decide(opened: Session) -> Decided:
        unit, place = tool.unit_name(opened.spec.name), _place(opened, host, needs_root=True)
        there = any(place.unit(f"{unit}.{end}") for end in ("timer", "service"))
        step = Step(f"unschedule/{host or 'here'}", host, f"remove the timer {unit}", RemoveSchedule(host, unit), 120.0)
        return _decided(opened, "etcd-schedule-remove", (step,) if there else (), SchedulePerformer(place, {}))

    with _left_to_its_owner(settings.run_dir):
        return run_operation(_for_place(settings, host), emit, confirm, "etcd-schedule", decide, exclusive=False)


def show_schedule(settings: Settings, *, host: str) -> dict[str, str]:
    """Return what systemd knows of the timer and of its last run; empty values where there is none."""
    settings = _for_place(settings, host)
    spec = load_spec(settings)
    with session(settings, spec, _ignore) as opened:
        printed = _place(opened, host).run(*tool.show_argv(spec.name), check=False)
    return tool.shown(spec.name, tool.parse_show(printed))


@contextmanager
def _left_to_its_owner(run_dir: Path) -> Iterator[None]:
    """Let root leave nothing of its own in somebody else's run folder: they could not work in it any more."""
    before = (run_dir if run_dir.exists() else run_dir.absolute().parent).stat()
    try:
        yield
    finally:
        if os.geteuid() == 0 and run_dir.is_dir():
            now = run_dir.stat()
            owner = now if now.st_uid else before
            if owner.st_uid:
                for folder, _, files in os.walk(run_dir):
                    for path in (folder, *(os.path.join(folder, name) for name in files)):  # noqa: PTH118 - no links
                        if os.lstat(path).st_uid == 0:
                            os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)


def _for_place(settings: Settings, host: str) -> Settings:
    """Return the settings for a timer there: a host in whichever group, or this machine and no host at all."""
    return dataclasses.replace(settings, host_beside=host, contacts_hosts=bool(host))


def _decided(opened: Session, operation: str, steps: tuple[Step, ...], performer: SchedulePerformer) -> Decided:
    plan = Plan(operation, opened.spec.name, (Wave("schedule", steps),) if steps else ())
    return Decided(plan, (), lambda: (Plan(operation, opened.spec.name, ()), Facts(hosts={})), lambda _: performer)


def _place(opened: Session, host: str, *, needs_root: bool = False) -> Place:
    if host:
        try:
            return Place(opened.fleet.host(host), sudo=True)
        except KeyError:
            raise ConfigError(f"there is no host {host} in the inventory", where="--on") from None
    if needs_root and not _is_root_there(host) and not opened.settings.plan_only:
        raise ConfigError(
            "a systemd timer of this machine is installed and removed by root",
            hint="run it as root with --user NAME, or take a line for cron: --format cron",
        )
    return this_machine()


def _is_root_there(host: str) -> bool:
    """Whether commands there run as root: on a host by sudo, here when this is root."""
    return bool(host) or os.geteuid() == 0


def _try_out(place: Place, schedule: Schedule, *, skip: str) -> None:
    """Let the service's user plan a backup, as the service will; raises ConfigError when it cannot.

    So that a missing user, program, key, host key, secret or right shows now, and not at night.
    """
    user, where = schedule.user, place.host.name
    try:
        place.run("id", "-u", user)
    except CommandFailedError as error:
        raise ConfigError(
            f"there is no user {user}", where=where, why=error.why, hint="name who is to run it with --user NAME"
        ) from error
    folders = [f for f in schedule.writable if f != skip]
    try:
        closed = place.run(*tool.trial_argv(schedule, tool.not_writable_argv(folders))).splitlines()
    except CommandFailedError as error:
        raise _cannot(schedule, where, error) from error
    if closed:
        raise ConfigError(
            f"{user} cannot write into {', '.join(closed)}", where=where, hint=f"chown -R {user}: {shlex.join(closed)}"
        )
    # exit code 20: there is something to do
    script = '"$@" >/dev/null; rc=$?; [ $rc = 20 ] || exit $rc'
    argv = ("sh", "-c", script, "sh", *schedule.argv, "--plan")
    try:
        place.run(*tool.trial_argv(schedule, argv), timeout_s=_TRIAL_S)
    except CommandFailedError as error:
        raise _cannot(schedule, where, error) from error


def _cannot(schedule: Schedule, where: str, error: CommandFailedError) -> ConfigError:
    command = f"cd {shlex.quote(schedule.working_folder)} && {shlex.join(schedule.argv)} --plan"
    return ConfigError(
        f"{schedule.user} cannot make a backup there",
        where=where,
        why=error.why,
        hint=f"mend it, then run the same command again; to see it by hand, as {schedule.user}: {command}",
    )


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
