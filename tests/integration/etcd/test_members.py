"""Real etcd members with the role's own settings: formed, killed, replaced and added to by the real actions."""

from __future__ import annotations

import dataclasses
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import pytest

from kops_py.actions.external_etcd import add_member, configure_member, wait_etcd
from kops_py.connect.base import AnsibleHostResult, AnsibleResult, AnsibleStatus, CommandResult
from kops_py.connect.resources import data_dir
from kops_py.model.actions import AddEtcdMember, ConfigureEtcd, WaitEtcd
from kops_py.model.spec import ClusterSpec, HostSpec
from kops_py.model.version import Version
from kops_py.observe.external_etcd import has_authority, holds_cluster, observe_external_etcd
from kops_py.tools.etcd_pki import PAIRS, make_authority, make_certificate, names_of
from tests.fakes.cluster import make_spec
from tests.fakes.ssh import FakeFleet, FakeHost
from tests.unit.actions.stage import Stage

pytestmark = pytest.mark.skipif(
    not (shutil.which("etcd") and shutil.which("etcdctl")), reason="etcd is not there: apt-get install etcd-server"
)
NAMES = ("n2", "n3", "n4")


class LocalHost(FakeHost):
    """A host whose files lie in a folder and whose etcd listens on a loopback address of its own."""

    def __init__(self, spec: HostSpec, folder: Path) -> None:
        super().__init__(spec.name)
        self.spec, self.folder = spec, folder

    def local(self, word: str) -> str:
        paths = word.replace("/etc/etcd/pki", str(self.folder / "pki")).replace(
            "/var/lib/etcd", str(self.folder / "data")
        )
        return paths.replace("https://127.0.0.1:2379", f"https://{self.spec.node_ip}:2379")

    def run(self, argv: Sequence[str], **_: Any) -> CommandResult:
        if argv[0] == "systemctl":
            return CommandResult(self.name, 0, b"", b"", 0.0)
        done = subprocess.run([self.local(w) for w in argv], capture_output=True, timeout=60, check=False)
        return CommandResult(self.name, done.returncode, done.stdout, done.stderr, 0.0)


class Bench:
    """Members as processes; it is the Ansible that starts them, with the settings the role would write."""

    def __init__(self, spec: ClusterSpec, folder: Path) -> None:
        self.stage = Stage(spec)
        self.folder = folder
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.hosts = {h.name: LocalHost(h, folder / h.name) for h in spec.etcd_hosts}
        self.stage.deps.fleet = FakeFleet(self.hosts)
        self.stage.deps.ansible = self
        authority = make_authority()
        for host in spec.etcd_hosts:
            pki = folder / host.name / "pki"
            pki.mkdir(parents=True)
            (pki / "ca.crt").write_bytes(authority.cert)
            for name in PAIRS:
                pair = make_certificate(authority, host.name, () if "client" in name else names_of(host))
                (pki / f"{name}.crt").write_bytes(pair.cert)
                (pki / f"{name}.key").write_bytes(pair.key)

    def run(self, playbook: str, hosts: Sequence[HostSpec], variables: Mapping[str, Any], **more: Any) -> AnsibleResult:
        assert playbook == "etcd"
        for host in hosts:
            self.start(host.name, {**variables, **more["host_variables"][host.name]})
        for host in hosts:
            self.wait_listening(host)
        return AnsibleResult(
            {h.name: AnsibleHostResult(h.name, AnsibleStatus.OK) for h in hosts}, Path(os.devnull), 0.0
        )

    def start(self, name: str, variables: Mapping[str, Any]) -> None:
        host = self.hosts[name]
        template = data_dir("playbooks") / "roles/etcd/templates/etcd.env.j2"
        values = {"kops_etcd_pki": "/etc/etcd/pki", "kops_etcd_data_dir": "/var/lib/etcd", "kops_etcd_settings": {}}
        text = jinja2.Template(template.read_text()).render({**values, **variables})
        lines = [line for line in text.splitlines() if line and not line.startswith("#")]
        environment = dict(line.split("=", 1) for line in lines)
        # Several members on one machine: the address they would all share is left out, the rest is as it is written.
        del environment["ETCD_LISTEN_METRICS_URLS"]
        environment["ETCD_LISTEN_CLIENT_URLS"] = environment["ETCD_LISTEN_CLIENT_URLS"].partition(",")[0]
        environment = {k: host.local(v) for k, v in environment.items()}
        if not (self.folder / name / "data/member").exists():
            environment |= {
                "ETCD_INITIAL_CLUSTER": variables["kops_etcd_initial_cluster"],
                "ETCD_INITIAL_CLUSTER_STATE": variables["kops_etcd_initial_state"],
                "ETCD_INITIAL_CLUSTER_TOKEN": variables["kops_etcd_cluster_token"],
            }
        log = (self.folder / name / "log").open("ab")
        self.kill(name)
        self.processes[name] = subprocess.Popen(["etcd"], env={**environment, "PATH": os.environ["PATH"]}, stderr=log)

    def wait_listening(self, host: HostSpec) -> None:
        """Wait as systemd does for the member's word; a learner of 3.4 answers no question, but it accepts clients."""
        deadline = time.monotonic() + 60
        while True:
            with socket.socket() as probe:
                if probe.connect_ex((host.node_ip, 2379)) == 0:
                    return
            assert time.monotonic() < deadline, (self.folder / host.name / "log").read_text()[-2000:]
            time.sleep(0.2)

    def kill(self, name: str) -> None:
        process = self.processes.pop(name, None)
        if process is not None:
            process.send_signal(signal.SIGKILL)
            process.wait(10)

    def form(self, names: Sequence[str]) -> None:
        from kops_py.actions.prepare import prepare_hosts

        contexts = [self.stage.ctx(ConfigureEtcd(n, "d"), n) for n in names]
        assert all(error is None for error in prepare_hosts(self.stage.deps, contexts).values())

    def put(self, name: str, key: str) -> None:
        host = self.hosts[name]
        pki = host.local("/etc/etcd/pki")
        tls = [f"--cacert={pki}/ca.crt", f"--cert={pki}/healthcheck-client.crt", f"--key={pki}/healthcheck-client.key"]
        endpoint = f"--endpoints=https://{host.spec.node_ip}:2379"
        argv = ["etcdctl", endpoint, *tls, "put", key, "here"]
        deadline = time.monotonic() + 40  # the one that was killed may have been the leader
        while subprocess.run(argv, check=False, capture_output=True, timeout=30).returncode != 0:
            assert time.monotonic() < deadline, f"nothing can be written through {name}"

    def members(self, through: str) -> dict[str, tuple[bool, bool]]:
        etcd = self.stage.spec.external
        assert etcd
        return {m.name: (m.healthy, m.is_learner) for m in observe_external_etcd(self.hosts[through], etcd)}


def make(tmp_path: Path, members: int) -> ClusterSpec:
    spec = make_spec(1, etcd=members, version=Version(1, 20, 2))
    block = 1 + os.getpid() % 200
    hosts = tuple(dataclasses.replace(h, node_ip=f"127.{block}.0.{h.name[1:]}") for h in spec.hosts)
    return dataclasses.replace(spec, hosts=hosts)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(make(tmp_path, 4), tmp_path)
    # The fourth host comes later.
    spec = made.stage.spec
    made.stage.deps.spec = made.stage.spec = dataclasses.replace(
        spec, hosts=tuple(dataclasses.replace(h, groups=frozenset()) if h.name == "n5" else h for h in spec.hosts)
    )
    try:
        yield made
    finally:
        for name in list(made.processes):
            made.kill(name)


def test_a_cluster_is_formed_loses_a_member_and_gets_another(bench: Bench) -> None:
    stage = bench.stage
    bench.form(NAMES)
    wait_etcd(stage.deps, WaitEtcd(NAMES), stage.ctx(WaitEtcd(NAMES), ""))
    bench.put("n2", "before")

    bench.kill("n3")
    bench.put("n2", "without-n3")
    assert bench.members("n2")["n3"][0] is False
    shutil.rmtree(bench.folder / "n3/data")
    add_member(stage.deps, AddEtcdMember("n3", "d"), stage.ctx(AddEtcdMember("n3", "d"), "n3"))
    assert bench.members("n3") == dict.fromkeys(NAMES, (True, False))
    bench.put("n3", "replaced")

    configure_member(stage.deps, ConfigureEtcd("n4", "d"), stage.ctx(ConfigureEtcd("n4", "d"), "n4"))
    assert bench.members("n2") == dict.fromkeys(NAMES, (True, False))

    more = dataclasses.replace(
        stage.spec,
        hosts=tuple(
            dataclasses.replace(h, groups=frozenset({"etcd"})) if h.name == "n5" else h for h in stage.spec.hosts
        ),
    )
    stage.deps.spec = stage.spec = more
    add_member(stage.deps, AddEtcdMember("n5", "d"), stage.ctx(AddEtcdMember("n5", "d"), "n5"))
    assert bench.members("n5") == dict.fromkeys((*NAMES, "n5"), (True, False))


def test_what_a_member_holds_of_a_cluster_is_told(bench: Bench) -> None:
    """Of none, of one whose authority is not written down, of ours and of another's."""
    etcd = bench.stage.spec.external
    assert etcd
    bench.form(NAMES)
    wait_etcd(bench.stage.deps, WaitEtcd(NAMES), bench.stage.ctx(WaitEtcd(NAMES), ""))
    host = bench.hosts["n3"]
    assert not holds_cluster(host, etcd)
    bench.put("n2", "/registry/configmaps/kube-system/kubeadm-config")
    assert holds_cluster(host, etcd)
    assert has_authority(host, etcd, [b"ours"]), "nothing to compare with"
    bench.put("n2", "/registry/configmaps/kube-public/cluster-info")  # its value is "here"
    assert has_authority(host, etcd, [b"ours", b"here"])
    assert not has_authority(host, etcd, [b"ours"])


def test_an_add_that_was_cut_off_goes_on(bench: Bench) -> None:
    stage = bench.stage
    bench.form(NAMES)
    wait_etcd(stage.deps, WaitEtcd(NAMES), stage.ctx(WaitEtcd(NAMES), ""))
    bench.kill("n4")
    shutil.rmtree(bench.folder / "n4/data")

    class KilledError(Exception):
        """Stands for the end of kops-py."""

    def die(*_: Any, **__: Any) -> AnsibleResult:
        raise KilledError

    whole, bench.run = bench.run, die  # type: ignore[method-assign]
    with pytest.raises(KilledError):
        add_member(stage.deps, AddEtcdMember("n4", "d"), stage.ctx(AddEtcdMember("n4", "d"), "n4"))
    bench.run = whole  # type: ignore[method-assign]
    assert "" in bench.members("n2"), "the member was added and has not started"
    add_member(stage.deps, AddEtcdMember("n4", "d"), stage.ctx(AddEtcdMember("n4", "d"), "n4"))
    assert bench.members("n2") == dict.fromkeys(NAMES, (True, False))
