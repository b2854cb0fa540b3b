"""Names and addresses of labs: no two labs, and no node of one, may get in another's way."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from tests.lab import config as cfg
from tests.lab.config import LabConfig, LabError


@pytest.mark.parametrize("name", ["", "A", "1a", "a_b", "a.b", "a/b", "../x", "-a", "a" * 32, "a b"])
def test_a_bad_lab_name_is_refused_with_the_rule(name: str) -> None:
    with pytest.raises(LabError, match="lower-case letters"):
        cfg.lab_tag(name)


@pytest.mark.parametrize("name", ["a", "kops", "sevenxx", "eightxxx", "a-b", "layer-k8s", "a" * 31])
def test_every_interface_name_fits_into_what_the_kernel_takes(name: str, tmp_path: Path) -> None:
    config = LabConfig(name, tmp_path)
    names = [
        config.bridge,
        config.swarm_bridge,
        config.veth(f"n{cfg.MAX_NODES}"),
        config.veth(f"h{cfg.MAX_SWARM}"),
    ]
    assert all(len(interface) <= 15 for interface in names)
    assert len(set(names)) == len(names)
    assert len(config.chain) <= 28  # iptables: XT_EXTENSION_MAXNAMELEN - 1


def test_long_names_that_begin_alike_get_different_tags() -> None:
    names = [f"layer-kubernetes-{number}" for number in range(50)]
    assert len({cfg.lab_tag(name) for name in names}) == len(names)


def test_no_labs_prefix_begins_anothers() -> None:
    tags = ["a", "ab", "kops", "kopsx", cfg.lab_tag("kops-x"), cfg.lab_tag("kops-y")]
    for one, other in itertools.permutations(tags, 2):
        assert not f"kl{other}-".startswith(f"kl{one}-")


def test_a_name_longer_than_an_interface_takes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="longer than 15"):
        LabConfig("sevenxx", tmp_path).veth("n123456")


def test_the_configuration_is_found_again_from_the_directory(tmp_path: Path) -> None:
    config = LabConfig("kops", tmp_path)
    again = LabConfig.from_dir(config.dir)
    assert (again.name, again.home, again.bridge) == ("kops", tmp_path, config.bridge)


def test_home_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KOPS_LAB_DIR", str(tmp_path / "elsewhere"))
    assert LabConfig("x").key == tmp_path / "elsewhere" / "id_ed25519"


def test_a_lab_keeps_its_network_and_takes_the_next_when_that_is_taken() -> None:
    first = cfg.choose_octet("kops", set())
    assert first == cfg.choose_octet("kops", set())
    second = cfg.choose_octet("kops", {first})
    assert second != first
    assert second in cfg.OCTETS


def test_the_last_free_network_is_found_and_then_none() -> None:
    free = cfg.OCTETS[7]
    assert cfg.choose_octet("any", set(cfg.OCTETS) - {free}) == free
    with pytest.raises(LabError, match="no free network"):
        cfg.choose_octet("any", set(cfg.OCTETS))


def test_networks_keep_clear_of_services_and_pods() -> None:
    assert not set(cfg.OCTETS) & {96, *range(96, 112), 77, 78, 217, 244}


def test_addresses_of_nodes_and_swarm_are_distinct_and_in_their_networks() -> None:
    nodes = [cfg.node_ip(140, index) for index in range(1, cfg.MAX_NODES + 1)]
    swarm = [cfg.swarm_ip(140, index) for index in range(1, cfg.MAX_SWARM + 1)]
    everything = [*nodes, *swarm, cfg.gateway(140), cfg.swarm_gateway(140)]
    assert len(set(everything)) == len(everything)
    assert all(ip.startswith("10.140.0.") and int(ip.split(".")[3]) < 255 for ip in nodes)
    assert all(128 <= int(ip.split(".")[2]) < 255 and int(ip.split(".")[3]) < 255 for ip in swarm)


@pytest.mark.parametrize("index", [0, -1, cfg.MAX_NODES + 1])
def test_a_node_beyond_the_network_is_refused(index: int) -> None:
    with pytest.raises(LabError, match="at most"):
        cfg.node_ip(140, index)


@pytest.mark.parametrize("index", [0, cfg.MAX_SWARM + 1])
def test_a_swarm_host_beyond_the_bridge_is_refused(index: int) -> None:
    with pytest.raises(LabError, match="at most"):
        cfg.swarm_ip(140, index)
