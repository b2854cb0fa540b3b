"""Workers share the integration tests by what is started once: a folder, or a file beside the folders, is on one."""

from __future__ import annotations

from pathlib import Path

import pytest

_LONGEST_FIRST = ("ansible", "preflight", "kube", "ssh", "etcd", "backup")
"""Folders in the order they are begun in, so that no worker is left with a long one at the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep the tests of a folder, or of a file beside the folders, together."""
    here = Path(__file__).parent
    own = {id(item): item.path.relative_to(here).parts[0] for item in items if here in item.path.parents}

    def place(item: pytest.Item) -> int:
        name = own.get(id(item), "")
        return -1 if not name else _LONGEST_FIRST.index(name) if name in _LONGEST_FIRST else len(_LONGEST_FIRST)

    items.sort(key=place)  # stable: within a folder the order stays
    for item in items:
        if name := own.get(id(item)):
            item.add_marker(pytest.mark.xdist_group(name))
