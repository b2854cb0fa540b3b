"""Our own reading of inventory sources."""

from pathlib import Path

import pytest

from kops_py.config.load import read_files
from kops_py.config.scan import scan_inventory
from kops_py.config.sources import Files, find_files
from kops_py.model.errors import ConfigError
from tests.unit.config.files import CLUSTER, HOSTS_INI, Pair, checked


@pytest.fixture
def ini(tmp_path: Path) -> Pair:
    return Pair.write(tmp_path, hosts=HOSTS_INI, hosts_name="hosts.ini")


def test_places_of_hosts_groups_and_variables(pair: Pair) -> None:
    index = read_files(pair.hosts).index
    assert str(index.place_of("cp-2")) == f"{pair.hosts}:6:5"
    assert str(index.place_of("cp-2", "ip")) == f"{pair.hosts}:6:38"
    assert str(index.place_of("cp-2", "ansible_user")) == f"{pair.hosts}:3:5"
    assert str(index.place_of_group("kube-master", "kube_control_plane")) == f"{pair.hosts}:14:5"
    assert str(index.place_in_group("cp-2", ["etcd"])) == f"{pair.hosts}:15:23"


def test_places_in_ini(ini: Pair) -> None:
    index = read_files(ini.hosts).index
    assert str(index.place_of("cp-1")) == f"{ini.hosts}:3:1"
    assert str(index.place_of("cp-1", "ip")) == f"{ini.hosts}:3:30"
    assert str(index.place_of("worker-1", "ansible_user")) == f"{ini.hosts}:8:1"
    assert str(index.place_of("lb-1")) == f"{ini.hosts}:17:1"


def test_places_in_group_and_host_variables(pair: Pair) -> None:
    folder = pair.hosts.parent
    (folder / "group_vars" / "kube_node").mkdir(parents=True)
    (folder / "group_vars" / "kube_node" / "x.yml").write_text("---\n\naccess_ip: 10.1.0.3\n")
    (folder / "group_vars" / "all.yml").write_text("# only a comment\n")
    (folder / "group_vars" / "secret.yml").write_text("$ANSIBLE_VAULT;1.1;AES256\n6162\n")
    (folder / "host_vars").mkdir()
    (folder / "host_vars" / "lb-1.yaml").write_text("ip: 10.1.0.1\nip: 10.1.0.2\n")
    index = read_files(pair.hosts).index
    assert str(index.place_of("worker-1", "access_ip")) == f"{folder}/group_vars/kube_node/x.yml:3:1"
    assert str(index.place_of("lb-1", "ip")) == f"{folder}/host_vars/lb-1.yaml:2:1"
    (folder / "group_vars" / "all.yml").write_text("a: [1\n")
    assert [e.where for e in pair.errors()] == [f"{folder}/group_vars/all.yml:2:1"]


@pytest.mark.parametrize(
    ("text", "place", "words", "hint"),
    [
        ("- a\n", "1:1", "map of groups, this is a list", ""),
        ("all:\n  host: {}\n", "2:3", "unknown key 'host'", "did you mean hosts?"),
        ("all: [a]\n", "1:6", "group 'all' is a list", "hosts, children, vars"),
        ("all:\n  hosts:\n    - a\n", "3:5", "must be a map", "'node-1:'"),
        ("all:\n  hosts: {a: x}\n", "2:14", "variables of host 'a' are text", ""),
        ("hosts: {a: }\n", "1:1", "outside of a group", "below a group"),
        ("all:\n  hosts: {1: }\n", "2:11", "must be text, this is a number", "quotes"),
        ("all:\n  hosts: {'a[1:': }\n", "2:11", "bad host name", ""),
        ("all:\n  hosts: {'a[1:99999999]': }\n", "2:11", "bad host name", ""),
        ("all:\n  hosts: {'a[9:1]': }\n", "2:11", "bad host name", ""),
        ("etcd:\n  hosts: {Node_1: }\n", "2:11", "'Node_1' cannot be a node's name", "lower-case"),
        (
            "all:\n  hosts: {a: {x: 1}, b: }\netcd:\n  hosts: {a: {x: 2}}\n",
            "4:15",
            "another value here than at 2:15",
            "",
        ),
        ("etcd:\n  children: {a: {children: {etcd: }}}\n", "2:14", "its own descendant", ""),
    ],
)
def test_mistakes_in_yaml(pair: Pair, text: str, place: str, words: str, hint: str) -> None:
    pair.hosts.write_text(text)
    expect(pair, place, words, hint)


@pytest.mark.parametrize(
    ("text", "place", "words", "hint"),
    [
        ("", "1:1", "empty", ""),
        ("[all:hosst]\na\n", "1:1", "unknown kind of section 'hosst'", "did you mean hosts?"),
        ("[a b]\n", "1:1", "not a section", "[group:children]"),
        ("[all\na\n", "1:1", "not a section", ""),
        ("[etcd]\nn1\nn2 hunter2\n", "3:4", "name=value", "quote"),
        ("[etcd]\n  n1 x='a\n", "2:3", "cannot be split", ""),
        ("[etcd]\nn1:\n", "2:1", "bad host name 'n1:'", ""),
        ("[etcd]\nN1\n", "2:1", "'N1' cannot be a node's name", ""),
        ("[etcd:vars]\nx\n[etcd]\na\n", "2:1", "name=value", ""),
        ("[nothing:vars]\nx=1\n", "1:1", "not defined", ""),
        ("[etcd:children]\nnothing\n", "2:1", "'nothing', a child of 'etcd', is not defined", ""),
        ("[etcd:children]\na b\n", "2:1", "one group name", ""),
        ("[etcd]\nn1 x=1\n[all]\nn1 x=2\n", "4:4", "another value here than at 2:4", ""),
        ("[etcd]\nn1 x=\x071\n", "2:6", "control character", ""),
    ],
)
def test_mistakes_in_ini(ini: Pair, text: str, place: str, words: str, hint: str) -> None:
    ini.hosts.write_text(text)
    expect(ini, place, words, hint)


def expect(pair: Pair, place: str, words: str, hint: str) -> None:
    found = [e for e in pair.errors() if words in e.what]
    assert found, [str(e) for e in pair.errors()]
    assert found[0].where == f"{pair.hosts}:{place}"
    assert hint in found[0].hint
    assert "hunter2" not in repr([e.to_json() for e in pair.errors()])


def test_both_files_are_complained_about_at_once(pair: Pair) -> None:
    pair.change("kind: Cluster", "kind: X")
    pair.change("  children:\n    kube", "  childs:\n    kube", file="hosts")
    assert {e.where.split(":")[0] for e in pair.errors()} == {str(pair.hosts), str(pair.cluster)}


def test_hosts_of_other_groups_may_be_called_anything(pair: Pair) -> None:
    pair.change("    load_balancer:\n", "    windows:\n      hosts: {WIN_1: }\n    load_balancer:\n", file="hosts")
    assert pair.errors() == []


def test_scripts_and_plugin_configurations_are_left_to_ansible(tmp_path: Path) -> None:
    for name, text in [("hosts", "#!/bin/sh\necho {}\n"), ("hosts.yaml", "plugin: x.y.z\nother: [1]\n")]:
        path = tmp_path / name
        path.write_text(text)
        assert scan_inventory(Files(path, (path,), (path,), tmp_path)).hosts == {}


def test_a_file_without_suffix_is_yaml_or_ini(tmp_path: Path) -> None:
    path = tmp_path / "hosts"
    for text in ("---\nall:\n  hosts: {a: }\n", "all:\n  hosts: {a: }\n", "[all]\na\n", "a x=1\n", "# c\na\n"):
        path.write_text(text)
        assert list(scan_inventory(Files(path, (path,), (path,), tmp_path)).hosts) == ["a"], text


class TestFindFiles:
    @pytest.mark.parametrize("name", ["hosts.yaml", "hosts.yml", "hosts.ini", "inventory.ini"])
    def test_in_a_folder(self, tmp_path: Path, name: str) -> None:
        (tmp_path / name).write_text("")
        files = find_files(tmp_path, None)
        assert (files.sources, files.cluster) == ((tmp_path / name,), tmp_path / "cluster.yaml")

    def test_the_current_folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        with pytest.raises(ConfigError, match="no inventory in this folder"):
            find_files(None, None)
        (tmp_path / "hosts.ini").write_text("")
        assert find_files(None, None).inventory == Path("hosts.ini")

    def test_a_file_and_a_cluster_elsewhere(self, tmp_path: Path) -> None:
        (tmp_path / "x").write_text("")
        assert find_files(tmp_path / "x", None).cluster == tmp_path / "cluster.yaml"
        assert find_files(tmp_path / "x", tmp_path / "c.yml").cluster == tmp_path / "c.yml"

    def test_two_hosts_files(self, tmp_path: Path) -> None:
        for name in ("hosts.yaml", "hosts.ini"):
            (tmp_path / name).write_text("")
        with pytest.raises(ConfigError) as caught:
            find_files(tmp_path, None)
        assert "hosts.yaml and hosts.ini" in checked(caught.value)[0].what

    def test_a_directory_inventory_without_cluster_yaml(self, tmp_path: Path) -> None:
        for name in ("cluster.yaml", "10-nodes.yaml", "20-etcd.ini", "README.md", ".hidden"):
            (tmp_path / name).write_text("")
        (tmp_path / "group_vars").mkdir()
        (tmp_path / "more").mkdir()
        (tmp_path / "more" / "lb.ini").write_text("")
        files = find_files(tmp_path, None)
        assert [p.name for p in files.sources] == ["10-nodes.yaml", "20-etcd.ini", "more"]
        assert [p.name for p in files.scanned] == ["10-nodes.yaml", "20-etcd.ini", "lb.ini"]
        assert tmp_path in files.variable_folders

    @pytest.mark.parametrize("name", ["nothing", "a\0b", "x" * 5000])
    def test_nothing_there(self, tmp_path: Path, name: str) -> None:
        with pytest.raises(ConfigError) as caught:
            find_files(tmp_path / name, None)
        assert caught.value.what

    def test_a_missing_cluster_file(self, tmp_path: Path) -> None:
        pair = Pair.write(tmp_path, cluster=CLUSTER)
        pair.cluster.unlink()
        assert [e.what for e in pair.errors()] == ["there is no such file"]
