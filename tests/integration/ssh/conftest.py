from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from kops_py.connect.base import Host
from tests.fakes.tcp_proxy import TcpProxy
from tests.integration.ssh.sshd import SSHD, Sshd, fleet_for, running_sshd


@pytest.fixture(autouse=True)
def _no_agent_of_ours(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.fixture(scope="session")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    if not SSHD:
        pytest.skip("sshd is not installed (Debian: openssh-server)")
    with running_sshd(tmp_path_factory.mktemp("ssh") / "one") as server:
        yield server


@pytest.fixture(scope="session")
def second_sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    if not SSHD:
        pytest.skip("sshd is not installed (Debian: openssh-server)")
    with running_sshd(tmp_path_factory.mktemp("ssh") / "two") as server:
        yield server


@pytest.fixture
def host(sshd: Sshd) -> Iterator[Host]:
    fleet = fleet_for(sshd)
    yield fleet.host("n1")
    fleet.close()


@pytest.fixture
def proxy(sshd: Sshd) -> Iterator[TcpProxy]:
    with TcpProxy("127.0.0.1", sshd.port) as running:
        yield running
