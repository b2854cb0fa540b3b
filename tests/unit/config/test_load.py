"""The whole way, through ansible-inventory."""

import os
import time
from pathlib import Path

import pytest

from kops_py.config.listing import list_inventory
from kops_py.config.load import load
from kops_py.config.sources import find_files
from kops_py.model.errors import ConfigError
from tests.unit.config.files import HOSTS_INI, Pair, checked, listing

EXAMPLES = Path(__file__).parents[3] / "inventories"


def errors(path: Path) -> list[ConfigError]:
    with pytest.raises(ConfigError) as caught:
        load(path)
    return checked(caught.value)


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("single", (1, 0, 0, False)),
        ("one-control-plane", (1, 2, 0, False)),
        ("stacked", (3, 2, 1, False)),
        ("external-etcd", (3, 2, 1, True)),
        ("kubespray-style", (3, 2, 0, False)),
    ],
)
def test_examples(name: str, counts: tuple[int, int, int, bool]) -> None:
    spec = load(EXAMPLES / name)
    assert (len(spec.control_planes), len(spec.workers), len(spec.load_balancers), spec.external_etcd) == counts
    assert spec.name == name
    assert {h.user for h in spec.hosts} == {"admin"}


def test_our_listing_in_other_tests_is_what_ansible_prints(pair: Pair) -> None:
    printed = list_inventory(find_files(pair.hosts, None))
    assert printed["_meta"]["hostvars"] == listing()["_meta"]["hostvars"]
    for group in ("kube_control_plane", "kube_node", "etcd", "load_balancer"):
        assert printed[group] == listing()[group]


def test_ini_with_patterns_and_ports(tmp_path: Path) -> None:
    spec = load(Pair.write(tmp_path, hosts=HOSTS_INI, hosts_name="hosts.ini").hosts)
    assert [(h.name, h.port) for h in spec.hosts] == [("cp-1", 22), ("cp-2", 22), ("worker-1", 22), ("lb-1", 2222)]
    assert dict(spec.host("worker-1").labels) == {"disk": "ssd"}


def test_directory_inventory_with_a_script_and_vaulted_values(tmp_path: Path) -> None:
    pair = Pair.write(tmp_path)
    pair.hosts.rename(tmp_path / "10-all.yaml")
    (tmp_path / "cni.yaml").rename(tmp_path / "cni.yaml.bak")
    pair.change("file: cni.yaml", "file: cni.yaml.bak")
    (tmp_path / "images").rmdir()
    pair.change("  images: ./images\n", "")
    script = tmp_path / "20-dynamic"
    script.write_text(
        '#!/bin/sh\necho \'{"kube_node": {"hosts": ["w-2"]}, \'\n'
        'echo \'"_meta": {"hostvars": {"w-2": {"ip": "192.0.2.22"}}}}\'\n'
    )
    script.chmod(0o755)
    (tmp_path / "group_vars").mkdir()
    (tmp_path / "group_vars" / "all.yml").write_text(
        "ansible_become_password: !vault |\n  $ANSIBLE_VAULT;1.1;AES256\n  6162\nw: '{{ x }}'\n"
    )
    (tmp_path / "host_vars").mkdir()
    (tmp_path / "host_vars" / "w-2.yml").write_text("ansible_host: 192.0.2.22\n")
    spec = load(tmp_path)
    assert [h.name for h in spec.workers] == ["worker-1", "w-2"]
    assert spec.host("w-2").address == "192.0.2.22"
    vaulted = spec.host("cp-1").variables["ansible_become_password"]
    assert isinstance(vaulted, dict)
    assert list(vaulted) == ["__ansible_vault"]


def test_a_host_of_a_script_is_complained_about_at_its_file(tmp_path: Path) -> None:
    pair = Pair.write(tmp_path, hosts_name="hosts")
    pair.hosts.write_text('#!/bin/sh\necho \'{"kube_control_plane": {"hosts": ["cp_1"]}}\'\n')
    pair.hosts.chmod(0o755)
    assert {e.where for e in errors(pair.hosts)} == {f"{pair.hosts}:1:1"}


def test_a_script_that_fails(tmp_path: Path) -> None:
    pair = Pair.write(tmp_path, hosts_name="hosts")
    pair.hosts.write_text("#!/bin/sh\nexit 3\n")
    pair.hosts.chmod(0o755)
    found = errors(pair.hosts)[0]
    assert found.what == "Ansible cannot read the inventory"
    assert found.where.startswith(f"{pair.hosts}:")
    assert "ansible-inventory -i" in found.hint


def test_a_script_that_hangs_is_ended(tmp_path: Path) -> None:
    pair = Pair.write(tmp_path, hosts_name="hosts")
    pidfile = tmp_path / "pid"
    pair.hosts.write_text(f"#!/bin/sh\necho $$ > {pidfile}\nexec sleep 300\n")
    pair.hosts.chmod(0o755)
    begin = time.monotonic()
    with pytest.raises(ConfigError, match="did not end within 6 s"):
        list_inventory(find_files(pair.hosts, None), deadline_s=6)
    assert time.monotonic() - begin < 30
    deadline = time.monotonic() + 10
    while _runs(int(pidfile.read_text())) and time.monotonic() < deadline:
        os.sched_yield()
    assert not _runs(int(pidfile.read_text()))


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_vaulted_file_without_its_password(pair: Pair) -> None:
    (pair.hosts.parent / "group_vars").mkdir()
    (pair.hosts.parent / "group_vars" / "all.yml").write_text("$ANSIBLE_VAULT;1.1;AES256\n" + "61" * 40 + "\n")
    found = errors(pair.hosts)[0]
    assert "ANSIBLE_VAULT_PASSWORD_FILE" in found.hint
    assert "vault" in found.why.lower()


def test_what_ansible_quotes_is_not_repeated(tmp_path: Path) -> None:
    pair = Pair.write(tmp_path, hosts_name="hosts")
    pair.hosts.write_text("plugin: no.such.plugin\npassword: hunter2\n")
    assert "hunter2" not in repr([e.to_json() for e in errors(pair.hosts)])


def test_the_configuration_of_the_operators_folder_counts(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    (pair.hosts.parent / "ansible.cfg").write_text("[inventory]\nenable_plugins = ini\n")
    monkeypatch.chdir(pair.hosts.parent)
    assert errors(pair.hosts)[0].what == "Ansible cannot read the inventory"


def test_no_home_that_can_be_written_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    """ansible-inventory alone ends with a traceback there: it makes ~/.ansible/tmp."""
    monkeypatch.setenv("HOME", "/proc/nowhere")
    monkeypatch.delenv("ANSIBLE_HOME", raising=False)
    assert load(EXAMPLES / "single").name == "single"
