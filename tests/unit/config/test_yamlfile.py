"""YAML with places."""

import os
from pathlib import Path

import pytest

from kops_py.config.yamlfile import parse_yaml, read_yaml
from kops_py.model.errors import ConfigError
from tests.unit.config.files import checked


def problem(text: str | bytes, tmp_path: Path) -> ConfigError:
    path = tmp_path / "f.yaml"
    path.write_bytes(text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text)
    with pytest.raises(ConfigError) as caught:
        read_yaml(path, most_bytes=100_000)
    return checked(caught.value)[0]


def test_values_and_places() -> None:
    root = parse_yaml("a: 1\nb:\n  - x\n  - {c: yes, d: 1.5, e: ~, f: 2001-01-01, g: '7'}\n", "f")
    assert root.plain() == {"a": 1, "b": ["x", {"c": True, "d": 1.5, "e": None, "f": "2001-01-01", "g": "7"}]}
    assert str(root.place_of(("b", 1, "d"))) == "f:4:17"
    assert str(root.place_of(("b", 1, "d"), key=True)) == "f:4:14"
    assert str(root.place_of(("b", 1, "nothing", "below"))) == "f:4:5"


def test_aliases_and_merge_keys_are_resolved() -> None:
    root = parse_yaml("a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}\nc: {y: 4, <<: [*a]}\nd: *a\n", "f")
    assert root.plain() == {
        "a": {"x": 1, "y": 2},
        "b": {"x": 1, "y": 3},
        "c": {"x": 1, "y": 4},
        "d": {"x": 1, "y": 2},
    }


def test_byte_order_mark_and_windows_line_ends(tmp_path: Path) -> None:
    path = tmp_path / "f.yaml"
    path.write_bytes(b"\xef\xbb\xbfa: 1\r\nb: 2\r\n")
    root = read_yaml(path, most_bytes=100)
    assert root.plain() == {"a": 1, "b": 2}
    assert str(root.place_of(("b",), key=True)).endswith(":2:1")


BOMB = "a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [{','.join(['*' + chr(97 + i)] * 10)}]\n" for i in range(8)
)


@pytest.mark.parametrize(
    ("text", "place", "words"),
    [
        ("", "1:1", "empty"),
        ("# nothing\n", "1:1", "empty"),
        ("a: 1\na: 2\n", "2:1", "twice, first at 1:1"),
        ("a: {b: 1, b: 1}\n", "1:11", "twice"),
        ("a: 1\n\tb: 2\n", "2:1", "not valid YAML"),
        ("a: 1\n b: 2\n", "2:3", "not valid YAML"),
        ("a: [1\n", "2:1", "not valid YAML"),
        ("a: 1\n--- \nb: 2\n", "2:1", "second document"),
        ("a: *x\n", "1:4", "has no anchor"),
        ("a: &x [*x]\n", "1:8", "contains itself"),
        ("a: !!python/name:os.system x\n", "1:4", "tag"),
        ("a: !vault x\n", "1:4", "tag"),
        ("a: !!int x\n", "1:4", "not a value of type int"),
        ("a: " + "9" * 5000 + "\n", "1:4", "not a value of type int"),
        ("a: .inf\n", "1:4", "finite"),
        ("1: a\n", "1:1", "key must be text"),
        ("? [a]\n: b\n", "1:3", "key must be text"),
        ("a: x\0y\n", "1:5", "control character"),
        ("a: \x1b[31m\n", "1:4", "control character"),
        (b"a: 1\nb: \xff\n", "2:4", "UTF-8"),
        ("a: 1\n".encode("utf-16"), "1:1", "UTF-8"),
        ("[" * 5000, "1:65", "nested deeper"),
        ("{a: " * 5000, "1:257", "nested deeper"),
        (BOMB, "5:", "aliases counted"),
        ("x" * 200_000, "1:1", "larger than"),
    ],
)
def test_what_is_refused(text: str | bytes, place: str, words: str, tmp_path: Path) -> None:
    error = problem(text, tmp_path)
    assert error.where.startswith(f"{tmp_path / 'f.yaml'}:{place}"), error.where
    assert words in error.what


def test_a_tab_gets_a_hint(tmp_path: Path) -> None:
    assert "tabs" in problem("a:\n\tb: 1\n", tmp_path).hint


def test_several_problems_at_once(tmp_path: Path) -> None:
    path = tmp_path / "f.yaml"
    path.write_text("a: 1\na: 2\nb: !x y\n1: 2\n")
    with pytest.raises(ConfigError) as caught:
        read_yaml(path, most_bytes=1000)
    assert [e.where.rsplit(":", 2)[1] for e in checked(caught.value)] == ["2", "3", "4"]


def test_files_that_are_none(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for name, words in [("nothing", "no such file"), (".", "folder"), ("fifo", "regular"), ("a\0b", "")]:
        with pytest.raises(ConfigError) as caught:
            read_yaml(tmp_path / name, most_bytes=10)
        assert words in checked(caught.value)[0].what
