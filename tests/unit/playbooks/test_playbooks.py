"""Syntax, lint and consistency of the shipped playbooks."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.unit.playbooks.loading import PLAYBOOKS

ROOT = PLAYBOOKS.parent
SCRIPTS = Path(sys.executable).parent
PLAYS = sorted(path.name for path in PLAYBOOKS.glob("*.yml"))
ROLES = sorted(path.name for path in (PLAYBOOKS / "roles").iterdir())


def run(*argv: str) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("ANSIBLE_")}
    environment |= {"PATH": f"{SCRIPTS}:{os.environ['PATH']}", "ANSIBLE_LOCALHOST_WARNING": "False"}
    return subprocess.run(argv, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=300)


@pytest.mark.parametrize("play", PLAYS)
def test_syntax(play: str) -> None:
    done = run("ansible-playbook", "--syntax-check", "-i", "localhost,", f"playbooks/{play}")
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(not (SCRIPTS / "ansible-lint").exists(), reason="ansible-lint is not installed")
def test_lint() -> None:
    done = run("ansible-lint", "--nocolor", "playbooks")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("role", ROLES)
def test_every_role_says_what_it_takes_and_its_defaults_agree(role: str) -> None:
    folder = PLAYBOOKS / "roles" / role
    options = yaml.safe_load((folder / "meta/argument_specs.yml").read_text())["argument_specs"]["main"]["options"]
    defaults = yaml.safe_load((folder / "defaults/main.yml").read_text()) or {}
    for name, option in options.items():
        assert name.startswith("kops_")
        assert option["description"].strip()
        if "default" in option:
            assert defaults[name] == option["default"], name


def test_no_collections_are_needed() -> None:
    own = {path.stem for path in (PLAYBOOKS / "library").glob("*.py")}
    keywords = {"name", "when", "loop", "vars", "register", "changed_when", "notify", "check_mode", "until", "retries"}
    keywords |= {"delay", "loop_control"}
    for path in [p for glob in ("*.yml", "roles/*/tasks/*", "roles/*/handlers/*") for p in PLAYBOOKS.glob(glob)]:
        content = yaml.safe_load(path.read_text())
        tasks = [t for play in content for t in play.get("tasks", [])] if path.parent == PLAYBOOKS else content
        for task in tasks:
            (module,) = set(task) - keywords
            assert module in own or module.startswith("ansible.builtin."), f"{path}: {module}"


def test_documentation_names_every_variable() -> None:
    text = (ROOT / "docs/playbooks.md").read_text()
    for role in ROLES:
        options = yaml.safe_load((PLAYBOOKS / f"roles/{role}/meta/argument_specs.yml").read_text())
        for name in options["argument_specs"]["main"]["options"]:
            assert f"`{name}`" in text, name
