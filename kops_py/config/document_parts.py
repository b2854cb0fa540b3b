"""What the models of cluster.yaml are made of: the strict base and the kinds of values."""

from __future__ import annotations

import shlex
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema
from pydantic.alias_generators import to_camel


class Model(BaseModel):
    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        alias_generator=to_camel,
        allow_inf_nan=False,
        hide_input_in_errors=True,
    )


def _split_commas(value: object) -> object:
    if isinstance(value, str):
        return [part.strip() for part in value.split(",")]
    return value


def _split_words(value: object) -> object:
    return shlex.split(value) if isinstance(value, str) else value


def _one_or_more(value: object) -> object:
    return [value] if isinstance(value, str) else value


_NETWORK_SCHEMA = {
    "anyOf": [
        {"type": "string", "minLength": 1},
        {"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": 2},
    ]
}
_URLS_SCHEMA = {
    "anyOf": [{"type": "string", "minLength": 1}, {"type": "array", "items": {"type": "string"}, "minItems": 1}]
}
NUMBER_OR_SHARE = "^([1-9][0-9]{0,5}|([1-9][0-9]?|100)%)$"
_COUNT_OR_SHARE_SCHEMA = {"anyOf": [{"type": "integer", "minimum": 1}, {"type": "string", "pattern": NUMBER_OR_SHARE}]}
_WORDS_SCHEMA = {
    "anyOf": [
        {"type": "string", "minLength": 1},
        {"type": "array", "items": {"type": "string", "minLength": 1}, "minItems": 1, "maxItems": 256},
    ]
}
Networks = Annotated[
    list[str], Field(min_length=1, max_length=2), BeforeValidator(_split_commas), WithJsonSchema(_NETWORK_SCHEMA)
]
Urls = Annotated[list[str], Field(min_length=1), BeforeValidator(_one_or_more), WithJsonSchema(_URLS_SCHEMA)]
Text = Annotated[str, Field(min_length=1, max_length=4096)]
Seconds = Annotated[float, Field(gt=0, le=86400)]
Words = Annotated[
    list[Text], Field(min_length=1, max_length=256), BeforeValidator(_split_words), WithJsonSchema(_WORDS_SCHEMA)
]
CountOrShare = Annotated[
    str,
    BeforeValidator(lambda value: str(value) if type(value) is int else value),
    WithJsonSchema(_COUNT_OR_SHARE_SCHEMA),
]
