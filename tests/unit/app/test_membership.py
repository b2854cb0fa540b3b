"""node add, node remove and reset as whole commands on a simulated cluster: asked, refused, told, carried out."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import pytest

from kops_py.app import membership, reset
from kops_py.app import run as run_app
from kops_py.app.session import Emit, Session, Settings
from kops_py.app.upgrade import RolloutSettings
from kops_py.connect.base import Cancel
from kops_py.connect.kube_access import KubeAccess
from kops_py.model.errors import ConfigError, ExitCode, UnreachableError
from kops_py.model.facts import Facts, HostFacts
from kops_py.model.plan import Plan
from kops_py.model.preflight import ProbeResults
from kops_py.model.spec import ClusterSpec
from kops_py.model.status import EtcdMember
from tests.fakes.cluster import arguments_for, make_spec
from tests.fakes.kube import FakeKubeApi, node
from tests.fakes.membership import MembershipCluster
from tests.fakes.ssh import FakeFleet, FakeHost


@dataclasses.dataclass(slots=True)
class SimSession(Session):
    """A session whose eyes are the simulated cluster's."""

    world: World | None = None

    def observe(self) -> Facts:
        assert self.world is not None
        return self.world.cluster.facts()

    def observe_etcd(self, facts: Facts) -> tuple[EtcdMember, ...]:
        return facts.etcd

    def probe(self, facts: Facts) -> ProbeResults:
        return ProbeResults()


@dataclasses.dataclass
class Access:
    kube: FakeKubeApi

    def api(self) -> FakeKubeApi:
        return self.kube

    def close(self) -> None:
        """Nothing is open."""


class World:
    """One cluster, its API with nothing running, and what was asked."""

    def __init__(self, folder: Path, spec: ClusterSpec) -> None:
        self.spec, self.folder = spec, folder
        self.cluster = MembershipCluster.built(spec)
        self.kube = FakeKubeApi([node(h.name) for h in spec.nodes])
        self.asked: list[Plan] = []

    def confirm(self, plan: Plan, _findings: object) -> bool:
        self.asked.append(plan)
        return True

    def settings(self, **changes: object) -> Settings:
        return Settings(run_dir=self.folder / ".kops-py", command="kops-py node", **changes)  # type: ignore[arg-type]

    def remove(self, *names: str, lost: bool = False, **changes: object) -> run_app.RunResult:
        return membership.run_node_remove(
            self.settings(**changes), lambda _: None, self.confirm, nodes=names, lost=lost, rollout=RolloutSettings()
        )

    def add(self, *names: str) -> run_app.RunResult:
        return membership.run_node_add(self.settings(), lambda _: None, self.confirm, nodes=names)

    def reset(self, named: str = "") -> run_app.RunResult:
        return reset.run_reset(self.settings(), lambda _: None, self.confirm, named=named)


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    made = World(tmp_path, make_spec(3, 2))

    @contextmanager
    def session(
        settings: Settings, spec: ClusterSpec, emit: Emit, *, work_dir: Path | None = None
    ) -> Iterator[SimSession]:
        kube, fleet = cast(KubeAccess, Access(made.kube)), FakeFleet([FakeHost(h.name) for h in spec.hosts])
        yield SimSession(settings, spec, Cancel(), emit, work_dir or tmp_path, fleet, kube, world=made)

    monkeypatch.setattr(run_app, "session", session)
    monkeypatch.setattr(run_app, "load_spec", lambda _: made.spec)
    monkeypatch.setattr(membership, "check_hosts", lambda *_: ())
    monkeypatch.setattr(membership, "bootstrap_arguments", arguments_for)
    for module in (membership, reset):
        monkeypatch.setattr(module, "make_deps", lambda *_, **__: None)
    monkeypatch.setattr("kops_py.actions.perform.ClusterPerformer", lambda _deps: made.cluster)
    return made


def test_removed_and_added_again(world: World) -> None:
    removed = world.remove("n3", "n5")
    assert (removed.exit_code, removed.errors) == (ExitCode.DONE, ())
    assert removed.hint.startswith("take out of the inventory: n3, n5 ")
    assert sorted(world.cluster.nodes) == ["n1", "n2", "n4"]
    assert sorted(world.cluster.etcd) == ["n1", "n2"]
    assert world.remove("n3", "n5").plan.has_changes is False
    added = world.add("n3", "n5")
    assert (added.exit_code, added.errors) == (ExitCode.DONE, ())
    assert sorted(world.cluster.nodes) == ["n1", "n2", "n3", "n4", "n5"]
    assert [p.operation for p in world.asked] == ["node-remove", "node-add"]


def test_a_lost_host_does_not_stop_its_own_removal(world: World) -> None:
    world.cluster.hosts["n5"] = HostFacts("n5", problem=UnreachableError("no connection", where="n5"))
    world.cluster.nodes["n5"] = dataclasses.replace(world.cluster.nodes["n5"], ready=False, reason="silent")
    assert world.remove("n5").exit_code is ExitCode.PREFLIGHT
    removed = world.remove("n5", lost=True)
    assert (removed.exit_code, removed.errors) == (ExitCode.DONE, ())
    assert "n5" not in world.cluster.nodes


@pytest.mark.parametrize("finding", ["last-control-plane", "etcd-quorum", "node-not-lost"])
def test_what_cannot_be_undone_is_not_ignored(world: World, finding: str) -> None:
    if finding == "etcd-quorum":
        world.cluster.etcd["n2"] = False
    names = ["n1", "n2", "n3"] if finding == "last-control-plane" else ["n1"]
    result = world.remove(*names, lost=finding == "node-not-lost", ignore=frozenset({finding, f"{finding}@n1"}))
    assert result.exit_code is ExitCode.PREFLIGHT
    assert finding in {f.id for f in result.findings if not f.ignored}
    assert world.cluster.applied == []


def test_a_name_the_inventory_lacks_is_not_added(world: World) -> None:
    with pytest.raises(ConfigError, match="n9: no host of the inventory"):
        world.add("n9")


def test_a_reset_needs_the_right_name_and_leaves_nothing(world: World) -> None:
    with pytest.raises(ConfigError, match="this is the cluster sim, not another"):
        world.reset("another")
    world.cluster.etcd.clear()  # kubeadm takes each member out by itself
    world.cluster.drained.update(world.cluster.nodes)
    done = world.reset("sim")
    assert (done.exit_code, done.errors) == (ExitCode.DONE, ())
    assert world.reset("sim").plan.has_changes is False
    lease = world.kube.object("/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/kops-py")
    assert not ((lease or {}).get("spec") or {}).get("holderIdentity"), "the lock in the cluster is held still"


def test_a_reinstalled_control_plane_is_added_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Etcd is asked only while a control plane without anything of a cluster on it is to join."""
    asked: list[bool] = []

    def observe(opened: SimSession) -> Facts:
        return dataclasses.replace(world.cluster.facts(), etcd=())

    def observe_etcd(opened: SimSession, facts: Facts) -> tuple[EtcdMember, ...]:
        asked.append(True)
        return world.cluster.facts().etcd

    monkeypatch.setattr(SimSession, "observe", observe)
    monkeypatch.setattr(SimSession, "observe_etcd", observe_etcd)
    assert not world.add("n2").plan.has_changes
    assert asked == []
    world.cluster.hosts["n2"] = HostFacts("n2", sudo=True)
    world.cluster.nodes["n2"] = dataclasses.replace(world.cluster.nodes["n2"], ready=False, reason="silent")
    world.cluster.etcd["n2"] = False
    added = world.add("n2")
    assert (added.exit_code, added.errors) == (ExitCode.DONE, ())
    assert [s for s in world.cluster.applied if s.endswith("/n2") and "network" not in s] == [
        "prepare/n2",
        "etcd/n2",
        "join/n2",
    ]
    assert world.cluster.etcd["n2"]
    asked.clear()
    assert not world.add("n2").plan.has_changes
    assert asked == []


def test_a_control_plane_whose_etcd_is_gone_is_not_taken_for_the_whole_of_etcd(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After its member was taken out, and before its reset: the manifest is there, the container is not."""
    dead = EtcdMember("n1", 0, "", healthy=False, problem="its container is not running")
    alive = (EtcdMember("n2", 2, "", healthy=True), EtcdMember("n3", 3, "", healthy=True))
    answers = {"n1": (dead,), "n2": alive, "n3": alive}
    monkeypatch.setattr("kops_py.observe.host_status.observe_etcd_cluster", lambda host: answers[host.name])
    fleet = FakeFleet([FakeHost(h.name) for h in world.spec.hosts])
    kube = cast(KubeAccess, Access(world.kube))
    opened = Session(world.settings(), world.spec, Cancel(), lambda _: None, world.folder, fleet, kube)
    assert opened.observe_etcd(world.cluster.facts()) == alive
    answers |= {"n2": (), "n3": ()}
    assert opened.observe_etcd(world.cluster.facts()) == (dead,)
