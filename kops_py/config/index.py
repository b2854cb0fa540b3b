"""Where hosts, groups and variables are written in the inventory's sources."""

from __future__ import annotations

from collections.abc import Iterable

from kops_py.config.names import is_dns_name
from kops_py.config.problems import Place, Problems, show
from kops_py.model.spec import Group

GROUP_NAMES: dict[str, Group] = {
    "kube_control_plane": Group.CONTROL_PLANE,
    "kube-master": Group.CONTROL_PLANE,
    "kube_node": Group.NODE,
    "kube-node": Group.NODE,
    "etcd": Group.ETCD,
    "load_balancer": Group.LOAD_BALANCER,
}
"""Our groups by the name in the inventory; the names with a dash are Kubespray's before 2.17."""


class Index:
    """What the sources say as far as they can be read without Ansible, with places."""

    def __init__(self, fallback: Place) -> None:
        self.fallback = fallback
        self.hosts: dict[str, Place] = {}
        self.groups: dict[str, Place] = {}
        self.members: dict[str, dict[str, Place]] = {}
        self.children: dict[str, dict[str, Place]] = {}
        self.declared: set[str] = set()
        self._host_variables: dict[tuple[str, str], tuple[Place, object]] = {}
        self._group_variables: dict[tuple[str, str], Place] = {}

    def add_group(self, name: str, place: Place, *, declared: bool = True) -> None:
        """Note a group; a name that only stands in a children list is not declared yet."""
        self.groups.setdefault(name, place)
        if declared:
            self.declared.add(name)

    def add_child(self, parent: str, child: str, place: Place) -> None:
        """Note that a group is a child of another."""
        self.children.setdefault(parent, {}).setdefault(child, place)

    def add_host(self, group: str, host: str, place: Place) -> None:
        """Note a host as a member of a group."""
        self.hosts.setdefault(host, place)
        self.members.setdefault(group, {}).setdefault(host, place)

    def add_host_variable(self, host: str, name: str, value: object, place: Place, problems: Problems) -> None:
        """Note a variable; the same one with another value in the same file is a problem."""
        first = self._host_variables.setdefault((host, name), (place, value))
        if first[0].file == place.file and first[0] != place and first[1] != value:
            problems.add(
                place,
                f"variable {show(name)} of host {show(host)} has another value here than at "
                f"{first[0].line}:{first[0].column}",
                hint="give a host's variables once; elsewhere its name is enough",
            )

    def add_group_variable(self, group: str, name: str, place: Place) -> None:
        """Note a variable of a group."""
        self._group_variables.setdefault((group, name), place)

    def place_of(self, host: str, *variables: str) -> Place:
        """Return where one of these variables of a host is written, else where the host is."""
        for name in variables:
            found = self._host_variables.get((host, name))
            if found is not None:
                return found[0]
        groups = self._groups_of(host)
        for name in variables:
            for group in groups:
                place = self._group_variables.get((group, name))
                if place is not None:
                    return place
        return self.hosts.get(host, self.fallback)

    def place_of_group(self, *names: str) -> Place:
        """Return where the first of these groups is written."""
        return next((self.groups[name] for name in names if name in self.groups), self.fallback)

    def place_in_group(self, host: str, names: Iterable[str]) -> Place:
        """Return where a host is made a member of one of these groups."""
        for name in names:
            for group in (name, *self._below(name)):
                if host in self.members.get(group, {}):
                    return self.members[group][host]
        return self.place_of(host)

    def check_names(self, problems: Problems) -> None:
        """Note every host of our groups whose name cannot be a node's."""
        for name in GROUP_NAMES:
            for group in (name, *self._below(name)):
                for host, place in self.members.get(group, {}).items():
                    check_node_name(host, place, problems)

    def check_children(self, problems: Problems) -> None:
        """Note every child group that no source declares."""
        for parent, children in self.children.items():
            for child, place in children.items():
                if child not in self.declared:
                    problems.add(place, f"group {show(child)}, a child of {show(parent)}, is not defined")
            if parent in self._below(parent):
                problems.add(
                    next(iter(children.values())),
                    f"group {show(parent)} is its own descendant",
                    hint="remove one of the children",
                )

    def _below(self, name: str) -> list[str]:
        found: dict[str, None] = {}
        waiting = list(self.children.get(name, {}))
        while waiting:
            group = waiting.pop()
            if group not in found:
                found[group] = None
                waiting += self.children.get(group, {})
        return list(found)

    def _groups_of(self, host: str) -> list[str]:
        found = [group for group, members in self.members.items() if host in members]
        for group in found:
            found += [p for p, children in self.children.items() if group in children and p not in found]
        return [*found, "all"]


def check_node_name(name: str, place: Place, problems: Problems) -> bool:
    """Note a name that cannot be the name of a Kubernetes node; whether it can be one."""
    good = is_dns_name(name)
    if not good:
        problems.add(
            place,
            f"{show(name)} cannot be a node's name",
            hint="lower-case letters, digits, - and . only, as in node-1; put the address into ansible_host",
        )
    return good
