"""What a check found before anything is touched."""

from __future__ import annotations

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


def blocking(findings: tuple[Finding, ...]) -> tuple[Finding, ...]:
    """Return the findings that stop an operation."""
    return tuple(f for f in findings if f.severity is Severity.ERROR and not f.ignored)
