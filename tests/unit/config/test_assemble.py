"""Both files together, with a listing of ours in place of Ansible's."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from kops_py.model.errors import ConfigError
from kops_py.model.spec import Taint
from kops_py.model.version import Version, facts_of
from kops_py.tools import kubeadm
from tests.unit.config.files import Pair, checked, listing


def change(tree: dict[str, Any], host: str, **variables: object) -> dict[str, Any]:
    tree["_meta"]["hostvars"][host].update(variables)
    return tree


def errors(pair: Pair, tree: dict[str, Any]) -> list[ConfigError]:
    with pytest.raises(ConfigError) as caught:
        pair.load(tree)
    return checked(caught.value)


def test_a_good_pair(pair: Pair) -> None:
    spec = pair.load(listing())
    assert [h.name for h in spec.hosts] == ["cp-1", "cp-2", "cp-3", "worker-1", "lb-1"]
    assert [h.name for h in spec.nodes] == ["cp-1", "cp-2", "cp-3", "worker-1"]
    assert (str(spec.endpoint), spec.endpoint_external, spec.external_etcd) == ("192.0.2.41:6443", False, False)
    third = spec.host("cp-3")
    assert (third.address, third.node_ip, third.port, third.user) == (
        "cp-3.example.com",
        "10.1.0.13",
        2222,
        "admin",
    )
    worker = spec.host("worker-1")
    assert dict(worker.labels) == {"disk": "ssd"}
    assert worker.taints == (Taint("dedicated", "batch", "NoSchedule"),)
    assert spec.host("cp-1").taints is None
    assert spec.limit is None
    assert "192.0.2.11" not in repr(spec.host("cp-2").variables)


@pytest.mark.parametrize(
    ("host", "variables", "place", "words"),
    [
        ("cp-1", {"ansible_host": "{{ x }}"}, "5:12", "ansible_host is a template"),
        ("cp-1", {"ansible_host": {"__ansible_vault": "$ANSIBLE_VAULT;1.1"}}, "5:12", "is encrypted"),
        ("cp-1", {"ansible_host": ["x"]}, "5:12", "must be text, this is a list"),
        ("cp-1", {"ansible_host": ""}, "5:12", "is empty"),
        ("cp-1", {"ansible_host": "a b"}, "5:12", "neither an IP address nor a host name"),
        ("cp-1", {"ansible_host": "1.2.3.400"}, "5:12", "neither an IP address nor a host name"),
        ("cp-1", {"ansible_host": "-oProxyCommand=x"}, "5:12", "neither an IP address nor a host name"),
        ("cp-1", {"ansible_host": "cp.example.com"}, "5:12", "its IP address in the cluster is not known"),
        ("cp-1", {"ansible_host": "127.0.0.1"}, "5:12", "its IP address in the cluster is not known"),
        ("cp-1", {"ansible_host": None}, "5:12", "its IP address in the cluster is not known, 'cp-1' does not tell it"),
        ("cp-2", {"ip": "x"}, "6:38", "ip is 'x', which is not an IP address"),
        ("cp-2", {"ip": "fe80::1"}, "6:38", "other nodes cannot reach"),
        ("cp-2", {"ip": "192.0.2.11"}, "6:38", "address in the cluster 192.0.2.11 is also that of cp-1"),
        ("cp-2", {"ip": "10.244.3.4"}, "6:38", "inside the pod network 10.244.0.0/16"),
        ("cp-2", {"ip": "10.96.0.20"}, "6:38", "inside the service network 10.96.0.0/12"),
        ("cp-2", {"ip": "fd00::2"}, "6:38", "is not IPv4 as the first serviceSubnet is"),
        ("cp-1", {"access_ip": "x"}, "5:5", "access_ip is 'x'"),
        ("cp-3", {"ansible_port": 0}, "7:59", "ansible_port is '0'"),
        ("cp-3", {"ansible_port": "22x"}, "7:59", "ansible_port is '22x'"),
        ("cp-1", {"ansible_user": 1.5}, "3:5", "ansible_user must be text, this is a number"),
        ("cp-1", {"ansible_connection": "winrm"}, "5:5", "ansible_connection is 'winrm'"),
        ("cp-1", {"ansible_become_method": "su"}, "5:5", "ansible_become_method is 'su'"),
        ("cp-1", {"ansible_become": "maybe"}, "5:5", "ansible_become must be true or false"),
        ("worker-1", {"node_labels": "a b=c"}, "10:7", "label 'a b=c' is not valid"),
        ("worker-1", {"node_labels": 3}, "10:7", "must be a map, this is a number"),
        ("worker-1", {"node_labels": {"a": ["b"]}}, "10:7", "the value of label 'a' is a list"),
        ("worker-1", {"node_taints": ["a=b:Sometimes"]}, "11:7", "taint 'a=b:Sometimes' is not valid"),
        ("worker-1", {"node_taints": {"a": "b"}}, "11:7", "must be a list"),
        ("worker-1", {"node_taints": ["a=b:NoExecute", "a:NoExecute"]}, "11:7", "taint 'a:NoExecute' is given twice"),
    ],
)
def test_mistakes_of_a_host(pair: Pair, host: str, variables: dict[str, object], place: str, words: str) -> None:
    found = [e for e in errors(pair, change(listing(), host, **variables)) if words in e.what]
    assert found, [str(e) for e in errors(pair, change(listing(), host, **variables))]
    assert found[0].where == f"{pair.hosts}:{place}"
    assert host in found[0].what


def test_unsafe_texts_and_numbers_are_unwrapped(pair: Pair) -> None:
    tree = change(listing(), "cp-1", ansible_host={"__ansible_unsafe": "192.0.2.99"}, ansible_port="2222")
    assert (pair.load(tree).host("cp-1").address, pair.load(tree).host("cp-1").port) == ("192.0.2.99", 2222)


@pytest.mark.parametrize(
    ("variables", "become"),
    [
        ({}, True),
        ({"ansible_user": "root"}, False),
        ({"ansible_become": "no"}, False),
        ({"ansible_become": True}, True),
    ],
)
def test_become(pair: Pair, variables: dict[str, object], become: bool) -> None:
    assert pair.load(change(listing(), "cp-1", **variables)).host("cp-1").become is become


def test_labels_and_taints_as_texts(pair: Pair) -> None:
    tree = change(listing(), "worker-1", node_labels="a=b, c=", node_taints="x:NoExecute")
    worker = pair.load(change(tree, "worker-1")).host("worker-1")
    assert dict(worker.labels) == {"a": "b", "c": ""}
    assert worker.taints == (Taint("x", "", "NoExecute"),)
    tree = change(listing(), "worker-1", node_labels={"a": True, "b": 1, "c": None})
    assert dict(pair.load(tree).host("worker-1").labels) == {"a": "true", "b": "1", "c": ""}


def test_taints_of_control_planes(pair: Pair) -> None:
    tree = change(listing(), "cp-1", node_taints=["x:NoExecute"])
    tree["kube_node"]["hosts"].append("cp-2")
    spec = pair.load(tree)
    own = Taint("node-role.kubernetes.io/control-plane", "", "NoSchedule")
    assert spec.host("cp-1").taints == (own, Taint("x", "", "NoExecute"))
    assert spec.host("cp-2").taints == ()
    assert spec.host("cp-3").taints is None
    assert not spec.host("cp-2").is_worker


@pytest.mark.parametrize("version", ["v1.20.2", "v1.24.0", "v1.31.0"])
def test_kubeadm_is_told_its_own_taints_where_the_inventory_adds_to_them(pair: Pair, version: str) -> None:
    """kubeadm takes a list of taints, an empty one as well, in place of its own; without one it sets its own."""

    def told(**variables: object) -> object:
        spec = pair.load(change(listing(), "cp-1", **variables))
        text = kubeadm.init_config(spec, spec.host("cp-1"), token="abcdef.0123456789abcdef", token_ttl_s=60)
        return next(yaml.safe_load_all(text))["nodeRegistration"].get("taints")

    pair.cluster.write_text(pair.cluster.read_text().replace("v1.34.2", version))
    own = [{"key": key, "effect": "NoSchedule"} for key in facts_of(Version.parse(version)).control_plane_taints]
    assert told() is None
    assert told(node_taints=[]) is None
    assert told(node_taints="") is None
    assert told(node_taints=["x=y:NoExecute"]) == [*own, {"key": "x", "effect": "NoExecute", "value": "y"}]
    assert told(node_taints=[f"{own[0]['key']}:NoSchedule"]) == [*own[1:], own[0]], "the API refuses it twice"
    both = change(listing(), "cp-1", node_taints=[])
    both["kube_node"]["hosts"].append("cp-1")
    assert pair.load(both).host("cp-1").taints == ()


def test_old_group_names(pair: Pair) -> None:
    tree = listing()
    tree["kube-master"], tree["kube-node"] = tree.pop("kube_control_plane"), tree.pop("kube_node")
    tree["etcd"] = {"children": ["kube-master"]}
    assert [h.name for h in pair.load(tree).workers] == ["worker-1"]


def test_no_control_plane(pair: Pair) -> None:
    tree = listing()
    tree["kube_control_plane"]["hosts"] = []
    found = errors(pair, tree)
    assert ("kube_control_plane has no host" in found[0].what, found[0].where) == (True, f"{pair.hosts}:14:5")


class TestEndpoint:
    def given(self, pair: Pair, text: str) -> None:
        pair.change("certSANs:", f"controlPlaneEndpoint: {text}\ncertSANs:")

    def test_only_control_plane(self, pair: Pair) -> None:
        tree = listing()
        tree["kube_control_plane"]["hosts"] = ["cp-2"]
        del tree["load_balancer"]
        spec = pair.load(tree)
        assert (str(spec.endpoint), spec.endpoint_external) == ("10.1.0.12:6443", False)

    def test_balancer_on_a_control_plane(self, pair: Pair) -> None:
        tree = listing()
        tree["load_balancer"]["hosts"] = ["cp-2"]
        assert str(pair.load(tree).endpoint) == "10.1.0.12:8443"

    def test_given(self, pair: Pair) -> None:
        self.given(pair, "api.example.com:443")
        spec = pair.load(listing())
        assert (str(spec.endpoint), spec.endpoint_external) == ("api.example.com:443", True)

    def test_given_and_one_of_our_balancers(self, pair: Pair) -> None:
        self.given(pair, "192.0.2.41:443")
        assert pair.load(listing()).endpoint_external is False

    def test_several_control_planes_need_one(self, pair: Pair) -> None:
        tree = listing()
        del tree["load_balancer"]
        found = errors(pair, tree)[0]
        assert "3 control planes and no endpoint" in found.what
        assert found.where == f"{pair.hosts}:14:5"
        assert "load_balancer" in found.hint
        assert "controlPlaneEndpoint" in found.hint

    @pytest.mark.parametrize("text", ["192.0.2.12", "10.1.0.12:6443", "cp-2:7000"])
    def test_none_of_several_control_planes(self, pair: Pair, text: str) -> None:
        self.given(pair, text)
        found = errors(pair, listing())[0]
        assert "is the control plane cp-2" in found.what
        assert found.where == f"{pair.cluster}:19:23"

    def test_the_api_server_of_a_balancer(self, pair: Pair) -> None:
        self.given(pair, "10.1.0.12:6443")
        tree = listing()
        tree["load_balancer"]["hosts"] = ["cp-2"]
        assert "not the balancer on it" in errors(pair, tree)[0].what

    def test_inside_a_cluster_network(self, pair: Pair) -> None:
        self.given(pair, "10.244.0.9")
        assert "inside the pod network" in errors(pair, listing())[0].what


class TestEtcd:
    def topology(self, pair: Pair, text: str) -> None:
        pair.change("etcd: {topology: stacked}", text)

    @pytest.mark.parametrize(
        ("group", "external"),
        [([], False), (["cp-1", "cp-2", "cp-3"], False), (["cp-1"], True), (["cp-1", "worker-1", "lb-1"], True)],
    )
    def test_not_said(self, pair: Pair, group: list[str], external: bool) -> None:
        self.topology(pair, "etcd: {}")
        tree = listing()
        tree["etcd"] = {"hosts": group}
        assert pair.load(tree).external_etcd is external

    def test_external_needs_members(self, pair: Pair) -> None:
        self.topology(pair, "etcd: {topology: external}")
        tree = listing()
        del tree["etcd"]
        found = errors(pair, tree)[0]
        assert "the group etcd of the inventory has no host" in found.what
        assert found.where == f"{pair.cluster}:25:18"

    GIVEN = "external: {endpoints: ['https://192.0.2.31:2379/'], ca: ca.crt, cert: c.crt, key: c.key}"

    def files(self, pair: Pair) -> None:
        for name in ("ca.crt", "c.crt", "c.key"):
            (pair.cluster.parent / name).write_text("x")

    def test_one_that_exists_needs_no_hosts(self, pair: Pair) -> None:
        self.topology(pair, f"etcd: {{topology: external, {self.GIVEN}}}")
        self.files(pair)
        tree = listing()
        del tree["etcd"]
        spec = pair.load(tree)
        assert spec.external is not None
        assert (spec.external.endpoints, spec.external.hosts) == (("https://192.0.2.31:2379",), ())
        assert spec.etcd.given is not None
        assert spec.etcd.given.key == pair.cluster.parent.absolute() / "c.key"

    def test_one_that_exists_and_hosts_for_another(self, pair: Pair) -> None:
        self.topology(pair, f"etcd: {{topology: external, {self.GIVEN}}}")
        self.files(pair)
        assert "the group etcd has hosts to build one on" in errors(pair, listing())[0].what

    @pytest.mark.parametrize(
        ("text", "what"),
        [
            (f"etcd: {{topology: stacked, {GIVEN}}}", "etcd.external has no meaning"),
            (f"etcd: {{{GIVEN}}}", "etcd.external has no meaning"),
            ("etcd: {topology: stacked, ca: {cert: ca.crt, key: c.key}}", "etcd.ca has no meaning"),
            (f"etcd: {{topology: external, ca: {{cert: ca.crt, key: c.key}}, {GIVEN}}}", "names another"),
            (f"etcd: {{topology: external, {GIVEN.replace('https', 'http')}}}", "http"),
            (f"etcd: {{topology: external, {GIVEN.replace('c.key', 'd.key')}}}", "there is no file"),
        ],
    )
    def test_what_cannot_be(self, pair: Pair, text: str, what: str) -> None:
        self.topology(pair, text)
        self.files(pair)
        tree = listing()
        tree["etcd"] = {"hosts": []}
        assert any(what in e.what + e.why for e in errors(pair, tree))

    def test_members_as_everything_else_finds_them(self, pair: Pair) -> None:
        self.topology(pair, "etcd: {topology: external}")
        tree = change(listing(), "cp-1", etcd_member_name="alpha")
        tree["etcd"] = {"hosts": ["cp-1", "worker-1"]}
        found = pair.load(tree).external
        assert found is not None
        assert found.hosts == ("cp-1", "worker-1")
        assert dict(found.member_names) == {"cp-1": "alpha", "worker-1": "worker-1"}
        assert all(url.startswith("https://") and url.endswith(":2379") for url in found.endpoints)

    def test_stacked_with_other_members(self, pair: Pair) -> None:
        tree = listing()
        tree["etcd"] = {"hosts": ["cp-1", "cp-2", "worker-1"]}
        found = {e.what.split(" ")[1]: e for e in errors(pair, tree)}
        assert set(found) == {"worker-1", "cp-3"}
        assert found["cp-3"].where == f"{pair.hosts}:15:31"

    def test_member_names(self, pair: Pair) -> None:
        tree = change(listing(), "cp-1", etcd_member_name="etcd1")
        assert pair.load(tree).host("cp-1").etcd_member_name == "etcd1"
        assert "also that of cp-1" in errors(pair, change(tree, "cp-2", etcd_member_name="etcd1"))[0].what


@pytest.mark.parametrize(
    ("limit", "names"),
    [
        ("cp-1", {"cp-1"}),
        ("cp-*", {"cp-1", "cp-2", "cp-3"}),
        ("kube_control_plane,!cp-3", {"cp-1", "cp-2"}),
        ("!kube-master", {"worker-1", "lb-1"}),
        ("etcd , lb-1", {"cp-1", "cp-2", "cp-3", "lb-1"}),
        ("all", {"cp-1", "cp-2", "cp-3", "worker-1", "lb-1"}),
    ],
)
def test_limit(pair: Pair, limit: str, names: set[str]) -> None:
    spec = pair.load(listing(), limit)
    assert spec.limit == frozenset(names)
    assert len(spec.hosts) == 5


@pytest.mark.parametrize(("limit", "words"), [("cp-9", "no host and no group"), ("cp-1,!all", "leaves no host")])
def test_bad_limit(pair: Pair, limit: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        pair.load(listing(), limit)
    assert caught.value.where == "--limit"


def test_paths_are_absolute(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(pair.hosts.parent)
    spec = Pair(Path("hosts.yaml"), Path("cluster.yaml")).load(listing())
    assert spec.inventory_path == pair.hosts
    assert spec.cluster_path == pair.cluster
