"""The reset command: a whole cluster down."""

from __future__ import annotations

from kops_py.app.bootstrap import make_deps
from kops_py.app.run import Decided, RunPlace, RunResult, run_operation
from kops_py.app.session import Confirm, Emit, Session, Settings, looking_at
from kops_py.model.errors import ConfigError
from kops_py.model.event import Note
from kops_py.model.facts import Facts
from kops_py.model.plan import Plan


def run_reset(settings: Settings, emit: Emit, confirm: Confirm, *, named: str) -> RunResult:
    """Reset every host; ``named`` must be the cluster's name when it is given. Raises KopsError before it starts."""

    def decide(opened: Session) -> Decided:
        from kops_py.actions.perform import ClusterPerformer
        from kops_py.runbooks.node_remove import REFUSALS
        from kops_py.runbooks.preflight import mark_ignored
        from kops_py.runbooks.reset import reset_cluster

        spec = opened.spec
        if named and named != spec.name:
            raise ConfigError(
                f"this is the cluster {spec.name}, not {named}",
                where="--yes-really",
                hint="look at -i: is it the inventory you mean?",
            )
        opened.emit(Note(message=looking_at(spec)))
        facts = opened.observe()
        decision = reset_cluster(spec, facts)

        def replan() -> tuple[Plan, Facts]:
            now = opened.observe()
            return reset_cluster(spec, now).plan, now

        def performer(place: RunPlace) -> ClusterPerformer:
            return ClusterPerformer(make_deps(opened, place, facts))

        ignored = {i for i in opened.ignored if i.partition("@")[0] not in REFUSALS}
        # The lock in the cluster goes down with it: it is looked at before the first step, and not held.
        return Decided(decision.plan, mark_ignored(decision.findings, ignored), replan, performer, keeps_lease=False)

    return run_operation(settings, emit, confirm, "reset", decide)
