"""Every machine of a cluster is lost: it is brought back from its backup on others, with other names and addresses.

The program is killed on the way, wherever something may be half done. Secrets are encrypted at rest, so that without
the key of the backup's files they could not be read, and a token of a service account must stay valid.
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.e2e import workload
from tests.e2e.backups import make_key
from tests.e2e.bed import Bed
from tests.e2e.snapshots import ETCDCTL, HOST_ETCDCTL, fetch, take_snapshot

GOAL_S = 300
ENCRYPTION = "/etc/kubernetes/encryption/config.yaml"
# Where a restore is killed: what a person would see on its standard error at that moment.
IN_INIT = r"n3.*(wait-control-plane|upload-config|mark-control-plane|addons)"
KILLED_AT = (
    r"files are in place",
    r"n3.*has the snapshot",
    IN_INIT,
    r"deleted Node objects",
    r"n4.*(kubeadm join|preflight|kubelet-start)",
)

OUTSIDE_KILLED_AT = (
    r"files are in place",
    r"n5: install, configure and run etcd$",
    r"n6 has the snapshot",
    r"put the new data in its place: done",
    r"start all members, prove health and equal contents: done",
    IN_INIT,
)
"""The same with an etcd outside the control planes."""

pytestmark = pytest.mark.timeout(2400)


@dataclass(frozen=True)
class Lost:
    """What is left of a cluster whose machines are gone: a backup, and what a test remembers of it."""

    backup: str
    identity: Path
    snapshot: Path | None
    cluster_id: str
    token: str


@pytest.mark.soak
def test_every_machine_lost_and_the_restore_killed(bed: Bed, tmp_path: Path) -> None:
    """One control plane and one worker on two other machines; killed five times, once with the power of the machine."""
    bed.boot(4)
    lost = _built(bed, tmp_path, control_planes=["n1"], workers=["n2"])
    command = ("etcd", "restore", lost.backup, "--identity", str(lost.identity))
    bed.write_inventory(control_planes=["n3"], workers=["n4"])
    alive = bed.program.run(*command, "-y", exit_code=3)
    assert "old-cluster-answers" in alive.text, alive.report()
    bed.lab.kill("n1", "n2")
    _refusals(bed, lost)
    planned = bed.program.run(*command, "--plan", exit_code=20)
    for words in (
        "not in the inventory: n1, n2",
        "/etc/kubernetes/pki/sa.key",
        ENCRYPTION,
        "kubeadm init",
        "join as worker",
    ):
        assert words in planned.stdout, planned.report()
    spent = 0.0
    for point in KILLED_AT:
        spent += _kill_at(bed, command, point)
        if point == IN_INIT:  # its job would go on without the program: the machine loses its power as well
            bed.lab.kill("n3")
            bed.lab.start("n3")
    finished = bed.program.run(*command, "-y", deadline_s=600)
    spent += finished.duration_s
    bed.say(f"on new machines: the last run {finished.duration_s:.1f} s, all six {spent:.1f} s")
    _check(bed, lost, planes=["n3"], workers=["n4"])
    again = bed.program.run(*command, "-y", exit_code=3)
    assert "quorum-serves" in again.text, again.report()
    assert spent < GOAL_S


@pytest.mark.soak
def test_an_external_etcd_on_other_machines(bed: Bed, tmp_path: Path) -> None:
    """Of one member on three; killed wherever the new members hold nothing, the snapshot, or half of it."""
    etcd = ["n4", "n5", "n6"]
    bed.boot(6)
    lost = _built(bed, tmp_path, control_planes=["n1"], workers=["n2"], etcd=["n2"])
    bed.lab.kill("n1", "n2")
    bed.write_inventory(control_planes=["n3"], workers=["n4"], etcd=etcd)
    command = ("etcd", "restore", lost.backup, "--identity", str(lost.identity))
    planned = bed.program.run(*command, "--plan", exit_code=20)
    for words in ("not in the inventory: n1, n2", "n5: member n5 at https://", "stop the empty etcd on n4, n5, n6"):
        assert words in planned.stdout, planned.report()
    assert "/etc/kubernetes/pki/etcd" not in planned.stdout, planned.report()
    spent = 0.0
    for point in OUTSIDE_KILLED_AT:
        spent += _kill_at(bed, command, point)
    finished = bed.program.run(*command, "-y", deadline_s=600)
    spent += finished.duration_s
    bed.say(f"on new machines: the last run {finished.duration_s:.1f} s, all seven {spent:.1f} s")
    _check(bed, lost, planes=["n3"], workers=["n4"], etcd=etcd)
    again = bed.program.run(*command, "-y", exit_code=3)
    assert "quorum-serves" in again.text, again.report()
    assert finished.duration_s < GOAL_S
    _control_plane_lost(bed, lost, command)


def _kill_at(bed: Bed, command: Sequence[str], point: str) -> float:
    """Begin a restore and kill it where it says this; returns how many seconds it had run."""
    running = bed.program.start(*command, "-y")
    running.wait_said(point, deadline_s=240)
    duration_s = running.kill().duration_s
    bed.say(f"killed {duration_s:.1f} s after its start at {point!r}")
    return duration_s


def _control_plane_lost(bed: Bed, lost: Lost, command: Sequence[str]) -> None:
    """Then the control plane's machine is lost, and etcd serves: only keys come back, nothing written is lost."""
    bed.kubectl("create configmap canary-later --from-literal=word=later", on="n3")
    joined = bed.node("n4").exec("stat -c %Y /etc/kubernetes/kubelet.conf").stdout
    bed.lab.kill("n3")
    bed.lab.new_disk("n3")
    bed.lab.start("n3")
    refused = bed.program.run("bootstrap", "-y", exit_code=3)
    assert "etcd-holds-cluster" in refused.text, refused.report()
    planned = bed.program.run(*command, "--plan", exit_code=20)
    assert "etcd serves and keeps its data" in planned.stdout, planned.report()
    assert "join as worker" not in planned.stdout, planned.report()
    killed_s = _kill_at(bed, command, IN_INIT)
    bed.lab.kill("n3")
    bed.lab.start("n3")
    finished = bed.program.run(*command, "-y", deadline_s=600)
    bed.say(f"beside an etcd that serves: {killed_s + finished.duration_s:.1f} s in two runs")
    workload.load_image(bed, ["n3"])
    assert bed.cluster_id(on="n3") == lost.cluster_id
    found = bed.kubectl("get configmaps -o name", on="n3").split()
    assert {"configmap/canary-before", "configmap/canary-later"} <= set(found)
    assert bed.kubectl("get secret canary -o jsonpath={.data.word}", on="n3") == "cmVhZGFibGU="
    _check_token(bed, "n3", lost.token)
    bed.wait_ready(["n3", "n4"], on="n3")
    workload.wait_answers(bed, ["n3", "n4"], deadline_s=120)
    assert bed.node("n4").exec("stat -c %Y /etc/kubernetes/kubelet.conf").stdout == joined, "the worker joined anew"
    bed.assert_nothing_to_do()


@pytest.mark.soak
def test_three_control_planes_behind_a_balancer_some_of_old_names(bed: Bed, tmp_path: Path) -> None:
    """More machines than there were: two with new disks and the names and addresses of the lost ones, three others."""
    bed.boot(5)
    lost = _built(bed, tmp_path, control_planes=["n1"], workers=["n2"])
    bed.lab.kill("n1", "n2")
    for name in ("n1", "n2"):
        bed.lab.new_disk(name)
    bed.lab.start("n1", "n2")
    planes = ["n1", "n3", "n4"]
    bed.write_inventory(control_planes=planes, workers=["n2"], load_balancers=["n5"])
    command = ("etcd", "restore", "newest", "--identity", str(lost.identity), "-y")
    running = bed.program.start(*command)
    running.wait_said(r"n3.*(kubeadm join|etcd|control-plane)", deadline_s=600)
    first = running.kill()
    bed.say(f"killed {first.duration_s:.1f} s after its start, while the second control plane joins")
    finished = bed.program.run(*command, deadline_s=900)
    bed.say(f"on five machines: {first.duration_s + finished.duration_s:.1f} s in two runs")
    _check(bed, lost, planes=planes, workers=["n2"])


def _built(
    bed: Bed, folder: Path, *, control_planes: Sequence[str], workers: Sequence[str], etcd: Sequence[str] = ()
) -> Lost:
    """Build a cluster that encrypts Secrets, fill it, and back it up."""
    nodes = [*control_planes, *workers]
    public, identity = make_key(folder)
    bed.write_inventory(control_planes=control_planes, workers=workers, etcd=etcd)
    outside = {"etcd": {"topology": "external"}} if etcd else {}
    bed.write_cluster("lost", backup=_backup(folder, public), kubeadm=_encrypting(), **outside)
    for name in control_planes:
        bed.node(name).exec(f"mkdir -p -m 700 {ENCRYPTION.rsplit('/', 1)[0]}")
        bed.node(name).put_file(_encryption().encode(), ENCRYPTION, 0o600)
    bed.bootstrap(deadline_s=900)
    workload.load_image(bed, nodes)
    workload.deploy(bed, nodes)
    bed.kubectl("create configmap canary-before --from-literal=word=before")
    bed.kubectl("create secret generic canary --from-literal=word=readable")
    made = bed.program.run("etcd", "backup", "--yes")
    bed.say(f"backup and proof {made.duration_s:.1f} s")
    bed.kubectl("create configmap canary-after --from-literal=word=after")
    (line,) = bed.program.run("etcd", "list", "-o", "json").json()["backups"]
    assert line["state"] == "good", line
    tokens = json.loads(bed.kubectl("get secrets --field-selector type=kubernetes.io/service-account-token -o json"))
    token = base64.b64decode(tokens["items"][0]["data"]["token"]).decode()
    snapshot = None if etcd else take_snapshot(bed, folder)
    return Lost(line["id"], identity, snapshot, bed.cluster_id(), token)


def _backup(folder: Path, public: str) -> dict[str, Any]:
    store = {"name": "local", "directory": {"path": str(folder / "store")}}
    return {"stores": [store], "encryption": {"recipients": [public]}}


def _encrypting() -> dict[str, Any]:
    place = ENCRYPTION.rsplit("/", 1)[0]
    volume = {"name": "encryption", "hostPath": place, "mountPath": place, "pathType": "DirectoryOrCreate"}
    server = {"extraArgs": {"encryption-provider-config": ENCRYPTION}, "extraVolumes": [volume]}
    return {"clusterConfiguration": {"apiServer": server}}


def _encryption() -> str:
    key = {"name": "first", "secret": base64.b64encode(b"a key of thirty-two bytes, no mo").decode()}
    providers = [{"aescbc": {"keys": [key]}}, {"identity": {}}]
    document = {
        "apiVersion": "apiserver.config.k8s.io/v1",
        "kind": "EncryptionConfiguration",
        "resources": [{"resources": ["secrets"], "providers": providers}],
    }
    return yaml.safe_dump(document)


def _refusals(bed: Bed, lost: Lost) -> None:
    """A snapshot without keys, a backup without its identity, other networks, no encryption: nothing is touched."""
    alone = bed.program.run("etcd", "restore", "--from", str(lost.snapshot), "-y", exit_code=2)
    assert "name a backup by its ID" in alone.text, alone.report()
    bed.program.run("etcd", "restore", lost.backup, "-y", exit_code=2)
    before = (bed.folder / "cluster.yaml").read_text()
    document = yaml.safe_load(before)
    document["network"]["serviceSubnet"] = "10.112.0.0/16"
    del document["kubeadm"]
    (bed.folder / "cluster.yaml").write_text(yaml.safe_dump(document))
    other = bed.program.run("etcd", "restore", lost.backup, "--identity", str(lost.identity), "-y", exit_code=3)
    assert "backup-other-networks" in other.text, other.report()
    assert "api-server-flags-missing" in other.text, other.report()
    (bed.folder / "cluster.yaml").write_text(before)
    assert bed.node("n3").exec("ls /etc/kubernetes", check=False).stdout == ""


def _check(bed: Bed, lost: Lost, *, planes: Sequence[str], workers: Sequence[str], etcd: Sequence[str] = ()) -> None:
    """It is the old cluster, on these machines alone, and everything in it works."""
    first, nodes = planes[0], [*planes, *workers]
    workload.load_image(bed, nodes)
    assert bed.cluster_id(on=first) == lost.cluster_id
    found = bed.kubectl("get configmaps -o name", on=first).split()
    assert "configmap/canary-before" in found
    assert "configmap/canary-after" not in found
    assert bed.kubectl("get secret canary -o jsonpath={.data.word}", on=first) == "cmVhZGFibGU="
    # Raises when it is not there: it is encrypted in etcd, and could be read with the old key alone.
    holder, etcdctl = (etcd[0], HOST_ETCDCTL) if etcd else (first, ETCDCTL)
    bed.node(holder).exec(f"{etcdctl} get /registry/secrets/default/canary | grep -aq k8s:enc:aescbc:v1:first")
    _check_token(bed, first, lost.token)
    status = bed.program.run("status", "-o", "json").json()
    assert sorted(m["name"] for m in status["etcd_members"] if m["healthy"]) == sorted(etcd or planes), status
    bed.wait_ready(nodes, on=first)
    started = time.monotonic()
    workload.wait_answers(bed, nodes, deadline_s=120)
    bed.say(f"the workload answers on every node {time.monotonic() - started:.1f} s after its image was there")
    _check_nothing_old(bed, first, planes, nodes)
    _check_controllers(bed, first, nodes)
    _check_files(bed, planes, [*nodes, *etcd])
    for name in etcd or planes:
        owner = "etcd" if etcd else "root"
        assert bed.node(name).exec("stat -c '%a %U' /var/lib/etcd/member").stdout == f"700 {owner}\n"
    bed.assert_nothing_to_do()


def _check_token(bed: Bed, first: str, token: str) -> None:
    """A token of a service account is known, other than one that is made up."""
    script = "read -r t; curl -sk -o /dev/null -w '%{http_code}' -H \"Authorization: Bearer $t\" "
    url = f"https://{bed.node(first).ip}:6443/api/v1/namespaces/default/pods"
    for word, code in ((token, "403"), (token[:-8] + "AAAAAAAA", "401")):
        answer = bed.node(first).exec(script + url, stdin=word + "\n").stdout
        assert answer == code, f"the API says {answer}, expected {code}"


def _check_nothing_old(bed: Bed, first: str, planes: Sequence[str], nodes: Sequence[str]) -> None:
    """Neither a node, a lease, a pod nor an address of a lost machine is left."""
    leases = bed.kubectl("-n kube-node-lease get leases -o name", on=first).split()
    assert sorted(leases) == sorted(f"lease.coordination.k8s.io/{n}" for n in nodes)
    pods = json.loads(bed.kubectl("get pods -A -o json", on=first))["items"]
    assert {p["spec"].get("nodeName") for p in pods} <= set(nodes)
    record: Mapping[str, Any] = json.loads(bed.kubectl("-n kube-system get configmap kubeadm-config -o json", on=first))
    assert sorted(yaml.safe_load(record["data"]["ClusterStatus"])["apiEndpoints"]) == sorted(planes)
    old = [bed.node(n).ip for n in ("n1", "n2")]
    everything = "".join(
        bed.kubectl(f"-n {namespace} get configmap {name} -o yaml", on=first)
        for namespace, name in (("kube-system", "kube-proxy"), ("kube-public", "cluster-info"))
    )
    assert not any(f"//{ip}:" in everything for ip in old), everything
    end = time.monotonic() + 60
    wanted = sorted(bed.node(n).ip for n in planes)
    while True:
        subsets = json.loads(bed.kubectl("get endpoints kubernetes -o json", on=first))["subsets"]
        seen = sorted(a["ip"] for s in subsets for a in s["addresses"])
        if seen == wanted:
            return
        assert time.monotonic() < end, f"the API is said to be at {seen}, not at {wanted}"
        time.sleep(0.5)


def _check_controllers(bed: Bed, first: str, nodes: Sequence[str]) -> None:
    """A controller and every kubelet notice what is changed now."""
    replicas = int(bed.kubectl("get deployment echo -o jsonpath={.spec.replicas}", on=first)) + 1
    bed.kubectl(f"scale deployment/echo --replicas={replicas}", on=first)
    bed.node(first).exec(
        "kubectl --kubeconfig /etc/kubernetes/admin.conf rollout status deployment/echo --timeout=120s", timeout_s=130
    )
    for name in nodes:
        override = f'{{"spec":{{"nodeName":"{name}"}}}}'
        bed.kubectl(f"run kubelet-{name} --image={workload.IMAGE} --overrides='{override}'", on=first)
    for name in nodes:
        bed.kubectl(f"wait pod/kubelet-{name} --for=condition=Ready --timeout=9s", on=first)


def _check_files(bed: Bed, planes: Sequence[str], nodes: Sequence[str]) -> None:
    """Keys are root's alone, certificates are of the new names, and nothing of the way is left, here or there."""
    for name in planes:
        modes = bed.node(name).exec(
            f"stat -c '%a %U' /etc/kubernetes/pki/ca.key /etc/kubernetes/pki/sa.key {ENCRYPTION}"
        )
        assert modes.stdout.splitlines() == ["600 root"] * 3, modes
        text = bed.node(name).exec("openssl x509 -noout -text -in /etc/kubernetes/pki/apiserver.crt").stdout
        assert f"IP Address:{bed.node(name).ip}" in text
        assert ("n1" in planes) == (f"IP Address:{bed.node('n1').ip}" in text), "names of lost machines are in none"
    for name in nodes:
        left = bed.node(name).exec("find /var/lib/kops-py/restore /var/lib/.kops* -name '*.db*'", check=False).stdout
        assert left == ""
    key = fetch(bed, "/etc/kubernetes/pki/sa.key", bed.folder.parent, on=planes[0]).read_bytes()
    secrets = [key.splitlines()[3], _encryption().split("secret: ")[1].split()[0].encode()]
    for path in bed.folder.rglob("*"):
        data = path.read_bytes() if path.is_file() else b""
        assert not any(secret in data for secret in secrets), f"{path} holds a secret"
    for path in bed.program.logs.iterdir():
        assert not any(secret in path.read_bytes() for secret in secrets), f"{path} holds a secret"
