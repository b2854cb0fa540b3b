"""The inventory as Ansible reads it: ``ansible-inventory --list`` as a subprocess."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from kops_py.config.problems import Place, Problems
from kops_py.config.sources import Files

Listing = dict[str, Any]

_DEADLINE_S = 30.0
_LONGEST_MESSAGE = 400
_ORIGIN = re.compile(r"^Origin: (?P<file>/.*?)(?::(?P<line>\d+))?(?::(?P<column>\d+))?$")
_MESSAGE = re.compile(r"^(?:\[(?:ERROR|WARNING)\]: |ERROR! )(?P<text>.*)$")
_GENERAL = re.compile(r"No inventory was parsed|Unable to parse .* as an inventory source|Completely failed to parse")
# A message may end with the line it could not read, and that line may hold a password.
_QUOTED_INPUT = re.compile(r",? got: .*$")


def list_inventory(files: Files, *, deadline_s: float = _DEADLINE_S) -> Listing:
    """Return Ansible's JSON listing of the sources; raises ConfigError with Ansible's own words.

    The operator's environment and ansible.cfg count as with any Ansible command; only a source that cannot be read
    is an error here where Ansible would warn and go on without its hosts.
    """
    problems = Problems()
    start = Place(str(files.scanned[0] if files.scanned else files.inventory))
    argv = [_program(start, problems), "--list"]
    for source in files.sources:
        argv += ["-i", str(source.absolute())]
    # in place of ~/.ansible/tmp: who runs CI or a scheduler often has no home that can be written
    with tempfile.TemporaryDirectory(prefix="kops-py-") as folder:
        status, out, err = _run(argv, _environment(folder), start, problems, deadline_s)
    if status != 0:
        _tell(err, status, files, start, problems)
    try:
        listing = json.loads(out)
    except (ValueError, RecursionError):
        problems.fail(start, "ansible-inventory printed something that is not JSON")
    if not isinstance(listing, dict):
        problems.fail(start, "ansible-inventory printed something that is not a map")
    return listing


def _program(start: Place, problems: Problems) -> str:
    beside = Path(sys.executable).with_name("ansible-inventory")
    found = str(beside) if beside.is_file() else shutil.which("ansible-inventory")
    if found is None:
        problems.fail(start, "ansible-inventory is not installed", hint="pip install ansible-core")
    return found


def _environment(local_temp: str) -> dict[str, str]:
    environment = dict(os.environ)
    environment.update(
        ANSIBLE_INVENTORY_ANY_UNPARSED_IS_FAILED="true",
        ANSIBLE_INVENTORY_UNPARSED_FAILED="true",
        ANSIBLE_DEPRECATION_WARNINGS="false",
        ANSIBLE_FORCE_COLOR="false",
        ANSIBLE_NOCOLOR="true",
        ANSIBLE_VERBOSITY="0",
        ANSIBLE_LOCAL_TEMP=local_temp,
        LC_ALL="C.UTF-8",
    )
    return environment


def _run(
    argv: list[str], environment: dict[str, str], start: Place, problems: Problems, deadline_s: float
) -> tuple[int, str, str]:
    try:
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        problems.fail(start, "ansible-inventory cannot be started", why=str(error))
    try:
        out, err = process.communicate(timeout=deadline_s)
    except subprocess.TimeoutExpired:
        problems.fail(
            start,
            f"ansible-inventory did not end within {deadline_s:g} s",
            hint=f"try it by hand: ansible-inventory -i {start.file} --list",
        )
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return process.returncode, out.decode("utf-8", "replace"), err.decode("utf-8", "replace")


def _tell(err: str, status: int, files: Files, start: Place, problems: Problems) -> None:
    """Turn Ansible's messages into problems; the source lines it quotes are left out."""
    hint = f"see it by hand: ansible-inventory -i {files.inventory} --list"
    if "vault" in err.lower():
        hint = "name the vault's password: export ANSIBLE_VAULT_PASSWORD_FILE=FILE"
    text = ""
    general = ""
    for line in err.splitlines():
        message, origin = _MESSAGE.match(line), _ORIGIN.match(line)
        if message is not None:
            if text:
                problems.add(start, "Ansible cannot read the inventory", why=text, hint=hint)
            text = _clean(_QUOTED_INPUT.sub("", message["text"]))
            if _GENERAL.search(text):
                general, text = text, ""
        elif origin is not None and text:
            place = Place(_as_given(origin["file"], files), int(origin["line"] or 1), int(origin["column"] or 1))
            problems.add(place, "Ansible cannot read the inventory", why=text, hint=hint)
            text = ""
    if text:
        problems.add(start, "Ansible cannot read the inventory", why=text, hint=hint)
    if not problems:
        problems.add(start, "Ansible cannot read the inventory", why=general or f"exit status {status}", hint=hint)
    problems.raise_if_any()


def _clean(text: str) -> str:
    """Return a message without anything that could act on a terminal, and not longer than a person reads."""
    return "".join(c if c.isprintable() else "?" for c in text)[:_LONGEST_MESSAGE]


def _as_given(file: str, files: Files) -> str:
    for path in files.scanned:
        if str(path.absolute()) == file:
            return str(path)
    return file
