"""Becoming root on booted systems with a real sudo: without a password, with one, refused."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kops_py.connect.base import Host
from kops_py.connect.ssh import SshFleet, SshHost
from kops_py.model.errors import CommandFailedError, SudoError, UnreachableError
from kops_py.model.spec import SshSpec
from tests.integration.ssh.sshd import host_spec
from tests.lab import Lab, Node, unavailable_reason
from tests.lab.config import SUDO_PASSWORD

pytestmark = pytest.mark.lab

Login = Callable[..., Host]


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    reason = unavailable_reason()
    if reason:
        pytest.skip(reason)
    with Lab(f"sudo{os.getpid()}") as lab:
        (node,) = lab.up(1)
        node.exec(["install", "-d", "-m", "0700", "/root/.ssh"])
        node.put_file(Path(f"{lab.key_path}.pub"), "/root/.ssh/authorized_keys", 0o600)
        yield lab


@pytest.fixture
def node(lab: Lab) -> Node:
    return lab.node("n1")


@pytest.fixture
def login(lab: Lab, node: Node) -> Iterator[Login]:
    fleets: list[SshFleet] = []

    def make(user: str, password: str | None = None, *, become: bool = True) -> Host:
        fleet = SshFleet(
            [host_spec(address=node.ip, user=user, key_file=lab.key_path, become=become)],
            settings=SshSpec(),
            become_password=lambda: password,
            known_hosts=lab.known_hosts,
            ssh_config=Path("/dev/null"),
        )
        fleets.append(fleet)
        return fleet.host("n1")

    yield make
    for fleet in fleets:
        fleet.close()


USERS = [("ops", None), ("ops", SUDO_PASSWORD), ("opspw", SUDO_PASSWORD), ("root", None)]


@pytest.mark.parametrize(("user", "password"), USERS)
def test_input_output_and_status_pass_untouched(login: Login, user: str, password: str | None) -> None:
    host = login(user, password)
    assert host.run(["id", "-un"], sudo=True).out == "root\n"
    data = os.urandom(5 * 1024 * 1024)
    for _ in range(3):  # the second and third time sudo may have a cached timestamp
        result = host.run(["tee", "/dev/stderr"], sudo=True, stdin=data)
        assert result.stdout == data
        assert result.stderr == data
    assert host.run(["cat"], sudo=True, timeout_s=15).stdout == b""
    result = host.run(["sh", "-c", "echo out; echo err >&2; exit 5"], sudo=True, check=False)
    assert (result.stdout, result.stderr, result.exit_status) == (b"out\n", b"err\n", 5)
    assert host.run(["no-such-command"], sudo=True, check=False).exit_status == 127
    assert host.run(["sh", "-c", "kill -9 $$"], sudo=True, check=False).exit_status is None
    assert host.run(["sh", "-c", "echo $LC_ALL"], sudo=True).out == "C\n"


@pytest.mark.parametrize(("user", "password"), USERS)
def test_files_are_roots(login: Login, node: Node, user: str, password: str | None) -> None:
    host = login(user, password)
    folder = f"/etc/test-{user}-{bool(password)}"
    data = b"first line\n" + os.urandom(1024 * 1024)
    host.write_file(f"{folder}/a/file", data, mode=0o640)
    assert isinstance(host, SshHost)
    assert host.read_file(f"{folder}/a/file") == data
    found = node.exec(["stat", "-c", "%u %g %a", folder, f"{folder}/a", f"{folder}/a/file"]).stdout
    assert found.split("\n")[:3] == ["0 0 700", "0 0 700", "0 0 640"]


def test_the_password_is_in_no_process_list(login: Login, node: Node) -> None:
    result = login("opspw", SUDO_PASSWORD).run(["sh", "-c", "cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ"], sudo=True)
    assert b"sudo" in result.stdout
    assert SUDO_PASSWORD.encode() not in result.stdout


def test_password_needed(login: Login) -> None:
    with pytest.raises(SudoError, match="wants a password of opspw") as caught:
        login("opspw").run(["true"], sudo=True)
    assert "become_password" in caught.value.hint


def test_wrong_password_is_told_quickly_and_asked_once(login: Login, node: Node) -> None:
    host = login("opspw", "not-the-password")
    begun = time.monotonic()
    with pytest.raises(SudoError, match="refuses the password") as caught:
        host.run(["tee", "/etc/must-not-be-written"], sudo=True, stdin=b"payload\n" * 1000)
    assert time.monotonic() - begun < 8
    assert "not-the-password" not in f"{caught.value}{caught.value.hint}{caught.value.__cause__}"
    begun = time.monotonic()
    with pytest.raises(SudoError):
        host.run(["true"], sudo=True)
    assert time.monotonic() - begun < 0.5
    assert node.exec(["ls", "/etc/must-not-be-written"], check=False).returncode != 0
    assert host.run(["echo", "as myself"]).out == "as myself\n"


@pytest.mark.parametrize("password", [None, "any"])
def test_user_without_sudo(login: Login, password: str | None) -> None:
    with pytest.raises(SudoError) as caught:
        login("nosudo", password).run(["true"], sudo=True)
    assert caught.value.hint


def test_become_forbidden_by_the_inventory(login: Login) -> None:
    with pytest.raises(SudoError, match="forbids"):
        login("ops", become=False).run(["true"], sudo=True)


def test_requiretty_and_lecture(login: Login, node: Node) -> None:
    drop_in = "/etc/sudoers.d/zz-test"
    try:
        node.put_file(b"Defaults lecture=always\nDefaults timestamp_timeout=0\n", drop_in, 0o440)
        result = login("opspw", SUDO_PASSWORD).run(["cat"], sudo=True, stdin=b"x")
        assert (result.stdout, result.stderr) == (b"x", b"")
        node.put_file(b"Defaults requiretty\n", drop_in, 0o440)
        with pytest.raises(SudoError, match="wants a terminal"):
            login("ops").run(["true"], sudo=True)
    finally:
        node.exec(["rm", "-f", drop_in])


def test_a_failing_command_is_no_sudo_error(login: Login) -> None:
    with pytest.raises(CommandFailedError):
        login("ops").run(["sh", "-c", "echo sudo: a password is required >&2; exit 1"], sudo=True)


def test_no_route_and_silence_are_told_apart(login: Login, node: Node) -> None:
    node.cut()
    try:
        with pytest.raises(UnreachableError, match="no route"):
            login("ops").run(["true"])
    finally:
        node.heal()
    node.drop()
    try:
        begun = time.monotonic()
        with pytest.raises(UnreachableError, match="timed out"):
            login("ops").run(["true"])
        assert 14 < time.monotonic() - begun < 18
    finally:
        node.undrop()
    assert login("ops").run(["true"]).ok
