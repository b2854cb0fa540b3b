"""A file server on the lab's gateway: a package or image repository that a test can make vanish."""

from __future__ import annotations

import os
import socket
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import config as cfg
from .config import LabConfig, LabError
from .processes import end_process, find_children, spawn, wait_until

if TYPE_CHECKING:
    from _typeshed import SupportsRead, SupportsWrite


class _Handler(SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # apt keeps its connection
    timeout = 60

    def copyfile(self, source: SupportsRead[Any], outputfile: SupportsWrite[Any]) -> None:
        """Files go from the page cache to the socket without passing through Python."""
        self.wfile.flush()
        if hasattr(source, "fileno"):
            self.connection.sendfile(source)
        else:
            super().copyfile(source, outputfile)  # a directory listing, made in memory


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128


def serve_forever(address: str, port: int, directory: Path) -> None:
    """Body of the server's own process; the log of requests goes to its standard error."""
    os.chdir(directory)  # the handler's default is the current directory, and this one never changes
    with _Server((address, port), _Handler) as server:
        server.serve_forever()


def url(octet: int, port: int) -> str:
    return f"http://{cfg.gateway(octet)}:{port}"


def is_serving(config: LabConfig) -> bool:
    return any(child.kind == "serve" for child in find_children(config))


def start(config: LabConfig, octet: int, port: int, directory: Path) -> None:
    """Start the server unless it runs already; returns when it accepts connections."""
    if not directory.is_dir():
        raise LabError(f"{directory} is no directory: nothing to serve")
    stop(config)
    address = cfg.gateway(octet)
    log = config.dir / "serve.log"
    spawn(config, [("serve", [address, str(port), str(directory)], config.dir / "serve.pid", log)])

    def accepts() -> bool:
        try:
            socket.create_connection((address, port), 1).close()
        except OSError:
            return False
        return True

    if not wait_until(lambda: accepts() or not is_serving(config), 15) or not is_serving(config):
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-3:])
        raise LabError(f"nothing answers on {address}:{port}; end of {log}:\n{tail}")


def stop(config: LabConfig) -> None:
    """End the server at once: open downloads break, new connections are refused."""
    for child in find_children(config):
        if child.kind == "serve":
            end_process(child.pid, 10)
