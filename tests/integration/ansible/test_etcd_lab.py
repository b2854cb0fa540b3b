"""The role etcd on booted systems: two members, a second run that changes nothing, one killed and back."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest

from kops_py.connect.ansible import AnsibleRunner, playbooks_fingerprint
from kops_py.connect.base import AnsibleHostResult, AnsibleStatus
from kops_py.model.spec import ClusterSpec
from kops_py.tools import etcdctl, preparation
from kops_py.tools.etcd_pki import PAIRS, make_authority, make_certificate, names_of
from tests.integration.ansible.conftest import Setup

PKI = "/etc/etcd/pki"


@pytest.fixture(scope="module")
def spec(setup: Setup) -> Iterator[ClusterSpec]:
    hosts = tuple(replace(h, groups=frozenset({"etcd"})) for h in setup.spec.hosts)
    yield replace(setup.spec, hosts=hosts, external_etcd=True)
    for host in hosts:  # other tests work on these systems as well
        left = "/etc/etcd /var/lib/etcd/member /etc/kops-py/etcd.json /etc/systemd/system/etcd.service"
        setup.node(host.name).exec(f"systemctl disable --now etcd; rm -rf {left}; systemctl daemon-reload", check=False)


def run(setup: Setup, spec: ClusterSpec, names: tuple[str, ...] = ("n1", "n2")) -> dict[str, AnsibleHostResult]:
    fingerprint = playbooks_fingerprint()
    result = AnsibleRunner(setup.runs).run(
        preparation.ETCD_PLAYBOOK,
        [spec.host(n) for n in names],
        preparation.etcd_variables(spec),
        timeout_s=400,
        host_variables={
            n: {
                **preparation.etcd_host_variables(spec, spec.host(n)),
                "kops_etcd_digest": preparation.etcd_digest(spec, spec.host(n), fingerprint),
            }
            for n in names
        },
    )
    assert result.problem is None, result.problem
    return dict(result.hosts)


def members(setup: Setup, name: str) -> dict[str, bool]:
    def ask(argv: tuple[str, ...]) -> str:
        return setup.node(name).exec(" ".join(argv), check=False).stdout

    found = etcdctl.merge_members(
        etcdctl.parse_member_list(ask(etcdctl.member_list_argv(pki=PKI))),
        etcdctl.parse_endpoint_status(ask(etcdctl.endpoint_status_argv(whole_cluster=True, pki=PKI))),
    )
    return {m.name: m.healthy for m in found}


def test_without_certificates_nothing_is_installed(setup: Setup, spec: ClusterSpec) -> None:
    for result in run(setup, spec).values():
        assert result.status is AnsibleStatus.FAILED
        assert "server.key" in result.message
    assert setup.node("n1").exec("command -v etcd", check=False).returncode != 0


def test_members_form_a_cluster_and_a_second_run_changes_nothing(setup: Setup, spec: ClusterSpec) -> None:
    authority = make_authority()
    for host in spec.hosts:
        node = setup.node(host.name)
        node.exec(f"install -d -m 0755 /etc/etcd {PKI}")
        node.put_file(authority.cert, f"{PKI}/ca.crt")
        for pair in PAIRS:
            made = make_certificate(authority, host.name, () if "client" in pair else names_of(host))
            node.put_file(made.cert, f"{PKI}/{pair}.crt")
            node.put_file(made.key, f"{PKI}/{pair}.key", 0o600)
    for result in run(setup, spec).values():
        assert result.status is AnsibleStatus.OK, result
    for result in run(setup, spec).values():
        assert result.changed_tasks == ()
    assert members(setup, "n1") == {"n1": True, "n2": True}
    node = setup.node("n1")
    assert node.exec("stat -c '%a %U' /var/lib/etcd").stdout == "700 etcd\n"
    assert json.loads(node.exec("cat /etc/kops-py/etcd.json").stdout)["digest"]
    plain = node.exec("curl -sk -m 5 https://127.0.0.1:2379/health", check=False)
    assert plain.returncode != 0, "etcd answers without a client certificate"


def test_a_member_that_was_killed_comes_back(setup: Setup, spec: ClusterSpec) -> None:
    setup.node("n2").exec("systemctl kill -s KILL etcd")
    deadline = time.monotonic() + 40
    while members(setup, "n1") != {"n1": True, "n2": True}:
        assert time.monotonic() < deadline, "the killed member has not come back"
        time.sleep(0.5)


def test_other_settings_restart_the_member_and_keep_its_data(setup: Setup, spec: ClusterSpec) -> None:
    n1 = setup.node("n1")
    pki = f"--cacert={PKI}/ca.crt --cert={PKI}/healthcheck-client.crt --key={PKI}/healthcheck-client.key"
    n1.exec(f"etcdctl --endpoints=https://127.0.0.1:2379 {pki} put canary here")
    variables = {**spec.host("n1").variables, "kops_etcd_settings": {"ETCD_QUOTA_BACKEND_BYTES": "4294967296"}}
    changed = replace(spec, hosts=tuple(replace(h, variables=variables) if h.name == "n1" else h for h in spec.hosts))
    results = run(setup, changed, ("n1",))
    assert "Run etcd" in results["n1"].changed_tasks
    assert run(setup, changed, ("n1",))["n1"].changed_tasks == ()
    assert "4294967296" in n1.exec("tr '\\0' '\\n' < /proc/$(systemctl show -p MainPID --value etcd)/environ").stdout
    assert "here" in n1.exec(f"etcdctl --endpoints=https://127.0.0.1:2379 {pki} get canary").stdout
