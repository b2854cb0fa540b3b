"""A cluster under an upgrade or a patch as its nodes show it: facts out, steps in; strict about their order."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from kops_py.model.actions import (
    UPGRADE_JOB,
    CordonNode,
    DrainNode,
    FinishNode,
    InstallPackages,
    InstallUpdates,
    MarkUnfinished,
    RebootNode,
    RunHook,
    StageUpgrade,
    UncordonNode,
    UpgradeWithKubeadm,
    WaitGate,
    WaitNode,
    WaitWorkloads,
    WatchCanary,
)
from kops_py.model.cordon import CORDONED, UNFINISHED
from kops_py.model.drain import DrainPolicy
from kops_py.model.facts import Facts, HostFacts, JobState, KubeFacts, NodeFacts
from kops_py.model.hooks import Gate, Hooks, OperatorCommand
from kops_py.model.patches import PatchFacts, RebootPolicy, Update
from kops_py.model.plan import Plan, Step
from kops_py.model.spec import ClusterSpec
from kops_py.model.version import Version
from kops_py.runbooks.patch import PatchArguments, patch
from kops_py.runbooks.rollout import Rollout
from kops_py.runbooks.upgrade import UpgradeArguments, upgrade
from tests.fakes.cluster import make_spec

OLD = Version(1, 30, 4)
HOPS = (Version(1, 31, 2), Version(1, 32, 1))
GATE = Gate("shop", OperatorCommand(("check-shop",)))
HOOKS = Hooks((OperatorCommand(("silence", "on")),), (OperatorCommand(("silence", "off")),))
_MARK = json.dumps({"by": "ann", "run": "20261120T101112Z-upgrade-1a2b", "at": "2026-11-20T10:11:12Z"})
_COMPONENTS = ("kube-apiserver", "kube-controller-manager", "kube-scheduler")


def rollout_spec(control_planes: int, workers: int, *, hooks: bool = True, gates: bool = True) -> ClusterSpec:
    spec = make_spec(control_planes, workers, version=OLD)
    own = dataclasses.replace(spec.maintenance, hooks=HOOKS if hooks else Hooks(), gates=(GATE,) if gates else ())
    return dataclasses.replace(spec, maintenance=own)


@dataclass
class World:
    """What the runbooks read; ``perform`` does to it what a step would do to the real one."""

    spec: ClusterSpec
    rollout: Rollout
    hops: tuple[Version, ...] = HOPS
    persons: frozenset[str] = frozenset()
    """Nodes that a person has cordoned."""
    hosts: dict[str, HostFacts] = field(default_factory=dict)
    nodes: dict[str, NodeFacts] = field(default_factory=dict)
    updates: dict[str, tuple[Update, ...]] = field(default_factory=dict)
    stored: str = str(OLD)
    passed: set[str] = field(default_factory=set)
    ran: list[tuple[str, str]] = field(default_factory=list)
    """Node and ``before``, ``after`` or ``gate`` of what the operator's commands were run for."""
    drained: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        images = {c: f"registry/{c}:{OLD}" for c in _COMPONENTS}
        for number, host in enumerate(self.spec.nodes):
            packages = dict.fromkeys(("kubeadm", "kubelet", "kubectl"), f"{OLD.bare}-1.1")
            self.hosts[host.name] = HostFacts(
                host.name,
                boot_id=f"boot-{number}",
                packages=packages,
                static_images=images if host.is_control_plane else {},
            )
            self.nodes[host.name] = NodeFacts(
                host.name, True, "", str(OLD), host.node_ip, unschedulable=host.name in self.persons
            )
            self.updates[host.name] = (Update("bash", "5.1", "5.2"),)

    def facts(self) -> Facts:
        server = Version.parse(self.stored)
        return Facts(dict(self.hosts), KubeFacts(server, dict(self.nodes), True, True, True, "", "", self.stored))

    def upgrade_plan(self) -> Plan:
        rollout = dataclasses.replace(self.rollout, passed=self.rollout.passed | self.passed)
        return upgrade(self.spec, self.facts(), UpgradeArguments(self.hops, rollout, _digests(self))).plan

    def patch_plan(self) -> Plan:
        rollout = dataclasses.replace(self.rollout, passed=self.rollout.passed | self.passed)
        boots = {h.name: f"boot-{n}" for n, h in enumerate(self.spec.nodes)}
        arguments = PatchArguments(rollout, RebootPolicy.ALWAYS, boot_ids=boots)
        found = {name: PatchFacts(updates) for name, updates in self.updates.items()}
        return patch(self.spec, self.facts(), found, arguments).plan

    def perform(self, step: Step) -> None:
        """Change what this step changes; refuse one whose ground is missing."""
        name = step.node
        match step.action:
            case StageUpgrade(digest=digest):
                self._host(name, staged_digest=digest)
            case MarkUnfinished():
                self._mark(name, UNFINISHED, _MARK)
            case RunHook(when=when):
                assert when == "after" or not self.nodes[name].unschedulable or name in self.persons
                self.ran.append((name, when))
            case InstallPackages(packages=packages, version=version):
                assert "kubelet" not in packages or name in self.drained, f"{name} is not drained"
                bare = Version.parse(version).bare
                self._host(name, packages={**self.hosts[name].packages, **dict.fromkeys(packages, f"{bare}-1.1")})
                if "kubelet" in packages:
                    self.nodes[name] = dataclasses.replace(self.nodes[name], version=version)
                else:
                    self._host(name, jobs={})
            case UpgradeWithKubeadm(version=version, apply=apply, control_plane=control_plane):
                self._host(name, jobs={UPGRADE_JOB: JobState.SUCCEEDED})
                if control_plane:
                    self._host(name, static_images={c: f"registry/{c}:{version}" for c in _COMPONENTS})
                self.stored = version if apply else self.stored
            case CordonNode():
                self._mark(name, CORDONED, _MARK)
                self.nodes[name] = dataclasses.replace(self.nodes[name], unschedulable=True)
            case DrainNode():
                assert self.nodes[name].unschedulable
                self.drained.add(name)
            case InstallUpdates():
                assert name in self.drained
                self.updates[name] = ()
            case RebootNode():
                assert name in self.drained
                self._host(name, boot_id=f"{self.hosts[name].boot_id}-again")
            case UncordonNode(unfinished=unfinished):
                self._mark(name, CORDONED, None)
                self._mark(name, UNFINISHED, _MARK if unfinished else None)
                self.nodes[name] = dataclasses.replace(self.nodes[name], unschedulable=False)
                self.drained.discard(name)
            case FinishNode():
                self._mark(name, UNFINISHED, None)
                self.drained.discard(name)
            case WaitGate(nodes=nodes) if name:
                assert nodes == (name,)
                self.ran.append((name, "gate"))
            case WaitNode(version=version):
                assert self.nodes[name].version == version
            case WatchCanary() | WaitGate():
                self.passed.add(step.id)
            case WaitWorkloads():
                pass
            case _:
                raise AssertionError(f"no such step in a rollout: {step.action}")

    def _host(self, name: str, **changes: Any) -> None:
        frozen: dict[str, Any] = {k: MappingProxyType(v) if isinstance(v, dict) else v for k, v in changes.items()}
        self.hosts[name] = dataclasses.replace(self.hosts[name], **frozen)

    def _mark(self, name: str, key: str, value: str | None) -> None:
        kept = {k: v for k, v in self.nodes[name].annotations.items() if k != key}
        self.nodes[name] = dataclasses.replace(
            self.nodes[name], annotations={**kept, **({} if value is None else {key: value})}
        )


def _digests(world: World) -> Mapping[str, Mapping[str, str]]:
    return {str(v): {h.name: f"staged-{v}" for h in world.spec.nodes} for v in world.hops}


def a_rollout(**changes: Any) -> Rollout:
    return Rollout(**{"drain": DrainPolicy(), **changes})
