"""A strict KubeApi in memory: objects by path, an API server's rules on versions and conflicts, faults on request.

A path of a resource it does not know, or a call it does not understand, fails the test (UnexpectedCallError is an
AssertionError), even when the code under test swallows it: ``assert_clean()`` tells at the end.
"""

from __future__ import annotations

import base64
import copy
import itertools
import json
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec

from kops_py.connect.base import JsonObject, T
from kops_py.model.errors import KubeError
from kops_py.model.selectors import matches
from tests.fakes import pods

_CLUSTER_WIDE = {
    "Namespace": "/api/v1/namespaces",
    "Node": "/api/v1/nodes",
    "PersistentVolume": "/api/v1/persistentvolumes",
    "VolumeAttachment": "/apis/storage.k8s.io/v1/volumeattachments",
    "ClusterRole": "/apis/rbac.authorization.k8s.io/v1/clusterroles",
    "ClusterRoleBinding": "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
    "CustomResourceDefinition": "/apis/apiextensions.k8s.io/v1/customresourcedefinitions",
}
_NAMESPACED = {
    "ConfigMap": ("/api/v1", "configmaps"),
    "PersistentVolumeClaim": ("/api/v1", "persistentvolumeclaims"),
    "Pod": ("/api/v1", "pods"),
    "Secret": ("/api/v1", "secrets"),
    "Service": ("/api/v1", "services"),
    "ServiceAccount": ("/api/v1", "serviceaccounts"),
    "Event": ("/api/v1", "events"),
    "DaemonSet": ("/apis/apps/v1", "daemonsets"),
    "Deployment": ("/apis/apps/v1", "deployments"),
    "ReplicaSet": ("/apis/apps/v1", "replicasets"),
    "StatefulSet": ("/apis/apps/v1", "statefulsets"),
    "Role": ("/apis/rbac.authorization.k8s.io/v1", "roles"),
    "RoleBinding": ("/apis/rbac.authorization.k8s.io/v1", "rolebindings"),
    "Lease": ("/apis/coordination.k8s.io/v1", "leases"),
    "PodDisruptionBudget": ("/apis/policy/v1", "poddisruptionbudgets"),
}
_BUDGETS, _OLD_BUDGETS = "/apis/policy/v1/", "/apis/policy/v1beta1/"
_WITH_STATUS = {"pods", "poddisruptionbudgets", "nodes"}
_PATCH_TYPES = {"application/strategic-merge-patch+json", "application/merge-patch+json"}


class UnexpectedCallError(AssertionError):
    """The code under test called what this fake does not know."""


class FakeKubeApi:
    """KubeApi over objects in memory; thread-safe."""

    def __init__(self, objects: Iterable[JsonObject] = (), *, version: str = "v1.31.2") -> None:
        self._lock = threading.RLock()
        self._objects: dict[str, JsonObject] = {}
        self._versions = itertools.count(1)
        self._uids = itertools.count(1)
        self._faults: list[tuple[str, re.Pattern[str], KubeError]] = []
        self._before: list[tuple[str, re.Pattern[str], Callable[[], None]]] = []
        self.version = version
        self.ready = True
        self.closed = False
        self.calls: list[tuple[str, str]] = []
        """Verb and path of every call, in order; reads as well."""
        self.bodies: list[JsonObject] = []
        """What evictions and deletions brought, in order."""
        self.pod_lists_until_gone: int | None = None
        """After how many lists of pods one that was deleted is gone; None: when end_pods() says so."""
        self._ending: dict[str, int] = {}
        self.unexpected: list[str] = []
        self.texts: dict[str, str] = {}
        """Answers of ``text`` by path."""
        self.lists: dict[str, list[JsonObject]] = {}
        """Lists of kinds that the fake does not keep, by path; they can only be read."""
        for item in objects:
            self.add(item)

    # what a test does to it

    def add(self, item: JsonObject) -> JsonObject:
        """Put an object there as it is (status included), replacing one of the same name."""
        with self._lock:
            stored = self._stamp(copy.deepcopy(item))
            self._objects[self.path_of(item)] = stored
            return copy.deepcopy(stored)

    def remove(self, path: str) -> None:
        """Take an object away as if somebody else had deleted it; KeyError when there is none."""
        with self._lock:
            del self._objects[path]

    def change(self, path: str, change: Callable[[JsonObject], None]) -> None:
        """Change an object as if somebody else had; KeyError when there is none."""
        with self._lock:
            item = self._objects[path]
            change(item)
            self._touch(item)

    def end_pods(self, node: str = "") -> list[str]:
        """Let the kubelets end the pods that are being deleted, but for those with finalizers; returns their names."""
        with self._lock:
            ended = [
                where
                for where, item in self._objects.items()
                if item["kind"] == "Pod" and item["metadata"].get("deletionTimestamp")
                if not item["metadata"].get("finalizers") and node in {"", item["spec"].get("nodeName")}
            ]
            for where in ended:
                del self._objects[where]
            return [where.rpartition("/")[2] for where in ended]

    def object(self, path: str) -> JsonObject | None:
        """Return an object without a call."""
        with self._lock:
            return copy.deepcopy(self._objects.get(path))

    def fail(self, verb: str, path_pattern: str, error: KubeError, *, times: int = 1) -> None:
        """Let the next calls of a verb (``*``: any) on matching paths fail with this error."""
        self._faults += [(verb, re.compile(path_pattern), error)] * times

    def before(self, verb: str, path_pattern: str, action: Callable[[], None]) -> None:
        """Run ``action`` once, just before the next matching call is carried out: somebody else's move."""
        self._before.append((verb, re.compile(path_pattern), action))

    def writes(self) -> list[tuple[str, str]]:
        """Return the calls that change something."""
        return [call for call in self.calls if call[0] not in {"get", "items", "ready", "text"}]

    def assert_clean(self) -> None:
        """Fail the test when an unknown call was made, even if its error was swallowed."""
        assert not self.unexpected, self.unexpected

    @staticmethod
    def path_of(item: JsonObject) -> str:
        """Return the path of an object by its kind, namespace and name."""
        kind, metadata = item["kind"], item["metadata"]
        if kind in _CLUSTER_WIDE:
            return f"{_CLUSTER_WIDE[kind]}/{metadata['name']}"
        if kind not in _NAMESPACED:
            raise UnexpectedCallError(f"the fake knows no kind {kind}")
        base, plural = _NAMESPACED[kind]
        return f"{base}/namespaces/{metadata.get('namespace', 'default')}/{plural}/{metadata['name']}"

    # KubeApi

    def is_ready(self, timeout_s: float = 5.0) -> bool:
        """See KubeApi."""
        try:
            self._enter("ready", "/readyz")
        except KubeError:
            return False
        return self.ready

    def get(self, path: str, *, params: Mapping[str, str] | None = None, timeout_s: float | None = None) -> JsonObject:
        """See KubeApi."""
        with self._lock:
            self._enter("get", path)
            if params:
                raise self._unexpected(f"get {path} with params {dict(params)}")
            if path == "/api/v1":
                return pods.discovery(self.version)
            path = self._own_path(path)
            if path == "/version":
                major, minor = self.version.lstrip("v").split(".")[:2]
                return {"major": major, "minor": minor, "gitVersion": self.version}
            return copy.deepcopy(self._found(path))

    def get_or_none(self, path: str, *, timeout_s: float | None = None) -> JsonObject | None:
        """See KubeApi."""
        try:
            return self.get(path, timeout_s=timeout_s)
        except KubeError as error:
            if error.status == 404:
                return None
            raise

    def items(
        self, path: str, *, params: Mapping[str, str] | None = None, timeout_s: float | None = None
    ) -> Iterator[JsonObject]:
        """See KubeApi; knows fieldSelector with ``=`` and of resourceVersion only ``0``."""
        with self._lock:
            self._enter("items", path)
            if path in self.lists:
                return iter(copy.deepcopy(self.lists[path]))
            path, asked = self._own_path(path), dict(params or {})
            plural = self._collection(path)
            unknown = set(asked) - {"labelSelector", "fieldSelector", "limit", "resourceVersion"}
            if unknown or asked.get("resourceVersion", "0") != "0":
                raise self._unexpected(f"items {path} with params {asked}")
            terms, labels = self._terms(asked.get("fieldSelector", "")), asked.get("labelSelector", "")
            found = [
                copy.deepcopy(item)
                for where, item in self._objects.items()
                if self._is_in(where, path, plural) and self._selected(item, terms)
                if matches(labels, item["metadata"].get("labels") or {})
            ]
            if plural == "pods":
                self._age()
            return iter(found)

    def fold(
        self,
        path: str,
        begin: Callable[[], T],
        take: Callable[[T, JsonObject], None],
        *,
        shape: type[Any] | None = None,
        page_size: int = 500,
        timeout_s: float | None = None,
    ) -> T:
        """See KubeApi; a fault on ``items`` with status 410 that comes first lets it begin anew.

        What is not in ``shape`` is left out, so that a test sees when it is needed.
        """
        for attempt in (1, 2):
            into = begin()
            try:
                for item in self.items(path, timeout_s=timeout_s):
                    take(into, item if shape is None else msgspec.json.decode(json.dumps(item), type=shape))
            except KubeError as error:
                if error.status != 410 or attempt == 2:
                    raise
            else:
                return into
        raise AssertionError("unreachable")

    def text(self, path: str, *, timeout_s: float | None = None) -> str:
        """See KubeApi; knows what ``texts`` holds."""
        with self._lock:
            self._enter("text", path)
            if path not in self.texts:
                raise self._unexpected(f"text {path}")
            return self.texts[path]

    def create(self, path: str, body: JsonObject, *, timeout_s: float | None = None) -> JsonObject:
        """See KubeApi."""
        with self._lock:
            self._enter("create", path)
            if path.endswith("/eviction"):
                return self._evict(path, body)
            path = self._own_path(path)
            plural = self._collection(path)
            where = f"{path}/{body['metadata']['name']}"
            if where in self._objects:
                raise _error(409, "AlreadyExists", where)
            if body["metadata"].get("resourceVersion"):
                raise _error(400, "BadRequest", where)
            made = copy.deepcopy(body)
            if plural in _WITH_STATUS:
                made["status"] = {"phase": "Pending"} if plural == "pods" else {}
            if plural == "poddisruptionbudgets":
                made["metadata"]["generation"] = 1
            self._objects[where] = self._stamp(made)
            return copy.deepcopy(self._objects[where])

    def replace(self, path: str, body: JsonObject, *, timeout_s: float | None = None) -> JsonObject:
        """See KubeApi."""
        with self._lock:
            self._enter("replace", path)
            current = self._found(path)
            wanted = body["metadata"].get("resourceVersion")
            if wanted and wanted != current["metadata"]["resourceVersion"]:
                raise _error(409, "Conflict", path)
            fresh = copy.deepcopy(body)
            fresh["metadata"] = {**fresh["metadata"], "uid": current["metadata"]["uid"]}
            self._touch(fresh)
            self._objects[path] = fresh
            return copy.deepcopy(fresh)

    def patch(
        self,
        path: str,
        body: JsonObject | list[JsonObject],
        *,
        content_type: str = "application/strategic-merge-patch+json",
        params: Mapping[str, str] | None = None,
        timeout_s: float | None = None,
    ) -> JsonObject:
        """See KubeApi; merges mappings. A strategic merge of lists needs a real API server and is refused."""
        with self._lock:
            self._enter("patch", path)
            if content_type not in _PATCH_TYPES or not isinstance(body, dict):
                raise self._unexpected(f"patch {path} with {content_type}")
            path = self._own_path(path)
            if path.endswith("/status") and path.split("/")[-3] in _WITH_STATUS:
                path, body = path.removesuffix("/status"), {"status": body.get("status") or {}}
            current = self._found(path)
            wanted = (body.get("metadata") or {}).get("resourceVersion")
            if wanted and wanted != current["metadata"]["resourceVersion"]:
                raise _error(409, "Conflict", path)
            strategic = content_type == "application/strategic-merge-patch+json"
            self._merge(current, copy.deepcopy(body), path, strategic=strategic)
            self._touch(current)
            metadata = current["metadata"]
            if not metadata.get("finalizers") and metadata.get("deletionGracePeriodSeconds", 1) == 0:
                del self._objects[path]  # the last finalizer had held it
            return copy.deepcopy(current)

    def delete(self, path: str, *, body: JsonObject | None = None, timeout_s: float | None = None) -> bool:
        """See KubeApi."""
        with self._lock:
            self._enter("delete", path)
            try:
                current = self._found(path)
            except KubeError:
                return False
            self.bodies.append(copy.deepcopy(body or {}))
            self._delete(path, current, body or {})
            return True

    def apply(self, manifest: JsonObject, *, field_manager: str = "kops-py") -> str:
        """See KubeApi."""
        with self._lock:
            item = copy.deepcopy(manifest)
            kind, metadata = item["kind"], item["metadata"]
            if kind in _NAMESPACED:
                metadata.setdefault("namespace", "default")
            path = self.path_of(item)
            self._enter("apply", path)
            if path in self._objects:
                self._merge(self._objects[path], item, path, strategic=False)
                self._touch(self._objects[path])
            else:
                self._objects[path] = self._stamp(item)
            return (
                f"{kind} {metadata['namespace']}/{metadata['name']}"
                if kind in _NAMESPACED
                else (f"{kind} {metadata['name']}")
            )

    def close(self) -> None:
        """See KubeApi."""
        self.closed = True

    # how it works

    def _enter(self, verb: str, path: str) -> None:
        self.calls.append((verb, path))
        for position, (wanted, pattern, action) in enumerate(self._before):
            if wanted in {verb, "*"} and pattern.search(path):
                del self._before[position]
                action()
                break
        for position, (wanted, pattern, error) in enumerate(self._faults):
            if wanted in {verb, "*"} and pattern.search(path):
                del self._faults[position]
                raise error

    def _own_path(self, path: str) -> str:
        """Return the path under which budgets are kept, whichever version of them the server serves."""
        served_old, served_new = "v1.25" > self._minor >= "v1.05", self._minor >= "v1.21"
        if (path.startswith(_OLD_BUDGETS) and not served_old) or (path.startswith(_BUDGETS) and not served_new):
            raise _error(404, "NotFound", path)
        return path.replace(_OLD_BUDGETS, _BUDGETS, 1)

    @property
    def _minor(self) -> str:
        major, minor = self.version.split(".")[:2]
        return f"{major}.{minor:0>2}"

    def _evict(self, path: str, body: JsonObject) -> JsonObject:
        self.bodies.append(copy.deepcopy(body))
        where = path.removesuffix("/eviction")
        current = self._found(where)
        if body.get("kind") != "Eviction" or body.get("apiVersion") not in pods.eviction_versions(self.version):
            raise _error(400, "BadRequest", path)
        if body["metadata"]["name"] != current["metadata"]["name"]:
            raise _error(400, "BadRequest", path)
        budgets = [o for o in self._objects.values() if o["kind"] == "PodDisruptionBudget"]
        counted = pods.take_from_budget(current, budgets, self.version, path)
        if counted is not None:
            self._touch(counted)
        self._delete(where, current, body.get("deleteOptions") or {})
        return {"kind": "Status", "apiVersion": "v1", "status": "Success", "code": 201}

    def _delete(self, path: str, current: JsonObject, options: JsonObject) -> None:
        for key, wanted in (options.get("preconditions") or {}).items():
            if current["metadata"].get(key) != wanted:
                raise _error(409, "Conflict", path)
        grace_s = pods.grace_period_s(current, options) if current["kind"] == "Pod" else 0
        if grace_s or current["metadata"].get("finalizers"):
            pods.mark_deleted(current, grace_s)
            self._touch(current)
            self._ending.setdefault(current["metadata"]["uid"], self.pod_lists_until_gone or 0)
        else:
            del self._objects[path]

    def _age(self) -> None:
        """Let pods that are being deleted come one list nearer to their end."""
        if self.pod_lists_until_gone is None:
            return
        for where, item in list(self._objects.items()):
            uid = item["metadata"]["uid"]
            if uid not in self._ending or item["metadata"].get("finalizers"):
                continue
            self._ending[uid] -= 1
            if self._ending[uid] <= 0:
                del self._objects[where]

    def _found(self, path: str) -> JsonObject:
        if path in self._objects:
            return self._objects[path]
        self._collection(path.rpartition("/")[0])
        raise _error(404, "NotFound", path)

    def _collection(self, path: str) -> str:
        """Return the plural at the end of a collection's path; an unknown one fails the test."""
        if path in _CLUSTER_WIDE.values():
            return path.rpartition("/")[2]
        for base, plural in _NAMESPACED.values():
            if re.fullmatch(rf"{re.escape(base)}(/namespaces/[a-z0-9-]+)?/{plural}", path):
                return plural
        raise self._unexpected(f"unknown path {path}")

    @staticmethod
    def _is_in(where: str, path: str, plural: str) -> bool:
        collection = where.rpartition("/")[0]
        if collection == path:
            return True
        base = path.removesuffix(f"/{plural}")
        return "/namespaces/" not in path and bool(
            re.fullmatch(rf"{re.escape(base)}/namespaces/[a-z0-9-]+/{plural}", collection)
        )

    def _terms(self, selector: str) -> list[tuple[list[str], str]]:
        """Return a fieldSelector as key paths and values; one not understood fails the test."""
        found: list[tuple[list[str], str]] = []
        for term in filter(None, selector.split(",")):
            key, sign, value = term.partition("=")
            if not re.fullmatch(r"[A-Za-z0-9./_-]+", key) or not sign:
                raise self._unexpected(f"fieldSelector {term}")
            found.append((key.split("."), value.lstrip("=")))
        return found

    @staticmethod
    def _selected(item: JsonObject, terms: list[tuple[list[str], str]]) -> bool:
        for way, wanted in terms:
            found: Any = item
            for part in way:
                found = (found or {}).get(part)
            if ("" if found is None else found) != wanted:  # as the API server: what is not set is empty
                return False
        return True

    def _merge(self, target: JsonObject, patch: JsonObject, path: str, *, strategic: bool) -> None:
        for key, value in patch.items():
            if value is None:
                target.pop(key, None)
            elif isinstance(value, dict):
                inner = target.get(key)
                target[key] = inner = inner if isinstance(inner, dict) else {}
                self._merge(inner, value, path, strategic=strategic)
            elif isinstance(value, list) and strategic:
                raise self._unexpected(f"strategic merge of the list {key} on {path}")
            else:
                target[key] = value

    def _stamp(self, item: JsonObject) -> JsonObject:
        if item.get("kind") == "Secret" and "stringData" in item:
            texts = item.pop("stringData")
            data = {k: base64.b64encode(v.encode()).decode() for k, v in texts.items()}
            item["data"] = {**(item.get("data") or {}), **data}
        metadata = item.setdefault("metadata", {})
        metadata.setdefault("uid", f"uid-{next(self._uids)}")
        metadata.setdefault("creationTimestamp", datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"))
        self._touch(item)
        return item

    def _touch(self, item: JsonObject) -> None:
        item["metadata"]["resourceVersion"] = str(next(self._versions))

    def _unexpected(self, text: str) -> UnexpectedCallError:
        self.unexpected.append(text)
        return UnexpectedCallError(text)


def _error(status: int, reason: str, path: str) -> KubeError:
    return KubeError(
        f"the Kubernetes API answered {status} {reason}", where=path, why="fake", status=status, reason=reason
    )


def node(
    name: str,
    *,
    ready: bool = True,
    control_plane: bool = False,
    ip: str = "10.0.0.1",
    pod_cidr: str = "",
    version: str = "v1.31.2",
) -> JsonObject:
    """Return a Node as a kubelet would have registered it."""
    condition = {
        "type": "Ready",
        "status": "True" if ready else "False",
        "reason": "KubeletReady" if ready else "KubeletNotReady",
        "message": "kubelet is posting ready status" if ready else "PLEG is not healthy",
    }
    spec: JsonObject = {"podCIDR": pod_cidr} if pod_cidr else {}
    if control_plane:
        spec["taints"] = [{"key": "node-role.kubernetes.io/control-plane", "effect": "NoSchedule"}]
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "labels": {"node-role.kubernetes.io/control-plane": ""} if control_plane else {},
        },
        "spec": spec,
        "status": {
            "conditions": [condition],
            "addresses": [{"type": "Hostname", "address": name}, {"type": "InternalIP", "address": ip}],
            "nodeInfo": {
                "kubeletVersion": version,
                "osImage": "Debian GNU/Linux 12 (bookworm)",
                "kernelVersion": "6.1.0",
                "containerRuntimeVersion": "containerd://1.6.20",
            },
        },
    }


def pod(
    name: str,
    *,
    node: str = "",
    ready: bool = True,
    labels: Mapping[str, str] | None = None,
    mirror: bool = False,
    waiting: tuple[str, str] | None = None,
) -> JsonObject:
    """Return a Pod in kube-system; ``waiting`` is the reason and message of its container's wait."""
    state: JsonObject = {"waiting": {"reason": waiting[0], "message": waiting[1]}} if waiting else {"running": {}}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": "kube-system",
            "labels": dict(labels or {}),
            "annotations": {"kubernetes.io/config.mirror": "hash"} if mirror else {},
        },
        "spec": {"nodeName": node},
        "status": {
            "phase": "Running",
            "conditions": [{"type": "Ready", "status": "True" if ready and not waiting else "False"}],
            "containerStatuses": [{"name": "main", "state": state}],
        },
    }
