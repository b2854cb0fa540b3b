"""Ports on the loopback address for what a test starts."""

from __future__ import annotations

import random
import socket

# Below the ports the kernel gives to connections (32768 and above), so that none of those takes a port that was looked
# for and is not listened on yet; and far apart by chance, for tests that run side by side.
_PORTS = range(10_000, 30_000)
_given: set[int] = set()


def free_port() -> int:
    """Return a port nobody listens on at this moment; never the same one twice in a process."""
    for port in random.sample(_PORTS, k=200):
        if port in _given:
            continue
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        _given.add(port)
        return port
    raise RuntimeError("two hundred ports, and none of them free")
