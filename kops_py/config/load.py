"""The operator's files → ClusterSpec.

Three parts, so that each can be used and tested alone: ``read_files`` reads and checks the files by themselves (no
subprocess), ``list_inventory`` asks Ansible, ``assemble`` puts both together. Nothing here opens a connection.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from kops_py.config.checks import check_hosts, choose_endpoint, choose_etcd, choose_groups, choose_limit
from kops_py.config.cluster import ClusterFile, read_cluster
from kops_py.config.hosts import group_members, read_host_beside, read_hosts
from kops_py.config.index import Index
from kops_py.config.listing import Listing, list_inventory
from kops_py.config.problems import Problems
from kops_py.config.scan import scan_inventory
from kops_py.config.sources import Files, find_files
from kops_py.model.errors import ConfigError
from kops_py.model.spec import ClusterSpec, HostSpec
from kops_py.model.version import facts_of


@dataclass(frozen=True, slots=True)
class ReadFiles:
    """Both files as far as they can be read without Ansible."""

    files: Files
    cluster: ClusterFile
    index: Index


def load(
    inventory: Path | None, cluster: Path | None = None, *, limit: str | Sequence[str] | None = None
) -> ClusterSpec:
    """Read and check the inventory and cluster.yaml.

    ``inventory`` is a hosts file, a folder with one (or a directory inventory), None: the current folder.
    ``cluster`` None is cluster.yaml beside it. ``limit`` names hosts, groups or patterns. Raises ConfigError,
    whose ``others`` holds further mistakes and whose ``where`` is file:line:column. Runs ansible-inventory (at
    most 30 s) and contacts nothing itself.
    """
    read = read_files(inventory, cluster)
    return assemble(read, list_inventory(read.files), limit=limit)


def load_host(inventory: Path | None, cluster: Path | None, name: str) -> HostSpec | None:
    """Return a host of the inventory, in whichever groups it is; None when there is none of this name.

    For a machine that works for the cluster and is no part of it. Raises ConfigError.
    """
    read, problems = read_files(inventory, cluster), Problems()
    host = read_host_beside(list_inventory(read.files), read.index, problems, name)
    problems.raise_if_any()
    return host


def read_files(inventory: Path | None, cluster: Path | None = None) -> ReadFiles:
    """Read and check both files by themselves, without Ansible; raises ConfigError with the mistakes of both."""
    files = find_files(inventory, cluster)
    problems = Problems()
    cluster_file = index = None
    try:
        cluster_file = read_cluster(files.cluster)
    except ConfigError as error:
        problems.take(error)
    try:
        index = scan_inventory(files)
    except ConfigError as error:
        problems.take(error)
    problems.raise_if_any()
    if cluster_file is None or index is None:
        raise AssertionError("a file was not read and no problem noted")
    return ReadFiles(files, cluster_file, index)


def assemble(read: ReadFiles, listing: Listing, *, limit: str | Sequence[str] | None = None) -> ClusterSpec:
    """Put the files and Ansible's listing together; raises ConfigError."""
    problems = Problems()
    cluster, index = read.cluster, read.index
    version_facts = facts_of(cluster.kubernetes.version)
    hosts = read_hosts(listing, index, problems, default_taints=version_facts.control_plane_taints)
    # A host without a usable address is missing here; what follows from that would only confuse.
    problems.raise_if_any()
    check_hosts(hosts, cluster, index, problems)
    external_etcd = choose_etcd(hosts, cluster, index, problems)
    endpoint, endpoint_external = choose_endpoint(hosts, cluster, index, problems)
    groups = choose_groups(lambda group: group_members(listing, group), cluster, problems)
    problems.raise_if_any()
    limited = None
    if limit:
        text = limit if isinstance(limit, str) else ",".join(limit)
        limited = choose_limit(text, lambda group: group_members(listing, group), hosts)
    return ClusterSpec(
        name=cluster.name,
        kubernetes=cluster.kubernetes,
        network=cluster.network,
        hosts=hosts,
        endpoint=endpoint,
        endpoint_external=endpoint_external,
        containerd=cluster.containerd,
        ssh=cluster.ssh,
        timeouts=cluster.timeouts,
        maintenance=replace(cluster.maintenance, groups=groups),
        backup=cluster.backup,
        preflight_ignore=cluster.preflight_ignore,
        external_etcd=external_etcd,
        etcd=cluster.etcd,
        cert_sans=cluster.cert_sans,
        inventory_path=read.files.inventory.absolute(),
        cluster_path=read.files.cluster.absolute(),
        limit=limited,
    )
