"""Which member gives the snapshot, what is wrong with members, and the order of defragmenting."""

from __future__ import annotations

import dataclasses
from types import MappingProxyType
from typing import Any

import pytest

from kops_py.model.actions import ProveBackup
from kops_py.model.backup import BackupSpec, DirectoryStoreSpec, EncryptionSpec, Verify
from kops_py.model.errors import EtcdError
from kops_py.model.etcd import EtcdFacts
from kops_py.model.plan import Step
from kops_py.model.status import EtcdMember
from kops_py.runbooks.etcd import DefragArguments, choose_member, defrag, defrag_order, member_findings
from kops_py.runbooks.etcd_backup import BackupArguments, back_up_first, bundle_hosts, plan_backup, plan_prune
from tests.fakes.cluster import make_spec

MIB = 2**20
SPEC = make_spec(control_planes=3)


def member(number: int, **changes: Any) -> EtcdMember:
    values: dict[str, Any] = {
        "name": f"n{number}", "member_id": number, "endpoint": f"https://10.0.0.{number}:2379", "healthy": True,
        "version": "3.4.23", "size_bytes": 100 * MIB, "used_bytes": 40 * MIB, "revision": 1000, "host": f"n{number}",
        "quota_bytes": 2**31, "is_leader": number == 1,
    }  # fmt: skip
    return EtcdMember(**{**values, **changes})


def facts(*members: EtcdMember, **changes: Any) -> EtcdFacts:
    expected = MappingProxyType({f"n{n}": f"n{n}" for n in (1, 2, 3)})
    return EtcdFacts(members=members, expected=expected, **changes)


THREE = facts(member(1), member(2), member(3))


def test_a_follower_with_the_newest_revision_gives_the_snapshot() -> None:
    assert choose_member(THREE).name == "n2"
    assert choose_member(facts(member(1), member(2, revision=999), member(3))).name == "n3"
    assert choose_member(facts(member(1))).name == "n1"


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"healthy": False, "problem": "it does not answer"}, "it does not answer"),
        ({"alarms": ("CORRUPT",)}, "CORRUPT"),
        ({"is_learner": True}, "a learner"),
    ],
)
def test_no_unfit_member_does(changes: dict[str, Any], why: str) -> None:
    assert choose_member(facts(member(1), member(2, **changes), member(3, **changes))).name == "n1"
    with pytest.raises(EtcdError, match="no member of etcd is fit") as caught:
        choose_member(facts(member(1, **changes)))
    assert why in caught.value.why


def test_one_far_behind_does_not() -> None:
    late = facts(member(1, revision=9000), member(2), member(3))
    assert choose_member(late).name == "n1"
    assert [f.id for f in member_findings(late)] == ["etcd-member-behind"] * 2


def test_nothing_is_wrong_with_healthy_members() -> None:
    assert member_findings(THREE) == ()


def test_what_is_wrong_with_members() -> None:
    def ids(of: EtcdFacts) -> list[str]:
        return sorted(f.id for f in member_findings(of))

    assert ids(facts(member(1), member(2), member(3, host="", name="gone"))) == [
        "etcd-member-missing",
        "etcd-member-stale",
    ]
    assert ids(dataclasses.replace(THREE, nodes=frozenset({"n1", "n2"}))) == ["etcd-member-stale"]
    assert ids(facts(member(1), member(2))) == ["etcd-member-missing"]
    assert ids(facts(member(1), member(2), member(3, size_bytes=1900 * MIB))) == ["etcd-near-quota"]
    full = member(3, healthy=False, problem="NOSPACE", alarms=("NOSPACE",), only_alarms=("NOSPACE",))
    assert ids(facts(member(1), member(2), full)) == ["etcd-alarm-raised"]
    assert "etcd-no-quorum" in ids(facts(member(1), has_quorum=False))


def test_defragmenting_goes_one_by_one_with_the_leader_last() -> None:
    order = defrag_order(THREE)
    assert order == (2, 3, 1)
    plan = defrag(SPEC, THREE, DefragArguments(order)).plan
    assert [[s.id for s in w.steps] for w in plan.waves] == [["defrag/n2"], ["defrag/n3"], ["defrag/n1"]]
    done = facts(member(1), member(2, size_bytes=41 * MIB), member(3, is_leader=True))
    rest = defrag(SPEC, done, DefragArguments(order)).plan
    assert list(rest.steps) == [s for s in plan.steps if s.id != "defrag/n2"]
    assert any("n2" in note for note in rest.notes)


def ill(number: int, *alarms: str, **changes: Any) -> EtcdMember:
    """A member that tells these alarms, of whichever member."""
    told = "; ".join(f"memberID:3 alarm:{a} " for a in alarms)
    return member(number, healthy=False, problem=told, only_alarms=alarms, **changes)


def test_the_full_database_of_one_member_is_told_by_all_and_mended() -> None:
    full = facts(ill(1, "NOSPACE"), ill(2, "NOSPACE"), ill(3, "NOSPACE", alarms=("NOSPACE",)))
    decision = defrag(SPEC, full, DefragArguments(defrag_order(full)))
    assert [s.id for s in decision.plan.steps] == ["defrag/n2", "defrag/n3", "defrag/n1", "disarm/nospace"]
    assert decision.findings == ()
    gone = facts(ill(1, "NOSPACE"), ill(2, "NOSPACE"), ill(3, "NOSPACE"))  # raised by a member that was taken out
    assert defrag(SPEC, gone, DefragArguments(defrag_order(gone))).plan.steps[-1].id == "disarm/nospace"


def test_nothing_is_defragmented_while_data_may_be_wrong() -> None:
    both = ("NOSPACE", "CORRUPT")
    wrong = facts(ill(1, *both), ill(2, *both), ill(3, *both, alarms=("CORRUPT",)))
    decision = defrag(SPEC, wrong, DefragArguments(defrag_order(wrong)))
    assert ("etcd-alarm-raised", "error") in {(f.id, str(f.severity)) for f in decision.findings}
    assert [s.id for s in decision.plan.steps] == ["disarm/nospace"]


def test_the_alarm_is_taken_back_last() -> None:
    full = facts(*(ill(n, "NOSPACE", alarms=("NOSPACE",)) for n in (1, 2, 3)))
    decision = defrag(SPEC, full, DefragArguments(defrag_order(full)))
    assert decision.plan.steps[-1].id == "disarm/nospace"
    assert len(decision.plan.steps) == 4
    assert not [f for f in decision.findings if f.severity == "error"]


BACKUP = BackupSpec((DirectoryStoreSpec("local", SPEC.inventory_path),), EncryptionSpec(("age1x",)))


def test_a_backup_is_taken_then_proven_then_others_go() -> None:
    decision = plan_backup(SPEC, BACKUP, THREE, BackupArguments(Verify.RESTORE, prune=True))
    assert [s.id for s in decision.plan.steps] == ["backup/take", "backup/prove", "backup/prune"]
    assert "n2" in decision.plan.steps[0].title
    assert decision.findings == ()
    alone = plan_backup(SPEC, BACKUP, THREE, BackupArguments(Verify.NONE))
    assert [s.id for s in alone.plan.steps] == ["backup/take"]
    assert [f.id for f in alone.findings] == ["etcd-backup-unproven"]


def test_what_is_wrong_warns_and_stops_no_backup() -> None:
    ill = facts(member(1), member(2), member(3, healthy=False, problem="gone"), unreachable=frozenset({"n3"}))
    open_spec = dataclasses.replace(BACKUP, encryption=EncryptionSpec(required=False))
    decision = plan_backup(SPEC, open_spec, ill, BackupArguments(Verify.RESTORE))
    assert {f.id for f in decision.findings} == {
        "etcd-member-down", "etcd-backup-unencrypted", "etcd-bundle-incomplete"
    }  # fmt: skip
    assert all(f.severity == "warning" for f in decision.findings)
    assert "n3" not in decision.plan.steps[0].title
    assert "NOT encrypted" in decision.plan.steps[0].details


def test_a_control_plane_that_holds_nothing_is_left_out_while_another_has_the_files() -> None:
    new = dataclasses.replace(THREE, bare=frozenset({"n3"}))
    decision = plan_backup(SPEC, BACKUP, new, BackupArguments(Verify.RESTORE))
    assert [(f.id, f.node) for f in decision.findings] == [("etcd-bundle-incomplete", "n3")]
    assert bundle_hosts(SPEC, new) == ("n1", "n2")
    assert bundle_hosts(SPEC, dataclasses.replace(new, unreachable=frozenset({"n1", "n2"}))) == ("n3",)


def test_an_upgrade_begins_with_a_backup() -> None:
    plan = plan_prune(SPEC, [("local", "id1", "old")], [("local", "id2", "the newest")])
    assert [s.id for s in plan.steps] == ["prune/local/id1"]
    assert plan.notes == ("local: id2 stays: the newest",)
    first = back_up_first(plan, 3600, 100)
    assert [s.id for s in first.steps] == ["backup/etcd", "prune/local/id1"]


def test_a_new_cluster_that_is_meant_stands_in_the_plan() -> None:
    def proof(*, new_cluster: bool) -> Step:
        arguments = BackupArguments(Verify.RESTORE, new_cluster=new_cluster)
        return plan_backup(SPEC, BACKUP, THREE, arguments).plan.steps[1]

    assert proof(new_cluster=True).action == ProveBackup("restore", "here", new_cluster=True)
    assert any("another cluster" in line for line in proof(new_cluster=True).details)
    assert not any("another cluster" in line for line in proof(new_cluster=False).details)
