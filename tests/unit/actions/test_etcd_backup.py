"""A backup from its first look at etcd: hosts without files, and what is left when it fails before it begins."""

from __future__ import annotations

import io
import tarfile
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType

import pytest

from kops_py.actions.etcd_backup import Work
from kops_py.actions.etcd_perform import BackupPerformer, prune
from kops_py.backup.catalogue import Entry, State
from kops_py.connect.base import Cancel
from kops_py.engine.run import StepContext
from kops_py.model.actions import TakeBackup
from kops_py.model.errors import BackupError, CancelledError, EtcdError, KopsError, RunDeadlineError
from kops_py.model.etcd import KUBEADM_CREDENTIALS, LOCAL_ENDPOINT, EtcdAccess, EtcdFacts
from kops_py.model.event import Event, Note
from kops_py.model.plan import Step
from kops_py.model.status import EtcdMember
from kops_py.tools.etcd_bundle import API_SERVER_MANIFEST, NOTHING_STATUS
from tests.fakes.ssh import Argv, FakeFleet, FakeHost, Reply
from tests.fakes.stores import ME, Clock, MemoryStore, catalogue_of, refuse, spec_of
from tests.unit.tools.test_etcd_snapshot import DATABASE, stream_of

MEMBER = EtcdMember(
    name="n1", member_id=1, endpoint=LOCAL_ENDPOINT, healthy=True, version="3.5.24", size_bytes=1, used_bytes=1,
    host="n1",
)  # fmt: skip
FACTS = EtcdFacts(
    members=(MEMBER,),
    accesses=MappingProxyType({"n1": EtcdAccess("n1", LOCAL_ENDPOINT, KUBEADM_CREDENTIALS[0])}),
    expected=MappingProxyType({"n1": "n1"}),
)


def is_bundle(argv: Argv) -> bool:
    return argv[:2] == ("sh", "-c") and "tar --create" in argv[2]


def archive(*paths: str) -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as out:
        for path in paths:
            folder = path.endswith("/")
            info = tarfile.TarInfo(path.strip("/"))
            info.type, info.size = (tarfile.DIRTYPE, 0) if folder else (tarfile.REGTYPE, 4)
            out.addfile(info, None if folder else io.BytesIO(b"data"))
    return data.getvalue()


NOTHING = Reply(stderr="none of the files is there", exit_status=NOTHING_STATUS, sudo=True)
FILES = Reply(archive("/etc/kubernetes/pki/ca.crt", "/etc/kubernetes/pki/sa.key"), sudo=True)


@dataclass
class Bed:
    """Hosts whose bundles are given, a store in memory, and a performer that sees ``facts``."""

    folder: Path
    bundles: dict[str, Reply]
    facts: EtcdFacts | KopsError = FACTS
    store: MemoryStore = field(default_factory=MemoryStore)
    events: list[Event] = field(default_factory=list)

    def __post_init__(self) -> None:
        hosts = {name: FakeHost(name).on(is_bundle, reply) for name, reply in self.bundles.items()}
        n1 = hosts.setdefault("n1", FakeHost("n1"))
        n1.on(lambda argv: argv[0] == "curl", Reply(stream_of(DATABASE), sudo=True))
        n1.on(lambda argv: argv[0] == "etcdctl", Reply("nothing of JSON", sudo=True))
        n1.files[API_SERVER_MANIFEST] = b"spec: {containers: [{image: 'registry.k8s.io/kube-apiserver:v1.33.1'}]}"
        self.catalogue = catalogue_of(self.store, Clock(datetime.now(UTC)))
        self.work = Work(
            cluster="prod", fleet=FakeFleet(hosts), spec=spec_of(), catalogues=[self.catalogue], recipients=(),
            identities=(), me=ME, clock=Clock(datetime.now(UTC)), scratch=self.folder, cancel=Cancel(),
        )  # fmt: skip

    def take(self, *bundles: str) -> None:
        action = TakeBackup("n1", bundles, ("memory",), False, "none")
        step = Step("backup/take", "", "a backup", action, 60)
        BackupPerformer(self.work, self._look).apply(
            StepContext(step, self.work.cancel, self.events.append, time.monotonic() + 60)
        )

    def _look(self) -> EtcdFacts:
        if isinstance(self.facts, KopsError):
            raise self.facts
        return self.facts

    @property
    def entry(self) -> Entry:
        (entry,) = self.catalogue.entries()
        return entry

    @property
    def notes(self) -> list[str]:
        return [event.message for event in self.events if isinstance(event, Note)]


@pytest.mark.parametrize("bare", [NOTHING, Reply(archive("/etc/cni/net.d/"), sudo=True)], ids=["nothing", "folders"])
def test_a_control_plane_without_files_is_left_out_with_a_note(tmp_path: Path, bare: Reply) -> None:
    bed = Bed(tmp_path, {"n1": FILES, "n2": bare, "n3": FILES})
    bed.take("n2", "n1", "n3")
    assert bed.entry.state is State.STORED
    assert bed.entry.manifest is not None
    assert [part.host for part in bed.entry.manifest.bundles] == ["n1", "n3"]
    assert bed.entry.manifest.source.kubernetes_version == "v1.33.1"
    assert bed.notes == ["n2 holds no files of a cluster and is left out of the backup"]
    assert not [path for path in bed.store.content if "n2" in path]


@pytest.mark.parametrize("other", [NOTHING, Reply(archive("/etc/etcd/pki/ca.crt"), sudo=True)], ids=["none", "etcd's"])
def test_when_no_control_plane_has_its_files_the_backup_fails(tmp_path: Path, other: Reply) -> None:
    bed = Bed(tmp_path, {"n1": NOTHING, "n2": other})
    with pytest.raises(BackupError, match="no control plane has the cluster's files") as caught:
        bed.take("n1", "n2")
    assert "n1" in caught.value.where
    assert (bed.entry.state, bed.entry.manifest) == (State.FAILED, None)


def test_any_other_failure_of_a_host_fails_the_backup(tmp_path: Path) -> None:
    bed = Bed(tmp_path, {"n1": FILES, "n2": Reply(stderr="tar: cannot", exit_status=2, sudo=True)})
    with pytest.raises(KopsError, match="exit status 2"):
        bed.take("n1", "n2")
    assert bed.entry.state is State.FAILED
    assert "files of n2" in bed.entry.why


@pytest.mark.parametrize(
    "facts",
    [
        EtcdError("no member of etcd answers"),
        EtcdFacts(),
        RunDeadlineError("the time is over"),
    ],
    ids=["silent", "gone", "deadline"],
)
def test_a_backup_that_fails_before_it_begins_leaves_a_failed_entry(
    tmp_path: Path, facts: EtcdFacts | KopsError
) -> None:
    bed = Bed(tmp_path, {}, facts)
    if isinstance(facts, RunDeadlineError):
        bed.work.cancel.set("deadline", RunDeadlineError)
    with pytest.raises(KopsError) as caught:
        bed.take()
    assert bed.entry.state is State.FAILED
    assert bed.entry.why == f"stopped at looking at etcd: {caught.value.what}"


def test_a_member_that_no_host_reaches_leaves_a_failed_entry(tmp_path: Path) -> None:
    bed = Bed(tmp_path, {}, EtcdFacts(members=(MEMBER,)))
    with pytest.raises(EtcdError, match="no host reaches"):
        bed.take()
    assert bed.entry.why == "stopped at snapshot from n1: no host reaches this member"


def test_an_interruption_before_it_begins_leaves_nothing(tmp_path: Path) -> None:
    bed = Bed(tmp_path, {}, CancelledError("interrupted"))
    with pytest.raises(CancelledError):
        bed.take()
    assert bed.store.content == {}


def test_the_error_of_etcd_stands_when_no_store_takes_the_entry(tmp_path: Path) -> None:
    bed = Bed(tmp_path, {}, EtcdError("no member of etcd answers"))
    bed.store.before = refuse("put_document")
    with pytest.raises(EtcdError, match="no member of etcd answers"):
        bed.take()
    assert bed.store.content == {}


def test_what_was_cleaned_up_is_told(tmp_path: Path) -> None:
    left = "prod/20260101T000000Z-00000000/snapshot.db.zst"
    bed = Bed(tmp_path, {"n1": FILES})
    bed.store.left[left] = 7 * 3600
    bed.take("n1")
    note = f"memory (memory): removed {left}, which a killed upload left"
    assert bed.notes == [note]
    bed.store.left[left] = 25 * 3600
    told: list[str] = []
    bed.work.note = told.append
    prune(bed.work)
    assert told == [note]
