"""The command line: help, bad input, bugs, readers that go away, Ctrl-C; never a traceback on the screen."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from kops_py.cli import main
from kops_py.cli.output import say

ROOT = Path(__file__).parents[3]
TOKEN = "abcdef.0123456789abcdef"
PROGRAM = (sys.executable, "-c", "from kops_py.cli.main import main; main()")


def program(
    *argv: str, cwd: Path, env: dict[str, str] | None = None, before: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*before, *PROGRAM, *argv],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), **(env or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with a good pair in ``good``, which is the current one."""
    shutil.copytree(ROOT / "inventories" / "single", tmp_path / "good")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("command", ["", *main._COMMANDS])
@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help(command: str, flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run([*filter(None, [command]), flag]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert out.startswith(f"Usage: kops-py {command}".rstrip())
    if not command:
        assert all(name in out for name in main._COMMANDS)


def test_every_option_has_a_help_text() -> None:
    import click

    context = click.Context(main.root)
    for name in main._COMMANDS:
        command = main.root.get_command(context, name)
        assert command is not None
        assert command.help
        for option in command.params:
            if isinstance(option, click.Option):
                assert option.help, f"{name} {option.opts}"


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["--version"]) == 0
    assert re.fullmatch(r"kops-py, version \d+\.\d+\.\d+\n", capsys.readouterr().out)


def bad_inputs() -> dict[str, tuple[str, ...]]:
    return {
        "nothing": (),
        "unknown command": ("frobnicate",),
        "unknown option": ("validate", "--frobnicate"),
        "option without value": ("validate", "-i"),
        "unknown choice": ("init", "new", "--topology", "moebius"),
        "too many": ("schema", "more"),
        "empty folder": ("validate",),
        "no such inventory": ("validate", "-i", "nowhere"),
        "no such cluster file": ("validate", "-i", "good", "--cluster", "nowhere"),
        "a folder as cluster file": ("validate", "-i", "good", "--cluster", "good"),
        "binary": ("validate", "-i", "binary"),
        "binary cluster file": ("validate", "-i", "good", "--cluster", "binary/cluster.yaml"),
        "empty file": ("validate", "-i", "empty"),
        "a device": ("validate", "-i", "/dev/null"),
        "a very long name": ("validate", "-i", "x" * 5000),
        "a loop of links": ("validate", "-i", "loop"),
        "an example over files": ("init", "good"),
        "an example in a file": ("init", "empty"),
        "an example below a file": ("init", "empty/below"),
        "no terminal": ("bootstrap", "-i", "good"),
        "unknown host": ("bootstrap", "-i", "good", "-y", "--limit", "nobody"),
        "run folder is a file": ("bootstrap", "-i", "good", "-y", "--run-dir", "empty"),
        "run folder below a file": ("bootstrap", "-i", "good", "-y", "--run-dir", "empty/below"),
        "no such ssh config": ("preflight", "-i", "good", "--ssh-config", "nowhere"),
        "unknown finding": ("preflight", "-i", "good", "--ignore", "no-such-finding"),
        "unknown finding of a run": ("bootstrap", "-i", "good", "-y", "--ignore", "swap-on@nobody"),
        "an empty limit": ("bootstrap", "-i", "good", "-y", "--limit", ""),
        "a limit of commas": ("bootstrap", "-i", "good", "-y", "--limit", " , "),
        "an empty digest": ("bootstrap", "-i", "good", "-y", "--plan-digest", ""),
        "use without merge": ("kubeconfig", "-i", "good", "--use"),
        "more than all workers": ("upgrade", "-i", "good", "-y", "--max-unavailable", "101%"),
        "kubeconfig into a folder": ("kubeconfig", "-i", "good", "--file", "good"),
    }


@pytest.mark.parametrize("case", bad_inputs())
def test_bad_input_is_exit_code_2_with_a_word_and_no_contact(
    case: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def contact(*_: object, **__: object) -> None:
        raise AssertionError("a host would have been contacted")

    monkeypatch.setattr("kops_py.connect.ssh.SshFleet.map", contact)
    monkeypatch.setattr("sys.stdin", Path(os.devnull).open(encoding="utf-8"))  # noqa: SIM115
    (folder / "binary").mkdir()
    for name in ("hosts.yaml", "cluster.yaml"):
        (folder / "binary" / name).write_bytes(bytes(range(256)) * 4)
    (folder / "empty").touch()
    (folder / "loop").symlink_to("loop")
    assert main.run(bad_inputs()[case]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "Traceback" not in err
    assert "bug in kops-py" not in err
    assert len(err.strip()) > 20


def test_an_unreadable_file_is_named(folder: Path) -> None:
    # root may read everything; without its capabilities it is an ordinary owner
    before = ("setpriv", "--bounding-set=-all", "--inh-caps=-all") if os.geteuid() == 0 else ()
    for name in ("cluster.yaml", "hosts.yaml"):
        path = folder / "good" / name
        path.chmod(0)
        done = program("validate", "-i", "good", cwd=folder, before=before)
        path.chmod(0o644)
        assert done.returncode == 2, done.stderr
        assert name in done.stderr
        assert "ermission" in done.stderr
        assert "Traceback" not in done.stderr


def test_a_good_pair_is_valid_in_text_and_json(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["validate", "-i", "good"]) == 0
    assert "are valid" in capsys.readouterr().out
    assert main.run(["validate", "-i", "good", "-o", "json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["valid"] is True
    assert err == ""


def test_an_example_is_valid_at_once(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["init", "new"]) == 0
    assert main.run(["validate", "-i", "new"]) == 0
    assert "are valid" in capsys.readouterr().out


def boom(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(**_: object) -> None:
        raise error

    monkeypatch.setattr("kops_py.config.schema.json_schema", fail)


def test_a_bug_is_called_one_and_its_traceback_is_kept_privately(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    boom(ZeroDivisionError(f"token {TOKEN}\nsecond line \x1b[2J"), monkeypatch)
    assert main.run(["schema"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: this is a bug in kops-py\n  why:  ZeroDivisionError: token [redacted token]\n")
    [report] = tmp_path.iterdir()
    assert f"  log:  {report}\n" in err
    assert report.stat().st_mode & 0o777 == 0o600
    assert "Traceback" in report.read_text()
    assert "ZeroDivisionError" in report.read_text()
    assert TOKEN not in report.read_text() + err
    assert "Traceback" not in err


def test_a_full_disk_is_no_bug_and_the_report_need_not_fit(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    full = OSError(errno.ENOSPC, "No space left on device", "/runs/journal.jsonl")

    def no_space(**_: object) -> None:
        raise full

    monkeypatch.setattr("tempfile.mkstemp", no_space)
    boom(full, monkeypatch)
    assert main.run(["schema"]) == 1
    err = capsys.readouterr().err
    assert "this machine does not let kops-py go on" in err
    assert "No space left on device: '/runs/journal.jsonl'" in err
    assert "  log:  could not be written: No space left on device" in err


def test_ctrl_c_outside_of_a_run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    boom(KeyboardInterrupt(), monkeypatch)
    assert main.run(["schema"]) == 130
    err = capsys.readouterr().err
    assert "error: interrupted\n  next: run the same command again\n" in err
    assert "Traceback" not in err


def test_a_signal_from_outside_ends_it_without_a_traceback(folder: Path) -> None:
    code = (
        "import os, signal, sys; from kops_py.cli import main; import kops_py.config.schema as s; "
        "signal.signal(signal.SIGINT, signal.default_int_handler); "  # a shell's background jobs ignore it
        "s.json_schema = lambda: os.kill(os.getpid(), signal.SIGINT); sys.exit(main.run(['schema']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 130
    assert "interrupted" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("error", [BrokenPipeError(errno.EPIPE, "Broken pipe"), EOFError("the peer went away")])
def test_a_connection_that_breaks_is_not_taken_for_our_output_or_a_person(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    boom(error, monkeypatch)
    assert main.run(["schema"]) == 1
    assert "this is a bug in kops-py" in capfd.readouterr().err


@pytest.mark.parametrize("argv", [("schema",), ("--help",)])
def test_a_reader_that_goes_away_is_no_error(argv: tuple[str, ...], folder: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [*PROGRAM, *argv], stdout=writing, stderr=subprocess.PIPE, text=True, cwd=ROOT, timeout=30, check=False
    )
    os.close(writing)
    assert done.returncode == 0
    assert done.stderr == ""


def test_the_exit_code_survives_a_reader_that_goes_away() -> None:
    code = "import sys; from kops_py.cli.output import say; say('x'); say('y'); sys.exit(20)"
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-c", code],
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        timeout=30,
        check=False,
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (20, "")


def test_say_prints_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    say("a line")
    assert capsys.readouterr().out == "a line\n"


def test_an_encoding_that_lacks_characters_ends_nothing(folder: Path) -> None:
    (folder / "größe").mkdir()
    done = program("init", "größe/neu", cwd=folder, env={"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"})
    assert (done.returncode, done.stderr) == (0, "")
    assert r"gr\xf6\xdfe" in done.stdout


def test_signals_have_their_usual_meaning_afterwards(folder: Path) -> None:
    before = signal.getsignal(signal.SIGINT)
    main.run(["validate", "-i", "nowhere"])
    assert signal.getsignal(signal.SIGINT) == before
