"""Decides which image archives a host needs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any


def missing_archives(index: Iterable[Mapping[str, Any]], images: Iterable[str], control_plane: bool) -> list[str]:
    """Return the files of ``images.json`` of which the host lacks an image."""
    there = set(images)
    return [
        str(entry["file"])
        for entry in index
        if (entry["for"] == "all" or control_plane) and not set(entry["refs"]) <= there
    ]


class FilterModule:
    """What Ansible loads."""

    def filters(self) -> dict[str, Any]:
        """Return the filters by name."""
        return {"kops_missing_archives": missing_archives}
