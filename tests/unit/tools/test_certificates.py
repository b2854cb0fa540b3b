"""Certificates of a host: what the script prints, and what it never prints."""

from __future__ import annotations

import base64
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from kops_py.tools.certificates import CERTIFICATES_SCRIPT, certificates_argv, parse_certificates
from tests.integration.kube.pki import Authority, Pair, kubeconfig


def run_on(root: Path) -> bytes:
    """Run the script with its paths moved below ``root``."""
    script = CERTIFICATES_SCRIPT.replace("/etc/", f"{root}/etc/").replace("/var/", f"{root}/var/")
    return subprocess.run(["sh", "-c", script], capture_output=True, check=True).stdout


@pytest.fixture
def root(tmp_path: Path) -> Path:
    authority = Authority("kubernetes")
    pki = tmp_path / "etc/kubernetes/pki"
    (pki / "etcd").mkdir(parents=True)
    kubelet = tmp_path / "var/lib/kubelet/pki"
    kubelet.mkdir(parents=True)
    Pair(authority.certificate, authority.key).write(pki, "ca")
    authority.issue("kube-apiserver").write(pki, "apiserver")
    authority.issue("etcd", valid=timedelta(days=-1)).write(pki / "etcd", "server")
    client = authority.issue("system:node:cp1", organisation="system:nodes")
    (kubelet / "kubelet-client-current.pem").write_bytes(client.certificate + client.key)
    admin = authority.issue("kubernetes-admin", organisation="system:masters")
    admin_conf = kubeconfig("https://api:6443", authority.certificate, admin)
    (tmp_path / "etc/kubernetes/admin.conf").write_bytes(admin_conf)
    quoted = admin_conf.decode().replace("client-certificate-data: ", 'client-certificate-data: "')
    quoted = "\n".join(line + '"' if 'data: "' in line else line for line in quoted.splitlines())
    (tmp_path / "etc/kubernetes/scheduler.conf").write_text(quoted)
    (tmp_path / "etc/kubernetes/kubelet.conf").write_text("users: [{user: {client-certificate: /x.pem}}]\n")
    both = base64.b64encode(admin.certificate + admin.key).decode()
    (tmp_path / "etc/kubernetes/odd.conf").write_text(f"    client-certificate-data: {both}\n")
    return tmp_path


def test_prints_every_certificate_and_no_key(root: Path) -> None:
    output = run_on(root)
    assert b"PRIVATE" not in output
    keys = [line for path in root.rglob("*.key") for line in path.read_bytes().splitlines() if len(line) > 40]
    assert keys
    assert not [line for line in keys if line in output]
    found = {Path(c.path).name: c for c in parse_certificates(output, host="cp1")}
    assert set(found) == {
        "ca.crt",
        "apiserver.crt",
        "server.crt",
        "kubelet-client-current.pem",
        "admin.conf",
        "scheduler.conf",
        "odd.conf",
    }
    assert found["ca.crt"].is_ca
    assert not found["apiserver.crt"].is_ca
    assert found["admin.conf"].subject == found["scheduler.conf"].subject
    assert "CN=kubernetes-admin" in found["admin.conf"].subject
    assert found["apiserver.crt"].host == "cp1"
    now = datetime.now(UTC)
    assert found["apiserver.crt"].days_left(now) in {0, 1}
    assert found["server.crt"].days_left(now) < 0


def test_a_host_without_anything_prints_nothing(tmp_path: Path) -> None:
    assert run_on(tmp_path) == b""
    assert parse_certificates(b"") == ()
    assert certificates_argv()[:2] == ("sh", "-c")


def test_a_broken_certificate_names_its_file() -> None:
    output = b"### /etc/kubernetes/pki/ca.crt\n-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
    with pytest.raises(ValueError, match=r"/etc/kubernetes/pki/ca\.crt"):
        parse_certificates(output)
