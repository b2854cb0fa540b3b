"""Inventories and ssh files that the lab writes, read back by what will read them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.lab.config import LabConfig, LabError
from tests.lab.inventory import assign_roles, render_inventory, render_known_hosts, render_ssh_config

NAMES = ["n1", "n2", "n3", "n4", "n5"]
ADDRESSES = {name: f"10.140.0.{10 + index}" for index, name in enumerate(NAMES, 1)}


def parsed(groups: dict[str, list[str]], key: str = "/keys/id") -> Any:
    text = render_inventory(ADDRESSES, groups, user="ops", key=key, known_hosts="/lab/known_hosts")
    return yaml.safe_load(text)["all"]


def test_roles_are_given_out_in_order() -> None:
    groups = assign_roles(NAMES, control_planes=2, workers=1, load_balancers=1, external_etcd=1)
    assert groups == {
        "kube_control_plane": ["n1", "n2"],
        "kube_node": ["n3"],
        "load_balancer": ["n4"],
        "etcd": ["n5"],
    }


def test_stacked_control_planes_are_the_etcd_hosts() -> None:
    groups = assign_roles(NAMES, control_planes=3, workers=2)
    assert groups["etcd"] == groups["kube_control_plane"] == ["n1", "n2", "n3"]


def test_workers_are_all_that_is_left() -> None:
    assert assign_roles(NAMES, control_planes=1, load_balancers=1)["kube_node"] == ["n2", "n3", "n4"]
    assert assign_roles(["n1"])["kube_node"] == []


def test_unused_nodes_are_in_no_group() -> None:
    host_names = parsed(assign_roles(NAMES, control_planes=1, workers=1))["hosts"]
    assert list(host_names) == ["n1", "n2"]


def test_too_few_nodes_are_refused_with_the_number() -> None:
    with pytest.raises(LabError, match="6 nodes are wanted but the lab has 5"):
        assign_roles(NAMES, control_planes=3, workers=3)
    with pytest.raises(LabError, match="at least one control plane"):
        assign_roles(NAMES, control_planes=0)


def test_the_inventory_says_how_to_reach_each_host() -> None:
    everything = parsed(assign_roles(NAMES, control_planes=1, workers=2, load_balancers=1))
    assert everything["hosts"]["n3"] == {"ansible_host": "10.140.0.13"}
    assert everything["vars"]["ansible_user"] == "ops"
    assert everything["vars"]["ansible_ssh_private_key_file"] == "/keys/id"
    assert everything["vars"]["ansible_ssh_common_args"] == "-o UserKnownHostsFile=/lab/known_hosts"
    assert set(everything["children"]["kube_node"]["hosts"]) == {"n2", "n3"}
    assert everything["children"]["load_balancer"]["hosts"] == {"n4": {}}


def test_an_empty_group_is_an_empty_mapping() -> None:
    children = parsed(assign_roles(NAMES, control_planes=1, workers=1))["children"]
    assert children["load_balancer"]["hosts"] == {}


def test_odd_paths_survive_yaml() -> None:
    odd = '/home/a b: #"c/ключ'
    assert parsed(assign_roles(NAMES), key=odd)["vars"]["ansible_ssh_private_key_file"] == odd


def test_known_hosts_name_both_address_and_name_without_the_comment() -> None:
    text = render_known_hosts({"n1": ("10.140.0.11", "ssh-ed25519 AAAA n1\n")})
    assert text == "10.140.0.11,n1 ssh-ed25519 AAAA\n"


def test_ssh_config_is_strict_and_asks_nothing(tmp_path: Path) -> None:
    config = LabConfig("x", tmp_path)
    text = render_ssh_config(config, {"n1": "10.140.0.11"})
    assert "Host n1\n  HostName 10.140.0.11\n" in text
    assert f"UserKnownHostsFile {config.known_hosts}" in text
    assert "StrictHostKeyChecking yes" in text
    assert "BatchMode yes" in text
