#!/usr/bin/python
"""Loads container images from archives into containerd, only those that are missing."""

from __future__ import annotations

import errno
import hashlib
import json
import shutil
import time
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.urls import open_url

DOCUMENTATION = r"""
module: kops_images
short_description: Load missing container images from archives
description:
  - Only archives with at least one image that containerd does not have are fetched and loaded.
  - Every archive is checked against its SHA-256 and removed after it was loaded.
options:
  url:
    description: Where images.json and the archives lie (http or https). Empty when they are in O(directory).
    type: str
    default: ""
  index:
    description: The content of images.json, when it does not come from O(url).
    type: list
    elements: dict
    default: []
  directory:
    description: Where archives are kept until they are loaded.
    type: path
    default: /var/lib/kops-py/images
  control_plane:
    description: Whether the host also needs the images of a control plane.
    type: bool
    default: false
author: [kops-py]
"""

ATTEMPTS = 3
SOCKET_TIMEOUT_S = 30
LOAD_TIMEOUT_S = 600
CHUNK_BYTES = 1 << 20
KEYS = {"file": str, "refs": list, "sha256": str, "size_bytes": int, "for": str}


class ImagesError(Exception):
    """An archive cannot be used; the text says why."""


def fetch(url: str, path: Path | None = None) -> bytes:
    """Return what is at a URL, or write it to ``path``; tried again when the network fails."""
    for attempt in range(1, ATTEMPTS + 1):
        try:
            answer = open_url(url, timeout=SOCKET_TIMEOUT_S)
            if path is not None:
                with path.open("wb") as file:
                    shutil.copyfileobj(answer, file, CHUNK_BYTES)
            return b"" if path is not None else bytes(answer.read())
        except OSError as error:  # URLError and HTTPError are OSErrors
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise
            if attempt == ATTEMPTS or 400 <= getattr(error, "code", 0) < 500:
                raise ImagesError(f"{url}: {error}") from error
        time.sleep(attempt)
    raise AssertionError("not reached")


def check_index(index: object, source: str) -> list[dict]:
    """Return the index when it has the right shape."""
    if not isinstance(index, list) or not all(
        isinstance(entry, dict) and all(isinstance(entry.get(key), kind) for key, kind in KEYS.items())
        for entry in index
    ):
        raise ImagesError(f"{source} is not a list of file, refs, sha256, size_bytes, for")
    for entry in index:
        if Path(entry["file"]).name != entry["file"]:
            raise ImagesError(f"{source}: {entry['file']!r} is not a plain file name")
    return index


def images_there(module: AnsibleModule) -> set[str]:
    """Return the images containerd has for Kubernetes."""
    status, out, err = module.run_command(["timeout", "60", "ctr", "--namespace", "k8s.io", "images", "ls", "-q"])
    if status:
        raise ImagesError(f"ctr images ls: {err.strip() or f'exit status {status}'}")
    return set(out.split())


def load(module: AnsibleModule, path: Path, entry: dict) -> None:
    """Check an archive and load it."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for chunk in iter(lambda: file.read(CHUNK_BYTES), b""):
            digest.update(chunk)
    if digest.hexdigest() != entry["sha256"]:
        raise ImagesError(f"{entry['file']}: sha256 is {digest.hexdigest()}, images.json says {entry['sha256']}")
    argv = ["timeout", str(LOAD_TIMEOUT_S), "ctr", "--namespace", "k8s.io", "images", "import", str(path)]
    status, out, err = module.run_command(argv)
    if status:
        raise ImagesError(f"ctr images import {entry['file']}: {(err or out).strip()[-2000:]}")


def load_missing(module: AnsibleModule, index: list[dict], url: str, directory: Path) -> list[str]:
    """Load every archive of which an image is missing; returns the images that came new."""
    there = images_there(module)
    wanted = [e for e in index if e["for"] == "all" or module.params["control_plane"]]
    missing = [e for e in wanted if not set(e["refs"]) <= there]
    if module.check_mode or not missing:
        return sorted(ref for e in missing for ref in e["refs"] if ref not in there)
    directory.mkdir(0o700, parents=True, exist_ok=True)
    needed = max(e["size_bytes"] for e in missing)
    if url and shutil.disk_usage(directory).free < needed:
        raise ImagesError(f"{directory}: {needed} bytes needed, {shutil.disk_usage(directory).free} free")
    for entry in missing:
        path = directory / entry["file"]
        try:
            if url:
                fetch(f"{url}/{entry['file']}", path)
            load(module, path, entry)
        finally:
            if path.exists():
                path.unlink()
    lost = {ref for e in missing for ref in e["refs"]} - images_there(module)
    if lost:
        raise ImagesError(f"the archives were loaded, but these images are not there: {', '.join(sorted(lost))}")
    return sorted(ref for e in missing for ref in e["refs"] if ref not in there)


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "url": {"type": "str", "default": ""},
            "index": {"type": "list", "elements": "dict", "default": []},
            "directory": {"type": "path", "default": "/var/lib/kops-py/images"},
            "control_plane": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    url = module.params["url"].rstrip("/")
    source = f"{url}/images.json" if url else "images.json"
    try:
        index = json.loads(fetch(source)) if url else module.params["index"]
        loaded = load_missing(module, check_index(index, source), url, Path(module.params["directory"]))
    except ImagesError as error:
        module.fail_json(msg=str(error))
    except ValueError as error:
        module.fail_json(msg=f"{source} is not JSON: {error}")
    except OSError as error:
        module.fail_json(msg=f"{error.filename or module.params['directory']}: {error.strerror or error}")
    module.exit_json(changed=bool(loaded), loaded=loaded)


if __name__ == "__main__":
    main()
