"""Pods, evictions and budgets: what the fake does is what the real API server does."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest

from kops_py.actions.evict import budgets_of, eviction_version
from kops_py.connect.base import JsonObject, KubeApi
from kops_py.model.errors import KubeError
from kops_py.observe.pods import pod_facts, pods_on_node
from tests.fakes.kube import FakeKubeApi
from tests.fakes.workloads import Cluster
from tests.integration.kube.conftest import Connect

numbers = itertools.count(1)


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.bundle)])
def api(request: pytest.FixtureRequest) -> KubeApi:
    if request.param == "fake":
        return FakeKubeApi(version="v1.20.2")
    plane = request.getfixturevalue("control_plane")
    connect: Connect = request.getfixturevalue("connect")
    plane.wait_ready()
    return connect(plane.kubeconfig())


@pytest.fixture
def cluster(api: KubeApi) -> Cluster:
    """A namespace of its own, and a node without a kubelet."""
    return Cluster.make(api, f"agree-{next(numbers)}")


def evict(cluster: Cluster, name: str, **options: object) -> JsonObject:
    body: JsonObject = {
        "apiVersion": "policy/v1beta1",
        "kind": "Eviction",
        "metadata": {"namespace": cluster.namespace, "name": name},
        "deleteOptions": options,
    }
    return cluster.api.create(f"{cluster.pods}/{name}/eviction", body)


def refused(call: Callable[[], object]) -> KubeError:
    with pytest.raises(KubeError) as caught:
        call()
    return caught.value


def test_the_version_of_evictions(cluster: Cluster) -> None:
    assert eviction_version(cluster.api) == "policy/v1beta1"
    body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "a", "namespace": cluster.namespace}}
    cluster.pod("a")
    assert refused(lambda: cluster.api.create(f"{cluster.pods}/a/eviction", body)).status == 400
    assert cluster.api.get_or_none(f"/apis/policy/v1/namespaces/{cluster.namespace}/poddisruptionbudgets/a") is None
    assert cluster.api.get_or_none(f"{cluster.budgets}/a") is None


def test_an_evicted_pod_ends_and_is_there_until_its_kubelet_says_so(cluster: Cluster) -> None:
    made = cluster.pod("a")
    assert evict(cluster, "a")["status"] == "Success"
    ending = pod_facts(cluster.api.get(f"{cluster.pods}/a"))
    assert ending.deleting_since
    assert ending.uid == made["metadata"]["uid"]
    assert evict(cluster, "a")["status"] == "Success", "again, as after a lost answer"
    assert cluster.api.delete(f"{cluster.pods}/a", body={"gracePeriodSeconds": 0})
    assert cluster.api.get_or_none(f"{cluster.pods}/a") is None
    assert refused(lambda: evict(cluster, "a")).status == 404


@pytest.mark.parametrize("phase", ["Succeeded", "Failed"])
def test_finished_pods_and_those_of_no_node_go_at_once(cluster: Cluster, phase: str) -> None:
    cluster.pod("done", phase=phase)
    cluster.pod("unbound", node="", phase="Pending")
    cluster.budget("all", {}, allowed=0)
    for name in ("done", "unbound"):
        evict(cluster, name)
        assert cluster.api.get_or_none(f"{cluster.pods}/{name}") is None


def test_a_finalizer_holds_a_pod(cluster: Cluster) -> None:
    cluster.pod("a", finalizers=("example.com/hold",))
    assert cluster.api.delete(f"{cluster.pods}/a", body={"gracePeriodSeconds": 0})
    assert cluster.api.get(f"{cluster.pods}/a")["metadata"]["deletionTimestamp"]
    cluster.api.patch(f"{cluster.pods}/a", {"metadata": {"finalizers": None}}, content_type=MERGE)
    assert cluster.api.get_or_none(f"{cluster.pods}/a") is None


MERGE = "application/merge-patch+json"


def test_another_uid_is_a_conflict(cluster: Cluster) -> None:
    cluster.pod("a")
    error = refused(lambda: evict(cluster, "a", preconditions={"uid": "other"}))
    assert (error.status, error.reason) == (409, "Conflict")
    assert not pod_facts(cluster.api.get(f"{cluster.pods}/a")).deleting_since


def test_a_budget_counts_down_and_then_refuses(cluster: Cluster) -> None:
    for name in ("a", "b", "c"):
        cluster.pod(name)
    cluster.budget("web", {"matchLabels": {"app": "web"}}, allowed=1, healthy=3, desired=2)
    evict(cluster, "a")
    counts = cluster.api.get(f"{cluster.budgets}/web")["status"]
    assert counts.get("disruptionsAllowed", 0) == 0
    assert list(counts["disruptedPods"]) == ["a"]
    error = refused(lambda: evict(cluster, "b"))
    assert (error.status, error.reason) == (429, "TooManyRequests")
    assert error.causes == (("DisruptionBudget", "The disruption budget web needs 2 healthy pods and has 3 currently"),)
    assert not pod_facts(cluster.api.get(f"{cluster.pods}/b")).deleting_since


def test_a_budget_that_was_not_looked_at_yet_refuses(cluster: Cluster) -> None:
    cluster.pod("a")
    cluster.budget("web", {"matchLabels": {"app": "web"}}, allowed=None)
    error = refused(lambda: evict(cluster, "a"))
    assert error.status == 429
    assert error.causes[0][0] == "DisruptionBudget"
    assert "web is still being processed" in error.causes[0][1]


def test_a_negative_budget_forbids(cluster: Cluster) -> None:
    cluster.pod("a")
    cluster.budget("web", {"matchLabels": {"app": "web"}}, allowed=0)
    cluster.api.patch(f"{cluster.budgets}/web/status", {"status": {"disruptionsAllowed": -1}})
    error = refused(lambda: evict(cluster, "a"))
    assert error.status == 403
    assert 'poddisruptionbudget.policy "web" is forbidden' in error.why


def test_pods_that_are_not_ready_do_not_count_while_enough_are(cluster: Cluster) -> None:
    cluster.pod("sick", ready=False)
    cluster.pod("sicker", ready=False)
    cluster.budget("web", {"matchLabels": {"app": "web"}}, allowed=0, healthy=1, desired=2)
    assert refused(lambda: evict(cluster, "sick")).status == 429
    cluster.set_budget("web", allowed=0, healthy=2, desired=2)
    evict(cluster, "sick")
    assert pod_facts(cluster.api.get(f"{cluster.pods}/sick")).deleting_since


def test_two_budgets_on_one_pod(cluster: Cluster) -> None:
    pod = pod_facts(cluster.pod("a"))
    cluster.budget("one", {"matchLabels": {"app": "web"}}, allowed=5)
    cluster.budget("two", {"matchExpressions": [{"key": "app", "operator": "Exists"}]}, allowed=5)
    cluster.budget("none", {}, allowed=0)
    error = refused(lambda: evict(cluster, "a"))
    assert error.status == 500
    assert "more than one PodDisruptionBudget" in error.why
    assert budgets_of(cluster.api, pod) == [f"{cluster.namespace}/one", f"{cluster.namespace}/two"]


def test_the_pods_of_a_node(cluster: Cluster) -> None:
    cluster.pod("a")
    cluster.pod("b", labels={"app": "db"})
    cluster.pod("c", node="")
    for cached in (False, True):
        if not cached or isinstance(cluster.api, FakeKubeApi):
            assert [p.name for p in pods_on_node(cluster.api, cluster.node, cached=cached)] == ["a", "b"]
    found = pods_on_node(cluster.api, cluster.node, pod_selector="app notin (web),!nothing")
    assert [p.name for p in found] == ["b"]
    cluster.wait_for(lambda: len(pods_on_node(cluster.api, cluster.node, cached=True)) == 2, "the watch cache")


def test_volume_attachments(cluster: Cluster) -> None:
    path = "/apis/storage.k8s.io/v1/volumeattachments"
    cluster.attachment("va", "pv-1")
    found = [a for a in cluster.api.items(path) if a["spec"]["nodeName"] == cluster.node]
    assert [a["spec"]["source"] for a in found] == [{"persistentVolumeName": "pv-1"}]
    assert cluster.api.delete(f"{path}/{found[0]['metadata']['name']}")
