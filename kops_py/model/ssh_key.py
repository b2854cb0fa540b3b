"""Public Ed25519 keys as OpenSSH writes them: ``ssh-ed25519 AAAA... comment``; no I/O."""

from __future__ import annotations

import base64
import struct

KIND = b"ssh-ed25519"
_LENGTH = struct.Struct(">I")
_KEY_BYTES = 32


def parse_public_key(text: str) -> str:
    """Return a public key without its comment; raises ValueError, which never repeats the text."""
    words = text.split()
    if len(words) < 2 or words[0] != KIND.decode():
        raise ValueError("it does not begin with ssh-ed25519")
    try:
        blob = base64.b64decode(words[1], validate=True)
    except ValueError:
        raise ValueError("it is cut, or a letter of it is wrong") from None
    return public_text(raw_public(blob))


def raw_public(blob: bytes) -> bytes:
    """Return the 32 bytes of a key in SSH's wire format; raises ValueError."""
    kind, raw = strings(blob, 2)
    if kind != KIND or len(raw) != _KEY_BYTES:
        raise ValueError("it is no Ed25519 key")
    return raw


def public_blob(raw: bytes) -> bytes:
    """Return SSH's wire format of the 32 bytes of a key."""
    return string(KIND) + string(raw)


def public_text(raw: bytes) -> str:
    """Return the text of the 32 bytes of a key."""
    return f"{KIND.decode()} {base64.b64encode(public_blob(raw)).decode()}"


def string(data: bytes) -> bytes:
    """Return bytes as a string of SSH's wire format."""
    return _LENGTH.pack(len(data)) + data


def strings(data: bytes, count: int) -> list[bytes]:
    """Return exactly so many strings of SSH's wire format; raises ValueError."""
    found = []
    for _ in range(count):
        length = _LENGTH.unpack(data[:4])[0] if len(data) >= 4 else len(data)
        if len(data) < 4 + length:
            raise ValueError("it is cut off")
        found.append(data[4 : 4 + length])
        data = data[4 + length :]
    if data:
        raise ValueError("something follows behind its end")
    return found
