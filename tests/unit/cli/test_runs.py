"""kops-py runs, and the options for reports and the deadline, as typed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kops_py.app.run import RunResult
from kops_py.app.session import Settings
from kops_py.cli import main
from kops_py.model.errors import ExitCode
from kops_py.model.plan import Plan
from tests.fakes.runs import COMMAND, blocked_run, failed_run, good_run


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """Return a folder with three runs; the newest was killed."""
    for recorded, name in (
        (good_run(), "20260921T120000Z-bootstrap-aa11"),
        (failed_run(), "20260922T120000Z-bootstrap-bb22"),
        (good_run(), "20260923T120000Z-bootstrap-cc33"),
    ):
        recorded.name = name
        if name.endswith("cc33"):
            recorded.journal = [*recorded.journal[:6], recorded.journal[6][:25]]
            recorded.events = recorded.events[:-3]
        recorded.write_to(tmp_path)
    return tmp_path


def said(argv: list[str], capsys: pytest.CaptureFixture[str], code: int = 0) -> str:
    assert main.run(argv) == code
    out, err = capsys.readouterr()
    assert (out if code else err) == ""
    return str(err if code else out)


def test_the_list_has_the_newest_first(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    head, *rows = said(["runs", "list", "--run-dir", str(run_dir)], capsys).splitlines()
    assert head.split() == ["RUN", "OPERATION", "CLUSTER", "BEGAN", "BY", "RESULT", "STEPS", "TOOK"]
    assert [row.split()[0][-4:] for row in rows] == ["cc33", "bb22", "aa11"]
    for word, row in zip(("not ended", "failed (exit code 10)", " done "), rows, strict=True):
        assert word in row
        assert "ann@ops" in row
        assert "2026-09-21 14:13:20 UTC" in row


def test_the_list_as_json(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(said(["runs", "list", "--run-dir", str(run_dir), "-o", "json", "--last", "2"], capsys))
    assert found["older"] == 1
    killed, failed = found["runs"]
    assert (killed["outcome"], killed["exit_code"], killed["ended_s"]) == ("not ended", None, None)
    assert (failed["exit_code"], failed["steps_done"], failed["steps_left"], failed["by"]) == (10, 1, 4, "ann@ops")
    assert (failed["operation"], failed["cluster"], failed["resume"]) == ("bootstrap", "prod", COMMAND)
    assert failed["duration_s"] == 10


def test_older_runs_are_counted(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = said(["runs", "list", "--run-dir", str(run_dir), "--last", "1"], capsys)
    assert text.splitlines()[-1] == "2 older: --last 3"
    assert len(text.splitlines()) == 3


def test_no_runs_is_no_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert said(["runs", "list", "--run-dir", str(tmp_path / "none")], capsys) == "no runs yet\n"
    (tmp_path / "runs" / "an empty one").mkdir(parents=True)
    assert "an empty one" in said(["runs", "list", "--run-dir", str(tmp_path)], capsys)


@pytest.mark.parametrize("name", ["20260922T120000Z-bootstrap-bb22", "20260922"])
def test_show_a_run_that_failed(name: str, run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = said(["runs", "show", name, "--run-dir", str(run_dir)], capsys)
    for part in (
        "failed (exit code 10)",
        "\nn3\n  do 1  failed (5.0 s)\n    waited 3.0 s: its kubelet is late\n  do 2  not started\n",
        "error: n3: kubeadm join failed\n  why:  no route\n        to host\n  next: look at the log\n",
        f"continue with: {COMMAND}",
    ):
        assert part in text


def test_show_the_latest_which_was_killed(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = said(["runs", "show", "latest", "--run-dir", str(run_dir)], capsys)
    assert "20260923" in text
    assert "no end is recorded: it was killed, or goes on" in text
    assert f"continue with: {COMMAND}" in text


def test_show_as_json(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(said(["runs", "show", "20260922", "--run-dir", str(run_dir), "-o", "json"], capsys))
    steps = {s["id"]: s for s in found["steps"]}
    assert (steps["s1/n3"]["result"], steps["s1/n3"]["failure"]["hint"]) == ("failed", "look at the log")
    assert steps["s1/n3"]["waited_s"] == 3
    assert [f["id"] for f in found["findings"]] == ["few-cpus", "clock", "fine"]


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("nothing", "known: 20260923T120000Z-bootstrap-cc33, 20260922"),
        ("", "known: "),
        ("2026", "known: 20260923T120000Z-bootstrap-cc33, 20260922"),
        ("../runs/20260922T120000Z-bootstrap-bb22", "known: "),
    ],
)
def test_an_unknown_run_is_told_with_the_known_ones(
    name: str, hint: str, run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in ("show", "report"):
        more = ["--html", str(run_dir / "x.html")] if command == "report" else []
        assert hint in said(["runs", command, name, "--run-dir", str(run_dir), *more], capsys, 2)
    assert not (run_dir / "x.html").exists()


def test_latest_of_nothing_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "no runs are recorded here" in said(["runs", "show", "latest", "--run-dir", str(tmp_path)], capsys, 2)


def test_reports_of_a_run(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = [run_dir / name for name in ("r.html", "r.md", "r.xml")]
    options = [f"--{form}={path}" for form, path in zip(("html", "markdown", "junit"), out, strict=True)]
    text = said(["runs", "report", "20260922", "--run-dir", str(run_dir), *options], capsys)
    assert sorted(text.splitlines()) == sorted(f"wrote {path}" for path in out)
    for path, first in zip(out, ("<!DOCTYPE html>", "## kops-py", "<?xml"), strict=True):
        assert path.read_text().startswith(first)
        assert "kubeadm join failed" in path.read_text()
        assert "\x1b" not in path.read_text()


@pytest.mark.parametrize(
    ("options", "said_why"),
    [([], "no report is asked for"), (["--html", "no/such/folder/x"], "cannot be written there")],
)
def test_reports_that_cannot_be_made(
    options: list[str], said_why: str, run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert said_why in said(["runs", "report", "latest", "--run-dir", str(run_dir), *options], capsys, 2)


def test_files_that_may_not_be_read_are_told(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    journal = run_dir / "runs" / "20260922T120000Z-bootstrap-bb22" / "journal.jsonl"
    journal.unlink()
    journal.mkdir()
    assert "the runs cannot be read" in said(["runs", "show", "20260922", "--run-dir", str(run_dir)], capsys, 2)


def test_a_run_that_a_finding_stopped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    blocked_run().write_to(tmp_path)
    text = said(["runs", "show", "latest", "--run-dir", str(tmp_path)], capsys)
    assert "stopped by a finding (exit code 3)" in text
    assert "error    n1: swap is on  [swap-on]\n         -> swapoff -a" in text


def test_the_options_reach_the_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen: list[Settings] = []

    def run(settings: Settings, *_: Any) -> RunResult:
        seen.append(settings)
        return RunResult(ExitCode.DONE, Plan("bootstrap", "sim", ()))

    monkeypatch.setattr("kops_py.app.bootstrap.run_bootstrap", run)
    argv = ["bootstrap", "-y", "--deadline", "90m", "--report-junit", "a.xml", "--report-markdown", "b.md"]
    assert main.run([*argv, "--report-html", "c.html"]) == 0
    [settings] = seen
    assert settings.deadline is not None
    assert (settings.deadline.seconds, str(settings.deadline)) == (5400, "90m")
    assert {k: str(v) for k, v in settings.reports.named.items()} == {
        "junit": "a.xml",
        "markdown": "b.md",
        "html": "c.html",
    }
    assert main.run(["bootstrap", "-y"]) == 0
    assert (seen[1].deadline, dict(seen[1].reports.named)) == (None, {})


@pytest.mark.parametrize("text", ["90", "0m", "soon"])
def test_a_deadline_that_is_none_is_told(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "--deadline" in said(["bootstrap", "-y", "--deadline", text], capsys, 2)


def test_a_report_that_cannot_be_written_ends_with_2_before_the_files_are_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["bootstrap", "-y", "-i", str(tmp_path / "no inventory"), "--report-html", str(tmp_path / "no" / "x.html")]
    text = said(argv, capsys, 2)
    assert "--report-html" in text
    assert "inventory" not in text.replace(str(tmp_path), "")
