"""The files of the bridge network say what they should; their effect is shown in tests/integration."""

from __future__ import annotations

import json
import subprocess
from ipaddress import ip_network

import pytest

from kops_py.tools import bridge

NETWORKS = (ip_network("10.244.0.0/16"), ip_network("fd00:244::/56"))


def test_conflist_gives_addresses_of_the_node_and_does_not_masquerade_by_itself() -> None:
    document = json.loads(bridge.conflist(["10.244.1.0/24"], mtu=1450))
    plugin, portmap = document["plugins"]
    assert plugin["ipam"]["ranges"] == [[{"subnet": "10.244.1.0/24"}]]
    assert plugin["ipam"]["routes"] == [{"dst": "0.0.0.0/0"}]
    assert (plugin["mtu"], plugin["ipMasq"], plugin["isGateway"], plugin["bridge"]) == (1450, False, True, "cni0")
    assert portmap == {"type": "portmap", "capabilities": {"portMappings": True}, "snat": True}
    assert "mtu" not in json.loads(bridge.conflist(["10.244.1.0/24"]))["plugins"][0]


def test_conflist_of_two_families() -> None:
    ipam = json.loads(bridge.conflist(["10.244.1.0/24", "fd00:244:0:1::/64"]))["plugins"][0]["ipam"]
    assert [group[0]["subnet"] for group in ipam["ranges"]] == ["10.244.1.0/24", "fd00:244:0:1::/64"]
    assert ipam["routes"] == [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]


@pytest.mark.parametrize("cidrs", [[], ["10.244.1.0/24", "10.244.2.0/24"], ["10.244.1.1/24"], ["x"]])
def test_conflist_refuses_what_is_no_podcidr(cidrs: list[str]) -> None:
    with pytest.raises(ValueError, match=r".+"):
        bridge.conflist(cidrs)


def test_peers_are_sorted_one_a_line() -> None:
    nodes = {"n2": ("10.244.1.0/24", "10.0.0.2"), "n1": ("10.244.0.0/24", "10.0.0.1")}
    text = bridge.peers_text(nodes)
    assert text == "n1=10.244.0.0/24@10.0.0.1\nn2=10.244.1.0/24@10.0.0.2\n"


@pytest.mark.parametrize(
    ("name", "cidr", "address"),
    [
        ("n 1", "10.244.0.0/24", "10.0.0.1"),
        ("n1=x", "10.244.0.0/24", "10.0.0.1"),
        ("n1", "10.244.0.1/24", "10.0.0.1"),
        ("n1", "10.244.0.0/24", "host"),
        ("n1", "10.244.0.0/24", "fd00::1"),
    ],
)
def test_peers_refuse_what_would_not_work(name: str, cidr: str, address: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        bridge.peers_text({name: (cidr, address)})


@pytest.mark.parametrize("script", [bridge.routes_script("n1", NETWORKS), bridge.apply_script()])
def test_scripts_are_posix_sh(script: str) -> None:
    subprocess.run(["dash", "-n"], input=script, text=True, check=True)


def test_a_node_name_cannot_leave_the_script() -> None:
    with pytest.raises(ValueError, match="not the name of a node"):
        bridge.routes_script("n1; reboot", NETWORKS)


def test_the_unit_runs_the_script_at_boot() -> None:
    unit = bridge.routes_unit()
    assert f"ExecStart=/bin/sh {bridge.SCRIPT_PATH}\n" in unit
    for line in ("After=network-online.target", "Before=kubelet.service", "WantedBy=multi-user.target"):
        assert f"{line}\n" in unit


def test_mtu_of_the_uplink() -> None:
    # Recorded from iproute2 6.1, which prints an empty object for every interface without the address.
    output = '[{},{"ifindex":2,"ifname":"eth0","mtu":1400,"operstate":"UP","addr_info":[{"local":"10.0.0.1"}]}]'
    assert bridge.parse_uplink_mtu(output) == 1400
    assert bridge.uplink_argv("10.0.0.1") == ("ip", "-j", "address", "show", "to", "10.0.0.1")
    with pytest.raises(ValueError, match="no interface"):
        bridge.parse_uplink_mtu("[{},{}]")
