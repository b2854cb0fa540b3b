"""Runs the shipped playbooks through ansible-runner: one call per wave of hosts."""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from kops_py.connect.ansible_events import EventCollector
from kops_py.connect.ansible_files import PrivateFolder, environment, make_folder, write_input
from kops_py.connect.ansible_processes import end_children
from kops_py.connect.base import AnsibleResult, Cancel, OnTask
from kops_py.connect.resources import data_dir
from kops_py.model.errors import AnsibleError
from kops_py.model.spec import HostSpec

_POLL_S = 0.25
"""How often a run looks at its time limit and at the request to end."""
_MAX_FORKS = 100
_LOG_TAIL_LINES = 25
_NOT_PLAYBOOKS = {".pyc", ".md"}


class AnsibleRunner:
    """Implements ``Ansible``.

    ``runs`` is a folder (made 0700) that gets one folder per call; what may hold a secret is removed from it when
    the call ends. ``become_password`` is asked once per call.
    """

    def __init__(
        self,
        runs: Path,
        *,
        become_password: Callable[[], str | None] | None = None,
        connect_timeout_s: float = 15.0,
        accept_new_host_keys: bool = False,
        playbooks: Path | None = None,
    ) -> None:
        self._runs = runs
        self._become_password = become_password
        self._connect_timeout_s = connect_timeout_s
        self._accept_new_host_keys = accept_new_host_keys
        self._playbooks = playbooks

    def run(
        self,
        playbook: str,
        hosts: Sequence[HostSpec],
        variables: Mapping[str, Any],
        *,
        timeout_s: float,
        host_variables: Mapping[str, Mapping[str, Any]] | None = None,
        on_task: OnTask | None = None,
        cancel: Cancel | None = None,
        check_mode: bool = False,
    ) -> AnsibleResult:
        """Run ``playbook`` (``prepare`` or ``prepare.yml``) on these hosts.

        The result tells failed and unreachable hosts apart; its ``problem`` is set when the play ended without a
        summary (a syntax error, ``timeout_s`` over). Raises AnsibleError when nothing could run at all, and
        CancelledError when ``cancel`` was set; Ansible has ended by then.
        """
        if cancel is not None:
            cancel.check()
        scripts = _scripts_folder()
        path = self._playbook(playbook)
        collector = EventCollector((host.name for host in hosts), on_task)
        if not hosts:
            return AnsibleResult({}, Path(os.devnull), 0.0)
        begun = time.monotonic()
        folder = self._write_input(path.stem, hosts, variables, host_variables or {})
        try:
            runner = _make_runner(folder, path, scripts, collector, timeout_s, cancel, check_mode=check_mode)
            runner.run()
        finally:
            folder.remove_input()
        if cancel is not None:
            cancel.check()
        log_path = Path(runner.config.artifact_dir) / "stdout"
        problem = None
        if runner.timed_out:
            problem = AnsibleError(
                f"the playbook {path.stem} did not end within {timeout_s:.0f} s",
                why=_unfinished(collector),
                hint=f"see {log_path}; the same command goes on",
            )
        elif not collector.finished:
            problem = AnsibleError(
                f"the playbook {path.stem} could not run", why=_tail(log_path), hint=f"see {log_path}"
            )
        return AnsibleResult(collector.results(), log_path, time.monotonic() - begun, problem)

    def _playbook(self, name: str) -> Path:
        try:
            folder = self._playbooks or data_dir("playbooks")
        except FileNotFoundError as error:
            raise AnsibleError(str(error)) from error
        path = folder / (name if name.endswith((".yml", ".yaml")) else f"{name}.yml")
        if not path.is_file():
            raise AnsibleError(f"there is no playbook {name}", where=str(path), hint="install kops-py again")
        return path.resolve()

    def _write_input(
        self,
        playbook: str,
        hosts: Sequence[HostSpec],
        variables: Mapping[str, Any],
        host_variables: Mapping[str, Mapping[str, Any]],
    ) -> PrivateFolder:
        password = self._become_password() if self._become_password is not None else None
        try:
            return write_input(
                make_folder(self._runs.resolve(), playbook),
                hosts,
                variables,
                host_variables,
                become_password=password,
                connect_timeout_s=self._connect_timeout_s,
                forks=min(len(hosts), _MAX_FORKS),
                accept_new_host_keys=self._accept_new_host_keys,
            )
        except OSError as error:
            raise AnsibleError(
                "the folder for Ansible's input cannot be written", where=str(self._runs), why=str(error)
            ) from error


def playbooks_fingerprint(folder: Path | None = None) -> str:
    """Return a SHA-256 over names and contents of the shipped playbooks; it changes when any of them does."""
    folder = folder or data_dir("playbooks")
    digest = hashlib.sha256()
    files = (p for p in folder.rglob("*") if p.is_file() and p.suffix not in _NOT_PLAYBOOKS)
    for path in sorted(files, key=lambda p: p.relative_to(folder).as_posix()):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(folder).as_posix()}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()


def _scripts_folder() -> Path:
    """Return where ansible-playbook is: beside the Python that runs us, or on PATH."""
    beside = Path(sys.executable).parent
    if (beside / "ansible-playbook").is_file():
        return beside
    found = shutil.which("ansible-playbook")
    if found is None:
        raise AnsibleError(
            "ansible-playbook is not there",
            where=str(beside),
            hint=f"{sys.executable} -m pip install --force-reinstall kops-py",
        )
    return Path(found).parent


_BECOME_BOUND = """\
import ctypes, os, sys
try:
    ctypes.CDLL(None).prctl(1, 15, 0, 0, 0)
except (OSError, AttributeError):
    pass
if os.getppid() == int(sys.argv[1]):
    os.execvp(sys.argv[2], sys.argv[2:])
"""

# A kops-py that was killed must not leave a playbook behind that works beside the next run's: the kernel ends it
# with the thread that waits for it (PR_SET_PDEATHSIG). Where there is no prctl it runs on, and both are idempotent.
_WITH_US = (
    sys.executable,
    "-S",
    "-E",
    "-c",
    _BECOME_BOUND,
)


def _make_runner(
    folder: PrivateFolder,
    playbook: Path,
    scripts: Path,
    collector: EventCollector,
    timeout_s: float,
    cancel: Cancel | None,
    *,
    check_mode: bool,
) -> Any:
    """Return a runner that is ready to run.

    It is made without ansible_runner.run(), because that one writes input files of its own and, in the main
    thread, replaces the program's signal handlers.
    """
    from ansible_runner import Runner, RunnerConfig

    class WholeTreeRunner(Runner):  # type: ignore[misc]
        """Ends the workers, too: since ansible-core 2.19 each is in a session of its own.

        ``kill_container`` is what ansible-runner calls on itself right before it ends ansible-playbook.
        """

        def kill_container(self) -> None:
            end_children(str(folder.inventory))

    config = RunnerConfig(
        private_data_dir=str(folder.path),
        project_dir=str(playbook.parent),
        playbook=str(playbook),
        inventory=str(folder.inventory),
        cmdline=f"--extra-vars @{_quoted(folder.variables)}{' --check' if check_mode else ''}",
        envvars=environment(folder, scripts),
        settings={},
        fact_cache_type="memory",
        ident="run",
        timeout=max(1, round(timeout_s)),
        quiet=True,
    )
    config.prepare()
    config.pexpect_timeout = _POLL_S
    config.command = [*_WITH_US, str(os.getpid()), *config.command]
    # RunnerConfig began with the whole environment of this process; ours has Ansible's settings filtered out.
    own = environment(folder, scripts)
    config.env = {k: v for k, v in config.env.items() if k in own or k not in os.environ}

    def forget_command(status: Mapping[str, Any], runner_config: Any) -> None:
        if status["status"] == "running":  # the file holds the whole environment, secrets of the caller included
            Path(runner_config.artifact_dir, "command").unlink(missing_ok=True)

    return WholeTreeRunner(
        config,
        event_handler=collector.handle,
        status_handler=forget_command,
        cancel_callback=lambda: cancel is not None and cancel.is_set,
    )


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))


def _tail(log_path: Path) -> str:
    try:
        lines = log_path.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    except OSError as error:
        return str(error)
    return "\n".join(lines[-_LOG_TAIL_LINES:]) or "Ansible said nothing"


def _unfinished(collector: EventCollector) -> str:
    at = [f"{r.host} in {r.task!r}" for r in collector.results().values() if r.status == "not-run" and r.task]
    return "unfinished: " + ", ".join(at) if at else ""
