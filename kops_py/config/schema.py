"""The JSON Schema of cluster.yaml, for editors and for ``kops-py schema``."""

from __future__ import annotations

from typing import Any

SCHEMA_ID = "urn:kops-py:cluster:v1"


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of cluster.yaml; it accepts everything that ``load`` accepts.

    What needs more than one value to judge (networks that overlap, files that exist) only ``load`` checks.
    """
    from kops_py.config.document import ClusterDocument

    schema = ClusterDocument.model_json_schema(by_alias=True)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": SCHEMA_ID,
        **_without_titles(schema),
        "title": "kops-py cluster.yaml",
    }


def _without_titles(node: Any) -> Any:
    """Drop the titles pydantic makes of field names; editors show the description."""
    if isinstance(node, dict):
        return {
            key: {name: _without_titles(body) for name, body in value.items()}
            if key in ("properties", "$defs")
            else _without_titles(value)
            for key, value in node.items()
            if key != "title" or not isinstance(value, str)
        }
    return [_without_titles(item) for item in node] if isinstance(node, list) else node
