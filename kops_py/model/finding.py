"""What a check found before anything is touched."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum


class Severity(StrEnum):
    """How much a finding matters: errors stop an operation, warnings are shown, info is context."""

    ERROR = "error"
    WARNING = "warning"
    INFO = "info"


@dataclass(frozen=True, slots=True, order=True)
class Finding:
    """One named result of a check.

    ``id`` is stable and kebab-case (``swap-on``): it is what ``--ignore`` and ``preflight.ignore`` name.
    ``node`` is the inventory name of the host, or "" for the cluster as a whole.
    """

    severity: Severity
    id: str
    node: str
    message: str
    hint: str = ""
    ignored: bool = False

    def to_json(self) -> dict[str, str | bool]:
        """Return the finding as a JSON object."""
        return {
            "id": self.id,
            "severity": str(self.severity),
            "node": self.node,
            "message": self.message,
            "hint": self.hint,
            "ignored": self.ignored,
        }


@dataclass(frozen=True, slots=True)
class FindingKind:
    """A finding that may come up, as the documentation lists it; the first of ``severities`` is the usual one."""

    id: str
    severities: tuple[Severity, ...]
    meaning: str
    remedy: str

    def found(self, message: str, *, node: str = "", severity: Severity | None = None, hint: str = "") -> Finding:
        """Return a finding of this kind; raises ValueError for a severity it does not have."""
        chosen = severity or self.severities[0]
        if chosen not in self.severities:
            raise ValueError(f"{self.id} is never of severity {chosen}")
        return Finding(chosen, self.id, node, message, hint or self.remedy)


def few(names: Iterable[str], shown: int = 3) -> str:
    """Return the first few names and how many more there are: ``a, b, c and 4 more``."""
    every = list(names)
    rest = len(every) - shown
    return ", ".join(every[:shown]) + (f" and {rest} more" if rest > 0 else "")


SHOWN = 25
"""How many findings of one kind are shown one by one; the rest share one."""


def capped(findings: Iterable[Finding]) -> Iterator[Finding]:
    """Return findings of one kind, those beyond the first ``SHOWN`` in one line; an error stays one."""
    every = list(findings)
    yield from every[:SHOWN]
    rest = sorted(every[SHOWN:], key=lambda f: list(Severity).index(f.severity))
    if rest:
        words = few((_subject(f) for f in rest), 5)
        yield Finding(rest[0].severity, rest[0].id, "", f"the same holds for {len(rest)} more: {words}", rest[0].hint)


def _subject(finding: Finding) -> str:
    head, detailed, _ = finding.message.partition(" (")
    return head if detailed or not finding.node else finding.node


def blocking(findings: tuple[Finding, ...]) -> tuple[Finding, ...]:
    """Return the findings that stop an operation."""
    return tuple(f for f in findings if f.severity is Severity.ERROR and not f.ignored)
