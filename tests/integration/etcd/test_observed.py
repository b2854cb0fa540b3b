"""What is observed of real members, and what follows from it: choosing one, defragmenting them, alarms."""

from __future__ import annotations

from pathlib import Path

import pytest

from kops_py.actions.etcd import defragment, disarm_alarms, verify_defragmented
from kops_py.connect.ssh import SshFleet
from kops_py.model.actions import DefragmentMember
from kops_py.model.errors import EtcdError
from kops_py.observe.etcd import observe_etcd
from kops_py.runbooks.etcd import choose_member, defrag_order, member_findings
from tests.integration.etcd.members import Members
from tests.integration.etcd.steps import step
from tests.integration.ssh.sshd import Sshd


def test_three_members_seen_from_any_host(fleet: SshFleet, three: Members) -> None:
    facts = observe_etcd(fleet, three.targets())
    assert [(m.name, m.host, m.healthy, m.version) for m in facts.members] == [
        (f"m{n}", f"n{n}", True, "3.4.23") for n in (1, 2, 3)
    ]
    assert facts.has_quorum
    assert facts.leader is not None
    assert {m.quota_bytes for m in facts.members} == {2 * 2**30}
    assert member_findings(facts) == ()
    assert not choose_member(facts).is_leader
    assert defrag_order(facts)[-1] == facts.leader.member_id


def test_a_lost_quorum_is_told_by_the_member_that_is_left(fleet: SshFleet, three: Members) -> None:
    three.stop("m2", "m3")
    lonely = observe_etcd(fleet, three.targets())
    assert not lonely.has_quorum
    assert [(m.name, m.revision) for m in lonely.members if m.version] == [("m1", three.revision("m1"))]
    assert "etcd-no-quorum" in {f.id for f in member_findings(lonely)}
    with pytest.raises(EtcdError, match="no member of etcd is fit"):
        choose_member(lonely)


def test_nobody_answers(fleet: SshFleet, one: Members) -> None:
    one.stop()
    with pytest.raises(EtcdError, match="no member of etcd answers"):
        observe_etcd(fleet, one.targets())


def test_stale_and_missing_members(fleet: SshFleet, three: Members) -> None:
    three.add_member("gone", "https://127.0.0.1:1")
    facts = observe_etcd(fleet, three.targets()[:2])
    found = {(f.id, f.message.split(":")[0]) for f in member_findings(facts)}
    assert ("etcd-member-stale", "member m3 belongs to no host of the inventory") in found
    assert any(kind == "etcd-member-down" and "never started" in text for kind, text in found)


def test_defragmenting_gives_space_back_and_needs_every_member(fleet: SshFleet, three: Members) -> None:
    three.fill(12)
    three.ctl("del", "/registry/fill/", "--prefix")
    three.ctl("compact", str(three.revision()))
    targets = three.targets()
    before = {m.name: m for m in observe_etcd(fleet, three.targets()).members}
    for name in ("m2", "m1"):
        action = DefragmentMember(name, f"{before[name].member_id:x}")
        ctx = step(action)
        defragment(fleet, targets, action, ctx)
        verify_defragmented(fleet, targets, action, ctx)
    after = {m.name: m for m in observe_etcd(fleet, three.targets()).members}
    assert after["m2"].size_bytes < before["m2"].size_bytes / 5
    assert after["m3"].size_bytes == before["m3"].size_bytes
    three.stop("m1")
    facts = observe_etcd(fleet, three.targets(), alarms_and_quota=False)
    assert facts.has_quorum
    assert [(f.id, f.node) for f in member_findings(facts)] == [("etcd-member-down", "n1")]
    assert choose_member(facts).name != "m1"
    action = DefragmentMember("m3", f"{before['m3'].member_id:x}")
    with pytest.raises(EtcdError, match="not every member"):
        defragment(fleet, targets, action, step(action))


def test_the_alarm_of_a_full_database_is_seen_and_taken_back(fleet: SshFleet, sshd: Sshd, tmp_path: Path) -> None:
    members = Members(tmp_path / "full", quota_bytes=16 * 2**20)
    members.start()
    try:
        with pytest.raises(Exception, match="returned non-zero"):
            members.fill(60)
        facts = observe_etcd(fleet, members.targets())
        assert facts.members[0].alarms == ("NOSPACE",)
        assert "etcd-alarm-raised" in {f.id for f in member_findings(facts)}
        with pytest.raises(EtcdError, match="NOSPACE"):
            choose_member(facts)
        targets = members.targets()
        with pytest.raises(EtcdError, match="still as large"):
            disarm_alarms(fleet, targets, step(DefragmentMember("m1", "0")))
        members.ctl("del", "/registry/fill/", "--prefix")
        members.ctl("compact", str(members.revision()))
        action = DefragmentMember("m1", f"{facts.members[0].member_id:x}")
        # NOSPACE makes etcd call itself unhealthy: the space has to be given back all the same
        defragment(fleet, targets, action, step(action))
        disarm_alarms(fleet, targets, step(action))
        assert observe_etcd(fleet, members.targets()).members[0].alarms == ()
        members.put("/a", b"b")
    finally:
        members.stop()
