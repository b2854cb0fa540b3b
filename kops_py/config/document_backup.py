"""The section backup of cluster.yaml: stores, encryption, retention."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from kops_py.config.document_parts import Model, Seconds, Text


class DirectoryStore(Model):
    """A folder on the machine that runs kops-py; it may lie on NFS."""

    path: Text = Field(
        description="The folder; made when it is missing, its parent is not.", examples=["/srv/backup/kubernetes"]
    )
    mount: Text | None = Field(
        None,
        description="Mount point that path lies on. While nothing is mounted there, the store is refused.",
        examples=["/srv/backup"],
    )


_REFERENCE = "^(env|file|cmd):"


class S3Store(Model):
    """A bucket of an S3-compatible server that supports conditional writes (If-None-Match)."""

    bucket: Text = Field(
        description="The bucket; it must be there.",
        examples=["etcd-backups"],
        pattern="^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$",
    )
    prefix: str = Field(
        "",
        description="Beginning of all names in it.",
        examples=["kubernetes"],
        pattern="^([A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)*)?$",
        max_length=512,
    )
    endpoint: Text | None = Field(
        None, description="URL of the server. Not given: Amazon's of the region.", examples=["https://s3.example.com"]
    )
    region: Text = Field("us-east-1", description="Region.", examples=["eu-central-1"], pattern="^[a-z0-9-]+$")
    path_style: bool = Field(
        True, description="Whether the bucket stands in the path of the URL, not in its host name.", examples=[True]
    )
    access_key: Text | None = Field(
        None,
        description="Reference to the access key. Not given: what the machine's environment offers (AWS_ACCESS_KEY_ID, "
        "an instance's role).",
        examples=["env:BACKUP_ACCESS_KEY"],
        pattern=_REFERENCE,
    )
    secret_key: Text | None = Field(
        None, description="Reference to the secret key.", examples=["file:/etc/kops-py/s3.key"], pattern=_REFERENCE
    )
    session_token: Text | None = Field(
        None, description="Reference to a session token.", examples=["env:AWS_SESSION_TOKEN"], pattern=_REFERENCE
    )
    ca: Text | None = Field(
        None, description="File with the authorities of the server's certificate.", examples=["./s3-ca.pem"]
    )


class BackupStore(Model):
    """Where backups go: exactly one of directory, s3."""

    name: Text = Field(description="Name of the store, a DNS label.", examples=["offsite"], max_length=63)
    directory: DirectoryStore | None = Field(
        None, description="A folder, also on NFS.", examples=["{path: /srv/backup}"]
    )
    s3: S3Store | None = Field(
        None,
        description="A bucket.",
        examples=["{bucket: etcd-backups, endpoint: 'https://s3.example.com', accessKey: 'env:A', secretKey: 'env:S'}"],
    )


class Encryption(Model):
    """To whom backups are encrypted (age). Only public keys stand here; who makes backups cannot read them."""

    recipients: list[Text] = Field(
        [],
        description="Public keys of age (age1...) or SSH.",
        examples=["[age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p]"],
    )
    file: Text | None = Field(
        None, description="File with public keys, one a line, besides recipients.", examples=["./recipients.txt"]
    )
    required: bool = Field(
        True,
        description="Refuse a backup without a public key. false stores every secret of the cluster in the clear.",
        examples=[True],
    )
    identity: Text | None = Field(
        None,
        description="Reference to the private key (an identity file of age-keygen), only on a machine that is to prove "
        "stored backups or restore them.",
        examples=["file:/root/backup-identity.txt"],
        pattern=_REFERENCE,
    )


class Signing(Model):
    """Who may make backups. Without it, whoever may write to a store can put a backup of their own there."""

    trusted: list[Text] = Field(
        min_length=1,
        max_length=16,
        description="Public keys of SSH (ssh-ed25519). Only what one of them signed is good and is restored.",
        examples=["[ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGPkyQsZ1OZpBGkAWuWIUn2qWlPa7DUHMVRFKyGbIY9S]"],
    )
    private_key: Text | None = Field(
        None,
        description="Reference to the private key (ssh-keygen -t ed25519 -N ''), only on a machine that makes backups.",
        examples=["file:/etc/kops-py/sign.key"],
        pattern=_REFERENCE,
    )


class Retention(Model):
    """Which good backups are kept. The newest good one always is, and nothing that is not good counts."""

    keep_last: int = Field(7, ge=1, le=10000, description="The newest so many.", examples=[7])
    hourly: int = Field(0, ge=0, le=10000, description="The newest of each of the last so many hours.", examples=[24])
    daily: int = Field(7, ge=0, le=10000, description="The newest of each of the last so many days.", examples=[7])
    weekly: int = Field(4, ge=0, le=10000, description="The newest of each of the last so many weeks.", examples=[4])
    monthly: int = Field(6, ge=0, le=10000, description="The newest of each of the last so many months.", examples=[6])
    minimum_age: Text = Field(
        "1d",
        description="What is younger is never deleted; a number with its unit (s, m, h, d).",
        examples=["1d"],
        pattern="^([0-9]{1,5}d)?([0-9]{1,5}h)?([0-9]{1,5}m)?([0-9]{1,5}s)?$",
    )


class Backup(Model):
    """Backups of etcd and of what is not in etcd. See docs/backup-stores.md."""

    stores: list[BackupStore] = Field(
        min_length=1,
        max_length=16,
        description="Where each backup goes: to all of them at once.",
        examples=["[{name: local, directory: {path: /srv/backup}}]"],
    )
    encryption: Encryption = Field(default_factory=lambda: Encryption.model_validate({}))
    signing: Signing | None = Field(
        None,
        description="Signatures of backups.",
        examples=["{trusted: [ssh-ed25519 AAAA...], privateKey: 'file:/etc/kops-py/sign.key'}"],
    )
    retention: Retention = Field(default_factory=lambda: Retention.model_validate({}))
    verify: Literal["none", "checksum", "restore"] = Field(
        "restore",
        description="How far a new backup is proven at once. restore: restored into a scratch etcd and read; only that "
        "makes it a good one. checksum: the stored bytes are read back. none: later, by kops-py etcd verify.",
        examples=["restore"],
    )
    store_timeout_seconds: Seconds = Field(
        60, description="A store that takes or gives nothing for so long has failed.", examples=[60]
    )
    webhook: Text | None = Field(
        None,
        description="URL that gets a JSON message (POST) when a backup fails, or kops-py etcd check finds none that is "
        "young enough. Where the URL is itself a secret, a reference to it: env:NAME, file:PATH or cmd:COMMAND.",
        examples=["https://hooks.example.com/backup"],
    )
