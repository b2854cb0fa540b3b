"""Pods that a drain refuses or hurts, and room for those it moves."""

from __future__ import annotations

import dataclasses
import time
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kops_py.model.drain import DrainPolicy
from kops_py.model.finding import Severity
from kops_py.model.workloads import Owner, PodFacts, PodPhase, tolerates
from tests.unit.runbooks.disruption_cases import GIB, a_budget, a_node, a_pod, cluster, find, ids

GPU = ("gpu", "yes", "NoSchedule")


def pair(**changes: Any) -> list[PodFacts]:
    return [a_pod("w1", **changes), a_pod("w2", **changes)]


def test_quiet() -> None:
    assert find(cluster(pair())) == []
    assert find(cluster([])) == []


def test_local_data() -> None:
    (found,) = find(cluster(pair(empty_dir=True)))
    assert (found.id, found.severity, found.node) == ("pod-local-data", Severity.ERROR, "w1")
    assert "deleteEmptyDirData" in found.hint
    assert find(cluster(pair(empty_dir=True)), policy=DrainPolicy(delete_empty_dir_data=True)) == []


def test_no_controller() -> None:
    (found,) = find(cluster(pair(owner=None)))
    assert (found.id, found.severity) == ("pod-unmanaged", Severity.ERROR)
    assert "force" in found.hint
    assert find(cluster(pair(owner=None)), policy=DrainPolicy(force=True)) == []


def test_a_pod_may_be_refused_for_both() -> None:
    assert ids(find(cluster(pair(owner=None, empty_dir=True)))) == ["pod-local-data", "pod-unmanaged"]


@pytest.mark.parametrize(
    "changes",
    [
        {"mirror": True, "owner": Owner("Node", "w1", "v1")},
        {"owner": Owner("DaemonSet", "agent", "apps/v1"), "empty_dir": True, "host_path": True},
        {"phase": PodPhase.SUCCEEDED, "owner": None, "empty_dir": True},
        {"owner": Owner("Job", "j", "batch/v1")},
    ],
)
def test_what_stays_or_ends_is_not_told(changes: dict[str, Any]) -> None:
    assert find(cluster([a_pod("w1", **changes)])) == []


def test_the_pod_selector() -> None:
    pods = pair(owner=None)
    assert ids(find(cluster(pods), policy=DrainPolicy(pod_selector="app!=web"))) == ["pod-left-by-selector"]
    assert ids(find(cluster(pods), policy=DrainPolicy(pod_selector="app=web"))) == ["pod-unmanaged"]


def test_what_the_pod_selector_keeps_asks_no_budget_and_no_room() -> None:
    """A budget that can never let go, and pods that fit nowhere, block no drain that does not touch them."""
    never = a_budget(current_healthy=2, expected_pods=2, disruptions_allowed=0, min_available=2, desired_healthy=2)
    large = pair(node_selector=MappingProxyType({"none": "such"}))
    assert ids(find(cluster(large, [never]))) == ["budget-impossible", "pod-no-other-node"]
    (found,) = find(cluster(large, [never]), policy=DrainPolicy(pod_selector="app!=web"))
    assert (found.id, found.severity, found.node) == ("pod-left-by-selector", Severity.WARNING, "w1")
    assert "1 pod on w1: shop/web-" in found.message


def test_what_stays_or_ends_anyway_is_not_left_by_the_selector() -> None:
    daemon = a_pod("w1", owner=Owner("DaemonSet", "agent", "apps/v1"))
    ending = a_pod("w1", deleting_since="2026-01-02T03:04:05Z")
    pods = [daemon, ending, a_pod("w1", phase=PodPhase.SUCCEEDED), a_pod("w2")]
    assert find(cluster(pods), policy=DrainPolicy(pod_selector="app=db")) == []


def test_host_path_single_and_unavailable() -> None:
    assert ids(find(cluster(pair(host_path=True)))) == ["pod-host-path"]
    assert ids(find(cluster([a_pod("w1")]))) == ["single-replica"]
    covered = a_budget(current_healthy=1, expected_pods=1, disruptions_allowed=1, min_available=0, desired_healthy=0)
    assert find(cluster([a_pod("w1")], [covered])) == []
    (found,) = find(cluster([], unavailable=("Deployment shop/web has 1 of 2 pods available",)))
    assert (found.id, found.severity) == ("workload-unavailable", Severity.WARNING)


def test_many_pods_are_one_line() -> None:
    pods = [a_pod(f"w{1 + n % 3}", owner=None) for n in range(3000)]
    (found,) = find(cluster(pods), "w1", "w2", "w3", policy=DrainPolicy())
    assert "3000 pods on w1, w2, w3" in found.message
    assert len(found.message) < 300


# room


def full(cpu: int = 3900, **changes: Any) -> list[PodFacts]:
    """Three nodes of 4 CPUs, each with two pods of one workload that leave little."""
    return [a_pod(f"w{n}", cpu_millis=cpu // 2, memory_bytes=1, **changes) for n in (1, 1, 2, 2, 3, 3)]


def small(count: int, **changes: Any) -> list[PodFacts]:
    """Pods of 0.1 CPU in turn on three nodes of 4 CPUs."""
    return [a_pod(f"w{1 + n % 3}", cpu_millis=100, memory_bytes=1, **changes) for n in range(count)]


def test_the_others_have_no_room() -> None:
    assert find(cluster(small(60))) == []  # 2 CPUs move, 4 are free
    (short,) = find(cluster(small(90)))  # 3 move, 2 are free
    assert (short.id, short.severity, short.node) == ("no-room", Severity.WARNING, "w1")
    assert "3 CPU are looked for and 2 free on the 2 other nodes" in short.message
    assert "requests against allocatable" in short.message


def test_several_nodes_at_once() -> None:
    assert find(cluster(small(60)), "w1", "w2", "w3", at_once=1) == []
    (short,) = find(cluster(small(60)), "w1", "w2", "w3", at_once=2)
    assert short.id == "no-room"
    assert "4 CPU are looked for and 2 free on the 1 other" in short.message


def test_memory_and_pod_places() -> None:
    nodes = [a_node(f"w{n}", pods=5) for n in (1, 2, 3)]
    pods = [a_pod(f"w{1 + n % 3}", cpu_millis=0, memory_bytes=0) for n in range(12)]
    (short,) = find(cluster(pods, nodes=nodes))
    assert "4 pod places are looked for and 2 free" in short.message
    heavy = [a_pod(f"w{1 + n % 3}", cpu_millis=0, memory_bytes=GIB) for n in range(18)]
    (short,) = find(cluster(heavy))
    assert "6.0 GiB memory are looked for and 4.0 GiB free" in short.message


@pytest.mark.parametrize("changes", [{"ready": False}, {"unschedulable": True}])
def test_nodes_that_take_nothing(changes: dict[str, Any]) -> None:
    nodes = [a_node("w1"), a_node("w2"), a_node("w3", **changes)]
    assert find(cluster(small(60), nodes=[a_node("w1"), a_node("w2"), a_node("w3")])) == []
    (short,) = find(cluster(small(75), nodes=nodes))  # 2.5 CPUs move, 1.5 are free on w2
    assert "on the 1 other" in short.message


def test_taints_and_selectors_are_respected() -> None:
    nodes = [a_node("w1"), a_node("w2", taints=(GPU,)), a_node("w3", taints=(GPU,))]
    (lost,) = find(cluster(pair(), nodes=nodes))
    assert (lost.id, lost.severity) == ("pod-no-other-node", Severity.WARNING)
    tolerant = pair(tolerations=(("gpu", "Exists", "", ""),))
    assert find(cluster(tolerant, nodes=nodes)) == []
    soft = [a_node("w1"), a_node("w2", taints=(("gpu", "yes", "PreferNoSchedule"),))]
    assert find(cluster(pair(), nodes=soft)) == []
    ssd = [a_node(n, labels=MappingProxyType({"disk": d})) for n, d in (("w1", "ssd"), ("w2", "hdd"), ("w3", "ssd"))]
    assert find(cluster(pair(node_selector={"disk": "ssd"}), nodes=ssd)) == []
    assert ids(find(cluster(pair(node_selector={"disk": "nvme"}), nodes=ssd))) == ["pod-no-other-node"]


def test_pods_with_few_places_do_not_hide_behind_the_sum() -> None:
    """w1's picky pods may only go to w3, which is full; w2 has all the room of the world."""
    labels = MappingProxyType({"disk": "ssd"})
    nodes = [a_node("w1", labels=labels), a_node("w2", cpu_millis=64000), a_node("w3", labels=labels)]
    picky = [a_pod("w1", cpu_millis=100, node_selector={"disk": "ssd"}) for _ in range(20)]
    crowd = [a_pod("w3", cpu_millis=100) for _ in range(30)]
    (short,) = find(cluster([*picky, *crowd], nodes=nodes))
    assert "2 CPU are looked for and 1 free on the 1 other" in short.message
    loose = [dataclasses.replace(p, node_selector={}) for p in picky]
    assert find(cluster([*loose, *crowd], nodes=nodes)) == []


def test_a_pod_too_large_for_every_other_node() -> None:
    nodes = [a_node("w1", cpu_millis=16000), a_node("w2"), a_node("w3")]
    (lost,) = find(cluster([a_pod("w1", cpu_millis=5000), a_pod("w2", cpu_millis=10)], nodes=nodes))
    assert lost.id == "pod-no-other-node"
    assert "shop/web" in lost.message


def test_pinned_pods() -> None:
    (found,) = find(cluster(pair(node_selector={"kubernetes.io/hostname": "w1"})))
    assert found.id == "pod-pinned"
    bound = pair(claims=("data",))
    assert ids(find(cluster(bound, claims={"shop/data": frozenset({"w1"})}))) == ["pod-pinned"]
    assert find(cluster(bound, claims={"shop/data": frozenset({"w1", "w2"})})) == []
    assert find(cluster(bound, claims={"other/data": frozenset({"w1"})})) == []


def test_affinity_is_named() -> None:
    assert ids(find(cluster(pair(has_node_affinity=True)))) == ["affinity-not-reckoned"]


@pytest.mark.parametrize(
    ("toleration", "taint", "fits"),
    [
        (("", "Exists", "", ""), GPU, True),
        (("gpu", "Exists", "", "NoSchedule"), GPU, True),
        (("gpu", "Exists", "", "NoExecute"), GPU, False),
        (("gpu", "Equal", "yes", ""), GPU, True),
        (("gpu", "", "yes", ""), GPU, True),
        (("gpu", "", "no", ""), GPU, False),
        (("other", "Exists", "", ""), GPU, False),
        (
            ("node-role.kubernetes.io/control-plane", "", "", ""),
            ("node-role.kubernetes.io/control-plane", "", "x"),
            True,
        ),
    ],
)
def test_tolerations(toleration: tuple[str, str, str, str], taint: tuple[str, str, str], fits: bool) -> None:
    assert tolerates(toleration, taint) is fits


SIZES = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 8), st.integers(0, 8)), max_size=12)


@given(pods=SIZES, caps=st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)), min_size=4, max_size=4))
def test_fits_nowhere_agrees_with_trying_every_node(
    pods: list[tuple[int, int, int]], caps: list[tuple[int, int]]
) -> None:
    nodes = [a_node(f"w{i}", cpu_millis=c, memory_bytes=m) for i, (c, m) in enumerate(caps)]
    made = [a_pod(f"w{n}", cpu_millis=c, memory_bytes=m) for n, c, m in pods]
    free = {}
    for node in nodes:
        here = [p for p in made if p.node == node.name]
        cpu = max(0, node.cpu_millis - sum(p.cpu_millis for p in here))
        free[node.name] = (cpu, max(0, node.memory_bytes - sum(p.memory_bytes for p in here)))
    lost = sorted(
        p.id
        for p in made
        if not any(n != p.node and p.cpu_millis <= c and p.memory_bytes <= m for n, (c, m) in free.items())
    )
    found = [f for f in find(cluster(made, nodes=nodes), "w0", "w1", "w2", "w3") if f.id == "pod-no-other-node"]
    assert bool(found) == bool(lost)
    if lost:
        assert found[0].message.startswith("1 pod " if len(lost) == 1 else f"{len(lost)} pods ")
        assert lost[0] in found[0].message


@given(
    moved=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5)), max_size=16),
    cap=st.integers(5, 30),
    at_once=st.integers(1, 3),
)
def test_sums_agree_with_trying_every_set_of_nodes(moved: list[tuple[int, int]], cap: int, at_once: int) -> None:
    from itertools import combinations

    names = ["w0", "w1", "w2", "w3"]
    made = [a_pod(f"w{n}", cpu_millis=c, memory_bytes=0) for n, c in moved]
    used = {n: sum(p.cpu_millis for p in made if p.node == n) for n in names}
    free = {n: max(0, cap - used[n]) for n in names}
    # pods that fit on no single node are told apart and not summed
    fits = {p.uid for p in made if any(n != p.node and p.cpu_millis <= free[n] for n in names)}
    need = {n: sum(p.cpu_millis for p in made if p.node == n and p.uid in fits) for n in names}
    short = any(
        sum(need[n] for n in away) > sum(free[n] for n in names if n not in away)
        for away in combinations(names, at_once)
    )
    nodes = [a_node(n, cpu_millis=cap) for n in names]
    found = find(cluster(made, nodes=nodes), *names, at_once=at_once)
    assert any(f.id == "no-room" and "CPU" in f.message for f in found) == short


def test_nodes_times_pods_is_not_done() -> None:
    """10,000 pods of 200 shapes on 1,000 nodes; trying each pair would be ten million."""
    nodes = [a_node(f"w{n}", cpu_millis=4000 + n) for n in range(1000)]
    pods = [
        a_pod(
            f"w{n % 1000}",
            owner=Owner("ReplicaSet", f"r{n // 7}"),
            cpu_millis=50 + n % 200,
            labels={"app": f"{n // 7}"},
        )
        for n in range(10_000)
    ]
    budgets = [a_budget(f"b{n}", f"app={n}", expected_pods=7, current_healthy=7) for n in range(1400)]
    facts = cluster(pods, budgets, nodes)
    begun = time.process_time()
    find(facts, *(n.name for n in nodes), at_once=50)
    assert time.process_time() - begun < 5
