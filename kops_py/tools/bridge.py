"""The pod network ``bridge``: a Linux bridge per node, addresses from host-local, a route per other node.

For labs and small clusters whose nodes share one network segment: no daemon, no overlay, no policy. Each node gets

- a CNI configuration for the podCIDR that the cluster gave it,
- the list of peers, ``/etc/kops-py/bridge-peers``: one ``name=podcidr@address`` a line,
- a script and a oneshot unit that make the routes of that list true: now, at every boot, and again after a change.

Routes carry a protocol number of our own, so that those of nodes that are gone are told from anybody else's.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from ipaddress import ip_address, ip_network

from kops_py.model.spec import Network

CNI_PATH = "/etc/cni/net.d/10-kops-py-bridge.conflist"
PEERS_PATH = "/etc/kops-py/bridge-peers"
SCRIPT_PATH = "/etc/kops-py/bridge-routes.sh"
UNIT = "kops-py-routes.service"
UNIT_PATH = f"/etc/systemd/system/{UNIT}"
BRIDGE = "cni0"
ROUTE_PROTOCOL = 76
"""Mark of our routes; free in iproute2's rt_protos."""

_NETWORK = "kops-py-bridge"
_NODE = re.compile(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?")

_UNIT_TEXT = f"""\
[Unit]
Description=Routes to the pods of the other nodes (kops-py)
Documentation=man:ip-route(8)
Wants=network-online.target
After=network-online.target
Before=kubelet.service
ConditionPathExists={PEERS_PATH}

[Service]
Type=oneshot
RemainAfterExit=yes
TimeoutStartSec=60
ExecStart=/bin/sh {SCRIPT_PATH}

[Install]
WantedBy=multi-user.target
"""

_ROUTES = """\
# Written by kops-py; made true again by every start of {unit}.
set -eu
self={self}
protocol={protocol}
peers={peers}

family() {{ case "$1" in *:*) echo -6 ;; *) echo -4 ;; esac; }}
tables() {{ case "$1" in *:*) echo ip6tables ;; *) echo iptables ;; esac; }}

wanted=" "
while IFS== read -r name rest; do
  [ -n "$name" ] || continue
  [ "$name" != "$self" ] || continue
  cidr="${{rest%@*}}"
  address="${{rest##*@}}"
  if ! ip "$(family "$cidr")" route replace "$cidr" via "$address" proto "$protocol"; then
    echo "no route to the pods of $name: $address is not in a network of this node (network.cni bridge)" >&2
    exit 1
  fi
  wanted="$wanted$cidr "
done <"$peers"

for family in -4 -6; do
  ip "$family" route show proto "$protocol" 2>/dev/null | while read -r cidr rest; do
    case "$wanted" in
      *" $cidr "*) ;;
      *) ip "$family" route del "$cidr" proto "$protocol" ;;
    esac
  done
done

# What leaves the pod network goes out with the node's address; between pods addresses stay as they are.
ensure() {{
  table="$1" chain="$2"
  shift 2
  "$program" -w -t "$table" -C "$chain" "$@" 2>/dev/null || "$program" -w -t "$table" -A "$chain" "$@"
}}
for network in {networks}; do
  program="$(tables "$network")"
  ensure nat POSTROUTING -s "$network" ! -d "$network" -m comment --comment kops-py -j MASQUERADE
  ensure filter FORWARD -s "$network" -m comment --comment kops-py -j ACCEPT
  ensure filter FORWARD -d "$network" -m comment --comment kops-py -j ACCEPT
done
"""


_CLEAR = """\
systemctl disable --quiet --now {unit} 2>/dev/null || true
rm -f {files}
systemctl daemon-reload
for family in -4 -6; do
  ip "$family" route show proto {protocol} 2>/dev/null | while read -r cidr rest; do
    ip "$family" route del "$cidr" proto {protocol}
  done
done
if ip link show {bridge} >/dev/null 2>&1; then ip link delete {bridge}; fi
"""


def conflist(pod_cidrs: Sequence[str], *, mtu: int | None = None) -> str:
    """Return the CNI configuration of a node with these podCIDRs (one per address family).

    ``mtu`` in bytes is the uplink's; None leaves the kernel's default. Raises ValueError for what is no network.
    """
    networks = [ip_network(cidr) for cidr in pod_cidrs]
    if not networks or len({network.version for network in networks}) != len(networks):
        raise ValueError(f"a node has one podCIDR per address family, not {list(pod_cidrs)}")
    bridge: dict[str, object] = {
        "type": "bridge",
        "bridge": BRIDGE,
        "isGateway": True,
        # The plugin would masquerade between pods of different nodes as well; the routes script knows better.
        "ipMasq": False,
        # A pod that reaches itself through its Service.
        "hairpinMode": True,
        "ipam": {
            "type": "host-local",
            "ranges": [[{"subnet": str(network)}] for network in networks],
            "routes": [{"dst": "0.0.0.0/0" if network.version == 4 else "::/0"} for network in networks],
        },
    }
    if mtu is not None:
        bridge["mtu"] = mtu
    document = {
        # 0.4.0 is read by every containerd from 1.4 on.
        "cniVersion": "0.4.0",
        "name": _NETWORK,
        "plugins": [bridge, {"type": "portmap", "capabilities": {"portMappings": True}, "snat": True}],
    }
    return json.dumps(document, indent=2) + "\n"


def peers_text(nodes: Mapping[str, tuple[str, str]]) -> str:
    """Return the content of PEERS_PATH from each node's podCIDR and address, sorted by name; raises ValueError."""
    lines = []
    for name, (cidr, address) in sorted(nodes.items()):
        network, hop = ip_network(cidr), ip_address(address)
        if _NODE.fullmatch(name) is None:
            raise ValueError(f"{name!r} is not the name of a node")
        if network.version != hop.version:
            raise ValueError(f"{name}: podCIDR {cidr} and address {address} are of different address families")
        lines.append(f"{name}={network}@{hop}\n")
    return "".join(lines)


def routes_script(node: str, pod_subnets: Iterable[Network]) -> str:
    """Return a node's script: makes routes and masquerading as the list of peers says, and removes others."""
    if _NODE.fullmatch(node) is None:
        raise ValueError(f"{node!r} is not the name of a node")
    return _ROUTES.format(
        unit=UNIT,
        self=shlex.quote(node),
        protocol=ROUTE_PROTOCOL,
        peers=PEERS_PATH,
        networks=" ".join(str(subnet) for subnet in pod_subnets),
    )


def routes_unit() -> str:
    """Return the unit that runs the routes script at boot, after the network is up and before the kubelet."""
    return _UNIT_TEXT


def apply_script() -> str:
    """Return a script for after the files were written: starts the unit now and at every boot."""
    return f"set -eu\nsystemctl daemon-reload\nsystemctl enable --quiet {UNIT}\nsystemctl restart {UNIT}\n"


def clear_script() -> str:
    """Return a script that takes the bridge network away again: unit, files, routes, the bridge itself."""
    return _CLEAR.format(
        unit=UNIT, files=f"{UNIT_PATH} {SCRIPT_PATH} {PEERS_PATH} {PEERS_PATH}.next", protocol=ROUTE_PROTOCOL,
        bridge=BRIDGE,
    )  # fmt: skip


def uplink_argv(node_ip: str) -> tuple[str, ...]:
    """Return the argv that describes the interface with this address as JSON, for parse_uplink_mtu."""
    return ("ip", "-j", "address", "show", "to", str(ip_address(node_ip)))


def parse_uplink_mtu(output: str) -> int:
    """Return the uplink's MTU in bytes; raises ValueError when no interface has the address."""
    for link in json.loads(output):
        if isinstance(link, dict) and isinstance(link.get("mtu"), int):
            return int(link["mtu"])
    raise ValueError("no interface of this host has the node's address")
