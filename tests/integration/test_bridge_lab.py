"""The bridge network on two booted systems: pods of different nodes see each other's own addresses."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from ipaddress import ip_network

import pytest

from kops_py.tools import bridge
from tests.lab import Lab, Node, unavailable_reason

REASON = unavailable_reason()
pytestmark = [
    pytest.mark.lab,
    pytest.mark.skipif(REASON is not None, reason=str(REASON)),
]
PODS = (ip_network("10.244.0.0/16"),)
CIDRS = {"n1": "10.244.1.0/24", "n2": "10.244.2.0/24", "n3": "10.244.3.0/24"}


@pytest.fixture(scope="module")
def nodes() -> Iterator[tuple[Node, ...]]:
    with Lab(f"bridge-{os.getpid()}") as lab:
        lab.down()
        lab.layer("bridge-tools", ["iptables", "containernetworking-plugins", "jq"])
        yield tuple(lab.up(3, layers=["bridge-tools"]))
    assert lab.leaks() == []


def install(node: Node, peers: dict[str, tuple[str, str]]) -> None:
    mtu = bridge.parse_uplink_mtu(node.exec([*bridge.uplink_argv(node.ip)]).stdout)
    node.put_file(bridge.conflist([CIDRS[node.name]], mtu=mtu).encode(), bridge.CNI_PATH, 0o644)
    node.put_file(bridge.peers_text(peers).encode(), bridge.PEERS_PATH, 0o600)
    node.put_file(bridge.routes_script(node.name, PODS).encode(), bridge.SCRIPT_PATH, 0o600)
    node.put_file(bridge.routes_unit().encode(), bridge.UNIT_PATH, 0o644)
    node.exec(bridge.apply_script())


def cni(node: Node, command: str, pod: str) -> None:
    """Run the bridge plugin of the installed configuration as containerd would."""
    configuration = (
        f"jq '.plugins[0] + {{name: .name, cniVersion: .cniVersion}}' {bridge.CNI_PATH} >/run/cni.json; "
        f"CNI_COMMAND={command} CNI_CONTAINERID={pod} CNI_NETNS=/run/netns/{pod} CNI_IFNAME=eth0 "
        "CNI_PATH=/usr/lib/cni /usr/lib/cni/bridge </run/cni.json"
    )
    node.exec(configuration)


def routes(node: Node) -> set[str]:
    output = node.exec(f"ip route show proto {bridge.ROUTE_PROTOCOL}").stdout
    return {line.split()[0] for line in output.splitlines()}


def rules(node: Node) -> list[str]:
    output = node.exec("iptables-save -t nat; iptables-save -t filter").stdout
    return [line for line in output.splitlines() if "kops-py" in line]


def pod_address(node: Node, pod: str) -> str:
    shown = node.exec(f"ip -n {pod} -4 -o address show eth0").stdout
    return shown.split()[3].partition("/")[0]


def test_pods_reach_each_other_and_keep_their_addresses(nodes: tuple[Node, ...]) -> None:
    peers = {node.name: (CIDRS[node.name], node.ip) for node in nodes}
    for node in nodes:
        node.exec("sysctl -q -w net.ipv4.ip_forward=1")
        install(node, peers)
        node.exec("ip netns add pod")
        cni(node, "ADD", "pod")
    n1, n2, _ = nodes
    assert routes(n1) == {CIDRS["n2"], CIDRS["n3"]}
    there = pod_address(n2, "pod")
    assert there.startswith("10.244.2.")
    n1.exec(f"ip netns exec pod ping -c 1 -W 5 {there}")
    # Who the other pod sees: the pod's own address, not the node's.
    n2.exec("ip netns exec pod iptables -A INPUT -p icmp -s 10.244.1.0/24 -m comment --comment seen -j ACCEPT")
    n1.exec(f"ip netns exec pod ping -c 1 -W 5 {there}")
    counted = n2.exec("ip netns exec pod iptables -nvxL INPUT").stdout
    (line,) = (line for line in counted.splitlines() if "seen" in line)
    assert int(line.split()[0]) >= 1


def test_traffic_out_of_the_pod_network_has_the_node_s_address(nodes: tuple[Node, ...]) -> None:
    n1, n2, _ = nodes
    n2.exec(f"iptables -A INPUT -p icmp -s {n1.ip} -m comment --comment from-node -j ACCEPT")
    n1.exec(f"ip netns exec pod ping -c 1 -W 5 {n2.ip}")
    counted = n2.exec("iptables -nvxL INPUT").stdout
    (line,) = (line for line in counted.splitlines() if "from-node" in line)
    assert int(line.split()[0]) >= 1


def test_applying_again_changes_nothing(nodes: tuple[Node, ...]) -> None:
    n1 = nodes[0]
    before = (routes(n1), rules(n1))
    n1.exec(bridge.apply_script())
    assert (routes(n1), rules(n1)) == before
    assert len(rules(n1)) == 3


def test_routes_of_a_node_that_is_gone_are_removed_and_others_stay(nodes: tuple[Node, ...]) -> None:
    n1, n2, _ = nodes
    n1.exec(f"ip route add 10.99.0.0/24 via {n2.ip}")
    install(n1, {node.name: (CIDRS[node.name], node.ip) for node in (n1, n2)})
    assert routes(n1) == {CIDRS["n2"]}
    assert "10.99.0.0/24" in n1.exec("ip route").stdout


def test_routes_are_there_again_after_a_reboot(nodes: tuple[Node, ...]) -> None:
    n1 = nodes[0]
    boot = n1.boot_id()
    n1.ssh("sudo systemctl reboot", check=False)
    n1.wait_rebooted(boot)
    n1.exec(f"systemctl is-system-running --wait; systemctl is-active {bridge.UNIT}")
    assert routes(n1) == {CIDRS["n2"]}
    assert len(rules(n1)) == 3


def test_a_peer_in_another_network_is_an_error_that_names_it(nodes: tuple[Node, ...]) -> None:
    n1 = nodes[0]
    script = bridge.routes_script("n1", PODS)
    n1.put_file(bridge.peers_text({"far": ("10.244.9.0/24", "192.0.2.1")}).encode(), bridge.PEERS_PATH, 0o600)
    result = n1.ssh(f"sudo sh -c {shlex.quote(script)}", check=False)
    assert result.returncode == 1
    assert "no route to the pods of far" in result.stderr
