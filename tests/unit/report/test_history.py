"""Reading a run back: what it says, and what is left of one that was killed at any moment."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kops_py.engine.journal import read_journal
from kops_py.model.drain_report import DrainReport
from kops_py.model.event import Note, StepProgress, StepResult
from kops_py.report.history import Failure, NoteHistory, RunHistory
from kops_py.report.history_read import history_of
from kops_py.report.html import html
from kops_py.report.junit import junit
from kops_py.report.markdown import markdown
from kops_py.report.runs import run_text, runs_text
from tests.fakes.runs import COMMAND, FAILURE, START_S, Recorded, blocked_run, failed_run, good_run


def test_a_run_that_went_well() -> None:
    recorded = good_run()
    run = recorded.history()
    assert (run.operation, run.cluster, run.by) == ("bootstrap", "prod", "ann@ops")
    assert (run.digest, run.exit_code, run.outcome) == (recorded.plan.digest, 0, "done")
    assert (run.began_s, run.ended_s, run.duration_s) == (START_S, START_S + 30, 30)
    assert (run.count(StepResult.DONE), run.steps_left, run.failures, run.resume) == (6, 0, (), "")
    assert [w.name for w in run.waves] == ["wave 1", "wave 2"]
    assert [n.name for n in run.nodes] == ["n1", "n2", "n3"]
    node = run.nodes[1]
    assert (node.version_before, node.version_after, node.result) == ("v1.36.1", "v1.37.0", StepResult.DONE)
    assert (node.worked_s, node.waited_s) == (10, 6)
    step = node.steps[0]
    assert (step.began_s, step.ended_s, step.details) == (START_S + 5, START_S + 10, ("a detail",))
    assert [(a.message, a.waiting, a.duration_s) for a in step.activities] == [
        ("working", False, 2.0),
        ("its kubelet is late", True, 3.0),
    ]
    assert run.notes == (NoteHistory("looking at 3 hosts", at_s=START_S),)
    assert run.plan_notes == ("members already: n0",)
    assert not run.planned_only
    assert not run.blocking


def test_a_run_that_failed() -> None:
    run = failed_run().history()
    assert (run.exit_code, run.outcome, run.resume) == (10, "failed", COMMAND)
    expected = Failure(FAILURE.what, FAILURE.where, FAILURE.why, FAILURE.hint, "CommandFailedError")
    assert run.failures == (expected,), "once, though step, journal and events tell of it"
    done, failed = run.nodes[1], run.nodes[2]
    assert [s.result for s in done.steps] == [StepResult.DONE, StepResult.NOT_STARTED]
    assert (failed.result, failed.steps[0].failure) == (StepResult.FAILED, expected)
    assert run.nodes[0].steps[0].message == "it is there"
    assert run.steps_left == 4


def test_a_run_that_a_finding_stopped_has_its_plan_from_the_events() -> None:
    run = blocked_run().history()
    assert (run.exit_code, run.outcome, len(run.steps), run.steps_left) == (3, "stopped by a finding", 6, 6)
    assert [f.id for f in run.blocking] == ["swap-on"]
    assert [f.hint for f in run.failures] == ["mend it"]
    assert run.by == "ann@ops", "though it has no journal"


def test_waits_for_the_same_thing_are_one_with_their_whole_time() -> None:
    recorded = Recorded(good_run().plan)
    recorded.start()
    step = recorded.plan.steps[0]
    for message, waiting in (
        ("DNS", True),
        ("DNS", True),
        ("work", False),
        ("API", True),
        ("work", False),
        ("DNS", True),
    ):
        recorded.emit(StepProgress(step=step.id, node=step.node, message=message, waiting=waiting))
        recorded.now_s += 2
    recorded.end(step, StepResult.DONE, 12)
    found = recorded.history().steps[0]
    assert [(w.message, w.duration_s) for w in found.waits] == [("DNS", 6.0), ("API", 2.0)]
    assert found.waited_s == 8
    assert len(found.activities) == 5, "what is said twice running is one"


@pytest.mark.parametrize("make", [good_run, failed_run])
def test_a_run_killed_at_every_line_of_its_journal(make: object) -> None:
    """Cut the journal after and within every line, with the events as far as they go and without: all can be read."""
    whole = make()  # type: ignore[operator]
    lines = whole.journal
    for cut in range(len(lines) + 1):
        for half in ("", lines[cut][: len(lines[cut]) // 2] if cut < len(lines) else ""):
            until_s = json.loads(lines[cut - 1])["at_s"] if cut else 0
            events = [e for e in whole.events if json.loads(e)["at_s"] <= until_s and '"run-finished"' not in e]
            for known in ([], events):
                plan = json.dumps(whole.plan.to_json())
                run = history_of("r", plan=plan, journal=[*lines[:cut], half], events=known)
                began = {json.loads(x)["step"] for x in lines[:cut] if '"step-start"' in x}
                ended = {json.loads(x)["step"] for x in lines[:cut] if '"step-end"' in x}
                steps = {s.id: s for s in run.steps}
                assert len(steps) == len(whole.plan.steps)
                assert all(steps[i].began_s is not None for i in began)
                assert ended <= {i for i, s in steps.items() if s.ended_s is not None}
                if not known:
                    assert {i for i, s in steps.items() if s.not_ended} == began - ended
                assert (run.exit_code is None) == (cut < len(lines))
                if cut < len(lines) and cut > 0:
                    assert run.outcome == "not ended"
                assert run.resume == (COMMAND if known and run.exit_code != 0 else "")
                for render in (junit, markdown, html, run_text):
                    assert render(run)
                assert "not ended" in runs_text((run,)) or run.exit_code is not None or run.planned_only


def test_nothing_at_all_is_a_run_too() -> None:
    run = history_of("r")
    assert (run.id, run.steps, run.exit_code, run.duration_s) == ("r", (), None, 0)
    for render in (junit, markdown, html, run_text):
        assert render(run)


def test_a_torn_last_line_is_read_as_the_journal_itself_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    text = "\n".join(failed_run().journal)[:-20]
    path.write_text(text)
    assert len(read_journal(path)) == len(failed_run().journal) - 1
    assert history_of("r", journal=text.split("\n")).exit_code is None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
KINDS = ["run-started", "plan-made", "findings-made", "step-started", "step-progress", "step-finished", "run-finished"]
KINDS += [
    "versions-seen",
    "note",
    "wave-started",
    "run-start",
    "step-start",
    "step-end",
    "stopped",
    "run-end",
    "wave",
    "drained",
]
KEYS = ["at_s", "step", "node", "result", "duration_s", "error", "plan", "waves", "steps", "nodes", "findings", "when"]
KEYS += [
    "budgets_s",
    "stayed",
    "evicted",
    "exit_code",
    "failures",
    "errors",
    "message",
    "severity",
    "id",
    "title",
    "max_parallel",
]


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(KINDS), st.dictionaries(st.sampled_from(KEYS), JSON)), max_size=6))
def test_files_of_any_shape_are_read(records: list[tuple[str, dict[str, object]]]) -> None:
    lines = [json.dumps({**body, "event": kind, "kind": kind}) for kind, body in records]
    run = history_of("r", plan=lines[0] if lines else "", journal=lines, events=lines)
    for render in (junit, markdown, html, run_text):
        assert render(run)
    assert runs_text((run,))
    json.dumps(run.to_json_in_full())


@pytest.mark.parametrize("render", [junit, markdown, html, run_text])
def test_what_was_asked_for_is_in_every_report(render: Callable[[RunHistory], str]) -> None:
    """An upgrade that bypassed disruption budgets says so."""
    assert "to v1.37.0" in render(good_run().history())
    assert "disable-eviction true" in render(good_run().history())


def test_a_drain_that_failed_names_what_it_had_deleted_by_then() -> None:
    """The record comes before the end of the step, and stands without one: a run that was killed right after it."""
    recorded = failed_run()
    report = DrainReport("n3", deleted=("web/a",), left=("web/a", "web/b"), bypassed_budgets=True)
    ends = next(n for n, line in enumerate(recorded.journal) if '"step-end"' in line and '"s1/n3"' in line)
    record = json.dumps({"at_s": START_S + 9, "kind": "drained", "step": "s1/n3", **report.to_json()})
    recorded.journal.insert(ends, record)
    killed = dataclasses.replace(recorded, journal=recorded.journal[: ends + 1], events=[])
    for run, result in ((recorded.history(), StepResult.FAILED), (killed.history(), StepResult.INTERRUPTED)):
        step = next(s for s in run.steps if s.id == "s1/n3")
        assert (step.result, step.drained) == (result, report)
        told = "disruption budgets were not asked: 1 pod was deleted, not evicted (web/a)"
        assert run.bypasses == (("n3", told),)
        for render in (junit, markdown, html, run_text):
            assert told in render(run)
        assert "2 still there at its end" in html(run)


def test_notes_have_their_node_and_their_time() -> None:
    recorded = good_run()
    recorded.emit(Note(message="restarted, kernel 6.1.0 → 6.1.1", node="n2"))
    run = recorded.history()
    assert run.notes[-1] == NoteHistory("restarted, kernel 6.1.0 → 6.1.1", "n2", START_S + 30)
    assert run.to_json_in_full()["notes"] == ["looking at 3 hosts", "n2: restarted, kernel 6.1.0 → 6.1.1"]
    assert "  n2: restarted, kernel 6.1.0 → 6.1.1" in run_text(run)
    assert "note: n2: restarted, kernel 6.1.0 → 6.1.1" in junit(run)
    untimed = history_of("r", events=['{"event": "note", "message": "m"}'])
    assert untimed.notes == (NoteHistory("m"),)
    assert "<td>m</td>" in html(untimed)


def test_a_drain_is_told_and_what_it_bypassed_stands_out() -> None:
    recorded = good_run()
    report = DrainReport(
        "n1",
        evicted=("web/a", "web/b"),
        deleted=("web/c\x1b[31m",),
        stayed=(("kube-system/proxy", "DaemonSet"),),
        bypassed_budgets=True,
        duration_s=9.5,
        budgets_s={"web/budget": 4.2},
        waited_for_budgets_s=4.2,
        volumes_left=("pv-1",),
    )
    recorded.journal.insert(3, json.dumps({"at_s": START_S, "kind": "drained", "step": "s1/n1", **report.to_json()}))
    run = recorded.history()
    expected = dataclasses.replace(report, deleted=("web/c",))
    assert run.steps[0].drained == expected
    assert run.bypasses == (("n1", expected.bypasses[0]),)
    assert run.to_json_in_full()["steps"][0]["drained"] == expected.to_json()
    for text in (junit(run), html(run), run_text(run)):
        for part in (expected.summary(), "disruption budget web/budget held pods for 4.2 s", "still attached: pv-1"):
            assert part in text
    for text in (markdown(run), html(run)):
        assert "Safeguards put aside" in text
        assert "disruption budgets were not asked" in text
    assert "Safeguards" not in markdown(good_run().history()) + html(good_run().history())
