"""A TCP proxy that can delay, stall and cut what passes through it."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable
from types import TracebackType


class TcpProxy:
    """Listens on 127.0.0.1 and passes everything on; ``port`` is where to connect instead of the real server."""

    def __init__(self, host: str, port: int, *, delay_s: float = 0.0) -> None:
        self._upstream = (host, port)
        self.delay_s = delay_s
        self._flowing = threading.Event()
        self._flowing.set()
        self._closing = threading.Event()
        self._lock = threading.Lock()
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self.connections = 0
        self.to_server_bytes = 0
        self._trip: tuple[int, Callable[[], None]] | None = None
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def stall(self) -> None:
        """Pass nothing on any more, but keep the connections."""
        self._flowing.clear()

    def flow(self) -> None:
        """Pass on again."""
        self._flowing.set()

    def after(self, size_bytes: int, action: Callable[[], None]) -> None:
        """Do this once, when so many bytes have gone to the server."""
        self._trip = (size_bytes, action)

    def cut(self) -> None:
        """Break all connections; new ones are taken."""
        with self._lock:
            pairs, self._pairs = self._pairs, []
        for sock in (s for pair in pairs for s in pair):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()

    def close(self) -> None:
        """Break everything and listen no more."""
        self._closing.set()
        self._flowing.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()

    def __enter__(self) -> TcpProxy:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _accept(self) -> None:
        while not self._closing.is_set():
            try:
                near, _ = self._listener.accept()
            except ConnectionAbortedError:  # by the client, before it was taken
                continue
            except OSError:
                return
            try:
                far = socket.create_connection(self._upstream)
            except OSError:
                near.close()
                continue
            for sock in (near, far):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                self._pairs.append((near, far))
                self.connections += 1
            threading.Thread(target=self._pass, args=(near, far, self._count), daemon=True).start()
            threading.Thread(target=self._pass, args=(far, near, lambda _: None), daemon=True).start()

    def _count(self, size_bytes: int) -> None:
        action = None
        with self._lock:
            self.to_server_bytes += size_bytes
            if self._trip is not None and self.to_server_bytes >= self._trip[0]:
                action, self._trip = self._trip[1], None
        if action is not None:
            action()

    def _pass(self, source: socket.socket, sink: socket.socket, count: Callable[[int], None]) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                count(len(data))
                self._flowing.wait()
                if self.delay_s:
                    self._closing.wait(self.delay_s)
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
