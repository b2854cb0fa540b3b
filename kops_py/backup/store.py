"""What a store of backups can do; ``directory.py`` and ``s3.py`` are the two there are."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import NoReturn, Protocol

from kops_py.model.backup import DirectoryStoreSpec, StoreSpec
from kops_py.model.errors import ConfigError, StoreError
from kops_py.model.secret import SecretRef

_PATH = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,120}(/[A-Za-z0-9][A-Za-z0-9._-]{0,120}){0,5}", re.ASCII)

MOST_DOCUMENT_BYTES = 1024 * 1024
"""No document of ours comes near it; more is not read."""


@dataclass(frozen=True, slots=True)
class StoredObject:
    """One object in a store; ``modified_s`` is seconds since the epoch by the store's clock."""

    path: str
    size_bytes: int
    modified_s: float


IsOver = Callable[[str], bool]
"""Whether whoever wrote the object of a path is known to write no more."""


def never(_path: str) -> bool:
    """Nothing is known of any object."""
    return False


class Store(Protocol):
    """Objects under paths such as ``prod/20261125T225700Z-3f9a2c1d/manifest.json``.

    An object appears under its name whole or not at all, and is never replaced. All methods raise StoreError.
    """

    @property
    def name(self) -> str:
        """Return the name from cluster.yaml."""

    @property
    def where(self) -> str:
        """Return the name and the place, for messages."""

    def prepare(self) -> None:
        """Make sure that the store can be reached and takes objects, by writing one and removing it."""

    def put(self, path: str, chunks: Iterable[bytes]) -> int:
        """Create an object of any size from pieces and return its size in bytes.

        When ``chunks`` raises, nothing is left behind and the exception goes on. ``chunks`` must not use a store
        itself (S3's library cannot do both in one thread; ``FanOut`` can copy). Raises ObjectExistsError.
        """

    def put_document(self, path: str, data: bytes) -> None:
        """Create a small object; raises ObjectExistsError, except when it holds the same bytes already."""

    def get_document(self, path: str) -> bytes:
        """Return a small object; raises ObjectMissingError, and StoreError above MOST_DOCUMENT_BYTES."""

    def chunks(self, path: str) -> Iterator[bytes]:
        """Yield an object's content in pieces of a few megabytes at most; raises ObjectMissingError."""

    def objects(self, prefix: str) -> list[StoredObject]:
        """Return all objects below a prefix (a folder, without the last slash) by path; none is no error."""

    def delete(self, path: str) -> None:
        """Delete an object; one that is not there is no error."""

    def clean(self, prefix: str, *, older_than_s: float, is_over: IsOver = never) -> tuple[str, ...]:
        """Remove what killed uploads below a prefix left; returns what it was.

        That is what was begun more than so many seconds ago, and what ``is_over`` says of.
        """


class UnusableStore:
    """A store that cannot even be asked: every call raises the same StoreError, and other stores go on."""

    def __init__(self, spec: StoreSpec, error: StoreError) -> None:
        self._spec = spec
        self._error = error

    @property
    def name(self) -> str:
        """Return the name from cluster.yaml."""
        return self._spec.name

    @property
    def where(self) -> str:
        """Return the name and the place, for messages."""
        return str(self._spec)

    def _refuse(self, *_: object, **__: object) -> NoReturn:
        raise self._error

    prepare = put = put_document = get_document = chunks = objects = delete = clean = _refuse


Resolve = Callable[[SecretRef], str]
"""Reads the secret behind a reference (``config.secrets.resolve``); raises ConfigError."""


def open_store(spec: StoreSpec, resolve: Resolve, *, timeout_s: float = 60.0) -> Store:
    """Return the store of a specification; contacts nothing. One without its credentials fails at its first use."""
    if isinstance(spec, DirectoryStoreSpec):
        from kops_py.backup.directory import DirectoryStore

        return DirectoryStore(spec)
    from kops_py.backup.s3 import Credentials, S3Store

    try:
        secrets = [None if ref is None else resolve(ref) for ref in (spec.access_key, spec.secret_key)]
        token = None if spec.session_token is None else resolve(spec.session_token)
    except ConfigError as error:
        why = f"{error.where}: {error.what}"
        what = "the credentials of the store cannot be had"
        return UnusableStore(spec, StoreError(what, where=str(spec), why=why, hint=error.hint))
    access_key, secret_key = secrets
    credentials = None if access_key is None or secret_key is None else Credentials(access_key, secret_key, token)
    return S3Store(spec, credentials, timeout_s=timeout_s)


def check_path(path: str) -> str:
    """Return a path that is safe in every store; raises ValueError (a bug of ours) for any other."""
    if _PATH.fullmatch(path) is None:
        raise ValueError(f"not a path in a store: {path!r}")
    return path
