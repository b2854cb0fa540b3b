"""A commented inventory and cluster.yaml to begin with."""

from __future__ import annotations

import os
from enum import StrEnum
from pathlib import Path

from kops_py.model.errors import ConfigError
from kops_py.model.version import NEWEST_MINOR

_PACKAGE = Path(__file__).resolve().parent.parent
_FILES = ("hosts.yaml", "cluster.yaml")


class Topology(StrEnum):
    """What an example shows."""

    SINGLE = "single"
    ONE_CONTROL_PLANE = "one-control-plane"
    STACKED = "stacked"
    EXTERNAL_ETCD = "external-etcd"


def write_example(directory: Path, topology: str, *, version: str = f"v1.{NEWEST_MINOR}.0") -> tuple[Path, ...]:
    """Write hosts.yaml and cluster.yaml into a folder, which is made when it is not there, and return their paths.

    Nothing is overwritten. Raises ConfigError.
    """
    files = render_example(topology, version=version, name=_name_of(directory))
    taken = [directory / name for name in files if os.path.lexists(directory / name)]
    if taken:
        raise ConfigError(
            "the file is there already and is not overwritten",
            where=str(taken[0]),
            hint=f"choose another folder, or move it away: mv {taken[0]} {taken[0]}.old",
            others=tuple(ConfigError("the file is there already", where=str(path)) for path in taken[1:]),
        )
    written = []
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            with (directory / name).open("x", encoding="utf-8") as stream:
                stream.write(text)
            written.append(directory / name)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else None
        raise ConfigError(
            "cannot be written", where=str(directory), why=reason or str(error), hint="choose another folder"
        ) from None
    return tuple(written)


def render_example(topology: str, *, version: str, name: str) -> dict[str, str]:
    """Return the text of each file of an example; raises ConfigError for an unknown topology."""
    import jinja2

    if topology not in list(Topology):
        raise ConfigError(
            f"unknown topology {topology!r}", where="--topology", hint=f"allowed here: {', '.join(Topology)}"
        )
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_templates()),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701  the files are YAML, and every value is ours or checked by load
    )
    values = {"topology": topology, "version": version, "name": name}
    return {file: environment.get_template(f"{file}.j2").render(values) for file in _FILES}


def _templates() -> Path:
    """Return templates/init: inside the wheel, or beside the package in a checkout."""
    for candidate in (_PACKAGE / "_data" / "templates", _PACKAGE.parent / "templates"):
        if (candidate / "init").is_dir():
            return candidate / "init"
    raise ConfigError("the templates are missing from this installation of kops-py", hint="install it again")


def _name_of(directory: Path) -> str:
    """Make a cluster name of a folder's name."""
    letters = "".join(c if c.isascii() and c.isalnum() else "-" for c in directory.absolute().name.lower())
    return letters[:63].strip("-") or "cluster"
