"""A whole cluster taken down: who goes when, what is refused, and that any prefix is continued."""

from __future__ import annotations

import dataclasses

from hypothesis import given, settings
from hypothesis import strategies as st

from kops_py.model.errors import UnreachableError
from kops_py.model.facts import HostFacts
from kops_py.model.finding import Severity
from kops_py.model.plan import unexpected_steps
from kops_py.runbooks.reset import reset_cluster
from tests.fakes.cluster import make_spec
from tests.fakes.membership import MembershipCluster


def test_workers_go_first_and_the_first_control_plane_last() -> None:
    cluster = MembershipCluster.built(make_spec(3, 2, 1))
    plan = reset_cluster(cluster.spec, cluster.facts()).plan
    assert [(w.name, [s.id for s in w.steps]) for w in plan.waves] == [
        ("workers", ["reset/n4", "reset/n5"]),
        ("control planes", ["reset/n3", "reset/n2", "reset/n1"]),
    ]
    assert plan.waves[1].max_parallel == 1
    assert plan.notes[0].startswith("EVERYTHING IN THIS CLUSTER IS LOST")
    assert "haproxy stays on n6" in plan.notes


def test_hosts_that_are_no_members_are_left_alone() -> None:
    cluster = MembershipCluster(make_spec(1, 1))
    assert not reset_cluster(cluster.spec, cluster.facts()).plan.has_changes


def test_what_cannot_be_reached_or_is_another_clusters_is_told() -> None:
    cluster = MembershipCluster.built(make_spec(1, 3))
    cluster.hosts["n2"] = HostFacts("n2", problem=UnreachableError("no connection", where="n2"))
    cluster.hosts["n3"] = dataclasses.replace(cluster.hosts["n3"], ca_digest="another")
    found = reset_cluster(cluster.spec, cluster.facts()).findings
    assert [(f.id, f.node, f.severity) for f in found] == [
        ("node-unreachable", "n2", Severity.ERROR),
        ("host-of-other-cluster", "n3", Severity.ERROR),
    ]


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 3), st.integers(0, 3), st.booleans())
def test_every_prefix_is_continued(control_planes: int, workers: int, api_answers: bool) -> None:
    cluster = MembershipCluster.built(make_spec(control_planes, workers))
    cluster.etcd.clear()  # kubeadm takes each out by itself
    cluster.drained.update(cluster.nodes)
    full = reset_cluster(cluster.spec, cluster.facts()).plan.steps
    for done, step in enumerate(full):
        cluster.perform(step)
        facts = cluster.facts() if api_answers else dataclasses.replace(cluster.facts(), kube=None)
        left = reset_cluster(cluster.spec, facts).plan.steps
        assert unexpected_steps(full[done + 1 :], left) == ()
        assert left == full[done + 1 :]
