"""Which workers are the canaries of a run, and whether they have been watched already.

The rule: what came between canaries and other workers is not done again when the last runs of the same operation,
with the same arguments, did not come to their end, say in their journals that it had ended well, and have left the
canaries with nothing to do. That they were watched cannot be seen on the cluster; without the runs' folder nothing is
known of it, and they are watched once more, which does no harm.
"""

from __future__ import annotations

import dataclasses
import json
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kops_py.app.runs import run_names
from kops_py.app.session import Session
from kops_py.model.plan import Plan

if TYPE_CHECKING:
    from kops_py.runbooks.rollout import Rollout


@dataclass(frozen=True, slots=True)
class Watched:
    """What unfinished runs tell: their canaries, and the steps after them that ended well."""

    canaries: tuple[str, ...] = ()
    passed: frozenset[str] = frozenset()


def settle_canaries(opened: Session, rollout: Rollout, plan: Plan) -> Rollout:
    """Return the rollout with its canaries; ``plan`` is the one without any. Decided once for a run."""
    from kops_py.runbooks.rollout import choose_canaries

    if not rollout.canary:
        return rollout
    earlier = _watched_earlier(opened.settings.run_dir / "runs", plan, opened.work_dir.name)
    pending = choose_canaries(plan, opened.spec, len(plan.steps))
    workers = {host.name for host in opened.spec.workers}
    known = tuple(name for name in earlier.canaries if name in workers)
    again = not frozenset(known).isdisjoint(pending)
    return dataclasses.replace(
        rollout,
        canaries=known or pending[: rollout.canary],
        passed=frozenset() if again or not known else earlier.passed,
    )


def with_passed(opened: Session, rollout: Rollout) -> Rollout:
    """Return the rollout with what this run has passed by now."""
    if not rollout.canaries:
        return rollout
    return dataclasses.replace(rollout, passed=rollout.passed | _passed(opened.work_dir))


def _watched_earlier(runs: Path, plan: Plan, current: str) -> Watched:
    found = Watched()
    for name in run_names(runs.parent):
        if name == current or f"-{plan.operation}-" not in name:
            continue
        with suppress(OSError, ValueError, KeyError, TypeError):
            kept = json.loads((runs / name / "plan.json").read_text(encoding="utf-8"))
            if kept["cluster"] != plan.cluster:
                continue
            if kept["arguments"] != dict(plan.arguments) or _ended_well(runs / name):
                break
            found = Watched(found.canaries or _canaries(kept), found.passed | _passed(runs / name))
    return found


def _canaries(plan: dict[str, Any]) -> tuple[str, ...]:
    """Return the canaries that a plan names where something comes between them and the others."""
    steps = [step["action"] for wave in plan["waves"] for step in wave["steps"] if not step["node"]]
    for action in steps:
        if action["kind"] in ("WatchCanary", "WaitGate"):
            return tuple(action.get("canaries") or action["nodes"])
    return ()


def _passed(folder: Path) -> frozenset[str]:
    """Return the steps between canaries and others that a run's journal says have ended well."""
    from kops_py.runbooks.rollout import WATCH

    return frozenset(
        str(r["step"])
        for r in _journal(folder)
        if r.get("kind") == "step-end" and r.get("result") == "done" and str(r["step"]).partition("@")[0] in WATCH
    )


def _ended_well(folder: Path) -> bool:
    return any(r.get("kind") == "run-end" and r.get("exit_code") == 0 for r in _journal(folder))


def _journal(folder: Path) -> list[dict[str, Any]]:
    from kops_py.engine.journal import read_journal

    try:
        return read_journal(folder / "journal.jsonl")
    except OSError:
        return []
