"""docs/soak.md says what was run, when and on which commit, and does not hide what was not."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import soak
from tests.run import options

A, B, C = "tests/e2e/test_a.py::test_one[n1-kill]", "tests/e2e/test_a.py::test_two", "tests/unit/test_b.py::test_three"
FIRST = soak.Record(A, "passed", 98, "2026-01-02 03:04 UTC", "abc1234", "[   6.8 s] killed\n[  94.1 s] finished")
JUNIT = (
    '<testsuites><testsuite><testcase name="t">{inside}'
    "<system-out>noise\n[   6.8 s] killed at 'n3'\nfigure: 300 examples\n</system-out>"
    "</testcase></testsuite></testsuites>"
)


def test_a_record_outlasts_later_runs_of_other_tests(tmp_path: Path) -> None:
    document = tmp_path / "soak.md"
    soak.keep(document, FIRST, [A, B, C])
    soak.keep(document, soak.Record(B, "failed", 5, "2026-01-03 03:04 UTC", "def5678+changes"), [A, B, C])
    text = document.read_text()
    assert soak.read_records(text)[A] == FIRST
    assert soak.read_records(text)[B].said == ""
    assert "1 of 3 passed, 1 did not, 1 not run; 2 minutes together, 2 commit(s)." in text
    assert "| `test_one[n1-kill]` | passed | 98 | 2026-01-02 03:04 UTC | abc1234 |" in text
    assert "| `test_three` | not run | | | |" in text
    soak.keep(document, soak.Record(B, "passed", 6, "2026-01-04 03:04 UTC", "def5679"), [A, B, C])
    assert soak.read_records(document.read_text())[B].outcome == "passed"
    assert document.read_text().count("## `") == 2


def test_a_test_that_is_no_longer_there_is_no_longer_told_of(tmp_path: Path) -> None:
    document = tmp_path / "soak.md"
    soak.keep(document, FIRST, [A, B])
    soak.keep(document, soak.Record(B, "passed", 5, "2026-01-03 03:04 UTC", "def5678"), [B])
    assert set(soak.read_records(document.read_text())) == {B}


@pytest.mark.parametrize(
    ("inside", "code", "outcome"),
    [
        ("", 0, "passed"),
        ('<failure message="x"/>', 1, "failed"),
        ("", 1, "failed"),  # its teardown failed in a way JUnit does not hold
        ('<error message="leak"/>', 1, "failed"),
    ],
)
def test_outcome_and_own_lines_are_read(tmp_path: Path, inside: str, code: int, outcome: str) -> None:
    path = tmp_path / "junit.xml"
    path.write_text(JUNIT.format(inside=inside))
    assert soak.read_junit(path, code) == (outcome, "[   6.8 s] killed at 'n3'\nfigure: 300 examples")


def test_a_skip_says_why_and_no_report_is_no_pass(tmp_path: Path) -> None:
    path = tmp_path / "junit.xml"
    path.write_text(JUNIT.format(inside='<skipped message="not root"/>'))
    assert soak.read_junit(path, 0) == ("skipped", "not root")
    assert soak.read_junit(tmp_path / "none.xml", 0) == ("broken", "")
    assert soak.read_junit(tmp_path / "none.xml", 2) == ("interrupted", "")


def test_words_choose_and_an_unknown_word_is_refused() -> None:
    assert soak.chosen([A, B, C], []) == [A, B, C]
    assert soak.chosen([A, B, C], ["kill", "three"]) == [A, C]
    with pytest.raises(SystemExit, match="named like nothing"):
        soak.chosen([A, B, C], ["nothing"])


def test_options_are_taken_out_of_the_arguments() -> None:
    assert options(["soak", "--only", "a", "--write", "x", "--only", "b"], "--only") == (
        ["a", "b"],
        ["soak", "--write", "x"],
    )
