"""A length of time as a person types it: 45s, 90m, 2h, 1h30m, 1d."""

from __future__ import annotations

import re
from dataclasses import dataclass

_UNITS_S = {"d": 86400, "h": 3600, "m": 60, "s": 1}
_FORM = re.compile(r"(?:(\d{1,5})d)?(?:(\d{1,5})h)?(?:(\d{1,5})m)?(?:(\d{1,5})s)?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Duration:
    """Seconds, and the text they were typed as, which is how they are shown."""

    seconds: int
    text: str

    def __str__(self) -> str:
        return self.text


def parse_duration(text: str) -> Duration:
    """Read whole numbers with their units, the larger unit first; raises ValueError for anything else and for zero."""
    match = _FORM.fullmatch(text.strip())
    seconds = 0
    if match:
        seconds = sum(int(n or 0) * unit_s for n, unit_s in zip(match.groups(), _UNITS_S.values(), strict=True))
    if not seconds:
        raise ValueError(
            f"{text!r} is not a length of time above zero; write it with its unit, as 45s, 90m, 2h or 1h30m"
        )
    return Duration(seconds, text.strip())


def spell_seconds(seconds: float) -> str:
    """Return a length of time in this form; parts of a second stay: 90 is 1m30s, 0 is 0s, 2.5 is 2.5s."""
    left, parts = seconds, []
    for unit, unit_s in _UNITS_S.items():
        if unit != "s" and left >= unit_s:
            parts.append(f"{int(left // unit_s)}{unit}")
            left %= unit_s
    return "".join(parts) + (f"{left:g}s" if left or not parts else "")
