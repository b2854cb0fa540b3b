"""cluster.yaml → typed values, with every mistake at its place."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar

from kops_py.config import names
from kops_py.config.backups import convert_backup
from kops_py.config.networks import check_networks
from kops_py.config.problems import Place, Problems, show
from kops_py.config.yamlfile import Kind, Node, read_yaml
from kops_py.model.backup import BackupSpec
from kops_py.model.drain import DrainGroup, DrainPolicy
from kops_py.model.hooks import CanarySpec, Gate, GroupSpec, Hooks, HttpCheck, OperatorCommand, Side
from kops_py.model.selectors import parse_selector
from kops_py.model.spec import (
    CniType,
    ContainerdSource,
    ContainerdSpec,
    Endpoint,
    EtcdSpec,
    GivenCa,
    GivenEtcd,
    KubernetesSpec,
    MaintenanceSpec,
    Network,
    NetworkSpec,
    SecretRef,
    SshSpec,
    Timeouts,
)
from kops_py.model.version import Version, facts_of

if TYPE_CHECKING:
    from kops_py.config import document_maintenance
    from kops_py.config.document import ClusterDocument

T = TypeVar("T")
Path_ = tuple[str | int, ...]

_MOST_BYTES = 1024 * 1024
_PACKAGE_WORD = re.compile(r"[0-9A-Za-z][0-9A-Za-z.+~:-]{0,99}", re.ASCII)
_IMAGE_REPOSITORY = re.compile(r"[A-Za-z0-9.\-]+(:[0-9]{1,5})?(/[a-z0-9]+([._-]+[a-z0-9]+)*)*", re.ASCII)
_REGISTRY = re.compile(r"_default|[A-Za-z0-9]([A-Za-z0-9.\-]*[A-Za-z0-9])?(:[0-9]{1,5})?", re.ASCII)

# ClusterConfiguration fields that kops-py fills from the typed settings, and where to set them instead.
_OWN_KUBEADM_FIELDS = {
    ("apiVersion",): "it follows from kubernetes.version",
    ("kind",): "it is always ClusterConfiguration",
    ("kubernetesVersion",): "set kubernetes.version",
    ("clusterName",): "set metadata.name",
    ("controlPlaneEndpoint",): "set controlPlaneEndpoint",
    ("imageRepository",): "set kubernetes.imageRepository",
    ("networking",): "set network",
    ("etcd", "external"): "set etcd.topology, and the group etcd of the inventory or etcd.external",
    ("apiServer", "certSANs"): "set certSANs",
}


@dataclass(frozen=True, slots=True)
class ClusterFile:
    """cluster.yaml, read and checked by itself; ``endpoint`` None is to be derived from the inventory."""

    path: Path
    root: Node
    name: str
    kubernetes: KubernetesSpec
    network: NetworkSpec
    endpoint: Endpoint | None
    cert_sans: tuple[str, ...]
    containerd: ContainerdSpec
    external_etcd: bool | None
    etcd: EtcdSpec
    ssh: SshSpec
    timeouts: Timeouts
    maintenance: MaintenanceSpec
    backup: BackupSpec | None
    preflight_ignore: frozenset[str]

    def place(self, *path: str | int, key: bool = False) -> Place:
        """Return where a setting is written, or its nearest parent."""
        return self.root.place_of(path, key=key)


def read_cluster(path: Path) -> ClusterFile:
    """Read cluster.yaml without looking at the inventory; raises ConfigError with all mistakes found."""
    root = read_yaml(path, most_bytes=_MOST_BYTES)
    problems = Problems()
    if root.kind is not Kind.MAP:
        problems.fail(root.place, f"cluster.yaml is a map of settings, this is {root.what}")
    document = _validate(root, problems)
    return _Converter(path, root, document, problems).convert()


def _validate(root: Node, problems: Problems) -> ClusterDocument:
    from pydantic import ValidationError

    from kops_py.config.document import ClusterDocument
    from kops_py.config.explain import explain

    found: list[dict[str, object]] = []
    try:
        return ClusterDocument.model_validate(root.plain())
    except ValidationError as error:
        # Taken out of the handler: a ValidationError carries the input, which may be a misplaced secret.
        found = [dict(item) for item in error.errors(include_url=False, include_context=True)]
    for item in found:
        explain(item, root, problems)
    problems.raise_if_any()
    raise AssertionError("a validation error without a problem")


class _Converter:
    """Turns the validated document into the model's types, noting what cannot be."""

    def __init__(self, path: Path, root: Node, document: ClusterDocument, problems: Problems) -> None:
        self._path = path
        self._root = root
        self._document = document
        self._problems = problems

    def convert(self) -> ClusterFile:
        """Return the file's content; raises ConfigError."""
        document = self._document
        if not names.is_dns_label(document.metadata.name):
            self._add(
                ("metadata", "name"),
                f"{show(document.metadata.name)} is not a DNS label",
                hint="lower-case letters, digits and -, at most 63, as in prod-1",
            )
        version = self._version()
        network = self._network()
        endpoint = None
        if document.control_plane_endpoint is not None:
            endpoint = self._parse(names.parse_endpoint, document.control_plane_endpoint, ("controlPlaneEndpoint",))
        extra = self._extra_kubeadm()
        kubernetes = self._kubernetes(version or Version(1, 0, 0), extra)
        self._check_sans()
        containerd = self._containerd()
        password = self._password()
        maintenance = self._maintenance()
        etcd = self._etcd()
        backup = None
        if document.backup is not None:
            backup = convert_backup(document.backup, self._path.absolute().parent, self._root, self._problems)
        self._problems.raise_if_any()
        return ClusterFile(
            path=self._path,
            root=self._root,
            name=document.metadata.name,
            kubernetes=kubernetes,
            network=network,
            endpoint=endpoint,
            cert_sans=tuple(dict.fromkeys(document.cert_sans)),
            containerd=containerd,
            external_etcd=None if document.etcd.topology is None else document.etcd.topology == "external",
            etcd=etcd,
            ssh=SshSpec(password, float(document.ssh.connect_timeout_seconds), document.ssh.max_parallel),
            timeouts=Timeouts(
                prepare_s=float(document.timeouts.prepare_seconds),
                kubeadm_s=float(document.timeouts.kubeadm_seconds),
                node_ready_s=float(document.timeouts.node_ready_seconds),
                cluster_healthy_s=float(document.timeouts.cluster_healthy_seconds),
                api_request_s=float(document.timeouts.api_request_seconds),
            ),
            maintenance=maintenance,
            backup=backup,
            preflight_ignore=frozenset(document.preflight.ignore),
        )

    def _add(self, path: Path_, what: str, *, why: str = "", hint: str = "", key: bool = False) -> None:
        self._problems.add(self._root.place_of(path, key=key), what, why=why, hint=hint)

    def _parse(self, parse: Callable[[str], T], text: str, path: Path_, *, hint: str = "") -> T | None:
        try:
            return parse(text)
        except ValueError as error:
            self._add(
                path,
                f"{path[-1] if isinstance(path[-1], str) else path[-2]} is {show(text)}",
                why=str(error),
                hint=hint,
            )
            return None

    def _version(self) -> Version | None:
        def parse(text: str) -> Version:
            version = Version.parse(text)
            facts_of(version)
            return version

        return self._parse(parse, self._document.kubernetes.version, ("kubernetes", "version"))

    def _kubernetes(self, version: Version, extra: dict[str, object]) -> KubernetesSpec:
        given = self._document.kubernetes
        self._parse(
            lambda text: names.check_url(text, ("http", "https", "file")),
            given.repository,
            ("kubernetes", "repository"),
        )
        key = given.repository_key or ""
        if given.repository.startswith("http://") and (not key or key.startswith("http://")):
            self._add(
                ("kubernetes", "repository"),
                "the repository is not https, so a key that comes the same way cannot be trusted",
                hint="set repositoryKey to a file or an https URL (the repository's own is vX.Y/deb/Release.key)",
            )
        if given.image_repository is not None and _IMAGE_REPOSITORY.fullmatch(given.image_repository) is None:
            self._add(
                ("kubernetes", "imageRepository"),
                f"imageRepository is {show(given.image_repository)}",
                hint="a registry and a path without a scheme, as in registry.example.com/k8s",
            )
        self._check_word(given.package_revision, ("kubernetes", "packageRevision"))
        return KubernetesSpec(
            version=version,
            repository=given.repository.rstrip("/"),
            repository_key=self._url_or_path(given.repository_key, ("kubernetes", "repositoryKey"), folder=False),
            image_repository=given.image_repository,
            images=self._url_or_path(given.images, ("kubernetes", "images"), folder=True),
            package_revision=given.package_revision,
            extra_kubeadm=MappingProxyType(extra),
        )

    def _check_word(self, text: str | None, path: Path_) -> None:
        if text is not None and _PACKAGE_WORD.fullmatch(text) is None:
            self._add(path, f"{path[-1]} is {show(text)}", hint="letters, digits and . + ~ : - only")

    def _url_or_path(self, text: str | None, path: Path_, *, folder: bool) -> str | None:
        if text is None:
            return None
        if "://" in text:
            self._parse(names.check_url, text, path)
            return text.rstrip("/") if folder else text
        return self._existing(text, path, folder=folder)

    def _existing(self, text: str, path: Path_, *, folder: bool) -> str:
        """Return the absolute form of a path that is relative to cluster.yaml, noting when nothing is there."""
        word = "folder" if folder else "file"
        try:
            target = (self._path.absolute().parent / Path(text).expanduser()).resolve()
            there = target.is_dir() if folder else target.is_file()
        except (OSError, ValueError, RuntimeError):
            target, there = Path(), False
        if not there:
            self._add(path, f"there is no {word} {show(text)}", hint=f"relative to {self._path.parent}")
        return str(target)

    def _maintenance(self) -> MaintenanceSpec:
        given, drain = self._document.maintenance, self._document.maintenance.drain
        self._parse(parse_selector, drain.pod_selector, ("maintenance", "drain", "podSelector"), hint="as in app!=db")
        for number, group in enumerate(drain.groups):
            place: Path_ = ("maintenance", "drain", "groups", number, "selector")
            self._parse(parse_selector, group.selector, place, hint="as in app=rook-ceph-osd or tier in (db,queue)")
        hooks = given.hooks
        return MaintenanceSpec(
            max_unavailable=given.max_unavailable,
            max_failures=given.max_failures,
            hooks=Hooks(
                tuple(_command(h.command, h) for h in hooks.before), tuple(_command(h.command, h) for h in hooks.after)
            ),
            gates=tuple(self._gate(g, ("maintenance", "gates", n), n + 1) for n, g in enumerate(given.gates)),
            canary=self._canary(),
            groups=tuple(self._group(g, ("maintenance", "groups", n)) for n, g in enumerate(given.groups)),
            drain=DrainPolicy(
                timeout_s=float(drain.timeout_seconds),
                grace_period_s=drain.grace_period_seconds,
                delete_empty_dir_data=drain.delete_empty_dir_data,
                force=drain.force,
                pod_selector=drain.pod_selector.strip(),
                groups=tuple(DrainGroup(g.name, g.selector, tuple(g.namespaces)) for g in drain.groups),
                volumes_timeout_s=float(drain.volumes_timeout_seconds),
            ),
        )

    def _canary(self) -> CanarySpec:
        given = self._document.maintenance.canary
        if not given.count and (given.pause_seconds or given.gate):
            what = "canary has a pause or a gate, but no count: there is nothing to watch"
            self._add(("maintenance", "canary"), what, hint="set count: 1")
        gate = None if given.gate is None else self._gate(given.gate, ("maintenance", "canary", "gate"), 0)
        return CanarySpec(given.count, float(given.pause_seconds), gate)

    def _gate(self, given: document_maintenance.Gate, path: Path_, number: int) -> Gate:
        """Return a gate; ``number`` is its place among the gates, 0 for the canary's."""
        if (given.command is None) == (given.http is None):
            what = "neither command nor http is given" if given.http is None else "command and http are both given"
            self._add(path, f"{what} for a gate", hint="give exactly one of command, http")
        name = given.name or (str(number) if number else "of the canary")
        times = {"deadline_s": float(given.deadline_seconds), "interval_s": float(given.interval_seconds)}
        if given.http is None:
            return Gate(name, _command(given.command or ["true"], given), **times)
        for key, shown in (("run_on", "runOn"), ("timeout_seconds", "timeoutSeconds")):
            if key in given.model_fields_set:
                self._add((*path, shown), f"{shown} has no meaning beside http", key=True)
        http, place = given.http, (*path, "http")
        self._parse(_check_gate_url, http.url, (*place, "url"))
        ca_file = None if http.ca_file is None else self._existing(http.ca_file, (*place, "caFile"), folder=False)
        check = HttpCheck(
            http.url, tuple(http.status), http.contains, ca_file, http.insecure, float(http.timeout_seconds)
        )
        return Gate(name, check, **times)

    def _group(self, given: document_maintenance.WorkerGroup, path: Path_) -> GroupSpec:
        """Return a group of workers; its inventory group is looked up when the inventory is known."""
        if (given.selector is None) == (given.inventory_group is None):
            what = "neither selector nor inventoryGroup is given" if given.selector is None else "both are given"
            self._add(path, f"group {show(given.name)}: {what}", hint="give exactly one of selector, inventoryGroup")
        names_ = [group.name for group in self._document.maintenance.groups]
        if names_.index(given.name) != path[-1]:
            self._add((*path, "name"), f"there are two groups {show(given.name)}")
        if given.selector is not None:
            self._parse(parse_selector, given.selector, (*path, "selector"), hint="as in disk=ssd or zone in (a,b)")
        return GroupSpec(given.name, given.max_unavailable, given.selector or "", given.inventory_group)

    def _network(self) -> NetworkSpec:
        given = self._document.network
        pods = self._subnets(given.pod_subnet, "podSubnet")
        services = self._subnets(given.service_subnet, "serviceSubnet")
        own_mask = "controllerManager" in self._document.kubeadm.cluster_configuration
        check_networks(pods, services, self._problems, own_node_mask=own_mask)
        if not names.is_dns_name(given.dns_domain):
            self._add(("network", "dnsDomain"), f"{show(given.dns_domain)} is not a DNS domain")
        return NetworkSpec(
            pod_subnets=tuple(network for network, _ in pods),
            service_subnets=tuple(network for network, _ in services),
            dns_domain=given.dns_domain,
            cni=CniType(given.cni.type),
            cni_manifest=self._cni_manifest(),
        )

    def _subnets(self, texts: list[str], key: str) -> list[tuple[Network, Place]]:
        found = []
        for number, text in enumerate(texts):
            path = ("network", key, number)
            network = self._parse(names.parse_network, text, path)
            if network is not None:
                found.append((network, self._root.place_of(path)))
        return found

    def _cni_manifest(self) -> str | None:
        cni, path = self._document.network.cni, ("network", "cni")
        if cni.type != "manifest":
            for key in ("url", "file"):
                if getattr(cni, key) is not None:
                    self._add((*path, key), f"{key} has no meaning with type {cni.type}", key=True)
            return None
        if (cni.url is None) == (cni.file is None):
            what = "neither url nor file is given" if cni.url is None else "url and file are both given"
            self._add(path, f"{what} for the manifest of the pod network", hint="give exactly one of url, file")
            return None
        if cni.url is not None:
            self._parse(names.check_url, cni.url, (*path, "url"))
            return cni.url
        return self._existing(cni.file or "", (*path, "file"), folder=False)

    def _check_sans(self) -> None:
        for number, text in enumerate(self._document.cert_sans):
            if names.parse_address(text) is None and not names.is_dns_name(text.removeprefix("*.")):
                self._add(("certSANs", number), f"{show(text)} is neither an IP address nor a DNS name")

    def _containerd(self) -> ContainerdSpec:
        given = self._document.containerd
        self._check_word(given.version, ("containerd", "version"))
        for registry, urls in given.mirrors.items():
            path = ("containerd", "mirrors", registry)
            if _REGISTRY.fullmatch(registry) is None:
                self._add(
                    path,
                    f"{show(registry)} is not a registry",
                    hint="a host name without a scheme, as in docker.io, or _default",
                    key=True,
                )
            for number, url in enumerate(urls):
                self._parse(names.check_url, url, (*path, number))
        return ContainerdSpec(
            source=ContainerdSource(given.source),
            version=given.version,
            mirrors=MappingProxyType(
                {name: tuple(url.rstrip("/") for url in urls) for name, urls in given.mirrors.items()}
            ),
        )

    def _etcd(self) -> EtcdSpec:
        etcd, given, own = self._document.etcd, self._document.etcd.external, self._document.etcd.ca
        for key, value in (("external", given), ("ca", own)):
            if value is not None and etcd.topology != "external":
                hint = "set etcd.topology: external, or leave it out"
                self._add(("etcd", key), f"etcd.{key} has no meaning with stacked etcd", hint=hint, key=True)
        if given is not None and own is not None:
            self._add(
                ("etcd", "ca"), "etcd.ca is for an etcd that kops-py builds, etcd.external names another", key=True
            )
        existing = None
        if given is not None:
            for number, url in enumerate(given.endpoints):
                self._parse(
                    lambda text: names.check_url(text, ("https",)), url, ("etcd", "external", "endpoints", number)
                )
            files = [
                Path(self._existing(getattr(given, key), ("etcd", "external", key), folder=False))
                for key in ("ca", "cert", "key")
            ]
            existing = GivenEtcd(tuple(u.rstrip("/") for u in dict.fromkeys(given.endpoints)), *files)
        authority = None
        if own is not None:
            authority = GivenCa(
                Path(self._existing(own.cert, ("etcd", "ca", "cert"), folder=False)),
                Path(self._existing(own.key, ("etcd", "ca", "key"), folder=False)),
            )
        return EtcdSpec(existing, authority)

    def _password(self) -> SecretRef | None:
        text = self._document.ssh.become_password
        if text is None:
            return None
        try:
            reference = names.parse_secret(text)
        except ValueError as error:
            hint = "allowed here: env:NAME, file:PATH, cmd:COMMAND"
            self._add(("ssh", "becomePassword"), "becomePassword is not a reference", why=str(error), hint=hint)
            return None
        if reference.kind == "file":
            return SecretRef("file", str(self._path.absolute().parent / Path(reference.target)))
        return reference

    def _extra_kubeadm(self) -> dict[str, object]:
        extra = self._document.kubeadm.cluster_configuration
        for field_path, instead in _OWN_KUBEADM_FIELDS.items():
            node: object = extra
            for step in field_path:
                node = node.get(step, _ABSENT) if isinstance(node, dict) else _ABSENT
            if node is not _ABSENT:
                self._add(
                    ("kubeadm", "clusterConfiguration", *field_path),
                    f"{'.'.join(field_path)} is kops-py's to set",
                    hint=instead,
                    key=True,
                )
        kubeadm = self._document.kubeadm
        kinds: dict[str, dict[str, Any]] = {
            "InitConfiguration": kubeadm.init_configuration,
            "JoinConfiguration": kubeadm.join_configuration,
            "KubeletConfiguration": kubeadm.kubelet_configuration,
            "KubeProxyConfiguration": kubeadm.kube_proxy_configuration,
        }
        return {**extra, **{kind: fields for kind, fields in kinds.items() if fields}}


_ABSENT = object()


def _command(words: list[str], given: document_maintenance.Hook | document_maintenance.Gate) -> OperatorCommand:
    return OperatorCommand(tuple(words), Side(given.run_on), float(given.timeout_seconds))


def _check_gate_url(text: str) -> None:
    """Raise ValueError unless this is a URL without a user: plans and reports show it."""
    names.check_url(text)
    if "@" in text.partition("://")[2].partition("/")[0]:
        raise ValueError("a URL here holds no user and no password: plans and reports show it")
