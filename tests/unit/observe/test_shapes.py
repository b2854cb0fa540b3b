"""Readers make the same of an object cut to its shape as of the whole: no shape leaves out what its reader needs."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from kops_py.connect.base import JsonObject
from kops_py.observe import shapes
from kops_py.observe.pods import pod_facts
from kops_py.observe.workloads import _WANTED_AND_AVAILABLE, _unavailable, node_capacity


def container(cpu: str, memory: Any, **more: Any) -> JsonObject:
    return {"name": "c", "image": "i", "resources": {"requests": {"cpu": cpu, "memory": memory}}, **more}


POD: JsonObject = {
    "metadata": {
        "namespace": "shop",
        "name": "web-0",
        "uid": "u1",
        "labels": {"app": "web"},
        "annotations": {"kubernetes.io/config.mirror": "x"},
        "creationTimestamp": None,
        "deletionTimestamp": "2026-01-02T03:04:05Z",
        "ownerReferences": [{"kind": "StatefulSet", "name": "web", "apiVersion": "apps/v1", "controller": True}],
        "managedFields": [{"manager": "kubelet", "fieldsV1": {"f:status": {}}}],
    },
    "spec": {
        "nodeName": "w1",
        "nodeSelector": {"disk": "ssd"},
        "tolerations": [{"key": "gpu", "value": "a", "effect": "NoSchedule", "tolerationSeconds": 3}],
        "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"x": []}}},
        "initContainers": [container("3", "1Gi"), container("1", "2Gi", restartPolicy="Always")],
        "containers": [container("250m", 1 << 30), {"name": "bare"}],
        "overhead": {"cpu": "50m"},
        "volumes": [
            {"name": "a", "persistentVolumeClaim": {"claimName": "data"}},
            {"name": "b", "emptyDir": {}},
            {"name": "c", "hostPath": {"path": "/x"}},
            {"name": "d", "ephemeral": {"volumeClaimTemplate": {}}},
        ],
    },
    "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True", "lastProbeTime": None}]},
}
NODE: JsonObject = {
    "metadata": {"name": "w1", "labels": {"a": "b"}},
    "spec": {"taints": [{"key": "gpu", "effect": "NoSchedule"}], "unschedulable": True},
    "status": {"allocatable": {"cpu": "4", "memory": "8Gi", "pods": "110"}, "conditions": POD["status"]["conditions"]},
}


def variants(whole: JsonObject) -> list[JsonObject]:
    """Return the object and, for each field of its parts, the object without that field."""
    found = [whole]
    for part in whole:
        found += [{**whole, part: {k: v for k, v in whole[part].items() if k != gone}} for gone in whole[part]]
    return found


def pod_level(pod: JsonObject) -> JsonObject:
    return {**pod, "spec": {**pod["spec"], "resources": {"requests": {"cpu": "7"}}}}


def workload(plural: str) -> Callable[[JsonObject], Any]:
    return lambda o: _unavailable(o, plural, *_WANTED_AND_AVAILABLE[plural](o))


COUNTS = {"availableReplicas": 1, "readyReplicas": 2, "desiredNumberScheduled": 9, "numberAvailable": 3}
WORKLOAD: JsonObject = {
    "metadata": {"namespace": "shop", "name": "web"},
    "spec": {"replicas": 5, "template": {"spec": {}}},
    "status": {**COUNTS, "conditions": []},
}
CASES = [
    *((pod_facts, shapes.Pod, pod) for pod in [*variants(POD), pod_level(POD)]),
    *((node_capacity, shapes.Node, node) for node in variants(NODE)),
    *((workload(p), shapes.Workload, o) for p in _WANTED_AND_AVAILABLE for o in variants(WORKLOAD)),
]


@pytest.mark.parametrize(("read", "shape", "whole"), CASES)
def test_a_shape_holds_all_that_its_reader_looks_at(
    read: Callable[[JsonObject], Any], shape: type[Any], whole: JsonObject
) -> None:
    cut = msgspec.json.decode(json.dumps(whole), type=shape)
    assert cut != whole or len(json.dumps(whole)) < 700
    outcome = []
    for item in (whole, cut):
        try:
            outcome.append(read(item))
        except KeyError as error:  # a required field was the one left out
            outcome.append(str(error))
    assert outcome[0] == outcome[1]
