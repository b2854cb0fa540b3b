"""Restore onto new machines, decided: what it is begun with, and what it is not begun with at all."""

from __future__ import annotations

import dataclasses
import io
import tarfile
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kops_py.app import new_machines as app
from kops_py.app.etcd_restore_source import Fetched, object_names
from kops_py.backup.bundle import Repacked, repack
from kops_py.backup.catalogue import Catalogue
from kops_py.backup.manifest import Manifest, PartKind
from kops_py.backup.new import NewBackup
from kops_py.connect.base import Cancel
from kops_py.model.errors import BackupError, ConfigError, DamagedError, UnreachableError
from kops_py.model.etcd_restore import RestoreFacts, RestoreHost, RestoreKind, RestoreRun, SnapshotFacts
from kops_py.model.facts import Facts, HostFacts
from kops_py.model.preflight import ProbeResults
from tests.fakes.cluster import arguments_for, make_spec
from tests.fakes.stores import ME, SOURCE, Clock, MemoryStore, catalogue_of, pieces, snapshot, spec_of
from tests.unit.tools.test_bolt import store_of
from tests.unit.tools.test_new_machines import bundle

RUN = RestoreRun("r1-abc", RestoreKind.NEW_MACHINES, "abc")
SNAPSHOT = SnapshotFacts("lost.db", "abc", 1000, 100, "3.5")


def tar_of(files: Mapping[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for path, data in files.items():
            info = tarfile.TarInfo(path.lstrip("/"))
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def backup_with(bundles: Mapping[str, Mapping[str, bytes]], store: MemoryStore) -> tuple[Catalogue, Manifest]:
    """Make a backup whose bundles hold these files, by host."""
    catalogue = catalogue_of(store, Clock())
    new = NewBackup([catalogue], spec_of(), recipients=(), me=ME, clock=Clock())
    new.begin()
    new.add(PartKind.SNAPSHOT, "cp1", pieces(snapshot()))
    for host, files in bundles.items():
        new.add(PartKind.BUNDLE, host, repack([tar_of(files)], Repacked(host)))
    return catalogue, new.finish(SOURCE)


def fetched(folder: Path, bundles: Mapping[str, Mapping[str, bytes]], store: MemoryStore | None = None) -> Fetched:
    catalogue, manifest = backup_with(bundles, store or MemoryStore())
    place = folder / "snapshot.db"
    names = ("old1", "old2")
    entries = [(n + 2, f"/registry/minions/{name}".encode(), False) for n, name in enumerate(names)]
    hook = (9, b"/registry/validatingwebhookconfigurations/gate", False)
    place.write_bytes(store_of(*entries, hook) + bundle()[app._CA])
    return Fetched(place, catalogue, manifest, ())


def test_the_files_of_the_control_plane_the_snapshot_is_of_are_read(tmp_path: Path) -> None:
    got = fetched(tmp_path, {"a1": {"/x": b"of a1"}, "cp1": {"/x": b"of cp1"}})
    host, digest, files = got.read_files(Cancel())
    assert (host, files) == ("cp1", {"/x": b"of cp1"})
    assert digest == next(p.plain_sha256 for p in got.manifest.bundles if p.host == "cp1")
    others = fetched(tmp_path, {"b2": {"/x": b"of b2"}, "a1": {"/x": b"of a1"}})
    assert others.read_files(Cancel())[0] == "a1", "when it was not backed up: any"


def test_files_of_an_etcd_host_are_not_taken_for_those_of_a_control_plane(tmp_path: Path) -> None:
    """The snapshot is of an external member, whose host was backed up too: its files make no cluster."""
    key = {"/etc/kubernetes/pki/ca.key": b"key"}
    got = fetched(tmp_path, {"cp1": {"/etc/etcd/pki/ca.key": b"of etcd"}, "n1": key})
    assert (got.read_files(Cancel())[0], got.read_files(Cancel())[2]) == ("n1", key)


def test_a_backup_without_files_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(BackupError, match="holds no files of a control plane") as caught:
        fetched(tmp_path, {}).read_files(Cancel())
    assert "kops-py etcd list" in caught.value.hint


def test_files_that_were_changed_in_the_store_are_refused(tmp_path: Path) -> None:
    store = MemoryStore()
    got = fetched(tmp_path, {"cp1": {"/x": b"content"}}, store)
    [path] = [p for p in store.content if "bundle-" in p]
    store.content[path] = store.content[path][:-1] + bytes((store.content[path][-1] ^ 1,))
    with pytest.raises(DamagedError):
        got.read_files(Cancel())


def test_names_of_objects_in_a_snapshot(tmp_path: Path) -> None:
    place = tmp_path / "s.db"
    place.write_bytes(store_of((2, b"/registry/minions/n1", False), (3, b"/registry/pods/x/y", False)))
    assert object_names(place, ("minions", "none")) == {"minions": ("n1",), "none": ()}
    place.write_bytes(b"no database")
    with pytest.raises(BackupError, match="cannot be read"):
        object_names(place, ("minions",))


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A session whose hosts are all empty."""
    spec = make_spec(1, 1)
    said: list[str] = []
    facts = Facts(hosts={h.name: HostFacts(name=h.name, sudo=True) for h in spec.hosts})
    monkeypatch.setattr("kops_py.app.bootstrap.bootstrap_arguments", arguments_for)
    monkeypatch.setattr("kops_py.connect.tls_probe.answers_for", lambda *_, **__: False)
    monkeypatch.setattr(app, "check_hosts", lambda *_: ())
    return SimpleNamespace(
        spec=spec,
        cancel=Cancel(),
        emit=lambda event: said.append(event.message),
        said=said,
        ignored=frozenset(),
        observe=lambda: facts,
        probe=lambda _: ProbeResults(),
    )


def bare(opened: Any) -> RestoreFacts:
    return RestoreFacts({h.name: RestoreHost(h.name) for h in opened.spec.nodes})


def test_the_plan_is_of_the_backup(opened: Any, tmp_path: Path) -> None:
    decided = app.decide_new_machines(opened, bare(opened), RUN, SNAPSHOT, fetched(tmp_path, {"cp1": bundle()}))
    steps = {s.id: s for s in decided.plan.steps}
    assert "not in the inventory: old1, old2" in "\n".join(steps["forget"].details)
    assert "/etc/kubernetes/pki/sa.key" in steps["place/n1"].details
    assert {"api-server-flags-missing", "backup-other-kubernetes"} <= {f.id for f in decided.findings}
    assert ("webhooks-without-pods", "gate") in {(f.id, f.message) for f in decided.findings}
    assert not [f for f in decided.findings if f.id == "foreign-snapshot"], "its authority is in the snapshot"
    assert any("asking whether the old cluster answers at 10.0.0.1:6443" in line for line in opened.said)


def test_an_old_cluster_that_answers_is_found_until_the_restore_was_begun(
    opened: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def answers(endpoint: str, pem: bytes, *, timeout_s: float) -> bool:
        asked.append(endpoint)
        return pem == bundle()[app._CA]

    monkeypatch.setattr("kops_py.connect.tls_probe.answers_for", answers)
    got = fetched(tmp_path, {"cp1": bundle()})
    decided = app.decide_new_machines(opened, bare(opened), RUN, SNAPSHOT, got)
    assert "old-cluster-answers" in {f.id for f in decided.findings}
    begun = RestoreFacts({**bare(opened).hosts, "n1": RestoreHost("n1", begun={RUN.id: RUN.words})})
    decided = app.decide_new_machines(opened, begun, RUN, SNAPSHOT, got)
    assert "old-cluster-answers" not in {f.id for f in decided.findings}, "what answers there now may be our own"
    assert asked == ["10.0.0.1:6443"]


def test_a_snapshot_of_another_authority_is_found(opened: Any, tmp_path: Path) -> None:
    got = fetched(tmp_path, {"cp1": {**bundle(), app._CA: b"another authority, whole and long enough"}})
    decided = app.decide_new_machines(opened, bare(opened), RUN, SNAPSHOT, got)
    assert "foreign-snapshot" in {f.id for f in decided.findings}


def test_without_keys_or_a_backup_it_is_not_begun(opened: Any, tmp_path: Path) -> None:
    files = bundle()
    del files["/etc/kubernetes/pki/ca.key"]
    with pytest.raises(BackupError, match="do not make a cluster") as caught:
        app.decide_new_machines(opened, bare(opened), RUN, SNAPSHOT, fetched(tmp_path, {"cp1": files}))
    assert "/etc/kubernetes/pki/ca.key" in caught.value.why
    with pytest.raises(ConfigError, match="a snapshot alone") as alone:
        app.decide_new_machines(opened, bare(opened), RUN, SNAPSHOT, None)
    assert "by its ID" in alone.value.hint


def test_where_no_control_plane_answers_that_is_what_is_said(opened: Any, tmp_path: Path) -> None:
    lost = UnreachableError("does not answer", where="n1")
    restore = RestoreFacts({**bare(opened).hosts, "n1": RestoreHost("n1", problem=lost)})
    with pytest.raises(UnreachableError, match="does not answer"):
        app.decide_new_machines(opened, restore, RUN, SNAPSHOT, fetched(tmp_path, {"cp1": bundle()}))


def test_an_external_etcd_has_an_authority_of_its_own(opened: Any, tmp_path: Path) -> None:
    opened.spec = spec = make_spec(1, 1, etcd=3)
    facts = Facts(hosts={h.name: HostFacts(name=h.name, sudo=True) for h in spec.hosts})
    opened.observe = lambda: facts
    restore = RestoreFacts({h.name: RestoreHost(h.name) for h in spec.hosts})
    decided = app.decide_new_machines(opened, restore, RUN, SNAPSHOT, fetched(tmp_path, {"cp1": bundle()}))
    steps = {s.id: s for s in decided.plan.steps}
    assert not [path for path in steps["place/n1"].details if "/etcd/" in path]
    assert "n3: member n3 at https://10.9.0.3:2380" in steps["stage"].details
    assert "snapshot-other-minor" not in {f.id for f in decided.findings}, "nothing is installed yet"


def test_what_preflight_finds_of_our_own_beginning_is_left_out(
    opened: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kops_py.model.finding import Finding, Severity

    def found(name: str, node: str) -> Finding:
        return Finding(Severity.ERROR, name, node, "x")

    listed = (found("leftovers", "n1"), found("leftovers", "n2"), found("cpu", "n1"))
    monkeypatch.setattr(app, "check_hosts", lambda *_: listed)
    begun = RestoreFacts({**bare(opened).hosts, "n1": RestoreHost("n1", begun={RUN.id: RUN.words})})
    decided = app.decide_new_machines(opened, begun, RUN, SNAPSHOT, fetched(tmp_path, {"cp1": bundle()}))
    assert [(f.id, f.node) for f in decided.findings if f in listed] == [("leftovers", "n2"), ("cpu", "n1")]


def test_contents_are_in_no_plan(opened: Any, tmp_path: Path) -> None:
    decided = app.decide_new_machines(opened, bare(opened), RUN, SNAPSHOT, fetched(tmp_path, {"cp1": bundle()}))
    text = str(decided.plan.to_json())
    assert not [path for path, data in bundle().items() if len(data) > 8 and data.decode() in text]
    assert dataclasses.asdict(SNAPSHOT)["digest"] in text
