"""Certificates of an external etcd: its authority, its members', its clients'; made in memory, never on a disk here."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from typing import TYPE_CHECKING

from kops_py.model.spec import ClusterSpec, HostSpec

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes

PAIRS = ("server", "peer", "healthcheck-client")
"""What each member holds beside ca.crt, as kubeadm names it: .crt and .key each."""
API_SERVER_CLIENT = "kube-apiserver-etcd-client"

CA_DAYS = 3650
LEAF_DAYS = 730
RENEW_DAYS = 180
"""Certificates that run out within this time are made anew by the next bootstrap; etcd reads them at each handshake."""
_BACKDATED = timedelta(hours=1)
"""For clocks that are behind."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate and its key in PEM; the key is in no text form of this object."""

    cert: bytes
    key: bytes = field(repr=False)


def names_of(host: HostSpec) -> tuple[str, ...]:
    """Return the names and addresses a member's certificates hold."""
    names = (host.name, host.member_name, host.node_ip, host.access_ip or host.node_ip, "localhost", "127.0.0.1", "::1")
    return tuple(dict.fromkeys(names))


def pki_digest(spec: ClusterSpec, host: HostSpec, authority: bytes = b"") -> str:
    """Return what identifies the names in a member's certificates, and the given ``authority`` (PEM) they are by."""
    body = {
        "cluster": spec.name,
        "member": host.member_name,
        "names": names_of(host),
        "ca": hashlib.sha256(authority).hexdigest() if authority else "",
    }
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def make_authority(now: datetime | None = None) -> Pair:
    """Make a certificate authority."""
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = _name("etcd-ca")
    built = _builder(name, name, key.public_key(), CA_DAYS, now).add_extension(
        x509.BasicConstraints(ca=True, path_length=None), critical=True
    )
    return _signed(built.add_extension(_usage(authority=True), critical=True), key, key)


def make_certificate(
    authority: Pair, common_name: str, names: Sequence[str] = (), *, now: datetime | None = None
) -> Pair:
    """Make a key and a certificate for it: a server's (that is a client, too) with ``names``, a client's without.

    Raises ValueError when the authority's certificate and key cannot be read or do not belong together.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec, rsa
    from cryptography.x509.oid import ExtendedKeyUsageOID

    issuer = x509.load_pem_x509_certificate(authority.cert)
    issuer_key = serialization.load_pem_private_key(authority.key, None)
    if not isinstance(issuer_key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey):
        raise ValueError("the authority's key is neither ECDSA nor RSA")  # noqa: TRY004 - a file's content, no type
    if issuer_key.public_key() != issuer.public_key():
        raise ValueError("the authority's key is not that of its certificate")
    key = ec.generate_private_key(ec.SECP256R1())
    # etcd's own gateway shows the server's certificate as a client, so a server's is good for both.
    purposes = [ExtendedKeyUsageOID.SERVER_AUTH] if names else []
    purposes.append(ExtendedKeyUsageOID.CLIENT_AUTH)
    built = (
        _builder(_name(common_name), issuer.subject, key.public_key(), LEAF_DAYS, now)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(authority=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
    )
    if names:
        built = built.add_extension(x509.SubjectAlternativeName([_general_name(n) for n in names]), critical=False)
    return _signed(built, key, issuer_key)


def digest_of(certificate: bytes) -> str:
    """Return the SHA-256 of the certificate in a PEM text, however that is laid out; raises ValueError."""
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization

    found = x509.load_pem_x509_certificate(certificate)
    return hashlib.sha256(found.public_bytes(serialization.Encoding.DER)).hexdigest()


def runs_out(certificate: bytes, now: datetime | None = None) -> bool:
    """Whether a certificate (PEM) should be made anew; raises ValueError."""
    from cryptography import x509

    found = x509.load_pem_x509_certificate(certificate)
    return found.not_valid_after_utc - (now or datetime.now(UTC)) < timedelta(days=RENEW_DAYS)


def _name(common_name: str) -> x509.Name:
    from cryptography import x509

    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, common_name[:64])])


def _general_name(text: str) -> x509.GeneralName:
    from cryptography import x509

    try:
        return x509.IPAddress(ip_address(text))
    except ValueError:
        return x509.DNSName(text)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, days: int, now: datetime | None
) -> x509.CertificateBuilder:
    from cryptography import x509

    moment = now or datetime.now(UTC)
    return (
        x509.CertificateBuilder(issuer, subject, key, x509.random_serial_number())
        .not_valid_before(moment - _BACKDATED)
        .not_valid_after(moment + timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _usage(*, authority: bool) -> x509.KeyUsage:
    from cryptography import x509

    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=authority,
        crl_sign=authority,
        encipher_only=False,
        decipher_only=False,
    )


def _signed(
    built: x509.CertificateBuilder, key: ec.EllipticCurvePrivateKey, issuer_key: CertificateIssuerPrivateKeyTypes
) -> Pair:
    from cryptography.hazmat.primitives import hashes, serialization

    return Pair(
        built.sign(issuer_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM),
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
        ),
    )


def as_kubeadm_reads(key: bytes) -> bytes:
    """Return a private key in the form that every kubeadm can copy to other control planes; raises ValueError.

    kubeadm's download of certificates knows elliptic-curve keys only as ``EC PRIVATE KEY``, not in PKCS#8 (seen with
    v1.20.2: "unknown data found in Secret entry").
    """
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec, rsa

    found = serialization.load_pem_private_key(key, None)
    if not isinstance(found, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey):
        raise ValueError("the key is neither ECDSA nor RSA")  # noqa: TRY004 - a file's content, no type
    return found.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )
