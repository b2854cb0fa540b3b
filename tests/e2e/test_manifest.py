"""The pod network from a manifest: applied by kops-py right after init, brought to the node by its own DaemonSet."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.e2e import workload
from tests.e2e.bed import Bed
from tests.e2e.snapshots import take_snapshot

pytestmark = pytest.mark.timeout(600)

CONFLIST = {
    "cniVersion": "0.4.0",
    "name": "from-manifest",
    "plugins": [
        {
            "type": "bridge",
            "bridge": "cni0",
            "isGateway": True,
            "ipMasq": True,
            "ipam": {"type": "host-local", "subnet": "10.244.0.0/24", "routes": [{"dst": "0.0.0.0/0"}]},
        },
        {"type": "portmap", "capabilities": {"portMappings": True}},
    ],
}


def _manifest(image: str, *, note: str) -> str:
    labels = {"app": "network"}
    config: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "network", "namespace": "kube-system", "annotations": {"note": note}},
        "data": {"network.conflist": json.dumps(CONFLIST)},
    }
    container = {
        "name": "install",
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "securityContext": {"runAsUser": 0},
        "args": ["install", "/config/network.conflist", "/host/10-network.conflist"],
        "volumeMounts": [
            {"name": "config", "mountPath": "/config"},
            {"name": "host", "mountPath": "/host"},
        ],
    }
    pod = {
        "hostNetwork": True,
        "tolerations": [{"operator": "Exists"}],
        "containers": [container],
        "volumes": [
            {"name": "config", "configMap": {"name": "network"}},
            {"name": "host", "hostPath": {"path": "/etc/cni/net.d"}},
        ],
    }
    daemons: dict[str, Any] = {
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": {"name": "network", "namespace": "kube-system"},
        "spec": {
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": pod},
        },
    }
    return yaml.safe_dump_all([config, daemons], sort_keys=False)


def test_network_from_a_manifest(bed: Bed, tmp_path: Path) -> None:
    bed.boot(1)
    workload.load_image(bed, ["n1"])  # there is no registry in a lab
    bed.write_inventory(control_planes=["n1"], workers=["n1"])
    bed.write_cluster("manifest", network={"cni": {"type": "manifest", "file": "network.yaml"}})
    manifest = bed.folder / "network.yaml"
    manifest.write_text(_manifest(workload.IMAGE, note="first"))

    built = bed.bootstrap()
    assert "apply the pod network: done" in built.stderr, built.report()
    bed.say(f"bootstrap {built.duration_s:.1f} s")
    bed.assert_nothing_to_do()
    workload.deploy(bed, ["n1"])
    assert workload.assert_answers(bed, ["n1"]) == {"n1"}

    snapshot = take_snapshot(bed, tmp_path)
    manifest.write_text(_manifest(workload.IMAGE, note="second"))
    planned = bed.program.run("bootstrap", "--plan", "-o", "json", exit_code=20).json()
    assert [s["id"] for w in planned["waves"] for s in w["steps"]] == ["network/manifest", "healthy"]
    bed.bootstrap()
    assert _note(bed) == "second"
    bed.assert_nothing_to_do()
    _set_back(bed, snapshot)


def _note(bed: Bed) -> str:
    return bed.kubectl("-n kube-system get configmap network -o jsonpath={.metadata.annotations.note}")


def _set_back(bed: Bed, snapshot: Path) -> None:
    """Restore the snapshot of before the change: refused while etcd serves, done with --force; then it is seen."""
    refused = bed.program.run("etcd", "restore", "--from", str(snapshot), "-y", exit_code=3)
    assert "quorum-serves" in refused.text, refused.report()
    restored = bed.program.run("etcd", "restore", "--from", str(snapshot), "--force", "-y")
    bed.say(f"set back in {restored.duration_s:.1f} s")
    assert _note(bed) == "first"
    workload.wait_answers(bed, ["n1"], deadline_s=60)
    planned = bed.program.run("bootstrap", "--plan", "-o", "json", exit_code=20).json()
    assert "network/manifest" in [s["id"] for w in planned["waves"] for s in w["steps"]]
