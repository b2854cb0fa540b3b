"""What hosts, modules and API servers say must not become markup, escape sequences or broken files in any report."""

from __future__ import annotations

import re
import string

from hypothesis import example, given, settings
from hypothesis import strategies as st

from kops_py.model.actions import ConfigureBridge
from kops_py.model.errors import CommandFailedError
from kops_py.model.event import Note, SeenWhen, StepProgress, StepResult, VersionsSeen
from kops_py.model.finding import Finding, Severity
from kops_py.model.plan import Plan, Step, Wave
from kops_py.report.history import RunHistory
from kops_py.report.html import html
from kops_py.report.junit import junit
from kops_py.report.markdown import markdown
from kops_py.report.runs import run_text, runs_text
from tests.fakes.runs import Recorded
from tests.unit.report.test_html import Page
from tests.unit.report.test_junit import parsed
from tests.unit.report.test_markdown import tables

NASTY = (
    "<script>alert(1)</script>",
    "</style></title><img src=x onerror=alert(1)>",
    "\x1b[31mred\x1b[0m",
    "\x1b]0;title\x07",
    "]]>",
    "&lt;&amp;",
    "a\x00b\x08c\x7f",
    "\ud800",
    "\ufffe\uffff",
    "\u202egnp.exe",
    "| a | b |",
    "```\n</details>\n```",
    "[x](javascript:alert(1))",
    "@everyone #1 `c` *b* _i_ ~~s~~ $m$",
    "{{ 7 * 7 }}{% raw %}",
    "' onload='x",
    '" onload="x',
    "\\|",
    "\\",
    "line\nline\r\nline\u2028line",
    "--><!--",
    "<!-- x",
    "</details><h1>",
    "1. a",
    "# a",
    "%0a",
    "a" * 5000,
)
TEXT = st.one_of(
    st.sampled_from(NASTY),
    st.text(max_size=30),
    st.text(alphabet=st.sampled_from(string.punctuation + "ab\n\x1b"), max_size=30),
    st.lists(st.sampled_from(NASTY[:-1]), min_size=2, max_size=3).map("".join),
)
CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def hostile_run(texts: list[str], outcome: int) -> RunHistory:
    """Return a run in which every text that comes from elsewhere is one of these."""
    at = iter(texts * 40)
    name = next(at)
    steps = tuple(Step(f"s{n}{next(at)}", name, next(at), ConfigureBridge("n"), 5.0, (next(at),)) for n in range(3))
    plan = Plan(
        next(at),
        next(at),
        (Wave(next(at), steps[:2]), Wave(next(at), steps[2:])),
        notes=(next(at),),
        arguments={next(at): next(at)},
    )
    run = Recorded(plan, name=next(at))
    error = CommandFailedError(next(at), where=next(at), why=next(at), hint=next(at))
    run.start((Finding(Severity.ERROR, next(at), next(at), next(at), next(at)),))
    run.emit(Note(message=next(at), node=next(at)))
    run.emit(VersionsSeen(when=SeenWhen.BEFORE, nodes={name: next(at), next(at): next(at)}))
    run.step(steps[0], message=next(at))
    run.emit(StepProgress(step=steps[1].id, node=name, message=next(at), waiting=True))
    run.now_s += 1
    run.end(steps[1], StepResult.FAILED if outcome else StepResult.ALREADY_TRUE, 1.0, error, next(at))
    if outcome >= 0:
        run.finish(outcome, error)
    return run.history()


def without_control(text: str) -> None:
    assert not CONTROL.search(text), ascii(CONTROL.search(text))
    text.encode("utf-8")


@settings(max_examples=120, deadline=None)
@given(st.lists(TEXT, min_size=1, max_size=8), st.sampled_from([0, 10, -1]))
@example(list(NASTY), 10)
@example([""], 10)
def test_hostile_texts_stay_texts(texts: list[str], outcome: int) -> None:
    run = hostile_run(texts, outcome)
    for render in (junit, markdown, html, run_text):
        without_control(render(run))
    without_control(runs_text((run,)))
    parsed(run)
    Page(html(run))
    text = markdown(run)
    tables(text)
    outside = outside_of_code_blocks(text)
    assert set(re.findall(r"<[^>]*>?", outside)) <= {"<details>", "<summary>", "</summary>", "</details>"}
    assert "@" not in re.sub(r"(?<=[ (])`[^`\n]*`", "", outside)


def outside_of_code_blocks(text: str) -> str:
    """Return the lines that are not in a fenced block; a fence is closed by as many backticks, alone on the line."""
    kept, fence = [], ""
    for line in text.split("\n"):
        if not fence and line.startswith("```"):
            fence = line.removesuffix("text")
        elif fence:
            fence = "" if line == fence else fence
        else:
            kept.append(line)
    assert not fence
    return "\n".join(kept)


def test_each_nasty_text_can_be_read_in_the_page() -> None:
    """Escaped twice, or dropped, would be wrong as well."""
    for text in ("<b>&amp;", "a | b", "{{ 7 * 7 }}", "' onload='x"):
        said = Page(html(hostile_run([text], 10))).said()
        assert said.count(text) > 10
        [*_, case] = parsed(hostile_run([text], 10)).iter("testcase")
        assert text in (case.get("name") or "")
