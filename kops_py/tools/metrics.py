"""Single families out of Prometheus' text format, as ``/metrics`` of an API server prints it; no I/O."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime

from kops_py.model.removals import DeprecatedRequest

_LABEL = re.compile(r'([A-Za-z_][A-Za-z0-9_]*)="((?:[^"\\]|\\.)*)"')
_ESCAPES = {"\\n": "\n", '\\"': '"', "\\\\": "\\"}
_REQUESTED = "apiserver_requested_deprecated_apis"
_STARTED = "process_start_time_seconds"


def samples(text: str, family: str) -> Iterator[tuple[Mapping[str, str], float]]:
    """Return labels and value of each sample of one family; lines that are not understood are passed over."""
    for line in text.splitlines():
        if not line.startswith(family):
            continue
        rest = line[len(family) :]
        labels: dict[str, str] = {}
        if rest.startswith("{"):
            inner, _, rest = rest[1:].rpartition("}")
            labels = {m[1]: re.sub(r"\\.", lambda e: _ESCAPES.get(e[0], e[0]), m[2]) for m in _LABEL.finditer(inner)}
        elif not rest.startswith(" "):
            continue  # another family whose name begins the same
        try:
            yield labels, float(rest.split()[0])
        except (IndexError, ValueError):
            continue


def deprecated_requests(text: str) -> tuple[DeprecatedRequest, ...]:
    """Return the deprecated APIs requested since the API server started (v1.19 on)."""
    return tuple(
        DeprecatedRequest(
            group=labels.get("group", ""),
            version=labels.get("version", ""),
            resource=labels.get("resource", ""),
            subresource=labels.get("subresource", ""),
            removed_release=labels.get("removed_release", ""),
        )
        for labels, value in samples(text, _REQUESTED)
        if value > 0
    )


def started_at(text: str) -> str:
    """Return when the process started, RFC 3339 in UTC; empty when it does not say."""
    for _, value in samples(text, _STARTED):
        if 0 < value < 1e11:
            return datetime.fromtimestamp(value, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return ""
