"""The small JSON documents beside a backup: sealed with their own digest, read back strictly.

A document is a JSON object of sorted keys. ``digest`` is the SHA-256 of the object without ``digest``, written
without blanks: an edit that forgets the digest shows, and what is proven of a backup names the digest of the
manifest it was proven for. That is no signature: who may write to the store and knows the format can make all
documents anew (docs/adr/0010-backup-format.md).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from datetime import UTC, datetime
from typing import Any, TypeVar

from kops_py.model.errors import DamagedError

FORMAT = 1
"""Version of all documents and of the archive; a reader refuses a higher one."""

_LATER = frozenset({"cluster_uid"})
"""Fields younger than the first documents of this format: left out while they say nothing, so that those stay whole."""
_ID = re.compile(r"(\d{8}T\d{6}Z)-[0-9a-f]{8}", re.ASCII)
_DIGEST = re.compile(r"[0-9a-f]{64}", re.ASCII)
T = TypeVar("T")


def new_id(now: datetime, random: bytes) -> str:
    """Return the id of a backup begun at ``now`` (with a time zone); ``random`` are four bytes or more."""
    return f"{_utc(now):%Y%m%dT%H%M%SZ}-{random[:4].hex()}"


def is_id(text: str) -> bool:
    """Whether this has the form of a backup's id."""
    match = _ID.fullmatch(text)
    if match is None:
        return False
    try:
        datetime.strptime(match[1], "%Y%m%dT%H%M%S%z")
    except ValueError:
        return False
    return True


def time_of_id(backup_id: str) -> datetime:
    """Return when a backup was begun, by its id; raises ValueError."""
    return datetime.strptime(backup_id.partition("-")[0], "%Y%m%dT%H%M%S%z")


def is_digest(text: str) -> bool:
    """Whether this is a SHA-256 in hexadecimal."""
    return _DIGEST.fullmatch(text) is not None


def seal(document: Any) -> bytes:
    """Return a dataclass as the bytes of its document, with its digest."""
    body = _plain(document)
    body["digest"] = _digest(body)
    return json.dumps(body, sort_keys=True, indent=1, ensure_ascii=False).encode() + b"\n"


def digest_of(document: Any) -> str:
    """Return the digest that ``seal`` writes into a dataclass's document."""
    return _digest(_plain(document))


def unseal(data: bytes, kind: type[T], *, where: str) -> T:
    """Read a document; raises DamagedError for anything that ``seal`` would not have written of the same content."""
    body = _object(data, where)
    given = body.pop("digest", None)
    version = body.get("format")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise DamagedError("this is not a document of kops-py", where=where, why="it names no format version")
    if version > FORMAT:
        raise DamagedError(
            f"the document has format {version}, this kops-py reads up to {FORMAT}",
            where=where,
            hint="use the kops-py that made it, or a newer one",
        )
    if given != _digest(body):
        raise DamagedError("the document was changed after it was written", where=where, why="its digest differs")
    return _convert(body, kind, where)


def _object(data: bytes, where: str) -> dict[str, Any]:
    try:
        body = json.loads(data.decode(), object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise DamagedError("the document cannot be read", where=where, why="it is not JSON of our kind") from None
    if not isinstance(body, dict):
        raise DamagedError("the document cannot be read", where=where, why="it is no JSON object")
    return body


def _convert(body: dict[str, Any], kind: type[T], where: str) -> T:
    import msgspec

    try:
        document = msgspec.convert(body, kind, strict=True)
    except (msgspec.ValidationError, ValueError) as error:
        raise DamagedError("the document is incomplete", where=where, why=str(error)) from None
    # Written anew it must be the same: no unknown key, no time in another form, no default that was left out.
    if _digest(_plain(document)) != _digest(body) or any(map(_is_zoneless, _values(document))):
        raise DamagedError("the document is not in the form kops-py writes", where=where)
    return document


def _values(document: Any) -> list[Any]:
    return [getattr(document, item.name) for item in dataclasses.fields(document)]


def _is_zoneless(value: Any) -> bool:
    return isinstance(value, datetime) and value.tzinfo is None


def _plain(document: Any) -> dict[str, Any]:
    import msgspec

    body = msgspec.to_builtins(document, str_keys=True)
    if not isinstance(body, dict):
        raise TypeError(f"no document: {type(document).__name__}")
    return {**_without_empty_later(body), "document": type(document).__name__}


def _without_empty_later(body: dict[str, Any]) -> dict[str, Any]:
    return {
        name: _without_empty_later(value) if isinstance(value, dict) else value
        for name, value in body.items()
        if value or name not in _LATER
    }


def _digest(body: dict[str, Any]) -> str:
    text = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key is there twice")
    return found


def _no_constant(text: str) -> Any:
    raise ValueError(f"{text} is not JSON")


def _utc(now: datetime) -> datetime:
    if now.tzinfo is None:
        raise ValueError("a time without a time zone")
    return now.astimezone(UTC)
