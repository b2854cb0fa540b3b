"""A cluster brought back on new machines: what a backup says of the old one, and the actions of the plan."""

from __future__ import annotations

from dataclasses import dataclass

from kops_py.model.actions import InitControlPlane
from kops_py.model.etcd_restore import NewMember
from kops_py.model.plan import Action


@dataclass(frozen=True, slots=True)
class OldCluster:
    """The cluster of a backup, as the files of one of its control planes and its snapshot tell of it.

    Paths are those of the host. No content is in it: nothing here is a secret.
    """

    host: str
    """The control plane whose files are taken."""
    digest: str
    """SHA-256 (hex) of its bundle."""
    pki: tuple[str, ...]
    """What goes to the first control plane, from where kubeadm brings it to the others: authorities, not leaves."""
    files: tuple[str, ...]
    """What goes to every control plane: files that flags of the static pods name."""
    nodes: tuple[str, ...] = ()
    """Names of the Node objects in the snapshot."""
    webhooks: tuple[str, ...] = ()
    """Names of its admission webhook configurations."""
    endpoint: str = ""
    """``host:port`` of its API."""
    kubernetes_version: str = ""
    service_subnets: str = ""
    pod_subnets: str = ""
    dns_domain: str = ""
    """Empty, as the networks, where the files do not tell."""
    absent: tuple[str, ...] = ()
    """Files that flags name and the bundle does not hold."""
    flags: tuple[tuple[str, str], ...] = ()
    """Flags of its API server that name ``files``, with their values."""


@dataclass(frozen=True, slots=True)
class PlaceFiles(Action):
    """Write files of a bundle to a control plane; ``digest`` is the bundle's, ``words`` say what the restore is of."""

    restore: str
    words: str
    node: str
    digest: str
    paths: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class MakeData(Action):
    """Make the data of a cluster of one member from the snapshot; ``minor`` is that of the etcd that can read it."""

    restore: str
    member: NewMember
    minor: str
    bump: int


@dataclass(frozen=True, slots=True)
class InitRestored(Action):
    """Run kubeadm init on files and data that are there; what a broken attempt took away is put there again."""

    init: InitControlPlane
    place: PlaceFiles
    data: MakeData | None
    """None where etcd is outside the control planes, and has its data."""


@dataclass(frozen=True, slots=True)
class ForgetMachines(Action):
    """Delete from the API what belongs to machines that are gone: Node objects, their pods, kubeadm's record.

    A machine is there when its host in the inventory has a kubelet that was given to the cluster; ``node`` is one.
    """

    restore: str
    node: str
    names: tuple[str, ...]
    """The Node objects of the snapshot."""
