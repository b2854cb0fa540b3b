"""Which nodes an unfinished run of the same command has restarted already.

The rule: runs of the same operation on this cluster that asked for the same (updates, nodes, limit; not how nodes are
drained), the newest first, back to one that came to its end or was last at work too long ago. The newest of them that
was to restart a node tells of it: it has come to that step, and the node has left the boot id of the plan. Without the
runs' folder nothing is known, and a node is restarted a second time, which does no harm.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kops_py.app.runs import read_run, run_names

if TYPE_CHECKING:
    from kops_py.app.session import Session
    from kops_py.model.facts import Facts
    from kops_py.model.patches import PatchFacts
    from kops_py.report.history import RunHistory

RESUMED_WITHIN_S = 24 * 3600.0
"""A run that was last at work longer ago is not gone on with: the same command then is a new wish."""


def restarted_earlier(opened: Session, facts: Facts, operation: str, asked: Mapping[str, str]) -> dict[str, str]:
    """Return the nodes that unfinished runs of the same command have restarted, with the run; raises ConfigError.

    ``asked`` are the arguments of the plan of that command.
    """
    runs = opened.settings.run_dir / "runs"
    told: dict[str, str] = {}
    for name in run_names(opened.settings.run_dir):
        if name == opened.work_dir.name or f"-{operation}-" not in name:
            continue
        run = read_run(runs / name)
        if run.cluster != opened.spec.name or dict(run.arguments) != dict(asked):
            continue
        last_s = run.last_s if run.last_s is not None else run.began_s
        if run.exit_code == 0 or last_s is None or time.time() - last_s > RESUMED_WITHIN_S:
            break
        for node, left in _boot_ids_to_leave(runs / name).items():
            told.setdefault(node, name if _was_restarted(run, facts, node, left) else "")
    return {node: name for node, name in told.items() if name}


def held_for_restarted(restarted: Mapping[str, str], patches: Mapping[str, PatchFacts]) -> dict[str, str]:
    """Return those of ``restarted`` that have nothing pending since: neither updates nor a restart they ask for."""
    found = {}
    for node, run in restarted.items():
        now = patches.get(node)
        if now is None or not (now.updates or now.reboot_required):
            found[node] = run
    return found


def _was_restarted(run: RunHistory, facts: Facts, node: str, left: str) -> bool:
    began = any(s.id == f"reboot/{node}" and s.began_s is not None for s in run.steps)
    return began and node in facts.hosts and facts.hosts[node].boot_id not in ("", left)


def _boot_ids_to_leave(folder: Path) -> dict[str, str]:
    """Return the boot id that each node was to leave by the plan of a run; empty when it has none."""
    found: dict[str, str] = {}
    with suppress(OSError, ValueError, KeyError, TypeError):
        plan: dict[str, Any] = json.loads((folder / "plan.json").read_text(encoding="utf-8"))
        actions = [step["action"] for wave in plan["waves"] for step in wave["steps"]]
        found |= {str(a["node"]): str(a["boot_id"]) for a in actions if a["kind"] == "RebootNode"}
    return found
