"""Manifest files into the objects they hold."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from typing import Any

from kops_py.connect.base import JsonObject
from kops_py.model.errors import ConfigError


def split_manifests(text: str, *, source: str = "manifest") -> list[JsonObject]:
    """Return the objects of a multi-document YAML (or JSON) text in their order, with List kinds opened up.

    Scalars are read as kubectl reads them: no dates, no base-60 numbers, ``=`` is text. Raises ConfigError that
    names the document (counted from 1, empty ones included) and the line.
    """
    objects: list[JsonObject] = []
    for number, document in _documents(text, source):
        if document is not None:
            objects.extend(_expand(document, f"{source}: document {number}"))
    return objects


def _documents(text: str, source: str) -> Iterator[tuple[int, Any]]:
    import yaml

    number = 0
    try:
        for number, document in enumerate(yaml.load_all(text, Loader=_loader()), start=1):
            yield number, document
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        raise ConfigError(
            "this is not YAML",
            where=f"{source}: document {number + 1}" + (f", line {mark.line + 1}" if mark else ""),
            why=str(getattr(error, "problem", "") or error).partition("\n")[0],
        ) from error


def _expand(document: Any, where: str) -> list[JsonObject]:
    if not isinstance(document, dict):
        raise ConfigError("a Kubernetes object must be a mapping", where=where, why=f"found {type(document).__name__}")
    kind, version = document.get("kind"), document.get("apiVersion")
    if not isinstance(kind, str) or not isinstance(version, str) or not kind or not version:
        missing = "kind" if not isinstance(kind, str) or not kind else "apiVersion"
        raise ConfigError(f"the object has no {missing}", where=where)
    if kind.endswith("List") and isinstance(document.get("items"), list):
        inside: list[JsonObject] = []
        for position, item in enumerate(document["items"], start=1):
            inside.extend(_expand(item, f"{where}, item {position}"))
        return inside
    metadata = document.get("metadata")
    if not isinstance(metadata, dict) or not isinstance(metadata.get("name"), str) or not metadata["name"]:
        raise ConfigError(f"the {kind} has no metadata.name", where=where)
    return [document]


@cache
def _loader() -> Any:
    """Return a safe YAML loader whose plain scalars are those of the Kubernetes tools (JSON types only)."""
    import yaml

    class Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
        yaml_implicit_resolvers: dict[str | None, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012

    def resolve(tag: str, pattern: str, first: str) -> None:
        Loader.add_implicit_resolver(f"tag:yaml.org,2002:{tag}", re.compile(rf"^(?:{pattern})$"), list(first))

    resolve("bool", "yes|Yes|YES|no|No|NO|true|True|TRUE|false|False|FALSE|on|On|ON|off|Off|OFF", "yYnNtTfFoO")
    resolve("int", r"[-+]?(?:0b[01_]+|0[0-7_]+|0|[1-9][0-9_]*|0x[0-9a-fA-F_]+)", "-+0123456789")
    resolve("float", r"[-+]?(?:[0-9][0-9_]*)?\.[0-9]+(?:[eE][-+]?[0-9]+)?|[-+]?[0-9]+\.", "-+0123456789.")
    resolve("float", r"[-+]?[0-9]+(?:\.[0-9]*)?[eE][-+]?[0-9]+", "-+0123456789")
    resolve("null", "~|null|Null|NULL|", "~nN\0")
    Loader.add_implicit_resolver("tag:yaml.org,2002:null", re.compile("^$"), [""])
    resolve("merge", "<<", "<")
    return Loader
