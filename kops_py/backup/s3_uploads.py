"""Multipart uploads that nobody ends any more: found and aborted with two signed requests.

A process that is killed in the middle of an upload leaves parts that are invisible, and paid for. obstore can
neither list nor abort them; these two requests are all there is here (AWS Signature Version 4, in its public
description). A bucket's own lifecycle rule (AbortIncompleteMultipartUpload) does the same.
"""

from __future__ import annotations

import hashlib
import hmac
import ssl
import urllib.error
import urllib.request
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from urllib.parse import quote, urlencode, urlsplit
from xml.etree import ElementTree

from kops_py.backup.store import IsOver, never
from kops_py.model.backup import S3StoreSpec
from kops_py.model.errors import StoreError

if TYPE_CHECKING:
    from kops_py.backup.s3 import Credentials

_EMPTY = hashlib.sha256(b"").hexdigest()
_MOST_BYTES = 8 * 1024 * 1024


class Uploads:
    """The unfinished uploads of one bucket."""

    def __init__(self, spec: S3StoreSpec, credentials: Credentials, timeout_s: float) -> None:
        from kops_py.backup.s3 import virtual_endpoint

        endpoint = (spec.endpoint or f"https://s3.{spec.region}.amazonaws.com").rstrip("/")
        self._base = f"{endpoint}/{spec.bucket}" if spec.path_style else virtual_endpoint(spec)
        self._spec = spec
        self._credentials = credentials
        self._timeout_s = timeout_s

    def abort(self, prefix: str, *, older_than_s: float, is_over: IsOver = never) -> tuple[str, ...]:
        """Abort those below a prefix that are old or ``is_over`` (see ``Store.clean``); returns their keys."""
        whole = "/".join(filter(None, (self._spec.prefix.strip("/"), prefix))) + "/"
        now, aborted = datetime.now(UTC), []
        for key, upload_id, begun in self._list(whole):
            if not key.startswith(whole):
                continue
            path = f"{prefix}/{key.removeprefix(whole)}"
            if (now - begun).total_seconds() > older_than_s or is_over(path):
                self._ask("DELETE", f"/{quote(key)}", {"uploadId": upload_id})
                aborted.append(key)
        return tuple(aborted)

    def _list(self, prefix: str) -> list[tuple[str, str, datetime]]:
        """Return key, id and beginning of each; the first thousand, which the next run's cleaning goes on from."""
        text = self._ask("GET", "" if self._spec.path_style else "/", {"uploads": "", "prefix": prefix})
        found = []
        try:
            root = ElementTree.fromstring(text)  # noqa: S314  expat here takes no entities beyond its own limits
            for node in root.iter():
                if node.tag.rpartition("}")[2] == "Upload":
                    values = {child.tag.rpartition("}")[2]: child.text or "" for child in node}
                    begun = datetime.fromisoformat(values["Initiated"].replace("Z", "+00:00"))
                    found.append((values["Key"], values["UploadId"], begun))
        except (ElementTree.ParseError, KeyError, ValueError) as error:
            raise StoreError("the list of uploads cannot be read", where=str(self._spec), why=str(error)) from None
        return found

    def _ask(self, method: str, path: str, query: dict[str, str]) -> bytes:
        parts = urlsplit(self._base + path)
        ordered = urlencode(sorted(query.items()), quote_via=quote, safe="")
        headers = self._signed(method, parts.netloc, parts.path or "/", ordered, datetime.now(UTC))
        url = f"{parts.scheme}://{parts.netloc}{parts.path or '/'}?{ordered}"
        request = urllib.request.Request(url, method=method, headers=headers)  # noqa: S310  http(s), checked by config
        context = ssl.create_default_context(cafile=self._spec.ca) if parts.scheme == "https" else None
        try:
            with urllib.request.urlopen(request, timeout=self._timeout_s, context=context) as answer:  # noqa: S310
                data: bytes = answer.read(_MOST_BYTES)
                return data
        except urllib.error.HTTPError as error:
            if method == "DELETE" and error.code == 404:
                return b""
            why = f"the server answered {error.code} {error.reason}"
        except (OSError, ValueError) as error:
            why = str(getattr(error, "reason", error))
        raise StoreError(
            "cleaning up unfinished uploads failed",
            where=str(self._spec),
            why=why,
            hint="a lifecycle rule of the bucket (AbortIncompleteMultipartUpload) does the same",
        )

    def _signed(self, method: str, host: str, path: str, query: str, now: datetime) -> dict[str, str]:
        keys, stamp = self._credentials, f"{now:%Y%m%dT%H%M%SZ}"
        headers = {"host": host, "x-amz-content-sha256": _EMPTY, "x-amz-date": stamp}
        if keys.token is not None:
            headers["x-amz-security-token"] = keys.token
        names = ";".join(sorted(headers))
        listed = "".join(f"{name}:{headers[name]}\n" for name in sorted(headers))
        canonical = f"{method}\n{path}\n{query}\n{listed}\n{names}\n{_EMPTY}"
        scope = f"{stamp[:8]}/{self._spec.region}/s3/aws4_request"
        digest = hashlib.sha256(canonical.encode()).hexdigest()
        key = f"AWS4{keys.secret_key}".encode()
        for word in scope.split("/"):
            key = hmac.digest(key, word.encode(), "sha256")
        signature = hmac.digest(key, f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{digest}".encode(), "sha256").hex()
        authorization = f"AWS4-HMAC-SHA256 Credential={keys.access_key}/{scope}, SignedHeaders={names}, "
        return {**headers, "authorization": f"{authorization}Signature={signature}"}
