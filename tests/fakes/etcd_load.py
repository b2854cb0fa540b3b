"""Fills a real etcd fast: many puts over few connections of its JSON gateway, with client certificates."""

from __future__ import annotations

import base64
import http.client
import json
import random
import ssl
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

KINDS = ("configmaps", "secrets", "pods", "serviceaccounts", "events", "replicasets", "endpointslices")


class Loader:
    """One connection to a member."""

    def __init__(self, endpoint: str, ca: Path | str, cert: Path | str, key: Path | str) -> None:
        parts = urlsplit(endpoint)
        context = ssl.create_default_context(cafile=str(ca))
        context.check_hostname = False
        context.load_cert_chain(str(cert), str(key))
        self._link = http.client.HTTPSConnection(str(parts.hostname), parts.port, context=context, timeout=60)

    def put(self, key: str, value: bytes) -> None:
        self._ask("kv/put", key=key.encode(), value=value)

    def delete(self, key: str) -> None:
        self._ask("kv/deleterange", key=key.encode())

    def compact(self, revision: int) -> None:
        self._ask("kv/compaction", revision=revision)

    def close(self) -> None:
        self._link.close()

    def _ask(self, method: str, **fields: Any) -> None:
        body = {k: base64.b64encode(v).decode() if isinstance(v, bytes) else v for k, v in fields.items()}
        self._link.request("POST", f"/v3/{method}", json.dumps(body))
        answer = self._link.getresponse()
        text = answer.read()
        assert answer.status == 200, text


def objects_of_a_cluster(seed: int, count: int) -> Iterator[tuple[str, bytes]]:
    """Keys and values as an API server stores them: names, sizes, a prefix, and what does not compress well."""
    draw = random.Random(seed)
    for number in range(count):
        kind = KINDS[number % len(KINDS)]
        name = f"{kind}-{draw.randbytes(4).hex()}"
        body = b"k8s\0\n\x0c\n\x02v1\x12\x06Object" + name.encode() * 8 + draw.randbytes(draw.randrange(100, 2500))
        yield f"/registry/{kind}/team-{number % 23}/{name}", body


def fill_quickly(endpoints: list[str], credentials: tuple[str, str, str], size_mb: int, *, seed: int = 1) -> None:
    """Put so many MB of values that compress to a half, a megabyte each, over a connection to each endpoint."""

    def work(number: int) -> None:
        loader, draw = Loader(endpoints[number], *credentials), random.Random(seed + number)
        for count in range(number, size_mb, len(endpoints)):
            loader.put(f"/registry/fill/{count:06}", b"k8s\0" + draw.randbytes(500_000) + b"the same again" * 35_700)
        loader.close()

    with ThreadPoolExecutor(len(endpoints)) as pool:
        list(pool.map(work, range(len(endpoints))))
