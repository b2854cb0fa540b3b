"""Ways to damage a backup: what disks and people do, and what a forger does who may write to the store.

A forger knows the format and the public keys, and makes everything fit that they can: hashes, digests, labels, proofs.
What they have not: the private key of age, and the key that signs.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from dataclasses import dataclass, replace

from kops_py.backup import manifest as layout
from kops_py.backup.documents import seal, unseal
from kops_py.backup.manifest import Manifest, Proof
from kops_py.backup.stream import Label, pack, unpack

Files = dict[str, bytes]
"""The objects of one backup's folder by name."""
PAGE = 4096


@dataclass(frozen=True)
class Given:
    """What somebody finds who wants to do harm: one backup, another of the same cluster, and one of another cluster."""

    own: Files
    older: Files
    foreign: Files
    foreign_plain: bytes
    plain: bytes | None
    """The snapshot's plain bytes; None when it is encrypted."""
    recipients: tuple[str, ...]

    @property
    def manifest(self) -> Manifest:
        return read_manifest(self.own)

    @property
    def part(self) -> str:
        return self.manifest.snapshot.file


Damage = Callable[[random.Random, Given], Files]


def read_manifest(files: Files) -> Manifest:
    return unseal(files[layout.MANIFEST], Manifest, where="test")


def one_of(draw: random.Random, given: Given) -> str:
    """The name of an object that matters: mostly the snapshot."""
    if draw.random() < 0.5:
        return given.part
    return draw.choice(sorted(n for n in given.own if n != layout.BEGUN))


# ------------------------------------------------------------------ what disks, transports and people do
def bit_flip(draw: random.Random, given: Given) -> Files:
    name = one_of(draw, given)
    return {**given.own, name: flipped(draw, given.own[name])}


def flipped(draw: random.Random, data: bytes) -> bytes:
    at = draw.randrange(len(data))
    return data[:at] + bytes([data[at] ^ 1 << draw.randrange(8)]) + data[at + 1 :]


def cut(draw: random.Random, given: Given) -> Files:
    name = one_of(draw, given)
    return {**given.own, name: given.own[name][: draw.randrange(len(given.own[name]) - 1)]}


def block_of_zeros(draw: random.Random, given: Given) -> Files:
    data = given.own[given.part]
    size = draw.choice((512, PAGE, 65536))
    at = draw.randrange(max(1, len(data) - size))
    return {**given.own, given.part: data[:at] + bytes(len(data[at : at + size])) + data[at + size :]}


def bytes_inserted_or_lost(draw: random.Random, given: Given) -> Files:
    name = one_of(draw, given)
    data, at = given.own[name], draw.randrange(len(given.own[name]) - 1)
    more = draw.randbytes(draw.randrange(1, 9)) if draw.random() < 0.5 else b""
    return {**given.own, name: data[:at] + more + data[at + (0 if more else draw.randrange(1, 9)) :]}


def part_removed(draw: random.Random, given: Given) -> Files:
    name = draw.choice([p.file for p in given.manifest.parts] + [layout.MANIFEST])
    return {n: d for n, d in given.own.items() if n != name}


def parts_swapped(draw: random.Random, given: Given) -> Files:
    one, two = draw.sample([p.file for p in given.manifest.parts], 2)
    return {**given.own, one: given.own[two], two: given.own[one]}


def object_of_an_older_backup(draw: random.Random, given: Given) -> Files:
    name = draw.choice(sorted(n for n in given.own if n in given.older and n != layout.BEGUN))
    return {**given.own, name: given.older[name]}


def object_of_another_cluster(draw: random.Random, given: Given) -> Files:
    name = draw.choice(sorted(n for n in given.own if n in given.foreign and n != layout.BEGUN))
    return {**given.own, name: given.foreign[name]}


def manifest_edited(draw: random.Random, given: Given) -> Files:
    """An editor: a word is another, the digest is forgotten."""
    words = [b'"v1.20.2"', b'"3.4.23"', b'"m1"', given.manifest.source.cluster_id.encode(), b'"snapshot"']
    word = draw.choice([w for w in words if w in given.own[layout.MANIFEST]])
    return {**given.own, layout.MANIFEST: given.own[layout.MANIFEST].replace(word, b'"other"', 1)}


NAIVE: tuple[Damage, ...] = (
    bit_flip, cut, block_of_zeros, bytes_inserted_or_lost, part_removed, parts_swapped, object_of_an_older_backup,
    object_of_another_cluster, manifest_edited,
)  # fmt: skip


# ------------------------------------------------------------------ what a forger does
def with_manifest(draw: random.Random, files: Files, manifest: Manifest) -> Files:
    """Put another manifest in place and make all proofs prove it (or take them away); the signature stays as it is."""
    made = {n: d for n, d in files.items() if not layout.is_proof(n)}
    made[layout.MANIFEST] = seal(manifest)
    if draw.random() < 0.5:
        return made
    hashes = {p.file: p.stored_sha256 for p in manifest.parts}
    for name, data in files.items():
        if layout.is_proof(name):
            proof = unseal(data, Proof, where="test")
            made[name] = seal(replace(proof, id=manifest.id, manifest=manifest.digest, stored=hashes))
    return made


def with_snapshot(draw: random.Random, given: Given, plain: bytes, source: Manifest | None = None) -> Files:
    """Pack other plain bytes as the snapshot of this backup, with everything around them as it would be."""
    manifest, stored = given.manifest, bytearray()
    part = manifest.snapshot
    label = Label(manifest.id, manifest.cluster, str(part.kind), part.host)
    measured = pack([plain], stored.extend, label, recipients=given.recipients, is_snapshot=False)
    new = replace(
        part,
        plain_size_bytes=measured.plain_size_bytes, plain_sha256=measured.plain_sha256,
        stored_size_bytes=measured.stored_size_bytes, stored_sha256=measured.stored_sha256,
    )  # fmt: skip
    parts = tuple(new if p is part else p for p in manifest.parts)
    edited = replace(manifest, parts=parts, source=source.source if source else manifest.source)
    return with_manifest(draw, {**given.own, part.file: bytes(stored)}, edited)


def with_hash(body: bytes) -> bytes:
    """What a forger can always do: etcd's own hash behind other bytes."""
    return body + hashlib.sha256(body).digest()


def manifest_written_anew(draw: random.Random, given: Given) -> Files:
    manifest = given.manifest
    source = manifest.source
    edited = draw.choice(
        (
            replace(manifest, source=replace(source, kubernetes_version="v1.19.1")),
            replace(manifest, source=replace(source, cluster_id="1234567890abcdef")),
            replace(manifest, source=replace(source, revision=1)),
            replace(manifest, source=replace(source, revision=source.revision + 1000)),
            replace(manifest, source=replace(source, etcd_version="3.5.16")),
            replace(manifest, source=replace(source, member_id="1234567890abcdef")),
            replace(manifest, by=replace(manifest.by, user="somebody")),
            replace(manifest, parts=manifest.parts[:1]),
        )
    )
    return with_manifest(draw, given.own, edited)


def value_changed_inside(draw: random.Random, given: Given) -> Files:
    """A bit of the database, and every hash around it made anew."""
    assert given.plain is not None
    return with_snapshot(draw, given, with_hash(flipped(draw, given.plain[:-32])))


def pages_swapped_inside(draw: random.Random, given: Given) -> Files:
    assert given.plain is not None
    return with_snapshot(draw, given, with_hash(pages_swapped(draw, given.plain[:-32])))


def pages_swapped(draw: random.Random, body: bytes) -> bytes:
    one, two = sorted(draw.sample(range(len(body) // PAGE), 2))
    a, b = (body[n * PAGE : (n + 1) * PAGE] for n in (one, two))
    return body[: one * PAGE] + b + body[(one + 1) * PAGE : two * PAGE] + a + body[(two + 1) * PAGE :]


def end_cut_inside(draw: random.Random, given: Given) -> Files:
    assert given.plain is not None
    return with_snapshot(draw, given, with_hash(given.plain[: PAGE * draw.randrange(3, len(given.plain) // PAGE)]))


def snapshot_of_another_cluster(draw: random.Random, given: Given) -> Files:
    source = read_manifest(given.foreign) if draw.random() < 0.5 else None
    return with_snapshot(draw, given, given.foreign_plain, source)


def older_backup_as_this_one(draw: random.Random, given: Given) -> Files:
    """The whole folder of an older backup under this one's name; inside it the labels are the older one's."""
    manifest = read_manifest(given.older)
    made = with_manifest(draw, given.older, replace(manifest, id=given.manifest.id))
    return {**made, layout.BEGUN: given.own[layout.BEGUN]}


def older_backup_relabelled(draw: random.Random, given: Given) -> Files:
    """The same in a plain store, labels and all."""
    plain = bytearray()
    older = read_manifest(given.older)
    part, own = older.snapshot, given.manifest
    unpack([given.older[part.file]], plain.extend, Label(older.id, older.cluster, str(part.kind), part.host),
           identities=(), encrypted=False, most_bytes=part.plain_size_bytes, where="test")  # fmt: skip
    return with_snapshot(draw, given, bytes(plain), replace(older, id=own.id))


FORGED: tuple[Damage, ...] = (manifest_written_anew, snapshot_of_another_cluster, older_backup_as_this_one)
FORGED_PLAIN: tuple[Damage, ...] = (
    value_changed_inside, pages_swapped_inside, end_cut_inside, older_backup_relabelled,
)  # fmt: skip
"""Only where the bytes can be read."""


# ------------------------------------------------------------------ a snapshot file alone, as etcd's restore gets it
def raw_flip(draw: random.Random, plain: bytes) -> bytes:
    return flipped(draw, plain)


def raw_cut(draw: random.Random, plain: bytes) -> bytes:
    at = draw.randrange(1, len(plain))
    return plain[: draw.choice((at, at // 512 * 512 + 32, max(1, at // PAGE) * PAGE))]


def raw_zeros(draw: random.Random, plain: bytes) -> bytes:
    at = draw.randrange(len(plain) // PAGE) * PAGE
    return plain[:at] + (bytes(PAGE) if any(plain[at : at + PAGE]) else b"\1" * PAGE) + plain[at + PAGE :]


def raw_pages(draw: random.Random, plain: bytes) -> bytes:
    return pages_swapped(draw, plain[:-32]) + plain[-32:]


RAW = (raw_flip, raw_cut, raw_zeros, raw_pages)
