"""Label selectors, as text (``app=web,tier in (a,b)``) and as objects (matchLabels, matchExpressions): pure.

The rules are the API server's (k8s.io/apimachinery, pkg/labels/selector.go): ``!=`` and ``notin`` also fit labels
that lack the key.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import Any

_NAME = r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?"
_KEY = rf"(?:{_NAME}/)?{_NAME}"
_TERM = re.compile(
    rf"""\s*(?:
        !\s*(?P<absent>{_KEY})
        | (?P<key>{_KEY})\s*(?:
            (?P<sign>==|!=|=)\s*(?P<value>(?:{_NAME})?)
            | (?<=\s)(?P<word>in|notin)\s*\((?P<values>[^()]*)\)
        )?
    )\s*(?P<end>,|$)""",
    re.VERBOSE | re.ASCII,
)
_PREFIX = re.compile(r"(?=.{1,253}/)[a-z0-9](?:[a-z0-9-]*[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9-]*[a-z0-9])?)*/")
_VALUE = re.compile(rf"(?:{_NAME})?")
_LONGEST = 63


class Operator(StrEnum):
    """How a requirement looks at a label; the names are those of matchExpressions."""

    IN = "In"
    NOT_IN = "NotIn"
    EXISTS = "Exists"
    DOES_NOT_EXIST = "DoesNotExist"


@dataclass(frozen=True, slots=True)
class Requirement:
    """One term of a selector."""

    key: str
    operator: Operator
    values: frozenset[str] = frozenset()

    def fits(self, labels: Mapping[str, str]) -> bool:
        """Whether these labels meet it."""
        value = labels.get(self.key)
        if self.operator is Operator.IN:
            return value is not None and value in self.values
        if self.operator is Operator.NOT_IN:
            return value is None or value not in self.values
        return (value is not None) is (self.operator is Operator.EXISTS)


@lru_cache(maxsize=256)
def parse_selector(text: str) -> tuple[Requirement, ...]:
    """Return the requirements of a selector written as text; raises ValueError. Blank text has none: it fits all."""
    found: list[Requirement] = []
    position, more = 0, bool(text.strip())
    while more:
        term = _TERM.match(text, position)
        if term is None:
            raise ValueError(
                f"label selector {text!r} is not understood at {text[position:].strip()!r}; "
                "allowed: key=value, key!=value, key in (a,b), key notin (a,b), key, !key, joined by commas"
            )
        found.append(_checked(_requirement(term), text))
        position, more = term.end(), term["end"] == ","
    return tuple(found)


def matches(selector: str, labels: Mapping[str, str]) -> bool:
    """Whether labels fit a selector written as text; blank text fits all. Raises ValueError."""
    return all(requirement.fits(labels) for requirement in parse_selector(selector))


def parse_label_selector(selector: Mapping[str, Any]) -> tuple[Requirement, ...]:
    """Return the requirements of a LabelSelector object; an empty one has none. Raises ValueError."""
    found = [
        Requirement(str(key), Operator.IN, frozenset({str(value)}))
        for key, value in (selector.get("matchLabels") or {}).items()
    ]
    for term in selector.get("matchExpressions") or []:
        values = frozenset(str(v) for v in term.get("values") or [])
        found.append(Requirement(str(term["key"]), Operator(str(term["operator"])), values))
    return tuple(found)


def label_selector_matches(selector: Mapping[str, Any] | None, labels: Mapping[str, str]) -> bool:
    """Whether labels fit a LabelSelector object: None fits nothing, an empty one everything. Raises ValueError.

    The one exception in Kubernetes is a PodDisruptionBudget read as policy/v1beta1, whose empty selector fits
    nothing; who reads those gives None for it.
    """
    if selector is None:
        return False
    return all(requirement.fits(labels) for requirement in parse_label_selector(selector))


def _checked(requirement: Requirement, text: str) -> Requirement:
    """Return the requirement if the API server takes its key and values too; raises ValueError."""
    prefix, slash, name = requirement.key.rpartition("/")
    if len(name) > _LONGEST or (slash and _PREFIX.fullmatch(prefix + slash) is None):
        raise ValueError(f"label selector {text!r}: {requirement.key!r} is not a label's key")
    for value in sorted(requirement.values):
        if len(value) > _LONGEST or _VALUE.fullmatch(value) is None:
            raise ValueError(f"label selector {text!r}: {value!r} is not a label's value")
    return requirement


def _requirement(term: re.Match[str]) -> Requirement:
    if term["absent"]:
        return Requirement(term["absent"], Operator.DOES_NOT_EXIST)
    if term["sign"]:
        operator = Operator.NOT_IN if term["sign"] == "!=" else Operator.IN
        return Requirement(term["key"], operator, frozenset({term["value"]}))
    if term["word"]:
        values = frozenset(value.strip() for value in term["values"].split(","))
        return Requirement(term["key"], Operator.IN if term["word"] == "in" else Operator.NOT_IN, values)
    return Requirement(term["key"], Operator.EXISTS)
