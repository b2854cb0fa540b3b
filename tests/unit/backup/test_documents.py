"""Sealed documents: what was changed, left out or added is not believed."""

import json
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kops_py.backup.documents import digest_of, is_id, new_id, seal, time_of_id, unseal
from kops_py.backup.manifest import Deletion, KeepMark, Proof, ProofKind
from kops_py.model.errors import DamagedError
from tests.fakes.stores import ME, RESTORED, START

MARK = KeepMark(id="20261125T120000Z-00000000", at=START, by=ME, why="before the upgrade, ü")
PROOF = Proof(
    id=MARK.id,
    manifest="a" * 64,
    kind=ProofKind.RESTORE,
    passed=True,
    why="",
    at=START,
    by=ME,
    stored={"snapshot.db.zst.age": "b" * 64},
    restored=RESTORED,
)


def test_what_is_sealed_is_read_back() -> None:
    assert unseal(seal(MARK), KeepMark, where="x") == MARK
    assert unseal(seal(PROOF), Proof, where="x") == PROOF
    assert json.loads(seal(PROOF))["digest"] == digest_of(PROOF)


@given(st.data())
def test_no_changed_byte_is_believed(data: st.DataObject) -> None:
    sealed = bytearray(seal(PROOF))
    place = data.draw(st.integers(0, len(sealed) - 1))
    value = data.draw(st.integers(0, 255).filter(lambda v: v != sealed[place]))
    sealed[place] = value
    try:
        found = unseal(bytes(sealed), Proof, where="x")
    except DamagedError:
        return
    assert found == PROOF  # a blank between two words


@pytest.mark.parametrize(
    "change",
    [
        {"passed": "true"},
        {"extra": 1},
        {"kind": "other"},
        {"at": "2026-11-25T12:00:00"},
        {"at": "yesterday"},
        {"restored": None, "stored": 3},
    ],
)
def test_a_right_digest_does_not_make_a_wrong_document_right(change: dict[str, object]) -> None:
    import hashlib

    body = {**json.loads(seal(PROOF)), **change}
    del body["digest"]
    text = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    body["digest"] = hashlib.sha256(text.encode()).hexdigest()
    with pytest.raises(DamagedError):
        unseal(json.dumps(body).encode(), Proof, where="x")


def test_one_kind_of_document_is_not_another() -> None:
    with pytest.raises(DamagedError, match="not in the form"):
        unseal(seal(MARK), Deletion, where="x")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "cannot be read"),
        (b"[]", "no JSON object"),
        (b'{"format": 1, "format": 1}', "cannot be read"),
        (b'{"format": NaN}', "cannot be read"),
        (b"[" * 100_000, "cannot be read"),
        (b"\xff\xfe", "cannot be read"),
        (b"{}", "no format version"),
        (b'{"format": true}', "no format version"),
        (b'{"format": 2}', "this kops-py reads up to 1"),
        (b'{"format": 1}', "was changed"),
    ],
)
def test_what_is_no_document(data: bytes, words: str) -> None:
    with pytest.raises(DamagedError, match=words) as caught:
        unseal(data, KeepMark, where="store: here")
    assert caught.value.where == "store: here"


def test_ids() -> None:
    made = new_id(datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), b"\x01\x02\x03\x04")
    assert made == "20260102T030405Z-01020304"
    assert is_id(made)
    assert time_of_id(made) == datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    for text in ("", "20261302T030405Z-01020304", "20260102T030405Z-0102030A", f"{made}0", "../x", f"{made}\n"):
        assert not is_id(text), text


def test_a_proof_from_before_the_cluster_was_recorded_stays_word_by_word() -> None:
    assert "cluster_uid" not in json.loads(seal(PROOF))["restored"]
    newer = replace(PROOF, restored=replace(RESTORED, cluster_uid="3f9a2c1d-0d0a-4f7b-9c55-1c8a4b0f6f0e"))
    assert json.loads(seal(newer))["restored"]["cluster_uid"].startswith("3f9a2c1d")
    assert unseal(seal(newer), Proof, where="x") == newer
    assert digest_of(newer) != digest_of(PROOF)
