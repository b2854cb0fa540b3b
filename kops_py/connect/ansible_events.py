"""Turns ansible-runner's events into what a play did on each host."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kops_py.connect.base import AnsibleHostResult, AnsibleStatus, OnTask

_MESSAGE_LIMIT = 4000
_ITEM_LIMIT = 3
_HIDDEN = "the module's answer is hidden (no_log)"
_STARTS = {"runner_on_start"}
_ENDS = {"runner_on_ok", "runner_on_failed", "runner_on_unreachable"}
_ITEM_FAILURES = {"runner_item_on_failed"}


@dataclass(slots=True)
class _HostState:
    current_task: str = ""
    ok: int = 0
    changed_tasks: list[str] = field(default_factory=list)
    failed_items: list[Mapping[str, Any]] = field(default_factory=list)
    failed_task: str = ""
    message: str = ""
    unreachable: bool = False


class EventCollector:
    """Given each event of a run in order; ``results`` then tells how every host ended."""

    def __init__(self, hosts: Iterable[str], on_task: OnTask | None = None) -> None:
        self._hosts = {name: _HostState() for name in hosts}
        self._on_task = on_task
        self._stats: Mapping[str, Mapping[str, int]] | None = None

    @property
    def finished(self) -> bool:
        """Whether Ansible got to its own summary."""
        return self._stats is not None

    def handle(self, event: Mapping[str, Any]) -> bool:
        """Take one event; always False, which tells ansible-runner not to keep it in a file."""
        kind, data = event.get("event"), event.get("event_data") or {}
        if kind == "playbook_on_stats":
            self._stats = data
            return False
        host = self._hosts.get(str(data.get("host", "")))
        if host is None:
            return False
        task = str(data.get("task", ""))
        if kind in _STARTS:
            host.current_task = task
            host.failed_items.clear()
            if self._on_task is not None:
                self._on_task(str(data["host"]), task)
        elif kind in _ITEM_FAILURES:
            host.failed_items.append(data.get("res") or {})
        elif kind in _ENDS:
            _end_of_task(host, str(kind), task, data)
        return False

    def results(self) -> dict[str, AnsibleHostResult]:
        """Return how each host ended."""
        return {name: self._result(name, host) for name, host in self._hosts.items()}

    def _result(self, name: str, host: _HostState) -> AnsibleHostResult:
        stats = self._stats or {}
        task, message = host.failed_task, host.message
        if name in stats.get("dark", {}) or host.unreachable:
            status = AnsibleStatus.UNREACHABLE
        elif name in stats.get("failures", {}) or (self._stats is None and host.failed_task):
            status = AnsibleStatus.FAILED
        elif self._stats is not None and name in stats.get("processed", {}):
            # A task may have failed and been rescued; the play went on, so the host is fine.
            status, task, message = AnsibleStatus.OK, "", ""
        else:
            status, task = AnsibleStatus.NOT_RUN, host.current_task
        return AnsibleHostResult(
            host=name,
            status=status,
            changed=len(host.changed_tasks),
            ok=host.ok,
            task=task,
            message=message,
            changed_tasks=tuple(host.changed_tasks),
        )


def _end_of_task(host: _HostState, kind: str, task: str, data: Mapping[str, Any]) -> None:
    result = data.get("res") or {}
    failed_items = host.failed_items[:_ITEM_LIMIT]
    host.failed_items.clear()
    if kind == "runner_on_ok":
        host.ok += 1
        if result.get("changed"):
            host.changed_tasks.append(task)
        return
    if data.get("ignore_errors") or host.failed_task:
        return
    host.failed_task, host.message = task, message_of(result, failed_items)
    host.unreachable = kind == "runner_on_unreachable"


def message_of(result: Mapping[str, Any], failed_items: Sequence[Mapping[str, Any]] = ()) -> str:
    """Return what a failing module said: its message, the end of standard error, and the failing item of a loop.

    ``failed_items`` are those that had an event of their own: with ansible-core 2.21 an item in ``results`` does not
    say that it failed. Nothing is repeated from a task with no_log.
    """
    if result.get("censored") or result.get("_ansible_no_log"):
        return _HIDDEN
    items = [item for item in result.get("results") or () if isinstance(item, Mapping)]
    failed = [item for item in items if item.get("failed") or item.get("unreachable")] or failed_items
    if failed:
        return _clip("; ".join(_item_message(item) for item in failed[:_ITEM_LIMIT]))
    return _clip(_plain_message(result))


def _item_message(item: Mapping[str, Any]) -> str:
    if item.get("censored") or item.get("_ansible_no_log"):
        return _HIDDEN
    label = item.get("_ansible_item_label", item.get("item", ""))
    return f"{label}: {_plain_message(item)}" if isinstance(label, str) and label else _plain_message(item)


def _plain_message(result: Mapping[str, Any]) -> str:
    parts: list[str] = []
    for key in ("msg", "stderr", "module_stderr"):
        text = str(result.get(key) or "").strip()
        if text and not any(text in part for part in parts):
            parts.append(text)
    if not parts:
        parts.append(str(result.get("stdout") or result.get("module_stdout") or "no message").strip())
    if "rc" in result and len(parts) == 1 and result["rc"]:
        parts.append(f"exit status {result['rc']}")
    return "\n".join(parts)


def _clip(text: str) -> str:
    return text if len(text) <= _MESSAGE_LIMIT else f"{text[:1000]}\n[...]\n{text[-(_MESSAGE_LIMIT - 1000) :]}"
