"""Reads the inventory for plain ansible-playbook runs; kops-py passes these values itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def backend(host: str, hostvars: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Return name and cluster address of a host: ``ip`` as in Kubespray, else ``ansible_host``, else its name."""
    variables = hostvars[host]
    return {"name": host, "address": str(variables.get("ip") or variables.get("ansible_host") or host)}


def etcd_peer(host: str, hostvars: Mapping[str, Mapping[str, Any]]) -> str:
    """Return ``NAME=URL`` of a host's member of an external etcd."""
    address = backend(host, hostvars)["address"]
    name = hostvars[host].get("etcd_member_name") or host
    return f"{name}=https://{'[' + address + ']' if ':' in address else address}:2380"


class FilterModule:
    """What Ansible loads."""

    def filters(self) -> dict[str, Any]:
        """Return the filters by name."""
        return {"kops_backend": backend, "kops_etcd_peer": etcd_peer}
