"""The load balancer on booted systems: it goes by /readyz, is reloaded and not restarted, and settles."""

from __future__ import annotations

import datetime
import shlex
import time
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from kops_py.actions.perform import ClusterPerformer
from kops_py.connect.ansible import AnsibleRunner, playbooks_fingerprint
from kops_py.connect.base import AnsibleHostResult, AnsibleStatus
from kops_py.connect.ssh import SshFleet
from kops_py.model.actions import PutBackIntoBalancer, TakeOutOfBalancer
from kops_py.model.event import Note
from kops_py.model.spec import ClusterSpec, Endpoint, SshSpec
from kops_py.tools import haproxy, preparation
from kops_py.tools.haproxy import Server
from tests.integration.ansible.conftest import Setup
from tests.lab import Node
from tests.lab.processes import wait_until
from tests.unit.actions.stage import Stage

pytestmark = pytest.mark.lab

API_SERVER = """
import http.server, ssl, sys
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        import os
        ready = self.path != "/readyz" or not os.path.exists("/run/not-ready")
        self.send_response(200 if ready else 500); self.end_headers(); self.wfile.write(b"api\\n")
server = http.server.ThreadingHTTPServer(("", 6443), Answer)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER); context.load_cert_chain("/run/tls.pem")
server.socket = context.wrap_socket(server.socket, server_side=True)
server.serve_forever()
"""


def certificate() -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "api")])
    now = datetime.datetime.now(datetime.UTC)
    built = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    signed = built.not_valid_before(now - datetime.timedelta(days=1)).not_valid_after(now + datetime.timedelta(days=1))
    no_password = serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, no_password) + signed.sign(
        key, hashes.SHA256()
    ).public_bytes(serialization.Encoding.PEM)


def balance(setup: Setup, spec: ClusterSpec) -> AnsibleHostResult:
    host = spec.host("n2")
    digest = preparation.load_balancer_digest(spec, host, playbooks_fingerprint())
    result = AnsibleRunner(setup.runs).run(
        preparation.LOAD_BALANCER_PLAYBOOK,
        [host],
        preparation.load_balancer_variables(spec),
        timeout_s=300,
        host_variables={"n2": {"kops_load_balancer_digest": digest}},
    )
    assert result.problem is None, result.problem
    return result.hosts["n2"]


def wait_for_answer(node: Node, url: str, wanted: str) -> None:
    deadline = time.monotonic() + 20
    while (found := node.exec(f"curl -sk -m 3 {url}", check=False).stdout.strip()) != wanted:
        assert time.monotonic() < deadline, f"{url} answers {found!r}, not {wanted!r}"
        time.sleep(0.2)


def test_balancing_follows_readiness(setup: Setup) -> None:
    n1, n2 = setup.node("n1"), setup.node("n2")
    spec = replace(setup.spec, endpoint=Endpoint(n2.ip, 6443))
    n1.put_file(certificate(), "/run/tls.pem", 0o600)
    n1.put_file(API_SERVER.encode(), "/run/api.py")
    n1.exec("systemd-run --unit=api python3 /run/api.py")
    try:
        assert balance(setup, spec).status is AnsibleStatus.OK
        assert balance(setup, spec).changed_tasks == ()
        assert n2.exec("stat -c %a /etc/kops-py/load-balancer.json").stdout == "600\n"
        wait_for_answer(n2, f"https://{n2.ip}:6443/", "api")
        n1.exec("touch /run/not-ready")
        wait_for_answer(n2, f"https://{n2.ip}:6443/", "")
        n1.exec("rm /run/not-ready")
        wait_for_answer(n2, f"https://{n2.ip}:6443/", "api")
        pid = n2.exec("systemctl show -p MainPID haproxy").stdout
        other = replace(spec, endpoint=Endpoint(n2.ip, 8443))
        assert "Reload haproxy" in balance(setup, other).changed_tasks
        wait_for_answer(n2, f"https://{n2.ip}:8443/", "api")
        assert n2.exec("systemctl show -p MainPID haproxy").stdout == pid
    finally:
        n1.exec("systemctl stop api; rm -f /run/not-ready")


def test_a_control_plane_is_taken_out_and_put_back(setup: Setup) -> None:
    """Over ssh, through the socket of a real haproxy; a reload forgets, and what a person sets stays."""
    n1, n2 = setup.node("n1"), setup.node("n2")
    also = frozenset({"kube_control_plane", "load_balancer"})
    hosts = (setup.spec.host("n1"), replace(setup.spec.host("n2"), groups=also))
    there = Stage(replace(setup.spec, hosts=hosts, endpoint=Endpoint(n2.ip, 8443)))
    there.deps.fleet = SshFleet(hosts, settings=SshSpec(), ssh_config=Path("/dev/null"))

    def do(action: TakeOutOfBalancer | PutBackIntoBalancer) -> None:
        ClusterPerformer(there.deps).apply(there.ctx(action, action.node, 30))

    def states() -> dict[str, Server]:
        looked = n2.exec(shlex.join(haproxy.ask_argv(*haproxy.LOOK))).stdout
        return dict(haproxy.parse_balancing(haproxy.parse_answers(looked)).servers)

    try:
        for node in (n1, n2):
            node.put_file(certificate(), "/run/tls.pem", 0o600)
            node.put_file(API_SERVER.encode(), "/run/api.py")
            node.exec("systemd-run --unit=api python3 /run/api.py")
        assert balance(setup, there.spec).status is AnsibleStatus.OK
        wait_for_answer(n2, f"https://{n2.ip}:8443/", "api")
        do(TakeOutOfBalancer("n1"))
        assert states()["n1"].is_drained
        assert states()["n2"].takes_connections
        do(TakeOutOfBalancer("n2"))
        assert states()["n2"].takes_connections, "nobody would take its connections"
        do(PutBackIntoBalancer("n1"))
        assert states()["n1"].takes_connections
        n2.exec(shlex.join(haproxy.ask_argv(haproxy.drain_command("n1"))))
        do(TakeOutOfBalancer("n1"))
        do(PutBackIntoBalancer("n1"))
        assert states()["n1"].is_drained, "a person's"
        n2.exec("systemctl reload haproxy")
        assert wait_until(lambda: states()["n1"].takes_connections, 10)
        do(TakeOutOfBalancer("n1"))
        n2.exec("systemctl restart haproxy")
        do(PutBackIntoBalancer("n1"))
        assert states()["n1"].takes_connections
        assert n2.exec("ls -A /run/kops-py/out-of-balancer").stdout == ""
        n2.exec("systemctl stop haproxy")
        do(TakeOutOfBalancer("n1"))
        assert [e.message for e in there.events if isinstance(e, Note)][-1].startswith("haproxy on n2 does not run")
    finally:
        there.deps.fleet.close()
        for node in (n1, n2):
            node.exec("systemctl stop api", check=False)
        n2.exec("systemctl start haproxy")


def test_a_configuration_haproxy_refuses_does_not_go_live(setup: Setup) -> None:
    n2 = setup.node("n2")
    before = n2.exec("cat /etc/haproxy/haproxy.cfg").stdout
    broken = replace(setup.spec, hosts=tuple(replace(h, node_ip="not an address") for h in setup.spec.hosts))
    result = balance(setup, broken)
    assert result.status is AnsibleStatus.FAILED
    assert result.task == "Configure haproxy"
    assert n2.exec("cat /etc/haproxy/haproxy.cfg").stdout == before
    assert n2.exec("systemctl is-active haproxy").stdout == "active\n"
