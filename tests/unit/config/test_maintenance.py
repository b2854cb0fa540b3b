"""maintenance in cluster.yaml: hooks, gates, canary, groups; what is read, and what is refused at which place."""

from __future__ import annotations

import pytest

from kops_py.config.cluster import read_cluster
from kops_py.model.errors import ConfigError
from kops_py.model.hooks import CanarySpec, Gate, GroupSpec, Hooks, HttpCheck, OperatorCommand, Side
from tests.unit.config.files import Pair, checked, listing

CHECK = Gate("of the canary", OperatorCommand(("./check-canary",)))


def test_all_of_it_is_read(pair: Pair) -> None:
    found = read_cluster(pair.cluster).maintenance
    assert found.hooks == Hooks(
        (OperatorCommand(("./silence", "--for", "30m")),),
        (OperatorCommand(("./silence", "off"), Side.NODE, 9.0),),
    )
    ca = str(pair.cluster.parent / "ca.pem.bak")
    assert found.gates == (
        Gate("alerts", OperatorCommand(("./alerts",)), interval_s=1.0),
        Gate("2", HttpCheck("https://shop.example.com/healthz", (200,), "ok", ca)),
    )
    assert found.canary == CanarySpec(1, 600.0, CHECK)
    assert found.groups == (
        GroupSpec("storage", "1", selector="disk=ssd"),
        GroupSpec("rest", "50%", inventory_group="kube_node"),
    )


def test_the_pod_selector_of_drains(pair: Pair) -> None:
    assert read_cluster(pair.cluster).maintenance.drain.pod_selector == ""
    pair.change("maxUnavailable: 25%", "drain: {podSelector: ' app notin (db),!keep '}")
    assert read_cluster(pair.cluster).maintenance.drain.pod_selector == "app notin (db),!keep"


def test_a_group_of_the_inventory_brings_its_hosts(pair: Pair) -> None:
    assert [g.hosts for g in pair.load(listing()).maintenance.groups] == [frozenset(), frozenset({"worker-1"})]


def test_a_group_that_the_inventory_lacks_is_refused(pair: Pair) -> None:
    pair.change("inventoryGroup: kube_node", "inventoryGroup: storage")
    with pytest.raises(ConfigError, match="the inventory has no group 'storage'") as caught:
        pair.load(listing())
    assert ":44:" in checked(caught.value)[0].where


@pytest.mark.parametrize(
    ("old", "new", "words", "hint"),
    [
        ("{command: ./silence --for 30m}", "{comand: x}", "unknown key 'comand'", "did you mean command?"),
        ("{command: ./silence --for 30m}", "{runOn: node}", "command is missing", "./silence"),
        ("./silence --for 30m", '"a \'b"', "command is", ""),
        ("./silence --for 30m", "[]", "command is", ""),
        ("runOn: node", "runOn: both", "runOn is 'both'", ""),
        (
            "[./alerts], interval",
            "[./alerts], http: {url: 'http://x'}, interval",
            "command and http are both given",
            "",
        ),
        ("{name: alerts, command: [./alerts], ", "{name: alerts, ", "neither command nor http is given", "exactly one"),
        ("- http:", "- runOn: node\n      http:", "runOn has no meaning beside http", ""),
        ("https://shop.example.com/healthz", "shop", "url is 'shop'", ""),
        ("https://shop", "https://ann:pw@shop", "holds no user and no password", ""),
        ("caFile: ca.pem.bak", "caFile: none.pem", "there is no file 'none.pem'", ""),
        ("status: [200]", "status: [2000]", "status", ""),
        ("count: 1, ", "", "no count: there is nothing to watch", "count: 1"),
        ("selector: disk=ssd", "selector: disk==", "", ""),
        ("selector: disk=ssd", "selector: 'disk in'", "selector is 'disk in'", "zone in (a,b)"),
        ("selector: disk=ssd", "maxUnavailable: 1", "neither selector nor inventoryGroup is given", "exactly one"),
        ("maxUnavailable: 25%", "drain: {podSelector: 'app in db'}", "podSelector is 'app in db'", "app!=db"),
        ("maxUnavailable: 25%", "drain: {podSelector: 'app=-'}", "podSelector is 'app=-'", "app!=db"),
        ("maxUnavailable: 25%", "drain: {podSelector: [a]}", "podSelector", ""),
        ("name: rest", "name: storage", "there are two groups 'storage'", ""),
        ("maxUnavailable: 50%", "maxUnavailable: 0", "maxUnavailable", "25%"),
    ],
)
def test_mistakes(pair: Pair, old: str, new: str, words: str, hint: str) -> None:
    pair.change(old, new)
    if not words:
        read_cluster(pair.cluster)
        return
    with pytest.raises(ConfigError) as caught:
        read_cluster(pair.cluster)
    problems = checked(caught.value)
    assert any(words in str(p) and hint in p.hint for p in problems), [(str(p), p.hint) for p in problems]
