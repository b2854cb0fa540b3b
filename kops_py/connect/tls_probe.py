"""Asks whether somebody answers at an address with a certificate of a given authority."""

from __future__ import annotations

import socket
import ssl


def answers_for(endpoint: str, authority_pem: bytes, *, timeout_s: float) -> bool:
    """Whether ``host:port`` ends a TLS handshake with a certificate this authority signed, whatever its names."""
    host, _, port = endpoint.rpartition(":")
    if not host or not port.isdigit():
        return False
    try:
        context = ssl.create_default_context(cadata=authority_pem.decode("ascii"))
        context.check_hostname = False
        with (
            socket.create_connection((host.strip("[]"), int(port)), timeout=timeout_s) as plain,
            context.wrap_socket(plain),
        ):
            return True
    except (OSError, ValueError):  # nobody there, no certificate of ours, or no certificate at all
        return False
