"""docs/exit-codes.md against the code, and every error against its exit code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from kops_py.cli import main
from kops_py.model import errors
from kops_py.model.errors import ExitCode, KopsError

PAGE = Path(__file__).parents[3] / "docs" / "exit-codes.md"


def classes() -> list[type[KopsError]]:
    found = [c for c in vars(errors).values() if isinstance(c, type) and issubclass(c, KopsError)]
    assert len(found) > 10
    return [c for c in found if c is not KopsError]


def test_the_page_has_exactly_the_codes_of_the_program() -> None:
    rows = re.findall(r"^\| (\d+) \| ([A-Z_]+) \| (.+?) \| (.+?) \|", PAGE.read_text(), re.MULTILINE)
    assert {(int(code), name) for code, name, _, _ in rows} == {(int(c), c.name) for c in ExitCode}
    assert [int(row[0]) for row in rows] == sorted(int(c) for c in ExitCode)
    for _, _, meaning, examples in rows:
        assert meaning.strip()
        assert examples.strip()


def test_every_code_of_a_failure_has_its_error() -> None:
    told_otherwise = {ExitCode.DONE, ExitCode.PENDING_CHANGES}
    assert {c.code for c in classes()} == set(ExitCode) - told_otherwise


@pytest.mark.parametrize("kind", classes(), ids=lambda kind: str(kind.__name__))
def test_an_error_becomes_its_text_and_exit_code(
    kind: type[KopsError], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(**_: object) -> None:
        raise kind("it did not work", where="n1", why="because \x1b[2Jof this", hint="type that")

    monkeypatch.setattr("kops_py.config.schema.json_schema", fail)
    assert main.run(["schema"]) == int(kind.code)
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "error: n1: it did not work\n  why:  because of this\n  next: type that\n"
