"""The private folder of one Ansible run: inventory, variables and configuration as files only the owner reads."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kops_py.model.spec import HostSpec

_SSH_EXIT_TIMEOUT_S = 5
_INVENTORY, _VARIABLES, _CONFIGURATION_FILE = "inventory.json", "variables.json", "ansible.cfg"
_CONTROL_PARENT, _CONTROL_PREFIX = "/tmp", "kops-"  # noqa: S108 - the folder itself is made by mkdtemp
_PASSWORD_VARIABLES = ("ansible_password", "ansible_ssh_pass", "ansible_ssh_password")
_KEPT_ANSIBLE_VARIABLES = re.compile(r"ANSIBLE_VAULT_|ANSIBLE_HOME$|ANSIBLE_COLLECTIONS_PATH$")

_CONFIGURATION = """\
[defaults]
forks = {forks}
timeout = {connect_timeout_s}
gathering = explicit
host_key_checking = True
nocows = True
retry_files_enabled = False
inject_facts_as_vars = False
display_skipped_hosts = False
deprecation_warnings = False
interpreter_python = auto_silent
local_tmp = {local_tmp}

[inventory]
enable_plugins = yaml

[connection]
pipelining = True

[ssh_connection]
pipelining = True
ssh_args = -o ControlMaster=auto -o ControlPersist=60s -o ServerAliveInterval=15 -o ServerAliveCountMax=4
control_path_dir = {control_path_dir}
"""


@dataclass(frozen=True, slots=True)
class PrivateFolder:
    """Where one run finds its input; ``remove_input`` leaves only the log."""

    path: Path
    inventory: Path
    variables: Path
    configuration: Path
    control_path_dir: Path

    @property
    def artifacts(self) -> Path:
        """Return the folder ansible-runner writes into."""
        return self.path / "artifacts"

    def remove_input(self) -> None:
        """End the ssh connections kept open, and remove every file that may hold a secret; safe to call twice."""
        for file in (self.inventory, self.variables):
            file.unlink(missing_ok=True)
        for name in ("job_events", "command", "fact_cache"):
            for leftover in self.artifacts.glob(f"*/{name}"):
                shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
        for artifact in self.artifacts.glob("*/*"):  # ansible-runner leaves some of them to the umask
            artifact.chmod(0o700 if artifact.is_dir() else 0o600)
        shutil.rmtree(self.path / "tmp", ignore_errors=True)
        _end_ssh_masters(self.control_path_dir)
        shutil.rmtree(self.control_path_dir, ignore_errors=True)


def left_input(runs: Path) -> list[PrivateFolder]:
    """Return the folders in ``runs`` that still hold input: of a run that goes on, or of one that was killed."""
    return [
        PrivateFolder(path, path / _INVENTORY, path / _VARIABLES, path / _CONFIGURATION_FILE, _control_path_dir(path))
        for path in sorted(runs.glob("[0-9]*-*"))
        if (path / _INVENTORY).exists() or (path / _VARIABLES).exists()
    ]


def _control_path_dir(path: Path) -> Path:
    """Return where a run's ssh connections have their sockets; a folder that is not there when it is not known."""
    try:
        text = (path / _CONFIGURATION_FILE).read_text(encoding="utf-8")
    except OSError:
        text = ""
    match = re.search(rf"^control_path_dir = ({re.escape(_CONTROL_PARENT)}/{_CONTROL_PREFIX}\w+)$", text, re.MULTILINE)
    return Path(match[1]) if match else path / "none"


def _end_ssh_masters(folder: Path) -> None:
    for socket in folder.glob("*") if folder.is_dir() else ():
        try:
            subprocess.run(
                ["ssh", "-F", "/dev/null", "-o", f"ControlPath={socket}", "-O", "exit", "kops-py"],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=_SSH_EXIT_TIMEOUT_S,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired):
            continue  # it ends by itself after ControlPersist


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner can read, from its first byte on."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
        file.write(text)


def make_folder(runs: Path, playbook: str) -> Path:
    """Make the folder of the next run of this playbook, 0700: ``<runs>/1-prepare``, ``2-load_balancer``."""
    runs.mkdir(mode=0o700, parents=True, exist_ok=True)
    number = 1 + max((int(p.name.split("-")[0]) for p in runs.glob("[0-9]*-*")), default=0)
    while True:
        path = runs / f"{number}-{playbook}"
        try:
            path.mkdir(mode=0o700)
        except FileExistsError:  # another thread took the number
            number += 1
        else:
            return path


def write_input(
    path: Path,
    hosts: Sequence[HostSpec],
    variables: Mapping[str, Any],
    host_variables: Mapping[str, Mapping[str, Any]],
    *,
    become_password: str | None,
    connect_timeout_s: float,
    forks: int,
    accept_new_host_keys: bool,
) -> PrivateFolder:
    """Write everything a run reads.

    The sockets of ssh's shared connections lie in a folder of their own with a short path, because the path of a
    Unix socket has at most 107 characters.
    """
    control = Path(tempfile.mkdtemp(prefix=_CONTROL_PREFIX, dir=_CONTROL_PARENT))  # 0700
    folder = PrivateFolder(path, path / _INVENTORY, path / _VARIABLES, path / _CONFIGURATION_FILE, control)
    inventory = inventory_of(hosts, host_variables, become_password, accept_new_host_keys=accept_new_host_keys)
    write_private(folder.inventory, json.dumps(inventory, indent=1, default=str))
    write_private(folder.variables, json.dumps(dict(variables), indent=1, sort_keys=True))
    configuration = _CONFIGURATION.format(
        forks=forks,
        connect_timeout_s=max(1, round(connect_timeout_s)),
        local_tmp=path / "tmp",
        control_path_dir=control,
    )
    write_private(folder.configuration, configuration)
    return folder


def inventory_of(
    hosts: Sequence[HostSpec],
    host_variables: Mapping[str, Mapping[str, Any]],
    become_password: str | None,
    *,
    accept_new_host_keys: bool = False,
) -> dict[str, Any]:
    """Return the inventory for Ansible's YAML plugin: the operator's variables, then what kops-py knows."""
    entries = {
        host.name: _host_entry(host, host_variables.get(host.name, {}), become_password, accept_new_host_keys)
        for host in hosts
    }
    groups = sorted({group for host in hosts for group in host.groups} - {"all", "ungrouped"})
    children: dict[str, Any] = {
        group: {"hosts": {host.name: {} for host in hosts if group in host.groups}} for group in groups
    }
    return {"all": {"hosts": entries, "children": children}}


def _host_entry(
    host: HostSpec, extra: Mapping[str, Any], become_password: str | None, accept_new_host_keys: bool
) -> dict[str, Any]:
    entry: dict[str, Any] = {**host.variables, **extra}
    entry["ansible_host"] = host.address
    entry["ansible_port"] = host.port
    entry["ansible_become"] = host.become
    if host.connection == "local":
        entry["ansible_connection"] = "local"
    if host.user is not None:
        entry["ansible_user"] = host.user
    if host.key_file is not None:
        entry["ansible_ssh_private_key_file"] = str(host.key_file)
    if become_password is not None:
        entry["ansible_become_password"] = become_password
    entry["ansible_ssh_common_args"] = _ssh_args(host, accept_new_host_keys)
    return entry


def _ssh_args(host: HostSpec, accept_new_host_keys: bool) -> str:
    """Return the operator's ssh arguments, then ours; ssh takes the first value of an option.

    ssh would ask for an unknown host key or a passphrase on the terminal that ansible-runner gives it, and
    wait for an answer that never comes: so it is told never to ask.
    """
    args = host.ssh_args or str(host.variables.get("ansible_ssh_common_args", ""))
    checking = "accept-new" if accept_new_host_keys else "yes"
    ours = [f"-o StrictHostKeyChecking={checking}"]
    if not any(name in host.variables for name in _PASSWORD_VARIABLES):
        ours.append("-o BatchMode=yes")
    return " ".join(part for part in (args, *ours) if part)


def environment(folder: PrivateFolder, scripts: Path) -> dict[str, str]:
    """Return the environment of ansible-playbook: the caller's, without settings of Ansible that are not ours.

    A user's ansible.cfg or ANSIBLE_* variables may turn off host key checking, change the inventory or the output;
    those for vaults and collections are kept, because variables of the inventory may need them.
    """
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("ANSIBLE_") or _KEPT_ANSIBLE_VARIABLES.match(name)
    }
    return {
        **kept,
        "PATH": f"{scripts}{os.pathsep}{kept.get('PATH', os.defpath)}",
        "ANSIBLE_CONFIG": str(folder.configuration),
        "ANSIBLE_STDOUT_CALLBACK": "default",
        "ANSIBLE_HOST_KEY_CHECKING": "True",
        "ANSIBLE_NOCOLOR": "1",
        "ANSIBLE_LOCALHOST_WARNING": "False",
        "PYTHONDONTWRITEBYTECODE": "1",
        "LC_ALL": "C.UTF-8",
    }
