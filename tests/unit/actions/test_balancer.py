"""Control planes out of the load balancer and back, beside what people do there, and after a kill at any point."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

import pytest

from kops_py.actions import balancer
from kops_py.actions.perform import ClusterPerformer
from kops_py.model.actions import PutBackIntoBalancer, TakeOutOfBalancer
from kops_py.model.errors import CommandFailedError, DeadlineError, UnreachableError
from kops_py.model.event import Note
from kops_py.model.facts import HostFacts
from kops_py.tools import haproxy
from tests.fakes.cluster import make_spec
from tests.fakes.ssh import Call, FakeHost, Reply
from tests.unit.actions.stage import Stage
from tests.unit.tools.test_haproxy import row, states

OUT, BACK = TakeOutOfBalancer("n2"), PutBackIntoBalancer("n2")
DRAIN, MAINTENANCE = 8, 1


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(balancer, "_POLL_S", 0.01)


@dataclass
class Haproxy:
    """haproxy of one host with its marks; ``up`` is what the health checks find."""

    host: FakeHost
    pid: int = 100
    admin: dict[str, int] = field(default_factory=lambda: {"n1": 0, "n2": 0, "n3": 0})
    up: dict[str, bool] = field(default_factory=lambda: {"n1": True, "n2": True, "n3": True})
    marks: dict[str, str] = field(default_factory=dict)
    runs: bool = True
    told: list[str] = field(default_factory=list)
    comes_up_after: int = 0
    """Looks after which n2's health check passes again."""

    def __post_init__(self) -> None:
        self.host.on(lambda argv: argv[1:4] == ("-I", "-S", "-c"), self._ask)
        self.host.on(lambda argv: argv[0] == "cat", self._read)
        self.host.on(lambda argv: argv[0] == "sh" and argv[3] == "mark", self._write)
        self.host.on(lambda argv: argv[0] == "rm", self._remove)

    def restart(self) -> None:
        self.pid += 1
        self.admin = dict.fromkeys(self.admin, 0)

    def _ask(self, call: Call) -> Reply:
        assert call.sudo
        if not self.runs:
            return Reply(exit_status=haproxy.NO_HAPROXY_STATUS)
        return Reply(json.dumps([self._answer(c) for c in call.argv[5:]]))

    def _answer(self, command: str) -> str:
        words = command.split()
        if words[:2] == ["set", "server"]:
            name = words[2].removeprefix("kubernetes_api/")
            self.told.append(f"{name} {words[4]}")
            self.admin[name] = {"drain": self.admin[name] | DRAIN, "ready": 0}[words[4]]
            return "\n"
        if command == "show info":
            return f"Name: HAProxy\nPid: {self.pid}\n"
        if self.comes_up_after:
            self.comes_up_after -= 1
            self.up["n2"] = self.comes_up_after == 0
        return states(*(row(n, 2 if self.up[n] else 0, admin) for n, admin in self.admin.items()))

    def _name(self, call: Call) -> str:
        assert call.sudo
        assert call.argv[-1].startswith(haproxy.MARKS)
        return call.argv[-1].rpartition("/")[2]

    def _read(self, call: Call) -> Reply:
        mark = self.marks.get(self._name(call))
        return Reply(exit_status=1) if mark is None else Reply(f"{mark}\n")

    def _write(self, call: Call) -> Reply:
        self.marks[call.argv[5]] = call.argv[6]
        return Reply()

    def _remove(self, call: Call) -> Reply:
        self.marks.pop(self._name(call), None)
        return Reply()


class Balanced(Stage):
    """Three control planes behind two load balancers."""

    def __init__(self) -> None:
        super().__init__(make_spec(3, 0, 2))
        self.balancers = [Haproxy(self.hosts["n4"]), Haproxy(self.hosts["n5"])]

    def run(self, action: TakeOutOfBalancer | PutBackIntoBalancer, timeout_s: float = 5.0) -> None:
        ClusterPerformer(self.deps).apply(self.ctx(action, "n2", timeout_s))

    @property
    def notes(self) -> list[str]:
        return [e.message for e in self.events if isinstance(e, Note)]


@pytest.fixture
def there() -> Balanced:
    return Balanced()


def test_out_and_back_everywhere(there: Balanced) -> None:
    there.run(OUT)
    assert [b.admin["n2"] for b in there.balancers] == [DRAIN, DRAIN]
    assert [b.marks for b in there.balancers] == [{"n2": "100"}] * 2
    there.run(OUT)  # after a kill: nothing twice
    assert [b.told for b in there.balancers] == [["n2 drain"]] * 2
    there.run(BACK)
    assert [b.admin["n2"] for b in there.balancers] == [0, 0]
    assert [b.marks for b in there.balancers] == [{}, {}]
    there.run(BACK)
    assert [b.told for b in there.balancers] == [["n2 drain", "n2 ready"]] * 2
    assert there.notes == []


def test_back_waits_for_the_health_check(there: Balanced) -> None:
    there.run(OUT)
    there.balancers[1].up["n2"] = False
    there.balancers[1].comes_up_after = 4
    there.run(BACK)
    assert there.balancers[1].up["n2"]
    assert there.waits == ["haproxy on n5: the health check of n2 has not passed yet"] * 2


def test_a_check_that_never_passes_is_named(there: Balanced) -> None:
    there.run(OUT)
    there.balancers[0].up["n2"] = False
    with pytest.raises(DeadlineError, match="health check of n2 has not passed"):
        there.run(BACK, 0.1)
    assert there.balancers[0].admin["n2"] == 0, "it comes back by itself once it is healthy"


@pytest.mark.parametrize("state", [DRAIN, MAINTENANCE])
def test_what_a_person_took_out_stays_out(there: Balanced, state: int) -> None:
    for b in there.balancers:
        b.admin["n2"] = state
    there.run(OUT)
    there.run(BACK)
    assert [b.told for b in there.balancers] == [[], []]
    assert [b.marks for b in there.balancers] == [{}, {}]
    assert "n2 is out of the load balancer n4 already, not by kops-py; it stays so" in there.notes


def test_a_person_sets_maintenance_meanwhile(there: Balanced) -> None:
    there.run(OUT)
    there.balancers[0].admin["n2"] |= MAINTENANCE
    there.run(BACK)
    assert [b.admin["n2"] for b in there.balancers] == [DRAIN | MAINTENANCE, 0]
    assert [b.marks for b in there.balancers] == [{}, {}]
    assert there.notes == ["n2 stays out of the load balancer n4: somebody else took it out meanwhile"]


def test_a_restart_of_haproxy_forgets_and_a_later_drain_is_a_persons(there: Balanced) -> None:
    there.run(OUT)
    for b in there.balancers:
        b.restart()
    there.balancers[1].admin["n2"] = DRAIN
    there.run(BACK)
    assert [b.told for b in there.balancers] == [["n2 drain"]] * 2
    assert there.balancers[1].admin["n2"] == DRAIN
    assert [b.marks for b in there.balancers] == [{}, {}]


def test_the_last_one_stays_in(there: Balanced) -> None:
    there.balancers[0].up.update(n1=False)
    there.balancers[0].admin["n3"] = MAINTENANCE
    there.run(OUT)
    assert [b.admin["n2"] for b in there.balancers] == [0, DRAIN]
    assert there.notes == ["n2 stays in the load balancer n4: no other control plane takes connections there"]


def test_without_haproxy_nothing_is_told(there: Balanced) -> None:
    there.balancers[0].runs = False
    del there.balancers[1].admin["n2"]
    there.run(OUT)
    there.run(BACK)
    assert there.notes == [f"haproxy on {name} does not run, or does not know n2" for name in ("n4", "n5")]
    there.balancers[0].marks["n2"] = "100"  # it ran when n2 was taken out
    there.run(BACK)
    assert there.balancers[0].marks == {}


def test_a_balancer_that_was_away_from_the_start_is_left_out(there: Balanced) -> None:
    there.deps.hosts = {"n4": HostFacts("n4", problem=UnreachableError("is away", where="n4")), "n5": HostFacts("n5")}
    there.run(OUT)
    assert [b.told for b in there.balancers] == [[], ["n2 drain"]]
    assert "n4 could not be reached when the run began: it is left out" in there.progress


def test_one_that_went_away_since_stops_the_chain(there: Balanced) -> None:
    gone = UnreachableError("is away", where="n4")
    there.hosts["n4"].on(lambda _: True, Reply(error=gone))
    for action in (OUT, BACK):
        with pytest.raises(UnreachableError):
            there.run(action)


def test_a_refusal_is_told(there: Balanced) -> None:
    there.balancers[0]._answer = (  # type: ignore[method-assign]
        lambda command: (
            "Permission denied\n" if command.startswith("set") else Haproxy._answer(there.balancers[0], command)
        )
    )
    with pytest.raises(CommandFailedError, match="refused: set server kubernetes_api/n2 state drain") as caught:
        there.run(OUT)
    assert caught.value.why == "Permission denied"
