"""The section ``backup`` of cluster.yaml."""

import textwrap
from pathlib import Path

import pyrage
import pytest

from kops_py.config.cluster import read_cluster
from kops_py.model.backup import BackupSpec, DirectoryStoreSpec, S3StoreSpec, SigningSpec, Verify
from kops_py.model.errors import ConfigError
from kops_py.model.secret import SecretRef

IDENTITY = pyrage.x25519.Identity.generate()
KEY = str(IDENTITY.to_public())
LEAST = """\
apiVersion: kops-py/v1
kind: Cluster
metadata: {name: x}
kubernetes: {version: 1.31.2}
network: {cni: {type: none}}
"""


def read(folder: Path, section: str) -> BackupSpec:
    path = folder / "cluster.yaml"
    path.write_text(LEAST + "backup:\n" + textwrap.indent(textwrap.dedent(section), "  "))
    backup = read_cluster(path).backup
    assert backup is not None
    return backup


def refused(folder: Path, section: str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        read(folder, section)
    assert not caught.value.others
    assert caught.value.where.startswith(str(folder / "cluster.yaml:"))
    return caught.value


def test_everything_is_read(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("")
    (tmp_path / "keys.txt").write_text(f"# a comment\n\n{KEY}\n")
    backup = read(
        tmp_path,
        """\
        stores:
          - name: nas
            directory: {path: mnt/backups, mount: mnt}
          - name: offsite
            s3:
              bucket: etcd-backups
              prefix: a/b
              endpoint: https://s3.example.com/
              region: eu-central-1
              pathStyle: false
              accessKey: env:KEY
              secretKey: file:s3.key
              sessionToken: "cmd:token print"
              ca: ca.pem
        encryption: {file: keys.txt, identity: file:identity.txt}
        retention: {keepLast: 3, hourly: 24, daily: 1, weekly: 2, monthly: 0, minimumAge: 6h}
        verify: checksum
        storeTimeoutSeconds: 5
        """,
    )
    nas, offsite = backup.stores
    assert nas == DirectoryStoreSpec("nas", tmp_path / "mnt" / "backups", tmp_path / "mnt")
    assert offsite == S3StoreSpec(
        name="offsite",
        bucket="etcd-backups",
        prefix="a/b",
        endpoint="https://s3.example.com",
        region="eu-central-1",
        path_style=False,
        access_key=SecretRef("env", "KEY"),
        secret_key=SecretRef("file", str(tmp_path / "s3.key")),
        session_token=SecretRef("cmd", "token print"),
        ca=tmp_path / "ca.pem",
    )
    assert backup.encryption.recipients == (KEY,)
    assert backup.encryption.identity == SecretRef("file", str(tmp_path / "identity.txt"))
    policy = backup.retention
    assert (policy.keep_last, policy.hourly, policy.daily, policy.weekly, policy.monthly) == (3, 24, 1, 2, 0)
    assert policy.minimum_age_s == 6 * 3600
    assert (backup.verify, backup.store_timeout_s) == (Verify.CHECKSUM, 5.0)


def test_the_defaults_prove_by_a_restore_and_want_a_key(tmp_path: Path) -> None:
    section = f"stores: [{{name: a, directory: {{path: /srv/x}}}}]\nencryption: {{recipients: ['{KEY}']}}\n"
    backup = read(tmp_path, section)
    assert backup.verify is Verify.RESTORE
    assert backup.encryption.required
    assert backup.retention.minimum_age_s == 86400


def test_without_the_section_there_is_none(tmp_path: Path) -> None:
    (tmp_path / "cluster.yaml").write_text(LEAST)
    assert read_cluster(tmp_path / "cluster.yaml").backup is None


GOOD = f"encryption: {{recipients: ['{KEY}']}}\n"
STORE = "stores: [{name: a, directory: {path: /srv/x}}]\n"


@pytest.mark.parametrize(
    ("section", "words"),
    [
        (GOOD, "stores is missing"),
        ("stores: []\n" + GOOD, "stores is"),
        ("stores: [{name: a}]\n" + GOOD, "neither directory nor s3"),
        ("stores: [{name: a, directory: {path: /x}, s3: {bucket: abc}}]\n" + GOOD, "are both given"),
        ("stores: [{name: a, directory: {path: /x, mount: /y}}]\n" + GOOD, "does not lie below"),
        ("stores: [{name: A b, directory: {path: /x}}]\n" + GOOD, "not a DNS label"),
        ("stores: [{name: a, directory: {path: /x}}, {name: a, directory: {path: /y}}]\n" + GOOD, "two stores"),
        ("stores: [{name: a, s3: {bucket: abc, accessKey: 'env:A'}}]\n" + GOOD, "only one of accessKey"),
        ("stores: [{name: a, s3: {bucket: abc, endpoint: 's3.example.com'}}]\n" + GOOD, "endpoint is"),
        ("stores: [{name: a, s3: {bucket: ABC_}}]\n" + GOOD, "bucket is"),
        ("stores: [{name: a, s3: {bucket: abc, ca: none.pem}}]\n" + GOOD, "there is no file"),
        (STORE, "no public key"),
        (STORE + "encryption: {recipients: [age1abc]}\n", "not a public key"),
        (STORE + "encryption: {file: none.txt, required: false}\n", "cannot be read"),
        (STORE + GOOD + "retention: {keepLast: 0}\n", "keepLast is"),
        (STORE + GOOD + "retention: {minimumAge: '0s'}\n", "not a length of time"),
        (STORE + GOOD + "verify: maybe\n", "verify is"),
        (STORE + f"encryption: {{recipients: {KEY}}}\n", "a list of public keys"),
    ],
    ids=lambda value: value if " " in value and len(value) < 40 and "\n" not in value else "",
)
def test_what_is_refused(tmp_path: Path, section: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, section)
    assert words in " ".join(str(e) for e in (caught.value, *caught.value.others))


def test_an_unknown_key_of_a_store_is_guessed(tmp_path: Path) -> None:
    error = refused(tmp_path, "stores: [{name: a, s3: {bucket: abc, pathstyle: true}}]\n" + GOOD)
    assert "pathStyle" in error.hint


@pytest.mark.parametrize(
    "section",
    [
        "stores: [{name: a, s3: {bucket: abc, accessKey: hunter2, secretKey: 'env:X'}}]\n" + GOOD,
        "stores: [{name: a, s3: {bucket: abc, accessKey: 'env:X', secretKey: [hunter2]}}]\n" + GOOD,
        STORE + "encryption: {recipients: ['" + KEY + "'], identity: hunter2}\n",
        STORE + "encryption: {recipients: [hunter2]}\n",
        STORE + "encryption: {recipients: hunter2}\n",
        STORE + f"encryption: {{recipients: ['{IDENTITY}']}}\n",
    ],
    ids=range(6),
)
def test_a_misplaced_secret_is_never_shown(tmp_path: Path, section: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, section)
    for error in (caught.value, *caught.value.others):
        text = f"{error} {error.hint}"
        assert "hunter2" not in text
        assert str(IDENTITY)[20:] not in text


def test_the_example_of_the_page_is_accepted(tmp_path: Path) -> None:
    page = Path(__file__).parents[3] / "docs" / "backup-stores.md"
    example = page.read_text().split("```yaml\n")[1].split("```")[0].replace("age1...", KEY)
    (tmp_path / "cluster.yaml").write_text(LEAST + example)
    backup = read_cluster(tmp_path / "cluster.yaml").backup
    assert backup is not None
    assert [store.name for store in backup.stores] == ["nas", "offsite"]


STORES = "stores: [{name: a, directory: {path: /srv/a}}]\nencryption: {required: false}\n"
SIGNER = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGPkyQsZ1OZpBGkAWuWIUn2qWlPa7DUHMVRFKyGbIY9S"


def test_who_may_sign(tmp_path: Path) -> None:
    assert read(tmp_path, STORES).signing == SigningSpec()
    text = f"signing: {{trusted: ['{SIGNER} me@here', '{SIGNER}'], privateKey: 'file:sign.key'}}\n"
    found = read(tmp_path, STORES + text).signing
    assert found == SigningSpec((SIGNER,), SecretRef("file", str(tmp_path / "sign.key")))


@pytest.mark.parametrize(
    "key",
    [
        "-----BEGIN OPENSSH PRIVATE KEY-----",
        "ssh-rsa AAAAB3NzaC1yc2E=",
        SIGNER[:-1],
        SIGNER[:-4],
        SIGNER[:-8],
    ],
)
def test_what_is_no_key_to_trust_is_said_without_showing_it(tmp_path: Path, key: str) -> None:
    error = refused(tmp_path, f"{STORES}signing: {{trusted: ['{key}']}}\n")
    assert "not a public key of SSH that can sign" in error.what
    assert "ssh-keygen -t ed25519" in error.hint
    assert key not in f"{error}{error.hint}"


def test_a_private_key_in_the_place_of_its_reference_is_not_shown(tmp_path: Path) -> None:
    secret = "b3BlbnNzaC1rZXktdjEAAAAABG5vbmU"
    error = refused(tmp_path, f"{STORES}signing: {{trusted: ['{SIGNER}'], privateKey: {secret}}}\n")
    assert "takes a reference to a secret only" in error.what
    assert secret not in f"{error}{error.hint}"
    error = refused(tmp_path, f"{STORES}signing: {{trusted: {secret}}}\n")
    assert secret not in f"{error}{error.hint}"
