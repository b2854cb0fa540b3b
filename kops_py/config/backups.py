"""The section ``backup`` of cluster.yaml → BackupSpec."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from kops_py.config import names
from kops_py.config.problems import Problems, show
from kops_py.config.yamlfile import Node
from kops_py.model.backup import (
    BackupSpec,
    DirectoryStoreSpec,
    EncryptionSpec,
    RetentionPolicy,
    S3StoreSpec,
    SigningSpec,
    StoreSpec,
    Verify,
)
from kops_py.model.duration import parse_duration
from kops_py.model.secret import SecretRef
from kops_py.model.ssh_key import parse_public_key

if TYPE_CHECKING:
    from kops_py.config.document_backup import Backup, DirectoryStore, S3Store

Path_ = tuple[str | int, ...]
_MOST_KEYS_BYTES = 256 * 1024
_SSH_KINDS = ("ssh-ed25519 ", "ssh-rsa ")


def convert_backup(given: Backup, folder: Path, root: Node, problems: Problems) -> BackupSpec | None:
    """Return what the section asks for, noting every mistake; paths in it are relative to ``folder``."""
    return _Converter(given, folder, root, problems).convert()


class _Converter:
    def __init__(self, given: Backup, folder: Path, root: Node, problems: Problems) -> None:
        self._given = given
        self._folder = folder
        self._root = root
        self._problems = problems

    def convert(self) -> BackupSpec | None:
        stores = self._stores()
        retention = self._retention()
        encryption = EncryptionSpec(
            recipients=self._recipients(),
            required=self._given.encryption.required,
            identity=self._secret(self._given.encryption.identity, ("backup", "encryption", "identity")),
        )
        return BackupSpec(
            stores=tuple(stores),
            encryption=encryption,
            signing=self._signing(),
            retention=retention,
            verify=Verify(self._given.verify),
            store_timeout_s=float(self._given.store_timeout_seconds),
            webhook=self._webhook(),
        )

    def _add(self, path: Path_, what: str, *, why: str = "", hint: str = "") -> None:
        self._problems.add(self._root.place_of(path), what, why=why, hint=hint)

    def _stores(self) -> list[StoreSpec]:
        found: list[StoreSpec] = []
        seen: set[str] = set()
        for number, store in enumerate(self._given.stores):
            path: Path_ = ("backup", "stores", number)
            if not names.is_dns_label(store.name):
                self._add((*path, "name"), f"{show(store.name)} is not a DNS label", hint="as in offsite-1")
            if store.name in seen:
                self._add((*path, "name"), f"there are two stores {show(store.name)}")
            seen.add(store.name)
            if store.directory is not None and store.s3 is None:
                found.append(self._directory(store.name, store.directory, (*path, "directory")))
            elif store.s3 is not None and store.directory is None:
                found.append(self._s3(store.name, store.s3, (*path, "s3")))
            else:
                both = "directory and s3 are both" if store.s3 is not None else "neither directory nor s3 is"
                self._add(path, f"{both} given for the store {show(store.name)}", hint="give exactly one of them")
        return found

    def _directory(self, name: str, given: DirectoryStore, path: Path_) -> DirectoryStoreSpec:
        target = self._path(given.path, (*path, "path"))
        if target.is_file():
            self._add((*path, "path"), f"{show(given.path)} is not a folder")
        mount = None if given.mount is None else self._path(given.mount, (*path, "mount"))
        if mount is not None and not target.is_relative_to(mount):
            self._add((*path, "mount"), f"{show(given.path)} does not lie below {show(given.mount)}")
        return DirectoryStoreSpec(name, target, mount)

    def _s3(self, name: str, given: S3Store, path: Path_) -> S3StoreSpec:
        if given.endpoint is not None:
            try:
                names.check_url(given.endpoint)
            except ValueError as error:
                self._add((*path, "endpoint"), f"endpoint is {show(given.endpoint)}", why=str(error))
        if (given.access_key is None) != (given.secret_key is None):
            self._add(path, "only one of accessKey and secretKey is given", hint="give both, or neither")
        ca = None
        if given.ca is not None:
            ca = self._path(given.ca, (*path, "ca"))
            if not ca.is_file():
                self._add((*path, "ca"), f"there is no file {show(given.ca)}", hint=f"relative to {self._folder}")
        return S3StoreSpec(
            name=name,
            bucket=given.bucket,
            prefix=given.prefix,
            endpoint=None if given.endpoint is None else given.endpoint.rstrip("/"),
            region=given.region,
            path_style=given.path_style,
            access_key=self._secret(given.access_key, (*path, "accessKey")),
            secret_key=self._secret(given.secret_key, (*path, "secretKey")),
            session_token=self._secret(given.session_token, (*path, "sessionToken")),
            ca=ca,
        )

    def _retention(self) -> RetentionPolicy:
        given = self._given.retention
        seconds = 0
        try:
            seconds = parse_duration(given.minimum_age).seconds
        except ValueError as error:
            self._add(("backup", "retention", "minimumAge"), "minimumAge is not a length of time", why=str(error))
        return RetentionPolicy(given.keep_last, given.hourly, given.daily, given.weekly, given.monthly, seconds)

    def _signing(self) -> SigningSpec:
        given = self._given.signing
        if given is None:
            return SigningSpec()
        trusted = []
        for number, text in enumerate(given.trusted):
            try:
                trusted.append(parse_public_key(text))
            except ValueError as error:
                # The text is never shown: it may be a private key that somebody put here by mistake.
                hint = "ssh-keygen -t ed25519 -N '' -f KEYFILE writes the public key to KEYFILE.pub"
                path = ("backup", "signing", "trusted", number)
                self._add(path, "this is not a public key of SSH that can sign", why=str(error), hint=hint)
        key = self._secret(given.private_key, ("backup", "signing", "privateKey"))
        return SigningSpec(tuple(dict.fromkeys(trusted)), key)

    def _recipients(self) -> tuple[str, ...]:
        given, keys = self._given.encryption, []
        for number, text in enumerate(given.recipients):
            keys += self._recipient(text, ("backup", "encryption", "recipients", number))
        if given.file is not None:
            path: Path_ = ("backup", "encryption", "file")
            for text in self._lines(given.file, path):
                keys += self._recipient(text, path)
        if not keys and given.required:
            self._add(
                ("backup", "encryption"),
                "there is no public key to encrypt backups to",
                why="a backup holds every secret of the cluster",
                hint="age-keygen -o KEYFILE on another machine prints one for recipients; required: false goes without",
            )
        return tuple(dict.fromkeys(keys))

    def _recipient(self, text: str, path: Path_) -> list[str]:
        # The text is never shown: it may be a private key that somebody put here by mistake.
        text = text.strip()
        if "SECRET-KEY" in text.upper() or "PRIVATE KEY" in text.upper():
            hint = "age-keygen -y KEYFILE prints the public key; keep the private one off this machine"
            self._add(path, "this is a private key; a recipient is a public one", hint=hint)
        elif not _is_recipient(text):
            self._add(path, "this is not a public key of age", hint="it begins with age1, or is an SSH public key")
        else:
            return [text]
        return []

    def _lines(self, file: str, path: Path_) -> list[str]:
        try:
            with self._path(file, path).open("rb") as stream:
                text = stream.read(_MOST_KEYS_BYTES).decode()
        except (OSError, ValueError):
            self._add(path, f"the file {show(file)} cannot be read", hint=f"relative to {self._folder}")
            return []
        lines = [line.strip() for line in text.splitlines()]
        return [line for line in lines if line and not line.startswith("#")]

    def _webhook(self) -> str | SecretRef | None:
        text, path = self._given.webhook, ("backup", "webhook")
        if text is None or not text.startswith(("https://", "http://")):
            return self._secret(text, path)
        try:
            names.check_url(text)
        except ValueError as error:
            self._add(path, "webhook is no URL", why=str(error))
        return text

    def _path(self, text: str, path: Path_) -> Path:
        try:
            if "\0" in text:
                raise ValueError
            return (self._folder / Path(text).expanduser()).absolute()
        except (ValueError, RuntimeError):
            self._add(path, f"{show(text)} is not a path")
            return self._folder

    def _secret(self, text: str | None, path: Path_) -> SecretRef | None:
        if text is None:
            return None
        try:
            reference = names.parse_secret(text)
        except ValueError as error:
            hint = "allowed here: env:NAME, file:PATH, cmd:COMMAND"
            self._add(path, f"{path[-1]} is not a reference", why=str(error), hint=hint)
            return None
        if reference.kind == "file":
            return SecretRef("file", str(self._folder / Path(reference.target).expanduser()))
        return reference


def _is_recipient(text: str) -> bool:
    """Whether this is a public key with a right check sum: a typing mistake shows here, not in a disaster."""
    import pyrage

    kind = pyrage.ssh.Recipient if text.startswith(_SSH_KINDS) else pyrage.x25519.Recipient
    try:
        kind.from_str(text)
    except pyrage.RecipientError:
        return False
    return True
