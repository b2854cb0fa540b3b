"""What the operator asked for about backups: the section ``backup`` of cluster.yaml, checked."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from kops_py.model.secret import SecretRef


class Verify(StrEnum):
    """How far a new backup is proven in the run that makes it; only ``restore`` makes it a good one."""

    NONE = "none"
    CHECKSUM = "checksum"
    RESTORE = "restore"


@dataclass(frozen=True, slots=True)
class DirectoryStoreSpec:
    """A folder on the machine kops-py runs on; it may lie on NFS. ``mount`` is what must be mounted for it."""

    name: str
    path: Path
    mount: Path | None = None

    def __str__(self) -> str:
        return f"{self.name} ({self.path})"


@dataclass(frozen=True, slots=True)
class S3StoreSpec:
    """A bucket of an S3-compatible server.

    ``endpoint`` None is Amazon's of the region. Without keys the credentials are what the machine's environment
    offers (AWS_ACCESS_KEY_ID and so on, an instance's role). ``ca`` is a file with the server's authorities.
    """

    name: str
    bucket: str
    prefix: str = ""
    endpoint: str | None = None
    region: str = "us-east-1"
    path_style: bool = True
    access_key: SecretRef | None = None
    secret_key: SecretRef | None = None
    session_token: SecretRef | None = None
    ca: Path | None = None

    def __str__(self) -> str:
        return f"{self.name} (s3://{'/'.join(filter(None, (self.bucket, self.prefix)))})"


StoreSpec = DirectoryStoreSpec | S3StoreSpec


@dataclass(frozen=True, slots=True)
class EncryptionSpec:
    """Public keys that backups are encrypted to.

    ``required`` False allows a backup without any key, in the clear. ``identity`` is the private key, only where
    this machine is to prove or restore what is stored.
    """

    recipients: tuple[str, ...] = ()
    required: bool = True
    identity: SecretRef | None = None


@dataclass(frozen=True, slots=True)
class SigningSpec:
    """Who may have made a backup: Ed25519 public keys (``ssh-ed25519 ...``); none: whoever may write to a store.

    ``private_key`` signs what is made here; only where backups are made.
    """

    trusted: tuple[str, ...] = ()
    private_key: SecretRef | None = None


@dataclass(frozen=True, slots=True)
class RetentionPolicy:
    """Which good backups are kept: the newest ``keep_last``, and the newest of each of the last so many periods.

    What is younger than ``minimum_age_s`` seconds, or has a keep mark, is kept in any case. Periods are those of UTC.
    """

    keep_last: int = 7
    hourly: int = 0
    daily: int = 7
    weekly: int = 4
    monthly: int = 6
    minimum_age_s: int = 86400


@dataclass(frozen=True, slots=True)
class BackupSpec:
    """Where backups go, to whom they are encrypted, how they are proven and how long they are kept.

    ``store_timeout_s``: a store that takes or gives nothing for so many seconds has failed.
    """

    stores: tuple[StoreSpec, ...]
    encryption: EncryptionSpec = EncryptionSpec()
    signing: SigningSpec = SigningSpec()
    retention: RetentionPolicy = RetentionPolicy()
    verify: Verify = Verify.RESTORE
    store_timeout_s: float = 60.0
    webhook: str | SecretRef | None = None
    """URL that is told when a backup fails or is too old; where it holds a secret, a reference to it."""
