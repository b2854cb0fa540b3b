"""The kubeconfig command's file: private, named after the cluster, and nobody else's is harmed."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from kops_py.app import queries
from kops_py.app.session import Settings
from kops_py.app.upgrade_facts import require_api
from kops_py.connect.base import Cancel
from kops_py.model.errors import CancelledError, ConfigError, KubeError, UnreachableError
from kops_py.model.facts import Facts, HostFacts
from tests.fakes.cluster import make_spec


def admin_conf(ca: str = "CA") -> bytes:
    data = {"certificate-authority-data": base64.b64encode(ca.encode()).decode(), "server": "https://10.9.0.1:6443"}
    return yaml.safe_dump(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "kubernetes", "cluster": data}],
            "contexts": [{"name": "admin@kubernetes", "context": {"cluster": "kubernetes", "user": "admin"}}],
            "users": [{"name": "admin", "user": {"client-key-data": "S0VZ"}}],
            "current-context": "admin@kubernetes",
        }
    ).encode()


class Access:
    def __init__(self) -> None:
        self.conf: bytes | None = admin_conf()
        self.cancel = Cancel()

    def read_admin_conf(self) -> bytes:
        if self.conf is None:
            raise KubeError("no control plane has an admin.conf yet")
        return self.conf


class Opened:
    def __init__(self, kube: Access) -> None:
        self.kube = kube
        self.cancel = kube.cancel


@pytest.fixture
def access(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Access:
    made = Access()

    @contextmanager
    def session(*_: Any, **__: Any) -> Iterator[Opened]:
        yield Opened(made)

    monkeypatch.setattr(queries, "session", session)
    monkeypatch.setattr(queries, "load_spec", lambda _: make_spec(1))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("KUBECONFIG", raising=False)
    return made


def write(path: Path | None = None, *, merge: bool = False, use: bool = False, force: bool = False) -> Path:
    written, context = queries.write_kubeconfig(Settings(), lambda _: None, path, merge=merge, use=use, force=force)
    assert context == "sim"
    assert written.stat().st_mode & 0o777 == 0o600
    return written


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_bytes())


@pytest.mark.usefixtures("access")
def test_it_is_named_after_the_cluster_and_its_own_file_is_renewed() -> None:
    path = write()
    assert path == Path("sim.kubeconfig")
    assert (read(path)["current-context"], [c["name"] for c in read(path)["contexts"]]) == ("sim", ["sim"])
    path.chmod(0o644)
    assert write() == path


@pytest.mark.parametrize(
    "content",
    [b"", b"notes to myself", b"\x00\xff\xfe", b"[" * 5000, b"contexts: [1]", b"contexts:", admin_conf(), b"- a"],
    ids=["empty", "text", "binary", "deep", "odd", "null", "another kubeconfig", "list"],
)
@pytest.mark.usefixtures("access")
def test_a_file_that_is_not_ours_is_not_overwritten(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "mine"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        write(path)
    assert caught.value.where == str(path)
    assert "--force" in caught.value.hint
    assert path.read_bytes() == content
    assert read(write(path, force=True))["current-context"] == "sim"


@pytest.mark.usefixtures("access")
def test_a_kubeconfig_of_the_same_name_that_another_tool_wrote_is_not_ours(tmp_path: Path) -> None:
    path = tmp_path / "mine"
    other = yaml.safe_load(admin_conf("OTHER"))
    other["contexts"][0]["name"] = "sim"
    path.write_text(yaml.safe_dump(other))
    with pytest.raises(ConfigError):
        write(path)


def test_merging_keeps_everything_else(access: Access, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    default = write(merge=True)
    assert default == tmp_path / "home" / ".kube" / "config"
    assert default.parent.stat().st_mode & 0o777 == 0o700
    other = tmp_path / "other"
    other.write_bytes(admin_conf("OTHER"))
    monkeypatch.setenv("KUBECONFIG", f"{other}:/elsewhere")
    merged = read(write(merge=True))
    assert [c["name"] for c in merged["contexts"]] == ["admin@kubernetes", "sim"]
    assert merged["current-context"] == "admin@kubernetes"
    assert read(write(merge=True, use=True))["current-context"] == "sim"
    access.conf = admin_conf("REBUILT")
    with pytest.raises(ConfigError, match="of another cluster"):
        write(merge=True)
    assert read(write(merge=True, force=True))["current-context"] == "sim"


@pytest.mark.usefixtures("access")
def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "folder", tmp_path / "file" / "below"):
        with pytest.raises(ConfigError) as caught:
            write(path, merge=True)
        assert caught.value.where == str(path)
        assert caught.value.hint


def test_a_file_that_cannot_be_merged_into_is_named(access: Access, tmp_path: Path) -> None:
    path = write(tmp_path / "mine", merge=True)
    access.conf = admin_conf("REBUILT")
    with pytest.raises(ConfigError) as caught:
        write(path, merge=True)
    assert (caught.value.where, "--force" in caught.value.hint) == (str(path), True)
    path.write_text("kind: Deployment\n")
    with pytest.raises(ConfigError, match="no kubeconfig"):
        write(path, merge=True, force=True)
    assert path.read_text() == "kind: Deployment\n"


@pytest.mark.usefixtures("access")
def test_use_without_merge_is_refused() -> None:
    with pytest.raises(ConfigError, match="--use goes with --merge"):
        write(use=True)


def test_a_host_that_cannot_be_asked_is_not_a_missing_cluster() -> None:
    down = UnreachableError("no route to host", where="n1", hint="is the host up?")
    with pytest.raises(UnreachableError):
        require_api(Facts(hosts={"n1": HostFacts(name="n1", problem=down), "n2": HostFacts(name="n2")}), "patch")
    with pytest.raises(KubeError, match="there is no cluster to patch"):
        require_api(Facts(hosts={"n1": HostFacts(name="n1")}), "patch")


def test_what_ctrl_c_cuts_off_is_called_interrupted(access: Access) -> None:
    access.conf = None
    access.cancel.set("SIGINT")
    with pytest.raises(CancelledError):
        write()


def test_a_cluster_that_is_not_there_is_an_error_of_the_api(access: Access) -> None:
    access.conf = None
    with pytest.raises(KubeError):
        write()
    assert not Path("sim.kubeconfig").exists()
