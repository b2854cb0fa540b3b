"""Before an upgrade or a patch: a member of etcd that is about to come up is waited for, one that does not is told."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any

import pytest

from kops_py.app import upgrade_facts
from kops_py.app.upgrade_facts import with_settled_etcd
from kops_py.connect.base import Cancel
from kops_py.model.errors import CancelledError, UnreachableError
from kops_py.model.facts import Facts, HostFacts
from kops_py.model.status import EtcdMember
from tests.fakes.cluster import make_spec


class Opened:
    """A session whose n2 becomes healthy after some questions."""

    def __init__(self, ill_for: int, **changes: Any) -> None:
        self.spec, self.cancel, self.asked, self.said = make_spec(3), Cancel(), 0, list[str]()
        self.ill_for, self.changes = ill_for, changes

    def emit(self, event: Any) -> None:
        self.said.append(event.message)

    def observe_etcd(self, _facts: Facts) -> tuple[EtcdMember, ...]:
        self.asked += 1
        members = [EtcdMember(f"n{n}", n, "", True) for n in (1, 2, 3)]
        if self.asked <= self.ill_for:
            members[1] = dataclasses.replace(members[1], healthy=False, **self.changes)
        return tuple(members)

    def look(self, **hosts: Any) -> Facts:
        found = {h.name: HostFacts(h.name, **hosts.get(h.name, {})) for h in self.spec.hosts}
        opened: Any = SimpleNamespace(**{k: getattr(self, k) for k in ("spec", "cancel", "emit", "observe_etcd")})
        return with_settled_etcd(opened, Facts(hosts=found))


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upgrade_facts, "_ETCD_SETTLES_S", 0.5)


def test_healthy_members_are_asked_once() -> None:
    opened = Opened(0)
    assert all(m.healthy for m in opened.look().etcd)
    assert (opened.asked, opened.said) == (1, [])


def test_a_member_that_comes_up_is_waited_for() -> None:
    opened = Opened(3)
    assert all(m.healthy for m in opened.look().etcd)
    assert opened.asked == 4
    assert "etcd on n2 is not healthy: looking again" in opened.said[0]


def test_one_that_does_not_is_told_as_it_is() -> None:
    opened = Opened(1000)
    assert [m.name for m in opened.look().etcd if not m.healthy] == ["n2"]


def test_nobody_waits_for_a_host_that_is_gone_or_an_alarm() -> None:
    gone = Opened(1000)
    gone.look(n2={"problem": UnreachableError("gone", where="n2")})
    alarm = Opened(1000, only_alarms=("NOSPACE",))
    alarm.look()
    assert (gone.asked, alarm.asked) == (1, 1)


def test_it_can_be_cancelled() -> None:
    opened = Opened(1000)
    opened.cancel.set("SIGINT")
    with pytest.raises(CancelledError):
        opened.look()
