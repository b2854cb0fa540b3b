"""A lab of three systems, and what preflight needs to look at it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from ipaddress import ip_network
from pathlib import Path

import pytest

from kops_py.connect.ssh import SshFleet
from kops_py.model.facts import Facts, HostFacts
from kops_py.model.finding import Finding
from kops_py.model.preflight import ProbeResults
from kops_py.model.spec import (
    ClusterSpec,
    CniType,
    Endpoint,
    Group,
    HostSpec,
    KubernetesSpec,
    NetworkSpec,
    SshSpec,
)
from kops_py.model.version import Version
from kops_py.observe.host import observe_hosts
from kops_py.observe.host_probes import run_probes
from kops_py.runbooks.preflight import preflight
from tests.lab import Lab, Node, unavailable_reason


@dataclass(frozen=True)
class Bed:
    """A lab, the spec of a cluster on it, and connections to it."""

    lab: Lab
    spec: ClusterSpec
    fleet: SshFleet

    @property
    def nodes(self) -> Mapping[str, Node]:
        return {name: self.lab.node(name) for name in (h.name for h in self.spec.hosts)}

    def hosts(self) -> Mapping[str, HostFacts]:
        return observe_hosts(self.fleet, self.spec)

    def probes(self, hosts: Mapping[str, HostFacts]) -> ProbeResults:
        return run_probes(self.fleet, self.spec, hosts)

    def findings(self) -> tuple[Finding, ...]:
        hosts = self.hosts()
        return preflight(self.spec, Facts(hosts), self.probes(hosts))


def make_spec(lab: Lab, addresses: Mapping[str, str], *, repository: str, control_planes: int = 1) -> ClusterSpec:
    """Return a cluster over these hosts; the first ones are control planes."""
    hosts = tuple(
        HostSpec(
            name=name,
            address=address,
            port=22,
            user=lab.user,
            groups=frozenset({Group.CONTROL_PLANE if index < control_planes else Group.NODE}),
            node_ip=address,
            key_file=lab.key_path,
        )
        for index, (name, address) in enumerate(addresses.items())
    )
    pods, services = ip_network("10.44.0.0/16"), ip_network("10.45.0.0/16")
    return ClusterSpec(
        name="lab",
        kubernetes=KubernetesSpec(
            version=Version.parse("v1.31.2"),
            repository=repository,
            repository_key=None,
            image_repository=None,
            images=f"{repository}/images",
        ),
        network=NetworkSpec((pods,), (services,), "cluster.local", CniType.NONE),
        hosts=hosts,
        endpoint=Endpoint(hosts[0].node_ip, 6443),
        endpoint_external=False,
        ssh=SshSpec(connect_timeout_s=15.0),
    )


@pytest.fixture(scope="session")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder laid out like a package repository and an image folder."""
    root = tmp_path_factory.mktemp("repository")
    release = root / "v1.31" / "deb" / "Release"
    release.parent.mkdir(parents=True)
    release.write_text("Origin: test\n")
    index = root / "images" / "v1.31.2" / "images.json"
    index.parent.mkdir(parents=True)
    index.write_text("{}\n")
    return root


@pytest.fixture(scope="session")
def bed(repository: Path) -> Iterator[Bed]:
    reason = unavailable_reason()
    if reason is not None:
        pytest.skip(reason)
    with Lab(f"preflight-{os.getpid()}") as lab:
        nodes = lab.up(3)
        spec = make_spec(lab, {n.name: n.ip for n in nodes}, repository=lab.serve(repository))
        fleet = SshFleet(spec.hosts, settings=spec.ssh, known_hosts=lab.known_hosts, ssh_config=Path(os.devnull))
        yield Bed(lab, spec, fleet)
        fleet.close()
