"""A store in a folder, which may lie on NFS."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from kops_py.backup.store import MOST_DOCUMENT_BYTES, IsOver, StoredObject, check_path, never
from kops_py.model.backup import DirectoryStoreSpec
from kops_py.model.errors import ObjectExistsError, ObjectMissingError, StoreError

_PIECE_BYTES = 1024 * 1024
_WRITE_BACK_BYTES = 32 * 1024 * 1024
_PARTIAL = ".partial"
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}


class DirectoryStore:
    """Files of mode 0600 in folders of mode 0700.

    A file is written under a hidden name ending in ``.partial``, flushed, and gets its name by a hard link, which
    never replaces another and also on NFS happens whole or not at all. Then its folder is flushed.
    """

    def __init__(self, spec: DirectoryStoreSpec) -> None:
        self._root = spec.path
        self._spec = spec

    @property
    def name(self) -> str:
        """Return the name from cluster.yaml."""
        return self._spec.name

    @property
    def where(self) -> str:
        """Return the name and the place, for messages."""
        return str(self._spec)

    def prepare(self) -> None:
        """Make the folder when it is missing (its parent must be there: it may be a mount), and try to write."""
        self._check_mount()
        try:
            self._root.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise self._error("the folder of the store cannot be made", "", error) from None
        probe = f"probe-{secrets.token_hex(4)}"
        self.put_document(probe, b"kops-py looks whether it can write here\n")
        self.delete(probe)

    def put(self, path: str, chunks: Iterable[bytes]) -> int:
        """Create a file of any size from pieces."""
        target = self._target(path)
        partial = target.with_name(f".{target.name}.{secrets.token_hex(4)}{_PARTIAL}")
        try:
            self._make_folders(target.parent)
            return self._write(partial, target, chunks, path)
        except OSError as error:
            raise self._error("writing failed", path, error) from None
        finally:
            with contextlib.suppress(OSError):
                partial.unlink()

    def put_document(self, path: str, data: bytes) -> None:
        """Create a small file; one with the same bytes may be there already."""
        try:
            self.put(path, (data,))
        except ObjectExistsError:
            if self.get_document(path) != data:
                raise

    def get_document(self, path: str) -> bytes:
        """Return a small file."""
        data = bytearray()
        for piece in self.chunks(path):
            data += piece
            if len(data) > MOST_DOCUMENT_BYTES:
                raise StoreError("the object is larger than any of ours", where=self._where(path))
        return bytes(data)

    def chunks(self, path: str) -> Iterator[bytes]:
        """Yield a file's content in pieces of a megabyte."""
        try:
            descriptor = os.open(self._target(path), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            with os.fdopen(descriptor, "rb", buffering=0) as stream:
                if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
                    raise StoreError("this is not a regular file", where=self._where(path))
                while data := stream.read(_PIECE_BYTES):
                    yield data
        except (FileNotFoundError, NotADirectoryError):
            raise ObjectMissingError("there is no such object", where=self._where(path)) from None
        except OSError as error:
            raise self._error("reading failed", path, error) from None

    def objects(self, prefix: str) -> list[StoredObject]:
        """Return all files below a folder; hidden ones (being written) are none of them."""
        self._check_mount()
        top = self._target(prefix)
        found: list[StoredObject] = []
        try:
            if not self._root.is_dir():
                raise StoreError(
                    "the folder of the store is not there",
                    where=self.where,
                    hint=f"look whether it is mounted: ls -ld {self._root}",
                )
            for folder, folders, files in os.walk(top, onerror=_raise_unless_missing):
                folders[:] = [name for name in folders if not name.startswith(".")]
                for name in files:
                    if not name.startswith("."):
                        found += self._stat(Path(folder) / name)
        except OSError as error:
            raise self._error("listing failed", prefix, error) from None
        return sorted(found, key=lambda o: o.path)

    def delete(self, path: str) -> None:
        """Delete a file, and its folder with the last one in it."""
        target = self._target(path)
        try:
            target.unlink(missing_ok=True)
            _sync_folder(target.parent)
            if target.parent != self._root:
                target.parent.rmdir()
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise self._error("deleting failed", path, error) from None

    def clean(self, prefix: str, *, older_than_s: float, is_over: IsOver = never) -> tuple[str, ...]:
        """Remove hidden partial files that a killed process left: old ones, and those ``is_over`` says of."""
        removed = []
        now = time.time()
        try:
            for path in self._target(prefix).rglob(f".*{_PARTIAL}"):
                with contextlib.suppress(FileNotFoundError):
                    if now - path.lstat().st_mtime > older_than_s or is_over(self._meant(path)):
                        path.unlink()
                        removed.append(str(path.relative_to(self._root)))
        except OSError as error:
            raise self._error("cleaning failed", prefix, error) from None
        return tuple(sorted(removed))

    def _meant(self, partial: Path) -> str:
        """Return the path of the object that a partial file was to become."""
        return f"{partial.parent.relative_to(self._root)}/{partial.name[1:].rsplit('.', 2)[0]}"

    def _check_mount(self) -> None:
        mount = self._spec.mount
        if mount is not None and not mount.is_mount():
            raise StoreError(
                f"nothing is mounted on {mount}", where=self.where, hint=f"mount {mount}; journalctl -b | grep -i mount"
            )

    def _write(self, partial: Path, target: Path, chunks: Iterable[bytes], path: str) -> int:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        size = told = 0
        with os.fdopen(os.open(partial, flags, 0o600), "wb", buffering=0) as stream:
            os.fchmod(stream.fileno(), 0o600)
            for data in chunks:
                view = memoryview(data)
                while view:
                    written = stream.write(view) or 0
                    size += written
                    view = view[written:]
                if size - told > _WRITE_BACK_BYTES:
                    # the disk begins now, not with fsync; and the page cache is left to those who need it
                    os.posix_fadvise(stream.fileno(), 0, size, os.POSIX_FADV_DONTNEED)
                    told = size
            os.fsync(stream.fileno())
        self._give_name(partial, target, path)
        _sync_folder(target.parent)
        return size

    def _give_name(self, partial: Path, target: Path, path: str) -> None:
        try:
            os.link(partial, target, follow_symlinks=False)
        except FileExistsError:
            # Over NFS the answer to a link that was made may get lost; the second attempt then finds it.
            if partial.lstat().st_nlink != 2:
                raise ObjectExistsError("the object is there already", where=self._where(path)) from None
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            self._rename(partial, target, path)

    def _rename(self, partial: Path, target: Path, path: str) -> None:
        """Give the name where the file system has no hard links: a folder of the name's own keeps others out."""
        claim = target.with_name(f".{target.name}.claim")
        try:
            claim.mkdir(mode=0o700)
        except FileExistsError:
            raise ObjectExistsError("somebody else creates the object", where=self._where(path)) from None
        try:
            if os.path.lexists(target):
                raise ObjectExistsError("the object is there already", where=self._where(path))
            partial.rename(target)
        finally:
            claim.rmdir()

    def _make_folders(self, folder: Path) -> None:
        missing = []
        while folder != self._root and not folder.is_dir():
            missing.append(folder)
            folder = folder.parent
        for one in reversed(missing):
            one.mkdir(mode=0o700, exist_ok=True)
            _sync_folder(one.parent)

    def _stat(self, path: Path) -> list[StoredObject]:
        try:
            status = path.lstat()
        except FileNotFoundError:
            return []
        size = status.st_size if stat.S_ISREG(status.st_mode) else -1
        return [StoredObject(path.relative_to(self._root).as_posix(), size, status.st_mtime)]

    def _target(self, path: str) -> Path:
        return self._root / check_path(path)

    def _where(self, path: str) -> str:
        return f"{self.where}: {path}" if path else self.where

    def _error(self, what: str, path: str, error: OSError) -> StoreError:
        return StoreError(what, where=self._where(path), why=error.strerror or str(error), hint=self._hint(error))

    def _hint(self, error: OSError) -> str:
        match error.errno:
            case errno.ENOSPC | errno.EDQUOT:
                return f"make room: df -h {self._root}; older backups are untouched (kops-py etcd prune --plan)"
            case errno.EACCES | errno.EPERM:
                return f"the user that runs kops-py must be able to write there: ls -ld {self._root}"
            case errno.EROFS:
                return (
                    f"kops-py must be able to write there, and what is to be mounted must be: ls -ld {self._root}; a "
                    "systemd service can write only into folders that were there when it started"
                )
            case errno.ENOENT | errno.ESTALE | errno.ENOTCONN | errno.EHOSTDOWN:
                return f"look whether it is mounted: ls -ld {self._root}"
        return f"look at the disk or the mount under {self._root}: dmesg | tail"


def _raise_unless_missing(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems have no such thing
            raise
    finally:
        os.close(descriptor)
