"""All read-only probes of preflight in one call."""

from __future__ import annotations

from collections.abc import Mapping

from kops_py.connect.base import Cancel, Fleet
from kops_py.model.facts import HostFacts
from kops_py.model.preflight import ProbeResults
from kops_py.model.spec import ClusterSpec
from kops_py.observe.network import probe_network
from kops_py.observe.sources import images_problem, probe_sources


def run_probes(
    fleet: Fleet, spec: ClusterSpec, hosts: Mapping[str, HostFacts], *, cancel: Cancel | None = None
) -> ProbeResults:
    """Probe between the hosts, to the outside, and etcd's disks; unreachable hosts are left out.

    Nothing stays on the hosts. Raises CancelledError.
    """
    urls, fsyncs, source_problems = probe_sources(fleet, spec, hosts, cancel=cancel)
    ports, network_problems = probe_network(fleet, spec, hosts, cancel=cancel)
    return ProbeResults(
        ports=ports,
        urls=urls,
        fsync=fsyncs,
        images_problem=images_problem(spec),
        problems={**source_problems, **network_problems},
    )
