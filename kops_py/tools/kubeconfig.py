"""Kubeconfig files: named after their cluster, and merged into an existing one without harming it."""

from __future__ import annotations

import base64
import binascii
import copy
import os
import secrets
from functools import cache
from pathlib import Path
from typing import Any

from kops_py.model.errors import ConfigError

_SECTIONS = ("clusters", "contexts", "users")


def rename(kubeconfig: bytes, cluster: str, server: str | None) -> bytes:
    """Return the current context of ``kubeconfig`` alone, under names that tell clusters apart.

    Cluster and context are named ``cluster``, the user ``<cluster>-admin``; ``server`` replaces the URL if given.
    Unknown fields stay. Raises ConfigError when the kubeconfig has no complete current context.
    """
    config = _read(kubeconfig, "kubeconfig")
    context = _entry(config, "contexts", str(config.get("current-context") or ""), "kubeconfig")
    inner = _mapping(context, "context")
    cluster_entry = _entry(config, "clusters", str(inner.get("cluster") or ""), "kubeconfig")
    user_entry = _entry(config, "users", str(inner.get("user") or ""), "kubeconfig")
    user = f"{cluster}-admin"
    cluster_value = dict(_mapping(cluster_entry, "cluster"))
    if server:
        cluster_value["server"] = server
    result = {
        **config,
        "clusters": [{**cluster_entry, "name": cluster, "cluster": cluster_value}],
        "contexts": [{**context, "name": cluster, "context": {**inner, "cluster": cluster, "user": user}}],
        "users": [{**user_entry, "name": user}],
        "current-context": cluster,
    }
    return _write(result)


def merge(
    existing: bytes,
    new: bytes,
    *,
    make_current: bool = False,
    force: bool = False,
    where: str = "existing kubeconfig",
) -> bytes:
    """Return ``existing`` with the entries of ``new`` in it; everything else stays, in its order.

    Entries of the same name are replaced when they belong to the same cluster: the same certificate authority.
    Another cluster's are replaced only with ``force``. The current context stays unless ``make_current`` or there
    was none. Comments are lost. Raises ConfigError, which calls the existing file ``where``; neither input is quoted.
    """
    old, added = _read(existing, where), _read(new, "new kubeconfig")
    if old.get("kind", "Config") != "Config":
        raise ConfigError("this file is no kubeconfig", where=where, hint="choose another place with --file")
    result = copy.deepcopy(old)
    if not force:
        _refuse_foreign(old, added, where)
    for section in _SECTIONS:
        result[section] = _merge_section(_entries(old, section, where), _entries(added, section, "new kubeconfig"))
    for key, value in added.items():
        result.setdefault(key, value)
    if make_current or not old.get("current-context"):
        result["current-context"] = added.get("current-context") or old.get("current-context") or ""
    result.setdefault("apiVersion", "v1")
    result.setdefault("kind", "Config")
    return _write(result)


def write_private(path: Path, data: bytes) -> None:
    """Write a file only its owner can read, in one move: flushed beside it, then renamed; missing folders 0700.

    A symbolic link is followed, so that a kubeconfig kept elsewhere stays one. Raises OSError.
    """
    target = path.resolve()
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        partial.replace(target)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    folder = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _refuse_foreign(old: dict[str, Any], added: dict[str, Any], where: str) -> None:
    """Raise ConfigError when an entry of ``added`` would replace one that belongs to another cluster."""
    for section, kind in (("clusters", "cluster"), ("contexts", "context"), ("users", "user")):
        for entry in _entries(added, section, "new kubeconfig"):
            name = str(entry.get("name") or "")
            twin = next((e for e in _entries(old, section, where) if e.get("name") == name), None)
            if twin is None or _authority(old, section, twin) & _authority(added, section, entry):
                continue
            if twin == entry and section != "contexts":
                continue
            raise ConfigError(
                f"the kubeconfig already has a {kind} {name!r} of another cluster",
                where=where,
                why="its certificate authority is not this cluster's; if the cluster was built anew, it is stale",
                hint="remove the old entry (kubectl config delete-"
                f"{kind} {name}), give this cluster another name, or replace it with --force",
            )


def _authority(config: dict[str, Any], section: str, entry: dict[str, Any]) -> set[str]:
    """Return what identifies the clusters an entry belongs to; a user belongs to those its contexts name."""
    if section == "clusters":
        names = {str(entry.get("name"))}
    elif section == "contexts":
        names = {str(_inner(entry, "context").get("cluster"))}
    else:
        contexts = [_inner(c, "context") for c in _entries(config, "contexts", "kubeconfig")]
        names = {str(c.get("cluster")) for c in contexts if c.get("user") == entry.get("name")}
    return {
        _authority_of(_inner(e, "cluster"))
        for e in _entries(config, "clusters", "kubeconfig")
        if str(e.get("name")) in names
    }


def _authority_of(cluster: dict[str, Any]) -> str:
    """Return the certificate authority's bytes or path; without one, the server tells clusters apart."""
    encoded = cluster.get("certificate-authority-data")
    if encoded:
        try:
            return base64.b64decode(str(encoded)).strip().hex()
        except (binascii.Error, ValueError):
            return str(encoded)
    return str(cluster.get("certificate-authority") or cluster.get("server") or "")


def _inner(entry: dict[str, Any], key: str) -> dict[str, Any]:
    """Return what an entry holds, nothing when it is not a mapping: other people's entries need not be sound."""
    value = entry.get(key)
    return value if isinstance(value, dict) else {}


def _merge_section(old: list[dict[str, Any]], added: list[dict[str, Any]]) -> list[dict[str, Any]]:
    replacements = {str(entry.get("name")): entry for entry in added}
    merged = [replacements.pop(str(entry.get("name")), entry) for entry in old]
    return merged + [entry for entry in added if str(entry.get("name")) in replacements]


def _read(data: bytes, what: str) -> dict[str, Any]:
    import yaml

    try:
        value = yaml.load(data, Loader=_loader()) if data.strip() else {}  # noqa: S506 - a SafeLoader
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        # only the place: the text around it may hold a key
        mark = getattr(error, "problem_mark", None)
        place = f"{what}:{mark.line + 1}:{mark.column + 1}" if mark else what
        raise ConfigError("this kubeconfig is not YAML", where=place, hint="repair or move the file") from None
    except RecursionError:
        raise ConfigError("this kubeconfig is nested too deeply", where=what, hint="repair or move the file") from None
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ConfigError("this kubeconfig is not a mapping", where=what, hint="repair or move the file")
    return value


@cache
def _loader() -> Any:
    """Return a safe YAML loader that leaves dates as the text they are, to be written back unchanged."""
    import yaml

    resolvers = {
        first: [(tag, pattern) for tag, pattern in known if not tag.endswith(":timestamp")]
        for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    return type("Loader", (yaml.SafeLoader,), {"yaml_implicit_resolvers": resolvers})


def _entries(config: dict[str, Any], section: str, what: str) -> list[dict[str, Any]]:
    entries = config.get(section)
    if entries is None:
        return []
    if not isinstance(entries, list) or not all(isinstance(e, dict) and e.get("name") for e in entries):
        raise ConfigError(f"{section} is not a list of named entries", where=what, hint="repair or move the file")
    return entries


def _entry(config: dict[str, Any], section: str, name: str, what: str) -> dict[str, Any]:
    for entry in _entries(config, section, what):
        if entry["name"] == name:
            return entry
    raise ConfigError(f"the kubeconfig has no entry {name!r} under {section}", where=what)


def _mapping(entry: dict[str, Any], key: str) -> dict[str, Any]:
    value = entry.get(key)
    if not isinstance(value, dict):
        raise ConfigError(f"the kubeconfig's {key} {entry['name']!r} is empty", where="kubeconfig")
    return value


def _write(config: dict[str, Any]) -> bytes:
    import yaml

    # as one line each: wrapped base64 is valid, but no other tool writes it so
    text: str = yaml.safe_dump(config, sort_keys=False, width=2**31 - 1)
    return text.encode()
