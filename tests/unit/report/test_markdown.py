"""The Markdown summary: what it says, how large it gets, and that nothing in it is markup of others."""

from __future__ import annotations

import re

from kops_py.model.event import Note
from kops_py.report.history_read import history_of
from kops_py.report.markdown import code, escaped, fenced, markdown
from tests.fakes.runs import COMMAND, blocked_run, failed_run, good_run, make_plan


def tables(text: str) -> list[list[list[str]]]:
    """Return the tables as cells; every row must have as many as its head."""
    found: list[list[list[str]]] = []
    inside = fence = False
    for line in text.splitlines():
        fence ^= line.startswith("```")
        if line.startswith("|") and not fence:
            cells = [c.strip() for c in re.split(r"(?<!\\)\|", line)[1:-1]]
            found = [*found, []] if not inside else found
            found[-1].append(cells)
            assert len(cells) == len(found[-1][0]), line
        inside = line.startswith("|") and not fence
    return found


def table(text: str, first: str) -> dict[str, list[str]]:
    [found] = [t for t in tables(text) if t[0][0] == first]
    return {row[0]: row for row in found[2:]}


def test_a_run_that_went_well() -> None:
    recorded = good_run()
    text = markdown(recorded.history())
    assert text.startswith("## kops-py bootstrap of `prod`: done\n")
    facts = table(text, "")
    assert facts["Plan"][1] == f"`{recorded.plan.digest}`"
    assert facts["Versions"][1] == "before: `v1.36.1` on 3; after: `v1.37.0` on 3"
    nodes = table(text, "Node")
    assert nodes["`n2`"][1:] == [
        "done", "2 of 2", "10.0 s", "6.0 s: its kubelet is late", "v1.36.1 → v1.37.0",
    ]  # fmt: skip
    assert "### Failures" not in text
    assert "Continue with" not in text


def test_a_run_that_failed_has_the_failure_and_the_next_command_and_its_node_first() -> None:
    text = markdown(failed_run().history())
    assert "error: n3: kubeadm join failed\n  why:  no route\n        to host\n  next: look at the log\n" in text
    assert f"Continue with:\n\n```text\n{COMMAND}\n```" in text
    assert list(table(text, "Node")) == ["`n3`", "`n1`", "`n2`"]
    assert table(text, "Node")["`n3`"][1] == "failed: do 1"


def test_findings_come_with_what_helps() -> None:
    findings = table(markdown(blocked_run().history()), "Severity")
    assert findings["error"] == ["error", "`n1`", "swap is on (`swap-on`)", "swapoff -a"]
    assert list(findings) == ["error", "warning", "info", "ignored"]


def test_notes_stand_with_their_node_and_time_and_are_no_markup() -> None:
    recorded = good_run()
    recorded.emit(Note(message="restarted, kernel 6.1 → 6.2 <b>|x", node="n2"))
    text = markdown(recorded.history())
    [notes] = [t for t in tables(text) if t[0] == ["When", "Where", "Note"]]
    assert notes[2:] == [
        ["2026-09-21 14:13:20 UTC", "`cluster`", "looking at 3 hosts"],
        ["2026-09-21 14:13:50 UTC", "`n2`", "restarted, kernel 6.1 → 6.2 &lt;b&gt;\\|x"],
    ]
    for number in range(100):
        recorded.emit(Note(message=f"note {number}"))
    text = markdown(recorded.history())
    assert "… and 42 more notes: the HTML report has all of them." in text
    assert "### Notes" not in markdown(history_of("r", events=[e for e in recorded.events if '"note"' not in e]))


def test_a_plan_says_how_to_run_exactly_it() -> None:
    recorded = good_run()
    text = markdown(history_of("plan", events=[e for e in recorded.events if '"plan-made"' in e]))
    assert f"`--plan-digest {recorded.plan.digest}`" in text
    assert "plan only" in text.splitlines()[0]
    assert "- `n3`: do 2" in text
    assert "### Nodes" not in text


def test_it_fits_into_a_comment_and_says_what_it_leaves_out() -> None:
    plan = make_plan(500, 8, name="a-node-with-a-rather-long-name-")
    for run in (good_run(plan).history(), failed_run(plan).history()):
        text = markdown(run)
        assert len(text) < 65_536
        assert len(table(text, "Node")) == 120
        assert "… and 380 more nodes: the HTML report has all of them." in text
        assert re.search(r"… and \d+ more lines of the plan", text)
        assert text.count("<details>") == text.count("</details>") == 1


def test_escapes() -> None:
    assert escaped("a <b> & *c* [d](e) | `f` @g\nh") == ("a &lt;b&gt; &amp; \\*c\\* \\[d\\](e) \\| \\`f\\` &#64;g h")
    assert len(escaped("x" * 1000)) == 300
    assert code("n1.example.org") == "`n1.example.org`"
    assert code("a`b|c") == "a\\`b\\|c"
    assert fenced("a\n````\nb")[0] == "`````text"
