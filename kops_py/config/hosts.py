"""Hosts of the spec from Ansible's listing of the inventory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TypeVar

from kops_py.config import names
from kops_py.config.index import GROUP_NAMES, Index, check_node_name
from kops_py.config.listing import Listing
from kops_py.config.problems import Place, Problems, kind_of, show
from kops_py.model.spec import Group, HostSpec, Taint

T = TypeVar("T")

_SSH_CONNECTIONS = frozenset({"ssh", "smart", "paramiko", "paramiko_ssh"})
_TRUE = frozenset({"true", "yes", "on", "1", "y", "t"})
_FALSE = frozenset({"false", "no", "off", "0", "n", "f"})


def read_hosts(
    listing: Listing, index: Index, problems: Problems, *, default_taints: tuple[str, ...]
) -> tuple[HostSpec, ...]:
    """Return the hosts of our groups in inventory order; what is wrong with them is noted in ``problems``.

    ``default_taints`` are the keys of the taints kubeadm gives a control plane of this version.
    """
    hosts = []
    for name, member_of in _groups_of_hosts(listing).items():
        host = _HostReader(name, _variables_of(listing, name), index, problems).read(
            frozenset(member_of), default_taints
        )
        if host is not None:
            hosts.append(host)
    return tuple(hosts)


def read_host_beside(listing: Listing, index: Index, problems: Problems, name: str) -> HostSpec | None:
    """Return a host of the inventory that need not be in any of our groups; None when there is none of this name."""
    if name not in group_members(listing, "all"):
        return None
    return _HostReader(name, _variables_of(listing, name), index, problems).read(frozenset(), ())


def group_members(listing: Listing, group: str) -> list[str]:
    """Return the hosts of a group and of all groups below it, each once."""
    found: dict[str, None] = {}
    seen = {group}
    waiting = [group]
    while waiting:
        body = listing.get(waiting.pop(0))
        if not isinstance(body, dict):
            continue
        hosts, children = body.get("hosts", []), body.get("children", [])
        found.update((h, None) for h in hosts if isinstance(h, str)) if isinstance(hosts, list) else None
        for child in children if isinstance(children, list) else []:
            if isinstance(child, str) and child not in seen:
                seen.add(child)
                waiting.append(child)
    return list(found)


def _variables_of(listing: Listing, name: str) -> Mapping[str, object]:
    meta = listing.get("_meta")
    variables = meta.get("hostvars") if isinstance(meta, dict) else None
    given = variables.get(name, {}) if isinstance(variables, dict) else {}
    return given if isinstance(given, dict) else {}


def _groups_of_hosts(listing: Listing) -> dict[str, set[str]]:
    groups: dict[str, set[str]] = {}
    for name, group in GROUP_NAMES.items():
        for host in group_members(listing, name):
            groups.setdefault(host, set()).add(str(group))
    return groups


class _HostReader:
    """Reads the variables of one host."""

    def __init__(self, name: str, variables: Mapping[str, object], index: Index, problems: Problems) -> None:
        self._name = name
        self._variables = variables
        self._index = index
        self._problems = problems

    def read(self, groups: frozenset[str], default_taints: tuple[str, ...]) -> HostSpec | None:
        """Return the host, or None when it has no usable name or address."""
        if not check_node_name(self._name, self._index.place_of(self._name), self._problems):
            return None
        address = self._address()
        node_ip = self._node_ip(address)
        access_ip = self._ip("access_ip")
        key_file = self._text("ansible_ssh_private_key_file", "ansible_private_key_file")
        user = self._text("ansible_user", "ansible_ssh_user")
        args = (self._text("ansible_ssh_common_args"), self._text("ansible_ssh_extra_args"))
        port = self._parsed(names.parse_port, "ansible_port", "ansible_ssh_port")
        become = self._become(user)
        connection = self._connection()
        etcd_name = self._text("etcd_member_name")
        labels = self._labels()
        taints = self._taints(groups, default_taints)
        if address is None or node_ip is None:
            return None
        return HostSpec(
            name=self._name,
            address=address,
            port=22 if port is None else port,
            user=user,
            groups=groups,
            node_ip=node_ip,
            labels=MappingProxyType(labels),
            taints=taints,
            key_file=Path(key_file).expanduser() if key_file else None,
            ssh_args=" ".join(part for part in args if part),
            become=become,
            variables=MappingProxyType(dict(self._variables)),
            access_ip=access_ip,
            etcd_member_name=etcd_name,
            connection=connection,
        )

    def _place(self, *variables: str) -> Place:
        return self._index.place_of(self._name, *variables)

    def _add(self, variables: tuple[str, ...], what: str, *, why: str = "", hint: str = "") -> None:
        self._problems.add(self._place(*variables), f"host {self._name}: {what}", why=why, hint=hint)

    def _get(self, *variables: str) -> tuple[str, object]:
        """Return the first of these variables that is set, without Ansible's wrapper of an unsafe text."""
        for name in variables:
            value = self._variables.get(name)
            if isinstance(value, dict) and "__ansible_unsafe" in value:
                value = value["__ansible_unsafe"]
            if value is not None:
                return name, value
        return variables[0], None

    def _text(self, *variables: str) -> str | None:
        name, value = self._get(*variables)
        if value is None:
            return None
        if isinstance(value, dict) and "__ansible_vault" in value:
            self._add((name,), f"{name} is encrypted, kops-py needs it in plain", hint="only passwords need the vault")
            return None
        if isinstance(value, bool | float | dict | list):
            self._add((name,), f"{name} must be text, this is {kind_of(value)}")
            return None
        text = str(value).strip()
        if "{{" in text or "{%" in text:
            self._add(
                (name,),
                f"{name} is a template",
                hint="kops-py does not evaluate templates; write the value itself",
            )
            return None
        if not text:
            self._add((name,), f"{name} is empty", hint="remove it or give it a value")
            return None
        if any(not c.isprintable() for c in text):
            self._add((name,), f"{name} holds a character that cannot be printed")
            return None
        return text

    def _parsed(self, parse: Callable[[str], T], *variables: str) -> T | None:
        text = self._text(*variables)
        if text is None:
            return None
        try:
            return parse(text)
        except ValueError as error:
            self._add(variables, f"{self._get(*variables)[0]} is {show(text)}", why=str(error))
            return None

    def _address(self) -> str | None:
        given = self._get("ansible_host", "ansible_ssh_host")[1] is not None
        text = self._text("ansible_host", "ansible_ssh_host") if given else self._name
        if text is None:
            return None
        address = names.parse_address(text.strip("[]"))
        if address is not None:
            return str(address)
        looks_like_ip = all(part.isdigit() for part in text.split("."))
        if looks_like_ip or not names.is_host_name(text):
            self._add(("ansible_host",), f"{show(text)} is neither an IP address nor a host name")
            return None
        return text

    def _ip(self, variable: str) -> str | None:
        text = self._text(variable)
        if text is None:
            return None
        address = names.parse_address(text)
        if address is None:
            self._add((variable,), f"{variable} is {show(text)}, which is not an IP address")
            return None
        if address.is_loopback or address.is_unspecified or address.is_multicast or address.is_link_local:
            self._add((variable,), f"{variable} is {address}, which other nodes cannot reach")
            return None
        return str(address)

    def _node_ip(self, address: str | None) -> str | None:
        if self._get("ip")[1] is not None:
            return self._ip("ip")
        parsed = names.parse_address(address) if address else None
        if address is None:
            return None
        given = self._get("ansible_host", "ansible_ssh_host")[1] is not None
        other = "" if given else "set ansible_host to its IP address, or "
        if parsed is None or parsed.is_loopback or parsed.is_unspecified or parsed.is_multicast:
            self._add(
                ("ansible_host", "ansible_ssh_host"),
                f"its IP address in the cluster is not known, {show(address)} does not tell it",
                hint=f"{other}add the variable ip, as in ip: 10.0.0.11",
            )
            return None
        return str(parsed)

    def _connection(self) -> str:
        text = (self._text("ansible_connection") or "ssh").removeprefix("ansible.builtin.")
        if text in _SSH_CONNECTIONS:
            return "ssh"
        if text != "local":
            self._add(("ansible_connection",), f"ansible_connection is {show(text)}", hint="allowed here: ssh, local")
        return "local"

    def _become(self, user: str | None) -> bool:
        for variable, only in (("ansible_become_method", "sudo"), ("ansible_become_user", "root")):
            text = self._text(variable)
            if text is not None and text.removeprefix("ansible.builtin.") != only:
                self._add((variable,), f"{variable} is {show(text)}", hint=f"kops-py works with {only} only")
        name, value = self._get("ansible_become")
        if value is None:
            return user != "root"
        word = str(value).strip().lower() if isinstance(value, bool | int | str) else ""
        if word not in _TRUE | _FALSE:
            self._add((name,), f"{name} must be true or false")
        return word in _TRUE

    def _labels(self) -> dict[str, str]:
        name, value = self._get("node_labels")
        if isinstance(value, str):
            value = [part for part in value.split(",") if part.strip()]
        if isinstance(value, list):
            value = dict(str(item).strip().partition("=")[::2] for item in value)
        if value is None:
            return {}
        if not isinstance(value, dict):
            self._add((name,), f"{name} must be a map, this is {kind_of(value)}")
            return {}
        labels = {}
        for key, item in value.items():
            if isinstance(item, dict | list):
                self._add((name,), f"the value of label {show(key)} is {kind_of(item)}, it must be text")
                continue
            text = "" if item is None else str(item).lower() if isinstance(item, bool) else str(item)
            try:
                names.check_label(str(key), text)
            except ValueError as error:
                self._add((name,), f"label {show(f'{key}={text}')} is not valid", why=str(error))
            labels[str(key)] = text
        return labels

    def _taints(self, groups: frozenset[str], default_keys: tuple[str, ...]) -> tuple[Taint, ...] | None:
        """Return the node's taints, or None for kubeadm's own choice.

        As in Kubespray: a control plane that is also in kube_node takes any pod, and taints of the inventory come
        on top of a control plane's own, so that an empty list changes nothing there. The API takes one taint per
        key and effect: the inventory's own word on kubeadm's taint replaces it.
        """
        name, value = self._get("node_taints")
        if isinstance(value, str):
            value = [part.strip() for part in value.split(",") if part.strip()]
        if value is not None and not isinstance(value, list):
            self._add((name,), f"{name} must be a list, this is {kind_of(value)}")
            value = None
        given: list[Taint] = []
        for item in value or []:
            try:
                taint = names.parse_taint(str(item))
            except ValueError as error:
                self._add((name,), f"taint {show(str(item))} is not valid", why=str(error))
                continue
            if any((t.key, t.effect) == (taint.key, taint.effect) for t in given):
                why = "a node has one taint of a key and an effect"
                self._add((name,), f"taint {show(str(item))} is given twice", why=why)
            given.append(taint)
        if Group.CONTROL_PLANE not in groups:
            return tuple(given) if value is not None else None
        if Group.NODE in groups:
            return tuple(given)
        own = (Taint(key, "", "NoSchedule") for key in default_keys)
        said = {(t.key, t.effect) for t in given}
        return (*(t for t in own if (t.key, t.effect) not in said), *given) if given else None
