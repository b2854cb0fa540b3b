"""Spoiled files: always a ConfigError with places, or a spec; never another exception, never a contact."""

import functools
import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from kops_py.config.cluster import ClusterFile, read_cluster
from kops_py.config.load import assemble, load, read_files
from kops_py.config.scan import scan_inventory
from kops_py.config.schema import json_schema
from kops_py.config.sources import find_files
from kops_py.config.yamlfile import parse_yaml, read_yaml
from kops_py.model.errors import ConfigError
from kops_py.model.spec import ClusterSpec
from tests.unit.config.files import CLUSTER, HOSTS, HOSTS_INI, Pair, checked, listing
from tests.unit.config.mutate import spoiled_text, spoiled_tree

_PURE = settings(
    max_examples=700,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
_VALIDATOR = jsonschema.Draft202012Validator(json_schema())


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


@functools.cache
def pair_in(folder: Path, name: str, *, hosts_name: str = "hosts.yaml") -> Pair:
    return Pair.write(folder / name, hosts_name=hosts_name)


read_files_once = functools.cache(read_files)


def attempt(work: Callable[[], object]) -> object | None:
    """Return the result, or None after a ConfigError whose every part was checked."""
    try:
        return work()
    except ConfigError as error:
        checked(error)
        return None


@_PURE
@given(data=spoiled_text(CLUSTER))
def test_spoiled_cluster_file(folder: Path, data: bytes) -> None:
    check_cluster(folder, data)


@_PURE
@given(tree=spoiled_tree(parse_yaml(CLUSTER, "good").plain()))
def test_spoiled_cluster_settings(folder: Path, tree: dict[str, Any]) -> None:
    check_cluster(folder, json.dumps(tree).encode())


def check_cluster(folder: Path, data: bytes) -> None:
    pair = pair_in(folder, "cluster")
    pair.cluster.write_bytes(data)
    result = attempt(lambda: read_cluster(pair.cluster))
    if result is not None:
        assert isinstance(result, ClusterFile)
        # What we accept, an editor with our schema accepts.
        _VALIDATOR.validate(read_yaml(pair.cluster, most_bytes=10**6).plain())


@_PURE
@given(data=spoiled_text(HOSTS))
def test_spoiled_yaml_inventory(folder: Path, data: bytes) -> None:
    pair = pair_in(folder, "yaml")
    pair.hosts.write_bytes(data)
    attempt(lambda: scan_inventory(find_files(pair.hosts, None)))


@_PURE
@given(data=spoiled_text(HOSTS_INI))
def test_spoiled_ini_inventory(folder: Path, data: bytes) -> None:
    pair = pair_in(folder, "ini", hosts_name="hosts.ini")
    pair.hosts.write_bytes(data)
    attempt(lambda: scan_inventory(find_files(pair.hosts, None)))


@_PURE
@given(tree=spoiled_tree(listing()))
def test_spoiled_listing(folder: Path, tree: dict[str, Any]) -> None:
    read = read_files_once(pair_in(folder, "listing").hosts)
    result = attempt(lambda: assemble(read, tree))
    assert result is None or isinstance(result, ClusterSpec)


@settings(max_examples=500, deadline=None)
@given(tree=spoiled_tree({"a": 1, "b": {"c": [1, "x"]}}), text=st.text(max_size=60))
def test_any_text_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, tree: object, text: str) -> None:
    path = _scratch(tmp_path_factory)
    for content in (text, json.dumps(tree)):
        path.write_text(content, encoding="utf-8", errors="replace")
        attempt(lambda: read_yaml(path, most_bytes=10**6))


def _scratch(factory: pytest.TempPathFactory) -> Path:
    return factory.getbasetemp() / "any.yaml"


def through_ansible(folder: Path, name: str, data: bytes) -> None:
    pair = pair_in(folder, "ansible-" + name, hosts_name=name)
    pair.hosts.write_bytes(data)
    # What our own reading refuses is seen above; here every example reaches Ansible.
    assume(attempt(lambda: read_files(pair.hosts)) is not None)
    result = attempt(lambda: load(pair.hosts))
    assert result is None or isinstance(result, ClusterSpec)


_ANSIBLE = settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
_SOAK = settings(_ANSIBLE, max_examples=300)


@_ANSIBLE
@given(data=spoiled_text(HOSTS))
def test_spoiled_yaml_inventory_through_ansible(folder: Path, data: bytes) -> None:
    through_ansible(folder, "hosts.yaml", data)


@_ANSIBLE
@given(data=spoiled_text(HOSTS_INI))
def test_spoiled_ini_inventory_through_ansible(folder: Path, data: bytes) -> None:
    through_ansible(folder, "hosts.ini", data)


@pytest.mark.soak
@pytest.mark.timeout(3600)  # two seconds for each of 300 on a busy machine
@pytest.mark.parametrize(("name", "text"), [("hosts.yaml", HOSTS), ("hosts.ini", HOSTS_INI)], ids=["yaml", "ini"])
def test_soak_spoiled_inventory_through_ansible(folder: Path, name: str, text: str) -> None:
    count = 0

    @_SOAK
    @given(data=spoiled_text(text))
    def spoiled(data: bytes) -> None:
        nonlocal count
        through_ansible(folder, name, data)
        count += 1

    spoiled()
    print(f"figure: {count} spoiled inventories read by Ansible or refused after it")
