"""The workflow files of docs/ci: their schemas, their shell, the options they use, and how they treat secrets."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from kops_py.cli.main import root
from kops_py.model.errors import ExitCode

DOCS = Path(__file__).parents[3] / "docs"
GITHUB, GITLAB = DOCS / "ci" / "github-actions.yaml", DOCS / "ci" / "gitlab-ci.yaml"
SCHEMAS = {GITHUB: "vendor.github-workflows", GITLAB: "vendor.gitlab-ci"}
FILES = pytest.mark.parametrize("path", SCHEMAS, ids=lambda p: str(p.name))


def read(path: Path) -> dict[Any, Any]:
    found = yaml.safe_load(path.read_text())
    assert isinstance(found, dict)
    return found


def scripts(path: Path) -> Iterator[tuple[str, str]]:
    """Yield the name and the shell text of every job's or step's script."""
    body = read(path)
    if path == GITHUB:
        for name, job in body["jobs"].items():
            for step in job["steps"]:
                if "run" in step:
                    yield f"{name}: {step['name']}", step["run"]
        return
    for name, job in body.items():
        for part in ("before_script", "script"):
            if isinstance(job, dict) and part in job:
                yield f"{name}: {part}", "\n".join(job[part])


def check_schema(path: Path, schema: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema, str(path)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@FILES
def test_the_published_schema_accepts_it(path: Path) -> None:
    done = check_schema(path, SCHEMAS[path])
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_schema_check_can_fail(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(GITHUB.read_text().replace("runs-on: ubuntu-24.04", "run-on: ubuntu-24.04"))
    assert check_schema(wrong, SCHEMAS[GITHUB]).returncode != 0


@FILES
def test_every_script_is_shell(path: Path) -> None:
    found = dict(scripts(path))
    assert len(found) >= 4
    for name, text in found.items():
        done = subprocess.run(["bash", "-n"], input=text, capture_output=True, text=True, check=False, timeout=30)
        assert done.returncode == 0, f"{name}: {done.stderr}"


def calls(path: Path) -> list[str]:
    """Return every call of kops-py with its options, on one line."""
    text = "\n".join(text for _, text in scripts(path)).replace("\\\n", " ")
    return re.findall(r"(?<![\w\"$-])kops-py (?:\$KOPS_COMMAND|[a-z]+) [^\n;|]*", text)


def choices(path: Path) -> list[str]:
    """Return the commands a person can choose."""
    body = read(path)
    if path == GITHUB:
        found = body[True]["workflow_dispatch"]["inputs"]["command"]  # "on" is a truth value in YAML 1.1
        assert found["default"] in found["options"]
    else:
        found = body["variables"]["KOPS_COMMAND"]
        assert found["value"] == "bootstrap"
        assert found["value"] in found["options"]
    return [str(option) for option in found["options"]]


@FILES
def test_the_options_are_those_of_the_program(path: Path) -> None:
    context = click.Context(root)
    group = context.command
    assert isinstance(group, click.Group)
    found = calls(path)
    assert len(found) == 4
    for choice in choices(path):
        for call in found:
            words = call.replace("$KOPS_COMMAND", choice).split()
            command = group.get_command(context, words[1])
            assert command is not None, call
            known = {name for option in command.params for name in option.opts}
            assert {w for w in words[2:] if w.startswith("-")} <= known, call
        name, *options = choice.split()
        command = group.get_command(context, name)
        assert command is not None
        command.make_context(name, options)  # refuses values that are none


@FILES
def test_upgrades_and_patches_can_be_chosen_and_the_page_says_how(path: Path) -> None:
    assert {"bootstrap", "upgrade", "patch", "patch --security"} <= set(choices(path))
    page = (DOCS / "ci.md").read_text()
    assert "## Upgrades and patches" in page
    offered = {word for choice in choices(path) for word in choice.split()[:1]}
    assert all(f"`{name}`" in page for name in offered)


def test_both_files_offer_the_same_and_one_command_is_the_standing_one() -> None:
    assert choices(GITHUB) == choices(GITLAB)
    assert "inputs.command || vars.KOPS_COMMAND || 'bootstrap'" in read(GITHUB)["env"]["KOPS_COMMAND"]


@FILES
def test_the_plan_and_the_run_leave_markdown_html_and_junit_as_artifacts(path: Path) -> None:
    body = read(path)
    jobs = body["jobs"] if path == GITHUB else body
    for job, name in (("plan", "plan"), ("apply", "run")):
        if path == GITHUB:
            [upload] = [s for s in jobs[job]["steps"] if s.get("uses", "").startswith("actions/upload-artifact@")]
            kept = upload["with"]["path"].split()
            assert upload["if"] == "always()"
        else:
            kept = [*jobs[job]["artifacts"]["paths"], jobs[job]["artifacts"]["reports"]["junit"]]
            assert jobs[job]["artifacts"]["when"] == "always"
        wanted = {f"{name}.{kind}" for kind in ("md", "html", "xml")}
        assert wanted <= set(kept)
        script = " ".join(text for where, text in scripts(path) if where.startswith(f"{job}:"))
        assert wanted <= set(re.findall(r"--report-\w+ (\S+)", script))


@FILES
def test_it_plans_then_runs_the_approved_digest_within_a_deadline(path: Path) -> None:
    text = " ".join(calls(path))
    assert "--plan -o json" in text
    assert "--plan-digest" in text
    assert "--deadline" in text
    assert "--yes" not in text, "only what was approved is run"
    assert " -y" not in text
    assert re.search(rf"\b{int(ExitCode.PENDING_CHANGES)}\)", path.read_text()), "exit code 20 is no failure"


@FILES
def test_the_job_lives_longer_than_the_deadline(path: Path) -> None:
    body = read(path)
    job = body["jobs"]["apply"] if path == GITHUB else body["apply"]
    limit_min = job["timeout-minutes"] if path == GITHUB else int(job["timeout"].split()[0])
    deadline = (body["env"] if path == GITHUB else body["variables"])["KOPS_DEADLINE"]
    assert limit_min >= int(deadline.removesuffix("m")) + 15


def test_actions_are_pinned_to_commits_and_what_is_of_others_stays_out_of_scripts() -> None:
    text = GITHUB.read_text()
    uses = re.findall(r"uses: (\S+)(.*)", text)
    assert uses
    for action, comment in uses:
        assert re.fullmatch(r"actions/[a-z-]+@[0-9a-f]{40}", action)
        assert re.fullmatch(r" # v\d+\.\d+\.\d+", comment)
    for name, script in scripts(GITHUB):
        assert "${{" not in script, f"{name}: an expression in a script is text that others can write"
    assert read(GITHUB)["permissions"] == {"contents": "read"}
    assert text.count("persist-credentials: false") == text.count("actions/checkout@")


@FILES
def test_secrets_are_references_and_never_arguments(path: Path) -> None:
    text = path.read_text()
    assert not re.search(r"BEGIN [A-Z ]*PRIVATE KEY|glpat-|ghp_|password: *[^$\s]", text)
    secret = r"\$\{?KOPS_(?:SSH_KEY|BECOME_PASSWORD|COMMENT_TOKEN)"
    for name, script in scripts(path):
        for line in script.replace("\\\n", " ").splitlines():
            if not re.search(secret, line) or line.startswith("if "):
                continue
            builtin = re.match(r"\s*printf ", line)  # a part of the shell: no process has it as an argument
            a_file = path == GITLAB and "KOPS_SSH_KEY" in line  # a variable of type file is its path
            assert builtin or a_file or re.match(r"\s*if ", line), f"{name}: {line}"


def test_the_page_names_both_files_and_every_variable() -> None:
    page = (DOCS / "ci.md").read_text()
    for path in SCHEMAS:
        assert f"ci/{path.name}" in page
        names = set(re.findall(r"KOPS_[A-Z_]+", path.read_text())) - {"KOPS_DIGEST"}
        for name in names:
            assert f"`{name}`" in page, name
