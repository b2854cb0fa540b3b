"""Tokens, keys and pins have kubeadm's form, and none gets past redact; ordinary text does."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import re
from datetime import UTC, datetime, timedelta
from functools import cache

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from kops_py.tools import kubeadm
from kops_py.tools.redact import redact

ALPHABET = "abcdefghijklmnopqrstuvwxyz0123456789"
URLSAFE = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"

tokens = st.builds(
    "{}.{}".format, st.text(ALPHABET, min_size=6, max_size=6), st.text(ALPHABET, min_size=16, max_size=16)
)
hex_keys = st.binary(min_size=32, max_size=32).map(bytes.hex)
ca_hashes = hex_keys.map("sha256:{}".format)
web_tokens = st.builds(
    lambda head, body, mark: f"eyJ{head}.eyJ{body}.{mark}",
    *(st.text(URLSAFE, min_size=8, max_size=60) for _ in range(3)),
)
before = st.sampled_from(
    [
        "",
        " ",
        "\n",
        "\t",
        "token: ",
        "--token ",
        "--token=",
        '"',
        "'",
        "key:\n",
        "(",
        "[",
        "Using token: ",
        "=",
        ",",
    ]
)
after = st.sampled_from(["", " ", "\n", '"', "'", ",", ". ", ".\n", ";", ")", "]", " \\\n", "\r\n", ":"])
words = st.lists(
    st.sampled_from(
        [
            "[kubelet-start]",
            "Starting the kubelet",
            "/etc/kubernetes/manifests/kube-apiserver.yaml",
            "node01.kubernetesexample.com",
            "10.96.0.0/12",
            "api.prod.example:6443",
            "registry.k8s.io/pause@sha256:" + "ab" * 32,
            "kube-apiserver-n1",
            "v1.31.2",
            "2026-11-20T10:00:00.000000Z",
            "bootstrap-token-abcdef",
            "Certificate",
            "https://10.0.0.1:6443/healthz?timeout=10s",
            "I1120 10:00:00.123456    3358 strict.go:54]",
            "timed out waiting for the condition",
            "0x1234567890abcdef",
            "550e8400-e29b-41d4-a716-446655440000",
            "/var/lib/kubelet/config.yaml",
            "client.go:100",
            "certificate-authority-data: " + base64.b64encode(b"-----BEGIN CERTIFICATE-----\nMIIB").decode(),
        ]
    ),
    max_size=8,
).map(" ".join)


@cache
def private_keys() -> tuple[str, ...]:
    texts = []
    for key in (rsa.generate_private_key(65537, 2048), ec.generate_private_key(ec.SECP256R1())):
        for form in (serialization.PrivateFormat.PKCS8, serialization.PrivateFormat.TraditionalOpenSSL):
            pem = key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())
            texts.append(pem.decode())
    return tuple(texts)


@given(secret=st.one_of(tokens, hex_keys, ca_hashes, web_tokens), head=words, left=before, right=after, tail=words)
@settings(max_examples=500)
def test_no_secret_is_left(secret: str, head: str, left: str, right: str, tail: str) -> None:
    # A text before that ends in a letter or digit would make the secret a part of a longer word.
    text = f"{head}{left or ' '}{secret}{right or ' '}{tail}"
    shown = redact(text)
    assert secret not in shown
    assert redact(shown) == shown
    for part in re.split(r"[.:]", secret):
        if len(part) >= 16:
            assert part not in shown


@given(text=words)
def test_ordinary_text_is_untouched(text: str) -> None:
    assert redact(text) == text


@given(st.text(max_size=200))
def test_redacting_again_changes_nothing(text: str) -> None:
    once = redact(text)
    assert redact(once) == once


def test_new_secrets_have_kubeadm_s_form_and_are_redacted() -> None:
    for _ in range(200):
        token, key = kubeadm.new_token(), kubeadm.new_certificate_key()
        assert re.fullmatch(r"[a-z0-9]{6}\.[a-z0-9]{16}", token)
        assert re.fullmatch(r"[0-9a-f]{64}", key)
        shown = redact(f"kubeadm join x:6443 --token {token} --certificate-key {key}")
        assert shown == "kubeadm join x:6443 --token [redacted token] --certificate-key [redacted key]"


@pytest.mark.parametrize("number", range(4))
def test_private_keys_are_removed_in_every_form(number: int) -> None:
    pem = private_keys()[number]
    body = [line for line in pem.splitlines() if "-----" not in line]
    data = base64.b64encode(pem.encode()).decode()
    forms = {
        "whole": f"before\n{pem}after",
        "json": json.dumps({"key": pem, "other": "after"}),
        "cut at the end": "before\n" + "\n".join(pem.splitlines()[:2]),
        "cut at the beginning": "\n".join(pem.splitlines()[1:]) + "\nafter",
        "cut inside a line": pem[40:] + "after",
        "cut at the beginning, in json": json.dumps(pem)[40:],
        "kubeconfig": f"    client-key-data: {data}\n",
        "json kubeconfig": json.dumps({"client-key-data": data}),
        "secret": f"  tls.key: {data}\n",
    }
    for form, text in forms.items():
        shown = redact(text)
        for line in body:
            assert line not in shown, form
        assert data not in shown, form
        for word in ("before", "after"):
            assert (word in shown) == (word in text), form


def test_certificates_stay() -> None:
    pem = "-----BEGIN CERTIFICATE-----\nMIIBszCCAVmgAwIBAgIBADAK\n-----END CERTIFICATE-----\n"
    text = pem + "certificate-authority-data: " + base64.b64encode(pem.encode()).decode()
    assert redact(text) == text


def test_known_secrets_are_removed_wherever_they_stand() -> None:
    assert redact("xhunter2y hunter22", "hunter2", "hunter22", "") == "x[redacted]y [redacted]"


def test_bearer_tokens_are_removed() -> None:
    assert "s3cr3t" not in redact("Authorization: Bearer s3cr3ts3cr3ts3cr3t==")


def test_long_text_is_quick() -> None:
    redact("a1b2c3 " * 300_000)
    redact("A" * 1_000_000)
    redact(("MIIB" * 16 + "\n") * 20_000)


def test_ca_cert_hash_is_the_digest_of_the_public_key() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "kubernetes")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now)
        .not_valid_after(now + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    der = key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    expected = "sha256:" + hashlib.sha256(der).hexdigest()
    assert kubeadm.ca_cert_hash(certificate.public_bytes(serialization.Encoding.PEM)) == expected


# Made by `openssl req -x509 -set_serial 0`, as kubeadm 1.20 makes its CA; the digest is openssl's as well.
SERIAL_ZERO = b"""\
-----BEGIN CERTIFICATE-----
MIIBbTCCARSgAwIBAgIBADAKBggqhkjOPQQDAjAVMRMwEQYDVQQDDAprdWJlcm5l
dGVzMCAXDTI2MTEyMDE5MDgzNFoYDzIxMjYxMDI3MTkwODM0WjAVMRMwEQYDVQQD
DAprdWJlcm5ldGVzMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEvfti/qiO1E3d
w4d4Pi0LpsH+TPALhb5m+XvZeRC4rUCklhiKCU41jwaRMpJMzOJ6DylGwRxugRO0
O5bduKYg9qNTMFEwHQYDVR0OBBYEFPGlb3fnrB1ojeBqe9AI31MNEleGMB8GA1Ud
IwQYMBaAFPGlb3fnrB1ojeBqe9AI31MNEleGMA8GA1UdEwEB/wQFMAMBAf8wCgYI
KoZIzj0EAwIDRwAwRAIgRQuI9cypMCAZKYraSGRKMER3KBPIvPo1tu4BPahIw7AC
IG9JF+Lag314m9gC1WLelO48vU2kZDC4C4CsKWA0brsG
-----END CERTIFICATE-----
"""
SERIAL_ZERO_HASH = "sha256:90d02357c30c8b8d52a34204b9e8838d6d44242564c00331e362b8704db595d0"


def test_ca_cert_hash_of_a_certificate_with_serial_number_0() -> None:
    assert kubeadm.ca_cert_hash(SERIAL_ZERO) == SERIAL_ZERO_HASH
    assert (
        kubeadm.ca_cert_hash(b"# comment\r\n" + SERIAL_ZERO.replace(b"\n", b"\r\n") + SERIAL_ZERO) == SERIAL_ZERO_HASH
    )


def certificate_pem(der: bytes) -> bytes:
    return f"-----BEGIN CERTIFICATE-----\n{base64.b64encode(der).decode()}\n-----END CERTIFICATE-----\n".encode()


@given(st.binary(max_size=60), st.integers(0, 360), st.integers(0, 255))
def test_a_broken_certificate_is_a_value_error(noise: bytes, length: int, byte: int) -> None:
    der = base64.b64decode(SERIAL_ZERO.decode().replace("\n", "")[27:-25])
    changed = bytearray(der)
    changed[length] = byte
    for broken in (noise, der[:length], bytes(changed)):
        with contextlib.suppress(ValueError):
            assert kubeadm.ca_cert_hash(certificate_pem(broken)).startswith("sha256:")
    with pytest.raises(ValueError, match="no PEM certificate"):
        kubeadm.ca_cert_hash(noise)
    with pytest.raises(ValueError, match="cannot be read"):
        kubeadm.ca_cert_hash(certificate_pem(der[:120]))


def test_the_secret_of_a_token_is_named_by_its_public_part() -> None:
    assert kubeadm.token_secret_name("abcdef.0123456789abcdef") == "bootstrap-token-abcdef"
