"""Which files go with a backup, by the API server's manifest; and that tar streams what is there."""

from __future__ import annotations

import io
import subprocess
import tarfile
from pathlib import Path
from typing import Any

from kops_py.tools.etcd_bundle import api_server_files, bundle_argv


def manifest(*flags: str, volumes: dict[str, str] | None = None) -> dict[str, Any]:
    """A manifest with these flags; ``volumes`` maps paths in the container to the host's."""
    pairs = list((volumes or {}).items())
    return {
        "spec": {
            "containers": [
                {
                    "command": ["kube-apiserver", *flags],
                    "volumeMounts": [{"name": f"v{n}", "mountPath": inside} for n, (inside, _) in enumerate(pairs)],
                }
            ],
            "volumes": [{"name": f"v{n}", "hostPath": {"path": host}} for n, (_, host) in enumerate(pairs)],
        }
    }


def test_files_are_found_where_the_host_has_them() -> None:
    body = manifest(
        "--encryption-provider-config=/enc/config.yaml",
        "--audit-policy-file=/etc/audit/policy.yaml",
        "--audit-log-path=/var/log/audit/log",
        "--tls-cert-file=/etc/kubernetes/pki/apiserver.crt",
        "--oidc-ca-file=/usr/share/ca-certificates/x.crt",
        "--authentication-config=/conf/authn/a.yaml",
        "--etcd-servers=https://127.0.0.1:2379",
        volumes={"/enc": "/srv/secrets/enc", "/etc/audit/policy.yaml": "/opt/k8s/audit.yaml", "/conf": "/etc"},
    )
    assert api_server_files(body) == ("/srv/secrets/enc", "/opt/k8s/audit.yaml", "/etc/authn/a.yaml")


def test_odd_manifests_give_nothing() -> None:
    for body in ({}, {"spec": None}, manifest(), manifest("--x=/a/b", volumes={"/a": ""})):
        assert api_server_files(body) in ((), ("/a/b",))


def test_tar_streams_what_is_there_and_follows_links(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "config.yaml").write_text("secret")
    (tmp_path / "link").symlink_to("real")
    done = subprocess.run(
        bundle_argv((f"{tmp_path}/link", f"{tmp_path}/absent", f"{tmp_path}/real/a file")),
        capture_output=True,
        check=True,
    )
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
        names = archive.getnames()
    assert f"{tmp_path}/link/config.yaml".lstrip("/") in names
    assert not any("absent" in name for name in names)
