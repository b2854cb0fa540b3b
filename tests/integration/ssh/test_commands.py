"""Commands over a real sshd: streams of any size, ends of every kind."""

from __future__ import annotations

import hashlib
import io
import os
import socket
import threading
import time
from pathlib import Path

import pytest
from paramiko import Channel

from kops_py.connect.base import Cancel, Host
from kops_py.connect.ssh import SshFleet, SshHost
from kops_py.model.errors import CancelledError, CommandFailedError, DeadlineError, UnreachableError
from tests.fakes.tcp_proxy import TcpProxy
from tests.integration.ssh.sshd import Sshd, fleet_for

MIB = 1024 * 1024


def test_output_status_and_quoting(host: Host) -> None:
    result = host.run(["printf", "%s|", "a b", "$HOME", "'\"", "*", "", "ä€"])
    assert result.out == "a b|$HOME|'\"|*||ä€|"
    assert (result.host, result.exit_status, result.stderr) == ("n1", 0, b"")
    assert host.run(["sh", "-c", "exit 3"], check=False).exit_status == 3


def test_binary_output_is_untouched(host: Host) -> None:
    data = bytes(range(256)) * 64
    assert host.run(["cat"], stdin=data).stdout == data


def test_locale_is_c(host: Host) -> None:
    assert host.run(["sh", "-c", "echo $LC_ALL"]).out == "C\n"


def test_failure_says_what_and_why(host: Host) -> None:
    with pytest.raises(CommandFailedError) as caught:
        host.run(["sh", "-c", "echo first >&2; echo no space left >&2; exit 7"])
    assert caught.value.exit_status == 7
    assert caught.value.where == "n1"
    assert "no space left" in caught.value.why
    assert "exit status 7" in caught.value.what


def test_ten_mebibytes_on_both_streams(host: Host) -> None:
    script = "head -c 10485760 /dev/zero >&2 & head -c 10485760 /dev/zero; wait"
    result = host.run(["sh", "-c", script])
    assert (len(result.stdout), len(result.stderr)) == (10 * MIB, 10 * MIB)


def test_one_stream_after_the_other(host: Host) -> None:
    result = host.run(["sh", "-c", "head -c 10485760 /dev/zero >&2; head -c 10485760 /dev/zero"])
    assert (len(result.stdout), len(result.stderr)) == (10 * MIB, 10 * MIB)


def test_twenty_mebibytes_in_and_out_at_once(host: Host) -> None:
    data = os.urandom(20 * MIB)
    result = host.run(["tee", "/dev/stderr"], stdin=io.BytesIO(data))
    assert hashlib.sha256(result.stdout).digest() == hashlib.sha256(data).digest()
    assert hashlib.sha256(result.stderr).digest() == hashlib.sha256(data).digest()


def test_a_command_need_not_read_its_input(host: Host) -> None:
    assert host.run(["true"], stdin=bytes(20 * MIB)).ok
    assert host.run(["head", "-c", "3"], stdin=b"abc" + bytes(8 * MIB)).out == "abc"


def test_input_is_closed_when_there_is_none(host: Host) -> None:
    assert host.run(["cat"], timeout_s=10).stdout == b""


def test_streaming_sink(host: Host) -> None:
    digest, sizes = hashlib.sha256(), []

    def sink(data: bytes) -> None:
        digest.update(data)
        sizes.append(len(data))

    result = host.run(["head", "-c", str(20 * MIB), "/dev/zero"], stdout_to=sink)
    assert result.stdout == b""
    assert sum(sizes) == 20 * MIB
    assert digest.digest() == hashlib.sha256(bytes(20 * MIB)).digest()


def test_a_failing_sink_ends_the_command(host: Host) -> None:
    def sink(data: bytes) -> None:
        raise OSError(28, "No space left on device")

    begun = time.monotonic()
    with pytest.raises(OSError, match="No space left"):
        host.run(["sh", "-c", "while :; do echo x; done"], stdout_to=sink)
    assert time.monotonic() - begun < 5
    assert host.run(["echo", "still good"]).out == "still good\n"


def test_unreadable_input_ends_the_command(host: Host) -> None:
    class Broken(io.RawIOBase):
        def read(self, size: int = -1) -> bytes:
            raise OSError(5, "Input/output error")

    with pytest.raises(OSError, match="Input/output"):
        host.run(["cat"], stdin=Broken(), timeout_s=10)  # type: ignore[arg-type]


def test_death_by_signal_has_no_status(host: Host) -> None:
    result = host.run(["sh", "-c", "kill -9 $$"], check=False)
    assert result.exit_status is None
    with pytest.raises(CommandFailedError, match="signal") as caught:
        host.run(["sh", "-c", "kill -9 $$"])
    assert caught.value.exit_status is None


def test_deadline_shows_the_last_output(host: Host) -> None:
    begun = time.monotonic()
    with pytest.raises(DeadlineError) as caught:
        host.run(["sh", "-c", "echo waiting for etcd; exec sleep 60"], timeout_s=0.5)
    assert 0.4 < time.monotonic() - begun < 3
    assert "waiting for etcd" in caught.value.why
    assert host.run(["echo", "next"]).out == "next\n"


def test_deadline_tells_a_leftover_that_holds_the_output(host: Host) -> None:
    with pytest.raises(DeadlineError) as caught:
        host.run(["sh", "-c", "sleep 5 & echo started"], timeout_s=1)
    assert "still holds its output open" in caught.value.why


def test_cancel(host: Host) -> None:
    cancel = Cancel()
    threading.Timer(0.3, cancel.set, ["SIGINT"]).start()
    begun = time.monotonic()
    with pytest.raises(CancelledError):
        host.run(["sleep", "60"], cancel=cancel)
    assert time.monotonic() - begun < 3
    with pytest.raises(CancelledError):
        host.run(["true"], cancel=cancel)


def test_a_join_secret_is_not_in_an_error(host: Host) -> None:
    with pytest.raises(CommandFailedError) as caught:
        host.run(["sh", "-c", "echo kubeadm join --token abcdef.0123456789abcdef >&2; exit 1"])
    assert "abcdef.0123456789abcdef" not in str(caught.value)


def test_many_commands_at_once_share_one_connection(sshd: Sshd, proxy: TcpProxy) -> None:
    fleet = fleet_for(sshd, port=proxy.port)
    outputs: list[str] = []
    threads = [
        threading.Thread(target=lambda n=n: outputs.append(fleet.host("n1").run(["echo", str(n)]).out))
        for n in range(30)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    fleet.close()
    assert sorted(map(int, outputs)) == list(range(30))
    assert proxy.connections == 1


def test_commands_that_hang_do_not_use_up_the_host(host: Host) -> None:
    """sshd keeps the session of a command that ran into its limit; MaxSessions is 10."""
    for _ in range(10):
        with pytest.raises(DeadlineError):
            host.run(["sleep", "20"], timeout_s=0.1)
    assert host.run(["echo", "free"]).out == "free\n"


def test_nodelay_is_set(sshd: Sshd, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it a command takes 20 times as long; nothing else would fail."""
    fleet = fleet_for(sshd)
    host = fleet.host("n1")
    assert isinstance(host, SshHost)
    host.run(["true"])
    transport = host._find_link()._transport
    assert transport is not None
    assert isinstance(transport.sock, socket.socket)
    assert transport.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0
    fleet.close()


def test_nothing_is_left_behind(sshd: Sshd) -> None:
    def open_files() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    def cycle() -> None:
        fleet = fleet_for(sshd)
        for _ in range(3):
            fleet.host("n1").run(["true"])
        fleet.close()
        fleet.close()

    cycle()
    files, threads = open_files(), threading.active_count()
    for _ in range(5):
        cycle()
    until = time.monotonic() + 5
    while (open_files() > files or threading.active_count() > threads) and time.monotonic() < until:
        time.sleep(0.05)  # threads end a moment after their connection
    assert open_files() <= files
    assert threading.active_count() <= threads


class TestBrokenConnection:
    def test_lost_while_running(self, sshd: Sshd, proxy: TcpProxy) -> None:
        fleet = fleet_for(sshd, port=proxy.port)
        threading.Timer(0.5, proxy.cut).start()
        with pytest.raises(UnreachableError) as caught:
            fleet.host("n1").run(["sh", "-c", "echo begun; exec sleep 20"])
        assert "unknown" in caught.value.why
        assert proxy.connections == 1  # not tried a second time
        assert fleet.host("n1").run(["echo", "again"]).out == "again\n"
        fleet.close()

    def test_lost_where_paramiko_says_eof(self, sshd: Sshd, monkeypatch: pytest.MonkeyPatch) -> None:
        """It says so where it meets the end first, while it answers a message for one: the host is gone, not more."""

        def end(channel: Channel, size: int) -> bytes:
            channel.get_transport().close()
            raise EOFError

        fleet = fleet_for(sshd)
        fleet.host("n1").run(["true"])
        monkeypatch.setattr(Channel, "recv", end)
        with pytest.raises(UnreachableError, match="the connection was lost while echo"):
            fleet.host("n1").run(["echo", "x"])
        monkeypatch.undo()
        assert fleet.host("n1").run(["echo", "x"]).out == "x\n"
        fleet.close()

    def test_lost_between_commands_is_opened_again(self, sshd: Sshd, proxy: TcpProxy) -> None:
        fleet = fleet_for(sshd, port=proxy.port)
        host = fleet.host("n1")
        for number in range(1, 4):
            assert host.run(["echo", "x"]).ok
            assert proxy.connections == number
            proxy.cut()
        fleet.close()

    def test_gone_for_good_between_commands(self, sshd: Sshd, proxy: TcpProxy) -> None:
        fleet = fleet_for(sshd, port=proxy.port)
        fleet.host("n1").run(["true"])
        proxy.close()
        with pytest.raises(UnreachableError, match="refused"):
            fleet.host("n1").run(["true"])
        fleet.close()

    def test_stalled_while_running(self, sshd: Sshd, proxy: TcpProxy) -> None:
        fleet = fleet_for(sshd, port=proxy.port)
        host = fleet.host("n1")
        host.run(["true"])
        proxy.stall()
        begun = time.monotonic()
        with pytest.raises(DeadlineError):
            host.run(["true"], timeout_s=1)
        assert time.monotonic() - begun < 5
        fleet.close()

    def test_stalled_while_sending(self, sshd: Sshd, proxy: TcpProxy) -> None:
        fleet = fleet_for(sshd, port=proxy.port)
        host = fleet.host("n1")
        host.run(["true"])
        threading.Timer(0.3, proxy.stall).start()
        begun = time.monotonic()
        with pytest.raises(DeadlineError):
            host.run(["sh", "-c", "cat; sleep 60"], stdin=bytes(64 * MIB), stdout_to=lambda _: None, timeout_s=2)
        assert time.monotonic() - begun < 6
        fleet.close()

    def test_cancel_while_stalled(self, sshd: Sshd, proxy: TcpProxy) -> None:
        fleet = fleet_for(sshd, port=proxy.port)
        host = fleet.host("n1")
        host.run(["true"])
        proxy.stall()
        cancel = Cancel()
        threading.Timer(0.3, cancel.set, ["SIGTERM"]).start()
        begun = time.monotonic()
        with pytest.raises(CancelledError):
            host.run(["true"], cancel=cancel)
        assert time.monotonic() - begun < 5
        fleet.close()

    def test_slow_network(self, sshd: Sshd) -> None:
        with TcpProxy("127.0.0.1", sshd.port, delay_s=0.05) as slow:
            fleet = fleet_for(sshd, port=slow.port)
            assert fleet.host("n1").run(["cat"], stdin=b"x" * 100_000).stdout == b"x" * 100_000
            fleet.close()


class TestFiles:
    def test_write_and_read(self, host: Host, tmp_path: Path) -> None:
        path = tmp_path / "made here" / "deep" / "file's name"
        data = os.urandom(3 * MIB)
        _as_login_user(host)
        host.write_file(str(path), data, mode=0o640)
        assert path.read_bytes() == data
        assert path.stat().st_mode & 0o7777 == 0o640
        assert path.parent.stat().st_mode & 0o7777 == 0o700
        assert isinstance(host, SshHost)
        assert host.read_file(str(path)) == data
        host.write_file(str(path), b"", mode=0o600)
        assert path.read_bytes() == b""
        assert [p.name for p in path.parent.iterdir()] == [path.name]

    def test_a_cut_transfer_leaves_the_old_file(self, sshd: Sshd, proxy: TcpProxy, tmp_path: Path) -> None:
        path = tmp_path / "file"
        path.write_bytes(b"old")
        fleet = fleet_for(sshd, port=proxy.port)
        host = fleet.host("n1")
        _as_login_user(host)
        host.run(["true"])
        proxy.delay_s = 0.05
        threading.Timer(0.3, proxy.cut).start()
        with pytest.raises(UnreachableError):
            host.write_file(str(path), bytes(64 * MIB))
        fleet.close()
        until = time.monotonic() + 10
        while len(list(tmp_path.iterdir())) > 1 and time.monotonic() < until:
            time.sleep(0.05)  # the script on the host ends a moment later
        assert [p.name for p in tmp_path.iterdir()] == ["file"]
        assert path.read_bytes() == b"old"

    def test_a_folder_is_not_replaced(self, host: Host, tmp_path: Path) -> None:
        (tmp_path / "folder").mkdir()
        _as_login_user(host)
        with pytest.raises(CommandFailedError, match="could not be written"):
            host.write_file(str(tmp_path / "folder"), b"x")
        assert [p.name for p in tmp_path.iterdir()] == ["folder"]


def _as_login_user(host: Host) -> None:
    """Skip where the tests do not run as root: sudo is tested in the lab."""
    if os.geteuid() != 0:
        pytest.skip("files are written as root; run the tests as root, or see test_lab_sudo.py")


class TestMap:
    def test_value_or_error_of_each(self, sshd: Sshd) -> None:
        from kops_py.model.spec import SshSpec
        from tests.integration.ssh.sshd import host_spec

        specs = [host_spec(f"n{n}", port=sshd.port, key_file=sshd.key) for n in range(4)]
        specs.append(host_spec("dead", port=1, key_file=sshd.key))
        fleet = SshFleet(
            specs,
            settings=SshSpec(connect_timeout_s=5, max_parallel=2),
            known_hosts=sshd.known_hosts(),
            ssh_config=Path("/dev/null"),
        )
        running, most, lock = 0, 0, threading.Lock()

        def work(host: Host) -> str:
            nonlocal running, most
            with lock:
                running += 1
                most = max(most, running)
            try:
                return host.run(["sh", "-c", "sleep 0.1; echo ok"]).out.strip()
            finally:
                with lock:
                    running -= 1

        names = [s.name for s in specs]
        results = fleet.map(names, work)
        assert list(results) == names
        assert [results[f"n{n}"] for n in range(4)] == ["ok"] * 4
        assert isinstance(results["dead"], UnreachableError)
        assert most == 2
        with pytest.raises(KeyError):
            fleet.map(["nobody"], work)
        with pytest.raises(ZeroDivisionError):
            fleet.map(["n0"], lambda _: 1 / 0)
        fleet.close()

    def test_cancel_starts_nothing_new(self, sshd: Sshd) -> None:
        from kops_py.model.spec import SshSpec
        from tests.integration.ssh.sshd import host_spec

        specs = [host_spec(f"n{n}", port=sshd.port, key_file=sshd.key) for n in range(6)]
        fleet = SshFleet(
            specs, settings=SshSpec(max_parallel=1), known_hosts=sshd.known_hosts(), ssh_config=Path("/dev/null")
        )
        cancel, begun = Cancel(), []

        def work(host: Host) -> None:
            begun.append(host.name)
            cancel.set("SIGINT")
            host.run(["sleep", "60"], cancel=cancel)

        results = fleet.map([s.name for s in specs], work, cancel=cancel)
        assert begun == ["n0"]
        assert all(isinstance(r, CancelledError) for r in results.values())
        fleet.close()
