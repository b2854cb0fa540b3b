"""docs/cluster-yaml.md from the JSON Schema: ``python -m kops_py.config.reference > docs/cluster-yaml.md``."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

from kops_py.config.schema import json_schema

_BEGINNING = """\
# cluster.yaml

<!-- Made by `python -m kops_py.config.reference > docs/cluster-yaml.md`; a test compares it. Do not edit. -->

One file a cluster, beside the Ansible inventory. `kops-py init DIR --topology single|stacked|external-etcd` writes
a commented pair, `kops-py validate` checks both without contacting anything, `kops-py schema` prints the JSON
Schema for editors (named in the file by `# yaml-language-server: $schema=cluster.schema.json`).

The format is strict: an unknown key, a key given twice or a value of the wrong type is an error that names file,
line and column. Paths are relative to cluster.yaml. Versions must be text: `"1.7"` in quotes, or YAML reads a
number.

The least there can be:

```yaml
apiVersion: kops-py/v1
kind: Cluster
metadata:
  name: prod
kubernetes:
  version: v1.34.2
network:
  cni:
    type: manifest
    file: ./cni.yaml
```
"""

_END = """\
## Secrets

A secret never stands in a file of kops-py. Where one is needed, a reference names it:

| Reference | Stands for |
| --- | --- |
| `env:NAME` | the environment variable NAME |
| `file:PATH` | the content of a file that others on the machine cannot read (`chmod 600 PATH`) |
| `cmd:COMMAND` | what a command prints within 30 seconds; run without a shell, such as `cmd:pass show sudo/prod` |

## Inventory

Any Ansible inventory works: YAML, INI, a directory, a script or an inventory plugin; it is read through
`ansible-inventory --list`. `-i DIR` looks for `hosts.yaml`, `hosts.yml`, `hosts.ini`, `inventory.ini`,
`inventory.yaml`, `inventory.yml` or `hosts` in the folder, and takes the folder as an inventory directory when
there is none of them; `-i FILE` names the file. cluster.yaml stands beside it, or is named on its own.

| Group | Hosts |
| --- | --- |
| `kube_control_plane` (or `kube-master`) | control planes |
| `kube_node` (or `kube-node`) | nodes that run pods; a control plane in here too is not tainted |
| `etcd` | members of an external etcd; the same hosts as the control planes, or none, mean stacked etcd |
| `load_balancer` | haproxy in front of the API servers; the first one's address is the endpoint |

Other groups and their hosts are ignored. Host names become node names: lower-case letters, digits, `-` and `.`.

| Variable | Meaning |
| --- | --- |
| `ansible_host` | address for SSH; the host's name when not given |
| `ip` | address in the cluster; `ansible_host` when not given, which must be an IP address then |
| `access_ip` | address other hosts use, where it is not `ip` |
| `ansible_port`, `ansible_user` | SSH port (22) and user |
| `ansible_ssh_private_key_file` | SSH key |
| `ansible_ssh_common_args`, `ansible_ssh_extra_args` | further SSH options |
| `ansible_become` | whether sudo is used; true unless the user is root |
| `ansible_connection` | `ssh` or `local` |
| `node_labels` | map of labels |
| `node_taints` | list of `key=value:Effect`; on a control plane they come on top of its own (see `kube_node`) |
| `etcd_member_name` | name of the external etcd member; the host's name when not given |

Values must be plain: a template (`{{ ... }}`) in one of these variables is refused, as kops-py does not evaluate
templates.
"""


def reference() -> str:
    """Return the page."""
    schema = json_schema()
    parts = [_BEGINNING, *_sections(schema, schema, (), set()), _END]
    return "\n".join(parts)


def _sections(schema: dict[str, Any], node: dict[str, Any], path: tuple[str, ...], shown: set[str]) -> Iterator[str]:
    """Yield the section of a map and those of the maps below it; each kind of map once (``shown`` keys so far)."""
    title = f"## `{'.'.join(path)}`" if path else "## All keys"
    rows = ["| Key | Type | Default | Meaning |", "| --- | --- | --- | --- |"]
    below = []
    required = node.get("required", [])
    for name, given in node["properties"].items():
        body = _resolved(schema, given)
        item = _resolved(schema, body.get("items", {}))
        if "properties" in _resolved(schema, _only(body)):
            below.append((name, _resolved(schema, _only(body))))
        elif "properties" in item:
            below.append((f"{name}[]", item))
        text = body.get("description", "")
        examples = body.get("examples", [])
        if examples:
            text += f" Example: `{examples[0]}`"
        rows.append(f"| `{name}` | {_type(schema, body)} | {_default(name, body, required)} | {_cell(text)} |")
    yield f"{title}\n\n{node.get('description', '')}\n\n" + "\n".join(rows) + "\n"
    for name, body in below:
        keys = json.dumps(body["properties"], sort_keys=True)
        if keys not in shown:
            shown.add(keys)
            yield from _sections(schema, body, (*path, name), shown)


def _only(node: dict[str, Any]) -> dict[str, Any]:
    """Return what a value is that may be left out, else the node itself."""
    kinds = [one for one in node.get("anyOf", []) if one.get("type") != "null"]
    return kinds[0] if len(kinds) == 1 else node


def _resolved(schema: dict[str, Any], node: dict[str, Any]) -> dict[str, Any]:
    references = [one for one in node.get("anyOf", []) if "$ref" in one]
    if references:  # a section that may be left out
        node = {**{key: value for key, value in node.items() if key != "anyOf"}, **references[0]}
    if "$ref" not in node:
        return node
    target: dict[str, Any] = schema["$defs"][node["$ref"].rsplit("/", 1)[-1]]
    return {**target, **{key: value for key, value in node.items() if key != "$ref"}}


def _type(schema: dict[str, Any], node: dict[str, Any]) -> str:
    node = _resolved(schema, node)
    if "anyOf" in node:
        kinds = [_type(schema, one) for one in node["anyOf"] if one.get("type") != "null"]
        return " or ".join(dict.fromkeys(kinds))
    if "enum" in node:
        return ", ".join(f"`{value}`" for value in node["enum"])
    if "const" in node:
        return f"`{node['const']}`"
    words = {
        "string": "text",
        "number": "number",
        "integer": "whole number",
        "boolean": "true, false",
        "object": "map",
    }
    if node.get("type") == "array":
        return f"list of {_type(schema, node.get('items', {'type': 'string'}))}"
    return words.get(node.get("type", ""), "any")


def _default(name: str, node: dict[str, Any], required: list[str]) -> str:
    if name in required:
        return "**required**"
    value = node.get("default")
    if value is None or value in ({}, [], ""):
        return ""
    return f"`{value if isinstance(value, str) else json.dumps(value)}`"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


if __name__ == "__main__":
    sys.stdout.write(reference())
