"""The runs of this machine, read back from their folders; nothing is contacted and nothing changed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from kops_py.model.errors import ConfigError

if TYPE_CHECKING:
    from kops_py.report.history import RunHistory

LATEST = "latest"
_SOME = 5


def run_names(run_dir: Path) -> tuple[str, ...]:
    """Return the names of all runs, the newest first (a name begins with the time); raises ConfigError."""
    folder = run_dir / "runs"
    try:
        names = [entry.name for entry in folder.iterdir() if entry.is_dir()]
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise _unreadable(folder, error) from error
    return tuple(sorted(names, reverse=True))


def list_runs(run_dir: Path, last: int) -> tuple[tuple[RunHistory, ...], int]:
    """Return the newest ``last`` runs, the newest first, and how many older ones there are; raises ConfigError."""
    names = run_names(run_dir)
    runs = tuple(read_run(run_dir / "runs" / name) for name in names[:last])
    return runs, len(names) - len(runs)


def find_run(run_dir: Path, name: str) -> RunHistory:
    """Return the run of this name, of the only name that begins so, or the ``latest``; raises ConfigError."""
    names = run_names(run_dir)
    if name == LATEST and names:
        return read_run(run_dir / "runs" / names[0])
    found = [known for known in names if known == name] or [known for known in names if name and known.startswith(name)]
    if len(found) == 1:
        return read_run(run_dir / "runs" / found[0])
    shown = found or list(names)
    known = ", ".join(shown[:_SOME]) + (f" and {len(shown) - _SOME} more" if len(shown) > _SOME else "")
    raise ConfigError(
        f"{len(found)} runs begin with {name!r}" if found else f"there is no run {name!r}",
        where=str(run_dir / "runs"),
        hint=f"known: {known}" if known else "no runs are recorded here; --run-dir names another place",
    )


def read_run(folder: Path) -> RunHistory:
    """Return what the folder of a run tells; a file that is not there tells nothing. Raises ConfigError."""
    from kops_py.report.history_read import history_of

    journal, events = (_text(folder / f"{name}.jsonl").split("\n") for name in ("journal", "events"))
    return history_of(folder.name, plan=_text(folder / "plan.json"), journal=journal, events=events)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError) -> ConfigError:
    return ConfigError(
        "the runs cannot be read",
        where=str(path),
        why=error.strerror or str(error),
        hint="run it as the user who made them, or choose another folder with --run-dir",
    )
