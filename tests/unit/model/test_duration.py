"""Lengths of time as people type them."""

from __future__ import annotations

import pytest

from kops_py.model.duration import parse_duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("45s", 45), ("90m", 5400), ("2h", 7200), ("1h30m", 5400), ("1d", 86400), ("1d2h3m4s", 93784), (" 5m ", 300)],
)
def test_what_is_read(text: str, seconds: int) -> None:
    duration = parse_duration(text)
    assert duration.seconds == seconds
    assert str(duration) == text.strip()


@pytest.mark.parametrize(
    "text", ["", "90", "0m", "0h0m", "-5m", "1.5h", "5 m", "30m1h", "m", "1w", "1h1h", "٣m", "9999999d", "1h\n2m"]
)
def test_what_is_refused_says_how_to_write_it(text: str) -> None:
    with pytest.raises(ValueError, match="90m"):
        parse_duration(text)


def test_the_longest_is_one_a_timer_takes() -> None:
    import threading

    assert parse_duration("99999d99999h99999m99999s").seconds < threading.TIMEOUT_MAX
