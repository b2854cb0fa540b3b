"""A store in a bucket of an S3-compatible server, through obstore; imported only where there is such a store."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cached_property
from typing import Any

import obstore
import obstore.store

from kops_py.backup.store import MOST_DOCUMENT_BYTES, IsOver, StoredObject, check_path, never
from kops_py.model.backup import S3StoreSpec
from kops_py.model.errors import ObjectExistsError, ObjectMissingError, StoreError

_PART_BYTES = 8 * 1024 * 1024
"""S3 takes 10,000 parts: 80 GB, ten times what etcd can hold."""
_PARTS_AT_ONCE = 3
_MOST_RETRIES = 4
_FAILURES = (obstore.exceptions.BaseError, OSError, ValueError)
"""What obstore raises."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """Keys of an account; never shown."""

    access_key: str = field(repr=False)
    secret_key: str = field(repr=False)
    token: str | None = field(default=None, repr=False)


class S3Store:
    """Objects below a prefix of a bucket.

    Every request carries a SHA-256 that the server checks, and ends after ``timeout_s``. Small objects are created
    with If-None-Match. Large ones go up in parts of 8 MiB, three at once; the library has no such condition for
    them, so we look before and after (docs/adr/0010-backup-format.md): their names are ours alone, by the id.
    """

    def __init__(self, spec: S3StoreSpec, credentials: Credentials | None, *, timeout_s: float = 60.0) -> None:
        self._spec = spec
        self._credentials = credentials
        self._timeout_s = timeout_s

    @property
    def name(self) -> str:
        """Return the name from cluster.yaml."""
        return self._spec.name

    @property
    def where(self) -> str:
        """Return the name and the place, for messages."""
        return str(self._spec)

    def prepare(self) -> None:
        """Create an object, see that it cannot be created again, and delete it.

        A server that ignores If-None-Match is refused: two runs could overwrite each other there.
        """
        probe = f"probe-{secrets.token_hex(4)}"
        self.put_document(probe, b"kops-py looks whether it can write here\n")
        try:
            self.put_document(probe, b"kops-py looks whether it can overwrite\n")
        except ObjectExistsError:
            return
        finally:
            self.delete(probe)
        raise StoreError(
            "the server replaces objects that were to be created only",
            where=self.where,
            hint="it must support conditional writes (If-None-Match); update it, or use another store",
        )

    def put(self, path: str, chunks: Iterable[bytes]) -> int:
        """Create an object of any size from pieces; a failed upload is aborted, and its parts are gone."""

        key, size = check_path(path), 0
        raised: list[BaseException] = []

        def counted() -> Iterator[bytes]:
            nonlocal size
            try:
                for data in chunks:
                    size += len(data)
                    yield data
            except GeneratorExit:  # the library gave up; what it raises says why
                raise
            except BaseException as error:
                raised.append(error)
                raise

        if self._head(key) is not None:
            raise ObjectExistsError("the object is there already", where=self._where(key))
        try:
            obstore.put(
                self._store,
                key,
                counted(),
                use_multipart=True,
                chunk_size=_PART_BYTES,
                max_concurrency=_PARTS_AT_ONCE,
            )
        except _FAILURES as error:
            if raised:
                raise raised[0] from None
            raise self._error("uploading failed", key, error) from None
        there = self._head(key)
        if there != size:
            raise StoreError(
                f"the server has {there or 0} of the {size} bytes it said to have taken", where=self._where(key)
            )
        return size

    def put_document(self, path: str, data: bytes) -> None:
        """Create a small object; one with the same bytes may be there already."""

        key = check_path(path)
        try:
            obstore.put(self._store, key, data, mode="create", use_multipart=False)
        except obstore.exceptions.AlreadyExistsError:
            # Ours, when the answer to the first attempt was lost and the library tried again.
            if self.get_document(path) != data:
                raise ObjectExistsError("the object is there already", where=self._where(key)) from None
        except _FAILURES as error:
            raise self._error("writing failed", key, error) from None

    def get_document(self, path: str) -> bytes:
        """Return a small object."""

        key = check_path(path)
        try:
            answer = obstore.get(self._store, key)
            if answer.meta["size"] > MOST_DOCUMENT_BYTES:
                raise StoreError("the object is larger than any of ours", where=self._where(key))
            return bytes(answer.bytes())
        except _FAILURES as error:
            raise self._error("reading failed", key, error) from None

    def chunks(self, path: str) -> Iterator[bytes]:
        """Yield an object's content by ranges of 8 MiB, each a request that can be repeated, all of one version."""

        key = check_path(path)
        offset, size, tag = 0, -1, None
        while size < 0 or offset < size:
            options: dict[str, Any] = {"if_match": tag} if tag else {}
            if size != 0:
                options["range"] = (offset, offset + _PART_BYTES)
            try:
                if size < 0:
                    meta = obstore.head(self._store, key)
                    size, tag = meta["size"], meta["e_tag"]
                    continue
                data = bytes(obstore.get(self._store, key, options=options).bytes())  # type: ignore[arg-type]
            except _FAILURES as error:
                raise self._error("reading failed", key, error) from None
            if not data:
                raise StoreError(f"the server gave nothing after {offset} of {size} bytes", where=self._where(key))
            offset += len(data)
            yield data

    def objects(self, prefix: str) -> list[StoredObject]:
        """Return all objects below a prefix."""

        try:
            found = [one for page in obstore.list(self._store, f"{check_path(prefix)}/") for one in page]
        except _FAILURES as error:
            raise self._error("listing failed", prefix, error) from None
        objects = [StoredObject(o["path"], o["size"], o["last_modified"].timestamp()) for o in found]
        return sorted(objects, key=lambda o: o.path)

    def delete(self, path: str) -> None:
        """Delete an object."""

        try:
            obstore.delete(self._store, check_path(path))
        except FileNotFoundError:
            return
        except _FAILURES as error:
            raise self._error("deleting failed", path, error) from None

    def clean(self, prefix: str, *, older_than_s: float, is_over: IsOver = never) -> tuple[str, ...]:
        """Abort multipart uploads that a killed process left; without keys of our own that is the bucket's to do."""
        if self._credentials is None:
            return ()
        from kops_py.backup.s3_uploads import Uploads

        uploads = Uploads(self._spec, self._credentials, self._timeout_s)
        return uploads.abort(prefix, older_than_s=older_than_s, is_over=is_over)

    @cached_property
    def _store(self) -> Any:

        spec, keys = self._spec, self._credentials
        config: dict[str, Any] = {
            "bucket": spec.bucket,
            "region": spec.region,
            "checksum_algorithm": "SHA256",
            "conditional_put": "etag",
            "virtual_hosted_style_request": not spec.path_style,
        }
        if spec.endpoint is not None:
            config["endpoint"] = spec.endpoint if spec.path_style else virtual_endpoint(spec)
        if keys is not None:
            config |= {"access_key_id": keys.access_key, "secret_access_key": keys.secret_key}
            if keys.token is not None:
                config["session_token"] = keys.token
        options: dict[str, Any] = {
            "allow_http": (spec.endpoint or "").startswith("http://"),
            "timeout": timedelta(seconds=self._timeout_s),
            "connect_timeout": timedelta(seconds=min(15.0, self._timeout_s)),
        }
        retries: dict[str, Any] = {
            "max_retries": _MOST_RETRIES,
            "retry_timeout": timedelta(seconds=self._timeout_s),
            "backoff": {"init_backoff": timedelta(seconds=0.2), "max_backoff": timedelta(seconds=5), "base": 2},
        }
        try:
            if spec.ca is not None:
                options["root_certificate"] = spec.ca.read_bytes()
            return obstore.store.S3Store(
                prefix=spec.prefix or None,
                config=config,  # type: ignore[arg-type]
                client_options=options,  # type: ignore[arg-type]
                retry_config=retries,  # type: ignore[arg-type]
            )
        except _FAILURES as error:
            raise StoreError("the store cannot be used", where=self.where, why=_words(error)) from None

    def _head(self, key: str) -> int | None:

        try:
            size: int = obstore.head(self._store, key)["size"]
        except FileNotFoundError:
            return None
        except _FAILURES as error:
            raise self._error("asking for the object failed", key, error) from None
        return size

    def _where(self, path: str) -> str:
        return f"{self.where}: {path}"

    def _error(self, what: str, path: str, error: Exception) -> StoreError:
        if isinstance(error, StoreError):
            return error
        why = _words(error)
        if isinstance(error, FileNotFoundError) and "NoSuchBucket" not in str(error):
            return ObjectMissingError("there is no such object", where=self._where(path))
        return StoreError(what, where=self._where(path), why=why, hint=self._hint(error, why))

    def _hint(self, error: Exception, why: str) -> str:

        denied = (obstore.exceptions.PermissionDeniedError, obstore.exceptions.UnauthenticatedError)
        if isinstance(error, denied) or re.search(r"\b40[13]\b|AccessDenied|InvalidAccessKey|Expired|credential", why):
            return (
                f"the server refuses the credentials of store {self.name}: look whether they expired or lack the right "
                "to put, get, list and delete there"
            )
        if "NoSuchBucket" in str(error):
            return f"make the bucket {self._spec.bucket}, or correct backup.stores"
        return f"look at the server {self._spec.endpoint or 'of the region ' + self._spec.region} and the way to it"


def virtual_endpoint(spec: S3StoreSpec) -> str:
    """Return the address with the bucket in its host name; obstore wants it whole."""
    scheme, _, host = (spec.endpoint or f"https://s3.{spec.region}.amazonaws.com").partition("://")
    return f"{scheme}://{spec.bucket}.{host}"


_XML_CODE = re.compile(r"<Code>([^<]{1,80})</Code>(?:.{0,40}<Message>([^<]{1,200})</Message>)?", re.DOTALL)
_STATUS = re.compile(r"status code: (\d{3}[^:<]{0,40})")


def _words(error: Exception) -> str:
    """Shorten a library's message to its cause; it never holds a key, but long addresses and XML."""
    text = str(error)
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    code, status = _XML_CODE.search(text), _STATUS.search(text)
    if code is not None:
        return ": ".join(filter(None, code.groups()))
    if status is not None:
        return f"the server answered {status[1].strip()}"
    # The address, the time and the number of attempts stand before the cause.
    text = re.sub(r"Error performing \w+ \S+ in [^\n]*? - ", "", text)
    causes = [part.strip() for part in re.split(r"\n|Debug source", text) if part.strip()]
    return (causes[0] if causes else type(error).__name__)[:300]
