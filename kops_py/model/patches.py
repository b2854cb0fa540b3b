"""What is known of the operating-system updates of hosts before they are patched."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from kops_py.model.errors import KopsError


class Selection(StrEnum):
    """Which updates are meant."""

    ALL = "all"
    SECURITY = "security"
    NAMED = "named"


class RebootPolicy(StrEnum):
    """When a host is restarted after its updates: if it asks for it, always, never."""

    AUTO = "auto"
    ALWAYS = "always"
    NEVER = "never"


@dataclass(frozen=True, slots=True, order=True)
class Update:
    """One package and the version it would get; ``installed`` is empty for one that an update brings along."""

    name: str
    installed: str
    candidate: str
    security: bool = False

    def __str__(self) -> str:
        return f"{self.name} {self.installed or '(new)'} → {self.candidate}"


@dataclass(frozen=True, slots=True)
class PatchFacts:
    """The pending updates of one host, and whether it asks for a restart already."""

    updates: tuple[Update, ...] = ()
    reboot_required: bool = False
    problem: KopsError | None = None
    """Why the host could not be asked; everything else is empty then."""
