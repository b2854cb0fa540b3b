"""The upgrade command: from one version of Kubernetes to another, node by node."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kops_py.app.run import Decided, RunPlace, RunResult, run_operation
from kops_py.app.session import Confirm, Emit, Session, Settings, looking_at
from kops_py.model.errors import ConfigError, KubeError
from kops_py.model.event import Note
from kops_py.model.facts import Facts
from kops_py.model.plan import Plan
from kops_py.model.spec import ClusterSpec
from kops_py.model.version import Version

if TYPE_CHECKING:
    from kops_py.runbooks.rollout import Rollout
    from kops_py.runbooks.upgrade import UpgradeArguments


@dataclass(frozen=True, slots=True)
class RolloutSettings:
    """What the command line says about taking nodes out of service; None: what cluster.yaml says."""

    max_unavailable: str | None = None
    max_failures: int | None = None
    canary: int = 0
    all_at_once: bool = False
    drain_timeout_s: float | None = None
    grace_period_s: int | None = None
    delete_empty_dir_data: bool = False
    force: bool = False
    disable_eviction: bool = False


def run_upgrade(
    settings: Settings,
    emit: Emit,
    confirm: Confirm,
    *,
    target: Version | None,
    via: Mapping[int, Version],
    rollout: RolloutSettings,
) -> RunResult:
    """Upgrade the cluster to ``target`` (None: what cluster.yaml says); raises KopsError before it starts.

    ``via`` maps each minor in between to the release to go through.
    """

    def decide(opened: Session) -> Decided:
        return _decide(opened, target or opened.spec.kubernetes.version, via, rollout)

    return run_operation(settings, emit, confirm, "upgrade", decide)


def _decide(opened: Session, target: Version, via: Mapping[int, Version], rollout: RolloutSettings) -> Decided:
    from kops_py.actions.gates import unavailable_workloads
    from kops_py.actions.perform import ClusterPerformer
    from kops_py.runbooks.preflight import mark_ignored
    from kops_py.runbooks.upgrade import upgrade

    spec = opened.spec
    opened.emit(Note(message=looking_at(spec)))
    facts = _observe(opened)
    arguments = _arguments(spec, facts, target, via, rollout)
    decision = upgrade(spec, facts, arguments)
    short = frozenset(unavailable_workloads(opened.kube.api())) if facts.kube else frozenset[str]()

    def replan() -> tuple[Plan, Facts]:
        now = opened.observe()  # etcd is not asked again: the order of the control planes is decided once
        return upgrade(spec, now, arguments).plan, now

    def performer(place: RunPlace) -> ClusterPerformer:
        from kops_py.app.bootstrap import make_deps

        return ClusterPerformer(make_deps(opened, place, facts, short_before=short))

    return Decided(decision.plan, mark_ignored(decision.findings, opened.ignored), replan, performer)


def _observe(opened: Session) -> Facts:
    """Look at hosts, cluster and etcd."""
    facts = opened.observe()
    return dataclasses.replace(facts, etcd=opened.observe_etcd(facts))


def _arguments(
    spec: ClusterSpec, facts: Facts, target: Version, via: Mapping[int, Version], given: RolloutSettings
) -> UpgradeArguments:
    from kops_py.connect.ansible import playbooks_fingerprint
    from kops_py.runbooks.upgrade import UpgradeArguments, plan_order
    from kops_py.tools.preparation import stage_digest

    hops = _hops(facts, target, via)
    fingerprint = playbooks_fingerprint()
    return UpgradeArguments(
        hops=hops,
        rollout=dataclasses.replace(make_rollout(spec, given), order=plan_order(spec, facts, hops[0])),
        stage_digests={str(v): {h.name: stage_digest(spec, h, v, fingerprint) for h in spec.nodes} for v in hops},
    )


def make_rollout(spec: ClusterSpec, given: RolloutSettings) -> Rollout:
    """Return how nodes are taken out of service: cluster.yaml's settings with the command line's over them."""
    from kops_py.model.drain import DrainPolicy
    from kops_py.runbooks.rollout import Rollout

    own = spec.maintenance
    if given.max_unavailable is not None:
        own = dataclasses.replace(own, max_unavailable=given.max_unavailable)
    drain: DrainPolicy = dataclasses.replace(
        own.drain,
        timeout_s=own.drain.timeout_s if given.drain_timeout_s is None else given.drain_timeout_s,
        grace_period_s=own.drain.grace_period_s if given.grace_period_s is None else given.grace_period_s,
        delete_empty_dir_data=own.drain.delete_empty_dir_data or given.delete_empty_dir_data,
        force=own.drain.force or given.force,
        disable_eviction=given.disable_eviction,
    )
    workers = len(spec.workers)
    return Rollout(
        drain=drain,
        window=max(1, workers) if given.all_at_once else own.window(workers),
        max_failures=own.max_failures if given.max_failures is None else given.max_failures,
        canary=given.canary,
        limit=spec.limit or frozenset(),
    )


def _hops(facts: Facts, target: Version, via: Mapping[int, Version]) -> tuple[Version, ...]:
    """Return the versions to go through; raises ConfigError where there is no way, KubeError without an API."""
    if facts.kube is None:
        raise facts.kube_problem or KubeError("there is no cluster to upgrade", hint="kops-py bootstrap builds one")
    current = facts.kube.server_version
    # The oldest of all counts: an upgrade that was interrupted between two minors has workers at the one before.
    for text in (facts.kube.kubernetes_version, *(node.version for node in facts.kube.nodes.values())):
        with suppress(ValueError):
            current = min(current, Version.parse(text.partition("+")[0]))
    if target < current:
        raise ConfigError(
            f"{target} is older than the cluster, which runs {current}",
            hint="Kubernetes cannot be downgraded; a backup taken before the upgrade can be restored",
        )
    missing = [m for m in range(current.minor + 1, target.minor) if m not in via]
    if missing:
        names = ", ".join(f"v1.{m}" for m in missing)
        raise ConfigError(
            f"from {current} to {target} leads through {names}",
            why="no minor may be skipped",
            hint=" ".join(f"--via v1.{m}.X" for m in missing),
        )
    return (*(via[m] for m in range(current.minor + 1, target.minor)), target)
