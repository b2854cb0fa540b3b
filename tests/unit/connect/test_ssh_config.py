"""ssh arguments and ssh_config: what a host resolves to."""

from __future__ import annotations

import contextlib
import getpass
import socket
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kops_py.connect.ssh_config import Resolver, Target, parse_ssh_arguments
from kops_py.model.errors import ConfigError
from kops_py.model.spec import HostSpec


def spec(address: str = "node.example", port: int = 22, user: str | None = None, **fields: object) -> HostSpec:
    return HostSpec("n1", address, port, user, frozenset(), address, **fields)  # type: ignore[arg-type]


def resolve(host: HostSpec, text: str, tmp_path: Path, log: list[str] | None = None) -> Target:
    config = tmp_path / "ssh_config"
    config.write_text(text)
    return Resolver(config, None, (log if log is not None else []).append).resolve(host)


def hops(target: Target) -> list[str]:
    """Return the hosts passed through, in the order they are connected to."""
    via = target.via
    return [*hops(via), via.host] if isinstance(via, Target) else []


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("", ()),
        ("-o ProxyJump=a -oPort=2222", (("ProxyJump", "a"), ("Port", "2222"))),
        ('-o "ProxyCommand ssh -W %h:%p gate"', (("ProxyCommand", "ssh -W %h:%p gate"),)),
        (
            "-J a,b -i ~/key -p 22 -l me",
            (("ProxyJump", "a,b"), ("IdentityFile", "~/key"), ("Port", "22"), ("User", "me")),
        ),
        ("-4C -vvv", (("AddressFamily", "inet"),)),
        ("-AJgate", (("ProxyJump", "gate"),)),
        ("-o ControlMaster=auto -o ControlPersist=60s", (("ControlMaster", "auto"), ("ControlPersist", "60s"))),
    ],
)
def test_arguments(text: str, options: tuple[tuple[str, str], ...]) -> None:
    parsed = parse_ssh_arguments(text)
    assert parsed.options == options
    assert parsed.ignored == ()


def test_arguments_without_a_meaning_are_named() -> None:
    assert parse_ssh_arguments("-L 80:a:80 -o Tunnel=yes -F /x").ignored == ("-L", "-o Tunnel")


@pytest.mark.parametrize("text", ["-o", "'open", "host.example", "-o Port", "-J", "--"])
def test_bad_arguments(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_ssh_arguments(text, where="host n1")
    assert caught.value.where == "host n1"
    assert "inventory" in caught.value.hint


@given(st.text(max_size=60))
def test_any_arguments_are_read_or_refused(text: str) -> None:
    with contextlib.suppress(ConfigError):
        assert parse_ssh_arguments(text) is not None


def test_defaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    target = resolve(spec(), "", tmp_path)
    assert (target.host, target.port, target.user) == ("node.example", 22, getpass.getuser())
    assert target.user_known_hosts[0] == tmp_path / ".ssh/known_hosts"
    assert target.global_known_hosts[0] == Path("/etc/ssh/ssh_known_hosts")
    assert tmp_path / ".ssh/id_ed25519" in target.identity_files
    assert target.via is None
    assert target.family == socket.AF_UNSPEC


def test_configuration_of_the_host(tmp_path: Path) -> None:
    text = (
        "Host node.*\n  HostName 10.0.0.7\n  Port 2200\n  User cfg\n  IdentityFile /keys/%h\n"
        "  IdentitiesOnly yes\n"
        "  HostKeyAlias Node\n  UserKnownHostsFile /k/one /k/two\n  HashKnownHosts yes\n  AddressFamily inet6\n"
        "  IdentityAgent /run/agent\n"
    )
    target = resolve(spec(), text, tmp_path)
    assert (target.host, target.port, target.user) == ("10.0.0.7", 2200, "cfg")
    assert target.identity_files == (Path("/keys/10.0.0.7"),)
    assert target.identities_only
    assert target.host_key_alias == "Node"
    assert target.user_known_hosts == (Path("/k/one"), Path("/k/two"))
    assert target.hash_known_hosts
    assert target.family == socket.AF_INET6
    assert target.agent == "/run/agent"


def test_inventory_wins_over_arguments_and_these_over_configuration(tmp_path: Path) -> None:
    text = "Host *\n  Port 1\n  User cfg\n"
    target = resolve(spec(port=2222, user="inv", ssh_args="-p 3 -l arg"), text, tmp_path)
    assert (target.port, target.user) == (2222, "inv")
    target = resolve(spec(ssh_args="-p 3 -l arg"), text, tmp_path)
    assert (target.port, target.user) == (3, "arg")
    target = resolve(spec(variables={"ansible_port": 22}), text, tmp_path)
    assert (target.port, target.user) == (22, "cfg")


def test_match_sees_the_user_of_the_inventory(tmp_path: Path) -> None:
    text = "Match user special\n  HostName 10.0.0.9\n"
    assert resolve(spec(user="special"), text, tmp_path).host == "10.0.0.9"
    assert resolve(spec(user="other"), text, tmp_path).host == "node.example"


def test_include(tmp_path: Path) -> None:
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "conf.d" / "a.conf").write_text("Host other\n  Port 7\n")
    (tmp_path / "conf.d" / "b.conf").write_text("Host node.example\n  User included\n")
    text = f"Include {tmp_path}/conf.d/*.conf\nPort 99\n"
    target = resolve(spec(), text, tmp_path)
    assert (target.user, target.port) == ("included", 99)


def test_include_of_itself(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="includes itself"):
        resolve(spec(), f"Include {tmp_path}/ssh_config\n", tmp_path)


def test_jump_hosts_are_passed_in_the_order_given(tmp_path: Path) -> None:
    target = resolve(spec(ssh_args="-J a,user@b:2200,ssh://[fd00::1]:23"), "Host a\n  HostName 10.1.1.1\n", tmp_path)
    assert hops(target) == ["10.1.1.1", "b", "fd00::1"]
    via = target.via
    assert isinstance(via, Target)
    assert via.port == 23
    assert isinstance(via.via, Target)
    assert (via.via.user, via.via.port) == ("user", 2200)


def test_arguments_are_not_for_the_jump_host(tmp_path: Path) -> None:
    target = resolve(spec(ssh_args="-J gate -o HostKeyAlias=x -p 77"), "", tmp_path)
    assert isinstance(target.via, Target)
    assert target.via.host_key_alias is None
    assert target.via.port == 22


@pytest.mark.parametrize("line", ["ProxyJump gate", "ProxyJump gate,second"])
def test_a_jump_host_for_all_is_not_its_own(tmp_path: Path, line: str) -> None:
    target = resolve(spec(), f"Host *\n  {line}\n", tmp_path)
    assert hops(target) == line.split()[1].split(",")
    named = resolve(spec(), f"Host gate\n  HostName 10.3.3.3\nHost *\n  {line}\n", tmp_path)
    assert hops(named)[0] == "10.3.3.3"


def test_jump_hosts_of_jump_hosts(tmp_path: Path) -> None:
    text = "Host node.example\n  ProxyJump inner\nHost inner\n  ProxyJump outer\n"
    assert hops(resolve(spec(), text, tmp_path)) == ["outer", "inner"]


def test_jump_hosts_in_a_circle(tmp_path: Path) -> None:
    text = "Host node.example\n  ProxyJump a\nHost a\n  ProxyJump b\nHost b\n  ProxyJump a\n"
    with pytest.raises(ConfigError, match="circle") as caught:
        resolve(spec(), text, tmp_path)
    assert caught.value.why == "node.example -> a -> b -> a"


def test_none_switches_off(tmp_path: Path) -> None:
    assert resolve(spec(), "Host *\n  ProxyJump none\n", tmp_path).via is None
    assert resolve(spec(), "Host *\n  ProxyCommand none\n", tmp_path).via is None


def test_proxy_command_gets_port_and_user_of_the_inventory(tmp_path: Path) -> None:
    target = resolve(spec(port=2222, user="u", ssh_args="-o 'ProxyCommand=nc -l %r %h %p'"), "", tmp_path)
    assert target.via == "nc -l u node.example 2222"


def test_switching_the_check_off_is_not_followed_and_said_once(tmp_path: Path) -> None:
    log: list[str] = []
    config = tmp_path / "c"
    config.write_text("Host *\n  StrictHostKeyChecking no\n")
    resolver = Resolver(config, None, log.append)
    for _ in range(2):
        assert not resolver.resolve(spec()).accept_new_host_key
    assert len(log) == 1
    assert "is not followed" in log[0]


def test_accept_new_is_followed(tmp_path: Path) -> None:
    assert resolve(spec(), "StrictHostKeyChecking accept-new\n", tmp_path).accept_new_host_key


def test_missing_or_broken_configuration(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        Resolver(tmp_path / "none", None, print).resolve(spec())
    with pytest.raises(ConfigError):
        resolve(spec(), "Match nonsense\n  User x\n", tmp_path)
    with pytest.raises(ConfigError, match="line break"):
        resolve(spec(user="a\n  ProxyCommand evil"), "", tmp_path)


def test_fabrics_own_files_have_no_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".fabric.yaml").write_text("user: fabric\nport: 5\ngateway: evil\n")
    target = resolve(spec(), "", tmp_path)
    assert (target.user, target.port, target.via) == (getpass.getuser(), 22, None)
