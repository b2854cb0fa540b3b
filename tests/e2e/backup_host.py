"""A machine that makes backups: a booted system with kops-py from the wheel, the operator's files, and its user."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.e2e.bed import Bed
from tests.lab import Node

SYSTEM_PYTHON = (3, 11)
"""The Python of the lab's systems (Debian 12)."""


class Hook:
    """A webhook of the test: keeps the JSON messages it gets. The end of its URL is a secret."""

    def __init__(self, address: str) -> None:
        self.messages: list[dict[str, Any]] = []
        kept = self.messages

        class Answer(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                kept.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self.send_response(204)
                self.end_headers()

            def log_message(self, *args: object) -> None:
                """Nobody reads it."""

        self._server = ThreadingHTTPServer((address, 0), Answer)
        self.url = f"http://{address}:{self._server.server_port}/a-secret-of-the-webhook"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> Hook:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)


class BackupHost:
    """The node, and kops-py on it; ``secrets`` are what a person there has in the environment."""

    folder = "/home/kops/alone"
    program = "/opt/kops-py/bin/kops-py"

    def __init__(self, node: Node) -> None:
        self.node = node
        self.secrets: dict[str, str] = {}

    def install(self, wheel_program: Path) -> None:
        """Bring the environment that was made of the wheel, with the system's own Python, and make the user."""
        if sys.version_info[:2] != SYSTEM_PYTHON:
            pytest.skip("kops-py is brought to a system with Python 3.11, and is tested with another one here")
        environment = wheel_program.parent.parent
        with tempfile.TemporaryFile() as archive:
            with tarfile.open(fileobj=archive, mode="w") as tar:
                tar.add(environment / "lib", "opt/kops-py/lib")
            archive.seek(0)
            subprocess.run(self.node.exec_argv("tar", "-x", "-C", "/"), stdin=archive, check=True, timeout=300)
        self.node.put_file(b"home = /usr/bin\nversion = 3.11\n", "/opt/kops-py/pyvenv.cfg")
        for script in ("kops-py", "ansible-inventory", "ansible-playbook", "ansible"):
            lines = (environment / "bin" / script).read_text().splitlines(keepends=True)
            text = "#!/opt/kops-py/bin/python\n" + "".join(lines[1:])
            self.node.put_file(text.encode(), f"/opt/kops-py/bin/{script}", 0o755)
        self.node.exec("ln -s /usr/bin/python3 /opt/kops-py/bin/python")
        self.node.exec("useradd --system --create-home --shell /usr/sbin/nologin kops")
        assert self.run("--version").stdout.startswith("kops-py, version")

    def put_files(self, bed: Bed, *, user: str) -> None:
        """Put inventory, cluster.yaml, SSH key and known_hosts of a scenario there; ``user`` logs in to the hosts."""
        inventory = yaml.safe_load((bed.folder / "hosts.yaml").read_text())
        inventory["all"]["vars"] = {
            "ansible_user": user,
            "ansible_ssh_private_key_file": f"{self.folder}/id",
            "ansible_ssh_common_args": f"-o UserKnownHostsFile={self.folder}/known_hosts",
        }
        cluster = yaml.safe_load((bed.folder / "cluster.yaml").read_text())
        key = Path(cluster["kubernetes"]["repositoryKey"])
        cluster["kubernetes"]["repositoryKey"] = "release.key"
        for name, data, mode in (
            ("hosts.yaml", yaml.safe_dump(inventory).encode(), 0o644),
            ("cluster.yaml", yaml.safe_dump(cluster).encode(), 0o644),
            ("release.key", key.read_bytes(), 0o644),
            ("id", bed.lab.key_path.read_bytes(), 0o600),
            ("known_hosts", bed.lab.known_hosts.read_bytes(), 0o644),
        ):
            self.node.put_file(data, f"{self.folder}/{name}", mode)
        self.node.exec(f"chown -R kops: {self.folder}")

    def write_secrets(self, path: str) -> None:
        """Write the file with the service's environment, for root alone."""
        text = "".join(f"{name}={value}\n" for name, value in self.secrets.items())
        self.node.put_file(text.encode(), path, 0o600)
        self.node.exec(["chmod", "0700", str(Path(path).parent)])

    def argv(self, *arguments: str, user: str = "root", environment: bool = False) -> list[str]:
        """Return the command that runs kops-py there as a person would, in the folder with the files."""
        given = [f"{k}={v}" for k, v in self.secrets.items()] if environment else []
        # not runuser: it stops with the process it waits for, and does not go on with it
        login = ["setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups", "env", *given]
        login.append(f"HOME={'/root' if user == 'root' else '/home/kops'}")
        script = f"cd {self.folder} 2>/dev/null; exec {shlex.join([*login, self.program, *arguments])}"
        return ["sh", "-c", script]

    def run(
        self, *arguments: str, user: str = "root", exit_code: int = 0, environment: bool = False
    ) -> subprocess.CompletedProcess[str]:
        """Run kops-py there to its end."""
        argv = self.argv(*arguments, user=user, environment=environment)
        done = self.node.exec(argv, check=False, timeout_s=300)
        said = f"kops-py {shlex.join(arguments)}: exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
        assert done.returncode == exit_code, said
        assert "Traceback" not in done.stderr, said
        return done

    def start(self, unit: str) -> None:
        """Start a service that ends by itself, and wait for its end."""
        done = self.node.exec(f"systemctl start {unit}.service", check=False, timeout_s=300)
        assert done.returncode == 0, self.journal(unit)

    def journal(self, unit: str) -> str:
        """What the service and the timer last said."""
        return self.node.exec(f"journalctl --no-pager -u {unit}.service -u {unit}.timer -n 40").stdout

    def show(self, unit: str, *names: str) -> dict[str, str]:
        """What systemd knows of a unit."""
        printed = self.node.exec(f"systemctl show -p {','.join(names)} {unit}").stdout
        return dict(line.partition("=")[::2] for line in printed.splitlines())

    def shown(self) -> dict[str, str]:
        """What ``schedule show`` says."""
        found: dict[str, str] = json.loads(self.run("etcd", "schedule", "show", "-o", "json", user="kops").stdout)
        return found

    def units(self) -> list[str]:
        """Units of schedules that systemd knows, whether loaded, failed or gone."""
        listed = "systemctl list-units --all --no-legend --plain 'kops-py-etcd*'"
        return self.node.exec(
            f"{listed}; systemctl list-unit-files --no-legend 'kops-py-etcd*' || true"
        ).stdout.splitlines()

    def backups(self) -> list[dict[str, Any]]:
        """The backups in the store, the newest first."""
        if self.node.exec("test -d /srv/backup/kubernetes", check=False).returncode:
            return []
        found = json.loads(self.run("etcd", "list", "-o", "json", user="kops").stdout)
        backups: list[dict[str, Any]] = found["backups"]
        return backups

    @contextmanager
    def held_at(self, said: str, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
        """Make a backup by hand and stop the process when it has said this; let it go on to its end afterwards."""
        log = folder / "by-hand.log"
        argv = self.node.exec_argv(*self.argv("etcd", "backup", "--yes", "-v", user="kops", environment=True))
        with log.open("wb") as output:
            process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        until = time.monotonic() + 120
        while not re.search(said, log.read_text()):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < until, log.read_text()
            time.sleep(0.05)
        self._signal(signal.SIGSTOP)
        try:
            yield process
        finally:
            self._signal(signal.SIGCONT)
            process.send_signal(signal.SIGCONT)  # nsenter stops itself with its child
            process.wait(180)
        assert process.returncode == 0, log.read_text()

    def as_in_a_pod(self, pod: dict[str, Any], cluster: Path) -> str:
        """Plan a backup as a container would: its command, user and environment, its Secret as the kubelet lays it."""
        (container,) = pod["containers"]
        user = pod["securityContext"]["runAsUser"]
        lay = f"""
            install -d /config/..1 && cd /config && ln -s ..1 ..data
            cp {self.folder}/* ..1/ && cp /root/s3.yaml ..1/cluster.yaml
            sed -i 's,{self.folder},/config,' ..1/hosts.yaml
            for f in ..1/*; do ln -s "..data/${{f##*/}}" "${{f##*/}}"; done
            chown -R root:{user} /config && chmod 0440 ..1/* && install -d -o {user} /work
        """
        document = yaml.safe_load(cluster.read_text())
        document["kubernetes"]["repositoryKey"] = "release.key"
        self.node.put_file(yaml.safe_dump(document).encode(), "/root/s3.yaml", 0o600)
        self.node.exec(lay)
        given = [f"{e['name']}={e['value']}" for e in container["env"]] + [f"{k}={v}" for k, v in self.secrets.items()]
        argv = [
            *("setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", "--no-new-privs"),
            *("env", "-i", "--chdir=/work", *given, f"PATH={Path(self.program).parent}:/usr/bin:/bin"),
            *(*container["command"], "--plan"),
        ]
        done = self.node.exec(argv, check=False)
        assert done.returncode == 20, done.stdout + done.stderr
        return done.stdout

    def _signal(self, number: signal.Signals) -> None:
        self.node.exec(["pkill", f"-{number.name.removeprefix('SIG')}", "-u", "kops", "-f", "etcd backup"])


def set_back(path: Path, by: timedelta) -> None:
    """Make a file older than it is."""
    then = time.time() - by.total_seconds()
    os.utime(path, (then, then))
