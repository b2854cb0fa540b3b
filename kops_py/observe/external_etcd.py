"""An external etcd as its hosts tell it: its members, and which certificates lie where."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from kops_py.connect.base import Host
from kops_py.model.spec import ExternalEtcd
from kops_py.model.status import EtcdMember
from kops_py.tools import etcdctl
from kops_py.tools.etcd_pki import PAIRS, digest_of, runs_out

_TIMEOUT_S = 30.0
_PEM = re.compile(r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)


def observe_external_etcd(host: Host, etcd: ExternalEtcd) -> tuple[EtcdMember, ...]:
    """Ask through the member on this host about all members; those that do not answer are in it with their problem.

    Raises HostError, and ValueError when the member here does not answer.
    """
    pki = etcd.pki

    def ask(argv: tuple[str, ...]) -> str:
        answer = host.run(argv, sudo=True, check=False, timeout_s=_TIMEOUT_S)
        return answer.out if answer.out.strip() else answer.err

    return etcdctl.merge_members(
        etcdctl.parse_member_list(ask(etcdctl.member_list_argv(pki=pki))),
        etcdctl.parse_endpoint_status(ask(etcdctl.endpoint_status_argv(whole_cluster=True, pki=pki))),
        etcdctl.parse_endpoint_health(ask(etcdctl.endpoint_health_argv(whole_cluster=True, pki=pki))),
    )


def holds_cluster(host: Host, etcd: ExternalEtcd) -> bool:
    """Whether the member on this host holds a cluster of kubeadm; raises HostError."""
    argv = etcdctl.holds_cluster_argv(pki=etcd.pki)
    return etcdctl.parse_holds_cluster(host.run(argv, sudo=True, check=False, timeout_s=_TIMEOUT_S).out)


def has_authority(host: Host, etcd: ExternalEtcd, words: Sequence[bytes]) -> bool:
    """Whether one of these is in what the member on this host holds of its cluster's authority; raises HostError.

    True as well where it holds nothing of it: then there is nothing to compare with.
    """
    values: list[bytes] = []
    for argv in etcdctl.authority_argvs(pki=etcd.pki):
        values += etcdctl.parse_values(host.run(argv, sudo=True, check=False, timeout_s=_TIMEOUT_S).out)
    return not values or any(word in value for word in words for value in values)


def member_entries(host: Host, etcd: ExternalEtcd) -> tuple[etcdctl.EtcdMemberEntry, ...]:
    """Return the member list as the member on this host tells it; raises HostError, ValueError."""
    answer = host.run(etcdctl.member_list_argv(pki=etcd.pki), sudo=True, check=False, timeout_s=_TIMEOUT_S)
    return etcdctl.parse_member_list(answer.out)


def certificates_in(text: str) -> Mapping[str, bytes]:
    """Read ``### name`` lines, each followed by a certificate; one without a certificate is left out."""
    found = {}
    for part in re.split(r"^### ", text, flags=re.MULTILINE)[1:]:
        name, _, rest = part.partition("\n")
        if pem := _PEM.search(rest):
            found[name.strip()] = (pem[0] + "\n").encode()
    return found


def pki_facts(marker: str, text: str) -> tuple[str, str]:
    """Return the digest that stands for a member's certificates and that of their authority.

    Both are empty where kops-py made none; the first is empty when one is missing or runs out.
    """
    found = certificates_in(text)
    if not marker or "ca" not in found:
        return "", ""
    try:
        complete = all(name in found and not runs_out(found[name]) for name in PAIRS)
        return (marker if complete else ""), digest_of(found["ca"])
    except ValueError:
        return "", ""


def client_facts(text: str) -> tuple[str, str, bool]:
    """Return the digests of the authority and the certificate a control plane has, and whether the latter runs out."""
    found = certificates_in(text)
    if not {"ca", "client"} <= set(found):
        return "", "", False
    try:
        return digest_of(found["ca"]), digest_of(found["client"]), runs_out(found["client"])
    except ValueError:
        return "", "", False
