"""JUnit XML against the rules of Jenkins's junit-10.xsd and Ant's JUnit.xsd, and what it says."""

from __future__ import annotations

import re
from xml.etree import ElementTree as ET

import pytest

from kops_py.report.history import RunHistory
from kops_py.report.history_read import history_of
from kops_py.report.junit import junit
from tests.fakes.runs import COMMAND, blocked_run, failed_run, good_run

DECIMAL = re.compile(r"\d+(\.\d+)?")
COUNT = re.compile(r"\d+")
ANY = re.compile(r"[\s\S]*")
SOME = re.compile(r"[\s\S]+")
# What both schemas allow: attributes of each element (True: must be there), and its children in the order Ant wants.
RULES: dict[str, tuple[dict[str, tuple[re.Pattern[str], bool]], tuple[str, ...]]] = {
    "testsuites": (
        {"name": (SOME, True), "tests": (COUNT, True), "failures": (COUNT, True), "errors": (COUNT, True),
         "time": (DECIMAL, True)},
        ("testsuite",),
    ),
    "testsuite": (
        {"name": (SOME, True), "tests": (COUNT, True), "failures": (COUNT, True), "errors": (COUNT, True),
         "skipped": (COUNT, True), "time": (DECIMAL, True), "hostname": (SOME, True), "id": (COUNT, True),
         "package": (SOME, True), "timestamp": (re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d"), True)},
        ("properties", "testcase", "system-out", "system-err"),
    ),
    "testcase": (
        {"name": (SOME, True), "classname": (SOME, True), "time": (DECIMAL, True)},
        ("skipped", "error", "failure", "system-out", "system-err"),
    ),
    "failure": ({"message": (ANY, False), "type": (SOME, True)}, ()),
    "error": ({"message": (ANY, False), "type": (SOME, True)}, ()),
    "skipped": ({"message": (ANY, False)}, ()),
    "system-out": ({}, ()),
}  # fmt: skip


def check(element: ET.Element) -> None:
    """Hold an element and all in it against the rules."""
    attributes, children = RULES[element.tag]
    for name, value in element.attrib.items():
        assert name in attributes, f"{element.tag} may not have {name}"
        assert attributes[name][0].fullmatch(value), f"{element.tag} {name}={value!r}"
    assert {n for n, (_, required) in attributes.items() if required} <= set(element.attrib), element.tag
    places = [children.index(child.tag) for child in element]
    assert places == sorted(places), f"order in {element.tag}"
    if element.tag == "testcase":
        assert len([c for c in element if c.tag in {"skipped", "error", "failure"}]) <= 1
    for child in element:
        check(child)
    if element.tag in {"testsuites", "testsuite"}:
        cases = list(element.iter("testcase"))
        assert element.get("tests") == str(len(cases))
        for tag, name in (("failure", "failures"), ("error", "errors"), ("skipped", "skipped")):
            if name in attributes:
                assert element.get(name) == str(sum(1 for c in cases if c.find(tag) is not None))
    if element.tag == "testsuites":
        names = [suite.get("id") for suite in element]
        assert names == [str(n) for n in range(len(names))]


def parsed(run: RunHistory) -> ET.Element:
    text = junit(run)
    assert text.startswith('<?xml version="1.0" encoding="UTF-8"?>\n')
    root = ET.fromstring(text.encode())
    check(root)
    return root


def case(root: ET.Element, suite: str, name: str) -> ET.Element:
    [found] = [c for s in root if s.get("name") == suite for c in s.iter("testcase") if c.get("name") == name]
    return found


def test_a_run_that_went_well_is_all_green() -> None:
    root = parsed(good_run().history())
    assert [s.get("name") for s in root] == ["run", "findings", "wave 1", "wave 2"]
    assert (root.get("failures"), root.get("errors"), root.get("tests")) == ("0", "0", "9")
    assert case(root, "wave 2", "n3: do 2").get("time") == "5.000"
    assert "waited 3.0 s: its kubelet is late" in (case(root, "wave 1", "n1: do 1").findtext("system-out") or "")


def test_a_step_that_failed_says_what_where_why_and_what_to_do() -> None:
    root = parsed(failed_run().history())
    failure = case(root, "wave 1", "n3: do 1").find("failure")
    assert failure is not None
    assert failure.get("type") == "CommandFailedError"
    assert failure.get("message") == "n3: kubeadm join failed: no route to host"
    for part in ("n3: kubeadm join failed", "no route", "to host", "look at the log"):
        assert part in (failure.text or "")
    assert case(root, "wave 2", "n1: do 2").find("skipped") is not None
    assert case(root, "run", "the run").find("failure") is not None
    assert COMMAND in (case(root, "run", "the run").findtext("system-out") or "")


def test_a_finding_that_blocks_is_a_failure_and_others_are_not() -> None:
    root = parsed(blocked_run().history())
    failure = case(root, "findings", "swap-on n1").find("failure")
    assert failure is not None
    assert "swapoff -a" in (failure.text or "")
    assert len(list(root.iter("failure"))) == 2, "the finding, and the run"
    assert case(root, "findings", "few-cpus n2").find("skipped") is not None
    assert case(root, "findings", "fine cluster").find("skipped") is None


@pytest.mark.parametrize("lines", range(1, len(good_run().journal)))
def test_a_run_that_was_killed_is_never_green(lines: int) -> None:
    recorded = good_run()
    root = parsed(history_of("r", journal=recorded.journal[:lines], events=recorded.events[:4]))
    assert case(root, "run", "the run").find("error") is not None


def test_a_plan_that_was_only_looked_at_is_skipped_not_failed() -> None:
    recorded = good_run()
    root = parsed(history_of("plan", events=[e for e in recorded.events if '"plan-made"' in e]))
    assert (root.get("failures"), root.get("errors")) == ("0", "0")
    assert len(list(root.iter("skipped"))) == 6
