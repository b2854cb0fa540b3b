"""A real sshd on 127.0.0.1 with its own keys and configuration; needs no root."""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from kops_py.connect.ssh import SshFleet
from kops_py.model.spec import HostSpec, SshSpec
from tests.ports import free_port

SSHD = next(
    (p for p in ("/usr/sbin/sshd", "/usr/local/sbin/sshd", shutil.which("sshd") or "") if Path(p).is_file()), ""
)


def make_key(path: Path, *, kind: str = "ed25519", passphrase: str = "") -> Path:
    subprocess.run(["ssh-keygen", "-q", "-t", kind, "-N", passphrase, "-C", "kops-py test", "-f", path], check=True)
    return path


@dataclass
class Sshd:
    """A running sshd."""

    folder: Path
    port: int
    key: Path
    process: subprocess.Popen[bytes]

    @property
    def host_key_line(self) -> str:
        return " ".join((self.folder / "host_key.pub").read_text().split()[:2])

    def known_hosts(self, *names: str) -> Path:
        """Write a known_hosts that knows this host (under these names, or its own)."""
        path = self.folder / f"known_hosts{'-'.join(('', *names)).replace('/', '_')}"
        path.write_text("".join(f"{n} {self.host_key_line}\n" for n in names or (f"[127.0.0.1]:{self.port}",)))
        return path

    def log(self) -> str:
        return (self.folder / "log").read_text()


@contextlib.contextmanager
def running_sshd(folder: Path, *, extra: str = "") -> Iterator[Sshd]:
    folder.mkdir(parents=True, exist_ok=True)
    home = folder / "home"
    home.mkdir()
    make_key(folder / "host_key")
    key = make_key(folder / "key")
    authorized = folder / "authorized_keys"
    authorized.write_text((folder / "key.pub").read_text())
    authorized.chmod(0o600)
    port = free_port()
    (folder / "sshd_config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder}/host_key\nPidFile none\n"
        f"AuthorizedKeysFile {authorized}\nStrictModes no\nUsePAM no\nPermitRootLogin yes\n"
        "PasswordAuthentication no\nKbdInteractiveAuthentication no\nMaxStartups 300\nLogLevel VERBOSE\n"
        # a slow shell start-up file of whoever runs the tests is not what is tested
        f"SetEnv HOME={home}\nSubsystem sftp internal-sftp\n{extra}"
    )
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # sshd as root wants its empty folder
    process = subprocess.Popen([SSHD, "-D", "-f", folder / "sshd_config", "-E", folder / "log"])
    server = Sshd(folder, port, key, process)
    try:
        wait_for_banner(server)
        yield server
    finally:
        process.terminate()
        process.wait(10)


def wait_for_banner(server: Sshd) -> None:
    until = time.monotonic() + 10
    while True:
        try:
            with socket.create_connection(("127.0.0.1", server.port), 1) as sock:
                sock.settimeout(2)
                if sock.recv(4) == b"SSH-":
                    return
        except OSError:
            if server.process.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"sshd did not start: {server.log()}") from None
            time.sleep(0.02)  # between two looks at a condition with a deadline


def host_spec(name: str = "n1", *, address: str = "127.0.0.1", port: int = 22, **fields: object) -> HostSpec:
    values: dict[str, object] = {"user": getpass.getuser(), "node_ip": address, "groups": frozenset(), **fields}
    return HostSpec(name=name, address=address, port=port, **values)  # type: ignore[arg-type]


def fleet_for(server: Sshd, *, port: int | None = None, timeout_s: float = 10.0, **options: object) -> SshFleet:
    """Return a fleet of one host, n1, that this sshd is."""
    port = port or server.port
    values: dict[str, object] = {
        "known_hosts": server.known_hosts(f"[127.0.0.1]:{port}"),
        "ssh_config": Path("/dev/null"),
        **options,
    }
    spec = host_spec(port=port, key_file=server.key)
    return SshFleet([spec], settings=SshSpec(connect_timeout_s=timeout_s), **values)  # type: ignore[arg-type]
