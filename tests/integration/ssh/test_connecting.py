"""Who may be connected to, and as whom: host keys, keys, agents, jump hosts, and every way it can fail."""

from __future__ import annotations

import getpass
import os
import re
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kops_py.connect.base import Cancel
from kops_py.connect.ssh import SshFleet
from kops_py.model.errors import AuthenticationError, CancelledError, HostKeyError, KopsError, UnreachableError
from kops_py.model.spec import HostSpec, SshSpec
from tests.fakes.tcp_proxy import TcpProxy
from tests.integration.ssh.sshd import Sshd, fleet_for, host_spec, make_key, running_sshd


def run_true(spec: HostSpec, known_hosts: Path | None, *, timeout_s: float = 8.0, **options: object) -> list[str]:
    """Connect to one host and run a command; returns what was logged."""
    said: list[str] = []
    values: dict[str, object] = {"ssh_config": Path("/dev/null"), "log": said.append, **options}
    fleet = SshFleet(
        [spec],
        settings=SshSpec(connect_timeout_s=timeout_s),
        known_hosts=known_hosts,
        **values,  # type: ignore[arg-type]
    )
    try:
        assert fleet.host(spec.name).run(["echo", "ok"]).out == "ok\n"
    finally:
        fleet.close()
    return said


class TestHostKeys:
    def test_unknown_is_refused_with_the_command_that_works(self, sshd: Sshd, tmp_path: Path) -> None:
        file = tmp_path / "known hosts"
        spec = host_spec(port=sshd.port, key_file=sshd.key)
        with pytest.raises(HostKeyError) as caught:
            run_true(spec, file)
        fingerprint = subprocess.run(
            ["ssh-keygen", "-lf", sshd.folder / "host_key.pub"], capture_output=True, text=True, check=True
        ).stdout.split()[1]
        assert fingerprint in caught.value.why
        assert "--accept-new-host-keys" in caught.value.hint
        assert not file.exists()
        command = re.search(r"then: (.*) ; or", caught.value.hint)
        assert command is not None
        subprocess.run(["sh", "-c", command.group(1)], check=True, stderr=subprocess.DEVNULL)
        run_true(spec, file)

    def test_changed_is_refused_with_the_command_that_works(self, sshd: Sshd, tmp_path: Path) -> None:
        file = tmp_path / "known_hosts"
        other = make_key(tmp_path / "other")
        file.write_text(f"[127.0.0.1]:{sshd.port} {Path(f'{other}.pub').read_text()}")
        spec = host_spec(port=sshd.port, key_file=sshd.key)
        with pytest.raises(HostKeyError, match="CHANGED") as caught:
            run_true(spec, file)
        with pytest.raises(HostKeyError, match="CHANGED"):
            run_true(spec, file, accept_new_host_keys=True)
        command = re.search(r"(ssh-keygen .*?) ; then", caught.value.hint)
        assert command is not None
        subprocess.run(["sh", "-c", command.group(1)], check=True, capture_output=True)
        run_true(spec, file, accept_new_host_keys=True)

    def test_a_record_of_another_type_only_is_a_change(self, sshd: Sshd, tmp_path: Path) -> None:
        file = tmp_path / "known_hosts"
        other = make_key(tmp_path / "other", kind="rsa")
        file.write_text(f"[127.0.0.1]:{sshd.port} {Path(f'{other}.pub').read_text()}")
        with pytest.raises(HostKeyError, match="CHANGED"):
            run_true(host_spec(port=sshd.port, key_file=sshd.key), file, accept_new_host_keys=True)

    def test_accept_new_is_recorded_for_ssh_too(self, sshd: Sshd, tmp_path: Path) -> None:
        file = tmp_path / "made" / "known_hosts"
        spec = host_spec(port=sshd.port, key_file=sshd.key)
        said = run_true(spec, file, accept_new_host_keys=True)
        assert any("recorded" in line for line in said)
        assert file.stat().st_mode & 0o777 == 0o600
        assert file.read_text() == f"[127.0.0.1]:{sshd.port} {sshd.host_key_line}\n"
        assert run_true(spec, file) == []
        command = ["ssh", "-F", "/dev/null", "-i", str(sshd.key), "-p", str(sshd.port), "-o", "BatchMode=yes"]
        command += ["-o", f"UserKnownHostsFile={file}", "-o", "StrictHostKeyChecking=yes", "127.0.0.1", "true"]
        subprocess.run(command, check=True, capture_output=True)

    def test_many_new_hosts_at_once_lose_no_record(self, sshd: Sshd, tmp_path: Path) -> None:
        file = tmp_path / "known_hosts"
        file.write_text("# kept")
        specs = [host_spec(f"n{n}", address=f"127.0.0.{n}", port=sshd.port, key_file=sshd.key) for n in range(1, 9)]
        args = f"-o HostKeyAlias=alias -o UserKnownHostsFile={file}"
        specs = [
            host_spec(s.name, port=sshd.port, key_file=sshd.key, ssh_args=args.replace("alias", s.name)) for s in specs
        ]
        fleet = SshFleet(specs, settings=SshSpec(), ssh_config=Path("/dev/null"), accept_new_host_keys=True)
        results = fleet.map([s.name for s in specs], lambda host: host.run(["echo", host.name]).out)
        fleet.close()
        assert results == {s.name: f"{s.name}\n" for s in specs}
        lines = file.read_text().splitlines()
        assert lines[0] == "# kept"
        assert sorted(line.split()[0] for line in lines[1:]) == [s.name for s in specs]

    def test_hashed_alias_and_marker_lines(self, sshd: Sshd, tmp_path: Path) -> None:
        file = sshd.known_hosts()
        hashed = tmp_path / "hashed"
        hashed.write_text(file.read_text())
        subprocess.run(["ssh-keygen", "-q", "-H", "-f", hashed], check=True, capture_output=True)
        assert "127.0.0.1" not in hashed.read_text()
        run_true(host_spec(port=sshd.port, key_file=sshd.key), hashed)
        revoked = tmp_path / "revoked"
        revoked.write_text(f"{file.read_text()}@revoked * {sshd.host_key_line}\n")
        with pytest.raises(HostKeyError, match="revoked"):
            run_true(host_spec(port=sshd.port, key_file=sshd.key), revoked)
        alias = sshd.known_hosts("the-alias")
        args = f"-o UserKnownHostsFile={alias} -o HostKeyAlias=the-alias"
        run_true(host_spec(port=sshd.port, key_file=sshd.key, ssh_args=args), None)

    def test_strict_no_is_not_followed(self, sshd: Sshd, tmp_path: Path) -> None:
        args = f"-o StrictHostKeyChecking=no -o UserKnownHostsFile={tmp_path}/none"
        with pytest.raises(HostKeyError):
            run_true(host_spec(port=sshd.port, key_file=sshd.key, ssh_args=args), None)


@pytest.fixture
def agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    path = tmp_path / "agent"
    process = subprocess.Popen(["ssh-agent", "-D", "-a", path], stdout=subprocess.DEVNULL)
    until = time.monotonic() + 5
    while not path.exists() and time.monotonic() < until:
        time.sleep(0.01)  # between two looks at a condition with a deadline
    monkeypatch.setenv("SSH_AUTH_SOCK", str(path))
    yield path
    process.terminate()
    process.wait(5)


class TestLogin:
    def test_no_key(self, sshd: Sshd) -> None:
        with pytest.raises(AuthenticationError) as caught:
            run_true(host_spec(port=sshd.port), sshd.known_hosts())
        assert "no key to offer" in caught.value.why
        assert "ssh-copy-id" in caught.value.hint

    def test_wrong_key(self, sshd: Sshd, tmp_path: Path) -> None:
        key = make_key(tmp_path / "stranger")
        with pytest.raises(AuthenticationError) as caught:
            run_true(host_spec(port=sshd.port, key_file=key), sshd.known_hosts())
        assert f"{key} refused" in caught.value.why

    def test_key_missing_unreadable_or_no_key(self, sshd: Sshd, tmp_path: Path) -> None:
        for content, expected in ((None, "does not exist"), (b"nonsense", "is not a private key")):
            path = tmp_path / "key"
            if content is not None:
                path.write_bytes(content)
            with pytest.raises(AuthenticationError) as caught:
                run_true(host_spec(port=sshd.port, key_file=path), sshd.known_hosts())
            assert expected in caught.value.why

    @pytest.mark.parametrize("kind", ["rsa", "ecdsa", "ed25519"])
    def test_kinds_of_keys(self, sshd: Sshd, tmp_path: Path, kind: str) -> None:
        key = make_key(tmp_path / "key", kind=kind)
        authorized = sshd.folder / "authorized_keys"
        before = authorized.read_text()
        authorized.write_text(before + Path(f"{key}.pub").read_text())
        try:
            run_true(host_spec(port=sshd.port, key_file=key), sshd.known_hosts())
        finally:
            authorized.write_text(before)

    def test_passphrase_wants_an_agent(self, sshd: Sshd, tmp_path: Path) -> None:
        for with_public_file in (True, False):
            key = make_key(tmp_path / f"locked{with_public_file}", passphrase="secret-words")
            if not with_public_file:
                Path(f"{key}.pub").unlink()
            with pytest.raises(AuthenticationError) as caught:
                run_true(host_spec(port=sshd.port, key_file=key), sshd.known_hosts())
            assert "passphrase" in caught.value.why
            assert "ssh-add" in caught.value.hint

    def test_agent(self, sshd: Sshd, agent: Path, tmp_path: Path) -> None:
        run = subprocess.run(["ssh-add", "-q", sshd.key], capture_output=True, text=True)
        assert run.returncode == 0, run.stderr
        run_true(host_spec(port=sshd.port), sshd.known_hosts())
        stranger = make_key(tmp_path / "stranger")
        spec = host_spec(port=sshd.port, key_file=stranger, ssh_args="-o IdentitiesOnly=yes")
        with pytest.raises(AuthenticationError):
            run_true(spec, sshd.known_hosts())
        with pytest.raises(AuthenticationError):
            run_true(host_spec(port=sshd.port, ssh_args="-o IdentityAgent=none"), sshd.known_hosts())

    def test_locked_key_in_the_agent_is_used_alone(self, sshd: Sshd, agent: Path, tmp_path: Path) -> None:
        """Seven strangers in the agent would use up sshd's MaxAuthTries before the right key."""
        for number in range(7):
            subprocess.run(["ssh-add", "-q", make_key(tmp_path / f"k{number}")], check=True, capture_output=True)
        subprocess.run(["ssh-add", "-q", sshd.key], check=True, capture_output=True)
        with pytest.raises(AuthenticationError) as caught:
            run_true(host_spec(port=sshd.port), sshd.known_hosts())
        assert "too many keys" in caught.value.why
        copy = tmp_path / "copy"
        copy.write_bytes(sshd.key.read_bytes())
        copy.chmod(0o600)
        subprocess.run(["ssh-keygen", "-q", "-p", "-N", "secret-words", "-f", copy], check=True, capture_output=True)
        run_true(host_spec(port=sshd.port, key_file=copy), sshd.known_hosts())

    def test_dead_agent_is_no_obstacle(self, sshd: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("SSH_AUTH_SOCK", str(tmp_path / "gone"))
        run_true(host_spec(port=sshd.port, key_file=sshd.key), sshd.known_hosts())

    def test_password_only_host(self, tmp_path: Path) -> None:
        extra = "Match all\nPubkeyAuthentication no\nPasswordAuthentication yes\n"
        with (
            running_sshd(tmp_path / "sshd", extra=extra) as server,
            pytest.raises(AuthenticationError) as caught,
        ):
            run_true(host_spec(port=server.port, key_file=server.key), server.known_hosts())
        assert "password" in caught.value.why
        assert "keys only" in caught.value.hint

    def test_unknown_user(self, sshd: Sshd) -> None:
        with pytest.raises(AuthenticationError, match="no-such-user"):
            run_true(host_spec(port=sshd.port, key_file=sshd.key, user="no-such-user"), sshd.known_hosts())


class TestJumpHosts:
    def test_proxy_jump_arguments_and_configuration(self, sshd: Sshd, second_sshd: Sshd, tmp_path: Path) -> None:
        user = getpass.getuser()
        known = tmp_path / "known"
        known.write_text(sshd.known_hosts().read_text() + second_sshd.known_hosts().read_text())
        config = tmp_path / "config"
        config.write_text(
            f"Host gate\n  HostName 127.0.0.1\n  Port {second_sshd.port}\n  User {user}\n"
            f"  IdentityFile {second_sshd.key}\nHost behind\n  HostName 127.0.0.1\n  ProxyJump gate\n"
        )
        before = second_sshd.log().count("Accepted publickey")
        spec = host_spec(port=sshd.port, key_file=sshd.key, ssh_args="-J gate")
        run_true(spec, known, ssh_config=config)
        spec = host_spec(address="behind", port=sshd.port, key_file=sshd.key)
        run_true(spec, known, ssh_config=config)
        assert second_sshd.log().count("Accepted publickey") == before + 2

    def test_the_jump_host_key_is_checked_too(self, sshd: Sshd, second_sshd: Sshd, tmp_path: Path) -> None:
        spec = host_spec(
            port=sshd.port,
            key_file=sshd.key,
            ssh_args=f"-o ProxyJump={getpass.getuser()}@127.0.0.1:{second_sshd.port}",
        )
        with pytest.raises(HostKeyError) as caught:
            run_true(spec, sshd.known_hosts())
        assert f":{second_sshd.port}" in caught.value.why

    def test_one_jump_connection_for_many_hosts(self, sshd: Sshd, second_sshd: Sshd, tmp_path: Path) -> None:
        known = tmp_path / "known"
        known.write_text(sshd.known_hosts().read_text() + second_sshd.known_hosts().read_text())
        config = tmp_path / "config"
        config.write_text(
            f"Host gate\n  HostName 127.0.0.1\n  Port {second_sshd.port}\n  IdentityFile {second_sshd.key}\n"
        )
        specs = [host_spec(f"n{n}", port=sshd.port, key_file=sshd.key, ssh_args="-J gate") for n in range(5)]
        before = second_sshd.log().count("Accepted publickey")
        fleet = SshFleet(specs, settings=SshSpec(), known_hosts=known, ssh_config=config)
        results = fleet.map([s.name for s in specs], lambda host: host.run(["echo", host.name]).out.strip())
        fleet.close()
        assert list(results.values()) == [s.name for s in specs]
        assert second_sshd.log().count("Accepted publickey") == before + 1

    def test_jump_to_a_closed_port(self, sshd: Sshd, second_sshd: Sshd, tmp_path: Path) -> None:
        config = tmp_path / "config"
        config.write_text(
            f"Host gate\n  HostName 127.0.0.1\n  Port {second_sshd.port}\n  IdentityFile {second_sshd.key}\n"
        )
        spec = host_spec(port=1, key_file=sshd.key, ssh_args="-J gate")
        with pytest.raises(UnreachableError, match="jump host"):
            run_true(spec, second_sshd.known_hosts(), ssh_config=config)

    def test_proxy_command(self, sshd: Sshd) -> None:
        command = (
            "python3 -c 'import socket,sys,threading,os\n"
            "s=socket.create_connection((sys.argv[1],int(sys.argv[2])))\n"
            "def up():\n"
            "  while d:=os.read(0,65536): s.sendall(d)\n"
            "threading.Thread(target=up,daemon=True).start()\n"
            "while d:=s.recv(65536): os.write(1,d)' %h %p"
        )
        path = sshd.folder / "proxy.sh"
        path.write_text(f"#!/bin/sh\nexec {command.replace('%h %p', '$1 $2')}\n")
        args = f"-o ProxyCommand='sh {path} %h %p'"
        run_true(host_spec(port=sshd.port, key_file=sshd.key, ssh_args=args), sshd.known_hosts())

    def test_proxy_command_that_ends_at_once(self, sshd: Sshd) -> None:
        begun = time.monotonic()
        with pytest.raises(UnreachableError, match="closed during the handshake"):
            run_true(host_spec(port=sshd.port, key_file=sshd.key, ssh_args="-o ProxyCommand=false"), sshd.known_hosts())
        assert time.monotonic() - begun < 5


class TestUnreachable:
    def check(self, spec: HostSpec, expected: str, *, timeout_s: float = 2.0) -> KopsError:
        begun = time.monotonic()
        with pytest.raises(UnreachableError, match=expected) as caught:
            run_true(spec, Path("/dev/null"), timeout_s=timeout_s)
        assert time.monotonic() - begun < timeout_s + 2
        assert caught.value.where == spec.name
        assert caught.value.hint
        return caught.value

    def test_name(self, sshd: Sshd) -> None:
        self.check(host_spec(address="no-such-host.invalid", key_file=sshd.key), "does not resolve", timeout_s=15)

    def test_refused(self, sshd: Sshd) -> None:
        self.check(host_spec(port=1, key_file=sshd.key), "connection refused")

    def test_silent(self, sshd: Sshd) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            self.check(host_spec(port=server.getsockname()[1], key_file=sshd.key), "timed out")

    def test_closed_during_the_handshake(self, sshd: Sshd) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            threading.Thread(target=lambda: server.accept()[0].close(), daemon=True).start()
            self.check(host_spec(port=server.getsockname()[1], key_file=sshd.key), "closed during the handshake")

    def test_not_ssh(self, sshd: Sshd) -> None:
        def answer() -> None:
            connection = server.accept()[0]
            connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            connection.close()

        with socket.create_server(("127.0.0.1", 0)) as server:
            threading.Thread(target=answer, daemon=True).start()
            self.check(host_spec(port=server.getsockname()[1], key_file=sshd.key), "closed during the handshake")

    def test_stall_in_the_handshake(self, sshd: Sshd) -> None:
        with TcpProxy("127.0.0.1", sshd.port) as proxy:
            proxy.stall()
            self.check(host_spec(port=proxy.port, key_file=sshd.key), "timed out")

    def test_cancel_while_connecting(self, sshd: Sshd) -> None:
        cancel = Cancel()
        with TcpProxy("127.0.0.1", sshd.port) as proxy:
            proxy.stall()
            fleet = fleet_for(sshd, port=proxy.port, timeout_s=30)
            threading.Timer(0.3, cancel.set, ["SIGINT"]).start()
            begun = time.monotonic()
            with pytest.raises(CancelledError):
                fleet.host("n1").run(["true"], cancel=cancel)
            assert time.monotonic() - begun < 3
            fleet.close()

    def test_nothing_on_the_terminal(self, sshd: Sshd, capfd: pytest.CaptureFixture[str]) -> None:
        """paramiko would print a traceback of its thread."""
        self.test_not_ssh(sshd)
        assert capfd.readouterr().err == ""


def test_fabrics_auto_add_policy_is_never_used(sshd: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import paramiko

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a paramiko client was used to connect")

    monkeypatch.setattr(paramiko.SSHClient, "connect", refuse)
    monkeypatch.setattr(paramiko.AutoAddPolicy, "missing_host_key", refuse)
    run_true(host_spec(port=sshd.port, key_file=sshd.key), sshd.known_hosts())
    assert os.environ["HOME"] == str(tmp_path)
    assert not (tmp_path / ".ssh").exists()
