"""Certificates of an external etcd: who made them, for which names, for how long; keys in no text."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import ExtendedKeyUsageOID

from kops_py.observe.external_etcd import client_facts, pki_facts
from kops_py.tools.etcd_pki import (
    LEAF_DAYS,
    RENEW_DAYS,
    Pair,
    as_kubeadm_reads,
    digest_of,
    make_authority,
    make_certificate,
    names_of,
    pki_digest,
    runs_out,
)
from tests.fakes.cluster import make_spec

CA = make_authority()


def test_a_members_certificate_is_for_its_names_and_both_ends() -> None:
    spec = make_spec(1, etcd=1)
    host = dataclasses.replace(spec.host("n2"), etcd_member_name="alpha")
    pair = make_certificate(CA, host.member_name, names_of(host))
    found = x509.load_pem_x509_certificate(pair.cert)
    found.verify_directly_issued_by(x509.load_pem_x509_certificate(CA.cert))
    names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert set(names.get_values_for_type(x509.DNSName)) == {"n2", "alpha", "localhost"}
    assert {str(a) for a in names.get_values_for_type(x509.IPAddress)} == {"10.9.0.2", "127.0.0.1", "::1"}
    usage = found.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert set(usage) == {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}
    key = serialization.load_pem_private_key(pair.key, None)
    assert key.public_key() == found.public_key()


def test_a_client_is_no_server() -> None:
    found = x509.load_pem_x509_certificate(make_certificate(CA, "client").cert)
    usage = found.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert set(usage) == {ExtendedKeyUsageOID.CLIENT_AUTH}


def test_only_the_authority_may_sign() -> None:
    authority = x509.load_pem_x509_certificate(CA.cert)
    assert authority.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    leaf = x509.load_pem_x509_certificate(make_certificate(CA, "x").cert)
    assert not leaf.extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign


def test_a_key_that_is_not_the_authoritys_is_refused() -> None:
    with pytest.raises(ValueError, match="not that of its certificate"):
        make_certificate(Pair(CA.cert, make_authority().key), "x")


def test_renewal_begins_half_a_year_before_the_end() -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    cert = make_certificate(CA, "x", now=now).cert
    assert not runs_out(cert, now + timedelta(days=LEAF_DAYS - RENEW_DAYS - 1))
    assert runs_out(cert, now + timedelta(days=LEAF_DAYS - RENEW_DAYS + 1))


def test_a_key_is_in_no_text_of_a_pair() -> None:
    assert "PRIVATE" not in repr(CA)


def test_keys_are_in_the_form_that_kubeadm_copies() -> None:
    assert CA.key.startswith(b"-----BEGIN EC PRIVATE KEY-----")
    key = serialization.load_pem_private_key(CA.key, None)
    other = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    assert other != CA.key
    assert as_kubeadm_reads(other) == CA.key


def test_the_digest_follows_names_and_authority() -> None:
    spec = make_spec(1, etcd=2)
    one, two = spec.etcd_hosts
    assert pki_digest(spec, one) != pki_digest(spec, two)
    assert pki_digest(spec, one) != pki_digest(spec, one, CA.cert)
    assert pki_digest(spec, one) == pki_digest(make_spec(2, etcd=2), one)


def _text(**certificates: bytes) -> str:
    return "".join(f"### {name.replace('_', '-')}\n{pem.decode()}" for name, pem in certificates.items())


def test_facts_of_a_member() -> None:
    fresh = make_certificate(CA, "x").cert
    old = make_certificate(CA, "x", now=datetime.now(UTC) - timedelta(days=LEAF_DAYS - 10)).cert
    whole = {"ca": CA.cert, "server": fresh, "peer": fresh, "healthcheck_client": fresh}
    assert pki_facts("d1", _text(**whole)) == ("d1", digest_of(CA.cert))
    assert pki_facts("d1", _text(**{**whole, "peer": old})) == ("", digest_of(CA.cert))
    assert pki_facts("d1", _text(ca=CA.cert, server=fresh)) == ("", digest_of(CA.cert))
    assert pki_facts("", _text(**whole)) == ("", ""), "without our mark they are somebody else's"
    assert pki_facts("d1", "### ca\n-----BEGIN CERTIFICATE-----\nrubbish\n-----END CERTIFICATE-----\n") == ("", "")


def test_facts_of_a_control_plane() -> None:
    fresh = make_certificate(CA, "x").cert
    assert client_facts(_text(ca=CA.cert, client=fresh)) == (digest_of(CA.cert), digest_of(fresh), False)
    assert client_facts(_text(ca=CA.cert)) == ("", "", False)
    assert client_facts("") == ("", "", False)
