"""Certificates on a control plane or node: one script that prints them without a key, and its parser."""

from __future__ import annotations

import re
from collections.abc import Iterator

from kops_py.model.status import Certificate

_MARK = "### "
_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)

# Everything goes through the same filter, which lets certificate blocks pass and nothing else: some of these files
# hold the private key as well, and a private key never leaves its host.
CERTIFICATES_SCRIPT = r"""
only_certificates() { sed -n '/^-----BEGIN CERTIFICATE-----/,/^-----END CERTIFICATE-----/p'; }
for file in /etc/kubernetes/pki/*.crt /etc/kubernetes/pki/etcd/*.crt /etc/etcd/pki/*.crt \
    /var/lib/kubelet/pki/kubelet-client-current.pem /var/lib/kubelet/pki/kubelet.crt; do
  [ -f "$file" ] || continue
  printf '### %s\n' "$file"
  only_certificates < "$file"
done
for file in /etc/kubernetes/*.conf; do
  [ -f "$file" ] || continue
  data=$(sed -n 's/^ *client-certificate-data: *//p' "$file" | tr -d "\"'" | head -n 1)
  [ -n "$data" ] || continue
  printf '### %s\n' "$file"
  printf '%s' "$data" | base64 -d 2>/dev/null | only_certificates
done
exit 0
""".strip()


def certificates_argv() -> tuple[str, ...]:
    """Return the command that prints a host's certificates; to be run as root."""
    return ("sh", "-c", CERTIFICATES_SCRIPT)


def parse_certificates(output: bytes, *, host: str = "") -> tuple[Certificate, ...]:
    """Return the certificates in the script's output, first of each file's chain only.

    Raises ValueError that names the file when a block is not a certificate.
    """
    return tuple(_read(path, pem, host) for path, pem in _blocks(output))


def _blocks(output: bytes) -> Iterator[tuple[str, bytes]]:
    for section in re.split(rb"^" + re.escape(_MARK.encode()), output, flags=re.MULTILINE)[1:]:
        path, _, rest = section.partition(b"\n")
        if pem := _PEM.search(rest):
            yield path.decode("utf-8", "replace").strip(), pem[0] + b"\n"


def _read(path: str, pem: bytes, host: str) -> Certificate:
    from cryptography import x509

    try:
        found = x509.load_pem_x509_certificate(pem)
    except ValueError as error:
        raise ValueError(f"{path} holds no readable certificate: {error}") from error
    try:
        is_ca = found.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        is_ca = False
    return Certificate(
        path=path,
        subject=found.subject.rfc4514_string(),
        not_after=found.not_valid_after_utc,
        is_ca=is_ca,
        host=host,
    )
