"""Two fresh booted systems, a bundle of stand-ins, and the connector."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from ipaddress import ip_network
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from kops_py.connect.ansible import AnsibleRunner, playbooks_fingerprint
from kops_py.connect.base import AnsibleHostResult, AnsibleResult
from kops_py.model.spec import ClusterSpec, CniType, Endpoint, HostSpec, KubernetesSpec, NetworkSpec
from kops_py.model.version import Version
from kops_py.tools import preparation
from tests.integration.ansible.stub_bundle import make_images, make_packages
from tests.lab import Lab, Node, unavailable_reason
from tests.lab.config import SUDO_PASSWORD


@dataclass
class Setup:
    """What the tests share."""

    lab: Lab
    runs: Path
    spec: ClusterSpec

    def node(self, name: str) -> Node:
        return self.lab.node(name)

    def variables(self, spec: ClusterSpec | None = None) -> dict[str, Any]:
        return preparation.prepare_variables(spec or self.spec)

    def host_variables(self, spec: ClusterSpec | None = None) -> dict[str, dict[str, Any]]:
        spec = spec or self.spec
        fingerprint = playbooks_fingerprint()
        return {
            host.name: {
                **preparation.prepare_host_variables(spec, host),
                "kops_prepare_digest": preparation.prepare_digest(spec, host, fingerprint),
            }
            for host in spec.hosts
        }

    def prepare(
        self,
        names: Sequence[str] = ("n1", "n2"),
        *,
        spec: ClusterSpec | None = None,
        user: str = "ops",
        password: str | None = None,
        ssh_args: str | None = None,
        accept_new_host_keys: bool = False,
        **variables: object,
    ) -> dict[str, AnsibleHostResult]:
        spec = spec or self.spec
        hosts = [replace(spec.host(name), user=user) for name in names]
        if ssh_args is not None:
            hosts = [replace(host, ssh_args=ssh_args) for host in hosts]
        runner = AnsibleRunner(
            self.runs, become_password=lambda: password, accept_new_host_keys=accept_new_host_keys, connect_timeout_s=6
        )
        result: AnsibleResult = runner.run(
            preparation.PREPARE_PLAYBOOK,
            hosts,
            {**self.variables(spec), **variables},
            timeout_s=300,
            host_variables=self.host_variables(spec),
        )
        assert result.problem is None, result.problem
        return dict(result.hosts)


@pytest.fixture(scope="package")
def setup(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Setup]:
    reason = unavailable_reason()
    if reason is not None:
        pytest.skip(reason)
    bundle = tmp_path_factory.mktemp("bundle")
    key = make_packages(bundle)
    make_images(bundle)
    with Lab(f"ansible-{os.getpid()}") as lab:
        lab.down()
        nodes = lab.up(2)
        url = lab.serve(bundle)
        hosts = tuple(_host(lab, node, i) for i, node in enumerate(nodes))
        spec = ClusterSpec(
            name="ansible",
            kubernetes=KubernetesSpec(Version.parse("v1.20.2"), f"{url}/packages", str(key), None, f"{url}/images"),
            network=NetworkSpec(
                (ip_network("10.244.0.0/16"),), (ip_network("10.96.0.0/12"),), "cluster.local", CniType.NONE
            ),
            hosts=hosts,
            endpoint=Endpoint(nodes[0].ip, 6443),
            endpoint_external=False,
        )
        yield Setup(lab, tmp_path_factory.mktemp("run") / "ansible", spec)
    assert lab.leaks() == []


def _host(lab: Lab, node: Node, number: int) -> HostSpec:
    groups = {"kube_control_plane", "etcd"} if number == 0 else {"kube_node"}
    return HostSpec(
        name=node.name,
        address=node.ip,
        port=22,
        user="ops",
        groups=frozenset(groups),
        node_ip=node.ip,
        key_file=lab.key_path,
        ssh_args=f"-o UserKnownHostsFile={lab.known_hosts}",
        variables=MappingProxyType({"ansible_python_interpreter": "/usr/bin/python3"}),
    )


@pytest.fixture(scope="package")
def prepared(setup: Setup) -> Setup:
    """The systems after their first preparation."""
    results = setup.prepare()
    assert [r.status.value for r in results.values()] == ["ok", "ok"], results
    return setup


@pytest.fixture
def sudo_password() -> str:
    return SUDO_PASSWORD
