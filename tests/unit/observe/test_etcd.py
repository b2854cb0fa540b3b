"""Where etcd is asked: in the container of a stacked member, or with the host's own programs."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from kops_py.model.errors import EtcdError, UnreachableError
from kops_py.model.etcd import KUBEADM_CREDENTIALS, LOCAL_ENDPOINT, EtcdTarget
from kops_py.observe import etcd
from kops_py.observe.etcd import access_for, etcd_targets, find_access, observe_etcd
from tests.fakes.cluster import make_spec
from tests.fakes.ssh import Argv, FakeFleet, FakeHost, Reply
from tests.unit.tools.test_etcdctl import HEALTH_34, MEMBERS_34, STATUS_34

TARGET = EtcdTarget("cp1", LOCAL_ENDPOINT, KUBEADM_CREDENTIALS, "cp1", "10.0.0.1")


def finds(argv: Argv) -> bool:
    return argv[:2] == ("sh", "-c") and "crictl ps" in argv[2]


def ends(words: Argv) -> Callable[[Argv], bool]:
    return lambda argv: argv[-len(words) :] == words


def answering(found: str) -> FakeHost:
    host = FakeHost("cp1").on(finds, Reply(found, sudo=True))
    for words, text in {
        ("member", "list"): MEMBERS_34,
        ("endpoint", "status", "--cluster"): STATUS_34,
        ("endpoint", "health", "--cluster"): HEALTH_34,
        ("alarm", "list"): '{"header":{},"alarms":[{"memberID":3319814642761637952,"alarm":1}]}',
    }.items():
        host.on(ends(words), Reply(text, sudo=True))
    host.on(lambda argv: argv[0] == "curl", Reply("# x\netcd_server_quota_backend_bytes 2.147483648e+09\n", sudo=True))
    return host


@pytest.mark.parametrize("container", ["abc", ""])
def test_stacked_and_external_by_the_same_code(container: str) -> None:
    host = answering(f"container {container}\netcdctl yes\ncredentials 0\n")
    facts = observe_etcd(FakeFleet([host]), [TARGET])
    (only,) = facts.members
    assert (only.name, only.host, only.healthy, only.alarms, only.quota_bytes) == (
        "cp1",
        "cp1",
        True,
        ("NOSPACE",),
        2**31,
    )
    asked = [argv for argv in host.argvs if "etcdctl" in argv]
    assert all((argv[:3] == ("crictl", "exec", "abc")) is bool(container) for argv in asked)
    assert all(f"--cert={KUBEADM_CREDENTIALS[0].cert}" in argv for argv in asked)
    assert facts.cluster_id == f"{324952591200643719:x}"


@pytest.mark.parametrize(
    ("found", "why"),
    [
        ("container \nmanifest yes\n", "container is not running"),
        ("container \n", "no etcd container and no etcdctl"),
        ("container abc\n", "no client certificate"),
    ],
)
def test_what_a_host_lacks_is_said(found: str, why: str) -> None:
    with pytest.raises(EtcdError, match=why):
        find_access(FakeHost("cp1").on(finds, found), TARGET)
    with pytest.raises(EtcdError, match="no member of etcd answers") as caught:
        observe_etcd(FakeFleet([FakeHost("cp1").on(finds, found)]), [TARGET])
    assert "cp1" in caught.value.why


def test_a_member_whose_host_is_gone_is_asked_from_another() -> None:
    there = answering("container abc\ncredentials 1\n")
    gone = FakeHost("cp2").on(finds, Reply(error=UnreachableError("no route", where="cp2")))
    facts = observe_etcd(
        FakeFleet([gone, there]), [EtcdTarget("cp2", LOCAL_ENDPOINT, KUBEADM_CREDENTIALS, "cp2"), TARGET]
    )
    assert facts.unreachable == {"cp2"}
    assert "no route" in facts.problems["cp2"]
    own = access_for(facts, facts.members[0])
    assert own is not None
    assert (own.host, own.credentials) == ("cp1", KUBEADM_CREDENTIALS[1])


def test_targets_of_both_topologies() -> None:
    stacked = etcd_targets(make_spec(control_planes=2))
    assert [(t.host, t.member, t.credentials) for t in stacked] == [
        (f"n{n}", f"n{n}", KUBEADM_CREDENTIALS) for n in (1, 2)
    ]


def by_url(name: str, found: str, up: str) -> FakeHost:
    """A host from which only the member of one URL answers."""
    host = answering(found)
    host.name = name
    refused = Reply("", stderr="context deadline exceeded", exit_status=1, sudo=True)
    host.on(lambda argv: argv[0] == "etcdctl" and f"--endpoints={up}" not in argv, refused)
    return host


def test_an_etcd_that_exists_is_asked_by_each_of_its_urls() -> None:
    one, two, three = (f"https://192.0.2.{n}:2379" for n in (31, 32, 33))
    found = f"container \netcdctl yes\nservers {one},{two},{three}\ncredentials 1\n"
    hosts = [by_url(name, found, two) for name in ("n1", "n2")]
    targets = [EtcdTarget(name, "", KUBEADM_CREDENTIALS) for name in ("n1", "n2")]
    facts = observe_etcd(FakeFleet(hosts), targets)
    assert [m.name for m in facts.members] == ["cp1"]
    assert {a.endpoint for a in facts.accesses.values()} == {two}, "what is asked next asks the one that answers"
    assert not facts.problems
    assert facts.members[0].alarms == ("NOSPACE",)
    with pytest.raises(EtcdError, match="no member of etcd answers") as caught:
        observe_etcd(FakeFleet([by_url("n1", found, "none")]), targets[:1])
    assert f"etcd does not answer there at {one}, {two}, {three}" in caught.value.why
    assert "an etcdctl of their own" in caught.value.hint


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, ["bare yes"]),
        ({"pki/ca.crt": "x"}, []),
        (
            {"pki/ca.crt": "x", "manifests/kube-apiserver.yaml": "    - --etcd-servers=https://a:1,https://b:2\n"},
            ["servers https://a:1,https://b:2"],
        ),
    ],
)
def test_what_the_script_finds_on_a_host(tmp_path: Path, files: dict[str, str], expected: list[str]) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    script = etcd._FIND.replace("/etc/kubernetes", str(tmp_path)).replace("/etc/etcd", str(tmp_path / "none"))
    out = subprocess.run(["sh", "-c", script, "sh"], capture_output=True, text=True, check=True).stdout
    assert [line for line in out.splitlines() if line.split()[0] in ("bare", "servers")] == expected


def test_a_machine_that_holds_nothing_of_a_cluster_is_told_from_one_that_is_ill() -> None:
    new = FakeHost("cp2").on(finds, "container \nbare yes\n")
    ill = FakeHost("cp3").on(finds, "container \n")
    targets = [TARGET, *(EtcdTarget(n, LOCAL_ENDPOINT, KUBEADM_CREDENTIALS, n) for n in ("cp2", "cp3"))]
    facts = observe_etcd(FakeFleet([answering("container abc\ncredentials 0\n"), new, ill]), targets)
    assert facts.bare == {"cp2"}
    assert set(facts.problems) == {"cp2", "cp3"}
    assert not facts.unreachable
