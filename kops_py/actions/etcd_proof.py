"""Restores a snapshot into a scratch etcd, here or on a member's host, and says what it holds.

Here: with the programs on PATH when they are of the snapshot's minor version, else with those of a member, fetched
over SSH once and kept in the run folder. On a host: with the ones of its running member.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path
from typing import BinaryIO

from kops_py.connect.base import Cancel, Host
from kops_py.connect.local_host import LocalHost
from kops_py.model.errors import BackupError, DeadlineError, HostError
from kops_py.model.etcd import SnapshotContents
from kops_py.tools import etcd_binaries
from kops_py.tools.etcd_proof import EtcdBinaries, failed_stage, parse_proof, proof_argv

REMOTE_FOLDER = "/var/lib/kops-py/proof"
_ASK_S = 30.0
_FETCH_S = 300.0
_SLOWEST_BYTES_S = 20_000_000
"""Restoring reads and writes the whole of it; a disk that is slower than this is no disk for etcd."""


def proof_limit_s(size_bytes: int) -> float:
    """Return the time limit of a proof of so many bytes."""
    return 120.0 + 3 * size_bytes / _SLOWEST_BYTES_S


def prove_here(
    snapshot: BinaryIO, binaries: EtcdBinaries, folder: Path, *, size_bytes: int, cancel: Cancel | None = None
) -> SnapshotContents:
    """Prove a snapshot of so many bytes on this machine; ``folder`` is made 0700. Raises BackupError, HostError."""
    return _prove(LocalHost(), snapshot, binaries, str(folder.absolute()), size_bytes, False, cancel)


def prove_on(host: Host, snapshot: BinaryIO, *, size_bytes: int, cancel: Cancel | None = None) -> SnapshotContents:
    """Prove a snapshot on a host where a member runs, with that member's programs; raises BackupError, HostError."""
    binaries = running_binaries(host, cancel)
    return _prove(host, snapshot, binaries, REMOTE_FOLDER, size_bytes, True, cancel)


def running_binaries(host: Host, cancel: Cancel | None = None) -> EtcdBinaries:
    """Return the programs of the member that runs on a host; raises BackupError when none does."""
    answer = host.run(etcd_binaries.find_running_argv(), sudo=True, timeout_s=_ASK_S, cancel=cancel)
    found = etcd_binaries.parse_running(answer.out)
    if found is None:
        raise BackupError("no etcd runs there with an etcdctl beside it", where=host.name)
    return found


def local_binaries(version: str) -> EtcdBinaries | None:
    """Return the programs on PATH when they are of this version's minor; None otherwise."""
    etcd, ctl, util = (shutil.which(name) for name in ("etcd", "etcdctl", "etcdutl"))
    if etcd is None or ctl is None:
        return None
    return _usable(EtcdBinaries(etcd, ctl, util or ctl), version)


def fetched_binaries(
    hosts: tuple[Host, ...], version: str, folder: Path, *, cancel: Cancel | None = None
) -> EtcdBinaries:
    """Return a member's programs on this machine, fetched when ``folder`` has none of the version yet.

    Raises BackupError, with what to do, when no host has any that run here.
    """
    target = folder / version
    programs = {name: str(target / name) for name in ("etcd", "etcdctl", "etcdutl")}
    problems: list[str] = []
    for number in range(len(hosts) + 1):
        if (target / "etcd").is_file() and (target / "etcdctl").is_file():
            tool = programs["etcdutl"] if (target / "etcdutl").is_file() else programs["etcdctl"]
            found = _usable(EtcdBinaries(programs["etcd"], programs["etcdctl"], tool), version)
            if found is not None:
                return found
            problems.append("the programs do not run on this machine, or are of another version")
            shutil.rmtree(target, ignore_errors=True)
        if number < len(hosts):
            try:
                _fetch(hosts[number], running_binaries(hosts[number], cancel), target, cancel)
            except (BackupError, HostError) as error:
                problems.append(str(error))
    raise BackupError(
        f"there is no etcd {version.rpartition('.')[0]} on this machine to restore the snapshot with",
        why="; ".join(dict.fromkeys(problems)),
        hint="install etcd, etcdctl and (from 3.5) etcdutl of that version on PATH, or use --verify-on member",
    )


def _usable(binaries: EtcdBinaries, version: str) -> EtcdBinaries | None:
    here = LocalHost()
    try:
        versions = [
            etcd_binaries.parse_version(here.run(etcd_binaries.version_argv(p), timeout_s=_ASK_S).out)
            for p in (binaries.etcd, binaries.etcdctl, binaries.tool)
        ]
    except (HostError, ValueError):
        return None
    if not all(etcd_binaries.same_minor(v, version) for v in versions):
        return None
    if binaries.tool.endswith("etcdctl") and not etcd_binaries.tool_restores(versions[0]):
        return None
    return EtcdBinaries(binaries.etcd, binaries.etcdctl, binaries.tool, versions[0])


def _fetch(host: Host, found: EtcdBinaries, target: Path, cancel: Cancel | None) -> None:
    """Copy the programs into ``target``; each appears whole or not at all."""
    target.mkdir(mode=0o700, parents=True, exist_ok=True)
    wanted = {"etcd": found.etcd, "etcdctl": found.etcdctl}
    if found.tool != found.etcdctl:
        wanted["etcdutl"] = found.tool
    for name, source in wanted.items():
        partial = target / f".{name}.part"
        with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o700), "wb") as file:
            sink = _Hashed(file)
            host.run(("cat", "--", source), sudo=True, timeout_s=_FETCH_S, cancel=cancel, stdout_to=sink.take)
        said = host.run(("sha256sum", "--", source), sudo=True, timeout_s=_ASK_S, cancel=cancel).out.split()
        if not said or said[0].lstrip("\\") != sink.digest.hexdigest():
            partial.unlink(missing_ok=True)
            raise BackupError(f"{name} did not arrive as it is on the host", where=host.name)
        partial.replace(target / name)


class _Hashed:
    """Writes into a file and hashes what it writes."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.digest = hashlib.sha256()

    def take(self, data: bytes) -> None:
        """Take the next piece."""
        self.digest.update(data)
        self._file.write(data)


def _prove(
    host: Host,
    snapshot: BinaryIO,
    binaries: EtcdBinaries,
    folder: str,
    size_bytes: int,
    sudo: bool,
    cancel: Cancel | None,
) -> SnapshotContents:
    limit_s = proof_limit_s(size_bytes)
    argv = proof_argv(folder, binaries, size_bytes=size_bytes, limit_s=limit_s)
    try:
        answer = host.run(argv, sudo=sudo, stdin=snapshot, timeout_s=limit_s + _ASK_S, check=False, cancel=cancel)
    except DeadlineError as error:
        raise BackupError(
            "the proof did not end in time",
            where=host.name,
            why=str(error),
            hint="is there room, and is it fast enough?",
        ) from error
    if not answer.ok:
        raise BackupError(
            failed_stage(answer.exit_status),
            where=host.name,
            why=answer.err.strip()[-600:],
            hint="kops-py etcd verify ID proves it again",
        )
    try:
        found = parse_proof(answer.out)
    except ValueError as error:
        raise BackupError("the proof's answers are not understood", where=host.name, why=str(error)) from error
    if found.revision <= 0 or found.live_keys <= 0:
        raise BackupError(
            "the restored etcd is empty", where=host.name, why=f"revision {found.revision}, {found.live_keys} keys"
        )
    return found
