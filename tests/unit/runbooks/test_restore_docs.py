"""docs/etcd-restore.md lists every finding of a restore as the code has it."""

from __future__ import annotations

import os
from pathlib import Path

from kops_py.runbooks.etcd_restore_choice import IDS, KINDS
from kops_py.runbooks.preflight import CHECKS, OTHER_IDS, check_ignores
from kops_py.runbooks.upgrade_findings import IDS as UPGRADE_IDS
from tests.unit.runbooks.test_upgrade_docs import table

PAGE = Path(__file__).resolve().parents[3] / "docs" / "etcd-restore.md"


def test_page_lists_every_finding() -> None:
    begin, end = "<!-- restore: begin -->\n", "<!-- restore: end -->"
    text = PAGE.read_text()
    head, _, rest = text.partition(begin)
    found, _, tail = rest.partition(end)
    if os.environ.get("KOPS_UPDATE_DOCS"):
        PAGE.write_text(head + begin + table(KINDS) + end + tail)
        found = table(KINDS)
    assert found == table(KINDS), "run: KOPS_UPDATE_DOCS=1 pytest tests/unit/runbooks/test_restore_docs.py"


def test_names_are_unique_and_may_be_ignored() -> None:
    assert len(IDS) == len(KINDS)
    assert not IDS & ({check.id for check in CHECKS} | OTHER_IDS | UPGRADE_IDS)
    check_ignores(sorted(IDS), {"n1"})
