"""haproxy's answers as 2.6 prints them, and what is made of them."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from kops_py.tools import haproxy

INFO = "Name: HAProxy\nVersion: 2.6.12-1+deb12u4\nPid: 1234\nUptime_sec: 18\n\n"
HEADER = (
    "# be_id be_name srv_id srv_name srv_addr srv_op_state srv_admin_state srv_uweight srv_iweight "
    "srv_time_since_last_change srv_check_status srv_check_result srv_check_health srv_check_state srv_agent_state "
    "bk_f_forced_id srv_f_forced_id srv_fqdn srv_port srvrecord srv_use_ssl srv_check_port srv_check_addr "
    "srv_agent_addr srv_agent_port"
)


def row(name: str, operation: int, admin: int) -> str:
    rest = "1 1 17 15 3 4 6 0 0 0 - 6443 - 0 0 - - 0"
    return f"3 kubernetes_api 1 {name} 10.0.0.1 {operation} {admin} {rest}"


def states(*rows: str) -> str:
    return "\n".join(("1", HEADER, *rows, "", ""))


def test_states() -> None:
    found = haproxy.parse_balancing((INFO, states(row("n1", 2, 0), row("n2", 2, 8), row("n3", 0, 1), row("n4", 0, 0))))
    assert found.process == "1234"
    assert [s.takes_connections for s in found.servers.values()] == [True, False, False, False]
    assert [(s.is_up, s.in_maintenance, s.is_drained) for s in found.servers.values()] == [
        (True, False, False),
        (True, False, True),
        (False, True, False),
        (False, False, False),
    ]


@pytest.mark.parametrize("admin", [0x01, 0x02, 0x04, 0x20, 0x01 | 0x08])
def test_every_kind_of_maintenance(admin: int) -> None:
    server = haproxy.parse_balancing((INFO, states(row("n1", 2, admin)))).servers["n1"]
    assert server.in_maintenance
    assert not server.takes_connections


def test_a_name_set_by_a_command_is_no_maintenance() -> None:
    assert haproxy.parse_balancing((INFO, states(row("n1", 2, 0x40)))).servers["n1"].takes_connections


def test_what_is_no_answer() -> None:
    with pytest.raises(ValueError, match="Can't find backend"):
        haproxy.parse_balancing((INFO, "Can't find backend.\n\n"))
    with pytest.raises(ValueError, match="no list"):
        haproxy.parse_answers("{}")
    with pytest.raises(ValueError, match="Expecting value"):
        haproxy.parse_answers("")


def test_where_no_haproxy_runs() -> None:
    """The script itself, on this machine: without a socket it ends as announced, and prints nothing."""
    argv = haproxy.ask_argv("show info", python=sys.executable)
    script = (
        argv[4].replace("/run/haproxy/admin.sock", "/nonexistent").replace("/var/lib/haproxy/stats", "/nonexistent")
    )
    done = subprocess.run([*argv[:4], script, *argv[5:]], capture_output=True, text=True, check=False, timeout=30)
    assert (done.returncode, done.stdout) == (haproxy.NO_HAPROXY_STATUS, "")


def test_commands() -> None:
    assert haproxy.parse_answers(json.dumps(["\n"])) == ("\n",)
    assert haproxy.drain_command("n1") == "set server kubernetes_api/n1 state drain"
    assert haproxy.ask_argv("x", python="")[0] == "python3"
