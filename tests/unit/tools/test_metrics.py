"""Families out of /metrics."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kops_py.model.removals import DeprecatedRequest
from kops_py.tools.metrics import deprecated_requests, samples, started_at

TEXT = """\
# HELP apiserver_requested_deprecated_apis [ALPHA] Gauge of deprecated APIs that have been requested
# TYPE apiserver_requested_deprecated_apis gauge
apiserver_requested_deprecated_apis{group="policy",removed_release="1.25",resource="podsecuritypolicies",subresource="",version="v1beta1"} 1
apiserver_requested_deprecated_apis{group="",removed_release="",resource="componentstatuses",subresource="",version="v1"} 1
apiserver_requested_deprecated_apis{group="gone",removed_release="1.22",resource="x",subresource="status",version="v1"} 0
apiserver_requested_deprecated_apis_more{group="other"} 1
process_start_time_seconds 1.7672256e+09
"""  # noqa: E501


def test_requests_and_start() -> None:
    assert deprecated_requests(TEXT) == (
        DeprecatedRequest("policy", "v1beta1", "podsecuritypolicies", "", "1.25"),
        DeprecatedRequest("", "v1", "componentstatuses"),
    )
    assert started_at(TEXT) == "2026-01-01T00:00:00Z"
    assert deprecated_requests("") == ()
    assert started_at("process_start_time_seconds NaN\nprocess_start_time_seconds\n") == ""


def test_labels_with_escapes() -> None:
    assert list(samples('a{x="b\\"},c\\\\n\\n",y=""} 2 1700000000\n', "a")) == [({"x": 'b"},c\\n\n', "y": ""}, 2.0)]


@given(st.text(max_size=80))
def test_whatever_is_there_nothing_raises(text: str) -> None:
    for prefix in ("", "a", "a{", 'a{x="', "process_start_time_seconds "):
        list(samples(prefix + text, "a"))
        started_at(prefix + text)
