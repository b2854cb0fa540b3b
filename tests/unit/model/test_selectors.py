"""Label selectors as text and as objects."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kops_py.model.selectors import label_selector_matches, matches, parse_selector

LABELS = {"app": "web", "tier": "front", "empty": "", "example.com/part-of": "shop", "in": "x"}


@pytest.mark.parametrize(
    ("text", "fits"),
    [
        ("", True),
        ("  ", True),
        ("app=web", True),
        ("app==web", True),
        (" app = web ", True),
        ("app=db", False),
        ("none=web", False),
        ("app!=web", False),
        ("app!=db", True),
        ("none!=web", True),
        ("app", True),
        ("none", False),
        ("!none", True),
        ("! none", True),
        ("!app", False),
        ("app in (db,web)", True),
        ("app in ( db , web )", True),
        ("app in(web)", True),
        ("app in (db)", False),
        ("none in (db)", False),
        ("app notin (db)", True),
        ("app notin (db,web)", False),
        ("none notin (db)", True),
        ("empty=", True),
        ("empty", True),
        ("app=", False),
        ("in", True),
        ("in in (x)", True),
        ("example.com/part-of=shop", True),
        ("app=web,tier=front", True),
        ("app=web,tier=back", False),
        ("app in (web,db),!none,tier!=back", True),
        ("app in (web,db), none", False),
    ],
)
def test_text(text: str, fits: bool) -> None:
    assert matches(text, LABELS) is fits


@pytest.mark.parametrize(
    "text",
    [
        "app=web,",
        ",app",
        "app web",
        "app in web",
        "app in (a",
        "appin (web)",
        "app=a=b",
        "=a",
        "!",
        "app>1",
        "-a",
        "a/",
    ],
)
def test_what_is_not_understood_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not understood"):
        parse_selector(text)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("app in (a b)", "'a b' is not a label's value"),
        ("app notin (a,-b)", "'-b' is not a label's value"),
        (f"app={'v' * 64}", "is not a label's value"),
        (f"{'k' * 64}=v", "is not a label's key"),
        ("Example.com/part-of", "'Example.com/part-of' is not a label's key"),
        ("a..b/part-of", "'a..b/part-of' is not a label's key"),
        (f"{'p' * 254}/x", "is not a label's key"),
    ],
)
def test_what_the_api_server_would_refuse_is_refused_before_a_node_is_touched(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        parse_selector(text)


def test_the_longest_labels_are_understood() -> None:
    value, key = "v" * 63, f"{'p' * 253}/{'k' * 63}"
    assert matches(f"{key}={value}", {key: value})
    assert matches("app in ()", {"app": ""})


@pytest.mark.parametrize(
    ("selector", "fits"),
    [
        (None, False),
        ({}, True),
        ({"matchLabels": None, "matchExpressions": None}, True),
        ({"matchLabels": {"app": "web"}}, True),
        ({"matchLabels": {"app": "web", "tier": "back"}}, False),
        ({"matchExpressions": [{"key": "app", "operator": "In", "values": ["web", "db"]}]}, True),
        ({"matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["web"]}]}, False),
        ({"matchExpressions": [{"key": "none", "operator": "NotIn", "values": ["web"]}]}, True),
        ({"matchExpressions": [{"key": "none", "operator": "In", "values": ["web"]}]}, False),
        ({"matchExpressions": [{"key": "app", "operator": "Exists"}]}, True),
        ({"matchExpressions": [{"key": "app", "operator": "DoesNotExist"}]}, False),
        ({"matchExpressions": [{"key": "none", "operator": "DoesNotExist", "values": None}]}, True),
        ({"matchLabels": {"app": "web"}, "matchExpressions": [{"key": "tier", "operator": "DoesNotExist"}]}, False),
    ],
)
def test_objects(selector: dict[str, Any] | None, fits: bool) -> None:
    assert label_selector_matches(selector, LABELS) is fits


def test_an_operator_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="Near"):
        label_selector_matches({"matchExpressions": [{"key": "app", "operator": "Near"}]}, LABELS)


names = st.from_regex(r"\A[a-z](?:[a-z0-9.-]{0,8}[a-z0-9])?\Z")


@given(key=names, values=st.lists(names, min_size=1, max_size=4), labels=st.dictionaries(names, names, max_size=4))
def test_text_and_object_say_the_same(key: str, values: list[str], labels: dict[str, str]) -> None:
    listed = ",".join(values)
    for word, operator in (("in", "In"), ("notin", "NotIn")):
        expression = {"key": key, "operator": operator, "values": values}
        assert matches(f"{key} {word} ({listed})", labels) is label_selector_matches(
            {"matchExpressions": [expression]}, labels
        )
    assert matches(f"{key}={values[0]}", labels) is label_selector_matches({"matchLabels": {key: values[0]}}, labels)
    assert matches(f"!{key}", labels) is not matches(key, labels)
