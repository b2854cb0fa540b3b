"""crictl: argv and output of what is asked of the container runtime."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

JsonObject = dict[str, Any]


def containers_argv(name: str) -> tuple[str, ...]:
    """Return the command that prints the ids of the running containers of this name (a pattern to crictl)."""
    return ("crictl", "ps", "--name", f"^{name}$", "-q")


def all_containers_argv(name: str) -> tuple[str, ...]:
    """Return the command that prints the ids of all containers of this name, of those that have ended as well."""
    return ("crictl", "ps", "-a", "--name", f"^{name}$", "-q")


def running_argv() -> tuple[str, ...]:
    """Return the command that prints the whole ids of all running containers."""
    return ("crictl", "ps", "--quiet", "--no-trunc")


def parse_ids(output: str) -> frozenset[str]:
    """Return the ids ``crictl ps -q`` printed."""
    return frozenset(line.strip() for line in output.splitlines() if line.strip())


def stop_argv(ids: Collection[str], *, timeout_s: int) -> tuple[str, ...]:
    """Return the command that stops containers, gracefully for ``timeout_s`` seconds."""
    return ("crictl", "stop", "--timeout", str(timeout_s), *sorted(ids))


def pods_json_argv() -> tuple[str, ...]:
    """Return the command that prints all pod sandboxes as JSON."""
    return ("crictl", "pods", "-o", "json")


def running_json_argv() -> tuple[str, ...]:
    """Return the command that prints all running containers as JSON."""
    return ("crictl", "ps", "-o", "json")


def containers_of(pods: JsonObject, containers: JsonObject, namespaces: Collection[str]) -> frozenset[str]:
    """Return the ids of running containers in these namespaces, without those of static pods."""
    static = {
        str(p.get("id"))
        for p in pods.get("items") or ()
        if (p.get("annotations") or {}).get("kubernetes.io/config.source", "api") != "api"
    }
    return frozenset(
        str(c.get("id"))
        for c in containers.get("containers") or ()
        if (c.get("labels") or {}).get("io.kubernetes.pod.namespace") in namespaces
        and str(c.get("podSandboxId")) not in static
    )


def ready_pods(pods: JsonObject) -> list[str]:
    """Return ``namespace/name`` of the pod sandboxes that are up."""
    return [
        f"{p['metadata'].get('namespace')}/{p['metadata'].get('name')}"
        for p in pods.get("items") or ()
        if p.get("state") == "SANDBOX_READY" and isinstance(p.get("metadata"), dict)
    ]
