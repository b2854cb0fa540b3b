"""One attempt at a pod, and how the server's answers are read."""

from __future__ import annotations

import json
from typing import Any

import pytest

from kops_py.actions.evict import Answer, budgets_of, delete, evict, eviction_version, read_answer
from kops_py.connect.kube_errors import status_error
from kops_py.model.errors import KubeError
from kops_py.model.workloads import PodFacts
from kops_py.observe.pods import pod_facts
from tests.fakes.kube import FakeKubeApi
from tests.fakes.workloads import Cluster

POD = PodFacts("shop", "web-0", "u1")


def cluster(version: str = "v1.31.2") -> tuple[FakeKubeApi, Cluster]:
    api = FakeKubeApi(version=version)
    return api, Cluster.make(api, "shop")


@pytest.mark.parametrize(
    ("version", "told"), [("v1.20.2", "policy/v1beta1"), ("v1.21.0", "policy/v1beta1"), ("v1.22.0", "policy/v1")]
)
def test_the_version_is_found_once_a_connection(version: str, told: str) -> None:
    api, shop = cluster(version)
    for name in ("a", "b"):
        pod = pod_facts(shop.pod(name))
        assert evict(api, pod, grace_period_s=None, timeout_s=5).answer is Answer.ACCEPTED
    assert [b["apiVersion"] for b in api.bodies] == [told, told]
    assert api.calls.count(("get", "/api/v1")) == 1
    assert eviction_version(FakeKubeApi(version="v1.31.0")) == "policy/v1"
    api.assert_clean()


def test_a_server_of_another_version_behind_the_same_endpoint() -> None:
    api, shop = cluster("v1.22.0")
    pod = pod_facts(shop.pod("a"))
    assert eviction_version(api) == "policy/v1"
    api.version = "v1.21.0"
    assert evict(api, pod, grace_period_s=None, timeout_s=5).answer is Answer.ACCEPTED
    assert [b["apiVersion"] for b in api.bodies] == ["policy/v1", "policy/v1beta1"]


def test_a_bad_request_that_is_not_about_the_version_is_final() -> None:
    api, shop = cluster()
    pod = pod_facts(shop.pod("a"))
    api.fail("create", "/eviction$", KubeError("bad", why="nonsense", status=400))
    attempt = evict(api, pod, grace_period_s=None, timeout_s=5)
    assert attempt.answer is Answer.REFUSED
    assert "nonsense" in attempt.why


def test_an_api_without_evictions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.fakes.pods.discovery", lambda version: {"resources": []})
    attempt = evict(FakeKubeApi(), POD, grace_period_s=None, timeout_s=5)
    assert attempt.answer is Answer.REFUSED
    assert "offers no evictions" in attempt.why


def test_uid_and_grace_period_are_sent() -> None:
    api, shop = cluster()
    pod = pod_facts(shop.pod("a"))
    evict(api, pod, grace_period_s=7, timeout_s=5)
    delete(api, pod, grace_period_s=None, timeout_s=5)
    assert api.bodies[0]["deleteOptions"] == {"preconditions": {"uid": pod.uid}, "gracePeriodSeconds": 7}
    assert api.bodies[1]["preconditions"] == {"uid": pod.uid}
    assert "gracePeriodSeconds" not in api.bodies[1]


@pytest.mark.parametrize("remove", [evict, delete])
def test_gone_and_replaced(remove: object) -> None:
    assert callable(remove)
    api, shop = cluster()
    made = pod_facts(shop.pod("web-0"))
    other = PodFacts("shop", "web-0", "another-uid")
    absent = PodFacts("shop", "nobody", "u9")
    assert remove(api, other, grace_period_s=None, timeout_s=5).answer is Answer.GONE
    assert remove(api, absent, grace_period_s=None, timeout_s=5).answer is Answer.GONE
    assert not pod_facts(api.get("/api/v1/namespaces/shop/pods/web-0")).deleting_since, "the successor was not hit"
    api.fail("*", "/pods/web-0", KubeError("conflict", status=409))
    assert remove(api, made, grace_period_s=None, timeout_s=5).answer is Answer.UNANSWERED, "it is still the same pod"


def answer(status: int, message: str = "", reason: str = "", **details: Any) -> KubeError:
    body = {"kind": "Status", "status": "Failure", "message": message, "reason": reason, "details": details}
    return status_error("POST", "/x", status, json.dumps(body).encode(), server="https://api")


def cause(reason: str, message: str) -> dict[str, Any]:
    return {"causes": [{"reason": reason, "message": message}]}


@pytest.mark.parametrize(
    ("error", "expected", "budget", "why"),
    [
        (
            answer(
                429, **cause("DisruptionBudget", "The disruption budget b needs 2 healthy pods and has 1 currently")
            ),
            Answer.BUDGET,
            "shop/b",
            "needs 2 healthy, has 1",
        ),
        (
            answer(429, **cause("DisruptionBudget", "The disruption budget b is still being processed by the server.")),
            Answer.BUDGET,
            "shop/b",
            "has not looked at its latest change",
        ),
        (
            answer(429, **cause("DisruptionBudget", "The disruption budget b failed sync: no such thing")),
            Answer.BUDGET,
            "shop/b",
            "failed sync",
        ),
        (answer(429, **cause("DisruptionBudget", "")), Answer.BUDGET, "shop/unknown", ""),
        (answer(429, "too many requests"), Answer.THROTTLED, "", ""),
        (answer(500, "This pod has more than one PodDisruptionBudget, which"), Answer.SEVERAL_BUDGETS, "", "more than"),
        (answer(500, "failed calling webhook"), Answer.UNANSWERED, "", "webhook"),
        (answer(403, **cause("NamespaceTerminating", "x")), Answer.NAMESPACE, "", "namespace shop is being deleted"),
        (
            answer(403, 'poddisruptionbudget.policy "b" is forbidden: DisruptedPods map too big'),
            Answer.BUDGET,
            "shop/b",
            "too big",
        ),
        (answer(403, 'pods "web-0" is forbidden: User "x" cannot create'), Answer.REFUSED, "", "cannot create"),
        (answer(404), Answer.GONE, "", ""),
        (answer(401), Answer.REFUSED, "", ""),
        (answer(422, "invalid"), Answer.REFUSED, "", "invalid"),
        (answer(504, "request did not complete", "Timeout"), Answer.UNANSWERED, "", ""),
        (answer(503), Answer.UNANSWERED, "", ""),
        (KubeError("does not answer", why="connection refused"), Answer.UNANSWERED, "", "refused"),
    ],
)
def test_answers(error: KubeError, expected: Answer, budget: str, why: str) -> None:
    attempt = read_answer(POD, error)
    assert (attempt.answer, attempt.budget) == (expected, budget)
    assert why in attempt.why


def test_the_time_to_ask_again_is_read() -> None:
    assert read_answer(POD, answer(429, retryAfterSeconds=10)).retry_after_s == 10
    assert answer(429, retryAfterSeconds=None).retry_after_s == 0
    assert status_error("POST", "/x", 429, b"Too many requests", server="s").causes == ()
    assert status_error("POST", "/x", 429, b'{"details": {"causes": "odd"}}', server="s").causes == ()


@pytest.mark.parametrize(("version", "found"), [("v1.20.2", ["shop/one"]), ("v1.31.2", ["shop/all", "shop/one"])])
def test_the_budgets_of_a_pod(version: str, found: list[str]) -> None:
    """An empty selector fits nothing in v1beta1, and all pods of the namespace in v1."""
    api, shop = cluster(version)
    pod = pod_facts(shop.pod("a"))
    shop.budget("one", {"matchLabels": {"app": "web"}}, allowed=1)
    shop.budget("all", {}, allowed=1)
    shop.budget("other", {"matchLabels": {"app": "db"}}, allowed=1)
    assert budgets_of(api, pod) == found
