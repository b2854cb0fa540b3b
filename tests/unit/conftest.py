"""What all unit tests share: nobody waits for what a stand-in does not do by itself."""

from __future__ import annotations

import pytest

from kops_py.observe import etcd_restore


@pytest.fixture(autouse=True)
def no_elections(monkeypatch: pytest.MonkeyPatch) -> None:
    """Members made of folders choose no leader; the tests of that wait set it themselves."""
    monkeypatch.setattr(etcd_restore, "_ELECTION_S", 0.0)
