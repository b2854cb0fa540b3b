"""The way to the API: a control plane that cannot be asked is never called a cluster that is not there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kops_py.connect.base import Cancel
from kops_py.connect.kube_access import ADMIN_CONF, KubeAccess
from kops_py.model.errors import HostError, KubeError, SudoError, UnreachableError
from tests.fakes.cluster import make_spec
from tests.fakes.kube import FakeKubeApi
from tests.fakes.ssh import FakeFleet, FakeHost, Reply

CAT = ("cat", ADMIN_CONF)
ABSENT = Reply(exit_status=1, stderr="No such file or directory")
DOWN = UnreachableError("no route to host", where="n1", hint="is the host up?")
NO_SUDO = SudoError("may not become root", where="n2", hint="allow sudo")


def access(tmp_path: Path, *answers: Reply) -> KubeAccess:
    hosts = [FakeHost(f"n{number}").on(CAT, answer) for number, answer in enumerate(answers, 1)]
    return KubeAccess(FakeFleet(hosts), make_spec(len(answers), 0, 1), tmp_path, Cancel())


def test_the_first_control_plane_that_has_one_gives_it(tmp_path: Path) -> None:
    assert access(tmp_path, Reply(error=DOWN), ABSENT, Reply("config")).read_admin_conf() == b"config"


ASK: list[Callable[[KubeAccess], Any]] = [KubeAccess.api, KubeAccess.read_admin_conf]


@pytest.mark.parametrize("ask", ASK)
def test_no_cluster_is_said_only_when_every_control_plane_answered(
    ask: Callable[[KubeAccess], Any], tmp_path: Path
) -> None:
    with pytest.raises(KubeError) as caught:
        ask(access(tmp_path, ABSENT, ABSENT))
    assert "kops-py bootstrap" in caught.value.hint


@pytest.mark.parametrize("ask", ASK)
def test_one_that_cannot_be_asked_is_told_with_what_to_do(ask: Callable[[KubeAccess], Any], tmp_path: Path) -> None:
    with pytest.raises((KubeError, HostError)) as caught:
        ask(access(tmp_path, Reply(error=DOWN), Reply(error=NO_SUDO)))
    assert "n1: no route to host" in str(caught.value)
    assert caught.value.hint == "is the host up?"
    with pytest.raises((KubeError, HostError)) as caught:
        ask(access(tmp_path, ABSENT, Reply(error=NO_SUDO)))
    assert "n2: may not become root" in str(caught.value)
    assert "bootstrap" not in caught.value.hint


def test_every_api_server_by_its_own_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: dict[str, FakeKubeApi] = {}

    def connect(config: bytes, *, server_override: str, **_: Any) -> FakeKubeApi:
        if server_override == third:
            raise KubeError("it does not answer", where=server_override)
        return made.setdefault(server_override, FakeKubeApi())

    monkeypatch.setattr("kops_py.connect.kube.connect_kube", connect)
    there = Reply("config")
    third = f"https://{make_spec(3, 0, 1).host('n3').node_ip}:6443"
    with access(tmp_path, there, Reply(error=NO_SUDO), there).servers() as servers:
        told = {name: "" if isinstance(s, FakeKubeApi) else str(s) for name, s in servers.items()}
        open_now = [api.closed for api in made.values()]
    assert open_now == [False]
    assert all(api.closed for api in made.values())
    assert told == {"n1": "", "n2": "may not become root", "n3": "it does not answer"}


def test_the_only_api_server_by_the_way_there_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def connect(config: bytes, *, server_override: str | None, **_: Any) -> FakeKubeApi:
        asked.append(server_override)
        return FakeKubeApi()

    monkeypatch.setattr("kops_py.connect.kube.connect_kube", connect)
    with access(tmp_path, Reply("config")).servers() as servers:
        assert list(servers) == ["n1"]
    assert asked == [None]
