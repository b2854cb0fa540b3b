"""Signed manifests: OpenSSH checks ours, we check OpenSSH's, and nothing else passes."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key

from kops_py.backup import manifest as layout
from kops_py.backup.catalogue import Catalogue, State
from kops_py.backup.documents import seal
from kops_py.backup.manifest import Manifest, PartKind, ProofKind
from kops_py.backup.new import NewBackup, is_alive
from kops_py.backup.proving import check_stored, proof_of, restorable
from kops_py.backup.retention import decide
from kops_py.backup.signing import NAMESPACE, check_trusted, sign, signer
from kops_py.model.backup import RetentionPolicy, SigningSpec
from kops_py.model.errors import ConfigError, DamagedError
from kops_py.model.ssh_key import parse_public_key
from tests.fakes.stores import ME, RESTORED, SOURCE, Clock, MemoryStore, pieces, snapshot, spec_of

MESSAGE = b'{"id": "x"}\n'


def ssh_text(key: object) -> str:
    own = (serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption())
    return key.private_bytes(*own).decode().strip()  # type: ignore[attr-defined, no-any-return]


def key_pair() -> tuple[str, str]:
    """A private key as its file holds it, and the public one without a comment."""
    key = Ed25519PrivateKey.generate()
    public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    return ssh_text(key), public.decode()


PRIVATE, PUBLIC = key_pair()
OTHER_PRIVATE, OTHER_PUBLIC = key_pair()


def test_a_signature_tells_its_signer_and_any_change_is_seen() -> None:
    made = sign(MESSAGE, PRIVATE)
    assert signer(MESSAGE, made, where="x") == PUBLIC
    assert parse_public_key(f"{PUBLIC} me@here") == PUBLIC
    wrong = [(MESSAGE + b" ", made), (MESSAGE, made[:-1]), (MESSAGE, b""), (MESSAGE, made + b"x"), (MESSAGE, b"\xff")]
    wrong += [(MESSAGE, made[:at] + bytes([made[at] ^ 1]) + made[at + 1 :]) for at in range(0, len(made), 3)]
    for message, signature in wrong:
        with pytest.raises(DamagedError, match="not that of the manifest"):
            signer(message, signature, where="x")


@pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="needs OpenSSH's ssh-keygen")
def test_openssh_checks_ours_and_we_check_openssh(tmp_path: Path) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "me@here", "-f", tmp_path / "key"], check=True)
    private, public = (tmp_path / "key").read_text().strip(), parse_public_key((tmp_path / "key.pub").read_text())
    check_trusted(private, [public])
    (tmp_path / "signers").write_text(f"kops-py {public}\n")
    (tmp_path / "m.sig").write_bytes(sign(MESSAGE, private))
    verify = ["ssh-keygen", "-Y", "verify", "-f", "signers", "-I", "kops-py", "-n", NAMESPACE, "-s", "m.sig"]
    subprocess.run(verify, cwd=tmp_path, input=MESSAGE, check=True, capture_output=True)
    assert subprocess.run(verify, cwd=tmp_path, input=b"other", capture_output=True).returncode != 0
    (tmp_path / "n").write_bytes(MESSAGE)
    for purpose, good in ((NAMESPACE, True), ("git", False)):
        (tmp_path / "n.sig").unlink(missing_ok=True)
        theirs = ["ssh-keygen", "-q", "-Y", "sign", "-f", "key", "-n", purpose, "n"]
        subprocess.run(theirs, cwd=tmp_path, check=True, capture_output=True)
        if good:
            assert signer(MESSAGE, (tmp_path / "n.sig").read_bytes(), where="x") == public
        else:
            with pytest.raises(DamagedError, match="not that of the manifest") as caught:
                signer(MESSAGE, (tmp_path / "n.sig").read_bytes(), where="x")
            assert "something else" in caught.value.why


@pytest.mark.parametrize("text", ["", "nonsense", ssh_text(generate_private_key(65537, 2048))])
def test_what_cannot_sign_is_said_without_showing_it(text: str) -> None:
    for attempt in (lambda: sign(MESSAGE, text), lambda: check_trusted(text, [PUBLIC])):
        with pytest.raises(ConfigError) as caught:
            attempt()
        assert "ssh-keygen -t ed25519" in caught.value.hint
        assert not text or text not in f"{caught.value}{caught.value.hint}"


def test_a_key_that_is_not_trusted_makes_nothing() -> None:
    with pytest.raises(ConfigError, match="not trusted"):
        check_trusted(PRIVATE, [OTHER_PUBLIC])


def opened(store: MemoryStore, clock: Clock, *trusted: str) -> Catalogue:
    return Catalogue(store, "prod", me=ME, clock=clock, is_alive=is_alive, trusted=trusted)


def make(catalogue: Catalogue, clock: Clock, private: str | None) -> Manifest:
    spec = replace(spec_of(), signing=SigningSpec((PUBLIC,) if private else ()))
    new = NewBackup([catalogue], spec, recipients=(), me=ME, clock=clock, signing_key=private)
    new.begin()
    new.add(PartKind.SNAPSHOT, "cp1", pieces(snapshot()))
    manifest = new.finish(SOURCE)
    stored = check_stored(catalogue, manifest)
    catalogue.add_proof(proof_of(manifest, ProofKind.RESTORE, stored, me=ME, at=clock(), restored=RESTORED))
    return manifest


def test_only_what_is_signed_by_a_trusted_key_is_good() -> None:
    store, clock = MemoryStore(), Clock()
    catalogue = opened(store, clock, PUBLIC)
    unsigned, signed, foreign = (make(catalogue, clock, private) for private in (None, PRIVATE, OTHER_PRIVATE))
    states = {e.id: e.state for e in catalogue.entries()}
    assert states == {unsigned.id: State.UNSIGNED, signed.id: State.GOOD, foreign.id: State.UNSIGNED}
    for one, why in ((unsigned, "not signed"), (foreign, OTHER_PUBLIC)):
        entry = catalogue.entry(one.id)
        assert why in entry.why
        with pytest.raises(DamagedError, match="is unsigned and is not restored"):
            restorable(entry)
    assert [d.keep for d in decide(catalogue.entries(), RetentionPolicy(keep_last=1), clock())] == [True] * 3
    # Without trusted keys all of them are as they were before there were signatures.
    assert {e.state for e in opened(store, clock).entries()} == {State.GOOD}
    both = opened(store, clock, PUBLIC, OTHER_PUBLIC)
    assert [e.state for e in both.entries()] == [State.GOOD, State.GOOD, State.UNSIGNED]
    catalogue.delete(signed.id, "test")
    assert not any(signed.id in path for path in store.content)


def test_the_signature_of_another_manifest_is_damage() -> None:
    store, clock = MemoryStore(), Clock()
    catalogue = opened(store, clock, PUBLIC)
    one, other = make(catalogue, clock, PRIVATE), make(catalogue, clock, PRIVATE)
    path = catalogue.path(one.id, layout.SIGNATURE)
    store.content[path] = store.content[catalogue.path(other.id, layout.SIGNATURE)]
    entry = catalogue.entry(one.id)
    assert (entry.state, "signature" in entry.why) == (State.DAMAGED, True)


def test_a_manifest_written_anew_loses_signature_and_proofs() -> None:
    store, clock = MemoryStore(), Clock()
    catalogue = opened(store, clock, PUBLIC)
    manifest = make(catalogue, clock, PRIVATE)
    edited = replace(manifest, source=replace(SOURCE, kubernetes_version="v1.99.0"))
    store.content[catalogue.path(manifest.id, layout.MANIFEST)] = seal(edited)
    assert "a proof is there of another manifest" in catalogue.entry(manifest.id).why
    with pytest.raises(DamagedError, match="not the one that was written"):
        check_stored(catalogue, manifest)
    for path in [p for p in store.content if layout.is_proof(p.rpartition("/")[2])]:
        del store.content[path]
    assert "signature is not that of the manifest" in catalogue.entry(manifest.id).why
    assert opened(store, clock).entry(manifest.id).state is State.STORED, "and nobody can tell without a key"


def test_a_signature_wanted_and_no_key_is_refused_before_anything_is_written() -> None:
    spec = replace(spec_of(), signing=SigningSpec((PUBLIC,)))
    with pytest.raises(ValueError, match="nobody would trust"):
        NewBackup([opened(MemoryStore(), Clock(), PUBLIC)], spec, recipients=(), me=ME, clock=Clock())
