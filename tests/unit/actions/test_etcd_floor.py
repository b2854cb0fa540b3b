"""Taking a backup: what is on record of the member it came from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from kops_py.actions import etcd_backup
from kops_py.actions.etcd_backup import Work, take
from kops_py.connect.base import Cancel
from kops_py.model.etcd import KUBEADM_CREDENTIALS, EtcdAccess, EtcdFacts
from kops_py.model.status import EtcdMember
from tests.fakes.ssh import FakeFleet, FakeHost, Reply
from tests.fakes.stores import ME, Clock, MemoryStore, catalogue_of, snapshot, spec_of


def test_a_snapshot_is_held_to_the_revision_of_its_own_member(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stream(host: object, access: object, write: Callable[[bytes], None], *_: object) -> None:
        write(snapshot())

    monkeypatch.setattr(etcd_backup, "_snapshot", stream)
    leader = EtcdMember("n1", 1, "https://10.0.0.1:2379", True, "3.5.24", revision=1010, is_leader=True, host="n1")
    follower = EtcdMember("n2", 2, "https://10.0.0.2:2379", True, "3.5.24", revision=1005, host="n2")
    access = EtcdAccess("n2", follower.endpoint, KUBEADM_CREDENTIALS[0])
    clock, host = Clock(), FakeHost("n2").on(lambda argv: "get" in argv, Reply(exit_status=1))
    catalogue = catalogue_of(MemoryStore(), clock)
    work = Work(
        cluster="prod", fleet=FakeFleet([host]), spec=spec_of(), catalogues=[catalogue], recipients=(),
        identities=(), me=ME, clock=clock, scratch=tmp_path, cancel=Cancel(),
    )  # fmt: skip
    facts = EtcdFacts(members=(leader, follower), accesses={"n2": access})
    taken = take(work, facts, follower, (), keep_plain=False, timeout_s=60)
    assert (taken.manifest.source.member, taken.manifest.source.revision) == ("n2", 1005)
