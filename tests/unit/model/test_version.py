"""Versions are read, ordered and looked up as the release process means them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kops_py.model.version import NEWEST_MINOR, OLDEST_MINOR, TABLE, Version, facts_of

numbers = st.integers(0, 9999)
versions = st.builds(Version, numbers, numbers, numbers, st.sampled_from(["", "alpha.0", "beta.1", "rc.0", "rc.10"]))


@given(versions)
def test_what_is_written_is_read_again(version: Version) -> None:
    assert Version.parse(str(version)) == version
    assert Version.parse(version.bare) == version


@pytest.mark.parametrize(
    "text",
    [
        "",
        "v1.31",
        "1.31.2.3",
        "v1.31.2 x",
        "vv1.31.2",
        "1.031.2",
        "v1.31.2-",
        "v1.31.2-a..b",
        "1.31.\u0662",
        "v-1.2.3",
    ],
)
def test_other_forms_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a version of the form"):
        Version.parse(text)


def test_order() -> None:
    texts = [
        "v1.9.9",
        "v1.31.0-alpha.3",
        "v1.31.0-beta.0",
        "v1.31.0-rc.2",
        "v1.31.0-rc.10",
        "v1.31.0",
        "v1.31.2",
        "v1.31.10",
    ]
    ordered = [Version.parse(text) for text in texts]
    assert sorted([ordered[-1], *ordered[:-1]]) == ordered


@given(versions, versions)
def test_order_agrees_with_equality(one: Version, other: Version) -> None:
    assert (one < other) + (one == other) + (one > other) == 1


def test_names() -> None:
    version = Version.parse("1.31.2-rc.1")
    assert (str(version), version.bare, version.minor_text) == ("v1.31.2-rc.1", "1.31.2-rc.1", "v1.31")


def test_the_table_covers_every_minor() -> None:
    assert list(TABLE) == list(range(OLDEST_MINOR, NEWEST_MINOR + 1))
    for text in ("v1.19.16", f"v1.{NEWEST_MINOR + 1}.0", "v2.31.0"):
        with pytest.raises(ValueError, match="outside the supported range"):
            facts_of(Version.parse(text))


@pytest.mark.parametrize(
    ("text", "field", "value"),
    [
        ("v1.21.0", "kubeadm_api", "kubeadm.k8s.io/v1beta2"),
        ("v1.22.0", "kubeadm_api", "kubeadm.k8s.io/v1beta3"),
        ("v1.30.0", "kubeadm_api", "kubeadm.k8s.io/v1beta3"),
        ("v1.31.0", "kubeadm_api", "kubeadm.k8s.io/v1beta4"),
        ("v1.24.0", "default_registry", "k8s.gcr.io"),
        ("v1.25.0", "default_registry", "registry.k8s.io"),
        ("v1.25.0", "has_show_join_phase", False),
        ("v1.26.0", "has_show_join_phase", True),
        ("v1.27.0", "has_config_validate", False),
        ("v1.28.0", "has_config_validate", True),
        ("v1.34.0", "cgroup_v1_ok", True),
        ("v1.35.0", "cgroup_v1_ok", False),
        ("v1.30.0", "has_fail_cgroup_v1", False),
        ("v1.31.0", "has_fail_cgroup_v1", True),
        ("v1.20.0", "needs_dual_stack_gate", True),
        ("v1.21.0", "needs_dual_stack_gate", False),
    ],
)
def test_facts_change_at_the_right_minor(text: str, field: str, value: object) -> None:
    assert getattr(facts_of(Version.parse(text)), field) == value


def test_taints_of_control_planes() -> None:
    master, control_plane = "node-role.kubernetes.io/master", "node-role.kubernetes.io/control-plane"
    assert TABLE[23].control_plane_taints == (master,)
    assert TABLE[24].control_plane_taints == (master, control_plane)
    assert TABLE[25].control_plane_taints == (control_plane,)


def test_a_cgroup_v1_host_can_always_be_told_about() -> None:
    assert all(facts.cgroup_v1_ok or facts.has_fail_cgroup_v1 for facts in TABLE.values())
