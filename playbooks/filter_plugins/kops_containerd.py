"""Edits containerd's configuration as parsed TOML, for the configuration versions 2, 3 and 4.

containerd 1.x writes version 2, 2.x version 3, 2.3 and later version 4, where the container-runtime sections lie
as in version 3. The text is always made from the installed binary's own ``containerd config default``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from ansible.errors import AnsibleFilterError

CRI = "io.containerd.grpc.v1.cri"
RUNTIME, IMAGES = "io.containerd.cri.v1.runtime", "io.containerd.cri.v1.images"
KNOWN_VERSIONS = (2, 3, 4)
CNI_FOLDER = "/opt/cni/bin"
CERTS_FOLDER = "/etc/containerd/certs.d"
MANAGED = "# Managed by kops-py; changes are overwritten."
# Where the registry of these names really answers.
SERVERS = {"docker.io": "https://registry-1.docker.io"}


def _section(config: dict[str, Any], *path: str) -> dict[str, Any]:
    """Return the table at this path; it is made when it is missing."""
    for name in path:
        config = config.setdefault(name, {})
    return config


def containerd_config(default: str, sandbox_image: str) -> str:
    """Return the configuration for a kubeadm node, from the output of ``containerd config default``.

    Set are: the systemd cgroup driver, the pause image, the folder of registry settings, /opt/cni/bin as (one)
    place of CNI plugins, and that the container-runtime plugin is on. All else stays as the binary has it.
    """
    try:
        import tomllib

        import tomli_w
    except ImportError as error:
        raise AnsibleFilterError(
            f"the Python that runs Ansible lacks {error.name}: it must be 3.11 or newer, with tomli-w installed"
        ) from error
    try:
        config = tomllib.loads(default)
    except tomllib.TOMLDecodeError as error:
        raise AnsibleFilterError(f"'containerd config default' did not print TOML: {error}") from error
    version = config.get("version")
    if version not in KNOWN_VERSIONS:
        raise AnsibleFilterError(f"containerd's configuration has version {version!r}; known are 2, 3 and 4")
    plugins = config.setdefault("plugins", {})
    if version == 2:
        runtime = images = _section(plugins, CRI)
        images["sandbox_image"] = sandbox_image
        off = {"cri", CRI}
    else:
        runtime, images = _section(plugins, RUNTIME), _section(plugins, IMAGES)
        _section(images, "pinned_images")["sandbox"] = sandbox_image
        off = {"cri", CRI, RUNTIME, IMAGES}
    _section(runtime, "containerd", "runtimes", "runc", "options")["SystemdCgroup"] = True
    _section(images, "registry")["config_path"] = CERTS_FOLDER
    cni = _section(runtime, "cni")
    if "bin_dirs" in cni:
        cni["bin_dirs"] = [CNI_FOLDER, *(d for d in cni["bin_dirs"] if d != CNI_FOLDER)]
    else:
        cni["bin_dir"] = CNI_FOLDER
    config["disabled_plugins"] = [p for p in config.get("disabled_plugins", []) if p not in off]
    return f"{MANAGED}\n{tomli_w.dumps(config)}"


def _quoted(text: str) -> str:
    """Return a TOML basic string; JSON's escapes are a subset of TOML's."""
    return json.dumps(text)


def registry_files(mirrors: Mapping[str, Iterable[str]]) -> list[dict[str, str]]:
    """Return one hosts.toml per registry; its mirrors are asked in order, the registry itself last."""
    files = []
    for registry in sorted(mirrors):
        lines = [MANAGED]
        if registry != "_default":
            lines.append(f"server = {_quoted(SERVERS.get(registry, f'https://{registry}'))}")
        for mirror in mirrors[registry]:
            lines += ["", f"[host.{_quoted(mirror)}]", '  capabilities = ["pull", "resolve"]']
        files.append({"path": f"{CERTS_FOLDER}/{registry}/hosts.toml", "content": "\n".join(lines) + "\n"})
    return files


class FilterModule:
    """What Ansible loads."""

    def filters(self) -> dict[str, Any]:
        """Return the filters by name."""
        return {"kops_containerd_config": containerd_config, "kops_registry_files": registry_files}
