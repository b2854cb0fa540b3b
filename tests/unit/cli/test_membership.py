"""What node add, node remove, upgrade --strategy replace and reset refuse before anything is contacted."""

from __future__ import annotations

import shutil
from pathlib import Path

import click
import pytest

from kops_py.cli import main, reset
from kops_py.model.plan import Plan

ROOT = Path(__file__).parents[3]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(ROOT / "inventories" / "single", tmp_path / "good")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (("node", "add", "-i", "good", "n7", "--limit", "n7", "-y"), "without --limit"),
        (("node", "remove", "-i", "good", "n7", "--limit", "n7", "-y"), "without --limit"),
        (("upgrade", "-i", "good", "--replace", "n2", "-y"), "add --strategy replace"),
        (("upgrade", "-i", "good", "--strategy", "replace", "--limit", "n2", "-y"), "exclude each other"),
        (("node", "drain", "-i", "good", "n2", "--strategy", "replace", "-y"), "'replace' is not one of"),
        *(
            ((*verb, "-i", "good", "--pod-selector", "app in db", "-y"), "'app in db' is not understood")
            for verb in (
                ("upgrade",),
                ("patch",),
                ("node", "drain", "n2"),
                ("node", "reboot", "n2"),
                ("node", "remove", "n2"),
            )
        ),
        (("reset", "-i", "good"), "--yes-really NAME"),
        (("reset", "-i", "good", "--yes"), "--yes-really NAME"),
        (("reset", "-i", "good", "--plan-digest", "0" * 64), "--yes-really NAME"),
        (("reset", "-i", "good", "--yes-really", "another"), "not another"),
        (("reset", "-i", "good", "--yes-really", "single", "--limit", "n1"), "whole cluster"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_refused(folder: Path, argv: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(list(argv)) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert said in err


@pytest.mark.parametrize(("typed", "agreed"), [("prod", True), (" prod ", True), ("", False), ("y", False)])
def test_the_name_must_be_typed(typed: str, agreed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(click, "prompt", lambda *_, **__: typed)
    assert reset._ask_for_name(Plan("reset", "prod", ())) is agreed
