"""The lock in the cluster while etcd takes no writes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from kops_py.app.run import _LeaseKeeper
from kops_py.connect.base import Cancel
from kops_py.connect.lease import ClusterLease
from kops_py.model.errors import KubeError


def keeper(monkeypatch: pytest.MonkeyPatch, why: str) -> tuple[_LeaseKeeper, list[str]]:
    """A keeper whose lock the API refuses to write."""

    def refuse(_: ClusterLease) -> None:
        raise KubeError("the Kubernetes API failed", why=why, status=500)

    monkeypatch.setattr(ClusterLease, "acquire", refuse)
    said: list[str] = []
    settings = SimpleNamespace(command="kops-py etcd defrag")
    opened: Any = SimpleNamespace(
        kube=SimpleNamespace(api=object),
        settings=settings,
        cancel=Cancel(),
        emit=lambda note: said.append(note.message),
    )
    return _LeaseKeeper(opened, "run-1"), said


def test_a_full_etcd_does_not_keep_away_what_gives_space_back(monkeypatch: pytest.MonkeyPatch) -> None:
    lease, said = keeper(monkeypatch, "etcdserver: mvcc: database space exceeded")
    lease.take_if_possible()
    assert not lease.is_held
    assert said == ["etcd is full: this run goes on without the lock in the cluster"]
    lease.release()


def test_a_lock_that_cannot_be_taken_for_another_reason_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    lease, said = keeper(monkeypatch, "etcdserver: request timed out")
    with pytest.raises(KubeError, match="request timed out"):
        lease.take_if_possible()
    assert said == []
