"""The files of a run as kops-py writes them, made without running anything."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kops_py.model.actions import ConfigureBridge
from kops_py.model.errors import CommandFailedError, KopsError
from kops_py.model.event import (
    Event,
    FindingsMade,
    Note,
    PlanMade,
    RunFinished,
    RunStarted,
    SeenWhen,
    StepFinished,
    StepProgress,
    StepResult,
    StepStarted,
    VersionsSeen,
    WaveStarted,
)
from kops_py.model.finding import Finding, Severity
from kops_py.model.plan import Plan, Step, Wave
from kops_py.report.history import RunHistory
from kops_py.report.history_read import history_of

START_S = 1_790_000_000.0
COMMAND = "kops-py bootstrap -i prod -y"
FAILURE = CommandFailedError("kubeadm join failed", where="n3", why="no route\nto host", hint="look at the log")


def make_plan(nodes: int = 3, waves: int = 2, *, name: str = "n") -> Plan:
    """Return a plan of ``waves`` waves, each with one step on every node."""
    return Plan(
        "bootstrap",
        "prod",
        tuple(
            Wave(
                f"wave {w}",
                tuple(
                    Step(f"s{w}/{name}{n}", f"{name}{n}", f"do {w}", ConfigureBridge(f"{name}{n}"), 60.0, ("a detail",))
                    for n in range(1, nodes + 1)
                ),
                max_parallel=5,
            )
            for w in range(1, waves + 1)
        ),
        {"to": "v1.37.0", "disable-eviction": "true"},
        notes=("members already: n0",),
    )


@dataclass
class Recorded:
    """The three files of a run, and a clock that the test moves; ``steps`` in the order in which lines were written."""

    plan: Plan
    now_s: float = START_S
    events: list[str] = field(default_factory=list)
    journal: list[str] = field(default_factory=list)
    name: str = "20260921T120000Z-bootstrap-ab12"

    def emit(self, event: Event) -> None:
        self.events.append(json.dumps(dataclasses.replace(event, at_s=self.now_s).to_json()))

    def write(self, kind: str, **fields: Any) -> None:
        self.journal.append(json.dumps({"at_s": self.now_s, "kind": kind, **fields}))

    def start(self, findings: tuple[Finding, ...] = ()) -> None:
        plan = self.plan
        self.emit(
            RunStarted(
                run_id=self.name,
                operation=plan.operation,
                cluster=plan.cluster,
                run_dir="/r",
                by="ann@ops",
                command=COMMAND,
            )
        )
        self.emit(Note(message="looking at 3 hosts"))
        self.emit(FindingsMade(findings=findings))
        self.emit(PlanMade(plan=plan))
        head = {"operation": plan.operation, "cluster": plan.cluster, "digest": plan.digest, "by": "ann@ops"}
        self.write("run-start", run=self.name, **head)

    def wave(self, wave: Wave) -> None:
        self.emit(WaveStarted(wave=wave.name, steps=len(wave.steps)))
        self.write("wave", wave=wave.name)

    def step(
        self, step: Step, *, work_s: float = 2.0, wait_s: float = 3.0, error: KopsError | None = None, message: str = ""
    ) -> None:
        self.emit(StepStarted(step=step.id, node=step.node, title=step.title))
        self.write("step-start", step=step.id, node=step.node)
        self.emit(StepProgress(step=step.id, node=step.node, message="working"))
        self.now_s += work_s
        self.emit(StepProgress(step=step.id, node=step.node, message="its kubelet is late", waiting=True))
        self.now_s += wait_s
        result = StepResult.FAILED if error else StepResult.DONE
        self.end(step, result, work_s + wait_s, error, message or (str(error) if error else ""))

    def end(
        self, step: Step, result: StepResult, duration_s: float, error: KopsError | None = None, message: str = ""
    ) -> None:
        told = {"error": error.to_json()} if error else {}
        self.write("step-end", step=step.id, node=step.node, result=str(result), duration_s=duration_s, **told)
        ended = {"result": result, "duration_s": duration_s, "message": message}
        self.emit(StepFinished(step=step.id, node=step.node, title=step.title, **ended))  # type: ignore[arg-type]

    def finish(self, code: int, *errors: KopsError) -> None:
        self.write("run-end", exit_code=code, duration_s=self.now_s - START_S)
        sentences = tuple(map(str, errors))
        counts = {"steps_done": 0, "steps_skipped": 0, "steps_failed": 0, "steps_left": 0}
        rest = {
            "duration_s": self.now_s - START_S,
            "failures": sentences,
            "errors": errors,
            "resume": COMMAND if code else "",
        }
        self.emit(RunFinished(exit_code=code, **counts, **rest))  # type: ignore[arg-type]

    def versions(self, when: SeenWhen, version: str) -> None:
        self.emit(VersionsSeen(when=when, nodes={s.node: version for s in self.plan.waves[0].steps}))

    def history(self) -> RunHistory:
        plan = json.dumps(self.plan.to_json(), indent=2) if self.journal else ""
        return history_of(self.name, plan=plan, journal=self.journal, events=self.events)

    def write_to(self, run_dir: Path) -> Path:
        """Write the files into a folder of runs; returns the run's own."""
        folder = run_dir / "runs" / self.name
        folder.mkdir(parents=True)
        if self.journal:
            (folder / "plan.json").write_text(json.dumps(self.plan.to_json(), indent=2))
            (folder / "journal.jsonl").write_text("".join(f"{line}\n" for line in self.journal))
        (folder / "events.jsonl").write_text("".join(f"{line}\n" for line in self.events))
        return folder


FINDINGS = (
    Finding(Severity.ERROR, "swap-on", "n1", "swap is on", "swapoff -a"),
    Finding(Severity.ERROR, "few-cpus", "n2", "one CPU", ignored=True),
    Finding(Severity.WARNING, "clock", "n2", "2 s off", "run chrony"),
    Finding(Severity.INFO, "fine", "", "all is fine"),
)


def good_run(plan: Plan | None = None) -> Recorded:
    """Return a run in which everything went well."""
    run = Recorded(plan or make_plan())
    run.start(FINDINGS[2:])
    run.versions(SeenWhen.BEFORE, "v1.36.1")
    for wave in run.plan.waves:
        run.wave(wave)
        for step in wave.steps:
            run.step(step)
    run.versions(SeenWhen.AFTER, "v1.37.0")
    run.finish(0)
    return run


def failed_run(plan: Plan | None = None) -> Recorded:
    """Return a run whose first wave failed on the last node."""
    run = Recorded(plan or make_plan())
    run.start(FINDINGS[1:])
    wave = run.plan.waves[0]
    run.wave(wave)
    first, *between, last = wave.steps
    run.emit(StepStarted(step=first.id, node=first.node, title=first.title))
    run.end(first, StepResult.ALREADY_TRUE, 0.1, message="it is there")
    for step in between:
        run.step(step)
    run.step(last, error=FAILURE)
    run.finish(10, FAILURE)
    return run


def blocked_run() -> Recorded:
    """Return a run that a finding stopped before anything was touched."""
    from kops_py.model.errors import PreflightError

    run = Recorded(make_plan())
    run.start(FINDINGS)
    run.journal.clear()
    run.now_s += 1
    counts = {"steps_done": 0, "steps_skipped": 0, "steps_failed": 0, "steps_left": 6}
    error = PreflightError("1 finding must be mended", why="swap-on", hint="mend it")
    told = {"failures": (str(error),), "errors": (error,), "resume": COMMAND}
    run.emit(RunFinished(exit_code=3, duration_s=1.0, **counts, **told))  # type: ignore[arg-type]
    return run
