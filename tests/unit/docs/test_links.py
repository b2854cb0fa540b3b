"""What the documents point at is there: files, folders, commands and their options."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from kops_py.cli.main import root

ROOT = Path(__file__).parents[3]
PAGES = sorted(
    [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("tests/*/README.md"), ROOT / "vagrant/README.md"]
)
EACH_PAGE = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
_LINK = re.compile(r"\]\((?!https?://|#)([^)#\s]+)")
_PLACE = re.compile(r"`((?:tests|docs|bench|playbooks|kops_py|vagrant|templates)/[\w./-]+)`")
_COMMAND = re.compile(r"(?:^ {4}|`|\$\()(kops-py [^`\n#|]+)", re.MULTILINE)
_REMEDY = re.compile(r"^\| `\S+` \| (?:error|warning|info).*(?:\| |: |; |, |\()kops-py ([a-z]+)", re.MULTILINE)
"""A command in a table of findings, which has no quotes around it; only its first word is told from the sentence."""


@EACH_PAGE
def test_links_and_named_files_are_there(page: Path) -> None:
    text = page.read_text()
    missing = [link for link in _LINK.findall(text) if not (page.parent / link).exists()]
    missing += [place for place in _PLACE.findall(text) if not (ROOT / place).exists()]
    assert missing == []


def commands(text: str) -> Iterator[list[str]]:
    """Yield the words of each kops-py command line of a page."""
    for line in _COMMAND.findall(text):
        try:
            yield shlex.split(line.split(")")[0])[1:]
        except ValueError:
            continue


def unknown(words: list[str]) -> list[str]:
    """Return what the program does not know of a command line."""
    command: click.Command = root
    context = click.Context(root)
    for word in words:
        if not isinstance(command, click.Group) or word.startswith("-"):
            break
        names = re.split(r"[|,]", word)
        found = [command.get_command(context, name) for name in names]
        if None in found or found[0] is None:
            return [f"no command {word}"]
        command = found[0]
    known = {o for p in command.params for o in p.opts} | {"-h", "--help"}
    options = [re.split(r"[=\]]", word.lstrip("["))[0] for word in words]
    return [f"no option {o}" for o in options if re.match(r"--?[a-z]", o) and o not in known]


@EACH_PAGE
def test_commands_and_options_are_known(page: Path) -> None:
    wrong = {" ".join(words): unknown(words) for words in commands(page.read_text())}
    assert {line: what for line, what in wrong.items() if what} == {}


@EACH_PAGE
def test_remedies_of_findings_are_known(page: Path) -> None:
    assert [word for word in _REMEDY.findall(page.read_text()) if unknown([word])] == []


def test_an_unknown_option_would_be_seen() -> None:
    assert unknown(["bootstrap", "--frobnicate"]) == ["no option --frobnicate"]
    assert unknown(["frobnicate"]) == ["no command frobnicate"]
    assert unknown(["node", "drain", "-i", "prod", "n4"]) == []
