"""Whether an old cluster answers: by its authority alone, and never an error."""

from __future__ import annotations

import datetime
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from kops_py.connect.tls_probe import answers_for


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _certificate(
    subject: str, key: ec.EllipticCurvePrivateKey, issuer: str, signer: ec.EllipticCurvePrivateKey, *, authority: bool
) -> bytes:
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(_name(subject))
        .issuer_name(_name(issuer))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
        .sign(signer, hashes.SHA256())
    )
    return made.public_bytes(serialization.Encoding.PEM)


def _authority() -> tuple[bytes, ec.EllipticCurvePrivateKey]:
    key = ec.generate_private_key(ec.SECP256R1())
    return _certificate("kubernetes", key, "kubernetes", key, authority=True), key


@contextmanager
def _served(folder: Path, signer: ec.EllipticCurvePrivateKey) -> Iterator[str]:
    """An API server of another name than it is asked by, which wants a certificate of its clients if they have one."""
    key = ec.generate_private_key(ec.SECP256R1())
    pem = _certificate("an-old-name", key, "kubernetes", signer, authority=False)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    place = folder / "server.pem"
    place.write_bytes(pem + private)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(place)
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            while True:
                try:
                    plain, _ = listening.accept()
                except OSError:
                    return
                try:
                    with context.wrap_socket(plain, server_side=True) as secure:
                        secure.recv(1)
                except OSError:
                    plain.close()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"127.0.0.1:{listening.getsockname()[1]}"
        listening.shutdown(socket.SHUT_RDWR)
        thread.join(5)


def test_one_of_the_same_authority_answers_whatever_its_names(tmp_path: Path) -> None:
    own, key = _authority()
    with _served(tmp_path, key) as endpoint:
        assert answers_for(endpoint, own, timeout_s=5)


def test_one_of_another_authority_does_not(tmp_path: Path) -> None:
    own, _ = _authority()
    _, other = _authority()
    with _served(tmp_path, other) as endpoint:
        assert not answers_for(endpoint, own, timeout_s=5)


@pytest.mark.parametrize(
    "endpoint", ["", "host", "127.0.0.1:", "127.0.0.1:x", "127.0.0.1:1", "[::1]:1", "x.invalid:6443"]
)
def test_where_nobody_is_nobody_answers(endpoint: str) -> None:
    assert not answers_for(endpoint, _authority()[0], timeout_s=2)


def test_an_authority_that_is_none_is_answered_by_nobody(tmp_path: Path) -> None:
    _, key = _authority()
    with _served(tmp_path, key) as endpoint:
        assert not answers_for(endpoint, b"\xff no certificate", timeout_s=5)
        assert not answers_for(endpoint, b"no certificate", timeout_s=5)
