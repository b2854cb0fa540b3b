"""Places in the operator's files, and everything that is wrong with them, collected before it is told."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from kops_py.model.errors import ConfigError

_SHOWN_CHARACTERS = 60
_MOST_PROBLEMS = 50
_USER_INFO = re.compile(r"//[^/@\s]+@")


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """A position in a file; line and column count from 1, line 0 means no file but an argument."""

    file: str
    line: int = 1
    column: int = 1

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}" if self.line else self.file


class Problems:
    """Collects what is wrong, so that a person sees all of it at once."""

    def __init__(self) -> None:
        self._found: dict[tuple[Place, str], ConfigError] = {}

    def __bool__(self) -> bool:
        return bool(self._found)

    def add(self, place: Place, what: str, *, why: str = "", hint: str = "") -> None:
        """Note a problem; the same words at the same place are noted once.

        Raises ConfigError with all of them when there are so many that this is hardly the file that was meant.
        """
        self._found.setdefault((place, what), ConfigError(what, where=str(place), why=why, hint=hint))
        if len(self._found) >= _MOST_PROBLEMS:
            self.raise_if_any()

    def fail(self, place: Place, what: str, *, why: str = "", hint: str = "") -> NoReturn:
        """Note a problem after which reading on makes no sense; raises ConfigError."""
        self.add(place, what, why=why, hint=hint)
        self.raise_if_any()
        raise AssertionError("a problem was added")

    def take(self, error: ConfigError) -> None:
        """Note an error, and those it carries, that another reader raised."""
        for one in (error, *error.others):
            self._found.setdefault((_place_of(one), one.what), one)

    def raise_if_any(self) -> None:
        """Raise one ConfigError that carries all others, in the order of the files."""
        if not self._found:
            return
        errors = [error for _, error in sorted(self._found.items(), key=lambda item: item[0])]
        first = errors[0]
        raise ConfigError(
            first.what,
            where=first.where,
            why=first.why,
            hint=first.hint,
            others=tuple(errors[1:_MOST_PROBLEMS]),
        ) from None


def _place_of(error: ConfigError) -> Place:
    file, _, rest = error.where.rpartition(":")
    file, _, line = file.rpartition(":")
    if file and line.isdigit() and rest.isdigit():
        return Place(file, int(line), int(rest))
    return Place(error.where)


def show(value: object) -> str:
    """Return a value as it can stand in a message: quoted, on one line, short, without a password of a URL."""
    text = _USER_INFO.sub("//***@", value) if isinstance(value, str) else value
    if isinstance(text, int) and not isinstance(text, bool) and abs(text) >= 10**30:
        return "a very large number"
    shown = "null" if text is None else str(text).lower() if isinstance(text, bool) else repr(text)
    return shown if len(shown) <= _SHOWN_CHARACTERS else shown[: _SHOWN_CHARACTERS - 3] + "..."


def kind_of(value: object) -> str:
    """Return the word for a value's type in the operator's language."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "a yes/no value"
    if isinstance(value, int | float):
        return "a number"
    if isinstance(value, str):
        return "text"
    return "a map" if isinstance(value, dict) else "a list"


def did_you_mean(word: str, allowed: Iterable[str]) -> str:
    """Return a hint that names the nearest allowed word, and all of them."""
    known = sorted(allowed)
    by_lower = {name.lower(): name for name in known}
    near = difflib.get_close_matches(word[:100].lower(), by_lower, n=1, cutoff=0.6)
    question = f"did you mean {by_lower[near[0]]}? " if near else ""
    return f"{question}allowed here: {', '.join(known)}" if known else "nothing is allowed here"


def read_text(path: Path, problems: Problems, *, most_bytes: int) -> str:
    """Return a file's text without a byte order mark; raises ConfigError for anything that is not UTF-8 text."""
    start = Place(str(path))
    try:
        if path.is_dir():
            problems.fail(start, "this is a folder, a file is needed")
        if not path.exists():
            problems.fail(start, "there is no such file", hint="kops-py init DIR writes a commented example")
        if not path.is_file():
            problems.fail(start, "this is not a regular file")
        with path.open("rb") as stream:
            data = stream.read(most_bytes + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL byte in the path
        reason = error.strerror if isinstance(error, OSError) else None
        problems.fail(start, "cannot be read", why=reason or str(error))
    if len(data) > most_bytes:
        problems.fail(start, f"is larger than {most_bytes // 1024} KiB", hint="is this the right file?")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        good = data[: error.start].decode("utf-8", "replace")
        problems.fail(
            place_at(str(path), good, len(good)),
            f"byte 0x{data[error.start]:02x} is not UTF-8",
            hint="save the file as UTF-8 text",
        )
    return text


def place_at(file: str, text: str, offset: int) -> Place:
    """Return the place of a character offset."""
    before = text[:offset]
    line_start = before.rfind("\n") + 1
    return Place(file, before.count("\n") + 1, offset - line_start + 1)
