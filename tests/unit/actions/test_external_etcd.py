"""Certificates reach the hosts that need them and no other place; members are added safely and once."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from kops_py.actions.etcd_certificates import ensure_client, issue_certificates, place_client
from kops_py.actions.external_etcd import add_member, configure_member, wait_etcd
from kops_py.connect.base import AnsibleHostResult, AnsibleResult, AnsibleStatus
from kops_py.model.actions import AddEtcdMember, ConfigureEtcd, IssueEtcdCertificates, PlaceEtcdClient, WaitEtcd
from kops_py.model.errors import ConfigError, EtcdError, UnreachableError
from kops_py.model.spec import EtcdSpec, GivenCa, GivenEtcd, HostSpec
from kops_py.model.version import Version
from kops_py.tools.etcd_pki import digest_of, make_authority, make_certificate
from tests.fakes.cluster import make_spec
from tests.fakes.ssh import FakeHost, Reply
from tests.unit.actions.stage import Stage

ETCD = ("n2", "n3", "n4")


def script(mark: str) -> Callable[[tuple[str, ...]], bool]:
    return lambda argv: argv[:2] == ("sh", "-c") and mark in argv[2]


def put_in_place(host: FakeHost) -> Callable[[Any], None]:
    def effect(call: Any) -> None:
        folder, *names = call.argv[4:]
        for name in names:
            for kind in ("key", "crt"):
                host.files[f"{folder}/{name}.{kind}"] = host.files.pop(f"{folder}/{name}.{kind}.new")

    return effect


@pytest.fixture
def stage() -> Stage:
    stage = Stage(make_spec(1, etcd=3))
    for name in ETCD:
        host = stage.hosts[name]

        def authority(call: Any, host: FakeHost = host) -> Reply:
            files = host.files
            pair = [files.get(f"/etc/etcd/pki/ca.{kind}", b"") for kind in ("crt", "key")]
            return Reply(b"".join(pair)) if all(pair) else Reply(exit_status=1)

        host.on(script("cat ca.crt ca.key"), authority)
        host.on(script("install -d"), "")
        host.on(script("chown"), Reply(effect=put_in_place(host)))
    stage.hosts["n1"].on(script("install -d"), "")
    return stage


def issue(stage: Stage, name: str) -> None:
    action = IssueEtcdCertificates(name, f"digest-{name}")
    issue_certificates(stage.deps, action, stage.ctx(action, name))


class TestCertificates:
    def test_the_first_host_makes_the_authority_and_the_others_use_it(self, stage: Stage) -> None:
        for name in ETCD:
            issue(stage, name)
        authorities = {stage.hosts[n].files["/etc/etcd/pki/ca.crt"] for n in ETCD}
        keys = {stage.hosts[n].files["/etc/etcd/pki/ca.key"] for n in ETCD}
        assert (len(authorities), len(keys)) == (1, 1)
        assert len({stage.hosts[n].files["/etc/etcd/pki/server.key"] for n in ETCD}) == 3
        for name in ETCD:
            assert stage.hosts[name].modes["/etc/etcd/pki/ca.key"] == 0o600
            marker = json.loads(stage.hosts[name].files["/etc/kops-py/etcd-pki.json"])
            assert marker == {"digest": f"digest-{name}"}

    def test_no_key_is_in_a_command_line_or_an_event(self, stage: Stage) -> None:
        for name in ETCD:
            issue(stage, name)
        assert "PRIVATE" not in stage.all_argv_text() + repr(stage.events)

    def test_no_second_authority_while_a_host_cannot_be_asked(self, stage: Stage) -> None:
        stage.hosts["n4"].on(script("cat ca.crt"), Reply(error=UnreachableError("no connection", where="n4")))
        with pytest.raises(EtcdError, match="cannot be asked") as caught:
            issue(stage, "n2")
        assert caught.value.where == "n4"
        assert not any(path.endswith(".key") for path in stage.hosts["n2"].files)

    def test_a_given_authoritys_key_is_sent_nowhere(self, stage: Stage, tmp_path: Path) -> None:
        ca = make_authority()
        (tmp_path / "ca.crt").write_bytes(ca.cert)
        key = tmp_path / "ca.key"
        key.write_bytes(ca.key)
        key.chmod(0o600)
        stage.deps.spec = dataclasses.replace(stage.spec, etcd=EtcdSpec(ca=GivenCa(tmp_path / "ca.crt", key)))
        issue(stage, "n2")
        files = stage.hosts["n2"].files
        assert digest_of(files["/etc/etcd/pki/ca.crt"]) == digest_of(ca.cert)
        assert "/etc/etcd/pki/ca.key" not in files
        assert ca.key not in files.values()

    def test_a_given_key_that_others_can_read_is_refused(self, stage: Stage, tmp_path: Path) -> None:
        ca = make_authority()
        for name, data in (("ca.crt", ca.cert), ("ca.key", ca.key)):
            (tmp_path / name).write_bytes(data)
        (tmp_path / "ca.key").chmod(0o644)
        given = GivenCa(tmp_path / "ca.crt", tmp_path / "ca.key")
        stage.deps.spec = dataclasses.replace(stage.spec, etcd=EtcdSpec(ca=given))
        with pytest.raises(ConfigError, match="others on this machine"):
            issue(stage, "n2")


class TestClients:
    def test_a_control_plane_gets_a_client_of_the_members_authority(self, stage: Stage) -> None:
        issue(stage, "n2")
        place_client(stage.deps, PlaceEtcdClient("n1"), stage.ctx(PlaceEtcdClient("n1")))
        host = stage.hosts["n1"]
        assert host.files["/etc/kubernetes/pki/etcd/ca.crt"] == stage.hosts["n2"].files["/etc/etcd/pki/ca.crt"]
        assert host.modes["/etc/kubernetes/pki/apiserver-etcd-client.key"] == 0o600
        assert not any("ca.key" in path for path in host.files)

    def test_without_an_authority_it_says_so(self, stage: Stage) -> None:
        with pytest.raises(EtcdError, match="no host of the group etcd holds"):
            place_client(stage.deps, PlaceEtcdClient("n1"), stage.ctx(PlaceEtcdClient("n1")))

    def test_given_files_are_placed(self, stage: Stage, tmp_path: Path) -> None:
        pair, ca = make_certificate(make_authority(), "client"), make_authority()
        for name, data in (("ca", ca.cert), ("cert", pair.cert), ("key", pair.key)):
            (tmp_path / name).write_bytes(data)
            (tmp_path / name).chmod(0o600)
        given = GivenEtcd(("https://192.0.2.1:2379",), tmp_path / "ca", tmp_path / "cert", tmp_path / "key")
        stage.deps.spec = dataclasses.replace(stage.spec, etcd=EtcdSpec(given))
        place_client(stage.deps, PlaceEtcdClient("n1"), stage.ctx(PlaceEtcdClient("n1")))
        assert set(stage.hosts["n1"].files.values()) == {ca.cert, pair.cert, pair.key}

    def test_after_a_reset_it_is_placed_again(self, stage: Stage) -> None:
        issue(stage, "n2")
        ctx = stage.ctx(PlaceEtcdClient("n1"))
        stage.hosts["n1"].on(script("[ -s"), Reply(exit_status=1, times=1)).on(script("for f in"), Reply(exit_status=1))
        ensure_client(stage.deps, "n1", ctx)
        assert "/etc/kubernetes/pki/apiserver-etcd-client.crt" in stage.hosts["n1"].files

    def test_one_that_is_there_is_kept(self, stage: Stage) -> None:
        stage.hosts["n1"].on(script("for f in"), "")
        ensure_client(stage.deps, "n1", stage.ctx(PlaceEtcdClient("n1")))
        assert stage.hosts["n1"].files == {}


@dataclasses.dataclass
class Etcd:
    """The members behind every host's etcdctl; the play starts the one it is run for."""

    stage: Stage
    members: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    version: str = "3.4.23"
    said: list[str] = dataclasses.field(default_factory=list)
    data: set[str] = dataclasses.field(default_factory=set)
    plays: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    behind: int = 0
    """How often a promotion is refused."""

    def __post_init__(self) -> None:
        for number, name in enumerate(ETCD, 1):
            self.members[name] = self.member(number, name)
            self.data.add(name)
            host = self.stage.hosts[name]
            host.on(lambda argv: argv[0] == "etcdctl", lambda call: self.answer(call.argv))
            host.on(lambda argv: argv[0] == "systemctl", "")
            host.on(
                lambda argv: argv[0] == "test",
                lambda call, name=name: Reply(exit_status=0 if name in self.data else 1),
            )
        self.stage.deps.ansible = self

    def member(self, number: int, host: str, **fields: Any) -> dict[str, Any]:
        address = self.stage.spec.host(host).node_ip
        return {
            "ID": number,
            "name": host,
            "peerURLs": [f"https://{address}:2380"],
            "clientURLs": [f"https://{address}:2379"],
            "up": True,
            **fields,
        }

    def answer(self, argv: Sequence[str]) -> Reply:
        assert "--cacert=/etc/etcd/pki/ca.crt" in argv
        words = [w for w in argv[1:] if not w.startswith("--")]
        match words:
            case ["member", "list"]:
                return Reply(
                    json.dumps({"members": [{k: v for k, v in m.items() if k != "up"} for m in self.members.values()]})
                )
            case ["endpoint", "status"]:
                up = [m for m in self.members.values() if m["up"] and m["clientURLs"]]
                return Reply(
                    json.dumps(
                        [
                            {
                                "Endpoint": m["clientURLs"][0],
                                "Status": {
                                    "header": {"member_id": m["ID"], "cluster_id": 7},
                                    "version": self.version,
                                    "leader": 1,
                                },
                            }
                            for m in up
                        ]
                    )
                )
            case ["endpoint", "health"]:
                entries = [
                    {"endpoint": m["clientURLs"][0], "health": m["up"]}
                    for m in self.members.values()
                    if m["clientURLs"]
                ]
                return Reply(json.dumps(entries))
        self.said.append(" ".join(w for w in argv[1:] if w.startswith("--learner") or not w.startswith("--")))
        match words:
            case ["member", "remove", number]:
                self.members = {n: m for n, m in self.members.items() if f"{m['ID']:x}" != number}
            case ["member", "add", name]:
                self.members[name] = self.member(
                    9, name, name="", clientURLs=[], up=False, isLearner="--learner" in argv
                )
            case ["member", "promote", _]:
                if self.behind:
                    self.behind -= 1
                    return Reply(exit_status=1, stderr="can only promote a learner member which is in sync with leader")
                for member in self.members.values():
                    member.pop("isLearner", None)
            case _:
                raise AssertionError(words)
        return Reply("{}")

    def run(self, playbook: str, hosts: Sequence[HostSpec], variables: Mapping[str, Any], **more: Any) -> AnsibleResult:
        assert playbook == "etcd"
        results = {}
        for host in hosts:
            self.plays.append(dict(more["host_variables"][host.name]))
            learner = self.members.get(host.name, {}).get("isLearner")
            self.members[host.name] = self.member(self.members[host.name]["ID"], host.name, isLearner=learner)
            self.data.add(host.name)
            results[host.name] = AnsibleHostResult(host.name, AnsibleStatus.OK)
        return AnsibleResult(results, Path("log"), 0.0)


@pytest.fixture
def etcd(stage: Stage) -> Etcd:
    return Etcd(stage)


def add(stage: Stage, name: str, timeout_s: float = 60.0) -> None:
    action = AddEtcdMember(name, "d")
    add_member(stage.deps, action, stage.ctx(action, name, timeout_s))


class TestAdding:
    def test_a_lost_member_is_removed_and_added_as_a_learner(self, stage: Stage, etcd: Etcd) -> None:
        etcd.members["n3"]["up"] = False
        etcd.data.discard("n3")
        etcd.behind = 1
        add(stage, "n3")
        assert etcd.said == [
            "member remove 2",
            "member add n3 --learner",
            "member promote 9",
            "member promote 9",
        ]
        (play,) = etcd.plays
        assert play["kops_etcd_initial_state"] == "existing"
        assert set(play["kops_etcd_initial_cluster"].split(",")) == {f"n{i}=https://10.9.0.{i}:2380" for i in (2, 3, 4)}

    def test_a_new_host_is_added_and_nothing_removed(self, stage: Stage, etcd: Etcd) -> None:
        del etcd.members["n4"]
        etcd.data.discard("n4")
        add(stage, "n4")
        assert etcd.said == ["member add n4 --learner", "member promote 9"]

    def test_one_that_was_added_before_a_kill_is_not_added_twice(self, stage: Stage, etcd: Etcd) -> None:
        etcd.members["n4"] = etcd.member(9, "n4", name="", clientURLs=[], up=False, isLearner=True)
        etcd.data.discard("n4")
        add(stage, "n4")
        assert etcd.said == ["member promote 9"]

    def test_a_learner_that_was_started_before_a_kill_is_promoted(self, stage: Stage, etcd: Etcd) -> None:
        etcd.members["n4"]["isLearner"] = True
        add(stage, "n4")
        assert etcd.said == ["member promote 3"]

    def test_nothing_is_removed_while_another_member_is_ill(self, stage: Stage, etcd: Etcd) -> None:
        etcd.data.discard("n3")
        etcd.members["n3"]["up"] = etcd.members["n4"]["up"] = False
        with pytest.raises(EtcdError, match="the other members are not healthy"):
            add(stage, "n3", timeout_s=0.01)
        assert etcd.said == []

    def test_versions_without_learners_get_a_voter(self, stage: Stage, etcd: Etcd) -> None:
        etcd.version = "3.3.25"
        del etcd.members["n4"]
        etcd.data.discard("n4")
        add(stage, "n4")
        assert etcd.said == ["member add n4"]


class TestGates:
    def test_a_running_member_is_not_touched_while_another_is_ill(self, stage: Stage, etcd: Etcd) -> None:
        etcd.members["n3"]["up"] = False
        action = ConfigureEtcd("n2", "d")
        with pytest.raises(EtcdError, match="the other members are not healthy"):
            configure_member(stage.deps, action, stage.ctx(action, "n2", 0.01))
        assert etcd.plays == []

    def test_the_one_that_is_ill_itself_is_mended(self, stage: Stage, etcd: Etcd) -> None:
        etcd.members["n2"]["up"] = False
        action = ConfigureEtcd("n2", "d")
        configure_member(stage.deps, action, stage.ctx(action, "n2"))
        assert len(etcd.plays) == 1

    def test_a_member_that_is_lacking_is_named(self, stage: Stage, etcd: Etcd) -> None:
        etcd.members["n4"]["up"] = False
        action = WaitEtcd(ETCD)
        with pytest.raises(EtcdError, match="etcd is not healthy") as caught:
            wait_etcd(stage.deps, action, stage.ctx(action, "", 0.01))
        assert "n4" in caught.value.why

    def test_an_etcd_too_old_for_kubernetes_is_told_before_kubeadm_runs(self, stage: Stage, etcd: Etcd) -> None:
        action = WaitEtcd(ETCD)
        with pytest.raises(EtcdError, match=r"3.4.23 is too old for Kubernetes v1.31.2"):
            wait_etcd(stage.deps, action, stage.ctx(action, ""))
        kubernetes = dataclasses.replace(stage.spec.kubernetes, version=Version(1, 20, 2))
        stage.deps.spec = dataclasses.replace(stage.spec, kubernetes=kubernetes)
        wait_etcd(stage.deps, action, stage.ctx(action, ""))
