"""Backups by schedule on a real systemd: a backup host with kops-py from the wheel, beside a one-node cluster.

The timer of the machine itself, the same from another machine, a line for cron, and a CronJob that the API server
accepts. What goes wrong must show: in the unit, at the webhook, and in ``etcd check``.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.e2e import backup_host
from tests.e2e.backup_host import BackupHost, Hook
from tests.e2e.backups import make_key
from tests.e2e.bed import LAYER, LAYER_PACKAGES, Bed
from tests.e2e.program import Program
from tests.lab.config import SUDO_PASSWORD, USER_WITH_PASSWORD
from tests.lab.processes import wait_until

UNIT = "kops-py-etcd-backup-alone"
UNITS = "/etc/systemd/system"
STAMP = f"/var/lib/systemd/timers/stamp-{UNIT}.timer"
SECRETS = "/etc/kops-py/alone.backup.env"
JITTER = timedelta(minutes=10)
JITTER_AND_MINUTE = JITTER + timedelta(minutes=1)  # AccuracySec


@pytest.fixture
def bed(bed: Bed, wheel_program: Path) -> Bed:
    bed.program = Program(wheel_program, bed.folder)
    return bed


@pytest.fixture
def hook(bed: Bed) -> Iterator[Hook]:
    bed.lab.layer(LAYER, LAYER_PACKAGES)
    bed.lab.layer("backup-host", ["cron"], on=[LAYER])
    bed.boot(2, layers=(LAYER, "backup-host"))
    with Hook(bed.lab.gateway) as server:
        yield server


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_backups_by_schedule(bed: Bed, hook: Hook, wheel_program: Path) -> None:
    bed.write_inventory(control_planes=["n1"], workers=["n1"], others=["n2"])
    bed.write_cluster("alone")
    bed.say(f"bootstrap {bed.bootstrap().duration_s:.1f} s")
    host = _set_up(bed, hook, wheel_program)

    _refused_while_something_is_missing(host)
    _installed_here(bed, host)
    _hardened(bed, host)
    _makes_a_good_backup(bed, host)
    _at_once(bed, host, hook)
    _store_gone(bed, host, hook)
    _member_gone(bed, host, hook)
    _made_up_for(bed, host)
    _removed(bed, host)
    _from_another_machine(bed, host)
    _by_cron(bed, host, hook)
    _as_a_cron_job(bed, host)
    journal = host.node.exec("journalctl --no-pager -o cat").stdout
    assert SUDO_PASSWORD not in journal
    assert hook.url.rpartition("/")[2] not in journal


def _set_up(bed: Bed, hook: Hook, wheel_program: Path) -> BackupHost:
    """Put kops-py, the operator's files and the user ``kops`` on n2; nothing secret is in the files."""
    public, _ = make_key(bed.folder.parent)
    backup = {
        "stores": [{"name": "local", "directory": {"path": "/srv/backup/kubernetes"}}],
        "encryption": {"recipients": [public]},
        "webhook": "env:BACKUP_HOOK",
    }
    bed.write_cluster("alone", backup=backup, ssh={"becomePassword": "env:KOPS_SUDO"})
    host = BackupHost(bed.node("n2"))
    host.install(wheel_program)
    host.node.exec("mkdir -p /srv/backup && chown kops: /srv/backup")
    host.put_files(bed, user=USER_WITH_PASSWORD)
    host.secrets = {"KOPS_SUDO": SUDO_PASSWORD, "BACKUP_HOOK": hook.url}
    bed.say("kops-py is on n2")
    return host


def _refused_while_something_is_missing(host: BackupHost) -> None:
    """What the timer would run into at night is told when it is installed."""
    shown = json.loads(host.run("etcd", "schedule", "show", "-o", "json", user="kops").stdout)
    assert shown["installed"] == "no"
    as_user = host.run("etcd", "schedule", "install", "--yes", user="kops", exit_code=2)
    assert "installed and removed by root" in as_user.stderr
    nobody = host.run("etcd", "schedule", "install", "--user", "no-such", "--yes", exit_code=2)
    assert "there is no user no-such" in nobody.stderr
    no_secrets = host.run("etcd", "schedule", "install", "--user", "kops", "--yes", exit_code=2)
    assert "kops cannot make a backup there" in no_secrets.stderr
    assert "KOPS_SUDO" in no_secrets.stderr
    host.write_secrets(SECRETS)
    host.node.exec(f"chown root: {host.folder}/id")
    no_key = host.run("etcd", "schedule", "install", "--user", "kops", "--yes", exit_code=2)
    assert "kops cannot make a backup there" in no_key.stderr
    assert f"{host.folder}/id" in no_key.stderr
    host.node.exec(f"chown kops: {host.folder}/id; install -d -m 0755 /srv/backup/kubernetes")
    no_right = host.run("etcd", "schedule", "install", "--user", "kops", "--yes", exit_code=2)
    assert "chown -R kops: /srv/backup/kubernetes" in no_right.stderr
    host.node.exec("rmdir /srv/backup/kubernetes")
    assert not host.units(), "what was refused has left something"


def _installed_here(bed: Bed, host: BackupHost) -> None:
    install = ("etcd", "schedule", "install", "--user", "kops")
    planned = host.run(*install, "--plan", exit_code=20)
    assert "every 6 h as kops" in planned.stdout
    done = host.run(*install, "--yes")
    assert "has its backups scheduled" in done.stdout
    assert host.node.exec(f"systemctl is-enabled {UNIT}.timer").stdout == "enabled\n"
    assert host.node.exec(f"systemctl is-active {UNIT}.timer").stdout == "active\n"
    assert "nothing to do" in host.run(*install, "--yes").stdout
    properties = host.show(f"{UNIT}.timer", "RandomizedDelayUSec", "Persistent")
    assert properties == {"RandomizedDelayUSec": "10min", "Persistent": "yes"}
    minute = int(host.node.exec(f"grep -oP '(?<=:)\\d+(?=:00$)' {UNITS}/{UNIT}.timer").stdout)
    begins = set()
    for _ in range(6):
        host.node.exec(f"systemctl reset-failed {UNIT}.timer && systemctl restart {UNIT}.timer")  # no start limit
        begins.add(_next_run(host))
    late = {_since_due(at, minute) for at in begins}
    assert len(begins) > 1, f"no jitter: {begins}"
    assert all(timedelta() <= one <= JITTER_AND_MINUTE for one in late), (late, minute)
    bed.say(f"next run {min(begins):%H:%M:%S} to {max(begins):%H:%M:%S}, due at {minute} past")


def _next_run(host: BackupHost) -> datetime:
    """When the timer runs next, as ``schedule show`` says it."""
    text = json.loads(host.run("etcd", "schedule", "show", "-o", "json", user="kops").stdout)["next"]
    return datetime.strptime(" ".join(text.split()[1:3]), "%Y-%m-%d %H:%M:%S")  # noqa: DTZ007 - the host's own zone


def _since_due(at: datetime, minute: int) -> timedelta:
    """How long after the due time of six hours a run begins."""
    due = at.replace(hour=at.hour - at.hour % 6, minute=minute, second=0)
    return at - (due if due <= at else due - timedelta(hours=6))


def _hardened(bed: Bed, host: BackupHost) -> None:
    said = host.node.exec(f"systemd-analyze verify --man=no {UNIT}.timer {UNIT}.service 2>&1").stdout
    assert "kops" not in said, said
    lines = host.node.exec(f"systemd-analyze security --no-pager {UNIT}.service").stdout.splitlines()
    (overall,) = (line for line in lines if "Overall exposure level" in line)
    exposure = float(overall.split(":")[1].split()[0])
    assert exposure < 2.5, "\n".join(lines)
    bed.say(f"systemd-analyze security: {exposure}")


def _makes_a_good_backup(bed: Bed, host: BackupHost) -> None:
    """The service as it is, with all it may not do: SSH, sudo by a secret, a scratch etcd, a store."""
    assert host.backups() == []
    begun = time.monotonic()
    host.start(UNIT)
    bed.say(f"the service made a backup in {time.monotonic() - begun:.1f} s")
    (made,) = host.backups()
    assert made["state"] == "good", made
    assert made["keys"] > 100
    owners = host.node.exec("find /srv/backup/kubernetes -printf '%u %m\\n' | sort -u").stdout
    assert owners == "kops 600\nkops 700\n"
    foreign = host.node.exec(f"find {host.folder}/.kops-py -not -user kops").stdout
    assert foreign == "", "the service's user cannot use what root's run has left"
    shown = host.shown()
    assert (shown["running"], shown["last_result"], shown["last_exit_code"]) == ("no", "success", "0")
    assert shown["last"]
    assert host.node.exec(f"systemctl show -p Environment {UNIT}.service").stdout == "Environment=\n"
    runs = json.loads(host.run("runs", "list", "-o", "json", user="kops").stdout)
    assert "etcd-backup" in json.dumps(runs), "the scheduled run is no run like another"
    left = host.node.exec("find / -xdev -user kops -newer /srv/backup -not -path '/proc/*' -not -path '/srv/backup/*'")
    outside = [p for p in left.stdout.splitlines() if not p.startswith(f"{host.folder}/.kops-py")]
    assert outside == [], "the service wrote somewhere else"


def _at_once(bed: Bed, host: BackupHost, hook: Hook) -> None:
    """Somebody makes a backup by hand: the service has nothing to do, and nobody is woken."""
    told = len(hook.messages)
    with host.held_at(r"backup \S+: snapshot from", bed.folder.parent) as by_hand:
        host.start(UNIT)
        shown = host.shown()
        assert (shown["last_result"], shown["last_exit_code"]) == ("success", "4")
        assert host.node.exec(f"systemctl is-failed {UNIT}.service", check=False).stdout == "inactive\n"
        assert len(hook.messages) == told
    assert by_hand.returncode == 0
    host.node.exec(f"systemctl start --no-block {UNIT}.service")
    locks = f"cat {host.folder}/.kops-py/locks/*.lock"
    assert wait_until(lambda: "etcd-backup" in host.node.exec(locks, check=False).stdout, 60), "it does not begin"
    host.node.exec(f"systemctl kill --kill-whom=main -s STOP {UNIT}.service")  # it is still at it, however slow all is
    assert host.shown()["running"] == "yes"
    second = host.run("etcd", "backup", "--yes", user="kops", exit_code=4, environment=True)
    assert "another run works on this cluster" in second.stderr
    host.node.exec(f"systemctl kill --kill-whom=main -s CONT {UNIT}.service")
    host.start(UNIT)  # systemd waits for the one that runs
    assert {b["state"] for b in host.backups()} == {"good"}
    assert len(host.backups()) == 3
    bed.say("another backup at once is no failure")


def _store_gone(bed: Bed, host: BackupHost, hook: Hook) -> None:
    host.node.exec("mv /srv/backup/kubernetes /srv/backup/away && chown root: /srv/backup && chmod 0755 /srv/backup")
    _fails(host, hook, exit_code="14", what="etcd backup")
    assert (
        "that were there when it started"
        in host.node.exec(f"journalctl --no-pager -o cat -u {UNIT}.service -n 20").stdout
    )
    prom = "/tmp/etcd.prom"
    check = ("etcd", "check", "--max-age", "1h", "--textfile", prom)
    told = len(hook.messages)
    said = host.run(*check, user="kops", exit_code=14, environment=True).stdout
    assert said.startswith("CRITICAL"), said
    assert 'kops_py_etcd_backup_ok{cluster="alone",store="local"} 0' in host.node.exec(f"cat {prom}").stdout
    assert [m["what"] for m in hook.messages[told:]] == ["etcd check"]
    host.node.exec("mv /srv/backup/away /srv/backup/kubernetes && chown kops: /srv/backup")
    host.start(UNIT)
    assert host.run(*check, user="kops", environment=True).stdout.startswith("OK")
    assert 'kops_py_etcd_backup_ok{cluster="alone",store="local"} 1' in host.node.exec(f"cat {prom}").stdout
    bed.say("a store that is gone shows everywhere, and one that is back is used")


def _member_gone(bed: Bed, host: BackupHost, hook: Hook) -> None:
    bed.node("n1").cut()
    try:
        _fails(host, hook, exit_code="12", what="etcd backup")
    finally:
        bed.node("n1").heal()
    bed.say("a cluster that is gone shows")


def _fails(host: BackupHost, hook: Hook, *, exit_code: str, what: str) -> None:
    """The service fails with this exit code, systemd knows it as failed, and the webhook is told once."""
    told = len(hook.messages)
    assert host.node.exec(f"systemctl start {UNIT}.service", check=False, timeout_s=300).returncode != 0
    shown = host.shown()
    assert (shown["last_result"], shown["last_exit_code"]) == ("exit-code", exit_code), host.journal(UNIT)
    assert host.node.exec(f"systemctl is-failed {UNIT}.service", check=False).stdout == "failed\n"
    assert [(m["cluster"], m["what"]) for m in hook.messages[told:]] == [("alone", what)], host.journal(UNIT)


def _made_up_for(bed: Bed, host: BackupHost) -> None:
    """What was due while the machine was off is made at its start; the jitter is made short, to see it today."""
    before = len(host.backups())
    host.node.exec(f"mkdir {UNITS}/{UNIT}.timer.d")
    host.node.put_file(b"[Timer]\nRandomizedDelaySec=3\n", f"{UNITS}/{UNIT}.timer.d/short.conf")
    host.node.stop()
    stamp = host.node.upper / STAMP.lstrip("/")
    assert stamp.exists(), "systemd does not remember when the timer ran"
    backup_host.set_back(stamp, timedelta(hours=13))
    host.node.start()
    assert wait_until(lambda: len(host.backups()) > before, 120, 1), host.journal(UNIT)
    assert wait_until(lambda: host.shown()["running"] == "no", 120, 1), host.journal(UNIT)
    assert len(host.backups()) == before + 1
    assert host.backups()[0]["state"] == "good"
    assert host.shown()["last_result"] == "success"
    host.node.exec(f"rm -r {UNITS}/{UNIT}.timer.d && systemctl daemon-reload")
    bed.say("made up for at the start of the machine")


def _removed(bed: Bed, host: BackupHost) -> None:
    bed.node("n1").cut()
    try:
        host.node.exec(f"systemctl start {UNIT}.service", check=False, timeout_s=300)  # one that failed leaves more
    finally:
        bed.node("n1").heal()
    as_user = host.run("etcd", "schedule", "remove", "--yes", user="kops", exit_code=2)
    assert "removed by root" in as_user.stderr
    kept = len(host.backups())
    assert "has no backups scheduled any more" in host.run("etcd", "schedule", "remove", "--yes").stdout
    _nothing_left(host)
    assert len(host.backups()) == kept
    assert "nothing to do" in host.run("etcd", "schedule", "remove", "--yes").stdout
    bed.say("removed")


def _nothing_left(host: BackupHost) -> None:
    assert host.units() == []
    left = host.node.exec(f"find /etc/systemd /var/lib/systemd -name '*{UNIT}*'").stdout
    assert left == "", left


def _from_another_machine(bed: Bed, host: BackupHost) -> None:
    """From the operator's machine onto a host of the inventory that is in no group."""
    bed.program.extra_environment = dict(host.secrets)
    on = ("--on", "n2")
    there = ("--inventory-there", host.folder, "--program", host.program)
    missing = bed.program.run("etcd", "schedule", "install", "--on", "n9", *there, "--yes", exit_code=2)
    assert "there is no host n9 in the inventory" in missing.stderr
    wrong = bed.program.run("etcd", "schedule", "install", *on, *there, "--yes", exit_code=2)
    assert "ops cannot" in wrong.stderr, "the files there are those of kops"
    install = ("etcd", "schedule", "install", *on, *there, "--user", "kops", "--every", "1h")
    bed.program.run(*install, "--yes")
    assert "nothing to do" in bed.program.run(*install, "--yes").stdout
    host.start(UNIT)
    assert host.backups()[0]["state"] == "good"
    shown = bed.program.run("etcd", "schedule", "show", *on, "-o", "json").json()
    assert (shown["active"], shown["last_result"], shown["last_exit_code"]) == ("active", "success", "0")
    assert "active: active" in bed.program.run("etcd", "schedule", "show", *on).stdout
    bed.program.run("etcd", "schedule", "remove", *on, "--yes")
    _nothing_left(host)
    bed.say("installed, seen and removed from another machine")


def _by_cron(bed: Bed, host: BackupHost, hook: Hook) -> None:
    """Debian's cron takes the line as it is printed, and the command in it makes a backup."""
    line = host.run("etcd", "schedule", "install", "--user", "kops", "--format", "cron").stdout
    variables = "".join(f"{name}={value}\n" for name, value in host.secrets.items())
    path, before = "/etc/cron.d/kops-py-etcd-backup", len(host.backups())

    def give(text: str) -> None:
        # started anew: cron compares whole seconds, and would not see a second file of the same second
        host.node.put_file((variables + text).encode(), path, 0o600)
        host.node.exec("systemctl restart cron")

    give(line)
    assert wait_until(lambda: "@reboot" in _cron_log(host), 20, 0.2), "it has not read its files"
    assert "ERROR" not in _cron_log(host), _cron_log(host)
    fields = line.split(" ", 5)
    give(" ".join(["*"] * 5 + fields[5:]))
    assert wait_until(lambda: len(host.backups()) > before, 180, 1), _cron_log(host)
    host.node.exec(f"rm {path}")
    assert "ERROR" not in _cron_log(host), _cron_log(host)
    assert wait_until(lambda: host.backups()[0]["state"] == "good", 120, 1), host.backups()[0]
    bed.say("cron made a backup")


def _cron_log(host: BackupHost) -> str:
    return host.node.exec("journalctl --no-pager -o cat -u cron").stdout


def _as_a_cron_job(bed: Bed, host: BackupHost) -> None:
    """The API server takes the CronJob as it is printed; a store in a folder would be gone with the pod."""
    printed = ("etcd", "schedule", "install", "--format", "cronjob", "--image", "registry.example/kops-py:1")
    assert "is gone with the pod" in bed.program.run(*printed, exit_code=2).stderr
    document: dict[str, Any] = yaml.safe_load((bed.folder / "cluster.yaml").read_text())
    document["backup"]["stores"] = [{"name": "offsite", "s3": {"bucket": "etcd-backups"}}]
    (bed.folder / "s3.yaml").write_text(yaml.safe_dump(document))
    job = bed.program.run(*printed, "--cluster", "s3.yaml").stdout
    said = bed.kubectl("apply --dry-run=server -f -", stdin=job)
    assert said.strip() == f"cronjob.batch/{UNIT} created (server dry run)"
    pod = yaml.safe_load(job)["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    planned = host.as_in_a_pod(pod, bed.folder / "s3.yaml")
    assert "snapshot from n1" in planned, "the container's command does not find its files"
    bed.say("the API server takes the CronJob")
