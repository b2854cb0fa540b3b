"""Snapshots taken with etcd's own program, as an operator would by hand."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.e2e.bed import Bed

ETCDCTL = (
    "crictl exec $(crictl ps --name '^etcd$' -q) etcdctl --endpoints=https://127.0.0.1:2379 "
    "--cacert=/etc/kubernetes/pki/etcd/ca.crt --cert=/etc/kubernetes/pki/etcd/healthcheck-client.crt "
    "--key=/etc/kubernetes/pki/etcd/healthcheck-client.key"
)
HOST_ETCDCTL = (
    "ETCDCTL_API=3 etcdctl --endpoints=https://127.0.0.1:2379 --cacert=/etc/etcd/pki/ca.crt "
    "--cert=/etc/etcd/pki/healthcheck-client.crt --key=/etc/etcd/pki/healthcheck-client.key"
)
"""On a host of an external etcd."""


def take_snapshot(bed: Bed, folder: Path, *, on: str = "n1") -> Path:
    """Take a snapshot through the member of a control plane; returns its file on this machine."""
    # The data directory is what the container shares with its host.
    bed.node(on).exec(f"{ETCDCTL} snapshot save /var/lib/etcd/test.db && mv /var/lib/etcd/test.db /var/tmp/test.db")
    return fetch(bed, "/var/tmp/test.db", folder, on=on)


def fetch(bed: Bed, path: str, folder: Path, *, on: str) -> Path:
    """Copy a file of a node to this machine."""
    place = folder / "snapshot.db"
    argv = bed.node(on).exec_argv("cat", path)
    place.write_bytes(subprocess.run(argv, check=True, capture_output=True, timeout=60).stdout)
    return place
