"""etcd status, members and defrag."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from kops_py.app.run import Decided, RunPlace, RunResult, run_operation
from kops_py.app.session import Confirm, Emit, Session, Settings, load_spec, looking_at, session
from kops_py.model.errors import KubeError
from kops_py.model.etcd import EtcdFacts
from kops_py.model.event import Event, Note
from kops_py.model.facts import Facts
from kops_py.model.finding import Finding
from kops_py.model.plan import Plan

if TYPE_CHECKING:
    from kops_py.actions.perform import ClusterPerformer


def run_etcd_status(settings: Settings) -> tuple[EtcdFacts, tuple[Finding, ...]]:
    """Ask etcd about its members, with or without an API server; changes nothing. Raises EtcdError."""
    from kops_py.runbooks.etcd import member_findings

    spec = load_spec(settings)
    with session(settings, spec, _ignore) as opened:
        facts = observe(opened, with_nodes=True)
    return facts, member_findings(facts)


def run_defrag(settings: Settings, emit: Emit, confirm: Confirm, *, min_free_percent: int) -> RunResult:
    """Defragment the members that have enough free space, one at a time, the leader last; raises KopsError."""

    def decide(opened: Session) -> Decided:
        from kops_py.runbooks.etcd import DefragArguments, defrag, defrag_order
        from kops_py.runbooks.preflight import mark_ignored

        opened.emit(Note(message=looking_at(opened.spec)))
        facts = observe(opened)
        arguments = DefragArguments(defrag_order(facts), min_free_percent)
        decision = defrag(opened.spec, facts, arguments)

        def replan() -> tuple[Plan, Facts]:
            return defrag(opened.spec, observe(opened), arguments).plan, opened.observe()

        return Decided(
            decision.plan, mark_ignored(decision.findings, opened.ignored), replan, lambda p: _performer(opened, p)
        )

    return run_operation(settings, emit, confirm, "defrag", decide)


def observe(opened: Session, *, with_nodes: bool = False) -> EtcdFacts:
    """Return what etcd says of itself; ``with_nodes``: with the API's nodes beside it, where it answers."""
    from kops_py.observe.etcd import etcd_targets, observe_etcd

    facts = observe_etcd(opened.fleet, etcd_targets(opened.spec), cancel=opened.cancel)
    if not with_nodes or opened.spec.external_etcd or not facts.has_quorum:
        return facts
    try:
        nodes = frozenset(str(n["metadata"]["name"]) for n in opened.kube.api().items("/api/v1/nodes"))
    except KubeError:
        return facts
    return dataclasses.replace(facts, nodes=nodes)


def _performer(opened: Session, place: RunPlace) -> ClusterPerformer:
    from kops_py.actions.perform import ClusterPerformer
    from kops_py.app.bootstrap import make_deps

    return ClusterPerformer(make_deps(opened, place, Facts(hosts={})))


def _ignore(_event: Event) -> None:
    """Nobody listens."""
