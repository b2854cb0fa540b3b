"""A real S3 endpoint on 127.0.0.1: moto's server, in a virtual environment of its own.

It cannot share ours: its botocore wants an older python-dateutil than the kubernetes client does (docs/adr/0004).
"""

from __future__ import annotations

import fcntl
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import obstore
import pytest
from obstore.store import S3Store

from tests.ports import free_port

ROOT = Path(__file__).resolve().parents[3]
VENV = Path(sys.prefix) / "moto"
LOCK = Path(__file__).parent / "moto.lock"
ACCESS_KEY, SECRET_KEY = "an-access-key", "a-secret-key"


class NoServerError(Exception):
    """The server's packages cannot be had here."""


def ensure() -> Path:
    """Make the environment from its lock when it is missing or outdated, and return the server's program."""
    stamp = VENV / "installed.lock"
    with (Path(sys.prefix) / "moto.making").open("w") as making:
        fcntl.flock(making, fcntl.LOCK_EX)
        if not stamp.exists() or stamp.read_bytes() != LOCK.read_bytes():
            uv = str(Path(sys.prefix) / "bin" / "uv")
            for command in (
                [uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(VENV)],
                [
                    uv,
                    "pip",
                    "install",
                    "--quiet",
                    "--python",
                    str(VENV / "bin" / "python"),
                    "--require-hashes",
                    "-r",
                    str(LOCK),
                ],
            ):
                done = subprocess.run(command, capture_output=True, text=True, timeout=600)
                if done.returncode:
                    shutil.rmtree(VENV, ignore_errors=True)
                    raise NoServerError(f"moto cannot be installed: {done.stderr.strip()[-300:]}")
            shutil.copyfile(LOCK, stamp)
    return VENV / "bin" / "moto_server"


class S3Server:
    """The running server; ``bucket`` makes a bucket in it."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self._log = (folder / "moto.log").open("wb")
        self._process = subprocess.Popen(
            [str(ensure()), "-H", "127.0.0.1", "-p", str(self.port)], stdout=self._log, stderr=subprocess.STDOUT
        )
        until = time.monotonic() + 120
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                break
            except OSError:
                if self._process.poll() is not None or time.monotonic() > until:
                    self.close()
                    raise NoServerError((folder / "moto.log").read_text()[-300:]) from None
                time.sleep(0.1)

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def bucket(self, name: str) -> S3Store:
        """Make a bucket and return a store to look into it with."""
        done = subprocess.run(
            [
                *("curl", "-sS", "--fail", "-X", "PUT", f"{self.endpoint}/{name}"),
                *("--aws-sigv4", "aws:amz:us-east-1:s3", "--user", f"{ACCESS_KEY}:{SECRET_KEY}"),
            ],
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        return S3Store(
            name,
            config={
                "endpoint": self.endpoint,
                "region": "us-east-1",
                "access_key_id": ACCESS_KEY,
                "secret_access_key": SECRET_KEY,
            },
            client_options={"allow_http": True},
        )

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(20)
        self._log.close()


def keys_in(bucket: S3Store) -> list[str]:
    """Return all keys of a bucket."""
    return sorted(one["path"] for page in obstore.list(bucket) for one in page)


@contextmanager
def running_server(folder: Path) -> Iterator[S3Server]:
    """Run a server with its log in a folder; skips the test where its packages cannot be had."""
    try:
        server = S3Server(folder)
    except NoServerError as error:
        pytest.skip(str(error))
    try:
        yield server
    finally:
        server.close()
