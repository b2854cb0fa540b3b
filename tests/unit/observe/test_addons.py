"""Who changed an add-on, told by managedFields."""

from __future__ import annotations

from typing import Any

from kops_py.observe.addons import changed_fields, observe_addon_changes
from tests.fakes.kube import FakeKubeApi

CONTAINER = 'k:{"name":"coredns"}'
KUBEADM: dict[str, Any] = {"f:spec": {"f:replicas": {}, "f:template": {"f:spec": {"f:tolerations": {}}}}}


def deployment(*writers: tuple[str, dict[str, Any]]) -> dict[str, Any]:
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {
            "name": "coredns",
            "namespace": "kube-system",
            "managedFields": [{"manager": name, "operation": "Update", "fieldsV1": fields} for name, fields in writers],
        },
    }


def test_as_kubeadm_made_it() -> None:
    status: dict[str, Any] = {"f:status": {"f:replicas": {}}, "f:metadata": {"f:annotations": {}}}
    scaled: dict[str, Any] = {"f:spec": {"f:replicas": {}}}
    restarted: dict[str, Any] = {
        "f:spec": {
            "f:template": {"f:metadata": {"f:annotations": {".": {}, "f:kubectl.kubernetes.io/restartedAt": {}}}}
        }
    }
    item = deployment(
        ("kubeadm", KUBEADM), ("kube-controller-manager", status), ("kubectl", scaled), ("kubectl-rollout", restarted)
    )
    assert changed_fields(item) == {}
    assert observe_addon_changes(FakeKubeApi([item])) == ()
    assert observe_addon_changes(FakeKubeApi()) == (), "another DNS, another proxy"
    assert changed_fields({"metadata": {"name": "coredns"}}) == {}


def test_what_somebody_wrote_is_named() -> None:
    edited = {
        "f:spec": {
            "f:template": {
                "f:spec": {
                    "f:containers": {CONTAINER: {".": {}, "f:resources": {"f:limits": {"f:memory": {}}}}},
                    "f:nodeSelector": {".": {}, "f:dns": {}},
                }
            }
        }
    }
    item = deployment(("kubeadm", KUBEADM), ("kubectl-edit", edited))
    assert changed_fields(item) == {
        "kubectl-edit": [
            'spec.template.spec.containers[{"name":"coredns"}].resources.limits.memory',
            "spec.template.spec.nodeSelector.dns",
        ]
    }
    (said,) = observe_addon_changes(FakeKubeApi([item]))
    assert said.startswith("Deployment coredns: spec.template.spec.containers")
    assert said.endswith("nodeSelector.dns, written by kubectl-edit")
