"""What the operator puts around the work on a node: hooks, gates, and groups of workers.

None of it may hold a secret: plan, journal and reports show it. A command reads its secrets itself, from its
environment or a file.
"""

from __future__ import annotations

import shlex
import textwrap
from dataclasses import dataclass
from enum import StrEnum

_SHOWN = 100


class Side(StrEnum):
    """Where a command of the operator runs."""

    CONTROLLER = "controller"
    """On the machine kops-py runs on, as its user, in the folder of cluster.yaml."""
    NODE = "node"
    """On the node it is about, as root."""


@dataclass(frozen=True, slots=True)
class OperatorCommand:
    """A command of the operator, run without a shell; ``timeout_s`` is for one run of it."""

    argv: tuple[str, ...]
    on: Side = Side.CONTROLLER
    timeout_s: float = 60.0

    def __str__(self) -> str:
        """Return the command on one line, shortened."""
        return textwrap.shorten(shlex.join(self.argv), _SHOWN, placeholder=" ...")


@dataclass(frozen=True, slots=True)
class HttpCheck:
    """A URL that has to answer; redirects are not followed. ``timeout_s`` is for one try."""

    url: str
    status: tuple[int, ...] = ()
    """Statuses that are right; empty: 200 to 299."""
    contains: str = ""
    """Text that has to be in the body; empty: whatever body."""
    ca_file: str | None = None
    """File with the authorities to trust; None: the system's."""
    insecure: bool = False
    """Whether the certificate is not looked at."""
    timeout_s: float = 10.0

    def __str__(self) -> str:
        return f"GET {self.url}"


@dataclass(frozen=True, slots=True)
class Gate:
    """What has to be true before the next node: asked every ``interval_s`` for at most ``deadline_s``."""

    name: str
    check: OperatorCommand | HttpCheck
    deadline_s: float = 600.0
    interval_s: float = 5.0


@dataclass(frozen=True, slots=True)
class Hooks:
    """Commands around the work on every node, in order: before its cordon, and when it is back."""

    before: tuple[OperatorCommand, ...] = ()
    after: tuple[OperatorCommand, ...] = ()


@dataclass(frozen=True, slots=True)
class CanarySpec:
    """Workers that go first, and what has to happen before the others."""

    count: int = 0
    pause_s: float = 0.0
    """For how long the canaries are watched before any other worker is begun; 0: not at all."""
    gate: Gate | None = None


@dataclass(frozen=True, slots=True)
class GroupSpec:
    """Workers with a window of their own; a worker belongs to the first group that it fits.

    ``hosts`` are the members of ``inventory_group``; without one ``selector`` decides.
    """

    name: str
    max_unavailable: str
    selector: str = ""
    inventory_group: str | None = None
    hosts: frozenset[str] = frozenset()


def window_of(max_unavailable: str, workers: int) -> int:
    """Return how many of so many workers may be out of service at once: a number or a share, at least one."""
    text = max_unavailable
    wanted = workers * int(text[:-1]) // 100 if text.endswith("%") else int(text)
    return max(1, min(wanted, workers))
