"""Plans, findings and errors as text for a person."""

from __future__ import annotations

import math
from collections.abc import Sequence

from kops_py.model.duration import spell_seconds
from kops_py.model.errors import ConfigError, KopsError
from kops_py.model.finding import Finding, Severity
from kops_py.model.plan import Plan
from kops_py.report.plain import clean, clean_line

_ORDER = {Severity.ERROR: 0, Severity.WARNING: 1, Severity.INFO: 2}


def plan_text(plan: Plan) -> str:
    """Return a plan as a table, wave by wave, with how long it may take and its digest."""
    lines = [f"Plan: {plan.operation} of cluster {plan.cluster}"]
    lines += [f"  {note}" for note in plan.notes]
    if not plan.has_changes:
        lines.append("  nothing to do")
    number = 0
    for wave in plan.waves:
        if wave.together or wave.max_parallel > 1:
            how = "side by side" if len(wave.steps) > 1 else ""
        else:
            how = "one at a time" if len(wave.steps) > 1 else ""
        lines.append("")
        lines.append(f"{wave.name}{f' ({how})' if how else ''}")
        width = max((len(s.node or "cluster") for s in wave.steps), default=0)
        for step in wave.steps:
            number += 1
            lines.append(f"  {number:3d}  {step.node or 'cluster':<{width}}  {step.title}")
            lines += [f"       {'':<{width}}    {detail}" for detail in step.details]
    lines.append("")
    if number:
        most = spell_seconds(math.ceil(plan.longest_s))
        lines.append(f"takes {most} at most, by the limits of its steps; --deadline sets less")
    lines.append(f"{many(number, 'step')}, digest {plan.digest}")
    return clean("\n".join(lines))


def findings_text(findings: Sequence[Finding]) -> str:
    """Return findings, the most severe first, each with what to do about it."""
    if not findings:
        return "no findings"
    lines = []
    for f in sorted(findings, key=lambda f: (f.ignored, _ORDER[f.severity], f.id, f.node)):
        label = "ignored" if f.ignored else str(f.severity)
        lines.append(f"{label:<8} {f.node or 'cluster'}: {clean_line(f.message)}  [{f.id}]")
        if f.hint and not f.ignored and f.severity is not Severity.INFO:
            lines.append(f"         -> {clean_line(f.hint)}")
    counted = {s: sum(1 for f in findings if f.severity is s and not f.ignored) for s in Severity}
    ignored = sum(1 for f in findings if f.ignored)
    lines.append(
        f"{many(counted[Severity.ERROR], 'error')}, {many(counted[Severity.WARNING], 'warning')}, "
        f"{many(counted[Severity.INFO], 'note')}" + (f", {ignored} ignored" if ignored else "")
    )
    return clean("\n".join(lines))


def many(count: int, word: str) -> str:
    """Return a number with its word in the right form."""
    return f"{count} {word}{'' if count == 1 else 's'}"


def error_text(error: KopsError, *, resume: str = "", log: str = "") -> str:
    """Return an error as what, where, why, and what to type next."""
    return errors_text((error,), resume=resume, log=log)


def errors_text(errors: Sequence[KopsError], *, resume: str = "", log: str = "") -> str:
    """Return errors as what, where, why, and what to type next; what hit several places alike is said once."""
    groups: dict[tuple[str, str, str], list[str]] = {}
    for error in errors:
        for one in (error, *(error.others if isinstance(error, ConfigError) else ())):
            groups.setdefault((one.what, one.why, one.hint), []).append(one.where)
    lines = []
    for (what, why, hint), places in groups.items():
        named = [p for p in dict.fromkeys(map(clean_line, places)) if p]
        said = clean(what).strip() or "it failed without a word"
        lines += _labelled("error: ", f"{', '.join(named)}: {said}" if named else said)
        lines += _labelled("  why:  ", why)
        lines += _labelled("  next: ", hint)
    lines += _labelled("  log:  ", log)
    lines += _labelled("  continue with: ", resume)
    return "\n".join(lines)


def _labelled(label: str, text: str) -> list[str]:
    """Return a text with its label; further lines are indented below it."""
    first, *more = clean(text).strip("\n").split("\n")
    if not (first or more):
        return []
    return [f"{label}{first}", *(f"{'':<{len(label)}}{line}" for line in more)]
