"""Ways to spoil a file, as Hypothesis strategies."""

from typing import Any

from hypothesis import strategies as st

_SNIPPETS = [
    "\t", "\0", "\x07", "\x7f", "\u0085", "\u2028", "\ufeff", "\ud7ff", "\U0001f600", "ü", "'", '"', "`", "@", "%",
    "{", "}", "[", "]", "[" * 200, "{a: " * 200, "- " * 100, ": ", ":", "#", "&a ", "*a", "&a [*a]", "<<: ",
    "<<: {x: 1}\n",
    "!!python/object/apply:os.system [x] ", "!vault x", "!!int x", "!!binary x", "!!set {a}", "!!timestamp 1-1",
    "---\n", "...\n", "%YAML 9.9\n", "|", ">", "~", "null", "true", "yes", "0x", "1_0", "0b", "1e999",
    ".nan", "-.inf", "9" * 400, "9" * 5000, "-1", "0", "1:30:30", "2001-99-99", "{{ x }}", "{% x %}", "$(x)",
    "\\", "\\x00", '"\\ud800"', "\r", "\r\n", "\n", "\n\n", " ", "   ", "[all]\n", "[x:y]\n",
    "[x:children]\nx\n", "n[1:99999999]",
    "n[9:1]", "n[a:]", "=", "x=", "=x", "a:b:c", "::1", "hosts:\n", "children: {all: }\n", "vars: []\n",
    "plugin: x\n", "#!/bin/sh\n",
    "null: null\n", "? [a]\n: b\n", "1: 2\n", "apiVersion: x\n", "localhost", "10.244.0.5", "A_B", "x" * 300,
]  # fmt: skip
_VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=20),
    st.sampled_from(_SNIPPETS),
    st.lists(st.text(max_size=5), max_size=3),
    st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=3),
)


@st.composite
def spoiled_text(draw: st.DrawFn, good: str) -> bytes:
    """Return the bytes of a good file after one to three changes."""
    data = good.encode()
    for _ in range(draw(st.integers(1, 3))):
        data = draw(st.sampled_from(_CHANGES))(draw, data)
    return data


def _place(draw: st.DrawFn, data: bytes) -> int:
    return draw(st.integers(0, max(len(data) - 1, 0)))


def _flip(draw: st.DrawFn, data: bytes) -> bytes:
    at = _place(draw, data)
    return data[:at] + bytes([draw(st.integers(0, 255))]) + data[at + 1 :]


def _delete(draw: st.DrawFn, data: bytes) -> bytes:
    at = _place(draw, data)
    return data[:at] + data[at + draw(st.integers(1, 40)) :]


def _insert(draw: st.DrawFn, data: bytes) -> bytes:
    at = _place(draw, data)
    return data[:at] + draw(st.sampled_from(_SNIPPETS)).encode() + data[at:]


def _lines(draw: st.DrawFn, data: bytes) -> bytes:
    lines = data.split(b"\n")
    one, other = (draw(st.integers(0, len(lines) - 1)) for _ in range(2))
    match draw(st.sampled_from(["swap", "duplicate", "remove", "indent", "cut"])):
        case "swap":
            lines[one], lines[other] = lines[other], lines[one]
        case "duplicate":
            lines.insert(other, lines[one])
        case "remove":
            del lines[one]
        case "indent":
            lines[one] = b"  " + lines[one] if draw(st.booleans()) else lines[one][1:]
        case _:
            lines = lines[:one]
    return b"\n".join(lines)


def _value(draw: st.DrawFn, data: bytes) -> bytes:
    """Replace what stands behind a colon or an equals sign."""
    marks = [i for i, c in enumerate(data) if c in b":="]
    if not marks:
        return data
    at = draw(st.sampled_from(marks)) + 1
    end = data.find(b"\n", at)
    text = draw(st.one_of(st.sampled_from(_SNIPPETS), st.text(max_size=12), st.integers().map(str)))
    return data[:at] + b" " + text.encode("utf-8", "replace") + data[end if end >= 0 else len(data) :]


_CHANGES = [_flip, _delete, _insert, _lines, _value]


@st.composite
def spoiled_tree(draw: st.DrawFn, good: Any) -> Any:
    """Return a copy of a JSON tree with one to three values changed, removed or moved to another key."""
    tree = _copy(good)
    for _ in range(draw(st.integers(1, 3))):
        paths = list(_paths(tree, ()))
        if not paths:
            return tree
        path = draw(st.sampled_from(paths))
        parent = tree
        for step in path[:-1]:
            parent = parent[step]
        match draw(st.sampled_from(["value", "value", "remove", "rename"])):
            case "value":
                parent[path[-1]] = draw(_VALUES)
            case "remove":
                del parent[path[-1]]
            case _ if isinstance(parent, dict):
                parent[draw(st.text(max_size=8))] = parent.pop(path[-1])
    return tree


def _paths(tree: Any, path: tuple[Any, ...]) -> Any:
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in items:
        yield (*path, key)
        yield from _paths(value, (*path, key))


def _copy(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {key: _copy(value) for key, value in tree.items()}
    return [_copy(value) for value in tree] if isinstance(tree, list) else tree
