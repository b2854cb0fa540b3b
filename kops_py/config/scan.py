"""Our own reading of an inventory's sources, before Ansible's: mistakes with a place, and where everything is."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from kops_py.config.index import Index
from kops_py.config.names import expand_host_pattern
from kops_py.config.problems import Place, Problems, did_you_mean, read_text, show
from kops_py.config.sources import Files
from kops_py.config.yamlfile import Kind, Node, parse_yaml
from kops_py.model.errors import ConfigError

_MOST_BYTES = 4 * 1024 * 1024
_YAML_SUFFIXES = (".yaml", ".yml", ".json")
_SECTIONS = ("hosts", "children", "vars")
# Control characters, and all that Ansible would take for the end of a line.
_INI_FORBIDDEN = re.compile("[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029]")
# Ansible's own form of a section line.
_INI_SECTION = re.compile(r"^\[([^:\]\s]+)(?::(\w+))?\]\s*(?:#.*)?$")
_INI_GROUP = re.compile(r"^([^:\]\s]+)\s*(?:#.*)?$")


def scan_inventory(files: Files) -> Index:
    """Read the sources without Ansible; executable scripts and plugin configurations are left to it.

    Raises ConfigError with every mistake in syntax, structure, host names and contradicting variables.
    """
    problems = Problems()
    first = files.scanned[0] if files.scanned else files.inventory
    index = Index(Place(str(first)))
    for path in files.scanned:
        try:
            _scan_file(path, index, problems)
        except ConfigError as error:
            problems.take(error)
    if not problems:
        index.check_names(problems)
        index.check_children(problems)
    for folder in files.variable_folders:
        _scan_variable_files(folder, index, problems)
    problems.raise_if_any()
    return index


def _scan_file(path: Path, index: Index, problems: Problems) -> None:
    if _is_script(path) or path.suffix == ".toml":
        return
    text = read_text(path, problems, most_bytes=_MOST_BYTES)
    if path.suffix in _YAML_SUFFIXES or (not path.suffix and not _looks_like_ini(text)):
        _YamlScan(path, index, problems).read(parse_yaml(text, str(path), free=True))
    else:
        _IniScan(path, index, problems).read(text)


def _is_script(path: Path) -> bool:
    try:
        if not path.is_file():
            return False
        with path.open("rb") as stream:
            return stream.read(2) == b"#!"
    except OSError:
        return False


def _looks_like_ini(text: str) -> bool:
    for line in text.splitlines():
        stripped = line.strip()
        if stripped and stripped[0] not in "#;":
            return stripped != "---" and not re.match(r"^[^\s:=]+:(\s|$)|^\{", stripped)
    return False


class _YamlScan:
    """Reads an inventory in YAML."""

    def __init__(self, path: Path, index: Index, problems: Problems) -> None:
        self._path = path
        self._index = index
        self._problems = problems

    def read(self, root: Node) -> None:
        """Read all groups; a configuration of an inventory plugin is left alone."""
        if root.kind is not Kind.MAP:
            self._problems.add(root.place, f"an inventory is a map of groups, this is {root.what}")
            return
        if "plugin" in root.entries and root.entries["plugin"][1].kind is Kind.SCALAR:
            return
        for name, (key, value) in root.entries.items():
            if name in _SECTIONS and name not in self._index.declared:
                self._problems.add(
                    key.place, f"{show(name)} stands outside of a group", hint="put it below a group, such as all:"
                )
                continue
            self._group(name, key, value)

    def _group(self, name: str, key: Node, value: Node) -> None:
        if not isinstance(key.value, str) or not name.strip():
            self._problems.add(key.place, f"a group's name must be text, this is {key.what}")
            return
        self._index.add_group(name, key.place)
        if value.is_empty:
            return
        if value.kind is not Kind.MAP:
            self._problems.add(
                value.place,
                f"group {show(name)} is {value.what}",
                hint=f"a group is a map of {', '.join(_SECTIONS)}",
            )
            return
        for word, (word_key, section) in value.entries.items():
            if word not in _SECTIONS:
                self._problems.add(
                    word_key.place,
                    f"unknown key {show(word)} in group {show(name)}",
                    hint=did_you_mean(word, _SECTIONS),
                )
            elif section.kind is Kind.SCALAR and isinstance(section.value, str) and word != "vars":
                self._members(name, word, {section.value: (section, Node(Kind.SCALAR, section.place))})
            elif section.kind is Kind.MAP:
                self._members(name, word, section.entries)
            elif not section.is_empty:
                self._problems.add(
                    section.place,
                    f"{word} of group {show(name)} is {section.what}, it must be a map",
                    hint="write each name as a key, 'node-1:', not as '- node-1'" if word != "vars" else "",
                )

    def _members(self, group: str, word: str, entries: dict[str, tuple[Node, Node]]) -> None:
        for name, (key, value) in entries.items():
            if word == "vars":
                self._index.add_group_variable(group, name, key.place)
            elif word == "children":
                self._index.add_child(group, name, key.place)
                self._group(name, key, value)
            else:
                self._host(group, key, value)

    def _host(self, group: str, key: Node, value: Node) -> None:
        if not isinstance(key.value, str):
            self._problems.add(key.place, f"a host's name must be text, this is {key.what}", hint="write it in quotes")
            return
        try:
            names, _ = expand_host_pattern(key.value)
        except ValueError as error:
            self._problems.add(key.place, f"bad host name {show(key.value)}", why=str(error))
            return
        if value.kind is not Kind.MAP and not value.is_empty:
            self._problems.add(value.place, f"variables of host {show(key.value)} are {value.what}, they must be a map")
            return
        plain = {name: (var_key.place, node.plain()) for name, (var_key, node) in value.entries.items()}
        for host in names:
            self._index.add_host(group, host, key.place)
            for name, (place, setting) in plain.items():
                self._index.add_host_variable(host, name, setting, place, self._problems)


class _IniScan:
    """Reads an inventory in Ansible's INI form."""

    def __init__(self, path: Path, index: Index, problems: Problems) -> None:
        self._file = str(path)
        self._index = index
        self._problems = problems
        self._group = "ungrouped"
        self._state = "hosts"
        self._only_vars: dict[str, Place] = {}

    def read(self, text: str) -> None:
        """Read all lines; a mistake in one does not hide those in the next."""
        anything = False
        for number, raw in enumerate(text.split("\n"), 1):
            line = raw.strip()
            place = Place(self._file, number, len(raw) - len(raw.lstrip()) + 1)
            bad = _INI_FORBIDDEN.search(line)
            if bad is not None:
                self._problems.add(
                    Place(self._file, number, raw.index(bad[0]) + 1),
                    f"control character {bad[0]!r} is not allowed",
                )
            elif line and line[0] not in "#;":
                anything = True
                self._line(line, place)
        if not anything:
            self._problems.add(Place(self._file), "the file is empty", hint="kops-py init DIR writes an example")
        for group, place in self._only_vars.items():
            if group not in self._index.declared and group != "all":
                self._problems.add(place, f"variables for group {show(group)}, which is not defined")

    def _line(self, line: str, place: Place) -> None:
        section = _INI_SECTION.match(line)
        if section is not None:
            self._section(section[1], section[2] or "hosts", place)
        elif line.startswith("["):
            self._problems.add(
                place, "this is not a section", hint="a section is [group], [group:children] or [group:vars]"
            )
        elif self._state == "vars":
            name, equals, _ = line.partition("=")
            if not equals or not name.strip():
                self._problems.add(place, "a variable has the form name=value")
            else:
                self._index.add_group_variable(self._group, name.strip(), place)
        elif self._state == "children":
            child = _INI_GROUP.match(line)
            if child is None:
                self._problems.add(place, "one group name a line is expected here")
            else:
                self._index.add_child(self._group, child[1], place)
                self._index.add_group(child[1], place, declared=False)
        else:
            self._host(line, place)

    def _section(self, group: str, state: str, place: Place) -> None:
        if state not in _SECTIONS:
            self._problems.add(place, f"unknown kind of section {show(state)}", hint=did_you_mean(state, _SECTIONS))
            state = "vars"  # so that the lines below it are not reported as hosts
        self._group, self._state = group, state
        if state == "vars":
            self._only_vars.setdefault(group, place)
        else:
            self._index.groups.setdefault(group, place)
            self._index.add_group(group, place)

    def _host(self, line: str, place: Place) -> None:
        try:
            tokens = shlex.split(line, comments=True)
        except ValueError as error:
            self._problems.add(place, "this line cannot be split into words", why=str(error))
            return
        if not tokens:
            self._problems.add(place, "a host name is missing")
            return
        try:
            names, _ = expand_host_pattern(tokens[0])
        except ValueError as error:
            self._problems.add(
                place,
                f"bad host name {show(tokens[0])}",
                why=str(error),
                hint="a host line is: name variable=value ...",
            )
            return
        for token in tokens[1:]:
            name, equals, value = token.partition("=")
            at = Place(place.file, place.line, place.column + max(line.find(f"{name}{equals}", len(tokens[0])), 0))
            if not equals or not name:
                # The word itself is not shown: it may be half of a password with a blank in it.
                self._problems.add(at, "a variable has the form name=value", hint="quote a value with blanks in it")
                continue
            for host in names:
                self._index.add_host_variable(host, name, value, at, self._problems)
        for host in names:
            self._index.add_host(self._group, host, place)


def _scan_variable_files(folder: Path, index: Index, problems: Problems) -> None:
    for kind in ("group_vars", "host_vars"):
        base = folder / kind
        try:
            entries = sorted(base.iterdir()) if base.is_dir() else []
            for entry in entries:
                if entry.is_dir():
                    for path in sorted(p for p in entry.rglob("*") if p.is_file()):
                        _scan_variables(path, kind, entry.name, index, problems)
                else:
                    owner = entry.stem if entry.suffix in _YAML_SUFFIXES else entry.name
                    _scan_variables(entry, kind, owner, index, problems)
        except OSError as error:
            problems.add(Place(str(base)), "cannot be read", why=error.strerror or str(error))


def _scan_variables(path: Path, kind: str, owner: str, index: Index, problems: Problems) -> None:
    if path.suffix not in ("", *_YAML_SUFFIXES) or path.name.startswith(".") or path.name.endswith("~"):
        return
    try:
        text = read_text(path, problems, most_bytes=_MOST_BYTES)
        if text.startswith("$ANSIBLE_VAULT"):
            return
        root = parse_yaml(text, str(path), free=True, vars_file=True)
    except ConfigError as error:
        problems.take(error)
        return
    if root.kind is not Kind.MAP and not root.is_empty:
        problems.add(root.place, f"variables are a map, this is {root.what}")
    for name, (key, node) in root.entries.items():
        if kind == "group_vars":
            index.add_group_variable(owner, name, key.place)
        else:
            index.add_host_variable(owner, name, node.plain(), key.place, problems)
