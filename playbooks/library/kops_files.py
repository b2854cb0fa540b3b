#!/usr/bin/python
"""Writes several small text files in one call."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: kops_files
short_description: Write several small text files
description:
  - One call for all files of a role, because each task costs a quarter of a second per batch of hosts.
  - Each file appears whole or not at all.
options:
  files:
    description: The files that must exist with this content, owned by root.
    type: list
    elements: dict
    default: []
    suboptions:
      path:
        description: Where.
        type: path
        required: true
      content:
        description: The whole content.
        type: str
        required: true
      mode:
        description: Permissions of the file.
        type: str
        default: "0644"
      folder_mode:
        description: Permissions of a parent folder that has to be made.
        type: str
        default: "0755"
  absent:
    description: Files that must not exist.
    type: list
    elements: path
    default: []
author: [kops-py]
"""


def current(path: str) -> bytes | None:
    """Return the content of a file, or None when there is none."""
    try:
        return Path(path).read_bytes()
    except FileNotFoundError:
        return None


def write(module: AnsibleModule, path: str, content: bytes, mode: str, folder_mode: str) -> bool:
    """Bring one file to its content and mode; whether something changed."""
    folder = Path(path).parent
    same = current(path) == content
    if module.check_mode:
        return not same or module.set_mode_if_different(path, mode, False)
    if not same:
        if not folder.is_dir():
            folder.mkdir(parents=True)
            folder.chmod(int(folder_mode, 8))
        handle, partial = tempfile.mkstemp(dir=module.tmpdir)
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        Path(partial).chmod(int(mode, 8))
        module.atomic_move(partial, path)
    return bool(module.set_mode_if_different(path, mode, not same))


def main() -> None:
    """Run the module."""
    file_options = {
        "path": {"type": "path", "required": True},
        "content": {"type": "str", "required": True},
        "mode": {"type": "str", "default": "0644"},
        "folder_mode": {"type": "str", "default": "0755"},
    }
    module = AnsibleModule(
        argument_spec={
            "files": {"type": "list", "elements": "dict", "options": file_options, "default": []},
            "absent": {"type": "list", "elements": "path", "default": []},
        },
        supports_check_mode=True,
    )
    paths: list[str] = []
    path = ""
    try:
        for wanted in module.params["files"]:
            path = wanted["path"]
            content = wanted["content"].encode("utf-8")
            if write(module, path, content, wanted["mode"], wanted["folder_mode"]):
                paths.append(path)
        for path in module.params["absent"]:
            if os.path.lexists(path):
                paths.append(path)
                if not module.check_mode:
                    Path(path).unlink()
    except OSError as error:
        module.fail_json(msg=f"{path}: {error.strerror or error}", changed_paths=paths)
    module.exit_json(changed=bool(paths), changed_paths=paths)


if __name__ == "__main__":
    main()
