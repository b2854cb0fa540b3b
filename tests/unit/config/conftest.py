"""A good pair of files to change, and a guard: reading files contacts nothing."""

import socket
from pathlib import Path

import pytest

from tests.unit.config.files import Pair


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError(f"the configuration contacted {args[1:]}")

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    return Pair.write(tmp_path)
