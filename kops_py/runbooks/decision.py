"""What every runbook returns."""

from __future__ import annotations

from dataclasses import dataclass

from kops_py.model.finding import Finding
from kops_py.model.plan import Plan


@dataclass(frozen=True, slots=True)
class Decision:
    """What a runbook decided: the plan, and what it found on the way."""

    plan: Plan
    findings: tuple[Finding, ...]
