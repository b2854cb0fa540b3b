"""docs/preflight.md lists every check, with its severity, meaning and remedy, as the code has them."""

from __future__ import annotations

import os
from pathlib import Path

from kops_py.runbooks.preflight import CHECKS, OTHER_IDS

PAGE = Path(__file__).resolve().parents[3] / "docs" / "preflight.md"
BEGIN, END = "<!-- checks: begin -->\n", "<!-- checks: end -->"


def table() -> str:
    lines = ["| Finding | Severity | Meaning | What to do |", "| --- | --- | --- | --- |"]
    for check in CHECKS:
        cells = (f"`{check.id}`", " or ".join(check.severities), check.meaning, check.remedy)
        lines.append("| " + " | ".join(cell.replace("|", "\\|").replace("<", "&lt;") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def test_page_lists_every_check() -> None:
    text = PAGE.read_text()
    head, _, rest = text.partition(BEGIN)
    found, _, tail = rest.partition(END)
    if os.environ.get("KOPS_UPDATE_DOCS"):
        PAGE.write_text(head + BEGIN + table() + END + tail)
        found = table()
    assert found == table(), "run: KOPS_UPDATE_DOCS=1 pytest tests/unit/runbooks/test_preflight_docs.py"


def test_page_names_the_findings_of_other_runbooks() -> None:
    text = PAGE.read_text()
    assert all(f"`{name}`" in text for name in OTHER_IDS)
