"""The Kubernetes API over the official client's connection layer: raw JSON, deadlines, restarts ridden out.

The client's typed models are not used: they differ between its versions, cost a second of import, and refuse
answers of servers they do not know.
"""

from __future__ import annotations

import gc
import json
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict
from urllib.parse import urlencode

from kops_py.connect.base import Cancel, JsonObject, KubeApi, T
from kops_py.connect.kube_config import SecretFiles, client_configuration
from kops_py.connect.kube_errors import Delivery, is_passing, status_error, transport_failure
from kops_py.model.errors import KubeError

_CONNECT_TIMEOUT_S = 5.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 2.0
_NEW_KIND_TIMEOUT_S = 30.0
_PAGE = 500
_CONFLICT = frozenset({409})
_MERGE_TYPES = frozenset(
    {"application/strategic-merge-patch+json", "application/merge-patch+json", "application/apply-patch+yaml"}
)


def connect_kube(
    kubeconfig: bytes,
    *,
    server_override: str | None,
    work_dir: Path,
    request_timeout_s: float,
    cancel: Cancel | None = None,
) -> KubeApi:
    """Return the API of the kubeconfig's current context; nothing is contacted yet.

    ``server_override`` is a URL to connect to instead of the kubeconfig's server, whose name the certificate must
    still carry. ``request_timeout_s`` is the deadline of each call, its repetitions included, unless a call brings
    its own. ``work_dir`` takes key files where keys cannot be held in memory. Raises KubeError when the
    kubeconfig is not usable.
    """
    secrets = SecretFiles(work_dir)
    try:
        configuration = client_configuration(kubeconfig, secrets, server_override=server_override)
        return RestKubeApi(configuration, secrets, request_timeout_s=request_timeout_s, cancel=cancel)
    except BaseException:
        secrets.close()
        raise


@dataclass(frozen=True, slots=True)
class _Answer:
    """An answer; ``problem`` is set for a status the caller said it expects.

    ``repeated`` tells that an earlier attempt without an answer may have been carried out as well.
    """

    body: bytes
    repeated: bool
    problem: KubeError | None = None


class RestKubeApi:
    """KubeApi on the official client's connection pool; safe to use from several threads."""

    def __init__(
        self, configuration: Any, secrets: SecretFiles, *, request_timeout_s: float, cancel: Cancel | None
    ) -> None:
        from kubernetes.client.rest import RESTClientObject

        self._configuration = configuration
        self._secrets = secrets
        self._timeout_s = request_timeout_s
        self._cancel = cancel or Cancel()
        self._pool = RESTClientObject(configuration).pool_manager
        self._server = str(configuration.host).rstrip("/")
        self._kinds: dict[str, dict[str, JsonObject]] = {}
        self._new_kinds: set[tuple[str, str]] = set()
        self._kinds_lock = threading.Lock()
        self._closed = False

    def is_ready(self, timeout_s: float = 5.0) -> bool:
        """Whether /readyz answers ok, asked once; never raises KubeError."""
        self._cancel.check()
        try:
            status, body, _ = self._exchange("GET", self._server + "/readyz", None, "", timeout_s)
        except KubeError:
            return False
        except _transport_errors():
            return False
        return status == 200 and body.strip() == b"ok"

    def get(self, path: str, *, params: Mapping[str, str] | None = None, timeout_s: float | None = None) -> JsonObject:
        """Return one object."""
        answer = self._send("GET", path, params=params, timeout_s=timeout_s, repeatable=True)
        return _json(answer.body, path, self._server)

    def get_or_none(self, path: str, *, timeout_s: float | None = None) -> JsonObject | None:
        """Return one object, or None when there is none (404)."""
        try:
            return self.get(path, timeout_s=timeout_s)
        except KubeError as error:
            if error.status == 404:
                return None
            raise

    def items(
        self, path: str, *, params: Mapping[str, str] | None = None, timeout_s: float | None = None
    ) -> Iterator[JsonObject]:
        """Return the items of a list, read in pages to the end before the first is returned.

        ``timeout_s`` holds for each page. When the server forgets the list half-way (410), it is read anew once.
        """
        found: list[JsonObject] = self.fold(path, list, list.append, params=params, timeout_s=timeout_s)
        return iter(found)

    def fold(
        self,
        path: str,
        begin: Callable[[], T],
        take: Callable[[T, JsonObject], None],
        *,
        shape: type[Any] | None = None,
        params: Mapping[str, str] | None = None,
        page_size: int = _PAGE,
        timeout_s: float | None = None,
    ) -> T:
        """Give each item of a list to ``take`` as its page arrives, and return what ``begin`` made.

        ``timeout_s`` holds for each page. When the server forgets the list half-way (410), it is read anew once,
        into a fresh beginning. An answer that does not fit ``shape`` is read whole.
        """
        query = {"limit": str(page_size), **(params or {})}
        read = _page_reader(shape)
        try:
            return self._fold(path, begin(), take, read, query, timeout_s)
        except KubeError as error:
            if error.status != 410:
                raise
        return self._fold(path, begin(), take, read, query, timeout_s)

    def text(self, path: str, *, timeout_s: float | None = None) -> str:
        """Return an answer that is not JSON, such as /metrics."""
        answer = self._send("GET", path, timeout_s=timeout_s, repeatable=True)
        return answer.body.decode("utf-8", "replace")

    def create(self, path: str, body: JsonObject, *, timeout_s: float | None = None) -> JsonObject:
        """Create an object (POST); tried once unless no connection was made; status 409 when it exists."""
        answer = self._send("POST", path, body=body, timeout_s=timeout_s, repeatable=False)
        return _json(answer.body, path, self._server)

    def replace(self, path: str, body: JsonObject, *, timeout_s: float | None = None) -> JsonObject:
        """Replace an object (PUT); with a resourceVersion in it, 409 when somebody else was faster.

        Without one it is tried once, because a repetition could undo what somebody did in between.
        """
        guarded = bool((body.get("metadata") or {}).get("resourceVersion"))
        answer = self._send("PUT", path, body=body, timeout_s=timeout_s, repeatable=guarded, expected=_CONFLICT)
        if answer.problem is None:
            return _json(answer.body, path, self._server)
        if answer.repeated:
            current = self.get(path, timeout_s=timeout_s)
            if _holds(current, _without_versions(body)):
                return current  # it was our own earlier attempt, whose answer was lost
        raise answer.problem

    def patch(
        self,
        path: str,
        body: JsonObject | list[JsonObject],
        *,
        content_type: str = "application/strategic-merge-patch+json",
        params: Mapping[str, str] | None = None,
        timeout_s: float | None = None,
    ) -> JsonObject:
        """Patch an object; a JSON patch (a list of operations) is tried once, the others can be repeated."""
        answer = self._send(
            "PATCH",
            path,
            params=params,
            body=body,
            content_type=content_type,
            timeout_s=timeout_s,
            repeatable=content_type in _MERGE_TYPES,
        )
        return _json(answer.body, path, self._server)

    def delete(self, path: str, *, body: JsonObject | None = None, timeout_s: float | None = None) -> bool:
        """Delete an object; False when there was none.

        Repeated only with ``preconditions.uid`` in the body: without, a repetition could hit a successor.
        """
        guarded = bool(((body or {}).get("preconditions") or {}).get("uid"))
        answer = self._send(
            "DELETE", path, body=body, timeout_s=timeout_s, repeatable=guarded, expected=_CONFLICT | {404}
        )
        if answer.problem is None or answer.repeated:
            # repeated and 404, or 409 because the uid is another's: the object went by our first attempt
            return True
        if answer.problem.status == 404:
            return False
        raise answer.problem

    def apply(self, manifest: JsonObject, *, field_manager: str = "kops-py") -> str:
        """Apply an object server-side with force; returns ``Kind namespace/name``.

        The kind's path comes from discovery, kept for the life of this connection; a namespaced object without a
        namespace goes to ``default``.
        """
        api_version, kind = str(manifest.get("apiVersion") or ""), str(manifest.get("kind") or "")
        metadata = dict(manifest.get("metadata") or {})
        name = str(metadata.get("name") or "")
        if not api_version or not kind or not name:
            raise KubeError(
                "an object without apiVersion, kind or metadata.name cannot be applied",
                where=" ".join(filter(None, (api_version, kind, name))) or "manifest",
            )
        resource = self._resource(api_version, kind)
        path, shown = _group_path(api_version), f"{kind} {name}"
        if resource.get("namespaced"):
            metadata["namespace"] = str(metadata.get("namespace") or "default")
            path, shown = f"{path}/namespaces/{metadata['namespace']}", f"{kind} {metadata['namespace']}/{name}"
        self.patch(
            f"{path}/{resource['name']}/{name}",
            {**manifest, "metadata": metadata},
            content_type="application/apply-patch+yaml",
            params={"fieldManager": field_manager, "force": "true"},
        )
        if kind == "CustomResourceDefinition":
            spec = manifest.get("spec") or {}
            self._new_kinds.add((str(spec.get("group")), str((spec.get("names") or {}).get("kind"))))
        return shown

    def close(self) -> None:
        """Close connections and remove anything written to disk for them; calls fail from then on."""
        self._closed = True
        self._pool.clear()
        self._secrets.close()

    def _fold(
        self,
        path: str,
        into: T,
        take: Callable[[T, JsonObject], None],
        read: Callable[[bytes], JsonObject | None],
        query: Mapping[str, str],
        timeout_s: float | None,
    ) -> T:
        token = ""
        while True:
            with _no_collection():
                params = {**query, "continue": token} if token else query
                answer = self._send("GET", path, params=params, timeout_s=timeout_s, repeatable=True)
                page = read(answer.body) or _json(answer.body, path, self._server)
                for item in page.get("items") or []:
                    take(into, item)
                token = (page.get("metadata") or {}).get("continue") or ""
                del page, answer
            if not token:
                return into

    def _resource(self, api_version: str, kind: str) -> JsonObject:
        """Return the discovery entry of a kind; a kind whose definition was just applied may take a moment."""
        group = api_version.rpartition("/")[0]
        limit_s = _NEW_KIND_TIMEOUT_S if (group, kind) in self._new_kinds else 0.0
        deadline = time.monotonic() + limit_s
        fresh = False
        while True:
            with self._kinds_lock:
                if fresh or api_version not in self._kinds:
                    self._kinds[api_version] = self._discover(api_version)
                    fresh = True
                resource = self._kinds[api_version].get(kind)
            if resource is not None:
                return resource
            if fresh and time.monotonic() >= deadline:
                raise KubeError(
                    f"the cluster knows no {kind} in {api_version}",
                    where=_group_path(api_version),
                    why=f"its definition was not served within {limit_s:g} s" if limit_s else "",
                    hint="check apiVersion and kind against the cluster's version; a custom kind needs its "
                    "CustomResourceDefinition first",
                    status=404,
                )
            if fresh:
                self._pause(0.5)
            fresh = True

    def _discover(self, api_version: str) -> dict[str, JsonObject]:
        found = self.get_or_none(_group_path(api_version)) or {}
        return {str(r["kind"]): r for r in found.get("resources") or [] if "/" not in str(r["name"])}

    def _send(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        body: Any = None,
        content_type: str = "application/json",
        timeout_s: float | None = None,
        repeatable: bool,
        expected: frozenset[int] = frozenset(),
    ) -> _Answer:
        """Send one request until it is answered, its deadline has passed, or repeating it would not be safe."""
        limit_s = self._timeout_s if timeout_s is None else timeout_s
        started = time.monotonic()
        url = self._server + path + (f"?{urlencode(params)}" if params else "")
        data = None if body is None else json.dumps(body).encode()
        attempts, maybe_done = 0, False
        while True:
            self._cancel.check()
            left_s = started + limit_s - time.monotonic()
            # a part of the time first: a balancer may have sent us to a server that died without a word
            attempt_s = max(left_s if attempts else left_s / 3 if repeatable else left_s, 0.05)
            attempts += 1
            retry_after_s: float | None = None
            try:
                status, answer, headers = self._exchange(method, url, data, content_type, attempt_s)
            except _transport_errors() as error:
                failure = transport_failure(method, path, error, server=self._server)
                problem, again = failure.error, failure.delivery is not Delivery.FATAL
                again = again and (repeatable or failure.delivery is Delivery.NOT_SENT)
                unanswered = failure.delivery is Delivery.UNKNOWN
            else:
                if 200 <= status < 300:
                    return _Answer(answer, maybe_done)
                problem = status_error(method, path, status, answer, server=self._server)
                if status in expected:
                    return _Answer(answer, maybe_done, problem)
                again, unanswered = repeatable and is_passing(status, answer), status in {500, 502, 504}
                retry_after_s = _retry_after(headers)
                problem.retry_after_s = problem.retry_after_s or retry_after_s or 0.0
            pause_s = _pause_length(attempts, retry_after_s)
            if not again or time.monotonic() + pause_s >= started + limit_s:
                if attempts > 1:
                    problem.why += f" (tried {attempts} times in {time.monotonic() - started:.0f} s)"
                raise problem
            maybe_done = maybe_done or unanswered
            self._pause(pause_s)

    def _exchange(
        self, method: str, url: str, data: bytes | None, content_type: str, limit_s: float
    ) -> tuple[int, bytes, Mapping[str, str]]:
        """Send one request over one connection and read its answer, all within ``limit_s``."""
        import urllib3

        if self._closed:
            # the key's file descriptor may be another file's by now
            raise KubeError("this connection to the Kubernetes API was closed", where=self._server)
        deadline = time.monotonic() + limit_s
        headers = {"Accept": "application/json, */*", "User-Agent": "kops-py"}
        if data is not None:
            headers["Content-Type"] = content_type
        for setting in self._configuration.auth_settings().values():
            if setting["in"] == "header" and setting["value"]:
                headers[setting["key"]] = setting["value"]
        timeout = urllib3.Timeout(connect=min(_CONNECT_TIMEOUT_S, limit_s), read=limit_s)
        response = self._pool.request(
            method, url, body=data, headers=headers, timeout=timeout, retries=False, redirect=False,
            preload_content=False,
        )  # fmt: skip
        try:
            body = _read_all(response, deadline)
        except BaseException:
            response.close()
            raise
        response.release_conn()
        return int(response.status), body, response.headers

    def _pause(self, pause_s: float) -> None:
        if self._cancel.wait(pause_s):
            self._cancel.check()


def _page_reader(shape: type[Any] | None) -> Callable[[bytes], JsonObject | None]:
    """Return what reads a page of a list of such items; it returns None for an answer of another form."""
    if shape is None:
        return lambda _: None
    import msgspec

    fields = {"metadata": dict[str, Any], "items": list[shape]}  # type: ignore[valid-type]
    decoder: Any = msgspec.json.Decoder(TypedDict("Page", fields, total=False))  # type: ignore[operator]

    def read(body: bytes) -> JsonObject | None:
        try:
            page: JsonObject = decoder.decode(body)
        except msgspec.MsgspecError:
            return None
        return page

    return read


@contextmanager
def _no_collection() -> Iterator[None]:
    """Keep the cycle collector away from a page: JSON has no cycles, and looking for them doubles the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _transport_errors() -> tuple[type[Exception], ...]:
    import urllib3

    return (urllib3.exceptions.HTTPError, OSError)


def _read_all(response: Any, deadline: float) -> bytes:
    """Read an answer to its end; a server that sends drop by drop does not get more time than the deadline."""
    read = getattr(response, "read1", None) or response.read
    pieces: list[bytes] = []
    while piece := read(65536):
        pieces.append(piece)
        if time.monotonic() > deadline:
            raise TimeoutError("the answer did not end within the time allowed")
    return b"".join(pieces)


def _retry_after(headers: Mapping[str, str]) -> float | None:
    text = str(headers.get("Retry-After") or "")
    return float(text) if text.isdigit() else None


def _pause_length(attempts: int, retry_after_s: float | None) -> float:
    if retry_after_s is not None:
        return retry_after_s
    longest = min(_FIRST_PAUSE_S * 2 ** (attempts - 1), _LONGEST_PAUSE_S)
    return float(longest * random.uniform(0.75, 1.0))  # noqa: S311 - spreads clients, keeps no secret


def _json(body: bytes, path: str, server: str) -> JsonObject:
    try:
        value = json.loads(body)
    except ValueError as error:
        value, why = None, f"the answer is not JSON: {error}"
    else:
        why = "the answer is not a JSON object"
    if not isinstance(value, dict):
        raise KubeError(
            f"{server} does not answer as a Kubernetes API server",
            where=path,
            why=why,
            hint="check that the endpoint is an API server and not another web server or a proxy's login page",
        )
    return value


def _group_path(api_version: str) -> str:
    return f"/apis/{api_version}" if "/" in api_version else f"/api/{api_version}"


def _without_versions(body: JsonObject) -> JsonObject:
    metadata = {
        k: v for k, v in body["metadata"].items() if k not in {"resourceVersion", "managedFields", "generation"}
    }
    return {**body, "metadata": metadata}


def _holds(current: Any, wanted: Any) -> bool:
    """Whether everything in ``wanted`` is in ``current``, which the server may have completed with defaults."""
    if isinstance(wanted, dict):
        return isinstance(current, dict) and all(k in current and _holds(current[k], v) for k, v in wanted.items())
    if isinstance(wanted, list):
        return (
            isinstance(current, list)
            and len(current) == len(wanted)
            and all(_holds(c, w) for c, w in zip(current, wanted, strict=True))
        )
    return bool(current == wanted)
