"""Put the operator's own kubeadm fields into the documents that kops-py renders.

They arrive as one mapping, KubernetesSpec.extra_kubeadm. A key that is the name of a kind
(``KubeProxyConfiguration``) holds fields of that document; every other key is a field of ClusterConfiguration.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kops_py.model.errors import ConfigError

CLUSTER = "ClusterConfiguration"
INIT = "InitConfiguration"
JOIN = "JoinConfiguration"
KUBELET = "KubeletConfiguration"
KUBE_PROXY = "KubeProxyConfiguration"
KINDS = frozenset({CLUSTER, INIT, JOIN, KUBELET, KUBE_PROXY})

WHERE = "cluster.yaml: kubeadm"

_OWNED: dict[str, dict[str, str]] = {
    CLUSTER: {
        "kubernetesVersion": "set kubernetes.version",
        "controlPlaneEndpoint": "set the endpoint",
        "clusterName": "set the cluster's name",
    },
    INIT: {"bootstrapTokens": "kops-py makes and deletes them", "certificateKey": "kops-py makes it"},
    JOIN: {"discovery": "kops-py makes it", "controlPlane": "the inventory's groups decide it"},
}
_NOT_IN_V1BETA2 = ("skipPhases", "patches")
_EXTRA_ARGS = frozenset({"extraArgs", "kubeletExtraArgs"})
_UNION_LISTS = frozenset({"certSANs", "skipPhases", "ignorePreflightErrors"})
"""Lists the operator adds to; any other list replaces the one rendered."""


def split_extra(extra: Mapping[str, object]) -> dict[str, dict[str, Any]]:
    """Return the extra fields by kind, as plain dicts and lists.

    Raises ConfigError for a kind that does not hold a mapping.
    """
    by_kind: dict[str, dict[str, Any]] = {}
    for key, value in extra.items():
        if key not in KINDS:
            by_kind.setdefault(CLUSTER, {})[key] = thaw(value)
            continue
        if not isinstance(value, Mapping):
            raise ConfigError(
                f"{key} must be a mapping of its fields", where=WHERE, why=f"found {type(value).__name__}"
            )
        by_kind.setdefault(key, {}).update(thaw(value))
    return by_kind


def check_extra(extra: Mapping[str, object], api: str) -> None:
    """Refuse extra fields that kops-py owns or that this version of the kubeadm API cannot take.

    ``api`` is ``kubeadm.k8s.io/v1beta2`` and so on. Raises ConfigError with all problems at once.
    """
    problems: list[ConfigError] = []
    for kind, fields in split_extra(extra).items():
        owned = {"apiVersion": "it follows from the version", "kind": "it is the key"} | _OWNED.get(kind, {})
        problems += [
            ConfigError(f"{kind}.{name} cannot be set here", where=WHERE, hint=owned[name])
            for name in fields
            if name in owned
        ]
        if api.endswith("/v1beta2") and kind in {INIT, JOIN}:
            problems += [
                ConfigError(
                    f"{kind}.{name} does not exist in {api}", where=WHERE, hint="Kubernetes v1.22 and newer has it"
                )
                for name in _NOT_IN_V1BETA2
                if name in fields
            ]
        problems += _argument_problems(kind, fields, lists=api.endswith("/v1beta4"))
    if problems:
        first, *others = problems
        raise ConfigError(first.what, where=first.where, why=first.why, hint=first.hint, others=tuple(others))


def _argument_problems(path: str, fields: Mapping[str, Any], *, lists: bool) -> list[ConfigError]:
    problems: list[ConfigError] = []
    for name, value in fields.items():
        here = f"{path}.{name}"
        if name in _EXTRA_ARGS:
            try:
                pairs = argument_pairs(value)
            except ValueError as error:
                problems.append(ConfigError(f"{here} is not understood", where=WHERE, why=str(error)))
                continue
            names = [pair[0] for pair in pairs]
            if not lists and len(set(names)) != len(names):
                problems.append(
                    ConfigError(
                        f"{here} names an argument twice",
                        where=WHERE,
                        hint="only Kubernetes v1.31 and newer takes that",
                    )
                )
        elif isinstance(value, Mapping):
            problems += _argument_problems(here, value, lists=lists)
    return problems


def thaw(value: object) -> Any:
    """Return frozen mappings and tuples as plain dicts and lists."""
    if isinstance(value, Mapping):
        return {str(key): thaw(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [thaw(item) for item in value]
    return value


def argument_pairs(value: object) -> list[tuple[str, str]]:
    """Read extra arguments in either form, a map or a list of name and value; raises ValueError."""
    if isinstance(value, Mapping):
        return [(str(name), _scalar(item)) for name, item in value.items()]
    if isinstance(value, list | tuple):
        pairs: list[tuple[str, str]] = []
        for item in value:
            if not isinstance(item, Mapping) or set(item) != {"name", "value"}:
                raise ValueError("each entry needs exactly name and value")
            pairs.append((str(item["name"]), _scalar(item["value"])))
        return pairs
    raise ValueError(f"expected a map or a list of name and value, found {type(value).__name__}")


def _scalar(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str | int | float):
        return str(value)
    raise ValueError(f"an argument's value must be text, a number, true or false, found {type(value).__name__}")


def merge(base: Mapping[str, Any], extra: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``base`` with ``extra`` laid over it.

    Mappings merge, named arguments override by name, lists of names grow, anything else is replaced.
    """
    merged: dict[str, Any] = dict(base)
    for key, value in extra.items():
        old = merged.get(key)
        if key in _EXTRA_ARGS:
            overriding = argument_pairs(value)
            names = {name for name, _ in overriding}
            kept = [pair for pair in argument_pairs(old or {}) if pair[0] not in names]
            merged[key] = [{"name": name, "value": item} for name, item in kept + overriding]
        elif isinstance(old, Mapping) and isinstance(value, Mapping):
            merged[key] = merge(old, value)
        elif isinstance(value, Mapping):
            merged[key] = merge({}, value)
        elif key in _UNION_LISTS and isinstance(old, list) and isinstance(value, list):
            merged[key] = list(dict.fromkeys([*old, *value]))
        else:
            merged[key] = value
    return merged


def shape_arguments(value: Any, *, lists: bool) -> Any:
    """Return the document with every extra-arguments field in the form the API version takes."""
    if isinstance(value, Mapping):
        return {
            key: _shaped(item, lists=lists) if key in _EXTRA_ARGS else shape_arguments(item, lists=lists)
            for key, item in value.items()
        }
    if isinstance(value, list):
        return [shape_arguments(item, lists=lists) for item in value]
    return value


def _shaped(value: object, *, lists: bool) -> object:
    pairs = argument_pairs(value)
    return [{"name": name, "value": item} for name, item in pairs] if lists else dict(pairs)
