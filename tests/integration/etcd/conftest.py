"""etcd processes, and a fleet whose hosts are this machine behind a real sshd."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from kops_py.connect.ssh import SshFleet
from kops_py.model.spec import SshSpec
from tests.integration.etcd.members import ETCD, ETCDCTL, MISSING, Members
from tests.integration.ssh.sshd import SSHD, Sshd, host_spec, running_sshd


@pytest.fixture(autouse=True)
def _no_agent_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)


@pytest.fixture(scope="session")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    if not SSHD:
        pytest.skip("sshd is not installed (Debian: openssh-server)")
    if ETCD is None or ETCDCTL is None:
        pytest.skip(MISSING)
    with running_sshd(tmp_path_factory.mktemp("etcd-ssh") / "one") as server:
        yield server


@pytest.fixture
def fleet(sshd: Sshd) -> Iterator[SshFleet]:
    """Hosts n1, n2, n3: all of them this machine."""
    specs = [host_spec(f"n{n}", port=sshd.port, key_file=sshd.key) for n in (1, 2, 3)]
    known = sshd.known_hosts(f"[127.0.0.1]:{sshd.port}")
    fleet = SshFleet(specs, settings=SshSpec(), known_hosts=known, ssh_config=Path("/dev/null"))
    yield fleet
    fleet.close()


@pytest.fixture
def one(sshd: Sshd, tmp_path: Path) -> Iterator[Members]:
    """One member with what a kubeadm cluster holds."""
    del sshd
    members = Members(tmp_path / "etcd")
    members.start()
    members.cluster_keys()
    yield members
    members.stop()


@pytest.fixture
def three(sshd: Sshd, tmp_path: Path) -> Iterator[Members]:
    """Three members."""
    del sshd
    members = Members(tmp_path / "etcd", 3)
    members.start()
    members.cluster_keys()
    yield members
    members.stop()
