"""A flat apt repository laid out and signed like the upstream per-minor package repository."""

from __future__ import annotations

import datetime
import gzip
import hashlib
from pathlib import Path

from tests.bundle.recipe import SOURCE_DATE_EPOCH
from tests.bundle.shell import output

SIGNER = "kops-py test bundle (throw-away) <nobody@kops-py.test>"
INDEX_FILES = ("Packages", "Packages.gz")
REPOSITORY_FILES = (*INDEX_FILES, "Release", "InRelease", "Release.gpg", "Release.key")


def packages_paragraph(control: str, file_name: str, size_bytes: int, md5: str, sha256: str) -> str:
    """One paragraph of Packages: the package's control fields and what apt needs to fetch and check it.

    The description stays last, as apt's own tools write it.
    """
    fields, separator, description = control.strip().partition("\nDescription:")
    fetch = f"Filename: {file_name}\nSize: {size_bytes}\nMD5sum: {md5}\nSHA256: {sha256}"
    return f"{fields}\n{fetch}{separator}{description}\n"


def release_text(minor: str, architecture: str, indexes: dict[str, bytes], date: datetime.datetime) -> str:
    """The Release file over the given index files."""
    lines = [
        f"Origin: kops-py test bundle {minor}",
        f"Label: kubernetes {minor}",
        f"Architectures: {architecture} all",
        f"Date: {date.astimezone(datetime.UTC).strftime('%a, %d %b %Y %H:%M:%S +0000')}",
        f"Description: Kubernetes {minor} for test clusters",
    ]
    for title, hashed in (("MD5Sum", hashlib.md5), ("SHA256", hashlib.sha256)):
        lines.append(f"{title}:")
        lines += [f" {hashed(data).hexdigest()} {len(data):>10} {name}" for name, data in sorted(indexes.items())]
    return "\n".join(lines) + "\n"


class Signer:
    """A signing key made for this machine and kept in its cache, never in the repository."""

    def __init__(self, home: Path) -> None:
        self._home = home

    def _gpg(self, *arguments: str, what: str) -> str:
        argv = ["gpg", "--homedir", str(self._home), "--batch", "--yes", "--no-tty", "--pinentry-mode", "loopback"]
        return output([*argv, "--passphrase", "", *arguments], what=what)

    def __enter__(self) -> Signer:
        self._home.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._home.chmod(0o700)
        if "sec:" not in self._gpg("--list-secret-keys", "--with-colons", what="looking for the signing key"):
            self._gpg("--quick-generate-key", SIGNER, "rsa3072", "sign", "never", what="making a signing key")
        return self

    def __exit__(self, *_error: object) -> None:
        output(["gpgconf", "--homedir", str(self._home), "--kill", "all"], what="ending gpg-agent")

    def public_key(self) -> str:
        """The armored public key."""
        return self._gpg("--armor", "--export", what="exporting the public key")

    def sign(self, release: Path) -> None:
        """Write InRelease and Release.gpg beside a Release file."""
        folder = release.parent
        for name, how in (("InRelease", "--clearsign"), ("Release.gpg", "--detach-sign")):
            partial = folder / f"{name}.partial"
            self._gpg(
                "--armor", "--digest-algo", "SHA512", how, "-o", str(partial), str(release), what=f"signing {name}"
            )
            partial.rename(folder / name)


def _replace(path: Path, data: bytes) -> None:
    partial = path.with_name(f"{path.name}.partial")
    partial.write_bytes(data)
    partial.rename(path)


def _paragraph_of(package: Path) -> str:
    control = output(["dpkg-deb", "-f", str(package)], what=f"reading {package.name}")
    data = package.read_bytes()
    return packages_paragraph(
        control,
        f"./{package.name}",
        len(data),
        hashlib.md5(data, usedforsecurity=False).hexdigest(),
        hashlib.sha256(data).hexdigest(),
    )


def write_repository(folder: Path, minor: str, architecture: str, signer: Signer) -> None:
    """Write index, Release and signatures over the packages in that folder."""
    packages = "\n".join(_paragraph_of(package) for package in sorted(folder.glob("*.deb"))).encode()
    indexes = {"Packages": packages, "Packages.gz": gzip.compress(packages, mtime=SOURCE_DATE_EPOCH)}
    for name, data in indexes.items():
        _replace(folder / name, data)
    date = datetime.datetime.fromtimestamp(SOURCE_DATE_EPOCH, tz=datetime.UTC)
    _replace(folder / "Release", release_text(minor, architecture, indexes, date).encode())
    signer.sign(folder / "Release")
    _replace(folder / "Release.key", signer.public_key().encode())
