"""What a drain does to each pod, in which order, and how its report reads."""

from __future__ import annotations

import json

import pytest

from kops_py.model.drain import DrainGroup, DrainPolicy, Fate, group_number, judge
from kops_py.model.drain_report import DrainReport
from kops_py.model.workloads import Owner, PodFacts, PodPhase

SET = Owner("ReplicaSet", "web")
DAEMON = Owner("DaemonSet", "agent")


def pod(**more: object) -> PodFacts:
    return PodFacts(**{"namespace": "shop", "name": "web-0", "uid": "u", "phase": PodPhase.RUNNING, **more})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("facts", "policy", "fate"),
    [
        (pod(owner=SET), DrainPolicy(), Fate.EVICT),
        (pod(owner=DAEMON, empty_dir=True), DrainPolicy(), Fate.STAYS),
        (pod(owner=DAEMON, phase=PodPhase.FAILED), DrainPolicy(), Fate.DELETE),
        (pod(owner=DAEMON), DrainPolicy(force=True, delete_empty_dir_data=True), Fate.STAYS),
        (pod(mirror=True), DrainPolicy(force=True), Fate.STAYS),
        (pod(owner=SET, empty_dir=True), DrainPolicy(), Fate.REFUSED),
        (pod(owner=SET, empty_dir=True), DrainPolicy(delete_empty_dir_data=True), Fate.EVICT),
        (pod(), DrainPolicy(), Fate.REFUSED),
        (pod(), DrainPolicy(force=True), Fate.EVICT),
        (pod(phase=PodPhase.SUCCEEDED, empty_dir=True), DrainPolicy(), Fate.DELETE),
        (pod(phase=PodPhase.PENDING), DrainPolicy(), Fate.REFUSED),
    ],
)
def test_fates(facts: PodFacts, policy: DrainPolicy, fate: Fate) -> None:
    verdict = judge(facts, policy)
    assert verdict.fate is fate
    told = fate in (Fate.STAYS, Fate.REFUSED) or (facts.finished and facts.owner is not DAEMON)
    assert bool(verdict.reason) is told


def test_the_first_group_that_fits_counts() -> None:
    groups = (
        DrainGroup("databases", selector="tier in (db)"),
        DrainGroup("storage", namespaces=("rook", "longhorn")),
        DrainGroup("both", selector="tier=db", namespaces=("rook",)),
    )
    assert group_number(pod(), groups) == 0
    assert group_number(pod(labels={"tier": "db"}), groups) == 1
    assert group_number(pod(namespace="rook"), groups) == 2
    assert group_number(pod(namespace="rook", labels={"tier": "db"}), groups) == 1
    assert group_number(pod(namespace="rook", labels={"tier": "db"}), groups[2:]) == 1
    assert group_number(pod(labels={"tier": "db"}), groups[2:]) == 0
    assert group_number(pod(), ()) == 0


def test_the_report_reads_and_is_json() -> None:
    report = DrainReport(
        "w1",
        evicted=("a/b",),
        deleted=("a/c", "a/d"),
        stayed=(("a/e", "DaemonSet"),),
        bypassed_budgets=True,
        without_controller=("a/c",),
        budgets_s={"a/web": 2.00049},
        waited_for_budgets_s=2.0,
        waited_for_volumes_s=0.1,
    )
    assert report.summary() == (
        "pods: 1 evicted, 2 deleted, 1 stayed; waited 2 s for budgets; "
        "disruption budgets were not asked: 2 pods were deleted, not evicted (a/c, a/d); "
        "1 pod was removed without a controller that starts it again (a/c)"
    )
    shown = json.loads(json.dumps(report.to_json()))
    assert shown["budgets_s"] == {"a/web": 2.0}
    assert shown["bypassed_budgets"] is True
