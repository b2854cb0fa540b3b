"""``make soak``: every long test alone, one after the other; what came of it is kept in docs/soak.md.

The file is written after each test, so that a soak that is stopped has told the truth so far. Tests that were not
run now keep what is written of them, with its date and commit; those never run are named.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PYTEST = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "soak"]

_SECTION = re.compile(
    r"^## `(?P<name>\S+)`\n\n(?P<outcome>\w+), (?P<duration_s>\d+) s, (?P<date>.+? UTC), commit (?P<commit>\S+)\n"
    r"(?:\n```\n(?P<said>.*?)\n```\n)?",
    re.MULTILINE | re.DOTALL,
)
_SAID = re.compile(r"^(?:\[ *\d+\.\d s\] |figure: ).+$", re.MULTILINE)
_LONGEST_LINE = 160


@dataclass(frozen=True, slots=True)
class Record:
    """What came of one test: when, on which commit, and what it printed of itself."""

    name: str
    outcome: str
    duration_s: int
    date: str
    commit: str
    said: str = ""

    def section(self) -> str:
        """Return the record as a section of the document."""
        head = f"## `{self.name}`\n\n{self.outcome}, {self.duration_s} s, {self.date}, commit {self.commit}\n"
        return head + (f"\n```\n{self.said}\n```\n" if self.said else "")


def names() -> list[str]:
    """Return the ids of all long tests, as pytest collects them."""
    done = subprocess.run([*PYTEST, "--collect-only", "tests"], cwd=ROOT, capture_output=True, text=True)
    found = [line for line in done.stdout.splitlines() if re.match(r"tests/\S+::\S+$", line)]
    if done.returncode or not found:
        raise SystemExit(f"pytest collects no long tests:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return found


def run_one(name: str, document: Path | None = None) -> Record:
    """Run one test to its end; ``document`` is the file that may differ from the commit."""
    commit, started = commit_now(document), time.monotonic()
    with tempfile.TemporaryDirectory(prefix="kops-py-soak-") as folder:
        report = Path(folder, "junit.xml")
        argv = [*PYTEST, name, "--capture=tee-sys", "-o", "junit_logging=system-out", f"--junitxml={report}"]
        code = subprocess.run(argv, cwd=ROOT).returncode
        outcome, said = read_junit(report, code)
    date = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    return Record(name, outcome, round(time.monotonic() - started), date, commit, said)


def read_junit(path: Path, exit_code: int) -> tuple[str, str]:
    """Return how the one test of a JUnit file ended, and the lines it printed of itself."""
    text = path.read_text() if path.exists() else ""
    cases = list(ElementTree.fromstring(text).iter("testcase")) if text else []
    if not cases:
        return ("interrupted" if exit_code in (2, -2, 130) else "broken"), ""
    kinds = {child.tag for case in cases for child in case}
    outcome = "failed" if kinds & {"failure", "error"} or exit_code not in (0, 5) else "passed"
    if outcome == "passed" and "skipped" in kinds:
        return "skipped", "\n".join(s.get("message", "") for case in cases for s in case.iter("skipped"))
    printed = "\n".join(node.text or "" for case in cases for node in case.iter("system-out"))
    return outcome, "\n".join(line[:_LONGEST_LINE] for line in _SAID.findall(printed))


def commit_now(document: Path | None) -> str:
    """Return the short commit of the checkout; ``+changes`` when files differ from it, the document aside."""
    aside = [f":!{document.resolve().relative_to(ROOT)}"] if document and ROOT in document.resolve().parents else []
    head = _git("rev-parse", "--short=7", "HEAD")
    return head + ("+changes" if _git("status", "--porcelain", "--", ".", *aside) else "")


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True).stdout.strip()


def read_records(text: str) -> dict[str, Record]:
    """Return the records of a document."""
    found = [
        Record(m["name"], m["outcome"], int(m["duration_s"]), m["date"], m["commit"], m["said"] or "")
        for m in _SECTION.finditer(text)
    ]
    return {record.name: record for record in found}


def document_of(records: dict[str, Record], known: Sequence[str]) -> str:
    """Return the document: a table of all known tests, those never run as well, then what each printed."""
    kept = [records[name] for name in known if name in records]
    passed = sum(r.outcome == "passed" for r in kept)
    total_s = sum(r.duration_s for r in kept)
    left = f"{len(kept) - passed} did not, {len(known) - len(kept)} not run"
    total = f"{total_s / 60:.0f} minutes together, {len({r.commit for r in kept})} commit(s)"
    lines = [
        "# Result of `make soak`",
        "",
        "Written by `make soak`, by nobody's hand; each row and section is one test, with when and on which commit",
        "it ran last.",
        "",
        f"{passed} of {len(known)} passed, {left}; {total}.",
        "",
        "| Test | Result | Seconds | When | Commit |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name in known:
        if name in records:
            r = records[name]
            lines.append(f"| {short(name)} | {r.outcome} | {r.duration_s} | {r.date} | {r.commit} |")
        else:
            lines.append(f"| {short(name)} | not run | | | |")
    return "\n".join([*lines, "", *(r.section() for r in kept)])


def short(name: str) -> str:
    """Return the name of a test without its file, for the table."""
    return f"`{name.partition('::')[2]}`"


def chosen(known: Sequence[str], words: Sequence[str]) -> list[str]:
    """Return the tests whose id holds any of the words; all of them when there are none. Raises SystemExit."""
    found = [name for name in known if not words or any(word in name for word in words)]
    if not found:
        raise SystemExit(f"no long test is named like {', '.join(words)}; there are:\n" + "\n".join(known))
    return found


def keep(document: Path, record: Record, known: Sequence[str]) -> None:
    """Put one record into the document, in place of the one before."""
    records = read_records(document.read_text()) if document.exists() else {}
    document.write_text(document_of({**records, record.name: record}, known))
