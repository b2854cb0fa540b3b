"""age encryption of streams through pyrage, which is imported when it is used."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from kops_py.model.errors import BackupError, ConfigError, DamagedError

_SSH_KINDS = ("ssh-ed25519 ", "ssh-rsa ")
_SECRET_PREFIX = "AGE-SECRET-KEY-"  # noqa: S105  the public beginning of every secret key


class _Reader:
    """A readable file over an iterator of pieces; what the iterator raises is kept for who asks."""

    def __init__(self, source: Iterator[bytes]) -> None:
        self._source = source
        self._rest = memoryview(b"")
        self.error: BaseException | None = None

    def read(self, size: int = -1) -> bytes:
        if self.error is not None:  # pyrage may ask again
            raise self.error
        try:
            while not self._rest:
                piece = next(self._source, None)
                if piece is None:
                    return b""
                self._rest = memoryview(piece)
        except BaseException as error:
            self.error = error
            raise
        size = len(self._rest) if size < 0 else size
        data, self._rest = self._rest[:size], self._rest[size:]
        return bytes(data)


class _Writer:
    """A writable file over a function; what it raises is kept for who asks."""

    def __init__(self, write: Callable[[bytes], object]) -> None:
        self._write = write
        self.error: BaseException | None = None

    def write(self, data: bytes) -> int:
        if self.error is not None:  # pyrage may write again while it unwinds
            raise self.error
        try:
            self._write(bytes(data))
        except BaseException as error:
            self.error = error
            raise
        return len(data)

    def flush(self) -> None:
        """Nothing is held back."""


def encrypt(source: Iterator[bytes], write: Callable[[bytes], object], recipients: Sequence[str]) -> None:
    """Encrypt to public keys; without any the bytes go through as they are. Raises what source and write raise."""
    if not recipients:
        for data in source:
            write(data)
        return
    import pyrage

    reader, writer = _Reader(source), _Writer(write)
    try:
        pyrage.encrypt_io(reader, writer, [parse_recipient(text) for text in recipients])
    except Exception as error:  # noqa: BLE001  its own kinds, OSError, or what our two files raised
        raise (reader.error or writer.error or BackupError("encrypting failed", why=_words(error))) from None
    _raise_swallowed(writer)


def decrypt(
    source: Iterator[bytes], write: Callable[[bytes], object], identities: Sequence[str], *, where: str
) -> None:
    """Decrypt with private keys; raises BackupError when none fits, DamagedError when the bytes were changed or cut.

    ``write`` gets only pieces that are authentic, each for itself; that nothing is missing is known at the end.
    """
    import pyrage

    keys = [_parse_identity(text) for text in identities]
    if not keys:
        raise BackupError(
            "it is encrypted, and there is no private key to read it with",
            where=where,
            hint="set backup.encryption.identity on this machine, or name the key with --identity",
        )
    reader, writer = _Reader(source), _Writer(write)
    try:
        pyrage.decrypt_io(reader, writer, keys)
    except Exception as error:  # noqa: BLE001  its own kinds, OSError, or what our two files raised
        ours = reader.error or writer.error
        if ours is not None:
            raise ours from None
        if "No matching keys" in str(error):
            raise BackupError(
                "none of the private keys given fits",
                where=where,
                hint="use the private key of one of the recipients in its manifest",
            ) from None
        raise DamagedError("it cannot be decrypted", where=where, why=_words(error)) from None
    _raise_swallowed(writer)


def _raise_swallowed(writer: _Writer) -> None:
    """Raise what the last write raised: pyrage flushes a buffer when it ends, and passes over what happens then."""
    if writer.error is not None:
        raise writer.error


def parse_recipient(text: str) -> Any:
    """Return a public key (``age1...`` or an SSH one); raises ConfigError that never repeats a private key."""
    import pyrage

    if _SECRET_PREFIX in text.upper() or "PRIVATE KEY" in text:
        raise ConfigError(
            "this is a private key; a recipient is a public one",
            hint="age-keygen -y KEYFILE prints the public key; keep the private one off this machine",
        )
    try:
        if text.startswith(_SSH_KINDS):
            return pyrage.ssh.Recipient.from_str(text)
        return pyrage.x25519.Recipient.from_str(text)
    except pyrage.RecipientError as error:
        raise ConfigError("this is not a public key of age", why=_words(error), hint="it begins with age1") from None


def split_identities(text: str) -> tuple[str, ...]:
    """Return the private keys of an identity file: each line of age-keygen's, or one whole SSH key.

    Raises ConfigError; never shows the text.
    """
    if "PRIVATE KEY-----" in text:
        return (text,)
    lines = [line.strip() for line in text.splitlines()]
    keys = tuple(line for line in lines if line and not line.startswith("#"))
    for key in keys:
        _parse_identity(key)
    return keys


def _parse_identity(text: str) -> Any:
    import pyrage

    try:
        if "PRIVATE KEY-----" in text:
            return pyrage.ssh.Identity.from_buffer(text.encode())
        return pyrage.x25519.Identity.from_str(text)
    except pyrage.IdentityError:
        # Its message may repeat the key.
        raise ConfigError(
            "this is not a private key of age",
            hint="one line that begins with AGE-SECRET-KEY-1, or an SSH private key without a passphrase",
        ) from None


def _words(error: Exception) -> str:
    return str(error).strip() or type(error).__name__
