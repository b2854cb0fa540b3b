"""What must be there after a restore and what must not; and whether the cluster that was restored works."""

from __future__ import annotations

import time
from collections.abc import Sequence

from tests.e2e import workload
from tests.e2e.bed import Bed


def write(bed: Bed, nodes: Sequence[str]) -> None:
    workload.load_image(bed, nodes)
    workload.deploy(bed, nodes)
    bed.kubectl("create configmap canary-before --from-literal=word=before")
    bed.kubectl("create secret generic canary --from-literal=word=readable")


def check(bed: Bed, *, before: bool, after: bool) -> None:
    found = bed.kubectl("get configmaps -o name").split()
    assert ("configmap/canary-before" in found, "configmap/canary-after" in found) == (before, after)
    word = bed.kubectl("get secret canary -o jsonpath={.data.word}")
    assert word == "cmVhZGFibGU=", word


def check_serves(bed: Bed, nodes: Sequence[str], etcd: Sequence[str] = ()) -> None:
    """Members equal, workload answering, a controller and every kubelet noticing changes, nothing of ours left."""
    status = bed.program.run("status", "-o", "json").json()
    planes = etcd or [n for n in nodes if "etcd.yaml" in bed.node(n).exec("ls /etc/kubernetes/manifests").stdout]
    assert [m["name"] for m in status["etcd_members"] if m["healthy"] and not m["is_learner"]] == list(planes), status
    bed.wait_ready(nodes)
    workload.wait_answers(bed, nodes, deadline_s=90)
    started = time.monotonic()
    replicas = int(bed.kubectl("get deployment echo -o jsonpath={.spec.replicas}")) + 1
    bed.kubectl(f"scale deployment/echo --replicas={replicas}")
    bed.node("n1").exec(
        "kubectl --kubeconfig /etc/kubernetes/admin.conf rollout status deployment/echo --timeout=120s", timeout_s=130
    )
    bed.say(f"a scaled Deployment has its pods {time.monotonic() - started:.1f} s after the restore")
    # A pod bound to each node by hand: only its kubelet can make it run.
    pods = {f"kubelet-{name}-{replicas}": name for name in nodes}
    for pod, name in pods.items():
        bed.kubectl(f'run {pod} --image={workload.IMAGE} --overrides=\'{{"spec":{{"nodeName":"{name}"}}}}\'')
    for pod in pods:
        bed.kubectl(f"wait pod/{pod} --for=condition=Ready --timeout=9s")
    workload.wait_answers(bed, nodes, deadline_s=60)
    bed.say(f"every kubelet runs a new pod {time.monotonic() - started:.1f} s after the restore")
    bed.kubectl(f"delete pod {' '.join(pods)} --now --wait=false")
    for name in (*nodes, *etcd):
        left = bed.node(name).exec(
            "find /var/lib/kops-py/restore -name '*.db' -o -name '*.yaml'; ls -d /var/lib/etcd/.kops* 2>/dev/null;"
            " stat -c '%a' /var/lib/kops-py/restore",
            check=False,
        )
        assert left.stdout.split() in (["700"], []), left
    bed.assert_nothing_to_do()
