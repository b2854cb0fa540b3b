"""An HTTP server that answers from a script: one entry a request; a request too many is recorded as a fault."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import yaml


@dataclass(frozen=True)
class Reply:
    """What one request gets; ``cut`` ends the connection without an answer, ``promised`` lies about the length."""

    status: int = 200
    body: Any = field(default_factory=dict)
    headers: tuple[tuple[str, str], ...] = ()
    cut: bool = False
    promised: int = 0
    drip_s: float = 0.0


def status(code: int, reason: str = "", message: str = "", headers: tuple[tuple[str, str], ...] = ()) -> Reply:
    """Return a failure as an API server writes it."""
    body = {"kind": "Status", "status": "Failure", "reason": reason, "message": message, "code": code}
    return Reply(code, body, headers)


@dataclass(frozen=True)
class Request:
    """What was asked."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes


class ScriptedServer:
    """Serves the script in order on the loopback address."""

    def __init__(self, script: Sequence[Reply]) -> None:
        self.requests: list[Request] = []
        self.faults: list[str] = []
        self._script = list(script)
        self._lock = threading.Lock()
        self._ended = threading.Event()
        owner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base's name
                """Keep quiet."""

            def _answer(self) -> None:
                owner._serve(self)

        for method in ("GET", "POST", "PUT", "PATCH", "DELETE"):
            setattr(Handler, f"do_{method}", Handler._answer)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def kubeconfig(self, **user: str) -> bytes:
        """Return a kubeconfig for this server."""
        return plain_kubeconfig(self.url, **user)

    def close(self) -> None:
        self._ended.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _serve(self, handler: BaseHTTPRequestHandler) -> None:
        parts = urlsplit(handler.path)
        body = handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
        query = {k: v[0] for k, v in parse_qs(parts.query).items()}
        with self._lock:
            self.requests.append(Request(handler.command, parts.path, query, dict(handler.headers), body))
            reply = self._script.pop(0) if self._script else None
        if reply is None:
            self.faults.append(f"{handler.command} {handler.path}")
            reply = Reply(418, {"message": "the script has ended"})
        if reply.cut:
            handler.close_connection = True
            handler.connection.shutdown(socket.SHUT_RDWR)
            return
        data = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
        handler.send_response(reply.status)
        for name, value in reply.headers:
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(reply.promised or len(data)))
        handler.end_headers()
        if reply.drip_s:
            for position in range(len(data)):
                if self._ended.wait(reply.drip_s):
                    break
                try:
                    handler.wfile.write(data[position : position + 1])
                except OSError:
                    break
        else:
            handler.wfile.write(data)
        if reply.promised or reply.drip_s:
            handler.close_connection = True


def plain_kubeconfig(url: str, **user: str) -> bytes:
    """Return a kubeconfig of one context."""
    return yaml.safe_dump(
        {
            "clusters": [{"name": "c", "cluster": {"server": url}}],
            "users": [{"name": "u", "user": dict(user) or {"token": "t0ken"}}],
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
            "current-context": "x",
        }
    ).encode()
