"""docs/upgrade-findings.md lists every finding of upgrades and drains as the code has them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kops_py.model.finding import FindingKind, Severity
from kops_py.runbooks.preflight import CHECKS, OTHER_IDS, check_ignores
from kops_py.runbooks.upgrade_findings import DRAIN_KINDS, IDS, MEMBERSHIP_KINDS, UPGRADE_KINDS

PAGE = Path(__file__).resolve().parents[3] / "docs" / "upgrade-findings.md"


def table(kinds: tuple[FindingKind, ...]) -> str:
    lines = ["| Finding | Severity | Meaning | What to do |", "| --- | --- | --- | --- |"]
    for kind in kinds:
        cells = (f"`{kind.id}`", " or ".join(kind.severities), kind.meaning, kind.remedy)
        lines.append("| " + " | ".join(cell.replace("|", "\\|").replace("<", "&lt;") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize(
    ("name", "kinds"), [("upgrade", UPGRADE_KINDS), ("drain", DRAIN_KINDS), ("membership", MEMBERSHIP_KINDS)]
)
def test_page_lists_every_finding(name: str, kinds: tuple[FindingKind, ...]) -> None:
    begin, end = f"<!-- {name}: begin -->\n", f"<!-- {name}: end -->"
    text = PAGE.read_text()
    head, _, rest = text.partition(begin)
    found, _, tail = rest.partition(end)
    if os.environ.get("KOPS_UPDATE_DOCS"):
        PAGE.write_text(head + begin + table(kinds) + end + tail)
        found = table(kinds)
    assert found == table(kinds), "run: KOPS_UPDATE_DOCS=1 pytest tests/unit/runbooks/test_upgrade_docs.py"


def test_names_are_unique_and_may_be_ignored() -> None:
    assert len(IDS) == len(UPGRADE_KINDS) + len(DRAIN_KINDS) + len(MEMBERSHIP_KINDS)
    assert not IDS & ({check.id for check in CHECKS} | OTHER_IDS)
    check_ignores(sorted(IDS), {"n1"})


def test_a_kind_gives_only_its_severities() -> None:
    kind = FindingKind("x", (Severity.INFO,), "Meaning.", "Remedy.")
    assert kind.found("text", node="n1").hint == "Remedy."
    with pytest.raises(ValueError, match="never of severity error"):
        kind.found("text", severity=Severity.ERROR)
