"""Signatures of manifests, in OpenSSH's own format: ``ssh-keygen -Y verify`` checks them without us.

Encryption to a public key says nothing about who encrypted: whoever may write to a store can make a whole backup
of their own. A signature by a key that does not lie in the store is what they cannot make.
Format: PROTOCOL.sshsig of OpenSSH; only Ed25519.
"""

from __future__ import annotations

import base64
import hashlib
import re
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

from kops_py.model.errors import ConfigError, DamagedError
from kops_py.model.ssh_key import KIND, public_blob, public_text, raw_public, string, strings

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

NAMESPACE = "kops-py-backup"
"""What is signed for what: a signature made for a file or a commit is none of a backup."""
_MAGIC, _VERSION = b"SSHSIG", b"\0\0\0\1"
_HASH = b"sha512"
_BEGIN, _END = "-----BEGIN SSH SIGNATURE-----", "-----END SSH SIGNATURE-----"
_ARMOR = re.compile(rf"{_BEGIN}\n([A-Za-z0-9+/=\n]{{1,2000}})\n{_END}\n", re.ASCII)


def sign(message: bytes, private_key: str) -> bytes:
    """Return the armored signature of a message; raises ConfigError that never shows the key."""
    key = _private(private_key)
    public = public_blob(key.public_key().public_bytes_raw())
    made = string(KIND) + string(key.sign(_signed(message)))
    blob = _MAGIC + _VERSION + b"".join(map(string, (public, NAMESPACE.encode(), b"", _HASH, made)))
    lines = textwrap.wrap(base64.b64encode(blob).decode(), 70)
    return "\n".join((_BEGIN, *lines, _END, "")).encode()


def signer(message: bytes, armored: bytes, *, where: str) -> str:
    """Return the public key a message was signed with; raises DamagedError when the signature is not that of it."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        public, made = _read(armored)
        Ed25519PublicKey.from_public_bytes(public).verify(made, _signed(message))
    except InvalidSignature:
        why = "one of the two was changed"
    except ValueError as error:
        why = str(error)
    else:
        return public_text(public)
    raise DamagedError("the signature is not that of the manifest", where=where, why=why)


def check_trusted(private_key: str, trusted: Sequence[str]) -> None:
    """Raise ConfigError when what this key signs would not be trusted here."""
    if public_text(_private(private_key).public_key().public_bytes_raw()) not in trusted:
        raise ConfigError(
            "backups would be signed with a key that is not trusted",
            where="backup.signing",
            why="the public half of privateKey is not in trusted",
            hint="ssh-keygen -y -f KEYFILE prints it",
        )


def _private(text: str) -> Ed25519PrivateKey:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_ssh_private_key

    try:
        key = load_ssh_private_key(text.encode() + b"\n", None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None  # the message may repeat what was read
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigError(
            "this is not a private key that can sign backups",
            where="backup.signing.privateKey",
            hint="an Ed25519 key without a passphrase: ssh-keygen -t ed25519 -N '' -f KEYFILE",
        )
    return key


def _signed(message: bytes) -> bytes:
    """Return what the key signs: the hash of the message, bound to what the signature is for."""
    parts = (NAMESPACE.encode(), b"", _HASH, hashlib.sha512(message).digest())
    return _MAGIC + b"".join(map(string, parts))


def _read(armored: bytes) -> tuple[bytes, bytes]:
    """Return the raw public key and the raw signature; raises ValueError for any other kind of signature."""
    match = _ARMOR.fullmatch(armored.decode("ascii"))
    if match is None:
        raise ValueError("it is no signature of OpenSSH")
    blob = base64.b64decode(match[1].replace("\n", ""), validate=True)
    if not blob.startswith(_MAGIC + _VERSION):
        raise ValueError("it is of another version")
    public, namespace, reserved, hashed, made = strings(blob[len(_MAGIC + _VERSION) :], 5)
    kind, raw = strings(made, 2)
    if (namespace, reserved, hashed, kind) != (NAMESPACE.encode(), b"", _HASH, KIND):
        raise ValueError("it was made for something else")
    return raw_public(public), raw
