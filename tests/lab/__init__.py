"""Booted Debian systems in Linux namespaces: the machines on which kops-py is tested.

`from tests.lab import Lab` is the whole interface for tests; `python -m tests.lab` is the same by hand.
Loaded lazily, because the supervisor of every node imports this package too and has to start fast.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .check import unavailable_reason
    from .config import LabError
    from .lab import Lab
    from .node import Node

__all__ = ["Lab", "LabError", "Node", "unavailable_reason"]

_HOMES = {"Lab": "lab", "LabError": "config", "Node": "node", "unavailable_reason": "check"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
