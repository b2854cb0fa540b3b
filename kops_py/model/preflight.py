"""What the read-only probes between hosts and towards the outside found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType

from kops_py.model.errors import KopsError


class Reach(StrEnum):
    """How a TCP connection attempt ended."""

    OPEN = "open"
    REFUSED = "refused"
    TIMEOUT = "timeout"
    NO_ROUTE = "no-route"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class PortProbe:
    """One attempt to connect from a host to a port of another; ``source`` and ``target`` are inventory names."""

    source: str
    target: str
    address: str
    port: int
    outcome: Reach
    detail: str = ""


class UrlUse(StrEnum):
    """What a URL is needed for."""

    REPOSITORY = "repository"
    REGISTRY = "registry"
    IMAGES = "images"


@dataclass(frozen=True, slots=True)
class UrlProbe:
    """What one URL answered one host; ``status`` 0 means no HTTP answer, ``detail`` says why.

    ``subject`` groups alternatives: a registry and its mirrors share one, and one of them is enough.
    """

    host: str
    use: UrlUse
    subject: str
    url: str
    status: int
    detail: str = ""


@dataclass(frozen=True, slots=True)
class FsyncProbe:
    """Latency of small synced writes, in milliseconds, where etcd keeps its data."""

    host: str
    path: str
    writes: int
    p50_ms: float
    p99_ms: float


@dataclass(frozen=True, slots=True)
class ProbeResults:
    """Everything the probes found; an empty part was not probed.

    ``images_problem`` says in one sentence why the image folder on this machine cannot be used.
    ``problems`` are the hosts on which a probe itself failed.
    """

    ports: tuple[PortProbe, ...] = ()
    urls: tuple[UrlProbe, ...] = ()
    fsync: tuple[FsyncProbe, ...] = ()
    images_problem: str = ""
    problems: Mapping[str, KopsError] = field(default_factory=lambda: MappingProxyType({}))
