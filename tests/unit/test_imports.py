"""The arrows between rooms: imports go only downwards."""

from __future__ import annotations

import ast
from pathlib import Path

import kops_py

ROOT = Path(kops_py.__file__).parent

MAY_IMPORT: dict[str, set[str]] = {
    "model": set(),
    "tools": {"model"},
    "config": {"model"},
    "connect": {"model"},
    "runbooks": {"model"},
    "report": {"model"},
    "observe": {"connect", "tools", "model"},
    "engine": {"connect", "model"},
    "backup": {"connect", "model"},
    "actions": {"backup", "connect", "tools", "model", "observe", "engine"},
    "app": {"actions", "backup", "config", "connect", "engine", "model", "observe", "report", "runbooks", "tools"},
    "cli": {"app", "report", "model", "config"},
}
"""Besides the design's table: actions wait with what observe sees, write backups, and speak the engine's StepContext;
cli maps errors of model to exit codes, and its files-only commands call config."""


HEAVY = {
    "kubernetes",
    "paramiko",
    "fabric",
    "ansible_runner",
    "msgspec",
    "pydantic",
    "rich",
    "cryptography",
    "jinja2",
    "yaml",
    "obstore",
    "pyrage",
    "backports.zstd",
}
"""Imported inside functions (or only in files that are): ``--help`` must not pay for them."""


def imports_of(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found.add(node.module)
        elif isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        assert not (isinstance(node, ast.ImportFrom) and node.level), f"relative import in {path}"
    return found


def test_rooms_import_only_downwards() -> None:
    wrong = []
    for path in ROOT.rglob("*.py"):
        room = path.relative_to(ROOT).parts[0]
        if room == "__init__.py" or room == "_data":
            continue
        assert room in MAY_IMPORT, f"{path} is in no room"
        for name in imports_of(path):
            parts = name.split(".")
            if parts[0] == "kops_py" and len(parts) > 1 and parts[1] not in MAY_IMPORT[room] | {room}:
                wrong.append(f"{path.relative_to(ROOT)} imports {name}")
    assert not wrong


def test_the_engine_takes_only_cancel_from_connect() -> None:
    for path in (ROOT / "engine").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("kops_py.connect"):
                assert node.module == "kops_py.connect.base"
                assert [a.name for a in node.names] == ["Cancel"]


def test_help_and_validate_of_the_command_line_import_nothing_heavy() -> None:
    import subprocess
    import sys

    code = (
        "import sys; from kops_py.cli.main import run; run(['--help']); run(['bootstrap', '--help']); "
        f"print('HEAVY', sorted({HEAVY!r} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert "HEAVY []" in done.stdout
