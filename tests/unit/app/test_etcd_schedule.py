"""Installing and removing a schedule on this machine, whose commands are scripted; the rest is real."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kops_py.actions.etcd_schedule import Place
from kops_py.app import etcd_schedule
from kops_py.app.etcd_schedule import ScheduleSettings, run_install, run_remove, show_schedule
from kops_py.app.run import RunResult
from kops_py.app.session import Settings
from kops_py.config.listing import Listing, list_inventory
from kops_py.config.load import load_host
from kops_py.config.sources import find_files
from kops_py.model.errors import ConfigError, ExitCode
from tests.fakes.ssh import FakeHost, Reply

UNIT = "kops-py-etcd-backup-prod"
FOLDER = "/etc/systemd/system"
INVENTORY = """\
all:
  hosts: {keeper: {ansible_host: 192.0.2.9, ansible_user: backup}}
  children:
    kube_control_plane: {hosts: {n1: {ansible_host: 192.0.2.1}}}
    kube_node: {hosts: {n1: {}}}
"""
CLUSTER = """\
apiVersion: kops-py/v1
kind: Cluster
metadata: {name: prod}
kubernetes: {version: v1.31.2}
network: {cni: {type: bridge}}
ssh: {becomePassword: "env:NOT_SET_HERE"}
backup:
  stores: [{name: local, directory: {path: /srv/backup/kubernetes}}]
  encryption: {recipients: [age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p]}
"""


@pytest.fixture(scope="module")
def listing(tmp_path_factory: pytest.TempPathFactory) -> Listing:
    """The inventory as Ansible reads it; asked once, it is the same in every test."""
    folder = tmp_path_factory.mktemp("listed")
    (folder / "hosts.yaml").write_text(INVENTORY)
    (folder / "cluster.yaml").write_text(CLUSTER)
    return list_inventory(find_files(folder, None))


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, listing: Listing) -> Settings:
    monkeypatch.setattr("kops_py.config.load.list_inventory", lambda _: listing)
    (tmp_path / "hosts.yaml").write_text(INVENTORY)
    (tmp_path / "cluster.yaml").write_text(CLUSTER)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    return Settings(inventory=tmp_path, yes=True)


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> FakeHost:
    """This machine: systemd without the timer, and a user ``backup`` that can do all it must."""
    host = FakeHost("this machine")
    host.on(lambda argv: argv[0] in ("systemctl", "sh", "chown", "rm"), "")
    host.on(("systemctl", "is-active", f"{UNIT}.timer"), lambda _: Reply("active" if host.files else "inactive"))
    host.on(("id", "-u", "backup"), "34")
    host.on(lambda argv: argv[0] == "systemd-run", "")
    monkeypatch.setattr(etcd_schedule, "this_machine", lambda: Place(host, sudo=False))
    return host


def install(settings: Settings, user: str = "backup") -> RunResult:
    return run_install(settings, lambda _: None, lambda *_: True, given=ScheduleSettings(user=user))


def test_what_the_service_will_need_is_tried_before_anything_is_written(settings: Settings, here: FakeHost) -> None:
    done = install(settings)
    assert done.exit_code is ExitCode.DONE, done.errors
    trial = next(a for a in here.argvs if a[0] == "systemd-run" and a[-1] == "--plan")
    assert "--property=User=backup" in trial
    assert "--property=EnvironmentFile=-/etc/kops-py/prod.backup.env" in trial
    assert f"--property=WorkingDirectory={Path.cwd()}" in trial
    assert sorted(here.files) == [f"{FOLDER}/{UNIT}.service", f"{FOLDER}/{UNIT}.timer"]
    # root has made the folder of runs, which the service's user must be able to write into
    assert ("chown", "-R", "-h", "backup:", "--", f"{Path.cwd()}/.kops-py") in here.argvs
    made = [a[-1] for a in here.argvs if a[0] == "sh" and a[-2] == "backup"]
    assert made == [f"{Path.cwd()}/.kops-py", "/srv/backup/kubernetes"]
    assert here.argvs.index(("systemctl", "enable", f"{UNIT}.timer")) > here.argvs.index(trial)
    again = install(settings)
    assert (again.exit_code, again.executed) == (ExitCode.DONE, False)


def refused(settings: Settings, here: FakeHost) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        install(settings)
    assert here.files == {}
    return caught.value


def test_a_user_that_is_not_there(settings: Settings, here: FakeHost) -> None:
    here.on(("id", "-u", "backup"), Reply(exit_status=1, stderr="no such user"))
    assert "there is no user backup" in str(refused(settings, here))


def test_a_folder_that_is_closed(settings: Settings, here: FakeHost) -> None:
    here.on(lambda argv: argv[0] == "systemd-run" and argv[-1] == "/srv/backup/kubernetes", "/srv/backup/kubernetes\n")
    error = refused(settings, here)
    assert "backup cannot write into /srv/backup/kubernetes" in str(error)
    assert error.hint == "chown -R backup: /srv/backup/kubernetes"


def test_a_backup_that_could_not_be_made(settings: Settings, here: FakeHost) -> None:
    here.on(
        lambda argv: argv[0] == "systemd-run" and argv[-1] == "--plan",
        Reply(exit_status=10, stderr="error: n1: the host key is not known"),
    )
    error = refused(settings, here)
    assert "backup cannot make a backup there" in str(error)
    assert "the host key is not known" in error.why
    assert "as backup: cd " in error.hint


def test_not_by_a_user(settings: Settings, here: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert "by root" in str(refused(settings, here))
    with pytest.raises(ConfigError, match="by root"):
        run_remove(settings, lambda _: None, lambda *_: True, host="")
    here.on(lambda argv: argv[:2] == ("systemctl", "show"), "")
    assert show_schedule(settings, host="")["installed"] == "no"


def test_removing_leaves_nothing_that_systemd_remembers(settings: Settings, here: FakeHost) -> None:
    install(settings)
    here.calls.clear()
    here.on(lambda argv: argv[0] == "rm", Reply(effect=lambda _: here.files.clear()))
    assert run_remove(settings, lambda _: None, lambda *_: True, host="").exit_code is ExitCode.DONE
    for argv in (
        ("systemctl", "disable", "--now", f"{UNIT}.timer"),
        ("systemctl", "clean", "--what=state", f"{UNIT}.timer"),
        ("systemctl", "reset-failed", f"{UNIT}.service"),
    ):
        assert argv in here.argvs
    assert run_remove(settings, lambda _: None, lambda *_: True, host="").executed is False


def test_a_host_in_none_of_our_groups(settings: Settings) -> None:
    found = load_host(settings.inventory, None, "keeper")
    assert found is not None
    assert (found.address, found.user, found.groups) == ("192.0.2.9", "backup", frozenset())
    assert load_host(settings.inventory, None, "nobody") is None
    given = ScheduleSettings(host="nobody", inventory="/srv/kops")
    with pytest.raises(ConfigError, match="NOT_SET_HERE"):  # a host is contacted, so that its secrets must be there
        run_install(settings, lambda _: None, lambda *_: True, given=given)
