"""Whether the cluster's DNS answers a node: one question over UDP to its service, as every pod there asks it."""

from __future__ import annotations

from kops_py.actions.deps import Deps
from kops_py.connect.base import Host, KubeApi
from kops_py.model.errors import HostError, KubeError

_SERVICE = "/api/v1/namespaces/kube-system/services/kube-dns"
_ASK_S = 15.0
_ID = b"\x6b\x70"
# dd: bash writes line by line, and a name's length may be the byte of a line's end; one question is one datagram.
_SCRIPT = """exec 3<>"/dev/udp/$1/$2" || exit 0
printf "$3" | dd bs=512 iflag=fullblock >&3 2>/dev/null
timeout 2 head -c 12 <&3 | od -An -v -tx1
"""


def note_dns(deps: Deps, node: str) -> None:
    """Remember that DNS answers this node now: only where it did is it asked for after the work."""
    try:
        ip = dns_address(deps.kube.api())
        if ip and answers(deps.fleet.host(node), ip, deps.spec.network.dns_domain):
            deps.dns_answered.add(node)
    except (HostError, KubeError):
        return


def dns_silent(deps: Deps, node: str) -> tuple[str, ...]:
    """Say that DNS does not answer the node, if it did before the work; raises HostError, KubeError."""
    if node not in deps.dns_answered:
        return ()
    ip = dns_address(deps.kube.api())
    if not ip or answers(deps.fleet.host(node), ip, deps.spec.network.dns_domain):
        return ()
    return (f"DNS: the service kube-dns ({ip}) does not answer {node}",)


def dns_address(api: KubeApi) -> str:
    """Return the cluster address of kubeadm's DNS service; empty without one."""
    service = api.get_or_none(_SERVICE)
    ip = str(((service or {}).get("spec") or {}).get("clusterIP") or "")
    return "" if ip == "None" else ip


def answers(host: Host, ip: str, domain: str, *, port: int = 53) -> bool:
    """Whether a DNS server answers a host, and not with a failure of its own (RFC 1035); raises HostError."""
    argv = ("bash", "-c", _SCRIPT, "bash", ip, str(port), _escaped(_question(f"kubernetes.default.svc.{domain}")))
    header = bytes.fromhex(host.run(argv, check=False, timeout_s=_ASK_S).out.replace(" ", "").strip())
    is_answer = len(header) == 12 and header[:2] == _ID and header[2] & 0x80
    return bool(is_answer) and header[3] & 0x0F in (0, 3)  # no error, or a name that is not there


def _question(name: str) -> bytes:
    labels = b"".join(bytes([len(label)]) + label.encode("ascii") for label in name.split("."))
    return _ID + b"\x01\x00" + b"\x00\x01" + b"\x00" * 6 + labels + b"\x00" + b"\x00\x01\x00\x01"


def _escaped(data: bytes) -> str:
    return "".join(f"\\x{byte:02x}" for byte in data)
