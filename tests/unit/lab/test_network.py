"""The machine's own settings: changed by the first lab, put back by the last, and never lost in between."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.lab import network, state
from tests.lab.config import LabConfig


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Files in place of /proc/sys, two settings, and no network of our own in use."""
    settings = tmp_path / "sys"
    settings.mkdir()
    (settings / "low").write_text("0\n")
    (settings / "high").write_text("9000\n")
    monkeypatch.setattr(network, "wanted_sysctls", lambda: {"low": 1, "high": 8192, "absent": 5})
    monkeypatch.setattr(network, "_sysctl_path", lambda key: settings / key)
    monkeypatch.setattr(network, "_octets_in_use", set)
    monkeypatch.setattr(network, "bridges", list)
    return settings


def read(machine: Path, key: str) -> str:
    return (machine / key).read_text().strip()


def test_settings_are_raised_never_lowered_and_put_back_by_the_last_lab(machine: Path, tmp_path: Path) -> None:
    one, two = LabConfig("one", tmp_path), LabConfig("two", tmp_path)
    assert network.register(one) != network.register(two)
    assert (read(machine, "low"), read(machine, "high")) == ("1", "9000")
    network.unregister(one)
    assert read(machine, "low") == "1"  # the other lab still needs it
    network.unregister(two)
    assert (read(machine, "low"), read(machine, "high")) == ("0", "9000")
    assert state.load_registry(tmp_path) == {"labs": {}, "sysctls": {}}


def test_registering_again_keeps_the_network_and_the_first_memory(machine: Path, tmp_path: Path) -> None:
    lab = LabConfig("one", tmp_path)
    octet = network.register(lab)
    assert network.register(lab) == octet
    assert state.load_registry(tmp_path)["sysctls"]["low"] == "0"


def test_settings_stay_and_stay_remembered_while_another_bridge_needs_them(
    machine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab = LabConfig("one", tmp_path)
    network.register(lab)
    monkeypatch.setattr(network, "bridges", lambda: ["br-other"])
    network.unregister(lab)
    assert read(machine, "low") == "1"
    monkeypatch.setattr(network, "bridges", list)
    network.register(lab)
    network.unregister(lab)
    assert read(machine, "low") == "0"


def test_a_network_in_use_on_the_machine_is_not_taken(
    machine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab = LabConfig("one", tmp_path)
    usual = network.register(lab)
    network.unregister(lab)
    monkeypatch.setattr(network, "_octets_in_use", lambda: {usual})
    assert network.register(lab) != usual


def test_archives_can_be_named_by_hand_and_come_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KOPS_LAB_MIRROR", "http://archive.test/debian")
    assert network.archive_uris()[0] == "http://archive.test/debian"
