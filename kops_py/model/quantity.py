"""Kubernetes' resource quantities (``250m``, ``1.5``, ``2Gi``, ``1e3``): pure.

The notation is k8s.io/apimachinery's, pkg/api/resource/quantity.go; like there, fractions are rounded up.
"""

from __future__ import annotations

import re
from decimal import ROUND_CEILING, Decimal
from functools import lru_cache

_QUANTITY = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+))(?:([eE][+-]?\d+)|([KMGTPE]i|[numkMGTPE])?)")
_DECIMAL = {"": 0, "n": -9, "u": -6, "m": -3, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_BINARY = {"Ki": 10, "Mi": 20, "Gi": 30, "Ti": 40, "Pi": 50, "Ei": 60}


def whole(text: str) -> int:
    """Return a quantity in whole units (bytes), rounded up; raises ValueError."""
    return _scaled(text, 1)


def millis(text: str) -> int:
    """Return a quantity in thousandths (CPU), rounded up; raises ValueError."""
    return _scaled(text, 1000)


@lru_cache(maxsize=4096)  # a cluster has many pods and few different requests
def _scaled(text: str, factor: int) -> int:
    found = _QUANTITY.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"not a resource quantity: {text!r}")
    number, exponent, suffix = found.groups()
    if exponent:
        value = Decimal(number + exponent)
    elif suffix in _BINARY:
        value = Decimal(number) * (1 << _BINARY[suffix])
    else:
        value = Decimal(number).scaleb(_DECIMAL[suffix or ""])
    return int((value * factor).to_integral_value(rounding=ROUND_CEILING))


def number_of(value: int | str, total: int) -> int:
    """Return a number, or a percentage of ``total`` rounded up as Kubernetes' controllers do.

    Raises ValueError for text that is no percentage.
    """
    if isinstance(value, int):
        return value
    digits = value.removesuffix("%")
    if digits == value or not digits.isascii() or not digits.isdigit():
        raise ValueError(f"{value!r} is neither a number nor a percentage")
    return -(-int(digits) * total // 100)
