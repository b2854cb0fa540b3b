"""The HTML page: what it says, that it needs nothing but itself, and that it holds up at 500 nodes."""

from __future__ import annotations

import re
import time
from html.parser import HTMLParser

from kops_py.model.event import Note
from kops_py.report.history import RunHistory
from kops_py.report.history_read import history_of
from kops_py.report.html import html
from tests.fakes.runs import COMMAND, blocked_run, failed_run, good_run, make_plan

VOID = {"meta", "br"}
TAGS = {
    "html",
    "head",
    "meta",
    "title",
    "style",
    "body",
    "h1",
    "h2",
    "h3",
    "p",
    "dl",
    "dt",
    "dd",
    "b",
    "pre",
    "code",
    "span",
    "svg",
    "rect",
    "text",
    "details",
    "summary",
    "table",
    "thead",
    "tbody",
    "tr",
    "th",
    "td",
    "div",
    "ul",
    "li",
}
ATTRIBUTES = {
    "lang",
    "charset",
    "http-equiv",
    "content",
    "name",
    "class",
    "id",
    "open",
    "width",
    "height",
    "x",
    "y",
    "fill",
    "role",
    "aria-label",
    "aria-hidden",
    "text-anchor",
    "font-size",
}


class Page(HTMLParser):
    """Reads a page strictly: tags and attributes that we write, all closed in their order."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in TAGS, tag
        names = [name for name, _ in attrs]
        assert set(names) <= ATTRIBUTES, names
        assert len(names) == len(set(names))
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_comment(self, data: str) -> None:
        raise AssertionError(f"a comment: {data}")

    def handle_data(self, data: str) -> None:
        self.texts.append((self.open[-1] if self.open else "", data))

    def said(self, *tags: str) -> str:
        return "\n".join(text for tag, text in self.texts if tag in tags or not tags)


def page(run: RunHistory) -> Page:
    text = html(run)
    assert text.startswith("<!DOCTYPE html>\n<html")
    return Page(text)


def bars(found: Page, kind: str) -> list[tuple[float, float]]:
    """Return place and width in percent of every bar of a kind, but for those that explain the colours."""
    rects = [
        a for tag, a in found.tags if tag == "rect" and a.get("class") == kind and (a.get("x") or "").endswith("%")
    ]
    return [(float((a["x"] or "").rstrip("%")), float((a["width"] or "").rstrip("%"))) for a in rects]


def test_a_run_that_went_well() -> None:
    recorded = good_run()
    found = page(recorded.history())
    said = found.said()
    for text in ("ann@ops", recorded.plan.digest, "2026-09-21", "v1.36.1", "v1.37.0", "looking at 3 hosts", "a detail"):
        assert text in said
    assert ("p", {"class": "outcome good"}) in found.tags
    assert len(bars(found, "done")) == 6
    assert bars(found, "done")[0] == (0.0, 16.67)
    assert bars(found, "waiting")[0] == (6.67, 10.0), "from 2 s to 5 s of 30 s"
    assert "do 1: waited 3.0 s: its kubelet is late" in found.said("title")
    assert "waited 3.0 s: its kubelet is late" in found.said("div")


def test_a_run_that_failed_shows_the_failing_node_first_and_open() -> None:
    found = page(failed_run().history())
    assert ("p", {"class": "outcome bad"}) in found.tags
    nodes = [a for tag, a in found.tags if tag == "details" and a.get("class") == "node"]
    assert ["open" in a for a in nodes] == [True, False, False]
    names = [a.get("aria-label") for tag, a in found.tags if tag == "svg" and a.get("class") == "time"]
    assert names[0] == "what n3 did when"
    assert COMMAND in found.said("pre")
    assert found.said("dd").count("look at the log") == 2, "at the top and at its step"
    assert len(bars(found, "failed")) == 1


def test_findings_and_a_plan_that_was_never_begun() -> None:
    found = page(blocked_run().history())
    for text in ("swap is on", "swapoff -a", "swap-on", "mend it"):
        assert text in found.said()
    assert bars(found, "done") == []
    plan = [e for e in blocked_run().events if '"plan-made"' in e]
    assert "plan only" in page(history_of("plan", events=plan)).said("p")


def test_notes_stand_with_their_node_and_time_and_are_no_markup() -> None:
    recorded = good_run()
    recorded.emit(Note(message="restarted, kernel 6.1 → 6.2 <b>x</b>", node="n2"))
    found = page(recorded.history())
    cells = [text for tag, text in found.texts if tag == "td"]
    at = cells.index("restarted, kernel 6.1 → 6.2 <b>x</b>")
    assert cells[at - 2 : at] == ["2026-09-21 14:13:50 UTC", "n2"]
    assert cells[cells.index("looking at 3 hosts") - 1] == "cluster"
    notes = [a for a in blocked_run().events if '"note"' not in a]
    assert "Notes" not in page(history_of("r", events=notes)).said("h2")


def test_many_notes_are_folded() -> None:
    for count, is_open in ((39, True), (40, False)):
        recorded = good_run()
        for number in range(count):
            recorded.emit(Note(message=f"note {number}"))
        text = html(recorded.history())
        assert f"<details{' open' if is_open else ''}><summary>{count + 1} notes" in text


def test_it_needs_nothing_but_itself() -> None:
    for run in (good_run(), failed_run(), blocked_run()):
        text = html(run.history())
        assert not re.search(r"https?://|url\(|@import|<script|javascript:|\bsrc=|\bhref=|\bon\w+=", text)
        assert "default-src 'none'" in text
        assert "prefers-color-scheme: dark" in text
        assert "@media print" in text


def test_colours_stand_beside_words() -> None:
    found = page(failed_run().history())
    assert "failed: do 1" in found.said("span")
    assert all(a.get("fill") for tag, a in found.tags if tag == "rect"), "where styles are forbidden too"


def test_five_hundred_nodes_are_folded_and_quick() -> None:
    for recorded in (good_run(make_plan(500, 8)), failed_run(make_plan(500, 8))):
        run = recorded.history()
        began = time.monotonic()
        text = html(run)
        assert time.monotonic() - began < 10
        assert len(text) < 6_000_000
        found = Page(text)
        rest = [a for tag, a in found.tags if tag == "details" and a.get("class") == "rest"]
        assert len(rest) == 1
        assert ("open" in rest[0]) == (recorded.history().exit_code == 0)
        assert sum(1 for tag, a in found.tags if tag == "details" and a.get("class") == "node") == 500
