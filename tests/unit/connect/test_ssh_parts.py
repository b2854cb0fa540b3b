"""known_hosts lines, sudo's marks, error texts, the fakes."""

from __future__ import annotations

import base64
import io
import socket
from pathlib import Path

import pytest

from kops_py.connect import ssh_known_hosts
from kops_py.connect.base import Cancel, Fleet, Host
from kops_py.connect.ssh import SshFleet
from kops_py.connect.ssh_config import Target
from kops_py.connect.ssh_errors import connecting_failed, short_command, tail
from kops_py.connect.ssh_known_hosts import Entry, KnownHosts, append_line, hashed
from kops_py.connect.ssh_sudo import SudoStream
from kops_py.model.errors import (
    CancelledError,
    CommandFailedError,
    HostKeyError,
    SudoError,
    UnreachableError,
)
from kops_py.model.spec import HostSpec, SshSpec
from tests.fakes.ssh import FakeFleet, FakeHost, Reply, UnknownCommandError


class Key:
    """A public key."""

    def __init__(self, content: bytes, name: str = "ssh-ed25519") -> None:
        self._content, self._name = content, name

    def get_name(self) -> str:
        return self._name

    def asbytes(self) -> bytes:
        return self._content

    @property
    def words(self) -> str:
        return f"{self._name} {base64.b64encode(self._content).decode()}"


A, B = Key(b"key a"), Key(b"key b")


def target(file: Path, host: str = "node", port: int = 22, **fields: object) -> Target:
    return Target("n1", host, port, "me", user_known_hosts=(file,), **fields)  # type: ignore[arg-type]


class TestKnownHosts:
    @pytest.mark.parametrize(
        ("patterns", "name", "expected"),
        [
            ("node", "node", True),
            ("node", "node2", False),
            ("a,node,b", "node", True),
            ("*.example,!bad.example", "good.example", True),
            ("*.example,!bad.example", "bad.example", False),
            ("n?de", "node", True),
            ("[node]:2222", "[node]:2222", True),
            ("[node]:2222", "node", False),
            ("[node]:2222", "n:2222", False),
            ("NODE", "node", True),
            ("|1|bad|bad", "node", False),
            ("|1|broken", "node", False),
        ],
    )
    def test_patterns(self, patterns: str, name: str, expected: bool) -> None:
        assert Entry(Path("x"), 1, "", patterns, "t", b"").matches(name) is expected

    def test_hashed_names(self) -> None:
        line = hashed("[node]:22")
        assert Entry(Path("x"), 1, "", line, "t", b"").matches("[node]:22")
        assert not Entry(Path("x"), 1, "", line, "t", b"").matches("node")

    def test_lines_that_are_none_are_passed_over(self, tmp_path: Path) -> None:
        file = tmp_path / "known_hosts"
        file.write_text(f"# comment\n\nnode\nnode ssh-rsa !!!\n@cert-authority * {B.words}\nnode {A.words} comment\n")
        known = KnownHosts(accept_new=False, log=print)
        known.check(target(file), A)
        assert known.key_types(target(file)) == ("ssh-ed25519",)
        with pytest.raises(HostKeyError, match="CHANGED"):
            known.check(target(file), B)

    def test_port(self, tmp_path: Path) -> None:
        file = tmp_path / "known_hosts"
        file.write_text(f"node {A.words}\n")
        known = KnownHosts(accept_new=False, log=print)
        known.check(target(file, port=2222), A)
        with pytest.raises(HostKeyError, match="unknown"):
            known.check(target(file, port=2222), B)  # a record without the port says nothing about another service

    def test_a_new_file_is_seen(self, tmp_path: Path) -> None:
        file = tmp_path / "known_hosts"
        known = KnownHosts(accept_new=False, log=print)
        with pytest.raises(HostKeyError) as caught:
            known.check(target(file), A)
        assert f"ssh-keyscan -t ed25519 node >> {file}" in caught.value.hint
        file.write_text(f"node {A.words}\n")
        known.check(target(file), A)

    def test_behind_a_jump_host_keyscan_is_no_advice(self, tmp_path: Path) -> None:
        known = KnownHosts(accept_new=False, log=print)
        with pytest.raises(HostKeyError) as caught:
            known.check(target(tmp_path / "k", via="nc x"), A)
        assert "ssh-keyscan" not in caught.value.hint
        assert A.words in caught.value.hint

    def test_recording(self, tmp_path: Path) -> None:
        file = tmp_path / "real"
        file.write_text("old x y")
        file.chmod(0o644)
        link = tmp_path / "link"
        link.symlink_to(file)
        append_line(link, "new line\n")
        assert link.is_symlink()
        assert file.read_text() == "old x y\nnew line\n"
        assert file.stat().st_mode & 0o777 == 0o600
        assert sorted(p.name for p in tmp_path.iterdir()) == ["link", "real"]

    def test_recording_fails(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(path: Path, line: str) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(ssh_known_hosts, "append_line", full)
        with pytest.raises(HostKeyError, match="No space left"):
            KnownHosts(accept_new=True, log=print).check(target(tmp_path / "k"), A)

    def test_devnull_keeps_no_record(self) -> None:
        said: list[str] = []
        KnownHosts(accept_new=True, log=said.append).check(target(Path("/dev/null")), A)
        assert "keeps no record" in said[0]


class TestSudo:
    def prompt(self, stream: SudoStream) -> bytes:
        return stream.argv[stream.argv.index("-p") + 1].encode()

    def start(self, stream: SudoStream) -> bytes:
        script = stream.argv[stream.argv.index("-c") + 1]
        return script.split("echo '")[1].split("'")[0].encode() + b"\n"

    def test_without_a_password_it_never_asks(self) -> None:
        stream = SudoStream(("id", "-u"), None)
        assert stream.argv[:3] == ("sudo", "-n", "--")
        assert stream.argv[-2:] == ("id", "-u")

    def test_password_is_sent_once_when_asked_in_pieces_of_any_size(self) -> None:
        stream = SudoStream(("id",), "s3cret")
        assert "s3cret" not in " ".join(stream.argv)
        sent: list[bytes] = []
        text = b"We trust you have received the usual lecture\n" + self.prompt(stream) + self.start(stream) + b"own"
        own = b"".join(stream.feed(text[n : n + 1], sent.append) for n in range(len(text)))
        assert (own, sent, stream.started, stream.refused_password) == (b"own", [b"s3cret\n"], True, False)

    def test_password_is_not_sent_when_not_asked(self) -> None:
        stream = SudoStream(("id",), "s3cret")
        sent: list[bytes] = []
        assert stream.feed(self.start(stream) + b"err", sent.append) == b"err"
        assert sent == []

    def test_second_prompt_is_a_wrong_password(self) -> None:
        stream = SudoStream(("id",), "s3cret")
        sent: list[bytes] = []
        stream.feed(self.prompt(stream), sent.append)
        stream.feed(b"Sorry, try again.\n" + self.prompt(stream), sent.append)
        assert stream.refused_password
        assert sent == [b"s3cret\n"]
        failure = stream.failure("n1", "ops")
        assert "refuses the password" in failure.what
        assert "s3cret" not in f"{failure}{failure.hint}"

    @pytest.mark.parametrize(
        ("said", "expected"),
        [
            ("sudo: a password is required", "wants a password of ops"),
            ("ops is not in the sudoers file.", "may not become root"),
            ("Sorry, user ops is not allowed to execute '/bin/sh' as root on n1.", "may not become root"),
            ("sudo: sorry, you must have a tty to run sudo", "wants a terminal"),
            ("env: 'sudo': No such file or directory", "not installed"),
            ("bash: sudo: command not found", "not installed"),
            ("sudo: account validation failure, is your account locked?", "did not start"),
        ],
    )
    def test_reasons(self, said: str, expected: str) -> None:
        stream = SudoStream(("id",), None)
        stream.feed(said.encode(), lambda _: None)
        failure = stream.failure("n1", "ops")
        assert expected in failure.what
        assert failure.hint

    def test_password_is_asked_for_once_and_must_be_one_line(self) -> None:
        asked: list[int] = []

        def ask() -> str:
            asked.append(1)
            return "pw\n"

        fleet = SshFleet([], settings=SshSpec(), become_password=ask)
        assert [fleet.become_password(), fleet.become_password(), len(asked)] == ["pw", "pw", 1]
        with pytest.raises(SudoError):
            SshFleet([], settings=SshSpec(), become_password=lambda: "a\nb").become_password()


class TestErrors:
    @pytest.mark.parametrize(
        ("error", "expected"),
        [
            (socket.gaierror(-2, "Name or service not known"), "does not resolve"),
            (ConnectionRefusedError(111, "Connection refused"), "connection refused"),
            (OSError(113, "No route to host"), "no route to host"),
            (OSError(101, "Network is unreachable"), "no route to host"),
            (TimeoutError(), "timed out"),
            (EOFError(), "closed during the handshake"),
            (ConnectionResetError(104, "reset"), "closed during the handshake"),
            (BrokenPipeError(32, "pipe"), "closed during the handshake"),
            (ValueError("odd"), "no connection"),
        ],
    )
    def test_kinds(self, error: Exception, expected: str) -> None:
        found = connecting_failed(error, target(Path("k")), 15)
        assert isinstance(found, UnreachableError)
        assert expected in found.what
        assert found.where == "n1"
        assert found.hint

    def test_a_command_in_one_short_line(self) -> None:
        assert short_command(("sh", "-c", "set -e\nrm x\n")) == "sh -c 'set -e ...'"
        assert len(short_command(["x" * 500])) == 120
        assert short_command(("a", "")) == "a ''"
        assert short_command(("a", "\n")) == "a ' '"

    def test_tail_hides_join_secrets(self) -> None:
        text = tail(b"\n".join(b"line %d" % n for n in range(50)) + b"\n--certificate-key " + b"a" * 64)
        assert "line 49" in text
        assert "line 3" not in text.split()
        assert "a" * 64 not in text


class TestFakes:
    def test_they_are_what_they_stand_for(self) -> None:
        fleet: Fleet = FakeFleet([FakeHost("n1")])
        host: Host = fleet.host("n1")
        assert host.name == "n1"
        real: Fleet = SshFleet([HostSpec("n1", "a", 22, None, frozenset(), "a")], settings=SshSpec())
        also: Host = real.host("n1")
        assert also.name == "n1"

    def test_unknown_fails_the_test(self) -> None:
        with pytest.raises(UnknownCommandError):
            FakeHost("n1").run(["reboot"], check=False)

    def test_replies(self) -> None:
        host = FakeHost("n1").on(["id", "-u"], "0\n").on(lambda argv: argv[0] == "cat", lambda c: Reply(c.stdin or b""))
        host.on(["once"], Reply(exit_status=1, times=1, sudo=True))
        assert host.run(["id", "-u"]).out == "0\n"
        pieces: list[bytes] = []
        assert host.run(["cat"], stdin=io.BytesIO(b"in"), stdout_to=pieces.append).stdout == b""
        assert pieces == [b"in"]
        with pytest.raises(UnknownCommandError):
            host.run(["once"], sudo=False)
        with pytest.raises(CommandFailedError):
            host.run(["once"], sudo=True)
        with pytest.raises(UnknownCommandError):
            host.run(["once"], sudo=True)
        assert host.argvs[0] == ("id", "-u")

    def test_map(self) -> None:
        fleet = FakeFleet([FakeHost("a").on(["x"], "1"), FakeHost("b").on(["x"], Reply(exit_status=2))])
        results = fleet.map(["a", "b"], lambda host: host.run(["x"]).out)
        assert results["a"] == "1"
        assert isinstance(results["b"], CommandFailedError)
        cancel = Cancel()
        cancel.set("SIGINT")
        assert isinstance(fleet.map(["a"], lambda host: 1, cancel=cancel)["a"], CancelledError)
