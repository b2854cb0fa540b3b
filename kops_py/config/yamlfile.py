"""YAML as a tree in which every node knows its line and column.

Built from libyaml's event stream with a stack of our own: the depth, the size after aliases and the duplicate keys
are checked while the tree grows, so no file can exhaust the stack or the memory.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, TypeAlias

from kops_py.config.problems import Place, Problems, place_at, read_text, show

_MOST_DEPTH = 64
_MOST_NODES = 50_000
_NOT_PRINTABLE = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_YAML = "tag:yaml.org,2002:"
_MERGED = "merged"  # marks the key of an entry that came through << and may be overridden
_OPAQUE_TAGS = frozenset({"!vault", "!vault-encrypted", "!unsafe"})


class Kind(Enum):
    """What a node is."""

    MAP = "map"
    LIST = "list"
    SCALAR = "scalar"


@dataclass(slots=True)
class Node:
    """One node; ``entries`` maps a key to its key node and value node, ``value`` is a scalar's Python value."""

    kind: Kind
    place: Place
    value: str | int | float | bool | None = None
    items: list[Node] = field(default_factory=list)
    entries: dict[str, tuple[Node, Node]] = field(default_factory=dict)
    tag: str = ""
    weight: int = 1
    """Number of nodes below and with this one, aliases counted as often as they are used."""
    height: int = 1
    complete: bool = True

    @property
    def what(self) -> str:
        """Return the word for what this node is."""
        if self.kind is not Kind.SCALAR:
            return f"a {self.kind.value}"
        if self.value is None:
            return "nothing"
        if isinstance(self.value, bool):
            return "a yes/no value"
        return "text" if isinstance(self.value, str) else "a number"

    @property
    def is_empty(self) -> bool:
        """Whether the node is a scalar that says nothing."""
        return self.kind is Kind.SCALAR and self.value is None

    def plain(self) -> Any:
        """Return the tree as Python dicts, lists and scalars."""
        if self.kind is Kind.MAP:
            return {key: value.plain() for key, (_, value) in self.entries.items()}
        if self.kind is Kind.LIST:
            return [item.plain() for item in self.items]
        return self.value

    def place_of(self, path: tuple[str | int, ...], *, key: bool = False) -> Place:
        """Return the place of the value at a path, or of its key; of the nearest parent when it is not there."""
        node, place = self, self.place
        for step in path:
            if isinstance(step, str) and step in node.entries:
                key_node, node = node.entries[step]
                place = key_node.place if key else node.place
            elif isinstance(step, int) and node.kind is Kind.LIST and 0 <= step < len(node.items):
                node = node.items[step]
                place = node.place
            else:
                break
        return place


@dataclass(slots=True)
class _Frame:
    node: Node
    key: Node | None = None
    anchors: tuple[str, ...] = ()


def read_yaml(path: Path, *, most_bytes: int, free: bool = False, vars_file: bool = False) -> Node:
    """Read one YAML document.

    ``free`` allows what Ansible allows: keys that are not text, and its own tags, whose values stay as they are.
    ``vars_file`` also allows an empty file and duplicate keys, as Ansible does in group_vars and host_vars.
    Raises ConfigError with a place for everything else.
    """
    problems = Problems()
    text = read_text(path, problems, most_bytes=most_bytes)
    return parse_yaml(text, str(path), free=free, vars_file=vars_file)


def parse_yaml(text: str, file: str, *, free: bool = False, vars_file: bool = False) -> Node:
    """Parse one YAML document; see ``read_yaml``."""
    import yaml

    problems = Problems()
    bad = _NOT_PRINTABLE.search(text)
    if bad is not None:
        place = place_at(file, text, bad.start())
        problems.fail(place, f"control character {bad[0]!r} is not allowed", hint="remove it; is this a text file?")
    composer = _Composer(file, problems, free=free, duplicates_ok=vars_file)
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        for event in yaml.parse(text, Loader=loader):
            composer.take(event)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = Place(file, mark.line + 1, mark.column + 1) if mark else Place(file)
        lines = text.splitlines()
        line = lines[mark.line] if mark and mark.line < len(lines) else ""
        hint = "indent with spaces, YAML does not take tabs" if "\t" in line else ""
        problems.fail(place, "not valid YAML", why=error.problem or error.context or "", hint=hint)
    except yaml.YAMLError as error:
        problems.fail(Place(file), "not valid YAML", why=type(error).__name__)
    problems.raise_if_any()
    if composer.root is None:
        if vars_file:
            return Node(Kind.MAP, Place(file))
        problems.fail(Place(file), "the file is empty", hint="kops-py init DIR writes a commented example")
    return composer.root


_ScalarValue: TypeAlias = str | int | float | bool | None


class _Composer:
    """Turns events into one tree."""

    def __init__(self, file: str, problems: Problems, *, free: bool, duplicates_ok: bool) -> None:
        from yaml.constructor import SafeConstructor
        from yaml.resolver import Resolver

        self.root: Node | None = None
        self._file = file
        self._problems = problems
        self._free = free
        self._duplicates_ok = duplicates_ok
        self._stack: list[_Frame] = []
        self._anchors: dict[str, Node] = {}
        self._count = 0
        self._resolver: Any = Resolver()
        self._constructor: Any = SafeConstructor()

    def take(self, event: Any) -> None:
        """Take the next event."""
        import yaml

        if isinstance(event, yaml.DocumentStartEvent) and self.root is not None:
            self._problems.fail(self._place(event), "a second document begins here", hint="one document a file")
        elif isinstance(event, yaml.AliasEvent):
            self._add(self._alias(event))
        elif isinstance(event, yaml.ScalarEvent):
            node = self._scalar(event)
            if event.anchor:
                self._anchors[event.anchor] = node
            self._add(node)
        elif isinstance(event, yaml.CollectionStartEvent):
            self._open(event, Kind.MAP if isinstance(event, yaml.MappingStartEvent) else Kind.LIST)
        elif isinstance(event, yaml.CollectionEndEvent):
            node = self._stack.pop().node
            node.complete = True
            self._add(node)

    def _place(self, event: Any) -> Place:
        return Place(self._file, event.start_mark.line + 1, event.start_mark.column + 1)

    def _open(self, event: Any, kind: Kind) -> None:
        place = self._place(event)
        if len(self._stack) >= _MOST_DEPTH:
            self._problems.fail(place, f"nested deeper than {_MOST_DEPTH} levels")
        expected = f"{_YAML}map" if kind is Kind.MAP else f"{_YAML}seq"
        if event.tag not in (None, "!", expected):
            self._problems.add(place, f"tag {show(event.tag)} is not allowed here", hint="remove it")
        node = Node(kind, place, complete=False)
        if event.anchor:
            self._anchors[event.anchor] = node
        self._stack.append(_Frame(node))

    def _alias(self, event: Any) -> Node:
        place = self._place(event)
        node = self._anchors.get(event.anchor)
        if node is None:
            self._problems.fail(place, f"alias *{show(event.anchor)[1:-1]} has no anchor")
        if not node.complete:
            self._problems.fail(place, f"alias *{show(event.anchor)[1:-1]} contains itself")
        if len(self._stack) + node.height > _MOST_DEPTH:
            self._problems.fail(place, f"nested deeper than {_MOST_DEPTH} levels")
        self._count += node.weight
        self._check_size(place)
        return node

    def _check_size(self, place: Place) -> None:
        if self._count > _MOST_NODES:
            self._problems.fail(place, f"more than {_MOST_NODES} values, aliases counted as often as used")

    def _scalar(self, event: Any) -> Node:
        from yaml.nodes import ScalarNode

        place = self._place(event)
        self._count += 1
        self._check_size(place)
        tag = event.tag
        if tag is None or tag == "!":
            tag = self._resolver.resolve(ScalarNode, event.value, event.implicit)
        return Node(Kind.SCALAR, place, value=self._value(tag, event.value, place), tag=tag)

    def _value(self, tag: str, text: str, place: Place) -> _ScalarValue:
        from yaml.nodes import ScalarNode

        name = tag.removeprefix(_YAML)
        # Dates stay the text they were written as: nothing here or in kubeadm's configuration is a date.
        if name in ("str", "timestamp", "merge", "value"):
            return text
        if name not in ("int", "float", "bool", "null"):
            if not (self._free and tag in _OPAQUE_TAGS):
                self._problems.add(place, f"tag {show(tag)} is not allowed here", hint="remove it")
            return text
        try:
            value: _ScalarValue = getattr(self._constructor, f"construct_yaml_{name}")(ScalarNode(tag, text))
        except (ValueError, KeyError, IndexError, OverflowError):
            self._problems.add(place, f"this is not a value of type {name}", hint="write it in quotes if it is text")
            return text
        if isinstance(value, float) and not math.isfinite(value):
            self._problems.add(place, "this is not a finite number")
            return 0.0
        return value

    def _add(self, node: Node) -> None:
        if not self._stack:
            self.root = node
            return
        frame = self._stack[-1]
        parent = frame.node
        parent.weight += node.weight
        parent.height = max(parent.height, node.height + 1)
        if parent.kind is Kind.LIST:
            parent.items.append(node)
        elif frame.key is None:
            frame.key = node
        else:
            key, frame.key = frame.key, None
            self._add_entry(parent, key, node)

    def _add_entry(self, parent: Node, key: Node, value: Node) -> None:
        if key.kind is not Kind.SCALAR:
            self._problems.add(key.place, f"a key must be text, this is {key.what}")
            return
        if key.tag == f"{_YAML}merge":
            self._merge(parent, value)
            return
        if not isinstance(key.value, str) and not self._free:
            self._problems.add(
                key.place, f"a key must be text, {show(key.value)} is {key.what}", hint="write the key in quotes"
            )
            return
        name = str(key.value)
        earlier = parent.entries.get(name)
        if earlier is not None and earlier[0].tag != _MERGED and not self._duplicates_ok:
            first = earlier[0].place
            self._problems.add(
                key.place,
                f"key {show(name)} is there twice, first at {first.line}:{first.column}",
                hint="remove one of them",
            )
            return
        parent.entries[name] = (key, value)

    def _merge(self, parent: Node, value: Node) -> None:
        sources = value.items if value.kind is Kind.LIST else [value]
        for source in sources:
            if source.kind is not Kind.MAP:
                self._problems.add(source.place, f"<< merges maps, this is {source.what}")
                continue
            for name, (key, item) in source.entries.items():
                merged = Node(Kind.SCALAR, key.place, value=key.value, tag=_MERGED)
                parent.entries.setdefault(name, (merged, item))
