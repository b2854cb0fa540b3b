"""The kubelet runs what kubeadm made: told by hash, through kills, and not only by the image."""

from __future__ import annotations

import pytest

from kops_py.actions import static_pods as action
from kops_py.actions.static_pods import forget_static_pods, note_static_pods, wait_static_pods
from kops_py.model.actions import UpgradeWithKubeadm
from kops_py.model.errors import KubeError
from kops_py.tools import static_pods as tool
from tests.fakes.kube import pod
from tests.fakes.ssh import Call, Reply
from tests.unit.actions.stage import Stage, stage

STEP = UpgradeWithKubeadm("n1", "v1.31.3", apply=True, control_plane=True)
PODS = "/api/v1/namespaces/kube-system/pods"


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(action, "_POLL_S", 0.01)


class Node:
    """Manifests, the note, and mirror pods of one control plane."""

    def __init__(self) -> None:
        self.stage: Stage = stage(1, kube=[pod(f"{c}-n1", node="n1", mirror=True) for c in tool.COMPONENTS])
        self.host = self.stage.hosts["n1"]
        self.manifests = dict.fromkeys(tool.COMPONENTS, "old")
        self.host.on(tool.digests_argv(), self._digests)
        self.host.on(("test", "-s", tool.NOTE), lambda _: Reply(exit_status=0 if self.host.files.get(tool.NOTE) else 1))
        self.host.on(("cat", tool.NOTE), self._cat)
        self.host.on(("rm", "-f", tool.NOTE), self._remove)

    def _digests(self, call: Call) -> Reply:
        assert call.sudo
        lines = [f"{digest}  /etc/kubernetes/manifests/{name}.yaml" for name, digest in self.manifests.items()]
        return Reply("\n".join(lines), exit_status=0 if len(lines) == 4 else 1)

    def _cat(self, call: Call) -> Reply:
        note = self.host.files.get(tool.NOTE)
        return Reply(exit_status=1) if note is None else Reply(note)

    def _remove(self, call: Call) -> Reply:
        self.host.files.pop(tool.NOTE, None)
        return Reply()

    def note(self) -> None:
        note_static_pods(self.stage.deps, self.host, self.stage.ctx(STEP))

    def wait(self, timeout_s: float = 5.0) -> None:
        wait_static_pods(self.stage.deps, "n1", self.stage.ctx(STEP, "n1", timeout_s))

    def kubelet_takes_up(self, name: str) -> None:
        def change(item: dict[str, object]) -> None:
            item["metadata"]["annotations"]["kubernetes.io/config.mirror"] = "new"  # type: ignore[index]

        self.stage.kube.change(f"{PODS}/{name}-n1", change)


def test_the_same_image_with_another_manifest_is_waited_for() -> None:
    node = Node()
    node.note()
    node.manifests["kube-apiserver"] = "new"
    node.stage.kube.before("get", "kube-scheduler-n1", lambda: node.kubelet_takes_up("kube-apiserver"))
    node.wait()
    assert node.stage.waits == ["kube-apiserver: the kubelet still runs the old manifest"]
    assert tool.NOTE not in node.host.files


def test_nothing_changed_and_no_note() -> None:
    node = Node()
    node.wait()
    node.note()
    node.wait()
    assert node.stage.waits == []
    assert tool.NOTE not in node.host.files


def test_the_first_note_stays_through_a_kill() -> None:
    """Killed between a manifest and its pod: the second run notes nothing, and waits for what the first one began."""
    node = Node()
    node.note()
    node.manifests["etcd"] = "new"
    node.note()
    with pytest.raises(KubeError, match="has not taken up the new static pods") as caught:
        node.wait(0.1)
    assert caught.value.why == "etcd: the kubelet still runs the old manifest"
    node.wait()  # said once


def test_a_mirror_pod_that_is_away_is_no_proof() -> None:
    node = Node()
    node.note()
    node.manifests["kube-scheduler"] = "new"
    node.stage.kube.remove(f"{PODS}/kube-scheduler-n1")
    with pytest.raises(KubeError, match="has not taken up"):
        node.wait(0.1)


def test_an_api_that_is_away_is_waited_for() -> None:
    node = Node()
    away = KubeError("the API server does not answer")
    node.stage.kube.fail("get", "etcd-n1", away)
    node.note()
    node.manifests["etcd"] = "new"
    node.kubelet_takes_up("etcd")
    node.stage.kube.fail("get", "etcd-n1", away)
    node.wait()
    assert node.stage.waits == ["the API server does not answer"] * 2


def test_an_external_etcd_and_half_a_note() -> None:
    node = Node()
    del node.manifests["etcd"]
    node.stage.kube.remove(f"{PODS}/etcd-n1")
    node.note()
    assert set(tool.read_note(node.host.files[tool.NOTE].decode())) == set(tool.COMPONENTS) - {"etcd"}
    node.host.files[tool.NOTE] = node.host.files[tool.NOTE][:20]
    node.wait()
    forget_static_pods(node.host)
