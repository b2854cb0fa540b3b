"""Keys, data and init on new machines, and what is forgotten: repeatable, and with no secret where it may be seen."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from kops_py.actions import jobs, kubeadm
from kops_py.actions.new_machines import NewMachinesPerformer
from kops_py.model.actions import InitControlPlane
from kops_py.model.errors import CommandFailedError, EtcdError, KubeError
from kops_py.model.etcd_restore import Mark, NewMember, StageData, UploadSnapshot
from kops_py.model.new_machines import ForgetMachines, InitRestored, MakeData, PlaceFiles
from kops_py.model.plan import Action
from tests.fakes.kube import node
from tests.fakes.ssh import Call, Reply
from tests.unit.actions.stage import Stage, stage

PKI = "/etc/kubernetes/pki"
FILES = {
    f"{PKI}/ca.crt": b"public certificate",
    f"{PKI}/ca.key": b"SECRET-ca-key",
    f"{PKI}/sa.key": b"SECRET-sa-key",
    "/etc/enc/config.yaml": b"SECRET-encryption",
}
PLACE = PlaceFiles("r1-abc", "new-machines abc", "n1", "d" * 64, tuple(FILES))
DATA = MakeData("r1-abc", NewMember("n1", "n1", "https://10.9.0.1:2380", "/var/lib/etcd"), "3.5", 10**9)
INIT = InitRestored(InitControlPlane("n1", "v1.31.2", "v1beta4", "api.example.invalid:6443", False), PLACE, DATA)
FORGET = ForgetMachines("r1-abc", "n1", ("old1", "old2", "n2"))
IMAGE = "registry.k8s.io/etcd:3.5.15-0"


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "_WAIT_S", 0.01)
    monkeypatch.setattr(kubeadm, "_POLL_S", 0.01)


def _ends(text: str) -> Callable[[tuple[str, ...]], bool]:
    return lambda argv: argv[:2] == ("sh", "-c") and argv[2].endswith(text)


@dataclass
class Machine:
    """A new machine as the scripts of a restore find it; strict about what is run there."""

    made: Stage
    folder: Path
    has_data: bool = False
    done: list[str] = field(default_factory=list)
    version: str = "3.5.15"
    stage_reply: Reply | None = None
    journaled: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        host = self.made.hosts["n1"]
        host.on(lambda argv: argv[:2] == ("sh", "-c") and "begun.new" in argv[2], self._note("begin"))
        for mark in (Mark.PLACED, Mark.INITIALISED, Mark.FORGOTTEN, Mark.UPLOADED):
            host.on(_ends(f"mark {mark}\n"), self._note(mark))
        host.on(lambda argv: argv[:2] == ("sh", "-c") and "etcd --version" in argv[2], self._version)
        host.on(lambda argv: argv[:2] == ("sh", "-c") and "snapshot restore" in argv[2], self._stage)
        host.on(lambda argv: argv[:2] == ("sh", "-c") and f"mark {Mark.SWITCHED}" in argv[2], self._switch)
        host.on(lambda argv: argv[:2] == ("sh", "-c") and "sha256sum" in argv[2], self._receive)
        host.on(lambda argv: argv[:4] == ("kubeadm", "config", "images", "list"), f"registry.k8s.io/pause:3\n{IMAGE}\n")
        host.on(lambda argv: argv[:2] == ("sh", "-c") and "crictl pull" in argv[2], self._note("pull"))
        host.on(lambda argv: argv[:2] == ("rm", "-f"), Reply())
        host.on(("test", "-s", "/var/lib/etcd/member/snap/db"), lambda _: Reply(exit_status=0 if self.has_data else 1))

    def _note(self, word: str) -> Any:
        def answer(call: Call) -> Reply:
            assert call.sudo
            self.done.append(str(word))
            return Reply()

        return answer

    def _version(self, _call: Call) -> Reply:
        return Reply(f"etcd Version: {self.version}\n")

    def _stage(self, call: Call) -> Reply:
        assert IMAGE in call.argv[2]
        assert "--initial-cluster=n1=https://10.9.0.1:2380 " in call.argv[2]
        self.done.append("stage")
        return self.stage_reply or Reply()

    def _switch(self, _call: Call) -> Reply:
        self.has_data = True
        self.done.append("switch")
        return Reply()

    def _receive(self, call: Call) -> Reply:
        import hashlib

        self.done.append("receive")
        return Reply(hashlib.sha256(call.stdin or b"").hexdigest())

    def perform(self, action: Action, *, verify: bool = False) -> None:
        ctx = self.made.ctx(action)
        ctx.journal = lambda kind, **values: self.journaled.append({"kind": kind, **values})
        performer = NewMachinesPerformer(
            self.made.deps, FILES, lambda: io.BytesIO(b"SECRET-snapshot"), self.folder, minor="3.5"
        )
        assert performer.check(ctx) is None
        performer.apply(ctx)
        if verify:
            performer.verify(ctx)

    def seen(self) -> str:
        """Everything that can be read by others: command lines, progress, the journal, the plan's JSON."""
        plan = [str(a.to_json()) for a in (PLACE, DATA, INIT, FORGET)]
        return "\n".join([self.made.all_argv_text(), *self.made.progress, str(self.journaled), *plan])


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(stage(1, 1), tmp_path)


def test_files_go_to_their_host_on_standard_input_and_keys_are_roots_alone(machine: Machine) -> None:
    machine.perform(PLACE)
    host = machine.made.hosts["n1"]
    assert host.files == FILES
    assert host.modes == {path: 0o644 if path.endswith(".crt") else 0o600 for path in FILES}
    assert machine.done == ["begin", "placed"], "the mark is the last act"
    assert machine.made.hosts["n2"].files == {}
    assert "SECRET" not in machine.seen()


def test_a_file_that_cannot_be_written_leaves_no_mark(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: str, data: bytes, **_: object) -> None:
        raise CommandFailedError(f"{path} could not be written", where="n1", why="No space left")

    monkeypatch.setattr(machine.made.hosts["n1"], "write_file", refuse)
    with pytest.raises(CommandFailedError, match="could not be written"):
        machine.perform(PLACE)
    assert machine.done == ["begin"]


def test_the_snapshot_is_copied_and_nothing_is_undone(machine: Machine) -> None:
    import hashlib

    digest = hashlib.sha256(b"SECRET-snapshot").hexdigest()
    machine.perform(UploadSnapshot("r1-abc", "new-machines abc", digest, ("n1",)))
    assert machine.done == ["begin", "receive", "uploaded"]
    with pytest.raises(CommandFailedError, match="did not arrive"):
        machine.perform(UploadSnapshot("r1-abc", "new-machines abc", "0" * 64, ("n1",)))
    assert "SECRET" not in machine.seen()


def test_data_is_made_by_the_etcd_that_kubeadm_will_run(machine: Machine) -> None:
    machine.perform(DATA)
    assert machine.done == ["pull", "stage", "switch"]
    config = machine.made.hosts["n1"].files["/etc/kops-py/restored-images.yaml"].decode()
    assert [d["kind"] for d in yaml.safe_load_all(config)] == ["InitConfiguration", "ClusterConfiguration"]


def test_another_minor_of_etcd_is_refused_before_anything_is_made(machine: Machine) -> None:
    machine.version = "3.6.4"
    with pytest.raises(EtcdError, match="cannot be given the snapshot"):
        machine.perform(DATA)
    assert "stage" not in machine.done


def test_an_external_etcd_of_another_minor_is_told_how_to_become_the_right_one(machine: Machine) -> None:
    machine.version = "3.4.23"
    member = NewMember("n1", "n1", "https://10.9.0.1:2380", "/var/lib/etcd", "etcd.service")
    with pytest.raises(EtcdError, match="cannot be given the snapshot") as caught:
        machine.perform(StageData("r1-abc", "r1-abc", (member,), 0, True, ("n1",)))
    assert "its etcd is 3.4.23, the snapshot is of 3.5" in caught.value.why
    assert "kops_etcd_packages" in caught.value.hint
    assert machine.done == []


def test_init_beside_an_external_etcd_looks_at_no_data(machine: Machine) -> None:
    _init_jobs(machine)
    machine.perform(dataclasses.replace(INIT, data=None))
    assert machine.done[:2] == ["begin", "placed"]
    assert not {"pull", "stage", "switch"} & set(machine.done)


def test_a_snapshot_that_etcd_does_not_take(machine: Machine) -> None:
    machine.stage_reply = Reply(exit_status=1, stderr="Error: expected sha256")
    with pytest.raises(EtcdError, match="cannot restore this snapshot") as caught:
        machine.perform(DATA)
    assert "expected sha256" in caught.value.why
    assert "switch" not in machine.done


def _init_jobs(machine: Machine, *states: str) -> None:
    made = machine.made
    made.jobs["n1"].outcomes["kubeadm-init"] = ["running", "ended 0"]
    made.jobs["n1"].outcomes["kubeadm-reset"] = ["ended 0"]
    if states:
        made.jobs["n1"].states["kubeadm-init"] = list(states)
    host = made.hosts["n1"]
    host.on(lambda argv: argv[:3] == ("kubeadm", "config", "validate"), Reply())


def test_init_keeps_the_data_and_leaves_out_the_check_that_there_is_none(machine: Machine) -> None:
    _init_jobs(machine)
    machine.has_data = True
    machine.perform(INIT)
    config = machine.made.hosts["n1"].files["/etc/kops-py/kubeadm-init.yaml"].decode()
    [init] = [d for d in yaml.safe_load_all(config) if d["kind"] == "InitConfiguration"]
    assert init["nodeRegistration"]["ignorePreflightErrors"] == ["DirAvailable--var-lib-etcd"]
    assert machine.done == ["begin", "placed"], "the data that is there stays"
    assert "SECRET" not in machine.seen()


def test_what_the_cleaning_of_a_broken_init_took_is_put_there_again(machine: Machine) -> None:
    _init_jobs(machine, "ended 1")
    machine.perform(INIT)
    started = [job for job, _ in machine.made.jobs["n1"].started]
    assert started == ["kubeadm-reset", "kubeadm-init"]
    assert machine.done == ["begin", "placed", "pull", "stage", "switch"]
    assert set(FILES) <= set(machine.made.hosts["n1"].files)


def test_an_init_that_runs_is_waited_for_and_nothing_is_put_beneath_it(machine: Machine) -> None:
    _init_jobs(machine, "running", "running", "ended 0")
    host = machine.made.hosts["n1"]
    host.on(("test", "-s", "/etc/kubernetes/admin.conf"), Reply())
    machine.perform(INIT)
    assert machine.done == []
    assert machine.made.jobs["n1"].started == []


def test_the_mark_is_written_when_the_api_server_is_ready(machine: Machine) -> None:
    _init_jobs(machine)
    machine.has_data = True
    machine.made.kube.add(node("n1"))
    machine.made.hosts["n1"].on(lambda argv: argv[0] == "kubectl", Reply("ok"))
    machine.perform(INIT, verify=True)
    assert machine.done[-1] == "initialised"


def _pod(name: str, on: str, *, mirror: bool = False) -> dict[str, Any]:
    annotations = {"kubernetes.io/config.mirror": "x"} if mirror else {}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "kube-system", "annotations": annotations},
        "spec": {"nodeName": on, "terminationGracePeriodSeconds": 30},
        "status": {"phase": "Running"},
    }


def _restored_cluster(machine: Machine) -> None:
    kube = machine.made.kube
    for name in ("n1", "n2", "old1", "old2"):
        kube.add(node(name))
        lease = {"name": name, "namespace": "kube-node-lease"}
        kube.add({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": lease, "spec": {}})
        kube.add(_pod(f"etcd-{name}", name, mirror=True))
        kube.add(_pod(f"dns-{name}", name))
    kube.add(_pod("waits", ""))
    status = {"apiVersion": "kubeadm.k8s.io/v1beta2", "kind": "ClusterStatus", "apiEndpoints": {"old1": {}, "old2": {}}}
    kube.add(
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "kubeadm-config", "namespace": "kube-system"},
            "data": {"ClusterStatus": yaml.safe_dump(status), "ClusterConfiguration": "kept: true"},
        }
    )
    for name, there in (("n1", 0), ("n2", 1)):
        machine.made.hosts[name].on(("test", "-s", "/etc/kubernetes/kubelet.conf"), Reply(exit_status=there))


def _left(machine: Machine, path: str) -> set[str]:
    return {str(o["metadata"]["name"]) for o in machine.made.kube.items(path)}


def test_machines_that_are_not_there_are_forgotten(machine: Machine) -> None:
    _restored_cluster(machine)
    machine.perform(FORGET)
    machine.made.kube.assert_clean()
    assert _left(machine, "/api/v1/nodes") == {"n1"}, "n2 joins anew: kubeadm refuses the name of a Ready node"
    assert _left(machine, "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases") == {"n1"}
    assert _left(machine, "/api/v1/pods") == {"etcd-n1", "dns-n1", "dns-n2", "waits"}
    config = machine.made.kube.object("/api/v1/namespaces/kube-system/configmaps/kubeadm-config")
    assert config is not None
    assert config["data"]["ClusterConfiguration"] == "kept: true"
    assert yaml.safe_load(config["data"]["ClusterStatus"])["apiEndpoints"] == {
        "n1": {"advertiseAddress": "10.9.0.1", "bindPort": 6443}
    }
    assert machine.done == ["forgotten"]
    assert machine.journaled == [{"kind": "forgotten", "nodes": ["n2", "old1", "old2"]}]


def test_forgetting_goes_on_where_it_was_killed(machine: Machine) -> None:
    _restored_cluster(machine)
    kube = machine.made.kube
    kube.fail("delete", r"pods/dns-old1", KubeError("gone away", status=500))
    with pytest.raises(KubeError):
        machine.perform(FORGET)
    assert machine.done == []
    machine.perform(FORGET)
    assert _left(machine, "/api/v1/pods") == {"etcd-n1", "dns-n1", "dns-n2", "waits"}
    assert machine.done == ["forgotten"]


def test_a_record_that_somebody_else_writes_is_written_again(machine: Machine) -> None:
    _restored_cluster(machine)
    path = "/api/v1/namespaces/kube-system/configmaps/kubeadm-config"
    kube = machine.made.kube
    kube.before("replace", "kubeadm-config", lambda: kube.change(path, lambda o: o["data"].update(more="x")))
    machine.perform(FORGET)
    config = kube.object(path)
    assert config is not None
    assert config["data"]["more"] == "x"
    assert list(yaml.safe_load(config["data"]["ClusterStatus"])["apiEndpoints"]) == ["n1"]


def test_without_a_record_there_is_nothing_to_write(machine: Machine) -> None:
    _restored_cluster(machine)
    machine.made.kube.change(
        "/api/v1/namespaces/kube-system/configmaps/kubeadm-config", lambda o: o["data"].pop("ClusterStatus")
    )
    machine.perform(FORGET)
    assert ("replace", "/api/v1/namespaces/kube-system/configmaps/kubeadm-config") not in machine.made.kube.calls
