"""What a pydantic error means for the person who wrote cluster.yaml."""

from __future__ import annotations

from types import UnionType
from typing import Any, get_args, get_origin

from pydantic import BaseModel

from kops_py.config.document import ClusterDocument
from kops_py.config.problems import Problems, did_you_mean, kind_of, show
from kops_py.config.yamlfile import Node

_WANTED = {
    "string_type": "text",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "list_type": "a list",
    "dict_type": "a map",
    "model_type": "a map",
}
_SECRET_KEYS = frozenset(
    {"becomePassword", "accessKey", "secretKey", "sessionToken", "identity", "privateKey", "webhook"}
)


def explain(error: dict[str, Any], root: Node, problems: Problems) -> None:
    """Note one error at its place, with what was found and what is allowed; a secret is never repeated."""
    path: tuple[str | int, ...] = error["loc"]
    kind, given = error["type"], error.get("input")
    key = next((str(step) for step in reversed(path) if isinstance(step, str)), "the file")
    if _SECRET_KEYS.intersection(path):
        hint = "allowed here: env:NAME, file:PATH, cmd:COMMAND"
        problems.add(root.place_of(path), f"{key} takes a reference to a secret only", hint=hint)
    elif key in ("recipients", "trusted"):  # somebody may have put the private key there
        problems.add(root.place_of(path), f"{key} is a list of public keys", hint=_example(path))
    elif kind == "extra_forbidden":
        hint = did_you_mean(key, _allowed_keys(path[:-1]))
        problems.add(root.place_of(path, key=True), f"unknown key {show(key)}", hint=hint)
    elif kind == "missing":
        problems.add(
            root.place_of(path[:-1], key=True),
            f"{key} is missing{' in ' + str(path[-2]) if len(path) > 1 else ''}",
            hint=_example(path),
        )
    elif kind in _WANTED:
        problems.add(
            root.place_of(path), f"{key} must be {_WANTED[kind]}, this is {_found(given)}", hint=_example(path)
        )
    else:
        problems.add(root.place_of(path), f"{key} is {_found(given)}", why=_rule(error), hint=_example(path))


def _found(value: object) -> str:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return f"the number {show(value)}"
    if isinstance(value, str):
        return show(value) if value else "empty"
    return kind_of(value)


def _rule(error: dict[str, Any]) -> str:
    context = error.get("ctx") or {}
    match error["type"]:
        case "literal_error":
            return f"allowed here: {str(context.get('expected', '')).replace(' or ', ', ').replace(chr(39), '')}"
        case "greater_than" | "greater_than_equal":
            return f"must be {'more than' if 'gt' in context else 'at least'} {context.get('gt', context.get('ge'))}"
        case "less_than" | "less_than_equal":
            return f"must be {'less than' if 'lt' in context else 'at most'} {context.get('lt', context.get('le'))}"
        case "too_short" | "too_long" | "string_too_short" | "string_too_long":
            least, most = context.get("min_length"), context.get("max_length")
            return f"must have at least {least}" if least is not None else f"must have at most {most}"
        case "string_pattern_mismatch":
            field = _field(error["loc"])
            return f"it means: {field.description.rstrip('.')}" if field is not None and field.description else ""
    return str(error["msg"])


def _example(path: tuple[str | int, ...]) -> str:
    field = _field(path)
    if field is None or not field.examples:
        return ""
    return f"for example: {field.examples[0]}"


def _model_at(path: tuple[str | int, ...]) -> type[BaseModel] | None:
    model: type[BaseModel] | None = ClusterDocument
    for step in path:
        if model is None:
            return None
        if isinstance(step, int):  # a place in a list: the items are of the list's own kind
            continue
        field = next((f for f in model.model_fields.values() if f.alias == step), None)
        model = _model_of(field.annotation) if field else None
    return model


def _model_of(annotation: Any) -> type[BaseModel] | None:
    if get_origin(annotation) is list:
        annotation = get_args(annotation)[0]
    kinds = get_args(annotation) if isinstance(annotation, UnionType) else (annotation,)
    return next((k for k in kinds if isinstance(k, type) and issubclass(k, BaseModel)), None)


def _allowed_keys(path: tuple[str | int, ...]) -> list[str]:
    model = _model_at(path)
    return [] if model is None else [f.alias or name for name, f in model.model_fields.items()]


def _field(path: tuple[str | int, ...]) -> Any:
    words = [step for step in path if isinstance(step, str)]
    for length in range(len(words), 0, -1):
        model = _model_at(tuple(words[: length - 1]))
        if model is not None:
            return next((f for f in model.model_fields.values() if f.alias == words[length - 1]), None)
    return None
