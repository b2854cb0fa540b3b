"""crictl: argv and output of what is asked of the container runtime."""

from __future__ import annotations

from collections.abc import Collection


def containers_argv(name: str) -> tuple[str, ...]:
    """Return the command that prints the ids of the running containers of this name (a pattern to crictl)."""
    return ("crictl", "ps", "--name", f"^{name}$", "-q")


def running_argv() -> tuple[str, ...]:
    """Return the command that prints the whole ids of all running containers."""
    return ("crictl", "ps", "--quiet", "--no-trunc")


def parse_ids(output: str) -> frozenset[str]:
    """Return the ids ``crictl ps -q`` printed."""
    return frozenset(line.strip() for line in output.splitlines() if line.strip())


def stop_argv(ids: Collection[str], *, timeout_s: int) -> tuple[str, ...]:
    """Return the command that stops containers, gracefully for ``timeout_s`` seconds."""
    return ("crictl", "stop", "--timeout", str(timeout_s), *sorted(ids))
