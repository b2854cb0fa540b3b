"""Ways between versions, and how far apart versions may be on them."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kops_py.model.facts import NodeFacts
from kops_py.model.finding import Severity
from kops_py.model.upgrade import UpgradeFacts
from kops_py.model.version import NEWEST_MINOR, OLDEST_MINOR, Version
from kops_py.runbooks.upgrade_path import path_findings, skew_findings, upgrade_path

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def v(text: str) -> Version:
    return Version.parse(text)


def minors(*texts: str) -> dict[int, Version]:
    return {v(t).minor: v(t) for t in texts}


def kubelets(**versions: str) -> dict[str, NodeFacts]:
    return {n: NodeFacts(n, ready=True, reason="", version=text, internal_ip="") for n, text in versions.items()}


def facts(**fields: Any) -> UpgradeFacts:
    return UpgradeFacts(NOW, **fields)


def test_one_minor_a_hop() -> None:
    via = minors("v1.31.9", "v1.32.4", "v1.40.0")
    assert upgrade_path(v("v1.30.1"), v("v1.33.2"), via) == (v("v1.31.9"), v("v1.32.4"), v("v1.33.2"))
    assert upgrade_path(v("v1.30.1"), v("v1.30.5"), {}) == (v("v1.30.5"),)
    assert upgrade_path(v("v1.30.1"), v("v1.30.1"), {}) == (v("v1.30.1"),)
    assert upgrade_path(v("v1.30.1"), v("v1.31.0"), minors("v1.30.9")) == (v("v1.31.0"),)


@pytest.mark.parametrize(
    ("current", "target", "via", "name"),
    [
        ("v1.30.1", "v1.30.0", {}, "downgrade"),
        ("v1.30.1", "v1.29.9", {}, "downgrade"),
        ("v1.30.0", "v1.30.0-rc.1", {}, "downgrade"),
        ("v1.30.1", "v1.32.0", {}, "minor-skipped"),
        ("v1.30.1", "v1.32.0", {31: "v1.32.0"}, "minor-skipped"),
        (f"v1.{NEWEST_MINOR}.0", f"v1.{NEWEST_MINOR + 1}.0", {}, "version-unsupported"),
        (f"v1.{OLDEST_MINOR - 1}.0", f"v1.{OLDEST_MINOR}.0", {}, "version-unsupported"),
        ("v1.30.1", "v2.30.1", {}, "version-unsupported"),
    ],
)
def test_no_way(current: str, target: str, via: dict[int, str], name: str) -> None:
    versions = {minor: v(text) for minor, text in via.items()}
    found = path_findings(v(current), v(target), versions)
    assert [f.id for f in found] == [name]
    assert found[0].severity is Severity.ERROR
    with pytest.raises(ValueError, match="v1"):
        upgrade_path(v(current), v(target), versions)


@given(start=st.integers(OLDEST_MINOR, NEWEST_MINOR), length=st.integers(0, 20), data=st.data())
def test_a_way_never_skips_and_ends_at_the_target(start: int, length: int, data: st.DataObject) -> None:
    end = min(start + length, NEWEST_MINOR)
    patches = {m: Version(1, m, data.draw(st.integers(0, 30))) for m in range(start + 1, end)}
    target = Version(1, end, 30)
    way = upgrade_path(Version(1, start, 3), target, patches)
    steps = [start, *(hop.minor for hop in way)]
    assert all(b - a == (1 if end > start else 0) for a, b in pairwise(steps))
    assert way[-1] == target


def skew(current: str, *path: str, **fields: Any) -> list[str]:
    found = skew_findings(v(current), [v(p) for p in path], facts(**fields))
    return [f.message for f in found]


def test_api_servers_apart() -> None:
    ok = {"cp1": v("v1.30.1"), "cp2": v("v1.31.0")}
    assert skew("v1.30.1", "v1.31.0", api_servers=ok) == []
    (text,) = skew("v1.29.1", "v1.30.1", "v1.31.0", api_servers={"cp1": v("v1.29.1"), "cp2": v("v1.31.0")})
    assert "cp1 runs v1.29.1, cp2 v1.31.0" in text
    (text,) = skew("v1.30.1", "v1.30.5", api_servers=ok)
    assert "cp2: v1.31.0 runs there, which is newer" in text


@pytest.mark.parametrize(
    ("kubelet", "current", "path", "fits"),
    [
        ("v1.30.1", "v1.30.1", ["v1.31.0"], True),
        ("v1.28.1", "v1.30.1", ["v1.31.0"], True),
        ("v1.27.1", "v1.30.1", ["v1.31.0"], False),
        ("v1.31.0", "v1.30.1", ["v1.31.0"], True),  # half an upgrade was done
        ("v1.32.0", "v1.30.1", ["v1.31.0"], False),
        ("v1.24.0", "v1.27.1", ["v1.28.0"], False),  # kubeadm 1.28 wants one minor at most
        ("v1.27.1", "v1.27.1", ["v1.28.0"], True),
        ("v1.26.1", "v1.27.1", ["v1.28.0"], False),
        ("v1.26.1", "v1.28.1", ["v1.29.0"], True),
        ("v1.30.1", "v1.30.1", ["v1.31.0", "v1.32.0", "v1.33.0", "v1.34.0"], True),
        ("not a version", "v1.30.1", ["v1.31.0"], True),
        ("v1.30.1+k3s1", "v1.30.1", ["v1.31.0"], True),
    ],
)
def test_kubelets(kubelet: str, current: str, path: list[str], fits: bool) -> None:
    assert (skew(current, *path, nodes=kubelets(w1=kubelet)) == []) is fits


def test_nodes_left_behind_fall_back_on_a_long_way() -> None:
    way = ["v1.31.0", "v1.32.0", "v1.33.0", "v1.34.0"]
    nodes = kubelets(w1="v1.30.1", w2="v1.30.1")
    (text,) = skew("v1.30.1", *way, nodes=nodes, left_behind=frozenset({"w2"}))
    assert text.startswith("w2: kubelet v1.30.1 would be 4 minors older than v1.34.0")
    assert skew("v1.30.1", *way[:3], nodes=nodes, left_behind=frozenset({"w2"})) == []
