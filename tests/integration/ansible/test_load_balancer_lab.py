"""The load balancer on booted systems: it goes by /readyz, is reloaded and not restarted, and settles."""

from __future__ import annotations

import datetime
import time
from dataclasses import replace

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from kops_py.connect.ansible import AnsibleRunner, playbooks_fingerprint
from kops_py.connect.base import AnsibleHostResult, AnsibleStatus
from kops_py.model.spec import ClusterSpec, Endpoint
from kops_py.tools import preparation
from tests.integration.ansible.conftest import Setup
from tests.lab import Node

pytestmark = [pytest.mark.lab, pytest.mark.xdist_group("lab-ansible")]

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


def test_a_configuration_haproxy_refuses_does_not_go_live(setup: Setup) -> None:
    n2 = setup.node("n2")
    before = n2.exec("cat /etc/haproxy/haproxy.cfg").stdout
    broken = replace(setup.spec, hosts=tuple(replace(h, node_ip="not an address") for h in setup.spec.hosts))
    result = balance(setup, broken)
    assert result.status is AnsibleStatus.FAILED
    assert result.task == "Configure haproxy"
    assert n2.exec("cat /etc/haproxy/haproxy.cfg").stdout == before
    assert n2.exec("systemctl is-active haproxy").stdout == "active\n"
