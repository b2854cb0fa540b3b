"""A run as JUnit XML: a suite for the run itself, one for the findings, one per wave; a case per step.

The form is what Jenkins's junit-10.xsd and Ant's JUnit.xsd have in common; GitLab and the usual GitHub actions read it.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from xml.etree import ElementTree as ET

from kops_py.model.errors import ExitCode
from kops_py.model.event import StepResult
from kops_py.model.finding import Finding, Severity
from kops_py.report.history import Failure, RunHistory, StepHistory, WaveHistory
from kops_py.report.words import CLUSTER, drain_lines, failure_lines, outcome_text, result_text

_MESSAGE_CHARS = 500


def junit(run: RunHistory) -> str:
    """Return the report as one XML document. Steps not reached are skipped; what ended the run fails ``run``."""
    root = ET.Element("testsuites", name=f"kops-py {run.operation or 'run'} {run.cluster}".strip())
    suites = [_run_suite(run), *([_findings_suite(run)] if run.findings else [])]
    suites += [_wave_suite(run, wave) for wave in run.waves if wave.steps]
    for number, suite in enumerate(suites):
        suite.set("id", str(number))
        root.append(suite)
    for name in ("tests", "failures", "errors"):
        root.set(name, str(sum(int(s.get(name, "0")) for s in suites)))
    root.set("time", f"{run.duration_s:.3f}")
    ET.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"


def _suite(
    run: RunHistory, name: str, cases: Sequence[ET.Element], *, began_s: float | None, time_s: float
) -> ET.Element:
    at_s = began_s if began_s is not None else run.began_s if run.began_s is not None else 0.0
    suite = ET.Element(
        "testsuite",
        name=name,
        package=f"kops-py.{run.operation or 'run'}",
        timestamp=f"{datetime.fromtimestamp(at_s, UTC):%Y-%m-%dT%H:%M:%S}",
        hostname=run.by.rpartition("@")[2] or "unknown",
        tests=str(len(cases)),
        failures=str(sum(1 for c in cases if c.find("failure") is not None)),
        errors=str(sum(1 for c in cases if c.find("error") is not None)),
        skipped=str(sum(1 for c in cases if c.find("skipped") is not None)),
        time=f"{time_s:.3f}",
    )
    suite.extend(cases)
    return suite


def _case(run: RunHistory, suite: str, name: str, *, time_s: float = 0.0) -> ET.Element:
    classname = f"{run.operation or 'run'}.{suite}"
    return ET.Element("testcase", name=name or "?", classname=classname, time=f"{time_s:.3f}")


def _tell(case: ET.Element, kind: str, failure: Failure) -> None:
    message = " ".join(str(failure).split("\n"))[:_MESSAGE_CHARS]
    told = ET.SubElement(case, kind, message=message, type=failure.kind or "Failure")
    told.text = "\n".join(failure_lines(failure))


def _run_suite(run: RunHistory) -> ET.Element:
    """Return the suite of the run as a whole: it is red whenever the run did not end as it should."""
    case = _case(run, "run", "the run", time_s=run.duration_s)
    of_steps = {s.failure for s in run.steps}
    others = [f for f in run.failures if f not in of_steps]
    if not (run.ok or (run.planned_only and run.exit_code is None)):
        first = others[0] if others else Failure(outcome_text(run), hint=run.resume)
        interrupted = run.exit_code in (None, ExitCode.INTERRUPTED, ExitCode.DEADLINE)
        _tell(case, "error" if interrupted else "failure", first)
    lines = [f"outcome: {outcome_text(run)}", f"plan digest: {run.digest or '?'}"]
    lines += [f"asked for: {run.asked}"] if run.asked else []
    lines += [line for failure in others[1:] for line in failure_lines(failure)]
    lines += [f"note: {note}" for note in run.notes]
    lines += [f"continue with: {run.resume}"] if run.resume else []
    ET.SubElement(case, "system-out").text = "\n".join(lines)
    return _suite(run, "run", [case], began_s=run.began_s, time_s=run.duration_s)


def _findings_suite(run: RunHistory) -> ET.Element:
    cases = []
    for finding in run.findings:
        case = _case(run, "findings", f"{finding.id} {finding.node or CLUSTER}")
        if finding in run.blocking:
            _tell(case, "failure", Failure(finding.message, finding.node, hint=finding.hint, kind=finding.id))
        elif finding.severity is not Severity.INFO:
            ET.SubElement(case, "skipped", message=_finding_text(finding))
        else:
            ET.SubElement(case, "system-out").text = finding.message
        cases.append(case)
    return _suite(run, "findings", cases, began_s=run.began_s, time_s=0.0)


def _finding_text(finding: Finding) -> str:
    return f"{'ignored' if finding.ignored else finding.severity}: {finding.message}"[:_MESSAGE_CHARS]


def _wave_suite(run: RunHistory, wave: WaveHistory) -> ET.Element:
    began = [s.began_s for s in wave.steps if s.began_s is not None]
    ended = [s.began_s + s.duration_s for s in wave.steps if s.began_s is not None]
    cases = [_step_case(run, wave, step) for step in wave.steps]
    time_s = max(ended) - min(began) if began else 0.0
    return _suite(run, wave.name, cases, began_s=min(began, default=None), time_s=time_s)


def _step_case(run: RunHistory, wave: WaveHistory, step: StepHistory) -> ET.Element:
    case = _case(run, wave.name, f"{step.node or CLUSTER}: {step.title or step.id}", time_s=step.duration_s)
    match step.result:
        case StepResult.FAILED:
            _tell(case, "failure", step.failure or Failure(step.message or "failed", step.node))
        case StepResult.INTERRUPTED:
            why = "kops-py was killed, or is still at it" if step.not_ended else step.message
            _tell(case, "error", step.failure or Failure(result_text(step), step.node, why, run.resume))
        case StepResult.NOT_STARTED:
            ET.SubElement(case, "skipped", message="planned" if run.planned_only else "not started")
        case _:
            pass
    lines = [step.message] if step.message and step.result is StepResult.ALREADY_TRUE else []
    lines += drain_lines(step)
    lines += [f"waited {wait.duration_s:.1f} s: {wait.message}" for wait in step.waits]
    if lines:
        ET.SubElement(case, "system-out").text = "\n".join(lines)
    return case
