"""Manifest files into objects."""

from __future__ import annotations

import json

import pytest

from kops_py.connect.kube_manifests import split_manifests
from kops_py.model.errors import ConfigError


def obj(name: str, kind: str = "ConfigMap") -> str:
    return f"apiVersion: v1\nkind: {kind}\nmetadata: {{name: {name}}}\n"


def test_documents_and_lists_in_order() -> None:
    inner = '{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "%s"}}'
    text = (
        "# comment only\n---\n"
        + obj("a")
        + "---\n---\napiVersion: v1\nkind: ConfigMapList\nitems: ["
        + inner % "b"
        + ","
        + inner % "c"
        + "]\n---\n"
        + obj("d")
        + "---\n# the end\n"
    )
    assert [m["metadata"]["name"] for m in split_manifests(text)] == ["a", "b", "c", "d"]
    assert split_manifests("") == []


def test_a_kind_that_ends_in_list_without_items_is_an_object() -> None:
    assert split_manifests(obj("a", "AllowList"))[0]["kind"] == "AllowList"


def test_scalars_are_those_of_the_kubernetes_tools() -> None:
    text = obj("a") + (
        'data: {t: 12:30:45, d: 2020-01-01, e: =, y: y, yes: yes, "on": off, o: 0644, x: 0x1F, f: 1.5, s: 1e3, '
        "n: null, m: ~, v: 1.20.2, i: 1_000, q: '1', neg: -3, empty: }\n"
    )
    data = split_manifests(text)[0]["data"]
    json.dumps(data)
    assert data["t"] == "12:30:45"
    assert data["d"] == "2020-01-01"
    assert data["e"] == "="
    assert data["y"] == "y"
    assert (data[True], data["on"]) == (True, False)
    assert (data["o"], data["x"], data["f"], data["s"], data["i"], data["neg"]) == (420, 31, 1.5, 1000.0, 1000, -3)
    assert (data["n"], data["m"], data["empty"]) == (None, None, None)
    assert (data["v"], data["q"]) == ("1.20.2", "1")


@pytest.mark.parametrize(
    ("text", "where", "message"),
    [
        (obj("a") + "---\nkind: [\n", "cni.yaml: document 2, line 6", "not YAML"),
        (obj("a") + "---\n- a\n", "cni.yaml: document 2", "must be a mapping"),
        ("---\nkind: Pod\n", "cni.yaml: document 1", "no apiVersion"),
        ("apiVersion: v1\n", "cni.yaml: document 1", "no kind"),
        ("apiVersion: v1\nkind: Pod\nmetadata: {generateName: x}\n", "cni.yaml: document 1", "no metadata.name"),
        ("apiVersion: v1\nkind: List\nitems: [{kind: A}]\n", "cni.yaml: document 1, item 1", "no apiVersion"),
        ("404: Not Found", "cni.yaml: document 1", "no kind"),
        ("<html>", "cni.yaml: document 1", "must be a mapping"),
        ("a: !!python/object:os.system x\n", "cni.yaml: document 1, line 1", "not YAML"),
    ],
)
def test_a_fault_names_its_document(text: str, where: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        split_manifests(text, source="cni.yaml")
    assert caught.value.where == where
