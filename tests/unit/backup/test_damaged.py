"""A thousand damaged backups: each is refused before a byte of it is used, none of them is called good by a proof.

Two moments: damage between storing and proving, and damage of a backup that was good. What a restore does with a real
etcd is tested with one; here is everything that goes before.
"""

import random
from collections import Counter

import pyrage

from kops_py.backup import manifest as layout
from kops_py.backup.catalogue import Catalogue
from kops_py.backup.documents import seal, unseal
from kops_py.backup.manifest import Manifest, PartKind, Proof, ProofKind
from kops_py.backup.new import NewBackup
from kops_py.backup.proving import check_stored, proof_of, read_part, restorable
from kops_py.model.errors import BackupError, DamagedError
from tests.fakes.stores import ME, RESTORED, SOURCE, Clock, MemoryStore, catalogue_of, pieces, snapshot, spec_of

IDENTITY = pyrage.x25519.Identity.generate()
SECRET, KEY = str(IDENTITY), str(IDENTITY.to_public())
ROUNDS = 1000


def make(catalogue: Catalogue, clock: Clock, seed: int) -> tuple[Manifest, bytes]:
    data = snapshot(6 + seed % 5, seed)
    new = NewBackup([catalogue], spec_of(KEY), recipients=[KEY], me=ME, clock=clock)
    new.begin()
    new.add(PartKind.SNAPSHOT, "cp1", pieces(data))
    new.add(PartKind.BUNDLE, "cp1", [f"bundle {seed}".encode()])
    return new.finish(SOURCE), data


def prove(catalogue: Catalogue, backup_id: str, clock: Clock) -> bytes:
    """Do what a proof does up to the scratch etcd; returns the plain snapshot it would be given."""
    entry = catalogue.entry(backup_id)
    manifest = entry.manifest
    if manifest is None:
        raise DamagedError("no manifest", where=backup_id)
    stored = check_stored(catalogue, manifest)
    plain = read_back(catalogue, manifest)
    proof = proof_of(manifest, ProofKind.RESTORE, stored, me=ME, at=clock(), restored=RESTORED)
    catalogue.add_proof(proof)
    return plain


def read_back(catalogue: Catalogue, manifest: Manifest) -> bytes:
    for part in manifest.parts:
        plain = bytearray()
        read_part(catalogue, manifest, part, plain.extend, identities=[SECRET])
        if part.kind is PartKind.SNAPSHOT:
            found = bytes(plain)
    return found


def paths(store: MemoryStore, folder: str) -> list[str]:
    """Return what matters of a backup; without the rest it is no worse."""
    kept = (layout.BEGUN, layout.KEEP)
    return [p for p in sorted(store.content) if p.startswith(f"{folder}/") and not p.endswith(kept)]


def damage(draw: random.Random, store: MemoryStore, folder: str, others: list[str]) -> str:
    """Change something in a backup's folder; returns what."""
    path = draw.choice(paths(store, folder))
    data = store.content[path]
    name = path.rpartition("/")[2]
    at = draw.randrange(len(data))
    kind = draw.choice(["flip", "cut", "drop", "insert", "remove", "swap", "edit", "edit and seal"])
    if kind == "flip":
        store.content[path] = data[:at] + bytes([data[at] ^ 1 << draw.randrange(8)]) + data[at + 1 :]
    elif kind == "cut":
        store.content[path] = data[:at]
    elif kind == "drop":
        store.content[path] = data[:at] + data[at + draw.randrange(1, 9) :]
    elif kind == "insert":
        store.content[path] = data[:at] + draw.randbytes(draw.randrange(1, 9)) + data[at:]
    elif kind == "remove":
        del store.content[path]
    elif kind == "swap":
        other = draw.choice(paths(store, draw.choice(others)))
        store.content[path], store.content[other] = store.content[other], store.content[path]
    elif name == layout.MANIFEST:
        word = draw.choice([b'"3.5.24"', b'"cp1"', b'"cdf818194e3a8c32"', b'"prod"', b"100"])
        edited = data.replace(word, b"101" if word == b"100" else b'"x"')
        store.content[path] = edited if kind == "edit" else resealed(edited)
    else:
        store.content[path] = draw.randbytes(len(data))
        kind = "noise"
    return f"{kind} {name.partition('-')[0]}"


def resealed(data: bytes) -> bytes:
    """Give an edited manifest a digest of its own, as somebody does who knows the format."""
    import hashlib
    import json

    body = json.loads(data)
    del body["digest"]
    text = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    body["digest"] = hashlib.sha256(text.encode()).hexdigest()
    return json.dumps(body, sort_keys=True, indent=1, ensure_ascii=False).encode() + b"\n"


def test_damage_before_the_proof_never_becomes_good() -> None:
    draw, seen = random.Random(1), Counter[str]()
    store, clock = MemoryStore(), Clock()
    catalogue = catalogue_of(store, clock)
    (manifest, data), (other, _) = make(catalogue, clock, 1), make(catalogue, clock, 2)
    made = dict(store.content)
    for _ in range(ROUNDS):
        store.content = dict(made)
        what = damage(draw, store, catalogue.folder(manifest.id), [catalogue.folder(other.id)])
        if store.content == made:
            continue
        seen[what] += 1
        try:
            plain = prove(catalogue, manifest.id, clock)
        except BackupError:
            assert not catalogue.entry(manifest.id).is_good, what
            continue
        # Only a blank between two words of a document, or an edit of what the plain bytes cannot tell, gets so far:
        # the snapshot is whole and the one of this id all the same.
        assert what.endswith(layout.MANIFEST), what
        assert plain == data
    assert len(seen) > 10, seen
    assert sum(seen.values()) > ROUNDS * 0.9


def test_damage_of_a_good_one_is_refused_before_it_is_used() -> None:
    draw, refused = random.Random(2), Counter[str]()
    store, clock = MemoryStore(), Clock()
    catalogue, stage = catalogue_of(store, clock), catalogue_of(store, clock, "stage")
    made = []
    for seed, target in enumerate((catalogue, catalogue, stage)):
        manifest, data = make(target, clock, seed)
        assert prove(target, manifest.id, clock) == data
        assert target.entry(manifest.id).is_good
        made.append((target.folder(manifest.id), manifest, data))
    folder, manifest, data = made[0]
    before = dict(store.content)
    for _ in range(ROUNDS):
        store.content = dict(before)
        what = damage(draw, store, folder, [made[1][0], made[2][0]])
        if store.content == before:
            continue
        try:
            found = read_back(catalogue, restorable(catalogue.entry(manifest.id), cluster_id=SOURCE.cluster_id))
        except BackupError:
            refused[what] += 1
            continue
        assert found == data, what
        # Nothing was damaged but the blanks between the words of a document.
        for path in paths(store, folder):
            name = path.rpartition("/")[2]
            if layout.is_part(name):
                assert store.content[path] == before[path]
            else:
                kind = Manifest if name == layout.MANIFEST else Proof
                assert unseal(store.content[path], kind, where="x") == unseal(before[path], kind, where="x")
                assert seal(unseal(store.content[path], kind, where="x")) == before[path]
    assert sum(refused.values()) > ROUNDS * 0.9, refused
