"""From the bytes of a kubeconfig to a client configuration, without a key in a file that others could read."""

from __future__ import annotations

import base64
import binascii
import contextlib
import copy
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from kops_py.connect.kube_proxy import choose_proxy
from kops_py.model.errors import KubeError

_KEPT_CONNECTIONS = 64
"""Drains send many small requests at once; a connection beyond these costs a TLS handshake per request."""


@dataclass
class SecretFiles:
    """Paths for the Python TLS layer, which takes certificates and keys only as files.

    On Linux they are anonymous memory of this process (memfd), so that even a killed program leaves nothing
    behind; elsewhere files of mode 0600 in ``work_dir``, which is made 0700. close() removes them.
    """

    work_dir: Path
    in_memory: bool = hasattr(os, "memfd_create")
    _descriptors: list[int] = field(default_factory=list)
    _files: list[Path] = field(default_factory=list)

    def add(self, name: str, data: bytes) -> str:
        """Keep ``data`` and return a path that this process can open until close()."""
        if self.in_memory:
            descriptor = os.memfd_create(name)
            self._descriptors.append(descriptor)
            with os.fdopen(descriptor, "wb", closefd=False) as stream:
                stream.write(data)
            return f"/proc/self/fd/{descriptor}"
        self.work_dir.mkdir(parents=True, exist_ok=True)
        self.work_dir.chmod(0o700)
        path = self.work_dir / f"{name}-{os.getpid()}-{id(self)}"
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        self._files.append(path)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(data)
        return str(path)

    def close(self) -> None:
        """Forget everything; safe to call twice."""
        while self._descriptors:
            os.close(self._descriptors.pop())
        while self._files:
            with contextlib.suppress(FileNotFoundError):
                self._files.pop().unlink()


def client_configuration(kubeconfig: bytes, secrets: SecretFiles, *, server_override: str | None) -> Any:
    """Return a ``kubernetes.client.Configuration`` for the kubeconfig's current context.

    With ``server_override`` the connection goes there, but the certificate is still checked against the name in
    the kubeconfig (tls-server-name). Raises KubeError when the kubeconfig is not usable.
    """
    config = _read(kubeconfig)
    cluster = _current(config, "cluster", "clusters")
    user = _current(config, "user", "users")
    original = str(cluster.get("server") or "")
    if urlsplit(original).scheme not in {"http", "https"} or not urlsplit(original).hostname:
        raise KubeError(
            "the kubeconfig's cluster has no usable server", where="kubeconfig", why=f"server is {original!r}"
        )
    if server_override:
        cluster["server"] = server_override
        if urlsplit(server_override).hostname != urlsplit(original).hostname:
            cluster.setdefault("tls-server-name", urlsplit(original).hostname)
    _move_data_to_files(cluster, ("certificate-authority",), secrets)
    _move_data_to_files(user, ("client-certificate", "client-key"), secrets)
    return _load(config, str(cluster["server"]), cluster.get("proxy-url"), secrets)


def _load(config: dict[str, Any], server: str, proxy: str | None, secrets: SecretFiles) -> Any:
    from kubernetes.client.configuration import Configuration
    from kubernetes.config.config_exception import ConfigException
    from kubernetes.config.kube_config import KubeConfigLoader

    configuration = Configuration()
    try:
        loader: Any = KubeConfigLoader(config_dict=config, temp_file_path=str(secrets.work_dir))  # type: ignore[no-untyped-call]
        loader.load_and_set(configuration)
    except ConfigException as error:
        raise KubeError(
            "the kubeconfig cannot be used", where="kubeconfig", why=str(error).partition("\n")[0]
        ) from error
    # the client's own reading of proxy variables differs between its versions; ours is kubectl's
    configuration.proxy = proxy or choose_proxy(server, os.environ)
    configuration.no_proxy = ""
    configuration.connection_pool_maxsize = _KEPT_CONNECTIONS
    return configuration


def _read(kubeconfig: bytes) -> dict[str, Any]:
    import yaml

    try:
        config = yaml.load(kubeconfig, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506
    except yaml.YAMLError as error:
        # only the place: the text around it may hold a key
        mark = getattr(error, "problem_mark", None)
        place = f"kubeconfig:{mark.line + 1}:{mark.column + 1}" if mark else "kubeconfig"
        raise KubeError("the kubeconfig is not YAML", where=place) from None
    if not isinstance(config, dict):
        raise KubeError("the kubeconfig is not a mapping", where="kubeconfig")
    return copy.deepcopy(config)


def _current(config: dict[str, Any], kind: str, section: str) -> dict[str, Any]:
    """Return the cluster or user of the current context, as the very object inside ``config``."""
    context = _named(config, "contexts", str(config.get("current-context") or ""))
    name = str((context.get("context") or {}).get(kind) or "")
    entry = _named(config, section, name)
    value = entry.get(kind)
    if not isinstance(value, dict):
        raise KubeError(f"the kubeconfig's {kind} {name!r} is empty", where="kubeconfig")
    return value


def _named(config: dict[str, Any], section: str, name: str) -> dict[str, Any]:
    for entry in config.get(section) or []:
        if isinstance(entry, dict) and entry.get("name") == name:
            return entry
    raise KubeError(f"the kubeconfig has no entry {name!r} under {section}", where="kubeconfig")


def _move_data_to_files(holder: dict[str, Any], names: tuple[str, ...], secrets: SecretFiles) -> None:
    """Replace ``<name>-data`` by a path of ours: the client's own temporary files outlive it in /tmp."""
    for name in names:
        encoded = holder.pop(f"{name}-data", None)
        if not encoded:
            continue
        try:
            data = base64.b64decode(str(encoded), validate=False)
        except (binascii.Error, ValueError):
            raise KubeError(f"{name}-data is not base64", where="kubeconfig") from None
        holder[name] = secrets.add(name, data)
