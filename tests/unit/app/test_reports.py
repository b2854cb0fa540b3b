"""Reports at the end of real runs on a simulated cluster, however they end; and reports of plans."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from kops_py.app.reports import ReportFiles, check_report_files, write_reports, write_whole
from kops_py.app.runs import read_run
from kops_py.app.session import Settings
from kops_py.model.errors import CommandFailedError, ConfigError, ExitCode, LockedError, RunDeadlineError
from kops_py.model.event import Note, StepResult, VersionsSeen
from kops_py.model.finding import Finding, Severity
from kops_py.model.spec import ClusterSpec
from tests.fakes.kube import node
from tests.unit.app.test_bootstrap import World, world

__all__ = ["world"]  # the fixture


@pytest.fixture
def files(tmp_path: Path) -> ReportFiles:
    out = tmp_path / "out"
    out.mkdir()
    return ReportFiles(out / "junit.xml", out / "report.md", out / "report.html")


def written(files: ReportFiles) -> dict[str, str]:
    """Return what the three files hold, and check that nothing else was left beside them."""
    texts = {form: path.read_text() for form, path in files.named.items()}
    assert len(texts) == 3
    [folder] = {path.parent for path in files.named.values()}
    assert sorted(p.name for p in folder.iterdir()) == sorted(p.name for p in files.named.values())
    ET.fromstring(texts["junit"])
    assert not any("\x1b" in text for text in texts.values())
    return texts


def failing(world: World, prefix: str = "prepare/") -> None:
    perform = world.cluster.perform

    def fail(step: Any) -> None:
        if step.id.startswith(prefix):
            raise CommandFailedError("no package", where=step.node, why="404", hint="mend the repository")
        perform(step)

    world.cluster.perform = fail  # type: ignore[method-assign]


def test_a_run_that_went_well_leaves_its_reports_and_one_in_its_folder(world: World, files: ReportFiles) -> None:
    result = world.run(reports=files)
    assert result.exit_code is ExitCode.DONE
    assert result.run_dir is not None
    texts = written(files)
    assert texts["html"] == (result.run_dir / "report.html").read_text()
    assert (result.run_dir / "report.html").stat().st_mode & 0o777 == 0o600
    assert result.plan.digest in texts["markdown"]
    assert ": done\n" in texts["markdown"]
    run = read_run(result.run_dir)
    assert {s.id for s in run.steps if s.result is StepResult.DONE} == {s.id for s in result.plan.steps}
    assert (run.exit_code, run.command) == (0, "kops-py bootstrap -i 'my hosts' -y")
    assert "@" in run.by


def test_the_page_in_the_folder_is_written_without_being_asked_for(world: World) -> None:
    result = world.run()
    assert result.run_dir is not None
    assert "</html>" in (result.run_dir / "report.html").read_text()


def test_a_failure_is_in_all_reports(world: World, files: ReportFiles) -> None:
    failing(world)
    assert world.run(reports=files).exit_code is ExitCode.HOST
    for text in written(files).values():
        for part in ("no package", "404", "mend the repository", "kops-py bootstrap -i"):
            assert part in text


def test_an_interruption_is_in_all_reports(world: World, files: ReportFiles) -> None:
    perform = world.cluster.perform

    def interrupted(step: Any) -> None:
        perform(step)
        if step.id == "init/n1":
            os.kill(os.getpid(), signal.SIGTERM)

    world.cluster.perform = interrupted  # type: ignore[method-assign]
    assert world.run(reports=files).exit_code is ExitCode.INTERRUPTED
    for text in written(files).values():
        assert "interrupted (exit code 130)" in text
        assert "SIGTERM" in text


def test_a_deadline_ends_the_run_with_its_code_and_is_in_all_reports(world: World, files: ReportFiles) -> None:
    def before(look: int) -> None:
        if look == 2:
            world.cancel.set("deadline of 90m", RunDeadlineError)

    world.before_look = before
    result = world.run(reports=files)
    assert result.exit_code is ExitCode.DEADLINE
    assert world.finished.exit_code == 124
    assert world.finished.steps_left > 0
    for text in written(files).values():
        assert "ended at its deadline (exit code 124)" in text
        assert "deadline of 90m" in text


def test_a_bug_leaves_reports_too(world: World, files: ReportFiles) -> None:
    def broken(step: Any) -> None:
        raise ZeroDivisionError("a bug")

    world.cluster.perform = broken  # type: ignore[method-assign]
    with pytest.raises(ZeroDivisionError):
        world.run(reports=files)
    assert "failed (exit code 1)" in written(files)["markdown"]


def test_findings_that_stop_a_run_are_in_all_reports(world: World, files: ReportFiles) -> None:
    world.findings = (Finding(Severity.ERROR, "swap-on", "n1", "swap is on", "swapoff -a"),)
    assert world.run(reports=files).exit_code is ExitCode.PREFLIGHT
    for text in written(files).values():
        assert "swapoff -a" in text
        assert "stopped by a finding" in text


def test_a_locked_cluster_is_reported_though_there_is_no_run(world: World, files: ReportFiles) -> None:
    from kops_py.engine.lock import FileLock

    first = FileLock(world.folder / ".kops-py" / "locks", "sim")
    first.acquire(run_id="run-1", command="kops-py bootstrap -y")
    try:
        with pytest.raises(LockedError):
            world.run(reports=files)
    finally:
        first.release()
    for text in written(files).values():
        assert "locked (exit code 4)" in text
        assert "another run works on this cluster" in text


def test_a_plan_is_reported_without_a_run(world: World, files: ReportFiles) -> None:
    result = world.run(plan_only=True, reports=files)
    assert result.exit_code is ExitCode.PENDING_CHANGES
    texts = written(files)
    assert "plan only (exit code 20)" in texts["markdown"]
    assert f"--plan-digest {result.plan.digest}" in texts["markdown"]
    assert ET.fromstring(texts["junit"]).get("failures") == "0"
    assert not (world.folder / ".kops-py").exists()
    world.findings = (Finding(Severity.ERROR, "swap-on", "n1", "swap is on"),)
    world.run(plan_only=True, reports=files)
    assert "stopped by a finding (exit code 3)" in written(files)["markdown"]
    assert "--plan-digest" not in written(files)["markdown"]


def test_versions_before_and_after_are_told(world: World) -> None:
    world.cluster.initialised = True
    world.kube.add(node("n1", version="v1.36.1"))
    perform = world.cluster.perform

    def upgrading(step: Any) -> None:
        perform(step)
        world.kube.change("/api/v1/nodes/n1", lambda n: n["status"]["nodeInfo"].update(kubeletVersion="v1.37.0"))

    world.cluster.perform = upgrading  # type: ignore[method-assign]
    result = world.run()
    assert result.run_dir is not None
    run = read_run(result.run_dir)
    assert (run.versions_before["n1"], run.versions_after["n1"]) == ("v1.36.1", "v1.37.0")
    assert [e for e in world.events if isinstance(e, VersionsSeen)]
    world.kube.assert_clean()


def test_files_that_are_wrong_are_reported_with_every_mistake(
    world: World, files: ReportFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(_: Settings) -> ClusterSpec:
        other = ConfigError("unknown \x1b[31mkey", where="c.yaml:9:1", hint="remove it")
        raise ConfigError("no such version", where="c.yaml:3:1", why="too new", others=(other,))

    monkeypatch.setattr("kops_py.app.run.load_spec", wrong)
    with pytest.raises(ConfigError):
        world.run(plan_only=True, reports=files)
    texts = written(files)
    assert texts["markdown"].startswith("## kops-py bootstrap: failed\n")
    for text in texts.values():
        for part in ("no such version", "too new", "c.yaml:9:1", "unknown key", "remove it", "(exit code 2)"):
            assert part in text


@pytest.mark.parametrize("place", ["missing/report.md", ".", "file/report.md"])
def test_a_file_that_cannot_be_written_is_an_error_before_anything_is_looked_at(world: World, place: str) -> None:
    (world.folder / "file").write_text("")
    with pytest.raises(ConfigError) as caught:
        world.run(reports=ReportFiles(markdown=world.folder / place))
    assert caught.value.code == ExitCode.CONFIGURATION
    assert "--report-markdown" in caught.value.where
    assert caught.value.why
    assert world.looks == 0
    assert not (world.folder / ".kops-py").exists()


def test_two_reports_in_one_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be one file"):
        check_report_files(ReportFiles(junit=tmp_path / "a", html=tmp_path / "." / "a"))


def test_a_file_that_can_no_longer_be_written_is_a_note_and_the_run_stays_what_it_is(
    world: World, files: ReportFiles
) -> None:
    def before(look: int) -> None:
        if look == 2:
            (world.folder / "out").rename(world.folder / "gone")

    world.before_look = before
    assert world.run(reports=files).exit_code is ExitCode.DONE
    notes = [e.message for e in world.events if isinstance(e, Note) and "could not be written" in e.message]
    assert len(notes) == 3


def test_a_whole_file_or_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "r"
    path.write_text("old")
    path.chmod(0o640)
    check_report_files(ReportFiles(html=path))
    assert path.read_text() == "old", "the check leaves it alone"
    write_whole(path, "new")
    assert (path.read_text(), path.stat().st_mode & 0o777) == ("new", 0o640)
    with pytest.raises(UnicodeEncodeError):
        write_whole(path, "\ud800")
    assert path.read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["r"]
    link = tmp_path / "link"
    link.symlink_to(path)
    write_whole(link, "through")
    assert link.is_symlink()
    assert path.read_text() == "through"


def test_a_pipe_is_written_to(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        check_report_files(ReportFiles(markdown=pipe))
        write_whole(pipe, "text")
        assert os.read(reader, 100) == b"text"
    finally:
        os.close(reader)


def test_reports_of_a_run_made_later_are_those_of_its_end(world: World, files: ReportFiles) -> None:
    failing(world)
    result = world.run(reports=files)
    first = written(files)
    assert result.run_dir is not None
    assert write_reports(Settings(reports=files), result.run_dir) == ()
    assert written(files) == first


def test_the_event_stream_tells_failures_in_full(world: World) -> None:
    failing(world)
    result = world.run()
    assert result.run_dir is not None
    last = json.loads((result.run_dir / "events.jsonl").read_text().splitlines()[-1])
    assert last["event"] == "run-finished"
    assert {e["where"] for e in last["errors"]} == {"n1", "n2", "n3", "n4"}
    assert last["errors"][0]["hint"] == "mend the repository"
