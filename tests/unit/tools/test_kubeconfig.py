"""Kubeconfig files: renaming, and merging that never harms what is there."""

from __future__ import annotations

import base64
import os
import stat
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from kops_py.model.errors import ConfigError
from kops_py.tools.kubeconfig import merge, rename, write_private

CA = base64.b64encode(b"ca of prod").decode()
OTHER_CA = base64.b64encode(b"ca of another").decode()


def admin_conf(ca: str = CA, server: str = "https://10.0.0.1:6443") -> bytes:
    return yaml.safe_dump(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "preferences": {},
            "clusters": [{"name": "kubernetes", "cluster": {"server": server, "certificate-authority-data": ca}}],
            "contexts": [
                {
                    "name": "kubernetes-admin@kubernetes",
                    "context": {"cluster": "kubernetes", "user": "kubernetes-admin"},
                }
            ],
            "users": [{"name": "kubernetes-admin", "user": {"client-key-data": "a2V5" * 300}}],
            "current-context": "kubernetes-admin@kubernetes",
        },
        sort_keys=False,
    ).encode()


def load(data: bytes) -> dict[str, Any]:
    value = yaml.safe_load(data)
    assert isinstance(value, dict)
    return value


def test_everything_is_named_after_the_cluster() -> None:
    found = load(rename(admin_conf(), "prod", None))
    assert found["clusters"] == [
        {"name": "prod", "cluster": {"server": "https://10.0.0.1:6443", "certificate-authority-data": CA}}
    ]
    assert found["contexts"] == [{"name": "prod", "context": {"cluster": "prod", "user": "prod-admin"}}]
    assert [u["name"] for u in found["users"]] == ["prod-admin"]
    assert found["current-context"] == "prod"
    assert (found["apiVersion"], found["kind"], found["preferences"]) == ("v1", "Config", {})


def test_the_server_is_replaced_when_given_and_other_contexts_are_left_out() -> None:
    config = load(admin_conf())
    config["clusters"].append({"name": "x", "cluster": {"server": "https://x"}})
    config["clusters"][0]["cluster"]["unknown-field"] = 1
    config["contexts"][0]["context"]["namespace"] = "kube-system"
    found = load(rename(yaml.safe_dump(config).encode(), "prod", "https://api:6443"))
    assert len(found["clusters"]) == 1
    assert found["clusters"][0]["cluster"]["server"] == "https://api:6443"
    assert found["clusters"][0]["cluster"]["unknown-field"] == 1
    assert found["contexts"][0]["context"]["namespace"] == "kube-system"


@pytest.mark.parametrize(
    "data", [b"", b"- a", b"a: [", b"\xff", b"current-context: x", b"clusters: 3", b"contexts: [{}]"]
)
def test_a_kubeconfig_that_cannot_be_used_is_an_error(data: bytes) -> None:
    with pytest.raises(ConfigError):
        rename(data, "prod", None)


def test_long_keys_stay_on_one_line() -> None:
    assert len(max(rename(admin_conf(), "prod", None).splitlines(), key=len)) > 1200


def test_merging_into_nothing_makes_it_current() -> None:
    new = rename(admin_conf(), "prod", None)
    assert load(merge(b"", new)) == load(new)
    assert load(merge(b"# only a comment\n", new))["current-context"] == "prod"


def test_dates_are_written_back_as_they_were() -> None:
    old = b"extensions:\n- name: x\n  extension: {last-update: 2026-01-02T03:04:05Z, day: 2026-01-02}\n"
    found = load(merge(old, rename(admin_conf(), "prod", None)))
    assert found["extensions"][0]["extension"] == {"last-update": "2026-01-02T03:04:05Z", "day": "2026-01-02"}


def test_merging_again_replaces_our_own_and_keeps_the_place() -> None:
    old = merge(rename(admin_conf(OTHER_CA), "dev", None), rename(admin_conf(), "prod", None))
    old = merge(old, rename(admin_conf(base64.b64encode(b"third").decode()), "lab", None))
    newer = rename(admin_conf(server="https://new:6443"), "prod", None)
    found = load(merge(old, newer))
    assert [c["name"] for c in found["clusters"]] == ["dev", "prod", "lab"]
    assert found["clusters"][1]["cluster"]["server"] == "https://new:6443"
    assert found["current-context"] == "dev"
    assert load(merge(old, newer, make_current=True))["current-context"] == "prod"


def test_an_entry_of_another_cluster_is_not_replaced_unless_forced() -> None:
    old = rename(admin_conf(OTHER_CA), "prod", None)
    new = rename(admin_conf(), "prod", None)
    with pytest.raises(ConfigError, match="already has a cluster 'prod' of another cluster") as caught:
        merge(old, new)
    assert "kubectl config delete-cluster prod" in caught.value.hint
    assert CA not in str(caught.value.to_json())
    assert load(merge(old, new, force=True))["clusters"] == load(new)["clusters"]


def test_a_user_of_the_same_name_that_serves_another_cluster_is_not_replaced() -> None:
    old = load(rename(admin_conf(OTHER_CA), "dev", None))
    old["users"][0]["user"]["client-key-data"] = "b3RoZXI="
    old["users"][0]["name"] = old["contexts"][0]["context"]["user"] = "prod-admin"
    with pytest.raises(ConfigError, match="user 'prod-admin'"):
        merge(yaml.safe_dump(old).encode(), rename(admin_conf(), "prod", None))


names = st.sampled_from(["a", "b", "c", "prod", "prod-admin", "x y", "ünïcode"])
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
    max_leaves=4,
)


def section(kind: str, inner: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[list[dict[str, Any]]]:
    entries = st.builds(lambda name, value, extra: {"name": name, kind: value, "x-extra": extra}, names, inner, values)
    return st.lists(entries, max_size=4, unique_by=lambda e: e["name"])


configs = st.fixed_dictionaries(
    {
        "clusters": section(
            "cluster",
            st.fixed_dictionaries(
                {"certificate-authority-data": st.sampled_from([CA, OTHER_CA]), "server": names, "f": values}
            ),
        ),
        "contexts": section("context", st.fixed_dictionaries({"cluster": names, "user": names, "f": values})),
        "users": section("user", st.dictionaries(st.text(max_size=4), values, max_size=2)),
    },
    optional={"current-context": names, "extensions": values, "unknown": values},
)


@settings(deadline=None)
@given(old=configs, new=configs, make_current=st.booleans(), force=st.booleans())
def test_merging_never_loses_an_entry(
    old: dict[str, Any], new: dict[str, Any], make_current: bool, force: bool
) -> None:
    before, added = yaml.safe_dump(old).encode(), yaml.safe_dump(new).encode()
    try:
        merged = load(merge(before, added, make_current=make_current, force=force))
    except ConfigError:
        assert not force
        return
    for kind in ("clusters", "contexts", "users"):
        by_name = {e["name"]: e for e in merged[kind]}
        assert len(by_name) == len(merged[kind])
        fresh = {e["name"]: e for e in new[kind]}
        for entry in old[kind]:
            assert by_name[entry["name"]] == fresh.get(entry["name"], entry)
        assert fresh.items() <= by_name.items()
        order = [e["name"] for e in merged[kind]]
        assert order[: len(old[kind])] == [e["name"] for e in old[kind]]
    for key in ("extensions", "unknown"):
        if key in old:
            assert merged[key] == old[key]
    if old.get("current-context") and not make_current:
        assert merged["current-context"] == old["current-context"]
    if not force:
        authorities = {c["name"]: c["cluster"]["certificate-authority-data"] for c in old["clusters"]}
        for entry in merged["clusters"]:
            if entry["name"] in authorities:
                assert entry["cluster"]["certificate-authority-data"] == authorities[entry["name"]]


def test_written_private_in_one_move(tmp_path: Path) -> None:
    os.umask(0)
    try:
        target = tmp_path / "new" / "config"
        write_private(target, b"one")
        assert stat.S_IMODE(target.stat().st_mode) == 0o600
        assert stat.S_IMODE(target.parent.stat().st_mode) == 0o700
        target.chmod(0o644)
        write_private(target, b"two")
        assert (target.read_bytes(), stat.S_IMODE(target.stat().st_mode)) == (b"two", 0o600)
        assert [p.name for p in target.parent.iterdir()] == ["config"]
    finally:
        os.umask(0o022)


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    real, link = tmp_path / "real", tmp_path / "link"
    real.write_bytes(b"old")
    link.symlink_to(real)
    write_private(link, b"new")
    assert link.is_symlink()
    assert real.read_bytes() == b"new"


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "config"
    target.write_bytes(b"old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_private(target, b"new")
    assert [p.name for p in tmp_path.iterdir()] == ["config"]
    assert target.read_bytes() == b"old"


@pytest.mark.parametrize(
    "odd",
    [
        "clusters: [{name: other, cluster: text}]",
        "contexts: [{name: other, context: text}]\nusers: [{name: prod-admin, user: {}}]",
        "contexts: [{name: other, context: [prod]}]",
        "users: [{name: other, user: null}]",
    ],
)
def test_entries_of_others_that_are_not_sound_stay_as_they_are(odd: str) -> None:
    existing = yaml.safe_load(odd)
    if "users" in existing and existing["users"][0]["name"] == "prod-admin":
        with pytest.raises(ConfigError, match="of another cluster"):
            merge(odd.encode(), rename(admin_conf(), "prod", None))
        return
    merged = load(merge(odd.encode(), rename(admin_conf(), "prod", None)))
    for section, entries in existing.items():
        assert merged[section][: len(entries)] == entries


@pytest.mark.parametrize(
    ("existing", "words"),
    [
        (b"[" * 5000, "nested too deeply"),
        (b"kind: Deployment\napiVersion: apps/v1\n", "no kubeconfig"),
        (b"clusters: [{name: prod, cluster: text}]", "of another cluster"),
        (b"- a", "not a mapping"),
        (b"a: [", "not YAML"),
    ],
)
def test_a_file_that_cannot_be_merged_into_is_named(existing: bytes, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        merge(existing, rename(admin_conf(), "prod", None), where="/home/me/.kube/config")
    assert caught.value.where.startswith("/home/me/.kube/config")
    assert caught.value.hint
