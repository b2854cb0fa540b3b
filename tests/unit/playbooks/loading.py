"""Loads the filter plugins and modules of playbooks/ the way Ansible does: by file, outside of any package."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

PLAYBOOKS = Path(__file__).resolve().parents[3] / "playbooks"
DATA = Path(__file__).parent / "data"


def load(relative: str) -> ModuleType:
    """Return the Python file below playbooks/ as a module."""
    path = PLAYBOOKS / relative
    specification = importlib.util.spec_from_file_location(f"playbooks_{path.stem}", path)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def run_module(name: str, check_mode: bool = False, **arguments: Any) -> dict[str, Any]:
    """Run a module of playbooks/library as Ansible would; returns its answer."""
    given = {"ANSIBLE_MODULE_ARGS": {**arguments, "_ansible_check_mode": check_mode}}
    done = subprocess.run(
        [sys.executable, str(PLAYBOOKS / "library" / f"{name}.py")],
        input=json.dumps(given),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.stdout, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer
