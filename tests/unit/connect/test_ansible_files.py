from __future__ import annotations

import json
import stat
from pathlib import Path
from types import MappingProxyType

import pytest

from kops_py.connect.ansible import playbooks_fingerprint
from kops_py.connect.ansible_files import PrivateFolder, environment, inventory_of, left_input, make_folder, write_input
from kops_py.model.spec import HostSpec

HOST = HostSpec(
    name="n1",
    address="192.0.2.1",
    port=2222,
    user="ops",
    groups=frozenset({"kube_node", "rack_1"}),
    node_ip="192.0.2.1",
    key_file=Path("/keys/id"),
    ssh_args="-o UserKnownHostsFile=/kh",
    variables=MappingProxyType({"ansible_host": "n1.test", "kops_swap_off": False, "site": {"a": [1]}}),
)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_inventory_keeps_the_operators_variables_and_lays_ours_over_them() -> None:
    inventory = inventory_of([HOST], {"n1": {"kops_control_plane": True}}, "hunter2")
    assert inventory["all"]["hosts"]["n1"] == {
        "kops_swap_off": False,
        "site": {"a": [1]},
        "kops_control_plane": True,
        "ansible_host": "192.0.2.1",
        "ansible_port": 2222,
        "ansible_user": "ops",
        "ansible_ssh_private_key_file": "/keys/id",
        "ansible_become": True,
        "ansible_become_password": "hunter2",
        "ansible_ssh_common_args": "-o UserKnownHostsFile=/kh -o StrictHostKeyChecking=yes -o BatchMode=yes",
    }
    assert inventory["all"]["children"] == {
        "kube_node": {"hosts": {"n1": {}}},
        "rack_1": {"hosts": {"n1": {}}},
    }


def test_new_host_keys_are_accepted_only_when_asked_for() -> None:
    (entry,) = inventory_of([HOST], {}, None, accept_new_host_keys=True)["all"]["hosts"].values()
    assert "StrictHostKeyChecking=accept-new" in entry["ansible_ssh_common_args"]
    assert "ansible_become_password" not in entry


def written(path: Path) -> PrivateFolder:
    return write_input(
        path,
        [HOST],
        {"v": 1},
        {},
        become_password="hunter2",
        connect_timeout_s=15,
        forks=1,
        accept_new_host_keys=False,
    )


def test_what_a_killed_run_left_is_found_with_its_sockets(tmp_path: Path) -> None:
    first, second = (written(make_folder(tmp_path, "prepare")) for _ in range(2))
    second.remove_input()
    assert left_input(tmp_path) == [first]
    first.inventory.unlink()
    assert left_input(tmp_path) == [first], "the variables are there still"
    [found] = left_input(tmp_path)
    found.remove_input()
    assert not first.control_path_dir.exists()
    assert left_input(tmp_path) == []
    assert left_input(tmp_path / "none") == []


def test_no_folder_but_ours_is_ever_removed(tmp_path: Path) -> None:
    folder = written(make_folder(tmp_path, "prepare"))
    mine = folder.control_path_dir
    for elsewhere in (tmp_path / "precious", Path("/tmp/other"), Path("/tmp/kops-x/../precious")):
        folder.configuration.write_text(f"control_path_dir = {elsewhere}\n")
        [found] = left_input(tmp_path)
        assert found.control_path_dir == folder.path / "none"
    folder.configuration.unlink()
    assert left_input(tmp_path)[0].control_path_dir == folder.path / "none"
    mine.rmdir()


def test_files_are_private_and_gone_afterwards(tmp_path: Path) -> None:
    runs = tmp_path / "run" / "ansible"
    path = make_folder(runs, "prepare")
    folder = written(path)
    assert [mode(p) for p in (runs, path, folder.inventory, folder.variables)] == [0o700, 0o700, 0o600, 0o600]
    assert mode(folder.control_path_dir) == 0o700
    assert len(str(folder.control_path_dir)) < 40
    assert "hunter2" in folder.inventory.read_text()
    assert json.loads(folder.variables.read_text()) == {"v": 1}
    folder.remove_input()
    folder.remove_input()
    assert not folder.control_path_dir.exists()
    assert not any("hunter2" in p.read_text() for p in path.rglob("*") if p.is_file())
    assert [p.name for p in path.iterdir()] == ["ansible.cfg"]


def test_each_call_has_a_folder_of_its_own(tmp_path: Path) -> None:
    assert [make_folder(tmp_path, name).name for name in ("prepare", "load_balancer", "prepare")] == [
        "1-prepare",
        "2-load_balancer",
        "3-prepare",
    ]


def test_the_users_ansible_settings_do_not_get_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANSIBLE_HOST_KEY_CHECKING", "False")
    monkeypatch.setenv("ANSIBLE_STRATEGY", "mitogen")
    monkeypatch.setenv("ANSIBLE_VAULT_PASSWORD_FILE", "/vault")
    folder = write_input(
        tmp_path,
        [HOST],
        {},
        {},
        become_password=None,
        connect_timeout_s=15,
        forks=1,
        accept_new_host_keys=False,
    )
    found = environment(folder, Path("/opt/kops/bin"))
    folder.remove_input()
    assert found["ANSIBLE_HOST_KEY_CHECKING"] == "True"
    assert found["ANSIBLE_CONFIG"] == str(folder.configuration)
    assert found["ANSIBLE_VAULT_PASSWORD_FILE"] == "/vault"
    assert found["PATH"].startswith("/opt/kops/bin:")
    assert "ANSIBLE_STRATEGY" not in found


def test_fingerprint_follows_names_and_contents(tmp_path: Path) -> None:
    (tmp_path / "roles").mkdir()
    (tmp_path / "a.yml").write_text("a")
    first = playbooks_fingerprint(tmp_path)
    (tmp_path / "a.pyc").write_text("compiled")
    assert playbooks_fingerprint(tmp_path) == first
    (tmp_path / "roles" / "b.yml").write_text("b")
    second = playbooks_fingerprint(tmp_path)
    (tmp_path / "roles" / "b.yml").rename(tmp_path / "roles" / "c.yml")
    assert len({first, second, playbooks_fingerprint(tmp_path)}) == 3
