"""A real API server for these tests, when there is a Kubernetes bundle to take it from."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kops_py.connect.base import Cancel, KubeApi
from kops_py.connect.kube import connect_kube
from tests.bundle import cached
from tests.integration.kube.binaries import find_binary
from tests.integration.kube.control_plane import ControlPlane

Connect = Callable[..., KubeApi]


@pytest.fixture(scope="session")
def control_plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    bundle = cached(())
    if bundle is None or not bundle.kubernetes_versions:
        pytest.skip("no Kubernetes bundle here: python -m tests.bundle makes one")
    version = bundle.kubernetes_versions[0]
    work = tmp_path_factory.mktemp("control-plane")
    apiserver = find_binary(bundle, version, "kube-apiserver", "kube-apiserver", work / "images")
    etcd = find_binary(bundle, version, "etcd", "etcd", work / "images")
    plane = ControlPlane(apiserver, etcd, work)
    try:
        plane.start_etcd()
        plane.start()
        plane.wait_ready()
        yield plane
    finally:
        plane.down()


@pytest.fixture
def connect(tmp_path: Path) -> Iterator[Connect]:
    """Make connections that are closed at the end of the test."""
    made: list[KubeApi] = []

    def make(
        config: bytes, *, timeout_s: float = 10.0, server: str | None = None, cancel: Cancel | None = None
    ) -> KubeApi:
        api = connect_kube(
            config, server_override=server, work_dir=tmp_path / "kube", request_timeout_s=timeout_s, cancel=cancel
        )
        made.append(api)
        return api

    yield make
    for api in made:
        api.close()


@pytest.fixture
def api(control_plane: ControlPlane, connect: Connect) -> KubeApi:
    control_plane.wait_ready()
    return connect(control_plane.kubeconfig())
